//! Every failure and signal a cluster has for a job: what the job did, how long until it computed again, how
//! much work was lost, and that the answer is the same. The figures are those of `benches/RESULTS.md`.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context as _, Result};

use super::bed::{count, interface, native_of, results, BatchJob, Site};
use super::{Scenario, LIMIT};
use crate::context::{skipped, Context, Verdict};
use crate::mpi::Mpi;
use crate::programs::DENSE;

const SHORT: Duration = Duration::from_secs(60);
/// Some minutes on four ranks, until the job is told to hurry.
const WORDS: [&str; 4] = ["--rounds", "400", "--pause", "1000"];

/// The same without pauses.
const NATIVE: [&str; 4] = ["--rounds", "400", "--pause", "0"];

/// What happens to the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    TimeLimit,
    Signal,
    Preempted,
    PreemptedWithGrace,
    Requeue,
    Cancel,
    PowerLossWithSpare,
    PowerLossWithoutSpare,
    SlurmdDies,
    FastReboot,
    NoKill,
    BatchHost,
    BriefCut,
    LongCut,
}

impl Event {
    const ALL: [Self; 14] = [
        Self::TimeLimit,
        Self::Signal,
        Self::Preempted,
        Self::PreemptedWithGrace,
        Self::Requeue,
        Self::Cancel,
        Self::PowerLossWithSpare,
        Self::PowerLossWithoutSpare,
        Self::SlurmdDies,
        Self::FastReboot,
        Self::NoKill,
        Self::BatchHost,
        Self::BriefCut,
        Self::LongCut,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::TimeLimit => "time-limit",
            Self::Signal => "signal",
            Self::Preempted => "preempted",
            Self::PreemptedWithGrace => "preempted-with-grace",
            Self::Requeue => "requeue",
            Self::Cancel => "cancel",
            Self::PowerLossWithSpare => "power-loss-with-spare",
            Self::PowerLossWithoutSpare => "power-loss-without-spare",
            Self::SlurmdDies => "slurmd-dies",
            Self::FastReboot => "fast-reboot",
            Self::NoKill => "no-kill",
            Self::BatchHost => "batch-host",
            Self::BriefCut => "brief-cut",
            Self::LongCut => "long-cut",
        }
    }

    fn shows(self) -> &'static str {
        match self {
            Self::TimeLimit => "the time limit comes: the next slice goes on",
            Self::Signal => "sbatch --signal=USR1: a checkpoint, requeued",
            Self::Preempted => "preempted without grace: requeued",
            Self::PreemptedWithGrace => "preempted with ten seconds of grace: requeued",
            Self::Requeue => "scontrol requeue",
            Self::Cancel => "scancel: ends, and is resumed by hand",
            Self::PowerLossWithSpare => "a node loses power, another takes its place",
            Self::PowerLossWithoutSpare => "a node loses power, the others do its work too",
            Self::SlurmdDies => "slurmd alone dies: the stale ranks end themselves",
            Self::FastReboot => "a node is there again before Slurm has missed it",
            Self::NoKill => "--no-kill: relaunched on the nodes left",
            Self::BatchHost => "the node of the batch script loses power",
            Self::BriefCut => "a cable is out for three seconds",
            Self::LongCut => "a cable is out until Slurm has requeued the job",
        }
    }

    fn template(self) -> &'static str {
        match self {
            Self::TimeLimit | Self::Signal => "time-slices.sbatch",
            Self::Preempted | Self::PreemptedWithGrace => "preemptible.sbatch",
            Self::NoKill => "survivors.sbatch",
            _ => "requeue.sbatch",
        }
    }

    fn options(self) -> Vec<&'static str> {
        let mut options = match self {
            Self::PowerLossWithSpare => vec!["-n3", "-N3"],
            Self::PowerLossWithoutSpare | Self::SlurmdDies | Self::BatchHost | Self::LongCut => {
                vec!["-n4", "-N3-4"]
            }
            _ => vec!["-n4", "-N4"],
        };
        match self {
            Self::TimeLimit => options.extend(["-t", "1"]),
            Self::Signal => options.extend(["-t", "2", "--signal=USR1@60"]),
            Self::PreemptedWithGrace => options.extend(["-p", "graced"]),
            _ => {}
        }
        options
    }

    /// Whether the job has to begin again.
    fn restarts(self) -> bool {
        !matches!(self, Self::BriefCut)
    }
}

pub fn all() -> Vec<Scenario> {
    let mut scenarios = Vec::new();
    for mpi in Mpi::ALL {
        for event in Event::ALL {
            scenarios.push(Scenario::new(
                format!("cluster/{}/failures/{}", mpi.name(), event.name()),
                event.shows(),
                move |c| run(c, mpi, event),
            ));
        }
    }
    scenarios
}

/// When a line was first seen.
struct Timeline<'a> {
    job: &'a BatchJob<'a>,
    lines: Vec<(Instant, String)>,
}

impl Timeline<'_> {
    fn look(&mut self) {
        let text = self.job.text();
        let now = Instant::now();
        // The last line may be half there.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let known = self.lines.len();
        let new = whole.lines().skip(known);
        self.lines.extend(new.map(|line| (now, line.to_owned())));
    }

    fn times<'b>(&'b self, words: &'b str) -> impl Iterator<Item = Instant> + 'b {
        self.lines
            .iter()
            .filter(move |(_, line)| line.contains(words))
            .map(|(time, _)| *time)
    }

    fn until(&mut self, words: &str, times: usize) -> Result<Instant> {
        let deadline = Instant::now() + LIMIT;
        loop {
            self.look();
            if let Some(time) = self.times(words).nth(times - 1) {
                return Ok(time);
            }
            ensure!(
                Instant::now() < deadline,
                "{words:?} did not come {times} times ({})\n{}",
                self.job.state()?,
                self.job.text()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn run(context: &Context, mpi: Mpi, event: Event) -> Result<Verdict> {
    let mut site = match Site::with(context, mpi, &format!("cluster-{}", event.name()), &DENSE)? {
        Ok(site) => site,
        Err(why) => return skipped(why),
    };
    let ranks = if event == Event::PowerLossWithSpare {
        3
    } else {
        4
    };
    let expected = native_of(&DENSE, context, mpi, ranks, &NATIVE, site.place.path())?;
    let settings: &[(&str, &str)] = match event {
        Event::TimeLimit => &[("MANA_END_MARGIN", "35")],
        Event::Signal => &[("MANA_END_MARGIN", "0")],
        Event::NoKill => &[("MANA_NODES", "4"), ("MANA_TASKS", "4")],
        _ => &[],
    };
    let job = site.submit(event.template(), &event.options(), &WORDS, settings)?;
    let mut timeline = Timeline {
        job: &job,
        lines: Vec::new(),
    };
    timeline.until("complete on level partner", 1)?;
    let happened = happen(&site, &job, event, &mut timeline)?;
    if event == Event::Cancel {
        let facts = by_hand(&site, &job, &expected)?;
        site.place.done();
        return Ok(Verdict::Passed(facts));
    }
    let facts = if event.restarts() {
        let again = timeline.until("are under control", 2)?;
        let lost = lost(&timeline, happened)?;
        format!(
            "computes again after {:.1} s, {lost:.1} s of work lost",
            (again - happened).as_secs_f64()
        )
    } else {
        // It is still protected.
        timeline.look();
        let known = timeline.times("complete on level partner").count();
        timeline.until("complete on level partner", known + 2)?;
        "goes on, nothing lost".to_owned()
    };
    job.hurry()?;
    if event == Event::LongCut {
        site.cluster
            .call(&["revive-node", "n2"], SHORT)?
            .expect(0)?;
    }
    let text = job.ended()?;
    ensure!(
        results(&text) == [expected.as_str()],
        "results {:?}, {expected} natively\n{text}",
        results(&text)
    );
    if !event.restarts() {
        let found = count(&text, "resumed generation ");
        ensure!(found == 0, "resumed {found} times\n{text}");
    }
    site.place.done();
    Ok(Verdict::Passed(facts))
}

/// Does it; when.
fn happen(site: &Site, job: &BatchJob, event: Event, timeline: &mut Timeline) -> Result<Instant> {
    let cluster = &site.cluster;
    let now = Instant::now();
    let run = |words: &[&str]| -> Result<()> { cluster.run(words, SHORT)?.expect(0).map(drop) };
    let call = |words: &[&str]| -> Result<()> { cluster.call(words, SHORT)?.expect(0).map(drop) };
    match event {
        // They come by themselves.
        Event::TimeLimit => return timeline.until("the time limit comes in", 1),
        Event::Signal => return timeline.until("SIGUSR1: a last checkpoint", 1),
        Event::Preempted | Event::PreemptedWithGrace => run(&[
            "sbatch",
            "-p",
            "urgent",
            "-N4",
            "--exclusive",
            "-o",
            "/dev/null",
            "--wrap",
            "sleep 2",
        ])?,
        Event::Requeue => run(&["scontrol", "requeue", &job.id])?,
        Event::Cancel => run(&["scancel", &job.id])?,
        Event::PowerLossWithSpare | Event::PowerLossWithoutSpare | Event::NoKill => {
            call(&["kill-node", "n2"])?;
        }
        Event::SlurmdDies => call(&["kill-node", "--slurmd", "n2"])?,
        Event::FastReboot => {
            call(&["kill-node", "--keep-local", "n2"])?;
            call(&["revive-node", "n2"])?;
        }
        Event::BatchHost => call(&["kill-node", "n1"])?,
        Event::BriefCut => {
            call(&["kill-node", "--unplug", "n2"])?;
            std::thread::sleep(Duration::from_secs(3));
            call(&["revive-node", "n2"])?;
        }
        Event::LongCut => call(&["kill-node", "--unplug", "n2"])?,
    }
    Ok(now)
}

/// Seconds of computing between the checkpoint that was resumed and the event.
fn lost(timeline: &Timeline, happened: Instant) -> Result<f64> {
    let resumed = timeline
        .lines
        .iter()
        .find_map(|(_, line)| {
            line.split_once("resumed generation ")?
                .1
                .split_whitespace()
                .next()
        })
        .and_then(|generation| generation.rsplit('.').next())
        .context("nothing was resumed")?;
    let Some(committed) = timeline.times(&format!("checkpoint {resumed} (")).next() else {
        bail!("checkpoint {resumed} was not committed");
    };
    Ok(happened.saturating_duration_since(committed).as_secs_f64())
}

/// Cancelled: nothing goes on by itself, and everything does by hand.
fn by_hand(site: &Site, job: &BatchJob, expected: &str) -> Result<String> {
    let text = job.ended()?;
    ensure!(results(&text).is_empty(), "it went on\n{text}");
    let identity = text
        .split_once("mana[job ")
        .and_then(|(_, rest)| rest.split_whitespace().next())
        .context("no identity")?;
    job.hurry()?;
    let directory = site.launch.parent().context("no directory")?;
    let restart = directory.join("mana_restart").display().to_string();
    let configuration = site.configuration.display().to_string();
    let mut words = vec!["srun", interface(site.mpi), "-K1", "-n4", "-N4", &restart];
    words.extend(["--config", &configuration, "--id", identity]);
    let ended = site.cluster.run(&words, LIMIT)?;
    let found = ended.expect(0)?.result()?;
    ensure!(found == expected, "result {found}, {expected} natively");
    Ok("ended; resumed by hand".to_owned())
}
