//! What a bare Debian machine lacks. Quick and silent when nothing is missing.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{bail, Context as _, Result};

use crate::process::{bounded, on_path};

/// To build the product and its adapters.
const BUILD: &[&str] = &[
    "gcc",
    "g++",
    "gfortran",
    "libc6-dev",
    "libclang-dev",
    "openmpi-bin",
    "libopenmpi-dev",
    "mpich",
    "libmpich-dev",
];

/// To show and test it: programs of other people, and tools of the tests.
const TEST: &[&str] = &[
    "lammps",
    "hpcc",
    "python3",
    "python3-mpi4py",
    "python3-numpy",
    "procps",
];

/// Installs what is missing; an error that holds the exact line when it may not.
pub fn run() -> Result<()> {
    let missing = missing()?;
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if on_path("apt-get").is_none() {
        bail!("missing: {list} (names of Debian packages); this is not a Debian system, install what corresponds to them");
    }
    let prefix: &[&str] = if nix::unistd::Uid::effective().is_root() {
        &[]
    } else if sudo_works() {
        &["sudo", "-n"]
    } else {
        bail!("missing packages. Ask an administrator to run\n\n    apt-get install --no-install-recommends {list}\n\nor set up an MPI of your own and give its compiler wrapper to 'mana adapter --mpicc PATH'");
    };
    println!("installing: {list}");
    let apt = |arguments: &[&str]| {
        let mut words = prefix.to_vec();
        words.extend([
            "env",
            "DEBIAN_FRONTEND=noninteractive",
            "apt-get",
            "-q",
            "-y",
            "-o",
            "DPkg::Lock::Timeout=600",
        ]);
        words.extend(arguments);
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        command
    };
    let mut install = vec!["install", "--no-install-recommends"];
    install.extend(missing.iter().copied());
    // The lists may be there already (and the network slow): try without fetching them first.
    let first = bounded(&mut apt(&install), Duration::from_secs(1800), |_| {})?;
    if !first.success() {
        run_quietly(&mut apt(&["update"]))?;
        run_quietly(&mut apt(&install))?;
    }
    let still = self::missing()?;
    if !still.is_empty() {
        bail!(
            "apt-get ended without an error, but these are still missing: {}",
            still.join(" ")
        );
    }
    Ok(())
}

fn run_quietly(command: &mut Command) -> Result<()> {
    let line = crate::process::shown(command);
    let finished = bounded(command, Duration::from_secs(1800), |_| {})?;
    if !finished.success() {
        bail!("failed: {line}\n{}", finished.output);
    }
    Ok(())
}

/// The packages of both lists that are not installed.
fn missing() -> Result<Vec<&'static str>> {
    let wanted: Vec<&'static str> = BUILD.iter().chain(TEST).copied().collect();
    if on_path("dpkg-query").is_none() {
        return by_programs();
    }
    let output = Command::new("dpkg-query")
        .args(["-W", "-f", "${Package} ${db:Status-Status}\\n"])
        .args(&wanted)
        .stderr(Stdio::null())
        .output()
        .context("cannot run dpkg-query")?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(wanted
        .into_iter()
        .filter(|name| !text.lines().any(|line| line == format!("{name} installed")))
        .collect())
}

/// Elsewhere than on Debian: look for the programs themselves.
fn by_programs() -> Result<Vec<&'static str>> {
    let programs = [
        ("gcc", "gcc"),
        ("g++", "g++"),
        ("gfortran", "gfortran"),
        ("mpicc", "openmpi-bin"),
        ("lmp", "lammps"),
    ];
    Ok(programs
        .into_iter()
        .filter(|(program, _)| on_path(program).is_none())
        .map(|(_, package)| package)
        .collect())
}

fn sudo_works() -> bool {
    on_path("sudo").is_some()
        && Command::new("sudo")
            .args(["-n", "true"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
}
