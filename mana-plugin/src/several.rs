//! Waiting for and testing several requests: all, any, some.
//!
//! Lower half.

use crate::errors::check;
use crate::failed::{self, First};
use crate::requests::{hand_over, index, put_status, test_index, wait_index_in};
use crate::state::{core, Outcome, Phase, Scratch, Work};
use crate::whereabouts::{Asked, Place};
use crate::{entry, grequest};
use mana_raw::layout::AGAIN;
use mpi_std::*;

/// Arrays up to this length stay on the stack.
const INLINE: usize = 64;

/// The active requests of an array: real words beside their positions.
struct Active {
    reals: Vec<u64>,
    positions: Vec<u32>,
    /// Some request cannot be waited for in the library (generalised, or of two parts).
    mixed: bool,
    /// Some request is done already.
    done: Option<u32>,
}

impl Active {
    /// What procedure `call` waits for: the first of the requests, and how many more there are.
    fn place(&self, requests: *const u64, call: &'static str) -> impl Fn() -> Place {
        let first = self.positions.first().copied();
        let more = self.positions.len().saturating_sub(1) as u32;
        move || {
            // SAFETY: the program's array, in the call that collected it.
            let index = first.and_then(|at| unsafe { index_at(requests, at) }.ok());
            let place = index.map_or_else(|| Place::of(call), |i| Place::request(call, i));
            Place { more, ..place }
        }
    }
}

unsafe fn collect(count: i32, requests: *const u64) -> Outcome<Active> {
    let n = usize::try_from(count).map_err(|_| MPI_ERR_COUNT)?;
    let room = n.min(INLINE);
    let mut a = Active {
        reals: Vec::with_capacity(room),
        positions: Vec::with_capacity(room),
        mixed: false,
        done: None,
    };
    let c = core();
    for at in 0..n {
        // SAFETY: the program's array has `count` elements.
        let Some(i) = index(unsafe { *requests.add(at) })? else {
            continue;
        };
        let r = c.request(i)?;
        match r.phase {
            Phase::Inactive => {}
            Phase::Done => a.done = a.done.or(Some(at as u32)),
            Phase::Active => {
                a.mixed |= r.apart();
                a.reals.push(r.real);
                a.positions.push(at as u32);
            }
        }
    }
    Ok(a)
}

unsafe fn index_at(requests: *const u64, at: u32) -> Outcome<u32> {
    // SAFETY: the caller took `at` from `collect`.
    index(unsafe { *requests.add(at as usize) })?.ok_or(MPI_ERR_REQUEST)
}

/// Hands all requests of an array over; `MPI_ERR_IN_STATUS` if one has an error. `stop`: those behind the first that
/// has one stay as they are (MPICH's `MPI_Waitall`).
unsafe fn hand_over_all(
    count: i32,
    requests: *mut u64,
    statuses: *mut Status,
    stop: bool,
    first: &mut First,
) -> Outcome {
    for at in 0..count as usize {
        let status = if statuses.is_null() {
            statuses
        } else {
            // SAFETY: the program's array has `count` elements.
            unsafe { statuses.add(at) }
        };
        // SAFETY: as above.
        let request = unsafe { requests.add(at) };
        // SAFETY: as above.
        let error = match index(unsafe { *request })? {
            Some(_) if stop && first.is_some() => MPI_ERR_PENDING,
            Some(i) if core().request(i)?.phase == Phase::Done => {
                let origin = failed::before(i);
                // SAFETY: as above.
                let error = unsafe { hand_over(i, request, status) };
                if error != MPI_SUCCESS {
                    first.get_or_insert((origin, error));
                }
                error
            }
            _ => {
                // SAFETY: as above.
                unsafe { put_status(status, &Status::EMPTY) };
                MPI_SUCCESS
            }
        };
        // SAFETY: as above.
        if let Some(s) = unsafe { status.as_mut() } {
            s.error = error;
        }
    }
    match first {
        Some(_) => Err(MPI_ERR_IN_STATUS),
        None => Ok(()),
    }
}

/// Waits for all when every request of the array is active in the library, the common case.
/// `None`: not the case, or something failed; the slow way finds out.
#[inline(always)]
unsafe fn wait_all_active(
    count: i32,
    requests: *mut u64,
    statuses: *mut Status,
    scratch: &mut Scratch,
    first: &mut First,
) -> Outcome<bool> {
    let n = usize::try_from(count).map_err(|_| MPI_ERR_COUNT)?;
    scratch.reals.clear();
    scratch.places.clear();
    let c = core();
    let mut telling = !statuses.is_null();
    for at in 0..n {
        // SAFETY: the program's array has `count` elements.
        let word = unsafe { *requests.add(at) };
        if word == MPI_REQUEST_NULL && statuses.is_null() {
            continue;
        }
        let Some(r) = c.state.requests.get(index_of(word)) else {
            return Ok(false);
        };
        if kind_of(word) != kind::REQUEST
            || r.phase != Phase::Active
            || r.kept.is_some()
            || r.work == Work::Generalised
        {
            return Ok(false);
        }
        telling |= r.telling;
        scratch.reals.push(r.real);
        scratch.places.push((index_of(word), at as u32));
    }
    // Open MPI's handlers are told the error of the first request that has one, asked for or not.
    let explained = telling || c.adapter.family == Family::OpenMpi;
    let out = if explained {
        scratch
            .statuses
            .resize(n.max(scratch.statuses.len()), Status::EMPTY);
        scratch.statuses.as_mut_ptr()
    } else {
        std::ptr::null_mut()
    };
    let watch = c.adapter.extras.waitall_watch;
    let reals = scratch.reals.as_mut_ptr();
    let active = scratch.places.len() as i32;
    // SAFETY: the arrays have `active` elements and the requests are active.
    let mut rc = entry::unlocked(|| unsafe { watch(active, reals, out, telling, &entry::STOP) });
    if rc == AGAIN {
        let mut asked = Asked::default();
        while rc == AGAIN && asked.tell(|| first_open(scratch)) {
            // SAFETY: as above; nothing has changed in the arrays.
            rc = entry::unlocked(|| unsafe { watch(active, reals, out, telling, &entry::STOP) });
        }
    }
    if rc != MPI_SUCCESS {
        // Nothing was lost: what completed says so below.
        for (k, (&real, &(index, _))) in scratch.reals.iter().zip(&scratch.places).enumerate() {
            if real == MPI_REQUEST_NULL {
                let s = if explained {
                    scratch.statuses.get(k).copied().unwrap_or(Status::EMPTY)
                } else {
                    Status::EMPTY
                };
                let error = if rc == MPI_ERR_IN_STATUS && explained {
                    s.error
                } else {
                    MPI_SUCCESS
                };
                core().complete(index, &s, error);
            }
        }
        if rc == AGAIN {
            return Err(rc);
        }
        if !explained {
            // Which of them has failed is not known.
            *first = scratch.places.first().map(|p| (failed::origin(p.0), rc));
        }
        return Ok(false);
    }
    // SAFETY: the program's arrays; all of these requests are complete.
    unsafe { settle_all(requests, statuses, scratch, telling) };
    Ok(true)
}

/// What `MPI_Waitall` still waits for.
#[cold]
fn first_open(scratch: &Scratch) -> Place {
    let look = core().procs().MPI_Request_get_status;
    let mut open = scratch
        .reals
        .iter()
        .zip(&scratch.places)
        .filter(|(real, _)| {
            let (mut flag, mut status) = (0, Status::EMPTY);
            // SAFETY: an active request of the library, which stays one.
            let rc = unsafe { look(**real, &mut flag, &mut status) };
            rc != MPI_SUCCESS || flag == 0
        });
    let Some((_, (index, _))) = open.next() else {
        return Place::of("MPI_Waitall");
    };
    Place {
        more: open.count() as u32,
        ..Place::request("MPI_Waitall", *index)
    }
}

/// [`crate::requests::settle`] for all requests of `scratch`, with what it tells the program.
///
/// # Safety
/// The requests at `scratch.places` have completed without error; the arrays are the program's.
#[inline(always)]
unsafe fn settle_all(
    requests: *mut u64,
    statuses: *mut Status,
    scratch: &mut Scratch,
    telling: bool,
) {
    let state = &mut core().state;
    let mut last = u32::MAX;
    let mut comm = None;
    for (k, &(index, at)) in scratch.places.iter().enumerate() {
        let Some(r) = state.requests.get_mut(index) else {
            continue;
        };
        let receive = matches!(r.work, Work::Recv | Work::MatchedRecv);
        let mut from = r.peer;
        let mut cancelled = false;
        if telling {
            let s = scratch.statuses.get(k).unwrap_or(&Status::EMPTY);
            if from < 0 {
                from = s.source;
            }
            cancelled = s.cancelled();
            if !statuses.is_null() {
                // SAFETY: within the program's array.
                let told = unsafe { &mut *statuses.add(at as usize) };
                *told = if receive { *s } else { Status::EMPTY };
                told.error = MPI_SUCCESS;
            }
        }
        if r.comm != last {
            last = r.comm;
            comm = state.comms.get_mut(last);
        }
        if receive && !cancelled {
            let world = comm.as_ref().and_then(|c| c.members.get(from as usize));
            if let Some(n) = world.and_then(|&w| state.received.get_mut(w as usize)) {
                *n += 1;
            }
        }
        if r.persistent {
            r.phase = Phase::Inactive;
            r.real = MPI_REQUEST_NULL;
            continue;
        }
        if r.datatype >= PREDEFINED_END {
            scratch.types.push(r.datatype);
        }
        state.requests.remove(index);
        // SAFETY: within the program's array.
        unsafe { *requests.add(at as usize) = MPI_REQUEST_NULL };
        if let Some(c) = comm.as_mut() {
            c.pending -= 1;
            if c.freed && c.pending == 0 {
                scratch.comms.push(last);
            }
        }
    }
    for datatype in scratch.types.drain(..) {
        crate::datatypes::unuse(datatype);
    }
    for comm in scratch.comms.drain(..) {
        crate::comms::bury(comm);
    }
}

pub unsafe extern "C" fn MPI_Waitall(
    count: i32,
    array_of_requests: *mut u64,
    array_of_statuses: *mut Status,
) -> i32 {
    let _guard = entry::enter();
    let mut scratch = std::mem::take(&mut core().scratch);
    let mut first = None;
    let (requests, statuses) = (array_of_requests, array_of_statuses);
    // SAFETY: the program's arrays.
    let fast = unsafe { wait_all_active(count, requests, statuses, &mut scratch, &mut first) };
    core().scratch = scratch;
    let outcome = match fast {
        Ok(true) => return MPI_SUCCESS,
        // SAFETY: as above.
        Ok(false) => unsafe { wait_all_mixed(count, requests, statuses, &mut first) },
        Err(code) => Err(code),
    };
    failed::finish_several(outcome, first, "MPI_Waitall")
}

/// Waits for all, one after the other: some are done, inactive, null, failed or not the library's.
unsafe fn wait_all_mixed(
    count: i32,
    requests: *mut u64,
    statuses: *mut Status,
    first: &mut First,
) -> Outcome {
    // SAFETY: the program's array.
    let a = unsafe { collect(count, requests) }?;
    for &at in &a.positions {
        // SAFETY: as above.
        let index = unsafe { index_at(requests, at) }?;
        if a.mixed {
            grequest::wait(index);
        }
        wait_index_in(index, "MPI_Waitall")?;
    }
    let stop = core().adapter.family == Family::Mpich && first.is_none();
    // SAFETY: as above.
    unsafe { hand_over_all(count, requests, statuses, stop, first) }
}

pub unsafe extern "C" fn MPI_Testall(
    count: i32,
    array_of_requests: *mut u64,
    flag: *mut i32,
    array_of_statuses: *mut Status,
) -> i32 {
    let _guard = entry::enter();
    let mut first = None;
    let outcome = (|| {
        // SAFETY: the program's array.
        let a = unsafe { collect(count, array_of_requests) }?;
        let mut all = true;
        for &at in &a.positions {
            // SAFETY: as above.
            all &= test_index(unsafe { index_at(array_of_requests, at) }?);
            if !all {
                break;
            }
        }
        // SAFETY: an output argument.
        unsafe { *flag = all as i32 };
        if all {
            // SAFETY: as above.
            unsafe {
                hand_over_all(
                    count,
                    array_of_requests,
                    array_of_statuses,
                    false,
                    &mut first,
                )
            }
        } else {
            Ok(())
        }
    })();
    failed::finish_several(outcome, first, "MPI_Testall")
}

/// One step of waiting for any: `Some(position)` of a done one.
unsafe fn any_done(a: &mut Active, requests: *const u64) -> Outcome<Option<u32>> {
    if a.done.is_some() || a.reals.is_empty() {
        return Ok(a.done);
    }
    if a.mixed {
        for &at in &a.positions {
            // SAFETY: the caller's array.
            if test_index(unsafe { index_at(requests, at) }?) {
                return Ok(Some(at));
            }
        }
        return Ok(None);
    }
    let (mut which, mut flag, mut status) = (MPI_UNDEFINED, 0, Status::EMPTY);
    // SAFETY: active requests of the library.
    let rc = unsafe {
        (core().procs().MPI_Testany)(
            a.reals.len() as i32,
            a.reals.as_mut_ptr(),
            &mut which,
            &mut flag,
            &mut status,
        )
    };
    if rc == MPI_SUCCESS && (flag == 0 || which == MPI_UNDEFINED) {
        return Ok(None);
    }
    let Some(&at) = usize::try_from(which).ok().and_then(|w| a.positions.get(w)) else {
        return Err(if rc == MPI_SUCCESS {
            MPI_ERR_INTERN
        } else {
            rc
        });
    };
    // SAFETY: the caller's array.
    core().complete(unsafe { index_at(requests, at) }?, &status, rc);
    Ok(Some(at))
}

pub unsafe extern "C" fn MPI_Waitany(
    count: i32,
    array_of_requests: *mut u64,
    index: *mut i32,
    status: *mut Status,
) -> i32 {
    let _guard = entry::enter();
    let mut origin = failed::WORLD;
    let outcome = (|| {
        // SAFETY: the program's array.
        let mut a = unsafe { collect(count, array_of_requests) }?;
        if a.done.is_none() && a.reals.is_empty() {
            // SAFETY: output arguments.
            unsafe { put_status(status, &Status::EMPTY) };
            // SAFETY: as above.
            unsafe { *index = MPI_UNDEFINED };
            return Ok(());
        }
        // SAFETY: as above.
        let place = a.place(array_of_requests, "MPI_Waitany");
        // SAFETY: as above.
        let at = wait_some(place, || unsafe { any_done(&mut a, array_of_requests) })?;
        // SAFETY: as above.
        unsafe { *index = at as i32 };
        // SAFETY: as above.
        let request = unsafe { array_of_requests.add(at as usize) };
        // SAFETY: as above.
        let i = unsafe { index_at(array_of_requests, at) }?;
        origin = failed::before(i);
        // SAFETY: as above.
        check(unsafe { hand_over(i, request, status) })
    })();
    failed::finish(outcome, origin, "MPI_Waitany")
}

/// Polls until `step` has something; the library makes progress inside the tests.
fn wait_some<T>(
    place: impl Fn() -> Place,
    mut step: impl FnMut() -> Outcome<Option<T>>,
) -> Outcome<T> {
    let mut turns = 0u32;
    let mut asked = Asked::default();
    loop {
        if let Some(out) = step()? {
            return Ok(out);
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

pub unsafe extern "C" fn MPI_Testany(
    count: i32,
    array_of_requests: *mut u64,
    index: *mut i32,
    flag: *mut i32,
    status: *mut Status,
) -> i32 {
    let _guard = entry::enter();
    let mut origin = failed::WORLD;
    let outcome = (|| {
        // SAFETY: the program's array.
        let mut a = unsafe { collect(count, array_of_requests) }?;
        let empty = a.done.is_none() && a.reals.is_empty();
        // SAFETY: as above.
        let at = unsafe { any_done(&mut a, array_of_requests) }?;
        // SAFETY: output arguments.
        unsafe { *flag = (empty || at.is_some()) as i32 };
        // SAFETY: as above.
        unsafe { *index = at.map_or(MPI_UNDEFINED, |a| a as i32) };
        let Some(at) = at else {
            if empty {
                // SAFETY: as above.
                unsafe { put_status(status, &Status::EMPTY) };
            }
            return Ok(());
        };
        // SAFETY: as above.
        let request = unsafe { array_of_requests.add(at as usize) };
        // SAFETY: as above.
        let i = unsafe { index_at(array_of_requests, at) }?;
        origin = failed::before(i);
        // SAFETY: as above.
        check(unsafe { hand_over(i, request, status) })
    })();
    failed::finish(outcome, origin, "MPI_Testany")
}

/// Completes what can be completed; whether anything is done now.
unsafe fn some_done(a: &Active, requests: *const u64) -> Outcome<bool> {
    let mut any = a.done.is_some();
    for &at in &a.positions {
        // SAFETY: the caller's array.
        any |= test_index(unsafe { index_at(requests, at) }?);
    }
    Ok(any)
}

unsafe fn hand_over_some(
    incount: i32,
    requests: *mut u64,
    outcount: *mut i32,
    indices: *mut i32,
    statuses: *mut Status,
    first: &mut First,
) -> Outcome {
    let mut n = 0usize;
    for at in 0..incount as usize {
        // SAFETY: the program's arrays have `incount` elements.
        let request = unsafe { requests.add(at) };
        // SAFETY: as above.
        let Some(i) = index(unsafe { *request })? else {
            continue;
        };
        if core().request(i)?.phase != Phase::Done {
            continue;
        }
        let status = if statuses.is_null() {
            statuses
        } else {
            // SAFETY: as above; n <= at.
            unsafe { statuses.add(n) }
        };
        let origin = failed::before(i);
        // SAFETY: as above.
        let error = unsafe { hand_over(i, request, status) };
        // SAFETY: as above.
        if let Some(s) = unsafe { status.as_mut() } {
            s.error = error;
        }
        if error != MPI_SUCCESS {
            first.get_or_insert((origin, error));
        }
        // SAFETY: as above.
        unsafe { *indices.add(n) = at as i32 };
        n += 1;
    }
    // SAFETY: an output argument.
    unsafe { *outcount = n as i32 };
    match first {
        Some(_) => Err(MPI_ERR_IN_STATUS),
        None => Ok(()),
    }
}

unsafe fn some(
    wait: bool,
    incount: i32,
    requests: *mut u64,
    outcount: *mut i32,
    indices: *mut i32,
    statuses: *mut Status,
    first: &mut First,
) -> Outcome {
    // SAFETY: the program's array.
    let a = unsafe { collect(incount, requests) }?;
    if a.done.is_none() && a.reals.is_empty() {
        // SAFETY: an output argument.
        unsafe { *outcount = MPI_UNDEFINED };
        return Ok(());
    }
    // SAFETY: as above.
    let step = || unsafe { some_done(&a, requests) }.map(|any| any.then_some(()));
    if wait {
        wait_some(a.place(requests, "MPI_Waitsome"), step)?;
    } else {
        step()?;
    }
    // SAFETY: as above.
    unsafe { hand_over_some(incount, requests, outcount, indices, statuses, first) }
}

pub unsafe extern "C" fn MPI_Waitsome(
    incount: i32,
    array_of_requests: *mut u64,
    outcount: *mut i32,
    array_of_indices: *mut i32,
    array_of_statuses: *mut Status,
) -> i32 {
    let _guard = entry::enter();
    let mut first = None;
    // SAFETY: the program's arguments.
    let outcome = unsafe {
        some(
            true,
            incount,
            array_of_requests,
            outcount,
            array_of_indices,
            array_of_statuses,
            &mut first,
        )
    };
    failed::finish_several(outcome, first, "MPI_Waitsome")
}

pub unsafe extern "C" fn MPI_Testsome(
    incount: i32,
    array_of_requests: *mut u64,
    outcount: *mut i32,
    array_of_indices: *mut i32,
    array_of_statuses: *mut Status,
) -> i32 {
    let _guard = entry::enter();
    let mut first = None;
    // SAFETY: the program's arguments.
    let outcome = unsafe {
        some(
            false,
            incount,
            array_of_requests,
            outcount,
            array_of_indices,
            array_of_statuses,
            &mut first,
        )
    };
    failed::finish_several(outcome, first, "MPI_Testsome")
}
