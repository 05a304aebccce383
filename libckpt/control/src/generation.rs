//! Names of checkpoints: levels and generations.
//!
//! Plain data, either half and the tools.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Where a checkpoint is stored, and so what it survives. Ordered: a higher level survives more and
/// carries every enabled lower one too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Node-local storage: survives the failure of processes.
    Local,
    /// A copy on another node: survives the loss of non-adjacent nodes.
    Partner,
    /// Parity over a group of nodes (`solomon` in older files).
    Group,
    /// The parallel file system: survives the loss of every node.
    Global,
}

impl Level {
    /// All levels, lowest first.
    pub const ALL: [Level; 4] = [Level::Local, Level::Partner, Level::Group, Level::Global];

    /// Position in [`Level::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// The lower-case name users write.
    pub fn name(self) -> &'static str {
        match self {
            Level::Local => "local",
            Level::Partner => "partner",
            Level::Group => "group",
            Level::Global => "global",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "local" => Ok(Level::Local),
            "partner" => Ok(Level::Partner),
            "group" | "solomon" => Ok(Level::Group),
            "global" => Ok(Level::Global),
            _ => Err(format!(
                "no level is called {text:?}: use local, partner, group or global"
            )),
        }
    }
}

/// One coordinated checkpoint of the whole job: unique over all starts of the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GenerationId {
    /// Which start of the job took it.
    pub incarnation: u32,
    /// Number within the incarnation's numbering, from 1.
    pub number: u64,
}

impl fmt::Display for GenerationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.incarnation, self.number)
    }
}

/// The generation that a start has resumed from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resumed {
    /// Its name.
    pub generation: GenerationId,
    /// The levels on which nothing of it is missing.
    pub levels: Vec<Level>,
    /// Bytes of all its images.
    pub bytes: u64,
    /// Time since it was begun.
    pub age: Duration,
}

/// A checkpoint being taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Its name.
    pub generation: GenerationId,
    /// The highest level it is to reach.
    pub level: Level,
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "checkpoint {} ({})", self.generation.number, self.level)
    }
}
