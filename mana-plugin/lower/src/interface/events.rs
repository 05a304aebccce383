//! Telling the program of checkpoints. Lower half, control threads; the callbacks themselves run on a
//! thread of the program, see `mana_raw::interface::Events` and the library in the upper half.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use mana_raw::interface::{
    Events, EVENTS_MAGIC, EVENTS_VERSION, EVENT_CHECKPOINT, EVENT_CONTINUED, EVENT_RESTARTED, QUEUE,
};

/// Whether the program was told of a checkpoint and has to be told of its end.
static TOLD: AtomicBool = AtomicBool::new(false);
/// The thread that runs callbacks just now (the number the program knows); 0: none.
static THREAD: AtomicI32 = AtomicI32::new(0);

/// The program wants events from here on. `false`: not a structure this version understands.
pub fn register(at: usize) -> bool {
    if !split_process::in_upper_range(at) || valid(at).is_none() {
        return false;
    }
    split_process::set_interface(at);
    true
}

fn valid(at: usize) -> Option<&'static Events> {
    if at == 0 {
        return None;
    }
    // SAFETY: static data of the library in the upper half, which is never unloaded; atomics where
    // both halves write.
    let events = unsafe { &*(at as *const Events) };
    (events.magic == EVENTS_MAGIC && events.version == EVENTS_VERSION).then_some(events)
}

fn events() -> Option<&'static Events> {
    valid(split_process::interface())
}

/// The calling thread begins, or ends, to run callbacks.
pub fn running(on: bool) {
    let me = split_process::current_thread_id().map_or(0, |t| t.0);
    THREAD.store(if on { me } else { 0 }, Ordering::Relaxed);
    mana_plugin::forbid_on(on);
}

/// Whether the calling thread runs callbacks.
pub fn is_running_here() -> bool {
    let running = THREAD.load(Ordering::Relaxed);
    running != 0 && split_process::current_thread_id().is_some_and(|t| t.0 == running)
}

/// Whether no callback is running or about to run.
pub fn idle() -> bool {
    events().is_none_or(|e| e.posted.load(Ordering::Relaxed) == e.done.load(Ordering::Acquire))
}

fn post(events: &Events, event: u32) {
    let number = events.posted.load(Ordering::Relaxed);
    if let Some(place) = events.queue.get(number as usize % QUEUE) {
        place.store(event, Ordering::Relaxed);
    }
    events
        .posted
        .store(number.wrapping_add(1), Ordering::Release);
    // SAFETY: wakes whoever waits on that word.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            events.posted.as_ptr(),
            libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
            i32::MAX,
        )
    };
}

/// Waits until all callbacks of what was posted have returned.
fn settle(events: &Events, deadline: Instant) -> Result<(), String> {
    let begun = Instant::now();
    loop {
        let done = events.done.load(Ordering::Acquire);
        if events.posted.load(Ordering::Relaxed) == done {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(format!(
                "callback {} of the program (mana_on) has not returned for {:.0} s",
                events.running.load(Ordering::Relaxed),
                begun.elapsed().as_secs_f64()
            ));
        }
        wait(&events.done, done, left);
    }
}

fn wait(word: &AtomicU32, value: u32, limit: Duration) {
    let time = libc::timespec {
        tv_sec: limit.as_secs() as i64,
        tv_nsec: limit.subsec_nanos().into(),
    };
    // SAFETY: a word that stays; the time is ours.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
            value,
            &raw const time,
        )
    };
}

/// Runs the callbacks before a checkpoint.
pub fn before(deadline: Instant) -> Result<(), String> {
    let Some(events) = events() else {
        return Ok(());
    };
    settle(events, deadline)?;
    TOLD.store(true, Ordering::Relaxed);
    post(events, EVENT_CHECKPOINT);
    settle(events, deadline)
}

/// The threads go on in the same process: has the callbacks run, if those before were.
pub fn after() {
    if let (Some(events), true) = (events(), TOLD.swap(false, Ordering::Relaxed)) {
        post(events, EVENT_CONTINUED);
    }
}

/// The program ends: callbacks of what it was told last (a restart just before) may still be under way.
pub fn ending(limit: Duration) {
    if let Some(events) = events().filter(|_| !is_running_here()) {
        if let Err(e) = settle(events, Instant::now() + limit) {
            log::debug!("the program ends: {e}");
        }
    }
}

/// The memory is back in a new process, and none of the program's threads runs yet.
pub fn restarted() {
    if let Some(events) = events() {
        post(events, EVENT_RESTARTED);
    }
}
