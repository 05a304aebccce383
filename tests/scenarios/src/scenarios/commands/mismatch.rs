//! A program and a launcher, an image and a program that do not belong together: one line that says so,
//! exit code 99, and nothing is started.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{ensure, Context as _, Result};

use super::{refused, LIMIT};
use crate::context::{passed, skipped, Context, Verdict};
use crate::job::Job;
use crate::mpi::Mpi;
use crate::product::Intervals;
use crate::programs::{Program, PROGRAMS};

pub fn mismatch(context: &Context) -> Result<Verdict> {
    let program: &Program = &PROGRAMS[0];
    for mpi in Mpi::ALL {
        if let Some(why) = program.missing(mpi) {
            return skipped(why);
        }
    }
    let Some(product) = context.product() else {
        return skipped("no installed tree was named with --mana");
    };
    let mut place = context.directory("commands-mismatch")?;
    let executables = Mpi::ALL.map(|mpi| context.build(program, mpi));
    let [openmpi, mpich] = executables;
    let (openmpi, mpich) = (openmpi?, mpich?);
    // Each program under the other's launcher: every process would be a job of one rank.
    let crossed = [
        (&openmpi, Mpi::Mpich, "built for Open MPI", "mpirun.openmpi"),
        (&mpich, Mpi::OpenMpi, "built for MPICH", "mpirun.mpich"),
    ];
    for (executable, launcher, what, way) in crossed {
        let setup = product.setup(place.path(), launcher, 2, Intervals::default())?;
        let line = program.line(executable, program.fast);
        let ended = setup.launch(&[], &line)?.wait(LIMIT)?;
        refused(&ended, &[what, way, "--mpi"])?;
        ensure!(!ended.stdout.contains("RESULT"), "{}", ended.report());
    }
    for (executable, mpi) in [(&openmpi, Mpi::OpenMpi), (&mpich, Mpi::Mpich)] {
        other_program(context, program, executable, mpi, place.path())
            .with_context(|| mpi.name().to_owned())?;
    }
    place.done();
    passed()
}

/// A job that was checkpointed and ended is not resumed with a program that is another one by now.
fn other_program(
    context: &Context,
    program: &Program,
    executable: &Path,
    mpi: Mpi,
    place: &Path,
) -> Result<()> {
    let product = context.product().context("no product")?;
    let directory = place.join(mpi.name());
    std::fs::create_dir(&directory)?;
    let own = directory.join("app");
    std::fs::copy(executable, &own)?;
    let mut setup = product.setup(&directory, mpi, 2, Intervals::default())?;
    setup.hold();
    let line = program.line(&own, program.slow);
    let mut job = setup.launch(&[], &line)?;
    super::under_control(&mut job)?;
    setup
        .mana("status", &["--checkpoint", "--wait", "--kill"], LIMIT)?
        .expect(0)?;
    job.wait(LIMIT)?;
    // Built anew, it is larger by a byte; another file is another program whatever its name.
    let mut bytes = std::fs::read(&own)?;
    bytes.push(0);
    let replaced = |path: &PathBuf, bytes: &[u8]| -> Result<()> {
        std::fs::remove_file(path)?;
        std::fs::write(path, bytes)?;
        Ok(std::fs::set_permissions(
            path,
            std::fs::Permissions::from_mode(0o755),
        )?)
    };
    replaced(&own, &bytes)?;
    let changed = setup.launch(&["--restart"], &line)?.wait(LIMIT)?;
    refused(&changed, &["has changed since", "--fresh"])?;
    let mut restart = mpi.launcher(2, false);
    restart
        .arg(product.command("mana_restart"))
        .args(["--id", &setup.id])
        .current_dir(&directory);
    let by_hand = Job::start(restart, &directory)?.wait(LIMIT)?;
    refused(&by_hand, &["has changed since"])?;
    // The program as it was is the right one again, wherever it lies.
    bytes.pop();
    replaced(&own, &bytes)?;
    let moved = directory.join("moved");
    std::fs::rename(&own, &moved)?;
    setup.release()?;
    let resumed = setup
        .launch(&["--restart"], &program.line(&moved, program.slow))?
        .wait(LIMIT)?;
    resumed.expect(0)?;
    ensure!(
        resumed.stderr.contains("resumed generation 1.1"),
        "{}",
        resumed.report()
    );
    wrong_rank_count(&setup, &program.line(&moved, program.slow))
}

/// The job has ended; a start with other ranks is a new one, and a resume of it an error.
fn wrong_rank_count(setup: &crate::product::Setup, line: &[String]) -> Result<()> {
    let mut again = setup.clone();
    again.id = "ranks".into();
    again.hold();
    let mut job = again.launch(&[], line)?;
    super::under_control(&mut job)?;
    again
        .mana("status", &["--checkpoint", "--wait", "--kill"], LIMIT)?
        .expect(0)?;
    job.wait(LIMIT)?;
    again.ranks = 3;
    let refusal = again.launch(&["--restart"], line)?.wait(LIMIT)?;
    refused(&refusal, &["has 2 ranks, but 3"])
}
