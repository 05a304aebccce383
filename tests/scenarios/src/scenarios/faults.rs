//! SIGKILL during a checkpoint, at every named step and at random instants: recovery takes the
//! newest generation that was committed and servable at the kill, never the beginning, never a
//! mixture.

use std::time::{Duration, Instant};

use anyhow::{ensure, Context as _, Result};

use super::modes::same;
use super::Scenario;
use crate::context::{Context, Verdict};
use crate::generations::Id;
use crate::mpi::Mpi;
use crate::product::{Intervals, Setup};
use crate::programs::{Program, PROGRAMS};

const LIMIT: Duration = Duration::from_secs(120);
const OFTEN: Intervals = Intervals {
    local: 1,
    partner: 2,
    global: 3,
};

/// The steps of a checkpoint; `MANA_FAULT=<point>:<generation>:<rank>` kills a rank there.
const POINTS: &[&str] = &[
    "intent",
    "gate",
    "stop",
    "drain",
    "capture",
    "resume",
    "write-begin",
    "write-middle",
    "write-end",
    "rename-image",
    "durable",
    "manifest-begin",
    "manifest-rename",
    "commit",
    "partner-begin",
    "partner-end",
    "global-begin",
    "global-end",
    "prune",
];

pub fn all() -> Vec<Scenario> {
    let mut scenarios: Vec<_> = POINTS
        .iter()
        .map(|point| {
            Scenario::new(
                format!("faults/{point}"),
                "a rank killed at this step of its second checkpoint",
                move |c| at_point(c, point),
            )
        })
        .collect();
    scenarios.push(Scenario::new(
        "faults/random",
        "all ranks or one killed at random instants of checkpointing",
        random,
    ));
    scenarios
}

struct Prepared {
    setup: Setup,
    line: Vec<String>,
    expected: String,
    place: crate::context::Workplace,
}

fn prepare(context: &Context, name: &str) -> Result<std::result::Result<Prepared, Verdict>> {
    let program: &Program = PROGRAMS
        .iter()
        .find(|program| program.name == "wildcards")
        .context("no such program")?;
    let mpi = Mpi::OpenMpi;
    if let Some(why) = program.missing(mpi) {
        return Ok(Err(Verdict::Skipped(why)));
    }
    let Some(product) = context.product() else {
        return Ok(Err(Verdict::Skipped(
            "no installed tree was named with --mana".into(),
        )));
    };
    let place = context.directory(name)?;
    let executable = context.build(program, mpi)?;
    let expected = context.native(program.name, || {
        let mut command = mpi.launcher(program.ranks, false);
        command
            .args(program.line(&executable, program.fast))
            .current_dir(place.path());
        crate::job::Job::start(command, place.path())?
            .wait(LIMIT)?
            .expect(0)?
            .result()
    })?;
    let setup = product.setup(place.path(), mpi, program.ranks, OFTEN)?;
    let line = program.line(&executable, &["--pause", "40"]);
    Ok(Ok(Prepared {
        setup,
        line,
        expected,
        place,
    }))
}

/// Resume and hold the choice against what the disk had at the kill.
fn recover(prepared: &Prepared, servable: Option<Id>) -> Result<String> {
    let (incarnation, number) =
        servable.context("nothing was committed and servable at the kill")?;
    let ended = prepared
        .setup
        .launch(&["--restart"], &prepared.line)?
        .wait(LIMIT)?;
    same(&ended, &prepared.expected)?;
    let chosen = ended
        .stderr
        .lines()
        .find(|line| line.contains("resum"))
        .unwrap_or("")
        .trim()
        .to_owned();
    let named = format!("{incarnation}.{number}");
    ensure!(
        chosen.contains(&named) || chosen.contains(&format!("generation {number}")),
        "expected {named}, chosen: {chosen}\n{}",
        ended.report()
    );
    Ok(format!("expected {named}, chosen {chosen}"))
}

fn at_point(context: &Context, point: &str) -> Result<Verdict> {
    let mut prepared = match prepare(context, &format!("faults-{point}"))? {
        Ok(prepared) => prepared,
        Err(verdict) => return Ok(verdict),
    };
    let setup = prepared.setup.clone();
    prepared
        .setup
        .environment
        .push(("MANA_FAULT".to_owned(), format!("{point}:2:1")));
    let stores = setup.stores();
    let mut job = prepared.setup.launch(&[], &prepared.line)?;
    let deadline = Instant::now() + LIMIT;
    // The fault kills rank 1; mpirun then ends the others.
    while !job.ended()? && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    let ended = job.wait(Duration::from_secs(5))?;
    if ended.code() == 0 {
        return Err(anyhow::anyhow!(
            "the fault point {point} was never reached\n{}",
            ended.report()
        ));
    }
    prepared.setup = setup;
    let note = recover(&prepared, stores.servable())?;
    prepared.place.done();
    Ok(Verdict::Passed(note))
}

fn random(context: &Context) -> Result<Verdict> {
    let kills = if context.full { 100 } else { 5 };
    let mut random = context.random("faults");
    let mut notes = Vec::new();
    for turn in 0..kills {
        let mut prepared = match prepare(context, "faults-random")? {
            Ok(prepared) => prepared,
            Err(verdict) => return Ok(verdict),
        };
        let stores = prepared.setup.stores();
        let mut job = prepared.setup.launch(&[], &prepared.line)?;
        job.until("a generation", LIMIT, |_| {
            (!stores.committed().is_empty()).then_some(())
        })?;
        let moment = Instant::now() + Duration::from_micros(random.below(2_500_000));
        while Instant::now() < moment {
            std::hint::spin_loop();
            std::thread::sleep(Duration::from_micros(200));
        }
        if random.below(2) == 0 {
            job.kill_ranks();
        } else {
            job.kill_rank(random.below(u64::from(prepared.setup.ranks)) as u32);
        }
        let ended = job.wait(Duration::from_secs(60))?;
        ensure!(
            ended.code() != 0,
            "killed, and it ended well\n{}",
            ended.report()
        );
        let note = recover(&prepared, stores.servable()).with_context(|| format!("kill {turn}"))?;
        println!("  kill {turn}: {note}");
        notes.push(note);
        prepared.place.done();
    }
    Ok(Verdict::Passed(format!("{} kills", notes.len())))
}
