//! When a job resumes by itself, when it starts afresh, and when it refuses, without Slurm: the
//! variable that a requeue sets is set by hand.

use std::path::Path;
use std::time::Duration;

use anyhow::{ensure, Context as _, Result};

use super::modes::same;
use super::Scenario;
use crate::context::{skipped, Context, Verdict};
use crate::job::Job;
use crate::mpi::Mpi;
use crate::product::{Intervals, Setup};
use crate::programs::{Program, PROGRAMS};

const LIMIT: Duration = Duration::from_secs(120);
const SOON: Intervals = Intervals {
    local: 1,
    partner: 0,
    global: 0,
};

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "requeue/unfinished-refused",
            "an unfinished job, neither requeue nor --restart: exit 99, not started",
            |c| run(c, Case::Refused),
        ),
        Scenario::new(
            "requeue/fresh",
            "--fresh starts it from the beginning",
            |c| run(c, Case::Fresh),
        ),
        Scenario::new(
            "requeue/fresh-again",
            "--fresh in a command that is started again by itself: it resumes, and a line says so",
            |c| run(c, Case::FreshAgain),
        ),
        Scenario::new(
            "requeue/by-itself",
            "SLURM_RESTART_COUNT > 0 resumes by itself",
            |c| run(c, Case::Requeued),
        ),
        Scenario::new(
            "requeue/before-commit",
            "requeued before any commit: from the beginning, with a line",
            |c| run(c, Case::Early),
        ),
        Scenario::new(
            "requeue/without-records",
            "requeued, its records gone and its checkpoints not: exit 99, with a line; --fresh begins anew",
            |c| run(c, Case::WithoutRecords),
        ),
        Scenario::new(
            "requeue/after-end",
            "a finished job that runs again starts afresh",
            |c| run(c, Case::Finished),
        ),
        Scenario::new(
            "requeue/failed-after-end",
            "a finished job whose launcher failed afterwards: mana run does not compute it again",
            |c| run(c, Case::FailedAfterEnd),
        ),
        Scenario::new(
            "requeue/ranks-disagree",
            "one rank resumes and one begins: exit 99 with a line, no hang",
            |c| run(c, Case::Disagree),
        ),
    ]
}

#[derive(Clone, Copy, PartialEq)]
enum Case {
    Refused,
    Fresh,
    FreshAgain,
    Requeued,
    Early,
    WithoutRecords,
    Finished,
    FailedAfterEnd,
    Disagree,
}

fn slurm(setup: &Setup, restarts: u32) -> Setup {
    let mut setup = setup.clone();
    setup
        .environment
        .push(("SLURM_RESTART_COUNT".to_owned(), restarts.to_string()));
    setup
}

/// As `mana run` starts it another time.
fn again(setup: &Setup) -> Setup {
    let mut setup = setup.clone();
    for (name, value) in [("MANA_RESTART", "retry"), ("MANA_RUN_BEGUN", "0")] {
        setup.environment.push((name.to_owned(), value.to_owned()));
    }
    setup
}

/// Rank 0 resumes, the others begin: what a file system that shows files late would lead to.
fn disagreeing(setup: &Setup, directory: &Path, line: &[String]) -> Result<Job> {
    let quoted: Vec<String> = line.iter().map(|word| format!("'{word}'")).collect();
    let script = format!(
        "if [ \"$OMPI_COMM_WORLD_RANK\" = 0 ]; then how=--restart; else how=--fresh; fi\n\
         exec '{}' --config '{}' --id {} $how -- {}",
        setup.product.command("mana_launch").display(),
        setup.configuration().display(),
        setup.id,
        quoted.join(" ")
    );
    let mut command = setup.mpi.launcher(setup.ranks, false);
    command.args(["sh", "-c", &script]).current_dir(directory);
    Job::start(command, directory)
}

/// `mana run` of a command line that fails once after its job has ended normally.
fn failing_afterwards(setup: &Setup, line: &[String]) -> Result<Job> {
    let launcher = setup.mpi.launcher(setup.ranks, false);
    let quoted = |word: &std::ffi::OsStr| format!("'{}'", word.to_string_lossy());
    let mut words: Vec<String> = vec![quoted(launcher.get_program())];
    words.extend(launcher.get_args().map(quoted));
    let script = format!(
        "{} '{}' --config '{}' --id {} -- {} && mkdir once 2>/dev/null && exit 1; [ -d once ]",
        words.join(" "),
        setup.product.command("mana_launch").display(),
        setup.configuration().display(),
        setup.id,
        line.join(" ")
    );
    let mut command = std::process::Command::new(setup.product.command("mana"));
    command
        .args(["run", "--", "sh", "-c", &script])
        .current_dir(&setup.directory);
    for (name, value) in launcher.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    Job::start(command, &setup.directory)
}

fn run(context: &Context, case: Case) -> Result<Verdict> {
    let program: &Program = &PROGRAMS[0];
    let mpi = Mpi::OpenMpi;
    if let Some(why) = program.missing(mpi) {
        return skipped(why);
    }
    let Some(product) = context.product() else {
        return skipped("no installed tree was named with --mana");
    };
    let mut place = context.directory("requeue")?;
    let executable = context.build(program, mpi)?;
    let line = program.line(&executable, program.slow);
    let intervals = if case == Case::Early {
        Intervals::default()
    } else {
        SOON
    };
    let setup = product.setup(place.path(), mpi, program.ranks, intervals)?;
    let expected = context.native(program.name, || {
        let mut command = mpi.native(program.ranks);
        command
            .args(program.line(&executable, program.fast))
            .current_dir(place.path());
        Job::start(command, place.path())?
            .wait(LIMIT)?
            .expect(0)?
            .result()
    })?;

    if case == Case::FailedAfterEnd {
        let ended = failing_afterwards(&setup, &line)?.wait(LIMIT)?;
        same(&ended, &expected)?;
        ensure!(
            ended.stderr.contains("starting again (1 of 3)")
                && ended.stderr.contains("has ended normally"),
            "not started again, or not told why nothing ran\n{}",
            ended.report()
        );
        place.done();
        return Ok(Verdict::Passed(String::new()));
    }
    let mut setup = setup;
    if case != Case::Finished {
        setup.hold();
    }
    let mut job = setup.launch(&[], &line)?;
    match case {
        Case::Finished => {
            same(&job.wait(LIMIT)?, &expected)?;
            let again = slurm(&setup, 1).launch(&[], &line)?.wait(LIMIT)?;
            same(&again, &expected)?;
            place.done();
            return Ok(Verdict::Passed(String::new()));
        }
        Case::Early => {
            let stores = setup.stores();
            // Its ranks run when the job's state exists; nothing is ever committed.
            job.until("the ranks", LIMIT, |job| {
                (job.ranks().len() >= 2
                    && stores
                        .global
                        .read_dir()
                        .is_ok_and(|mut d| d.next().is_some()))
                .then_some(())
            })?;
        }
        _ => {
            let stores = setup.stores();
            job.until("a generation", LIMIT, |_| {
                (!stores.committed().is_empty()).then_some(())
            })?;
        }
    }
    job.kill_ranks();
    job.wait(Duration::from_secs(60))?;
    setup.release()?;

    let ended = match case {
        Case::Refused => {
            let ended = setup.launch(&[], &line)?.wait(LIMIT)?;
            ended.expect(99)?;
            ensure!(
                !ended.stdout.contains("RESULT"),
                "the program ran\n{}",
                ended.report()
            );
            for word in ["--restart", "--fresh"] {
                ensure!(
                    ended.stderr.contains(word),
                    "{word} is not named\n{}",
                    ended.report()
                );
            }
            place.done();
            return Ok(Verdict::Passed(String::new()));
        }
        Case::Disagree => {
            let ended = disagreeing(&setup, place.path(), &line)?.wait(LIMIT)?;
            ensure!(
                ended.code() != 0 && ended.stderr.contains("starts from the beginning"),
                "no line says what the ranks do\n{}",
                ended.report()
            );
            place.done();
            return Ok(Verdict::Passed(String::new()));
        }
        Case::WithoutRecords => {
            std::fs::remove_dir_all(setup.stores().global.join(&setup.id))
                .context("deleting the records")?;
            let ended = slurm(&setup, 1).launch(&[], &line)?.wait(LIMIT)?;
            ended.expect(99)?;
            ensure!(
                ended.stderr.contains("has no record of job") && ended.stderr.contains("--fresh"),
                "not told why, or how to go on\n{}",
                ended.report()
            );
            setup.launch(&["--fresh"], &line)?.wait(LIMIT)?
        }
        Case::Fresh => setup.launch(&["--fresh"], &line)?.wait(LIMIT)?,
        Case::FreshAgain => again(&setup).launch(&["--fresh"], &line)?.wait(LIMIT)?,
        _ => slurm(&setup, 1).launch(&[], &line)?.wait(LIMIT)?,
    };
    same(&ended, &expected)?;
    let resumed = ended.stderr.contains("resum");
    match case {
        Case::WithoutRecords => ensure!(!resumed, "it resumed\n{}", ended.report()),
        Case::Requeued => ensure!(resumed, "nothing says that it resumed\n{}", ended.report()),
        Case::FreshAgain => ensure!(
            resumed && ended.stderr.contains("--fresh was for the first start"),
            "it began anew, or nothing says why not\n{}",
            ended.report()
        ),
        Case::Early => ensure!(
            ended.stderr.contains("beginning"),
            "no line says that it starts from the beginning\n{}",
            ended.report()
        ),
        _ => {}
    }
    place.done();
    Ok(Verdict::Passed(String::new()))
}
