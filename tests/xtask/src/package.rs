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
    let out = match out {
        Some(out) => std::path::absolute(out)?,
        None => target_dir()?.join("packages"),
    };
    let staged = Staged::new(&tree::build()?, &target_dir()?.join("packages.root"))?;
    fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    println!("{}", staged.archive(&out)?.display());
    if on_path("dpkg-deb").is_some() {
        println!("{}", staged.debian(&out)?.display());
    } else {
        println!("no dpkg-deb here: no Debian package");
    }
    staged.remove()
}

/// The tree as it is packed: without what only a debugger reads, readable by everybody.
pub struct Staged {
    root: PathBuf,
}

impl Staged {
    /// A copy of `built` at `root/mana-VERSION`.
    pub fn new(built: &Path, root: &Path) -> Result<Self> {
        let staged = Self {
            root: root.to_owned(),
        };
        if root.exists() {
            fs::remove_dir_all(root)
                .with_context(|| format!("cannot remove {}", root.display()))?;
        }
        for part in tree::PARTS {
            tree::copy_all(&built.join(part), &staged.tree().join(part))?;
        }
        if on_path("strip").is_some() {
            for part in ["bin", "lib"] {
                strip(&staged.tree().join(part))?;
            }
        }
        readable(&staged.tree())?;
        Ok(staged)
    }

    fn name() -> String {
        format!("mana-{VERSION}")
    }

    fn tree(&self) -> PathBuf {
        self.root.join(Self::name())
    }

    /// `mana-VERSION/{bin,include,lib,share}`.
    pub fn archive(&self, out: &Path) -> Result<PathBuf> {
        let file = out.join(format!("{}-linux-x86_64.tar.gz", Self::name()));
        run(Command::new("tar")
            .args(["--create", "--gzip", "--sort=name"])
            .args(["--owner=0", "--group=0", "--numeric-owner", "--file"])
            .arg(&file)
            .arg("--directory")
            .arg(&self.root)
            .arg(Self::name()))?;
        Ok(file)
    }

    /// A package that installs to /usr.
    pub fn debian(&self, out: &Path) -> Result<PathBuf> {
        let root = self.root.join("deb");
        let installed = root.join("usr");
        for part in tree::PARTS {
            tree::copy_all(&self.tree().join(part), &installed.join(part))?;
        }
        // Where zsh looks for what packages bring.
        let zsh = installed.join("share/zsh");
        fs::rename(zsh.join("site-functions"), zsh.join("vendor-completions"))
            .context("cannot rename the completions for zsh")?;
        let control = root.join("DEBIAN");
        fs::create_dir_all(&control)?;
        let size = captured(Command::new("du").arg("-sk").arg(&installed))?;
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
            .args(["--root-owner-group", "-Zgzip", "--build"])
            .arg(&root)
            .arg(&file))?;
        Ok(file)
    }

    /// Removes it.
    pub fn remove(&self) -> Result<()> {
        fs::remove_dir_all(&self.root)
            .with_context(|| format!("cannot remove {}", self.root.display()))
    }
}

/// Takes what only a debugger reads out of every binary below `path`.
fn strip(path: &Path) -> Result<()> {
    for entry in fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))? {
        let (path, kind) = entry.and_then(|e| Ok((e.path(), e.file_type()?)))?;
        if kind.is_dir() {
            strip(&path)?;
        } else if kind.is_file() && is_elf(&path)? {
            run(Command::new("strip").arg("--strip-debug").arg(&path))?;
        }
    }
    Ok(())
}

fn is_elf(path: &Path) -> Result<bool> {
    use std::io::Read as _;
    let mut start = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(4).read_to_end(&mut start))
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(start == *b"\x7fELF")
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
