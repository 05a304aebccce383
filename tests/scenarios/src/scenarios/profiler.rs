//! A profiler of the user's: a preloaded library that wraps the MPI procedures by their `PMPI_` names.
//! It stands above us, its memory is the program's, so that its counts after a kill and a resume are
//! those of an undisturbed native run.

use std::collections::BTreeMap;

use anyhow::{ensure, Context as _, Result};

use super::modes::{native_with, resume, BUSY};
use super::Scenario;
use crate::context::{skipped, Context, Verdict};
use crate::mpi::Mpi;
use crate::programs::PROGRAMS;
use crate::record::Recorder;

/// It calls many procedures, `MPI_Pcontrol` among them, and always as often.
const PROGRAM: &str = "corners";

pub fn all() -> Vec<Scenario> {
    Mpi::ALL
        .into_iter()
        .map(|mpi| {
            Scenario::new(
                format!("profiler/{}", mpi.name()),
                "a preloaded PMPI profiler counts the same natively and through a kill and a resume",
                move |context| run(context, mpi),
            )
        })
        .collect()
}

fn run(context: &Context, mpi: Mpi) -> Result<Verdict> {
    let program = PROGRAMS.iter().find(|program| program.name == PROGRAM);
    let program = program.context("the program is gone")?;
    if let Some(why) = program.missing(mpi) {
        return skipped(why);
    }
    let Some(product) = context.product() else {
        return skipped("no installed tree was named with --mana");
    };
    let mut place = context.directory(&format!("profiler-{}", mpi.name()))?;
    let executable = context.build(program, mpi)?;
    let recorder = Recorder::new(&place.path().join("library"), &[mpi])?;
    let alone = recorder.start(mpi, &place.path().join("native"))?;
    let environment = Some(alone.environment());
    let expected = native_with(program, mpi, &executable, place.path(), environment)?;
    let disturbed = recorder.start(mpi, &place.path().join("ours"))?;
    let mut setup = product.setup(place.path(), mpi, program.ranks, BUSY)?;
    setup.environment.extend(disturbed.environment());
    let line = program.line(&executable, program.slow);
    let note = resume(&setup, &line, &expected, 1)?;
    let (native, ours) = (alone.counts()?, disturbed.counts()?);
    ensure!(
        native.len() == program.ranks as usize,
        "the profiler wrote {} files natively",
        native.len()
    );
    for (rank, counts) in &native {
        let found = ours.get(rank).unwrap_or(&EMPTY);
        // How often something is asked until it is ready is not the program's choice.
        let asked = |name: &str| name.starts_with("MPI_Test");
        let other = |(name, calls): &(&String, &i64)| {
            found.get(*name) != Some(*calls) && !asked(name.as_str())
        };
        let differing: Vec<_> = counts.iter().filter(other).collect();
        ensure!(
            differing.is_empty() && found.len() == counts.len(),
            "rank {rank}: {} procedures, ours {}; natively {differing:?}",
            counts.len(),
            found.len()
        );
    }
    let reached = |counts: &BTreeMap<String, i64>| counts.contains_key("MPI_Pcontrol");
    ensure!(
        ours.values().all(reached),
        "MPI_Pcontrol did not reach the profiler"
    );
    let procedures = native.values().map(BTreeMap::len).max().unwrap_or(0);
    place.done();
    Ok(Verdict::Passed(format!("{procedures} procedures, {note}")))
}

static EMPTY: BTreeMap<String, i64> = BTreeMap::new();
