//! A tool's connection to a coordinator.
//!
//! Ordinary processes (`mana_status`, `mana fail-node`), blocking, every call bounded.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::auth::{exactly, Role};
use crate::connect::{after, await_message, Target};
use crate::protocol::{FromTool, ToTool};
use crate::rendezvous::this_host;
use crate::wire::Wire;
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
pub struct Client {
    wire: Wire,
    limit: Duration,
    /// An answer is still on its way: nothing more can be asked here.
    owed: bool,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("peer", &self.wire.peer)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Connects and proves knowledge of the secret, within `limit` in all. Later calls that have no
    /// limit of their own are bounded by it too.
    ///
    /// # Errors
    /// When nobody answers there as this job's coordinator.
    pub fn connect(rendezvous: &Rendezvous, limit: Duration) -> Result<Self, ControlError> {
        let target = Target {
            role: Role::Tool,
            job: &rendezvous.job,
            incarnation: rendezvous.incarnation,
            secret: &rendezvous.secret,
            addresses: &rendezvous.addresses,
            near: rendezvous.host == this_host(),
            fd_floor: 0,
        };
        Ok(Self {
            wire: target.connect(limit)?,
            limit,
            owed: false,
        })
    }

    /// The state of the job.
    ///
    /// # Errors
    /// Connection lost, or no answer within the limit.
    pub fn status(&mut self) -> Result<Status, ControlError> {
        match self.ask(&FromTool::Status, self.limit, "status")? {
            ToTool::Status(status) => Ok(*status),
            other => Err(self.unexpected(&other)),
        }
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
        match self.ask(&FromTool::Checkpoint { request, wait }, limit, "checkpoint")? {
            ToTool::Committed(figures) => Ok(Some(figures)),
            ToTool::Done if !wait => Ok(None),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Ends the job.
    ///
    /// # Errors
    /// Connection lost, or no answer within the limit.
    pub fn kill(&mut self, reason: &str) -> Result<(), ControlError> {
        self.order(
            &FromTool::Kill {
                reason: reason.to_owned(),
            },
            "kill",
        )
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
        self.order(&FromTool::SetInterval { level, interval }, "interval")
    }

    /// Stops a stand-alone coordinator (the job runs on without checkpoints); refused by an embedded
    /// one.
    ///
    /// # Errors
    /// Refused, or connection lost.
    pub fn quit(&mut self) -> Result<(), ControlError> {
        self.order(&FromTool::Quit, "quit")
    }

    fn order(&mut self, message: &FromTool, operation: &'static str) -> Result<(), ControlError> {
        match self.ask(message, self.limit, operation)? {
            ToTool::Done => Ok(()),
            other => Err(self.unexpected(&other)),
        }
    }

    fn ask(
        &mut self,
        message: &FromTool,
        limit: Duration,
        operation: &'static str,
    ) -> Result<ToTool, ControlError> {
        if self.owed {
            return Err(ControlError::Closed {
                peer: format!(
                    "{} (after an answer that did not come in time)",
                    self.wire.peer
                ),
            });
        }
        self.wire.push_message(message)?;
        self.owed = true;
        let answer = await_message(&mut self.wire, after(limit), operation)?;
        self.owed = false;
        exactly(&answer, &self.wire.peer)
    }

    fn unexpected(&self, answer: &ToTool) -> ControlError {
        match answer {
            ToTool::Denied { reason } => ControlError::Denied {
                reason: reason.clone(),
            },
            _ => ControlError::Broken {
                peer: self.wire.peer.clone(),
                reason: "the answer to another question".into(),
            },
        }
    }
}
