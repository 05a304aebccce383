//! Whose error handler is called for a request that has failed.
//!
//! Lower half. MPI 4.1, 3.7.3 and 9.3: that of the communicator, window or file. Open MPI calls it with the class of the first
//! request that failed, also where several are completed, and returns `MPI_ERR_IN_STATUS` there; MPICH calls that of
//! errors without an object, but for a persistent request that is waited for alone (all seen natively,
//! `tests/programs/completions.c`).

use crate::errors::NO_OBJECT;
use crate::state::{core, Outcome, Work};
use crate::{errors, files};
use mana_raw::layout::AGAIN;
use mpi_std::*;

/// What the errors of a request belong to.
#[derive(Clone, Copy, Debug)]
pub enum Origin {
    /// A communicator's word.
    Comm(u64),
    /// A file's word.
    File(u64),
}

/// Where nothing better is known.
pub const WORLD: Origin = Origin::Comm(NO_OBJECT);

/// What the errors of request `index`, which exists, belong to.
#[cold]
pub fn origin(index: u32) -> Origin {
    let c = core();
    let Some(r) = c.state.requests.get(index) else {
        return WORLD;
    };
    match (c.adapter.family, r.work) {
        (Family::Mpich, _) | (_, Work::Generalised) => WORLD,
        (_, Work::File) => {
            let mut files = c.state.files.iter();
            let of_it = files.find(|(_, f)| f.comm == r.comm);
            of_it.map_or(WORLD, |(i, _)| Origin::File(handle(kind::FILE, i)))
        }
        _ => Origin::Comm(c.comm_word(r.comm)),
    }
}

/// What the errors of request `index` belong to in a procedure that completes one request.
#[cold]
pub fn origin_alone(index: u32) -> Origin {
    let c = core();
    match c.state.requests.get(index) {
        Some(r) if r.persistent && r.work != Work::File => Origin::Comm(c.comm_word(r.comm)),
        _ => origin(index),
    }
}

/// What the errors of receiving a matched message of the communicator of that index belong to.
#[cold]
pub fn origin_matched(comm: u32) -> Origin {
    match core().adapter.family {
        Family::Mpich => WORLD,
        Family::OpenMpi => Origin::Comm(core().comm_word(comm)),
    }
}

/// Request `index` is about to go in a procedure that completes it alone; what its errors belong to, if it has any.
#[inline(always)]
pub fn before_alone(index: u32) -> Origin {
    match core().state.requests.get(index) {
        Some(r) if r.error != MPI_SUCCESS => origin_alone(index),
        _ => WORLD,
    }
}

/// Request `index` is about to go; what its errors belong to, if it has any.
#[inline(always)]
pub fn before(index: u32) -> Origin {
    match core().state.requests.get(index) {
        Some(r) if r.error != MPI_SUCCESS => origin(index),
        _ => WORLD,
    }
}

/// Ends an entry that completes one request.
#[inline(always)]
pub fn finish(outcome: Outcome, origin: Origin, name: &'static str) -> i32 {
    match outcome {
        Ok(()) => MPI_SUCCESS,
        Err(AGAIN) => AGAIN,
        Err(code) => raise(origin, code, name),
    }
}

#[cold]
fn raise(origin: Origin, code: i32, name: &'static str) -> i32 {
    match origin {
        Origin::Comm(comm) => errors::raise(comm, code, name),
        Origin::File(file) => files::raise(file, code, name),
    }
}

/// The first of several requests that failed: what its error belongs to, and its class.
pub type First = Option<(Origin, i32)>;

/// Ends an entry that completes several requests.
#[inline(always)]
pub fn finish_several(outcome: Outcome, first: First, name: &'static str) -> i32 {
    match outcome {
        Ok(()) => MPI_SUCCESS,
        Err(AGAIN) => AGAIN,
        Err(code) => raise_first(code, first, name),
    }
}

#[cold]
fn raise_first(code: i32, first: First, name: &'static str) -> i32 {
    match first {
        Some((origin, class)) if core().adapter.family == Family::OpenMpi => {
            raise(origin, class, name);
            code
        }
        _ => errors::raise(crate::errors::NO_OBJECT, code, name),
    }
}
