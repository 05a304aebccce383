//! Interval timers (setitimer) and POSIX timers (timer_create).
//!
//! The kernel lists POSIX timers with their parameters in `/proc/self/timers`; which of them are the
//! program's is known from the system-call layer, which notes creations in a [`TimerTable`].

use crate::context::{CaptureContext, RestoreContext};
use crate::error::{StateError, Warning};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Identifiers of the POSIX timers the upper half made. Part of the image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimerTable(BTreeSet<i32>);

impl TimerTable {
    /// No timers.
    pub fn new() -> TimerTable {
        TimerTable::default()
    }

    /// `timer_create` gave the program timer `id` (the kernel's number, not the C library's handle).
    pub fn note_create(&mut self, id: i32) {
        self.0.insert(id);
    }

    /// `timer_delete(id)` succeeded.
    pub fn note_delete(&mut self, id: i32) {
        self.0.remove(&id);
    }

    /// Whether `id` is the program's.
    pub fn contains(&self, id: i32) -> bool {
        self.0.contains(&id)
    }
}

/// All timers of the program.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timers {}

pub(crate) fn capture(_: &CaptureContext<'_>, _: &mut Vec<Warning>) -> Result<Timers, StateError> {
    Ok(Timers {})
}
pub(crate) fn restore(
    _: &Timers,
    _: &RestoreContext<'_>,
    _: &mut Vec<Warning>,
) -> Result<(), StateError> {
    Ok(())
}
