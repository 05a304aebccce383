//! HPCC: residuals and pass marks of the native run, with checkpoints and after a kill.

use std::path::Path;
use std::time::Duration;

use anyhow::{ensure, Context as _, Result};

use super::Scenario;
use crate::context::{Context, Verdict};
use crate::job::Job;
use crate::mpi::{find, Mpi};
use crate::product::{Intervals, Setup};

/// With threads of OpenBLAS the residual of HPL differs from one native run to the next on some processors: their
/// kernels round by how a matrix is divided. (Threads of OpenBLAS have tests of their own, with numpy.)
const ONE_THREAD: (&str, &str) = ("OPENBLAS_NUM_THREADS", "1");

const RANKS: u32 = 2;
const LIMIT: Duration = Duration::from_secs(600);

/// How large a problem is; everything else of the benchmark follows from the order of the matrix.
#[derive(Clone, Copy)]
struct Size {
    order: u32,
    /// Local, partner, global.
    intervals: (u32, u32, u32),
}

const SHORT: Size = Size {
    order: 1000,
    intervals: (1, 2, 4),
};

const FULL: Size = Size {
    order: 1500,
    intervals: (3, 6, 12),
};

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "hpcc/continue",
            "residuals and pass marks with checkpoints taken",
            |c| run(c, false),
        ),
        Scenario::new(
            "hpcc/resume",
            "residuals and pass marks after SIGKILL and a resume",
            |c| run(c, true),
        ),
    ]
}

fn run(context: &Context, kill: bool) -> Result<Verdict> {
    let Some(hpcc) = find("hpcc") else {
        return Ok(Verdict::Skipped("hpcc is not installed".into()));
    };
    if Mpi::OpenMpi.tool("mpirun").is_none() {
        return Ok(Verdict::Skipped("mpirun.openmpi is not installed".into()));
    }
    let line = vec![hpcc.to_string_lossy().into_owned()];
    let size = if context.full { FULL } else { SHORT };
    let expected = context.native("hpcc", || {
        let mut directory = context.directory("hpcc-native")?;
        input(directory.path(), size)?;
        // Many of its messages are answered at once: it does not nap.
        let mut command = Mpi::OpenMpi.launcher(RANKS, false);
        command
            .args(&line)
            .current_dir(directory.path())
            .env(ONE_THREAD.0, ONE_THREAD.1);
        Job::start(command, directory.path())?
            .wait(LIMIT)?
            .expect(0)?;
        let marks = marks(directory.path())?;
        directory.done();
        Ok(marks)
    })?;
    let Some(product) = context.product() else {
        return Ok(Verdict::Skipped(
            "no installed tree was named with --mana".into(),
        ));
    };
    let mut place = context.directory("hpcc")?;
    input(place.path(), size)?;
    let (local, partner, global) = size.intervals;
    let intervals = Intervals {
        local,
        partner,
        global,
    };
    let mut setup: Setup = product.setup(place.path(), Mpi::OpenMpi, RANKS, intervals)?;
    let (name, value) = ONE_THREAD;
    setup.environment.push((name.to_owned(), value.to_owned()));
    setup.configure(intervals, "lower_preload=\n")?;
    let stores = setup.stores();
    let mut job = setup.launch(&[], &line)?;
    if kill {
        job.until("two generations", LIMIT, |_| {
            (stores.committed().len() >= 2).then_some(())
        })?;
        job.kill_ranks();
        job.wait(Duration::from_secs(60))?;
        job = setup.launch(&["--restart"], &line)?;
    }
    let ended = job.wait(LIMIT)?;
    ended.expect(0)?;
    let found = marks(place.path())?;
    ensure!(
        found == expected,
        "other residuals or marks:\n{found}\nnatively:\n{expected}"
    );
    place.done();
    Ok(Verdict::Passed(format!(
        "{} lines compared",
        expected.lines().count()
    )))
}

fn input(directory: &Path, size: Size) -> Result<()> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .with_file_name("programs")
        .join("hpccinf.txt");
    let text = std::fs::read_to_string(&source)
        .with_context(|| format!("reading {}", source.display()))?;
    let order = format!("{:<13}Ns", size.order);
    let text: Vec<_> = text
        .lines()
        .map(|line| match line.ends_with(" Ns") {
            true => order.as_str(),
            false => line,
        })
        .collect();
    let path = directory.join("hpccinf.txt");
    std::fs::write(&path, text.join("\n") + "\n")
        .with_context(|| format!("writing {}", path.display()))
}

/// The lines of the output that hold no time and no rate.
fn marks(directory: &Path) -> Result<String> {
    let path = directory.join("hpccoutf.txt");
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let stable = |line: &&str| {
        [
            "||Ax-b||",
            "PASSED",
            "FAILED",
            "Found ",
            "Node selected",
            "HPL_N=",
            "Success=",
            "MPIRandomAccess_LCG_Errors=",
            "CommWorldProcs=",
        ]
        .iter()
        .any(|mark| line.contains(mark))
    };
    let marks: Vec<_> = text
        .lines()
        .filter(stable)
        .filter_map(without_time)
        .collect();
    ensure!(
        marks.len() > 5,
        "{} is incomplete: {} lines",
        path.display(),
        marks.len()
    );
    Ok(marks.join("\n"))
}

/// A line of the transposition test holds a time and a rate among its numbers: "WALL m n mb nb p q time
/// mark rate residual". Its twin by processor time appears only when that was measurable, and goes.
fn without_time(line: &str) -> Option<String> {
    let words: Vec<_> = line.split_whitespace().collect();
    match words.first() {
        Some(&"CPU") => None,
        Some(&"WALL") if words.len() == 11 => {
            let kept = words[..7].iter().chain(&words[8..9]).chain(&words[10..]);
            Some(kept.copied().collect::<Vec<_>>().join(" "))
        }
        _ => Some(line.to_owned()),
    }
}
