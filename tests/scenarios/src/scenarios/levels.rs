//! The level of thread support of a program that calls `MPI_Init`: the one that the user gives the library in its
//! environment, before and after a restart. Three threads are in MPI at once.

use anyhow::Result;

use super::modes::{native_with, resume, BUSY};
use super::Scenario;
use crate::context::{skipped, Context, Verdict};
use crate::mpi::Mpi;
use crate::programs::Program;

const LEVELS: Program = Program {
    name: "levels",
    source: "multiple.c",
    flags: &["-pthread"],
    ranks: 2,
    fast: &["--init", "1", "--rounds", "100", "--pause", "0"],
    slow: &["--init", "1", "--rounds", "100", "--pause", "150"],
    ..Program::C
};

pub fn all() -> Vec<Scenario> {
    Mpi::ALL
        .into_iter()
        .map(|mpi| {
            Scenario::new(
                format!("levels/{}", mpi.name()),
                "MPI_Init at the thread level that the library's own variable names, killed and resumed",
                move |context| run(context, mpi),
            )
        })
        .collect()
}

fn run(context: &Context, mpi: Mpi) -> Result<Verdict> {
    if let Some(why) = LEVELS.missing(mpi) {
        return skipped(why);
    }
    let Some(product) = context.product() else {
        return skipped("no installed tree was named with --mana");
    };
    let (name, value) = match mpi {
        Mpi::OpenMpi => ("OMPI_MPI_THREAD_LEVEL", "3"),
        _ => ("MPIR_CVAR_DEFAULT_THREAD_LEVEL", "MPI_THREAD_MULTIPLE"),
    };
    let environment = vec![(name.to_owned(), value.to_owned())];
    let mut place = context.directory("levels")?;
    let executable = context.build(&LEVELS, mpi)?;
    let expected = context.native(LEVELS.name, || {
        let environment = Some(environment.clone());
        native_with(&LEVELS, mpi, &executable, place.path(), environment)
    })?;
    let mut setup = product.setup(place.path(), mpi, LEVELS.ranks, BUSY)?;
    setup.environment.extend(environment);
    let line = LEVELS.line(&executable, LEVELS.slow);
    let note = resume(&setup, &line, &expected, 1)?;
    place.done();
    Ok(Verdict::Passed(note))
}
