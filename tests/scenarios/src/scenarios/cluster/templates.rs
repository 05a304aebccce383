//! The scripts of `slurm/` run as they are. `requeue.sbatch` and `time-slices.sbatch` have scenarios of
//! their own; here are the others, with `clean-local` as prolog and epilog of the nodes and of the tasks.

use std::time::Duration;

use anyhow::{ensure, Result};

use super::bed::{count, native_result, results, BatchJob, Site};
use crate::context::{skipped, Context, Verdict};
use crate::mpi::Mpi;

const SHORT: Duration = Duration::from_secs(60);
const WORDS: [&str; 4] = ["--rounds", "150", "--pause", "500"];

pub fn run(context: &Context, mpi: Mpi) -> Result<Verdict> {
    let mut site = match Site::up(context, mpi, "cluster-templates")? {
        Ok(site) => site,
        Err(why) => return skipped(why),
    };
    let expected = native_result(context, mpi, 2, &WORDS[..2], site.place.path())?;
    leave(&site)?;
    let preempted = preemptible(&site)?;
    let tasks = array(&site)?;
    for task in &tasks {
        task.says("complete on level partner")?;
        task.hurry()?;
        same(task, &task.ended()?, &expected)?;
    }
    cleaned(&site)?;
    preempted.says("resumed generation ")?;
    preempted.hurry()?;
    let text = preempted.ended()?;
    same(&preempted, &text, &expected)?;
    ensure!(
        count(&text, "SIGTERM: a last checkpoint") == 1 && count(&text, "resumed generation ") == 1,
        "no last checkpoint before the preemption\n{text}"
    );
    survivors(&site, &expected)?;
    site.place.done();
    Ok(Verdict::Passed(String::new()))
}

fn same(job: &BatchJob, text: &str, expected: &str) -> Result<()> {
    ensure!(
        results(text) == [expected],
        "job {}: results {:?}, {expected} natively\n{text}",
        job.id,
        results(text)
    );
    Ok(())
}

fn on_node(site: &Site, node: &str, script: &str) -> Result<String> {
    let ended = site
        .cluster
        .call(&["exec", node, "sh", "-c", script], SHORT)?;
    Ok(ended.expect(0)?.stdout.clone())
}

/// What an earlier job has left on a node, long ago and just now.
fn leave(site: &Site) -> Result<()> {
    let script =
        "mkdir -p /local/mana/root/17-app-00 /local/mana/root/18-app-00 /local/mana/root/notes && \
                  touch -d '10 days ago' /local/mana/root/17-app-00 /local/mana/root/notes";
    on_node(site, "n4", script).map(drop)
}

/// The prolog and epilog have taken away what nobody comes back for, and nothing else.
fn cleaned(site: &Site) -> Result<()> {
    let left = on_node(site, "n4", "ls /local/mana/root")?;
    let left: Vec<_> = left.split_whitespace().collect();
    ensure!(left == ["18-app-00", "notes"], "left on n4: {left:?}");
    let mode = on_node(site, "n4", "stat -c %a /local/mana/root")?;
    ensure!(mode.trim() == "700", "mode {mode}");
    Ok(())
}

/// Preempted once its copies are there.
fn preemptible(site: &Site) -> Result<BatchJob<'_>> {
    let job = site.submit(
        "preemptible.sbatch",
        &["-n2", "-N2", "-w", "n[1-2]"],
        &WORDS,
        &[],
    )?;
    job.says("complete on level partner")?;
    let urgent = "sbatch -p urgent -N2 -w n[1-2] --exclusive -o /dev/null --wrap hostname";
    let words: Vec<_> = urgent.split_whitespace().collect();
    site.cluster.run(&words, SHORT)?.expect(0)?;
    Ok(job)
}

/// Two tasks of an array, with the script as task prolog and epilog.
fn array(site: &Site) -> Result<Vec<BatchJob<'_>>> {
    let script = Site::template("clean-local")?.display().to_string();
    let settings = [
        ("SLURM_TASK_PROLOG", script.as_str()),
        ("SLURM_TASK_EPILOG", script.as_str()),
    ];
    let options = ["--array=1-2", "-n2", "-N2", "-w", "n[3-4]"];
    site.submit_array("array.sbatch", &options, &WORDS, &settings, 2)
}

/// A node dies; the job goes on in its allocation, on the spare one.
fn survivors(site: &Site, expected: &str) -> Result<()> {
    let settings = [("MANA_NODES", "2"), ("MANA_TASKS", "2")];
    let job = site.submit(
        "survivors.sbatch",
        &["-N3", "-w", "n[2-4]"],
        &WORDS,
        &settings,
    )?;
    job.says("complete on level partner")?;
    site.cluster.call(&["kill-node", "n3"], SHORT)?.expect(0)?;
    job.says("resumed generation ")?;
    job.hurry()?;
    let text = job.ended()?;
    same(&job, &text, expected)?;
    ensure!(
        count(&text, "attempt 0 ended with code") == 1
            && count(&text, "partner copy") == 1
            && count(&text, "incarnation 2: 2 ranks on 2 nodes") == 1,
        "not relaunched on the spare node\n{text}"
    );
    Ok(())
}
