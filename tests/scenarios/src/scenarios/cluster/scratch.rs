//! Files on node-local storage: every node has another file under the same path. What each rank has written to its
//! own after the checkpoint is taken back on its own node.

use std::time::Duration;

use anyhow::{ensure, Result};

use super::bed::{native_of, results, Site};
use super::NODES;
use crate::context::{skipped, Context, Verdict};
use crate::mpi::Mpi;
use crate::programs::SCRATCH;

pub fn run(context: &Context, mpi: Mpi) -> Result<Verdict> {
    let mut site = match Site::with(context, mpi, "cluster-scratch", &SCRATCH)? {
        Ok(site) => site,
        Err(why) => return skipped(why),
    };
    let directory = site.place.path().display().to_string();
    let rounds = ["--rounds", "60"];
    let words = [&["--dir", directory.as_str(), "--apart", "1"][..], &rounds].concat();
    let expected = native_of(&SCRATCH, context, mpi, NODES, &words, site.place.path())?;
    let words = [&["--dir", "/local", "--pause", "500"][..], &rounds].concat();
    let job = site.submit("requeue.sbatch", &["-n4", "-N4"], &words, &[])?;
    // Between two checkpoints some is overwritten that the first has to have back.
    job.says("checkpoint 2 ")?;
    let requeued = ["scontrol", "requeue", &job.id];
    site.cluster
        .run(&requeued, Duration::from_secs(30))?
        .expect(0)?;
    job.says("resumed generation ")?;
    job.hurry()?;
    let text = job.ended()?;
    ensure!(
        results(&text) == [expected.as_str()],
        "results {:?}, {expected} natively\n{text}",
        results(&text)
    );
    site.place.done();
    Ok(Verdict::Passed(String::new()))
}
