//! `mana-scenarios bench`: native and ours in turns, medians and quartiles, as Markdown tables.
//!
//! Turns, because a machine's speed drifts: each pair is measured within seconds, and the
//! difference is that of the pairs' medians. Without `--mana` only the native columns are filled.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context as _, Result};
use clap::Args;

use crate::figures::Sample;
use crate::job::Job;
use crate::mpi::Mpi;
use crate::product::{Intervals, Product};
use crate::programs::{Program, MEMORY, MICRO};

/// Longest time of one measurement.
const LIMIT: Duration = Duration::from_secs(600);

/// What to measure.
#[derive(Args)]
pub struct Arguments {
    /// The installed tree
    #[arg(long, value_name = "DIR")]
    mana: Option<PathBuf>,
    /// Pairs of runs
    #[arg(long, default_value_t = 10)]
    pairs: u32,
    /// Tenths of a second that each part of a microbenchmark takes
    #[arg(long, default_value_t = 5)]
    tenths: u32,
    /// Sizes in MiB per rank for the cost of a checkpoint
    #[arg(long, value_delimiter = ',', default_value = "64,512,2048")]
    sizes: Vec<u64>,
    /// Restarts for each size
    #[arg(long, default_value_t = 3)]
    repeats: u32,
    /// Checkpoints before each restart
    #[arg(long, default_value_t = 3)]
    checkpoints: u32,
    /// How a checkpoint is taken, as `snapshot` in mana.conf
    #[arg(long, default_value = "auto")]
    snapshot: String,
    /// Only microbenchmarks
    #[arg(long)]
    micro_only: bool,
    /// Only the cost of checkpoints
    #[arg(long, conflicts_with = "micro_only")]
    checkpoints_only: bool,
    /// Directory of the stores for the cost of checkpoints [default: the system's temporary one]
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
}

/// Measure and print.
pub fn run(arguments: &Arguments) -> Result<()> {
    ensure!(arguments.pairs > 0, "--pairs must be positive");
    let product = arguments.mana.as_deref().map(Product::new).transpose()?;
    let work = tempfile::Builder::new()
        .prefix("mana-bench.")
        .tempdir()
        .context("creating a working directory")?;
    let micros = Mpi::ALL.iter().filter(|_| !arguments.checkpoints_only);
    for &mpi in micros {
        if let Some(why) = MICRO.missing(mpi) {
            println!("{}: skipped, {why}\n", mpi.name());
            continue;
        }
        micro(arguments, product.as_ref(), mpi, work.path())?;
    }
    let Some(product) = product else {
        return Ok(());
    };
    if !arguments.micro_only {
        for mpi in Mpi::ALL
            .into_iter()
            .filter(|mpi| MEMORY.missing(*mpi).is_none())
        {
            checkpoints(arguments, &product, mpi, work.path())?;
        }
    }
    Ok(())
}

type Table = BTreeMap<String, (Sample, String)>;

fn micro(arguments: &Arguments, product: Option<&Product>, mpi: Mpi, work: &Path) -> Result<()> {
    let executable = MICRO.build(mpi, &work.join(mpi.name()))?;
    let tenths = arguments.tenths.to_string();
    let line = MICRO.line(&executable, &["--tenths", &tenths]);
    let setup = product
        .map(|product| {
            product.setup(
                &work.join(format!("{}-job", mpi.name())),
                mpi,
                MICRO.ranks,
                Intervals::default(),
            )
        })
        .transpose()?;
    let (mut native, mut ours) = (Table::new(), Table::new());
    for _ in 0..arguments.pairs {
        let mut command = mpi.launcher(MICRO.ranks, true);
        command.args(&line).current_dir(work);
        read(
            &mut native,
            &Job::start(command, work)?.wait(LIMIT)?.expect(0)?.stdout,
        );
        if let Some(setup) = &setup {
            let mut command = mpi.launcher(MICRO.ranks, true);
            command
                .arg(setup.product.command("mana_launch"))
                .arg("--config")
                .arg(setup.configuration());
            command
                .args(["--id", &setup.id, "--fresh", "--quiet", "--"])
                .args(&line)
                .current_dir(work);
            read(
                &mut ours,
                &Job::start(command, work)?.wait(LIMIT)?.expect(0)?.stdout,
            );
        }
    }
    println!(
        "### {} ({} pairs, median and quartiles)\n",
        mpi.name(),
        arguments.pairs
    );
    println!("| | native | ours | difference |\n|---|---|---|---|");
    for (name, (sample, unit)) in &native {
        let (other, difference) = match ours.get(name) {
            Some((other, _)) => {
                let by = other.median() - sample.median();
                (
                    other.text(1),
                    format!("{by:+.1} {unit}, {:+.1} %", 100.0 * by / sample.median()),
                )
            }
            None => ("-".to_owned(), "-".to_owned()),
        };
        println!(
            "| {name} ({unit}) | {} | {other} | {difference} |",
            sample.text(1)
        );
    }
    println!();
    Ok(())
}

/// The lines `BENCH <name> <value> <unit>`.
fn read(table: &mut Table, output: &str) {
    for line in output.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        if let ["BENCH", name, value, unit] = words[..] {
            if let Ok(value) = value.parse() {
                let (sample, kept) = table.entry(name.to_owned()).or_default();
                sample.push(value);
                unit.clone_into(kept);
            }
        }
    }
}

/// What the checkpoints of one size cost.
#[derive(Default)]
struct Cost {
    /// Milliseconds that the program was stopped, by the product's own lines.
    stopped: Sample,
    /// The longest step that the program itself saw, in milliseconds.
    step: Sample,
    /// Seconds from the request to the commit.
    total: Sample,
    /// Seconds of an O_DIRECT write of as many bytes.
    direct: Sample,
    /// Seconds from the launcher's start to the resumed program.
    restart: Sample,
    /// All images of a generation.
    bytes: u64,
}

/// Pause, total time, bytes and restart time, against an O_DIRECT write of the same bytes.
fn checkpoints(arguments: &Arguments, product: &Product, mpi: Mpi, work: &Path) -> Result<()> {
    let program: &Program = &MEMORY;
    let executable = program.build(mpi, &work.join(mpi.name()))?;
    println!(
        "### Cost of a checkpoint, {}, {} ranks, local level, snapshot = {}\n",
        mpi.name(),
        program.ranks,
        arguments.snapshot
    );
    println!("| MiB per rank | program stopped (ms) | longest step it saw (ms) | asked to committed (s) | bytes of all images | O_DIRECT write of as many (s) | restart to running (s) |");
    println!("|---|---|---|---|---|---|---|");
    for &mib in &arguments.sizes {
        let mut cost = Cost::default();
        for _ in 0..arguments.repeats {
            life(arguments, product, mpi, work, &executable, mib, &mut cost)?;
        }
        println!(
            "| {mib} | {} | {} | {} | {} | {} | {} |",
            cost.stopped.text(0),
            cost.step.text(0),
            cost.total.text(2),
            cost.bytes,
            cost.direct.text(2),
            cost.restart.text(2)
        );
    }
    println!();
    Ok(())
}

/// One job: its checkpoints, a kill, a restart, its end.
fn life(
    arguments: &Arguments,
    product: &Product,
    mpi: Mpi,
    work: &Path,
    executable: &Path,
    mib: u64,
    cost: &mut Cost,
) -> Result<()> {
    let program: &Program = &MEMORY;
    let parent = arguments.store.as_deref().unwrap_or(work);
    let place = tempfile::Builder::new()
        .prefix("mana-bench-job.")
        .tempdir_in(parent)
        .context("creating a store")?;
    let setup = product.setup(place.path(), mpi, program.ranks, Intervals::default())?;
    let mode = format!("snapshot={}\n", arguments.snapshot);
    setup.configure(Intervals::default(), &mode)?;
    let seconds = (4 + u64::from(arguments.checkpoints) * (2 + mib / 300)).to_string();
    let line = program.line(
        executable,
        &["--mib", &mib.to_string(), "--seconds", &seconds],
    );
    let mut job = setup.launch(&[], &line)?;
    // The memory is full when the resident size says so.
    job.until("memory to be filled", LIMIT, |job| {
        let ranks = job.ranks();
        let full = ranks
            .iter()
            .filter(|rank| resident(rank.pid) > (mib << 20))
            .count();
        (full >= program.ranks as usize).then_some(())
    })?;
    for _ in 0..arguments.checkpoints {
        let asked = Instant::now();
        setup
            .mana(
                "status",
                &["--checkpoint", "--level", "local", "--wait"],
                LIMIT,
            )?
            .expect(0)?;
        cost.total.push(asked.elapsed().as_secs_f64());
        let newest = setup
            .stores()
            .generations()
            .into_values()
            .next_back()
            .context("no generation on the disk")?;
        cost.bytes = newest
            .images()
            .iter()
            .filter_map(|image| image.metadata().ok())
            .map(|data| data.len())
            .sum();
        cost.direct.push(write_directly(place.path(), cost.bytes)?);
    }
    let messages = job.messages();
    let stops = messages
        .lines()
        .filter_map(|l| l.split_once("program stopped "));
    for (_, rest) in stops {
        cost.stopped
            .push(milliseconds(rest).context("how long the program was stopped")?);
    }
    let printed = job.printed();
    let steps = printed.lines().filter_map(|l| l.strip_prefix("STEP "));
    let longest = steps.filter_map(|ms| ms.parse().ok()).reduce(f64::max);
    cost.step.push(longest.context("no STEP line")?);
    job.kill_ranks();
    job.wait(LIMIT)?;
    let begun = Instant::now();
    let mut job = setup.launch(&["--restart"], &line)?;
    job.until("the resumed program", LIMIT, |job| {
        job.messages().contains("resumed generation").then_some(())
    })?;
    cost.restart.push(begun.elapsed().as_secs_f64());
    job.wait(LIMIT)?.expect(0)?;
    Ok(())
}

/// The time at the beginning of `text`, as in `24 ms (gate ...`.
fn milliseconds(text: &str) -> Option<f64> {
    let mut words = text.split_whitespace();
    let (value, unit) = (words.next()?.parse::<f64>().ok()?, words.next()?);
    match unit {
        "s" => Some(value * 1e3),
        "ms" => Some(value),
        _ => Some(value / 1e3),
    }
}

fn resident(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    status
        .split_whitespace()
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok())
        .unwrap_or(0)
        * 4096
}

/// Seconds that `dd oflag=direct` takes for so many bytes.
fn write_directly(directory: &Path, bytes: u64) -> Result<f64> {
    const BLOCK: u64 = 8 << 20;
    let file = directory.join("direct");
    let mut command = Command::new("dd");
    command
        .arg("if=/dev/zero")
        .arg(format!("of={}", file.display()))
        .args(["bs=8M", "oflag=direct", "conv=fsync", "status=none"]);
    command.arg(format!("count={}", bytes.div_ceil(BLOCK).max(1)));
    let begun = Instant::now();
    Job::start(command, directory)?.wait(LIMIT)?.expect(0)?;
    let took = begun.elapsed().as_secs_f64();
    std::fs::remove_file(&file).with_context(|| format!("deleting {}", file.display()))?;
    Ok(took)
}
