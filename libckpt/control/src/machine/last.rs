//! The last checkpoint before an end that is announced: by a signal, or by the time limit.
//!
//! | announced by | time there is | afterwards |
//! |---|---|---|
//! | SIGTERM | until the kill that follows it (`Settings::grace`) | the program gets the signal |
//! | another signal of the user's choice | until the time limit | `Settings::at_end` |
//! | the time limit itself, some time before | until it comes | `Settings::at_end` |
//!
//! A SIGTERM that comes with the time limit counts as the latter. The level is the highest whose
//! measured cost fits into the time left; since every checkpoint reaches the lower levels first, one
//! that was never measured is tried. Nothing is waited for beyond that time.

use std::time::Duration;

use crate::protocol::ToRank;
use crate::{AtEnd, EndHow, GenerationId, Level};

use super::report::seconds;
use super::{Core, To, Wanted};

/// The signal that asks a program to end.
pub(super) const TERM: i32 = 15;
/// What is left untouched before the time limit.
const BEFORE_LIMIT: Duration = Duration::from_secs(2);
/// A SIGTERM this close to the time limit is the time limit's.
const AT_LIMIT: Duration = Duration::from_secs(3);
/// For a checkpoint a signal has asked for, where no time limit is known.
const NO_LIMIT: Duration = Duration::from_secs(3600);
/// Begin this long before the time limit, as long as nothing has been measured ...
const UNMEASURED: Duration = Duration::from_secs(60);
/// ... and this much earlier than twice the measured cost.
const SLACK: Duration = Duration::from_secs(10);

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
    fn of(&self, level: Level, enabled: impl Fn(Level) -> bool) -> Option<Duration> {
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
    /// Once it has begun.
    generation: Option<GenerationId>,
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
    /// The time limit is `left` from now, or unknown.
    pub(super) fn note_limit(&mut self, now: Duration, left: Option<Duration>) {
        self.begun_at = now;
        self.ends_at = left.and_then(|left| now.checked_add(left));
    }

    /// A signal that announces the end has come to a rank.
    pub(super) fn on_signal(&mut self, now: Duration, rank: u32, signal: i32) {
        let over = |core: &mut Self| core.send(To::Rank(rank), ToRank::SignalOver { signal });
        if let Some(why) = self.no_last() {
            self.warn(format!("{}: no last checkpoint, {why}", name(signal)));
            return over(self);
        }
        let at_limit = self.ends_at.is_some_and(|end| end <= now + AT_LIMIT);
        let decides = signal != TERM || at_limit;
        let limit = if signal == TERM {
            self.settings.grace
        } else {
            NO_LIMIT
        };
        let mut deadline = now.saturating_add(limit);
        if let (Some(end), false) = (self.ends_at, signal == TERM) {
            deadline = deadline.min(end.saturating_sub(BEFORE_LIMIT).max(now));
        }
        self.noticed.push((rank, signal));
        match &mut self.last {
            Some(last) => {
                // Somebody wants the job to end, whatever was to follow.
                last.deadline = last.deadline.min(deadline);
                last.decides &= decides;
            }
            None => self.begin_last(now, name(signal), deadline, decides),
        }
    }

    /// Why no last checkpoint can be taken.
    fn no_last(&self) -> Option<String> {
        if let Some(reason) = &self.closed {
            return Some(reason.clone());
        }
        (!self.ranks.complete()).then(|| "the job is starting".into())
    }

    fn begin_last(&mut self, now: Duration, cause: String, deadline: Duration, decides: bool) {
        self.last = Some(Last {
            cause,
            deadline,
            decides,
            generation: None,
            result: None,
        });
        let level = self.last_level(now);
        let left = deadline.saturating_sub(now);
        if let Some(last) = &self.last {
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
            Some(cost) => (self.is_available(level) || last.decides) && cost * 5 / 4 <= left,
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
    pub(super) fn last_has_begun(&mut self, generation: GenerationId) {
        if let Some(last) = &mut self.last {
            last.generation = Some(generation);
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

    /// When the last checkpoint before the time limit has to begin.
    fn margin_at(&self) -> Option<Duration> {
        let end = self.ends_at.filter(|_| !self.margin_done)?;
        let enabled = |level| self.settings.is_enabled(level);
        let highest = Level::ALL.into_iter().rev().find(|l| enabled(*l));
        let margin = match self.settings.end_margin {
            Some(given) if given.is_zero() => return None,
            Some(given) => given,
            None => {
                let cost = highest.and_then(|level| self.costs.of(level, enabled));
                let wanted = cost.map_or(UNMEASURED, |cost| cost * 2 + SLACK);
                // A short time slice is for computing, too.
                wanted.min(end.saturating_sub(self.begun_at) / 3)
            }
        };
        Some(end.saturating_sub(margin))
    }

    pub(super) fn tick_last(&mut self, now: Duration) {
        self.settle_last(now);
        if self.last.is_some() || self.no_last().is_some() {
            return;
        }
        if let (Some(at), Some(end)) = (self.margin_at(), self.ends_at) {
            if now >= at {
                self.margin_done = true;
                let left = end.saturating_sub(now).as_secs_f64();
                let deadline = end.saturating_sub(BEFORE_LIMIT).max(now);
                let cause = format!("the time limit comes in {}", seconds(left));
                self.begin_last(now, cause, deadline, true);
            }
        }
    }

    pub(super) fn wake_last(&self) -> Option<Duration> {
        match &self.last {
            Some(last) => Some(last.deadline),
            None if self.no_last().is_some() => None,
            None => self.margin_at(),
        }
    }
}
