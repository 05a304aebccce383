//! Reduction operations of the program.
//!
//! Lower half. The library calls a function here, with the adapter's slot of the operation and the
//! real datatype; the stub's entry is called with the program's function and its own datatype word.

use crate::errors::{check, finish, function};
use crate::state::{core, Op, Outcome};
use crate::{entry, upcall};
use mpi_std::*;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a call of the library needs to know of an operation, by slot. The library calls from inside a
/// collective, where this thread does not hold the layer and another may: so the state is not looked at,
/// and nothing is called while this is held.
static APPLIED: Mutex<Vec<Applied>> = Mutex::new(Vec::new());

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
        (op.function, op.word, word)
    });
    let Some((function, op, word)) = found else {
        return;
    };
    upcall::op(function, invec.cast(), inoutvec.cast(), len, word, op);
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
    let outcome = (|| {
        let ops = &mut core().state.ops;
        let made = Op {
            real: MPI_OP_NULL,
            function: function(user_fn),
            commute: commute != 0,
            used: 0,
            freed: false,
        };
        let i = ops.insert(made).ok_or(MPI_ERR_OTHER)?;
        match make(i, function(user_fn), commute != 0) {
            Ok(real) => {
                if let Some(op) = ops.get_mut(i) {
                    op.real = real;
                }
            }
            Err(code) => {
                ops.remove(i);
                return Err(code);
            }
        }
        // SAFETY: an output argument.
        unsafe { *op = handle(kind::OP, i) };
        Ok(())
    })();
    finish(outcome, crate::errors::NO_OBJECT, "MPI_Op_create")
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
    let mut real = op.real;
    c.state.ops.remove(index_of(word));
    // SAFETY: an operation of the library.
    let rc = unsafe { (c.procs().MPI_Op_free)(&mut real) };
    if let Some(place) = applied().get_mut(index_of(word) as usize) {
        *place = Applied::default();
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
        let yes = if op < PREDEFINED_END {
            if op == MPI_OP_NULL {
                return Err(MPI_ERR_OP);
            }
            op != MPI_REPLACE && op != MPI_NO_OP
        } else {
            core()
                .state
                .ops
                .get(index_of(op))
                .ok_or(MPI_ERR_OP)?
                .commute
        };
        // SAFETY: an output argument.
        unsafe { *commute = yes as i32 };
        Ok(())
    })();
    finish(outcome, crate::errors::NO_OBJECT, "MPI_Op_commutative")
}
