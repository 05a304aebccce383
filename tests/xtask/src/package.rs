//! Packages of the built tree: a tar file that works wherever it is unpacked, and a Debian package.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::process::{captured, on_path, run, target_dir};
use crate::tree;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Builds, and writes the packages to `out` (`target/packages`).
pub fn package(out: Option<&Path>) -> Result<()> {
    let built = tree::build()?;
    let out = match out {
        Some(out) => std::path::absolute(out)?,
        None => target_dir()?.join("packages"),
    };
    fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    println!("{}", archive(&built, &out)?.display());
    if on_path("dpkg-deb").is_some() {
        println!("{}", debian(&built, &out)?.display());
    } else {
        println!("no dpkg-deb here: no Debian package");
    }
    Ok(())
}

/// `mana-VERSION/{bin,lib,share}`.
fn archive(built: &Path, out: &Path) -> Result<PathBuf> {
    let name = format!("mana-{VERSION}");
    let file = out.join(format!("{name}-linux-x86_64.tar.gz"));
    run(Command::new("tar")
        .args([
            "--create",
            "--gzip",
            "--sort=name",
            "--owner=0",
            "--group=0",
            "--numeric-owner",
        ])
        .arg(format!("--transform=s,^,{name}/,S"))
        .arg("--file")
        .arg(&file)
        .arg("--directory")
        .arg(built)
        .args(["bin", "lib", "share"]))?;
    Ok(file)
}

/// A package that installs to /usr.
fn debian(built: &Path, out: &Path) -> Result<PathBuf> {
    let root = target_dir()?.join("packages.deb");
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| format!("cannot remove {}", root.display()))?;
    }
    for part in ["bin", "lib", "share"] {
        tree::copy_all(&built.join(part), &root.join("usr").join(part))?;
    }
    let control = root.join("DEBIAN");
    fs::create_dir_all(&control)?;
    let size = captured(Command::new("du").args(["-sk"]).arg(root.join("usr")))?;
    let size = size.split_whitespace().next().unwrap_or("0");
    let text = format!(
        "Package: mana\nVersion: {VERSION}\nArchitecture: amd64\nSection: science\nPriority: optional\n\
         Maintainer: the mana project <mana@localhost>\nInstalled-Size: {size}\n\
         Depends: libc6 (>= {}), libgcc-s1\nRecommends: openmpi-bin | mpich\n\
         Description: transparent multi-level checkpointing for MPI programs\n\
         \x20Put mana_launch before an unmodified MPI program; checkpoints are taken on\n\
         \x20several storage levels, and a job that is started again after a failure goes\n\
         \x20on from the newest one that every rank can prove intact.\n",
        libc_version()?
    );
    fs::write(control.join("control"), text)?;
    readable(&root)?;
    let file = out.join(format!("mana_{VERSION}_amd64.deb"));
    run(Command::new("dpkg-deb")
        .args(["--root-owner-group", "--build"])
        .arg(&root)
        .arg(&file))?;
    fs::remove_dir_all(&root)?;
    Ok(file)
}

/// The C library it is built with: it runs with this one and newer ones.
fn libc_version() -> Result<String> {
    let said = captured(Command::new("getconf").arg("GNU_LIBC_VERSION"))?;
    let version = said.split_whitespace().nth(1);
    Ok(version.context("getconf names no version")?.to_owned())
}

/// Directories and files as everybody may read them, whatever the umask was.
fn readable(path: &Path) -> Result<()> {
    let facts = fs::symlink_metadata(path)?;
    if facts.is_symlink() {
        return Ok(());
    }
    let executable = facts.is_dir() || facts.permissions().mode() & 0o100 != 0;
    let mode = if executable { 0o755 } else { 0o644 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    if facts.is_dir() {
        for entry in fs::read_dir(path)? {
            readable(&entry?.path())?;
        }
    }
    Ok(())
}
