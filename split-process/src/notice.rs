//! Signals that are held back from the program until somebody says that it may have them: those by
//! which a batch system announces an end. Lower half.
//!
//! ```text
//!   free --(arrives)--> held --(pass_signal: queued to this process again)--> passing --(arrives)--> free
//!                         \--(the program ignores it)--> free                              to the program
//! ```
//! The kernel's handler of such a signal is the shim's notice entry, which asks [`handler`]. A held
//! signal has not happened for the program: an image taken meanwhile knows nothing of it. A child the
//! program forks has the same handlers, but nobody to ask: there every signal is the program's.

use crate::book::book;
use crate::threads::Thread;
use crate::{calls, signals, wait};
use mana_raw::{base, sys};
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const FREE: u32 = 0;
const HELD: u32 = 1;
const PASSING: u32 = 2;

/// Words of a siginfo.
const INFO: usize = 16;

/// What is known of one signal.
struct Place {
    state: AtomicU32,
    /// The siginfo it came with; written by whoever makes the state `HELD`, read while it is.
    info: UnsafeCell<[u64; INFO]>,
}

// SAFETY: `info` is guarded by `state`.
unsafe impl Sync for Place {}

static PLACES: [Place; 65] = [const {
    Place {
        state: AtomicU32::new(FREE),
        info: UnsafeCell::new([0; INFO]),
    }
}; 65];

/// Signals held back whatever the program does with them (bit n is signal n).
static ALWAYS: AtomicU64 = AtomicU64::new(0);
/// Signals held back as long as the program has no handler for them.
static UNHANDLED: AtomicU64 = AtomicU64::new(0);
/// The process that hears of what is held back; one that it forks has nobody to ask.
static LISTENER: AtomicI32 = AtomicI32::new(0);
/// Whether the kernel has been told.
static INSTALLED: AtomicBool = AtomicBool::new(false);
/// Signals that have arrived and were not yet reported.
static ARRIVED: AtomicU64 = AtomicU64::new(0);
/// Counts arrivals, for those who wait.
static ARRIVALS: AtomicU32 = AtomicU32::new(0);

/// Whether `number` is held back from a program whose handler for it is `action`. An ignored signal
/// stays ignored, also for the programs this one executes.
pub fn holds(number: usize, action: usize) -> bool {
    if action == libc::SIG_IGN || number >= 64 {
        return false;
    }
    let always = ALWAYS.load(Ordering::Relaxed) >> number & 1 != 0;
    let unhandled = UNHANDLED.load(Ordering::Relaxed) >> number & 1 != 0;
    always || (unhandled && action == libc::SIG_DFL)
}

/// Holds back the signals of `always`, and those of `unhandled` as long as the program has no handler
/// for them (bit n is signal n), from now on or from the program's start. Call it from one thread.
pub fn hold_signals(always: u64, unhandled: u64) {
    let ours = mana_raw::layout::PARK_SIGNAL;
    let never = [0, libc::SIGKILL, libc::SIGSTOP, ours]
        .iter()
        .fold(0u64, |bits, signal| bits | (1u64 << signal));
    ALWAYS.store(always & !never, Ordering::SeqCst);
    UNHANDLED.store(unhandled & !never, Ordering::SeqCst);
    LISTENER.store(calls::kernel_pid(), Ordering::SeqCst);
    if INSTALLED.load(Ordering::SeqCst) {
        install();
    }
}

/// Tells the kernel; the book exists.
pub fn install() {
    INSTALLED.store(true, Ordering::SeqCst);
    let all = ALWAYS.load(Ordering::SeqCst) | UNHANDLED.load(Ordering::SeqCst);
    for number in (1..64usize).filter(|n| all >> n & 1 != 0) {
        signals::renew(number);
    }
}

/// Asked by the shim about a signal that may be held back: is it for the program's handler, now?
///
/// # Safety
/// Called by the shim, on a thread of the upper half, with whichever FS was current.
pub unsafe extern "C" fn handler(signal: i32, info: *const u64, context: usize) -> u32 {
    let number = signal as usize % PLACES.len();
    if LISTENER.load(Ordering::Relaxed) != calls::kernel_pid() {
        return to_program(number);
    }
    let place = &PLACES[number];
    match place
        .state
        .compare_exchange(FREE, HELD, Ordering::SeqCst, Ordering::SeqCst)
    {
        Ok(_) => {
            // SAFETY: the state has just become HELD: the place is ours; the kernel's siginfo.
            unsafe { *place.info.get() = *info.cast::<[u64; INFO]>() };
            ARRIVED.fetch_or(1 << number, Ordering::SeqCst);
            ARRIVALS.fetch_add(1, Ordering::SeqCst);
            crate::threads::wake(&ARRIVALS);
        }
        Err(PASSING) => {
            place.state.store(FREE, Ordering::SeqCst);
            return to_program(number);
        }
        Err(_) => {}
    }
    // SAFETY: GS points to this thread's record.
    let thread: &'static Thread = unsafe { &*(base::block() as *const Thread) };
    if thread.depth() == 1 {
        wait::undisturbed(thread, context);
    }
    0
}

/// What the program itself wants done: 1 if its handler is to be called.
fn to_program(number: usize) -> u32 {
    // SAFETY: the book exists as long as the program.
    match unsafe { book() }.sigactions[number].handler {
        libc::SIG_IGN => 0,
        libc::SIG_DFL => {
            signals::default_effect(number);
            // SAFETY: this very process; the signal takes effect when the handler returns.
            unsafe {
                sys::syscall(
                    sys::KILL,
                    [calls::kernel_pid() as usize, number, 0, 0, 0, 0],
                )
            };
            0
        }
        _ => {
            // SAFETY: as above.
            let action = unsafe { &mut book().sigactions[number] };
            if action.flags & libc::SA_RESETHAND as usize != 0 {
                action.handler = libc::SIG_DFL;
            }
            1
        }
    }
}

/// Waits until a signal has been held back; each arrival is reported once. `None`: not within `limit`.
pub fn next_notice(limit: Duration) -> Option<i32> {
    let deadline = Instant::now().checked_add(limit);
    loop {
        let seen = ARRIVALS.load(Ordering::SeqCst);
        let arrived = ARRIVED.load(Ordering::SeqCst);
        if arrived != 0 {
            let number = arrived.trailing_zeros();
            ARRIVED.fetch_and(!(1 << number), Ordering::SeqCst);
            return i32::try_from(number).ok();
        }
        let left = deadline.map_or(Duration::from_secs(3600), |d| {
            d.saturating_duration_since(Instant::now())
        });
        if left.is_zero() {
            return None;
        }
        let time = [left.as_secs() as i64, i64::from(left.subsec_nanos())];
        // SAFETY: FUTEX_WAIT_PRIVATE on a live word, with a time of this frame.
        unsafe {
            sys::syscall(
                sys::FUTEX,
                [
                    ARRIVALS.as_ptr() as usize,
                    128,
                    seen as usize,
                    time.as_ptr() as usize,
                    0,
                    0,
                ],
            )
        };
    }
}

/// Whether the program has a handler of its own for `signal`.
pub fn has_handler(signal: i32) -> bool {
    let number = signal as usize % PLACES.len();
    // SAFETY: a word of the book, which exists once signals are held back.
    INSTALLED.load(Ordering::SeqCst) && unsafe { book() }.sigactions[number].handler > 1
}

/// Takes a signal that was held back as done with: the program never gets it.
pub fn drop_signal(signal: i32) {
    let place = &PLACES[signal as usize % PLACES.len()];
    let _ = place
        .state
        .compare_exchange(HELD, FREE, Ordering::SeqCst, Ordering::SeqCst);
}

/// Gives the program a signal that was held back, with what it came with: its handler runs, or the
/// default effect takes place. Does nothing if the signal is not held.
pub fn pass_signal(signal: i32) {
    let number = signal as usize % PLACES.len();
    let place = &PLACES[number];
    if place.state.load(Ordering::SeqCst) != HELD {
        return;
    }
    // SAFETY: a word of the book, which exists since a signal has been held back.
    let ignored = unsafe { book() }.sigactions[number].handler == libc::SIG_IGN;
    let next = if ignored { FREE } else { PASSING };
    // SAFETY: the state is HELD, and only one thread passes signals on.
    let info = unsafe { *place.info.get() };
    place.state.store(next, Ordering::SeqCst);
    if ignored {
        return;
    }
    let pid = calls::kernel_pid() as usize;
    // SAFETY: the kernel reads the 128 bytes of `info`; a process may send itself any.
    let queued = unsafe {
        sys::syscall(
            libc::SYS_rt_sigqueueinfo as usize,
            [pid, number, info.as_ptr() as usize, 0, 0, 0],
        )
    };
    if queued < 0 {
        // SAFETY: numbers only. Without its siginfo, but it arrives.
        unsafe { sys::syscall(sys::KILL, [pid, number, 0, 0, 0, 0]) };
    }
}
