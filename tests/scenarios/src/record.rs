//! Which procedures the programs call, in which kind of run, on objects of what age: the recorder
//! (`tests/programs/record.c`) is preloaded into every run, and what it wrote becomes
//! the pages of `docs/` ([`pages`]). Only what a run with the right result has recorded counts.

mod exports;
mod notes;
mod pages;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{bail, ensure, Context as _, Result};
use mpi_table::{Direction, Kind, Length, Procedure};

use crate::generations::Stores;
use crate::mpi::Mpi;
use crate::product::Setup;
use exports::exports;
use pages::{pages, Known};

/// The file of a recorded run that counts how often it was started again.
const RESTARTS: &str = "restarts";

/// The kinds of runs, in the order of the columns.
pub const COLUMNS: [&str; 4] = ["native", "plain", "continue", "resume"];

/// Those with checkpoints.
const CHECKPOINTED: [&str; 2] = ["continue", "resume"];

/// What a run showed of a procedure; the greater, the more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    /// It was called.
    Called,
    /// It was called after a checkpoint, and not before.
    After,
    /// It was called before a checkpoint, and not after.
    Before,
    /// It was called before and after a checkpoint.
    Across,
    /// It made, or worked on, an object that was made before a checkpoint and used after it.
    Object,
}

impl Mark {
    fn sign(self) -> &'static str {
        match self {
            Self::Called => "x",
            Self::After => "a",
            Self::Before => "b",
            Self::Across => "x",
            Self::Object => "o",
        }
    }
}

type Key = (String, &'static str, &'static str);

/// Everything recorded so far.
pub struct Recorder {
    libraries: PathBuf,
    known: Mutex<Known>,
}

/// One recorded run.
pub struct Recording {
    directory: PathBuf,
    library: PathBuf,
    ended: Arc<AtomicBool>,
    clock: Option<JoinHandle<()>>,
}

impl Recorder {
    /// Nothing is recorded yet; the libraries for those of these MPIs that are here will be built in `directory`.
    pub fn new(directory: &Path, mpis: &[Mpi]) -> Result<Self> {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("creating {}", directory.display()))?;
        let mut known = Known::default();
        for mpi in mpis {
            if mpi.tool("mpirun").is_some() && mpi.c_compiler().is_some() {
                known.exports.insert(mpi.name(), exports(*mpi)?);
            }
        }
        Ok(Self {
            libraries: directory.to_owned(),
            known: Mutex::new(known),
        })
    }

    /// Prepare a run in `directory`.
    pub fn start(&self, mpi: Mpi, directory: &Path) -> Result<Recording> {
        let directory = directory.join("record");
        std::fs::create_dir_all(&directory)
            .with_context(|| format!("creating {}", directory.display()))?;
        let library = library(mpi, &self.libraries);
        let Ok(known) = self.known.lock() else {
            bail!("a scenario panicked")
        };
        // The first run on this MPI builds it; others wait.
        if !library.exists() {
            let exported = known.exports.get(mpi.name());
            let exported = exported.with_context(|| format!("{} is not here", mpi.name()))?;
            build(mpi, exported, &self.libraries)?;
        }
        Ok(Recording {
            directory,
            library,
            ended: Arc::default(),
            clock: None,
        })
    }

    /// Take over what a run with the right result has recorded.
    pub fn take(&self, recording: &Recording, mpi: Mpi, column: &'static str) -> Result<()> {
        let Ok(mut known) = self.known.lock() else {
            bail!("a scenario panicked")
        };
        let entries = std::fs::read_dir(&recording.directory)
            .with_context(|| format!("reading {}", recording.directory.display()))?;
        for entry in entries.flatten() {
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            for (name, mark) in marks_of(&text) {
                known.add((name, mpi.name(), column), mark);
            }
        }
        Ok(())
    }

    /// Keep what the pages in `directory` have of an earlier recording: of all MPIs if only some of the scenarios are
    /// run, else of those that are not here.
    pub fn keep(&self, directory: &Path, some: bool) -> Result<()> {
        let Ok(mut known) = self.known.lock() else {
            bail!("a scenario panicked")
        };
        let here: BTreeSet<_> = known.exports.keys().copied().collect();
        for page in pages() {
            let Ok(text) = std::fs::read_to_string(directory.join(page.file)) else {
                continue;
            };
            known.keep(page.read(&text), |mpi| some || !here.contains(mpi));
        }
        Ok(())
    }

    /// Write the pages, with the reasons of `tests/coverage.txt`.
    pub fn write(&self, directory: &Path) -> Result<()> {
        let Ok(known) = self.known.lock() else {
            bail!("a scenario panicked")
        };
        let notes = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("coverage.txt");
        let notes = std::fs::read_to_string(&notes)
            .with_context(|| format!("reading {}", notes.display()))?;
        for page in pages() {
            let path = directory.join(page.file);
            std::fs::write(&path, page.text(&known, &notes)?)
                .with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(())
    }
}

impl Recording {
    /// The environment of the run.
    pub fn environment(&self) -> Vec<(String, String)> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        vec![
            ("LD_PRELOAD".into(), text(&self.library)),
            ("MANA_RECORD".into(), text(&self.directory)),
            (EPOCH.into(), text(&self.directory.join("epoch"))),
        ]
    }

    /// How often each rank called each procedure.
    pub fn counts(&self) -> Result<BTreeMap<String, BTreeMap<String, i64>>> {
        let entries = std::fs::read_dir(&self.directory)
            .with_context(|| format!("reading {}", self.directory.display()))?;
        let mut ranks = BTreeMap::new();
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            // <program>.<rank>.<pid>
            let Some(rank) = name.rsplit('.').nth(1) else {
                continue;
            };
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let calls = text.lines().filter_map(|line| {
                let mut words = line.split(' ');
                Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
            });
            ranks.insert(rank.to_owned(), calls.collect());
        }
        Ok(ranks)
    }

    /// From now on the epoch is the number of generations that were seen, and two for each restart.
    pub fn follow(&mut self, stores: Stores) {
        let ended = Arc::clone(&self.ended);
        let (epoch, restarts) = (self.directory.join("epoch"), self.directory.join(RESTARTS));
        self.clock = Some(std::thread::spawn(move || {
            let mut seen = BTreeSet::new();
            let mut last = 0;
            while !ended.load(Ordering::Relaxed) {
                seen.extend(stores.committed());
                let restarts: usize = std::fs::read_to_string(&restarts)
                    .ok()
                    .and_then(|text| text.trim().parse().ok())
                    .unwrap_or(0);
                let now = seen.len() + 2 * restarts;
                if now != last {
                    last = now;
                    // A reader that finds the file empty keeps the epoch it had.
                    let _ = std::fs::write(&epoch, now.to_string());
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }));
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(clock) = self.clock.take() {
            let _ = clock.join();
        }
    }
}

/// The variable that names the file of the epoch.
const EPOCH: &str = "MANA_RECORD_EPOCH";

/// The job of `setup` is about to be started for the `times`th time again.
pub fn restarted(setup: &Setup, times: usize) {
    let epoch = setup.environment.iter().find(|(name, _)| name == EPOCH);
    if let Some((_, epoch)) = epoch {
        let _ = std::fs::write(Path::new(epoch).with_file_name(RESTARTS), times.to_string());
    }
}

fn library(mpi: Mpi, directory: &Path) -> PathBuf {
    directory.join(format!("librecord-{}.so", mpi.name()))
}

fn table() -> Result<Vec<Procedure>> {
    match mpi_table::procedures() {
        Ok(procedures) => Ok(procedures),
        Err(error) => bail!("the table of procedures: {error:?}"),
    }
}

/// The recorder's letter for an object's kind, `-` for what is none.
fn letter(kind: Kind) -> char {
    match kind {
        Kind::Comm => 'c',
        Kind::Group => 'g',
        Kind::Datatype => 'd',
        Kind::File => 'f',
        Kind::Errhandler => 'e',
        Kind::Keyval => 'k',
        Kind::Op => 'o',
        Kind::Info => 'i',
        Kind::Win => 'w',
        Kind::Message => 'm',
        Kind::Request => 'r',
        Kind::Session => 's',
        _ => '-',
    }
}

/// Whether a procedure takes, makes or returns an object.
fn has_object(procedure: &Procedure) -> bool {
    letter(procedure.result) != '-' || procedure.params().iter().any(|p| letter(p.kind) != '-')
}

/// A line of the recorder's list of procedures.
fn line(procedure: &Procedure) -> String {
    let mut what = String::new();
    let (mut array, mut count) = (-1, -1);
    for (position, p) in procedure.params().iter().enumerate() {
        let letter = letter(p.kind);
        let way = match (letter, &p.length, p.direction) {
            ('-', ..) => '-',
            ('r', Some(Length::Param(length)), Direction::InOut) => {
                let at = |q: &mpi_table::Param| &q.name == length;
                if let Some(n) = procedure.params().iter().position(at) {
                    (array, count) = (position as i32, n as i32);
                }
                '-'
            }
            (_, Some(_), _) => '-',
            (.., Direction::In) => '<',
            (.., Direction::Out) => '>',
            (.., Direction::InOut) => '=',
        };
        what.push(if way == '-' { '-' } else { letter });
        what.push(way);
    }
    format!("X({}, \"{what}\", {array}, {count})\n", procedure.name)
}

fn build(mpi: Mpi, exported: &BTreeSet<String>, directory: &Path) -> Result<()> {
    let list = directory.join(format!("procedures-{}.h", mpi.name()));
    let lines: String = table()?
        .iter()
        .filter(|p| exported.contains(&p.name))
        .map(line)
        .collect();
    std::fs::write(&list, lines).with_context(|| format!("writing {}", list.display()))?;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("programs/record.c");
    let mut command = Command::new("cc");
    command.args(["-O0", "-fPIC", "-shared", "-Wall", "-Wno-unused-parameter"]);
    command.arg(format!("-DPROCEDURES=\"{}\"", list.display()));
    command.arg(format!("-DLIBRARY=\"{}\"", mpi.library()));
    if mpi.family() == Mpi::Mpich {
        command.arg("-DHANDLES_ARE_INT");
    }
    command
        .arg(&source)
        .arg("-o")
        .arg(library(mpi, directory))
        .arg("-ldl");
    let output = command.output().context("starting cc")?;
    ensure!(
        output.status.success(),
        "{} does not compile\n{}",
        source.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// What a process wrote: a line for each procedure it called.
fn marks_of(text: &str) -> Vec<(String, Mark)> {
    let lines: Vec<(&str, Vec<i64>)> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let name = words.next()?;
            let numbers = words.map(|w| w.parse().ok()).collect::<Option<Vec<_>>>()?;
            (numbers.len() == 5).then_some((name, numbers))
        })
        .collect();
    let end = lines.iter().map(|(_, n)| n[2]).max().unwrap_or(0);
    let mark = |n: &[i64]| match (n[1], n[2], n[3] + n[4]) {
        (_, _, old) if old > 0 => Mark::Object,
        (first, last, _) if first + 2 <= last => Mark::Across,
        (_, last, _) if last + 2 <= end => Mark::Before,
        (first, ..) if first >= 2 => Mark::After,
        _ => Mark::Called,
    };
    lines
        .iter()
        .map(|(name, numbers)| ((*name).to_owned(), mark(numbers)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_follow_from_epochs() {
        let text = "MPI_Init 1 0 0 0 0\nMPI_Send 9 0 7 0 0\nMPI_Win_free 1 7 7 1 0\n\
                    MPI_Win_create 1 0 0 0 3\nMPI_Finalize 1 7 7 0 0\nMPI_Recv 2 6 7\n";
        let marks: BTreeMap<_, _> = marks_of(text).into_iter().collect();
        let of = |name: &str| marks.get(name).copied();
        assert_eq!(of("MPI_Init"), Some(Mark::Before));
        assert_eq!(of("MPI_Send"), Some(Mark::Across));
        assert_eq!(of("MPI_Win_free"), Some(Mark::Object));
        assert_eq!(of("MPI_Win_create"), Some(Mark::Object));
        assert_eq!(of("MPI_Finalize"), Some(Mark::After));
        assert_eq!(of("MPI_Recv"), None);
    }
}
