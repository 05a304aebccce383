//! Signals by which a batch system announces the end. They are held back from the program until a
//! last checkpoint is over (`split_process::hold_signals`); a thread of the control side hears of
//! them, and every one takes effect after a bounded time, whoever answers.
//!
//! A batch system sends them to every process of a step. The members of a tree hold theirs back as long as
//! the root holds its own: a pool whose workers end before the checkpoint is no pool any more. One
//! that comes to a member alone is the member's after [`tree::AT_ONCE`].

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use split_process::tree::{self, Table};

use crate::{batch, control, job};

/// The signals held back as long as the program has no handler, unless configured.
const USUAL: [i32; 2] = [libc::SIGUSR1, libc::SIGUSR2];
/// How much longer than agreed the coordinator may take before a signal takes effect anyway.
const LATE: Duration = Duration::from_secs(5);
/// For a checkpoint that another signal than SIGTERM has asked for.
const CHECKPOINT: Duration = Duration::from_secs(3600);

fn bits(signals: &[i32]) -> u64 {
    signals.iter().fold(0, |bits, signal| bits | 1u64 << signal)
}

/// Those held back whatever the program does with them, and those it has no handler for.
fn configured() -> Option<(u64, u64)> {
    match &job().spec.config.checkpoint_signals {
        Some(list) if list.is_empty() => None,
        Some(list) => Some((bits(list), 0)),
        None => Some((bits(&[libc::SIGTERM]), bits(&USUAL))),
    }
}

/// From here on such signals are held back. On the control thread, before this rank is registered.
pub fn begin() {
    let Some((always, unhandled)) = configured() else {
        return;
    };
    let started = std::thread::Builder::new()
        .name("mana-signals".into())
        .spawn(listen);
    match started {
        Ok(_) => split_process::hold_signals(always, unhandled),
        Err(e) => log::warn!("no thread for signals: no last checkpoint before the end: {e}"),
    }
}

/// Blocks them in the calling thread; its mask before (bit n is signal n + 1).
pub fn block() -> u64 {
    let (always, unhandled) = configured().unwrap_or_default();
    split_process::block_signals((always | unhandled) >> 1)
}

/// Those held back, and until when whatever happens.
static HELD: Mutex<Vec<(i32, Instant)>> = Mutex::new(Vec::new());

fn held() -> MutexGuard<'static, Vec<(i32, Instant)>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The same in a member of a tree.
pub fn begin_in_member() {
    if let Some((always, unhandled)) = configured() {
        split_process::hold_signals_in_member(always, unhandled);
    }
}

/// In a member of a tree, again and again: gives the program what is not held back any more. Whether
/// there is more.
pub fn attend(table: &Table) -> bool {
    let now = tree::clock();
    let mut held = false;
    for signal in 1..64 {
        let Some(since) = split_process::held_since(signal) else {
            continue;
        };
        if table.is_announced(signal) {
            held = true;
        } else if table.is_over(signal, since) {
            over(signal);
        } else if now.saturating_sub(since) > tree::AT_ONCE.as_nanos() as u64 {
            split_process::pass_signal(signal);
        } else {
            held = true;
        }
    }
    held
}

fn listen() {
    loop {
        let next = held().iter().map(|(_, until)| *until).min();
        let limit = next.map_or(CHECKPOINT, |until| {
            until.saturating_duration_since(Instant::now())
        });
        if let Some(signal) = split_process::next_notice(limit) {
            let limit = match signal {
                libc::SIGTERM => batch::grace(),
                _ => CHECKPOINT,
            };
            note(signal, limit);
            if !control::announce(signal) {
                over(signal);
            }
        }
        let now = Instant::now();
        let mut held = held();
        let late: Vec<i32> = held
            .iter()
            .filter(|(_, until)| now >= *until)
            .map(|(signal, _)| *signal)
            .collect();
        held.retain(|(_, until)| now < *until);
        drop(held);
        late.into_iter().for_each(over);
    }
}

/// This signal is held back for `limit`, and no longer.
fn note(signal: i32, limit: Duration) {
    let mut held = held();
    held.retain(|(other, _)| *other != signal);
    held.push((signal, Instant::now() + limit + LATE));
}

/// There is more time than its announcement gave: a signal that is held back may be so for `limit` from now.
pub fn hold(signal: i32, limit: Duration) {
    let known = held().iter().any(|(other, _)| *other == signal);
    if known {
        note(signal, limit);
    }
}

/// The last checkpoint is over, or there is none: SIGTERM ends the program or goes to its handler, as
/// any other signal that has one. One without has done its work.
pub fn over(signal: i32) {
    if signal == libc::SIGTERM || split_process::has_handler(signal) {
        split_process::pass_signal(signal);
    } else {
        split_process::drop_signal(signal);
    }
}

/// Nobody takes a last checkpoint any more.
pub fn all_over() {
    for signal in 1..64 {
        over(signal);
    }
}
