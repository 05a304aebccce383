//! Every failure and signal a cluster has for a job: what the job did, how long until it computed again, how
//! much work was lost, and that the answer is the same. The figures are those of `benches/RESULTS.md`.
//!
//! The programs are the dense mixed one and, on Open MPI, LAMMPS. How a job is watched: `course.rs`.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::bed::{BatchJob, Site};
use super::course::{self, Timeline, Work};
use super::Scenario;
use crate::mpi::Mpi;

const SHORT: Duration = Duration::from_secs(60);

/// What happens to the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    TimeLimit,
    Signal,
    Preempted,
    PreemptedWithGrace,
    Requeue,
    Cancel,
    PowerLossWithSpare,
    PowerLossWithoutSpare,
    SlurmdDies,
    SlurmdDiesOnBatchHost,
    FastReboot,
    NoKill,
    BatchHost,
    BriefCut,
    LongCut,
}

impl Event {
    const ALL: [Self; 15] = [
        Self::TimeLimit,
        Self::Signal,
        Self::Preempted,
        Self::PreemptedWithGrace,
        Self::Requeue,
        Self::Cancel,
        Self::PowerLossWithSpare,
        Self::PowerLossWithoutSpare,
        Self::SlurmdDies,
        Self::SlurmdDiesOnBatchHost,
        Self::FastReboot,
        Self::NoKill,
        Self::BatchHost,
        Self::BriefCut,
        Self::LongCut,
    ];

    pub fn name(self) -> &'static str {
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
            Self::SlurmdDiesOnBatchHost => "slurmd-dies-on-batch-host",
            Self::FastReboot => "fast-reboot",
            Self::NoKill => "no-kill",
            Self::BatchHost => "batch-host",
            Self::BriefCut => "brief-cut",
            Self::LongCut => "long-cut",
        }
    }

    pub fn shows(self) -> &'static str {
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
            Self::SlurmdDiesOnBatchHost => {
                "slurmd dies on the node of the batch script: the stale script starts nothing"
            }
            Self::FastReboot => "a node is there again before Slurm has missed it",
            Self::NoKill => "--no-kill: relaunched on the nodes left",
            Self::BatchHost => "the node of the batch script loses power",
            Self::BriefCut => "a cable is out for three seconds",
            Self::LongCut => "a cable is out until Slurm has requeued the job",
        }
    }

    pub fn template(self) -> &'static str {
        match self {
            Self::TimeLimit | Self::Signal => "time-slices.sbatch",
            Self::Preempted | Self::PreemptedWithGrace => "preemptible.sbatch",
            Self::NoKill => "survivors.sbatch",
            _ => "requeue.sbatch",
        }
    }

    pub fn options(self) -> Vec<&'static str> {
        let mut options = match self {
            Self::PowerLossWithSpare => vec!["-n3", "-N3"],
            Self::PowerLossWithoutSpare
            | Self::SlurmdDies
            | Self::SlurmdDiesOnBatchHost
            | Self::BatchHost
            | Self::LongCut => vec!["-n4", "-N3-4"],
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

    /// What its job is told besides.
    pub fn settings(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::TimeLimit => &[("MANA_END_MARGIN", "35")],
            Self::Signal => &[("MANA_END_MARGIN", "0")],
            Self::NoKill => &[("MANA_NODES", "4"), ("MANA_TASKS", "4")],
            _ => &[],
        }
    }

    pub fn ranks(self) -> u32 {
        match self {
            Self::PowerLossWithSpare => 3,
            _ => 4,
        }
    }

    /// Whether there is time for a last checkpoint.
    pub fn is_announced(self) -> bool {
        matches!(
            self,
            Self::TimeLimit
                | Self::Signal
                | Self::Preempted
                | Self::PreemptedWithGrace
                | Self::Requeue
                | Self::Cancel
        )
    }

    /// The node whose ranks go on for a while although the job has been started elsewhere.
    pub fn stale(self) -> Option<&'static str> {
        match self {
            Self::SlurmdDies | Self::LongCut => Some("n2"),
            Self::SlurmdDiesOnBatchHost => Some("n1"),
            _ => None,
        }
    }
}

pub fn all() -> Vec<Scenario> {
    let mut scenarios = Vec::new();
    for mpi in Mpi::ALL {
        for event in Event::ALL {
            scenarios.push(Scenario::new(
                format!("cluster/{}/failures/{}", mpi.name(), event.name()),
                event.shows(),
                move |c| course::run(c, mpi, event, Work::Dense),
            ));
        }
    }
    // LAMMPS, which is built for Open MPI.
    for event in Event::ALL {
        scenarios.push(Scenario::new(
            format!("cluster/openmpi/failures/lammps/{}", event.name()),
            event.shows(),
            move |c| course::run(c, Mpi::OpenMpi, event, Work::Melt),
        ));
    }
    scenarios
}

/// Does it; when.
pub fn happen(
    site: &Site,
    job: &BatchJob,
    event: Event,
    timeline: &mut Timeline,
) -> Result<Instant> {
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
        Event::SlurmdDiesOnBatchHost => call(&["kill-node", "--slurmd", "n1"])?,
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
