//! Waits that another thread can interrupt, and blocking sends and receives made of them.
//!
//! Lower half. The loops test the request and look at the stop word each time: the word is in this
//! core's cache until somebody writes it.

use core::ffi::c_void;
use core::sync::atomic::{AtomicU64, Ordering};

use mpi_std::{Extras, Status};

use crate::ffi;
use crate::translate as t;

/// Fruitless tests after which the loop offers the processor to others at each 64th.
const PATIENCE: u32 = 4096;

#[inline(always)]
fn idle(tests: &mut u32) {
    *tests = tests.wrapping_add(1);
    if *tests > PATIENCE && *tests & 63 == 0 {
        std::thread::yield_now();
    }
}

#[inline(always)]
unsafe fn stopped(stop: *const AtomicU64) -> bool {
    // SAFETY: the caller's word outlives the call.
    unsafe { &*stop }.load(Ordering::Relaxed) != 0
}

/// Waits for `request`; `true` when it has completed (or failed: `rc`).
#[inline(always)]
unsafe fn complete(
    request: &mut ffi::MPI_Request,
    status: *mut Status,
    stop: *const AtomicU64,
) -> i32 {
    let mut one = t::OneStatus::new(status);
    let mut flag = 0;
    let mut tests = 0;
    loop {
        // SAFETY: a request of the core's, active or null.
        let rc = unsafe { ffi::MPI_Test(request, &mut flag, one.pointer()) };
        if flag != 0 || rc != 0 {
            // SAFETY: the caller's status.
            unsafe { one.give(status) };
            return t::error(rc);
        }
        // SAFETY: the caller's word.
        if unsafe { stopped(stop) } {
            return Extras::AGAIN;
        }
        idle(&mut tests);
    }
}

/// [`Extras::wait_watch`]
pub(crate) unsafe extern "C" fn wait(
    request: *mut u64,
    status: *mut Status,
    stop: *const AtomicU64,
) -> i32 {
    // SAFETY: the caller's request.
    let mut l: ffi::MPI_Request = t::handle(unsafe { *request });
    // SAFETY: the caller's arguments.
    let rc = unsafe { complete(&mut l, status, stop) };
    // SAFETY: the caller's request.
    unsafe { *request = t::request_word(l) };
    rc
}

/// [`Extras::waitall_watch`]
pub(crate) unsafe extern "C" fn waitall(
    count: i32,
    requests: *mut u64,
    statuses: *mut Status,
    wanted: bool,
    stop: *const AtomicU64,
) -> i32 {
    let len = t::len(count);
    // SAFETY: the caller's array.
    let mut l = unsafe { t::Handles::<ffi::MPI_Request>::new(requests, len) };
    let array = l.pointer();
    // SAFETY: the caller's array.
    let mut list = unsafe {
        match wanted {
            true => t::Statuses::new(statuses, len),
            false => t::Statuses::of_failures(statuses, len),
        }
    };
    let mut tests = 0;
    loop {
        let mut flag = 0;
        // A fruitless test leaves requests and statuses as they are.
        // SAFETY: active, inactive or null requests.
        let rc = unsafe { ffi::MPI_Testall(count, array, &mut flag, list.pointer()) };
        if flag != 0 || rc != 0 {
            // SAFETY: the caller's arrays.
            unsafe {
                if wanted || rc != 0 {
                    list.give(statuses, rc);
                }
                l.give(requests, t::request_word);
            }
            return t::error(rc);
        }
        // SAFETY: the caller's word.
        if unsafe { stopped(stop) } {
            return Extras::AGAIN;
        }
        idle(&mut tests);
    }
}

/// [`Extras::send_watch`]
pub(crate) unsafe extern "C" fn send(
    mode: i32,
    buf: *const c_void,
    count: i32,
    datatype: u64,
    dest: i32,
    tag: i32,
    comm: u64,
    request: *mut u64,
    stop: *const AtomicU64,
) -> i32 {
    let mut l: ffi::MPI_Request = t::handle(mpi_std::MPI_REQUEST_NULL);
    let (buf, datatype, comm) = (t::buffer(buf), t::handle(datatype), t::handle(comm));
    let (dest, tag) = (t::rank(dest), t::tag(tag));
    // SAFETY: the arguments of a send.
    let rc = unsafe {
        match mode {
            Extras::SEND_SYNCHRONOUS => {
                ffi::MPI_Issend(buf, count, datatype, dest, tag, comm, &mut l)
            }
            Extras::SEND_READY => ffi::MPI_Irsend(buf, count, datatype, dest, tag, comm, &mut l),
            Extras::SEND_BUFFERED => ffi::MPI_Ibsend(buf, count, datatype, dest, tag, comm, &mut l),
            _ => ffi::MPI_Isend(buf, count, datatype, dest, tag, comm, &mut l),
        }
    };
    if rc != 0 {
        return t::error(rc);
    }
    // SAFETY: the request just started.
    let rc = unsafe { complete(&mut l, core::ptr::null_mut(), stop) };
    // SAFETY: the caller's output.
    unsafe { *request = t::request_word(l) };
    rc
}

/// [`Extras::recv_watch`]
pub(crate) unsafe extern "C" fn recv(
    buf: *mut c_void,
    count: i32,
    datatype: u64,
    source: i32,
    tag: i32,
    comm: u64,
    request: *mut u64,
    status: *mut Status,
    stop: *const AtomicU64,
) -> i32 {
    let mut l: ffi::MPI_Request = t::handle(mpi_std::MPI_REQUEST_NULL);
    // SAFETY: the arguments of a receive.
    let rc = unsafe {
        ffi::MPI_Irecv(
            t::buffer(buf),
            count,
            t::handle(datatype),
            t::rank(source),
            t::tag(tag),
            t::handle(comm),
            &mut l,
        )
    };
    if rc != 0 {
        return t::error(rc);
    }
    // SAFETY: the request just started.
    let rc = unsafe { complete(&mut l, status, stop) };
    // SAFETY: the caller's output.
    unsafe { *request = t::request_word(l) };
    rc
}

/// [`Extras::progress`]
pub(crate) unsafe extern "C" fn progress(comm: u64) {
    let mut flag = 0;
    // SAFETY: a probe for a tag that nothing ever arrives with.
    unsafe {
        ffi::MPI_Iprobe(
            t::rank(mpi_std::MPI_ANY_SOURCE),
            Extras::PROGRESS_TAG,
            t::handle(comm),
            &mut flag,
            t::constants::mana_status_ignore,
        );
    }
}
