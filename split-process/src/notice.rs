//! Signals that are held back from the program until somebody says that it may have them: those by
//! which a batch system announces an end. Lower half.
//!
//! ```text
//!   free --(arrives)--> held --(pass_signal: queued to this process again)--> passing --(arrives)--> free
//!                         \--(the program ignores it)--> free                              to the program
//! ```
//! The kernel's handler of such a signal is the shim's notice entry, which asks [`handler`]. A held
//! signal has not happened for the program: an image taken meanwhile knows nothing of it. What the program
//! sends to itself, or one process of its tree to another (`terminate`, `kill` in a script), announces
//! nothing and is its own at once.
//!
//! | process | a signal from outside |
//! |---|---|
//! | the rank's (the root of a tree) | is held, and reported by [`next_notice`]; in the tree's table it counts as announced until it is over |
//! | a member of the tree | is held; the member's control thread looks at [`held_since`] and at the table |
//! | a child that borrows a member's memory (`vfork`, `posix_spawn`) | stays pending, blocked, until the child has executed a program that is a member |
//! | a child in none of these | is the program's: there is nobody to ask |

use crate::book::book;
use crate::threads::Thread;
use crate::{calls, signals, tree, wait};
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
    /// When it came, on the clock of `tree::clock`.
    since: AtomicU64,
}

// SAFETY: `info` is guarded by `state`.
unsafe impl Sync for Place {}

static PLACES: [Place; 65] = [const {
    Place {
        state: AtomicU32::new(FREE),
        info: UnsafeCell::new([0; INFO]),
        since: AtomicU64::new(0),
    }
}; 65];

/// Signals held back whatever the program does with them (bit n is signal n).
static ALWAYS: AtomicU64 = AtomicU64::new(0);
/// Signals held back as long as the program has no handler for them.
static UNHANDLED: AtomicU64 = AtomicU64::new(0);
/// The process that hears of what is held back.
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
    LISTENER.store(calls::kernel_pid(), Ordering::SeqCst);
    hold(always, unhandled);
}

/// The same in a member of a tree, which is told by the table when they are over.
pub fn hold_signals_in_member(always: u64, unhandled: u64) {
    LISTENER.store(0, Ordering::SeqCst);
    hold(always, unhandled);
}

fn hold(always: u64, unhandled: u64) {
    let ours = mana_raw::layout::PARK_SIGNAL;
    let never = [0, libc::SIGKILL, libc::SIGSTOP, ours]
        .iter()
        .fold(0u64, |bits, signal| bits | (1u64 << signal));
    ALWAYS.store(always & !never, Ordering::SeqCst);
    UNHANDLED.store(unhandled & !never, Ordering::SeqCst);
    if INSTALLED.load(Ordering::SeqCst) {
        install();
    }
}

/// The signals that may be held back, as a mask of the kernel's (bit n is signal n + 1).
pub fn mask() -> u64 {
    (ALWAYS.load(Ordering::Relaxed) | UNHANDLED.load(Ordering::Relaxed)) >> 1
}

/// Whether `signal` is one of those that may be held back.
pub fn may_hold(signal: i32) -> bool {
    (1..64).contains(&signal) && mask() >> (signal - 1) & 1 != 0
}

/// In a forked child: nothing has come yet.
pub fn forget() {
    for place in &PLACES {
        place.state.store(FREE, Ordering::SeqCst);
        place.since.store(0, Ordering::SeqCst);
    }
    ARRIVED.store(0, Ordering::SeqCst);
}

/// Who asks what becomes of a signal in this process.
enum Asks {
    /// A thread that waits in [`next_notice`].
    Listener,
    /// The control thread of a member of a tree.
    Member(&'static tree::Place),
    /// The member that it is about to become.
    Borrower,
}

/// `None`: nobody does.
fn who_asks() -> Option<Asks> {
    if LISTENER.load(Ordering::Relaxed) == calls::kernel_pid() {
        return Some(Asks::Listener);
    }
    let member = tree::own()?;
    if calls::is_process() {
        return Some(Asks::Member(member));
    }
    calls::borrows().then_some(Asks::Borrower)
}

/// Whether the program has sent it, by one of its processes or as the end of something it has started.
///
/// # Safety
/// `info` is the kernel's siginfo.
unsafe fn is_own(info: *const u64) -> bool {
    // SAFETY: the code is the third of its 32-bit words, the sender the fifth.
    let (code, sender) = unsafe { (*info.add(1) as i32, *info.add(2) as i32) };
    match code {
        libc::SI_USER | libc::SI_QUEUE | libc::SI_TKILL => {
            let known = |table: &tree::Table| table.by_real(sender).is_some();
            sender > 0 && (sender == calls::kernel_pid() || tree::table().is_some_and(known))
        }
        libc::SI_TIMER | libc::SI_MESGQ | libc::SI_ASYNCIO | libc::SI_SIGIO => true,
        _ => false,
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
    let Some(asks) = who_asks() else {
        return to_program(number);
    };
    // SAFETY: GS points to this thread's record.
    let thread: &'static Thread = unsafe { &*(base::block() as *const Thread) };
    if matches!(asks, Asks::Borrower) {
        // SAFETY: the kernel's siginfo and context.
        return unsafe { keep_pending(thread, number, info, context) };
    }
    let place = &PLACES[number];
    let passed = place
        .state
        .compare_exchange(PASSING, FREE, Ordering::SeqCst, Ordering::SeqCst);
    if passed.is_ok() {
        return to_program(number);
    }
    // SAFETY: the kernel's siginfo.
    if unsafe { is_own(info) } {
        if let Asks::Member(own) = asks {
            own.set_ended_by_tree(number as i32);
        }
        return to_program(number);
    }
    let held = place
        .state
        .compare_exchange(FREE, HELD, Ordering::SeqCst, Ordering::SeqCst);
    if held.is_ok() {
        // SAFETY: the state has just become HELD: the place is ours; the kernel's siginfo.
        unsafe { *place.info.get() = *info.cast::<[u64; INFO]>() };
        place.since.store(tree::clock(), Ordering::SeqCst);
        match asks {
            Asks::Listener => {
                if let Some(table) = tree::table() {
                    table.announce(signal);
                }
                ARRIVED.fetch_or(1 << number, Ordering::SeqCst);
                ARRIVALS.fetch_add(1, Ordering::SeqCst);
                crate::threads::wake(&ARRIVALS);
            }
            Asks::Member(own) => own.wake(),
            Asks::Borrower => {}
        }
    }
    if thread.depth() == 1 {
        wait::undisturbed(thread, context);
    }
    0
}

/// In a child that borrows this memory: what is from outside is sent again and blocked in `context`, so that it is there
/// for the program that the child executes. What the handler answers.
///
/// # Safety
/// As for [`handler`].
unsafe fn keep_pending(
    thread: &'static Thread,
    number: usize,
    info: *const u64,
    context: usize,
) -> u32 {
    let own = calls::kernel_pid();
    // SAFETY: the kernel's siginfo.
    if unsafe { is_own(info) } || thread.borrower.load(Ordering::Relaxed) == -own {
        return to_program(number);
    }
    let bit = 1u64 << (number - 1);
    if thread.borrower.swap(own, Ordering::Relaxed) != own {
        thread.borrower_holds.store(0, Ordering::Relaxed);
    }
    thread.borrower_holds.fetch_or(bit, Ordering::Relaxed);
    // SAFETY: the mask in the kernel's context of this handler; the kernel reads the 128 bytes, and a process may send
    // itself any. Every signal is blocked here.
    unsafe {
        *((context + wait::MASK) as *mut u64) |= bit;
        sys::syscall(
            sys::RT_TGSIGQUEUEINFO,
            [own as usize, own as usize, number, info as usize, 0, 0],
        );
    }
    0
}

/// The mask a child that borrows this memory has given itself, without what is blocked for it here. Nothing more is held
/// back from it if it `leaves` the tree.
pub fn mask_of_borrower(thread: &Thread, mask: u64, leaves: bool) -> u64 {
    let own = calls::kernel_pid();
    let holds = match thread.borrower.load(Ordering::Relaxed) == own {
        true => thread.borrower_holds.load(Ordering::Relaxed),
        false => 0,
    };
    if leaves {
        thread.borrower.store(-own, Ordering::Relaxed);
    }
    mask & !holds
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

/// When a signal came that is held back, on the clock of `tree::clock`. `None`: it is not.
pub fn held_since(signal: i32) -> Option<u64> {
    let place = &PLACES[signal as usize % PLACES.len()];
    let held = place.state.load(Ordering::SeqCst) == HELD;
    // Zero until its arrival is complete.
    held.then(|| place.since.load(Ordering::SeqCst))
        .filter(|since| *since != 0)
}

/// A held signal is over: the members of the tree are told, if this is its root.
fn withdraw(signal: i32) {
    PLACES[signal as usize % PLACES.len()]
        .since
        .store(0, Ordering::SeqCst);
    if LISTENER.load(Ordering::Relaxed) == calls::kernel_pid() {
        if let Some(table) = tree::table() {
            table.withdraw(signal);
        }
    }
}

/// Takes a signal that was held back as done with: the program never gets it.
pub fn drop_signal(signal: i32) {
    let place = &PLACES[signal as usize % PLACES.len()];
    if place.state.load(Ordering::SeqCst) == HELD {
        withdraw(signal);
        place.state.store(FREE, Ordering::SeqCst);
    }
}

/// This thread is about to execute a program under control, with the signals of [`mask`] blocked: what is
/// held back becomes pending for it, and is held back again there.
pub fn carry(thread: &Thread) {
    let ids = [calls::kernel_pid(), thread.tid.load(Ordering::Relaxed)];
    for (number, place) in PLACES.iter().enumerate() {
        if place.state.load(Ordering::SeqCst) == HELD {
            // SAFETY: the state is HELD; whoever would change that is about to be gone.
            let info = unsafe { *place.info.get() };
            // SAFETY: the kernel reads the 128 bytes; a thread may send itself any.
            unsafe {
                sys::syscall(
                    sys::RT_TGSIGQUEUEINFO,
                    [
                        ids[0] as usize,
                        ids[1] as usize,
                        number,
                        info.as_ptr() as usize,
                        0,
                        0,
                    ],
                )
            };
        }
    }
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
    withdraw(signal);
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
