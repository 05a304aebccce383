//! How ranks and the job end.
//!
//! * `MPI_Finalize` is held while a checkpoint is being taken; the first rank past it ends
//!   checkpointing.
//! * A rank that ends without having finalised while a checkpoint still needs its threads makes that
//!   checkpoint be abandoned; an image being written is waited for.
//! * The job is *finished* when every rank has ended with 0, *failed* with the first that ended
//!   otherwise, *lost* when a rank went away without a word, *killed* when somebody asked for it.
//! * That it is finished, rank 0 records before any rank hears of it: the ranks delete their images then,
//!   and a job that is neither on record as finished nor has its images could not be started again.

use std::time::Duration;

use crate::protocol::{Registration, ToRank};
use crate::{EndHow, Event, Outcome, Started, StepError};

use super::ranks::Life;
use super::taking::BEING_ENDED;
use super::{Core, To};

impl Core {
    /// No checkpoint begins any more.
    pub(super) fn close(&mut self, reason: String) {
        if self.closed.is_none() {
            for wanted in std::mem::take(&mut self.wanted) {
                if let Some(tool) = wanted.tool {
                    let message = crate::protocol::ToTool::Denied {
                        reason: reason.clone(),
                    };
                    self.actions.push(super::Action::Answer { tool, message });
                }
            }
            self.closed = Some(reason);
        }
    }

    pub(super) fn on_finalizing(&mut self, now: Duration, rank: u32) {
        let Some(found) = self.ranks.get_mut(rank) else {
            return;
        };
        match found.life {
            Life::Running => found.life = Life::Finalizing,
            Life::Finalized => return self.send(To::Rank(rank), ToRank::Finalize),
            _ => return,
        }
        if self.taking.is_none() {
            self.release_finalizing();
        }
        self.settle_end(now);
    }

    pub(super) fn on_exit(&mut self, now: Duration, rank: u32, code: i32) {
        let name = self.ranks.name(rank);
        let Some(found) = self.ranks.get_mut(rank) else {
            return;
        };
        if matches!(found.life, Life::Lost | Life::Ended(_) | Life::Missing) {
            return;
        }
        found.life = Life::Ended(code);
        self.close(format!("{name} has ended"));
        if self.taking.is_some() && !self.is_past_capture() {
            self.abandon(now, format!("{name} has ended with code {code}"));
        }
        self.settle_end(now);
    }

    /// The connection of a registered rank is gone.
    pub fn lost(&mut self, now: Duration, rank: u32) {
        let name = self.ranks.name(rank);
        let Some(found) = self.ranks.get_mut(rank) else {
            return;
        };
        found.connected = false;
        // Whoever comes back was not asked.
        self.end_asked &= rank != 0;
        let expected = matches!(found.life, Life::Ended(_));
        if !expected {
            found.life = Life::Lost;
        }
        let reason = format!("{name} is gone");
        if !expected {
            let found = self.ranks.get(rank).cloned().unwrap_or_default();
            self.event(Event::Lost {
                rank,
                host: found.host,
                node: found.node,
            });
            self.closed_by_loss |= self.closed.is_none();
            self.close(reason.clone());
            if !self.killed {
                self.warn(format!(
                    "{name} went away without having ended: no further checkpoints, unless it comes back"
                ));
                if let Some(delay) = self.settings.end_after_loss {
                    self.end_after_loss.get_or_insert(now.saturating_add(delay));
                }
            }
        }
        self.taking_lost(now, rank, &reason);
        self.levels_lost(now, rank, &reason);
        self.settle_end(now);
    }

    /// A rank that has lost its connection is there again: the same process, which nobody else can be.
    pub(super) fn take_back(
        &mut self,
        now: Duration,
        rank: u32,
        found: &Registration,
    ) -> Result<(), String> {
        let name = self.ranks.name(rank);
        let known = self.ranks.get(rank);
        let same = known.is_some_and(|known| known.pid == found.pid && known.host == found.host);
        if !same {
            return Err(format!(
                "rank {rank} has registered already, as another process; give a second job its own --id"
            ));
        }
        if known.is_some_and(|known| known.connected) {
            // Its old connection is dead without anybody having noticed.
            self.lost(now, rank);
        }
        let finalized = found.rejoin.is_some_and(|rejoin| rejoin.finalized);
        if let Some(known) = self.ranks.get_mut(rank) {
            known.connected = true;
            known.heard = now;
            known.told = false;
            known.life = match finalized {
                true => Life::Finalized,
                false => Life::Running,
            };
        }
        self.send(To::Rank(rank), ToRank::Welcome);
        if self.ranks.complete() {
            let facts = Started {
                leader: self.ranks.get(rank).is_some_and(|found| found.leader),
                ..self.facts()
            };
            self.send(To::Rank(rank), ToRank::Started(facts));
        }
        if let Some(order) = self.end_order.clone() {
            // It was out of reach when the others heard of it.
            self.send(To::Rank(rank), order);
        }
        let nobody_told = self.ranks.iter().all(|(_, found)| !found.told);
        if nobody_told && matches!(self.outcome, Some(Outcome::Lost { .. })) {
            self.outcome = None;
        }
        if finalized {
            self.close("the program has called MPI_Finalize".into());
            self.closed_by_loss = false;
        }
        let all_run = self
            .ranks
            .iter()
            .all(|(_, found)| found.connected && found.life == Life::Running);
        if self.closed_by_loss && all_run {
            self.closed = None;
            self.closed_by_loss = false;
            self.end_after_loss = None;
            self.info(format!("{name} is back: checkpoints are taken again"));
        } else {
            self.info(format!("{name} is back"));
        }
        Ok(())
    }

    /// Ends the program on all ranks.
    pub fn end_job(&mut self, now: Duration, reason: &str) {
        self.end_job_by(now, EndHow::Kill, reason);
    }

    /// Ends the program on all ranks, for good or to go on later.
    pub(super) fn end_job_by(&mut self, now: Duration, how: EndHow, reason: &str) {
        if self.killed {
            return;
        }
        self.killed = true;
        self.close(BEING_ENDED.into());
        if self.taking.is_some() {
            self.abandon(now, BEING_ENDED.into());
        }
        if how == EndHow::Kill {
            // What else there is, rank 0 says when it is done.
            self.info(format!("ending the job: {reason}"));
        }
        if !std::mem::replace(&mut self.end_told, true) {
            // The ranks end as soon as they hear of it.
            self.event(Event::Ended {
                outcome: Outcome::Killed,
            });
        }
        let order = ToRank::EndJob {
            how,
            reason: reason.to_owned(),
        };
        self.end_order = Some(order.clone());
        self.send(To::All, order);
        self.settle_end(now);
    }

    pub(super) fn tick_ending(&mut self, now: Duration) {
        if self.end_after_loss.is_some_and(|time| now >= time) {
            self.end_after_loss = None;
            self.end_job(now, "a rank was lost");
        }
        if self.end_recorded_by.is_some_and(|time| now >= time) && self.outcome.is_none() {
            let (limit, name) = (self.settings.commit_limit.as_secs(), self.ranks.name(0));
            let late = match self.end_asked {
                true => format!(
                    "{name} does not answer for {limit} s (is the global directory reachable?)"
                ),
                false => format!("{name}, which would do it, is gone for {limit} s"),
            };
            self.conclude(now, Err(StepError::new(late)));
        }
        self.end_recorded_by.take_if(|_| self.outcome.is_some());
    }

    /// Decides how the job ended, if that can be said, and tells the ranks that wait for it.
    pub(super) fn settle_end(&mut self, now: Duration) {
        self.settle_last(now);
        if self.taking.is_some() {
            return;
        }
        if self.outcome.is_none() {
            let failed = self
                .ranks
                .iter()
                .find_map(|(rank, found)| match found.life {
                    Life::Ended(code) if code != 0 => Some(Outcome::Failed { rank, code }),
                    _ => None,
                });
            let lost = self
                .ranks
                .iter()
                .find_map(|(rank, found)| match found.life {
                    Life::Lost => Some(Outcome::Lost { rank }),
                    _ => None,
                });
            let finished = self.ranks.complete()
                && self
                    .ranks
                    .iter()
                    .all(|(_, found)| found.life == Life::Ended(0));
            let any_ended = self
                .ranks
                .iter()
                .any(|(_, found)| matches!(found.life, Life::Ended(_) | Life::Lost));
            self.outcome = if self.killed && any_ended {
                Some(Outcome::Killed)
            } else if let Some(failed) = failed {
                // The level work of what was committed is worth the wait: it may be needed soon.
                self.jobs.is_empty().then_some(failed)
            } else if finished {
                return self.have_end_recorded(now);
            } else {
                lost
            };
        }
        let Some(outcome) = self.outcome.clone() else {
            return;
        };
        if !std::mem::replace(&mut self.end_told, true) {
            self.event(Event::Ended {
                outcome: outcome.clone(),
            });
        }
        // Nothing waits for level work any more.
        for job in &mut self.jobs {
            self.actions.extend(job.answers());
        }
        let mut tell = Vec::new();
        for (rank, found) in self.ranks.iter_mut() {
            if matches!(found.life, Life::Ended(_)) && found.connected && !found.told {
                found.told = true;
                tell.push(rank);
            }
        }
        // Rank 0 last: its process, and an embedded coordinator with it, may be gone right after.
        for rank in tell.into_iter().rev() {
            self.send(To::Rank(rank), ToRank::Finish(outcome.clone()));
        }
    }

    /// Every rank has ended with 0. Without rank 0 nobody can record it: one that has lost its connection may
    /// come back.
    fn have_end_recorded(&mut self, now: Duration) {
        let until = now.saturating_add(self.settings.commit_limit);
        self.end_recorded_by.get_or_insert(until);
        let there = self.ranks.get(0).is_some_and(|found| found.connected);
        if there && !std::mem::replace(&mut self.end_asked, true) {
            self.send(To::Rank(0), ToRank::RecordEnd);
        }
    }

    pub(super) fn on_end_recorded(
        &mut self,
        now: Duration,
        rank: u32,
        result: Result<(), StepError>,
    ) {
        if rank == 0 && self.end_recorded_by.is_some() && self.outcome.is_none() {
            self.conclude(now, result);
        }
    }

    fn conclude(&mut self, now: Duration, result: Result<(), StepError>) {
        self.outcome = Some(match result {
            Ok(()) => Outcome::Finished,
            Err(e) => {
                self.warn(format!(
                    "the end of the job is not recorded, the checkpoints are kept: {e}"
                ));
                Outcome::Undecided
            }
        });
        self.settle_end(now);
    }

    /// How the job ended, once every rank knows or is gone.
    pub fn over(&self) -> Option<&Outcome> {
        let all = self
            .ranks
            .iter()
            .all(|(_, found)| found.told || !found.connected);
        self.outcome.as_ref().filter(|_| all)
    }

    /// Whether nobody of this incarnation is there any more: a stand-alone coordinator can serve the
    /// next one.
    pub fn is_deserted(&self) -> bool {
        self.ranks.len() > 0 && self.ranks.iter().all(|(_, found)| !found.connected)
    }

    /// Forgets the last incarnation.
    pub fn reset(&mut self) {
        let waiting = std::mem::take(&mut self.actions);
        *self = Self::new(self.only_job.take(), None, self.own_settings.take());
        self.actions = waiting;
    }
}
