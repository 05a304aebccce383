//! The application interface: a program that asks for its checkpoints, holds them back, is told of them,
//! leaves memory out. From C on both MPIs and without, the examples in all languages, the plug-ins.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{ensure, Context as _, Result};

use super::modes::same;
use super::Scenario;
use crate::context::{passed, skipped, Context, Verdict, Workplace};
use crate::job::{Ended, Job};
use crate::mpi::{find, Mpi};
use crate::product::{Intervals, Product, Setup};
use crate::programs::Program;

const LIMIT: Duration = Duration::from_secs(90);
/// For a compiler.
const COMPILE: Duration = Duration::from_secs(120);

/// The sources of the interface.
fn sources() -> PathBuf {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    top.join("mana-plugin/interface")
}

pub fn all() -> Vec<Scenario> {
    let mut all = Vec::new();
    for mpi in Mpi::ALL {
        all.push(Scenario::new(
            format!("interface/{}", mpi.name()),
            "holds, callbacks, a range left out, a collective checkpoint; a rank dies after it, and it returns again",
            move |c| program(c, Some(mpi)),
        ));
    }
    all.push(Scenario::new(
        "interface/alone",
        "the same in a program without MPI",
        |c| program(c, None),
    ));
    for (word, named) in [
        ("hold", "the output of step 3 (mana_hold"),
        ("callback", "of the program (mana_on) has not returned for "),
    ] {
        all.push(Scenario::new(
            format!("interface/watchdog-{word}"),
            "who never lets a checkpoint happen is named, and the job runs on",
            move |c| watchdog(c, word, named),
        ));
    }
    all.push(Scenario::new(
        "interface/mpi-in-callback",
        "a callback that calls MPI ends the job with a line",
        mpi_in_callback,
    ));
    all.push(Scenario::new(
        "interface/fenced",
        "a program that publishes all the time ends when its job was started anew elsewhere",
        fenced,
    ));
    for language in ["c", "fortran", "python", "rust"] {
        all.push(Scenario::new(
            format!("interface/example-{language}"),
            "the example as written: natively, killed after the checkpoint it asked for, and resumed there",
            move |c| example(c, language),
        ));
    }
    all.push(Scenario::new(
        "plugins/both",
        "two plug-ins: one that listens, one that wraps a function; killed and resumed",
        plugins,
    ));
    all
}

const PROGRAM: Program = Program {
    name: "interface",
    source: "interface.c",
    fast: &[],
    ..Program::C
};

fn compile(directory: &Path, compiler: &Path, words: &[String]) -> Result<()> {
    let mut command = Command::new(compiler);
    command.args(words).current_dir(directory);
    Job::start(command, directory)?.wait(COMPILE)?.expect(0)?;
    Ok(())
}

/// The test program for an MPI, or for none.
fn build(directory: &Path, mpi: Option<Mpi>) -> Result<PathBuf> {
    let compiler = match mpi {
        Some(mpi) => mpi.tool("mpicc").context("no mpicc")?,
        None => find("gcc").context("no gcc")?,
    };
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../programs");
    let executable = directory.join("interface");
    let mut words: Vec<String> = ["-std=gnu11", "-O2", "-Wall", "-Werror", "-pthread", "-o"]
        .map(str::to_owned)
        .to_vec();
    words.push(executable.display().to_string());
    words.extend(mpi.is_none().then(|| "-DALONE".to_owned()));
    words.push(format!("-I{}", programs.display()));
    words.push(format!("-I{}", sources().join("c").display()));
    words.push(programs.join(PROGRAM.source).display().to_string());
    compile(directory, &compiler, &words)?;
    Ok(executable)
}

/// `mana_launch` without an MPI's launcher.
fn launch(setup: &Setup, options: &[&str], line: &[String]) -> Result<Job> {
    let mut command = Command::new(setup.product.command("mana_launch"));
    command
        .arg("--config")
        .arg(setup.configuration())
        .args(["--id", &setup.id])
        .args(options)
        .arg("--")
        .args(line)
        .current_dir(&setup.directory)
        .envs(setup.environment.iter().map(|(name, value)| (name, value)));
    Job::start(command, &setup.directory)
}

fn native(directory: &Path, line: &[String], environment: &[(String, String)]) -> Result<Ended> {
    let mut command = Command::new(&line[0]);
    command
        .args(&line[1..])
        .current_dir(directory)
        .envs(environment.iter().map(|(name, value)| (name, value)));
    Job::start(command, directory)?.wait(LIMIT)
}

/// How often a text is in another.
fn count(text: &str, of: &str) -> usize {
    text.matches(of).count()
}

fn program(context: &Context, mpi: Option<Mpi>) -> Result<Verdict> {
    let Some(product) = context.product() else {
        return skipped("no installed tree was named with --mana");
    };
    if let Some(why) = mpi.and_then(|mpi| PROGRAM.missing(mpi)) {
        return skipped(why);
    }
    let mut place = context.directory("interface")?;
    let executable = build(place.path(), mpi)?;
    let ranks = mpi.map_or(1, |_| PROGRAM.ranks);
    let line = PROGRAM.line(&executable, &["--die", "1", "--pause", "5"]);
    let mut command = match mpi {
        Some(mpi) => mpi.native(ranks),
        None => Command::new("env"),
    };
    command.args(&line).current_dir(place.path());
    let expected = Job::start(command, place.path())?
        .wait(LIMIT)?
        .expect(0)?
        .result()?;

    let setup = product.setup(
        place.path(),
        mpi.unwrap_or(Mpi::OpenMpi),
        ranks,
        Intervals::default(),
    )?;
    let start = |options: &[&str]| match mpi {
        Some(_) => setup.launch(options, &line),
        None => launch(&setup, options, &line),
    };
    let died = start(&[])?.wait(LIMIT)?;
    ensure!(
        died.code() != 0 && count(&died.stderr, "checkpoint continued") == ranks as usize,
        "all ranks continue, then one dies\n{}",
        died.report()
    );
    let ended = start(&["--restart"])?.wait(LIMIT)?;
    same(&ended, &expected)?;
    ensure!(
        count(&ended.stderr, "checkpoint resumed") == ranks as usize
            && !ended.stderr.contains("checkpoint continued"),
        "all ranks resume in the call\n{}",
        ended.report()
    );
    let published = setup.stores().global.join("scenario/published");
    for rank in 0..ranks {
        let path = published.join(format!("rank-{rank}.jsonl"));
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("reading {}", path.display()))?;
        ensure!(
            text.contains("before \\\"it\\\"") && text.contains("after it"),
            "{text}"
        );
    }
    let report = setup.mana("report", &["--json"], LIMIT)?;
    ensure!(
        report.expect(0)?.stdout.contains("\"value\": \"after it\""),
        "{}",
        report.report()
    );
    place.done();
    passed()
}

/// A job of one rank without MPI that gets stuck.
fn stuck_job(
    context: &Context,
    product: &Product,
    mpi: Option<Mpi>,
    word: &str,
) -> Result<(Workplace, Setup, Vec<String>)> {
    let place = context.directory("interface-stuck")?;
    let executable = build(place.path(), mpi)?;
    let setup = product.setup(
        place.path(),
        mpi.unwrap_or(Mpi::OpenMpi),
        2,
        Intervals::default(),
    )?;
    let line = PROGRAM.line(&executable, &["--stuck", word]);
    Ok((place, setup, line))
}

fn watchdog(context: &Context, word: &str, named: &str) -> Result<Verdict> {
    let Some(product) = context.product() else {
        return skipped("no installed tree was named with --mana");
    };
    let (mut place, setup, line) = stuck_job(context, product, None, word)?;
    let mut job = launch(&setup, &["--set", "checkpoint_timeout=4"], &line)?;
    if word == "hold" {
        job.until("the critical section", LIMIT, |job| {
            job.messages().contains("held").then_some(())
        })?;
        let asked = setup.mana("status", &["--checkpoint", "--wait"], LIMIT)?;
        ensure!(
            asked.code() != 0 && asked.stderr.contains(named),
            "{named:?} is not said\n{}",
            asked.report()
        );
        job.until("the line", LIMIT, |job| {
            job.messages().contains(named).then_some(())
        })?;
        job.destroy();
    } else {
        // It asks by itself, is told of the failure, and ends well.
        let ended = job.wait(LIMIT)?;
        ended.expect(0)?.result()?;
        ensure!(
            ended.stderr.contains(named) && ended.stderr.contains("checkpoint failed"),
            "{named:?} is not said\n{}",
            ended.report()
        );
    }
    place.done();
    passed()
}

fn mpi_in_callback(context: &Context) -> Result<Verdict> {
    let Some(product) = context.product() else {
        return skipped("no installed tree was named with --mana");
    };
    let mpi = Mpi::OpenMpi;
    if let Some(why) = PROGRAM.missing(mpi) {
        return skipped(why);
    }
    let (mut place, setup, line) = stuck_job(context, product, Some(mpi), "mpi")?;
    let ended = setup.launch(&[], &line)?.wait(LIMIT)?;
    ensure!(
        ended.code() != 0 && ended.stderr.contains("(mana_on) called MPI"),
        "the misuse is not named\n{}",
        ended.report()
    );
    place.done();
    passed()
}

/// The control thread is never idle; the record of a newer start is all there is of that.
fn fenced(context: &Context) -> Result<Verdict> {
    /// A look every 5 s, and a loaded machine.
    const SEEN: Duration = Duration::from_secs(60);
    let Some(product) = context.product() else {
        return skipped("no installed tree was named with --mana");
    };
    let (mut place, setup, line) = stuck_job(context, product, None, "publish")?;
    let mut job = launch(&setup, &[], &line)?;
    job.until("published values", LIMIT, |job| {
        job.messages().contains("publishing").then_some(())
    })?;
    let record = setup.stores().global.join(&setup.id).join("incarnation-2");
    std::fs::write(&record, "").with_context(|| format!("writing {}", record.display()))?;
    let ended = job.wait(SEEN)?;
    ended.expect(128 + 9)?;
    ensure!(
        ended
            .stderr
            .contains("incarnation 2 of this job has taken over from 1"),
        "{}",
        ended.report()
    );
    place.done();
    passed()
}

/// What runs an example after what has been built of it, and what it needs to find the interface.
fn built(directory: &Path, language: &str) -> Result<Option<Vec<String>>> {
    let examples = sources().join("examples");
    let text = |path: PathBuf| path.display().to_string();
    let executable = text(directory.join("loop"));
    let line = match language {
        "c" => {
            let include = format!("-I{}", sources().join("c").display());
            let words = [
                "-O2",
                "-Wall",
                "-Wextra",
                "-Werror",
                &include,
                "-o",
                &executable,
            ];
            let mut words = words.map(str::to_owned).to_vec();
            words.push(text(examples.join("loop.c")));
            compile(directory, Path::new("gcc"), &words)?;
            vec![executable]
        }
        "fortran" => {
            let Some(compiler) = find("gfortran") else {
                return Ok(None);
            };
            let module = text(sources().join("fortran/mana.f90"));
            let words = ["-O2", "-Wall", "-J.", "-o", &executable, &module].map(str::to_owned);
            let mut words = words.to_vec();
            words.push(text(examples.join("loop.f90")));
            compile(directory, &compiler, &words)?;
            vec![executable]
        }
        "rust" => {
            let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
            let library = text(sources().join("rust/src/lib.rs"));
            let made = text(directory.join("libmana_interface.rlib"));
            let words = [
                "--edition=2021",
                "--crate-type=rlib",
                "--crate-name=mana_interface",
            ];
            let mut words = words.map(str::to_owned).to_vec();
            words.extend(["-O".to_owned(), library, "-o".to_owned(), made.clone()]);
            compile(directory, Path::new(&compiler), &words)?;
            let words = ["--edition=2021", "-O", "--extern"].map(str::to_owned);
            let mut words = words.to_vec();
            words.extend([
                format!("mana_interface={made}"),
                text(examples.join("loop.rs")),
            ]);
            words.extend(["-o".to_owned(), executable.clone()]);
            compile(directory, Path::new(&compiler), &words)?;
            vec![executable]
        }
        _ => vec![
            "/usr/bin/python3".to_owned(),
            text(examples.join("loop.py")),
        ],
    };
    Ok(Some(line))
}

fn example(context: &Context, language: &str) -> Result<Verdict> {
    let Some(product) = context.product() else {
        return skipped("no installed tree was named with --mana");
    };
    let mut place = context.directory(&format!("interface-{language}"))?;
    let Some(mut line) = built(place.path(), language)? else {
        return skipped(format!("no compiler for {language}"));
    };
    let mut setup = product.setup(place.path(), Mpi::OpenMpi, 1, Intervals::default())?;
    let python = sources().join("python").display().to_string();
    setup.environment.push(("PYTHONPATH".into(), python));
    // Not into the source tree.
    setup
        .environment
        .push(("PYTHONDONTWRITEBYTECODE".into(), "1".into()));
    line.push("20".into());
    let quick = [line.clone(), vec!["0".into()]].concat();
    let expected = native(place.path(), &quick, &setup.environment)?;
    let expected = expected.expect(0)?.result()?;
    line.push("100".into());
    let mut job = launch(&setup, &[], &line)?;
    job.until("the checkpoint it asked for", LIMIT, |job| {
        let said = job.messages() + &job.printed();
        said.contains("half way: checkpoint taken").then_some(())
    })?;
    job.destroy();
    let ended = launch(&setup, &["--restart"], &line)?.wait(LIMIT)?;
    same(&ended, &expected)?;
    let said = ended.stderr.clone() + &ended.stdout;
    ensure!(
        said.contains("half way: resumed") && !said.contains("half way: checkpoint taken"),
        "{}",
        ended.report()
    );
    if language == "c" {
        let results = std::fs::read_to_string(place.path().join("loop.results"))?;
        ensure!(count(&results, "step ") == 20, "{results}");
    } else {
        let events = match language {
            "fortran" => "restarts 1, events 1 0 1",
            "python" => "restarts 1 events [1, 3]",
            _ => "restarts Ok(1), events [1, 0, 1]",
        };
        ensure!(said.contains(events), "{events:?}\n{}", ended.report());
    }
    place.done();
    passed()
}

fn plugins(context: &Context) -> Result<Verdict> {
    let Some(product) = context.product() else {
        return skipped("no installed tree was named with --mana");
    };
    let mut place = context.directory("plugins")?;
    let directory = place.path();
    let mut names = Vec::new();
    for name in ["timing", "hostname"] {
        let library = directory.join(format!("{name}.so")).display().to_string();
        let source = sources().join(format!("plugins/{name}.c"));
        let include = format!("-I{}", sources().join("c").display());
        let words = [
            "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", &include, "-o", &library,
        ];
        let mut words = words.map(str::to_owned).to_vec();
        words.extend([source.display().to_string(), "-ldl".into()]);
        compile(directory, Path::new("gcc"), &words)?;
        names.push(library);
    }
    let setup = product.setup(directory, Mpi::OpenMpi, 1, Intervals::default())?;
    setup.configure(
        Intervals::default(),
        &format!("plugins={}\n", names.join(":")),
    )?;
    // The name it was started under, where the real one is made up.
    let code = "import os, socket, sys, time\n\
                first = socket.gethostname()\n\
                print('started', flush=True)\n\
                while not os.path.exists('go on'): time.sleep(0.05)\n\
                assert socket.gethostname() == first\n\
                print('RESULT', first)\n";
    let line = ["/usr/bin/python3", "-c", code].map(str::to_owned);
    let mut job = launch(&setup, &[], &line)?;
    job.until("its start", LIMIT, |job| {
        job.printed().contains("started").then_some(())
    })?;
    for _ in 0..2 {
        setup
            .mana("status", &["--checkpoint", "--wait"], LIMIT)?
            .expect(0)?;
    }
    job.destroy();
    std::fs::write(directory.join("go on"), "")?;
    let ended = launch(&setup, &["--restart"], &line)?.wait(LIMIT)?;
    let name = hostname()?;
    same(&ended, &name)?;
    let path = setup
        .stores()
        .global
        .join("scenario/published/rank-0.jsonl");
    let text = std::fs::read_to_string(&path)?;
    for words in [
        "first host",
        "host after restart",
        "s, 1 taken, 0 restarts",
        "s, 1 taken, 1 restarts",
    ] {
        ensure!(text.contains(words), "{words:?} is not in\n{text}");
    }
    setup.configure(Intervals::default(), "plugins=./missing.so\n")?;
    let refused = launch(&setup, &["--fresh"], &line)?.wait(LIMIT)?;
    ensure!(
        refused.expect(99)?.stderr.contains("missing.so is missing"),
        "{}",
        refused.report()
    );
    place.done();
    passed()
}

fn hostname() -> Result<String> {
    let name = nix::unistd::gethostname()?;
    Ok(name.to_string_lossy().into_owned())
}
