//! Locks on members' memory, and the flushes of passive epochs.
//!
//! Lower half. The lock word of a member is a sum of what is done to it: a share, holding it alone,
//! waiting to hold it alone. Who adds sees what was there before, and takes back what does not fit. A
//! failed attempt drives progress, looks at the stop word, and is made again; at a stop nothing is
//! left behind that a repeated call would have to know.

use super::alone::library;
use super::{finish, flush, flush_all, All, Board, Lock};
use crate::entry;
use crate::errors::check;
use crate::state::{core, Outcome};
use crate::whereabouts::{Asked, Place};
use mana_raw::layout::AGAIN;
use mpi_std::*;

/// One process shares the lock.
const SHARE: u64 = 1;
/// One process waits to hold it alone: new sharers stand back.
const WANT: u64 = 1 << 32;
/// One process holds it alone, or is about to find out that it does not.
const ALONE: u64 = 1 << 48;

/// Whether a share can be had where this was found. One that an open `MPI_Win_lock_all` has promised
/// does not stand back for those who wait: they wait for the end of that epoch.
fn may_share(found: u64, promised: bool) -> bool {
    found < if promised { ALONE } else { WANT }
}

/// Whether it can be held alone where this was found.
fn may_hold_alone(found: u64) -> bool {
    found < ALONE && found % WANT == 0
}

/// What to do to a lock word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Take it alone.
    TakeAlone,
    /// Take a share.
    TakeShare,
    /// Take a share that was promised by an open `MPI_Win_lock_all`.
    TakePromised,
    /// Give up holding it alone.
    GiveAlone,
    /// Give up a share.
    GiveShare,
}

/// Adds to a lock word (modulo 2^64); what was there before.
fn sum(control: u64, rank: i32, change: u64) -> Outcome<u64> {
    let mut old = 0u64;
    let procs = library(control);
    // SAFETY: words of ours, which live until the flush.
    check(unsafe {
        (procs.MPI_Fetch_and_op)(
            (&raw const change).cast(),
            (&raw mut old).cast(),
            MPI_UINT64_T,
            rank,
            Board::LOCK as i64,
            MPI_SUM,
            control,
        )
    })?;
    flush(control, rank)?;
    Ok(old)
}

fn take_back(control: u64, rank: i32, change: u64) -> Outcome {
    sum(control, rank, change.wrapping_neg()).map(|_| ())
}

/// Adds `change` if what is there allows it; whether it did.
fn attempt(control: u64, rank: i32, change: u64, allowed: impl Fn(u64) -> bool) -> Outcome<bool> {
    if allowed(sum(control, rank, change)?) {
        return Ok(true);
    }
    take_back(control, rank, change)?;
    Ok(false)
}

/// Attempts until it succeeds, more and more rarely. `Err(AGAIN)` at a stop.
fn insist(control: u64, rank: i32, change: u64, allowed: impl Fn(u64) -> bool) -> Outcome {
    let mut pause = 1;
    let mut asked = Asked::default();
    loop {
        // Looking first disturbs nobody.
        if allowed(sum(control, rank, 0)?) && attempt(control, rank, change, &allowed)? {
            return Ok(());
        }
        let mut turns = 0;
        let place = || Place::of("the lock of a window");
        entry::poll_asked(&mut asked, place, || {
            turns += 1;
            (turns > pause).then_some(())
        })?;
        pause = (pause * 2).min(256);
    }
}

/// Does a step. Taking may end with `Err(AGAIN)` at a stop; giving does not.
pub fn perform(control: u64, rank: i32, step: Step) -> Outcome {
    match step {
        Step::TakeAlone => {
            if attempt(control, rank, ALONE, may_hold_alone)? {
                return Ok(());
            }
            sum(control, rank, WANT)?;
            let taken = insist(control, rank, ALONE, may_hold_alone);
            take_back(control, rank, WANT)?;
            taken
        }
        Step::TakeShare | Step::TakePromised => {
            let allowed = |found| may_share(found, step == Step::TakePromised);
            if attempt(control, rank, SHARE, allowed)? {
                return Ok(());
            }
            insist(control, rank, SHARE, allowed)
        }
        Step::GiveAlone => take_back(control, rank, ALONE),
        Step::GiveShare => take_back(control, rank, SHARE),
    }
}

/// Takes a lock for `MPI_Win_lock_all`, when `rank` is first accessed.
#[cold]
pub fn take_promised(win: u64, rank: i32) -> Outcome {
    let control = core().window(win)?.control;
    perform(control, rank, Step::TakePromised)?;
    let held = held_of(win, rank)?;
    if std::mem::replace(held, true) {
        // Another thread was faster.
        perform(control, rank, Step::GiveShare)?;
    }
    Ok(())
}

fn held_of(win: u64, rank: i32) -> Outcome<&'static mut bool> {
    core()
        .window(win)?
        .epochs
        .all
        .as_mut()
        .and_then(|all| all.held.get_mut(rank as usize))
        .ok_or(MPI_ERR_RMA_SYNC)
}

/// Gives a lock back. The word's owner must learn of it, so a stop does not interrupt this.
fn give(control: u64, rank: i32, lock: Lock) -> Outcome {
    match lock {
        Lock::Exclusive => perform(control, rank, Step::GiveAlone),
        Lock::Shared => perform(control, rank, Step::GiveShare),
        Lock::Unchecked => Ok(()),
    }
}

fn lock(win: u64, how: i32, rank: i32, assert: i32) -> Outcome {
    let w = core().window(win)?;
    if rank == MPI_PROC_NULL {
        return Ok(());
    }
    if rank < 0 || rank as usize >= w.board.members() {
        return Err(MPI_ERR_RANK);
    }
    let (kind, step) = match how {
        MPI_LOCK_EXCLUSIVE => (Lock::Exclusive, Step::TakeAlone),
        MPI_LOCK_SHARED => (Lock::Shared, Step::TakeShare),
        _ => return Err(MPI_ERR_LOCKTYPE),
    };
    let e = &w.epochs;
    if e.all.is_some() || e.access.is_some() || e.locks.iter().any(|(r, _)| *r == rank) {
        return Err(MPI_ERR_RMA_SYNC);
    }
    let unchecked = assert & MPI_MODE_NOCHECK != 0;
    if !unchecked {
        perform(w.control, rank, step)?;
    }
    let kind = if unchecked { Lock::Unchecked } else { kind };
    core().window(win)?.epochs.locks.push((rank, kind));
    Ok(())
}

fn unlock(win: u64, rank: i32) -> Outcome {
    let w = core().window(win)?;
    if rank == MPI_PROC_NULL {
        return Ok(());
    }
    let (real, control) = (w.real, w.control);
    let Some((_, lock)) = w.epochs.locks.iter().copied().find(|(r, _)| *r == rank) else {
        return Err(MPI_ERR_RMA_SYNC);
    };
    flush(real, rank)?;
    give(control, rank, lock)?;
    core().window(win)?.epochs.locks.retain(|(r, _)| *r != rank);
    Ok(())
}

fn lock_all(win: u64, assert: i32) -> Outcome {
    let w = core().window(win)?;
    let e = &w.epochs;
    let resumed = e.all.is_some() && crate::thread::cont() == win;
    if !resumed && (e.all.is_some() || e.access.is_some() || !e.locks.is_empty()) {
        return Err(MPI_ERR_RMA_SYNC);
    }
    let checked = assert & MPI_MODE_NOCHECK == 0;
    let members = w.board.members();
    if !resumed {
        w.epochs.all = Some(All {
            checked,
            held: vec![false; members],
        });
    }
    if !checked {
        return Ok(());
    }
    // Memory that the program reaches with plain loads and stores is never "first accessed".
    let direct: Vec<i32> = match w.flavor {
        MPI_WIN_FLAVOR_SHARED => (0..members as i32).collect(),
        _ => {
            let comm = w.comm;
            core()
                .state
                .comms
                .get(comm)
                .map(|c| c.rank)
                .into_iter()
                .collect()
        }
    };
    for rank in direct {
        if *held_of(win, rank)? {
            continue;
        }
        if let Err(code) = take_promised(win, rank) {
            // At a stop, what is held already stays with the window.
            crate::thread::set_cont(if code == AGAIN { win } else { 0 }, 0);
            return Err(code);
        }
    }
    crate::thread::set_cont(0, 0);
    Ok(())
}

fn unlock_all(win: u64) -> Outcome {
    let w = core().window(win)?;
    let (real, control) = (w.real, w.control);
    let Some(all) = w.epochs.all.clone() else {
        return Err(MPI_ERR_RMA_SYNC);
    };
    flush_all(real)?;
    for (rank, held) in all.held.iter().enumerate() {
        if *held {
            let rank = rank as i32;
            perform(control, rank, Step::GiveShare)?;
            *held_of(win, rank)? = false;
        }
    }
    core().window(win)?.epochs.all = None;
    Ok(())
}

pub unsafe extern "C" fn MPI_Win_lock(lock_type: i32, rank: i32, assert: i32, win: u64) -> i32 {
    let _guard = entry::enter();
    finish(lock(win, lock_type, rank, assert), win, "MPI_Win_lock")
}

pub unsafe extern "C" fn MPI_Win_unlock(rank: i32, win: u64) -> i32 {
    let _guard = entry::enter();
    finish(unlock(win, rank), win, "MPI_Win_unlock")
}

pub unsafe extern "C" fn MPI_Win_lock_all(assert: i32, win: u64) -> i32 {
    let _guard = entry::enter();
    finish(lock_all(win, assert), win, "MPI_Win_lock_all")
}

pub unsafe extern "C" fn MPI_Win_unlock_all(win: u64) -> i32 {
    let _guard = entry::enter();
    finish(unlock_all(win), win, "MPI_Win_unlock_all")
}

/// The library's window, if a passive epoch is open on `rank` (on all members: `None`).
fn passive(win: u64, rank: Option<i32>) -> Outcome<Option<u64>> {
    let w = core().window(win)?;
    let Some(rank) = rank else {
        let open = w.epochs.all.is_some() || !w.epochs.locks.is_empty();
        return open.then_some(Some(w.real)).ok_or(MPI_ERR_RMA_SYNC);
    };
    if rank == MPI_PROC_NULL {
        return Ok(None);
    }
    if rank < 0 || rank as usize >= w.board.members() {
        return Err(MPI_ERR_RANK);
    }
    let open = w.epochs.all.is_some() || w.epochs.locks.iter().any(|(r, _)| *r == rank);
    open.then_some(Some(w.real)).ok_or(MPI_ERR_RMA_SYNC)
}

pub unsafe extern "C" fn MPI_Win_flush(rank: i32, win: u64) -> i32 {
    let _guard = entry::enter();
    let outcome = passive(win, Some(rank)).and_then(|real| match real {
        Some(real) => flush(real, rank),
        None => Ok(()),
    });
    finish(outcome, win, "MPI_Win_flush")
}

pub unsafe extern "C" fn MPI_Win_flush_local(rank: i32, win: u64) -> i32 {
    let _guard = entry::enter();
    let outcome = passive(win, Some(rank)).and_then(|real| {
        let Some(real) = real else { return Ok(()) };
        let call = library(real).MPI_Win_flush_local;
        // SAFETY: a window of the library, always in a passive epoch on all members.
        super::waiting(|| unsafe { call(rank, real) })
    });
    finish(outcome, win, "MPI_Win_flush_local")
}

pub unsafe extern "C" fn MPI_Win_flush_all(win: u64) -> i32 {
    let _guard = entry::enter();
    let outcome = passive(win, None).and_then(|real| real.map_or(Ok(()), flush_all));
    finish(outcome, win, "MPI_Win_flush_all")
}

pub unsafe extern "C" fn MPI_Win_flush_local_all(win: u64) -> i32 {
    let _guard = entry::enter();
    let outcome = passive(win, None).and_then(|real| {
        let Some(real) = real else { return Ok(()) };
        let call = library(real).MPI_Win_flush_local_all;
        // SAFETY: as above.
        super::waiting(|| unsafe { call(real) })
    });
    finish(outcome, win, "MPI_Win_flush_local_all")
}

pub unsafe extern "C" fn MPI_Win_sync(win: u64) -> i32 {
    let _guard = entry::enter();
    let outcome = core().window(win).map(|w| w.real).and_then(|real| {
        // SAFETY: as above.
        check(unsafe { (library(real).MPI_Win_sync)(real) })
    });
    finish(outcome, win, "MPI_Win_sync")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_alone_or_many_sharing() {
        assert!(may_hold_alone(0) && may_share(0, false));
        assert!(may_share(2 * SHARE, false) && !may_hold_alone(2 * SHARE));
        // Somebody waits: new sharers stand back, promised shares do not; waiting excludes nobody else.
        assert!(!may_share(2 * SHARE + WANT, false) && may_share(2 * SHARE + WANT, true));
        assert!(may_hold_alone(3 * WANT));
        // Held alone, with attempts of others in between.
        for found in [ALONE, 2 * ALONE + WANT, ALONE + SHARE] {
            assert!(!may_share(found, false) && !may_share(found, true) && !may_hold_alone(found));
        }
        assert_eq!((ALONE + WANT).wrapping_add(ALONE.wrapping_neg()), WANT);
    }
}
