//! One checkpoint, from intent to commit.
//!
//! ```text
//! intent -> gate -> stop -> drain -> capture -> write (ranks resumed) -> commit
//! ```
//! Each arrow is a barrier: all ranks have answered. A rank's failure, its loss, or the step's time
//! limit abandons the generation on all ranks. The commit is different: once one node's manifest is
//! durable the generation is valid, so that failures elsewhere are told but do not undo it.

use std::time::Duration;

use crate::protocol::{bounded, Pause, ToRank, ToTool};
use crate::{
    CaptureStarted, Checkpoint, CommSeq, DrainReport, Event, GatePoll, GenerationId,
    GenerationStatus, ImageReport, Level, Stall, StepError,
};

use super::gate::Gate;
use super::levels::{LevelJob, Purpose};
use super::ranks::{Life, Roll};
use super::report::{amount, seconds};
use super::{stall, Action, Core, To, Wanted, RECENT};

/// How long the cause may arrive after its consequences on other ranks.
const CAUSE_GRACE: Duration = Duration::from_secs(2);
/// Why a checkpoint is given up whose program will not run on.
pub(super) const BEING_ENDED: &str = "the job is being ended";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    Intent,
    Gate,
    Stop,
    Drain,
    Capture,
    Write,
    Commit,
}

impl Step {
    pub fn name(self) -> &'static str {
        match self {
            Step::Intent => "intent",
            Step::Gate => "gate",
            Step::Stop => "stop",
            Step::Drain => "drain",
            Step::Capture => "capture",
            Step::Write => "write",
            Step::Commit => "commit",
        }
    }

    /// For "waits 10 s ...".
    fn waiting(self) -> &'static str {
        match self {
            Step::Intent => "for an answer from",
            Step::Gate => "for the safe point of",
            Step::Stop => "for the threads to stop on",
            Step::Drain => "for messages in flight to",
            Step::Capture => "for the snapshot of",
            Step::Write => "for the image of",
            Step::Commit => "for the manifest from",
        }
    }
}

/// The checkpoint being taken.
#[derive(Debug)]
pub(super) struct Taking {
    pub checkpoint: Checkpoint,
    pub step: Step,
    pub roll: Roll,
    pub gate: Gate,
    pub step_started: Duration,
    started: Duration,
    deadline: Duration,
    next_warning: Duration,
    report_every: Duration,
    /// A level was due: its due time moves on when this is over.
    scheduled: bool,
    wanted: Vec<Wanted>,
    images: Vec<ImageReport>,
    pause: Pause,
    stopped: u64,
    /// From the resume until every image was durable.
    write: Duration,
    /// A failure that only follows from another one, and until when the cause is waited for.
    consequence: Option<(String, Duration)>,
    manifests: u32,
    commit_failure: Option<String>,
}

impl Taking {
    fn enter(&mut self, step: Step, now: Duration, limit: Duration, warn_after: Duration) {
        self.step = step;
        self.step_started = now;
        self.deadline = now.saturating_add(limit);
        self.next_warning = now.saturating_add(warn_after);
        self.roll = Roll::new(self.images.len());
        self.consequence = None;
    }

    /// Bytes of the images that are known.
    pub fn bytes(&self) -> u64 {
        let sizes = self.images.iter().map(|image| image.bytes);
        sizes.fold(0, u64::saturating_add)
    }

    /// How long it has been under way.
    pub fn lasted(&self, now: Duration) -> Duration {
        now.saturating_sub(self.started)
    }

    /// The ranks this step waits for.
    pub fn missing(&self) -> Vec<u32> {
        match self.step {
            Step::Gate => self.gate.missing().collect(),
            _ => self.roll.missing().collect(),
        }
    }
}

impl Core {
    pub(super) fn start(&mut self, now: Duration, level: Level, scheduled: bool) {
        let generation = GenerationId {
            incarnation: self.incarnation.unwrap_or(0),
            number: self.next_number,
        };
        self.next_number = self.next_number.saturating_add(1);
        let checkpoint = Checkpoint { generation, level };
        let (wanted, later) = std::mem::take(&mut self.wanted)
            .into_iter()
            .partition(|w| w.level <= level);
        self.wanted = later;
        if wanted.iter().any(|w: &Wanted| w.last) {
            self.last_has_begun(checkpoint);
        }
        let ranks = self.ranks.len();
        let report_every =
            Duration::from_millis(5) + Duration::from_micros(5) * u32::try_from(ranks).unwrap_or(0);
        self.figures.due += 1;
        self.taking = Some(Taking {
            checkpoint,
            step: Step::Intent,
            roll: Roll::new(ranks),
            gate: Gate::new(ranks),
            started: now,
            step_started: now,
            deadline: now.saturating_add(self.settings.gate_limit),
            next_warning: now.saturating_add(self.settings.warn_after),
            report_every,
            scheduled,
            wanted,
            images: vec![ImageReport::default(); ranks],
            pause: Pause::default(),
            stopped: 0,
            write: Duration::ZERO,
            consequence: None,
            manifests: 0,
            commit_failure: None,
        });
        self.send(
            To::All,
            ToRank::Intent {
                checkpoint,
                report_every,
            },
        );
    }

    /// Notes a rank's answer to `step`. `None`: not expected (an abandoned generation, a second
    /// answer), or a failure that has been dealt with; else whether all have answered.
    fn answer<T>(
        &mut self,
        now: Duration,
        rank: u32,
        generation: GenerationId,
        step: Step,
        result: Result<T, StepError>,
    ) -> Option<(T, bool)> {
        let taking = self.taking.as_mut()?;
        if taking.checkpoint.generation != generation
            || taking.step != step
            || !taking.roll.answer(rank)
        {
            return None;
        }
        match result {
            Ok(answer) => {
                if taking.consequence.is_some() {
                    self.settle_consequence(now);
                    return None;
                }
                let complete = taking.roll.is_complete();
                Some((answer, complete))
            }
            Err(error) => {
                let line = format!("{}: {}", self.ranks.name(rank), bounded(&error.message));
                if error.secondary {
                    taking
                        .consequence
                        .get_or_insert((line, now.saturating_add(CAUSE_GRACE)));
                    self.settle_consequence(now);
                } else {
                    self.abandon(now, line);
                }
                None
            }
        }
    }

    /// Gives up with a consequence as the reason, once the cause can no longer be expected.
    fn settle_consequence(&mut self, now: Duration) {
        let Some(taking) = &self.taking else { return };
        if let Some((line, until)) = &taking.consequence {
            if taking.roll.is_complete() || now >= *until {
                let line = line.clone();
                self.abandon(now, line);
            }
        }
    }

    /// Goes on to `step` and says so to all ranks.
    fn advance(&mut self, now: Duration, step: Step, message: ToRank) {
        let limit = match step {
            Step::Intent | Step::Gate => self.settings.gate_limit,
            Step::Stop | Step::Drain | Step::Capture => self.settings.stopped_limit,
            Step::Write => self.settings.write_limit,
            Step::Commit => self.settings.commit_limit,
        };
        let warn_after = self.settings.warn_after;
        if let Some(taking) = &mut self.taking {
            taking.enter(step, now, limit, warn_after);
            if step == Step::Stop {
                // What the ranks did on the way here is over.
                self.ranks.forget_places();
            }
            if step == Step::Gate {
                // The limit is for intent and gate together.
                taking.deadline = taking.started.saturating_add(limit);
            }
            self.send(To::All, message);
        }
    }

    pub(super) fn on_seqs(
        &mut self,
        now: Duration,
        rank: u32,
        generation: GenerationId,
        result: Result<Vec<CommSeq>, StepError>,
    ) {
        let Some((seqs, complete)) = self.answer(now, rank, generation, Step::Intent, result)
        else {
            return;
        };
        let Some(taking) = &mut self.taking else {
            return;
        };
        if !taking.gate.seqs(&seqs) {
            return self.abandon(now, "too many communicators".into());
        }
        if complete {
            let (epoch, targets) = taking.gate.announce(now);
            self.advance(
                now,
                Step::Gate,
                ToRank::Targets {
                    generation,
                    epoch,
                    targets,
                },
            );
        }
    }

    pub(super) fn on_gate(
        &mut self,
        now: Duration,
        rank: u32,
        generation: GenerationId,
        epoch: u32,
        poll: &GatePoll,
    ) {
        let Some(taking) = &mut self.taking else {
            return;
        };
        if taking.checkpoint.generation != generation || taking.step != Step::Gate {
            return;
        }
        if let Some(found) = self.ranks.get_mut(rank) {
            found.doing = bounded(&poll.where_);
            found.behind = poll.behind;
        }
        if taking.gate.report(rank as usize, epoch, poll, now) {
            self.advance(now, Step::Stop, ToRank::Stop(generation));
        }
    }

    pub(super) fn on_stopped(
        &mut self,
        now: Duration,
        rank: u32,
        generation: GenerationId,
        result: Result<(), StepError>,
    ) {
        if let Some(((), true)) = self.answer(now, rank, generation, Step::Stop, result) {
            self.advance(now, Step::Drain, ToRank::Drain(generation));
        }
    }

    pub(super) fn on_drained(
        &mut self,
        now: Duration,
        rank: u32,
        generation: GenerationId,
        result: Result<DrainReport, StepError>,
    ) {
        if let Some((_, true)) = self.answer(now, rank, generation, Step::Drain, result) {
            if let Some(checkpoint) = self.taking.as_ref().map(|taking| taking.checkpoint) {
                self.advance(now, Step::Capture, ToRank::Capture(checkpoint));
            }
        }
    }

    pub(super) fn on_captured(
        &mut self,
        now: Duration,
        rank: u32,
        generation: GenerationId,
        result: Result<CaptureStarted, StepError>,
    ) {
        if let Some((_, true)) = self.answer(now, rank, generation, Step::Capture, result) {
            self.advance(now, Step::Write, ToRank::Resume(generation));
        }
    }

    pub(super) fn on_resumed(&mut self, generation: GenerationId, pause: Pause) {
        let Some(taking) = &mut self.taking else {
            return;
        };
        if taking.checkpoint.generation == generation {
            taking.pause.gate = taking.pause.gate.max(pause.gate);
            taking.pause.drain = taking.pause.drain.max(pause.drain);
            taking.pause.snapshot = taking.pause.snapshot.max(pause.snapshot);
            let stopped = pause
                .gate
                .saturating_add(pause.drain)
                .saturating_add(pause.snapshot);
            taking.stopped = taking.stopped.max(stopped);
        }
    }

    pub(super) fn on_durable(
        &mut self,
        now: Duration,
        rank: u32,
        generation: GenerationId,
        result: Result<ImageReport, StepError>,
    ) {
        let Some((image, complete)) = self.answer(now, rank, generation, Step::Write, result)
        else {
            return;
        };
        let Some(taking) = &mut self.taking else {
            return;
        };
        if let Some(place) = taking.images.get_mut(rank as usize) {
            // The connection has proven which rank it is; its message may say anything.
            *place = ImageReport { rank, ..image };
        }
        if complete {
            let checkpoint = taking.checkpoint;
            let images = Some(taking.images.clone());
            let limit = self.settings.commit_limit;
            taking.write = now.saturating_sub(taking.step_started);
            taking.enter(Step::Commit, now, limit, self.settings.warn_after);
            self.send(To::Leaders, ToRank::Commit { checkpoint, images });
            self.send(
                To::Others,
                ToRank::Commit {
                    checkpoint,
                    images: None,
                },
            );
        }
    }

    pub(super) fn on_committed(
        &mut self,
        now: Duration,
        rank: u32,
        generation: GenerationId,
        result: Result<(), StepError>,
    ) {
        let leader = self.ranks.get(rank).is_some_and(|found| found.leader);
        let name = self.ranks.name(rank);
        let Some(taking) = &mut self.taking else {
            return;
        };
        if taking.checkpoint.generation != generation
            || taking.step != Step::Commit
            || !taking.roll.answer(rank)
        {
            return;
        }
        match result {
            Ok(()) => taking.manifests += u32::from(leader),
            Err(error) => {
                taking
                    .commit_failure
                    .get_or_insert(format!("{name}: {}", bounded(&error.message)));
            }
        }
        if taking.roll.is_complete() {
            self.settle_commit(now);
        }
    }

    /// The commit step is over: one durable manifest makes the generation valid.
    fn settle_commit(&mut self, now: Duration) {
        let Some(taking) = &self.taking else { return };
        if taking.manifests == 0 {
            let reason = taking
                .commit_failure
                .clone()
                .unwrap_or_else(|| "no node wrote the manifest".into());
            return self.abandon(now, reason);
        }
        let Some(taking) = self.taking.take() else {
            return;
        };
        // They have run on since: what they said during the checkpoint is over.
        self.ranks.forget_places();
        let Checkpoint { generation, level } = taking.checkpoint;
        let bytes = taking
            .images
            .iter()
            .fold(0u64, |sum, image| sum.saturating_add(image.bytes));
        let micros = |us: u64| us as f64 / 1e6;
        let figures = GenerationStatus {
            generation,
            level,
            bytes,
            seconds: (now - taking.started).as_secs_f64(),
            gate: micros(taking.pause.gate),
            drain: micros(taking.pause.drain),
            snapshot: micros(taking.pause.snapshot),
            stopped: micros(taking.stopped),
            write: taking.write.as_secs_f64(),
        };
        self.figures.committed += 1;
        self.costs.committed(now.saturating_sub(taking.started));
        self.info(format!(
            "{} committed: {} in {}, program stopped {} (gate {}, drain {}, snapshot {})",
            taking.checkpoint,
            amount(bytes),
            seconds(figures.seconds),
            seconds(figures.stopped),
            seconds(figures.gate),
            seconds(figures.drain),
            seconds(figures.snapshot),
        ));
        if let Some(failure) = &taking.commit_failure {
            self.warn(format!(
                "{}: the manifest is not on every node ({failure})",
                taking.checkpoint
            ));
        }
        self.figures.last = Some(figures.clone());
        self.figures.recent.push_back(figures.clone());
        if self.figures.recent.len() > RECENT {
            self.figures.recent.pop_front();
        }
        self.event(Event::Committed {
            scheduled: taking.scheduled,
            figures: figures.clone(),
        });
        if taking.scheduled {
            let covered = self.scheduler.taken(level, now);
            self.figures.covered += covered;
            let interval = |level| self.scheduler.interval(level);
            if let Some(line) = self.burden.add(now, &figures, covered, interval) {
                self.warn(line);
            }
        }
        let job = LevelJob::new(
            taking.checkpoint,
            &self.settings,
            taking.commit_failure.is_none(),
            Purpose {
                figures,
                kill: taking.wanted.iter().any(|wanted| wanted.kill),
                tools: taking.wanted.iter().filter_map(|w| w.tool).collect(),
            },
            now,
        );
        self.start_levels(now, job);
        self.after_checkpoint(now);
    }

    /// Gives the generation up because a step did not end in time: says where every rank is.
    fn abandon_stalled(&mut self, now: Duration, reason: String, stall: Stall) {
        let cause = stall.cause.as_deref();
        let reason = cause.map_or(reason.clone(), |cause| format!("{reason}; {cause}"));
        let lines = stall::lines(&stall);
        self.figures.last_stall = Some(stall);
        self.abandon(now, reason);
        for line in lines {
            self.warn(line);
        }
    }

    /// Gives the generation up on all ranks and says so once.
    pub(super) fn abandon(&mut self, now: Duration, reason: String) {
        let Some(taking) = self.taking.take() else {
            return;
        };
        let Checkpoint { generation, level } = taking.checkpoint;
        self.send(
            To::All,
            ToRank::Abandon {
                generation,
                reason: reason.clone(),
            },
        );
        self.figures.abandoned += 1;
        let line = format!(
            "{} abandoned in step {}: {reason}",
            taking.checkpoint,
            taking.step.name()
        );
        for tool in taking.wanted.iter().filter_map(|wanted| wanted.tool) {
            self.actions.push(Action::Answer {
                tool,
                message: ToTool::Denied {
                    reason: line.clone(),
                },
            });
        }
        self.figures.last_failure = Some(line.clone());
        let given_up = reason.clone();
        self.event(Event::Abandoned {
            generation,
            level,
            step: taking.step.name().into(),
            seconds: now.saturating_sub(taking.started).as_secs_f64(),
            reason,
        });
        self.warn(match given_up == BEING_ENDED {
            true => format!("{line}; older checkpoints are kept"),
            false => format!("{line}; the program runs on, older checkpoints are kept"),
        });
        if taking.scheduled {
            self.figures.covered += self.scheduler.taken(level, now);
        }
        self.last_is_over(now, generation, Err(given_up));
        self.after_checkpoint(now);
    }

    /// No checkpoint is being taken any more: what waited for that goes on.
    fn after_checkpoint(&mut self, now: Duration) {
        self.release_finalizing();
        self.settle_end(now);
        self.start_next(now);
    }

    /// A rank will not answer any more.
    pub(super) fn taking_lost(&mut self, now: Duration, rank: u32, reason: &str) {
        let Some(taking) = &mut self.taking else {
            return;
        };
        if taking.step < Step::Commit {
            return self.abandon(now, reason.to_owned());
        }
        if taking.roll.answer(rank) {
            taking.commit_failure.get_or_insert(reason.to_owned());
            if taking.roll.is_complete() {
                self.settle_commit(now);
            }
        }
    }

    /// Whether the program's threads are running, the checkpoint's snapshot being taken.
    pub(super) fn is_past_capture(&self) -> bool {
        self.taking
            .as_ref()
            .is_some_and(|taking| taking.step >= Step::Write)
    }

    pub(super) fn tick_taking(&mut self, now: Duration) {
        self.settle_consequence(now);
        let Some(taking) = &mut self.taking else {
            return;
        };
        let lasted = now.saturating_sub(taking.step_started);
        let waited = seconds(lasted.as_secs_f64());
        if now >= taking.deadline {
            let missing = taking.missing();
            let whom = self.ranks.names(missing.iter().copied(), now);
            let reason = format!("waited {waited} {} {whom}", taking.step.waiting());
            if taking.step == Step::Commit {
                taking.commit_failure.get_or_insert(reason);
                return self.settle_commit(now);
            }
            let (checkpoint, step) = (taking.checkpoint, taking.step.name());
            let stall = stall::report(checkpoint, step, lasted, &self.ranks, &missing, now);
            self.abandon_stalled(now, reason, stall);
            return;
        }
        let mut warning = None;
        if now >= taking.next_warning {
            taking.next_warning = now.saturating_add(now - taking.step_started);
            let missing = taking.missing();
            let whom = self.ranks.names(missing.iter().copied(), now);
            let (checkpoint, step) = (taking.checkpoint, taking.step);
            let found = stall::report(checkpoint, step.name(), lasted, &self.ranks, &missing, now);
            let cause = found
                .cause
                .map_or(String::new(), |cause| format!("; {cause}"));
            warning = Some(format!(
                "{checkpoint} waits {waited} {} {whom}{cause}",
                step.waiting()
            ));
        }
        let mut raised = None;
        if taking.step == Step::Gate && now >= Self::next_stall(taking, self.settings.gate_stall) {
            raised = taking.gate.raise(now);
        }
        let generation = taking.checkpoint.generation;
        if let Some((epoch, target)) = raised {
            log::debug!(
                "{generation}: gate of communicator {:#x} raised to {}",
                target.comm_id,
                target.seq
            );
            self.send(
                To::All,
                ToRank::Targets {
                    generation,
                    epoch,
                    targets: vec![target],
                },
            );
        }
        if let Some(warning) = warning {
            self.warn(warning);
        }
    }

    /// The first raise comes after the full stall time; a program that needs several is helped faster.
    fn next_stall(taking: &Taking, stall: Duration) -> Duration {
        let shorter = stall / (1 << taking.gate.raises().min(2));
        taking.gate.stall_time(shorter.max(taking.report_every * 2))
    }

    pub(super) fn wake_taking(&self) -> Option<Duration> {
        let taking = self.taking.as_ref()?;
        let mut wake = taking.deadline.min(taking.next_warning);
        if let Some((_, until)) = &taking.consequence {
            wake = wake.min(*until);
        }
        if taking.step == Step::Gate {
            wake = wake.min(Self::next_stall(taking, self.settings.gate_stall));
        }
        Some(wake)
    }

    /// Ranks held in `MPI_Finalize` may go on; that ends checkpointing.
    pub(super) fn release_finalizing(&mut self) {
        let mut released = Vec::new();
        for (rank, found) in self.ranks.iter_mut() {
            if found.life == Life::Finalizing {
                found.life = Life::Finalized;
                released.push(rank);
            }
        }
        if !released.is_empty() {
            self.close("the program has called MPI_Finalize".into());
            for rank in released {
                self.send(To::Rank(rank), ToRank::Finalize);
            }
        }
    }
}
