//! `mana adapter` in an installed tree, by an ordinary user: built from the sources that came with the tree,
//! then used.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{ensure, Context as _, Result};

use super::{refused, same, shell, Stage, LIMIT, NOBODY};
use crate::job::Job;

/// For the build.
const BUILD: Duration = Duration::from_secs(900);

pub fn adapter(stage: &Stage) -> Result<()> {
    let place = stage.place.path();
    let home = place.join("home");
    std::fs::create_dir(&home).context("making a home")?;
    let (cargo_home, toolchain) = rust()?;
    let tree = home.join("mana");
    // The user's own tree, Rust and downloaded packages; nothing else is theirs.
    shell(
        place,
        &format!(
            "cp -a '{}' '{tree}' && cp '{}' '{home}/app' && mkdir '{home}/.cargo' && chmod -R go+rX . && \
             for part in registry config config.toml; do \
             [ ! -e '{cargo_home}'/$part ] || cp -a '{cargo_home}'/$part '{home}/.cargo/'; done",
            stage.setup.product.command("..").display(),
            stage.line[0],
            tree = tree.display(),
            home = home.display(),
            cargo_home = cargo_home.display(),
        ),
    )?;
    let mut words = Vec::new();
    let mut toolchain = toolchain;
    if nix::unistd::geteuid().is_root() {
        // It may lie in root's home: the user sees it elsewhere.
        let there = home.join("toolchain");
        std::fs::create_dir(&there).context("making a place for the toolchain")?;
        let owned = format!("chown -R {NOBODY}:{NOBODY} '{}'", home.display());
        shell(place, &owned)?;
        let (from, to) = (toolchain.display().to_string(), there.display().to_string());
        let user = [&format!("--reuid={NOBODY}"), &format!("--regid={NOBODY}")].map(String::clone);
        let bound = "mount --bind \"$1\" \"$2\" && shift 2 && exec \"$@\"";
        words = ["unshare", "--mount", "sh", "-c", bound, "sh", &from, &to]
            .into_iter()
            .chain(["setpriv", &user[0], &user[1], "--clear-groups"])
            .map(str::to_owned)
            .collect();
        toolchain = there;
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let as_user = |line: &str| -> Result<Job> {
        let mut command = Command::new("env");
        command.args(&words).args(["sh", "-c", line]);
        // The program that started this test set them; a user's shell has none.
        for name in [
            "CARGO",
            "CARGO_HOME",
            "CARGO_TARGET_DIR",
            "RUSTUP_HOME",
            "RUSTUP_TOOLCHAIN",
        ] {
            command.env_remove(name);
        }
        command
            .current_dir(&home)
            .env("HOME", &home)
            .env("TMPDIR", &home)
            .env("PATH", format!("{}/bin:{path}", toolchain.display()));
        Job::start(command, place)
    };
    let bin = tree.join("bin");
    let bin = bin.display();
    let wrong = as_user(&format!("'{bin}/mana' adapter --mpicc /nowhere/mpicc"))?.wait(LIMIT)?;
    refused(&wrong, &["/nowhere/mpicc", "full path"])?;
    let built = as_user(&format!(
        "'{bin}/mana' adapter --mpicc \"$(command -v mpicc.openmpi)\" --name site"
    ))?
    .wait(BUILD)?;
    ensure!(
        built.expect(0)?.stdout.contains("adapter site: Open MPI"),
        "{}",
        built.report()
    );
    let launcher =
        "OMPI_MCA_mpi_yield_when_idle=1 mpirun.openmpi --oversubscribe --bind-to none -n 2";
    let run = as_user(&format!(
        "{launcher} '{bin}/mana_launch' --mpi site --set test_mode=true ./app"
    ))?
    .wait(LIMIT)?;
    same(&run, &stage.expected)
}

/// Cargo's home and the toolchain in use.
fn rust() -> Result<(PathBuf, PathBuf)> {
    let cargo_home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
    let sysroot = Command::new("rustc")
        .args(["--print", "sysroot"])
        .output()
        .context("rustc --print sysroot")?;
    let toolchain = String::from_utf8_lossy(&sysroot.stdout).trim().into();
    Ok((
        cargo_home.or(home).context("neither CARGO_HOME nor HOME")?,
        toolchain,
    ))
}
