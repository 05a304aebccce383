//! Ends that are announced: the time limit, a signal of the user's choice, scancel. On one cluster,
//! a job on its first two nodes beside two others on the last two.

use std::time::Duration;

use anyhow::{ensure, Context as _, Result};

use super::bed::{count, native_result, results, BatchJob, Site};
use crate::context::{skipped, Context, Verdict};
use crate::mpi::Mpi;

const SHORT: Duration = Duration::from_secs(60);

/// A minute of pauses: longer than anything here, until the job is told to hurry.
const WORDS: [&str; 4] = ["--rounds", "100", "--pause", "500"];

pub fn run(context: &Context, mpi: Mpi) -> Result<Verdict> {
    let mut site = match Site::up(context, mpi, "cluster-limits")? {
        Ok(site) => site,
        Err(why) => return skipped(why),
    };
    let expected = native_result(context, mpi, 2, &WORDS[..2], site.place.path())?;
    let two = |nodes: &'static str| vec!["-n2", "-N2", "-w", nodes];
    // The slice's last checkpoint begins some seconds after its start, if it has got that far; else at once.
    let slices = site.submit(
        "time-slices.sbatch",
        &[&two("n[1-2]")[..], &["-t", "1"]].concat(),
        &WORDS,
        &[("MANA_END_MARGIN", "52")],
    )?;
    let stops = [("MANA_AT_END", "stop")];
    let signalled = site.submit("requeue.sbatch", &two("n[3-4]"), &WORDS, &stops)?;
    let cancelled = site.submit("requeue.sbatch", &two("n[3-4]"), &WORDS, &[])?;

    cancel(&cancelled)?;
    signal(&signalled)?;
    by_hand(&cancelled, &expected)?;
    for job in [&slices, &signalled] {
        job.says("resumed generation ")?;
        job.hurry()?;
    }

    let text = signalled.ended()?;
    same(&signalled, &text, &expected)?;
    ensure!(
        count(&text, "SIGUSR1: a last checkpoint") == 1 && count(&text, "ends with code 85") == 1,
        "not ended by the signal\n{text}"
    );
    resumed(&text, 1)?;

    let text = slices.ended()?;
    same(&slices, &text, &expected)?;
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
fn signal(job: &BatchJob) -> Result<()> {
    job.says("checkpoint 1 (")?;
    let words = ["scancel", "--signal=USR1", &job.id];
    job.site.cluster.run(&words, SHORT)?.expect(0).map(drop)
}

/// scancel, before any checkpoint was due.
fn cancel(job: &BatchJob) -> Result<()> {
    job.says("are under control")?;
    let words = ["scancel", &job.id];
    job.site.cluster.run(&words, SHORT)?.expect(0).map(drop)
}

/// Cancelled: the end, with a last checkpoint, from which somebody goes on by hand.
fn by_hand(job: &BatchJob, expected: &str) -> Result<()> {
    let site = job.site;
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
    job.hurry()?;
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
