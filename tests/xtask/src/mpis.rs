//! The MPIs of `tests/mpis.txt`: fetched from the Python package index into a virtual environment each, below
//! the target directory, and an adapter in the tree for each. What cannot be fetched is skipped.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{bail, Context as _, Result};

use crate::process::{bounded, on_path, run as run_command, target_dir, workspace};
use crate::tests_all::{Lines, Outcome};
use crate::tree;

/// For one MPI to come over the network.
const FETCHING: Duration = Duration::from_secs(300);

/// What an environment holds once everything is in it.
const COMPLETE: &str = "complete";

/// The names of the scenarios that need them begin with these.
const FAMILIES: &[&str] = &["fetched/", "another/"];

struct Listed {
    name: String,
    wrapper: bool,
    packages: Vec<String>,
}

fn listed(text: &str) -> Result<Vec<Listed>> {
    text.lines()
        .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [name, _, how, packages @ ..] = words.as_slice() else {
                bail!("tests/mpis.txt: cannot read the line {line:?}");
            };
            Ok(Listed {
                name: (*name).to_owned(),
                wrapper: *how == "wrapper",
                packages: packages.iter().map(|p| (*p).to_owned()).collect(),
            })
        })
        .collect()
}

/// Whether `--only PATTERN` needs any of them.
pub fn chosen(pattern: &str) -> bool {
    FAMILIES.iter().any(|family| pattern.contains(family))
}

/// Fetches what is missing and builds the adapters.
pub fn run(lines: &mut Lines) -> Result<Outcome> {
    let top = workspace()?;
    let target = target_dir()?;
    let all = listed(&fs::read_to_string(top.join("tests/mpis.txt"))?)?;
    let mut sum = Outcome::default();
    for mpi in &all {
        let place = target.join("mpis").join(&mpi.name);
        if let Err(error) = fetch(mpi, &place, lines) {
            lines.push(format!("skipped: {}: {error:#}", mpi.name));
            sum.add(Outcome::SKIPPED);
            continue;
        }
        sum.add(match adapter(mpi, &place, &top, &target) {
            Ok(()) => Outcome::PASSED,
            Err(error) => {
                lines.push(format!("FAILED {}: {error:#}", mpi.name));
                Outcome::FAILED
            }
        });
    }
    Ok(sum)
}

fn fetch(mpi: &Listed, place: &Path, lines: &mut Lines) -> Result<()> {
    let wanted = mpi.packages.join("\n");
    let complete = place.join(COMPLETE);
    if fs::read_to_string(&complete).is_ok_and(|text| text == wanted) {
        return Ok(());
    }
    if place.exists() {
        fs::remove_dir_all(place).with_context(|| format!("cannot remove {}", place.display()))?;
    }
    lines.push(format!("fetching {}", mpi.packages.join(", ")));
    let step = |command: &mut Command| -> Result<()> {
        let finished = bounded(command, FETCHING, |_| {})?;
        if !finished.success() {
            let lines = finished.output.lines();
            let last = lines.rev().find(|l| !l.trim().is_empty());
            bail!("it cannot be fetched: {}", last.unwrap_or("no answer"));
        }
        Ok(())
    };
    let python = if on_path("/usr/bin/python3").is_some() {
        "/usr/bin/python3"
    } else {
        "python3"
    };
    step(Command::new(python).args(["-m", "venv"]).arg(place))?;
    // What the packages say they need besides (a network library) they do without on one machine.
    step(
        Command::new(place.join("bin/python3"))
            .args(["-m", "pip", "install", "--quiet", "--no-deps"])
            .args(["--disable-pip-version-check", "--only-binary", ":all:"])
            .args(["--timeout", "30", "--retries", "2"])
            .args(&mpi.packages),
    )?;
    fs::write(&complete, wanted).with_context(|| format!("cannot write {}", complete.display()))
}

fn adapter(mpi: &Listed, place: &Path, top: &Path, target: &Path) -> Result<()> {
    let build = tree::adapter_directory(target, &mpi.name)?;
    let mut command = Command::new(target.join("mana/bin/mana"));
    command.args(["adapter", "--quiet", "--name", &mpi.name]);
    if mpi.wrapper {
        command.arg("--mpicc").arg(place.join("bin/mpicc"));
    } else {
        command.arg("--include").arg(place.join("include"));
        command.arg("--lib").arg(place.join("lib"));
    }
    command.arg("--sources").arg(top);
    run_command(command.arg("--target-dir").arg(build))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_readable() {
        let all = listed(include_str!("../../mpis.txt")).expect("the list");
        assert!(all.iter().all(|mpi| !mpi.packages.is_empty()));
        assert!(all.iter().any(|mpi| !mpi.wrapper));
        assert!(listed("a b").is_err());
    }
}
