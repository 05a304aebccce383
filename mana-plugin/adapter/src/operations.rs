//! Reduction operations whose function is the core's.
//!
//! The library calls an operation's function with nothing that says which operation it is, so there
//! is one entry per slot: it puts its number into the fifth argument's register and goes on in [`apply`].

use core::ffi::c_void;
use core::sync::atomic::{AtomicUsize, Ordering};

use mpi_std::{Extras, OpFunction};

use crate::ffi;
use crate::translate as t;

/// Bytes from one entry to the next.
const STEP: usize = 16;

core::arch::global_asm!(
    ".text",
    ".balign {step}",
    ".globl mana_op_entries",
    ".hidden mana_op_entries",
    ".type mana_op_entries, @function",
    "mana_op_entries:",
    ".set mana_op_slot, 0",
    ".rept {slots}",
    ".balign {step}",
    "movl $mana_op_slot, %r8d", // `slot`
    "jmp {apply}",              // the other arguments and the return address are where they were
    ".set mana_op_slot, mana_op_slot + 1",
    ".endr",
    step = const STEP,
    slots = const Extras::OP_SLOTS,
    apply = sym apply,
    options(att_syntax)
);

extern "C" {
    fn mana_op_entries();
}

/// Address of the core's function, the same for all.
static FUNCTION: AtomicUsize = AtomicUsize::new(0);

unsafe extern "C" fn apply(
    invec: *mut c_void,
    inoutvec: *mut c_void,
    len: *mut i32,
    datatype: *mut ffi::MPI_Datatype,
    slot: u32,
) {
    let address = FUNCTION.load(Ordering::Acquire);
    if address == 0 {
        return;
    }
    // SAFETY: stored by `create`, an `OpFunction`.
    let function: OpFunction = unsafe { core::mem::transmute(address) };
    // SAFETY: the library's arguments.
    let (len, word) = unsafe { (*len, t::datatype_word(*datatype)) };
    // SAFETY: what the core's function expects.
    unsafe { function(invec, inoutvec, len, word, slot) };
}

type Apply = unsafe extern "C" fn(*mut c_void, *mut c_void, *mut i32, *mut ffi::MPI_Datatype);

/// [`Extras::op_create`]
pub(crate) unsafe extern "C" fn create(
    function: OpFunction,
    commute: i32,
    slot: u32,
    op: *mut u64,
) -> i32 {
    if slot >= Extras::OP_SLOTS {
        return mpi_std::MPI_ERR_OP;
    }
    FUNCTION.store(function as usize, Ordering::Release);
    let entry = mana_op_entries as *const () as usize + slot as usize * STEP;
    // SAFETY: the code of the slot's entry, which takes the arguments of an `Apply`.
    let apply: Apply = unsafe { core::mem::transmute(entry) };
    let mut l: ffi::MPI_Op = t::handle(mpi_std::MPI_OP_NULL);
    // SAFETY: a function of the library's signature.
    let rc = unsafe { ffi::MPI_Op_create(Some(apply), commute, &mut l) };
    if rc == 0 {
        // SAFETY: the caller's output.
        unsafe { *op = t::op_word(l) };
    }
    t::error(rc)
}
