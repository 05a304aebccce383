//! Events of the tool interface. No MPI here has one, so a library that has (`tests/programs/events_library.c`)
//! is preloaded before MPICH, natively as under us: what it raises reaches the program's functions.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::modes::{native_with, resume, watch, BUSY};
use super::Scenario;
use crate::context::{skipped, Context, Verdict};
use crate::job::Job;
use crate::mpi::Mpi;
use crate::programs::Program;

const LIMIT: Duration = Duration::from_secs(60);

const EVENTS: Program = Program {
    name: "events",
    source: "events.c",
    ranks: 2,
    mpis: &[Mpi::Mpich],
    ..Program::C
};

pub fn all() -> Vec<Scenario> {
    [("continue", false), ("resume", true)]
        .into_iter()
        .map(|(word, kill)| {
            Scenario::new(
                format!("events/{word}"),
                "events of a library that has some: functions of the program, hints, elements, registrations made anew",
                move |context| run(context, kill),
            )
        })
        .collect()
}

fn library(directory: &Path) -> Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("programs/events_library.c");
    let (object, library) = (directory.join("events.o"), directory.join("libevents.so"));
    let compiler = Mpi::Mpich.tool("mpicc").context("no compiler")?;
    let mut command = Command::new(compiler);
    command.args(["-O2", "-Wall", "-fPIC", "-c"]);
    command.arg(source).arg("-o").arg(&object);
    let limit = Duration::from_secs(60);
    Job::start(command, directory)?.wait(limit)?.expect(0)?;
    // The launcher loads it too, and needs no MPI.
    let mut command = Command::new("cc");
    command.arg("-shared").arg(object).arg("-o").arg(&library);
    Job::start(command, directory)?.wait(limit)?.expect(0)?;
    Ok(library)
}

fn run(context: &Context, kill: bool) -> Result<Verdict> {
    if let Some(why) = EVENTS.missing(Mpi::Mpich) {
        return skipped(why);
    }
    let Some(product) = context.product() else {
        return skipped("no installed tree was named with --mana");
    };
    let mut place = context.directory("events")?;
    let library = library(place.path())?.to_string_lossy().into_owned();
    let executable = context.build(&EVENTS, Mpi::Mpich)?;
    let expected = context.native("events", || {
        let environment = vec![("LD_PRELOAD".to_owned(), library.clone())];
        native_with(
            &EVENTS,
            Mpi::Mpich,
            &executable,
            place.path(),
            Some(environment),
        )
    })?;
    let setup = product.setup(place.path(), Mpi::Mpich, EVENTS.ranks, BUSY)?;
    setup.configure(BUSY, &format!("lower_preload={library}\n"))?;
    let line = EVENTS.line(&executable, EVENTS.slow);
    let note = if kill {
        resume(&setup, &line, &expected, 1)?
    } else {
        let (ended, seen) = watch(setup.launch(&[], &line)?, &setup.stores(), LIMIT)?;
        let found = ended.expect(0)?.result()?;
        anyhow::ensure!(found == expected, "{found}, natively {expected}");
        anyhow::ensure!(!seen.is_empty(), "no generation\n{}", ended.report());
        format!("{} generations", seen.len())
    };
    place.done();
    Ok(Verdict::Passed(note))
}
