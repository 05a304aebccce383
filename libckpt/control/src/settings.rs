//! What the coordinator is told: intervals, levels, time limits.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Level;

/// Scheduling and time limits of one job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Time between checkpoints of each level, in the order of [`Level::ALL`]; `None`: by hand only.
    pub intervals: [Option<Duration>; 4],
    /// Which levels exist in this job (a level that is not enabled is skipped when a higher one is
    /// taken; asked for by hand it is refused).
    pub enabled: [bool; 4],
    /// From intent to all ranks at the safe point.
    pub gate_limit: Duration,
    /// No rank advances for this long: one gate is opened.
    pub gate_stall: Duration,
    /// For each of: stop, drain, capture.
    pub stopped_limit: Duration,
    /// From resume to all images durable.
    pub write_limit: Duration,
    /// For writing the manifest.
    pub commit_limit: Duration,
    /// For one level's background work.
    pub level_limit: Duration,
    /// After this long in one step the log names whom the checkpoint waits for (and again each time
    /// the wait has doubled).
    pub warn_after: Duration,
    /// For all ranks to register, from the first one on; then what [`Settings::stop_on_error`] says.
    pub start_limit: Duration,
    /// When checkpointing as such fails: end the job instead of letting it run on unprotected.
    pub stop_on_error: bool,
    /// After a rank is lost without having reported its end, end the others after this long (`None`:
    /// leave that to the MPI launcher).
    pub end_after_loss: Option<Duration>,
    /// What is left until the batch system's time limit, when this was written.
    pub time_left: Option<Duration>,
    /// How long before the time limit a last checkpoint begins; zero: none, `None`: by measured cost.
    pub end_margin: Option<Duration>,
    /// From SIGTERM to the kill.
    pub grace: Duration,
    /// After a SIGTERM, rank 0 asks the batch system how much time there really is.
    pub asks: bool,
    /// What becomes of the job after its last checkpoint.
    pub at_end: AtEnd,
}

/// What becomes of the job after the last checkpoint before its time limit, or after a checkpoint
/// that a signal other than SIGTERM has asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AtEnd {
    /// It runs on until it is killed.
    #[default]
    Continue,
    /// It ends, with an exit code that says that it can go on.
    Stop,
    /// It is put back into the batch system's queue.
    Requeue,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            intervals: [None; 4],
            enabled: [true, true, false, true],
            gate_limit: Duration::from_secs(300),
            gate_stall: Duration::from_millis(50),
            stopped_limit: Duration::from_secs(120),
            write_limit: Duration::from_secs(3600),
            commit_limit: Duration::from_secs(120),
            level_limit: Duration::from_secs(6 * 3600),
            warn_after: Duration::from_secs(10),
            start_limit: Duration::from_secs(300),
            stop_on_error: false,
            end_after_loss: None,
            time_left: None,
            end_margin: None,
            grace: Duration::from_secs(30),
            asks: false,
            at_end: AtEnd::Continue,
        }
    }
}

impl Settings {
    /// The interval of one level.
    pub fn interval(&self, level: Level) -> Option<Duration> {
        self.intervals[level.index()]
    }

    /// Whether a level exists in this job.
    pub fn is_enabled(&self, level: Level) -> bool {
        self.enabled[level.index()]
    }
}
