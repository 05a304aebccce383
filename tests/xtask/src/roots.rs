//! The tests of the split process in root trees of other Debian releases, with their C libraries
//! (`tests/roots/root` makes the trees, below the target directory).
//!
//! The Rust part is built in the tree of the oldest C library and runs in all of them: the rule for
//! every installation (docs/guide/install.md). The full run builds it in each tree. The
//! programs it starts are always compiled by the tree's own compiler.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{bail, Context as _, Result};

use crate::process::{bounded, captured, shown, target_dir, workspace, Finished};
use crate::tests_all::{sum_of_cargo, Lines, Outcome};

/// A C library and the release of Debian that has it. The oldest first.
const RELEASES: &[(&str, &str)] = &[("2.31", "bullseye"), ("2.41", "trixie")];

/// What the short run has: every way in which the C library and the two halves meet.
const SHORT: &[&str] = &[
    "a_handler_s_interruption_is_not_taken_for_ours",
    "children",
    "hello",
    "libraries_opened_late",
    "python",
    "script_on_path",
    "signals",
    "threads",
    "waits",
    "with_an_unlimited_stack",
    "without_the_fsgsbase_instructions",
];

/// How often the full run has everything.
const FULL_ROUNDS: usize = 5;

/// Longest time to make a tree, to build in it, and for one round of its tests.
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// What `tests/roots/root` ends with when this machine cannot have a tree.
const UNFIT: i32 = 77;

/// What all names of this part begin with.
pub const FAMILY: &str = "glibc/";

/// The name of the part for one C library, as `--only` knows it.
fn name(glibc: &str) -> String {
    format!("{FAMILY}{glibc}")
}

/// Whether `--only PATTERN` chooses any of this.
pub fn chosen(pattern: &str) -> bool {
    RELEASES
        .iter()
        .any(|(glibc, _)| name(glibc).contains(pattern))
}

/// Runs the tests in every tree; one of `lines` for each.
pub fn run(full: bool, only: Option<&str>, lines: &mut Lines) -> Result<Outcome> {
    let toolchain = match Toolchain::find()? {
        Ok(toolchain) => toolchain,
        Err(why) => {
            lines.push(format!("skipped: glibc: {why}"));
            let mut outcome = Outcome::default();
            RELEASES.iter().for_each(|_| outcome.add(Outcome::SKIPPED));
            return Ok(outcome);
        }
    };
    let mut outcome = Outcome::default();
    let mut built: Option<Built> = None;
    for (glibc, suite) in RELEASES {
        let name = name(glibc);
        if only.is_some_and(|pattern| !name.contains(pattern)) {
            continue;
        }
        let begun = Instant::now();
        match one(&toolchain, glibc, suite, full, &mut built) {
            Ok(Ran::Tests(note)) => {
                let seconds = begun.elapsed().as_secs_f64();
                lines.push(format!("ok {name} ({seconds:.1} s): {note}"));
                outcome.add(Outcome::PASSED);
            }
            Ok(Ran::Nothing(why)) => {
                lines.push(format!("skipped: {name}: {why}"));
                outcome.add(Outcome::SKIPPED);
            }
            Err(error) => {
                lines.push(format!("FAILED {name}: {error:#}"));
                outcome.add(Outcome::FAILED);
            }
        }
    }
    Ok(outcome)
}

enum Ran {
    /// All passed; what took how long.
    Tests(String),
    /// This machine lacks what it needs.
    Nothing(String),
}

/// The program of the tests, and the target directory it was built in.
struct Built {
    program: PathBuf,
    target: PathBuf,
}

fn one(
    toolchain: &Toolchain,
    glibc: &str,
    suite: &str,
    full: bool,
    built: &mut Option<Built>,
) -> Result<Ran> {
    let begun = Instant::now();
    let home = target_dir()?.join("roots").join(glibc);
    let tree = home.join("tree");
    if let Some(why) = make(suite, &tree)? {
        return Ok(Ran::Nothing(why));
    }
    let made = begun.elapsed();
    if full || built.is_none() {
        *built = Some(build(toolchain, &tree, &home.join("build"))?);
    }
    let ready = begun.elapsed();
    let Some(tests) = built else {
        bail!("nothing was built");
    };
    let mut passed = 0;
    for _ in 0..if full { FULL_ROUNDS } else { 1 } {
        passed += test(toolchain, &tree, tests, full)?;
    }
    Ok(Ran::Tests(format!(
        "{passed} tests; tree {:.1} s, build {:.1} s",
        made.as_secs_f64(),
        (ready - made).as_secs_f64()
    )))
}

/// Makes the tree unless it is there; the reason if this machine cannot have it.
fn make(suite: &str, tree: &Path) -> Result<Option<String>> {
    let mut command = Command::new(script()?);
    command.arg("make").arg(suite).arg(tree);
    let finished = bounded(&mut command, LIMIT, |_| {})?;
    match finished.status.and_then(|s| s.code()) {
        Some(0) => Ok(None),
        Some(UNFIT) => Ok(Some(finished.output.trim().to_owned())),
        _ => bail!("{}: failed\n{}", shown(&command), finished.output),
    }
}

fn build(toolchain: &Toolchain, tree: &Path, target: &Path) -> Result<Built> {
    std::fs::create_dir_all(target).with_context(|| format!("cannot make {}", target.display()))?;
    let mut command = toolchain.enter(tree, target)?;
    command.args(["cargo", "test", "--offline", "--locked", "--no-run"]);
    command.args(["-p", "split-process", "--test", "programs"]);
    let finished = good(&mut command)?;
    // `  Executable tests/programs.rs (PATH)`
    let program = finished
        .output
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Executable ")?.split_once(" ("))
        .find_map(|(_, path)| path.strip_suffix(')'))
        .with_context(|| format!("cargo named no program\n{}", finished.output))?;
    Ok(Built {
        program: program.into(),
        target: target.to_owned(),
    })
}

/// One round of the tests in a tree; how many passed.
fn test(toolchain: &Toolchain, tree: &Path, tests: &Built, full: bool) -> Result<u64> {
    let mut command = toolchain.enter(tree, &tests.target)?;
    if !full {
        command.arg("MANA_TEST_SHORT=1");
    }
    command.arg(&tests.program);
    if full {
        // Other programs' packages are not in the tree.
        command.args(["--skip", "python_with_numpy"]);
    } else {
        command.arg("--exact").args(SHORT);
    }
    let finished = good(&mut command)?;
    let passed = sum_of_cargo(&finished.output).passed;
    if passed == 0 {
        bail!("no test ran\n{}", finished.output);
    }
    Ok(passed)
}

/// Runs a command in a tree; what it said is the error if it fails.
fn good(command: &mut Command) -> Result<Finished> {
    let finished = bounded(command, LIMIT, |_| {})?;
    if finished.status.is_none() {
        bail!(
            "{}: hung and was killed\n{}",
            shown(command),
            finished.output
        );
    }
    if !finished.success() {
        bail!("{}: failed\n{}", shown(command), finished.output);
    }
    Ok(finished)
}

fn script() -> Result<PathBuf> {
    Ok(workspace()?.join("tests/roots/root"))
}

/// The Rust toolchain of this machine, which runs in the trees as it is.
struct Toolchain {
    directory: PathBuf,
    home: PathBuf,
}

impl Toolchain {
    /// The inner error: why there is none that could be shown in a tree.
    fn find() -> Result<std::result::Result<Self, String>> {
        let directory = PathBuf::from(captured(
            Command::new("rustc").args(["--print", "sysroot"]),
        )?);
        if directory.starts_with("/usr") || !directory.join("bin/cargo").exists() {
            return Ok(Err(
                "the Rust toolchain is a part of this system (one of rustup can be used in another)"
                    .to_owned(),
            ));
        }
        let home = std::env::var_os("CARGO_HOME")
            .map(PathBuf::from)
            .or_else(|| {
                let user = std::env::var_os("HOME")?;
                Some(Path::new(&user).join(".cargo"))
            });
        Ok(match home.filter(|home| home.exists()) {
            Some(home) => Ok(Self { directory, home }),
            None => Err("cargo's home is not known (CARGO_HOME)".to_owned()),
        })
    }

    /// The beginning of a command within a tree, in the sources' directory: settings may follow,
    /// then the program.
    fn enter(&self, tree: &Path, target: &Path) -> Result<Command> {
        let top = workspace()?;
        let setting = |name: &str, value: &Path| format!("{name}={}", value.display());
        let mut command = Command::new(script()?);
        command.arg("enter").arg(tree);
        command.args([&top, &self.directory, &self.home, target]);
        command.args(["--", "/usr/bin/env", "-i", "-C"]).arg(&top);
        command.args([
            "HOME=/root",
            "RUST_BACKTRACE=0",
            "CARGO_PROFILE_DEV_DEBUG=0",
        ]);
        command.arg(format!(
            "PATH={}/bin:/usr/bin:/bin",
            self.directory.display()
        ));
        command.arg(setting("CARGO_HOME", &self.home));
        command.arg(setting("CARGO_TARGET_DIR", target));
        Ok(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_choose_releases() {
        assert!(chosen("glibc"));
        assert!(chosen("glibc/2.41"));
        assert!(!chosen("cluster"));
    }

    #[test]
    fn the_oldest_comes_first() {
        let minor = |glibc: &str| glibc.split_once('.')?.1.parse::<u32>().ok();
        assert!(RELEASES.windows(2).all(|w| minor(w[0].0) < minor(w[1].0)));
    }
}
