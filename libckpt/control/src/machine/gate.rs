//! Targets, gates and the raising of a gate, as the coordinator sees them.
//!
//! The safe point: every member of each communicator has started the same number of collectives and
//! all of them are complete. Ranks report their numbers at the intent; the targets are the maxima.
//! A rank past a gate's number waits there, and may hold back a message that another rank needs to
//! get to its own target: when nobody has advanced for a while, one gate is opened by one. That is
//! always safe, since numbers only grow and the program itself orders its collectives.
//!
//! Which gate: the one of the rank for which gates were opened least often so far (so that ranks which
//! spin through collectives, of ever new communicators too, cannot starve the one that matters), of
//! these the one raised least often, then the one with the largest part of its members waiting.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::{CommSeq, GatePoll};

/// Most communicators a job may have at a checkpoint.
const MAX_COMMS: usize = 1 << 20;

#[derive(Clone, Copy, Debug)]
struct Target {
    size: u32,
    seq: u64,
    /// Whether all members reported the same number: then nobody needs to be told.
    reports: u32,
    lowest: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct AtGate {
    reached: bool,
    waiting: Option<CommSeq>,
    sum: u64,
    /// How often the gate it waited at was opened.
    served: u32,
}

/// The gate phase of one generation.
#[derive(Debug)]
pub(super) struct Gate {
    targets: BTreeMap<u64, Target>,
    ranks: Vec<AtGate>,
    reached: usize,
    epoch: u32,
    last_progress: Duration,
    raised: BTreeMap<u64, u32>,
}

impl Gate {
    pub fn new(ranks: usize) -> Self {
        Self {
            targets: BTreeMap::new(),
            ranks: vec![AtGate::default(); ranks],
            reached: 0,
            epoch: 0,
            last_progress: Duration::ZERO,
            raised: BTreeMap::new(),
        }
    }

    /// Takes in one rank's numbers at the intent. `false`: more communicators than can be handled.
    pub fn seqs(&mut self, seqs: &[CommSeq]) -> bool {
        for found in seqs {
            let target = self.targets.entry(found.comm_id).or_insert(Target {
                size: found.size,
                seq: found.seq,
                reports: 0,
                lowest: found.seq,
            });
            target.size = target.size.max(found.size);
            target.seq = target.seq.max(found.seq);
            target.lowest = target.lowest.min(found.seq);
            target.reports = target.reports.saturating_add(1);
        }
        self.targets.len() <= MAX_COMMS
    }

    /// All have reported: what the ranks have to be told.
    pub fn announce(&mut self, now: Duration) -> (u32, Vec<CommSeq>) {
        self.epoch = 1;
        self.last_progress = now;
        let told = self
            .targets
            .iter()
            .filter(|(_, target)| target.reports < target.size || target.lowest < target.seq)
            .map(|(comm_id, target)| CommSeq {
                comm_id: *comm_id,
                size: target.size,
                seq: target.seq,
            })
            .collect();
        (self.epoch, told)
    }

    /// Takes in a rank's report. `true`: all ranks have reached the safe point.
    pub fn report(&mut self, rank: usize, epoch: u32, poll: &GatePoll, now: Duration) -> bool {
        let Some(at) = self.ranks.get_mut(rank) else {
            return false;
        };
        let sum = poll
            .seqs
            .iter()
            .fold(0u64, |sum, found| sum.wrapping_add(found.seq));
        let reached = poll.reached && epoch == self.epoch;
        if sum != at.sum || poll.waiting != at.waiting || (reached && !at.reached) {
            self.last_progress = now;
        }
        match (at.reached, reached) {
            (false, true) => self.reached += 1,
            (true, false) => self.reached -= 1,
            _ => {}
        }
        *at = AtGate {
            reached,
            waiting: poll.waiting,
            sum,
            served: at.served,
        };
        self.epoch > 0 && self.reached == self.ranks.len()
    }

    /// When to look for a stall next, the ranks being quiet for `stall`.
    pub fn stall_time(&self, stall: Duration) -> Duration {
        self.last_progress.saturating_add(stall)
    }

    /// How often a gate was raised.
    pub fn raises(&self) -> u32 {
        self.raised.values().sum()
    }

    /// Nobody has advanced for a while: opens one gate by one, if any rank waits at one.
    pub fn raise(&mut self, now: Duration) -> Option<(u32, CommSeq)> {
        self.last_progress = now;
        let mut waiting: BTreeMap<u64, (CommSeq, u32, u32)> = BTreeMap::new();
        for at in &self.ranks {
            let Some(found) = at.waiting else { continue };
            let target = self
                .targets
                .get(&found.comm_id)
                .map_or(0, |target| target.seq);
            if found.seq >= target {
                let entry = waiting
                    .entry(found.comm_id)
                    .or_insert((found, 0, at.served));
                entry.0.seq = entry.0.seq.max(found.seq);
                entry.0.size = entry.0.size.max(found.size);
                entry.1 += 1;
                entry.2 = entry.2.min(at.served);
            }
        }
        let (gate, ..) = waiting
            .into_values()
            .min_by_key(|(gate, waiters, served)| {
                let raised = self.raised.get(&gate.comm_id).copied().unwrap_or(0);
                let part = u64::from(*waiters) * 1_000_000 / u64::from(gate.size.max(1));
                (*served, raised, std::cmp::Reverse(part), gate.comm_id)
            })?;
        let raised = CommSeq {
            seq: gate.seq.saturating_add(1),
            ..gate
        };
        self.targets.insert(
            raised.comm_id,
            Target {
                size: raised.size,
                seq: raised.seq,
                reports: 0,
                lowest: 0,
            },
        );
        *self.raised.entry(raised.comm_id).or_default() += 1;
        self.epoch += 1;
        self.reached = 0;
        for at in &mut self.ranks {
            at.reached = false;
            if at.waiting.is_some_and(|at| at.comm_id == raised.comm_id) {
                at.served = at.served.saturating_add(1);
            }
        }
        Some((self.epoch, raised))
    }

    /// The ranks that have not reached the safe point.
    pub fn missing(&self) -> impl Iterator<Item = u32> + '_ {
        (0u32..)
            .zip(&self.ranks)
            .filter(|(_, at)| !at.reached)
            .map(|(rank, _)| rank)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seq(comm_id: u64, size: u32, seq: u64) -> CommSeq {
        CommSeq { comm_id, size, seq }
    }

    fn poll(reached: bool, waiting: Option<CommSeq>) -> GatePoll {
        GatePoll {
            reached,
            waiting,
            ..GatePoll::default()
        }
    }

    #[test]
    fn targets_are_maxima_and_only_news_is_sent() {
        let mut gate = Gate::new(3);
        assert!(gate.seqs(&[seq(1, 3, 5), seq(2, 2, 1)]));
        assert!(gate.seqs(&[seq(1, 3, 7), seq(2, 2, 1)]));
        assert!(gate.seqs(&[seq(1, 3, 5), seq(9, 3, 0)]));
        let (epoch, told) = gate.announce(Duration::ZERO);
        // 2 is equal on both its members; 9 was reported by one of three.
        assert_eq!((epoch, told), (1, vec![seq(1, 3, 7), seq(9, 3, 0)]));
    }

    #[test]
    fn a_raise_takes_back_what_was_reached_under_older_targets() {
        let mut gate = Gate::new(2);
        gate.announce(Duration::ZERO);
        let held = seq(4, 2, 3);
        assert!(!gate.report(0, 1, &poll(true, Some(held)), Duration::ZERO));
        let (epoch, raised) = gate.raise(Duration::ZERO).expect("a gate to open");
        assert_eq!((epoch, raised), (2, seq(4, 2, 4)));
        assert!(
            !gate.report(1, 1, &poll(true, None), Duration::ZERO),
            "old epoch"
        );
        assert!(!gate.report(0, 2, &poll(true, None), Duration::ZERO));
        assert!(gate.report(1, 2, &poll(true, None), Duration::ZERO));
    }

    #[test]
    fn raises_are_fair() {
        let mut gate = Gate::new(3);
        gate.announce(Duration::ZERO);
        let mut opened = Vec::new();
        let mut at = [seq(1, 2, 0), seq(1, 2, 0), seq(2, 3, 0)];
        for _ in 0..6 {
            for (rank, held) in at.iter().enumerate() {
                gate.report(rank, 0, &poll(false, Some(*held)), Duration::ZERO);
            }
            let (_, raised) = gate.raise(Duration::ZERO).expect("a gate to open");
            opened.push(raised.comm_id);
            for held in at.iter_mut().filter(|h| h.comm_id == raised.comm_id) {
                held.seq += 1;
            }
        }
        assert_eq!(opened, [1, 2, 1, 2, 1, 2]);
    }

    /// Threads of ranks 0 and 1 make a communicator after the other; rank 1 has another thread that is to pass.
    #[test]
    fn ever_new_communicators_starve_nobody() {
        let mut gate = Gate::new(2);
        gate.announce(Duration::ZERO);
        let held = seq(1000, 2, 5);
        let opened: Vec<u64> = (100..103)
            .map(|new| {
                gate.report(0, 0, &poll(false, Some(seq(new, 2, 0))), Duration::ZERO);
                gate.report(1, 0, &poll(false, Some(held)), Duration::ZERO);
                let (_, raised) = gate.raise(Duration::ZERO).expect("a gate to open");
                raised.comm_id
            })
            .collect();
        assert_eq!(opened[..2], [100, 1000]);
    }

    #[test]
    fn nobody_at_a_gate_nothing_to_raise() {
        let mut gate = Gate::new(1);
        gate.seqs(&[seq(1, 1, 5)]);
        gate.announce(Duration::ZERO);
        assert!(gate.raise(Duration::ZERO).is_none());
        // A report from before the rank learnt of its target does not count.
        gate.report(0, 1, &poll(false, Some(seq(1, 1, 4))), Duration::ZERO);
        assert!(gate.raise(Duration::ZERO).is_none());
    }
}
