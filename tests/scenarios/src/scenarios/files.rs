//! Files, beyond what the programs `files` compare in all modes.
//!
//! `stored`: a library preloaded beside the MPI (`tests/programs/storage.c`) notes what is brought to stable
//! storage; the notes are compared with the time at which the generation was committed.
//!
//! `private`: each rank in a mount namespace, with a directory of its own at one path, as on nodes with disks.

mod in_place;
mod names;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{bail, ensure, Context as _, Result};

use super::modes::{native, resume, same, BUSY};
use super::Scenario;
use crate::context::{passed, skipped, Context, Verdict};
use crate::job::Job;
use crate::mpi::Mpi;
use crate::product::{Intervals, Setup};
use crate::programs::{Program, SCRATCH};

const LIMIT: Duration = Duration::from_secs(90);

const STORED: Program = Program {
    name: "stored",
    source: "stored.c",
    ranks: 2,
    fast: &[],
    ..Program::C
};

pub fn all() -> Vec<Scenario> {
    let mut scenarios = Vec::new();
    for mpi in Mpi::ALL {
        scenarios.push(Scenario::new(
            format!("files-stored/{}", mpi.name()),
            "what was written through MPI is on stable storage before the commit: open, closed, renamed files",
            move |context| stored(context, mpi),
        ));
        scenarios.push(Scenario::new(
            format!("files-private/{}", mpi.name()),
            "ranks with another file each under the same path: killed and resumed, each has its own back",
            move |context| private(context, mpi),
        ));
    }
    scenarios.extend(in_place::all());
    scenarios.extend(names::all());
    scenarios
}

/// Builds the library that notes what is stored.
fn notes_library(directory: &Path) -> Result<PathBuf> {
    let library = directory.join("storage.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("programs/storage.c");
    let mut command = Command::new("cc");
    command.args(["-O2", "-Wall", "-shared", "-fPIC"]);
    command.arg(source).arg("-o").arg(&library);
    let built = Job::start(command, directory)?.wait(Duration::from_secs(60))?;
    built.expect(0)?;
    Ok(library)
}

/// One note: when, which call, device and inode, path.
struct Note {
    when: u128,
    call: String,
    path: String,
}

fn notes(file: &Path) -> Result<Vec<Note>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("reading {file:?}"))?;
    let parse = |line: &str| {
        let mut words = line.splitn(4, ' ');
        Some(Note {
            when: words.next()?.parse().ok()?,
            call: words.next()?.to_owned(),
            path: words.nth(1)?.to_owned(),
        })
    };
    Ok(text.lines().filter_map(parse).collect())
}

fn stored(context: &Context, mpi: Mpi) -> Result<Verdict> {
    if let Some(why) = STORED.missing(mpi) {
        return skipped(why);
    }
    let Some(product) = context.product() else {
        return skipped("no installed tree was named with --mana");
    };
    let mut place = context.directory("files-stored")?;
    let executable = context.build(&STORED, mpi)?;
    let expected = context.native("stored", || {
        let mut elsewhere = context.directory("files-stored-native")?;
        std::fs::write(elsewhere.path().join("stored-go"), "").context("writing a file")?;
        let result = native(&STORED, mpi, &executable, elsewhere.path())?;
        elsewhere.done();
        Ok(result)
    })?;
    let mut setup = product.setup(place.path(), mpi, STORED.ranks, Intervals::default())?;
    let noted = setup.directory.join("storage.notes");
    let library = notes_library(&setup.directory)?;
    preload(&setup, &library)?;
    let noted_in = noted.to_string_lossy().into_owned();
    setup.environment.push(("STORAGE_NOTES".into(), noted_in));
    let ready = setup.directory.join("stored-ready");
    let line = STORED.line(&executable, &[]);
    let mut job = setup.launch(&[], &line)?;
    job.until("all is written", LIMIT, |_| ready.exists().then_some(()))?;
    checkpoint(&setup)?;
    let committed = commit_time(&setup)?;
    let before: Vec<Note> = notes(&noted)?
        .into_iter()
        .filter(|n| n.when < committed)
        .collect();
    let has = |call: &str, name: &str| {
        let path = setup.directory.join(name);
        before
            .iter()
            .any(|n| n.call == call && Path::new(&n.path) == path)
    };
    let mut missing = Vec::new();
    for (call, name) in [
        ("fdatasync", "stored-open"),
        ("fdatasync", "stored-closed"),
        // Nothing leads from the old name to the new one.
        ("syncfs", ""),
        ("fsync", ""),
    ] {
        if !has(call, name) {
            missing.push(format!("{call} {:?}", setup.directory.join(name)));
        }
    }
    let counts = before.iter().fold(BTreeMap::new(), |mut counts, n| {
        *counts.entry(format!("{} {}", n.call, n.path)).or_insert(0) += 1;
        counts
    });
    ensure!(
        missing.is_empty(),
        "not done before the commit: {missing:?}; done: {counts:#?}\n{}",
        job.output()
    );
    // With nothing written since, there is nothing to do.
    let first = notes(&noted)?.len();
    checkpoint(&setup)?;
    let again: Vec<String> = notes(&noted)?
        .into_iter()
        .skip(first)
        .filter(|n| Path::new(&n.path).parent() == Some(&setup.directory) || n.call == "syncfs")
        .map(|n| format!("{} {}", n.call, n.path))
        .collect();
    ensure!(again.is_empty(), "stored again: {again:?}");
    std::fs::write(setup.directory.join("stored-go"), "").context("writing a file")?;
    same(&job.wait(LIMIT)?, &expected)?;
    place.done();
    passed()
}

/// Adds a library to those that are loaded beside the MPI.
fn preload(setup: &Setup, library: &Path) -> Result<()> {
    let path = setup.configuration();
    let text = std::fs::read_to_string(&path).context("reading the configuration")?;
    let library = library.display();
    let mut found = false;
    let lines: Vec<String> = text
        .lines()
        .map(|line| match line.strip_prefix("lower_preload=") {
            Some(others) => {
                found = true;
                format!("lower_preload={others}:{library}")
            }
            None => line.to_owned(),
        })
        .collect();
    let more = match found {
        true => String::new(),
        false => format!("lower_preload={library}\n"),
    };
    std::fs::write(&path, lines.join("\n") + "\n" + &more).context("writing the configuration")
}

fn checkpoint(setup: &Setup) -> Result<()> {
    let words = ["--checkpoint", "--level", "local", "--wait"];
    setup.mana("status", &words, LIMIT)?.expect(0)?;
    Ok(())
}

/// When the first manifest of the newest generation was there, in nanoseconds since 1970.
fn commit_time(setup: &Setup) -> Result<u128> {
    let generations = setup.stores().generations();
    let Some((_, newest)) = generations.last_key_value() else {
        bail!("no generation was committed");
    };
    let times = newest.manifests.iter().map(|path| {
        let found = std::fs::metadata(path).with_context(|| format!("{}", path.display()))?;
        Ok(found.mtime() as u128 * 1_000_000_000 + found.mtime_nsec() as u128)
    });
    let times: Vec<u128> = times.collect::<Result<_>>()?;
    times.into_iter().min().context("no manifest")
}

/// Memory of its own kind for the directories of the ranks: it must not be where the job's global directory is.
const ELSEWHERE: &str = "/dev/shm";

/// Runs its arguments in a mount namespace in which `$1` is `$2` with the rank behind it.
const WRAPPER: &str = r#"#!/bin/sh
set -e
where=$1 own=$2.${OMPI_COMM_WORLD_RANK:-$PMI_RANK}
shift 2
mkdir -p "$own"
exec unshare -m --propagation private sh -c 'mount --bind "$0" "$1" && shift && exec "$@"' "$own" "$where" "$@"
"#;

fn private(context: &Context, mpi: Mpi) -> Result<Verdict> {
    if let Some(why) = SCRATCH.missing(mpi) {
        return skipped(why);
    }
    let Some(product) = context.product() else {
        return skipped("no installed tree was named with --mana");
    };
    if !nix::unistd::geteuid().is_root() {
        return skipped("mount namespaces need root");
    }
    let mut place = context.directory("files-private")?;
    let executable = context.build(&SCRATCH, mpi)?;
    let mut setup = product.setup(place.path(), mpi, SCRATCH.ranks, BUSY)?;
    let scratch = setup.directory.join("scratch");
    std::fs::create_dir(&scratch).context("creating a directory")?;
    let expected = context.native("scratch", || {
        native(&SCRATCH, mpi, &executable, &setup.directory)
    })?;
    let own = tempfile::Builder::new()
        .prefix("mana-files-private.")
        .tempdir_in(ELSEWHERE)
        .context("creating a directory")?;
    let device = |path: &Path| std::fs::metadata(path).map(|m| m.dev()).ok();
    ensure!(
        device(own.path()) != device(&setup.directory),
        "{ELSEWHERE} is on the same file system as {}",
        setup.directory.display()
    );
    let wrapper = setup.directory.join("wrapper.sh");
    std::fs::write(&wrapper, WRAPPER).context("writing a script")?;
    let directory = scratch.to_string_lossy().into_owned();
    setup.before = vec![
        "sh".into(),
        wrapper.to_string_lossy().into_owned(),
        directory.clone(),
        own.path().join("rank").to_string_lossy().into_owned(),
    ];
    let words = [&["--dir", directory.as_str()][..], SCRATCH.slow].concat();
    let line = SCRATCH.line(&executable, &words);
    let note = resume(&setup, &line, &expected, 2)?;
    // Nothing is left of what was kept.
    for rank in 0..SCRATCH.ranks {
        let rank = own.path().join(format!("rank.{rank}"));
        let left: Vec<_> = std::fs::read_dir(&rank)
            .with_context(|| format!("{}", rank.display()))?
            .flatten()
            .map(|e| e.file_name())
            .collect();
        ensure!(left.is_empty(), "{}: {left:?} is left", rank.display());
    }
    place.done();
    Ok(Verdict::Passed(note))
}
