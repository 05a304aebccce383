//! Generalised requests: a request whose completion the program declares.
//!
//! Lower half.

use crate::entry;
use crate::errors::{finish, function};
use crate::p2p::{self, Envelope};
use crate::requests;
use crate::state::{core, Generalised, Kept, Phase, Work, WORLD};
use mpi_std::*;
use std::ffi::c_void;

pub unsafe extern "C" fn MPI_Grequest_start(
    query_fn: *mut c_void,
    free_fn: *mut c_void,
    cancel_fn: *mut c_void,
    extra_state: *const c_void,
    request: *mut u64,
) -> i32 {
    let _guard = entry::enter();
    let e = Envelope {
        buf: 0,
        count: 0,
        datatype: MPI_DATATYPE_NULL,
        peer: MPI_PROC_NULL,
        tag: 0,
        comm: 0,
    };
    let mut r = p2p::request(Work::Generalised, WORLD, &e, MPI_REQUEST_NULL);
    let functions = Generalised {
        query: function(query_fn),
        free: function(free_fn),
        cancel: function(cancel_fn),
        extra: extra_state as u64,
    };
    r.kept = Some(Box::new(Kept {
        generalised: Some(functions),
        ..Kept::default()
    }));
    let outcome = core().insert_request(r).map(|i| {
        // SAFETY: an output argument.
        unsafe { *request = requests::word(i) };
    });
    finish(outcome, MPI_COMM_WORLD, "MPI_Grequest_start")
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
        Ok(())
    })();
    finish(outcome, MPI_COMM_WORLD, "MPI_Grequest_complete")
}
