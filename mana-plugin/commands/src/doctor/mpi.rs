//! Adapters of this installation, and MPIs that have none.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::Findings;
use crate::installation::Installation;

pub fn look(installation: &Installation) -> Findings {
    let mut found = Findings::new("MPI");
    let adapters = match installation.adapters() {
        Ok(adapters) => adapters,
        Err(e) => {
            found.no(
                "adapters",
                e.text,
                "build the adapter again: mana adapter --mpicc PATH",
            );
            return found;
        }
    };
    let mut known = BTreeSet::new();
    for adapter in &adapters {
        let facts = &adapter.facts;
        known.extend(facts.mpicc.canonicalize().ok());
        if facts.library.is_file() {
            found.ok(
                facts.name.clone(),
                format!("{} ({})", facts.version, facts.launchers.join(", ")),
            );
        } else {
            found.no(
                facts.name.clone(),
                format!("{}: its library {} is gone", facts.version, facts.library.display()),
                format!(
                    "install that MPI again, or build an adapter for what is there: mana adapter --mpicc {}",
                    facts.mpicc.display()
                ),
            );
        }
    }
    if adapters.is_empty() {
        found.no(
            "adapters",
            "none: only programs without MPI can run",
            "mana adapter --mpicc PATH_OF_MPICC",
        );
    }
    for (name, path) in wrappers() {
        if !known.contains(&path) {
            found.warning(
                name,
                format!("{}: an MPI without an adapter", path.display()),
                format!("mana adapter --mpicc {}", path.display()),
            );
        }
    }
    found
}

/// Compiler wrappers of MPIs on the search path, each once.
fn wrappers() -> Vec<(String, PathBuf)> {
    let mut found: Vec<(String, PathBuf)> = Vec::new();
    let path = std::env::var_os("PATH").unwrap_or_default();
    for directory in std::env::split_paths(&path) {
        for (name, full) in wrappers_in(&directory) {
            if !found.iter().any(|(_, known)| *known == full) {
                found.push((name, full));
            }
        }
    }
    found
}

fn wrappers_in(directory: &Path) -> Vec<(String, PathBuf)> {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut found: Vec<(String, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().to_str()?.to_owned();
            let is_wrapper = name == "mpicc" || name.starts_with("mpicc.") || name == "mpiicc";
            let real = entry.path().canonicalize().ok()?;
            // Open MPI's wrapper is a program for many languages.
            (is_wrapper && real.is_file()).then_some((name, entry.path()))
        })
        .map(|(name, path)| {
            let real = path.canonicalize().unwrap_or(path);
            (name, real)
        })
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrappers_are_found_once() {
        let place = tempfile::tempdir().expect("a directory");
        for name in ["mpicc.mpich", "mpicxx", "gcc"] {
            std::fs::write(place.path().join(name), "").expect("write");
        }
        std::os::unix::fs::symlink("mpicc.mpich", place.path().join("mpicc")).expect("link");
        let found = wrappers_in(place.path());
        let real = place
            .path()
            .canonicalize()
            .expect("path")
            .join("mpicc.mpich");
        assert_eq!(
            found,
            [
                ("mpicc".to_owned(), real.clone()),
                ("mpicc.mpich".to_owned(), real)
            ]
        );
    }
}
