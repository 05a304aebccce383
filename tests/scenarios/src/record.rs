//! Which procedures the programs call, in which kind of run, on objects of what age: the recorder
//! (`tests/programs/record.c`) is preloaded into every run, and what it wrote becomes
//! `docs/coverage.md`. Only what a run with the right result has recorded counts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
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
    marks: Mutex<BTreeMap<Key, Mark>>,
}

/// One recorded run.
pub struct Recording {
    directory: PathBuf,
    library: PathBuf,
    ended: Arc<AtomicBool>,
    clock: Option<JoinHandle<()>>,
}

impl Recorder {
    /// Nothing is recorded yet; libraries for these MPIs are built in `directory`.
    pub fn new(directory: &Path, mpis: &[Mpi]) -> Result<Self> {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("creating {}", directory.display()))?;
        for mpi in mpis {
            if mpi.tool("mpicc").is_some() {
                build(*mpi, directory)?;
            }
        }
        Ok(Self {
            libraries: directory.to_owned(),
            marks: Mutex::default(),
        })
    }

    /// Prepare a run in `directory`.
    pub fn start(&self, mpi: Mpi, directory: &Path) -> Result<Recording> {
        let directory = directory.join("record");
        std::fs::create_dir_all(&directory)
            .with_context(|| format!("creating {}", directory.display()))?;
        Ok(Recording {
            directory,
            library: library(mpi, &self.libraries),
            ended: Arc::default(),
            clock: None,
        })
    }

    /// Take over what a run with the right result has recorded.
    pub fn take(&self, recording: &Recording, mpi: Mpi, column: &'static str) -> Result<()> {
        let Ok(mut marks) = self.marks.lock() else {
            bail!("a scenario panicked")
        };
        let entries = std::fs::read_dir(&recording.directory)
            .with_context(|| format!("reading {}", recording.directory.display()))?;
        for entry in entries.flatten() {
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            for (name, mark) in marks_of(&text) {
                let key = (name, mpi.name(), column);
                let known = marks.entry(key).or_insert(mark);
                *known = (*known).max(mark);
            }
        }
        Ok(())
    }

    /// Keep what the page of an earlier recording has: only some of the scenarios are run.
    pub fn keep(&self, page: &str) -> Result<()> {
        let Ok(mut marks) = self.marks.lock() else {
            bail!("a scenario panicked")
        };
        for (name, mpi, column, mark) in marks_on(page) {
            let known = marks.entry((name, mpi, column)).or_insert(mark);
            *known = (*known).max(mark);
        }
        Ok(())
    }

    /// The document.
    pub fn document(&self, notes: &str) -> Result<String> {
        let Ok(marks) = self.marks.lock() else {
            bail!("a scenario panicked")
        };
        document(&marks, notes)
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

/// The table's procedures that `mpi` has.
fn exported(procedure: &Procedure, mpi: Mpi) -> bool {
    match mpi.family() {
        Mpi::OpenMpi => procedure.openmpi,
        _ => procedure.mpich,
    }
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

fn build(mpi: Mpi, directory: &Path) -> Result<()> {
    let list = directory.join(format!("procedures-{}.h", mpi.name()));
    let lines: String = table()?
        .iter()
        .filter(|p| exported(p, mpi))
        .map(line)
        .collect();
    std::fs::write(&list, lines).with_context(|| format!("writing {}", list.display()))?;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("programs/record.c");
    let mut command = Command::new("cc");
    command.args(["-O0", "-fPIC", "-shared", "-Wall", "-Wno-unused-parameter"]);
    command.arg(format!("-DPROCEDURES=\"{}\"", list.display()));
    match mpi.family() {
        Mpi::OpenMpi => command.arg("-DLIBRARY=\"libmpi.so.40\""),
        _ => command.args(["-DLIBRARY=\"libmpich.so.12\"", "-DHANDLES_ARE_INT"]),
    };
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

/// What the cells of a page show.
fn marks_on(page: &str) -> Vec<(String, &'static str, &'static str, Mark)> {
    let columns = || {
        Mpi::ALL
            .into_iter()
            .flat_map(|mpi| COLUMNS.map(|column| (mpi.name(), column)))
    };
    let mark = |cell: &str, column: &str| match cell.split_whitespace().next()? {
        "x" if CHECKPOINTED.contains(&column) => Some(Mark::Across),
        "x" => Some(Mark::Called),
        "o" => Some(Mark::Object),
        "b" => Some(Mark::Before),
        "a" => Some(Mark::After),
        _ => None,
    };
    let mut found = Vec::new();
    for line in page.lines().filter(|line| line.starts_with("| MPI")) {
        let mut cells = line.trim_matches('|').split('|').map(str::trim);
        let name = cells.next().unwrap_or_default();
        for (cell, (mpi, column)) in cells.zip(columns()) {
            if let Some(mark) = mark(cell, column) {
                found.push((name.to_owned(), mpi, column, mark));
            }
        }
    }
    found
}

/// Why cells are blank: `[key] reason`, and why they have no `o`: `(key) reason`; then lines `PATTERN [mpi]`, where a
/// pattern may end with `*`.
struct Notes<'a> {
    reasons: Vec<Reason<'a>>,
    lines: Vec<(&'a str, Option<&'a str>, usize)>,
}

#[derive(Clone, Copy)]
struct Reason<'a> {
    key: &'a str,
    text: &'a str,
    /// What is explained is a blank, not the want of an object.
    blank: bool,
}

impl<'a> Notes<'a> {
    fn parse(text: &'a str) -> Result<Self> {
        let mut notes = Notes {
            reasons: Vec::new(),
            lines: Vec::new(),
        };
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let between = |open: char, close: char| line.strip_prefix(open)?.split_once(close);
            let blank = between('[', ']');
            if let Some((key, text)) = blank.or_else(|| between('(', ')')) {
                let (text, blank) = (text.trim(), blank.is_some());
                notes.reasons.push(Reason { key, text, blank });
                continue;
            }
            let mut words = line.split_whitespace();
            let pattern = words.next().unwrap_or_default();
            let at = notes.reasons.len().checked_sub(1);
            let at = at.with_context(|| format!("a name before the first reason: {line}"))?;
            notes.lines.push((pattern, words.next(), at));
        }
        Ok(notes)
    }

    /// The key of the reason for a blank, or for the want of an object.
    fn of(&self, name: &str, mpi: &str, blank: bool) -> Option<&'a str> {
        let fits = |pattern: &str| match pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == pattern,
        };
        self.lines
            .iter()
            .filter(|(pattern, only, _)| fits(pattern) && only.is_none_or(|o| o == mpi))
            .filter_map(|(_, _, at)| self.reasons.get(*at))
            .find(|reason| reason.blank == blank)
            .map(|reason| reason.key)
    }
}

const HEAD: &str = "# Coverage

Which MPI procedures the test programs call, on which MPI, in which kind of run. Recorded by the runs: `cargo xtask coverage` writes
this page. Every program checks what it gets, and its result is compared with that of a native run; a run that fails records nothing.

| sign | means |
|---|---|
| x | called; in runs with checkpoints: before one and after one |
| o | it made, or worked on, an object that was made before a checkpoint and used after it; procedures without objects have no more than x |
| b, a | called before a checkpoint only, after one only |
| . | this MPI does not have it |
| a word in brackets | why there is nothing, or no o: see the notes at the end |

The columns of each MPI: native, under mana, with checkpoints (\"continue\"), killed and resumed (\"resume\").
";

fn document(marks: &BTreeMap<Key, Mark>, notes: &str) -> Result<String> {
    let notes = Notes::parse(notes)?;
    let mut out = HEAD.to_owned();
    let mut chapter = String::new();
    let (mut full, mut explained, mut blank) = (0, 0, 0);
    let (mut without, mut excused) = (0, 0);
    for p in &table()? {
        if p.chapter != chapter {
            chapter.clone_from(&p.chapter);
            write!(out, "\n## {chapter}\n| procedure |")?;
            for mpi in Mpi::ALL {
                for column in COLUMNS {
                    let column = if column == "plain" { "mana" } else { column };
                    write!(out, " {} {column} |", mpi.name())?;
                }
            }
            out.push_str("\n|---|---|---|---|---|---|---|---|---|\n");
        }
        write!(out, "| {} |", p.name)?;
        for mpi in Mpi::ALL {
            for column in COLUMNS {
                let key = (p.name.clone(), mpi.name(), column);
                let mark = marks.get(&key);
                let lacks = |mark: &Mark| {
                    CHECKPOINTED.contains(&column) && *mark < Mark::Object && has_object(p)
                };
                let cell = match (mark, notes.of(&p.name, mpi.name(), mark.is_none())) {
                    _ if !exported(p, mpi) => ".".to_owned(),
                    (Some(mark), Some(why)) if lacks(mark) => {
                        full += 1;
                        excused += 1;
                        format!("{} ({why})", mark.sign())
                    }
                    (Some(mark), _) => {
                        full += 1;
                        without += i32::from(lacks(mark));
                        mark.sign().to_owned()
                    }
                    (None, Some(key)) => {
                        explained += 1;
                        format!("({key})")
                    }
                    (None, None) => {
                        blank += 1;
                        "?".to_owned()
                    }
                };
                write!(out, " {cell} |")?;
            }
        }
        out.push('\n');
    }
    out.push_str("\n## Notes\n");
    for reason in &notes.reasons {
        writeln!(out, "- ({}): {}", reason.key, reason.text)?;
    }
    writeln!(
        out,
        "\n{full} cells recorded, {explained} explained, {blank} blank. Of those with checkpoints, of procedures with objects,\n\
         {without} have no o, {excused} more have a reason for that."
    )?;
    Ok(out)
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

    #[test]
    fn reasons_are_found() {
        let text = "[io] files\nMPI_File_*\nMPI_X mpich\n(side) on one side\nMPI_X\n";
        let notes = Notes::parse(text).unwrap();
        assert_eq!(notes.of("MPI_File_open", "openmpi", true), Some("io"));
        assert_eq!(notes.of("MPI_File_open", "openmpi", false), None);
        assert_eq!(notes.of("MPI_X", "openmpi", true), None);
        assert_eq!(notes.of("MPI_X", "mpich", true), Some("io"));
        assert_eq!(notes.of("MPI_X", "openmpi", false), Some("side"));
    }

    #[test]
    fn a_page_is_read_again() {
        let page = include_str!("../../../docs/coverage.md");
        let marks: BTreeMap<Key, Mark> = marks_on(page)
            .into_iter()
            .map(|(name, mpi, column, mark)| ((name, mpi, column), mark))
            .collect();
        let notes = include_str!("../../coverage.txt");
        assert_eq!(document(&marks, notes).unwrap(), page);
    }

    /// The page in the tree has every procedure of the table, and no blank.
    #[test]
    fn the_page_is_complete() {
        let page = include_str!("../../../docs/coverage.md");
        let rows: BTreeMap<&str, &str> = page
            .lines()
            .filter_map(|l| l.strip_prefix("| MPI")?.split_once(" |"))
            .collect();
        for p in table().unwrap() {
            let row = rows.get(p.name.trim_start_matches("MPI"));
            let row = row.unwrap_or_else(|| panic!("{} is not in docs/coverage.md", p.name));
            assert!(!row.contains(" ? "), "{}: a blank without a reason", p.name);
        }
    }
}
