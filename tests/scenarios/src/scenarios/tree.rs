//! Programs without MPI that make processes: the whole tree is killed and resumed, and says what it
//! says natively.

mod announced;
mod early;
mod elsewhere;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{ensure, Context as _, Result};

use super::modes::same;
use super::Scenario;
use crate::context::{passed, skipped, Context, Verdict};
use crate::job::Job;
use crate::mpi::Mpi;
use crate::product::{Intervals, Product, Setup};

const LIMIT: Duration = Duration::from_secs(240);
const PYTHON: &str = "/usr/bin/python3";

/// A program with the arguments of a quick run and of one that lasts some seconds.
struct Tree {
    name: &'static str,
    shows: &'static str,
    source: &'static str,
    fast: &'static [&'static str],
    slow: &'static [&'static str],
    /// Modules of Python that it needs.
    modules: &'static str,
    /// Processes there are at least when it is killed.
    processes: usize,
}

const TREES: &[Tree] = &[
    Tree {
        name: "pipes",
        shows: "fork, pipes, socket pairs, shared memory, semaphores, groups, ended children: killed and resumed",
        source: "tree.c",
        fast: &["20", "0"],
        slow: &["20", "150"],
        modules: "",
        processes: 3,
    },
    Tree {
        name: "pool",
        shows: "multiprocessing: a pool, a queue, a lock, a shared counter: killed and resumed",
        source: "pool.py",
        fast: &["10", "0"],
        slow: &["10", "250"],
        modules: "multiprocessing",
        processes: 6,
    },
    Tree {
        name: "loky",
        shows: "scikit-learn in joblib's own workers, which are executed anew: killed and resumed",
        source: "forest.py",
        fast: &["loky", "6", "0"],
        slow: &["loky", "6", "350"],
        modules: "joblib, sklearn",
        processes: 4,
    },
    Tree {
        name: "joblib",
        shows: "scikit-learn in joblib's workers made by fork: killed and resumed",
        source: "forest.py",
        fast: &["multiprocessing", "6", "0"],
        slow: &["multiprocessing", "6", "350"],
        modules: "joblib, sklearn",
        processes: 3,
    },
    Tree {
        name: "many",
        shows: "twenty workers of a pool, two processes and the root: killed and resumed",
        source: "pool.py",
        fast: &["4", "0", "20"],
        slow: &["4", "900", "20"],
        modules: "multiprocessing",
        processes: 23,
    },
    Tree {
        name: "exec",
        shows: "a shell that executes the program in its own place: killed and resumed",
        source: "tree.c",
        fast: &["20", "0"],
        slow: &["20", "150"],
        modules: "",
        processes: 3,
    },
    Tree {
        name: "script",
        shows: "a shell script that runs programs, in pipes and in the background: killed and resumed",
        source: "job.sh",
        fast: &["8", "0"],
        slow: &["8", "400"],
        modules: "",
        processes: 2,
    },
];

pub fn all() -> Vec<Scenario> {
    let mut scenarios: Vec<Scenario> = TREES
        .iter()
        .map(|tree| {
            Scenario::new(format!("tree/{}", tree.name), tree.shows, move |context| {
                run(context, tree)
            })
        })
        .collect();
    scenarios.push(Scenario::new(
        "tree/refused",
        "a static program among the children: the checkpoint is refused by its name, then taken",
        refused,
    ));
    scenarios.push(Scenario::new(
        "tree/executes",
        "children that execute a program, met by checkpoints at every instant of it: all end as natively",
        executes,
    ));
    scenarios.extend(announced::all());
    scenarios.extend(elsewhere::all());
    scenarios.extend(early::all());
    scenarios
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../programs")
        .join(name)
}

fn compile(source: &Path, executable: &Path, flags: &[&str]) -> Result<()> {
    let status = Command::new("gcc")
        .args(["-O2", "-pthread", "-o"])
        .arg(executable)
        .arg(source)
        .args(flags)
        .status()
        .context("starting gcc")?;
    ensure!(status.success(), "{} does not compile", source.display());
    Ok(())
}

/// The command line of a tree's program, built in `place`.
fn line(tree: &Tree, place: &Path, arguments: &[&str]) -> Result<Vec<String>> {
    let source = source(tree.source);
    let mut line = Vec::new();
    let mut arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
    let program = place.join("tree");
    match source.extension().and_then(|e| e.to_str()) {
        Some("py") => line.extend([PYTHON.to_owned(), source.display().to_string()]),
        Some("sh") => {
            compile(&self::source("tree.c"), &program, &[])?;
            line.extend(["/bin/sh".to_owned(), source.display().to_string()]);
            arguments.push(program.display().to_string());
        }
        _ => {
            compile(&source, &program, &[])?;
            line.push(program.display().to_string());
        }
    }
    line.extend(arguments);
    if tree.name == "exec" {
        let words = ["/bin/sh", "-c", "exec \"$0\" \"$@\""];
        line.splice(0..0, words.map(str::to_owned));
    }
    Ok(line)
}

/// `mana_launch`, without an MPI launcher.
fn launch(setup: &Setup, options: &[&str], line: &[String]) -> Result<Job> {
    let launch = setup.product.command("mana_launch");
    let before = setup.before.iter().map(std::ffi::OsString::from);
    let mut words = before.chain([launch.into()]);
    let mut command = Command::new(words.next().unwrap_or_default());
    command
        .args(words)
        .arg("--config")
        .arg(setup.configuration())
        .args(["--id", &setup.id])
        .args(options)
        .arg("--")
        .args(line)
        .envs(setup.environment.iter().map(|(name, value)| (name, value)))
        .current_dir(&setup.directory);
    Job::start(command, &setup.directory)
}

fn missing(tree: &Tree) -> Option<String> {
    if tree.modules.is_empty() {
        return None;
    }
    let loads = Command::new(PYTHON)
        .args(["-c", &format!("import {}", tree.modules)])
        .output();
    match loads {
        Ok(output) if output.status.success() => None,
        _ => Some(format!("{PYTHON} has no {}", tree.modules)),
    }
}

fn run(context: &Context, tree: &Tree) -> Result<Verdict> {
    if let Some(why) = missing(tree) {
        return skipped(why);
    }
    let Some(product) = context.product() else {
        return skipped("no installed tree was named with --mana");
    };
    let mut place = context.directory(&format!("tree-{}", tree.name))?;
    let quick = line(tree, place.path(), tree.fast)?;
    let mut command = Command::new(&quick[0]);
    command.args(&quick[1..]).current_dir(place.path());
    let native = Job::start(command, place.path())?.wait(LIMIT)?;
    let expected = native.expect(0)?.result()?;

    let setup = stage(product, place.path())?;
    same(&launch(&setup, &[], &quick)?.wait(LIMIT)?, &expected)?;

    let slow = line(tree, place.path(), tree.slow)?;
    let note = killed_and_resumed(context, tree, setup, &slow, &expected)?;
    place.done();
    Ok(Verdict::Passed(note))
}

/// The whole tree is killed, once or more often, and says what it says natively. How many there were.
fn killed_and_resumed(
    context: &Context,
    tree: &Tree,
    mut setup: Setup,
    slow: &[String],
    expected: &str,
) -> Result<String> {
    let stores = setup.stores();
    setup.hold();
    let mut job = launch(&setup, &["--fresh"], slow)?;
    let mut notes = Vec::new();
    let kills = if context.full { 3 } else { 1 };
    for turn in 1..=kills {
        let before = stores.committed().len();
        job.until("a new generation with all processes", LIMIT, |job| {
            (stores.committed().len() > before + 1 && job.processes().len() >= tree.processes)
                .then_some(())
        })?;
        notes.push(job.processes().len().to_string());
        job.destroy();
        let ended = job.wait(LIMIT)?;
        ensure!(
            ended.code() != 0,
            "killed, and it ended well\n{}",
            ended.report()
        );
        if turn == kills {
            setup.release()?;
        }
        job = launch(&setup, &["--restart"], slow)?;
    }
    same(&job.wait(LIMIT)?, expected)?;
    Ok(format!("killed with {} processes", notes.join(" and ")))
}

fn stage(product: &Product, directory: &Path) -> Result<Setup> {
    let intervals = Intervals {
        local: 1,
        ..Intervals::default()
    };
    product.setup(directory, Mpi::OpenMpi, 1, intervals)
}

/// One checkpoint after the other, while children are made and execute a program.
fn executes(context: &Context) -> Result<Verdict> {
    let Some(product) = context.product() else {
        return skipped("no installed tree was named with --mana");
    };
    let mut place = context.directory("tree-executes")?;
    let setup = stage(product, place.path())?;
    let seconds = if context.full { "120" } else { "8" };
    let program = source("executes.py").display().to_string();
    let over = place.path().join("over");
    let until = over.display().to_string();
    let line = [PYTHON.to_owned(), program, seconds.to_owned(), until];
    let mut job = launch(&setup, &[], &line)?;
    let stores = setup.stores();
    job.until("a generation", LIMIT, |_| {
        (!stores.committed().is_empty()).then_some(())
    })?;
    let mut taken = 0;
    while !job.ended()? {
        // Not waited for: the next is asked for as soon as this one is taken.
        setup.mana("status", &["--checkpoint"], LIMIT)?;
        let newest = stores.committed().into_iter().map(|(_, number)| number);
        taken = taken.max(newest.max().unwrap_or(0));
        if taken > 3 && !over.exists() {
            std::fs::write(&over, "").context("letting the program end")?;
        }
    }
    same(&job.wait(LIMIT)?, "0 ended badly")?;
    ensure!(taken > 3, "{taken} checkpoints were taken");
    place.done();
    Ok(Verdict::Passed(format!("{taken} checkpoints")))
}

/// A program that nobody controls, and that sleeps until a file exists or, without one, for long.
fn static_nap(place: &Path) -> Result<PathBuf> {
    let text = place.join("nap.c");
    std::fs::write(
        &text,
        "#include <unistd.h>\nint main(int n, char **words) {\n\
         \x20   if (n < 2) return sleep(600);\n\
         \x20   while (access(words[1], F_OK)) usleep(20000);\n\
         \x20   return 0;\n}\n",
    )
    .with_context(|| format!("writing {}", text.display()))?;
    let nap = place.join("static-nap");
    compile(&text, &nap, &["-static"])?;
    Ok(nap)
}

/// A child that cannot be controlled for a while.
fn refused(context: &Context) -> Result<Verdict> {
    let Some(product) = context.product() else {
        return skipped("no installed tree was named with --mana");
    };
    let mut place = context.directory("tree-refused")?;
    let nap = static_nap(place.path())?;
    let setup = stage(product, place.path())?;
    let script = format!(
        "{} woken; while [ ! -e over ]; do sleep 0.1; done; echo RESULT done",
        nap.display()
    );
    let line = ["/bin/sh".to_owned(), "-c".to_owned(), script];
    let mut job = launch(&setup, &[], &line)?;
    let stores = setup.stores();
    job.until("the refusal", LIMIT, |job| {
        let said = job.messages();
        let named = said.contains("(static-nap) of the program is alive");
        (named && said.contains("cannot be carried")).then_some(())
    })?;
    ensure!(stores.committed().is_empty(), "{}", job.output());
    let wake = |name: &str| std::fs::write(place.path().join(name), "").context("creating a file");
    wake("woken")?;
    job.until("a generation after the refusal", LIMIT, |_| {
        (!stores.committed().is_empty()).then_some(())
    })?;
    wake("over")?;
    same(&job.wait(LIMIT)?, "done")?;
    place.done();
    passed()
}
