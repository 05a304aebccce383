//! `mpirun mana_launch` inside a batch job: the MPI's own launcher on Slurm's nodes, requeued.

use std::time::Duration;

use anyhow::{ensure, Context as _, Result};

use super::bed::{count, native_result, results, Site};
use super::NODES;
use crate::context::{skipped, Context, Verdict};
use crate::mpi::Mpi;

const SHORT: Duration = Duration::from_secs(60);
const WORDS: [&str; 4] = ["--rounds", "120", "--pause", "500"];

pub fn run(context: &Context, mpi: Mpi) -> Result<Verdict> {
    let mut site = match Site::up(context, mpi, "cluster-mpirun")? {
        Ok(site) => site,
        Err(why) => return skipped(why),
    };
    let expected = native_result(context, mpi, NODES, &WORDS[..2], site.place.path())?;
    let mpirun = mpi.tool("mpirun").context("no mpirun")?;
    let script = site.place.path().join("mpirun.sbatch");
    let hurry = script.with_extension("hurry").display().to_string();
    let words = [&WORDS[..], &["--until", &hurry]].concat();
    let text = format!(
        "#!/bin/bash\n#SBATCH --requeue\n#SBATCH --open-mode=append\n\
         export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1\n\
         {} -n {NODES} {} --config {} {}\n",
        mpirun.display(),
        site.launch.display(),
        site.configuration.display(),
        site.line(&words)
    );
    std::fs::write(&script, text).context("writing the job's script")?;
    let job = site.submit_script(&script, &["-n4", "-N4"])?;
    job.says("complete on level partner")?;
    // Copies lie on the other switch, as Slurm's topology says: nodes 1 and 2 are on one, 3 and 4 on the other.
    let copies = site.cluster.call(
        &[
            "exec",
            "n3",
            "sh",
            "-c",
            "find /local -path '*partner*' -name 'rank-*.img'",
        ],
        SHORT,
    )?;
    let copies = copies.expect(0)?.stdout.clone();
    ensure!(
        copies.contains("rank-0.img") || copies.contains("rank-1.img"),
        "n3 keeps no copy of the other switch's: {copies}"
    );
    site.cluster
        .run(&["scontrol", "requeue", &job.id], SHORT)?
        .expect(0)?;
    job.says("resumed generation ")?;
    job.hurry()?;
    let text = job.ended()?;
    ensure!(
        results(&text) == [expected.as_str()] && count(&text, "resumed generation ") == 1,
        "results {:?}, {expected} natively, resumed once\n{text}",
        results(&text)
    );
    site.place.done();
    Ok(Verdict::Passed(String::new()))
}
