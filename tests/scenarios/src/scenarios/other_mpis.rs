//! MPIs beside the system's two, and jobs that go on under another MPI than they were begun on.
//!
//! | name | what runs |
//! |---|---|
//! | `fetched/MPI/PROGRAM` | a program on an MPI that the tests have fetched: killed and resumed |
//! | `fetched/MPI/PROGRAM/MODE` | the same for the pages of coverage: natively, under mana, with checkpoints, killed and resumed |
//! | `another/PROGRAM/FROM-to-TO` | killed under one MPI, resumed under another |
//! | `fetched/standard/PROGRAM/FROM-to-TO` | the same, built for the interface of the MPI 5.0 standard |
//!
//! The short run has one program for each MPI, which mixes everything, what only the newest have, and a choice of pairs.

mod tags;

use std::path::Path;
use std::time::Duration;

use anyhow::{ensure, Context as _, Result};

use super::modes::{in_mode, native, resume, same, Mode};
use super::Scenario;
use crate::context::{skipped, Context, Verdict};
use crate::mpi::{fetched, Mpi};
use crate::product::{Intervals, Setup};
use crate::programs::{Language, Program, PROGRAMS};

/// Longest any of these runs may take.
const LIMIT: Duration = Duration::from_secs(180);

const EVERY_SECOND: Intervals = Intervals {
    local: 1,
    partner: 0,
    global: 0,
};

/// The program of the short run.
const SMOKE: &str = "dense";

/// What the short run has besides: what only these have.
const NEWER: &[(&str, &str)] = &[("mpich-4.3.2", "rest")];

/// What these have, and the system's MPI of their family does not.
const BEYOND: &[(&str, &str)] = &[
    ("openmpi-5.0.11", "sessions"),
    ("openmpi-5.0.11", "partitioned"),
    ("mpich-4.3.2", "dynamic"),
    ("mpich-5.0.2", "dynamic"),
];

/// What is carried from one MPI to another; `dense` is a mixture, with windows, files and inter-communicators.
const CARRIED: &[&str] = &[
    SMOKE,
    "windows",
    "intercomm",
    "files",
    "objects",
    "types",
    "requests",
    "ordinary",
    "corners",
    "multiple",
    "persistent",
    "persistent_large",
    "partitioned",
    "sessions",
    "large",
    "files_large",
    "answers_openmpi",
    "answers_mpich",
];

/// What is not built for an MPI, and goes on under it: what that does not have, too.
const ELSEWHERE: &[(&str, &str)] = &[("large", "openmpi")];

/// Arguments of a program that is to go on under an MPI that cannot do all of it.
const WITH_CARE: &[(&str, &str, [&str; 2])] = &[("large", "intel-2021.19.0", ["--few", "1"])];

/// What an MPI itself cannot do.
const UNFIT: &[(&str, &str, &str)] = &[
    (
        "mpich-5.0.2",
        "errors_mpich",
        "MPICH 5.0.2 itself ends in an assertion when a reduction names a type that does not exist",
    ),
    (
        "mpich-5.0.2",
        "churn",
        "MPICH 5.0.2 itself keeps memory of inter-communicators that have been freed",
    ),
    (
        "mpich-5.0.2",
        "completions_mpich",
        "MPICH 5.0.2 itself calls a handler once or twice, by chance",
    ),
    (
        "mpich-4.3.2",
        "completions_mpich",
        "MPICH 4.3.2 itself calls a handler once or twice, by chance",
    ),
    (
        "intel-2021.19.0",
        "completions_mpich",
        "Intel MPI 2021.19 itself calls a handler once or twice, by chance",
    ),
    (
        "intel-2021.19.0",
        "creation",
        "Intel MPI 2021.19 itself hangs where several threads make inter-communicators at once",
    ),
];

/// Pairs of the short run, beside the system's two in both directions: to a newer release, to another
/// family, to and from each of the fetched ones.
const PAIRS: &[(&str, &str)] = &[
    ("openmpi", "openmpi-5.0.11"),
    ("mpich", "mpich-5.0.2"),
    ("mpich", "intel-2021.19.0"),
    ("openmpi-5.0.11", "mpich-5.0.2"),
    ("intel-2021.19.0", "openmpi-4.1.8"),
    ("openmpi-4.1.8", "mpich-4.3.2"),
    ("mpich-4.3.2", "openmpi"),
];

/// Is `program` for this MPI?
fn exists(program: &Program, mpi: Mpi) -> bool {
    BEYOND.contains(&(mpi.name(), program.name)) || program.mpis.contains(&mpi.family())
}

/// Every program on every fetched MPI, in every mode.
pub fn to_record() -> Vec<Scenario> {
    let mut scenarios = Vec::new();
    for mode in Mode::ALL {
        for mpi in fetched() {
            for program in PROGRAMS.iter().filter(|program| exists(program, mpi)) {
                // Libraries of other languages are the system's own.
                if mode == Mode::Native && program.language != Language::C {
                    continue;
                }
                let name = format!("fetched/{}/{}/{}", mpi.name(), program.name, mode.word());
                scenarios.push(Scenario::new(
                    name.clone(),
                    "the native result, recorded",
                    move |context| in_one_mode(context, &name, program, mpi, mode),
                ));
            }
        }
    }
    scenarios
}

pub fn all(full: bool) -> Vec<Scenario> {
    let mut scenarios = Vec::new();
    for mpi in fetched() {
        for program in PROGRAMS {
            let pair = (mpi.name(), program.name);
            let newer = NEWER.contains(&pair) || BEYOND.contains(&pair);
            let short = program.name == SMOKE || newer;
            if !exists(program, mpi) || !(full || short) {
                continue;
            }
            scenarios.push(Scenario::new(
                format!("fetched/{}/{}", mpi.name(), program.name),
                "the result after SIGKILL of all ranks and a resume",
                move |context| on_one(context, program, mpi),
            ));
        }
    }
    let every: Vec<Mpi> = Mpi::ALL.into_iter().chain(fetched()).collect();
    for program in PROGRAMS.iter().filter(|p| CARRIED.contains(&p.name)) {
        for &from in &every {
            for &to in &every {
                let system = Mpi::ALL.contains(&from) && Mpi::ALL.contains(&to);
                let listed = system || PAIRS.contains(&(from.name(), to.name()));
                let elsewhere = ELSEWHERE.contains(&(program.name, to.name()));
                let exists = program.mpis.contains(&from.family())
                    && (elsewhere || program.mpis.contains(&to.family()));
                let short = program.name == SMOKE || elsewhere && system;
                if from == to || !exists || !(full || listed && short) {
                    continue;
                }
                scenarios.push(Scenario::new(
                    format!("another/{}/{}-to-{}", program.name, from.name(), to.name()),
                    "killed under one MPI, resumed under another: the native result",
                    move |context| across(context, program, from, to),
                ));
            }
        }
    }
    scenarios.push(Scenario::new(
        "another/tags/openmpi-to-mpich",
        "a tag that only the first MPI has is named, in a receive that waits and in a send",
        tags::run,
    ));
    for (name, from, to) in STANDARD {
        let find = |name: &str| every.iter().copied().find(|mpi| mpi.name() == name);
        let program = PROGRAMS.iter().find(|p| p.name == *name);
        if let (Some(program), Some(from), Some(to)) = (program, find(from), find(to)) {
            scenarios.push(Scenario::new(
                format!("fetched/standard/{name}/{}-to-{}", from.name(), to.name()),
                "built for the standard's interface: killed under one MPI, resumed under another",
                move |context| standard(context, program, from, to),
            ));
        }
    }
    scenarios
}

/// What is built for the standard's interface, in the short run too, and where it goes on.
const STANDARD: &[(&str, &str, &str)] = &[
    ("dense", "mpich-5.0.2", "openmpi"),
    ("windows", "openmpi", "mpich"),
    ("objects", "mpich", "mpich-5.0.2"),
];

/// The MPI that has the standard's `mpi.h`.
const HAS_STANDARD: &str = "mpich-5.0.2";

fn standard(context: &Context, program: &'static Program, from: Mpi, to: Mpi) -> Result<Verdict> {
    let maker = fetched().find(|mpi| mpi.name() == HAS_STANDARD);
    let Some(compiler) = maker.and_then(Mpi::standard_compiler) else {
        return skipped(format!("{HAS_STANDARD} could not be fetched"));
    };
    if let Some(why) = missing(context, program, &[from, to]) {
        return skipped(why);
    }
    let mut place = context.directory(&format!("standard-{}", program.name))?;
    // Its result is that of every interface.
    let system = Mpi::Mpich;
    if let Some(why) = program.missing(system) {
        return skipped(why);
    }
    let expected = expected(context, program, system, place.path())?;
    let executable = program.compile(compiler, place.path())?;
    let line = program.line(&executable, program.slow);
    let setup = killed(context, program, &line, from, place.path())?;
    goes_on(&setup, to, &line, &expected)?;
    place.done();
    Ok(Verdict::Passed(String::new()))
}

/// Why a scenario with `program` on these MPIs cannot be run.
fn missing(context: &Context, program: &Program, mpis: &[Mpi]) -> Option<String> {
    let Some(product) = context.product() else {
        return Some("no installed tree was named with --mana".to_owned());
    };
    let unfit = |mpi: Mpi| {
        UNFIT
            .iter()
            .find(|(name, of, _)| *name == mpi.name() && *of == program.name)
            .map(|(_, _, why)| (*why).to_owned())
    };
    mpis.iter().find_map(|&mpi| {
        let none = || format!("the tree has no adapter named {}", mpi.name());
        unfit(mpi)
            .or_else(|| program.missing(mpi))
            .or_else(|| (!product.adapts(mpi)).then(none))
    })
}

fn expected(context: &Context, program: &Program, mpi: Mpi, place: &Path) -> Result<String> {
    // Libraries of other languages are the system's own, which run natively on the system's MPI only.
    let mpi = match program.language {
        Language::C | Language::Python => mpi,
        Language::Cxx | Language::Fortran | Language::Coarrays => mpi.family(),
    };
    let result = |mpi: Mpi| {
        let key = format!("{} on {}", program.name, mpi.name());
        let executable = context.build(program, mpi)?;
        context.native(&key, || native(program, mpi, &executable, place))
    };
    let found = result(mpi)?;
    // What some programs tell is the library's own; of this one all must tell the same.
    if program.name == SMOKE && program.missing(Mpi::OpenMpi).is_none() {
        let other = result(Mpi::OpenMpi)?;
        ensure!(
            found == other,
            "natively {found} on {}, {other} on {}",
            mpi.name(),
            Mpi::OpenMpi.name()
        );
    }
    Ok(found)
}

fn in_one_mode(
    context: &Context,
    name: &str,
    program: &'static Program,
    mpi: Mpi,
    mode: Mode,
) -> Result<Verdict> {
    if let Some(why) = missing(context, program, &[mpi]) {
        return skipped(why);
    }
    let mut place = context.directory(name)?;
    let expected = expected(context, program, mpi, place.path())?;
    let note = in_mode(context, place.path(), program, mpi, mode, &expected)?;
    place.done();
    Ok(Verdict::Passed(note))
}

fn on_one(context: &Context, program: &'static Program, mpi: Mpi) -> Result<Verdict> {
    if let Some(why) = missing(context, program, &[mpi]) {
        return skipped(why);
    }
    let Some(product) = context.product() else {
        return skipped("no installed tree");
    };
    let mut place = context.directory(&format!("{}-{}", mpi.name(), program.name))?;
    let expected = expected(context, program, mpi, place.path())?;
    let line = program.line(&context.build(program, mpi)?, program.slow);
    let mut setup = product.setup(place.path(), mpi, program.ranks, EVERY_SECOND)?;
    setup.needs(program);
    let note = resume(&setup, &line, &expected, 1)?;
    place.done();
    Ok(Verdict::Passed(note))
}

fn across(context: &Context, program: &'static Program, from: Mpi, to: Mpi) -> Result<Verdict> {
    if let Some(why) = missing(context, program, &[from, to]) {
        return skipped(why);
    }
    let mut place = context.directory(&format!("{}-{}", from.name(), to.name()))?;
    let expected = expected(context, program, from, place.path())?;
    let mut line = program.line(&context.build(program, from)?, program.slow);
    for (_, _, arguments) in WITH_CARE
        .iter()
        .filter(|(name, mpi, _)| (*name, *mpi) == (program.name, to.name()))
    {
        line.extend(arguments.map(str::to_owned));
    }
    let setup = killed(context, program, &line, from, place.path())?;
    if from.family() != to.family() {
        refused_unless_named(&setup, to, &line)?;
    }
    goes_on(&setup, to, &line, &expected)?;
    place.done();
    Ok(Verdict::Passed(String::new()))
}

/// A job that was killed under `from` after two checkpoints.
fn killed(
    context: &Context,
    program: &Program,
    line: &[String],
    from: Mpi,
    place: &Path,
) -> Result<Setup> {
    let product = context.product().context("no installed tree")?;
    let setup = product.setup(place, from, program.ranks, EVERY_SECOND)?;
    let stores = setup.stores();
    let mut job = setup.launch(&[], line)?;
    job.until("two generations", LIMIT, |_| {
        (stores.committed().len() >= 2).then_some(())
    })?;
    job.kill_ranks();
    let ended = job.wait(Duration::from_secs(60))?;
    ensure!(
        ended.code() != 0,
        "killed, and it ended well\n{}",
        ended.report()
    );
    Ok(setup)
}

/// Lets it end under another MPI.
fn goes_on(setup: &Setup, to: Mpi, line: &[String], expected: &str) -> Result<()> {
    let other = Setup {
        mpi: to,
        ..setup.clone()
    };
    // A fetched MPI is named by `launch` itself.
    let named = ["--restart", "--mpi", to.name()];
    let options = match to {
        Mpi::Fetched(_) => &named[..1],
        _ => &named,
    };
    let ended = other.launch(options, line)?.wait(LIMIT)?;
    same(&ended, expected)?;
    ensure!(
        ended.stderr.contains("it goes on under"),
        "it did not say under which MPI it goes on\n{}",
        ended.report()
    );
    Ok(())
}

/// The wrong launcher alone is a mistake: one line says how to mean it.
fn refused_unless_named(setup: &Setup, to: Mpi, line: &[String]) -> Result<()> {
    let mut command = to.launcher(setup.ranks, false);
    command
        .arg(setup.product.command("mana_launch"))
        .arg("--config")
        .arg(setup.configuration())
        .args(["--id", &setup.id, "--restart", "--"])
        .args(line)
        .current_dir(&setup.directory);
    let ended = crate::job::Job::start(command, &setup.directory)?.wait(LIMIT)?;
    ensure!(
        ended.code() != 0 && ended.stderr.contains("--mpi "),
        "started by another family's launcher without --mpi\n{}",
        ended.report()
    );
    Ok(())
}
