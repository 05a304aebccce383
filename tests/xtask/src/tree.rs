//! The installable tree in `target/mana`.
//!
//! ```text
//!  bin/mana, bin/mana_{launch,restart,status,coordinator} -> mana
//!  lib/mana/mana-lower
//!  lib/mana/adapters/<name>/{libmana_adapter.so, adapter.toml}   one for each MPI found
//!  include/mana.h
//!  lib/mana/{libmana_interface, libmana_mpich_finalize, libmana_wrapper}.so
//!  lib/mana/stubs/openmpi/libmpi.so.40
//!  lib/mana/stubs/mpich/{libmpich.so.12, libmpi.so.12}
//!  lib/mana/stubs/standard/libmpi_abi.so.{0, 1}
//!  share/doc/mana, share/man/man1, share/mana/{templates, slurm, interface, src}
//! ```

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{bail, Context as _, Result};

use crate::process::{captured, cargo, is_watched, on_path, run, target_dir, workspace};

/// The names under which `mana` is called.
const NAMES: &[&str] = &[
    "mana_launch",
    "mana_restart",
    "mana_status",
    "mana_coordinator",
];

/// The directories of the tree.
pub const PARTS: &[&str] = &["bin", "include", "lib", "share"];

/// How the stubs are linked (mana-plugin/stub/README.md says why).
const LINK: &[&str] = &[
    "-Wl,-z,now",
    "-Wl,-z,defs",
    "-Wl,--gc-sections",
    "-Wl,--hash-style=both",
];

/// An MPI of this machine.
struct Mpi {
    name: &'static str,
    mpicc: &'static str,
}

/// Debian's names of the compiler wrappers.
const MPIS: &[Mpi] = &[
    Mpi {
        name: "openmpi",
        mpicc: "mpicc.openmpi",
    },
    Mpi {
        name: "mpich",
        mpicc: "mpicc.mpich",
    },
];

/// Builds everything; the path of the tree.
pub fn build() -> Result<PathBuf> {
    let top = workspace()?;
    let target = target_dir()?;
    let tree = target.join("mana");
    run(cargo()
        .current_dir(&top)
        .args(["build", "--release", "-p", "mana", "-p", "mana-lower"]))?;
    let release = target.join("release");

    let bin = fresh_dir(&tree.join("bin"))?;
    place(&release.join("mana"), &bin.join("mana"))?;
    for name in NAMES {
        let link = bin.join(name);
        symlink("mana", &link).with_context(|| format!("cannot make {}", link.display()))?;
    }
    let lib = tree.join("lib/mana");
    fs::create_dir_all(&lib).with_context(|| format!("cannot make {}", lib.display()))?;
    place(&release.join("mana-lower"), &lib.join("mana-lower"))?;

    stubs(&top, &target, &lib)?;
    interface(&top, &target, &lib)?;
    place(
        &top.join("mana-plugin/interface/c/mana.h"),
        &tree.join("include/mana.h"),
    )?;
    for (library, source) in [
        (
            "libmana_mpich_finalize.so",
            "slurm/mpich-finalize/mpich_finalize.c",
        ),
        ("libmana_wrapper.so", "mana-plugin/wrapper/wrapper.c"),
    ] {
        run(Command::new("gcc")
            .args(["-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o"])
            .arg(lib.join(library))
            .arg(top.join(source))
            .arg("-ldl"))?;
    }
    let share = fresh_dir(&tree.join("share"))?;
    documents(&top, &share, &bin.join("mana"))?;
    sources(&top, &share.join("mana/src"))?;
    adapters(&top, &target, &bin.join("mana"))?;
    Ok(tree)
}

/// One adapter for each MPI found, with a target directory each: their build scripts' results
/// differ and would overwrite each other.
fn adapters(top: &Path, target: &Path, mana: &Path) -> Result<()> {
    let mut found = 0;
    for mpi in MPIS {
        let Some(mpicc) = on_path(mpi.mpicc) else {
            println!("no {} here: no adapter for it", mpi.mpicc);
            continue;
        };
        run(Command::new(mana)
            .arg("adapter")
            .args((!is_watched()).then_some("--quiet"))
            .args(["--name", mpi.name, "--mpicc"])
            .arg(&mpicc)
            .arg("--sources")
            .arg(top)
            .arg("--target-dir")
            .arg(adapter_directory(target, mpi.name)?))?;
        found += 1;
    }
    // A machine with an MPI under its usual name only.
    if found == 0 {
        let Some(mpicc) = on_path("mpicc") else {
            bail!("no MPI compiler wrapper (mpicc) found; run 'cargo xtask setup'");
        };
        run(Command::new(mana)
            .arg("adapter")
            .args((!is_watched()).then_some("--quiet"))
            .arg("--mpicc")
            .arg(&mpicc)
            .arg("--sources")
            .arg(top)
            .arg("--target-dir")
            .arg(target.join("adapter-site")))?;
    }
    Ok(())
}

/// What of an adapter's build belongs to one MPI.
const OF_ONE_MPI: &[&str] = &["mana-adapter", "mpi", "mpi-sys"];

/// Where the adapter for an MPI is built: if there is none yet, with the dependencies that have been built for the first
/// one, but for those that belong to its MPI, which cargo would take for the other's.
pub fn adapter_directory(target: &Path, name: &str) -> Result<PathBuf> {
    let build = target.join(format!("adapter-{name}"));
    let before = target.join(format!("adapter-{}", MPIS[0].name));
    if build.exists() || !before.is_dir() {
        return Ok(build);
    }
    let copy = target.join(format!("adapter-{name}.copy"));
    if copy.exists() {
        fs::remove_dir_all(&copy)?;
    }
    run(Command::new("cp").arg("-a").arg(&before).arg(&copy))?;
    for part in [".fingerprint", "build", "deps"] {
        for entry in fs::read_dir(copy.join("release").join(part))? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if !OF_ONE_MPI.contains(&package(&name).as_str()) {
                continue;
            }
            if path.is_dir() {
                fs::remove_dir_all(&path)?;
            } else {
                fs::remove_file(&path)?;
            }
        }
    }
    fs::rename(&copy, &build)?;
    Ok(build)
}

/// The package that one of cargo's files belongs to: `libmpi_sys-0123456789abcdef.rlib` to `mpi-sys`.
fn package(file: &str) -> String {
    let stem = file.split('.').next().unwrap_or(file);
    let stem = stem.strip_prefix("lib").unwrap_or(stem).replace('_', "-");
    match stem.rsplit_once('-') {
        Some((package, hash)) if hash.bytes().all(|b| b.is_ascii_hexdigit()) => package.to_owned(),
        _ => stem,
    }
}

/// The libraries for the upper half: linked from static libraries, because a `cdylib` would hide
/// the second name (`MPI_X` = `PMPI_X`) of each procedure.
fn stubs(top: &Path, target: &Path, lib: &Path) -> Result<()> {
    for (family, sonames) in [
        ("openmpi", ["libmpi.so.40"].as_slice()),
        ("mpich", &["libmpich.so.12", "libmpi.so.12"]),
        ("standard", &["libmpi_abi.so.1", "libmpi_abi.so.0"]),
    ] {
        let package = format!("mana-stub-{family}");
        let directory = fresh_dir(&lib.join("stubs").join(family))?;
        run(cargo()
            .current_dir(top)
            .args(["build", "--release", "-p", &package]))?;
        let archive = target
            .join("release")
            .join(format!("libmana_stub_{family}.a"));
        let exports = top.join("mana-plugin/stub/exports.map");
        for soname in sonames {
            run(Command::new("gcc")
                .args(["-shared", "-nostdlib", "-o"])
                .arg(directory.join(soname))
                .arg(format!("-Wl,-soname,{soname}"))
                .arg(format!("-Wl,--version-script={}", exports.display()))
                .args(LINK)
                .arg("-Wl,--whole-archive")
                .arg(&archive)
                .args(["-Wl,--no-whole-archive", "-lc"]))?;
        }
    }
    Ok(())
}

/// The library of the application interface, linked like the stubs.
fn interface(top: &Path, target: &Path, lib: &Path) -> Result<()> {
    let package = "mana-interface-upper";
    run(cargo()
        .current_dir(top)
        .args(["build", "--release", "-p", package]))?;
    let name = "libmana_interface.so";
    let made = target.join("release").join(name);
    let exports = top.join("mana-plugin/interface/upper/exports.map");
    run(Command::new("gcc")
        .args(["-shared", "-nostdlib", "-o"])
        .arg(&made)
        .arg(format!("-Wl,-soname,{name}"))
        .arg(format!("-Wl,--version-script={}", exports.display()))
        .args(LINK)
        .arg("-Wl,--whole-archive")
        .arg(target.join("release/libmana_interface_upper.a"))
        .args(["-Wl,--no-whole-archive", "-lc"]))?;
    place(&made, &lib.join(name))
}

/// Manual pages, completions, guide, templates.
fn documents(top: &Path, share: &Path, mana: &Path) -> Result<()> {
    let man = share.join("man/man1");
    fs::create_dir_all(&man)?;
    run(Command::new(mana).args(["man", "--out"]).arg(&man))?;
    for (shell, directory, before, after) in [
        ("bash", "bash-completion/completions", "", ""),
        ("zsh", "zsh/site-functions", "_", ""),
        ("fish", "fish/vendor_completions.d", "", ".fish"),
    ] {
        let directory = share.join(directory);
        fs::create_dir_all(&directory)?;
        for name in NAMES.iter().chain(&["mana"]) {
            let asked = ["completions", shell, "--name", name];
            let text = captured(Command::new(mana).args(asked))?;
            let file = directory.join(format!("{before}{name}{after}"));
            fs::write(&file, text + "\n")
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
    }
    let doc = share.join("doc/mana");
    copy_all(&top.join("docs"), &doc)?;
    place(&top.join("CHANGELOG.md"), &doc.join("CHANGELOG.md"))?;
    // It lies beside the pages there.
    let readme = fs::read_to_string(top.join("README.md")).context("cannot read README.md")?;
    fs::write(doc.join("README.md"), readme.replace("docs/", ""))
        .context("cannot write the installed README.md")?;
    for part in ["c", "fortran", "python", "rust", "examples", "plugins"] {
        copy_all(
            &top.join("mana-plugin/interface").join(part),
            &share.join("mana/interface").join(part),
        )?;
    }
    copy_all(&top.join("templates"), &share.join("mana/templates"))?;
    copy_all(&top.join("slurm"), &share.join("mana/slurm"))
}

/// What `mana adapter` needs to build one more adapter: the adapter and the two crates below it, as
/// a workspace of their own with our lock file.
fn sources(top: &Path, into: &Path) -> Result<()> {
    for part in [
        "mana-plugin/abi",
        "mana-plugin/table",
        "mana-plugin/adapter",
    ] {
        copy_all(&top.join(part), &into.join(part))?;
    }
    place(&top.join("Cargo.lock"), &into.join("Cargo.lock"))?;
    let manifest = fs::read_to_string(top.join("Cargo.toml")).context("cannot read Cargo.toml")?;
    fs::write(into.join("Cargo.toml"), reduced_manifest(&manifest)?)
        .context("cannot write the reduced Cargo.toml")
}

/// The workspace's manifest with the three crates as its only members.
fn reduced_manifest(manifest: &str) -> Result<String> {
    let Some((_, rest)) = manifest.split_once("[workspace.package]") else {
        bail!("Cargo.toml has no [workspace.package]");
    };
    // Path dependencies on crates that are not copied would not resolve only if used; cargo does
    // not look at unused entries of [workspace.dependencies].
    Ok(format!(
        "[workspace]\nresolver = \"2\"\nmembers = [\"mana-plugin/abi\", \"mana-plugin/table\", \"mana-plugin/adapter\"]\n\n[workspace.package]{rest}"
    ))
}

/// An empty directory, whatever was there.
fn fresh_dir(path: &Path) -> Result<PathBuf> {
    if path.exists() {
        fs::remove_dir_all(path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
    Ok(path.to_owned())
}

/// Puts a copy of a file in place in one step: a program that is running keeps its own.
pub fn place(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    let temporary = to.with_extension("new");
    fs::copy(from, &temporary)
        .with_context(|| format!("cannot copy {} to {}", from.display(), temporary.display()))?;
    fs::rename(&temporary, to).with_context(|| format!("cannot rename {}", temporary.display()))
}

/// Copies a directory with everything below it; symbolic links stay links.
pub fn copy_all(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot list {}", from.display()))? {
        let entry = entry?;
        let (source, copy) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy_all(&source, &copy)?;
        } else if kind.is_symlink() {
            let points_to = fs::read_link(&source)?;
            let _ = fs::remove_file(&copy);
            symlink(points_to, &copy).with_context(|| format!("cannot make {}", copy.display()))?;
        } else {
            place(&source, &copy)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::package;

    #[test]
    fn files_of_cargo_belong_to_packages() {
        for (file, name) in [
            ("mpi-1d2b44fb10db7c01", "mpi"),
            ("libmpi_sys-481eb76521312f93.rlib", "mpi-sys"),
            ("libmana_adapter.so", "mana-adapter"),
            ("mana_adapter-8769e133fb464bdb.d", "mana-adapter"),
            ("libmpi_std-570a29fb616637cc.rmeta", "mpi-std"),
            ("libc-55ee3c16a9c8d9f6", "c"),
        ] {
            assert_eq!(package(file), name);
        }
    }
}
