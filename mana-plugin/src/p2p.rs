//! Point-to-point communication: sends of every mode, receives, send-receive, persistent requests.
//!
//! Lower half. A blocking call is a non-blocking one and a wait that watches the stop flag. At a stop
//! the operation stays, as a request of our own whose word is left in the thread's block; the stub
//! repeats the call after the checkpoint and it goes on waiting for that request.
//!
//! Counted: every send when it starts and every receive when it completes, per world rank, messages
//! to self included, `MPI_PROC_NULL` not. A receive looks at drained messages first.

use crate::buffers::Owner;
use crate::deliveries::deliver;
use crate::drained::Pattern;
use crate::errors::{check, finish};
use crate::requests::{self, put_status, wait_index, wait_on, wait_real};
use crate::state::{core, Core, Kept, Outcome, Phase, Request, SavedStatus, Work};
use crate::whereabouts::{send_name, Place};
use crate::{entry, synchronous, thread};
use mana_raw::layout::AGAIN;
use mpi_std::*;
use std::ffi::c_void;

/// A rank in the world.
pub type World = u32;

/// Modes of a send, as the adapter numbers them.
pub const STANDARD: u8 = Extras::SEND_STANDARD as u8;
/// See [`STANDARD`].
pub const SYNCHRONOUS: u8 = Extras::SEND_SYNCHRONOUS as u8;
/// See [`STANDARD`].
pub const READY: u8 = Extras::SEND_READY as u8;
/// See [`STANDARD`].
pub const BUFFERED: u8 = Extras::SEND_BUFFERED as u8;

/// The status of an operation with `MPI_PROC_NULL`.
pub const NOBODY: Status = Status {
    source: MPI_PROC_NULL,
    ..Status::EMPTY
};

/// One side of a communication.
#[derive(Clone, Copy)]
pub struct Envelope {
    /// Address of the buffer.
    pub buf: u64,
    /// Elements.
    pub count: i32,
    /// Datatype's word.
    pub datatype: u64,
    /// Rank of the other side.
    pub peer: i32,
    /// Tag.
    pub tag: i32,
    /// Communicator's word.
    pub comm: u64,
}

impl Envelope {
    /// What both libraries look at before anything else; where nothing is given to them it is done here.
    #[cold]
    pub fn check(&self, receive: bool) -> Outcome {
        if self.count < 0 {
            return Err(MPI_ERR_COUNT);
        }
        if self.datatype == MPI_DATATYPE_NULL {
            return Err(MPI_ERR_TYPE);
        }
        core().real_type(self.datatype)?;
        check_tag(self.tag, receive)
    }
}

/// Whether a message can have a tag, or a receive ask for it.
pub fn check_tag(tag: i32, receive: bool) -> Outcome {
    match tag >= 0 || receive && tag == MPI_ANY_TAG {
        true => Ok(()),
        false => Err(MPI_ERR_TAG),
    }
}

/// The pattern of a receive or probe.
#[inline]
pub fn pattern(source: i32, tag: i32) -> Pattern {
    Pattern {
        source: (source != MPI_ANY_SOURCE).then_some(source),
        tag: (tag != MPI_ANY_TAG).then_some(tag),
    }
}

impl Core {
    /// One more message sent to rank `dest` of communicator `comm`.
    #[inline(always)]
    fn count_sent(&mut self, comm: u32, dest: i32, tag: i32) {
        let Some(c) = self.state.comms.get_mut(comm) else {
            return;
        };
        if let Some(log) = &mut c.synchronous {
            log.count(dest, tag);
        }
        if let Some(world) = c.members.get(dest as usize).copied() {
            if let Some(n) = self.state.sent.get_mut(world as usize) {
                *n += 1;
            }
        }
    }
}

/// A request that does `work`, not stored yet.
#[inline(always)]
pub fn request(work: Work, comm: u32, e: &Envelope, real: u64) -> Request {
    Request {
        real,
        work,
        phase: Phase::Active,
        persistent: false,
        orphan: false,
        telling: e.peer < 0,
        comm,
        peer: e.peer,
        tag: e.tag,
        count: e.count,
        buf: e.buf,
        datatype: e.datatype,
        order: 0,
        status: SavedStatus(MPI_ANY_SOURCE, MPI_ANY_TAG, 0, false),
        error: MPI_SUCCESS,
        kept: None,
    }
}

/// Starts a send that is not buffered.
#[inline(always)]
pub unsafe fn start_send(mode: u8, comm: u32, real_comm: u64, e: &Envelope) -> Outcome<u64> {
    let c = core();
    let datatype = c.real_type(e.datatype)?;
    let mut real = MPI_REQUEST_NULL;
    let f = match mode {
        SYNCHRONOUS => c.procs().MPI_Issend,
        READY => c.procs().MPI_Irsend,
        _ => c.procs().MPI_Isend,
    };
    // SAFETY: the program's arguments, with real handles.
    check(unsafe {
        f(
            e.buf as *const c_void,
            e.count,
            datatype,
            e.peer,
            e.tag,
            real_comm,
            &mut real,
        )
    })?;
    c.count_sent(comm, e.peer, e.tag);
    Ok(real)
}

/// Starts a synchronous send.
#[cold]
unsafe fn start_synchronous(comm: u32, real_comm: u64, e: &Envelope) -> Outcome<u64> {
    synchronous::begin(comm);
    // SAFETY: the program's arguments.
    let outcome = unsafe { start_send(SYNCHRONOUS, comm, real_comm, e) };
    if outcome.is_err() {
        synchronous::end(comm);
    }
    outcome
}

/// Starts a receive in the library.
#[inline(always)]
pub unsafe fn start_recv(real_comm: u64, e: &Envelope) -> Outcome<u64> {
    let c = core();
    let datatype = c.real_type(e.datatype)?;
    let mut real = MPI_REQUEST_NULL;
    // SAFETY: the program's arguments, with real handles.
    check(unsafe {
        (c.procs().MPI_Irecv)(
            e.buf as *mut c_void,
            e.count,
            datatype,
            e.peer,
            e.tag,
            real_comm,
            &mut real,
        )
    })?;
    Ok(real)
}

/// Receives a drained message, if there is one that matches: its status, and the error class.
///
/// # Safety
/// The envelope is that of a receive of the program.
unsafe fn receive_drained(comm: u32, e: &Envelope) -> Option<(Status, i32)> {
    let queue = &mut core().state.comms.get_mut(comm)?.drained;
    let m = queue.take(pattern(e.peer, e.tag))?;
    // SAFETY: the program's buffer.
    let outcome = unsafe { deliver(&m, e.buf, e.count, e.datatype) };
    synchronous::acknowledge(m.sender);
    Some(outcome)
}

/// Goes on with the operation that a stop interrupted, if there is one: `None` if there is none.
#[inline(always)]
pub unsafe fn resumed(status: *mut Status) -> Option<Outcome> {
    let cont = thread::cont();
    if cont == 0 {
        return None;
    }
    // SAFETY: passed on.
    Some(unsafe { resumed_slow(cont, status) })
}

#[cold]
unsafe fn resumed_slow(cont: u64, status: *mut Status) -> Outcome {
    let i = index_of(cont);
    wait_index(i)?;
    if let r @ 1.. = thread::cont_arg() {
        wait_index(index_of(r))?;
        core().remove_request(index_of(r));
    }
    thread::set_cont(0, 0);
    let r = core().request(i)?;
    let (s, error) = (Status::from(r.status), r.error);
    // SAFETY: the program's output argument.
    unsafe { put_status(status, &s) };
    core().remove_request(i);
    check(error)
}

/// The communicator's index of the operation that a stop interrupted, if there is one.
#[inline(always)]
pub fn interrupted() -> Option<u32> {
    match thread::cont() {
        0 => None,
        cont => core().request(index_of(cont)).ok().map(|r| r.comm),
    }
}

/// Leaves a pending operation for the repeated call.
#[cold]
fn leave_for_later(request: Request) -> i32 {
    match core().insert_request(request) {
        Ok(i) => {
            thread::set_cont(requests::word(i), 0);
            AGAIN
        }
        Err(code) => code,
    }
}

#[inline(always)]
unsafe fn send(mode: u8, e: Envelope) -> Outcome {
    // SAFETY: no status.
    if let Some(outcome) = unsafe { resumed(std::ptr::null_mut()) } {
        return outcome;
    }
    let c = core();
    let (comm, info) = c.comm(e.comm)?;
    let real_comm = info.real;
    if e.peer == MPI_PROC_NULL {
        return e.check(false);
    }
    if e.peer as usize >= info.members.len() {
        return Err(MPI_ERR_RANK);
    }
    let datatype = c.real_type(e.datatype)?;
    let mut progress = None;
    if mode == SYNCHRONOUS {
        synchronous::begin(comm);
        core().count_sent(comm, e.peer, e.tag);
        progress = Some(synchronous::number(comm, e.peer, e.tag));
    } else {
        c.count_sent(comm, e.peer, e.tag);
    }
    let mut real = MPI_REQUEST_NULL;
    let watch = core().adapter.extras.send_watch;
    // SAFETY: the program's arguments, with real handles.
    let go = || unsafe {
        watch(
            mode as i32,
            e.buf as *const c_void,
            e.count,
            datatype,
            e.peer,
            e.tag,
            real_comm,
            &mut real,
            &entry::STOP,
        )
    };
    let mut rc = entry::unlocked(go);
    if rc == AGAIN {
        let place = || Place::with(send_name(mode), comm, e.peer, e.tag, true);
        let mut told = Status::EMPTY;
        // SAFETY: the send that was started.
        rc = unsafe { wait_on(&mut real, &mut told, place) };
    }
    match rc {
        MPI_SUCCESS => {
            if mode == SYNCHRONOUS {
                synchronous::end(comm);
            }
            Ok(())
        }
        AGAIN => {
            let mut r = request(Work::Send(mode), comm, &e, real);
            if mode == SYNCHRONOUS {
                r.kept = Some(kept_for(progress));
            }
            Err(leave_for_later(r))
        }
        rc => {
            if mode == SYNCHRONOUS {
                synchronous::end(comm);
            }
            uncount_sent(comm, e.peer);
            Err(rc)
        }
    }
}

#[cold]
fn kept_for(synchronous: Option<synchronous::Progress>) -> Box<Kept> {
    Box::new(Kept {
        synchronous,
        ..Kept::default()
    })
}

#[cold]
fn uncount_sent(comm: u32, dest: i32) {
    let c = core();
    if let Some(world) = requests::world_of(comm, dest) {
        if let Some(n) = c.state.sent.get_mut(world as usize) {
            *n -= 1;
        }
    }
}

#[inline(always)]
unsafe fn recv(e: Envelope, status: *mut Status) -> Outcome {
    // SAFETY: the program's output argument.
    if let Some(outcome) = unsafe { resumed(status) } {
        return outcome;
    }
    let c = core();
    let (comm, info) = c.comm(e.comm)?;
    let real_comm = info.real;
    if e.peer == MPI_PROC_NULL {
        e.check(true)?;
        // SAFETY: as above.
        unsafe { put_status(status, &NOBODY) };
        return Ok(());
    }
    if !info.drained.is_empty() {
        // SAFETY: the program's receive.
        if let Some((s, rc)) = unsafe { receive_drained(comm, &e) } {
            // SAFETY: as above.
            unsafe { put_status(status, &s) };
            return check(rc);
        }
    }
    let datatype = c.real_type(e.datatype)?;
    let mut real = MPI_REQUEST_NULL;
    let mut s = Status::EMPTY;
    let watch = c.adapter.extras.recv_watch;
    // SAFETY: the program's arguments, with real handles.
    let go = || unsafe {
        watch(
            e.buf as *mut c_void,
            e.count,
            datatype,
            e.peer,
            e.tag,
            real_comm,
            &mut real,
            &mut s,
            &entry::STOP,
        )
    };
    let mut rc = entry::unlocked(go);
    if rc == AGAIN {
        let place = || Place::with("MPI_Recv", comm, e.peer, e.tag, false);
        // SAFETY: the receive that was started.
        rc = unsafe { wait_on(&mut real, &mut s, place) };
    }
    if rc == AGAIN {
        let mut r = request(Work::Recv, comm, &e, real);
        r.order = core().next_serial();
        return Err(leave_for_later(r));
    }
    if rc == MPI_SUCCESS || rc == MPI_ERR_TRUNCATE {
        core().count_received(comm, if e.peer >= 0 { e.peer } else { s.source });
        // SAFETY: as above.
        unsafe { put_status(status, &s) };
    }
    check(rc)
}

/// A request that is done from the start.
pub fn done(work: Work, comm: u32, e: &Envelope, status: Status, error: i32) -> Request {
    let mut r = request(work, comm, e, MPI_REQUEST_NULL);
    r.phase = Phase::Done;
    r.status = SavedStatus::from(status);
    r.error = error;
    r
}

/// Starts a non-blocking send.
#[inline(always)]
pub unsafe fn isend(mode: u8, e: Envelope) -> Outcome<u32> {
    let c = core();
    let (comm, info) = c.comm(e.comm)?;
    let real_comm = info.real;
    if e.peer == MPI_PROC_NULL {
        e.check(false)?;
        return core().insert_request(done(Work::Send(mode), comm, &e, Status::EMPTY, MPI_SUCCESS));
    }
    if e.peer as usize >= info.members.len() {
        return Err(MPI_ERR_RANK);
    }
    if mode == BUFFERED {
        crate::buffers::send(comm, &e)?;
        return c.insert_request(done(Work::Send(mode), comm, &e, Status::EMPTY, MPI_SUCCESS));
    }
    if mode == SYNCHRONOUS {
        // SAFETY: the program's arguments.
        let real = unsafe { start_synchronous(comm, real_comm, &e) }?;
        let mut r = request(Work::Send(mode), comm, &e, real);
        r.kept = Some(kept_for(Some(synchronous::number(comm, e.peer, e.tag))));
        return core().insert_request(r);
    }
    // SAFETY: the program's arguments.
    let real = unsafe { start_send(mode, comm, real_comm, &e) }?;
    core().active_request(Work::Send(mode), comm, &e, real, 0)
}

/// Sends `data` (packed) from our own memory; the request is an orphan that keeps it.
pub fn send_bytes(
    comm: u32,
    peer: i32,
    tag: i32,
    data: Vec<u8>,
    charged: Option<(Owner, u64)>,
) -> Outcome {
    let c = core();
    let real_comm = c.state.comms.get(comm).ok_or(MPI_ERR_COMM)?.real;
    let word = c.comm_word(comm);
    let count = i32::try_from(data.len()).map_err(|_| MPI_ERR_COUNT)?;
    let e = Envelope {
        buf: data.as_ptr() as u64,
        count,
        datatype: MPI_PACKED,
        peer,
        tag,
        comm: word,
    };
    // SAFETY: `data` is kept with the request below.
    let real = unsafe { start_send(STANDARD, comm, real_comm, &e) }?;
    let mut r = request(Work::Send(BUFFERED), comm, &e, real);
    r.orphan = true;
    r.kept = Some(Box::new(Kept {
        bytes: data,
        charged,
        ..Kept::default()
    }));
    let i = core().insert_request(r)?;
    core().orphans.push(i);
    Ok(())
}

/// Starts a non-blocking receive.
#[inline(always)]
pub unsafe fn irecv(e: Envelope) -> Outcome<u32> {
    let c = core();
    let (comm, info) = c.comm(e.comm)?;
    let real_comm = info.real;
    if e.peer == MPI_PROC_NULL {
        e.check(true)?;
        return core().insert_request(done(Work::Recv, comm, &e, NOBODY, MPI_SUCCESS));
    }
    if !info.drained.is_empty() {
        // SAFETY: the program's receive.
        if let Some((s, rc)) = unsafe { receive_drained(comm, &e) } {
            return core().insert_request(done(Work::Recv, comm, &e, s, rc));
        }
    }
    // SAFETY: the program's arguments.
    let real = unsafe { start_recv(real_comm, &e) }?;
    let c = core();
    let order = c.next_serial();
    c.active_request(Work::Recv, comm, &e, real, order)
}

/// Starts persistent request `index` (inactive).
pub fn start(index: u32) -> Outcome {
    let c = core();
    let r = c.request(index)?;
    let (work, comm) = (r.work, r.comm);
    let e = Envelope {
        buf: r.buf,
        count: r.count,
        datatype: r.datatype,
        peer: r.peer,
        tag: r.tag,
        comm: c.comm_word(comm),
    };
    let real_comm = c.state.comms.get(comm).ok_or(MPI_ERR_COMM)?.real;
    let (mut phase, mut status, mut error, mut real, mut order) =
        (Phase::Done, Status::EMPTY, MPI_SUCCESS, MPI_REQUEST_NULL, 0);
    match work {
        _ if e.peer == MPI_PROC_NULL => {
            if work == Work::Recv {
                status = NOBODY;
            }
        }
        Work::Send(BUFFERED) => crate::buffers::send(comm, &e)?,
        Work::Send(SYNCHRONOUS) => {
            // SAFETY: the program's arguments.
            real = unsafe { start_synchronous(comm, real_comm, &e) }?;
            phase = Phase::Active;
            let kept = core().request(index)?.kept.get_or_insert_default();
            kept.synchronous = Some(synchronous::number(comm, e.peer, e.tag));
        }
        Work::Send(mode) => {
            // SAFETY: the program's arguments.
            real = unsafe { start_send(mode, comm, real_comm, &e) }?;
            phase = Phase::Active;
        }
        // SAFETY: the program's receive.
        _ => match unsafe { receive_drained(comm, &e) } {
            Some(outcome) => (status, error) = outcome,
            None => {
                // SAFETY: the program's arguments.
                real = unsafe { start_recv(real_comm, &e) }?;
                phase = Phase::Active;
                order = core().next_serial();
            }
        },
    }
    let r = core().request(index)?;
    r.phase = phase;
    r.status = SavedStatus::from(status);
    r.error = error;
    r.real = real;
    r.order = order;
    Ok(())
}

unsafe fn persistent(work: Work, e: Envelope, out: *mut u64, name: &'static str) -> i32 {
    let _guard = entry::enter();
    let outcome = (|| {
        let c = core();
        let (comm, info) = c.comm(e.comm)?;
        let valid = e.peer == MPI_PROC_NULL || (e.peer == MPI_ANY_SOURCE && work == Work::Recv);
        if !valid && e.peer as usize >= info.members.len() {
            return Err(MPI_ERR_RANK);
        }
        e.check(work == Work::Recv)?;
        let mut r = request(work, comm, &e, MPI_REQUEST_NULL);
        r.phase = Phase::Inactive;
        r.persistent = true;
        let i = core().insert_request(r)?;
        // SAFETY: an output argument.
        unsafe { *out = requests::word(i) };
        Ok(())
    })();
    finish(outcome, e.comm, name)
}

macro_rules! sends {
    ($($blocking:ident $nonblocking:ident $init:ident $mode:expr;)*) => {$(
        pub unsafe extern "C" fn $nonblocking(buf: *const c_void, count: i32, datatype: u64, dest: i32, tag: i32, comm: u64, request: *mut u64) -> i32 {
            let _guard = entry::enter();
            let e = Envelope { buf: buf as u64, count, datatype, peer: dest, tag, comm };
            // SAFETY: the program's arguments.
            let outcome = unsafe { isend($mode, e) }.map(|i| {
                // SAFETY: an output argument.
                unsafe { *request = requests::word(i) };
            });
            finish(outcome, comm, stringify!($nonblocking))
        }

        pub unsafe extern "C" fn $init(buf: *const c_void, count: i32, datatype: u64, dest: i32, tag: i32, comm: u64, request: *mut u64) -> i32 {
            let e = Envelope { buf: buf as u64, count, datatype, peer: dest, tag, comm };
            // SAFETY: the program's arguments.
            unsafe { persistent(Work::Send($mode), e, request, stringify!($init)) }
        }
    )*};
}

macro_rules! blocking_sends {
    ($($blocking:ident $mode:expr;)*) => {$(
        pub unsafe extern "C" fn $blocking(buf: *const c_void, count: i32, datatype: u64, dest: i32, tag: i32, comm: u64) -> i32 {
            let _guard = entry::enter();
            let e = Envelope { buf: buf as u64, count, datatype, peer: dest, tag, comm };
            // SAFETY: the program's arguments.
            finish(unsafe { send($mode, e) }, comm, stringify!($blocking))
        }
    )*};
}

sends! {
    MPI_Send MPI_Isend MPI_Send_init STANDARD;
    MPI_Ssend MPI_Issend MPI_Ssend_init SYNCHRONOUS;
    MPI_Rsend MPI_Irsend MPI_Rsend_init READY;
    MPI_Bsend MPI_Ibsend MPI_Bsend_init BUFFERED;
}

blocking_sends! {
    MPI_Send STANDARD;
    MPI_Ssend SYNCHRONOUS;
    MPI_Rsend READY;
}

pub unsafe extern "C" fn MPI_Bsend(
    buf: *const c_void,
    count: i32,
    datatype: u64,
    dest: i32,
    tag: i32,
    comm: u64,
) -> i32 {
    let _guard = entry::enter();
    let e = Envelope {
        buf: buf as u64,
        count,
        datatype,
        peer: dest,
        tag,
        comm,
    };
    let outcome = (|| {
        let (index, info) = core().comm(comm)?;
        if dest == MPI_PROC_NULL {
            return Ok(());
        }
        if dest as usize >= info.members.len() {
            return Err(MPI_ERR_RANK);
        }
        crate::buffers::send(index, &e)
    })();
    finish(outcome, comm, "MPI_Bsend")
}

pub unsafe extern "C" fn MPI_Recv(
    buf: *mut c_void,
    count: i32,
    datatype: u64,
    source: i32,
    tag: i32,
    comm: u64,
    status: *mut Status,
) -> i32 {
    let _guard = entry::enter();
    let e = Envelope {
        buf: buf as u64,
        count,
        datatype,
        peer: source,
        tag,
        comm,
    };
    // SAFETY: the program's arguments.
    finish(unsafe { recv(e, status) }, comm, "MPI_Recv")
}

pub unsafe extern "C" fn MPI_Irecv(
    buf: *mut c_void,
    count: i32,
    datatype: u64,
    source: i32,
    tag: i32,
    comm: u64,
    request: *mut u64,
) -> i32 {
    let _guard = entry::enter();
    let e = Envelope {
        buf: buf as u64,
        count,
        datatype,
        peer: source,
        tag,
        comm,
    };
    // SAFETY: the program's arguments.
    let outcome = unsafe { irecv(e) }.map(|i| {
        // SAFETY: an output argument.
        unsafe { *request = requests::word(i) };
    });
    finish(outcome, comm, "MPI_Irecv")
}

pub unsafe extern "C" fn MPI_Recv_init(
    buf: *mut c_void,
    count: i32,
    datatype: u64,
    source: i32,
    tag: i32,
    comm: u64,
    request: *mut u64,
) -> i32 {
    let e = Envelope {
        buf: buf as u64,
        count,
        datatype,
        peer: source,
        tag,
        comm,
    };
    // SAFETY: the program's arguments.
    unsafe { persistent(Work::Recv, e, request, "MPI_Recv_init") }
}

/// Packs a message of the program into memory of ours.
pub fn pack(e: &Envelope) -> Outcome<Vec<u8>> {
    let c = core();
    let datatype = c.real_type(e.datatype)?;
    let mut size = 0;
    let procs = c.procs();
    // SAFETY: output argument of ours.
    check(unsafe { (procs.MPI_Pack_size)(e.count, datatype, c.private_self, &mut size) })?;
    let mut out = vec![0u8; size.max(1) as usize];
    let mut position = 0;
    // SAFETY: the buffer has the size the library asked for.
    check(unsafe {
        (procs.MPI_Pack)(
            e.buf as *const c_void,
            e.count,
            datatype,
            out.as_mut_ptr().cast(),
            size,
            &mut position,
            c.private_self,
        )
    })?;
    out.truncate(position.max(0) as usize);
    Ok(out)
}

/// Completes a blocking receive of a matched message in the library.
pub unsafe fn wait_matched(comm: u32, real: u64, e: &Envelope, status: *mut Status) -> Outcome {
    let mut real = real;
    let mut s = Status::EMPTY;
    let place = || Place::with("MPI_Mrecv", comm, e.peer, e.tag, false);
    // SAFETY: an active request of the library.
    let rc = unsafe { wait_real(&mut real, &mut s, place) };
    if rc == AGAIN {
        return Err(leave_for_later(request(Work::MatchedRecv, comm, e, real)));
    }
    core().count_received(comm, if e.peer >= 0 { e.peer } else { s.source });
    // SAFETY: the program's output argument.
    unsafe { put_status(status, &s) };
    check(rc)
}

/// Goes on with an interrupted matched receive.
///
/// # Safety
/// `status` is null or writable.
pub unsafe fn resumed_matched(status: *mut Status) -> Option<Outcome> {
    // SAFETY: passed on.
    unsafe { resumed(status) }
}
