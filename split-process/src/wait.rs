//! Waits that a park has interrupted: the call is made again as if nothing had happened, with what
//! is left of its time-out. Lower half, while the threads are parked.
//!
//! The kernel itself restarts what it can (the park signal's handler is `SA_RESTART`). What it
//! answers with EINTR whenever a handler has run (poll, nanosleep, pause, ...) is rewound to the
//! `syscall` instruction here. Its number is the one recorded by the trampoline, else found by
//! decoding backwards. A handler of the program that arrives before the call is made again finds
//! `ThreadBlock::rewound` and gives the program the EINTR it is owed.

use crate::book::book;
use crate::signals;
use crate::threads::Thread;
use mana_raw::layout::{REWOUND_BY_KERNEL, SHIM_CODE_END, TRAMPOLINES};
use mana_raw::{base, entry, sys};
use std::sync::Mutex;
use std::time::Instant;

/// Offsets in the kernel's `ucontext`.
pub const RDI: usize = 104;
const RSI: usize = 112;
const RDX: usize = 136;
const R10: usize = 56;
const R8: usize = 40;
const RAX: usize = 144;
const RCX: usize = 152;
/// Instruction pointer.
pub const RIP: usize = 168;
/// Signal mask.
pub const MASK: usize = 296;

const EINTR: isize = -4;

/// A timed wait of a parked thread.
struct Timed {
    thread: i32,
    /// Time stamp of the entry, or of the last settlement.
    stamp: u64,
}

static TIMED: Mutex<Vec<Timed>> = Mutex::new(Vec::new());

fn stamp() -> u64 {
    // SAFETY: RDTSC exists on every x86-64 processor.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Nanoseconds of `ticks` of the time stamp counter, measured since the first call.
fn nanoseconds(ticks: u64) -> u64 {
    static ORIGIN: Mutex<Option<(u64, Instant)>> = Mutex::new(None);
    let mut origin = ORIGIN
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let (first, time) = *origin.get_or_insert_with(|| (stamp(), Instant::now()));
    let mut passed = stamp().wrapping_sub(first);
    let mut elapsed = time.elapsed();
    if elapsed.as_micros() < 2000 {
        std::thread::sleep(std::time::Duration::from_millis(2));
        passed = stamp().wrapping_sub(first);
        elapsed = time.elapsed();
    }
    (u128::from(ticks) * elapsed.as_nanos() / u128::from(passed.max(1))) as u64
}

/// Starts the measurement of the counter's rate.
pub fn calibrate() {
    nanoseconds(0);
}

struct Context(usize);

impl Context {
    fn get(&self, offset: usize) -> usize {
        // SAFETY: the ucontext of a parked thread, which stays valid while it is parked.
        unsafe { *((self.0 + offset) as *const usize) }
    }
    fn set(&self, offset: usize, value: usize) {
        // SAFETY: as above; its thread reads it only after release.
        unsafe { *((self.0 + offset) as *mut usize) = value }
    }
}

fn context(thread: &Thread) -> Context {
    Context(thread.context.load(std::sync::atomic::Ordering::Relaxed))
}

/// The number of the call that ended just before `rip`.
fn number(thread: &Thread, rip: usize) -> Option<u32> {
    if (TRAMPOLINES..SHIM_CODE_END).contains(&rip) && thread.block.wait_nr != 0 {
        return u32::try_from(thread.block.wait_nr).ok();
    }
    const LOOK: usize = 160;
    let start = [LOOK, 64, 32, 16]
        .into_iter()
        .map(|n| rip - n)
        .find(|&s| crate::in_upper_range(s))?;
    // SAFETY: code of the program just before where its thread stands.
    let code = unsafe { std::slice::from_raw_parts(start as *const u8, rip - start) };
    crate::sites::number_at(code, rip - start - 2)
}

/// What became of an interrupted wait.
enum Rewound {
    /// The thread was in none, or the kernel restarts it.
    No,
    /// Its call is not known: it ends with EINTR.
    Unknown,
    /// This call is made again.
    Yes(u32),
}

/// Takes an interrupted thread back to before the wait it was in. Lower half's FS: decoding allocates.
fn rewind(thread: &Thread, context: &Context) -> Rewound {
    let rip = context.get(RIP);
    // SAFETY: two bytes of upper code that the thread is about to run.
    let at_call =
        crate::in_upper_range(rip + 1) && unsafe { *(rip as *const [u8; 2]) } == [0x0f, 5];
    if at_call && slow(context.get(RAX)) {
        thread.with_block(|block| block.rewound = rip as u64 | 1 << REWOUND_BY_KERNEL);
        return Rewound::No;
    }
    // SAFETY: two bytes of upper code before the place a system call returned to.
    let after_call =
        crate::in_upper_range(rip - 2) && unsafe { *((rip - 2) as *const [u8; 2]) } == [0x0f, 5];
    // Where a handler of the program has run since, the shim has cleared rcx: its EINTR stays.
    let fresh = context.get(RCX) == rip;
    if context.get(RAX) as isize != EINTR || !after_call || !fresh {
        return Rewound::No;
    }
    let Some(number) = number(thread, rip) else {
        return Rewound::Unknown;
    };
    if number == 3 {
        return Rewound::No; // close: the descriptor is gone
    }
    context.set(RAX, number as usize);
    context.set(RIP, rip - 2);
    thread.with_block(|block| block.rewound = (rip - 2) as u64);
    Rewound::Yes(number)
}

/// A signal that is not the program's has interrupted this thread in the upper half, at `context`: nobody
/// may notice. In a handler: FS may be the program's, whose thread-local storage the lower C library would take for
/// its own, and its stack may be small; the thread's lower stack is free.
pub fn undisturbed(thread: &'static Thread, context: usize) {
    if !crate::in_upper_range(Context(context).get(RIP)) {
        return;
    }
    let both = (thread, context);
    let top = (thread.block.lower_rsp & !63) - FREE;
    // A handler of the program that came now would use that stack too.
    let mask = signals::set_mask(!0);
    // SAFETY: GS is set in a handler.
    let fs = unsafe { base::fs() };
    // SAFETY: the lower thread's own thread control block, for code of the lower half.
    unsafe { base::set_fs(thread.block.lower_fs) };
    // SAFETY: the thread is in the upper half, so nobody uses its lower stack; `both` outlives the call.
    unsafe { entry::call_on_stack(top, rewind_interrupted, (&raw const both) as usize) };
    // SAFETY: back to what it was.
    unsafe { base::set_fs(fs) };
    signals::set_mask(mask);
}

/// Bytes of the lower stack that are left alone.
const FREE: usize = 256;

unsafe extern "C" fn rewind_interrupted(argument: usize) {
    // SAFETY: what `undisturbed` has passed.
    let (thread, context) = unsafe { *(argument as *const (&'static Thread, usize)) };
    rewind(thread, &Context(context));
}

/// Brings every parked thread to a state that can go on later, here or in another process.
pub fn settle(threads: &[&'static Thread]) {
    let mut timed = TIMED
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    timed.clear();
    for thread in threads {
        let context = context(thread);
        let rip = context.get(RIP);
        let number = match rewind(thread, &context) {
            Rewound::No => continue,
            Rewound::Unknown => {
                log::debug!(
                    "thread {}: interrupted call at {rip:#x} is not known",
                    thread.identity().0
                );
                continue;
            }
            Rewound::Yes(number) => number,
        };
        if crate::sites::is_timed(number) && (TRAMPOLINES..SHIM_CODE_END).contains(&rip) {
            let now = stamp();
            if !kernel_counts(number) {
                shorten(
                    thread,
                    &context,
                    number,
                    now.wrapping_sub(thread.block.wait_tsc),
                );
            }
            timed.push(Timed {
                thread: thread.identity().0,
                stamp: now,
            });
        }
    }
}

/// The time the program stood still counts too.
pub fn resume<'a>(threads: impl Iterator<Item = &'a Thread>) {
    let mut timed = TIMED
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let now = stamp();
    for thread in threads {
        let id = thread.identity().0;
        let Some(entry) = timed.iter().find(|t| t.thread == id) else {
            continue;
        };
        let context = context(thread);
        let number = context.get(RAX) as u32;
        shorten(thread, &context, number, now.wrapping_sub(entry.stamp));
        thread.with_block(|block| block.wait_tsc = now);
    }
    timed.clear();
}

/// After a restart, a wait counts from now.
pub fn restamp(thread: &Thread) {
    thread.with_block(|block| block.wait_tsc = stamp());
}

/// Calls that wait without bound and that the kernel restarts, or not, as the handler's `SA_RESTART`
/// says: files, sockets, terminals, children, locks, queues.
fn slow(number: usize) -> bool {
    matches!(
        number,
        0..=2 | 16..=20 | 42..=47 | 61 | 65 | 69 | 70 | 72 | 73 | 202 | 242 | 243 | 247 | 257 | 275 | 288 | 299 | 307 | 426
    )
}

/// Whether the kernel itself writes what is left of the time-out when a call is interrupted:
/// select, pselect6, ppoll.
fn kernel_counts(number: u32) -> bool {
    matches!(number, 23 | 270 | 271)
}

/// Takes `ticks` off the time-out of the call a context is about to make.
fn shorten(thread: &Thread, context: &Context, number: u32, ticks: u64) {
    let ns = nanoseconds(ticks);
    let milliseconds = |register: usize| {
        let left = context.get(register) as i32;
        if left > 0 {
            context.set(
                register,
                i64::from(left)
                    .saturating_sub((ns / 1_000_000) as i64)
                    .max(0) as usize,
            );
        }
    };
    match number as usize {
        sys::POLL => milliseconds(RDX),
        sys::EPOLL_WAIT | sys::EPOLL_PWAIT => milliseconds(R10),
        sys::NANOSLEEP => timespec(thread, context, RDI, ns),
        // Absolute deadlines stay.
        sys::CLOCK_NANOSLEEP if context.get(RSI) & 1 == 0 => timespec(thread, context, RDX, ns),
        128 => timespec(thread, context, RDX, ns), // rt_sigtimedwait
        220 => timespec(thread, context, R10, ns), // semtimedop
        441 => timespec(thread, context, R10, ns), // epoll_pwait2
        271 => in_place(context, RDX, ns, 1),      // ppoll
        270 => in_place(context, R8, ns, 1),       // pselect6
        23 => in_place(context, R8, ns, 1000),     // select: microseconds
        _ => {}
    }
}

/// The same for a time value in memory: a shortened copy in the book takes its place.
fn timespec(thread: &Thread, context: &Context, register: usize, ns: u64) {
    let at = context.get(register);
    if at == 0 {
        return;
    }
    // SAFETY: the program's time value, which the kernel has read before.
    let [seconds, rest] = unsafe { *(at as *const [i64; 2]) };
    let left = (i128::from(seconds) * 1_000_000_000 + i128::from(rest) - i128::from(ns)).max(0);
    // SAFETY: this thread's own slot of the book.
    let scratch = unsafe { &mut book().scratch[thread.slot] };
    *scratch = [(left / 1_000_000_000) as i64, (left % 1_000_000_000) as i64];
    context.set(register, scratch.as_ptr() as usize);
}

/// The same where the kernel has just written what was left: it is the program's to be changed.
/// `unit`: nanoseconds of the second word.
fn in_place(context: &Context, register: usize, ns: u64, unit: i64) {
    let at = context.get(register) as *mut [i64; 2];
    if at.is_null() {
        return;
    }
    // SAFETY: the kernel has read it, and written it if it could.
    let [seconds, rest] = unsafe { *at };
    let left = (i128::from(seconds) * 1_000_000_000 + i128::from(rest) * i128::from(unit)
        - i128::from(ns))
    .max(0);
    let value = [
        (left / 1_000_000_000) as i64,
        (left % 1_000_000_000) as i64 / unit,
    ];
    // Through the kernel, which refuses where the program's memory is not writable.
    let local = libc::iovec {
        iov_base: (&raw const value).cast_mut().cast(),
        iov_len: 16,
    };
    let remote = libc::iovec {
        iov_base: at.cast(),
        iov_len: 16,
    };
    // SAFETY: the kernel checks both ranges.
    unsafe { libc::process_vm_writev(libc::getpid(), &local, 1, &remote, 1, 0) };
}
