//! The tool interface: calls go to the library, and so do its handles.
//!
//! Lower half. Nothing of it is carried over a restart but that it is initialised: the variables are
//! those of the library, and a handle of a library that is gone is answered with the library's code
//! for that. Codes are the library's (the program was built for it), not the standard's.

use crate::files::{pairs_of, Hints};
use crate::state::core;
use crate::{entry, info};
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

/// Notes a handle that the library has given.
pub fn come(handle: usize) {
    known().get_or_insert_with(HashSet::new).insert(handle);
}

/// Forgets a handle.
pub fn gone(handle: usize) {
    if let Some(known) = known().as_mut() {
        known.remove(&handle);
    }
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

/// What a procedure answers that this library does not have.
#[cold]
pub fn absent(name: &'static str) -> i32 {
    log::error!("{name}: the MPI library below the program does not have it");
    stale(false)
}

/// Hints for the library; `None` if the word is no info object.
pub fn hints(word: u64) -> Option<Hints> {
    Hints::new(word, &info::pairs(word).ok()?).ok()
}

/// Puts an info object of the program in the place of the library's at `place`.
///
/// # Safety
/// `place` holds a real word.
pub unsafe fn told(place: *mut u64) {
    // SAFETY: the caller's promise.
    let mut real = unsafe { *place };
    if real == MPI_INFO_NULL {
        return;
    }
    let word = pairs_of(real).and_then(info::make).unwrap_or(MPI_INFO_NULL);
    // SAFETY: an object that was made for the program, who gets another.
    unsafe { (core().procs().MPI_Info_free)(&mut real) };
    // SAFETY: the caller's promise.
    unsafe { *place = word };
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
