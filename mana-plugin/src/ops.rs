//! Reduction operations of the program.
//!
//! Lower half. The library calls a function here, with the adapter's slot of the operation and the
//! real datatype; the stub's entry is called with the program's function and its own datatype word.

use crate::errors::{check, finish, function};
use crate::state::{core, Op, Outcome};
use crate::{entry, upcall};
use mpi_std::*;
use std::collections::BTreeMap;
use std::ffi::c_void;

/// The function of every real operation.
unsafe extern "C" fn apply(
    invec: *mut c_void,
    inoutvec: *mut c_void,
    len: i32,
    datatype: u64,
    slot: u32,
) {
    let c = core();
    let Some((index, op)) = c.state.ops.iter().find(|(_, o)| o.slot == slot) else {
        return;
    };
    let word = if datatype < PREDEFINED_END {
        datatype
    } else {
        // A library may pass a datatype of its own making; with one datatype ever used there is no
        // doubt which it stands for.
        match op.types.get(&datatype) {
            Some(w) => *w,
            None => op.types.values().next_back().copied().unwrap_or(datatype),
        }
    };
    let function = op.function;
    upcall::op(
        function,
        invec.cast(),
        inoutvec.cast(),
        len,
        word,
        handle(kind::OP, index),
    );
}

/// The real word of an operation of the program, which remembers the datatype it is used with.
#[cold]
pub fn real(word: u64, datatype: u64, real_datatype: u64) -> u64 {
    if kind_of(word) != kind::OP {
        return MPI_OP_NULL;
    }
    match core().state.ops.get_mut(index_of(word)) {
        Some(op) => {
            if datatype >= PREDEFINED_END {
                op.types.insert(real_datatype, datatype);
            }
            op.real
        }
        None => MPI_OP_NULL,
    }
}

/// Makes the real operation.
pub fn make(commute: bool, slot: u32) -> Outcome<u64> {
    let mut real = MPI_OP_NULL;
    // SAFETY: `apply` has the adapter's signature and the slot is below `OP_SLOTS`.
    check(unsafe { (core().adapter.extras.op_create)(apply, commute as i32, slot, &mut real) })?;
    Ok(real)
}

pub unsafe extern "C" fn MPI_Op_create(user_fn: *mut c_void, commute: i32, op: *mut u64) -> i32 {
    let _guard = entry::enter();
    let outcome = (|| {
        let c = core();
        let taken: Vec<u32> = c.state.ops.iter().map(|(_, o)| o.slot).collect();
        let Some(slot) = (0..Extras::OP_SLOTS).find(|s| !taken.contains(s)) else {
            log::error!(
                "MPI_Op_create: the program has more than {} operations at once",
                Extras::OP_SLOTS
            );
            return Err(MPI_ERR_OTHER);
        };
        let real = make(commute != 0, slot)?;
        let made = Op {
            real,
            function: function(user_fn),
            commute: commute != 0,
            slot,
            used: 0,
            freed: false,
            types: BTreeMap::new(),
        };
        let i = core().state.ops.insert(made).ok_or(MPI_ERR_OTHER)?;
        // SAFETY: an output argument.
        unsafe { *op = handle(kind::OP, i) };
        Ok(())
    })();
    finish(outcome, MPI_COMM_WORLD, "MPI_Op_create")
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
    finish(outcome, MPI_COMM_WORLD, "MPI_Op_free")
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
    check(unsafe { (c.procs().MPI_Op_free)(&mut real) })
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
    finish(outcome, MPI_COMM_WORLD, "MPI_Op_commutative")
}
