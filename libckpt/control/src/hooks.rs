//! What the agent asks of the rank it serves.
//!
//! Lower half. The glue of each rank implements [`RankHooks`]; all methods are called on the one
//! control thread of that rank, one after the other. A method may block, but must bound its own
//! wait below the coordinator's time limit for the step ([`crate::Settings`]): while it blocks, the
//! rank hears nothing. Methods whose work takes long on purpose (writing, level work, pruning) only
//! start it and are polled.
//!
//! Order of a checkpoint on one rank:
//! `intent, targets*, poll*, stop, drain, capture, resume, durable*, commit, (level_work, level_poll*,
//! level_complete)*, prune`. `abandon` may come instead of any step from `targets` to `commit`, and
//! also after a step of this rank itself has failed; it has to undo whatever was done, `resume`
//! included, and must be harmless when nothing was done.

use std::task::Poll;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Checkpoint, GenerationId, Level, Place};

/// Progress of one communicator's collectives on one rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CommSeq {
    /// Identity of the communicator, the same number on all its members.
    pub comm_id: u64,
    /// Number of members.
    pub size: u32,
    /// Collectives started on it so far (as a target: how many may be started).
    pub seq: u64,
}

/// What [`RankHooks::poll`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatePoll {
    /// Every number equals its target and no thread is inside a blocking collective.
    pub reached: bool,
    /// The communicator at whose gate a thread waits, with the number it has reached.
    pub waiting: Option<CommSeq>,
    /// A communicator on which this rank has yet to start collectives, with the number it has reached.
    pub behind: Option<CommSeq>,
    /// All communicators that have started at least one collective.
    pub seqs: Vec<CommSeq>,
    /// What this rank is doing, for a human.
    pub where_: String,
}

/// What the drain took in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainReport {
    /// Messages taken out of the network into memory.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The snapshot is taken: the program may go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureStarted {
    /// Bytes of the program's memory in the snapshot.
    pub bytes: u64,
    /// Whether the image is written in the background (a forked child) after `resume`.
    pub background: bool,
}

/// One rank's image, written, hashed and durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageReport {
    /// World rank.
    pub rank: u32,
    /// Length of the image file in bytes.
    pub bytes: u64,
    /// Root hash over the image.
    pub root: [u8; 16],
}

/// Why a step failed on this rank: one line, naming operation, object, cause and next step.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct StepError {
    /// The line.
    pub message: String,
    /// This rank gave up only because another one did; that one's message tells why.
    pub secondary: bool,
}

impl StepError {
    /// Makes one of anything that can be printed (an error of another crate, mostly).
    pub fn new(message: impl std::fmt::Display) -> Self {
        Self {
            message: message.to_string(),
            secondary: false,
        }
    }

    /// One that only follows from a failure on another rank.
    pub fn secondary(message: impl std::fmt::Display) -> Self {
        Self {
            message: message.to_string(),
            secondary: true,
        }
    }
}

/// What a rank learns when all ranks of the job are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// Ranks in the job.
    pub ranks: u32,
    /// Nodes in the job.
    pub nodes: u32,
    /// This rank is the lowest one of its node: it writes what a node needs only once.
    pub leader: bool,
}

/// How the job ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Every rank ended with exit code 0.
    Finished,
    /// A rank ended with another code.
    Failed {
        /// The first such rank.
        rank: u32,
        /// Its exit code.
        code: i32,
    },
    /// A rank went away without reporting its end.
    Lost {
        /// The first such rank.
        rank: u32,
    },
    /// Ended on request (`mana_status --kill`).
    Killed,
    /// Not decided in time: other ranks were still running, or the coordinator is gone. Or decided and not
    /// recorded.
    Undecided,
}

/// How a job is ended on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndHow {
    /// For good, as far as anybody said.
    Kill,
    /// To be started again by somebody.
    Stop,
    /// To be started again by the batch system, which has to be told.
    Requeue,
}

/// The rank's side of a checkpoint.
pub trait RankHooks: Send {
    /// All ranks of the job have registered; checkpoints may come from now on. Again after a lost
    /// connection.
    fn started(&mut self, facts: Started) {
        let _ = facts;
    }

    /// Close the gates (with a membarrier) and report the collectives' numbers. Must not wait.
    fn intent(&mut self, checkpoint: Checkpoint) -> Result<Vec<CommSeq>, StepError>;

    /// Targets to run to; a communicator not named keeps the number it had at `intent` (or 0 if it
    /// is younger). Comes again, with single communicators, when a gate is raised.
    fn targets(&mut self, targets: &[CommSeq]);

    /// Where this rank stands. Called about every half millisecond until it reports `reached`, and
    /// more rarely then. Must not wait.
    fn poll(&mut self) -> GatePoll;

    /// All ranks have reached the safe point: park every thread of the program.
    fn stop(&mut self) -> Result<(), StepError>;

    /// All ranks have stopped: take in what is in flight.
    fn drain(&mut self) -> Result<DrainReport, StepError>;

    /// All ranks have drained: take the snapshot (fork, or write the image).
    fn capture(&mut self, checkpoint: Checkpoint) -> Result<CaptureStarted, StepError>;

    /// All ranks have captured: the program runs on.
    fn resume(&mut self);

    /// Is the image written, hashed and durable? Polled every few milliseconds after `resume`.
    fn durable(&mut self) -> Poll<Result<ImageReport, StepError>>;

    /// All images are durable: make the generation valid. `images` holds the reports of all ranks in
    /// rank order on the one rank of each node that writes the manifest ([`Started::leader`]), and is
    /// `None` on the others.
    fn commit(
        &mut self,
        checkpoint: Checkpoint,
        images: Option<&[ImageReport]>,
    ) -> Result<(), StepError>;

    /// Every node holds the manifest. Start bringing this rank's part of the generation to `level`
    /// in the background. Called for each enabled level above local up to the checkpoint's, lowest
    /// first, each after the one before is complete (or has failed) on all ranks. Other checkpoints
    /// may be taken meanwhile.
    fn level_work(&mut self, generation: GenerationId, level: Level) -> Result<(), StepError>;

    /// Is the level work started for (`generation`, `level`) done? Polled every few milliseconds.
    fn level_poll(&mut self, generation: GenerationId, level: Level)
        -> Poll<Result<(), StepError>>;

    /// Level `level` of `generation` is complete on all ranks: write the completion record (the node's
    /// leader). Also called for [`Level::Local`], right after the commit.
    fn level_complete(&mut self, generation: GenerationId, level: Level) -> Result<(), StepError>;

    /// All nodes hold the newest manifest and the records of its levels: start deleting what is not
    /// needed any more. `protect` must not be touched (a checkpoint being taken, level work going on).
    fn prune(&mut self, protect: &[GenerationId]);

    /// The connection to the coordinator is lost although neither the job nor this rank has ended; it is
    /// looked for during `limit`, and no checkpoint is taken meanwhile.
    fn coordinator_lost(&mut self, reason: &str, limit: Duration) {
        log::warn!("{reason}: looking for it for {} s", limit.as_secs());
    }

    /// It was found, or another one in its place.
    fn coordinator_back(&mut self) {
        log::info!("connected to the coordinator again");
    }

    /// The connection to the coordinator is lost for good: no checkpoint can be taken any more.
    fn coordinator_gone(&mut self, reason: &str) {
        log::warn!("{reason}: the program runs on without checkpoints");
    }

    /// The generation is given up on all ranks: undo, let the program run on, delete what was
    /// written. Older generations stay.
    fn abandon(&mut self, generation: GenerationId, reason: &str);

    /// The connection was lost after [`RankHooks::durable`] and before [`RankHooks::commit`]: other ranks may have committed
    /// the generation, or may yet. Let the program run on, and delete nothing: this rank's image may be the one that a
    /// resume needs.
    fn undecided(&mut self, generation: GenerationId);

    /// What this rank is doing, for `mana_status`.
    fn state(&mut self) -> String {
        String::new()
    }

    /// Ask the program's threads what they wait for. Must not wait: [`RankHooks::places`] is called
    /// about two milliseconds later. Never while the rank is stopped.
    fn ask(&mut self) {}

    /// What the program's threads said after [`RankHooks::ask`]; empty: none waits.
    fn places(&mut self) -> Vec<Place> {
        Vec::new()
    }

    /// Every rank has ended with 0: record it, durably. On rank 0 alone, before any rank is told
    /// [`Outcome::Finished`]: while the end is not on record, the images are what a restart needs.
    fn record_end(&mut self) -> Result<(), StepError> {
        Ok(())
    }

    /// The job has ended with `outcome`; called before [`crate::Agent::exit`] returns. The place to
    /// record a failure and, on [`Outcome::Finished`], to delete what nobody needs any more.
    fn finish(&mut self, outcome: &Outcome) {
        let _ = outcome;
    }

    /// The user wants the job ended now (`mana_status --kill`, or after a last checkpoint): end the
    /// program. The agent keeps running until the process is gone.
    fn end_job(&mut self, how: EndHow, reason: &str);

    /// The last checkpoint that a held signal ([`crate::Agent::signal`]) has asked for is over, or
    /// cannot be taken: let the signal take effect.
    fn signal_over(&mut self, signal: i32) {
        let _ = signal;
    }

    /// There is more time than this rank knows of: it may hold the signal back for `limit` from now.
    fn signal_held(&mut self, signal: i32, limit: Duration) {
        let _ = (signal, limit);
    }

    /// On rank 0, after a SIGTERM, if [`crate::Settings::asks`]: ask the batch system how much time is
    /// left. Must not wait: [`crate::Agent::time_left`] is the answer, in twenty seconds at most.
    fn ask_time_left(&mut self) {}

    /// On rank 0: ask the batch system when the time limit comes now. Must not wait: [`crate::Agent::limit`] is the answer, in ten
    /// seconds at most.
    fn ask_limit(&mut self) {}
}

impl<H: RankHooks + ?Sized> RankHooks for Box<H> {
    fn started(&mut self, facts: Started) {
        (**self).started(facts);
    }
    fn intent(&mut self, checkpoint: Checkpoint) -> Result<Vec<CommSeq>, StepError> {
        (**self).intent(checkpoint)
    }
    fn targets(&mut self, targets: &[CommSeq]) {
        (**self).targets(targets);
    }
    fn poll(&mut self) -> GatePoll {
        (**self).poll()
    }
    fn stop(&mut self) -> Result<(), StepError> {
        (**self).stop()
    }
    fn drain(&mut self) -> Result<DrainReport, StepError> {
        (**self).drain()
    }
    fn capture(&mut self, checkpoint: Checkpoint) -> Result<CaptureStarted, StepError> {
        (**self).capture(checkpoint)
    }
    fn resume(&mut self) {
        (**self).resume();
    }
    fn durable(&mut self) -> Poll<Result<ImageReport, StepError>> {
        (**self).durable()
    }
    fn commit(
        &mut self,
        checkpoint: Checkpoint,
        images: Option<&[ImageReport]>,
    ) -> Result<(), StepError> {
        (**self).commit(checkpoint, images)
    }
    fn level_work(&mut self, generation: GenerationId, level: Level) -> Result<(), StepError> {
        (**self).level_work(generation, level)
    }
    fn level_poll(
        &mut self,
        generation: GenerationId,
        level: Level,
    ) -> Poll<Result<(), StepError>> {
        (**self).level_poll(generation, level)
    }
    fn level_complete(&mut self, generation: GenerationId, level: Level) -> Result<(), StepError> {
        (**self).level_complete(generation, level)
    }
    fn prune(&mut self, protect: &[GenerationId]) {
        (**self).prune(protect);
    }
    fn coordinator_lost(&mut self, reason: &str, limit: Duration) {
        (**self).coordinator_lost(reason, limit);
    }
    fn coordinator_back(&mut self) {
        (**self).coordinator_back();
    }
    fn coordinator_gone(&mut self, reason: &str) {
        (**self).coordinator_gone(reason);
    }

    fn abandon(&mut self, generation: GenerationId, reason: &str) {
        (**self).abandon(generation, reason);
    }
    fn undecided(&mut self, generation: GenerationId) {
        (**self).undecided(generation);
    }
    fn state(&mut self) -> String {
        (**self).state()
    }
    fn ask(&mut self) {
        (**self).ask();
    }
    fn places(&mut self) -> Vec<Place> {
        (**self).places()
    }
    fn record_end(&mut self) -> Result<(), StepError> {
        (**self).record_end()
    }
    fn finish(&mut self, outcome: &Outcome) {
        (**self).finish(outcome);
    }
    fn end_job(&mut self, how: EndHow, reason: &str) {
        (**self).end_job(how, reason);
    }
    fn signal_over(&mut self, signal: i32) {
        (**self).signal_over(signal);
    }
    fn signal_held(&mut self, signal: i32, limit: Duration) {
        (**self).signal_held(signal, limit);
    }
    fn ask_time_left(&mut self) {
        (**self).ask_time_left();
    }
    fn ask_limit(&mut self) {
        (**self).ask_limit();
    }
}
