//! `MPI_Alloc_mem`: memory of the upper half, so that it is saved like the rest of the program.
//!
//! Lower half.

use crate::entry;
use crate::errors::finish;
use crate::state::core;
use mpi_std::*;
use std::ffi::c_void;

pub unsafe extern "C" fn MPI_Alloc_mem(size: i64, info: u64, baseptr: *mut c_void) -> i32 {
    let _guard = entry::enter();
    let _ = info;
    let outcome = (|| {
        let bytes = usize::try_from(size).map_err(|_| MPI_ERR_ARG)?.max(1);
        let c = core();
        let at = c.hooks.allocate(bytes).ok_or(MPI_ERR_NO_MEM)?;
        c.state.memory.push((at as u64, bytes as u64));
        // SAFETY: an output argument, the address of a pointer.
        unsafe { *baseptr.cast::<usize>() = at };
        Ok(())
    })();
    finish(outcome, crate::errors::NO_OBJECT, "MPI_Alloc_mem")
}

pub unsafe extern "C" fn MPI_Free_mem(base: *const c_void) -> i32 {
    let _guard = entry::enter();
    let c = core();
    let outcome = match c.state.memory.iter().position(|(at, _)| *at == base as u64) {
        _ if base.is_null() => Ok(()),
        None => Err(MPI_ERR_BASE),
        Some(i) => {
            let (at, bytes) = c.state.memory.swap_remove(i);
            c.hooks.release(at as usize, bytes as usize);
            Ok(())
        }
    };
    finish(outcome, crate::errors::NO_OBJECT, "MPI_Free_mem")
}
