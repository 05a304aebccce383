//! A script that is submitted again while its job is unfinished: what `on_resubmit` says.

use std::time::Duration;

use anyhow::{ensure, Context as _, Result};

use super::bed::{count, native_result, results, Site};
use super::NODES;
use crate::context::{skipped, Context, Verdict};
use crate::job::Job;
use crate::mpi::Mpi;

const SHORT: Duration = Duration::from_secs(60);
const OPTIONS: [&str; 2] = ["-n4", "-N4"];

/// While the job runs the same script is refused. Ended by the user with a copy, it is refused, too, then goes on with that job, also when its Slurm job is
/// requeued; whoever watches it sees both starts. A start by hand with `--fresh` is not asked (`requeue/fresh`).
pub fn run(context: &Context, mpi: Mpi) -> Result<Verdict> {
    let mut site = match Site::up(context, mpi, "cluster-resubmitted")? {
        Ok(site) => site,
        Err(why) => return skipped(why),
    };
    let expected = native_result(context, mpi, NODES, &[], site.place.path())?;
    // The same line each time, or it would be another job.
    let over = site.place.path().join("over");
    let until = over.display().to_string();
    let line = site.line(&["--pause", "400", "--until", &until]);
    let submit = |what: &str| {
        let settings = [("MANA_ON_RESUBMIT", what)];
        let mut jobs = site.submit_line("requeue.sbatch", &OPTIONS, &line, &settings, 0)?;
        jobs.pop().context("no job")
    };
    let first = submit("refuse")?;
    first.says("complete on level partner")?;
    site.cluster
        .run(&["scancel", &first.id], SHORT)?
        .expect(0)?;
    first.ended()?;

    let refused = submit("refuse")?.ended()?;
    ensure!(
        refused.contains("nothing was started (on_resubmit = \"refuse\"): to go on with")
            && refused.contains(&format!("--id {}-", first.id))
            && !refused.contains("under control"),
        "the second start was not refused, or not told how to go on\n{refused}"
    );

    let second = submit("resume")?;
    second.says("going on with it (on_resubmit)")?;
    second.says("resumed generation ")?;
    second.says("complete on level partner")?;
    let mut watcher = site.cluster.command(&["run"]);
    watcher
        .arg(site.launch.with_file_name("mana_status"))
        .args(["--watch", "--id", &first.id, "--config"])
        .arg(&site.configuration);
    let mut watcher = Job::start(watcher, site.place.path())?;
    watcher.until("a line of the watcher", SHORT, |job| {
        job.printed().contains("running 4 ranks").then_some(())
    })?;
    let words = ["scontrol", "requeue", &second.id];
    site.cluster.run(&words, SHORT)?.expect(0)?;
    second.until("a second resume", |text| {
        (count(text, "resumed generation ") == 2).then_some(())
    })?;
    std::fs::write(&over, "").context("ending the pauses")?;
    let text = second.ended()?;
    ensure!(
        results(&text) == [expected.as_str()]
            && count(&text, "going on with it (on_resubmit)") == 1,
        "results {:?}, {expected} natively, gone on with once\n{text}",
        results(&text)
    );
    let seen = watcher.wait(SHORT)?;
    let seen = &seen.expect(0)?.stdout;
    let waits = format!("waiting for its next start: Slurm's job {} is ", second.id);
    let (before, after) = seen
        .split_once(&waits)
        .with_context(|| format!("the watcher did not say what it waits for\n{seen}"))?;
    ensure!(
        before.contains("running 4 ranks") && after.contains("running 4 ranks"),
        "the watcher did not see both starts\n{seen}"
    );
    site.place.done();
    Ok(Verdict::Passed(String::new()))
}
