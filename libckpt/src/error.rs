//! What can go wrong with checkpoints on storage.

use std::path::PathBuf;

use crate::GenerationId;

/// Every variant names the object. `Corrupt`, `Missing`, `Incompatible` and `Io` are apart because
/// recovery decides by them: the first two send it to the next source.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// No room.
    #[error("{} has no room: {missing} bytes more are needed; free space there or set another directory in mana.conf", path.display())]
    NoSpace {
        /// File that was being written.
        path: PathBuf,
        /// Bytes that did not fit.
        missing: u64,
    },
    /// A file's content is not what was written.
    #[error("{} is damaged: {reason}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What shows it.
        reason: String,
    },
    /// A file that should be there is not.
    #[error("{} is missing", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A file of another job, rank, generation or version.
    #[error("{} does not belong here: {what} is {found}, expected {expected}", path.display())]
    Incompatible {
        /// The file.
        path: PathBuf,
        /// The property.
        what: &'static str,
        /// In the file.
        found: String,
        /// Needed.
        expected: String,
    },
    /// A place where somebody else could put files for us to run.
    #[error("{} is not used for checkpoints: {reason}; delete it or set local_ckpt_dir in mana.conf to a directory of your own", path.display())]
    Untrusted {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Configuration that cannot be used.
    #[error("{place}: {reason}")]
    Config {
        /// File and line, environment variable or option.
        place: String,
        /// What is wrong and what to write instead.
        reason: String,
    },
    /// Something needed from all ranks did not happen on one of them.
    #[error("{operation} failed between the ranks: {reason}")]
    Collective {
        /// What was agreed on.
        operation: &'static str,
        /// Why not.
        reason: String,
    },
    /// Committed generations exist, none can be used.
    #[error("no generation is intact:\n{}", reasons.join("\n"))]
    NothingIntact {
        /// A line for each generation and each reason.
        reasons: Vec<String>,
    },
    /// A connection to another node.
    #[error("{operation} with {peer}: {reason}")]
    Peer {
        /// What was tried.
        operation: &'static str,
        /// Address or rank.
        peer: String,
        /// Why not.
        reason: String,
    },
    /// Somebody has deleted the records of this start.
    #[error("{} is gone: without the job's records nothing is resumed; put the directory back, or start the job anew", path.display())]
    Unrecorded {
        /// The record of this start.
        path: PathBuf,
    },
    /// A newer start of this job exists.
    #[error("this is incarnation {ours} of the job, incarnation {newest} has taken over")]
    Superseded {
        /// Ours.
        ours: u32,
        /// The newest.
        newest: u32,
    },
    /// A generation that was asked for does not exist.
    #[error("generation {generation} is not there")]
    NoGeneration {
        /// Which.
        generation: GenerationId,
    },
}

impl Error {
    /// Whether it may pass by itself: another start of the job may not meet it.
    pub fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::Io { .. } | Self::Peer { .. } | Self::Collective { .. }
        )
    }

    /// For `map_err`.
    pub fn io(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| {
            if source.kind() == std::io::ErrorKind::NotFound && operation != "create" {
                Self::Missing { path }
            } else {
                Self::Io {
                    operation,
                    path,
                    source,
                }
            }
        }
    }
}
