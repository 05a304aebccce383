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
mod scenarios;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use context::{Context, Verdict};

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
    let chosen: Vec<_> = scenarios::all()
        .into_iter()
        .filter(|s| {
            arguments.only.is_empty()
                || arguments
                    .only
                    .iter()
                    .any(|text| s.name.contains(text.as_str()))
        })
        .collect();
    if arguments.list {
        for scenario in &chosen {
            println!("{:44} {}", scenario.name, scenario.shows);
        }
        return Ok(true);
    }
    let context = Context::new(
        arguments.mana.clone(),
        arguments.full,
        arguments.seed,
        arguments.keep,
    )?;
    println!(
        "seed {}, {} run",
        arguments.seed,
        if arguments.full { "full" } else { "short" }
    );
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for scenario in &chosen {
        let started = std::time::Instant::now();
        let outcome = (scenario.run)(&context);
        let seconds = started.elapsed().as_secs_f64();
        match outcome {
            Ok(Verdict::Passed(note)) => {
                passed += 1;
                let note = if note.is_empty() {
                    note
                } else {
                    format!(": {note}")
                };
                println!("ok {} ({seconds:.1} s){note}", scenario.name);
            }
            Ok(Verdict::Skipped(why)) => {
                skipped += 1;
                println!("skipped: {}: {why}", scenario.name);
            }
            Err(error) => {
                failed += 1;
                println!("FAILED {} ({seconds:.1} s): {error:#}", scenario.name);
            }
        }
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    Ok(failed == 0)
}
