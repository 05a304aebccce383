//! Calls into the upper half: the stub's callback entries, by the address it registered.
//!
//! Lower half. Everything a callback may do (call MPI again, for one) can happen inside; no reference
//! to the core's state is held across.

use crate::state::core;
use mpi_std::{
    CopyCall, DeleteCall, Status, StubEntries, MPI_ERR_INTERN, MPI_SUCCESS, STUB_MAGIC,
    STUB_VERSION,
};

fn entries() -> Option<&'static StubEntries> {
    let at = core().state.stub as *const StubEntries;
    // SAFETY: `register` checked it, and it is static data of the upper half.
    unsafe { at.as_ref() }
}

fn call(function: usize, args: &[u64; 6]) -> u64 {
    // SAFETY: `function` is an entry of the stub's table and `args` are its arguments.
    unsafe { core().hooks.upcall(function, args) }
}

/// Slot `REGISTER_STUB`.
///
/// # Safety
/// `entries` points to the stub's table, which lives as long as the process.
pub unsafe extern "C" fn register(entries: *const StubEntries) -> i32 {
    // SAFETY: the caller's promise.
    let Some(table) = (unsafe { entries.as_ref() }) else {
        return MPI_ERR_INTERN;
    };
    if table.magic != STUB_MAGIC || table.version != STUB_VERSION {
        log::error!("the stub library in the program is of another version ({}) than this launcher ({STUB_VERSION})", table.version);
        return MPI_ERR_INTERN;
    }
    core().state.stub = entries as u64;
    MPI_SUCCESS
}

/// Applies a reduction function.
pub fn op(function: u64, invec: *mut u8, inoutvec: *mut u8, len: i32, datatype: u64, word: u64) {
    if let Some(e) = entries() {
        call(
            e.op as usize,
            &[
                function,
                invec as u64,
                inoutvec as u64,
                len as u32 as u64,
                datatype,
                word,
            ],
        );
    }
}

/// Calls a copy function; its error class.
pub fn copy(arguments: &mut CopyCall) -> i32 {
    match entries() {
        Some(e) => call(
            e.copy as usize,
            &[arguments as *mut CopyCall as u64, 0, 0, 0, 0, 0],
        ) as i32,
        None => MPI_ERR_INTERN,
    }
}

/// Calls a delete function; its error class.
pub fn delete(arguments: &mut DeleteCall) -> i32 {
    match entries() {
        Some(e) => call(
            e.delete as usize,
            &[arguments as *mut DeleteCall as u64, 0, 0, 0, 0, 0],
        ) as i32,
        None => MPI_ERR_INTERN,
    }
}

/// Calls an error handler.
pub fn errhandler(function: u64, object: u64, code: i32, handler: u64) {
    if let Some(e) = entries() {
        call(
            e.errhandler as usize,
            &[function, object, code as u32 as u64, handler, 0, 0],
        );
    }
}

/// Asks a generalised request for its status.
pub fn grequest_query(function: u64, extra: u64, status: &mut Status) -> i32 {
    match entries() {
        Some(e) => call(
            e.grequest_query as usize,
            &[function, extra, status as *mut Status as u64, 0, 0, 0],
        ) as i32,
        None => MPI_ERR_INTERN,
    }
}

/// Ends a generalised request.
pub fn grequest_free(function: u64, extra: u64) -> i32 {
    match entries() {
        Some(e) => call(e.grequest_free as usize, &[function, extra, 0, 0, 0, 0]) as i32,
        None => MPI_ERR_INTERN,
    }
}

/// Lets an extended generalised request get on.
pub fn grequest_poll(function: u64, extra: u64, status: &mut Status) -> i32 {
    match entries() {
        Some(e) => call(
            e.grequest_poll as usize,
            &[function, extra, status as *mut Status as u64, 0, 0, 0],
        ) as i32,
        None => MPI_ERR_INTERN,
    }
}

/// Lets an extended generalised request wait.
pub fn grequest_wait(function: u64, extra: u64) -> i32 {
    match entries() {
        Some(e) => call(e.grequest_wait as usize, &[function, extra, 0, 0, 0, 0]) as i32,
        None => MPI_ERR_INTERN,
    }
}

/// Tells of an event of the tool interface.
pub fn event(function: u64, instance: u64, registration: u64, safety: i32, data: u64) {
    if let Some(e) = entries() {
        let safety = safety as u32 as u64;
        call(
            e.event as usize,
            &[function, instance, registration, safety, data, 0],
        );
    }
}

/// Tells that an event's registration is gone.
pub fn event_free(function: u64, registration: u64, safety: i32, data: u64) {
    if let Some(e) = entries() {
        let safety = safety as u32 as u64;
        call(
            e.event_free as usize,
            &[function, registration, safety, data, 0, 0],
        );
    }
}

/// Tells of events that were not delivered.
pub fn event_dropped(function: u64, count: i64, registration: u64, at: (i32, i32), data: u64) {
    if let Some(e) = entries() {
        let (source, safety) = (at.0 as u32 as u64, at.1 as u32 as u64);
        call(
            e.event_dropped as usize,
            &[function, count as u64, registration, source, safety, data],
        );
    }
}

/// Cancels a generalised request.
pub fn grequest_cancel(function: u64, extra: u64, complete: bool) -> i32 {
    match entries() {
        Some(e) => call(
            e.grequest_cancel as usize,
            &[function, extra, complete as u64, 0, 0, 0],
        ) as i32,
        None => MPI_ERR_INTERN,
    }
}
