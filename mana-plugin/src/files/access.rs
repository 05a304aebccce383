//! What every operation on a file passes through: whether it may be, the gate if all members call it,
//! and the requests and split collectives that outlive a call.
//!
//! Lower half, program's threads.

use super::{Pointer, Split};
use crate::p2p::{self, Envelope};
use crate::requests::{self, put_status};
use crate::state::{core, Kept, Outcome, Work};
use crate::{collectives, gate};
use mpi_std::*;

/// An operation on a file that the library is about to do.
pub struct Access {
    /// The library's file.
    pub real: u64,
    over: bool,
}

impl Access {
    /// The library's call has returned.
    pub fn end(mut self) {
        self.leave();
    }

    fn leave(&mut self) {
        if !std::mem::replace(&mut self.over, true) {
            gate::leave(core().multiple);
        }
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Begins an operation: the whole of it counts as a call that no stop may cut through.
///
/// `collective`: all members call it. `split`: it begins a split collective.
pub fn begin(
    fh: u64,
    pointer: Pointer,
    collective: bool,
    split: bool,
    name: &'static &'static str,
) -> Outcome<Access> {
    let family = core().adapter.family;
    let f = core().file(fh)?;
    // Open MPI lets such files be accessed in any way.
    let sequential = f.amode & MPI_MODE_SEQUENTIAL != 0 && family == Family::Mpich;
    if sequential && !matches!(pointer, Pointer::Shared | Pointer::None) {
        return Err(MPI_ERR_UNSUPPORTED_OPERATION);
    }
    if split && f.split.is_some() {
        return Err(misplaced());
    }
    f.shared |= matches!(pointer, Pointer::Shared | Pointer::SharedAlone);
    let (comm, real) = (f.comm, f.real);
    if collective {
        collectives::enter(comm, name)?;
    } else {
        gate::enter_alone(name, core().multiple);
    }
    Ok(Access { real, over: false })
}

/// The class of a split collective in the wrong place.
fn misplaced() -> i32 {
    match core().adapter.family {
        Family::Mpich => MPI_ERR_IO,
        Family::OpenMpi => MPI_ERR_OTHER,
    }
}

/// The number that stands for a procedure's name.
fn number(name: &str) -> u32 {
    SLOT_NAMES
        .iter()
        .position(|n| *n == name)
        .map_or(u32::MAX, |i| i as u32)
}

/// A split collective has begun, and its operation is done.
pub fn begun(fh: u64, name: &str, buf: u64, status: Status) -> Outcome {
    core().file(fh)?.split = Some(Split {
        begun_by: number(name),
        buf,
        bytes: status.bytes(),
    });
    Ok(())
}

/// Ends a split collective that `begin` began.
///
/// # Safety
/// `status` is null or the program's.
pub unsafe fn end(fh: u64, begin: &str, buf: u64, status: *mut Status) -> Outcome {
    let f = core().file(fh)?;
    let split = f.split.ok_or_else(misplaced)?;
    if split.begun_by != number(begin) || split.buf != buf {
        return Err(misplaced());
    }
    core().file(fh)?.split = None;
    let mut told = Status {
        source: 0,
        tag: 0,
        ..Status::EMPTY
    };
    told.set_bytes(split.bytes);
    // SAFETY: the caller's promise.
    unsafe { put_status(status, &told) };
    Ok(())
}

/// Stores the request of an operation that was started; its word. `write`: the buffer is read.
pub fn started(fh: u64, real: u64, datatype: u64, write: bool) -> Outcome<u64> {
    let comm = core().file(fh)?.comm;
    let e = Envelope {
        buf: u64::from(write),
        count: 0,
        datatype,
        peer: MPI_PROC_NULL,
        tag: 0,
        comm: 0,
    };
    let mut r = p2p::request(Work::File, comm, &e, real);
    // Its status has a count, unlike that of a send: the general way gives it out.
    r.kept = Some(Box::new(Kept::default()));
    core().insert_request(r).map(requests::word)
}
