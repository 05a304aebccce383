//! Every program on every MPI: natively, under the product, through checkpoints, through a kill.
//! The result line is compared with the native run; it is the same for both MPIs.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{ensure, Result};

use super::Scenario;
use crate::context::{passed, skipped, Context, Verdict};
use crate::generations::{Id, Stores};
use crate::job::{Ended, Job};
use crate::mpi::Mpi;
use crate::product::{Intervals, Setup};
use crate::programs::{Program, BEYOND, PROGRAMS};
use crate::record::{self, Recording};

/// Longest any of these runs may take.
const LIMIT: Duration = Duration::from_secs(180);

/// Checkpoints on three levels, in quick succession.
pub const BUSY: Intervals = Intervals {
    local: 1,
    partner: 2,
    global: 3,
};

#[derive(Clone, Copy)]
enum Mode {
    Native,
    Plain,
    Continue,
    Resume,
}

/// The first parts of these scenarios' names.
pub const WORDS: [&str; 4] = ["native", "plain", "continue", "resume"];

impl Mode {
    /// As in the names of scenarios.
    fn word(self) -> &'static str {
        WORDS[self as usize]
    }
}

pub fn all() -> Vec<Scenario> {
    let modes = [
        (
            "the result is the same in two native runs and on both MPIs",
            Mode::Native,
        ),
        (
            "the result under mana_launch, no checkpoint taken",
            Mode::Plain,
        ),
        (
            "the result with checkpoints taken every second",
            Mode::Continue,
        ),
        (
            "the result after SIGKILL of all ranks and a resume",
            Mode::Resume,
        ),
    ];
    let mut scenarios = Vec::new();
    for (shows, mode) in modes {
        for program in PROGRAMS {
            for &mpi in program.mpis {
                let name = format!("{}/{}/{}", mode.word(), mpi.name(), program.name);
                scenarios.push(Scenario::new(name.clone(), shows, move |context| {
                    run(context, &name, program, mpi, mode)
                }));
            }
        }
    }
    scenarios
}

/// What needs more memory than small jobs beside each other may.
pub fn heavy() -> Vec<Scenario> {
    let name = format!(
        "{}/{}/{}",
        Mode::Plain.word(),
        Mpi::Mpich.name(),
        BEYOND.name
    );
    let shows = "collectives of 2 GiB have the native result";
    vec![Scenario::new(name.clone(), shows, move |context| {
        run(context, &name, &BEYOND, Mpi::Mpich, Mode::Plain)
    })]
}

fn limit(program: &Program) -> Duration {
    match program.name == BEYOND.name {
        true => LIMIT * 5,
        false => LIMIT,
    }
}

fn run(
    context: &Context,
    name: &str,
    program: &'static Program,
    mpi: Mpi,
    mode: Mode,
) -> Result<Verdict> {
    if let Some(why) = program.missing(mpi) {
        return skipped(why);
    }
    let mut place = context.directory(name)?;
    let executable = context.build(program, mpi)?;
    let expected = context.native(program.name, || {
        native(program, mpi, &executable, place.path())
    })?;
    let mut recording = context.recording(mpi, place.path())?;
    let environment = recording.as_ref().map(Recording::environment);
    if let Mode::Native = mode {
        let found = native_with(program, mpi, &executable, place.path(), environment)?;
        ensure!(
            found == expected,
            "result {found}, {expected} in another native run"
        );
        keep(context, &recording, mpi, mode)?;
        place.done();
        return passed();
    }
    let Some(product) = context.product() else {
        return skipped("no installed tree was named with --mana");
    };
    let intervals = if let Mode::Plain = mode {
        Intervals::default()
    } else {
        BUSY
    };
    let arguments = if let Mode::Plain = mode {
        program.fast
    } else {
        program.slow
    };
    let mut setup = product.setup(place.path(), mpi, program.ranks, intervals)?;
    setup.needs(program);
    setup.environment.extend(environment.into_iter().flatten());
    if let Some(recording) = &mut recording {
        recording.follow(setup.stores());
    }
    let line = program.line(&executable, arguments);
    let note = match mode {
        Mode::Native | Mode::Plain => {
            let job = setup.launch(&[], &line)?;
            same(&job.wait(limit(program))?, &expected)?;
            String::new()
        }
        Mode::Continue => {
            let (ended, seen) = watch(setup.launch(&[], &line)?, &setup.stores(), LIMIT)?;
            same(&ended, &expected)?;
            ensure!(
                !seen.is_empty(),
                "no generation was committed\n{}",
                ended.report()
            );
            ensure!(
                ended.stderr.contains(program.says),
                "it did not say: {}\n{}",
                program.says,
                ended.report()
            );
            ensure!(
                program.silent.is_empty() || !ended.stderr.contains(program.silent),
                "it said: {}\n{}",
                program.silent,
                ended.report()
            );
            format!("{} generations", seen.len())
        }
        Mode::Resume => {
            let kills = if context.full { 5 } else { 1 };
            resume(&setup, &line, &expected, kills)?
        }
    };
    keep(context, &recording, mpi, mode)?;
    place.done();
    Ok(Verdict::Passed(note))
}

/// The run had the right result: what it recorded counts.
fn keep(context: &Context, recording: &Option<Recording>, mpi: Mpi, mode: Mode) -> Result<()> {
    match (context.recorder(), recording) {
        (Some(recorder), Some(recording)) => recorder.take(recording, mpi, mode.word()),
        _ => Ok(()),
    }
}

/// The result of a native run.
pub fn native(program: &Program, mpi: Mpi, executable: &Path, directory: &Path) -> Result<String> {
    native_with(program, mpi, executable, directory, None)
}

/// The same, with further environment.
pub fn native_with(
    program: &Program,
    mpi: Mpi,
    executable: &Path,
    directory: &Path,
    environment: Option<Vec<(String, String)>>,
) -> Result<String> {
    let mut command = mpi.native(program.ranks);
    command
        .args(program.line(executable, program.fast))
        .args(program.native)
        .envs(program.environment.iter().copied())
        .envs(environment.into_iter().flatten())
        .current_dir(directory);
    let ended = Job::start(command, directory)?.wait(limit(program))?;
    ended.expect(0)?.result()
}

/// The job ended well, with the native run's result.
pub fn same(ended: &Ended, expected: &str) -> Result<()> {
    let found = ended.expect(0)?.result()?;
    ensure!(
        found == expected,
        "result {found}, {expected} natively\n{}",
        ended.report()
    );
    Ok(())
}

/// Wait for the end, and note every generation that was committed on the way.
pub fn watch(mut job: Job, stores: &Stores, limit: Duration) -> Result<(Ended, BTreeSet<Id>)> {
    let mut seen = BTreeSet::new();
    let deadline = std::time::Instant::now() + limit;
    while !job.ended()? && std::time::Instant::now() < deadline {
        seen.extend(stores.committed());
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok((job.wait(Duration::from_secs(5))?, seen))
}

/// Start, kill all ranks once new generations were committed, `kills` times; then let it end.
pub fn resume(setup: &Setup, line: &[String], expected: &str, kills: u32) -> Result<String> {
    let stores = setup.stores();
    let mut setup = setup.clone();
    setup.hold();
    let setup = &setup;
    let mut from = Vec::new();
    let mut known = BTreeSet::new();
    let mut job = setup.launch(&[], line)?;
    for turn in 1..=kills {
        let fresh = |stores: &Stores| {
            stores
                .committed()
                .into_iter()
                .filter(|id| !known.contains(id))
                .count()
                >= 2
        };
        let outcome = job.until("two new generations", LIMIT, |_| {
            fresh(&stores).then_some(())
        });
        if outcome.is_err() && !from.is_empty() && job.ended()? {
            break; // it finished before the next kill
        }
        outcome?;
        let killed = job.kill_ranks();
        ensure!(
            killed >= setup.ranks as usize,
            "only {killed} of {} ranks were found",
            setup.ranks
        );
        let ended = job.wait(Duration::from_secs(60))?;
        ensure!(
            ended.code() != 0,
            "killed, and it ended well\n{}",
            ended.report()
        );
        known.extend(stores.committed());
        let newest = known.iter().next_back().copied().unwrap_or_default();
        from.push(format!("{}.{}", newest.0, newest.1));
        record::restarted(setup, from.len());
        if turn == kills {
            setup.release()?;
        }
        job = setup.launch(&["--restart"], line)?;
    }
    same(&job.wait(LIMIT)?, expected)?;
    Ok(format!(
        "killed {} times, newest then: {}",
        from.len(),
        from.join(", ")
    ))
}
