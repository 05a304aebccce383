//! Records of the job and its incarnations, in the global directory.
//!
//! An incarnation is one start of the job. Before it takes its first checkpoint it records what it
//! resumed from (its parent); recovery follows that ancestry only, so whatever a stale incarnation
//! still commits is ignored. `committing-<i>` is there from before the first manifest of incarnation
//! `i` is written, `committed-<i>` once all nodes have one: a job that ends in between is asked of
//! the nodes, any later one that finds no manifest has lost something.
//!
//! `origin` holds a random number, made with the first of these records. What nodes store carries it: images of an earlier job of
//! the same name, whose records somebody has deleted, are none of this one's.
//!
//! `end-<i>` says how incarnation `i` ended; only the newest one's counts for the job. Ranks whose coordinator is gone cannot know that of each other: each
//! leaves `ended-<i>/rank-<r>` with its exit code, and a job is finished when all are there with 0.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::store::{create_sealed, make_dir, names, read_sealed, remove_file, write_sealed, Store};
use crate::{Error, GenerationId, Topology};

const INCARNATION: [u8; 8] = *b"incarntn";
const COMMITTED: [u8; 8] = *b"committd";
const COMMITTING: [u8; 8] = *b"cmmttng\0";
const RANK_END: [u8; 8] = *b"rank-end";
const END: [u8; 8] = *b"end\0\0\0\0\0";
const ORIGIN: [u8; 8] = *b"origin\0\0";

/// One start of the job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incarnation {
    /// Its number, from 1.
    pub number: u32,
    /// The generation it resumed from; `None`: it began at the beginning.
    pub parent: Option<GenerationId>,
    /// Ranks.
    pub size: u32,
    /// Thread level of the MPI library (`MPI_THREAD_*` of the standard ABI); -1 without MPI.
    pub thread_level: i32,
    /// The program.
    pub program: PathBuf,
    /// Hash of its file, by [`program_hash`].
    pub program_hash: Option<u64>,
    /// When it began, in seconds since 1970.
    pub created: u64,
    /// The batch system's restart count.
    pub restart_count: u32,
    /// The batch system's name of the job it belongs to; restart counts of different ones cannot be compared.
    pub batch_job: Option<String>,
    /// Where its ranks were, and who kept whose copies.
    pub topology: Topology,
}

impl Incarnation {
    /// Whether it was started by this job of the batch system. (Of a heterogeneous job all components are one.)
    pub fn is_of(&self, batch_job: &str) -> bool {
        let whole = |name: &str| name.split('+').next().map(str::to_owned);
        self.batch_job.as_deref().and_then(whole) == whole(batch_job)
    }
}

/// Hash of a program's file (XXH3, 64 bits); `None` if it cannot be read.
pub fn program_hash(path: &Path) -> Option<u64> {
    use std::io::Read as _;
    let mut file = std::fs::File::open(path).ok()?;
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).ok()? {
            0 => return Some(hasher.digest()),
            n => hasher.update(buffer.get(..n)?),
        }
    }
}

/// What images and manifests of job `job` of that origin carry as its name.
pub fn mark(job: &str, origin: Option<u32>) -> String {
    match origin {
        Some(origin) => format!("{job}{BETWEEN}{origin:08x}"),
        None => job.to_owned(),
    }
}

/// Between name and origin; no name has it.
const BETWEEN: char = '@';

/// The job's name in such a mark.
pub fn job_of(mark: &str) -> &str {
    mark.split(BETWEEN).next().unwrap_or(mark)
}

/// How the job ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// Every rank ended with exit code 0.
    Finished,
    /// A program failure.
    Failed {
        /// Why.
        reason: String,
    },
    /// Somebody ended it on purpose; it can be resumed, but not by itself.
    Stopped {
        /// Who or what asked for it.
        reason: String,
    },
    /// It ended with a last checkpoint before an announced end, to go on from there (`at_end`).
    Paused {
        /// What announced the end.
        reason: String,
    },
}

/// What is known of an ancestry's commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Commits {
    /// There are none.
    None,
    /// The first one had begun when the job ended; the nodes know whether a manifest was written.
    Perhaps(GenerationId),
    /// There are some.
    Some,
}

/// What the global directory says about a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobState {
    /// Nothing: it has never run, or was cleaned up.
    New,
    /// It has ended normally.
    Finished,
    /// It has not.
    Unfinished {
        /// The newest incarnation.
        incarnation: Incarnation,
        /// Whether any generation of its ancestry was, or may have been, committed.
        committed: bool,
    },
}

/// The records of one job.
#[derive(Debug, Clone)]
pub struct Records {
    store: Store,
}

impl Records {
    /// In the job's global store.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    fn path(&self, number: u32) -> PathBuf {
        self.store.root().join(format!("incarnation-{number}"))
    }

    fn committed_path(&self, number: u32) -> PathBuf {
        self.store.root().join(format!("committed-{number}"))
    }

    fn committing_path(&self, number: u32) -> PathBuf {
        self.store.root().join(format!("committing-{number}"))
    }

    fn end_path(&self, number: u32) -> PathBuf {
        self.store.root().join(format!("end-{number}"))
    }

    fn ended_path(&self, number: u32) -> PathBuf {
        self.store.root().join(format!("ended-{number}"))
    }

    /// A rank of incarnation `number` that has no coordinator any more ends with `code`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn note_rank_end(&self, number: u32, rank: u32, code: i32) -> Result<(), Error> {
        let directory = self.ended_path(number);
        make_dir(&directory)?;
        write_sealed(&directory.join(format!("rank-{rank}")), RANK_END, &code)
    }

    /// Whether every rank of an incarnation has left word that it ended normally.
    fn all_ranks_ended(&self, incarnation: &Incarnation) -> bool {
        let directory = self.ended_path(incarnation.number);
        let ended = |rank| {
            read_sealed::<i32>(&directory.join(format!("rank-{rank}")), RANK_END)
                .is_ok_and(|code| code == 0)
        };
        directory.is_dir() && (0..incarnation.size).all(ended)
    }

    /// The job's origin; `None`: it has not begun, or was begun by a build that gave it none.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn origin(&self) -> Result<Option<u32>, Error> {
        match read_sealed(&self.origin_path(), ORIGIN) {
            Ok(origin) => Ok(Some(origin)),
            Err(Error::Missing { .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The same, made if the job has no records yet.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn make_origin(&self) -> Result<Option<u32>, Error> {
        if let (None, 0) = (self.origin()?, self.newest()?) {
            let mut bytes = [0; 4];
            crate::random(&mut bytes).map_err(Error::io("read", "/dev/urandom"))?;
            make_dir(self.store.root())?;
            create_sealed(&self.origin_path(), ORIGIN, &u32::from_le_bytes(bytes))?;
        }
        self.origin()
    }

    fn origin_path(&self) -> PathBuf {
        self.store.root().join("origin")
    }

    /// What images and manifests of job `job` carry as its name.
    ///
    /// # Errors
    /// When the records cannot be read.
    pub fn mark(&self, job: &str) -> Result<String, Error> {
        Ok(mark(job, self.origin()?))
    }

    /// Number of the newest incarnation; 0: none.
    ///
    /// # Errors
    /// When the directory exists and cannot be listed.
    pub fn newest(&self) -> Result<u32, Error> {
        let all = names(self.store.root())?;
        Ok(all
            .iter()
            .filter_map(|n| n.strip_prefix("incarnation-")?.parse().ok())
            .max()
            .unwrap_or(0))
    }

    /// The record of the newest incarnation, if there is any.
    ///
    /// # Errors
    /// When the directory or the record cannot be read.
    pub fn last(&self) -> Result<Option<Incarnation>, Error> {
        match self.newest()? {
            0 => Ok(None),
            number => self.read(number).map(Some),
        }
    }

    /// Whether the record of incarnation `number` can be seen from here, within `limit`: a file system may show it late.
    pub fn is_seen(&self, number: u32, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        while !self.path(number).exists() {
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        true
    }

    /// One incarnation's record.
    ///
    /// # Errors
    /// When it is not there or damaged.
    pub fn read(&self, number: u32) -> Result<Incarnation, Error> {
        read_sealed(&self.path(number), INCARNATION)
    }

    /// Records a new incarnation: gives it the next number after that of all records and after the one it has, which nobody
    /// else gets. Earlier ends do not count any more.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn begin(&self, mut incarnation: Incarnation) -> Result<Incarnation, Error> {
        make_dir(self.store.root())?;
        loop {
            // A listing may be older than what is there: never the same number twice.
            incarnation.number = (self.newest()?).max(incarnation.number) + 1;
            let path = self.path(incarnation.number);
            if create_sealed(&path, INCARNATION, &incarnation)? {
                return Ok(incarnation);
            }
        }
    }

    /// Before the first manifest of an incarnation: from here on `generation` may be committed.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn mark_committing(&self, generation: GenerationId) -> Result<(), Error> {
        let number = generation.incarnation;
        if self.committed_path(number).exists() {
            return Ok(());
        }
        write_sealed(&self.committing_path(number), COMMITTING, &generation)
    }

    /// The commit announced by [`Records::mark_committing`] was given up on all ranks.
    ///
    /// # Errors
    /// When it cannot be recorded.
    pub fn unmark_committing(&self, generation: GenerationId) -> Result<(), Error> {
        let path = self.committing_path(generation.incarnation);
        match read_sealed::<GenerationId>(&path, COMMITTING) {
            Ok(found) if found == generation => remove_file(&path),
            _ => Ok(()),
        }
    }

    /// Records that incarnation `number` has committed something.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn mark_committed(&self, number: u32) -> Result<(), Error> {
        let path = self.committed_path(number);
        if !path.exists() {
            write_sealed(&path, COMMITTED, &number)?;
            remove_file(&self.committing_path(number))?;
        }
        Ok(())
    }

    /// Whether the incarnations of `ancestry` have committed anything.
    pub fn commits(&self, ancestry: &[(u32, u64)]) -> Commits {
        if ancestry
            .iter()
            .any(|(i, _)| self.committed_path(*i).exists())
        {
            return Commits::Some;
        }
        let begun = ancestry.iter().find_map(|(i, _)| {
            let path = self.committing_path(*i);
            path.exists().then(|| read_sealed(&path, COMMITTING))
        });
        match begun {
            None => Commits::None,
            Some(Ok(generation)) => Commits::Perhaps(generation),
            Some(Err(_)) => Commits::Some,
        }
    }

    /// The newest incarnation that has committed something.
    ///
    /// # Errors
    /// When the directory exists and cannot be listed, or its record cannot be read.
    pub fn newest_commit(&self) -> Result<Option<Incarnation>, Error> {
        let all = names(self.store.root())?;
        let numbers = all
            .iter()
            .filter_map(|n| n.strip_prefix("committed-")?.parse().ok());
        numbers.max().map(|number| self.read(number)).transpose()
    }

    /// Records the end of incarnation `number`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_end(&self, number: u32, end: &End) -> Result<(), Error> {
        write_sealed(&self.end_path(number), END, end)
    }

    /// The recorded end of incarnation `number`.
    pub fn end_of(&self, number: u32) -> Option<End> {
        read_sealed(&self.end_path(number), END).ok()
    }

    /// The recorded end of the newest incarnation.
    pub fn end(&self) -> Option<End> {
        self.newest().ok().and_then(|newest| self.end_of(newest))
    }

    /// Whether the record of incarnation `number`, which was written, is there still.
    ///
    /// # Errors
    /// [`Error::Unrecorded`] when it is not.
    pub fn still_has(&self, number: u32) -> Result<(), Error> {
        let path = self.path(number);
        // A file system that does not answer has deleted nothing.
        match path.try_exists() {
            Ok(false) => Err(Error::Unrecorded { path }),
            _ => Ok(()),
        }
    }

    /// Whether a newer start of the job exists.
    ///
    /// # Errors
    /// When the directory cannot be listed.
    pub fn superseded(&self, ours: u32) -> Result<Option<u32>, Error> {
        let newest = self.newest()?;
        Ok((newest > ours).then_some(newest))
    }

    /// The line of descent of incarnation `number`: itself, its parent and so on, each with the
    /// highest generation number that counts.
    ///
    /// # Errors
    /// When a record is missing or damaged.
    pub fn ancestry(&self, number: u32) -> Result<Vec<(u32, u64)>, Error> {
        let mut line = Vec::new();
        let (mut at, mut bound) = (number, u64::MAX);
        while at > 0 {
            line.push((at, bound));
            match self.read(at)?.parent {
                Some(parent) if parent.incarnation < at => {
                    (at, bound) = (parent.incarnation, parent.number)
                }
                _ => break,
            }
        }
        Ok(line)
    }

    /// What is recorded about the job.
    ///
    /// # Errors
    /// When the newest record cannot be read.
    pub fn state(&self) -> Result<JobState, Error> {
        let newest = self.newest()?;
        if newest == 0 {
            return Ok(JobState::New);
        }
        if self.end_of(newest) == Some(End::Finished) {
            return Ok(JobState::Finished);
        }
        let incarnation = self.read(newest)?;
        if self.all_ranks_ended(&incarnation) {
            return Ok(JobState::Finished);
        }
        let committed = self.commits(&self.ancestry(newest)?) != Commits::None;
        Ok(JobState::Unfinished {
            incarnation,
            committed,
        })
    }
}
