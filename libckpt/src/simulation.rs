//! Any number of ranks and nodes in one process: each rank is a thread, a [`Collective`] is a meeting
//! of all of them. For tests of placement, commit and recovery without MPI.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use mana_image::{RegionRecord, RegionTable, RunRecord, SectionKind, Sections};

use crate::image_file::ImageContent;
use crate::{Collective, Config, Error};

/// Longest wait for the other ranks.
const LIMIT: Duration = Duration::from_secs(60);

/// The configuration of a job in test mode with its stores below `dir`, and `more` options.
///
/// # Errors
/// When the file cannot be written or an option is wrong.
pub fn configuration(dir: &Path, more: &[(&str, &str)]) -> Result<Config, Error> {
    let (global, local) = (dir.join("global"), dir.join("local"));
    let stores = [("global_ckpt_dir", global), ("local_ckpt_dir", local)];
    let stores = stores.map(|(key, path)| (key.to_owned(), path.display().to_string()));
    let more = [("test_mode", "1")].iter().chain(more);
    let more = more.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    let file = dir.join("mana.conf");
    fs::write(&file, "").map_err(Error::io("write", &file))?;
    Config::load(
        Some(&file),
        &stores.into_iter().chain(more).collect(),
        &|_| None,
    )
}

/// What an image of `rank` may hold: one region, whole pages long, and a section.
pub fn content(rank: u32, memory: &[u8]) -> ImageContent<'_> {
    let run = RunRecord {
        start: 0x3000_0000_0000,
        len: memory.len() as u64,
        offset: 0,
    };
    let region = RegionRecord {
        start: run.start,
        len: run.len,
        prot: 3,
        kind: 0,
        name: Vec::new(),
        runs: vec![run],
    };
    let mut sections = Sections::default();
    sections.push(SectionKind::MPI, vec![rank as u8; 100]);
    ImageContent {
        sections,
        regions: RegionTable(vec![region]),
        memory: vec![memory],
    }
}

struct Meeting {
    round: u64,
    given: Vec<Option<Vec<u8>>>,
    result: Arc<Vec<Vec<u8>>>,
    /// A rank has ended: nobody can meet any more.
    left: bool,
}

/// The ranks of one simulated job.
pub struct World {
    meeting: Mutex<Meeting>,
    changed: Condvar,
    size: u32,
}

/// One simulated rank.
pub struct SimulatedRank {
    world: Arc<World>,
    rank: u32,
}

/// Runs `body` for each of `size` ranks on a thread of its own and returns their results, by rank.
pub fn run<T: Send>(size: u32, body: impl Fn(&SimulatedRank) -> T + Sync) -> Vec<T> {
    let meeting = Meeting {
        round: 0,
        given: vec![None; size as usize],
        result: Arc::default(),
        left: false,
    };
    let world = Arc::new(World {
        meeting: Mutex::new(meeting),
        changed: Condvar::new(),
        size,
    });
    std::thread::scope(|scope| {
        let ranks: Vec<_> = (0..size)
            .map(|rank| {
                let one = SimulatedRank {
                    world: Arc::clone(&world),
                    rank,
                };
                let body = &body;
                scope.spawn(move || body(&one))
            })
            .collect();
        ranks
            .into_iter()
            .map(|t| t.join().unwrap_or_else(|p| std::panic::resume_unwind(p)))
            .collect()
    })
}

impl Drop for SimulatedRank {
    fn drop(&mut self) {
        let meeting = self.world.meeting.lock();
        meeting.unwrap_or_else(PoisonError::into_inner).left = true;
        self.world.changed.notify_all();
    }
}

impl Collective for SimulatedRank {
    fn rank(&self) -> u32 {
        self.rank
    }

    fn size(&self) -> u32 {
        self.world.size
    }

    fn allgather(&self, data: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        let mut m = self
            .world
            .meeting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let round = m.round;
        m.given[self.rank as usize] = Some(data.to_vec());
        if m.given.iter().all(Option::is_some) {
            m.result = Arc::new(
                m.given
                    .iter_mut()
                    .map(|g| g.take().unwrap_or_default())
                    .collect(),
            );
            m.round += 1;
            self.world.changed.notify_all();
        }
        let waited = self
            .world
            .changed
            .wait_timeout_while(m, LIMIT, |m| m.round == round && !m.left);
        let (m, late) = waited.unwrap_or_else(PoisonError::into_inner);
        if m.round == round {
            let reason = match late.timed_out() {
                true => "a rank did not come",
                false => "a rank has ended",
            };
            return Err(Error::Collective {
                operation: "simulated allgather",
                reason: reason.into(),
            });
        }
        Ok(m.result.as_ref().clone())
    }
}
