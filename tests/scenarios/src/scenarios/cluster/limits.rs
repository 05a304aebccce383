//! Ends that are announced: the time limit, a signal of the user's choice, scancel. On one cluster,
//! a job on its first two nodes beside three others on the last two, one of which is given more time, and suspended.

use std::time::Duration;

use anyhow::{ensure, Context as _, Result};

use super::bed::{count, native_result, results, BatchJob, Site};
use crate::context::{skipped, Context, Verdict};
use crate::job::Ended;
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
    let extended = site.submit(
        "time-slices.sbatch",
        &[&two("n[3-4]")[..], &["-t", "1"]].concat(),
        &WORDS,
        &[("MANA_END_MARGIN", "30")],
    )?;
    let signalled = site.submit("requeue.sbatch", &two("n[3-4]"), &WORDS, &stops)?;
    let cancelled = site.submit("requeue.sbatch", &two("n[3-4]"), &WORDS, &[])?;

    cancel(&cancelled)?;
    suspend(&extended)?;
    signal(&signalled)?;
    by_hand(&cancelled, &expected)?;
    passed_on(&site, &expected)?;
    go_on(&extended, &expected)?;
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
    // Told to hurry, the program may print its result while its job is being requeued: that repeats.
    let last = text.rfind("resumed generation ").unwrap_or(0);
    same(&slices, &text[last..], &expected)?;
    ensure!(
        results(&text).iter().all(|result| *result == expected),
        "job {}: another result\n{text}",
        slices.id
    );
    let requeued = count(&text, "the job is requeued and goes on by itself");
    ensure!(requeued >= 1, "it was never requeued\n{text}");
    resumed(&text, requeued)?;
    // The program may have ended under the last one.
    let taken = count(&text, "s: a last checkpoint (global) is taken");
    ensure!(
        taken == requeued || taken == requeued + 1,
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

/// More time is given, and the job stands still for a while.
fn suspend(job: &BatchJob) -> Result<()> {
    job.says("checkpoint 1 (")?;
    let id = format!("JobId={}", job.id);
    let words = ["scontrol", "update", &id, "TimeLimit=60"];
    job.site.cluster.run(&words, SHORT)?.expect(0)?;
    let words = ["scontrol", "suspend", &job.id];
    job.site.cluster.run(&words, SHORT)?.expect(0).map(drop)
}

/// Whatever it looks like from outside, it is not started a second time. Then it goes on, and asks before it takes the limit
/// it began with for the end.
fn go_on(job: &BatchJob, expected: &str) -> Result<()> {
    let site = job.site;
    let identity = identity(&job.text())?;
    let place = site.place.path().join("global").join(&identity);
    let long_ago = std::time::SystemTime::now() - Duration::from_secs(600);
    for name in ["coordinator.json", "events.jsonl"] {
        let file = std::fs::File::options().append(true).open(place.join(name));
        file.with_context(|| place.join(name).display().to_string())?
            .set_modified(long_ago)?;
    }
    let ended = restart(site, &identity)?;
    let line = format!("is suspended, as Slurm's job {}", job.id);
    ensure!(
        ended.code() != 0 && count(&ended.stderr, &line) == 1,
        "a suspended job is not refused\n{}",
        ended.report()
    );
    let words = ["scontrol", "resume", &job.id];
    site.cluster.run(&words, SHORT)?.expect(0)?;
    job.says("the time limit is another one now: it comes in 3")?;
    job.hurry()?;
    let text = job.ended()?;
    same(job, &text, expected)?;
    ensure!(
        count(&text, "a last checkpoint") == 0 && count(&text, "are under control") == 1,
        "taken for over\n{text}"
    );
    Ok(())
}

/// `mana_restart`, by hand.
fn restart(site: &Site, identity: &str) -> Result<Ended> {
    let directory = site.launch.parent().context("no directory")?;
    let restart = directory.join("mana_restart").display().to_string();
    let configuration = site.configuration.display().to_string();
    let mut words = vec!["srun", super::bed::interface(site.mpi)];
    words.extend(["-K1", "-n2", "-N2", "-w", "n[3-4]", &restart]);
    words.extend(["--config", &configuration, "--id", identity]);
    site.cluster.run(&words, super::LIMIT)
}

/// The name of the job with this output.
fn identity(text: &str) -> Result<String> {
    let (_, rest) = text.split_once("mana[job ").context("no identity")?;
    let name = rest.split_whitespace().next().context("no identity")?;
    Ok(name.to_owned())
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
    job.hurry()?;
    let ended = restart(site, &identity(&text)?)?;
    let found = ended.expect(0)?.result()?;
    ensure!(found == expected, "result {found}, {expected} natively");
    Ok(())
}

/// The lines of the guide that have the shell pass a signal on to the tasks: it lives on, and so does the program.
fn passed_on(site: &Site, expected: &str) -> Result<()> {
    let guide = include_str!("../../../../../docs/guide/slurm.md");
    let (_, rest) = guide
        .split_once("**Signals for the shell.**")
        .context("no such part")?;
    let lines: Vec<&str> = rest
        .lines()
        .skip_while(|line| !line.starts_with("    "))
        .take_while(|line| line.starts_with("    "))
        .map(str::trim)
        .collect();
    let script = site.place.path().join("passed-on.sbatch");
    let hurry = script.with_extension("hurry").display().to_string();
    let words = [&WORDS[..], &["--until", &hurry]].concat();
    let ours = format!(
        "{} --config {} {}",
        site.launch.display(),
        site.configuration.display(),
        site.line(&words)
    );
    let text = format!(
        "#!/bin/bash\nexport SLURM_MPI_TYPE={}\n{}\necho \"srun: $?\"\n",
        super::bed::interface(site.mpi).trim_start_matches("--mpi="),
        lines.join("\n").replace("mana_launch ./app", &ours)
    );
    ensure!(
        text.contains(&ours),
        "the guide starts something else\n{text}"
    );
    std::fs::write(&script, text).context("writing the job's script")?;
    let job = site.submit_script(&script, &["-n2", "-N2", "-w", "n[3-4]"])?;
    job.says("are under control")?;
    for time in 1..=2 {
        let words = ["scancel", "--batch", "--signal=USR1", &job.id];
        site.cluster.run(&words, SHORT)?.expect(0)?;
        job.until("a checkpoint for the signal", |text| {
            let complete = count(text, "complete on level global") == time;
            (count(text, "SIGUSR1: a last checkpoint") == time && complete).then_some(())
        })?;
    }
    job.hurry()?;
    let text = job.ended()?;
    same(&job, &text, expected)?;
    ensure!(
        count(&text, "srun: 0") == 1 && count(&text, "resumed generation ") == 0,
        "the shell did not wait for srun\n{text}"
    );
    Ok(())
}
