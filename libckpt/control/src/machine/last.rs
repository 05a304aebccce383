//! The last checkpoint before an end that is announced: by a signal, or by the time limit.
//!
//! | announced by | time there is | afterwards |
//! |---|---|---|
//! | SIGTERM | until the kill that follows it (`Settings::grace`) | the program gets the signal |
//! | another signal of the user's choice | until the time limit | `Settings::at_end` |
//! | the time limit itself, some time before (`limit`) | until it comes | `Settings::at_end` |
//!
//! A SIGTERM that comes with the time limit counts as the latter. The level is the highest whose
//! measured cost fits into the time left; since every checkpoint reaches the lower levels first, one
//! that was never measured is tried. Nothing is waited for beyond that time.
//!
//! A batch system may give a grace time before the kill, which only it knows. While the checkpoint is
//! being taken rank 0 asks; if there is more time than was planned for, the checkpoint rises to a
//! higher level, or another one follows it where that is too late.

use std::time::Duration;

use crate::protocol::ToRank;
use crate::{AtEnd, Checkpoint, EndHow, Event, GenerationId, Level, Needed};

use super::report::seconds;
use super::taking::Step;
use super::{Core, To, Wanted};

/// The signal that asks a program to end.
pub(super) const TERM: i32 = 15;
/// What is left untouched before the time limit.
const BEFORE_LIMIT: Duration = Duration::from_secs(2);
/// A SIGTERM this close to the time limit is the time limit's.
const AT_LIMIT: Duration = Duration::from_secs(3);
/// For the batch system's answer after a SIGTERM; nothing but the end waits for it.
const ANSWER: Duration = Duration::from_secs(20);
/// For a checkpoint a signal has asked for, where no time limit is known.
const NO_LIMIT: Duration = Duration::from_secs(3600);

/// What checkpoints have cost, as far as they were measured.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Costs {
    commit: Option<Duration>,
    levels: [Option<Duration>; 4],
}

/// The worst of the last few: older ones fade.
fn worse(known: Option<Duration>, new: Duration) -> Option<Duration> {
    Some(known.map_or(new, |old| new.max((old * 4 + new) / 5)))
}

impl Costs {
    pub fn committed(&mut self, time: Duration) {
        self.commit = worse(self.commit, time);
    }

    pub fn reached(&mut self, level: Level, time: Duration) {
        let place = &mut self.levels[level.index()];
        *place = worse(*place, time);
    }

    /// From the intent to completeness on `level`, if all of it was measured.
    pub fn of(&self, level: Level, enabled: impl Fn(Level) -> bool) -> Option<Duration> {
        let steps = Level::ALL
            .into_iter()
            .filter(|l| *l > Level::Local && *l <= level && enabled(*l));
        steps.fold(self.commit, |sum, step| {
            Some(sum? + self.levels[step.index()]?)
        })
    }
}

/// The last checkpoint, wanted or under way.
#[derive(Clone, Debug)]
pub(super) struct Last {
    /// What announced the end.
    cause: String,
    /// When nothing more is waited for.
    deadline: Duration,
    /// `at_end` decides what follows; else the signal does.
    decides: bool,
    /// The batch system was asked how much time there is, after a SIGTERM.
    asked: bool,
    /// Until then the batch system's answer is waited for.
    answer_by: Option<Duration>,
    /// The batch system gives more time than the signal alone.
    extended: bool,
    /// Once it has begun.
    generation: Option<GenerationId>,
    /// The level it was begun for.
    level: Level,
    /// Its checkpoint is over: committed, or why not.
    result: Option<Result<(), String>>,
}

/// "SIGTERM".
fn name(signal: i32) -> String {
    match signal {
        1 => "SIGHUP".into(),
        2 => "SIGINT".into(),
        3 => "SIGQUIT".into(),
        10 => "SIGUSR1".into(),
        12 => "SIGUSR2".into(),
        TERM => "SIGTERM".into(),
        24 => "SIGXCPU".into(),
        other => format!("signal {other}"),
    }
}

impl Core {
    /// A signal that announces the end has come to a rank.
    pub(super) fn on_signal(&mut self, now: Duration, rank: u32, signal: i32) {
        let over = |core: &mut Self| core.send(To::Rank(rank), ToRank::SignalOver { signal });
        if let Some(why) = self.no_last() {
            let line = format!("{}: no last checkpoint, {why}", name(signal));
            match self.closed_by_loss {
                // A launcher ends the others when one has died: that was said.
                true => self.debug_line(line),
                false => self.warn(line),
            }
            return over(self);
        }
        let at_limit = self.limit.ends_at.is_some_and(|end| end <= now + AT_LIMIT);
        let decides = signal != TERM || at_limit;
        let limit = if signal == TERM {
            self.settings.grace
        } else {
            NO_LIMIT
        };
        let mut deadline = now.saturating_add(limit);
        if let (Some(end), false) = (self.limit.ends_at, signal == TERM) {
            deadline = deadline.min(end.saturating_sub(BEFORE_LIMIT).max(now));
        }
        self.noticed.push((rank, signal));
        match &mut self.last {
            Some(last) if last.extended => {
                let limit = last.deadline.saturating_sub(now);
                self.send(To::Rank(rank), ToRank::SignalHeld { signal, limit });
            }
            Some(last) => {
                // Somebody wants the job to end, whatever was to follow.
                last.deadline = last.deadline.min(deadline);
                last.decides &= decides;
            }
            None => self.begin_last(now, name(signal), deadline, decides),
        }
        if signal == TERM && !at_limit {
            self.ask_time_left(now);
        }
    }

    /// How much time there is before the kill, only the batch system knows.
    fn ask_time_left(&mut self, now: Duration) {
        // The other ranks tell of the same SIGTERM.
        let first = |last: &&mut Last| !last.asked;
        if let (true, Some(last)) = (self.asks, self.last.as_mut().filter(first)) {
            last.asked = true;
            last.answer_by = Some(now.saturating_add(ANSWER));
            self.send(To::Rank(0), ToRank::AskTimeLeft);
        }
    }

    /// It has answered.
    pub(super) fn on_time_left(&mut self, now: Duration, left: Option<Duration>) {
        let Some(last) = &mut self.last else { return };
        last.answer_by = None;
        let told = left.map(|left| now.saturating_add(left.min(NO_LIMIT)));
        last.extended = told.is_some_and(|told| told > last.deadline);
        if let (true, Some(told)) = (last.extended, told) {
            last.deadline = told;
            let limit = last.deadline.saturating_sub(now);
            let line = format!(
                "{}: the batch system leaves {}",
                last.cause,
                seconds(limit.as_secs_f64())
            );
            self.info(line);
            let held = self.noticed.iter().filter(|(_, signal)| *signal == TERM);
            for rank in held.map(|(rank, _)| *rank).collect::<Vec<_>>() {
                let signal = TERM;
                self.send(To::Rank(rank), ToRank::SignalHeld { signal, limit });
            }
            self.raise_last(now);
        }
        self.settle_last(now);
    }

    /// There is time for a higher level than the last checkpoint was begun for: as long as it is not
    /// committed, it is taken for that one.
    fn raise_last(&mut self, now: Duration) {
        let level = self.last_level(now);
        let free = self.is_available(level);
        let (Some(last), Some(taking)) = (&mut self.last, &mut self.taking) else {
            return;
        };
        let rises = free
            && last.generation == Some(taking.checkpoint.generation)
            && taking.step < Step::Commit
            && taking.checkpoint.level < level;
        if rises {
            taking.checkpoint.level = level;
            last.level = level;
            let line = format!("{}: it goes on to level {level}", last.cause);
            self.info(line);
        }
    }

    /// It is complete, but not over: there is time for another one on a higher level, or may be.
    fn goes_higher(&mut self, now: Duration) -> bool {
        let Some(last) = &mut self.last else {
            return false;
        };
        last.answer_by.take_if(|by| now >= *by);
        let complete = last.result == Some(Ok(())) && self.jobs.is_empty();
        if !complete || self.closed.is_some() || now >= last.deadline {
            return false;
        }
        let (taken, extended) = (last.level, last.extended);
        if last.answer_by.is_some() {
            let mut higher = Level::ALL.into_iter().filter(|level| *level > taken);
            return higher.any(|level| self.settings.is_enabled(level));
        }
        let level = self.last_level(now);
        let Some(last) = self.last.as_mut().filter(|_| extended && level > taken) else {
            return false;
        };
        last.generation = None;
        last.result = None;
        let line = format!("{}: another one ({level}) is taken", last.cause);
        self.info(line);
        self.want_last(now, level);
        true
    }

    /// For how long a job that is told to end may need the coordinator; `None`: there is none.
    pub fn needed(&self, now: Duration) -> Option<Needed> {
        let is_there = self.ranks.iter().any(|(_, found)| found.connected);
        (is_there && self.over().is_none()).then(|| Needed {
            grace: self.settings.grace,
            last: self
                .last
                .as_ref()
                .map(|last| last.deadline.saturating_sub(now)),
        })
    }

    /// Why no last checkpoint can be taken.
    fn no_last(&self) -> Option<String> {
        if let Some(reason) = &self.closed {
            return Some(reason.clone());
        }
        (!self.ranks.complete()).then(|| "the job is starting".into())
    }

    fn begin_last(&mut self, now: Duration, cause: String, deadline: Duration, decides: bool) {
        self.event(Event::Announced {
            cause: cause.clone(),
        });
        self.last = Some(Last {
            cause,
            deadline,
            decides,
            asked: false,
            answer_by: None,
            extended: false,
            generation: None,
            level: Level::Local,
            result: None,
        });
        let level = self.last_level(now);
        let left = deadline.saturating_sub(now);
        if let Some(last) = &mut self.last {
            last.level = level;
            let bound = match left < NO_LIMIT {
                true => format!(", in {} at most", seconds(left.as_secs_f64())),
                false => String::new(),
            };
            let line = format!(
                "{}: a last checkpoint ({level}) is taken{bound}",
                last.cause
            );
            self.info(line);
        }
        self.want_last(now, level);
    }

    fn want_last(&mut self, now: Duration, level: Level) {
        self.wanted.push(Wanted {
            level,
            kill: false,
            tool: None,
            last: true,
        });
        self.start_next(now);
    }

    /// The best level for the time left.
    fn last_level(&self, now: Duration) -> Level {
        let Some(last) = &self.last else {
            return Level::Local;
        };
        let left = last.deadline.saturating_sub(now);
        let enabled = |level| self.settings.is_enabled(level);
        let fits = |level: Level| match self.costs.of(level, enabled) {
            // A level that is still busy with an older generation is worth waiting for.
            Some(cost) => {
                let free = self.is_available(level) || last.decides || last.extended;
                free && cost * 5 / 4 <= left
            }
            None => self.is_available(level),
        };
        Level::ALL
            .into_iter()
            .rev()
            .filter(|level| *level > Level::Local && enabled(*level))
            .find(|level| fits(*level))
            .unwrap_or(Level::Local)
    }

    /// Before a checkpoint is chosen: the time left may allow for another level than it did.
    pub(super) fn choose_last_level(&mut self, now: Duration) {
        if self.wanted.iter().any(|wanted| wanted.last) {
            let level = self.last_level(now);
            for wanted in self.wanted.iter_mut().filter(|wanted| wanted.last) {
                wanted.level = level;
            }
        }
    }

    /// The checkpoint that begins is the last one.
    pub(super) fn last_has_begun(&mut self, checkpoint: Checkpoint) {
        if let Some(last) = &mut self.last {
            last.generation = Some(checkpoint.generation);
            last.level = checkpoint.level;
        }
    }

    /// A generation is committed and through with its levels, or was given up.
    pub(super) fn last_is_over(
        &mut self,
        now: Duration,
        generation: GenerationId,
        result: Result<(), String>,
    ) {
        if let Some(last) = &mut self.last {
            if last.generation == Some(generation) {
                last.result = Some(result);
            }
        }
        self.settle_last(now);
    }

    /// Time has passed, or something has ended.
    pub(super) fn settle_last(&mut self, now: Duration) {
        if self.goes_higher(now) {
            return;
        }
        let Some(last) = &self.last else { return };
        let result = match (&last.result, &self.closed) {
            (_, Some(reason)) if self.taking.is_none() => Err(reason.clone()),
            // What is on its way to a higher level is worth the rest of the time.
            (Some(result), _) if self.jobs.is_empty() => result.clone(),
            _ if now >= last.deadline => match &last.result {
                Some(result) => result.clone(),
                None => Err("it was not complete in time".into()),
            },
            _ => return,
        };
        let Some(last) = self.last.take() else { return };
        self.wanted.retain(|wanted| !wanted.last);
        if let Err(reason) = &result {
            self.warn(format!(
                "{}: the last checkpoint is not complete: {reason}",
                last.cause
            ));
        }
        let how = match self.settings.at_end {
            _ if !last.decides || self.closed.is_some() => None,
            AtEnd::Continue => None,
            AtEnd::Stop => Some(EndHow::Stop),
            AtEnd::Requeue => Some(EndHow::Requeue),
        };
        match how {
            Some(_) if self.figures.committed == 0 => self.warn(format!(
                "{}: this start has committed no checkpoint, another one would not come further: not {}",
                last.cause,
                if how == Some(EndHow::Requeue) { "requeued" } else { "stopped" }
            )),
            Some(how) => return self.end_job_by(now, how, &last.cause),
            None => {}
        }
        for (rank, signal) in std::mem::take(&mut self.noticed) {
            self.send(To::Rank(rank), ToRank::SignalOver { signal });
        }
    }

    pub(super) fn tick_last(&mut self, now: Duration) {
        self.settle_last(now);
        if self.last.is_some() || self.no_last().is_some() {
            return;
        }
        if let Some(left) = self.tick_limit(now) {
            let deadline = now + left.saturating_sub(BEFORE_LIMIT);
            let cause = format!("the time limit comes in {}", seconds(left.as_secs_f64()));
            self.begin_last(now, cause, deadline, true);
        }
    }

    pub(super) fn wake_last(&self) -> Option<Duration> {
        match &self.last {
            Some(last) => Some(
                last.answer_by
                    .map_or(last.deadline, |by| by.min(last.deadline)),
            ),
            None if self.no_last().is_some() => None,
            None => self.wake_limit(),
        }
    }
}
