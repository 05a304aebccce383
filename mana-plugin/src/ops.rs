//! Reduction operations of the program, and those of ours that apply another one to blocks.
//!
//! Lower half. The library calls a function here, with the adapter's slot of the operation and the
//! real datatype; the stub's entry is called with the program's function and its own datatype word.
//! A predefined operation is applied to a block by the library itself (`MPI_Reduce_local`).

use crate::errors::{check, finish, function};
use crate::state::{core, Op, Outcome};
use crate::{datatypes, entry, upcall};
use mpi_std::*;
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a call of the library needs to know of an operation, by slot. The library calls from inside a
/// collective, where this thread does not hold the layer and another may: so the state is not looked at,
/// and nothing is called while this is held.
static APPLIED: Mutex<Vec<Applied>> = Mutex::new(Vec::new());

/// Elements that one call of a function gets.
const PIECE: i64 = 1 << 30;

/// An operation on blocks.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Blocks {
    /// What is applied to their elements: a word.
    pub op: u64,
    /// What these are: a word.
    pub datatype: u64,
    /// Elements of one block.
    pub count: i64,
}

/// The same as the library calls it.
#[derive(Clone, Copy)]
struct Parts {
    of: Blocks,
    /// The program's function; 0 for a predefined operation.
    function: u64,
    /// The real datatype of the elements, and bytes from one to the next.
    real: u64,
    extent: i64,
    reduce: unsafe extern "C" fn(*const c_void, *mut c_void, i32, u64, u64) -> i32,
}

impl Parts {
    fn new(of: Blocks) -> Outcome<Parts> {
        let real = core().real_type(of.datatype)?;
        let (mut lb, mut extent) = (0, 0);
        // SAFETY: output arguments of ours.
        check(unsafe { (core().procs().MPI_Type_get_extent)(real, &mut lb, &mut extent) })?;
        Ok(Parts {
            of,
            function: known(of.op)?.0,
            real,
            extent,
            reduce: core().procs().MPI_Reduce_local,
        })
    }

    /// Applies the operation to all elements of `blocks` blocks.
    ///
    /// # Safety
    /// Both vectors have as many.
    unsafe fn apply(&self, mut invec: *mut u8, mut inoutvec: *mut u8, blocks: i32) {
        let (op, word) = (self.of.op, self.of.datatype);
        let mut left = i64::from(blocks) * self.of.count;
        while left > 0 {
            let n = left.min(PIECE) as i32;
            if self.function != 0 {
                within((word, self.real), || {
                    upcall::op(self.function, invec, inoutvec, n, word, op);
                });
            } else {
                // SAFETY: the caller's promise; predefined operations keep their words.
                let rc = unsafe { (self.reduce)(invec.cast(), inoutvec.cast(), n, self.real, op) };
                if rc != MPI_SUCCESS {
                    log::error!("MPI_Reduce_local of a block: {}", crate::errors::text(rc));
                }
            }
            let step = (i64::from(n) * self.extent) as isize;
            invec = invec.wrapping_offset(step);
            inoutvec = inoutvec.wrapping_offset(step);
            left -= i64::from(n);
        }
    }
}

/// An operation as the library calls it.
#[derive(Clone, Default)]
struct Applied {
    /// The program's function.
    function: u64,
    /// The operation's word.
    word: u64,
    /// Words of the datatypes it is used with, by real handle.
    types: HashMap<u64, u64>,
    /// The one it was used with last.
    last: u64,
    /// Of an operation on blocks, since it was used.
    parts: Option<Parts>,
}

fn applied() -> MutexGuard<'static, Vec<Applied>> {
    APPLIED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The function of every real operation.
unsafe extern "C" fn apply(
    invec: *mut c_void,
    inoutvec: *mut c_void,
    len: i32,
    datatype: u64,
    slot: u32,
) {
    let found = applied().get(slot as usize).map(|op| {
        // A library may pass a datatype of its own making: it stands for the one used last.
        let word = match datatype < PREDEFINED_END {
            true => datatype,
            false => op.types.get(&datatype).copied().unwrap_or(op.last),
        };
        (op.function, op.word, word, op.parts)
    });
    let Some((function, op, word, parts)) = found else {
        return;
    };
    if let Some(parts) = parts {
        // SAFETY: the library's vectors.
        return unsafe { parts.apply(invec.cast(), inoutvec.cast(), len) };
    }
    within((word, datatype), || {
        upcall::op(function, invec.cast(), inoutvec.cast(), len, word, op);
    });
}

thread_local! {
    /// The datatype of the operation whose function this thread is in: its word and the library's; zeros: in none.
    static INSIDE: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

/// Runs a function of the program, which is given this datatype.
fn within(datatype: (u64, u64), function: impl FnOnce()) {
    let before = INSIDE.replace(datatype);
    function();
    INSIDE.set(before);
}

/// The real datatype of a word, if this thread is in the function of an operation that was given it.
///
/// A library may hold a lock while it calls that function (MPICH does, in non-blocking collectives), and another thread may
/// wait for that lock with the layer's: what such functions ask has to be answered without the layer's.
#[inline(always)]
pub fn inside(word: u64) -> Option<u64> {
    if !core().multiple {
        return None;
    }
    let (of, real) = INSIDE.get();
    (of != 0 && of == word).then_some(real)
}

/// The real word of an operation of the program, which remembers the datatype it is used with.
#[cold]
pub fn real(word: u64, datatype: u64, real_datatype: u64) -> u64 {
    if kind_of(word) != kind::OP {
        return MPI_OP_NULL;
    }
    let Some(op) = core().state.ops.get(index_of(word)) else {
        return MPI_OP_NULL;
    };
    if let Some(blocks) = op.blocks {
        // Made anew at every use: a restart has other real datatypes.
        let parts = Parts::new(blocks).ok();
        if let Some(applied) = applied().get_mut(index_of(word) as usize) {
            applied.parts = parts;
        }
        return op.real;
    }
    if datatype >= PREDEFINED_END {
        if let Some(applied) = applied().get_mut(index_of(word) as usize) {
            applied.types.insert(real_datatype, datatype);
            applied.last = datatype;
        }
    }
    op.real
}

/// A datatype of the library is gone.
pub fn forget_type(real_datatype: u64) {
    for op in applied().iter_mut() {
        op.types.remove(&real_datatype);
    }
}

/// Makes the real operation of the one at `index`, which is also its slot in the adapter.
pub fn make(index: u32, function: u64, commute: bool) -> Outcome<u64> {
    if index >= Extras::OP_SLOTS {
        log::error!(
            "MPI_Op_create: the program has more than {} operations at once",
            Extras::OP_SLOTS - FIRST_INDEX
        );
        return Err(MPI_ERR_OTHER);
    }
    let mut real = MPI_OP_NULL;
    let mut known = applied();
    if known.len() <= index as usize {
        known.resize(index as usize + 1, Applied::default());
    }
    if let Some(place) = known.get_mut(index as usize) {
        *place = Applied {
            function,
            word: handle(kind::OP, index),
            ..Applied::default()
        };
    }
    drop(known);
    // SAFETY: `apply` has the adapter's signature and the slot is below `OP_SLOTS`.
    check(unsafe { (core().adapter.extras.op_create)(apply, commute as i32, index, &mut real) })?;
    Ok(real)
}

pub unsafe extern "C" fn MPI_Op_create(user_fn: *mut c_void, commute: i32, op: *mut u64) -> i32 {
    let _guard = entry::enter();
    let outcome = insert(function(user_fn), commute != 0, None).map(|word| {
        // SAFETY: an output argument.
        unsafe { *op = word };
    });
    finish(outcome, crate::errors::NO_OBJECT, "MPI_Op_create")
}

/// Stores an operation and makes the real one; its word.
fn insert(function: u64, commute: bool, blocks: Option<Blocks>) -> Outcome<u64> {
    let ops = &mut core().state.ops;
    let made = Op {
        real: MPI_OP_NULL,
        function,
        commute,
        used: 0,
        freed: false,
        blocks,
    };
    let i = ops.insert(made).ok_or(MPI_ERR_OTHER)?;
    let real = make(i, function, commute).inspect_err(|_| {
        core().state.ops.remove(i);
    })?;
    if let Some(op) = core().state.ops.get_mut(i) {
        op.real = real;
    }
    Ok(handle(kind::OP, i))
}

/// Function (0: predefined) and commutativity of an operation.
fn known(op: u64) -> Outcome<(u64, bool)> {
    match op {
        MPI_OP_NULL => Err(MPI_ERR_OP),
        op if op < PREDEFINED_END => Ok((0, op != MPI_REPLACE && op != MPI_NO_OP)),
        op if kind_of(op) != kind::OP => Err(MPI_ERR_OP),
        op => {
            let op = core().state.ops.get(index_of(op)).ok_or(MPI_ERR_OP)?;
            Ok((op.function, op.commute))
        }
    }
}

/// Makes an operation on blocks, which the caller frees. Its elements are applied in the order in which they are.
pub fn on_blocks(blocks: Blocks) -> Outcome<u64> {
    let (function, commute) = known(blocks.op)?;
    if function == 0 {
        // The library says whether it does that with such elements: later nobody could be told.
        let real = core().real_type(blocks.datatype)?;
        let (from, mut to) = ([0u64; 8], [0u64; 8]);
        let (from, to) = (from.as_ptr().cast(), to.as_mut_ptr().cast());
        // SAFETY: arrays of which nothing is read or written.
        check(unsafe { (core().procs().MPI_Reduce_local)(from, to, 0, real, blocks.op) })?;
    }
    let word = insert(0, commute, Some(blocks))?;
    hold(blocks.op);
    core().use_type(blocks.datatype);
    Ok(word)
}

pub unsafe extern "C" fn MPI_Op_free(op: *mut u64) -> i32 {
    let _guard = entry::enter();
    let outcome = (|| {
        // SAFETY: an argument both in and out.
        let word = unsafe { *op };
        if kind_of(word) != kind::OP {
            return Err(MPI_ERR_OP);
        }
        let found = core()
            .state
            .ops
            .get_mut(index_of(word))
            .filter(|o| !o.freed);
        found.ok_or(MPI_ERR_OP)?.freed = true;
        bury(word)?;
        // SAFETY: as above.
        unsafe { *op = MPI_OP_NULL };
        Ok(())
    })();
    finish(outcome, crate::errors::NO_OBJECT, "MPI_Op_free")
}

/// Frees an operation that the program has freed and nothing needs.
fn bury(word: u64) -> Outcome {
    let c = core();
    let idle = |o: &&mut Op| o.freed && o.used == 0;
    let Some(op) = c.state.ops.get_mut(index_of(word)).filter(idle) else {
        return Ok(());
    };
    let (mut real, blocks) = (op.real, op.blocks);
    c.state.ops.remove(index_of(word));
    // SAFETY: an operation of the library.
    let rc = unsafe { (c.procs().MPI_Op_free)(&mut real) };
    if let Some(place) = applied().get_mut(index_of(word) as usize) {
        *place = Applied::default();
    }
    if let Some(blocks) = blocks {
        release(blocks.op);
        if blocks.datatype >= PREDEFINED_END {
            datatypes::unuse(blocks.datatype);
        }
    }
    check(rc)
}

/// Notes that a request needs `word`, if it is an operation.
pub fn hold(word: u64) {
    if kind_of(word) == kind::OP {
        if let Some(op) = core().state.ops.get_mut(index_of(word)) {
            op.used += 1;
        }
    }
}

/// Notes that a request needs it no more.
pub fn release(word: u64) {
    if kind_of(word) != kind::OP {
        return;
    }
    if let Some(op) = core().state.ops.get_mut(index_of(word)) {
        op.used -= 1;
        if let Err(code) = bury(word) {
            log::warn!("freeing an operation failed: {}", crate::errors::text(code));
        }
    }
}

pub unsafe extern "C" fn MPI_Op_commutative(op: u64, commute: *mut i32) -> i32 {
    let _guard = entry::enter();
    let outcome = (|| {
        let (_, yes) = known(op)?;
        // SAFETY: an output argument.
        unsafe { *commute = yes as i32 };
        Ok(())
    })();
    finish(outcome, crate::errors::NO_OBJECT, "MPI_Op_commutative")
}
