//! Level work: what happens to a committed generation in the background.
//!
//! For each enabled level up to the checkpoint's, lowest first: all ranks work, all ranks (the
//! leaders, that is) record the level as complete. Then pruning, if everything went well. A level
//! that fails is told once and skipped; the next may still succeed. Further checkpoints are taken
//! meanwhile, except of a level that is still busy with this one.

use std::collections::VecDeque;
use std::time::Duration;

use crate::protocol::{bounded, ToRank, ToTool};
use crate::{
    Checkpoint, Event, GenerationId, GenerationStatus, Level, LevelWorkStatus, Resumed, Settings,
    StepError,
};

use super::ranks::Roll;
use super::report::seconds;
use super::{Action, Complete, Core, To};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Work,
    Record,
}

/// One generation on its way up the levels.
#[derive(Debug)]
pub(super) struct LevelJob {
    checkpoint: Checkpoint,
    /// The levels to do; the first is being worked on.
    levels: VecDeque<Level>,
    stage: Stage,
    roll: Roll,
    started: Duration,
    deadline: Duration,
    next_warning: Duration,
    /// The first failure on the current level.
    failure: Option<String>,
    /// Nothing has failed on any level, and the manifest is on every node.
    intact: bool,
    /// The first failure on any level.
    broken: Option<String>,
    purpose: Purpose,
}

/// Who wanted the checkpoint, and what is to happen when it is through.
#[derive(Debug)]
pub(super) struct Purpose {
    pub figures: GenerationStatus,
    /// End the job.
    pub kill: bool,
    /// Tools that wait: a commit alone does not yet survive what the level asked for does.
    pub tools: Vec<u64>,
}

impl LevelJob {
    pub fn new(
        checkpoint: Checkpoint,
        settings: &Settings,
        intact: bool,
        purpose: Purpose,
        now: Duration,
    ) -> Self {
        let levels = Level::ALL
            .into_iter()
            .filter(|level| {
                *level <= checkpoint.level
                    && (*level == Level::Local || settings.is_enabled(*level))
            })
            .collect();
        Self {
            checkpoint,
            levels,
            // The local level is complete with the commit: it only has to be recorded.
            stage: Stage::Record,
            roll: Roll::new(0),
            started: now,
            deadline: now,
            next_warning: now,
            failure: None,
            intact,
            broken: None,
            purpose,
        }
    }

    /// Whether this generation keeps `level` busy.
    pub fn occupies(&self, level: Level) -> bool {
        level > Level::Local && self.levels.contains(&level)
    }

    pub fn status(&self, now: Duration) -> Option<LevelWorkStatus> {
        Some(LevelWorkStatus {
            generation: self.checkpoint.generation,
            level: *self.levels.front()?,
            waits_for: u32::try_from(self.roll.count_missing()).unwrap_or(u32::MAX),
            ranks: u32::try_from(self.roll.len()).unwrap_or(u32::MAX),
            bytes: self.purpose.figures.bytes,
            seconds: now.saturating_sub(self.started).as_secs_f64(),
        })
    }

    pub fn generation(&self) -> GenerationId {
        self.checkpoint.generation
    }

    /// What the tools that wait are told, once.
    pub fn answers(&mut self) -> Vec<Action> {
        let message = match &self.broken {
            None => ToTool::Committed(self.purpose.figures.clone()),
            Some(reason) => ToTool::Denied {
                reason: reason.clone(),
            },
        };
        std::mem::take(&mut self.purpose.tools)
            .into_iter()
            .map(|tool| Action::Answer {
                tool,
                message: message.clone(),
            })
            .collect()
    }
}

impl Core {
    pub(super) fn start_levels(&mut self, now: Duration, job: LevelJob) {
        self.jobs.push(job);
        self.enter_stage(now, self.jobs.len() - 1, Stage::Record);
    }

    /// What an earlier start has left on the levels.
    pub(super) fn inherit(&mut self, now: Duration, resumed: &Resumed) {
        for level in &resumed.levels {
            self.figures.complete[level.index()].get_or_insert(Complete {
                generation: resumed.generation,
                at: now,
                age: resumed.age,
                bytes: resumed.bytes,
                seconds: None,
            });
        }
    }

    /// Orders the current level's `stage` from all ranks.
    fn enter_stage(&mut self, now: Duration, index: usize, stage: Stage) {
        let ranks = self.ranks.len();
        let absent: Vec<u32> = self
            .ranks
            .iter()
            .map(|(rank, _)| rank)
            .filter(|rank| !self.is_there(*rank))
            .collect();
        let limit = match stage {
            Stage::Work => self.settings.level_limit,
            Stage::Record => self.settings.commit_limit,
        };
        let Some(job) = self.jobs.get_mut(index) else {
            return;
        };
        let Some(level) = job.levels.front().copied() else {
            return;
        };
        job.stage = stage;
        job.roll = Roll::new(ranks);
        job.deadline = now.saturating_add(limit);
        job.next_warning = now.saturating_add(self.settings.warn_after.saturating_mul(6));
        if stage == Stage::Work {
            job.started = now;
        }
        for rank in absent {
            job.roll.answer(rank);
            job.failure
                .get_or_insert_with(|| format!("rank {rank} is gone"));
        }
        let generation = job.generation();
        self.send(
            To::All,
            match stage {
                Stage::Work => ToRank::LevelWork { generation, level },
                Stage::Record => ToRank::LevelComplete { generation, level },
            },
        );
    }

    pub(super) fn on_level_done(
        &mut self,
        now: Duration,
        rank: u32,
        generation: GenerationId,
        level: Level,
        result: Result<(), StepError>,
    ) {
        self.level_answer(now, rank, generation, level, Stage::Work, result);
    }

    pub(super) fn on_level_recorded(
        &mut self,
        now: Duration,
        rank: u32,
        generation: GenerationId,
        level: Level,
        result: Result<(), StepError>,
    ) {
        self.level_answer(now, rank, generation, level, Stage::Record, result);
    }

    fn level_answer(
        &mut self,
        now: Duration,
        rank: u32,
        generation: GenerationId,
        level: Level,
        stage: Stage,
        result: Result<(), StepError>,
    ) {
        let name = self.ranks.name(rank);
        let Some(index) = self
            .jobs
            .iter()
            .position(|job| job.generation() == generation)
        else {
            return;
        };
        let job = &mut self.jobs[index];
        if job.levels.front() != Some(&level) || job.stage != stage || !job.roll.answer(rank) {
            return;
        }
        if let Err(error) = result {
            // A cause replaces what only follows from it.
            let line = format!("{name}: {}", bounded(&error.message));
            if !error.secondary || job.failure.is_none() {
                job.failure = Some(line);
            }
        }
        if job.roll.is_complete() {
            self.settle_stage(now, index);
        }
    }

    /// All ranks have answered, or will not.
    fn settle_stage(&mut self, now: Duration, index: usize) {
        let Some(job) = self.jobs.get_mut(index) else {
            return;
        };
        let Some(level) = job.levels.front().copied() else {
            return;
        };
        let (checkpoint, stage, failure) = (job.checkpoint, job.stage, job.failure.take());
        if let Some(failure) = failure {
            let line = format!(
                "checkpoint {} could not be completed on level {level}: {failure}",
                checkpoint.generation.number
            );
            job.intact = false;
            job.broken.get_or_insert_with(|| line.clone());
            self.event(Event::LevelFailed {
                generation: checkpoint.generation,
                level,
                reason: failure,
            });
            self.figures.last_failure = Some(line.clone());
            self.warn(line);
        } else if stage == Stage::Work {
            return self.enter_stage(now, index, Stage::Record);
        } else {
            let since = now.saturating_sub(job.started).as_secs_f64();
            self.costs.reached(level, now.saturating_sub(job.started));
            let figures = &job.purpose.figures;
            let took = match level {
                Level::Local => figures.write,
                _ => since,
            };
            let bytes = figures.bytes;
            self.figures.complete[level.index()] = Some(Complete {
                generation: checkpoint.generation,
                at: now,
                age: Duration::ZERO,
                bytes,
                seconds: Some(took),
            });
            self.event(Event::LevelComplete {
                generation: checkpoint.generation,
                level,
                seconds: took,
                bytes,
            });
            if level > Level::Local {
                self.info(format!(
                    "checkpoint {} complete on level {level} after {}",
                    checkpoint.generation.number,
                    seconds(since)
                ));
            }
        }
        let job = &mut self.jobs[index];
        job.levels.pop_front();
        if job.levels.is_empty() {
            self.finish_levels(now, index);
        } else {
            self.enter_stage(now, index, Stage::Work);
        }
        self.start_next(now);
    }

    fn finish_levels(&mut self, now: Duration, index: usize) {
        let mut job = self.jobs.remove(index);
        if job.intact {
            let protect = self
                .taking
                .iter()
                .map(|taking| taking.checkpoint.generation)
                .chain(self.jobs.iter().map(LevelJob::generation))
                .collect();
            self.send(To::All, ToRank::Prune { protect });
        }
        let kill = job.purpose.kill;
        self.actions.extend(job.answers());
        if kill {
            if job.intact {
                self.end_job(now, "a last checkpoint was taken");
            } else {
                self.warn(format!(
                    "the job is not ended, since checkpoint {} is not complete on level {}",
                    job.checkpoint.generation.number, job.checkpoint.level
                ));
            }
        }
        self.last_is_over(now, job.generation(), Ok(()));
        self.settle_end(now);
    }

    /// A rank will not answer any more.
    pub(super) fn levels_lost(&mut self, now: Duration, rank: u32, reason: &str) {
        for index in (0..self.jobs.len()).rev() {
            let job = &mut self.jobs[index];
            if job.roll.answer(rank) {
                job.failure.get_or_insert(reason.to_owned());
                if job.roll.is_complete() {
                    self.settle_stage(now, index);
                }
            }
        }
    }

    pub(super) fn tick_levels(&mut self, now: Duration) {
        for index in (0..self.jobs.len()).rev() {
            let job = &mut self.jobs[index];
            let waited = now.saturating_sub(job.started);
            let whom = || self.ranks.names(job.roll.missing(), now);
            if now >= job.deadline {
                let reason = format!("waited {} for {}", seconds(waited.as_secs_f64()), whom());
                job.failure = Some(reason);
                self.settle_stage(now, index);
            } else if now >= job.next_warning {
                let level = job.levels.front().copied().unwrap_or(Level::Local);
                let line = format!(
                    "checkpoint {}: level {level} takes {} so far, waiting for {}",
                    job.checkpoint.generation.number,
                    seconds(waited.as_secs_f64()),
                    whom()
                );
                job.next_warning = now.saturating_add(waited.max(self.settings.warn_after));
                self.warn(line);
            }
        }
    }

    pub(super) fn wake_levels(&self) -> Option<Duration> {
        self.jobs
            .iter()
            .map(|job| job.deadline.min(job.next_warning))
            .min()
    }
}
