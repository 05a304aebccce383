//! Errors and warnings. An error fails the checkpoint or the restart; a warning names something that
//! will not come back exactly as it was, and the checkpoint goes on.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

/// Why the state of the process could not be captured or restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// A system call failed.
    #[error("cannot {operation} {object}")]
    Io {
        /// What was tried, as a verb ("open", "read the position of").
        operation: &'static str,
        /// What it was tried on: a path, a descriptor with its target, a timer.
        object: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Text of the kernel (maps, fdinfo, timers) was not as documented.
    #[error("{object}, line {line}: cannot understand \"{text}\"")]
    Parse {
        /// The file of the kernel.
        object: String,
        /// Line, from 1.
        line: usize,
        /// The line itself.
        text: String,
    },
    /// A file the program had open is not there any more.
    #[error("{path}, which the program had open as descriptor {fd}, is missing: put it back and start again")]
    FileMissing {
        /// Lowest descriptor that referred to it.
        fd: i32,
        /// Its path at the checkpoint.
        path: String,
        /// The system's answer to opening it.
        #[source]
        source: io::Error,
    },
    /// A file is shorter than it was at the checkpoint: the bytes the program wrote are gone.
    #[error("{path} has {found} bytes, but had {expected} at the checkpoint: it was truncated or replaced since (by another start of the program?); put back a copy of it, or resume an older generation (--generation)")]
    FileShorter {
        /// Its path.
        path: String,
        /// Bytes at the checkpoint.
        expected: u64,
        /// Bytes now.
        found: u64,
    },
    /// The content that must be saved is larger than the bound.
    #[error("{object} holds {length} bytes that only this process can save, more than the limit of {limit}")]
    TooLarge {
        /// The file.
        object: String,
        /// Its bytes.
        length: u64,
        /// The bound in [`crate::CaptureContext::max_saved_file`].
        limit: u64,
    },
    /// A descriptor cannot survive, and the configuration refuses such checkpoints.
    #[error("descriptor {fd} ({target}) cannot be brought back after a restart, and lost_fd = \"refuse\"")]
    Unrestorable {
        /// The descriptor.
        fd: i32,
        /// What it refers to.
        target: String,
    },
    /// A shared mapping cannot survive, and the configuration refuses such checkpoints.
    #[error("the mapping of {target} at {address:#x} cannot be brought back after a restart, and lost_fd = \"refuse\"")]
    UnrestorableMapping {
        /// First address.
        address: usize,
        /// What it maps.
        target: String,
    },
    /// At restart a descriptor number the program needs is in use by the new process.
    #[error("descriptor {fd} of the program is in use in the new process ({by})")]
    NumberTaken {
        /// The number.
        fd: i32,
        /// What holds it now.
        by: String,
    },
    /// A timer could not be given its former identifier.
    #[error("timer {id} cannot be created again under its identifier ({reason})")]
    TimerId {
        /// The identifier the program knows.
        id: i32,
        /// Why not.
        reason: String,
    },
    /// Another process of the job did not do its part of restoring a shared object in time.
    #[error("waited {seconds} s for another process of this node to release {path}")]
    RendezvousTimeout {
        /// The lock file.
        path: String,
        /// How long.
        seconds: u64,
    },
    /// A record refers to something that is not there.
    #[error("the recorded state is inconsistent: {what}")]
    Inconsistent {
        /// What does not fit.
        what: String,
    },
    /// Saved content could not be stored or fetched.
    #[error("cannot {operation} the saved content of {object}")]
    Blob {
        /// "store" or "fetch".
        operation: &'static str,
        /// Whose content.
        object: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl StateError {
    /// An [`StateError::Io`] from the value of `errno`.
    pub(crate) fn last(operation: &'static str, object: impl fmt::Display) -> StateError {
        StateError::Io {
            operation,
            object: object.to_string(),
            source: io::Error::last_os_error(),
        }
    }

    /// An [`StateError::Io`] with a cause at hand.
    pub(crate) fn io(
        operation: &'static str,
        object: impl fmt::Display,
        source: impl Into<io::Error>,
    ) -> StateError {
        StateError::Io {
            operation,
            object: object.to_string(),
            source: source.into(),
        }
    }
}

/// Something that will not come back exactly as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// What it is about: a descriptor with its target, a path, a mapping.
    pub object: String,
    /// What will be different, and what the user can do.
    pub message: String,
}

impl Warning {
    pub(crate) fn new(object: impl fmt::Display, message: impl fmt::Display) -> Warning {
        Warning {
            object: object.to_string(),
            message: message.to_string(),
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.message)
    }
}
