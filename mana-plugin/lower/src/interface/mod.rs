//! The application interface, seen from below: the slots of `mana_raw::interface`, and what the steps of a
//! checkpoint owe the program.
//!
//! Slots run on threads of the program that are inside the lower half: they take locks only for moments,
//! touch no descriptors (the control thread does that for them), and whoever has to wait is sent back to
//! upper code to ask again.
//!
//! | module | holds |
//! |---|---|
//! | `requests` | checkpoints the program asked for |
//! | `holds` | critical sections |
//! | `events` | callbacks before and after a checkpoint |

pub mod events;
pub mod holds;
mod requests;

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use libckpt::published;
use mana_control::StepError;
use mana_raw::interface::{slot, Events, ERR_ARGUMENT, ERR_BUSY, ERR_CLOSED, ERR_FULL, HOLDS};
use mana_raw::layout::AGAIN;
use split_process::Refused;

use crate::{control, job, mpi, Failure};

/// Values published before the job has begun (by a plug-in's constructor).
static EARLY: Mutex<Vec<(f64, String, String)>> = Mutex::new(Vec::new());
/// Most of them.
const MOST_EARLY: usize = 1000;

/// Longest reason for a hold that is kept.
const MAX_WHY: usize = 200;
/// For callbacks that are under way when the program ends.
const LAST_CALLBACKS: Duration = Duration::from_secs(2);

/// Publishes the slots. Before the program runs.
pub fn install() -> Result<(), Failure> {
    let mut slots = [0usize; slot::COUNT];
    slots[slot::REGISTER] = register as *const () as usize;
    slots[slot::REQUEST] = request as *const () as usize;
    slots[slot::OUTCOME] = outcome as *const () as usize;
    slots[slot::RESTARTS] = restarts as *const () as usize;
    slots[slot::HOLD] = hold as *const () as usize;
    slots[slot::RELEASE] = release as *const () as usize;
    slots[slot::EXCLUDE] = exclude as *const () as usize;
    slots[slot::INCLUDE] = include as *const () as usize;
    slots[slot::PUBLISH] = publish as *const () as usize;
    slots[slot::PLACE] = place as *const () as usize;
    slots[slot::CALLBACKS] = callbacks as *const () as usize;
    slots[slot::MISSING] = missing as *const () as usize;
    split_process::publish_interface(&slots)?;
    Ok(())
}

/// In a process that is not the rank's own: the interface answers that it is closed there.
pub fn close() -> Result<(), Failure> {
    let mut slots = [closed as *const () as usize; slot::COUNT];
    slots[slot::RESTARTS] = restarts as *const () as usize;
    split_process::publish_interface(&slots)?;
    Ok(())
}

/// Whatever the slot: an error, in whatever width it is looked at.
extern "C" fn closed() -> i64 {
    ERR_CLOSED.into()
}

/// Half of what a step may take, so that its failure is told in time.
fn limit() -> Duration {
    Duration::from_secs(job().spec.config.checkpoint_timeout) / 2
}

/// All ranks are at the safe point, and this one's threads are about to be stopped: critical sections
/// end, then the program's callbacks run.
pub fn before_stop() -> Result<(), StepError> {
    let deadline = Instant::now() + limit();
    holds::close(deadline).map_err(StepError::new)?;
    events::before(deadline).map_err(StepError::new)
}

/// The program goes on in this process.
pub fn after_release() {
    holds::open();
    events::after();
}

/// The program ends.
pub fn ending() {
    events::ending(LAST_CALLBACKS);
}

/// The program is about to go on in a new process.
pub fn restarted() {
    events::restarted();
}

extern "C" fn register(events: *const Events) -> i32 {
    match events::register(events as usize) {
        true => 0,
        false => ERR_ARGUMENT,
    }
}

extern "C" fn request(level: i32, wait: i32) -> i64 {
    requests::ask(level, wait != 0)
}

extern "C" fn outcome(ticket: i64, before: u64) -> i32 {
    requests::outcome(ticket, before)
}

extern "C" fn restarts() -> u64 {
    split_process::restarts() as u64
}

/// Text of the program's.
///
/// # Safety
/// `text` has `len` readable bytes, or is null.
unsafe fn text(text: *const u8, len: usize, most: usize) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the caller's promise.
    let bytes = unsafe { std::slice::from_raw_parts(text, len.min(most)) };
    String::from_utf8_lossy(bytes)
        .chars()
        .filter(|c| !c.is_control())
        .collect()
}

extern "C" fn hold(why: *const u8, len: usize) -> i32 {
    // SAFETY: the library passes a string with its length.
    let why = unsafe { text(why, len, MAX_WHY) };
    match holds::hold(why) {
        holds::Held::Yes => 0,
        holds::Held::NotNow => AGAIN,
        holds::Held::Never(error) => error,
    }
}

extern "C" fn release() -> i32 {
    match holds::release() {
        true => 0,
        false => ERR_ARGUMENT,
    }
}

fn told(result: Result<(), Refused>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(Refused::Full) => ERR_FULL,
        Err(_) => ERR_ARGUMENT,
    }
}

extern "C" fn exclude(address: usize, len: usize) -> i32 {
    told(split_process::exclude(address, len))
}

extern "C" fn include(address: usize, len: usize) -> i32 {
    told(split_process::include(address, len))
}

extern "C" fn publish(key: *const u8, key_len: usize, value: *const u8, value_len: usize) -> i32 {
    // SAFETY: the library passes strings with their lengths.
    let key = unsafe { text(key, key_len, published::MAX_KEY + 1) };
    // SAFETY: as above.
    let value = unsafe { text(value, value_len, published::MAX_VALUE + 1) };
    if key.is_empty() || key.len() > published::MAX_KEY || value.len() > published::MAX_VALUE {
        return ERR_ARGUMENT;
    }
    let time = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0.0, |t| t.as_secs_f64());
    if !control::has_begun() {
        let mut early = EARLY.lock().unwrap_or_else(PoisonError::into_inner);
        if early.len() >= MOST_EARLY {
            return ERR_FULL;
        }
        early.push((time, key, value));
        return 0;
    }
    let sent = control::on_control(move |place| keep(place, time, key, value));
    match sent {
        true => 0,
        false => ERR_CLOSED,
    }
}

/// On the control thread, when the job has begun.
pub fn begun(place: &control::Place) {
    let early = std::mem::take(&mut *EARLY.lock().unwrap_or_else(PoisonError::into_inner));
    for (time, key, value) in early {
        keep(place, time, key, value);
    }
}

/// Appends a value; on the control thread.
fn keep(place: &control::Place, time: f64, key: String, value: String) {
    let entry = published::Entry {
        incarnation: place.incarnation,
        rank: place.session.rank(),
        time,
        key,
        value,
    };
    if let Err(e) = published::append(place.session.global().root(), &entry) {
        crate::rank::warn_once(&e.to_string());
    }
}

/// Size of the world and rank in it.
extern "C" fn place() -> i64 {
    if !control::is_connected() || mana_plugin::finalised() {
        return ERR_CLOSED.into();
    }
    if events::is_running_here() {
        return ERR_BUSY.into();
    }
    let place = match (mpi::thread(), mana_plugin::world_collective()) {
        (Some(_), Some(world)) => i64::from(world.size()) << 32 | i64::from(world.rank()),
        _ => 1 << 32,
    };
    if holds::is_mine() {
        place | HOLDS
    } else {
        place
    }
}

extern "C" fn callbacks(on: i32) -> i32 {
    events::running(on != 0);
    0
}

extern "C" fn missing(rank: i32, seconds: i32) -> i32 {
    log::warn!(
        "mana_checkpoint with MANA_WAIT is collective: it waits {seconds} s for rank {rank} to call it too"
    );
    0
}
