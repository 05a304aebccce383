//! The start: ranks that do not come.
//!
//! A rank registers as soon as its `MPI_Init` has returned, so that all come at about the same time.
//! Until the last is there no checkpoint can be taken: the log names those that are missing, again and
//! again, and at the limit the job runs on unprotected, or ends, as configured. A rank that comes
//! later is welcome.

use std::time::Duration;

use crate::Settings;

use super::ranks::Life;
use super::report::seconds;
use super::{stall, Core};

/// The wait for the ranks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Starting {
    since: Duration,
    next_warning: Duration,
    /// The limit has passed, and was told.
    over: bool,
}

impl Starting {
    pub fn new(now: Duration, settings: &Settings) -> Self {
        Self {
            since: now,
            next_warning: now.saturating_add(settings.warn_after),
            over: false,
        }
    }

    /// When to say something. Rank 0 may bring the settings later.
    fn next(&self, settings: &Settings) -> Duration {
        let limit = self.since.saturating_add(settings.start_limit);
        if self.over {
            self.next_warning
        } else {
            self.next_warning.min(limit)
        }
    }
}

impl Core {
    pub(super) fn tick_starting(&mut self, now: Duration) {
        let Some(starting) = self.starting.as_mut().filter(|_| !self.killed) else {
            return;
        };
        if now < starting.next(&self.settings) {
            return;
        }
        let waited = now.saturating_sub(starting.since);
        starting.next_warning = now.saturating_add(waited.max(Duration::from_secs(1)));
        let is_over = !starting.over && waited >= self.settings.start_limit;
        starting.over |= is_over;
        let missing: Vec<u32> = self
            .ranks
            .iter()
            .filter(|(_, found)| found.life == Life::Missing)
            .map(|(rank, _)| rank)
            .collect();
        let whom = format!(
            "{} of {} ranks ({}) are not there {} after the first",
            missing.len(),
            self.ranks.len(),
            stall::ranges(&missing),
            seconds(waited.as_secs_f64())
        );
        match (is_over, self.settings.stop_on_error) {
            (true, true) => self.end_job(now, &format!("{whom} (on_error = \"stop\")")),
            (true, false) => self.warn(format!(
                "{whom}: the program runs UNPROTECTED until they come (on_error = \"stop\" ends it instead)"
            )),
            (false, _) => self.warn(format!(
                "{whom}: no checkpoint before every rank has passed MPI_Init and reached the coordinator"
            )),
        }
    }

    pub(super) fn wake_starting(&self) -> Option<Duration> {
        let starting = self.starting.filter(|_| !self.killed)?;
        Some(starting.next(&self.settings))
    }
}
