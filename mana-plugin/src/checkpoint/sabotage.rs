//! Mistreating one drained message on purpose: `MANA_FAULT=drained-drop|duplicate|reorder|corrupt`.
//!
//! Only for tests, which must notice: a drain that loses, doubles, swaps or changes a message is what
//! the dense program exists to find. Once per process, in the first drain that has a fitting message.

use crate::drained::Queue;
use std::sync::atomic::{AtomicBool, Ordering};

static DONE: AtomicBool = AtomicBool::new(false);

/// Mistreats a message of one of the queues, if a test wants that and it was not done yet.
pub fn apply<'a>(queues: impl Iterator<Item = &'a mut Queue>) {
    let Ok(fault) = std::env::var("MANA_FAULT") else {
        return;
    };
    let act: fn(&mut Queue) -> bool = match fault.as_str() {
        "drained-drop" => Queue::drop_one,
        "drained-duplicate" => Queue::duplicate_one,
        "drained-reorder" => Queue::swap_two,
        "drained-corrupt" => Queue::corrupt_one,
        _ => return,
    };
    if DONE.load(Ordering::Relaxed) {
        return;
    }
    for queue in queues {
        if act(queue) {
            DONE.store(true, Ordering::Relaxed);
            log::warn!("MANA_FAULT={fault}: one drained message was mistreated");
            return;
        }
    }
}
