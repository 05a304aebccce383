//! Callbacks, and the thread of the program that runs them.
//!
//! The thread is made when the first callback is registered. It has all signals blocked (handlers of the
//! program never run on it) and sleeps on [`Events::posted`]. While it runs callbacks before a checkpoint
//! all other threads of the program run on; they are stopped when it has finished.

use core::ffi::c_void;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicUsize, Ordering};

use mana_raw::interface::{
    slot, Events, ERR_ARGUMENT, ERR_FULL, EVENTS_MAGIC, EVENTS_VERSION, EVENT_CHECKPOINT,
    EVENT_RESTARTED, QUEUE,
};
use mana_raw::layout::INTERFACE_SLOTS;
use mana_raw::{cross, sys};

type Callback = extern "C" fn(i32, *mut c_void);

/// Most callbacks of a process.
const MOST: usize = 256;

struct Entry {
    event: AtomicI32,
    callback: AtomicUsize,
    data: AtomicPtr<c_void>,
}

static ENTRIES: [Entry; MOST] = [const {
    Entry {
        event: AtomicI32::new(0),
        callback: AtomicUsize::new(0),
        data: AtomicPtr::new(core::ptr::null_mut()),
    }
}; MOST];
/// Entries in use.
static COUNT: AtomicUsize = AtomicUsize::new(0);
/// Held while an entry is made.
static CHANGING: AtomicBool = AtomicBool::new(false);
/// Whether the thread exists.
static STARTED: AtomicBool = AtomicBool::new(false);

static EVENTS: Events = Events {
    magic: EVENTS_MAGIC,
    version: EVENTS_VERSION,
    posted: AtomicU32::new(0),
    done: AtomicU32::new(0),
    running: AtomicU32::new(0),
    queue: [const { AtomicU32::new(0) }; QUEUE],
};

// Before glibc 2.34 a program may come without threads.
core::arch::global_asm!(
    ".weak pthread_create",
    ".globl mana_interface_pthread_create",
    ".hidden mana_interface_pthread_create",
    "mana_interface_pthread_create:",
    "mov rax, [rip + pthread_create@GOTPCREL]",
    "ret",
);

extern "C" {
    fn mana_interface_pthread_create() -> usize;
    fn sigfillset(set: *mut [u64; 16]) -> i32;
    fn sigprocmask(how: i32, set: *const [u64; 16], old: *mut [u64; 16]) -> i32;
}

const SIG_SETMASK: i32 = 2;
const FUTEX_WAIT: usize = 128;
const FUTEX_WAKE: usize = 129;
const PRCTL: usize = 157;
const PR_SET_NAME: usize = 15;

/// Adds a callback.
pub fn register(event: i32, callback: Callback, data: *mut c_void) -> i32 {
    if !(EVENT_CHECKPOINT as i32..=EVENT_RESTARTED as i32).contains(&event) {
        return ERR_ARGUMENT;
    }
    while CHANGING.swap(true, Ordering::Acquire) {
        sys::nap(50_000);
    }
    let result = add(event, callback, data);
    CHANGING.store(false, Ordering::Release);
    result
}

fn add(event: i32, callback: Callback, data: *mut c_void) -> i32 {
    let count = COUNT.load(Ordering::Relaxed);
    let Some(entry) = ENTRIES.get(count) else {
        return ERR_FULL;
    };
    if !STARTED.load(Ordering::Relaxed) {
        if !start_thread() {
            return ERR_FULL;
        }
        STARTED.store(true, Ordering::Relaxed);
    }
    entry.event.store(event, Ordering::Relaxed);
    entry.data.store(data, Ordering::Relaxed);
    entry.callback.store(callback as usize, Ordering::Relaxed);
    COUNT.store(count + 1, Ordering::Release);
    let events = &raw const EVENTS;
    cross!(INTERFACE_SLOTS + slot::REGISTER, fn(*const Events) -> i32; events)
}

fn start_thread() -> bool {
    type Create = unsafe extern "C" fn(
        *mut usize,
        *const c_void,
        extern "C" fn(*mut c_void) -> *mut c_void,
        *mut c_void,
    ) -> i32;
    // SAFETY: reads the address the loader found.
    let create = unsafe { mana_interface_pthread_create() };
    if create == 0 {
        return false;
    }
    let (mut all, mut old, mut id) = ([0u64; 16], [0u64; 16], 0usize);
    // SAFETY: the program's libc, with memory of this frame. sigfillset leaves out what it keeps for itself.
    unsafe {
        sigfillset(&mut all);
        sigprocmask(SIG_SETMASK, &all, &mut old);
    }
    // SAFETY: the C library's function of that name.
    let create = unsafe { core::mem::transmute::<usize, Create>(create) };
    // SAFETY: no attributes, no argument; `serve` never returns.
    let rc = unsafe { create(&mut id, core::ptr::null(), serve, core::ptr::null_mut()) };
    // SAFETY: as above.
    unsafe { sigprocmask(SIG_SETMASK, &old, core::ptr::null_mut()) };
    rc == 0
}

/// Until the process ends.
extern "C" fn serve(_: *mut c_void) -> *mut c_void {
    // SAFETY: names this thread.
    unsafe {
        sys::syscall(
            PRCTL,
            [PR_SET_NAME, c"mana-events".as_ptr() as usize, 0, 0, 0, 0],
        )
    };
    loop {
        let (posted, done) = (
            EVENTS.posted.load(Ordering::Acquire),
            EVENTS.done.load(Ordering::Relaxed),
        );
        if posted == done {
            futex(&EVENTS.posted, FUTEX_WAIT, posted);
            continue;
        }
        let event = EVENTS
            .queue
            .get(done as usize % QUEUE)
            .map_or(0, |e| e.load(Ordering::Relaxed));
        run(event);
        EVENTS.done.store(done.wrapping_add(1), Ordering::Release);
        futex(&EVENTS.done, FUTEX_WAKE, u32::MAX >> 1);
    }
}

fn futex(word: &AtomicU32, operation: usize, value: u32) {
    let at = word.as_ptr() as usize;
    // SAFETY: a word of static data; no time limit.
    unsafe { sys::syscall(sys::FUTEX, [at, operation, value as usize, 0, 0, 0]) };
}

/// The callbacks of one event: as registered before a checkpoint, in reverse after it.
fn run(event: u32) {
    let count = COUNT.load(Ordering::Acquire).min(MOST);
    cross!(INTERFACE_SLOTS + slot::CALLBACKS, fn(i32) -> i32; 1);
    for step in 0..count {
        let index = match event {
            EVENT_CHECKPOINT => step,
            _ => count - 1 - step,
        };
        let Some(entry) = ENTRIES.get(index) else {
            continue;
        };
        if entry.event.load(Ordering::Relaxed) != event as i32 {
            continue;
        }
        EVENTS.running.store(index as u32 + 1, Ordering::Relaxed);
        // SAFETY: stored by `add` from a function of this type, before the count was raised.
        let callback = unsafe {
            core::mem::transmute::<usize, Callback>(entry.callback.load(Ordering::Relaxed))
        };
        callback(event as i32, entry.data.load(Ordering::Relaxed));
    }
    EVENTS.running.store(0, Ordering::Relaxed);
    cross!(INTERFACE_SLOTS + slot::CALLBACKS, fn(i32) -> i32; 0);
}
