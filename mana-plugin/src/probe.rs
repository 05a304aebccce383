//! Probes and matched messages. Drained messages come first; a matched one becomes a message object
//! that holds its data.
//!
//! Lower half.

use crate::deliveries;
use crate::errors::{check, finish};
use crate::failed;
use crate::p2p::{self, pattern, Envelope, NOBODY};
use crate::requests::{self, put_status};
use crate::state::{core, Message, Outcome, Phase, SavedStatus, Work};
use crate::whereabouts::{Asked, Place};
use crate::{drained::Drained, entry, synchronous};
use mana_raw::layout::AGAIN;
use mpi_std::*;
use std::ffi::c_void;

fn status_of(m: &Drained) -> Status {
    let mut s = Status {
        source: m.source,
        tag: m.tag,
        ..Status::EMPTY
    };
    s.set_bytes(m.data.len() as u64);
    s
}

fn look(source: i32, tag: i32, comm: u64) -> Outcome<Option<Status>> {
    let c = core();
    let (_, info) = c.comm(comm)?;
    if source == MPI_PROC_NULL {
        p2p::check_tag(tag, true)?;
        return Ok(Some(NOBODY));
    }
    if !info.drained.is_empty() {
        if let Some(m) = info.drained.peek(pattern(source, tag)) {
            return Ok(Some(status_of(m)));
        }
    }
    let real = info.real;
    let (mut flag, mut status) = (0, Status::EMPTY);
    // SAFETY: output arguments of ours.
    check(unsafe { (c.procs().MPI_Iprobe)(source, tag, real, &mut flag, &mut status) })?;
    Ok((flag != 0).then_some(status))
}

/// Where a probe waits.
fn probing(call: &str, source: i32, tag: i32, comm: u64) -> Place {
    match core().comm_index(comm) {
        Ok(index) => Place::with(call, index, source, tag, false),
        Err(_) => Place::of(call),
    }
}

/// Repeats `step` until it finds something or a stop is requested.
fn until<T>(place: impl Fn() -> Place, mut step: impl FnMut() -> Outcome<Option<T>>) -> Outcome<T> {
    let mut turns = 0u32;
    let mut asked = Asked::default();
    loop {
        if let Some(found) = step()? {
            return Ok(found);
        }
        if entry::leaving(&mut asked, &place) {
            return Err(AGAIN);
        }
        turns = turns.wrapping_add(1);
        if turns > 200 || core().multiple {
            entry::unlocked(std::thread::yield_now);
        }
    }
}

pub unsafe extern "C" fn MPI_Iprobe(
    source: i32,
    tag: i32,
    comm: u64,
    flag: *mut i32,
    status: *mut Status,
) -> i32 {
    let _guard = entry::enter();
    let outcome = look(source, tag, comm).map(|found| {
        // SAFETY: output arguments.
        unsafe { *flag = found.is_some() as i32 };
        if let Some(s) = found {
            // SAFETY: as above.
            unsafe { put_status(status, &s) };
        }
    });
    finish(outcome, comm, "MPI_Iprobe")
}

pub unsafe extern "C" fn MPI_Probe(source: i32, tag: i32, comm: u64, status: *mut Status) -> i32 {
    let _guard = entry::enter();
    // SAFETY: an output argument.
    let place = || probing("MPI_Probe", source, tag, comm);
    // SAFETY: an output argument.
    let outcome =
        until(place, || look(source, tag, comm)).map(|s| unsafe { put_status(status, &s) });
    finish(outcome, comm, "MPI_Probe")
}

fn extract(source: i32, tag: i32, comm: u64) -> Outcome<Option<(u64, Status)>> {
    let c = core();
    let (index, info) = c.comm(comm)?;
    if source == MPI_PROC_NULL {
        p2p::check_tag(tag, true)?;
        return Ok(Some((MPI_MESSAGE_NO_PROC, NOBODY)));
    }
    let taken = info.drained.take(pattern(source, tag));
    let (status, real, data, sender) = match taken {
        Some(m) => (status_of(&m), MPI_MESSAGE_NULL, Some(m.data), m.sender),
        None => {
            let real_comm = info.real;
            let (mut flag, mut real, mut status) = (0, MPI_MESSAGE_NULL, Status::EMPTY);
            // SAFETY: output arguments of ours.
            check(unsafe {
                (c.procs().MPI_Improbe)(source, tag, real_comm, &mut flag, &mut real, &mut status)
            })?;
            if flag == 0 {
                return Ok(None);
            }
            (status, real, None, None)
        }
    };
    let message = Message {
        comm: index,
        source: status.source,
        tag: status.tag,
        bytes: status.bytes(),
        real,
        data,
        sender,
    };
    let i = core().state.messages.insert(message).ok_or(MPI_ERR_OTHER)?;
    if let Some(c) = core().state.comms.get_mut(index) {
        c.pending += 1;
    }
    Ok(Some((handle(kind::MESSAGE, i), status)))
}

pub unsafe extern "C" fn MPI_Improbe(
    source: i32,
    tag: i32,
    comm: u64,
    flag: *mut i32,
    message: *mut u64,
    status: *mut Status,
) -> i32 {
    let _guard = entry::enter();
    let outcome = extract(source, tag, comm).map(|found| {
        // SAFETY: output arguments.
        unsafe { *flag = found.is_some() as i32 };
        if let Some((m, s)) = found {
            // SAFETY: as above.
            unsafe { *message = m };
            // SAFETY: as above.
            unsafe { put_status(status, &s) };
        }
    });
    finish(outcome, comm, "MPI_Improbe")
}

pub unsafe extern "C" fn MPI_Mprobe(
    source: i32,
    tag: i32,
    comm: u64,
    message: *mut u64,
    status: *mut Status,
) -> i32 {
    let _guard = entry::enter();
    let place = || probing("MPI_Mprobe", source, tag, comm);
    let outcome = until(place, || extract(source, tag, comm)).map(|(m, s)| {
        // SAFETY: output arguments.
        unsafe { *message = m };
        // SAFETY: as above.
        unsafe { put_status(status, &s) };
    });
    finish(outcome, comm, "MPI_Mprobe")
}

/// Takes a message out of the table.
fn claim(word: u64) -> Outcome<Message> {
    if kind_of(word) != kind::MESSAGE {
        return Err(MPI_ERR_REQUEST);
    }
    let c = core();
    let m = c
        .state
        .messages
        .remove(index_of(word))
        .ok_or(MPI_ERR_REQUEST)?;
    if let Some(c) = c.state.comms.get_mut(m.comm) {
        c.pending -= 1;
    }
    Ok(m)
}

/// A started matched receive: done with a status and error, or a real request.
enum Started {
    Done(Status, i32),
    Real(u64),
}

unsafe fn start(m: Message, buf: *mut c_void, count: i32, datatype: u64) -> Outcome<Started> {
    let c = core();
    if let Some(data) = m.data {
        let d = Drained {
            source: m.source,
            tag: m.tag,
            data,
            sender: m.sender,
        };
        // SAFETY: the program's buffer.
        let (s, rc) = unsafe { deliveries::deliver(&d, buf as u64, count, datatype) };
        synchronous::acknowledge(d.sender);
        return Ok(Started::Done(s, rc));
    }
    let datatype = c.real_type(datatype)?;
    let (mut message, mut real) = (m.real, MPI_REQUEST_NULL);
    // SAFETY: the program's arguments, with real handles.
    check(unsafe { (c.procs().MPI_Imrecv)(buf, count, datatype, &mut message, &mut real) })?;
    Ok(Started::Real(real))
}

pub unsafe extern "C" fn MPI_Mrecv(
    buf: *mut c_void,
    count: i32,
    datatype: u64,
    message: *mut u64,
    status: *mut Status,
) -> i32 {
    let _guard = entry::enter();
    let mut of = p2p::interrupted();
    let outcome = (|| {
        // SAFETY: the program's output argument.
        if let Some(outcome) = unsafe { p2p::resumed_matched(status) } {
            // SAFETY: an argument both in and out.
            unsafe { *message = MPI_MESSAGE_NULL };
            return outcome;
        }
        // SAFETY: as above.
        let word = unsafe { *message };
        if word == MPI_MESSAGE_NO_PROC {
            // SAFETY: as above.
            unsafe { put_status(status, &NOBODY) };
            // SAFETY: as above.
            unsafe { *message = MPI_MESSAGE_NULL };
            return Ok(());
        }
        let m = claim(word)?;
        let (comm, source, tag) = (m.comm, m.source, m.tag);
        of = Some(comm);
        // SAFETY: the program's arguments.
        let started = unsafe { start(m, buf, count, datatype) }?;
        let e = Envelope {
            buf: buf as u64,
            count,
            datatype,
            peer: source,
            tag,
            comm: 0,
        };
        let outcome = match started {
            Started::Done(s, rc) => {
                // SAFETY: as above.
                unsafe { put_status(status, &s) };
                check(rc)
            }
            // SAFETY: as above.
            Started::Real(real) => unsafe { p2p::wait_matched(comm, real, &e, status) },
        };
        if outcome != Err(AGAIN) {
            // SAFETY: as above.
            unsafe { *message = MPI_MESSAGE_NULL };
        }
        outcome
    })();
    finish_matched(outcome, of, "MPI_Mrecv")
}

pub unsafe extern "C" fn MPI_Imrecv(
    buf: *mut c_void,
    count: i32,
    datatype: u64,
    message: *mut u64,
    request: *mut u64,
) -> i32 {
    let _guard = entry::enter();
    let mut of = None;
    let outcome = (|| {
        // SAFETY: an argument both in and out.
        let word = unsafe { *message };
        let mut e = Envelope {
            buf: buf as u64,
            count,
            datatype,
            peer: MPI_PROC_NULL,
            tag: MPI_ANY_TAG,
            comm: 0,
        };
        let mut comm = crate::state::WORLD;
        let started = if word == MPI_MESSAGE_NO_PROC {
            Started::Done(NOBODY, MPI_SUCCESS)
        } else {
            let m = claim(word)?;
            comm = m.comm;
            of = Some(comm);
            e.peer = m.source;
            e.tag = m.tag;
            // SAFETY: the program's arguments.
            unsafe { start(m, buf, count, datatype) }?
        };
        let mut r = p2p::request(Work::MatchedRecv, comm, &e, MPI_REQUEST_NULL);
        match started {
            Started::Real(real) => r.real = real,
            Started::Done(s, rc) => {
                r.phase = Phase::Done;
                r.status = SavedStatus::from(s);
                r.error = rc;
            }
        }
        let i = core().insert_request(r)?;
        // SAFETY: as above.
        unsafe { *request = requests::word(i) };
        // SAFETY: as above.
        unsafe { *message = MPI_MESSAGE_NULL };
        Ok(())
    })();
    finish_matched(outcome, of, "MPI_Imrecv")
}

/// Ends an entry that receives a matched message, of a communicator's index if it was one.
#[inline(always)]
fn finish_matched(outcome: Outcome, of: Option<u32>, name: &'static str) -> i32 {
    match outcome {
        Ok(()) => MPI_SUCCESS,
        Err(_) => failed::finish(
            outcome,
            of.map_or(failed::WORLD, failed::origin_matched),
            name,
        ),
    }
}
