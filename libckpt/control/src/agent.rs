//! The rank's end of the control connection.
//!
//! Lower half, one control thread per rank. Spawn it with all signals blocked: the thread inherits
//! the mask, and a handler of the program must never run on it.

use std::time::Duration;

use crate::{ControlError, Outcome, RankHooks, Request, Secret, Settings};

/// Who this rank is, and where its coordinator listens.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// Identity of the job.
    pub job: String,
    /// Which start of it.
    pub incarnation: u32,
    /// World rank.
    pub rank: u32,
    /// Ranks in the job.
    pub size: u32,
    /// Host name.
    pub host: String,
    /// Node number: ranks with the same number fail together.
    pub node: u32,
    /// The program, for `mana_status`.
    pub program: String,
    /// The number the next generation should have (the coordinator takes the largest of all ranks).
    pub next_number: u64,
    /// What this rank was configured with; the coordinator follows rank 0's unless it has its own.
    pub settings: Settings,
    /// `host:port` of the coordinator, in the order to try.
    pub addresses: Vec<String>,
    /// The job's secret.
    pub secret: Secret,
    /// How long to keep trying to connect.
    pub connect_limit: Duration,
    /// Our descriptors are moved to this number or above, out of the program's way (0: leave them).
    pub fd_floor: i32,
}

/// Handle to a rank's control thread. All methods may be called from any thread.
#[derive(Debug)]
pub struct Agent {}

impl Agent {
    /// Connects, proves membership, registers the rank and starts the control thread.
    ///
    /// # Errors
    /// When no address leads to the job's coordinator within `connect_limit`.
    pub fn spawn(options: AgentOptions, hooks: Box<dyn RankHooks>) -> Result<Self, ControlError> {
        drop(hooks);
        Err(ControlError::Denied {
            reason: format!("rank {}: the agent is not built yet", options.rank),
        })
    }

    /// The program is in `MPI_Finalize`: may it go on? The first call announces it; ask again until
    /// `true`. No checkpoint begins once this rank (or any other) was told `true`. Never waits;
    /// `true` at once if the coordinator is gone.
    pub fn finalizing(&self) -> bool {
        true
    }

    /// The program ends with `code`: reports it and waits up to `limit` until a generation that is
    /// being written is committed or abandoned and the job's outcome is known
    /// ([`RankHooks::finish`] has then been called). With another code than 0 it does not wait for
    /// the other ranks.
    pub fn exit(&self, code: i32, limit: Duration) -> Outcome {
        let _ = (code, limit);
        Outcome::Undecided
    }

    /// Asks the coordinator for a checkpoint, as a signal of the batch system would. Does not wait.
    pub fn request(&self, request: Request) {
        let _ = request;
    }

    /// Whether the coordinator is still connected.
    pub fn is_connected(&self) -> bool {
        false
    }
}
