//! Requests: completion of one, persistent starts, cancel, free.
//!
//! Lower half. A request of the program is an index here with the real request beside it while it is
//! active. Persistent requests exist only here: each start posts an ordinary operation, so that a
//! receive looks at drained messages first and a restart has nothing to rebuild.

use crate::errors::{check, finish, NO_OBJECT};
use crate::p2p::{self, World};
use crate::state::{core, Core, Outcome, Phase, Request, SavedStatus, Work};
use crate::whereabouts::{Asked, Place};
use crate::{entry, failed, grequest, partitioned, thread, upcall};
use mana_raw::layout::AGAIN;
use mpi_std::*;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The word of a request's index.
#[inline(always)]
pub fn word(index: u32) -> u64 {
    handle(kind::REQUEST, index)
}

/// The index of a request's word; `None` for the null request.
#[inline(always)]
pub fn index(request: u64) -> Outcome<Option<u32>> {
    if request == MPI_REQUEST_NULL {
        return Ok(None);
    }
    if kind_of(request) != kind::REQUEST {
        return Err(MPI_ERR_REQUEST);
    }
    Ok(Some(index_of(request)))
}

impl Core {
    /// A request that exists.
    #[inline(always)]
    pub fn request(&mut self, index: u32) -> Outcome<&mut Request> {
        self.state.requests.get_mut(index).ok_or(MPI_ERR_REQUEST)
    }

    /// Stores a request; it counts as pending on its communicator and keeps its datatype.
    #[inline(always)]
    pub fn insert_request(&mut self, request: Request) -> Outcome<u32> {
        if let Some(c) = self.state.comms.get_mut(request.comm) {
            c.pending += 1;
        }
        self.use_type(request.datatype);
        self.state.requests.insert(request).ok_or(MPI_ERR_OTHER)
    }

    /// Stores an active request that does `work`; [`Core::insert_request`] without moving it.
    #[inline(always)]
    pub fn active_request(
        &mut self,
        work: Work,
        comm: u32,
        e: &p2p::Envelope,
        real: u64,
        order: u64,
    ) -> Outcome<u32> {
        if let Some(c) = self.state.comms.get_mut(comm) {
            c.pending += 1;
        }
        self.use_type(e.datatype);
        // A vacant request keeps nothing; its status and error are written when it completes.
        let (index, r) = self.state.requests.claim().ok_or(MPI_ERR_OTHER)?;
        r.real = real;
        r.work = work;
        r.phase = Phase::Active;
        r.persistent = false;
        r.orphan = false;
        r.telling = e.peer < 0;
        r.comm = comm;
        r.peer = e.peer;
        r.tag = e.tag;
        r.count = e.count;
        r.buf = e.buf;
        r.datatype = e.datatype;
        r.order = order;
        Ok(index)
    }

    /// Forgets a request.
    #[inline(always)]
    pub fn remove_request(&mut self, index: u32) {
        if self
            .state
            .requests
            .get(index)
            .is_some_and(|r| r.kept.is_some())
        {
            self.release_kept(index);
        }
        let Some((comm, datatype)) = self.state.requests.remove(index) else {
            return;
        };
        if datatype >= PREDEFINED_END {
            crate::datatypes::unuse(datatype);
        }
        if let Some(c) = self.state.comms.get_mut(comm) {
            c.pending -= 1;
            if c.freed && c.pending == 0 {
                crate::comms::bury(comm);
            }
        }
    }

    #[cold]
    fn release_kept(&mut self, index: u32) {
        let kept = self
            .state
            .requests
            .get_mut(index)
            .and_then(|r| r.kept.take());
        if let Some(kept) = kept {
            release(&kept.uses);
        }
    }

    /// Books the completion of an active request: counts, status, what it kept.
    #[inline(always)]
    pub fn complete(&mut self, index: u32, status: &Status, error: i32) {
        let Some(r) = self.state.requests.get_mut(index) else {
            return;
        };
        r.phase = Phase::Done;
        r.real = MPI_REQUEST_NULL;
        r.error = error;
        match r.work {
            Work::Recv | Work::MatchedRecv => {
                r.status = SavedStatus::from(*status);
                let (comm, peer) = (r.comm, r.peer);
                if !status.cancelled() && (error == MPI_SUCCESS || error == MPI_ERR_TRUNCATE) {
                    let from = if peer >= 0 { peer } else { status.source };
                    self.count_received(comm, from);
                }
            }
            Work::File => r.status = SavedStatus::from(*status),
            _ => r.status = SavedStatus::from(Status::EMPTY),
        }
        self.complete_kept(index);
    }

    #[inline(always)]
    fn complete_kept(&mut self, index: u32) {
        if self
            .state
            .requests
            .get(index)
            .is_some_and(|r| r.kept.is_some())
        {
            self.complete_kept_slow(index);
        }
    }

    #[cold]
    fn complete_kept_slow(&mut self, index: u32) {
        let Some(r) = self.state.requests.get_mut(index) else {
            return;
        };
        let comm = r.comm;
        let Some(kept) = r.kept.as_mut() else { return };
        let synchronous = kept.synchronous.take();
        if let Some((status, error)) = kept.received.take() {
            r.status = status;
            if r.error == MPI_SUCCESS {
                r.error = error;
            }
        }
        kept.bytes = Vec::new();
        kept.words = Vec::new();
        if let Some(p) = &kept.partitions {
            p.tell(&mut r.status);
        }
        let charged = kept.charged.take();
        if let Some((made, place)) = kept.duplicate.take() {
            let real = place.load(Ordering::Acquire);
            if let Some(c) = self.state.comms.get_mut(made).filter(|_| real != 0) {
                c.real = real;
            }
        }
        if let Some(progress) = synchronous {
            self.complete_synchronous(comm, progress);
        }
        if let Some((owner, need)) = charged {
            crate::buffers::discharge(owner, need);
        }
    }

    /// One more message received from rank `source` of communicator `comm`.
    #[inline(always)]
    pub fn count_received(&mut self, comm: u32, source: i32) {
        if let Some(world) = self
            .state
            .comms
            .get(comm)
            .and_then(|c| c.members.get(source as usize).copied())
        {
            if let Some(n) = self.state.received.get_mut(world as usize) {
                *n += 1;
            }
        }
    }
}

/// Lets go of what a request needed.
fn release(uses: &[u64]) {
    for &word in uses {
        match kind_of(word) {
            kind::DATATYPE => crate::datatypes::unuse(word),
            _ => crate::ops::release(word),
        }
    }
}

/// Books a request that has just completed in the library and hands it over in one step.
///
/// # Safety
/// `request` is the program's word of it.
#[inline(always)]
pub unsafe fn settle(index: u32, request: *mut u64, status: &Status, error: i32) {
    let c = core();
    let Some(r) = c.state.requests.get_mut(index) else {
        return;
    };
    if r.kept.is_some() {
        c.complete(index, status, error);
        // SAFETY: the caller's promise; the status has been written.
        unsafe { hand_over(index, request, std::ptr::null_mut()) };
        return;
    }
    let receive = matches!(r.work, Work::Recv | Work::MatchedRecv);
    let from = if r.peer >= 0 { r.peer } else { status.source };
    let (comm, persistent, datatype) = (r.comm, r.persistent, r.datatype);
    if persistent {
        r.phase = Phase::Inactive;
        r.real = MPI_REQUEST_NULL;
    } else {
        c.state.requests.remove(index);
        // SAFETY: the caller's promise.
        unsafe { *request = MPI_REQUEST_NULL };
    }
    let Some(info) = c.state.comms.get_mut(comm) else {
        return;
    };
    if receive && !status.cancelled() && (error == MPI_SUCCESS || error == MPI_ERR_TRUNCATE) {
        if let Some(&world) = info.members.get(from as usize) {
            if let Some(n) = c.state.received.get_mut(world as usize) {
                *n += 1;
            }
        }
    }
    if persistent {
        return;
    }
    info.pending -= 1;
    if info.freed && info.pending == 0 {
        crate::comms::bury(comm);
    }
    if datatype >= PREDEFINED_END {
        crate::datatypes::unuse(datatype);
    }
}

/// Writes the status of a call that completes one request: `MPI_ERROR` stays as it is.
///
/// # Safety
/// `out` is null or writable.
#[inline(always)]
pub unsafe fn put_status(out: *mut Status, status: &Status) {
    // SAFETY: the caller's promise.
    if let Some(out) = unsafe { out.as_mut() } {
        out.source = status.source;
        out.tag = status.tag;
        out.internal = status.internal;
    }
}

/// Tells the program about a completed request: its status and error; the request goes unless it is
/// persistent.
#[inline(always)]
pub unsafe fn hand_over(index: u32, request: *mut u64, status: *mut Status) -> i32 {
    let c = core();
    let Some(r) = c.state.requests.get_mut(index) else {
        return MPI_ERR_REQUEST;
    };
    let mut s = Status::from(r.status);
    let mut error = r.error;
    if r.work == Work::Generalised {
        error = generalised_end(index, &mut s);
    }
    // SAFETY: the caller passes the program's output argument.
    unsafe { put_status(status, &s) };
    let c = core();
    if let Some(r) = c.state.requests.get_mut(index) {
        if r.persistent {
            r.phase = Phase::Inactive;
            return error;
        }
    }
    c.remove_request(index);
    // SAFETY: as above.
    unsafe { *request = MPI_REQUEST_NULL };
    error
}

#[cold]
fn generalised_end(index: u32, status: &mut Status) -> i32 {
    let functions = core()
        .state
        .requests
        .get(index)
        .and_then(|r| r.kept.as_ref())
        .and_then(|k| k.generalised);
    // A flushed buffer has none.
    let Some(f) = functions else {
        return MPI_SUCCESS;
    };
    let error = upcall::grequest_query(f.query, f.extra, status);
    let freed = upcall::grequest_free(f.free, f.extra);
    if error != MPI_SUCCESS {
        error
    } else {
        freed
    }
}

/// Waits for a real request without holding the layer; `place` says what is waited for.
///
/// # Safety
/// As of the adapter's `wait_watch`.
#[inline(always)]
pub unsafe fn wait_real(real: &mut u64, status: &mut Status, place: impl Fn() -> Place) -> i32 {
    // SAFETY: passed on.
    let rc = unsafe { wait_once(real, status) };
    if rc == AGAIN {
        // SAFETY: as above.
        return unsafe { wait_on(real, status, place) };
    }
    rc
}

/// A wait for a real request has come back before its end: goes on with it if it was only asked where
/// it is.
///
/// # Safety
/// As of [`wait_real`].
#[cold]
pub unsafe fn wait_on(real: &mut u64, status: &mut Status, place: impl Fn() -> Place) -> i32 {
    let mut asked = Asked::default();
    let mut rc = AGAIN;
    while rc == AGAIN && asked.tell(&place) {
        // SAFETY: passed on.
        rc = unsafe { wait_once(real, status) };
    }
    rc
}

#[inline(always)]
unsafe fn wait_once(real: &mut u64, status: &mut Status) -> i32 {
    let c = core();
    if !c.multiple {
        // SAFETY: `real` is an active request of the library.
        return unsafe { (c.adapter.extras.wait_watch)(real, status, &entry::STOP) };
    }
    let wait = c.adapter.extras.wait_watch;
    // SAFETY: as above.
    entry::unlocked(|| unsafe { wait(real, status, &entry::STOP) })
}

/// Waits until request `index` of a blocking call is done. `Err(AGAIN)` at a stop.
#[inline(always)]
pub fn wait_index(index: u32) -> Outcome {
    wait_index_in(index, "")
}

/// The same in procedure `call`.
#[inline(always)]
pub fn wait_index_in(index: u32, call: &str) -> Outcome {
    let place = || Place::request(call, index);
    let c = core();
    let r = c.request(index)?;
    if r.phase != Phase::Active {
        return Ok(());
    }
    if r.apart() {
        return entry::poll(place, || test_index(index).then_some(()));
    }
    let mut real = r.real;
    let mut status = Status::EMPTY;
    if r.work == Work::File && c.multiple && c.adapter.family == Family::OpenMpi {
        // Open MPI 4.1.4 frees such a request while another thread may look at it: in a test almost always, in a wait
        // almost never. What is waited for comes by itself, stop or not.
        let wait = c.procs().MPI_Wait;
        // SAFETY: as below.
        let rc = entry::unlocked(|| unsafe { wait(&mut real, &mut status) });
        core().complete(index, &status, rc);
        return Ok(());
    }
    // SAFETY: the request is active, so `real` is one of the library's.
    let rc = unsafe { wait_real(&mut real, &mut status, place) };
    if rc == AGAIN {
        return Err(AGAIN);
    }
    core().complete(index, &status, rc);
    Ok(())
}

/// Tests request `index`; whether it is done (or inactive).
#[inline(always)]
pub fn test_index(index: u32) -> bool {
    let c = core();
    let Ok(r) = c.request(index) else { return true };
    if r.phase != Phase::Active {
        return true;
    }
    if let Some(partner) = r.kept.as_ref().and_then(|k| k.partner) {
        if !test_index(partner) {
            return false;
        }
    }
    let c = core();
    let Ok(r) = c.request(index) else { return true };
    if r.unposted() {
        return test_unposted(index, r.work);
    }
    let mut real = r.real;
    let mut status = Status::EMPTY;
    let mut flag = 0;
    // SAFETY: the request is active, so `real` is one of the library's.
    let rc = unsafe { (c.procs().MPI_Test)(&mut real, &mut flag, &mut status) };
    if flag == 0 && rc == MPI_SUCCESS {
        return false;
    }
    c.complete(index, &status, rc);
    finish_partner(index);
    true
}

/// [`test_index`] of what is not with the library.
#[cold]
fn test_unposted(index: u32, work: Work) -> bool {
    if work == Work::Generalised {
        return grequest::poll(index);
    }
    match partitioned::post(index) {
        Ok(posted) => posted && test_index(index),
        Err(code) => {
            core().complete(index, &Status::EMPTY, code);
            true
        }
    }
}

fn finish_partner(index: u32) {
    let c = core();
    let partner = c
        .state
        .requests
        .get_mut(index)
        .and_then(|r| r.kept.as_mut())
        .and_then(|k| k.partner.take());
    if let Some(p) = partner {
        c.remove_request(p);
    }
}

fn error_comm(request: u64) -> u64 {
    let c = core();
    match index(request) {
        Ok(Some(i)) => c
            .state
            .requests
            .get(i)
            .map_or(NO_OBJECT, |r| c.comm_word(r.comm)),
        _ => NO_OBJECT,
    }
}

pub unsafe extern "C" fn MPI_Wait(request: *mut u64, status: *mut Status) -> i32 {
    let _guard = entry::enter();
    // SAFETY: an argument both in and out.
    let word = unsafe { *request };
    let mut origin = failed::WORLD;
    let outcome = (|| {
        let Some(i) = index(word)? else {
            // SAFETY: an output argument.
            unsafe { put_status(status, &Status::EMPTY) };
            return Ok(());
        };
        let r = core().request(i)?;
        if r.phase == Phase::Active && r.kept.is_none() {
            let receive = matches!(r.work, Work::Recv | Work::MatchedRecv);
            let mut real = r.real;
            let mut s = Status::EMPTY;
            // SAFETY: the request is active, so `real` is one of the library's.
            let rc = unsafe { wait_real(&mut real, &mut s, || Place::request("MPI_Wait", i)) };
            if rc == AGAIN {
                return Err(AGAIN);
            }
            if rc != MPI_SUCCESS {
                origin = failed::origin_alone(i);
            }
            // SAFETY: the program's word.
            unsafe { settle(i, request, &s, rc) };
            // SAFETY: as above.
            unsafe { put_status(status, if receive { &s } else { &Status::EMPTY }) };
            return check(rc);
        }
        wait_index_in(i, "MPI_Wait")?;
        if core().request(i)?.phase == Phase::Inactive {
            // SAFETY: as above.
            unsafe { put_status(status, &Status::EMPTY) };
            return Ok(());
        }
        origin = failed::before_alone(i);
        // SAFETY: as above.
        check(unsafe { hand_over(i, request, status) })
    })();
    failed::finish(outcome, origin, "MPI_Wait")
}

pub unsafe extern "C" fn MPI_Test(request: *mut u64, flag: *mut i32, status: *mut Status) -> i32 {
    let _guard = entry::enter();
    // SAFETY: an argument both in and out.
    let word = unsafe { *request };
    let mut origin = failed::WORLD;
    let outcome = (|| {
        let Some(i) = index(word)? else {
            // SAFETY: output arguments.
            unsafe { put_status(status, &Status::EMPTY) };
            // SAFETY: as above.
            unsafe { *flag = 1 };
            return Ok(());
        };
        core().request(i)?;
        let done = test_index(i);
        // SAFETY: as above.
        unsafe { *flag = done as i32 };
        if !done {
            return Ok(());
        }
        if core().request(i)?.phase == Phase::Inactive {
            // SAFETY: as above.
            unsafe { put_status(status, &Status::EMPTY) };
            return Ok(());
        }
        origin = failed::before_alone(i);
        // SAFETY: as above.
        check(unsafe { hand_over(i, request, status) })
    })();
    failed::finish(outcome, origin, "MPI_Test")
}

pub unsafe extern "C" fn MPI_Request_get_status(
    request: u64,
    flag: *mut i32,
    status: *mut Status,
) -> i32 {
    let _guard = entry::enter();
    let outcome = (|| {
        let mut s = Status::EMPTY;
        let mut done = true;
        let mut error = MPI_SUCCESS;
        if let Some(i) = index(request)? {
            // A generalised one is not polled here, as in MPICH.
            let r = core().request(i)?;
            let flushes = r.kept.as_ref().is_some_and(|k| k.flushes.is_some());
            done = match r.work {
                Work::Generalised if !flushes => r.phase != Phase::Active,
                _ => test_index(i),
            };
            let r = core().request(i)?;
            if r.phase == Phase::Done {
                s = Status::from(r.status);
                error = r.error;
                let functions = r.kept.as_ref().and_then(|k| k.generalised);
                if let Some(f) = functions {
                    error = upcall::grequest_query(f.query, f.extra, &mut s);
                }
            }
        }
        // SAFETY: output arguments.
        unsafe { *flag = done as i32 };
        if done {
            // SAFETY: as above.
            unsafe { put_status(status, &s) };
        }
        check(error)
    })();
    finish(outcome, error_comm(request), "MPI_Request_get_status")
}

fn start(request: u64) -> Outcome {
    let i = index(request)?.ok_or(MPI_ERR_REQUEST)?;
    let c = core();
    let r = c.request(i)?;
    if !r.persistent || r.phase != Phase::Inactive {
        return Err(MPI_ERR_REQUEST);
    }
    match (&r.kept, r.work) {
        (Some(k), _) if k.partitions.is_some() => crate::partitioned::start(i),
        (_, Work::Collective) => crate::persistent::start(i),
        _ => p2p::start(i),
    }
}

/// Mark of a repeated `MPI_Startall`: the second continuation word says how many are started.
const STARTALL: u64 = 1;

pub unsafe extern "C" fn MPI_Start(request: *mut u64) -> i32 {
    let _guard = entry::enter();
    // SAFETY: an argument both in and out.
    let word = unsafe { *request };
    finish(start(word), error_comm(word), "MPI_Start")
}

pub unsafe extern "C" fn MPI_Startall(count: i32, array_of_requests: *mut u64) -> i32 {
    let _guard = entry::enter();
    let mut first = 0;
    if thread::cont() == STARTALL {
        first = thread::cont_arg() as usize;
        thread::set_cont(0, 0);
    }
    for at in first..count.max(0) as usize {
        // SAFETY: the program's array has `count` elements.
        let word = unsafe { *array_of_requests.add(at) };
        if let Err(code) = start(word) {
            if code == AGAIN && at > 0 {
                thread::set_cont(STARTALL, at as u64);
            }
            return finish(Err(code), error_comm(word), "MPI_Startall");
        }
    }
    MPI_SUCCESS
}

pub unsafe extern "C" fn MPI_Cancel(request: *mut u64) -> i32 {
    let _guard = entry::enter();
    // SAFETY: an argument both in and out.
    let word = unsafe { *request };
    let outcome = (|| {
        let i = index(word)?.ok_or(MPI_ERR_REQUEST)?;
        let c = core();
        let r = c.request(i)?;
        match (r.work, r.phase) {
            (Work::Recv, Phase::Active) if r.unposted() => {
                let mut status = Status::EMPTY;
                status.set_cancelled(true);
                c.complete(i, &status, MPI_SUCCESS);
                Ok(())
            }
            (Work::Recv, Phase::Active) => {
                r.telling = true;
                let mut real = r.real;
                // SAFETY: an active receive of the library.
                check(unsafe { (c.procs().MPI_Cancel)(&mut real) })
            }
            (Work::Generalised, phase) => {
                let functions = r.kept.as_ref().and_then(|k| k.generalised);
                let Some(f) = functions else {
                    return Err(MPI_ERR_INTERN);
                };
                check(upcall::grequest_cancel(
                    f.cancel,
                    f.extra,
                    phase == Phase::Done,
                ))
            }
            // A send, once started, completes: the standard leaves the choice, and neither library
            // can be trusted to take back a message that is under way.
            (Work::Send(_) | Work::MatchedRecv | Work::Recv, _) => Ok(()),
            (Work::Collective | Work::OneSided | Work::File, _) => Err(MPI_ERR_REQUEST),
        }
    })();
    finish(outcome, error_comm(word), "MPI_Cancel")
}

pub unsafe extern "C" fn MPI_Request_free(request: *mut u64) -> i32 {
    let _guard = entry::enter();
    // SAFETY: an argument both in and out.
    let word = unsafe { *request };
    let outcome = (|| {
        let i = index(word)?.ok_or(MPI_ERR_REQUEST)?;
        let c = core();
        let r = c.request(i)?;
        if r.work == Work::Collective && r.phase == Phase::Active {
            return Err(MPI_ERR_REQUEST);
        }
        if r.phase == Phase::Active {
            r.orphan = true;
            r.persistent = false;
            // A generalised one goes when the program declares it complete.
            if r.work != Work::Generalised {
                c.orphans.push(i);
                reap();
            }
        } else {
            grequest::end(i);
            core().remove_request(i);
        }
        // SAFETY: as above.
        unsafe { *request = MPI_REQUEST_NULL };
        Ok(())
    })();
    finish(outcome, error_comm(word), "MPI_Request_free")
}

/// Completes what the program has freed, as far as possible.
pub fn reap() {
    let waiting = std::mem::take(&mut core().orphans);
    let mut still = Vec::with_capacity(waiting.len());
    for i in waiting {
        if test_index(i) {
            core().remove_request(i);
        } else {
            still.push(i);
        }
    }
    core().orphans.append(&mut still);
}

/// [`reap`], when there are many: as often as their number has doubled.
#[inline]
pub fn reap_many() {
    static MANY: AtomicUsize = AtomicUsize::new(FEW);
    if core().orphans.len() >= MANY.load(Ordering::Relaxed) {
        reap();
        MANY.store(FEW.max(2 * core().orphans.len()), Ordering::Relaxed);
    }
}

/// So many that are left to themselves are nothing to look at.
const FEW: usize = 256;

/// The world rank of `rank` in communicator `comm`.
pub fn world_of(comm: u32, rank: i32) -> Option<World> {
    core()
        .state
        .comms
        .get(comm)
        .and_then(|c| c.members.get(usize::try_from(rank).ok()?).copied())
}
