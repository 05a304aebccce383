//! Critical sections: no checkpoint while any is held. Counted over all threads of the process.
//!
//! A hold that comes while the threads are being stopped waits in upper code until the checkpoint is over,
//! unless its thread holds already (nesting).

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use mana_raw::interface::{ERR_BUSY, ERR_FULL};
use split_process::ThreadId;

/// Most holds at a time: more are holds that are never taken back.
const MOST: usize = 100_000;

struct Hold {
    thread: Option<ThreadId>,
    why: String,
    since: Instant,
}

struct Holds {
    held: Vec<Hold>,
    /// The threads are being stopped.
    closed: bool,
}

static HOLDS: Mutex<Holds> = Mutex::new(Holds {
    held: Vec::new(),
    closed: false,
});
static RELEASED: Condvar = Condvar::new();

fn lock() -> MutexGuard<'static, Holds> {
    HOLDS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What became of a wish to hold.
pub enum Held {
    Yes,
    /// To be asked again.
    NotNow,
    /// An error.
    Never(i32),
}

/// The calling thread holds checkpoints back.
pub fn hold(why: String) -> Held {
    if super::events::is_running_here() {
        return Held::Never(ERR_BUSY);
    }
    let thread = split_process::current_thread_id();
    let mut holds = lock();
    if holds.closed && !holds.held.iter().any(|h| h.thread == thread) {
        return Held::NotNow;
    }
    if holds.held.len() >= MOST {
        return Held::Never(ERR_FULL);
    }
    holds.held.push(Hold {
        thread,
        why,
        since: Instant::now(),
    });
    Held::Yes
}

/// Takes the last hold of the calling thread back, else the last of all. `false`: none is held.
pub fn release() -> bool {
    let thread = split_process::current_thread_id();
    let mut holds = lock();
    let own = holds.held.iter().rposition(|h| h.thread == thread);
    match own.or(holds.held.len().checked_sub(1)) {
        Some(at) => {
            holds.held.remove(at);
            if holds.held.is_empty() {
                RELEASED.notify_all();
            }
            true
        }
        None => false,
    }
}

/// Whether the calling thread holds.
pub fn is_mine() -> bool {
    let thread = split_process::current_thread_id();
    lock().held.iter().any(|h| h.thread == thread)
}

impl Hold {
    fn text(&self) -> String {
        let thread = self.thread.map_or(0, |t| t.0);
        match self.why.as_str() {
            "" => format!("the program holds checkpoints back (mana_hold, thread {thread})"),
            why => {
                format!("the program holds checkpoints back: {why} (mana_hold, thread {thread})")
            }
        }
    }
}

/// Who holds, for a human; the one that began first.
pub fn description() -> Option<String> {
    lock().held.first().map(Hold::text)
}

/// No new holds; waits until there is none.
pub fn close(deadline: Instant) -> Result<(), String> {
    let mut holds = lock();
    holds.closed = true;
    loop {
        let Some(first) = holds.held.first() else {
            return Ok(());
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(format!(
                "{}, for {} s now",
                first.text(),
                first.since.elapsed().as_secs()
            ));
        }
        holds = RELEASED
            .wait_timeout(holds, left)
            .unwrap_or_else(PoisonError::into_inner)
            .0;
    }
}

/// The checkpoint is over.
pub fn open() {
    lock().closed = false;
}
