//! A preemption with a grace time: the last checkpoint has that time too, not only what follows each SIGTERM.

use std::time::{Duration, Instant};

use anyhow::{ensure, Context as _, Result};

use super::bed::{count, native_of, results, Site};
use super::course::Timeline;
use crate::context::{skipped, Context, Verdict};
use crate::mpi::Mpi;
use crate::programs::STALL;

const SHORT: Duration = Duration::from_secs(60);
const ROUNDS: [&str; 2] = ["--rounds", "200"];
/// From SIGTERM to SIGKILL on this cluster (`KillWait`).
const KILL_WAIT: f64 = 5.0;

/// Its ranks are inside a collective that the last one comes to when the usual kill would have come: no checkpoint before, and
/// the preemption comes while they wait. Its partition has ten seconds of grace.
pub fn run(context: &Context, mpi: Mpi) -> Result<Verdict> {
    let mut site = match Site::with(context, mpi, "cluster-grace", &STALL)? {
        Ok(site) => site,
        Err(why) => return skipped(why),
    };
    let expected = native_of(&STALL, context, mpi, 4, &ROUNDS, site.place.path())?;
    let waits = site.place.path().join("waits");
    let held = waits.display().to_string();
    let words = [&ROUNDS[..], &["--held", &held, "--pause", "500"]].concat();
    let never = [
        ("MANA_LOCAL_CKPT_INTERVAL", "0"),
        ("MANA_PARTNER_CKPT_INTERVAL", "0"),
    ];
    let job = site.submit(
        "preemptible.sbatch",
        &["-p", "graced", "-n4", "-N4"],
        &words,
        &never,
    )?;
    let mut timeline = Timeline::of(&job);
    timeline.until("are under control", 1)?;
    let urgent = "sbatch -p urgent -N4 --exclusive -o /dev/null --wrap hostname";
    let urgent: Vec<_> = urgent.split_whitespace().collect();
    site.cluster.run(&urgent, SHORT)?.expect(0)?;
    let asked = timeline.until("SIGTERM: a last checkpoint", 1)?;
    let told = timeline.until("SIGTERM: the batch system leaves", 1)?;
    std::thread::sleep(Duration::from_secs_f64(KILL_WAIT + 0.5).saturating_sub(asked.elapsed()));
    std::fs::write(&waits, "").context("letting the last rank go on")?;
    let taken = timeline.until("checkpoint 1 (", 1)?;
    timeline.until("resumed generation ", 1)?;
    job.hurry()?;
    let text = job.ended()?;
    ensure!(
        results(&text) == [expected.as_str()] && count(&text, "resumed generation ") == 1,
        "results {:?}, {expected} natively, resumed once\n{text}",
        results(&text)
    );
    let since = |time: Instant| (time - asked).as_secs_f64();
    ensure!(
        since(taken) > KILL_WAIT,
        "the checkpoint came before the usual kill would have\n{text}"
    );
    site.place.done();
    Ok(Verdict::Passed(format!(
        "asked to end; told of the grace time after {:.1} s; checkpoint after {:.1} s",
        since(told),
        since(taken)
    )))
}
