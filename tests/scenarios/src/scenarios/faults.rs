//! SIGKILL during a checkpoint, at every step of it (named fault points), at every moment that the disk shows,
//! and at random instants: recovery takes the newest generation that was committed and servable at the kill, never the beginning,
//! never a mixture.

use std::time::{Duration, Instant};

use anyhow::{ensure, Context as _, Result};

use super::modes::same;
use super::Scenario;
use crate::context::{skipped, Context, Verdict};
use crate::generations::{resumed, Generation, Id};
use crate::mpi::Mpi;
use crate::product::{Intervals, Setup};
use crate::programs::{Program, PROGRAMS};

const LIMIT: Duration = Duration::from_secs(120);
const OFTEN: Intervals = Intervals {
    local: 1,
    partner: 2,
    global: 3,
};

/// A moment of a checkpoint, as the disk shows it.
struct Moment {
    name: &'static str,
    /// Is the generation at it? With the number of ranks, which are one on each node.
    met: fn(&Generation, usize) -> bool,
}

const MOMENTS: &[Moment] = &[
    Moment {
        name: "image-being-written",
        met: |g, _| !g.unfinished.is_empty() && g.manifests.is_empty(),
    },
    Moment {
        name: "some-images",
        met: |g, n| !g.own.is_empty() && g.own.len() < n && g.manifests.is_empty(),
    },
    Moment {
        name: "all-images",
        met: |g, n| g.own.len() == n && g.manifests.is_empty(),
    },
    Moment {
        name: "some-manifests",
        met: |g, n| !g.manifests.is_empty() && g.manifests.len() < n,
    },
    Moment {
        name: "committed",
        met: |g, n| g.manifests.len() >= n,
    },
    Moment {
        name: "some-partner-copies",
        met: |g, n| !g.partner.is_empty() && g.partner.len() < n,
    },
    Moment {
        name: "level-complete",
        met: |g, _| !g.records.is_empty(),
    },
    Moment {
        name: "some-global-copies",
        met: |g, n| !g.global.is_empty() && g.global.len() < n,
    },
];

/// The steps of a checkpoint in their order: each fault point, and at which arrival there it strikes. A
/// generation is committed by then.
const POINTS: &[(&str, u32)] = &[
    ("rank.intent", 2),
    ("rank.targets", 2),
    ("rank.stop", 2),
    ("rank.drain", 2),
    ("rank.capture", 2),
    ("rank.resume", 2),
    ("image.before", 2),
    ("image.after", 2),
    ("rank.commit", 2),
    ("commit.before", 2),
    ("commit.after", 2),
    ("rank.level-complete", 2),
    ("complete.before", 2),
    ("complete.after", 2),
    ("rank.level-work", 1),
    ("partner.before", 1),
    ("partner.after", 1),
    ("global.before", 1),
    ("global.after", 1),
    ("rank.prune", 2),
    ("prune.before", 1),
    ("prune.after", 1),
];

/// How often a moment that passed too quickly to be met is waited for again.
const ATTEMPTS: u32 = 3;
/// Generations in which it is waited for.
const AT_MOST: u64 = 12;

pub fn all() -> Vec<Scenario> {
    let mut scenarios: Vec<_> = MOMENTS
        .iter()
        .map(|moment| {
            Scenario::new(
                format!("faults/{}", moment.name),
                "all ranks killed at this moment of a later checkpoint",
                move |c| at_moment(c, moment),
            )
        })
        .collect();
    scenarios.push(Scenario::new(
        "faults/end-not-recorded",
        "rank 0 killed when all have ended, before that is on record: nothing is deleted, the job goes on",
        end_not_recorded,
    ));
    scenarios.push(Scenario::new(
        "faults/random",
        "all ranks or one killed at random instants of checkpointing",
        random,
    ));
    scenarios
}

/// The named points, which depend on no time: each on one MPI by turns, in the full run on both.
pub fn points(full: bool) -> Vec<Scenario> {
    let mut scenarios = Vec::new();
    for (number, (point, arrival)) in POINTS.iter().enumerate() {
        for (turn, mpi) in Mpi::ALL.into_iter().enumerate() {
            if full || (number + turn) % 2 == 0 {
                scenarios.push(Scenario::new(
                    format!("faults/{point}/{}", mpi.name()),
                    "a rank killed at this step of a later checkpoint",
                    move |c| at_point(c, mpi, point, *arrival),
                ));
            }
        }
    }
    scenarios
}

struct Prepared {
    setup: Setup,
    line: Vec<String>,
    expected: String,
    place: crate::context::Workplace,
}

fn prepare(
    context: &Context,
    name: &str,
    mpi: Mpi,
) -> Result<std::result::Result<Prepared, Verdict>> {
    let program: &Program = PROGRAMS
        .iter()
        .find(|program| program.name == "wildcards")
        .context("no such program")?;
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
    let expected = context.native(&format!("{} {}", program.name, mpi.name()), || {
        let mut command = mpi.native(program.ranks);
        command
            .args(program.line(&executable, program.fast))
            .current_dir(place.path());
        crate::job::Job::start(command, place.path())?
            .wait(LIMIT)?
            .expect(0)?
            .result()
    })?;
    let mut setup = product.setup(place.path(), mpi, program.ranks, OFTEN)?;
    setup.hold();
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
    prepared.setup.release()?;
    let ended = prepared
        .setup
        .launch(&["--restart"], &prepared.line)?
        .wait(LIMIT)?;
    same(&ended, &prepared.expected)?;
    let chosen = resumed(&ended.stderr);
    ensure!(
        chosen == Some((incarnation, number)),
        "expected {incarnation}.{number}, chosen {chosen:?}\n{}",
        ended.report()
    );
    Ok(format!("expected and chosen {incarnation}.{number}"))
}

fn at_moment(context: &Context, moment: &Moment) -> Result<Verdict> {
    for _ in 0..ATTEMPTS {
        let name = format!("faults-{}", moment.name);
        let mut prepared = match prepare(context, &name, Mpi::OpenMpi)? {
            Ok(prepared) => prepared,
            Err(verdict) => return Ok(verdict),
        };
        let stores = prepared.setup.stores();
        let ranks = prepared.setup.ranks as usize;
        let mut job = prepared.setup.launch(&[], &prepared.line)?;
        let deadline = Instant::now() + LIMIT;
        let mut met = false;
        while !met && !job.ended()? && Instant::now() < deadline {
            let generations = stores.generations();
            if generations.keys().any(|(_, number)| *number > AT_MOST) {
                prepared.setup.release()?;
            }
            met = generations.len() >= 2
                && generations
                    .values()
                    .next_back()
                    .is_some_and(|newest| (moment.met)(newest, ranks));
            if !met {
                std::thread::sleep(Duration::from_micros(300));
            }
        }
        if !met {
            job.wait(LIMIT)?.expect(0)?;
            prepared.place.done();
            continue;
        }
        job.kill_ranks();
        let ended = job.wait(Duration::from_secs(60))?;
        ensure!(
            ended.code() != 0,
            "killed, and it ended well\n{}",
            ended.report()
        );
        let note = recover(&prepared, stores.servable())?;
        prepared.place.done();
        return Ok(Verdict::Passed(note));
    }
    Ok(Verdict::Skipped(format!(
        "the moment passed too quickly to be met, {ATTEMPTS} times"
    )))
}

fn at_point(context: &Context, mpi: Mpi, point: &str, arrival: u32) -> Result<Verdict> {
    if !context
        .product()
        .is_some_and(|product| product.has_faults())
    {
        return skipped("this build has no fault points (MANA_FAULT)");
    }
    let name = format!("faults-{point}-{}", mpi.name());
    let mut prepared = match prepare(context, &name, mpi)? {
        Ok(prepared) => prepared,
        Err(verdict) => return Ok(verdict),
    };
    // Rank 0 has what is done once a job.
    let rank = context.random(&name).below(u64::from(prepared.setup.ranks));
    let mut setup = prepared.setup.clone();
    setup
        .environment
        .push(("MANA_FAULT".to_owned(), format!("{point}:{arrival}@{rank}")));
    let ended = setup.launch(&[], &prepared.line)?.wait(LIMIT)?;
    ensure!(
        ended.code() != 0,
        "the point was not met\n{}",
        ended.report()
    );
    let note = recover(&prepared, prepared.setup.stores().servable())?;
    prepared.place.done();
    Ok(Verdict::Passed(format!("rank {rank}: {note}")))
}

/// The other ranks have ended, and delete their images as soon as they know that all have: not before a
/// restart can know it too.
fn end_not_recorded(context: &Context) -> Result<Verdict> {
    if !context
        .product()
        .is_some_and(|product| product.has_faults())
    {
        return skipped("this build has no fault points (MANA_FAULT)");
    }
    let mut prepared = match prepare(context, "faults-end", Mpi::OpenMpi)? {
        Ok(prepared) => prepared,
        Err(verdict) => return Ok(verdict),
    };
    prepared.setup.release()?;
    let mut setup = prepared.setup.clone();
    let fault = ("MANA_FAULT".to_owned(), "end.before@0".to_owned());
    setup.environment.push(fault);
    let ended = setup.launch(&[], &prepared.line)?.wait(LIMIT)?;
    ensure!(ended.code() != 0, "it ended well\n{}", ended.report());
    let note = recover(&prepared, prepared.setup.stores().servable())?;
    prepared.place.done();
    Ok(Verdict::Passed(note))
}

fn random(context: &Context) -> Result<Verdict> {
    let kills = if context.full { 100 } else { 5 };
    let mut random = context.random("faults");
    let mut notes = Vec::new();
    for turn in 0..kills {
        let mpi = [Mpi::OpenMpi, Mpi::Mpich][turn % 2];
        let mut prepared = match prepare(context, "faults-random", mpi)? {
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
