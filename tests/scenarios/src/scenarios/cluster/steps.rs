//! Several steps in one Slurm job: one that has ended and two that run side by side, requeued.
//!
//! Each is on all four nodes: Slurm 22.05's PMIx servers of steps of two nodes, started at the same moment, sometimes never reach each
//! other (`docs/guide/slurm.md`).

use std::time::{Duration, Instant};

use anyhow::{ensure, Context as _, Result};

use super::bed::{configure, interface, native_result, Cluster};
use super::{program, LIMIT};
use crate::context::{skipped, Context, Verdict};
use crate::mpi::Mpi;

/// Milliseconds of pause, by which the two parallel steps differ. With them, each takes more than a minute: neither ends
/// before both have their copies. Once both are resumed, the pauses are over.
const PAUSES: [&str; 2] = ["400", "401"];

/// Waits until no step but the script's own is in the queue. The end of srun is not yet that of its step: srun has
/// heard of the tasks, the nodes report their end to each other and then to slurmctld, which only now gives the CPUs
/// back and forgets the step. A step that asks before is told to come back when one ends, at the latest in a minute.
const RELEASED: &str = "for ((i = 0; ; i++)); do
    steps=$(squeue -h -s -j \"$SLURM_JOB_ID\" -o %i) && [[ $steps != *.[0-9]* ]] && break
    if ((i == 450)); then echo \"the ended step is not released: $steps\"; exit 1; fi
    sleep 0.2
done
";

pub fn run(context: &Context, mpi: Mpi) -> Result<Verdict> {
    let program = program()?;
    if let Some(why) = program.missing(mpi) {
        return skipped(why);
    }
    let Some(product) = context.product() else {
        return skipped("no installed tree was named with --mana");
    };
    let mut place = context.directory("cluster-steps")?;
    let expected = native_result(context, mpi, 4, &[], place.path())?;
    let executable = context.build(program, mpi)?;
    let cluster = match Cluster::up(&place)? {
        Ok(cluster) => cluster,
        Err(why) => return skipped(why),
    };
    let configuration = configure(mpi, place.path())?;
    let over = place.path().join("over");
    let until = over.to_string_lossy().into_owned();
    let step = |pause: &str| {
        let words = ["--pause", pause, "--until", &until];
        program.line(&executable, &words).join(" ")
    };
    let launch = product.command("mana_launch");
    let srun = format!("srun {} -K1 -N4 -n4 --exact", interface(mpi));
    let launch = format!("{} --config {}", launch.display(), configuration.display());
    let script = place.path().join("steps.sbatch");
    let text = format!(
        "#!/bin/bash\n#SBATCH --requeue\n#SBATCH --open-mode=append\n\
         {srun} {launch} {}\n{RELEASED}\
         {srun} {launch} {} &\n{srun} {launch} {} &\nwait\n",
        step("0"),
        step(PAUSES[0]),
        step(PAUSES[1])
    );
    std::fs::write(&script, text).context("writing the job's script")?;
    let output = place.path().join("output");
    let (output_name, script) = (output.to_string_lossy(), script.to_string_lossy());
    let submitted = cluster.run(
        &[
            "sbatch",
            "--parsable",
            "--ntasks-per-node=2",
            "-N4",
            "-o",
            &output_name,
            &script,
        ],
        Duration::from_secs(60),
    )?;
    let job = submitted.expect(0)?.stdout.trim().to_owned();
    let deadline = Instant::now() + LIMIT;
    let mut steps = Vec::new();
    let text = loop {
        let text = std::fs::read_to_string(&output).unwrap_or_default();
        // The step that ends may have a copy, too, also after its result.
        let (first, parallel) = text.split_once("RESULT ").unwrap_or_default();
        let ended = identities(first, " ");
        let mut complete = identities(parallel, "complete on level partner");
        complete.retain(|step| !ended.contains(step));
        if steps.is_empty() && complete.len() >= 2 {
            steps = complete;
            cluster
                .run(&["scontrol", "requeue", &job], Duration::from_secs(30))?
                .expect(0)?;
        }
        if !over.exists() && identities(&text, "resumed generation ").len() >= 2 {
            std::fs::write(&over, "").context("ending the pauses")?;
        }
        let state = cluster.state_of(&job)?;
        if state.is_empty() {
            // What it wrote since the look above.
            break std::fs::read_to_string(&output).context("reading the job's output")?;
        }
        ensure!(
            Instant::now() < deadline,
            "the job did not end: {state}\n{text}"
        );
        std::thread::sleep(Duration::from_millis(300));
    };
    ensure!(
        steps.len() == 2,
        "not two steps with a copy: {steps:?}\n{text}"
    );
    let results: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("RESULT "))
        .collect();
    ensure!(
        results == [expected.as_str(); 4],
        "results {results:?}, four times {expected} expected\n{text}"
    );
    let resumed = identities(&text, "resumed generation ");
    ensure!(
        resumed == steps,
        "{resumed:?} resumed, {steps:?} expected\n{text}"
    );
    ensure!(
        text.contains("has ended normally before"),
        "the ended step did not begin anew\n{text}"
    );
    place.done();
    Ok(Verdict::Passed(steps.join(", ")))
}

/// The names of the jobs in whose lines `word` stands, each once and in order.
fn identities(text: &str, word: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| line.contains(word));
    let mut names: Vec<_> = lines
        .filter_map(|line| line.split_once("mana[job ")?.1.split_whitespace().next())
        .map(str::to_owned)
        .collect();
    names.sort();
    names.dedup();
    names
}
