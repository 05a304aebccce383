//! Has a newer start of the job taken over? Looked for as long as a program runs: processes of an older start
//! would go on writing the program's files.
//!
//! The answer is in the job's global directory, which not every rank can list every few seconds (of ten
//! thousand that would be two thousand listings a second). The ranks of a node take turns by the clock they
//! share: one listing in each period. Who finds a newer start leaves a mark in the node's storage, and the
//! others look for that mark once a period. A mark is a hint and no more: it may be older than the job's
//! records, so whoever sees one lists for itself.
//!
//! | from the moment at which the node can see the newer start's record | a rank knows after at most |
//! |---|---|
//! | every rank of the node lives | 6 s ([`PERIOD`] and [`SETTLE`]) |
//! | `k` whose turns follow each other have ended, or hang | `k` periods more |
//! | the node's storage cannot be used | as many periods as the node has ranks |

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::records::Records;
use crate::session::Session;
use crate::store::{create, make_dir};
use crate::Error;

/// One rank of each node lists the job's directory in each of these.
pub const PERIOD: Duration = Duration::from_secs(5);
/// The others look for its mark this much later.
pub const SETTLE: Duration = Duration::from_secs(1);

/// What the names of marks begin with.
pub(crate) const PREFIX: &str = "superseded-";

/// A newer start of the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Newer {
    /// Its number.
    pub incarnation: u32,
    /// Another rank of this node has found it, and has said so.
    pub told: bool,
}

/// One rank's part.
#[derive(Debug)]
pub struct Fence {
    records: Records,
    ours: u32,
    mark: PathBuf,
    /// This rank's place among the ranks of its node.
    turn: u64,
    /// Ranks of the node.
    ranks: u64,
    /// When the mark was made that has proved wrong.
    wrong: Option<SystemTime>,
}

impl Fence {
    /// That of a rank of incarnation `ours`.
    pub fn new(session: &Session, ours: u32) -> Self {
        let node_of = &session.topology().node_of;
        let mates = |ranks: &[u32]| ranks.iter().filter(|n| **n == session.node()).count() as u64;
        Self {
            records: session.records().clone(),
            ours,
            mark: session.local().root().join(format!("{PREFIX}{ours}")),
            turn: mates(node_of.get(..session.rank() as usize).unwrap_or_default()),
            ranks: mates(node_of).max(1),
            wrong: None,
        }
    }

    fn is_turn(&self, period: u64) -> bool {
        period % self.ranks == self.turn
    }

    /// The next look of this rank, at `now` on a clock that all processes of the node share: how long until
    /// then, and the number of its period.
    pub fn next(&self, now: Duration) -> (Duration, u64) {
        let length = PERIOD.as_secs();
        let period = now.as_secs() / length + 1;
        let settled = if self.is_turn(period) {
            Duration::ZERO
        } else {
            SETTLE
        };
        let at = Duration::from_secs(period * length) + settled;
        (at.saturating_sub(now), period)
    }

    /// Looks, in this period. What cannot be read now is looked at again.
    pub fn look(&mut self, period: u64) -> Option<Newer> {
        let turn = self.is_turn(period);
        let marked = fs::metadata(&self.mark).and_then(|m| m.modified()).ok();
        let hinted = marked.is_some() && marked != self.wrong;
        if !turn && !hinted {
            return None;
        }
        match self.records.superseded(self.ours).ok()? {
            Some(incarnation) => {
                if turn {
                    // Without a mark every rank finds out by itself.
                    let _ = self.leave_mark(incarnation);
                }
                Some(Newer {
                    incarnation,
                    told: !turn,
                })
            }
            None => {
                self.wrong = marked;
                None
            }
        }
    }

    /// What it says is for people; that it is there counts.
    fn leave_mark(&self, newest: u32) -> Result<(), Error> {
        if let Some(directory) = self.mark.parent() {
            make_dir(directory)?;
        }
        create(&self.mark)
            .and_then(|mut file| writeln!(file, "{newest}"))
            .map_err(Error::io("write", &self.mark))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Beginning;
    use crate::simulation::{configuration, run};
    use crate::store::Store;
    use crate::{Collective as _, Config};

    const RANKS: u32 = 6;

    /// Six ranks on two nodes, of a job that is in its first incarnation.
    fn config(dir: &std::path::Path) -> Config {
        configuration(dir, &[("node_size", "3")]).expect("configuration")
    }

    /// One fence of each rank.
    fn fences(config: &Config) -> Vec<Fence> {
        run(RANKS, |all| {
            let session = Session::open(config, "j", [1; 32], all).expect("open");
            let ours = begin(&session, all);
            Fence::new(&session, ours)
        })
    }

    fn begin(session: &Session, all: &crate::simulation::SimulatedRank) -> u32 {
        let beginning = Beginning {
            parent: None,
            program: "app".into(),
            thread_level: 0,
            restart_count: 0,
        };
        let begun = session.begin(&beginning, all).expect("begin");
        all.barrier().expect("barrier");
        begun.incarnation
    }

    #[test]
    fn one_rank_of_each_node_lists_in_a_period() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let fences = fences(&config(dir.path()));
        for period in 100..107 {
            let turns = |node: &[Fence]| node.iter().filter(|f| f.is_turn(period)).count();
            assert_eq!((turns(&fences[..3]), turns(&fences[3..])), (1, 1));
        }
        // Whose turn it is looks when the period begins, the others after it.
        for fence in &fences {
            let now = PERIOD * 100 + Duration::from_secs(2);
            let (wait, period) = fence.next(now);
            let late = if fence.is_turn(101) { 0 } else { 1 };
            assert_eq!((wait, period), (Duration::from_secs(3 + late), 101));
        }
    }

    #[test]
    fn a_node_knows_within_a_period_of_a_newer_start() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let config = config(dir.path());
        let mut old = fences(&config);
        assert!(old.iter_mut().all(|f| f.look(60).is_none()));
        let mut new = fences(&config);
        let period = 61; // the turn of rank 1 of each node
        for node in [0..3, 3..6] {
            let first = node.start + 1;
            for rank in node.clone().filter(|r| *r != first) {
                assert_eq!(old[rank].look(period), None, "nobody has told rank {rank}");
            }
            let found = |told| {
                let incarnation = 2;
                Some(Newer { incarnation, told })
            };
            assert_eq!(old[first].look(period), found(false));
            for rank in node.filter(|r| *r != first) {
                assert_eq!(old[rank].look(period), found(true), "rank {rank}");
            }
        }
        assert!((60..66).all(|p| new.iter_mut().all(|f| f.look(p).is_none())));
    }

    #[test]
    fn dead_ranks_and_lost_storage_delay_it_by_their_turns() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let config = config(dir.path());
        let mut old = fences(&config);
        fences(&config);
        // Of the first node only rank 2 lives; the second has no storage any more.
        assert!((60..62).all(|p| old[2].look(p).is_none()));
        assert!(old[2].look(62).is_some());
        let store = Store::local(&config, "j", 1);
        std::fs::create_dir_all(store.root().parent().expect("above it")).expect("made");
        let _ = std::fs::remove_dir_all(store.root());
        std::fs::write(store.root(), "not a directory").expect("written");
        for (rank, turn) in [(3, 60), (4, 61), (5, 62)] {
            let knows = |period: &u64| old[rank].look(*period).is_some();
            assert_eq!((60..66).find(knows), Some(turn));
        }
    }

    #[test]
    fn a_mark_of_another_time_is_not_believed() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let config = config(dir.path());
        let mut ours = fences(&config);
        ours[0].leave_mark(2).expect("mark");
        assert_eq!(ours[0].look(61), None);
        assert!(ours[0].wrong.is_some());
        // The next one counts.
        fences(&config);
        assert_eq!(ours[0].look(61), None);
        std::thread::sleep(Duration::from_millis(20)); // for another time stamp
        assert!(ours[1].look(61).is_some_and(|newer| !newer.told));
        assert!(ours[0].look(61).is_some_and(|newer| newer.told));
    }
}
