//! Memory the program keeps out of its images: it comes back as zeros. Lower half.
//!
//! The ranges are whole pages of anonymous memory, kept in the book and so part of every image. A range
//! that the program unmaps is forgotten: what is mapped there next is saved like everything else.

use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::api::Run;
use crate::arena::PAGE;
use crate::book::{self, book};

/// Why a range is not excluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// It does not hold one whole page, or not of the program's memory.
    #[error("not a range of the program's memory with at least one whole page in it")]
    Range,
    /// The table is full.
    #[error("{} ranges are excluded already", book::MAX_EXCLUDED)]
    Full,
    /// It was not excluded.
    #[error("no such range is excluded")]
    Unknown,
}

static CHANGING: Mutex<()> = Mutex::new(());

fn lock() -> MutexGuard<'static, ()> {
    CHANGING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps the table still across a fork.
pub fn hold() -> impl Drop {
    lock()
}

/// The whole pages inside `[address, address + len)`.
fn pages_in(address: usize, len: usize) -> Option<(usize, usize)> {
    let start = address.checked_add(PAGE - 1)? & !(PAGE - 1);
    let end = address.checked_add(len)? & !(PAGE - 1);
    (start < end).then_some((start, end))
}

fn entries() -> impl Iterator<Item = (usize, usize, usize)> {
    let all = match book::is_open() {
        // SAFETY: the book is open; the array's elements are atomics.
        true => unsafe { book() }.excluded.as_slice(),
        false => &[],
    };
    all.iter().enumerate().map(|(i, [start, end])| {
        (
            i,
            start.load(Ordering::Relaxed),
            end.load(Ordering::Acquire),
        )
    })
}

/// Sets an entry; the lock is held.
fn set(index: usize, start: usize, end: usize) {
    // SAFETY: as above; only called with an index of `entries`.
    if let Some([first, last]) = unsafe { book() }.excluded.get(index) {
        first.store(start, Ordering::Relaxed);
        last.store(end, Ordering::Release);
    }
}

/// Keeps the whole pages of `[address, address + len)` out of images.
pub fn exclude(address: usize, len: usize) -> Result<(), Refused> {
    let (start, end) = pages_in(address, len).ok_or(Refused::Range)?;
    if !book::is_open() || !book::in_upper_range(start) || !book::in_upper_range(end - 1) {
        return Err(Refused::Range);
    }
    let _guard = lock();
    let free = entries().find(|&(_, s, e)| s == 0 && e == 0);
    let (index, ..) = free.ok_or(Refused::Full)?;
    set(index, start, end);
    Ok(())
}

/// Takes [`exclude`] with the same arguments back.
pub fn include(address: usize, len: usize) -> Result<(), Refused> {
    let (start, end) = pages_in(address, len).ok_or(Refused::Range)?;
    let _guard = lock();
    let found = entries().find(|&(_, s, e)| (s, e) == (start, end));
    let (index, ..) = found.ok_or(Refused::Unknown)?;
    set(index, 0, 0);
    Ok(())
}

/// `[start, end)` was unmapped: what comes there next is to be saved.
pub fn forget(start: usize, end: usize) {
    if !entries().any(|(_, s, e)| s < end && start < e) {
        return;
    }
    let _guard = lock();
    for (index, s, e) in entries().filter(|&(_, s, e)| s < end && start < e) {
        // The larger rest of a range with a hole in it; what else was excluded is saved from now on.
        let before = (s, start.max(s));
        let after = (end.min(e), e);
        let rest = match after.1 - after.0 > before.1 - before.0 {
            true => after,
            false => before,
        };
        match rest.0 < rest.1 {
            true => set(index, rest.0, rest.1),
            false => set(index, 0, 0),
        }
    }
}

/// Takes the excluded ranges out of `runs`.
pub fn leave_out(runs: &mut Vec<Run>) {
    let ranges: Vec<_> = entries()
        .filter(|&(_, s, e)| s < e)
        .map(|(_, s, e)| (s as u64, e as u64))
        .collect();
    without(runs, &ranges);
}

fn without(runs: &mut Vec<Run>, ranges: &[(u64, u64)]) {
    for &(start, end) in ranges {
        if !runs
            .iter()
            .any(|r| r.start < end && start < r.start + r.len)
        {
            continue;
        }
        let mut kept = Vec::with_capacity(runs.len() + 1);
        for run in runs.drain(..) {
            let run_end = run.start + run.len;
            if run.start < start.min(run_end) {
                kept.push(Run {
                    start: run.start,
                    len: start.min(run_end) - run.start,
                });
            }
            let after = end.max(run.start);
            if after < run_end {
                kept.push(Run {
                    start: after,
                    len: run_end - after,
                });
            }
        }
        *runs = kept;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(start: u64, len: u64) -> Run {
        Run { start, len }
    }

    #[test]
    fn only_whole_pages_count() {
        assert_eq!(pages_in(0x1001, 0x2000), Some((0x2000, 0x3000)));
        assert_eq!(pages_in(0x1000, 0x2000), Some((0x1000, 0x3000)));
        assert_eq!(pages_in(0x1001, 0xfff), None);
        assert_eq!(pages_in(usize::MAX - 10, 100), None);
    }

    #[test]
    fn runs_lose_what_is_excluded() {
        let mut runs = vec![
            run(0x1000, 0x4000),
            run(0x8000, 0x1000),
            run(0xa000, 0x2000),
        ];
        without(&mut runs, &[(0x2000, 0x3000), (0x7000, 0xb000)]);
        assert_eq!(
            runs,
            [
                run(0x1000, 0x1000),
                run(0x3000, 0x2000),
                run(0xb000, 0x1000)
            ]
        );
        without(&mut runs, &[(0, 0x10000)]);
        assert!(runs.is_empty());
    }
}
