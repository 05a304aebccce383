//! Buffered sends: done here, from memory of ours, because a buffer attached to the library would be
//! lower-half state. The program's buffer counts for its size only: a send that would not fit fails
//! with `MPI_ERR_BUFFER` as the standard wants.
//!
//! Lower half.

use crate::errors::finish;
use crate::p2p::{self, Envelope};
use crate::requests;
use crate::state::{core, AttachedBuffer, Outcome};
use crate::{entry, thread};
use mpi_std::*;
use std::ffi::c_void;

/// What the standard lets an implementation charge for each message; programs size their buffers by
/// the value their own `mpi.h` has, the smallest of which is this.
const OVERHEAD: u64 = 88;

/// Sends a message in buffered mode.
pub fn send(comm: u32, e: &Envelope) -> Outcome {
    let data = p2p::pack(e)?;
    let need = data.len() as u64 + OVERHEAD;
    if !fits(need) {
        requests::reap();
        if !fits(need) {
            return Err(MPI_ERR_BUFFER);
        }
    }
    if let Some(b) = core().state.buffer.as_mut() {
        b.used += need;
    }
    p2p::send_bytes(comm, e.peer, e.tag, data, need)
}

fn fits(need: u64) -> bool {
    core()
        .state
        .buffer
        .is_some_and(|b| b.used + need <= b.size as u64)
}

pub unsafe extern "C" fn MPI_Buffer_attach(buffer: *const c_void, size: i32) -> i32 {
    let _guard = entry::enter();
    let s = &mut core().state;
    let outcome = if s.buffer.is_some() || size < 0 {
        Err(MPI_ERR_BUFFER)
    } else {
        s.buffer = Some(AttachedBuffer {
            address: buffer as u64,
            size,
            used: 0,
        });
        Ok(())
    };
    finish(outcome, MPI_COMM_WORLD, "MPI_Buffer_attach")
}

pub unsafe extern "C" fn MPI_Buffer_detach(buffer_addr: *mut c_void, size: *mut i32) -> i32 {
    let _guard = entry::enter();
    thread::set_cont(0, 0);
    let outcome = entry::poll(|| {
        requests::reap();
        (core().state.buffer.is_none_or(|b| b.used == 0)).then_some(())
    })
    .and_then(|()| core().state.buffer.take().ok_or(MPI_ERR_BUFFER))
    .map(|b| {
        // SAFETY: output arguments; the first is the address of a pointer.
        unsafe { *buffer_addr.cast::<u64>() = b.address };
        // SAFETY: as above.
        unsafe { *size = b.size };
    });
    finish(outcome, MPI_COMM_WORLD, "MPI_Buffer_detach")
}
