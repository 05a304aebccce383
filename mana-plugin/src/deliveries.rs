//! Drained messages on their way into buffers of the program.
//!
//! Lower half.

use crate::drained::Drained;
use crate::errors::check;
use crate::state::core;
use mpi_std::*;
use std::ffi::c_void;

/// Tag of deliveries to this process itself.
const DELIVERY: i32 = 7;

/// Puts a drained message into a buffer of the program: sent from this process to itself, so that the
/// library unpacks, truncates and counts as it always does. Its status, and the error class.
///
/// # Safety
/// Buffer, count and datatype are those of a receive of the program.
pub unsafe fn deliver(message: &Drained, buf: u64, count: i32, datatype: u64) -> (Status, i32) {
    let c = core();
    let mut status = Status::EMPTY;
    let datatype = match c.real_type(datatype) {
        Ok(t) => t,
        Err(code) => return (status, code),
    };
    let procs = c.procs();
    let me = c.private_self;
    let mut real = MPI_REQUEST_NULL;
    // SAFETY: the program's receive buffer.
    let rc = unsafe {
        (procs.MPI_Irecv)(
            buf as *mut c_void,
            count,
            datatype,
            0,
            DELIVERY,
            me,
            &mut real,
        )
    };
    if rc != MPI_SUCCESS {
        return (status, rc);
    }
    let data = &message.data;
    let sent = crate::checkpoint::with_bytes(data.len() as u64, |count, bytes| {
        // SAFETY: `data` is readable.
        check(unsafe { (procs.MPI_Send)(data.as_ptr().cast(), count, bytes, 0, DELIVERY, me) })
    })
    .err()
    .unwrap_or(MPI_SUCCESS);
    // SAFETY: the receive above.
    let rc = unsafe { (procs.MPI_Wait)(&mut real, &mut status) };
    status.source = message.source;
    status.tag = message.tag;
    let errors = [rc, sent, too_long(data.len(), count, datatype)];
    let first = errors.into_iter().find(|code| *code != MPI_SUCCESS);
    (status, first.unwrap_or(MPI_SUCCESS))
}

/// Whether a message of so many bytes is longer than its receive. Open MPI 4.1.4 does not see it where a process sends a
/// short one to itself and the receive is posted already.
fn too_long(bytes: usize, count: i32, datatype: u64) -> i32 {
    let mut size = 0;
    // SAFETY: a datatype of the library, an output argument of ours.
    let rc = unsafe { (core().procs().MPI_Type_size_x)(datatype, &mut size) };
    let room = i128::from(size) * i128::from(count);
    match rc == MPI_SUCCESS && size >= 0 && room < bytes as i128 {
        true => MPI_ERR_TRUNCATE,
        false => MPI_SUCCESS,
    }
}
