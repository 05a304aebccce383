//! The scripts of `slurm/` run as they are, each twice, with `clean-local` as prolog and epilog of the nodes and of the
//! tasks. (`time-slices.sbatch` ends its slices in `limits.rs`, the scripts' last line has `crashes.rs`.)

use std::time::{Duration, Instant};

use anyhow::{ensure, Context as _, Result};

use super::bed::{count, interface, native_result, results, BatchJob, Site, RANK};
use crate::context::{skipped, Context, Verdict};
use crate::mpi::Mpi;

const SHORT: Duration = Duration::from_secs(60);
/// How long survivors.sbatch waits for Slurm to miss a node: the cluster's SlurmdTimeout and a minute.
const NODE_TIMEOUT: Duration = Duration::from_secs(65);
const WORDS: [&str; 4] = ["--rounds", "150", "--pause", "500"];

pub fn run(context: &Context, mpi: Mpi) -> Result<Verdict> {
    let mut site = match Site::up(context, mpi, "cluster-templates")? {
        Ok(site) => site,
        Err(why) => return skipped(why),
    };
    let expected = native_result(context, mpi, 2, &WORDS[..2], site.place.path())?;
    for turn in 0..2 {
        once(&site, &expected).with_context(|| format!("turn {turn}"))?;
    }
    task_prolog(&site, &expected)?;
    site.place.done();
    Ok(Verdict::Passed(String::new()))
}

fn once(site: &Site, expected: &str) -> Result<()> {
    leave(site)?;
    let preempted = preemptible(site)?;
    let tasks = array(site)?;
    for task in &tasks {
        task.says("complete on level partner")?;
    }
    // One file for all tasks.
    for task in &tasks {
        task.hurry()?;
        same(task, &task.ended()?, expected)?;
    }
    cleaned(site)?;
    again(&preempted, expected)?;
    let requeued = site.submit(
        "requeue.sbatch",
        &["-n2", "-N2", "-w", "n[1-2]"],
        &WORDS,
        &[],
    )?;
    let slices = site.submit(
        "time-slices.sbatch",
        &["-n2", "-N2", "-w", "n[3-4]"],
        &WORDS,
        &[],
    )?;
    for job in [&requeued, &slices] {
        job.says("complete on level partner")?;
        let words = ["scontrol", "requeue", &job.id];
        site.cluster.run(&words, SHORT)?.expect(0)?;
    }
    for job in [&requeued, &slices] {
        again(job, expected)?;
    }
    survivors(site, expected)
}

/// It goes on after Slurm has ended it, with a last checkpoint.
fn again(job: &BatchJob, expected: &str) -> Result<()> {
    job.says("resumed generation ")?;
    job.hurry()?;
    let text = job.ended()?;
    same(job, &text, expected)?;
    ensure!(
        count(&text, "SIGTERM: a last checkpoint") == 1 && count(&text, "resumed generation ") == 1,
        "not one last checkpoint, or not one resume\n{text}"
    );
    Ok(())
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

/// The images of jobs that were cancelled on a node, long ago and just now, and something that is no job's.
fn leave(site: &Site) -> Result<()> {
    let mut places = Vec::new();
    for _ in 0..2 {
        let job = site.submit("requeue.sbatch", &["-n2", "-N1", "-w", "n4"], &WORDS, &[])?;
        job.says("committed")?;
        site.cluster.run(&["scancel", &job.id], SHORT)?.expect(0)?;
        job.ended()?;
        let list = format!("ls -d /local/mana/root/{}-*", job.id);
        places.push(site.on_node("n4", &list)?.trim().to_owned());
    }
    let script = format!(
        "mkdir -p /local/mana/root/notes && find {} /local/mana/root/notes -exec touch -d '10 days ago' {{}} +",
        places[0]
    );
    site.on_node("n4", &script)?;
    let recent = site.on_node("n4", &format!("find {} -name 'rank-*.img'", places[1]))?;
    ensure!(
        recent.lines().count() >= 2,
        "no images are left: {recent:?}"
    );
    Ok(())
}

/// The prolog and epilog have taken away what nobody comes back for, and nothing else.
fn cleaned(site: &Site) -> Result<()> {
    let left = site.on_node("n4", "ls /local/mana/root")?;
    let left: Vec<_> = left.split_whitespace().collect();
    let [recent, "notes"] = left[..] else {
        anyhow::bail!("left on n4: {left:?}");
    };
    let images = format!("find /local/mana/root/{recent} -name 'rank-*.img'");
    let images = site.on_node("n4", &images)?;
    ensure!(images.lines().count() >= 2, "left of {recent}: {images:?}");
    let mode = site.on_node("n4", "stat -c %a /local/mana/root")?;
    ensure!(mode.trim() == "700", "mode {mode}");
    site.on_node("n4", "rm -r /local/mana/root/*").map(drop)
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

/// A rank crashes: the job goes on at once, where it was. Its node dies: the job goes on in its allocation, on the spare one.
fn survivors(site: &Site, expected: &str) -> Result<()> {
    let settings = [("MANA_NODES", "2"), ("MANA_TASKS", "2")];
    let job = site.submit(
        "survivors.sbatch",
        &["-N3", "-w", "n[2-4]"],
        &WORDS,
        &settings,
    )?;
    job.says("complete on level partner")?;
    let crash = ["exec", "n3", "pkill", "-KILL", "-n", "-x", RANK];
    site.cluster.call(&crash, SHORT)?.expect(0)?;
    let ended = Instant::now();
    job.says("resumed generation ")?;
    let took = ended.elapsed();
    ensure!(
        took < NODE_TIMEOUT / 2,
        "it waited {took:?} for a node that was not lost\n{}",
        job.text()
    );
    job.until("a copy of the second start's", |text| {
        let (_, second) = text.split_once("incarnation 2: 2 ranks on 2 nodes")?;
        second.contains("complete on level partner").then_some(())
    })?;
    site.cluster.call(&["kill-node", "n3"], SHORT)?.expect(0)?;
    job.until("the third start", |text| {
        (count(text, "resumed generation ") == 2).then_some(())
    })?;
    job.hurry()?;
    let text = job.ended()?;
    same(&job, &text, expected)?;
    ensure!(
        count(&text, "start 1 in this allocation ended with code") == 1
            && count(&text, "start 2 in this allocation ended with code") == 1
            && count(&text, "partner copy") == 1
            && count(&text, "incarnation 3: 2 ranks on 2 nodes") == 1,
        "not relaunched on the spare node\n{text}"
    );
    site.cluster
        .call(&["revive-node", "n3"], SHORT * 2)?
        .expect(0)
        .map(drop)
}

/// As anybody can have it, without an administrator: a base of his own, made and cleaned by the tasks.
fn task_prolog(site: &Site, expected: &str) -> Result<()> {
    let clean = Site::template("clean-local")?.display().to_string();
    let base = "/local/scratch";
    let old = "/local/scratch/root/17-app-00";
    let make = format!("mkdir -p {old} && touch -d '10 days ago' {old} && touch {base}/root/mine");
    site.on_node("n2", &make)?;
    let script = site.place.path().join("task-prolog.sbatch");
    let hurry = script.with_extension("hurry").display().to_string();
    let words = [&WORDS[..], &["--until", &hurry]].concat();
    let text = format!(
        "#!/bin/bash\nexport MANA_LOCAL_BASE={base} MANA_LOCAL_CKPT_DIR={base}/root MANA_CONF={}\n\
         srun {} -K1 --task-prolog={clean} --task-epilog={clean} {} {}\n",
        site.configuration.display(),
        interface(site.mpi),
        site.launch.display(),
        site.line(&words)
    );
    std::fs::write(&script, text).context("writing the job's script")?;
    let job = site.submit_script(&script, &["-n2", "-N2", "-w", "n[1-2]"])?;
    job.says("complete on level partner")?;
    for node in ["n1", "n2"] {
        let found = site.on_node(
            node,
            "find /local/scratch/root -name 'rank-*.img'; stat -c %a /local/scratch/root",
        )?;
        ensure!(
            found.contains(".img") && found.trim_end().ends_with("700"),
            "on {node}: {found}"
        );
    }
    job.hurry()?;
    same(&job, &job.ended()?, expected)?;
    let left = site.on_node("n2", "ls /local/scratch/root")?;
    ensure!(left.trim() == "mine", "left on n2: {left:?}");
    Ok(())
}
