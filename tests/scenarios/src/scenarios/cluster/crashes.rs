//! Failures that Slurm does not requeue for: a rank that crashes, a start that mana refuses. The scripts' last line,
//! `mana requeue`, decides. Four jobs side by side, each with two ranks on a node of its own. Beside them, starts whose ranks would
//! not find each other: `srun` for another MPI, or for none.

use std::time::{Duration, Instant};

use anyhow::{ensure, Result};

use super::bed::{count, interface, native_result, ranks, results, BatchJob, Site, RANK};
use super::LIMIT;
use crate::context::{skipped, Context, Verdict};
use crate::mpi::Mpi;

const SHORT: Duration = Duration::from_secs(60);
/// A minute and more of pauses, until the job is told to hurry.
const WORDS: [&str; 4] = ["--rounds", "150", "--pause", "500"];

pub fn run(context: &Context, mpi: Mpi) -> Result<Verdict> {
    let mut site = match Site::up(context, mpi, "cluster-crashes")? {
        Ok(site) => site,
        Err(why) => return skipped(why),
    };
    let expected = native_result(context, mpi, 2, &WORDS[..2], site.place.path())?;
    // One start in vain would be followed by another, and then no more.
    let limit = ("MANA_MAX_RESTARTS", "1");
    let submit = |template: &str, node: &str| {
        site.submit(template, &["-n2", "-N1", "-w", node], &WORDS, &[limit])
    };
    let requeued = submit("requeue.sbatch", "n1")?;
    let slices = submit("time-slices.sbatch", "n2")?;
    let preemptible = submit("preemptible.sbatch", "n3")?;

    // Two good starts more: they do not count.
    for start in 1..=2 {
        computing(&requeued, start)?;
        let words = ["scontrol", "requeue", &requeued.id];
        site.cluster.run(&words, SHORT)?.expect(0)?;
    }
    for (job, node, start) in [
        (&slices, "n2", 1),
        (&preemptible, "n3", 1),
        (&requeued, "n1", 3),
    ] {
        computing(job, start)?;
        crash(&site, node)?;
    }
    in_vain(&site)?;
    refused(&site)?;
    unfit(&site)?;
    forbidden(&site)?;
    for (job, starts) in [(&slices, 2), (&preemptible, 2), (&requeued, 4)] {
        job.until("the start after the crash", |text| {
            (count(text, "are under control") == starts).then_some(())
        })?;
        job.hurry()?;
        let text = job.ended()?;
        ensure!(
            results(&text) == [expected.as_str()],
            "job {}: results {:?}, {expected} natively\n{text}",
            job.id,
            results(&text)
        );
        ensure!(
            count(
                &text,
                "the job is requeued (this start has committed checkpoints)"
            ) == 1
                && count(&text, "resumed generation ") == starts - 1,
            "not requeued once by itself, or not resumed {} times\n{text}",
            starts - 1
        );
    }
    site.place.done();
    Ok(Verdict::Passed(String::new()))
}

/// The `start`th start has committed a checkpoint of its own.
fn computing(job: &BatchJob, start: usize) -> Result<()> {
    job.until(&format!("a checkpoint of start {start}"), |text| {
        let last = text.match_indices("are under control").nth(start - 1)?;
        text[last.0..].contains("committed").then_some(())
    })
}

/// A rank dies.
fn crash(site: &Site, node: &str) -> Result<()> {
    let words = ["exec", node, "pkill", "-KILL", "-n", "-x", RANK];
    site.cluster.call(&words, SHORT)?.expect(0).map(drop)
}

/// A program that fails before its first checkpoint, whenever it is started.
fn in_vain(site: &Site) -> Result<()> {
    let settings = [("MANA_MAX_RESTARTS", "1")];
    let line = "/bin/false";
    let text = one(site, line, &settings)?;
    ensure!(
        count(
            &text,
            "the job is requeued (no checkpoint committed in this start"
        ) == 1
            && count(
                &text,
                "starting again would not help: no checkpoint committed in the last 2"
            ) == 1,
        "not started twice in vain\n{text}"
    );
    Ok(())
}

/// One that mana does not start: never again.
fn refused(site: &Site) -> Result<()> {
    let text = one(site, "/nonexistent/program", &[])?;
    ensure!(
        count(
            &text,
            "starting again would not help: mana itself has refused"
        ) == 1
            && count(&text, "the job is requeued") == 0,
        "a refused start was started again\n{text}"
    );
    Ok(())
}

/// `srun` starts the tasks for the other MPI, or for none: one error that says how it is started, and nothing stays.
fn unfit(site: &Site) -> Result<()> {
    let right = interface(site.mpi);
    let other = match site.mpi {
        Mpi::OpenMpi => interface(Mpi::Mpich),
        _ => interface(Mpi::OpenMpi),
    };
    let launch = site.launch.display().to_string();
    let configuration = site.configuration.display().to_string();
    let line = site.line(&WORDS);
    for wrong in [other, "--mpi=none"] {
        let mut words = vec!["srun", wrong, "-J", "unfit", "-n2", "-N1", "-w", "n4"];
        words.extend([&launch, "--config", &configuration]);
        words.extend(line.split(' '));
        let ended = site.cluster.run(&words, SHORT)?;
        ensure!(
            ended.code() == 99
                && count(&ended.stderr, "error: ") - count(&ended.stderr, "srun: error: ") == 1
                && ended.stderr.contains(right)
                && ended.stdout.is_empty(),
            "{wrong}: not refused with one line that names {right}\n{}",
            ended.report()
        );
        // The job is in the queue until the node's epilog has ended, some time after srun has.
        let deadline = Instant::now() + LIMIT;
        loop {
            let queued = ["squeue", "-h", "-n", "unfit"];
            let queued = site.cluster.run(&queued, SHORT)?;
            let left = ranks(site, "n4")?;
            if queued.code() == 0 && queued.stdout.is_empty() && left == 0 {
                break;
            }
            ensure!(
                Instant::now() < deadline,
                "{wrong}: {left} ranks are left, in the queue: {:?}",
                queued.stdout
            );
            std::thread::sleep(Duration::from_millis(300));
        }
    }
    Ok(())
}

/// One that Slurm does not take back: in its words, and at once.
fn forbidden(site: &Site) -> Result<()> {
    let options = ["-n1", "-N1", "-w", "n4", "--no-requeue"];
    let mut jobs = site.submit_line("requeue.sbatch", &options, "/bin/false", &[], 0)?;
    let text = jobs.remove(0).ended()?;
    ensure!(
        count(&text, "the job is not requeued: scontrol failed: ") == 1
            && count(&text, "submit it with sbatch --requeue") == 1
            && count(&text, "tried again") == 0,
        "not told why it is not requeued\n{text}"
    );
    Ok(())
}

/// A job of one rank on the fourth node.
fn one(site: &Site, line: &str, settings: &[(&str, &str)]) -> Result<String> {
    let options = ["-n1", "-N1", "-w", "n4"];
    let mut jobs = site.submit_line("requeue.sbatch", &options, line, settings, 0)?;
    jobs.remove(0).ended()
}

/// `mana doctor --self-test` within allocations: of one CPU, and of two nodes.
pub fn doctor(context: &Context) -> Result<Verdict> {
    let mut site = match Site::up(context, Mpi::OpenMpi, "cluster-doctor")? {
        Ok(site) => site,
        Err(why) => return skipped(why),
    };
    let mana = site.launch.with_file_name("mana").display().to_string();
    let configuration = site.configuration.display().to_string();
    let script = site.place.path().join("doctor.sbatch");
    let text = format!(
        "#!/bin/bash\n{mana} doctor --self-test --config {configuration}\necho \"doctor: $?\"\n"
    );
    std::fs::write(&script, text)?;
    for options in [["-N1", "-n1"], ["-N2", "-n2"]] {
        let text = site.submit_script(&script, &options)?.ended()?;
        let right = count(&text, "ended, resumed, right result");
        ensure!(
            right >= 2 && text.contains("doctor: 0"),
            "{options:?}: {right} MPIs with the right result\n{text}"
        );
    }
    site.place.done();
    Ok(Verdict::Passed(String::new()))
}
