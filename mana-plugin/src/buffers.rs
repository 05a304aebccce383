//! Buffered sends: done here, from memory of ours, because a buffer attached to the library would be
//! lower-half state. The program's buffer counts for its size only: a send that would not fit fails
//! with `MPI_ERR_BUFFER` as the standard wants.
//!
//! Lower half.

use crate::errors::{check, finish};
use crate::p2p::{self, Envelope};
use crate::state::{core, AttachedBuffer, Kept, Outcome, Phase, Work, WORLD};
use crate::whereabouts::Place;
use crate::{collectives, entry, requests, sessions, thread};
use mpi_std::*;
use serde::{Deserialize, Serialize};
use std::ffi::c_void;

/// What the standard lets an implementation charge for each message; programs size their buffers by
/// the value their own `mpi.h` has, the smallest of which is this.
const OVERHEAD: u64 = 88;

/// Whose buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Owner {
    /// The process's, for communicators without one.
    Process,
    /// That of the communicator of this index (MPI-4.1).
    Comm(u32),
    /// That of the session of this index, for the communicators that stem from it (MPI-4.1).
    Session(u32),
}

/// `MPI_BUFFER_AUTOMATIC`, as the standard's ABI and as MPICH's has it: no size matters.
const AUTOMATIC: [u64; 2] = [2, -2i64 as u64];

/// Where the owner's buffer is noted.
fn place(owner: Owner) -> Outcome<&'static mut Option<AttachedBuffer>> {
    match owner {
        Owner::Process => Ok(&mut core().state.buffer),
        Owner::Comm(index) => match core().state.comms.get_mut(index) {
            Some(comm) => Ok(&mut comm.buffer),
            None => Err(MPI_ERR_COMM),
        },
        Owner::Session(index) => match core().state.sessions.get_mut(index) {
            Some(session) => Ok(&mut session.buffer),
            None => Err(MPI_ERR_SESSION),
        },
    }
}

/// Who gives the room for a message on a communicator (MPI-4.1, section 3.6). A session without a buffer leaves it to the
/// process, as it was before there were buffers of sessions.
fn owner(comm: u32) -> Owner {
    let state = &core().state;
    let Some(found) = state.comms.get(comm) else {
        return Owner::Process;
    };
    let has_one = |session: &u32| {
        state
            .sessions
            .get(*session)
            .is_some_and(|s| s.buffer.is_some())
    };
    match found.session.filter(has_one) {
        _ if found.buffer.is_some() => Owner::Comm(comm),
        Some(session) => Owner::Session(session),
        None => Owner::Process,
    }
}

/// Sends a message in buffered mode.
pub fn send(comm: u32, e: &Envelope) -> Outcome {
    let data = p2p::pack(e)?;
    let need = data.len() as u64 + OVERHEAD;
    let owner = owner(comm);
    requests::reap_many();
    if !fits(owner, need) {
        requests::reap();
        if !fits(owner, need) {
            return Err(MPI_ERR_BUFFER);
        }
    }
    charge(owner, need);
    let sent = p2p::send_bytes(comm, e.peer, e.tag, data, Some((owner, need)));
    if sent.is_err() {
        discharge(owner, need);
    }
    sent
}

fn fits(owner: Owner, need: u64) -> bool {
    let buffer = place(owner).ok().and_then(|b| *b);
    buffer.is_some_and(|b| AUTOMATIC.contains(&b.address) || b.used + need <= b.size as u64)
}

fn charge(owner: Owner, need: u64) {
    if let Ok(Some(b)) = place(owner) {
        b.used += need;
    }
}

/// A message of `need` bytes is out of its owner's buffer.
pub fn discharge(owner: Owner, need: u64) {
    if let Ok(Some(b)) = place(owner) {
        b.used = b.used.saturating_sub(need);
    }
}

/// Whether everything in a buffer has been sent.
pub fn is_empty(owner: Owner) -> bool {
    requests::reap();
    place(owner).map_or(true, |b| b.is_none_or(|b| b.used == 0))
}

fn attach(owner: Owner, buffer: *const c_void, size: i64) -> Outcome {
    let place = place(owner)?;
    let automatic = AUTOMATIC.contains(&(buffer as u64));
    if place.is_some() || size < 0 && !automatic {
        return Err(MPI_ERR_BUFFER);
    }
    *place = Some(AttachedBuffer {
        address: buffer as u64,
        size: if automatic { 0 } else { size },
        used: 0,
    });
    Ok(())
}

/// Waits until everything in a buffer has been sent.
pub fn flush(owner: Owner) -> Outcome {
    thread::set_cont(0, 0);
    let place = || Place::of("the detaching or flushing of a buffer");
    entry::poll(place, || is_empty(owner).then_some(()))
}

/// Detaches a buffer; its size.
unsafe fn detach(owner: Owner, buffer_addr: *mut c_void) -> Outcome<i64> {
    flush(owner)?;
    let Some(b) = place(owner)?.take() else {
        // The libraries differ in what they answer, and this one has no buffer either.
        let mut size = 0;
        // SAFETY: the program's argument.
        check(unsafe { (core().procs().MPI_Buffer_detach)(buffer_addr, &mut size) })?;
        return Ok(size.into());
    };
    // SAFETY: an output argument, the address of a pointer.
    unsafe { *buffer_addr.cast::<u64>() = b.address };
    Ok(b.size)
}

/// A request that is complete when everything that is in the buffer now, and what comes until it is
/// tested, has been sent.
unsafe fn iflush(owner: Owner, comm: u32, request: *mut u64) -> Outcome {
    let word = collectives::finished(comm)?;
    if !is_empty(owner) {
        if let Some(index) = requests::index(word)? {
            let r = core().request(index)?;
            r.work = Work::Generalised;
            r.phase = Phase::Active;
            r.kept = Some(Box::new(Kept {
                flushes: Some(owner),
                ..Kept::default()
            }));
        }
    }
    // SAFETY: an output argument.
    unsafe { *request = word };
    Ok(())
}

fn owner_of_session(session: u64) -> Outcome<Owner> {
    sessions::index(session).map(Owner::Session)
}

fn owner_of(comm: u64) -> Outcome<(Owner, u32)> {
    let (index, _) = core().comm(comm)?;
    Ok((Owner::Comm(index), index))
}

pub unsafe extern "C" fn MPI_Buffer_attach(buffer: *const c_void, size: i32) -> i32 {
    let _guard = entry::enter();
    let outcome = attach(Owner::Process, buffer, size.into());
    finish(outcome, crate::errors::NO_OBJECT, "MPI_Buffer_attach")
}

pub unsafe extern "C" fn MPI_Buffer_attach_c(buffer: *const c_void, size: i64) -> i32 {
    let _guard = entry::enter();
    let outcome = attach(Owner::Process, buffer, size);
    finish(outcome, crate::errors::NO_OBJECT, "MPI_Buffer_attach_c")
}

pub unsafe extern "C" fn MPI_Buffer_detach(buffer_addr: *mut c_void, size: *mut i32) -> i32 {
    let _guard = entry::enter();
    // SAFETY: the program's arguments, here and below.
    let outcome = unsafe { detach(Owner::Process, buffer_addr) };
    // SAFETY: as above.
    let outcome = outcome.map(|n| unsafe { *size = n as i32 });
    finish(outcome, crate::errors::NO_OBJECT, "MPI_Buffer_detach")
}

pub unsafe extern "C" fn MPI_Buffer_detach_c(buffer_addr: *mut c_void, size: *mut i64) -> i32 {
    let _guard = entry::enter();
    // SAFETY: the program's arguments, here and below.
    let outcome = unsafe { detach(Owner::Process, buffer_addr) };
    // SAFETY: as above.
    let outcome = outcome.map(|n| unsafe { *size = n });
    finish(outcome, crate::errors::NO_OBJECT, "MPI_Buffer_detach_c")
}

pub unsafe extern "C" fn MPI_Buffer_flush() -> i32 {
    let _guard = entry::enter();
    finish(
        flush(Owner::Process),
        crate::errors::NO_OBJECT,
        "MPI_Buffer_flush",
    )
}

pub unsafe extern "C" fn MPI_Buffer_iflush(request: *mut u64) -> i32 {
    let _guard = entry::enter();
    // SAFETY: the program's argument.
    let outcome = unsafe { iflush(Owner::Process, WORLD, request) };
    finish(outcome, crate::errors::NO_OBJECT, "MPI_Buffer_iflush")
}

pub unsafe extern "C" fn MPI_Comm_attach_buffer(
    comm: u64,
    buffer: *const c_void,
    size: i32,
) -> i32 {
    let _guard = entry::enter();
    let outcome = owner_of(comm).and_then(|(owner, _)| attach(owner, buffer, size.into()));
    finish(outcome, comm, "MPI_Comm_attach_buffer")
}

pub unsafe extern "C" fn MPI_Comm_attach_buffer_c(
    comm: u64,
    buffer: *const c_void,
    size: i64,
) -> i32 {
    let _guard = entry::enter();
    let outcome = owner_of(comm).and_then(|(owner, _)| attach(owner, buffer, size));
    finish(outcome, comm, "MPI_Comm_attach_buffer_c")
}

pub unsafe extern "C" fn MPI_Comm_detach_buffer(
    comm: u64,
    buffer_addr: *mut c_void,
    size: *mut i32,
) -> i32 {
    let _guard = entry::enter();
    // SAFETY: the program's arguments, here and below.
    let outcome = owner_of(comm).and_then(|(owner, _)| unsafe { detach(owner, buffer_addr) });
    // SAFETY: as above.
    let outcome = outcome.map(|n| unsafe { *size = n as i32 });
    finish(outcome, comm, "MPI_Comm_detach_buffer")
}

pub unsafe extern "C" fn MPI_Comm_detach_buffer_c(
    comm: u64,
    buffer_addr: *mut c_void,
    size: *mut i64,
) -> i32 {
    let _guard = entry::enter();
    // SAFETY: the program's arguments, here and below.
    let outcome = owner_of(comm).and_then(|(owner, _)| unsafe { detach(owner, buffer_addr) });
    // SAFETY: as above.
    let outcome = outcome.map(|n| unsafe { *size = n });
    finish(outcome, comm, "MPI_Comm_detach_buffer_c")
}

pub unsafe extern "C" fn MPI_Comm_flush_buffer(comm: u64) -> i32 {
    let _guard = entry::enter();
    let outcome = owner_of(comm).and_then(|(owner, _)| flush(owner));
    finish(outcome, comm, "MPI_Comm_flush_buffer")
}

pub unsafe extern "C" fn MPI_Comm_iflush_buffer(comm: u64, request: *mut u64) -> i32 {
    let _guard = entry::enter();
    // SAFETY: the program's argument.
    let outcome =
        owner_of(comm).and_then(|(owner, index)| unsafe { iflush(owner, index, request) });
    finish(outcome, comm, "MPI_Comm_iflush_buffer")
}

pub unsafe extern "C" fn MPI_Session_attach_buffer(
    session: u64,
    buffer: *const c_void,
    size: i32,
) -> i32 {
    let _guard = entry::enter();
    let outcome = owner_of_session(session).and_then(|owner| attach(owner, buffer, size.into()));
    sessions::end(outcome, session, "MPI_Session_attach_buffer")
}

pub unsafe extern "C" fn MPI_Session_attach_buffer_c(
    session: u64,
    buffer: *const c_void,
    size: i64,
) -> i32 {
    let _guard = entry::enter();
    let outcome = owner_of_session(session).and_then(|owner| attach(owner, buffer, size));
    sessions::end(outcome, session, "MPI_Session_attach_buffer_c")
}

pub unsafe extern "C" fn MPI_Session_detach_buffer(
    session: u64,
    buffer_addr: *mut c_void,
    size: *mut i32,
) -> i32 {
    let _guard = entry::enter();
    // SAFETY: the program's arguments, here and below.
    let outcome = owner_of_session(session).and_then(|owner| unsafe { detach(owner, buffer_addr) });
    // SAFETY: as above.
    let outcome = outcome.map(|n| unsafe { *size = n as i32 });
    sessions::end(outcome, session, "MPI_Session_detach_buffer")
}

pub unsafe extern "C" fn MPI_Session_detach_buffer_c(
    session: u64,
    buffer_addr: *mut c_void,
    size: *mut i64,
) -> i32 {
    let _guard = entry::enter();
    // SAFETY: the program's arguments, here and below.
    let outcome = owner_of_session(session).and_then(|owner| unsafe { detach(owner, buffer_addr) });
    // SAFETY: as above.
    let outcome = outcome.map(|n| unsafe { *size = n });
    sessions::end(outcome, session, "MPI_Session_detach_buffer_c")
}

pub unsafe extern "C" fn MPI_Session_flush_buffer(session: u64) -> i32 {
    let _guard = entry::enter();
    let outcome = owner_of_session(session).and_then(flush);
    sessions::end(outcome, session, "MPI_Session_flush_buffer")
}

pub unsafe extern "C" fn MPI_Session_iflush_buffer(session: u64, request: *mut u64) -> i32 {
    let _guard = entry::enter();
    // SAFETY: the program's argument.
    let outcome =
        owner_of_session(session).and_then(|owner| unsafe { iflush(owner, WORLD, request) });
    sessions::end(outcome, session, "MPI_Session_iflush_buffer")
}
