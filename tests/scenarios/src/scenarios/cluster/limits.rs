//! Ends that are announced: the time limit, a signal of the user's choice, scancel. On one cluster,
//! a job on its first two nodes beside others on the last two.

use std::time::Duration;

use anyhow::{ensure, Context as _, Result};

use super::bed::{count, native_result, results, BatchJob, Site};
use crate::context::{skipped, Context, Verdict};
use crate::mpi::Mpi;

const SHORT: Duration = Duration::from_secs(60);

/// A job that computes longer than one slice.
const LONG: [&str; 4] = ["--rounds", "300", "--pause", "100"];
const BRIEF: [&str; 4] = ["--rounds", "120", "--pause", "80"];

pub fn run(context: &Context, mpi: Mpi) -> Result<Verdict> {
    let mut site = match Site::up(context, mpi, "cluster-limits")? {
        Ok(site) => site,
        Err(why) => return skipped(why),
    };
    let long = native_result(context, mpi, 2, &LONG[..2], site.place.path())?;
    let brief = native_result(context, mpi, 2, &BRIEF[..2], site.place.path())?;
    let two = |nodes: &'static str| vec!["-n2", "-N2", "-w", nodes];

    let slices = site.submit(
        "time-slices.sbatch",
        &[&two("n[1-2]")[..], &["-t", "1"]].concat(),
        &LONG,
        &[("MANA_END_MARGIN", "38")],
    )?;
    signalled(&site, &brief)?;
    cancelled(&site, &brief)?;

    let text = slices.ended()?;
    same(&slices, &text, &long)?;
    let requeued = count(&text, "the job is requeued and goes on by itself");
    ensure!(requeued >= 1, "it was never requeued\n{text}");
    resumed(&text, requeued)?;
    ensure!(
        count(&text, "s: a last checkpoint (global) is taken") == requeued,
        "not one last checkpoint a slice\n{text}"
    );
    site.place.done();
    Ok(Verdict::Passed(format!("{} slices", requeued + 1)))
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

fn resumed(text: &str, times: usize) -> Result<()> {
    let found = count(text, "resumed generation ");
    ensure!(
        found == times,
        "resumed {found} times, {times} expected\n{text}"
    );
    Ok(())
}

/// SIGUSR1, as `--signal=USR1@60` sends it to all tasks: a checkpoint, then what at_end says.
fn signalled(site: &Site, expected: &str) -> Result<()> {
    let job = site.submit(
        "requeue.sbatch",
        &["-n2", "-N2", "-w", "n[3-4]"],
        &BRIEF,
        &[("MANA_AT_END", "stop")],
    )?;
    job.says("checkpoint 1 (local) committed")?;
    site.cluster
        .run(&["scancel", "--signal=USR1", &job.id], SHORT)?
        .expect(0)?;
    let text = job.ended()?;
    same(&job, &text, expected)?;
    ensure!(
        count(&text, "SIGUSR1: a last checkpoint") == 1 && count(&text, "ends with code 85") == 1,
        "not ended by the signal\n{text}"
    );
    resumed(&text, 1)
}

/// scancel: the end, with a last checkpoint, from which somebody goes on by hand.
fn cancelled(site: &Site, expected: &str) -> Result<()> {
    let job = site.submit(
        "requeue.sbatch",
        &["-n2", "-N2", "-w", "n[3-4]"],
        &BRIEF,
        &[],
    )?;
    job.says("are under control")?;
    // Nothing is due for two seconds: what is committed now was asked for by the signal.
    site.cluster.run(&["scancel", &job.id], SHORT)?.expect(0)?;
    let text = job.ended()?;
    ensure!(results(&text).is_empty(), "it went on\n{text}");
    let last = "SIGTERM: a last checkpoint";
    ensure!(
        count(&text, last) == 1 && count(&text, "committed") >= 1,
        "no last checkpoint\n{text}"
    );
    let identity = text
        .split_once("mana[job ")
        .and_then(|(_, rest)| rest.split_whitespace().next())
        .context("no identity")?;
    let directory = site.launch.parent().context("no directory")?;
    let restart = directory.join("mana_restart").display().to_string();
    let configuration = site.configuration.display().to_string();
    let mut words = vec!["srun", super::bed::interface(site.mpi)];
    words.extend(["-K1", "-n2", "-N2", "-w", "n[3-4]", &restart]);
    words.extend(["--config", &configuration, "--id", identity]);
    let ended = site.cluster.run(&words, super::LIMIT)?;
    let found = ended.expect(0)?.result()?;
    ensure!(found == expected, "result {found}, {expected} natively");
    Ok(())
}
