//! Active target epochs: fences, and post/start/complete/wait.
//!
//! Lower half. Counts only grow: a member adds to the board of another, which compares with what it
//! has already used up. A wait looks at its own board between steps of progress, so a stop finds it.

use super::alone::library;
use super::{finish, flush, flush_all, Board};
use crate::errors::check;
use crate::state::{core, Outcome};
use crate::whereabouts::Place;
use crate::{collectives, entry, groups};
use mpi_std::*;

/// Adds one to a word of a member's board; it is there when this returns.
fn add(control: u64, rank: i32, word: usize) -> Outcome {
    let one = 1u64;
    let call = library(control).MPI_Accumulate;
    // SAFETY: a word of ours, which lives until the flush.
    check(unsafe {
        call(
            (&raw const one).cast(),
            1,
            MPI_UINT64_T,
            rank,
            word as i64,
            1,
            MPI_UINT64_T,
            MPI_SUM,
            control,
        )
    })?;
    flush(control, rank)
}

/// Ranks in the window of a group's members.
fn ranks(win: u64, group: u64) -> Outcome<Vec<i32>> {
    let comm = core().window(win)?.comm;
    let members = groups::members(group)?;
    let all = match core().state.comms.get(comm) {
        Some(c) => c.members.clone(),
        None => return Err(MPI_ERR_COMM),
    };
    members
        .iter()
        .map(|m| all.iter().position(|a| a == m).map(|r| r as i32))
        .collect::<Option<_>>()
        .ok_or(MPI_ERR_GROUP)
}

fn fence(win: u64, assert: i32, name: &'static &'static str) -> Outcome {
    let w = core().window(win)?;
    if w.epochs.all.is_some() || !w.epochs.locks.is_empty() {
        return Err(MPI_ERR_RMA_SYNC);
    }
    let (real, comm) = (w.real, w.comm);
    if assert & MPI_MODE_NOPRECEDE == 0 {
        flush_all(real)?;
    }
    sync(real)?;
    collectives::enter(comm, name)?;
    let real_comm = core()
        .state
        .comms
        .get(comm)
        .map_or(MPI_COMM_NULL, |c| c.real);
    let call = core().procs().MPI_Barrier;
    // SAFETY: the window's communicator.
    let rc = entry::unlocked(|| unsafe { call(real_comm) });
    collectives::leave();
    check(rc)?;
    sync(real)?;
    core().window(win)?.epochs.fence = assert & MPI_MODE_NOSUCCEED == 0;
    Ok(())
}

fn sync(real: u64) -> Outcome {
    // SAFETY: a window of the library, always in a passive epoch on all members.
    check(unsafe { (library(real).MPI_Win_sync)(real) })
}

fn post(win: u64, group: u64) -> Outcome {
    let origins = ranks(win, group)?;
    let w = core().window(win)?;
    if w.epochs.exposure.is_some() {
        return Err(MPI_ERR_RMA_SYNC);
    }
    let (real, control, comm) = (w.real, w.control, w.comm);
    w.epochs.exposure = Some(origins.len() as u64);
    sync(real)?;
    let me = core().state.comms.get(comm).map_or(0, |c| c.rank);
    for origin in origins {
        add(control, origin, Board::POSTED + me as usize)?;
    }
    Ok(())
}

fn start(win: u64, group: u64) -> Outcome {
    let targets = ranks(win, group)?;
    let w = core().window(win)?;
    let e = &w.epochs;
    if e.access.is_some() || e.all.is_some() || !e.locks.is_empty() {
        return Err(MPI_ERR_RMA_SYNC);
    }
    let place = || Place::of("MPI_Win_start");
    entry::poll(place, || {
        let Ok(w) = core().window(win) else {
            return Some(());
        };
        let used = |r: i32| w.epochs.posts.get(r as usize).copied().unwrap_or(0);
        let open = |r: &i32| w.board.read(Board::POSTED + *r as usize) > used(*r);
        targets.iter().all(open).then_some(())
    })?;
    let w = core().window(win)?;
    for rank in &targets {
        if let Some(n) = w.epochs.posts.get_mut(*rank as usize) {
            *n += 1;
        }
    }
    w.epochs.access = Some(targets);
    Ok(())
}

fn complete(win: u64) -> Outcome {
    let w = core().window(win)?;
    let (real, control) = (w.real, w.control);
    let targets = w.epochs.access.take().ok_or(MPI_ERR_RMA_SYNC)?;
    for rank in &targets {
        flush(real, *rank)?;
    }
    for rank in targets {
        add(control, rank, Board::COMPLETED)?;
    }
    Ok(())
}

/// Whether all origins of the open exposure epoch have completed; it is closed then.
fn closed(win: u64) -> Outcome<bool> {
    let w = core().window(win)?;
    let origins = w.epochs.exposure.ok_or(MPI_ERR_RMA_SYNC)?;
    if w.board.read(Board::COMPLETED) < w.epochs.completions + origins {
        return Ok(false);
    }
    w.epochs.completions += origins;
    w.epochs.exposure = None;
    let real = w.real;
    sync(real)?;
    Ok(true)
}

pub unsafe extern "C" fn MPI_Win_fence(assert: i32, win: u64) -> i32 {
    static NAME: &str = "MPI_Win_fence";
    let _guard = entry::enter();
    finish(fence(win, assert, &NAME), win, NAME)
}

pub unsafe extern "C" fn MPI_Win_post(group: u64, assert: i32, win: u64) -> i32 {
    let _guard = entry::enter();
    let _ = assert;
    finish(post(win, group), win, "MPI_Win_post")
}

pub unsafe extern "C" fn MPI_Win_start(group: u64, assert: i32, win: u64) -> i32 {
    let _guard = entry::enter();
    let _ = assert;
    finish(start(win, group), win, "MPI_Win_start")
}

pub unsafe extern "C" fn MPI_Win_complete(win: u64) -> i32 {
    let _guard = entry::enter();
    finish(complete(win), win, "MPI_Win_complete")
}

pub unsafe extern "C" fn MPI_Win_wait(win: u64) -> i32 {
    let _guard = entry::enter();
    let place = || Place::of("MPI_Win_wait");
    let waited = entry::poll(place, || match closed(win) {
        Ok(false) => None,
        Ok(true) => Some(Ok(())),
        Err(code) => Some(Err(code)),
    });
    finish(waited.and_then(|o| o), win, "MPI_Win_wait")
}

pub unsafe extern "C" fn MPI_Win_test(win: u64, flag: *mut i32) -> i32 {
    let _guard = entry::enter();
    let outcome = closed(win).and_then(|done| match done {
        true => Ok(true),
        false => {
            entry::unlocked(entry::progress());
            closed(win)
        }
    });
    let outcome = outcome.map(|done| {
        // SAFETY: an output argument.
        unsafe { *flag = done as i32 };
    });
    finish(outcome, win, "MPI_Win_test")
}
