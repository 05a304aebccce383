//! `cargo xtask`: everything a developer or a user of the sources runs.
//!
//! | command | does |
//! |---|---|
//! | `setup` | installs what is missing on the machine, or names the line to run |
//! | `build` | lays out an installable tree in `target/mana` |
//! | `install` | copies that tree |
//! | `package` | a relocatable tar file and a Debian package of it |
//! | `demo` | the main job: a node dies, and the answer is the same |
//! | `test` | all tests, one closing line |
//! | `coverage` | records what the test programs call, and writes docs/coverage*.md |
//! | `fmt`, `lint` | the two checks alone |

mod demo;
mod install;
mod mpis;
mod package;
mod packages;
mod process;
mod roots;
mod setup;
mod tests_all;
mod thermo;
mod tree;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Set-up, build, installation, demonstration and tests"
)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what is missing on this machine (Debian packages), or print the line that does
    Setup,
    /// Build everything and lay out an installable tree in target/mana
    Build,
    /// Copy the tree; it works from any directory, for every user
    Install {
        /// Where to (bin, lib and share are made below it)
        #[arg(long, value_name = "DIR")]
        prefix: PathBuf,
    },
    /// Make packages of the tree: a tar file that works wherever it is unpacked, and a Debian package
    Package {
        /// Where to [default: target/packages]
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
    /// Show the main job: LAMMPS on four simulated nodes, one of which is lost
    Demo,
    /// Run all tests; the last line is "N passed, N failed, N skipped"
    Test {
        /// Full counts (long) instead of the short run that has every scenario
        #[arg(long)]
        full: bool,
        /// Only scenarios and root trees (glibc/2.31, ...) whose name contains this; no other tests
        #[arg(long, value_name = "PATTERN")]
        only: Option<String>,
        /// Seed of everything random in the scenarios
        #[arg(long, value_name = "N")]
        seed: Option<u64>,
    },
    /// Record which MPI procedures the test programs call in each kind of run, and write docs/coverage*.md
    Coverage {
        /// Only scenarios whose name contains this; what the pages have stays
        #[arg(long, value_name = "PATTERN")]
        only: Option<String>,
    },
    /// Check the formatting
    Fmt,
    /// Run the linter, warnings are errors
    Lint,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Task::Setup => setup::run(setup::Purpose::Tests).map(|()| true),
        Task::Build => tree::build().map(|_| true),
        Task::Install { prefix } => install::run(&prefix).map(|()| true),
        Task::Package { out } => package::package(out.as_deref()).map(|()| true),
        Task::Demo => demo::run(),
        Task::Test { full, only, seed } => tests_all::run(&tests_all::Choice { full, only, seed }),
        Task::Coverage { only } => tests_all::coverage(only).map(|outcome| outcome.good()),
        Task::Fmt => tests_all::fmt().map(|outcome| outcome.good()),
        Task::Lint => tests_all::lint().map(|outcome| outcome.good()),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
