//! mpi4py's own test suite: every test has the outcome it has natively, with a checkpoint every two
//! seconds. The tests come from PyPI, in the version of Debian's package, which is built for Open MPI;
//! a second one is built for MPICH. Both are kept beside the tree.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{bail, ensure, Context as _, Result};

use super::modes::watch;
use super::Scenario;
use crate::context::{skipped, Context, Verdict};
use crate::job::Job;
use crate::mpi::Mpi;
use crate::product::Intervals;

const PYTHON: &str = "/usr/bin/python3";
const LIMIT: Duration = Duration::from_secs(600);

/// What the short run has.
const SHORT: &[&str] = &[
    "test_attributes",
    "test_comm_inter",
    "test_comm_topo",
    "test_datatype",
    "test_errhandler",
    "test_errorcode",
    "test_exceptions",
    "test_file",
    "test_grequest",
    "test_io",
    "test_p2p_buf_matched",
    "test_rma",
    "test_status",
    "test_win",
];

/// What is left out: modules that do not end natively on a machine with few processors (spawning many
/// processes and looking up names that are gone).
const WITHOUT: &[&str] = &["test_spawn", "test_dynproc"];

/// Tests whose outcome is not the native one, and why (`docs/testing.md`).
const DIFFERENT: &[(&str, &str)] = &[];

pub fn all() -> Vec<Scenario> {
    Mpi::ALL
        .into_iter()
        .map(|mpi| {
            Scenario::new(
                format!("mpi4py/{}", mpi.name()),
                "mpi4py's own tests have their native outcomes, with a checkpoint every two seconds",
                move |context| run(context, mpi),
            )
        })
        .collect()
}

/// The tests, and what Python needs to find the module.
struct Suite {
    tests: PathBuf,
    module: Option<PathBuf>,
}

fn run(context: &Context, mpi: Mpi) -> Result<Verdict> {
    if mpi.tool("mpicc").is_none() || mpi.tool("mpirun").is_none() {
        return skipped(format!("{} is not installed", mpi.name()));
    }
    let Some(product) = context.product() else {
        return skipped("no installed tree was named with --mana");
    };
    let suite = match prepared(mpi, &product.cache()) {
        Ok(suite) => suite,
        Err(why) => return skipped(format!("{why:#}")),
    };
    // More ranks than processors that wait without giving way take MPICH an hour.
    let ranks: &[u32] = match (context.full, mpi) {
        (false, Mpi::OpenMpi) => &[2],
        (true, Mpi::OpenMpi) => &[1, 3],
        (false, _) => &[1],
        (true, _) => &[1, 2],
    };
    let mut notes = Vec::new();
    for &ranks in ranks {
        let mut place = context.directory(&format!("mpi4py-{}", mpi.name()))?;
        let line = |to: &Path, seconds: &str| {
            let mut line = vec![PYTHON.to_owned(), script().display().to_string()];
            line.push(suite.tests.display().to_string());
            line.push(to.display().to_string());
            if !context.full {
                line.extend(["--only".to_owned(), SHORT.join(",")]);
            }
            line.extend(["--without".to_owned(), WITHOUT.join(",")]);
            line.extend(["--seconds".to_owned(), seconds.to_owned()]);
            line
        };
        let path = suite.module.iter().map(|m| m.display().to_string());
        let path: Vec<_> = path.map(|p| ("PYTHONPATH".to_owned(), p)).collect();
        let native = place.path().join("native");
        let mut command = mpi.native(ranks);
        command
            .args(line(&native, "0"))
            .envs(path.iter().map(|(name, value)| (name, value)))
            .current_dir(place.path());
        let ended = Job::start(command, place.path())?.wait(LIMIT)?;
        ended.expect(0)?;
        let intervals = Intervals {
            local: 2,
            ..Intervals::default()
        };
        let ours = place.path().join("ours");
        let mut setup = product.setup(place.path(), mpi, ranks, intervals)?;
        setup.environment.extend(path);
        let (ended, seen) = watch(
            setup.launch(&[], &line(&ours, "7"))?,
            &setup.stores(),
            LIMIT,
        )?;
        ended.expect(0)?;
        ensure!(
            !seen.is_empty(),
            "no generation was committed\n{}",
            ended.report()
        );
        let mut tests = 0;
        for rank in 0..ranks {
            tests = compare(&outcomes(&native, rank)?, &outcomes(&ours, rank)?, rank)
                .with_context(|| ended.report())?;
        }
        notes.push(format!(
            "{tests} tests on {ranks} ranks, {} generations",
            seen.len()
        ));
        place.done();
    }
    Ok(Verdict::Passed(notes.join("; ")))
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("programs/suite.py")
}

/// What each test came to on one rank.
fn outcomes(beginning: &Path, rank: u32) -> Result<BTreeMap<String, String>> {
    let path = beginning.with_extension(rank.to_string());
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let pair = |line: &str| {
        let (test, outcome) = line.rsplit_once(' ')?;
        Some((test.to_owned(), outcome.to_owned()))
    };
    Ok(text.lines().filter_map(pair).collect())
}

/// The number of tests, if all came to the same.
fn compare(
    native: &BTreeMap<String, String>,
    ours: &BTreeMap<String, String>,
    rank: u32,
) -> Result<usize> {
    ensure!(!native.is_empty(), "no test was run");
    let mut different = Vec::new();
    for test in native.keys().chain(ours.keys()) {
        let (expected, found) = (native.get(test), ours.get(test));
        let known = DIFFERENT.iter().any(|(name, _)| test == name);
        if expected != found && !known {
            different.push(format!("{test}: {found:?}, natively {expected:?}"));
        }
    }
    different.dedup();
    if !different.is_empty() {
        bail!("rank {rank}: {}", different.join("\n  "));
    }
    Ok(native.len())
}

/// The suite for `mpi` below `cache`; fetched and built once.
fn prepared(mpi: Mpi, cache: &Path) -> Result<Suite> {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock();
    let version =
        said(Command::new(PYTHON).args(["-c", "import numpy, mpi4py as m; print(m.__version__)"]))
            .context("python3-mpi4py or python3-numpy is not installed")?;
    std::fs::create_dir_all(cache).with_context(|| format!("creating {}", cache.display()))?;
    let source = cache.join(format!("mpi4py-{version}"));
    let archive = cache.join(format!("mpi4py-{version}.tar.gz"));
    let constraint = cache.join("build-constraint.txt");
    // Later ones lack a part of distutils that its set-up builds on.
    std::fs::write(&constraint, "setuptools<69\n")
        .with_context(|| format!("writing {}", constraint.display()))?;
    let pip = |words: &[&str]| {
        let mut command = Command::new(PYTHON);
        command.args(["-m", "pip", "--quiet", "--disable-pip-version-check"]);
        command.args(words).env("PIP_CONSTRAINT", &constraint);
        command
    };
    let wanted = format!("mpi4py=={version}");
    if !source.join("test").is_dir() {
        let mut fetch = pip(&["download", "--no-deps", "--no-binary", "mpi4py", "--dest"]);
        quiet(fetch.arg(cache).arg(&wanted), cache)
            .context("mpi4py's sources cannot be fetched from the Python package index")?;
        let mut unpack = Command::new("tar");
        unpack.arg("xzf").arg(&archive).arg("-C").arg(cache);
        quiet(&mut unpack, cache)?;
    }
    let module = match mpi {
        Mpi::OpenMpi => None,
        _ => {
            let module = cache.join(format!("mpi4py-{version}-mpich"));
            if !module.is_dir() {
                let unfinished = module.with_extension("unfinished");
                let mut build = pip(&["install", "--no-deps", "--no-binary", "mpi4py"]);
                build.arg("--target").arg(&unfinished).arg(&archive);
                build.env("MPICC", mpi.tool("mpicc").unwrap_or_default());
                quiet(&mut build, cache).context("mpi4py cannot be built for MPICH")?;
                std::fs::rename(&unfinished, &module)
                    .with_context(|| format!("renaming {}", unfinished.display()))?;
            }
            Some(module)
        }
    };
    Ok(Suite {
        tests: source.join("test"),
        module,
    })
}

fn said(command: &mut Command) -> Result<String> {
    let output = command.output().context("starting python3")?;
    ensure!(output.status.success(), "it cannot be imported");
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Run a command whose output matters only when it fails.
fn quiet(command: &mut Command, directory: &Path) -> Result<()> {
    let taken = std::mem::replace(command, Command::new("true"));
    let ended = Job::start(taken, directory)?.wait(LIMIT)?;
    if ended.code() != 0 {
        let last = ended.stderr.lines().rev().find(|l| !l.trim().is_empty());
        bail!("{}", last.unwrap_or("no message"));
    }
    Ok(())
}
