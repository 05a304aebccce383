//! The way in: one guard per call, and the stop flag that every wait watches.
//!
//! Lower half, program's threads. Below `MPI_THREAD_MULTIPLE` the guard is nothing; otherwise it is a
//! recursive lock (`lock`; upcalls come back in on the same thread) that waits let go of while they wait.

use crate::lock::Lock;
use crate::state::core;
use crate::whereabouts::{Asked, Place};
use mana_raw::layout::AGAIN;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

/// Watched by every wait: 0, [`LEAVE`] or [`TELL`]. Only the control thread changes it.
pub static STOP: AtomicU64 = AtomicU64::new(0);
/// Set by `checkpoint::stop`: every wait returns `AGAIN`.
pub const LEAVE: u64 = 1;
/// Set by `whereabouts::ask`: every wait says what it waits for, and goes on.
pub const TELL: u64 = 2;

/// Whether a wait must end. One that is only asked tells its place, and goes on.
#[inline(always)]
pub fn leaving(asked: &mut Asked, place: impl FnOnce() -> Place) -> bool {
    STOP.load(Ordering::Relaxed) != 0 && !asked.tell(place)
}

static LOCK: Lock = Lock::new();

/// Kernel thread id of the thread that runs callbacks of checkpoint events just now; 0: none.
static FORBIDDEN: AtomicI32 = AtomicI32::new(0);

/// The calling thread begins, or ends, to run callbacks that may not call MPI.
pub fn forbid(on: bool) {
    FORBIDDEN.store(if on { me() } else { 0 }, Ordering::Relaxed);
}

#[cold]
fn refuse(forbidden: i32) {
    if forbidden == me() {
        core().hooks.misused("a callback of checkpoint events (mana_on) called MPI, which it may not: no message is certain to pass while a checkpoint is being taken");
    }
}

/// Held during a call.
pub struct Guard {
    locked: bool,
}

/// Enters the layer.
#[inline(always)]
pub fn enter() -> Guard {
    let forbidden = FORBIDDEN.load(Ordering::Relaxed);
    if forbidden != 0 {
        refuse(forbidden);
    }
    if core().multiple {
        LOCK.take(me(), 1);
        return Guard { locked: true };
    }
    Guard { locked: false }
}

impl Drop for Guard {
    #[inline(always)]
    fn drop(&mut self) {
        if self.locked {
            LOCK.give(1);
        }
    }
}

fn me() -> i32 {
    thread_local!(static TID: i32 = {
        // SAFETY: gettid has no preconditions.
        unsafe { libc::gettid() }
    });
    TID.with(|t| *t)
}

/// Runs `wait` (which touches nothing of the core) without the lock.
#[inline(always)]
pub fn unlocked<T>(wait: impl FnOnce() -> T) -> T {
    if !core().multiple {
        return wait();
    }
    let depth = LOCK.depth();
    LOCK.give(depth);
    let out = wait();
    LOCK.take(me(), depth);
    out
}

/// One step of the library's progress; it touches nothing of the core.
pub fn progress() -> impl Fn() {
    let c = core();
    let (call, comm) = (c.adapter.extras.progress, c.private);
    // SAFETY: MPI is active (somebody waits for it), so the private communicator exists.
    move || unsafe { call(comm) }
}

/// Polls `ready` while driving progress, until it has something or a stop is requested. `place` says
/// what is waited for.
pub fn poll<T>(place: impl Fn() -> Place, ready: impl FnMut() -> Option<T>) -> Result<T, i32> {
    poll_asked(&mut Asked::default(), place, ready)
}

/// The same for a part of a longer wait.
pub fn poll_asked<T>(
    asked: &mut Asked,
    place: impl Fn() -> Place,
    mut ready: impl FnMut() -> Option<T>,
) -> Result<T, i32> {
    let mut turns = 0u32;
    loop {
        if let Some(out) = ready() {
            return Ok(out);
        }
        if leaving(asked, &place) {
            return Err(AGAIN);
        }
        let step = progress();
        unlocked(|| {
            step();
            turns += 1;
            if turns % 16 == 0 {
                std::thread::yield_now();
            }
        });
    }
}
