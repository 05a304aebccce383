//! `mana adapter`: builds an adapter for one more MPI into this installation, as an ordinary user.

use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mana::spec::Family;

use crate::installation::{AdapterFacts, Installation};
use crate::message::Failure;
use crate::{bare, cli};

/// What a compiler wrapper says about its MPI.
#[derive(Debug)]
struct Mpi {
    family: Family,
    version: String,
    /// Directories it links from.
    directories: Vec<PathBuf>,
}

/// Builds and installs.
pub fn build(options: &cli::Adapter) -> Result<i32, Failure> {
    let installation = Installation::find()?;
    let mpicc_called = wrapper(options)?;
    let mpi = examine(&mpicc_called)?;
    let name = match &options.name {
        Some(name) => checked_name(name)?,
        None => checked_name(&mpi.version.to_lowercase().replace([' ', '/'], "-"))?,
    };
    let sources = options
        .sources
        .clone()
        .unwrap_or_else(|| installation.sources());
    let manifest = sources.join("Cargo.toml");
    if !manifest.is_file() {
        return Err(Failure::new(format!(
            "{}: missing; this installation came without the sources of the adapter, copy share/mana/src from a complete one",
            manifest.display()
        )));
    }
    let all = installation.adapters_dir();
    let directory = all.join(&name);
    let cannot = |e: &dyn std::fmt::Display| {
        Failure::new(format!(
            "cannot write {}: {e}; install mana where you may write (cargo xtask install --prefix DIR, or copy the tree)",
            directory.display()
        ))
    };
    use nix::unistd::{access, AccessFlags};
    fs::create_dir_all(&all).map_err(|e| cannot(&e))?;
    access(&all, AccessFlags::W_OK).map_err(|e| cannot(&e.desc()))?;
    let target = match &options.target_dir {
        Some(dir) => dir.clone(),
        None => cache_dir()?.join(format!("adapter-{name}")),
    };
    if !options.quiet {
        println!(
            "building an adapter for {} ({}) ...",
            mpi.version,
            mpicc_called.display()
        );
    }
    let built = compile(&manifest, &target, &mpicc_called, &mpi)?;
    fs::create_dir_all(&directory).map_err(|e| cannot(&e))?;
    let library = directory.join("libmana_adapter.so");
    let temporary = directory.join("libmana_adapter.so.new");
    fs::copy(&built, &temporary)
        .and_then(|_| fs::rename(&temporary, &library))
        .map_err(|e| Failure::new(format!("cannot write {}: {e}", library.display())))?;
    let facts = AdapterFacts {
        name: name.clone(),
        family: mpi.family,
        mpicc: mpicc_called,
        library: linked_mpi(&library).unwrap_or_default(),
        version: mpi.version.clone(),
        launchers: launchers(options, mpi.family)?,
    };
    let text = toml::to_string(&facts)?;
    let path = directory.join("adapter.toml");
    fs::write(&path, text)
        .map_err(|e| Failure::new(format!("cannot write {}: {e}", path.display())))?;
    if options.quiet {
        return Ok(0);
    }
    println!("adapter {name}: {} in {}", mpi.version, directory.display());
    if facts.library.as_os_str().is_empty() {
        println!("its MPI library is not found without LD_LIBRARY_PATH: set that as for any program of this MPI");
    }
    Ok(0)
}

/// The wrapper that was named, or one that is made.
fn wrapper(options: &cli::Adapter) -> Result<PathBuf, Failure> {
    if let (Some(include), Some(lib)) = (&options.include, &options.lib) {
        let place = match (&options.target_dir, &options.name) {
            (Some(dir), _) => dir.clone(),
            (None, Some(name)) => cache_dir()?.join(format!("wrapper-{}", checked_name(name)?)),
            (None, None) => cache_dir()?.join("wrapper"),
        };
        return bare::wrapper(include, lib, &place);
    }
    let Some(named) = &options.mpicc else {
        return Err(Failure::new(
            "name the MPI's compiler wrapper with --mpicc, or its directories with --include and --lib",
        ));
    };
    let mpicc = fs::canonicalize(named).map_err(|e| {
        Failure::new(format!(
            "--mpicc {}: {e}; give the full path of the MPI's mpicc",
            named.display()
        ))
    })?;
    // The wrapper's behaviour depends on the name it is called by: do not resolve links.
    Ok(std::path::absolute(named).unwrap_or(mpicc))
}

fn launchers(options: &cli::Adapter, family: Family) -> Result<Vec<String>, Failure> {
    let known = ["openmpi", "pmix", "pmi"];
    if let Some(wrong) = options
        .launchers
        .iter()
        .find(|l| !known.contains(&l.as_str()))
    {
        return Err(Failure::new(format!(
            "--launcher {wrong}: expected one of {}",
            known.join(", ")
        )));
    }
    Ok(match (options.launchers.is_empty(), family) {
        (false, _) => options.launchers.clone(),
        (true, Family::OpenMpi) => vec!["openmpi".into(), "pmix".into()],
        (true, Family::Mpich | Family::Standard) => vec!["pmi".into()],
    })
}

fn checked_name(name: &str) -> Result<String, Failure> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.starts_with('.') || !name.chars().all(good) {
        return Err(Failure::new(format!(
            "{name:?} cannot be an adapter's name: use letters, digits, '-', '_' and '.' (--name)"
        )));
    }
    Ok(name.to_owned())
}

fn cache_dir() -> Result<PathBuf, Failure> {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|p| p.is_absolute())
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    base.map(|dir| dir.join("mana"))
        .ok_or_else(|| Failure::new("neither HOME nor XDG_CACHE_HOME is set: no place to build in"))
}

/// Asks the wrapper's preprocessor which MPI it is.
fn examine(mpicc: &Path) -> Result<Mpi, Failure> {
    let failed = |why: String| {
        Failure::new(format!(
            "{}: not a working MPI compiler wrapper: {why}",
            mpicc.display()
        ))
    };
    let mut child = Command::new(mpicc)
        .args(["-E", "-dM", "-x", "c", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| failed(e.to_string()))?;
    if let Some(mut input) = child.stdin.take() {
        input
            .write_all(b"#include <mpi.h>\n")
            .map_err(|e| failed(e.to_string()))?;
    }
    let output = child
        .wait_with_output()
        .map_err(|e| failed(e.to_string()))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(failed(text.lines().next().unwrap_or("it fails").to_owned()));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let (family, version) = identify(&text).ok_or_else(|| {
        failed("its mpi.h is neither Open MPI's (4 or later) nor of the MPICH family".into())
    })?;
    Ok(Mpi {
        family,
        version,
        directories: link_directories(mpicc),
    })
}

/// Family and version from the macros of `mpi.h`.
fn identify(macros: &str) -> Option<(Family, String)> {
    let value = |name: &str| {
        macros
            .lines()
            .filter_map(|line| {
                line.strip_prefix("#define ")?
                    .strip_prefix(name)?
                    .strip_prefix(' ')
            })
            .map(|value| value.trim().trim_matches('"').to_owned())
            .next()
    };
    if let (Some(major), Some(minor), Some(release)) = (
        value("OMPI_MAJOR_VERSION"),
        value("OMPI_MINOR_VERSION"),
        value("OMPI_RELEASE_VERSION"),
    ) {
        return Some((
            Family::OpenMpi,
            format!("Open MPI {major}.{minor}.{release}"),
        ));
    }
    for (name, title) in [
        ("I_MPI_VERSION", "Intel MPI"),
        ("MVAPICH2_VERSION", "MVAPICH2"),
        ("MVAPICH_VERSION", "MVAPICH"),
        ("MPICH_VERSION", "MPICH"),
    ] {
        if let Some(version) = value(name) {
            return Some((Family::Mpich, format!("{title} {version}")));
        }
    }
    None
}

/// The `-L` directories of `mpicc -show`.
fn link_directories(mpicc: &Path) -> Vec<PathBuf> {
    let Ok(output) = Command::new(mpicc)
        .arg("-show")
        .stdin(Stdio::null())
        .output()
    else {
        return Vec::new();
    };
    String::from_utf8_lossy(&output.stdout)
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("-L"))
        .map(PathBuf::from)
        .collect()
}

fn compile(manifest: &Path, target: &Path, mpicc: &Path, mpi: &Mpi) -> Result<PathBuf, Failure> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut flags: Vec<String> = Vec::new();
    for directory in &mpi.directories {
        let system = directory.starts_with("/usr/lib") || directory.starts_with("/lib");
        if directory.is_absolute() && !system {
            flags.push("-C".into());
            flags.push(format!("link-arg=-Wl,-rpath,{}", directory.display()));
        }
    }
    let mut command = Command::new(&cargo);
    command
        .args([
            "build",
            "--release",
            "--locked",
            "-p",
            "mana-adapter",
            "--manifest-path",
        ])
        .arg(manifest)
        .arg("--target-dir")
        .arg(target)
        .env("MPICC", mpicc)
        .stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    if !flags.is_empty() {
        command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    }
    // An installed tree's reduced workspace needs fewer packages than its lock file names.
    let mut output = run_cargo(&mut command)?;
    if !output.status.success() && String::from_utf8_lossy(&output.stderr).contains("--locked") {
        let mut again = Command::new(&cargo);
        again.args(command.get_args().filter(|a| *a != "--locked"));
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => again.env(name, value),
                None => again.env_remove(name),
            };
        }
        output = run_cargo(again.stdin(Stdio::null()))?;
    }
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(Failure::new(explain(&text, mpicc)));
    }
    let library = target.join("release/libmana_adapter.so");
    if !library.is_file() {
        return Err(Failure::new(format!(
            "{}: missing although the build succeeded",
            library.display()
        )));
    }
    Ok(library)
}

fn run_cargo(command: &mut Command) -> Result<std::process::Output, Failure> {
    command.output().map_err(|e| {
        Failure::new(format!(
            "cannot run {}: {e}; install Rust for your user (https://rustup.rs, no root needed) and put ~/.cargo/bin on PATH (a CARGO in the environment goes before PATH)",
            command.get_program().to_string_lossy()
        ))
    })
}

/// What a failed build most often means.
fn explain(text: &str, mpicc: &Path) -> String {
    if text.contains("libclang") {
        return "cannot build the adapter: libclang is missing (it reads mpi.h). Without root: pip install --user libclang, then set LIBCLANG_PATH to the directory of its libclang.so (python3 -c 'import clang,os; print(os.path.join(clang.__path__[0],\"native\"))') and run this again. With root on Debian: apt-get install libclang-dev".into();
    }
    if text.contains("linker `cc` not found") || text.contains("failed to find tool") {
        return "cannot build the adapter: no C compiler; load your site's compiler module (or install gcc) and run this again".into();
    }
    let mut last: Vec<_> = text
        .lines()
        .filter(|l| !l.trim().is_empty())
        .rev()
        .take(30)
        .collect();
    last.reverse();
    format!(
        "cannot build the adapter with {}:\n{}",
        mpicc.display(),
        last.join("\n")
    )
}

/// The MPI library the adapter finds by itself.
fn linked_mpi(adapter: &Path) -> Option<PathBuf> {
    let output = Command::new("/lib64/ld-linux-x86-64.so.2")
        .arg("--list")
        .arg(adapter)
        .env_remove("LD_LIBRARY_PATH")
        .env_remove("LD_PRELOAD")
        .output()
        .ok()?;
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| line.trim().split_once(" => "))
        .filter(|(name, _)| name.starts_with("libmpi"))
        .map(|(_, path)| PathBuf::from(path.split(" (").next().unwrap_or(path)))
        .find(|path| path.is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_tell_the_mpi() {
        let open = "#define OMPI_MAJOR_VERSION 4\n#define OMPI_MINOR_VERSION 1\n#define OMPI_RELEASE_VERSION 4\n";
        assert_eq!(
            identify(open),
            Some((Family::OpenMpi, "Open MPI 4.1.4".into()))
        );
        let mpich = "#define MPICH_VERSION \"4.0.2\"\n#define MPICH_NUMVERSION 40002300\n";
        assert_eq!(identify(mpich), Some((Family::Mpich, "MPICH 4.0.2".into())));
        assert_eq!(identify("#define X 1\n"), None);
    }

    #[test]
    fn names_are_single_path_components() {
        assert!(checked_name("openmpi-5.0").is_ok());
        for bad in ["", "..", "a/b", "a b"] {
            assert!(checked_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn missing_libclang_is_named() {
        assert!(explain("Unable to find libclang: ...", Path::new("mpicc")).contains("pip install"));
    }
}
