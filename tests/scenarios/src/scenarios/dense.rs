//! The dense mixed program, with windows, files and inter-communicators, under checkpoints every second and under
//! kills at random moments; its messages and collectives alone where the drain is told to mistreat one.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{ensure, Result};

use super::modes::same;
use super::Scenario;
use crate::context::{skipped, Context, Verdict};
use crate::job::Job;
use crate::mpi::Mpi;
use crate::product::{Intervals, Setup};
use crate::programs::DENSE;

/// Checkpoints as often as the configuration allows.
const EVERY_SECOND: Intervals = Intervals {
    local: 1,
    partner: 5,
    global: 10,
};

/// What a rank says that mistreated a message.
const MISTREATED: &str = "one drained message was mistreated";

/// How long a job whose message was mistreated may go on before it counts as hanging; undisturbed it
/// ends within ten seconds.
const CAUGHT_WITHIN: Duration = Duration::from_secs(15);

/// What a damaged drain must be caught at.
const SABOTAGE: [&str; 4] = ["drop", "duplicate", "reorder", "corrupt"];

pub fn all() -> Vec<Scenario> {
    let mut scenarios = vec![];
    for mpi in Mpi::ALL {
        let name = |what: &str| format!("dense/{}/{what}", mpi.name());
        scenarios.push(Scenario::new(
            name("checks-itself"),
            "a lost, doubled, reordered or altered message changes the hash",
            move |c| checks_itself(c, mpi),
        ));
        scenarios.push(Scenario::new(
            name("soak"),
            "checkpoints every second: none failed, the native hash",
            move |c| soak(c, mpi),
        ));
        scenarios.push(Scenario::new(
            name("kills"),
            "kill and resume at random moments: the native hash",
            move |c| kills(c, mpi),
        ));
        for how in SABOTAGE {
            scenarios.push(Scenario::new(
                name(&format!("drained-{how}")),
                "a drain that mistreats one message is caught",
                move |c| sabotaged_drain(c, mpi, how),
            ));
        }
    }
    scenarios
}

/// Rounds for about `seconds` of work natively, and the arguments.
fn arguments(context: &Context, mpi: Mpi, seconds: u64) -> Vec<String> {
    // In the full run MPICH's ranks busy-wait: three on two processors take turns by the scheduler's slices.
    let slow = context.full && mpi != Mpi::OpenMpi;
    let rounds = seconds * if slow { 25 } else { 80 };
    options(context, rounds, &["--pause", "10", "--mixed", "7"])
}

/// Arguments for a run whose drains hold many messages of one stream: more messages a round, and a
/// rank that is idle most of the time while the others send to it.
fn crowded(context: &Context, mpi: Mpi) -> Vec<String> {
    let rounds = if mpi == Mpi::OpenMpi { 50 } else { 40 };
    options(context, rounds, &["--pause", "300", "--messages", "64"])
}

fn options(context: &Context, rounds: u64, more: &[&str]) -> Vec<String> {
    let seed = 1 + context.random("dense").below(1_000_000);
    let (rounds, seed) = (rounds.to_string(), seed.to_string());
    [&["--rounds", &rounds, "--seed", &seed], more]
        .concat()
        .into_iter()
        .map(str::to_owned)
        .collect()
}

/// The command line for a run, its native hash and how long that took.
fn prepared(
    context: &Context,
    mpi: Mpi,
    place: &std::path::Path,
    arguments: &[String],
) -> Result<(Vec<String>, String)> {
    let executable = context.build(&DENSE, mpi)?;
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let line = DENSE.line(&executable, &words);
    let expected = context.native(
        &format!("dense {} {}", mpi.name(), arguments.join(" ")),
        || {
            let mut command = mpi.native(DENSE.ranks);
            command.args(&line).current_dir(place);
            Job::start(command, place)?
                .wait(Duration::from_secs(1200))?
                .expect(0)?
                .result()
        },
    )?;
    Ok((line, expected))
}

fn checks_itself(context: &Context, mpi: Mpi) -> Result<Verdict> {
    if let Some(why) = DENSE.missing(mpi) {
        return skipped(why);
    }
    let mut place = context.directory("dense-checks")?;
    let plain: Vec<String> = ["--rounds", "100", "--pause", "0"]
        .map(str::to_owned)
        .to_vec();
    let (line, expected) = prepared(context, mpi, place.path(), &plain)?;
    for how in SABOTAGE {
        let mut command = mpi.native(DENSE.ranks);
        command
            .args(&line)
            .args(["--sabotage", how])
            .current_dir(place.path());
        let ended = Job::start(command, place.path())?.wait(Duration::from_secs(60))?;
        ensure!(ended.code() != 0, "{how}: exit code 0\n{}", ended.report());
        ensure!(
            ended.result()? != expected,
            "{how}: the native hash\n{}",
            ended.report()
        );
    }
    place.done();
    Ok(Verdict::Passed(
        "drop, duplicate, reorder, corrupt".to_owned(),
    ))
}

/// Counts that the coordinator keeps.
#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    due: u64,
    covered: u64,
    committed: u64,
    abandoned: u64,
}

fn counts(setup: &Setup) -> Option<Counts> {
    let ended = setup
        .mana("status", &["--json"], Duration::from_secs(10))
        .ok()?;
    let status: serde_json::Value = serde_json::from_str(&ended.stdout).ok()?;
    let number = |name: &str| status.get(name)?.as_u64();
    Some(Counts {
        due: number("due")?,
        covered: number("covered")?,
        committed: number("committed")?,
        abandoned: number("abandoned")?,
    })
}

fn soak(context: &Context, mpi: Mpi) -> Result<Verdict> {
    if let Some(why) = DENSE.missing(mpi) {
        return skipped(why);
    }
    let Some(product) = context.product() else {
        return skipped("no installed tree was named with --mana");
    };
    let seconds = if context.full { 600 } else { 15 };
    let mut place = context.directory("dense-soak")?;
    let (line, expected) = prepared(
        context,
        mpi,
        place.path(),
        &arguments(context, mpi, seconds),
    )?;
    let setup = product.setup(place.path(), mpi, DENSE.ranks, EVERY_SECOND)?;
    let mut job = setup.launch(&[], &line)?;
    let started = Instant::now();
    let limit = Duration::from_secs(seconds * 4 + 120);
    let mut last = Counts::default();
    let mut asked = Instant::now();
    while !job.ended()? && started.elapsed() < limit {
        if asked.elapsed() > Duration::from_secs(1) {
            last = counts(&setup).unwrap_or(last);
            asked = Instant::now();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let took = started.elapsed().as_secs_f64();
    let ended = job.wait(Duration::from_secs(5))?;
    same(&ended, &expected)?;
    let line = format!(
        "{took:.0} s, due {}, committed {}, abandoned {}, {} due times passed meanwhile",
        last.due, last.committed, last.abandoned, last.covered
    );
    ensure!(
        last.due > 0,
        "no checkpoint fell due: {line}\n{}",
        ended.report()
    );
    // The one in progress at the last question is neither.
    ensure!(
        last.abandoned == 0 && last.committed + 1 >= last.due,
        "{line}\n{}",
        ended.report()
    );
    place.done();
    Ok(Verdict::Passed(line))
}

fn kills(context: &Context, mpi: Mpi) -> Result<Verdict> {
    if let Some(why) = DENSE.missing(mpi) {
        return skipped(why);
    }
    let Some(product) = context.product() else {
        return skipped("no installed tree was named with --mana");
    };
    let wanted = if context.full { 50 } else { 4 };
    let mut place = context.directory("dense-kills")?;
    let (line, expected) = prepared(
        context,
        mpi,
        place.path(),
        &arguments(context, mpi, if context.full { 120 } else { 15 }),
    )?;
    let setup = product.setup(place.path(), mpi, DENSE.ranks, EVERY_SECOND)?;
    let stores = setup.stores();
    let mut random = context.random(&format!("kills {}", mpi.name()));
    let mut seen = BTreeSet::new();
    let mut job = setup.launch(&[], &line)?;
    let mut killed = 0;
    while killed < wanted {
        // At least one new generation, so that every round makes progress; then a random moment.
        let before = seen.clone();
        let outcome = job.until("a new generation", Duration::from_secs(120), |_| {
            stores
                .committed()
                .into_iter()
                .any(|id| !before.contains(&id))
                .then_some(())
        });
        if outcome.is_err() && killed > 0 && job.ended()? {
            break;
        }
        outcome?;
        let moment = Instant::now() + Duration::from_millis(random.below(1500));
        while Instant::now() < moment && !job.ended()? {
            std::thread::sleep(Duration::from_millis(2));
        }
        if job.ended()? {
            break;
        }
        job.kill_ranks();
        let ended = job.wait(Duration::from_secs(60))?;
        // The kill may come when the end is on record, and the processes are about to leave.
        let over = ended.code() == 0
            || setup
                .mana("list", &[], Duration::from_secs(20))?
                .stdout
                .contains("ended normally");
        if over {
            let found = ended.result()?;
            ensure!(
                found == expected,
                "{found}, {expected} natively\n{}",
                ended.report()
            );
            place.done();
            return Ok(Verdict::Passed(format!("{killed} kills before the end")));
        }
        killed += 1;
        seen.extend(stores.committed());
        job = setup.launch(&["--restart"], &line)?;
    }
    same(&job.wait(Duration::from_secs(1200))?, &expected)?;
    place.done();
    Ok(Verdict::Passed(format!(
        "{killed} kills, {} generations seen",
        seen.len()
    )))
}

/// A product whose drain mistreats one message (a named fault) must fail the dense program.
fn sabotaged_drain(context: &Context, mpi: Mpi, how: &'static str) -> Result<Verdict> {
    if let Some(why) = DENSE.missing(mpi) {
        return skipped(why);
    }
    let Some(product) = context.product() else {
        return skipped("no installed tree was named with --mana");
    };
    if !product.has_faults() {
        return skipped("this build has no fault points (MANA_FAULT)");
    }
    let mut place = context.directory("dense-sabotage")?;
    let (line, expected) = prepared(context, mpi, place.path(), &crowded(context, mpi))?;
    let mut setup = product.setup(
        place.path(),
        mpi,
        DENSE.ranks,
        Intervals {
            local: 1,
            partner: 0,
            global: 0,
        },
    )?;
    setup
        .environment
        .push(("MANA_FAULT".to_owned(), format!("drained-{how}")));
    let mut job = setup.launch(&[], &line)?;
    let found = job.until("a mistreated message", Duration::from_secs(90), |job| {
        job.messages().contains(MISTREATED).then_some(())
    });
    if let Err(error) = found {
        // The last word may come with the end.
        if !job.messages().contains(MISTREATED) {
            return Err(error.context(format!("no drain could {how} a message")));
        }
    }
    let Ok(ended) = job.wait(CAUGHT_WITHIN) else {
        place.done();
        return Ok(Verdict::Passed(
            "it hangs, and is ended by the limit".to_owned(),
        ));
    };
    ensure!(
        ended.code() != 0 || ended.result()? != expected,
        "a drain told to {how} a message went unnoticed \n{}",
        ended.report()
    );
    place.done();
    Ok(Verdict::Passed(format!("exit code {}", ended.code())))
}
