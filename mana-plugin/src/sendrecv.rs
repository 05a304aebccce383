//! A receive and a send in one call: `MPI_Sendrecv` and its relatives.
//!
//! Lower half. Both parts are ordinary requests; a stop leaves the words of both in the thread's block.

use crate::errors::{check, finish};
use crate::p2p::{done, irecv, isend, pack, request, resumed, start_send, Envelope, STANDARD};
use crate::requests::{self, put_status, wait_index};
use crate::state::{core, Kept, Outcome, Phase, Work};
use crate::{entry, thread};
use mana_raw::layout::AGAIN;
use mpi_std::*;
use std::ffi::c_void;

/// Waits for a receive and a send that belong together.
unsafe fn finish_pair(receive: u32, send: u32, status: *mut Status) -> Outcome {
    for i in [receive, send] {
        if let Err(code) = wait_index(i) {
            if code == AGAIN {
                thread::set_cont(requests::word(receive), requests::word(send));
            }
            return Err(code);
        }
    }
    let c = core();
    let error = c.request(send)?.error;
    c.remove_request(send);
    let r = c.request(receive)?;
    let (s, e) = (Status::from(r.status), r.error);
    // SAFETY: the program's output argument.
    unsafe { put_status(status, &s) };
    c.remove_request(receive);
    check(if e != MPI_SUCCESS { e } else { error })
}

/// The envelopes of what is sent and of what is received.
macro_rules! envelopes {
    ($to:expr, $out:expr, $out_type:expr, $dest:expr, $out_tag:expr;
     $from:expr, $in:expr, $in_type:expr, $source:expr, $in_tag:expr; $comm:expr) => {
        (
            Envelope {
                buf: $to as u64,
                count: $out,
                datatype: $out_type,
                peer: $dest,
                tag: $out_tag,
                comm: $comm,
            },
            Envelope {
                buf: $from as u64,
                count: $in,
                datatype: $in_type,
                peer: $source,
                tag: $in_tag,
                comm: $comm,
            },
        )
    };
}

pub unsafe extern "C" fn MPI_Sendrecv(
    sendbuf: *const c_void,
    sendcount: i32,
    sendtype: u64,
    dest: i32,
    sendtag: i32,
    recvbuf: *mut c_void,
    recvcount: i32,
    recvtype: u64,
    source: i32,
    recvtag: i32,
    comm: u64,
    status: *mut Status,
) -> i32 {
    let _guard = entry::enter();
    let outcome = (|| {
        // SAFETY: the program's output argument.
        if let Some(outcome) = unsafe { resumed(status) } {
            return outcome;
        }
        let (to, from) = envelopes!(sendbuf, sendcount, sendtype, dest, sendtag;
            recvbuf, recvcount, recvtype, source, recvtag; comm);
        // SAFETY: the program's arguments.
        let (r, s) = unsafe { exchange(to, from) }?;
        // SAFETY: as above.
        unsafe { finish_pair(r, s, status) }
    })();
    finish(outcome, comm, "MPI_Sendrecv")
}

/// Starts a receive and a send: their requests.
///
/// # Safety
/// The envelopes are the program's.
unsafe fn exchange(send: Envelope, receive: Envelope) -> Outcome<(u32, u32)> {
    // SAFETY: passed on.
    let r = unsafe { irecv(receive) }?;
    // SAFETY: passed on.
    let s = unsafe { isend(STANDARD, send) }.inspect_err(|_| abandon(r))?;
    Ok((r, s))
}

/// Starts a receive into the buffer that is sent.
///
/// # Safety
/// The envelopes are the program's.
unsafe fn replace(send: Envelope, receive: Envelope) -> Outcome<(u32, u32)> {
    // Nothing is sent if nothing can be received.
    receive.check(true)?;
    let members = core().comm(receive.comm)?.1.members.len();
    let known = receive.peer == MPI_PROC_NULL || receive.peer == MPI_ANY_SOURCE;
    if !known && receive.peer as usize >= members {
        return Err(MPI_ERR_RANK);
    }
    let s = isend_packed(&send)?;
    // SAFETY: passed on; the data to send has been copied.
    let r = unsafe { irecv(receive) }?;
    Ok((r, s))
}

/// Gives up a receive whose partner could not start.
fn abandon(index: u32) {
    let c = core();
    if let Ok(r) = c.request(index) {
        if r.phase == Phase::Active {
            let mut real = r.real;
            let mut status = Status::EMPTY;
            let procs = c.procs();
            // SAFETY: an active receive of the library.
            unsafe { (procs.MPI_Cancel)(&mut real) };
            // A cancelled receive completes by itself, one that came too late with its message.
            // SAFETY: as above.
            let rc = entry::unlocked(|| unsafe { (procs.MPI_Wait)(&mut real, &mut status) });
            core().complete(index, &status, rc);
        }
    }
    core().remove_request(index);
}

/// A send of packed data in standard mode whose request is kept (not an orphan).
fn isend_packed(e: &Envelope) -> Outcome<u32> {
    let (comm, info) = core().comm(e.comm)?;
    let real_comm = info.real;
    e.check(false)?;
    if e.peer == MPI_PROC_NULL {
        return core().insert_request(done(
            Work::Send(STANDARD),
            comm,
            e,
            Status::EMPTY,
            MPI_SUCCESS,
        ));
    }
    if e.peer as usize >= info.members.len() {
        return Err(MPI_ERR_RANK);
    }
    let data = pack(e)?;
    let packed = Envelope {
        buf: data.as_ptr() as u64,
        count: data.len() as i32,
        datatype: MPI_PACKED,
        ..*e
    };
    // SAFETY: `data` is kept with the request.
    let real = unsafe { start_send(STANDARD, comm, real_comm, &packed) }?;
    let mut r = request(Work::Send(STANDARD), comm, &packed, real);
    r.kept = Some(Box::new(Kept {
        bytes: data,
        ..Kept::default()
    }));
    core().insert_request(r)
}

pub unsafe extern "C" fn MPI_Sendrecv_replace(
    buf: *mut c_void,
    count: i32,
    datatype: u64,
    dest: i32,
    sendtag: i32,
    source: i32,
    recvtag: i32,
    comm: u64,
    status: *mut Status,
) -> i32 {
    let _guard = entry::enter();
    let outcome = (|| {
        // SAFETY: the program's output argument.
        if let Some(outcome) = unsafe { resumed(status) } {
            return outcome;
        }
        let (to, from) = envelopes!(buf, count, datatype, dest, sendtag;
            buf, count, datatype, source, recvtag; comm);
        // SAFETY: the program's arguments.
        let (r, s) = unsafe { replace(to, from) }?;
        // SAFETY: as above.
        unsafe { finish_pair(r, s, status) }
    })();
    finish(outcome, comm, "MPI_Sendrecv_replace")
}

/// Makes one request of a receive and a send: the program holds the receive.
fn pair(receive: u32, send: u32) -> Outcome<u64> {
    let c = core();
    let send_done = c.request(send)?.phase == Phase::Done;
    let r = c.request(receive)?;
    if send_done {
        c.remove_request(send);
    } else if r.phase == Phase::Done {
        // The receive is over already: the send's end is what the program waits for.
        let received = (r.status, r.error);
        c.remove_request(receive);
        let s = c.request(send)?;
        s.kept.get_or_insert_default().received = Some(received);
        return Ok(requests::word(send));
    } else {
        r.kept.get_or_insert_with(Default::default).partner = Some(send);
    }
    Ok(requests::word(receive))
}

pub unsafe extern "C" fn MPI_Isendrecv(
    sendbuf: *const c_void,
    sendcount: i32,
    sendtype: u64,
    dest: i32,
    sendtag: i32,
    recvbuf: *mut c_void,
    recvcount: i32,
    recvtype: u64,
    source: i32,
    recvtag: i32,
    comm: u64,
    request: *mut u64,
) -> i32 {
    let _guard = entry::enter();
    let outcome = (|| {
        let (to, from) = envelopes!(sendbuf, sendcount, sendtype, dest, sendtag;
            recvbuf, recvcount, recvtype, source, recvtag; comm);
        // SAFETY: the program's arguments.
        let (r, s) = unsafe { exchange(to, from) }?;
        // SAFETY: an output argument.
        unsafe { *request = pair(r, s)? };
        Ok(())
    })();
    finish(outcome, comm, "MPI_Isendrecv")
}

pub unsafe extern "C" fn MPI_Isendrecv_replace(
    buf: *mut c_void,
    count: i32,
    datatype: u64,
    dest: i32,
    sendtag: i32,
    source: i32,
    recvtag: i32,
    comm: u64,
    request: *mut u64,
) -> i32 {
    let _guard = entry::enter();
    let outcome = (|| {
        let (to, from) = envelopes!(buf, count, datatype, dest, sendtag;
            buf, count, datatype, source, recvtag; comm);
        // SAFETY: the program's arguments.
        let (r, s) = unsafe { replace(to, from) }?;
        // SAFETY: an output argument.
        unsafe { *request = pair(r, s)? };
        Ok(())
    })();
    finish(outcome, comm, "MPI_Isendrecv_replace")
}
