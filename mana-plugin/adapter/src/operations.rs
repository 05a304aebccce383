//! Reduction operations whose function is the core's.
//!
//! The library calls an operation's function with nothing that says which operation it is, so there
//! is one function per slot.

use core::ffi::c_void;
use core::sync::atomic::{AtomicUsize, Ordering};

use mpi_std::{Extras, OpFunction};

use crate::ffi;
use crate::translate as t;

const SLOTS: usize = Extras::OP_SLOTS as usize;

/// Addresses of the core's functions, by slot.
static FUNCTIONS: [AtomicUsize; SLOTS] = [const { AtomicUsize::new(0) }; SLOTS];

unsafe extern "C" fn apply<const SLOT: usize>(
    invec: *mut c_void,
    inoutvec: *mut c_void,
    len: *mut i32,
    datatype: *mut ffi::MPI_Datatype,
) {
    let address = FUNCTIONS[SLOT].load(Ordering::Acquire);
    if address == 0 {
        return;
    }
    // SAFETY: stored by `create`, an `OpFunction`.
    let function: OpFunction = unsafe { core::mem::transmute(address) };
    // SAFETY: the library's arguments.
    let (len, word) = unsafe { (*len, t::datatype_word(*datatype)) };
    // SAFETY: what the core's function expects.
    unsafe { function(invec, inoutvec, len, word, SLOT as u32) };
}

type Apply = unsafe extern "C" fn(*mut c_void, *mut c_void, *mut i32, *mut ffi::MPI_Datatype);

macro_rules! sixteen {
    ($base:expr) => {
        [
            apply::<{ $base }>,
            apply::<{ $base + 1 }>,
            apply::<{ $base + 2 }>,
            apply::<{ $base + 3 }>,
            apply::<{ $base + 4 }>,
            apply::<{ $base + 5 }>,
            apply::<{ $base + 6 }>,
            apply::<{ $base + 7 }>,
            apply::<{ $base + 8 }>,
            apply::<{ $base + 9 }>,
            apply::<{ $base + 10 }>,
            apply::<{ $base + 11 }>,
            apply::<{ $base + 12 }>,
            apply::<{ $base + 13 }>,
            apply::<{ $base + 14 }>,
            apply::<{ $base + 15 }>,
        ]
    };
}

static APPLY: [[Apply; 16]; SLOTS / 16] = [
    sixteen!(0),
    sixteen!(16),
    sixteen!(32),
    sixteen!(48),
    sixteen!(64),
    sixteen!(80),
    sixteen!(96),
    sixteen!(112),
    sixteen!(128),
    sixteen!(144),
    sixteen!(160),
    sixteen!(176),
    sixteen!(192),
    sixteen!(208),
    sixteen!(224),
    sixteen!(240),
];

/// [`Extras::op_create`]
pub(crate) unsafe extern "C" fn create(
    function: OpFunction,
    commute: i32,
    slot: u32,
    op: *mut u64,
) -> i32 {
    let at = slot as usize;
    let (Some(cell), Some(apply)) = (
        FUNCTIONS.get(at),
        APPLY.get(at / 16).and_then(|row| row.get(at % 16)),
    ) else {
        return mpi_std::MPI_ERR_OP;
    };
    cell.store(function as usize, Ordering::Release);
    let mut l: ffi::MPI_Op = t::handle(mpi_std::MPI_OP_NULL);
    // SAFETY: a function of the library's signature.
    let rc = unsafe { ffi::MPI_Op_create(Some(*apply), commute, &mut l) };
    if rc == 0 {
        // SAFETY: the caller's output.
        unsafe { *op = t::op_word(l) };
    }
    t::error(rc)
}
