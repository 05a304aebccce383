//! HDF5's own parallel example (`ph5example.c` of Debian's documentation), unchanged: files written and read by
//! slabs, independently and collectively, also over parts of the job.
//!
//! It ends within a fraction of a second. `tests/programs/slow.c` is preloaded and lets time pass before every
//! step in a file, so that checkpoints and a kill find it between any two of them. It compares itself what it
//! reads with what it has written; the files it leaves are read again by a native run of the same program.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{ensure, Context as _, Result};

use super::modes::watch;
use super::Scenario;
use crate::context::{skipped, Context, Verdict};
use crate::job::{Ended, Job};
use crate::mpi::Mpi;
use crate::product::Intervals;

const LIMIT: Duration = Duration::from_secs(120);
const RANKS: u32 = 3;
const SOURCE: &str = "/usr/share/doc/libhdf5-doc/examples/ph5example.c.gz";
/// What passes before a step, in milliseconds.
const STEP: &str = "60";
/// Every second, so that several fall into the run.
const OFTEN: Intervals = Intervals {
    local: 1,
    partner: 2,
    global: 4,
};

pub fn all() -> Vec<Scenario> {
    let mut scenarios = Vec::new();
    for mpi in Mpi::ALL {
        for (word, kill) in [("continue", false), ("resume", true)] {
            let name = format!("hdf5-example/{}/{word}", mpi.name());
            scenarios.push(Scenario::new(
                name.clone(),
                "HDF5's parallel example, unchanged: no error of its own, and files that read natively",
                move |context| run(context, &name, mpi, kill),
            ));
        }
    }
    scenarios
}

/// The example and the library that slows it down.
struct Built {
    program: PathBuf,
    slow: PathBuf,
}

/// Builds both in `directory`; or says what is missing.
fn build(mpi: Mpi, directory: &Path) -> Result<std::result::Result<Built, String>> {
    let name = mpi.name();
    let include = Path::new("/usr/include/hdf5").join(name);
    let Some(compiler) = mpi.tool("mpicc") else {
        return Ok(Err(format!("mpicc.{name} is not installed")));
    };
    if !include.join("hdf5.h").exists() {
        return Ok(Err(format!("libhdf5-{name}-dev is not installed")));
    }
    if !Path::new(SOURCE).exists() {
        return Ok(Err("libhdf5-doc is not installed".to_owned()));
    }
    let unpacked = Command::new("gzip").args(["-dc", SOURCE]).output();
    let unpacked = unpacked.context("starting gzip")?;
    ensure!(unpacked.status.success(), "gzip -dc {SOURCE} failed");
    let source = directory.join("ph5example.c");
    std::fs::write(&source, unpacked.stdout)
        .with_context(|| format!("writing {}", source.display()))?;
    let (program, slow) = (directory.join("ph5example"), directory.join("slow.so"));
    let mut command = Command::new(&compiler);
    command.args(["-O2", "-w", "-I"]).arg(&include);
    command.arg(&source).arg("-o").arg(&program);
    command.arg(format!("-L/usr/lib/x86_64-linux-gnu/hdf5/{name}"));
    command.args(["-Wl,--no-as-needed", "-lhdf5", "-lm"]);
    compile(command, directory)?;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("programs/slow.c");
    let object = directory.join("slow.o");
    let mut command = Command::new(&compiler);
    command.args(["-O2", "-Wall", "-fPIC", "-c"]);
    command.arg(source).arg("-o").arg(&object);
    compile(command, directory)?;
    // It is preloaded into the launcher too, which needs no MPI.
    let mut command = Command::new("cc");
    command.arg("-shared").arg(object).arg("-o").arg(&slow);
    compile(command, directory)?;
    Ok(Ok(Built { program, slow }))
}

fn compile(command: Command, directory: &Path) -> Result<()> {
    Job::start(command, directory)?
        .wait(Duration::from_secs(120))?
        .expect(0)?;
    Ok(())
}

/// The example's command line; it keeps its files in `files` below the working directory.
fn line(program: &Path, more: &[&str]) -> Vec<String> {
    let words = ["-f", "files", "-c"];
    std::iter::once(program.to_string_lossy().into_owned())
        .chain(words.iter().chain(more).map(|word| (*word).to_owned()))
        .collect()
}

fn well(ended: &Ended) -> Result<()> {
    ended.expect(0)?;
    let said = ended.stdout.contains("finished with no errors");
    ensure!(said, "it found errors\n{}", ended.report());
    Ok(())
}

fn run(context: &Context, name: &str, mpi: Mpi, kill: bool) -> Result<Verdict> {
    if mpi.tool("mpirun").is_none() {
        return skipped(format!("mpirun.{} is not installed", mpi.name()));
    }
    let Some(product) = context.product() else {
        return skipped("no installed tree was named with --mana");
    };
    let mut place = context.directory(name)?;
    let directory = place.path().to_owned();
    let built = match build(mpi, &directory)? {
        Ok(built) => built,
        Err(why) => return skipped(why),
    };
    std::fs::create_dir_all(directory.join("files")).context("creating the files' directory")?;
    let native = |more: &[&str]| -> Result<()> {
        let mut command = mpi.native(RANKS);
        command.args(line(&built.program, more));
        command.current_dir(&directory);
        well(&Job::start(command, &directory)?.wait(LIMIT)?)
    };
    native(&[])?;
    for entry in std::fs::read_dir(directory.join("files"))?.flatten() {
        std::fs::remove_file(entry.path()).context("removing the native run's files")?;
    }
    let mut setup = product.setup(&directory, mpi, RANKS, OFTEN)?;
    let slow = built.slow.to_string_lossy().into_owned();
    setup.environment = vec![
        ("LD_PRELOAD".to_owned(), slow),
        ("MANA_SLOW_MS".to_owned(), STEP.to_owned()),
    ];
    let words = line(&built.program, &[]);
    let note = if kill {
        let stores = setup.stores();
        let mut job = setup.launch(&[], &words)?;
        job.until("two generations", LIMIT, |_| {
            (stores.committed().len() >= 2).then_some(())
        })?;
        job.kill_ranks();
        let first = job.wait(Duration::from_secs(60))?;
        ensure!(
            first.code() != 0,
            "killed, and it ended well\n{}",
            first.report()
        );
        let second = setup.launch(&["--restart"], &words)?.wait(LIMIT)?;
        well(&second)?;
        ensure!(
            second.stderr.contains("resumed generation"),
            "it did not resume\n{}",
            second.report()
        );
        "killed after two generations and resumed".to_owned()
    } else {
        let (ended, seen) = watch(setup.launch(&[], &words)?, &setup.stores(), LIMIT)?;
        well(&ended)?;
        ensure!(
            seen.len() >= 2,
            "{} generations were committed\n{}",
            seen.len(),
            ended.report()
        );
        format!("{} generations", seen.len())
    };
    // What it has left is what it should be, says a run that only reads.
    native(&["-w"])?;
    place.done();
    Ok(Verdict::Passed(note))
}
