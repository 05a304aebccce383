//! Files whose names go while they are open through MPI, or after: deleted before a checkpoint, renamed after one.

use std::path::Path;
use std::time::Duration;

use anyhow::{ensure, Context as _, Result};

use super::{checkpoint, LIMIT};
use crate::context::{passed, skipped, Context, Verdict};
use crate::job::Job;
use crate::mpi::Mpi;
use crate::product::{Intervals, Setup};
use crate::programs::Program;
use crate::scenarios::modes::{native, same};
use crate::scenarios::Scenario;

const DELETED: Program = Program {
    name: "deleted",
    source: "deleted.c",
    ranks: 2,
    fast: &[],
    ..Program::C
};

const RENAMED: Program = Program {
    name: "renamed",
    source: "renamed.c",
    ..DELETED
};

/// The program, the files it waits for in turn, and what is done with it.
type Play = (
    &'static Program,
    [&'static str; 2],
    fn(&Setup, &[String]) -> Result<()>,
);

pub fn all() -> Vec<Scenario> {
    let mut scenarios = Vec::new();
    for mpi in Mpi::ALL {
        scenarios.push(Scenario::new(
            format!("files-deleted/{}", mpi.name()),
            "a file deleted while it is open: no checkpoint until it is closed, then one that can be resumed",
            move |c| run(c, mpi, (&DELETED, ["deleted-close", "deleted-go"], deleted)),
        ));
        scenarios.push(Scenario::new(
            format!("files-renamed/{}", mpi.name()),
            "a file open at the checkpoint, renamed by the program afterwards: resumed, and done again",
            move |c| run(c, mpi, (&RENAMED, ["renamed-on", "renamed-go"], renamed)),
        ));
    }
    scenarios
}

fn write(directory: &Path, name: &str) -> Result<()> {
    std::fs::write(directory.join(name), "").context("writing a file")
}

fn run(context: &Context, mpi: Mpi, (program, waited, play): Play) -> Result<Verdict> {
    if let Some(why) = program.missing(mpi) {
        return skipped(why);
    }
    let Some(product) = context.product() else {
        return skipped("no installed tree was named with --mana");
    };
    let mut place = context.directory("files-names")?;
    let executable = context.build(program, mpi)?;
    let expected = context.native(program.name, || {
        let mut elsewhere = context.directory("files-names-native")?;
        waited.iter().try_for_each(|w| write(elsewhere.path(), w))?;
        let result = native(program, mpi, &executable, elsewhere.path())?;
        elsewhere.done();
        Ok(result)
    })?;
    let setup = product.setup(place.path(), mpi, program.ranks, Intervals::default())?;
    let line = program.line(&executable, &[]);
    play(&setup, &line)?;
    let ended = setup.launch(&["--restart"], &line)?.wait(LIMIT)?;
    same(&ended, &expected)?;
    place.done();
    passed()
}

fn until(job: &mut Job, setup: &Setup, name: &str) -> Result<()> {
    let path = setup.directory.join(name);
    job.until(name, LIMIT, |_| path.exists().then_some(()))
}

fn kill(job: Job) -> Result<()> {
    job.kill_ranks();
    let killed = job.wait(Duration::from_secs(60))?;
    ensure!(killed.code() != 0, "{}", killed.report());
    Ok(())
}

fn deleted(setup: &Setup, line: &[String]) -> Result<()> {
    let mut job = setup.launch(&[], line)?;
    until(&mut job, setup, "deleted-ready")?;
    let words = ["--checkpoint", "--level", "local", "--wait"];
    let refused = setup.mana("status", &words, LIMIT)?;
    let why = "was deleted while it is open through MPI";
    ensure!(
        refused.code() != 0 && refused.stderr.contains(why) && job.messages().contains(why),
        "{}\n{}",
        refused.report(),
        job.output()
    );
    write(&setup.directory, "deleted-close")?;
    until(&mut job, setup, "deleted-closed")?;
    checkpoint(setup)?;
    kill(job)?;
    write(&setup.directory, "deleted-go")
}

fn renamed(setup: &Setup, line: &[String]) -> Result<()> {
    let mut job = setup.launch(&[], line)?;
    until(&mut job, setup, "renamed-ready")?;
    checkpoint(setup)?;
    write(&setup.directory, "renamed-on")?;
    until(&mut job, setup, "renamed-done")?;
    kill(job)?;
    let there = |name: &str| setup.directory.join(name).exists();
    ensure!(there("whole") && !there("whole.tmp"), "it is not renamed");
    write(&setup.directory, "renamed-go")
}
