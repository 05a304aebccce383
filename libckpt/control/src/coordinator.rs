//! The coordinator as a thread: embedded in rank 0's lower half, or in `mana_coordinator`.
//!
//! Spawn it with all signals blocked when it shares the process with a program.

use std::path::PathBuf;
use std::time::Duration;

use crate::{ControlError, Level, Outcome, Rendezvous, Request, Secret, Settings, Status};

/// Where to listen and what to coordinate.
#[derive(Clone, Debug)]
pub struct CoordinatorOptions {
    /// The job; `None` (stand-alone): that of the first rank that registers.
    pub job: Option<String>,
    /// The incarnation; `None` (stand-alone): that of the first rank that registers.
    pub incarnation: Option<u32>,
    /// The job's secret.
    pub secret: Secret,
    /// Address to listen on, without port (`0.0.0.0`, `127.0.0.1`, `::`).
    pub bind: String,
    /// Port; 0: any free one.
    pub port: u16,
    /// Intervals and limits; `None`: those rank 0 brings.
    pub settings: Option<Settings>,
    /// Where to leave the file for tools (mode 0600), if anywhere; removed at the end.
    pub rendezvous: Option<PathBuf>,
    /// Our descriptors are moved to this number or above, out of the program's way (0: leave them).
    pub fd_floor: i32,
}

/// Handle to a running coordinator. All methods may be called from any thread. Dropping it stops the
/// coordinator.
#[derive(Debug)]
pub struct Coordinator {}

impl Coordinator {
    /// Listens and starts the coordinator's thread.
    ///
    /// # Errors
    /// When the address cannot be listened on, or the rendezvous file not be written.
    pub fn spawn(options: CoordinatorOptions) -> Result<Self, ControlError> {
        Err(ControlError::Denied {
            reason: format!("{}: the coordinator is not built yet", options.bind),
        })
    }

    /// `host:port` under which ranks and tools can reach it, in the order to try.
    pub fn addresses(&self) -> Vec<String> {
        Vec::new()
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        0
    }

    /// What tools need to know to connect (job and incarnation as far as known by now).
    pub fn rendezvous(&self) -> Option<Rendezvous> {
        None
    }

    /// The state of the job.
    ///
    /// # Errors
    /// When the coordinator has stopped.
    pub fn status(&self) -> Result<Status, ControlError> {
        Err(ControlError::Closed {
            peer: "the coordinator".into(),
        })
    }

    /// Asks for a checkpoint. Does not wait.
    pub fn request(&self, request: Request) {
        let _ = request;
    }

    /// Ends the job: every rank's [`crate::RankHooks::end_job`].
    pub fn kill(&self, reason: &str) {
        let _ = reason;
    }

    /// Changes one level's interval; `None`: by hand only.
    pub fn set_interval(&self, level: Level, interval: Option<Duration>) {
        let _ = (level, interval);
    }

    /// Waits up to `limit` until every rank has reported its end or is gone. The process of rank 0
    /// must not exit before this returns.
    pub fn wait_end(&self, limit: Duration) -> Outcome {
        let _ = limit;
        Outcome::Undecided
    }

    /// Stops listening, drops all connections, removes the rendezvous file.
    pub fn shutdown(self) {}
}
