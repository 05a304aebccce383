//! `cargo xtask test`: every kind of test, one sum.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::process::{bounded, cargo, on_path, run as run_command, shown, target_dir, workspace};
use crate::{mpis, packages, roots, setup, tree};

/// What to run.
#[derive(Debug)]
pub struct Choice {
    /// Full counts.
    pub full: bool,
    /// Only these scenarios.
    pub only: Option<String>,
    /// Seed of the scenarios.
    pub seed: Option<u64>,
}

/// Packages that are linked by the build and have no tests of their own.
const LINKED_BY_THE_BUILD: &[&str] = &[
    "mana-adapter",
    "mana-stub-openmpi",
    "mana-stub-mpich",
    "mana-stub-standard",
    "mana-interface-upper",
];

/// Characters of a failure's line that are shown again at the end.
const LONGEST_AGAIN: usize = 300;

/// Longest time for the crates' tests.
const CRATES_LIMIT: Duration = Duration::from_secs(20 * 60);

/// Longest time for the scenarios of the short run.
const SHORT_LIMIT: Duration = Duration::from_secs(3 * 3600);

/// Longest time for those of the full one.
const FULL_LIMIT: Duration = Duration::from_secs(12 * 3600);

/// Numbers of tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Did what they should.
    pub passed: u64,
    failed: u64,
    skipped: u64,
}

impl Outcome {
    /// One test that passed.
    pub const PASSED: Self = Self {
        passed: 1,
        failed: 0,
        skipped: 0,
    };
    /// One that failed.
    pub const FAILED: Self = Self {
        passed: 0,
        failed: 1,
        skipped: 0,
    };
    /// One that could not be run.
    pub const SKIPPED: Self = Self {
        passed: 0,
        failed: 0,
        skipped: 1,
    };

    /// Nothing failed.
    pub fn good(self) -> bool {
        self.failed == 0
    }

    /// Adds another's numbers.
    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

/// Runs everything; whether all went well.
pub fn run(choice: &Choice) -> Result<bool> {
    let mut sum = Sum::default();
    let only = choice.only.as_deref();
    let jobs = only.is_none_or(|pattern| !pattern.starts_with(roots::FAMILY));
    let set_up = || setup::run(setup::Purpose::Tests).map(|()| Outcome::PASSED);
    let ready = sum.part("set-up", set_up)
        && (!jobs || sum.part("build", || tree::build().map(|_| Outcome::PASSED)));
    // Each of these waits for the network or for one compiler at times: they share the processors.
    std::thread::scope(|scope| {
        let trees = only.is_none_or(roots::chosen).then(|| {
            let run = |lines: &mut Lines| roots::run(choice.full, only, lines);
            scope.spawn(move || Part::run("root trees", run))
        });
        let fetched = (jobs && ready && only.is_none_or(mpis::chosen))
            .then(|| scope.spawn(|| Part::run("other MPIs", mpis::run)));
        let runner = (jobs && ready).then(|| scope.spawn(build_runner));
        if only.is_none() {
            sum.part("formatting", fmt);
            sum.part("lints", lint);
            sum.failed_in("crates", crates);
        }
        if jobs && ready && only.is_none_or(packages::chosen) {
            sum.part("packages", || packages::run(only));
        }
        for part in [trees, fetched].into_iter().flatten() {
            sum.beside(part.join());
        }
        // What it came to is seen when the runner is started.
        drop(runner.map(std::thread::ScopedJoinHandle::join));
    });
    if jobs && ready {
        sum.failed_in("scenarios", |failed| scenarios(choice, failed));
    } else if jobs {
        println!("== scenarios: not run, there is no build to test");
    }
    sum.print();
    Ok(sum.total.good())
}

/// What a part that runs beside others says, shown when it has ended.
pub type Lines = Vec<String>;

/// A part that has run beside others.
struct Part {
    name: &'static str,
    outcome: Outcome,
    time: Duration,
    lines: Lines,
}

impl Part {
    fn run(name: &'static str, body: impl FnOnce(&mut Lines) -> Result<Outcome>) -> Self {
        let begun = Instant::now();
        let mut lines = Lines::new();
        let outcome = body(&mut lines).unwrap_or_else(|error| {
            lines.push(format!("{name}: {error:#}"));
            Outcome::FAILED
        });
        Self {
            name,
            outcome,
            time: begun.elapsed(),
            lines,
        }
    }
}

#[derive(Default)]
struct Sum {
    total: Outcome,
    parts: Vec<(&'static str, Outcome, Duration)>,
    /// The lines that name a failed test.
    failed: Lines,
}

impl Sum {
    /// Runs one part; whether it went well. An error is a failed test.
    fn part(&mut self, name: &'static str, body: impl FnOnce() -> Result<Outcome>) -> bool {
        println!("== {name}");
        let begun = Instant::now();
        let outcome = body().unwrap_or_else(|error| {
            println!("{name}: {error:#}");
            Outcome::FAILED
        });
        self.total.add(outcome);
        self.parts.push((name, outcome, begun.elapsed()));
        outcome.good()
    }

    /// Runs one part of many tests, which names those that failed.
    fn failed_in(&mut self, name: &'static str, body: impl FnOnce(&mut Lines) -> Result<Outcome>) {
        let mut failed = Lines::new();
        self.part(name, || body(&mut failed));
        self.failed.append(&mut failed);
    }

    /// Counts a part that ran beside the others.
    fn beside(&mut self, part: std::thread::Result<Part>) {
        let part = part.unwrap_or_else(|_| Part {
            name: "a part",
            outcome: Outcome::FAILED,
            time: Duration::ZERO,
            lines: vec!["it panicked".to_owned()],
        });
        println!("== {} (beside the others)", part.name);
        part.lines.iter().for_each(|line| println!("{line}"));
        self.total.add(part.outcome);
        self.parts.push((part.name, part.outcome, part.time));
    }

    fn print(&self) {
        println!("== summary");
        for (name, outcome, time) in &self.parts {
            println!("{name:<12} {:>7.1} s   {outcome}", time.as_secs_f64());
        }
        // Again, as the end of a long output is what is looked at first.
        for line in &self.failed {
            let shown: String = line.chars().take(LONGEST_AGAIN).collect();
            println!("{shown}");
        }
        println!("{}", self.total);
    }
}

/// The formatting.
pub fn fmt() -> Result<Outcome> {
    component(
        "fmt",
        cargo()
            .current_dir(workspace()?)
            .args(["fmt", "--all", "--check"]),
    )
}

/// The linter.
pub fn lint() -> Result<Outcome> {
    let mut command = cargo();
    command
        .current_dir(workspace()?)
        .args(["clippy", "--quiet", "--workspace", "--all-targets"]);
    // The adapter has a part that exists once for each MPI.
    command.args(["--exclude", "mana-adapter", "--", "-D", "warnings"]);
    component("clippy", &mut command)
}

/// One of the toolchain's components, which may be absent.
fn component(name: &str, command: &mut Command) -> Result<Outcome> {
    if on_path(format!("cargo-{name}")).is_none()
        || !cargo()
            .args([name, "--version"])
            .output()
            .is_ok_and(|o| o.status.success())
    {
        println!(
            "skipped: cargo {name} is not installed (rustup component add {})",
            if name == "fmt" { "rustfmt" } else { name }
        );
        return Ok(Outcome::SKIPPED);
    }
    Ok(match run_command(command) {
        Ok(()) => Outcome::PASSED,
        Err(error) => {
            println!("{error:#}");
            Outcome::FAILED
        }
    })
}

/// The tests within the crates.
fn crates(failed: &mut Lines) -> Result<Outcome> {
    let mut command = cargo();
    command
        .current_dir(workspace()?)
        .args(["test", "--workspace", "--no-fail-fast"]);
    for package in LINKED_BY_THE_BUILD {
        command.args(["--exclude", package]);
    }
    let mut show = Showing::default();
    let finished = bounded(&mut command, CRATES_LIMIT, |line| {
        show.line(line);
        if line.ends_with("... FAILED") {
            failed.push(line.to_owned());
        }
    })?;
    let mut outcome = sum_of_cargo(&finished.output);
    println!("{outcome}");
    if !finished.success() && outcome.good() {
        // A test program that did not compile, crashed, or hung.
        let why = if finished.status.is_none() {
            "hung and was killed"
        } else {
            "failed"
        };
        println!("{}: {why}", shown(&command));
        outcome.add(Outcome::FAILED);
    }
    Ok(outcome)
}

/// Shows of cargo's output what went wrong.
#[derive(Default)]
struct Showing {
    failures: bool,
}

impl Showing {
    fn line(&mut self, line: &str) {
        let begins = line == "failures:" || line.starts_with("error") || line.starts_with("---- ");
        self.failures = (self.failures || begins) && !line.starts_with("     Running");
        if self.failures || line.ends_with("... FAILED") || line.contains("panicked at") {
            println!("{line}");
        }
    }
}

/// Adds up cargo's `test result:` lines.
pub fn sum_of_cargo(output: &str) -> Outcome {
    let mut sum = Outcome::default();
    for line in output
        .lines()
        .filter_map(|l| l.trim().strip_prefix("test result: "))
    {
        let number = |what: &str| {
            line.split([';', '.'])
                .filter_map(|part| part.trim().strip_suffix(what))
                .find_map(|n| n.trim().parse::<u64>().ok())
                .unwrap_or(0)
        };
        sum.add(Outcome {
            passed: number("passed"),
            failed: number("failed"),
            skipped: number("ignored"),
        });
    }
    sum
}

/// The scenario runner.
fn scenarios(choice: &Choice, failed: &mut Lines) -> Result<Outcome> {
    scenarios_with(choice, &[], failed)
}

/// Every program in every mode, with a recorder of what it calls; `only` adds to what the pages have.
pub fn coverage(only: Option<String>) -> Result<Outcome> {
    tree::build()?;
    let mut lines = Lines::new();
    let mut sum = Outcome::default();
    if only.as_deref().is_none_or(mpis::chosen) {
        sum.add(mpis::run(&mut lines)?);
        lines.iter().for_each(|line| println!("{line}"));
    }
    let choice = Choice {
        full: false,
        only,
        seed: None,
    };
    sum.add(scenarios_with(
        &choice,
        &["--coverage", "docs"],
        &mut Lines::new(),
    )?);
    println!("{sum}");
    Ok(sum)
}

fn build_runner() -> Result<()> {
    let words = ["build", "--release", "--quiet", "-p", "mana-scenarios"];
    run_command(cargo().current_dir(workspace()?).args(words))
}

fn scenarios_with(choice: &Choice, further: &[&str], failed: &mut Lines) -> Result<Outcome> {
    let top = workspace()?;
    build_runner()?;
    let target = target_dir()?;
    let mut command = Command::new(runner(&target));
    command
        .current_dir(&top)
        .arg("--mana")
        .arg(target.join("mana"));
    command.args(further);
    if choice.full {
        command.arg("--full");
    }
    if let Some(only) = &choice.only {
        command.args(["--only", only]);
    }
    if let Some(seed) = choice.seed {
        command.args(["--seed", &seed.to_string()]);
    }
    let limit = if choice.full { FULL_LIMIT } else { SHORT_LIMIT };
    let mut last = String::new();
    let finished = bounded(&mut command, limit, |line| {
        // Its closing line is not ours.
        if !last.is_empty() {
            println!("{last}");
        }
        if line.starts_with("FAILED ") {
            failed.push(line.to_owned());
        }
        line.clone_into(&mut last);
    })?;
    let outcome = closing_line(&finished.output);
    if outcome.is_none() {
        println!("{last}");
    }
    let mut outcome = outcome.unwrap_or_default();
    if finished.status.is_none() {
        println!(
            "the scenarios took longer than {} s and were killed",
            limit.as_secs()
        );
        outcome.add(Outcome::FAILED);
    } else if !finished.success() && outcome.good() {
        println!("the scenario runner failed without counting a failure");
        outcome.add(Outcome::FAILED);
    } else if outcome == Outcome::default() && choice.only.is_none() {
        println!("the scenario runner ran nothing");
        outcome.add(Outcome::FAILED);
    }
    Ok(outcome)
}

fn runner(target: &Path) -> PathBuf {
    target.join("release/mana-scenarios")
}

/// `N passed, N failed, N skipped`, as the last line.
fn closing_line(output: &str) -> Option<Outcome> {
    parse_closing(output.lines().rev().find(|l| !l.trim().is_empty())?).ok()
}

fn parse_closing(line: &str) -> Result<Outcome> {
    let mut numbers = [0; 3];
    let mut parts = line.trim().split(", ");
    for (number, what) in numbers.iter_mut().zip([" passed", " failed", " skipped"]) {
        let part = parts
            .next()
            .and_then(|p| p.strip_suffix(what))
            .context("not a closing line")?;
        *number = part.parse()?;
    }
    anyhow::ensure!(parts.next().is_none(), "not a closing line");
    let [passed, failed, skipped] = numbers;
    Ok(Outcome {
        passed,
        failed,
        skipped,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines() {
        let wanted = Outcome {
            passed: 3,
            failed: 1,
            skipped: 2,
        };
        assert_eq!(
            closing_line("x\n3 passed, 1 failed, 2 skipped\n\n"),
            Some(wanted)
        );
        assert_eq!(parse_closing(&wanted.to_string()).ok(), Some(wanted));
        assert_eq!(closing_line("3 passed\n"), None);
        assert_eq!(closing_line(""), None);
    }

    #[test]
    fn results_of_cargo_are_added() {
        let text = "test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.00s\n\
                    test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s\n";
        assert_eq!(
            sum_of_cargo(text),
            Outcome {
                passed: 7,
                failed: 3,
                skipped: 1
            }
        );
    }
}
