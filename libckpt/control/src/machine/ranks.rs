//! The ranks of the job as the coordinator knows them.

use std::time::Duration;

use crate::protocol::{bounded, Registration, MAX_RANKS};
use crate::status::Waiting;
use crate::{CommSeq, Place, RankStatus};

use super::report::seconds;

/// Two questions without an answer, and some more.
const SILENT: Duration = Duration::from_secs(12);

/// Where a rank is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Life {
    /// Not registered yet.
    #[default]
    Missing,
    Running,
    /// In `MPI_Finalize`, held there.
    Finalizing,
    /// Past `MPI_Finalize`.
    Finalized,
    /// Reported its end.
    Ended(i32),
    /// Gone without a word.
    Lost,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Rank {
    pub life: Life,
    pub host: String,
    pub node: u32,
    pub pid: u32,
    pub program: String,
    pub doing: String,
    /// What its threads wait for, and when it said so.
    pub places: Vec<Place>,
    pub places_at: Duration,
    /// When anything was heard of it.
    pub heard: Duration,
    /// A communicator on which it has yet to start collectives to reach the safe point.
    pub behind: Option<CommSeq>,
    /// Lowest rank of its node.
    pub leader: bool,
    /// Was told the job's outcome.
    pub told: bool,
    pub connected: bool,
}

impl Rank {
    /// What its threads wait for, as of now: nothing new was heard since.
    pub fn waiting(&self, now: Duration) -> Vec<Waiting> {
        let since = now.saturating_sub(self.places_at);
        self.places
            .iter()
            .map(|place| Waiting {
                text: place.to_string(),
                call: place.call.clone(),
                communicator: match (place.comm_name.as_str(), place.comm_id) {
                    ("", Some(id)) => format!("{id:x}"),
                    (name, _) => name.to_owned(),
                },
                peer: place.peer,
                tag: place.tag,
                number: place.number,
                seconds: place.waited.saturating_add(since).as_secs_f64(),
            })
            .collect()
    }

    /// Ranks are asked every five seconds: what this one said before does not hold any more.
    pub fn is_silent(&self, now: Duration) -> bool {
        now.saturating_sub(self.heard) >= SILENT
    }

    /// What it was last seen doing, in words.
    pub fn whereabouts(&self, now: Duration) -> String {
        if self.is_silent(now) {
            let since = now.saturating_sub(self.heard).as_secs_f64();
            return format!("not heard of for {}", seconds(since));
        }
        match self.waiting(now).first() {
            Some(first) => format!("{}, for {}", first.text, seconds(first.seconds)),
            None => self.doing.clone(),
        }
    }

    /// What it does in words, and what its threads wait for: nothing that a silent one said before holds any more.
    pub fn shown(&self, now: Duration) -> (String, Vec<Waiting>) {
        let is_over = matches!(self.life, Life::Ended(_) | Life::Lost);
        match self.is_silent(now) {
            true if is_over => (self.doing.clone(), Vec::new()),
            true => (self.whereabouts(now), Vec::new()),
            false => (self.doing.clone(), self.waiting(now)),
        }
    }

    pub fn status(&self, rank: u32, now: Duration) -> RankStatus {
        let (state, code) = match self.life {
            Life::Missing => ("missing", None),
            Life::Running => ("running", None),
            Life::Finalizing => ("finalizing", None),
            Life::Finalized => ("finalized", None),
            Life::Ended(code) => ("ended", Some(code)),
            Life::Lost => ("lost", None),
        };
        let (doing, waiting) = self.shown(now);
        RankStatus {
            rank,
            host: self.host.clone(),
            node: self.node,
            pid: self.pid,
            program: self.program.clone(),
            state: state.into(),
            code,
            doing,
            waiting,
        }
    }
}

/// All ranks; empty until the first registers.
#[derive(Debug, Default)]
pub(super) struct Ranks {
    all: Vec<Rank>,
    registered: usize,
    nodes: u32,
}

impl Ranks {
    /// Adds a rank. `Ok(true)`: it was the last one missing.
    pub fn register(&mut self, rank: u32, found: &Registration) -> Result<bool, String> {
        if found.size == 0 || found.size > MAX_RANKS {
            return Err(format!("a job of {} ranks is not possible", found.size));
        }
        if rank >= found.size {
            return Err(format!(
                "rank {rank} of {} ranks is not possible",
                found.size
            ));
        }
        if self.all.is_empty() {
            self.all = vec![Rank::default(); found.size as usize];
        }
        if self.all.len() != found.size as usize {
            return Err(format!(
                "rank {rank} says the job has {} ranks, the others say {} (were N jobs of one rank started instead of one of N?)",
                found.size,
                self.all.len()
            ));
        }
        let entry = &mut self.all[rank as usize];
        if entry.life != Life::Missing {
            return Err(format!(
                "rank {rank} has registered already, from {} (process {}); give a second job its own --id",
                entry.host, entry.pid
            ));
        }
        let finalized = found.rejoin.is_some_and(|rejoin| rejoin.finalized);
        *entry = Rank {
            life: if finalized {
                Life::Finalized
            } else {
                Life::Running
            },
            host: bounded(&found.host),
            node: found.node,
            pid: found.pid,
            program: bounded(&found.program),
            connected: true,
            ..Rank::default()
        };
        self.registered += 1;
        if self.registered < self.all.len() {
            return Ok(false);
        }
        let mut nodes = std::collections::BTreeSet::new();
        for rank in &mut self.all {
            rank.leader = nodes.insert(rank.node);
        }
        self.nodes = u32::try_from(nodes.len()).unwrap_or(u32::MAX);
        Ok(true)
    }

    /// Whether a rank has been registered here before.
    pub fn is_known(&self, rank: u32) -> bool {
        self.get(rank)
            .is_some_and(|found| found.life != Life::Missing)
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn registered(&self) -> usize {
        self.registered
    }

    pub fn complete(&self) -> bool {
        !self.all.is_empty() && self.registered == self.all.len()
    }

    pub fn nodes(&self) -> u32 {
        self.nodes
    }

    pub fn get(&self, rank: u32) -> Option<&Rank> {
        self.all.get(rank as usize)
    }

    pub fn get_mut(&mut self, rank: u32) -> Option<&mut Rank> {
        self.all.get_mut(rank as usize)
    }

    pub fn iter(&self) -> impl Iterator<Item = (u32, &Rank)> {
        (0..).zip(&self.all)
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut Rank)> {
        (0..).zip(&mut self.all)
    }

    /// Nothing that the ranks said of themselves holds any longer.
    pub fn forget_places(&mut self) {
        for found in &mut self.all {
            found.doing.clear();
            found.places.clear();
            found.behind = None;
        }
    }

    /// "rank 3 (n07)".
    pub fn name(&self, rank: u32) -> String {
        match self.get(rank) {
            Some(found) if !found.host.is_empty() => format!("rank {rank} on {}", found.host),
            _ => format!("rank {rank}"),
        }
    }

    /// Names whom something waits for: the first few, how many more, and what the first is doing.
    pub fn names(&self, missing: impl Iterator<Item = u32>, now: Duration) -> String {
        const SHOWN: usize = 4;
        let missing: Vec<u32> = missing.collect();
        let mut text = match missing.as_slice() {
            [] => return "nobody".into(),
            [one] => return self.with_doing(*one, now),
            many => {
                let first: Vec<String> = many.iter().take(SHOWN).map(u32::to_string).collect();
                format!("ranks {}", first.join(", "))
            }
        };
        if missing.len() > SHOWN {
            text += &format!(" and {} more", missing.len() - SHOWN);
        }
        format!(
            "{text} of {}; {}",
            self.all.len(),
            self.with_doing(missing[0], now)
        )
    }

    fn with_doing(&self, rank: u32, now: Duration) -> String {
        match self.get(rank).map(|found| found.whereabouts(now)) {
            Some(doing) if !doing.is_empty() => format!("{}: {doing}", self.name(rank)),
            _ => self.name(rank),
        }
    }
}

/// Which ranks still owe an answer.
#[derive(Clone, Debug)]
pub(super) struct Roll {
    answered: Vec<bool>,
    missing: usize,
}

impl Roll {
    pub fn new(ranks: usize) -> Self {
        Self {
            answered: vec![false; ranks],
            missing: ranks,
        }
    }

    /// Notes an answer; `false` if this rank has answered before (or does not exist).
    pub fn answer(&mut self, rank: u32) -> bool {
        match self.answered.get_mut(rank as usize) {
            Some(answered) if !*answered => {
                *answered = true;
                self.missing -= 1;
                true
            }
            _ => false,
        }
    }

    pub fn len(&self) -> usize {
        self.answered.len()
    }

    pub fn is_complete(&self) -> bool {
        self.missing == 0
    }

    pub fn missing(&self) -> impl Iterator<Item = u32> + '_ {
        (0u32..)
            .zip(&self.answered)
            .filter(|(_, answered)| !**answered)
            .map(|(rank, _)| rank)
    }

    pub fn count_missing(&self) -> usize {
        self.missing
    }
}
