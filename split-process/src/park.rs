//! Parking: bringing every thread of the upper half to a halt in upper code, and letting it go.
//!
//! A control thread (lower half) signals each thread with `PARK_SIGNAL`; the handler runs on the
//! program's thread, with whichever FS was current, and touches no thread-local storage. It parks
//! only where an image makes sense: depth 0, FS not the lower half's, instruction pointer in an
//! upper range. Otherwise it returns, and is signalled again.

use crate::api::{ParkError, RunError, ThreadId};
use crate::threads::{self, wait_while, wake, Job, Thread};
use crate::{calls, children, control, wait};
use mana_raw::layout::{HANDLERS, PARK_SIGNAL};
use mana_raw::{base, entry, shim, sys};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Nothing asked for, or released.
const IDLE: u32 = 0;
/// A signal is under way.
const SIGNALLED: u32 = 1;
/// The handler ran where the thread could not be parked.
const REFUSED: u32 = 2;
/// Parked; `context` is valid.
const PARKED: u32 = 3;

/// `command`: stay.
const STAY: u32 = 0;
/// `command`: go on.
const GO: u32 = 1;
/// `command`: run the job, then stay.
const RUN: u32 = 2;

/// Tells our signals from those of the program's C library.
const OURS: usize = 0x6d61_6e61;
/// Bytes of the stack jobs run on.
const JOB_STACK: usize = 1 << 20;

/// Whether threads are to park.
static PARKING: AtomicU32 = AtomicU32::new(0);
/// Whether a [`Parked`] exists.
static HELD: AtomicBool = AtomicBool::new(false);

/// Handler of the park signal; the arena's shim jumps here.
///
/// # Safety
/// Called by the kernel through the shim, on a thread of the upper half.
pub unsafe extern "C" fn park_handler(signal: i32, info: *const usize, context: usize) {
    // SAFETY: siginfo: the fourth word is the value that was queued with it.
    let ours = unsafe { *info.add(3) } == OURS;
    // SAFETY: GS points to this thread's record.
    let thread: &'static Thread = unsafe { &*(base::block() as *const Thread) };
    if !ours {
        forward(signal, info, context);
        return;
    }
    if PARKING.load(Ordering::SeqCst) == 0 {
        if thread.depth() == 0 {
            wait::undisturbed(thread, context);
        }
        thread.park.store(IDLE, Ordering::SeqCst);
        return;
    }
    // SAFETY: the kernel's ucontext; rip is a word of it.
    let rip = unsafe { *((context + wait::RIP) as *const usize) };
    // SAFETY: GS is set.
    let fs = unsafe { base::fs() };
    if thread.depth() != 0 || fs == thread.block.lower_fs || !crate::in_upper_range(rip) {
        thread.refused_at.store(rip, Ordering::Relaxed);
        thread.park.store(REFUSED, Ordering::SeqCst);
        return;
    }
    thread.with_block(|block| block.upper_fs = fs);
    thread.context.store(context, Ordering::Relaxed);
    thread.command.store(STAY, Ordering::Relaxed);
    thread.park.store(PARKED, Ordering::SeqCst);
    wake(&thread.park);
    loop {
        wait_while(&thread.command, STAY);
        if thread.command.load(Ordering::Acquire) == GO {
            break;
        }
        let top = thread.job_stack.load(Ordering::Relaxed);
        // SAFETY: a stack made for this thread by `run_on`; nothing of the program runs.
        unsafe { entry::call_on_stack(top, run_job, std::ptr::from_ref(thread) as usize) };
        thread.command.store(STAY, Ordering::Release);
        wake(&thread.command);
    }
    thread.park.store(IDLE, Ordering::SeqCst);
    wake(&thread.park);
}

/// In a forked child: nobody is parked, and nobody parks.
pub fn forget() {
    PARKING.store(0, Ordering::SeqCst);
    HELD.store(false, Ordering::SeqCst);
}

/// A signal 33 that is not ours belongs to the program's C library (setuid on all threads).
fn forward(signal: i32, info: *const usize, context: usize) {
    // SAFETY: one word of the handlers' table.
    let handler = unsafe { *(HANDLERS as *const usize).add(PARK_SIGNAL as usize) };
    if handler <= 1 {
        return;
    }
    // SAFETY: the shim's signal entry has this signature; it returns here, since this call and not
    // the kernel has put the return address.
    unsafe {
        let enter: extern "C" fn(i32, *const usize, usize) = std::mem::transmute(shim::signal());
        let block = base::block();
        (*block).in_lower += 1;
        enter(signal, info, context);
        (*block).in_lower -= 1;
    }
}

unsafe extern "C" fn run_job(argument: usize) {
    // SAFETY: the record of this thread.
    let thread = unsafe { &*(argument as *const Thread) };
    let (upper, lower) = thread.with_block(|block| {
        block.in_lower += 1;
        (block.upper_fs, block.lower_fs)
    });
    // SAFETY: this lower thread's own.
    unsafe { base::set_fs(lower) };
    // SAFETY: `command` is RUN: the job is this thread's now.
    if let Some(job) = unsafe { (*thread.job.get()).take() } {
        job();
    }
    // SAFETY: back to the program's.
    unsafe { base::set_fs(upper) };
    thread.with_block(|block| block.in_lower -= 1);
}

/// Signals a thread that was last seen in `state`.
fn signal(thread: &Thread, state: u32) {
    let change = |from, to| {
        let done = thread
            .park
            .compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst);
        done.is_ok()
    };
    if !change(state, SIGNALLED) {
        return; // it has parked meanwhile, by an earlier signal
    }
    // siginfo: number, error, code (SI_QUEUE), then pid, uid, and the value.
    let mut info = [0usize; 16];
    info[0] = PARK_SIGNAL as usize;
    info[1] = u32::MAX as usize; // si_code = -1
    info[3] = OURS;
    let tid = thread.tid.load(Ordering::Relaxed) as usize;
    let pid = std::process::id() as usize;
    // SAFETY: the kernel reads the 128 bytes of `info`.
    let result = unsafe {
        sys::syscall(
            sys::RT_TGSIGQUEUEINFO,
            [pid, tid, PARK_SIGNAL as usize, info.as_ptr() as usize, 0, 0],
        )
    };
    if result < 0 {
        change(SIGNALLED, REFUSED);
    }
}

/// This process has ignored the park signal for a while: whoever one was sent to is sent another. A thread
/// that got the first all the same parks, and the second finds it parked.
pub fn missed() {
    for thread in threads::live() {
        let _ =
            thread
                .park
                .compare_exchange(SIGNALLED, REFUSED, Ordering::SeqCst, Ordering::SeqCst);
    }
}

/// Asks every thread of the program to come out of the lower half (`pending`), without stopping it.
pub fn set_pending(on: bool) {
    for thread in threads::live() {
        thread.set_pending(on);
    }
    control::membarrier();
}

/// Parks every thread of the upper half.
///
/// # Errors
/// Names the first thread that could not be parked, and where it is; then none is parked.
pub fn park_all(deadline: Duration) -> Result<Parked, ParkError> {
    if crate::threads::live().is_empty() {
        return Err(ParkError::NotRunning);
    }
    if HELD.swap(true, Ordering::SeqCst) {
        return Err(ParkError::Busy);
    }
    let begin = Instant::now();
    PARKING.store(1, Ordering::SeqCst);
    let mut pause = Duration::from_micros(20);
    loop {
        let all = threads::live();
        let mut missing: Option<&'static Thread> = None;
        for thread in &all {
            thread.set_pending(true);
            match thread.park.load(Ordering::SeqCst) {
                PARKED => {}
                state @ (IDLE | REFUSED) => {
                    missing.get_or_insert(thread);
                    signal(thread, state);
                }
                _ => {
                    missing.get_or_insert(thread);
                }
            }
        }
        // A thread that was being made while we looked is in the list now.
        if missing.is_none() && threads::live().len() == all.len() {
            // In a tree the caller looks after the children.
            let child = match crate::tree::table() {
                Some(_) => None,
                None => children::living(),
            };
            match child {
                None => {
                    let parked = Parked {
                        threads: all,
                        opened: Vec::new().into(),
                    };
                    wait::settle(&parked.threads);
                    return Ok(parked);
                }
                Some((pid, name)) if begin.elapsed() >= deadline => {
                    let parked = Parked {
                        threads: all,
                        opened: Vec::new().into(),
                    };
                    drop(parked);
                    return Err(ParkError::Child { pid, name });
                }
                Some(_) => {}
            }
        }
        // Whoever ends the program waits in the lower half until the job's end is known.
        let ends = missing.is_some() && calls::is_ending();
        if ends || begin.elapsed() >= deadline {
            let error = missing
                .filter(|_| !ends)
                .map(|t| stuck(t, begin.elapsed()))
                .unwrap_or(ParkError::NotRunning);
            drop(Parked {
                threads: all,
                opened: Vec::new().into(),
            });
            return Err(error);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_micros(500));
    }
}

fn stuck(thread: &Thread, waited: Duration) -> ParkError {
    let tid = thread.tid.load(Ordering::Relaxed);
    let read = |file: &str| {
        std::fs::read_to_string(format!("/proc/self/task/{tid}/{file}")).unwrap_or_default()
    };
    let status = read("status");
    let state = status
        .lines()
        .find_map(|l| l.strip_prefix("State:"))
        .unwrap_or("?")
        .trim()
        .to_owned();
    let rip = thread.refused_at.load(Ordering::Relaxed);
    let place = match thread.depth() {
        0 => format!("at {rip:#x} outside the program's code, kernel state {state}"),
        depth => {
            format!("inside the lower half (depth {depth}, at {rip:#x}), kernel state {state}")
        }
    };
    ParkError::Deadline {
        thread: thread.id.load(Ordering::Relaxed),
        name: read("comm").trim_end().to_owned(),
        waited,
        place,
    }
}

/// The program, standing still. Dropping it lets the program go on.
pub struct Parked {
    pub(crate) threads: Vec<&'static Thread>,
    /// Ranges made readable for the capture: start, length, protection to go back to.
    pub(crate) opened: std::cell::RefCell<Vec<(usize, usize, i32)>>,
}

impl Parked {
    /// The identities of the parked threads.
    pub fn threads(&self) -> Vec<ThreadId> {
        self.threads.iter().map(|t| t.identity()).collect()
    }

    fn find(&self, thread: ThreadId) -> Result<&'static Thread, RunError> {
        let found = self.threads.iter().find(|t| t.identity() == thread);
        found
            .copied()
            .ok_or(RunError::NoThread { thread: thread.0 })
    }

    /// Runs `job` on a parked thread, on a 1 MiB stack of its own, with the lower half's FS, and
    /// waits until it has returned.
    pub fn run_on(&self, thread: ThreadId, job: Job) -> Result<(), RunError> {
        self.start_on(thread, job)?;
        self.finish_on(thread)
    }

    /// Waits until the job of [`Parked::start_on`] has returned.
    pub fn finish_on(&self, thread: ThreadId) -> Result<(), RunError> {
        wait_while(&self.find(thread)?.command, RUN);
        Ok(())
    }

    /// Starts `job` like [`Parked::run_on`]. The caller waits with [`Parked::finish_on`] before it
    /// runs another on the same thread, and before it lets the program go.
    pub fn start_on(&self, thread: ThreadId, job: Job) -> Result<(), RunError> {
        let target = self.find(thread)?;
        if target.job_stack.load(Ordering::Relaxed) == 0 {
            // SAFETY: fresh anonymous memory, kept for the life of the record.
            let stack = unsafe {
                libc::mmap(
                    std::ptr::null_mut(),
                    JOB_STACK,
                    3,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                    -1,
                    0,
                )
            };
            if stack == libc::MAP_FAILED {
                return Err(RunError::NoThread { thread: thread.0 });
            }
            target
                .job_stack
                .store(stack as usize + JOB_STACK, Ordering::Relaxed);
        }
        // SAFETY: `command` is STAY: the job is ours to set.
        unsafe { *target.job.get() = Some(job) };
        target.command.store(RUN, Ordering::Release);
        wake(&target.command);
        Ok(())
    }

    /// [`Parked::run_on`] the process's first thread.
    pub fn run_on_main(&self, job: Job) -> Result<(), RunError> {
        let main = self.threads.iter().find(|t| t.main.load(Ordering::Relaxed));
        match main {
            Some(main) => self.run_on(main.identity(), job),
            None => Err(RunError::NoThread { thread: 0 }),
        }
    }

    /// Lets the program go on.
    pub fn release(self) {}
}

impl Drop for Parked {
    fn drop(&mut self) {
        for (start, len, prot) in self.opened.take() {
            if let Err(error) = crate::protect_at(start, len, prot) {
                log::error!("{error}");
            }
        }
        PARKING.store(0, Ordering::SeqCst);
        let parked = |t: &&&Thread| t.park.load(Ordering::SeqCst) == PARKED;
        wait::resume(self.threads.iter().filter(parked).copied());
        for thread in threads::live() {
            thread.set_pending(false);
        }
        for thread in self.threads.iter().filter(parked) {
            thread.command.store(GO, Ordering::Release);
            wake(&thread.command);
        }
        // Until each has left its handler, or it would miss the next request.
        for thread in &self.threads {
            wait_while(&thread.park, PARKED);
        }
        HELD.store(false, Ordering::SeqCst);
    }
}
