//! Generalised requests: a request whose completion the program declares; and MPICH's extended ones, which
//! are polled.
//!
//! Lower half.

use crate::entry;
use crate::errors::{finish, function};
use crate::p2p::{self, Envelope};
use crate::state::{core, Generalised, Kept, Outcome, Phase, Work, WORLD};
use crate::{buffers, requests, upcall};
use mpi_std::*;
use std::ffi::c_void;

/// A request with these functions; its word.
fn start(functions: Generalised) -> Outcome<u64> {
    let e = Envelope {
        buf: 0,
        count: 0,
        datatype: MPI_DATATYPE_NULL,
        peer: MPI_PROC_NULL,
        tag: 0,
        comm: 0,
    };
    let mut r = p2p::request(Work::Generalised, WORLD, &e, MPI_REQUEST_NULL);
    r.kept = Some(Box::new(Kept {
        generalised: Some(functions),
        ..Kept::default()
    }));
    core().insert_request(r).map(requests::word)
}

pub unsafe extern "C" fn MPI_Grequest_start(
    query_fn: *mut c_void,
    free_fn: *mut c_void,
    cancel_fn: *mut c_void,
    extra_state: *const c_void,
    request: *mut u64,
) -> i32 {
    let _guard = entry::enter();
    let outcome = start(Generalised {
        query: function(query_fn),
        free: function(free_fn),
        cancel: function(cancel_fn),
        poll: 0,
        wait: 0,
        extra: extra_state as u64,
    })
    .map(|word| {
        // SAFETY: an output argument.
        unsafe { *request = word };
    });
    finish(outcome, crate::errors::NO_OBJECT, "MPI_Grequest_start")
}

/// An extended one: tests and waits call its poll function, which may declare it complete, and a wait for
/// several its wait function first, as MPICH does. MPICH has no such request without both.
pub unsafe extern "C" fn MPIX_Grequest_start(
    query_fn: *mut c_void,
    free_fn: *mut c_void,
    cancel_fn: *mut c_void,
    poll_fn: *mut c_void,
    wait_fn: *mut c_void,
    extra_state: *const c_void,
    request: *mut u64,
) -> i32 {
    let _guard = entry::enter();
    let given = [query_fn, free_fn, cancel_fn, poll_fn, wait_fn];
    let outcome = match given.iter().any(|f| f.is_null()) {
        true => Err(MPI_ERR_ARG),
        false => start(Generalised {
            query: function(query_fn),
            free: function(free_fn),
            cancel: function(cancel_fn),
            poll: function(poll_fn),
            wait: function(wait_fn),
            extra: extra_state as u64,
        }),
    }
    .map(|word| {
        // SAFETY: an output argument.
        unsafe { *request = word };
    });
    finish(outcome, crate::errors::NO_OBJECT, "MPIX_Grequest_start")
}

fn functions(index: u32) -> Option<Generalised> {
    let r = core().state.requests.get(index)?;
    r.kept.as_ref()?.generalised
}

/// Lets an extended request, or a buffer that is flushed, get on; whether it is complete.
#[cold]
pub fn poll(index: u32) -> bool {
    let kept = core()
        .state
        .requests
        .get(index)
        .and_then(|r| r.kept.as_ref());
    let flushed = kept.and_then(|k| k.flushes).is_some_and(buffers::is_empty);
    if let Some(r) = core().state.requests.get_mut(index).filter(|_| flushed) {
        r.phase = Phase::Done;
    }
    if let Some(f) = functions(index).filter(|f| f.poll != 0) {
        let mut status = Status::EMPTY;
        upcall::grequest_poll(f.poll, f.extra, &mut status);
    }
    let r = core().state.requests.get(index);
    r.is_none_or(|r| r.phase != Phase::Active)
}

/// Calls the wait function of an extended request that is not complete.
#[cold]
pub fn wait(index: u32) {
    let active = core().state.requests.get(index);
    if active.is_some_and(|r| r.phase == Phase::Active) {
        if let Some(f) = functions(index).filter(|f| f.wait != 0) {
            upcall::grequest_wait(f.wait, f.extra);
        }
    }
}

/// The program has freed it, and it is complete: nothing is asked about it any more.
pub fn end(index: u32) {
    if let Some(f) = functions(index) {
        upcall::grequest_free(f.free, f.extra);
    }
}

pub unsafe extern "C" fn MPI_Grequest_complete(request: u64) -> i32 {
    let _guard = entry::enter();
    let outcome = (|| {
        let i = requests::index(request)?.ok_or(MPI_ERR_REQUEST)?;
        let r = core().request(i)?;
        if r.work != Work::Generalised {
            return Err(MPI_ERR_REQUEST);
        }
        r.phase = Phase::Done;
        if r.orphan {
            end(i);
            core().remove_request(i);
        }
        Ok(())
    })();
    finish(outcome, crate::errors::NO_OBJECT, "MPI_Grequest_complete")
}
