//! A computation that asks for its checkpoints itself.
//!
//! In Cargo.toml: `mana-interface = { path = ".../share/mana/interface/rust" }`; then
//! `mana_launch target/release/loop [STEPS [MILLISECONDS]]`. Without mana it runs as well.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use mana_interface::{checkpoint, exclude, hold, include, on, publish, Event, Level, Taken};

static TOLD: [AtomicU32; 3] = [const { AtomicU32::new(0) }; 3];

fn main() {
    let mut words = std::env::args().skip(1).map(|w| w.parse::<u64>());
    let mut number = |otherwise| words.next().and_then(Result::ok).unwrap_or(otherwise);
    let (steps, pause) = (number(100), Duration::from_millis(number(10)));
    let mut scratch = vec![0u64; 1 << 20];
    for event in [Event::Checkpoint, Event::Continued, Event::Restarted] {
        let _ = on(event, |event| {
            TOLD[event as usize - 1].fetch_add(1, Ordering::Relaxed);
        });
    }
    // SAFETY: numbers, computed anew in every step; included again below.
    let _ = unsafe { exclude(&mut scratch) };
    let mut total = 0u64;
    for step in 0..steps {
        let held = hold("one step");
        for (i, x) in (0..).zip(&mut scratch) {
            *x = step ^ i;
        }
        total = scratch.iter().fold(total, |sum, x| sum.wrapping_mul(31).wrapping_add(*x));
        drop(held);
        if step == steps / 2 {
            let _ = publish("sum", &total.to_string());
            match checkpoint(Level::Highest, true) {
                Ok(Taken::Resumed) => println!("half way: resumed"),
                Ok(_) => println!("half way: checkpoint taken"),
                Err(why) => println!("half way: no checkpoint: {why}"),
            }
        }
        std::thread::sleep(pause);
    }
    let _ = include(&mut scratch);
    let told = TOLD.each_ref().map(|n| n.load(Ordering::Relaxed));
    println!("restarts {:?}, events {told:?}", mana_interface::restarts());
    println!("RESULT {total}");
}
