//! Applications of other people: the answer of the native run with checkpoints taken, and after a kill.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hasher as _};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{ensure, Context as _, Result};

use super::modes::watch;
use super::Scenario;
use crate::context::{skipped, Context, Verdict, Workplace};
use crate::job::{Ended, Job};
use crate::mpi::{find, Mpi};
use crate::product::{Intervals, Setup};

const LIMIT: Duration = Duration::from_secs(600);

/// A command line, or what is not installed.
type Prepared = std::result::Result<Vec<String>, String>;

/// One of them.
struct Application {
    name: &'static str,
    shows: &'static str,
    mpis: &'static [Mpi],
    /// Whose native run gives the answer.
    native: Mpi,
    ranks: u32,
    /// Seconds between checkpoints: more for large images, which take a while on a busy machine.
    every: u32,
    /// The command line, after putting into the directory what it needs; or what is not installed.
    prepare: fn(Mpi, &Path) -> Result<Prepared>,
    /// What a line of the output has of the answer.
    answers: fn(&str) -> Option<String>,
    /// Files whose content is part of the answer.
    files: &'static [&'static str],
}

const APPLICATIONS: &[Application] = &[
    Application {
        name: "nwchem",
        shows: "NWChem (Global Arrays on one-sided communication): energy and gradient",
        mpis: &Mpi::ALL,
        // On Debian 12 the native program does not converge on MPICH 4.0.2.
        native: Mpi::OpenMpi,
        ranks: 2,
        every: 4,
        prepare: nwchem,
        answers: energy_and_gradient,
        files: &[],
    },
    Application {
        name: "petsc",
        shows: "PETSc's driven cavity (ex19): norms of every iteration",
        mpis: &[Mpi::OpenMpi],
        native: Mpi::OpenMpi,
        ranks: 3,
        every: 1,
        prepare: petsc,
        answers: |line| {
            let norm = line.contains("Function norm") || line.contains("Number of SNES iterations");
            norm.then(|| line.to_owned())
        },
        files: &[],
    },
    Application {
        name: "lammps-files",
        shows: "LAMMPS with its trajectory and restart files written by MPI-IO: their content",
        mpis: &[Mpi::OpenMpi],
        native: Mpi::OpenMpi,
        ranks: 3,
        every: 1,
        prepare: lammps,
        answers: |line| {
            line.starts_with("Total # of neighbors")
                .then(|| line.to_owned())
        },
        files: &[
            "trajectory.mpiio",
            "melt.600.restart.mpiio",
            "melt.1200.restart.mpiio",
        ],
    },
];

pub fn all() -> Vec<Scenario> {
    let mut scenarios = Vec::new();
    for application in APPLICATIONS {
        for &mpi in application.mpis {
            for (word, kill) in [("continue", false), ("resume", true)] {
                let name = format!("{}/{}/{word}", application.name, mpi.name());
                scenarios.push(Scenario::new(
                    name.clone(),
                    application.shows,
                    move |context| run(context, &name, application, mpi, kill),
                ));
            }
        }
    }
    scenarios
}

fn run(
    context: &Context,
    name: &str,
    application: &Application,
    mpi: Mpi,
    kill: bool,
) -> Result<Verdict> {
    if mpi.tool("mpirun").is_none() {
        return skipped(format!("mpirun.{} is not installed", mpi.name()));
    }
    let Some(product) = context.product() else {
        return skipped("no installed tree was named with --mana");
    };
    let mut place = context.directory(name)?;
    let line = match (application.prepare)(mpi, place.path())? {
        Ok(line) => line,
        Err(why) => return skipped(why),
    };
    let expected = context.native(application.name, || native(context, application))?;
    let every = application.every;
    let intervals = Intervals {
        local: every,
        partner: 2 * every,
        global: 4 * every,
    };
    let setup = product.setup(place.path(), mpi, application.ranks, intervals)?;
    let (outputs, note) = if kill {
        killed(&setup, &line)?
    } else {
        let (ended, seen) = watch(setup.launch(&[], &line)?, &setup.stores(), LIMIT)?;
        ensure!(
            !seen.is_empty(),
            "no generation was committed\n{}",
            ended.report()
        );
        (vec![ended], format!("{} generations", seen.len()))
    };
    let last = outputs.last().context("no run")?;
    last.expect(0)?;
    let found = answer(application, &outputs, place.path())?;
    ensure!(
        found == expected,
        "another answer:\n{found}\nnatively:\n{expected}\n{}",
        last.report()
    );
    place.done();
    Ok(Verdict::Passed(format!(
        "{note}, {} lines compared",
        expected.lines().count()
    )))
}

fn native(context: &Context, application: &Application) -> Result<String> {
    let mpi = application.native;
    let mut place: Workplace = context.directory(application.name)?;
    let line = (application.prepare)(mpi, place.path())?.map_err(anyhow::Error::msg)?;
    let mut command = mpi.native(application.ranks);
    command.args(&line).current_dir(place.path());
    let ended = Job::start(command, place.path())?.wait(LIMIT)?;
    ended.expect(0)?;
    let answer = answer(application, &[ended], place.path())?;
    ensure!(!answer.is_empty(), "{} printed no answer", application.name);
    place.done();
    Ok(answer)
}

/// Killed once two generations were committed, and resumed: the output of both runs.
fn killed(setup: &Setup, line: &[String]) -> Result<(Vec<Ended>, String)> {
    let stores = setup.stores();
    let mut job = setup.launch(&[], line)?;
    job.until("two generations", LIMIT, |_| {
        (stores.committed().len() >= 2).then_some(())
    })?;
    job.kill_ranks();
    let first = job.wait(Duration::from_secs(60))?;
    ensure!(
        first.code() != 0,
        "killed, and it ended well\n{}",
        first.report()
    );
    let second = setup.launch(&["--restart"], line)?.wait(LIMIT)?;
    let resumed = second
        .stderr
        .lines()
        .find_map(|l| l.split_once("resumed generation "));
    let (_, from) = resumed.with_context(|| format!("it did not resume\n{}", second.report()))?;
    let from = from
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .to_owned();
    Ok((vec![first, second], format!("resumed {from}")))
}

/// The lines of the answer, each once: what was printed before a kill may be printed again. And what its
/// files hold.
fn answer(application: &Application, runs: &[Ended], directory: &Path) -> Result<String> {
    let mut seen = BTreeSet::new();
    let lines = runs.iter().flat_map(|run| run.stdout.lines());
    let answers = lines.filter_map(|line| (application.answers)(line.trim()));
    let mut once: Vec<_> = answers.filter(|line| seen.insert(line.clone())).collect();
    for name in application.files {
        let path = directory.join(name);
        let bytes = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let mut hash = DefaultHasher::new();
        hash.write(&bytes);
        once.push(format!(
            "{name}: {} bytes, {:016x}",
            bytes.len(),
            hash.finish()
        ));
    }
    Ok(once.join("\n"))
}

fn lammps(_: Mpi, directory: &Path) -> Result<Prepared> {
    let Some(program) = find("lmp") else {
        return Ok(Err("lammps is not installed".to_owned()));
    };
    let input = Path::new(env!("CARGO_MANIFEST_DIR"))
        .with_file_name("programs")
        .join("melt_files.lammps");
    std::fs::copy(&input, directory.join("melt.lammps"))
        .with_context(|| format!("copying {}", input.display()))?;
    let program = program.to_string_lossy().into_owned();
    Ok(Ok(vec![
        program,
        "-in".to_owned(),
        "melt.lammps".to_owned(),
    ]))
}

/// To the digits that do not depend on which rank took which task.
fn energy_and_gradient(line: &str) -> Option<String> {
    let words: Vec<_> = line.split_whitespace().collect();
    match words[..] {
        ["Total", "SCF", "energy", "=", energy] => {
            let energy: f64 = energy.parse().ok()?;
            Some(format!("Total SCF energy = {energy:.9}"))
        }
        [number, "O" | "H", _, _, _, _, _, _] if number.parse::<u32>().is_ok() => {
            Some(words.join(" "))
        }
        _ => None,
    }
}

fn nwchem(mpi: Mpi, directory: &Path) -> Result<Prepared> {
    let name = format!("nwchem.{}", mpi.name());
    let Some(program) = find(&name) else {
        return Ok(Err(format!("{name} is not installed")));
    };
    let input = Path::new(env!("CARGO_MANIFEST_DIR"))
        .with_file_name("programs")
        .join("water.nw");
    std::fs::copy(&input, directory.join("water.nw"))
        .with_context(|| format!("copying {}", input.display()))?;
    Ok(Ok(vec![
        program.to_string_lossy().into_owned(),
        "water.nw".to_owned(),
    ]))
}

fn petsc(mpi: Mpi, directory: &Path) -> Result<Prepared> {
    let examples = Path::new("/usr/share/petsc");
    let libraries = Path::new("/usr/lib/petscdir");
    let newest = |directory: &Path| -> Option<std::path::PathBuf> {
        let entries = std::fs::read_dir(directory).ok()?;
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let real = paths.filter(|path| {
            path.file_name()
                .is_some_and(|name| name.as_encoded_bytes()[0].is_ascii_digit())
        });
        real.max()
    };
    let (Some(examples), Some(library)) = (newest(examples), newest(libraries)) else {
        return Ok(Err(
            "libpetsc-real-dev or its examples are not installed".to_owned()
        ));
    };
    let source = examples.join("share/petsc/examples/src/snes/tutorials/ex19.c");
    let Some(version) = library.file_name().and_then(|name| name.to_str()) else {
        return Ok(Err("PETSc is not where Debian puts it".to_owned()));
    };
    let home = library
        .with_file_name(format!("petsc{version}"))
        .join("x86_64-linux-gnu-real");
    let compiler = mpi.tool("mpicc");
    let (true, true, Some(compiler)) = (source.exists(), home.exists(), compiler) else {
        return Ok(Err(
            "libpetsc-real-dev, its examples or mpicc are not installed".to_owned(),
        ));
    };
    let program = directory.join("ex19");
    let mut command = Command::new(compiler);
    command
        .arg("-O2")
        .arg(source)
        .arg("-I")
        .arg(home.join("include"));
    command
        .arg("-L")
        .arg(home.join("lib"))
        .args(["-lpetsc_real", "-lm", "-o"])
        .arg(&program);
    Job::start(command, directory)?
        .wait(Duration::from_secs(120))?
        .expect(0)?;
    let options = "-da_refine 7 -snes_monitor -ksp_type gmres -pc_type mg";
    let line = std::iter::once(program.to_string_lossy().into_owned());
    Ok(Ok(line
        .chain(options.split_whitespace().map(str::to_owned))
        .collect()))
}
