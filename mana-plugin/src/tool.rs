//! The tool interface: calls go to the library, and so do its handles.
//!
//! Lower half. Nothing of it is carried over a restart but that it is initialised: the variables are
//! those of the library, and a handle of a library that is gone is answered with the library's code
//! for that. Codes are the library's (the program was built for it), not the standard's.

use crate::entry;
use crate::state::core;
use mpi_std::*;
use std::collections::HashSet;
use std::ffi::c_void;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Handles of this process's library.
static LIVE: Mutex<Option<HashSet<usize>>> = Mutex::new(None);

fn known() -> MutexGuard<'static, Option<HashSet<usize>>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a handle is of this process's library. All bits set stands for all handles in Open MPI.
pub fn live(handle: *mut c_void) -> bool {
    let at = handle as usize;
    at == usize::MAX || known().as_ref().is_some_and(|k| k.contains(&at))
}

/// Forgets the handle at `place`; false if it is not of this process's library.
///
/// # Safety
/// `place` is the program's variable.
pub unsafe fn take(place: *mut c_void) -> bool {
    // SAFETY: the caller's promise.
    let at = unsafe { *place.cast::<usize>() };
    known().as_mut().is_some_and(|k| k.remove(&at))
}

/// What the library says of a handle or session that is none.
pub fn stale(session: bool) -> i32 {
    // SAFETY: a query of a constant.
    unsafe { (core().adapter.extras.tool_error)(session) }
}

/// Notes the handle at `place`.
///
/// # Safety
/// `place` is null or the program's variable.
pub unsafe fn made(place: *const c_void) {
    // SAFETY: the caller's promise.
    if let Some(at) = unsafe { place.cast::<usize>().as_ref() } {
        known().get_or_insert_with(HashSet::new).insert(*at);
    }
}

/// Objects of the program are not the library's: a variable of one cannot be asked for.
pub fn refuse_object(name: &str) -> i32 {
    log::error!("{name}: a variable that belongs to an object is not carried");
    MPI_ERR_ARG
}

pub unsafe extern "C" fn MPI_T_init_thread(required: i32, provided: *mut i32) -> i32 {
    let _guard = entry::enter();
    // SAFETY: the program's arguments.
    let rc = unsafe { (core().procs().MPI_T_init_thread)(required, provided) };
    if rc == MPI_SUCCESS {
        core().state.tools.push(required);
    }
    rc
}

pub unsafe extern "C" fn MPI_T_finalize() -> i32 {
    let _guard = entry::enter();
    // SAFETY: callable at any time.
    let rc = unsafe { (core().procs().MPI_T_finalize)() };
    if rc == MPI_SUCCESS {
        core().state.tools.pop();
    }
    rc
}

/// Initialises the interface as often as the program had when the image was taken.
pub fn begin_again() {
    for level in core().state.tools.clone() {
        let mut provided = 0;
        // SAFETY: an output argument of ours.
        let rc = unsafe { (core().procs().MPI_T_init_thread)(level, &mut provided) };
        if rc != MPI_SUCCESS {
            log::warn!("MPI_T_init_thread failed at the restart: {rc}");
        }
    }
}
