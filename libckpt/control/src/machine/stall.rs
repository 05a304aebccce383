//! Why a checkpoint does not get on: where every rank is, and whom all wait for.
//!
//! A rank in a receive waits for the sender, one in a send for the receiver, one inside a collective
//! for those that have not called it yet. Whoever does not wait for anybody, and is waited for by
//! most, directly or through others, is the one to look at. If there is none, some ranks wait for
//! each other in a circle.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::status::{RankPlace, Stall, Waiting};
use crate::{Checkpoint, CommSeq, Place};

use super::ranks::{Life, Ranks};
use super::report::seconds;

/// Most ranks told of in a report.
const MOST_RANKS: usize = 256;
/// Most lines of a report in the log.
const MOST_LINES: usize = 12;
/// Most candidates whose followers are counted.
const MOST_CANDIDATES: usize = 64;

/// One rank, as far as the analysis is concerned.
#[derive(Clone, Debug, Default)]
pub(super) struct Standing<'a> {
    /// What it waits for.
    pub places: &'a [Place],
    /// A communicator on which it has yet to start collectives.
    pub behind: Option<CommSeq>,
    /// The checkpoint does not wait for it.
    pub answered: bool,
    /// It has ended or is lost, or does not answer.
    pub gone: bool,
}

/// Who is to blame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Awaited {
    /// This rank waits for nobody; those wait for it, directly or through others.
    Rank(u32, Vec<u32>),
    /// These wait for each other.
    Circle(Vec<u32>),
}

/// Finds out whom all wait for; `None` if nothing points at anybody.
pub(super) fn awaited(all: &[Standing]) -> Option<Awaited> {
    let count = u32::try_from(all.len()).ok()?;
    let behind = |comm: u64, number: u64| {
        (0u32..).zip(all).filter_map(move |(rank, standing)| {
            let late = standing.behind?;
            (late.comm_id == comm && late.seq < number).then_some(rank)
        })
    };
    // Whom each rank waits for. Ranks inside the same collective wait for the same ranks.
    let mut groups: BTreeMap<(u64, u64), Vec<u32>> = BTreeMap::new();
    let mut waits_for: Vec<Vec<u32>> = vec![Vec::new(); all.len()];
    for (rank, standing) in all.iter().enumerate() {
        for place in standing.places {
            match (place.peer, place.comm_id, place.number) {
                (Some(peer), _, _) if peer < count => waits_for[rank].push(peer),
                (None, Some(comm), Some(number)) => {
                    let late = groups
                        .entry((comm, number))
                        .or_insert_with(|| behind(comm, number).take(MOST_CANDIDATES).collect());
                    waits_for[rank].extend(late.iter().filter(|r| **r as usize != rank));
                }
                _ => {}
            }
        }
    }
    let mut waited_by: Vec<Vec<u32>> = vec![Vec::new(); all.len()];
    for (rank, others) in (0u32..).zip(&waits_for) {
        for other in others {
            waited_by[*other as usize].push(rank);
        }
    }
    let followers = |of: u32| {
        let mut seen = vec![false; all.len()];
        seen[of as usize] = true;
        let mut queue = VecDeque::from([of]);
        while let Some(rank) = queue.pop_front() {
            for other in &waited_by[rank as usize] {
                if !std::mem::replace(&mut seen[*other as usize], true) {
                    queue.push_back(*other);
                }
            }
        }
        seen[of as usize] = false;
        (0u32..)
            .zip(seen)
            .filter_map(|(rank, is)| is.then_some(rank))
            .collect::<Vec<u32>>()
    };
    let free = |rank: u32| {
        let standing = &all[rank as usize];
        standing.gone || (standing.places.is_empty() && waits_for[rank as usize].is_empty())
    };
    let best = (0..count)
        .filter(|rank| free(*rank) && !waited_by[*rank as usize].is_empty())
        .take(MOST_CANDIDATES)
        .map(|rank| (rank, followers(rank)))
        .max_by_key(|(rank, those)| (those.len(), std::cmp::Reverse(*rank)));
    if let Some((rank, those)) = best {
        return Some(Awaited::Rank(rank, those));
    }
    // Nobody waits for one that is free: follow one that waits until it comes back to itself.
    let mut at = (0..count)
        .find(|rank| !all[*rank as usize].answered && !waits_for[*rank as usize].is_empty());
    let mut path: Vec<u32> = Vec::new();
    while let Some(rank) = at {
        if let Some(start) = path.iter().position(|seen| *seen == rank) {
            return Some(Awaited::Circle(path.split_off(start)));
        }
        path.push(rank);
        at = waits_for[rank as usize].first().copied();
    }
    // A single rank that holds up everybody.
    let mut missing = (0..count).filter(|rank| !all[*rank as usize].answered);
    match (missing.next(), missing.next()) {
        (Some(only), None) => Some(Awaited::Rank(only, Vec::new())),
        _ => None,
    }
}

/// "0-3, 7".
pub fn ranges(ranks: &[u32]) -> String {
    let mut parts: Vec<(u32, u32)> = Vec::new();
    for &rank in ranks {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == rank => *last = rank,
            _ => parts.push((rank, rank)),
        }
    }
    let shown = parts.iter().take(8).map(|(first, last)| {
        if first == last {
            first.to_string()
        } else {
            format!("{first}-{last}")
        }
    });
    let mut text = shown.collect::<Vec<_>>().join(", ");
    if parts.len() > 8 {
        text += ", ...";
    }
    text
}

fn plural(ranks: &[u32]) -> &'static str {
    if ranks.len() == 1 {
        "rank"
    } else {
        "ranks"
    }
}

impl Awaited {
    fn sentence(&self, ranks: &Ranks, now: Duration) -> String {
        match self {
            Awaited::Rank(rank, those) => {
                let name = ranks.name(*rank);
                let doing = ranks
                    .get(*rank)
                    .map(|r| r.whereabouts(now))
                    .unwrap_or_default();
                let what = if doing.is_empty() {
                    name
                } else {
                    format!("{name} ({doing})")
                };
                match those.len() {
                    0 => format!("everybody waits for {what}"),
                    1 => format!("rank {} waits for {what}", those[0]),
                    _ => format!("ranks {} wait for {what}", ranges(those)),
                }
            }
            Awaited::Circle(those) => format!(
                "{} {} of the program wait for each other",
                plural(those),
                ranges(those)
            ),
        }
    }
}

/// The report about `checkpoint` in step `step`, which has lasted `lasted`.
pub(super) fn report(
    checkpoint: Checkpoint,
    step: &str,
    lasted: Duration,
    ranks: &Ranks,
    missing: &[u32],
    now: Duration,
) -> Stall {
    let mut late = vec![false; ranks.len()];
    for rank in missing {
        if let Some(late) = late.get_mut(*rank as usize) {
            *late = true;
        }
    }
    let all: Vec<Standing> = ranks
        .iter()
        .zip(&late)
        .map(|((_, found), late)| {
            let gone = matches!(found.life, Life::Ended(_) | Life::Lost) || found.is_silent(now);
            Standing {
                // What a node that has died said last would make circles that are none.
                places: if gone { &[] } else { &found.places },
                behind: found.behind,
                answered: !late,
                gone,
            }
        })
        .collect();
    let told: Vec<RankPlace> = ranks
        .iter()
        .filter(|(rank, found)| {
            let late = late.get(*rank as usize).copied().unwrap_or(false);
            late || !found.places.is_empty()
        })
        .map(|(rank, found)| {
            let (doing, waiting) = found.shown(now);
            RankPlace {
                rank,
                host: found.host.clone(),
                awaited: late.get(rank as usize).copied().unwrap_or(false),
                doing,
                waiting,
            }
        })
        .collect();
    let omitted = told.len().saturating_sub(MOST_RANKS);
    Stall {
        generation: checkpoint.generation,
        level: checkpoint.level,
        step: step.to_owned(),
        seconds: lasted.as_secs_f64(),
        cause: awaited(&all).map(|found| found.sentence(ranks, now)),
        ranks: told.into_iter().take(MOST_RANKS).collect(),
        omitted: u32::try_from(omitted).unwrap_or(u32::MAX),
    }
}

/// The report in lines: ranks at the same place share one.
pub(super) fn lines(stall: &Stall) -> Vec<String> {
    let mut groups: Vec<(String, Vec<u32>, f64)> = Vec::new();
    for found in &stall.ranks {
        let (text, time) = match found.waiting.as_slice() {
            [] => (found.doing.clone(), 0.0),
            waiting => (
                waiting
                    .iter()
                    .map(|w: &Waiting| w.text.clone())
                    .collect::<Vec<_>>()
                    .join("; "),
                waiting.iter().map(|w| w.seconds).fold(0.0, f64::max),
            ),
        };
        match groups.iter_mut().find(|(known, _, _)| *known == text) {
            Some((_, ranks, longest)) => {
                ranks.push(found.rank);
                *longest = longest.max(time);
            }
            None => groups.push((text, vec![found.rank], time)),
        }
    }
    let more = groups.len().saturating_sub(MOST_LINES);
    let mut lines: Vec<String> = groups
        .into_iter()
        .take(MOST_LINES)
        .map(|(text, ranks, time)| {
            let text = match text.as_str() {
                "" => "nothing is known",
                known => known,
            };
            let mut line = format!("  {} {}: {text}", plural(&ranks), ranges(&ranks));
            if time > 0.0 {
                line += &format!(", for {}", seconds(time));
            }
            line
        })
        .collect();
    if more > 0 {
        lines.push(format!(
            "  and {more} more places; mana_status --json has all"
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receives_from(peer: u32) -> Vec<Place> {
        vec![Place {
            call: "MPI_Recv".into(),
            peer: Some(peer),
            ..Place::default()
        }]
    }

    fn inside(comm: u64, number: u64) -> Vec<Place> {
        vec![Place {
            call: "MPI_Barrier".into(),
            comm_id: Some(comm),
            number: Some(number),
            ..Place::default()
        }]
    }

    fn late(comm_id: u64, seq: u64) -> Option<CommSeq> {
        Some(CommSeq {
            comm_id,
            size: 4,
            seq,
        })
    }

    #[test]
    fn a_chain_ends_at_the_rank_that_computes() {
        let (two, one, barrier) = (receives_from(2), receives_from(1), inside(1, 5));
        let standing = |places, behind| Standing {
            places,
            behind,
            ..Standing::default()
        };
        // 3 is in a barrier 0 has not called, 0 waits for 1, 1 for 2, and 2 computes.
        let all = [
            standing(&one, late(1, 4)),
            standing(&two, None),
            standing(&[], late(1, 4)),
            standing(&barrier, None),
        ];
        assert_eq!(awaited(&all), Some(Awaited::Rank(2, vec![0, 1, 3])));
    }

    #[test]
    fn ranks_that_wait_for_each_other_are_named() {
        let (one, two) = (receives_from(1), receives_from(2));
        let of = |places| Standing {
            places,
            ..Standing::default()
        };
        let all = [of(&one), of(&two), of(&one)];
        assert_eq!(awaited(&all), Some(Awaited::Circle(vec![1, 2])));
    }

    #[test]
    fn the_only_one_missing_is_named_and_nonsense_is_survived() {
        let reached = Standing {
            answered: true,
            ..Standing::default()
        };
        let all = [reached.clone(), Standing::default(), reached];
        assert_eq!(awaited(&all), Some(Awaited::Rank(1, vec![])));
        let wild = receives_from(77);
        let all = [
            Standing {
                places: &wild,
                ..Standing::default()
            },
            Standing::default(),
        ];
        assert_eq!(awaited(&all), None);
        assert_eq!(awaited(&[]), None);
    }

    #[test]
    fn ranges_of_ranks() {
        assert_eq!(ranges(&[0, 1, 2, 5, 7, 8]), "0-2, 5, 7-8");
        assert_eq!(ranges(&[]), "");
    }
}
