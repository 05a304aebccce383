//! Files that the program overwrites in place by plain system calls (`files =` in the configuration): their content
//! comes back with the program's memory. `reflink` needs a file system that shares blocks: XFS in a file.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{ensure, Context as _, Result};

use super::LIMIT;
use crate::context::{skipped, Context, Verdict};
use crate::job::Job;
use crate::mpi::{find, Mpi};
use crate::product::Setup;
use crate::programs::Program;
use crate::scenarios::modes::{native, resume, same, BUSY};
use crate::scenarios::Scenario;

const PROGRAM: Program = Program {
    name: "in_place",
    source: "in_place.c",
    ranks: 2,
    fast: &["--rounds", "12"],
    slow: &["--rounds", "12", "--pause", "600"],
    ..Program::C
};

pub fn all() -> [Scenario; 4] {
    [
        Scenario::new(
            "files-in-place/copy",
            "files overwritten in place, saved with the image: killed and resumed, content as memory has it",
            |context| run(context, Mpi::Mpich, copy),
        ),
        Scenario::new(
            "files-in-place/reflink",
            "the same on XFS, saved as files that share their blocks",
            |context| run(context, Mpi::OpenMpi, reflink),
        ),
        Scenario::new(
            "files-in-place/warn",
            "the same with neither: the checkpoint names the files",
            |context| run(context, Mpi::OpenMpi, warn),
        ),
        Scenario::new(
            "files-in-place/cut",
            "one rank's file was cut since: all ranks end with its line, though the launcher ends nobody",
            |context| run(context, Mpi::OpenMpi, cut),
        ),
    ]
}

/// A refused resume takes a second; ranks that wait for each other never end.
const SHORT: Duration = Duration::from_secs(60);

type Play = fn(&mut Setup, &[String], &str) -> Result<Verdict>;

fn run(context: &Context, mpi: Mpi, play: Play) -> Result<Verdict> {
    if let Some(why) = PROGRAM.missing(mpi) {
        return skipped(why);
    }
    let Some(product) = context.product() else {
        return skipped("no installed tree was named with --mana");
    };
    let mut place = context.directory("files-in-place")?;
    let executable = context.build(&PROGRAM, mpi)?;
    let expected = context.native("in_place", || {
        native(&PROGRAM, mpi, &executable, place.path())
    })?;
    let mut setup = product.setup(place.path(), mpi, PROGRAM.ranks, BUSY)?;
    let line = PROGRAM.line(&executable, PROGRAM.slow);
    let verdict = play(&mut setup, &line, &expected)?;
    place.done();
    Ok(verdict)
}

fn copy(setup: &mut Setup, line: &[String], expected: &str) -> Result<Verdict> {
    setup.configure(BUSY, "files=copy\n")?;
    resume(setup, line, expected, 2).map(Verdict::Passed)
}

fn warn(setup: &mut Setup, line: &[String], expected: &str) -> Result<Verdict> {
    let ended = setup.launch(&[], line)?.wait(LIMIT)?;
    same(&ended, expected)?;
    for name in ["in-place-0", "in-place-1", "in-place--1"] {
        let named = |l: &str| l.contains(name) && l.contains("is written in place");
        ensure!(
            ended.stderr.lines().any(named),
            "{name} is not named\n{}",
            ended.report()
        );
    }
    Ok(Verdict::Passed(String::new()))
}

fn cut(setup: &mut Setup, line: &[String], _: &str) -> Result<Verdict> {
    let stores = setup.stores();
    let mut job = setup.launch(&[], line)?;
    // The file is there at the first, has content at the second.
    job.until("two generations", LIMIT, |_| {
        (stores.committed().len() >= 2).then_some(())
    })?;
    job.kill_ranks();
    job.wait(LIMIT)?;
    let file = setup.directory.join("in-place-0");
    std::fs::File::create(&file).context("cutting a file")?;
    // As srun without -K1.
    let alone = ("OMPI_MCA_orte_abort_on_non_zero_status", "0");
    let alone = (alone.0.to_owned(), alone.1.to_owned());
    setup.environment.push(alone);
    let ended = setup.launch(&["--restart"], line)?.wait(SHORT)?;
    // The launcher's own exit code is 0, as it was told.
    let told = |l: &&str| l.contains("in-place-0 has 0 bytes, but had");
    let lines = ended.stderr.lines().filter(told).count();
    ensure!(lines == 1, "said {lines} times\n{}", ended.report());
    Ok(Verdict::Passed(String::new()))
}

fn reflink(setup: &mut Setup, line: &[String], expected: &str) -> Result<Verdict> {
    if !nix::unistd::geteuid().is_root() {
        return skipped("mounting a file system needs root");
    }
    if find("mkfs.xfs").is_none() && !Path::new("/sbin/mkfs.xfs").exists() {
        return skipped("mkfs.xfs is not installed");
    }
    let mounted = match Mounted::xfs(&setup.directory)? {
        Ok(mounted) => mounted,
        Err(why) => return skipped(why),
    };
    let outside = std::mem::replace(&mut setup.directory, mounted.0.clone());
    std::fs::create_dir(setup.stores().local).context("creating a directory")?;
    std::fs::create_dir(setup.stores().global).context("creating a directory")?;
    setup.configure(BUSY, "files=reflink\n")?;
    let stores = setup.stores();
    let mut job = setup.launch(&[], line)?;
    let job_directory = stores.global.join(&setup.id);
    let saved = job.until(
        "two generations with clones of two files of each rank",
        LIMIT,
        |_| {
            let saved = clones(&job_directory);
            (stores.committed().len() >= 2 && saved.len() >= 2 * 2 * 2).then_some(saved)
        },
    )?;
    job.kill_ranks();
    job.wait(LIMIT)?;
    same(&setup.launch(&["--restart"], line)?.wait(LIMIT)?, expected)?;
    let left = clones(&job_directory);
    ensure!(left.is_empty(), "left after the end: {left:?}");
    setup.directory = outside;
    Ok(Verdict::Passed(format!("{} clones", saved.len())))
}

/// All files that were saved as clones.
fn clones(job: &Path) -> Vec<PathBuf> {
    let below = |directory: PathBuf| {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        entries.map(|e| e.path())
    };
    let records = below(job.to_owned()).filter(|p| {
        let name = p.file_name().map(|n| n.to_string_lossy().into_owned());
        name.is_some_and(|n| n.starts_with("files-"))
    });
    let ranks = records.flat_map(|r| below(r.join("clones")));
    ranks.flat_map(below).collect()
}

/// A file system in a file, as long as this lives.
struct Mounted(PathBuf);

impl Mounted {
    /// Of the kind XFS, below `directory`; or why not.
    fn xfs(directory: &Path) -> Result<std::result::Result<Self, String>> {
        let image = directory.join("xfs.image");
        let at = directory.join("xfs");
        std::fs::create_dir(&at).context("creating a directory")?;
        // The least that mkfs.xfs makes; only what is used takes room.
        let file = std::fs::File::create(&image).context("creating a file")?;
        file.set_len(300 << 20).context("its length")?;
        for words in [&["mkfs.xfs", "-q"][..], &["mount", "-o", "loop"][..]] {
            let mut command = Command::new("env");
            command.arg("PATH=/usr/sbin:/usr/bin:/sbin:/bin");
            command.args(words).arg(&image);
            if words[0] == "mount" {
                command.arg(&at);
            }
            let ended = Job::start(command, directory)?.wait(LIMIT)?;
            match words[0] {
                "mount" if ended.code() != 0 => return Ok(Err(ended.stderr.trim().to_owned())),
                _ => ended.expect(0)?,
            };
        }
        Ok(Ok(Self(at)))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let at = self.0.display().to_string();
        let umount = Command::new("umount").arg(&at).status();
        if !umount.is_ok_and(|s| s.success()) {
            let _ = Command::new("umount").args(["-l", &at]).status();
        }
    }
}
