//! What `mana_status` shows.

use serde::{Deserialize, Serialize};

use crate::{GenerationId, Level, Outcome};

/// The job as the coordinator sees it. Times are seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Identity of the job.
    pub job: String,
    /// Which start of it.
    pub incarnation: u32,
    /// Number of ranks in the job (0: none has registered yet).
    pub size: u32,
    /// Number of nodes of the registered ranks.
    pub nodes: u32,
    /// Seconds since the coordinator started.
    pub uptime: f64,
    /// `starting`, `running`, `checkpointing`, `unprotected` (a rank is not connected), `ending`, `ended`.
    pub phase: String,
    /// Why no checkpoint can be taken now, if so.
    pub closed: Option<String>,
    /// The checkpoint being taken.
    pub current: Option<CurrentStatus>,
    /// Level work going on in the background.
    pub level_work: Vec<LevelWorkStatus>,
    /// One entry per level, lowest first.
    pub levels: Vec<LevelStatus>,
    /// Checkpoints that fell due or were asked for.
    pub due: u64,
    /// Due times that passed while a scheduled checkpoint was being taken, which counts for them.
    pub covered: u64,
    /// Checkpoints committed.
    pub committed: u64,
    /// Checkpoints abandoned.
    pub abandoned: u64,
    /// The last one committed.
    pub last: Option<GenerationStatus>,
    /// The last ones committed, oldest first; at most 32.
    pub recent: Vec<GenerationStatus>,
    /// Why the last abandoned one was given up.
    pub last_failure: Option<String>,
    /// Where the ranks were when a checkpoint was last given up for lack of time.
    pub last_stall: Option<Stall>,
    /// How the job ended, once it has.
    pub outcome: Option<Outcome>,
    /// All ranks, in order.
    pub ranks: Vec<RankStatus>,
}

/// A checkpoint in progress.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurrentStatus {
    /// Its name.
    pub generation: GenerationId,
    /// Its level.
    pub level: Level,
    /// `intent`, `gate`, `stop`, `drain`, `capture`, `write`, `commit`.
    pub step: String,
    /// Seconds in this step.
    pub step_seconds: f64,
    /// How many ranks it still waits for.
    pub waits_for: u32,
    /// Ranks in the job.
    pub ranks: u32,
    /// Bytes of all images, once they are known.
    pub bytes: u64,
    /// Seconds since the checkpoint began.
    pub seconds: f64,
    /// The first of them, and what they are doing.
    pub waits: String,
    /// Whom of the program's ranks the others wait for, if that can be seen.
    pub cause: Option<String>,
}

/// Background work for one level of one generation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LevelWorkStatus {
    /// The generation.
    pub generation: GenerationId,
    /// The level being worked on.
    pub level: Level,
    /// Ranks not done yet.
    pub waits_for: u32,
    /// Ranks in the job.
    pub ranks: u32,
    /// Bytes of all images.
    pub bytes: u64,
    /// Seconds since it began.
    pub seconds: f64,
}

/// One level.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LevelStatus {
    /// Which.
    pub level: Level,
    /// Whether the job has it.
    pub enabled: bool,
    /// Seconds between checkpoints; `None`: by hand.
    pub interval: Option<f64>,
    /// Seconds until the next is due (negative: overdue).
    pub next_due: Option<f64>,
    /// The last generation complete on this level: of this start, or the one it has resumed from, if nothing of that is missing.
    pub last: Option<GenerationId>,
    /// Seconds since then; of one of an earlier start, since it was begun.
    pub age: Option<f64>,
    /// Bytes of all its images.
    pub bytes: Option<u64>,
    /// How long it took to get there, in this start: the writing of the images (local), or the work for this level.
    pub seconds: Option<f64>,
    /// Bytes a second, over all ranks.
    pub bandwidth: Option<f64>,
    /// What a job survives that has a checkpoint here.
    pub survives: String,
}

/// A committed generation in figures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GenerationStatus {
    /// Its name.
    pub generation: GenerationId,
    /// Its level.
    pub level: Level,
    /// Bytes of all images.
    pub bytes: u64,
    /// From intent to commit.
    pub seconds: f64,
    /// Longest time any rank waited at a gate.
    pub gate: f64,
    /// Longest time any rank needed to stop and drain.
    pub drain: f64,
    /// Longest time any rank needed from there to its resume.
    pub snapshot: f64,
    /// Longest time any rank was stopped: first gate or park to resume.
    pub stopped: f64,
    /// From the resume until every image was durable.
    #[serde(default)]
    pub write: f64,
}

/// One rank.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RankStatus {
    /// World rank.
    pub rank: u32,
    /// Host name.
    pub host: String,
    /// Node number (simulated in test mode).
    pub node: u32,
    /// Process id on that host.
    pub pid: u32,
    /// The program.
    pub program: String,
    /// `running`, `finalizing`, `finalized`, `ended`, `lost` (it has gone, or is out of reach).
    pub state: String,
    /// Exit code, once reported.
    pub code: Option<i32>,
    /// What it was last seen doing.
    pub doing: String,
    /// What its threads wait for inside MPI; empty: none waits.
    pub waiting: Vec<Waiting>,
}

/// What one thread of a rank waits for inside MPI.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Waiting {
    /// All of it in words, without the time.
    pub text: String,
    /// The MPI procedure.
    pub call: String,
    /// Name of the communicator, or its identity (hexadecimal, the same on all members).
    pub communicator: String,
    /// Rank of the other side; `None`: none is named, or any will do.
    pub peer: Option<u32>,
    /// Tag; `None`: there is none, or any will do.
    pub tag: Option<i32>,
    /// Number of the collective on its communicator, from 1.
    pub number: Option<u64>,
    /// Seconds, as far as the wait was seen (ranks are asked every five seconds, and twice a second
    /// while a checkpoint waits for them).
    pub seconds: f64,
}

/// Where the ranks were when a checkpoint was given up for lack of time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stall {
    /// The checkpoint.
    pub generation: GenerationId,
    /// Its level.
    pub level: Level,
    /// The step that did not end.
    pub step: String,
    /// Seconds it had lasted.
    pub seconds: f64,
    /// Whom of the program's ranks the others waited for, if that could be seen.
    pub cause: Option<String>,
    /// Ranks that were waited for, or waited themselves, in order; at most 256.
    pub ranks: Vec<RankPlace>,
    /// How many more there were.
    pub omitted: u32,
}

/// One rank in a [`Stall`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RankPlace {
    /// World rank.
    pub rank: u32,
    /// Host name.
    pub host: String,
    /// The checkpoint waited for it.
    pub awaited: bool,
    /// What it was doing.
    pub doing: String,
    /// What its threads waited for.
    pub waiting: Vec<Waiting>,
}
