//! The end-to-end tests: whole jobs on real MPI libraries, run natively, under the product, through
//! checkpoints, and through every kind of loss.
//!
//! `mana-scenarios --mana DIR` takes an installed tree (`target/mana` after `cargo xtask build`) and
//! prints a line for each scenario, then `N passed, N failed, N skipped`. The exit code is 1 if one
//! failed. A scenario whose needs are not met (root, Slurm, an MPI, an application) is counted as
//! skipped, with the reason, never as passed.

mod bench;
mod context;
mod figures;
mod generations;
mod job;
mod mpi;
mod product;
mod programs;
mod random;
mod record;
mod scenarios;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Mutex;

use clap::{Args, Parser, Subcommand};

use context::{Context, Verdict};
use scenarios::Scenario;

/// End-to-end tests of checkpoint and restart on real MPI programs.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: Run,
}

#[derive(Subcommand)]
enum Command {
    /// Measure native and ours, in turns, and print the figures of benches/RESULTS.md.
    Bench(bench::Arguments),
}

#[derive(Args)]
struct Run {
    /// The installed tree to test (bin, lib, share). Without it only the native scenarios run.
    #[arg(long, value_name = "DIR")]
    mana: Option<PathBuf>,
    /// The counts and durations of the full run.
    #[arg(long)]
    full: bool,
    /// Only scenarios whose name contains this text; several are alternatives.
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Seed of every random choice; printed, so that a failure can be run again.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many of the small jobs run at a time, beside large ones (4, in the full run 2); jobs that want the machine
    /// for themselves follow.
    #[arg(long)]
    lanes: Option<u32>,
    /// Record which procedures the programs call, natively and in each mode, and write the pages of that into this
    /// directory; with `--only`, what they have of an earlier recording is kept.
    #[arg(long, value_name = "DIR", requires = "mana")]
    coverage: Option<PathBuf>,
    /// Print the names and what each shows, and end.
    #[arg(long)]
    list: bool,
    /// Keep the working directories of failed scenarios.
    #[arg(long)]
    keep: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.command {
        Some(Command::Bench(bench)) => bench::run(&bench).map(|()| true),
        None => run(&arguments.run),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("mana-scenarios: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Run what was asked for; true if nothing failed.
fn run(arguments: &Run) -> anyhow::Result<bool> {
    let chosen = |all: Vec<Scenario>| -> Vec<Scenario> {
        let wanted = |name: &str| {
            let mut texts = arguments.only.iter();
            arguments.only.is_empty() || texts.any(|text| name.contains(text.as_str()))
        };
        all.into_iter().filter(|s| wanted(&s.name)).collect()
    };
    let (beside_others, series, alone) = if arguments.coverage.is_some() {
        (scenarios::to_record(), Vec::new(), Vec::new())
    } else {
        (
            scenarios::beside_others(arguments.full),
            scenarios::series(arguments.full),
            scenarios::alone(arguments.full),
        )
    };
    let (beside_others, alone) = (chosen(beside_others), chosen(alone));
    let series: Vec<_> = series.into_iter().map(chosen).collect();
    if arguments.list {
        for scenario in beside_others
            .iter()
            .chain(series.iter().flatten())
            .chain(&alone)
        {
            println!("{:44} {}", scenario.name, scenario.shows);
        }
        return Ok(true);
    }
    let mut context = Context::new(
        arguments.mana.clone(),
        arguments.full,
        arguments.seed,
        arguments.keep,
    )?;
    if let Some(directory) = &arguments.coverage {
        context.record()?;
        if let Some(recorder) = context.recorder() {
            recorder.keep(directory, !arguments.only.is_empty())?;
        }
    }
    println!(
        "seed {}, {} run",
        arguments.seed,
        if arguments.full { "full" } else { "short" }
    );
    let tally = Tally::default();
    // Cheap ones first, so that a broken build shows early.
    let queue = Mutex::new(beside_others.iter());
    let shared = &context;
    std::thread::scope(|scope| {
        for one_by_one in &series {
            let tally = &tally;
            scope.spawn(move || {
                for scenario in one_by_one {
                    tally.count(scenario, shared);
                }
            });
        }
        // In the full run the MPIs poll without a nap: fewer jobs keep the processors busy.
        let lanes = arguments
            .lanes
            .unwrap_or(if arguments.full { 2 } else { 4 });
        for _ in 0..lanes.max(1) {
            scope.spawn(|| {
                let next = || queue.lock().ok()?.next();
                while let Some(scenario) = next() {
                    tally.count(scenario, &context);
                }
            });
        }
    });
    for scenario in &alone {
        tally.count(scenario, &context);
    }
    if let (Some(directory), Some(recorder)) = (&arguments.coverage, context.recorder()) {
        recorder.write(directory)?;
    }
    println!("{tally}");
    Ok(tally.failed.load(Ordering::Relaxed) == 0)
}

/// How scenarios ended.
#[derive(Default)]
struct Tally {
    passed: AtomicU32,
    failed: AtomicU32,
    skipped: AtomicU32,
}

impl Tally {
    /// Runs one and prints its line.
    fn count(&self, scenario: &Scenario, context: &Context) {
        let started = std::time::Instant::now();
        let outcome = (scenario.run)(context);
        let seconds = started.elapsed().as_secs_f64();
        let (number, line) = match outcome {
            Ok(Verdict::Passed(note)) => {
                let colon = if note.is_empty() { "" } else { ": " };
                let line = format!("ok {} ({seconds:.1} s){colon}{note}", scenario.name);
                (&self.passed, line)
            }
            Ok(Verdict::Skipped(why)) => {
                (&self.skipped, format!("skipped: {}: {why}", scenario.name))
            }
            Err(error) => {
                let line = format!("FAILED {} ({seconds:.1} s): {error:#}", scenario.name);
                (&self.failed, line)
            }
        };
        number.fetch_add(1, Ordering::Relaxed);
        println!("{line}");
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let number = |n: &AtomicU32| n.load(Ordering::Relaxed);
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            number(&self.passed),
            number(&self.failed),
            number(&self.skipped)
        )
    }
}
