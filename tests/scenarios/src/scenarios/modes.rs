//! Every program on every MPI: natively, under the product, through checkpoints, through a kill.
//! The result line is compared with the native run; it is the same for both MPIs.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{ensure, Context as _, Result};

use super::Scenario;
use crate::context::{skipped, Context, Verdict};
use crate::generations::{Id, Stores};
use crate::job::{Ended, Job};
use crate::mpi::Mpi;
use crate::product::{Intervals, Setup};
use crate::programs::{Program, BEYOND, PROGRAMS};
use crate::record::{self, Recording, COLUMNS};

/// Longest any of these runs may take.
const LIMIT: Duration = Duration::from_secs(180);

/// Checkpoints on three levels, in quick succession.
pub const BUSY: Intervals = Intervals {
    local: 1,
    partner: 2,
    global: 3,
};

/// A kind of run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Without mana.
    Native,
    /// Under mana, no checkpoint taken.
    Plain,
    /// With checkpoints.
    Continue,
    /// Killed and resumed.
    Resume,
}

impl Mode {
    /// In the order of the reports.
    pub const ALL: [Self; 4] = [Self::Native, Self::Plain, Self::Continue, Self::Resume];

    /// As in the names of scenarios.
    pub fn word(self) -> &'static str {
        COLUMNS[self as usize]
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
    if mode != Mode::Native && context.product().is_none() {
        return skipped("no installed tree was named with --mana");
    }
    let note = in_mode(context, place.path(), program, mpi, mode, &expected)?;
    place.done();
    Ok(Verdict::Passed(note))
}

/// One run in `place`, recorded if something records: it has the `expected` result.
pub fn in_mode(
    context: &Context,
    place: &Path,
    program: &Program,
    mpi: Mpi,
    mode: Mode,
    expected: &str,
) -> Result<String> {
    let executable = context.build(program, mpi)?;
    let mut recording = context.recording(mpi, place)?;
    let environment = recording.as_ref().map(Recording::environment);
    if let Mode::Native = mode {
        let found = native_with(program, mpi, &executable, place, environment)?;
        ensure!(
            found == expected,
            "result {found}, {expected} in another native run"
        );
        keep(context, &recording, mpi, mode)?;
        return Ok(String::new());
    }
    let product = context.product().context("no installed tree")?;
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
    let mut setup = product.setup(place, mpi, program.ranks, intervals)?;
    setup.needs(program);
    setup.environment.extend(environment.into_iter().flatten());
    if let Some(recording) = &mut recording {
        recording.follow(setup.stores());
    }
    let line = program.line(&executable, arguments);
    let note = match mode {
        Mode::Native | Mode::Plain => {
            same(&setup.launch(&[], &line)?.wait(limit(program))?, expected)?;
            String::new()
        }
        Mode::Continue => {
            let (ended, seen) = watch(setup.launch(&[], &line)?, &setup.stores(), LIMIT)?;
            same(&ended, expected)?;
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
            resume(&setup, &line, expected, kills)?
        }
    };
    keep(context, &recording, mpi, mode)?;
    Ok(note)
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
        .envs(program.environment.iter().copied());
    for (name, mut value) in environment.into_iter().flatten() {
        // What makes ranks yield is preloaded, too.
        if let Some(library) = mpi.yielding().filter(|_| name == "LD_PRELOAD") {
            value = format!("{value}:{}", library.display());
        }
        command.env(name, value);
    }
    command.current_dir(directory);
    let ended = Job::start(command, directory)?.wait(limit(program))?;
    ended.expect(0).context("natively")?.result()
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
