//! What can go wrong on a control connection.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// An error of the control plane.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// A system call failed.
    #[error("cannot {operation} {object}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which address, path or thread.
        object: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// No address answered as this job's coordinator.
    #[error("no coordinator of job {job} at {tried}: {reason}; {}", if *silent { "is the job still running, and can its node be reached from here?" } else { "the job does not run any more, or its coordinator has died ('mana list' shows what is stored)" })]
    Unreachable {
        /// The job.
        job: String,
        /// The addresses tried.
        tried: String,
        /// The last failure.
        reason: String,
        /// An address gave no answer at all, or none could know: it may run nevertheless.
        silent: bool,
    },
    /// The other side does not know the job's secret, or speaks for another job.
    #[error("{peer} failed to prove that it belongs to this job ({reason})")]
    Refused {
        /// Who.
        peer: String,
        /// In which respect.
        reason: String,
    },
    /// The other side speaks another version of the protocol.
    #[error("{peer} speaks version {found} of the control protocol, this program version {expected}; use one installation for the whole job")]
    Version {
        /// Who.
        peer: String,
        /// Ours.
        expected: u16,
        /// Theirs.
        found: u16,
    },
    /// The other side sent something that is not the protocol.
    #[error("{peer} sent a broken message: {reason}")]
    Broken {
        /// Who.
        peer: String,
        /// What was wrong.
        reason: String,
    },
    /// The connection was closed.
    #[error("{peer} closed the connection")]
    Closed {
        /// Who.
        peer: String,
    },
    /// No answer in time.
    #[error("{peer} did not answer within {after:?} ({operation})")]
    Timeout {
        /// Who.
        peer: String,
        /// The limit.
        after: Duration,
        /// What was asked.
        operation: &'static str,
    },
    /// The rendezvous file is not there: no coordinator runs, or it is another job.
    #[error("{path} is missing: no job of this identity runs here, or it has ended")]
    NoRendezvous {
        /// The file.
        path: PathBuf,
    },
    /// The rendezvous file cannot be trusted or understood.
    #[error("{path} cannot be used: {reason}")]
    BadRendezvous {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The coordinator said no.
    #[error("{reason}")]
    Denied {
        /// Why.
        reason: String,
    },
}

impl ControlError {
    /// Of a connection that failed: whether the coordinator may be there nevertheless.
    pub fn may_be_there(&self) -> bool {
        match self {
            Self::Unreachable { silent, .. } => *silent,
            Self::Version { .. } | Self::Timeout { .. } => true,
            _ => false,
        }
    }

    pub(crate) fn io(
        operation: &'static str,
        object: impl std::fmt::Display,
        source: io::Error,
    ) -> Self {
        Self::Io {
            operation,
            object: object.to_string(),
            source,
        }
    }
}
