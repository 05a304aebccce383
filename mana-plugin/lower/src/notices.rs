//! Signals by which a batch system announces the end. They are held back from the program until a
//! last checkpoint is over (`split_process::hold_signals`); a thread of the control side hears of
//! them, and every one takes effect after a bounded time, whoever answers.

use std::time::{Duration, Instant};

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

/// From here on such signals are held back. On the control thread, once this rank is registered.
pub fn begin() {
    let (always, unhandled) = match &job().spec.config.checkpoint_signals {
        Some(list) if list.is_empty() => return,
        Some(list) => (bits(list), 0),
        None => (bits(&[libc::SIGTERM]), bits(&USUAL)),
    };
    let started = std::thread::Builder::new()
        .name("mana-signals".into())
        .spawn(listen);
    match started {
        Ok(_) => split_process::hold_signals(always, unhandled),
        Err(e) => log::warn!("no thread for signals: no last checkpoint before the end: {e}"),
    }
}

fn listen() {
    let mut held: Vec<(i32, Instant)> = Vec::new();
    loop {
        let now = Instant::now();
        let next = held.iter().map(|(_, until)| *until).min();
        let limit = next.map_or(CHECKPOINT, |until| until.saturating_duration_since(now));
        if let Some(signal) = split_process::next_notice(limit) {
            let limit = match signal {
                libc::SIGTERM => batch::grace(),
                _ => CHECKPOINT,
            };
            held.retain(|(other, _)| *other != signal);
            held.push((signal, Instant::now() + limit + LATE));
            if !control::announce(signal) {
                over(signal);
            }
        }
        let now = Instant::now();
        held.retain(|(signal, until)| {
            if now >= *until {
                over(*signal);
            }
            now < *until
        });
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
