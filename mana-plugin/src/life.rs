//! Beginning and end: the real `MPI_Init` when the program calls its own, `MPI_Finalize` through the
//! glue's gate, `MPI_Abort`, and the queries around them.
//!
//! Lower half, the MPI thread.

use crate::errors::{self, check, finish, raise};
use crate::state::{core, Outcome, SELF, WORLD};
use crate::whereabouts::Place;
use crate::{attributes, comms, entry, info, library, mail, requests, Go, Initialized};
use mpi_std::*;
use std::ffi::c_void;

/// Runs `f` with every signal of this thread blocked, also those the C library keeps for itself, so
/// that threads the library starts inherit a full mask.
fn with_signals_blocked<T>(f: impl FnOnce() -> T) -> T {
    let full = u64::MAX;
    let mut old = 0u64;
    // SAFETY: the kernel's form of the call, with masks of eight bytes.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &full as *const u64,
            &mut old as *mut u64,
            8usize,
        );
    }
    let out = f();
    // SAFETY: as above.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &old as *const u64,
            std::ptr::null_mut::<u64>(),
            8usize,
        );
    }
    out
}

/// Starts the real MPI at thread level `required` and makes our private communicators. `None`: by `MPI_Init`, whose level
/// the user may have told the library (`MPIR_CVAR_DEFAULT_THREAD_LEVEL`, `OMPI_MPI_THREAD_LEVEL`).
pub fn begin(required: Option<i32>) -> Outcome {
    let c = core();
    let procs = c.procs();
    let mut provided = MPI_THREAD_SINGLE;
    let mut rc = MPI_SUCCESS;
    with_signals_blocked(|| {
        c.hooks.starting(&mut || {
            let (argc, argv) = (std::ptr::null_mut(), std::ptr::null_mut());
            rc = match required {
                // SAFETY: no arguments of the program are passed; the output argument is ours.
                Some(level) => unsafe { (procs.MPI_Init_thread)(argc, argv, level, &mut provided) },
                // SAFETY: as above.
                None => unsafe { (procs.MPI_Init)(argc, argv) },
            };
        });
    });
    check(rc)?;
    if required.is_none() {
        // SAFETY: as above.
        check(unsafe { (procs.MPI_Query_thread)(&mut provided) })?;
    }
    crate::ready::wait();
    let (mut rank, mut size) = (0, 0);
    // SAFETY: output arguments of ours, in this and the following calls.
    check(unsafe { (procs.MPI_Comm_rank)(MPI_COMM_WORLD, &mut rank) })?;
    // SAFETY: as above.
    check(unsafe { (procs.MPI_Comm_size)(MPI_COMM_WORLD, &mut size) })?;
    // SAFETY: as above.
    check(unsafe { (procs.MPI_Comm_dup)(MPI_COMM_WORLD, &mut c.private) })?;
    // SAFETY: as above.
    check(unsafe { (procs.MPI_Comm_dup)(MPI_COMM_SELF, &mut c.private_self) })?;
    c.provided = provided;
    c.multiple = provided == MPI_THREAD_MULTIPLE;
    // SAFETY: gettid has no preconditions.
    c.main_thread = unsafe { libc::gettid() };
    c.state.rank = rank;
    c.state.size = size;
    c.state.thread_level = required.unwrap_or(provided);
    c.state.sent = vec![0; size as usize];
    c.state.received = vec![0; size as usize];
    c.active = true;
    Ok(())
}

fn init(required: Option<i32>, given: bool, name: &'static str) -> Outcome<i32> {
    let s = &core().state;
    if core().finalised || s.begun || s.ended {
        errors::raise(crate::errors::NO_OBJECT, MPI_ERR_OTHER, name);
        return Err(MPI_ERR_OTHER);
    }
    begin_once(required, given)?;
    core().state.begun = true;
    Ok(core().provided)
}

/// Begins MPI, unless a session or `MPI_Init` has; `given`: with the program's arguments.
fn begin_once(required: Option<i32>, given: bool) -> Outcome {
    if core().active {
        return Ok(());
    }
    if std::mem::take(&mut core().early) {
        let c = core();
        c.active = true;
        // SAFETY: gettid has no preconditions.
        c.main_thread = unsafe { libc::gettid() };
        c.state.thread_level = required.unwrap_or(c.provided);
    } else {
        begin(required)?;
    }
    let c = core();
    comms::begin(c.state.rank, c.state.size);
    attributes::learn_predefined();
    library::learn();
    info::learn_environment(given);
    c.hooks.initialized(Initialized {
        rank: c.state.rank,
        size: c.state.size,
        thread_level: c.provided,
        mpi_thread: c.main_thread,
    });
    Ok(())
}

/// Begins MPI for a session.
pub fn begin_session(required: i32) -> Outcome {
    if core().finalised {
        log::error!("MPI has ended with the last session, and cannot begin again");
        return Err(MPI_ERR_OTHER);
    }
    begin_once(Some(required), false)
}

/// Ends a session by `remove`, and MPI if it was the last that needed it.
pub fn end_session(remove: impl FnOnce()) -> Outcome {
    let s = &core().state;
    if !s.begun && s.sessions.iter().count() == 1 {
        end()?;
    }
    remove();
    Ok(())
}

fn started(outcome: Outcome<i32>, provided: *mut i32, name: &'static str) -> i32 {
    match outcome {
        Ok(level) => {
            if !provided.is_null() {
                // SAFETY: an output argument.
                unsafe { *provided = level };
            }
            MPI_SUCCESS
        }
        Err(code) => {
            log::error!("{name} failed: {}", errors::text(code));
            code
        }
    }
}

pub unsafe extern "C" fn MPI_Init(argc: *mut i32, argv: *mut c_void) -> i32 {
    let given = !argc.is_null() && !argv.is_null();
    let outcome = init(None, given, "MPI_Init");
    started(outcome, std::ptr::null_mut(), "MPI_Init")
}

pub unsafe extern "C" fn MPI_Init_thread(
    argc: *mut i32,
    argv: *mut c_void,
    required: i32,
    provided: *mut i32,
) -> i32 {
    let given = !argc.is_null() && !argv.is_null();
    let outcome = init(Some(required), given, "MPI_Init_thread");
    started(outcome, provided, "MPI_Init_thread")
}

pub unsafe extern "C" fn MPI_Initialized(flag: *mut i32) -> i32 {
    // SAFETY: an output argument.
    unsafe { *flag = (core().state.begun || core().state.ended) as i32 };
    MPI_SUCCESS
}

pub unsafe extern "C" fn MPI_Finalized(flag: *mut i32) -> i32 {
    // SAFETY: an output argument.
    unsafe { *flag = core().state.ended as i32 };
    MPI_SUCCESS
}

pub unsafe extern "C" fn MPI_Query_thread(provided: *mut i32) -> i32 {
    // SAFETY: an output argument.
    unsafe { *provided = core().provided };
    MPI_SUCCESS
}

pub unsafe extern "C" fn MPI_Is_thread_main(flag: *mut i32) -> i32 {
    // SAFETY: gettid has no preconditions; an output argument.
    unsafe { *flag = (libc::gettid() == core().main_thread) as i32 };
    MPI_SUCCESS
}

/// Ends the real MPI, past the glue's gate.
fn end() -> Outcome {
    let place = || Place::of("MPI_Finalize");
    entry::poll(place, || {
        (core().hooks.finalizing() == Go::On).then_some(())
    })?;
    attributes::delete_comm(MPI_COMM_SELF)?;
    if core().adapter.family == Family::Mpich {
        attributes::delete_comm(MPI_COMM_WORLD)?;
    }
    mail::end()?;
    requests::reap();
    let c = core();
    let procs = c.procs();
    // SAFETY: communicators of ours, not used any more.
    unsafe { (procs.MPI_Comm_free)(&mut c.private) };
    // SAFETY: as above.
    unsafe { (procs.MPI_Comm_free)(&mut c.private_self) };
    // SAFETY: MPI is active.
    check(unsafe { (procs.MPI_Finalize)() })?;
    c.active = false;
    c.finalised = true;
    for index in [WORLD, SELF] {
        crate::cache::store(index, 0, 0);
    }
    c.hooks.finalized();
    Ok(())
}

pub unsafe extern "C" fn MPI_Finalize() -> i32 {
    let _guard = entry::enter();
    let outcome = (|| {
        if !core().state.begun {
            return Err(MPI_ERR_OTHER);
        }
        // A session that is still open ends MPI.
        if core().state.sessions.iter().next().is_none() {
            end()?;
        }
        core().state.begun = false;
        core().state.ended = true;
        if core().adapter.family == Family::OpenMpi {
            // Whose functions are called when MPI says that it has ended.
            let _ = attributes::delete_comm(MPI_COMM_WORLD);
        }
        Ok(())
    })();
    finish(outcome, crate::errors::NO_OBJECT, "MPI_Finalize")
}

pub unsafe extern "C" fn MPI_Abort(comm: u64, errorcode: i32) -> i32 {
    if core().comm(comm).is_err() && core().active {
        return raise(comm, MPI_ERR_COMM, "MPI_Abort");
    }
    errors::abort(comm, errorcode)
}
