//! What the program wrote to its files is taken back by a resume: of an older generation on request, and
//! not at all where it could not be saved.
//!
//! The program compares what it reads with what it remembers: a file that is newer or older than memory
//! ends it with an error.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{bail, ensure, Context as _, Result};

use super::modes::{native, same};
use super::Scenario;
use crate::context::{passed, skipped, Context, Verdict};
use crate::generations::resumed;
use crate::job::{Ended, Job};
use crate::mpi::Mpi;
use crate::product::{Intervals, Setup};
use crate::programs::{Program, PROGRAMS};

const LIMIT: Duration = Duration::from_secs(90);

/// The error of a full disk.
const NO_ROOM: i32 = nix::errno::Errno::ENOSPC as i32;

/// Arguments with which it ends soon, and with which it runs for some seconds.
const FAST: &[&str] = &["--rounds", "30", "--pause", "0"];
const SLOW: &[&str] = &["--rounds", "30", "--pause", "300"];
/// Its pauses end when this file is there.
const OVER: &str = "over";

pub fn all(full: bool) -> Vec<Scenario> {
    let mut scenarios = Vec::new();
    for mpi in Mpi::ALL.into_iter().filter(|m| full || *m == Mpi::OpenMpi) {
        scenarios.push(Scenario::new(
            format!("taken-back/{}/older", mpi.name()),
            "an older generation is resumed on request, twice: the files are those of its time",
            move |c| run(c, mpi, older),
        ));
    }
    scenarios.push(Scenario::new(
        "taken-back/full-disk",
        "no room for what overwritten files were: the resume is refused, a newer generation's is not",
        |c| run(c, Mpi::OpenMpi, full_disk),
    ));
    scenarios
}

type Play = fn(&Setup, &[String], &str) -> Result<Verdict>;

fn run(context: &Context, mpi: Mpi, play: Play) -> Result<Verdict> {
    let found = PROGRAMS.iter().find(|p| p.name == "files");
    let program = &Program {
        fast: FAST,
        ..*found.context("no such program")?
    };
    if let Some(why) = program.missing(mpi) {
        return skipped(why);
    }
    let Some(product) = context.product() else {
        return skipped("no installed tree was named with --mana");
    };
    let mut place = context.directory("taken-back")?;
    let executable = context.build(program, mpi)?;
    let expected = context.native("files, taken back", || {
        // Elsewhere: the files it leaves would be taken for those of the job that is looked at.
        let mut elsewhere = context.directory("taken-back-native")?;
        let result = native(program, mpi, &executable, elsewhere.path())?;
        elsewhere.done();
        Ok(result)
    })?;
    let until = place.path().join(OVER).display().to_string();
    let line = program.line(&executable, &[SLOW, &["--until", &until]].concat());
    let setup = product.setup(place.path(), mpi, program.ranks, Intervals::default())?;
    let verdict = play(&setup, &line, &expected)?;
    place.done();
    Ok(verdict)
}

/// What asks for a checkpoint, and waits until it is complete.
const LOCAL: [&str; 4] = ["--checkpoint", "--level", "local", "--wait"];

/// A checkpoint, complete.
fn checkpoint(setup: &Setup, number: u64) -> Result<()> {
    let taken = setup.mana("status", &LOCAL, LIMIT)?;
    let words = format!("checkpoint {number} ");
    ensure!(
        taken.expect(0)?.stdout.contains(&words),
        "not {words}\n{}",
        taken.report()
    );
    Ok(())
}

fn started(setup: &Setup, options: &[&str], line: &[String], words: &str) -> Result<Job> {
    let mut job = setup.launch(options, line)?;
    job.until(words, LIMIT, |job| {
        job.messages().contains(words).then_some(())
    })?;
    Ok(job)
}

fn killed(job: Job) -> Result<()> {
    job.kill_ranks();
    let ended = job.wait(LIMIT)?;
    ensure!(ended.code() != 0, "it ended well\n{}", ended.report());
    Ok(())
}

/// Only the result is missing.
fn hurry(setup: &Setup) -> Result<()> {
    std::fs::write(setup.directory.join(OVER), "").context("ending the pauses")
}

/// Lets the program go on writing for a while.
fn writes_on(job: &mut Job, file: &Path) -> Result<()> {
    let length = || std::fs::metadata(file).map_or(0, |m| m.len());
    let before = length();
    job.until("a further record in a file", LIMIT, |_| {
        (length() > before).then_some(())
    })
}

fn older(setup: &Setup, line: &[String], expected: &str) -> Result<Verdict> {
    // A file that grows with every round.
    let file = setup.directory.join("files-ordered");
    let mut job = started(setup, &[], line, "under control")?;
    writes_on(&mut job, &file)?;
    checkpoint(setup, 1)?;
    writes_on(&mut job, &file)?;
    checkpoint(setup, 2)?;
    writes_on(&mut job, &file)?;
    killed(job)?;
    let first = ["--restart", "--generation", "1.1"];
    let mut job = started(setup, &first, line, "resumed generation 1.1")?;
    writes_on(&mut job, &file)?;
    killed(job)?;
    // What came after it is no longer a part of this job's past.
    let other = setup.launch(&["--restart", "--generation", "1.2"], line)?;
    refused(&other.wait(LIMIT)?, &["1.2"])?;
    hurry(setup)?;
    let ended = setup.launch(&first, line)?.wait(LIMIT)?;
    same(&ended, expected)?;
    ensure!(resumed(&ended.stderr) == Some((1, 1)), "{}", ended.report());
    passed()
}

/// Exit code 99 and lines that hold all `words`.
fn refused(ended: &Ended, words: &[&str]) -> Result<()> {
    ended.expect(99)?;
    for word in words {
        ensure!(
            ended.stderr.contains(word),
            "{word:?} is not said\n{}",
            ended.report()
        );
    }
    Ok(())
}

/// A file system of its own for the job's global directory, gone when dropped.
struct Small(std::path::PathBuf);

impl Small {
    fn mount(at: &Path) -> Option<Self> {
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"]);
        let mounted = command.arg(at).status().is_ok_and(|s| s.success());
        mounted.then(|| Self(at.to_owned()))
    }

    /// Takes all the room there is.
    fn fill(&self) -> Result<()> {
        let mut file = std::fs::File::create(self.filler()).context("creating a file")?;
        let block = vec![1; 4096];
        loop {
            match file.write_all(&block) {
                Ok(()) => {}
                Err(e) if e.raw_os_error() == Some(NO_ROOM) => return Ok(()),
                Err(e) => bail!("filling {}: {e}", self.0.display()),
            }
        }
    }

    fn filler(&self) -> std::path::PathBuf {
        self.0.join("filler")
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn full_disk(setup: &Setup, line: &[String], expected: &str) -> Result<Verdict> {
    if !nix::unistd::geteuid().is_root() {
        return skipped("a small file system needs root");
    }
    let Some(small) = Small::mount(&setup.stores().global) else {
        return skipped("a file system cannot be mounted here");
    };
    let file = setup.directory.join("files-ordered");
    let mut job = started(setup, &[], line, "under control")?;
    writes_on(&mut job, &file)?;
    checkpoint(setup, 1)?;
    small.fill()?;
    let lost = "cannot be saved";
    job.until(lost, LIMIT, |job| {
        job.messages().contains(lost).then_some(())
    })?;
    killed(job)?;
    let ended = setup.launch(&["--restart"], line)?.wait(LIMIT)?;
    refused(&ended, &["1.1 is not resumed", "files-lost"])?;
    // Again, with room again before the end.
    std::fs::remove_file(small.filler()).context("removing a file")?;
    let mut job = started(setup, &["--fresh"], line, "under control")?;
    writes_on(&mut job, &file)?;
    checkpoint(setup, 1)?;
    small.fill()?;
    job.until(lost, LIMIT, |job| {
        job.messages().contains(lost).then_some(())
    })?;
    std::fs::remove_file(small.filler()).context("removing a file")?;
    checkpoint(setup, 2)?;
    killed(job)?;
    let older = setup.launch(&["--restart", "--generation", "2.1"], line)?;
    refused(&older.wait(LIMIT)?, &["2.1 is not resumed"])?;
    hurry(setup)?;
    let ended = setup.launch(&["--restart"], line)?.wait(LIMIT)?;
    same(&ended, expected)?;
    ensure!(resumed(&ended.stderr) == Some((2, 2)), "{}", ended.report());
    passed()
}
