//! A tool's connection to a coordinator.
//!
//! Ordinary processes (`mana_status`, `mana fail-node`), blocking, every call bounded.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{ControlError, GenerationStatus, Level, Rendezvous, Status};

/// A checkpoint asked for by hand or by a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The level; `None`: the highest enabled one.
    pub level: Option<Level>,
    /// End the job once the checkpoint is complete on its level.
    pub kill: bool,
}

/// A connection to a job's coordinator.
#[derive(Debug)]
pub struct Client {}

impl Client {
    /// Connects and proves knowledge of the secret, within `limit` in all.
    ///
    /// # Errors
    /// When nobody answers there as this job's coordinator.
    pub fn connect(rendezvous: &Rendezvous, limit: Duration) -> Result<Self, ControlError> {
        let _ = limit;
        Err(ControlError::Denied {
            reason: format!("{}: the client is not built yet", rendezvous.job),
        })
    }

    /// The state of the job.
    ///
    /// # Errors
    /// Connection lost, or no answer within the limit.
    pub fn status(&mut self) -> Result<Status, ControlError> {
        Err(ControlError::Closed {
            peer: "the coordinator".into(),
        })
    }

    /// Asks for a checkpoint. With `wait` returns its figures once it is committed (`Ok(Some)`),
    /// else as soon as it is accepted (`Ok(None)`).
    ///
    /// # Errors
    /// [`ControlError::Denied`] with the reason when it cannot be taken or was abandoned;
    /// [`ControlError::Timeout`] when `limit` passes.
    pub fn checkpoint(
        &mut self,
        request: Request,
        wait: bool,
        limit: Duration,
    ) -> Result<Option<GenerationStatus>, ControlError> {
        let _ = (request, wait, limit);
        Err(ControlError::Closed {
            peer: "the coordinator".into(),
        })
    }

    /// Ends the job.
    ///
    /// # Errors
    /// Connection lost, or no answer within the limit.
    pub fn kill(&mut self, reason: &str) -> Result<(), ControlError> {
        let _ = reason;
        Err(ControlError::Closed {
            peer: "the coordinator".into(),
        })
    }

    /// Changes one level's interval; `None`: by hand only.
    ///
    /// # Errors
    /// When the level is not enabled, or the connection is lost.
    pub fn set_interval(
        &mut self,
        level: Level,
        interval: Option<Duration>,
    ) -> Result<(), ControlError> {
        let _ = (level, interval);
        Err(ControlError::Closed {
            peer: "the coordinator".into(),
        })
    }

    /// Stops a stand-alone coordinator (the job runs on without checkpoints); refused by an embedded
    /// one.
    ///
    /// # Errors
    /// Refused, or connection lost.
    pub fn quit(&mut self) -> Result<(), ControlError> {
        Err(ControlError::Closed {
            peer: "the coordinator".into(),
        })
    }
}
