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

/// To show it.
const DEMO: &[&str] = &["lammps", "procps"];

/// To test it: programs of other people, and tools of the tests. Those that a release does not have are
/// left out: the tests that need them are skipped then, and say so.
const TEST: &[&str] = &[
    "chromium",
    ENVIRONMENT_MODULES,
    "fish",
    "hpcc",
    "numactl",
    "python3",
    "python3-dev",
    "python3-mpi4py",
    "python3-numpy",
    "python3-pip",
    "python3-scipy",
    "python3-sklearn",
    "nwchem-openmpi",
    "nwchem-mpich",
    "libcoarrays-openmpi-dev",
    "libhdf5-doc",
    "libhdf5-mpich-dev",
    "libhdf5-openmpi-dev",
    "libpetsc-real-dev",
    "libpetsc3.18-dev-examples",
    "python3-venv",
    "tmux",
    "xfsprogs",
    "zsh",
];

/// Debian has it or Lmod, never both: a machine with Lmod keeps that.
const ENVIRONMENT_MODULES: &str = "environment-modules";

/// For the cluster of the tests, which only root can start.
const CLUSTER: &[&str] = &[
    "slurmctld",
    "slurmd",
    "slurm-client",
    "munge",
    "iproute2",
    "util-linux",
];

/// What the machine is set up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The demonstration.
    Demo,
    /// All tests.
    Tests,
}

/// Installs what is missing; an error that holds the exact line when it may not.
pub fn run(purpose: Purpose) -> Result<()> {
    let mut missing = missing(purpose)?;
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
    // The lists may be there already (and the network slow): try without fetching them first.
    if missing.iter().any(|name| !offered(name)) {
        run_quietly(&mut apt(&["update"]))?;
        missing.retain(|name| offered(name) || !(TEST.contains(name) || CLUSTER.contains(name)));
    }
    if missing.is_empty() {
        return Ok(());
    }
    let mut install = vec!["install", "--no-install-recommends"];
    install.extend(missing.iter().copied());
    let first = bounded(&mut apt(&install), Duration::from_secs(1800), |_| {})?;
    if !first.success() {
        run_quietly(&mut apt(&["update"]))?;
        run_quietly(&mut apt(&install))?;
    }
    let mut still = self::missing(purpose)?;
    still.retain(|name| missing.contains(name));
    if !still.is_empty() {
        bail!(
            "apt-get ended without an error, but these are still missing: {}",
            still.join(" ")
        );
    }
    Ok(())
}

/// Does the release have this package, as far as the lists here tell?
fn offered(package: &str) -> bool {
    let mut command = Command::new("apt-cache");
    command.args(["show", "--no-all-versions", package]);
    let output = command.stderr(Stdio::null()).output();
    output.is_ok_and(|output| output.status.success() && !output.stdout.is_empty())
}

fn run_quietly(command: &mut Command) -> Result<()> {
    let line = crate::process::shown(command);
    let finished = bounded(command, Duration::from_secs(1800), |_| {})?;
    if !finished.success() {
        bail!("failed: {line}\n{}", finished.output);
    }
    Ok(())
}

/// The packages that are not installed.
fn missing(purpose: Purpose) -> Result<Vec<&'static str>> {
    let mut wanted = [BUILD, DEMO].concat();
    if purpose == Purpose::Tests {
        wanted.extend(TEST);
        if nix::unistd::Uid::effective().is_root() {
            wanted.extend(CLUSTER);
        }
    }
    if on_path("dpkg-query").is_none() {
        return by_programs();
    }
    let output = Command::new("dpkg-query")
        .args(["-W", "-f", "${Package} ${db:Status-Status}\\n"])
        .args(&wanted)
        .arg("lmod")
        .stderr(Stdio::null())
        .output()
        .context("cannot run dpkg-query")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let installed = |name: &str| text.lines().any(|line| line == format!("{name} installed"));
    Ok(wanted
        .into_iter()
        .filter(|name| !installed(name))
        .filter(|name| *name != ENVIRONMENT_MODULES || !installed("lmod"))
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
