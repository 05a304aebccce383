//! The batch system's time limit: when the last checkpoint before it begins, and when it is asked for again.
//!
//! A limit may be changed while the job runs, and it moves when the job is suspended. Rank 0 asks after half of the time that
//! was left, then after half of the rest, and so on: a handful of questions a day. A last one comes shortly before the last
//! checkpoint would begin, which waits for the answer: a job that has slept longer than its limit does not take it for over.
//! One that slept after the answer, and so finds that checkpoint overdue, asks once more.

use std::time::Duration;

use crate::protocol::ToRank;
use crate::Level;

use super::{Core, To};

/// For the batch system's answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Not asked again within this time but for the last question.
const SHORTEST: Duration = Duration::from_secs(600);
/// Begin this long before the time limit, as long as nothing has been measured ...
const UNMEASURED: Duration = Duration::from_secs(60);
/// ... and this much earlier than twice the measured cost.
const SLACK: Duration = Duration::from_secs(10);
/// Found this much after its time, the last checkpoint's beginning was slept through.
const OVERDUE: Duration = Duration::from_secs(2);
/// The same limit, as far as clocks and whole seconds tell.
const SAME: Duration = Duration::from_secs(5);

/// What is known of it.
#[derive(Debug, Default)]
pub(super) struct TimeLimit {
    /// When it comes, if there is one.
    pub ends_at: Option<Duration>,
    /// When the job began.
    begun_at: Duration,
    /// The last checkpoint before it has begun.
    met: bool,
    /// When it was last asked for.
    asked_at: Duration,
    /// Until then an answer is waited for.
    answer_by: Option<Duration>,
}

impl Core {
    /// It is `left` from now, or unknown.
    pub(super) fn note_limit(&mut self, now: Duration, left: Option<Duration>) {
        self.limit = TimeLimit {
            ends_at: left.and_then(|left| now.checked_add(left)),
            begun_at: now,
            asked_at: now,
            ..TimeLimit::default()
        };
    }

    /// The batch system has answered; `None`: not known.
    pub(super) fn on_limit(&mut self, now: Duration, left: Option<Duration>) {
        // Late, it is as good.
        self.limit.answer_by = None;
        let Some(left) = left else { return };
        let told = now.checked_add(left);
        let same = match (told, self.limit.ends_at) {
            (Some(told), Some(known)) => told.abs_diff(known) <= SAME,
            (told, known) => told == known,
        };
        if !same {
            self.limit.ends_at = told;
            self.info(match told {
                Some(_) => format!(
                    "the time limit is another one now: it comes in {} s",
                    left.as_secs()
                ),
                None => "there is no time limit any more".into(),
            });
        }
    }

    /// When the last checkpoint before it has to begin.
    fn margin_at(&self) -> Option<Duration> {
        let end = self.limit.ends_at.filter(|_| !self.limit.met)?;
        let enabled = |level| self.settings.is_enabled(level);
        let highest = Level::ALL.into_iter().rev().find(|l| enabled(*l));
        let margin = match self.settings.end_margin {
            Some(given) if given.is_zero() => return None,
            Some(given) => given,
            None => {
                let cost = highest.and_then(|level| self.costs.of(level, enabled));
                let wanted = cost.map_or(UNMEASURED, |cost| cost * 2 + SLACK);
                // A short time slice is for computing, too.
                wanted.min(end.saturating_sub(self.limit.begun_at) / 3)
            }
        };
        Some(end.saturating_sub(margin))
    }

    /// When it is asked for again.
    fn ask_limit_at(&self) -> Option<Duration> {
        let TimeLimit {
            asked_at,
            answer_by,
            ..
        } = self.limit;
        let last = self.margin_at()?.saturating_sub(ANSWER);
        let half = last.checked_sub(asked_at)? / 2;
        if answer_by.is_some() || half < ANSWER / 2 {
            return None;
        }
        Some(if half < SHORTEST {
            last
        } else {
            asked_at + half
        })
    }

    /// When there is something to do about it.
    pub(super) fn wake_limit(&self) -> Option<Duration> {
        let begin = self.margin_at().max(self.limit.answer_by);
        let begin = begin.filter(|_| !self.limit.met);
        [self.ask_limit_at(), begin].into_iter().flatten().min()
    }

    fn ask_limit(&mut self, now: Duration) {
        self.limit.asked_at = now;
        self.limit.answer_by = Some(now.saturating_add(ANSWER));
        self.send(To::Rank(0), ToRank::AskLimit);
    }

    /// Asks, if it is time to. How long it then still is to the limit, if the last checkpoint before it has to begin now.
    pub(super) fn tick_limit(&mut self, now: Duration) -> Option<Duration> {
        if self.ask_limit_at().is_some_and(|at| now >= at) {
            self.ask_limit(now);
        }
        self.limit.answer_by.take_if(|by| now >= *by);
        let begins = self.margin_at()?;
        let slept = now.saturating_sub(begins) >= OVERDUE && self.limit.asked_at < begins;
        if slept && self.limit.answer_by.is_none() {
            self.ask_limit(now);
        }
        if now < begins || self.limit.answer_by.is_some() {
            return None;
        }
        self.limit.met = true;
        self.limit.ends_at.map(|end| end.saturating_sub(now))
    }
}
