//! Runs the example `exercise` on two ranks of the MPI this adapter was built for.
//!
//! Needs that MPI's launcher: `MPIEXEC`, or the name that goes with `MPICC` (`mpicc.openmpi` and
//! `mpirun.openmpi`). Without one the test says so and counts for nothing.

use std::path::{Path, PathBuf};
use std::process::Command;

fn launcher() -> String {
    std::env::var("MPIEXEC").unwrap_or_else(|_| {
        std::env::var("MPICC")
            .unwrap_or_else(|_| "mpicc".to_owned())
            .replace("mpicc", "mpirun")
    })
}

/// Directory of this test's profile, which has `examples` and the library.
fn products() -> PathBuf {
    let here = std::env::current_exe().expect("this test's path");
    here.ancestors()
        .nth(2)
        .unwrap_or(Path::new("."))
        .to_path_buf()
}

#[test]
fn two_ranks_agree_with_the_standard() {
    let launcher = launcher();
    let Ok(version) = Command::new(&launcher).arg("--version").output() else {
        eprintln!("skipped: no {launcher} on this machine");
        return;
    };
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let openmpi = version.contains("Open MPI") || version.contains("OpenRTE");
    let products = products();
    let mut command = Command::new("timeout");
    command.args(["120", &launcher, "-n", "2"]);
    if openmpi {
        command.args(["--oversubscribe", "--allow-run-as-root"]);
    }
    let out = command
        .arg(products.join("examples/exercise"))
        .arg(products.join("libmana_adapter.so"))
        .output()
        .expect("timeout");
    let text = String::from_utf8_lossy(&out.stdout);
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{text}{errors}");
    assert!(text.contains("failed checks: 0"), "{text}{errors}");
}
