//! A Slurm cluster of namespaces (tests/cluster): several nodes, Open MPI by PMIx, MPICH by PMI-2,
//! requeue, a node that loses power.

pub mod bed;
mod course;
mod crashes;
mod failures;
mod grace;
mod limits;
mod mpirun;
mod resubmitted;
mod scratch;
mod serial;
mod steps;
mod templates;
mod user;
mod wiped;

use std::time::Duration;

use anyhow::{ensure, Context as _, Result};

use self::bed::{cure, interface, native_of, native_result, results, Cluster, Site};
use super::Scenario;
use crate::context::{skipped, Context, Verdict};
use crate::mpi::Mpi;
use crate::programs::{Program, PROGRAMS};

const NODES: u32 = 4;
const LIMIT: Duration = Duration::from_secs(240);

#[derive(Clone, Copy, PartialEq)]
enum Event {
    None,
    Requeue,
    PowerLoss,
}

/// `full`: also those that only the full run has.
pub fn all(full: bool) -> Vec<Scenario> {
    let mut scenarios = if full { failures::all() } else { Vec::new() };
    scenarios.push(Scenario::new(
        "cluster/doctor",
        "mana doctor --self-test in an allocation of one CPU, and of two nodes",
        crashes::doctor,
    ));
    scenarios.push(Scenario::new(
        "cluster/serial",
        "programs without MPI under srun for MPI programs, alone and as several tasks, requeued: each resumes its own images",
        serial::run,
    ));
    for mpi in Mpi::ALL {
        let name = |what: &str| format!("cluster/{}/{what}", mpi.name());
        scenarios.push(Scenario::new(
            name("native"),
            "srun runs the native program on 4 nodes",
            move |c| native(c, mpi),
        ));
        scenarios.push(Scenario::new(
            name("plain"),
            "srun mana_launch on 4 nodes: the native result",
            move |c| product(c, mpi, Event::None),
        ));
        scenarios.push(Scenario::new(
            name("requeue"),
            "scontrol requeue: it resumes by itself",
            move |c| product(c, mpi, Event::Requeue),
        ));
        scenarios.push(Scenario::new(
            name("power-loss"),
            "a node loses power: it resumes on those left, from partner copies",
            move |c| product(c, mpi, Event::PowerLoss),
        ));
        scenarios.push(Scenario::new(
            name("steps"),
            "a job with an ended step and two parallel ones, requeued: each resumes its own images",
            move |c| steps::run(c, mpi),
        ));
        scenarios.push(Scenario::new(
            name("limits"),
            "time slices go on by themselves; a signal of the user's, scancel: a last checkpoint",
            move |c| limits::run(c, mpi),
        ));
        if full || mpi == Mpi::Mpich {
            scenarios.push(Scenario::new(
                name("scratch-files"),
                "files on the nodes' own storage, the same path on all: requeued, each node's content is its own",
                move |c| scratch::run(c, mpi),
            ));
        }
        scenarios.push(Scenario::new(
            name("crashes"),
            "a rank crashes, a start comes to nothing or is refused: what mana requeue decides",
            move |c| crashes::run(c, mpi),
        ));
        scenarios.push(Scenario::new(
            name("grace"),
            "preempted with a grace time: the last checkpoint has that time too",
            move |c| grace::run(c, mpi),
        ));
        scenarios.push(Scenario::new(
            name("wiped"),
            "local storage is wiped between two starts: resumed from the global directory",
            move |c| wiped::run(c, mpi),
        ));
        if full || mpi == Mpi::Mpich {
            scenarios.push(Scenario::new(
                name("user"),
                "an ordinary user's job, requeued by its owner: what it leaves is his alone; doctor, status, clean-local",
                move |c| user::run(c, mpi),
            ));
        }
        if full || mpi == Mpi::OpenMpi {
            scenarios.push(Scenario::new(
                name("mpirun"),
                "mpirun mana_launch in a batch job, copies on the other switch, requeued",
                move |c| mpirun::run(c, mpi),
            ));
        }
        if full || mpi == Mpi::OpenMpi {
            scenarios.push(Scenario::new(
                name("resubmitted"),
                "the same script submitted again, its job unfinished: refused, or gone on with, also when requeued",
                move |c| resubmitted::run(c, mpi),
            ));
        }
        if full {
            scenarios.push(Scenario::new(
                name("templates"),
                "the job scripts of slurm/ as written, twice: preemption, an array, requeues, spare nodes, prolog and epilog",
                move |c| templates::run(c, mpi),
            ));
        }
    }
    scenarios
}

fn program() -> Result<&'static Program> {
    PROGRAMS
        .iter()
        .find(|program| program.name == "wildcards")
        .context("no such program")
}

fn native(context: &Context, mpi: Mpi) -> Result<Verdict> {
    let program = program()?;
    if let Some(why) = program.missing(mpi) {
        return skipped(why);
    }
    let mut place = context.directory("cluster-native")?;
    let expected = native_result(context, mpi, NODES, &[], place.path())?;
    let executable = context.build(program, mpi)?;
    let cluster = match Cluster::up(&place)? {
        Ok(cluster) => cluster,
        Err(why) => return skipped(why),
    };
    let preload = cure(mpi, place.path())?.map(|path| format!("LD_PRELOAD={}", path.display()));
    let line = program.line(&executable, program.fast);
    let mut words = vec![
        "timeout",
        "100",
        "srun",
        interface(mpi),
        "-K1",
        "-N4",
        "-n4",
        "env",
    ];
    words.extend(preload.as_deref());
    words.extend(line.iter().map(String::as_str));
    let ended = cluster.run(&words, LIMIT)?;
    let found = ended.expect(0)?.result()?;
    ensure!(found == expected, "result {found}, {expected} under mpirun");
    place.done();
    Ok(Verdict::Passed(String::new()))
}

/// What runs: where a node is lost under MPICH, a mixture of messages, collectives, windows and files. (Open MPI has no
/// windows between these nodes.)
fn disturbed(mpi: Mpi, event: Event) -> Result<&'static Program> {
    match (mpi, event) {
        (Mpi::Mpich, Event::PowerLoss) => PROGRAMS
            .iter()
            .find(|program| program.name == "dense")
            .context("no such program"),
        _ => program(),
    }
}

fn product(context: &Context, mpi: Mpi, event: Event) -> Result<Verdict> {
    let program = disturbed(mpi, event)?;
    let mut site = match Site::with(context, mpi, "cluster", program)? {
        Ok(site) => site,
        Err(why) => return skipped(why),
    };
    let nodes = if event == Event::PowerLoss {
        "3-4"
    } else {
        "4"
    };
    let files = site.place.path().join("written").display().to_string();
    let (fast, slow): (&[&str], Vec<&str>) = match program.name {
        "dense" => (
            program.fast,
            [&["--pause", "1500", "--files", &files], program.slow].concat(),
        ),
        // Undisturbed it only has to end.
        _ if event == Event::None => (&[], vec!["--pause", "30"]),
        _ => (&[], vec!["--pause", "400"]),
    };
    let expected = native_of(program, context, mpi, NODES, fast, site.place.path())?;
    let job = site.submit("requeue.sbatch", &["-n4", "-N", nodes], &slow, &[])?;
    if event != Event::None {
        // Committed is not yet copied: a node lost between the two takes that checkpoint with it.
        job.says("complete on level partner")?;
        let limit = Duration::from_secs(30);
        match event {
            Event::Requeue => site.cluster.run(&["scontrol", "requeue", &job.id], limit)?,
            _ => site.cluster.call(&["kill-node", "n2"], limit)?,
        }
        .expect(0)?;
        job.says("resumed generation ")?;
        job.hurry()?;
    }
    let text = job.ended()?;
    ensure!(
        results(&text) == [expected.as_str()],
        "results {:?}, {expected} natively\n{text}",
        results(&text)
    );
    let facts = check_resumed(event, &text)?;
    site.place.done();
    Ok(Verdict::Passed(facts))
}

/// That the job began once, resumed once, by itself, and from where it had to. Returns the line that
/// says from where.
fn check_resumed(event: Event, text: &str) -> Result<String> {
    let all = |word: &str| {
        let found = text.lines().filter(|line| line.contains(word));
        found.collect::<Vec<_>>()
    };
    let resumed = all("resumed generation ");
    let expected = usize::from(event != Event::None);
    ensure!(
        resumed.len() == expected,
        "resumed {} times, {expected} expected\n{text}",
        resumed.len()
    );
    let starts = all("are under control");
    ensure!(
        starts.len() == expected + 1,
        "{} starts, {} expected\n{text}",
        starts.len(),
        expected + 1
    );
    if event == Event::PowerLoss {
        ensure!(
            resumed[0].contains("partner copy"),
            "no image came from a partner's copy\n{text}"
        );
        ensure!(
            starts[1].contains("on 3 nodes"),
            "not on the nodes left\n{text}"
        );
    }
    let fact = resumed.first().and_then(|line| line.split_once("] "));
    Ok(fact.map_or(String::new(), |(_, fact)| fact.to_owned()))
}
