//! How a job ends that is aborted: the launcher's exit code is the native one, whatever the program
//! or its error handlers do.

use std::time::Duration;

use anyhow::{ensure, Result};

use super::Scenario;
use crate::context::{skipped, Context, Verdict};
use crate::job::{Ended, Job};
use crate::mpi::{fetched, Mpi};
use crate::product::Intervals;
use crate::programs::Program;

const LIMIT: Duration = Duration::from_secs(60);

/// The ways of `tests/programs/ends.c`; the short run has the first ones.
const WAYS: &[&str] = &[
    "abort",
    "root",
    "handler",
    "truncate",
    "exit",
    "well",
    "abort-code",
    "abort-zero",
    "abort-large",
    "abort-self",
    "rank",
    "tag",
    "type",
    "count",
    "comm",
    "op",
    "group",
    "derived",
    "call",
    "all",
];
const SHORT: usize = 5;

/// Those of MPICH alone, always run.
const MPICH: &[&str] = &["agree", "shrink", "revoke", "acknowledge", "acknowledged"];

/// Those of Open MPI alone, which installs handlers of these signals, or has UCX do so; always run.
const OPEN_MPI: &[&str] = &["signal-6", "signal-7", "signal-11"];

/// Those of fetched MPIs: what only they have (MPICH 4.0.2 has the name, and fails an assertion of its own), and two for
/// comparison.
const FETCHED: &[&str] = &["errors-abort", "errors-abort-self", "abort", "rank"];

/// What MPICH 4.0's launcher reports when it has killed a rank and reaped it while another's output was open:
/// its proxy (pmip) keeps the wait status of each rank it meets then, its own kills among them, and mpiexec
/// combines all with "or". Such a run does not tell the program's code, natively either.
const KILLED: &str = "THE EXIT STRING: Killed (signal 9)";
/// Runs until one tells the code.
const TRIES: u32 = 5;

const ENDS: Program = Program {
    name: "ends",
    source: "ends.c",
    ranks: 2,
    ..Program::C
};

pub fn all() -> Vec<Scenario> {
    Mpi::ALL
        .into_iter()
        .chain(fetched())
        .map(|mpi| {
            let family = match mpi {
                Mpi::Fetched(_) => "fetched/exit",
                _ => "exit",
            };
            Scenario::new(
                format!("{family}/{}", mpi.name()),
                "MPI_Abort, fatal errors of many kinds, handlers that abort: the native exit code",
                move |context| run(context, mpi),
            )
        })
        .collect()
}

fn run(context: &Context, mpi: Mpi) -> Result<Verdict> {
    if let Some(why) = ENDS.missing(mpi) {
        return skipped(why);
    }
    let Some(product) = context.product() else {
        return skipped("no installed tree was named with --mana");
    };
    if !product.adapts(mpi) {
        return skipped(format!("the tree has no adapter named {}", mpi.name()));
    }
    let mut place = context.directory(&format!("exit-{}", mpi.name()))?;
    let executable = context.build(&ENDS, mpi)?;
    let mut setup = product.setup(place.path(), mpi, ENDS.ranks, Intervals::default())?;
    let (ways, ranks): (_, &[&str]) = match mpi {
        Mpi::Fetched(_) => (FETCHED, &["1"]),
        _ if context.full => (WAYS, &["0", "1"]),
        _ => (&WAYS[..SHORT], &["1"]),
    };
    let alone = match mpi {
        Mpi::Mpich => MPICH,
        _ if mpi.family() == Mpi::OpenMpi => OPEN_MPI,
        _ => &[],
    };
    let mut codes = Vec::new();
    for way in ways.iter().chain(alone) {
        let ranks = if alone.contains(way) {
            &ranks[..1]
        } else {
            ranks
        };
        for rank in ranks {
            let line = ENDS.line(&executable, &["--how", way, "--by", rank]);
            let native = told(mpi, |_| {
                let mut command = mpi.native(ENDS.ranks);
                command.args(&line).current_dir(place.path());
                Job::start(command, place.path())
            })?;
            let ours = told(mpi, |attempt| {
                // Each is a job of its own.
                setup.id = format!("{way}-{rank}-{attempt}");
                setup.launch(&[], &line)
            })?;
            ensure!(
                ours.code() == native.code(),
                "{way} by rank {rank}: exit code {}, {} natively\n{}",
                ours.code(),
                native.code(),
                ours.report()
            );
            codes.push(format!("{way} {}", ours.code()));
        }
    }
    place.done();
    Ok(Verdict::Passed(codes.join(", ")))
}

/// A run whose launcher tells the program's exit code.
fn told(mpi: Mpi, mut start: impl FnMut(u32) -> Result<Job>) -> Result<Ended> {
    let mut attempt = 1;
    loop {
        let ended = start(attempt)?.wait(LIMIT)?;
        if mpi.family() != Mpi::Mpich || !ended.stdout.contains(KILLED) {
            return Ok(ended);
        }
        ensure!(
            attempt < TRIES,
            "the launcher reported its own kill {TRIES} times\n{}",
            ended.report()
        );
        attempt += 1;
    }
}
