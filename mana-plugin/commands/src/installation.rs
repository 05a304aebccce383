//! Where the parts of an installation are, found from the running program: the tree can be moved.
//!
//! ```text
//!  bin/mana, bin/mana_launch -> mana, ...
//!  lib/mana/mana-lower
//!  lib/mana/libmana_wrapper.so    for wrapper scripts (`wrapper`)
//!  lib/mana/libmana_interface.so  the application interface, in every program under control
//!  lib/mana/adapters/<name>/{libmana_adapter.so, adapter.toml}
//!  lib/mana/stubs/{openmpi, mpich, standard}/lib*.so.*
//!  share/mana/src    sources of the adapter, for `mana adapter`
//!  share/mana/templates, share/doc/mana/guide    named by messages
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use mana::spec::{Adapter, Family, Stub};
use serde::{Deserialize, Serialize};

use crate::message::Failure;

/// What the dynamic loader takes apart or expands in a list of libraries or directories, see ld.so(8).
const SEPARATORS: &[char] = &[' ', ':', ';', '$'];

/// `adapter.toml`: what an adapter was built for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdapterFacts {
    /// Its name: that of its directory, and of `mpi =` in mana.conf.
    pub name: String,
    /// `openmpi` or `mpich`.
    pub family: Family,
    /// The compiler wrapper it was built with.
    pub mpicc: PathBuf,
    /// The MPI library it was linked with.
    pub library: PathBuf,
    /// What the MPI says about itself (first line).
    pub version: String,
    /// How its processes may be started: `openmpi` (Open MPI's mpirun), `pmix` (srun --mpi=pmix),
    /// `pmi` (MPICH's mpirun, srun --mpi=pmi2).
    pub launchers: Vec<String>,
}

/// An adapter of this installation.
#[derive(Clone, Debug)]
pub struct InstalledAdapter {
    /// `adapter.toml`.
    pub facts: AdapterFacts,
    /// `libmana_adapter.so`.
    pub library: PathBuf,
}

impl InstalledAdapter {
    /// For the launch specification.
    pub fn to_spec(&self) -> Adapter {
        Adapter {
            name: self.facts.name.clone(),
            family: self.facts.family,
            library: self.library.clone(),
        }
    }
}

/// An installed tree.
#[derive(Clone, Debug)]
pub struct Installation {
    root: PathBuf,
}

impl Installation {
    /// The tree the running program belongs to.
    pub fn find() -> Result<Self, Failure> {
        let own = std::env::current_exe()
            .and_then(|path| path.canonicalize())
            .map_err(|e| Failure::new(format!("cannot find the path of this program: {e}")))?;
        let root = own.parent().and_then(Path::parent);
        match root {
            Some(root) if root.join("lib/mana").is_dir() => Self::in_directory(root),
            _ => Err(Failure::new(format!(
                "{}: no ../lib/mana beside this program; install with 'cargo xtask install --prefix DIR' and use DIR/bin",
                own.display()
            ))),
        }
    }

    fn in_directory(root: &Path) -> Result<Self, Failure> {
        match root.to_string_lossy().find(SEPARATORS) {
            None => Ok(Self {
                root: root.to_owned(),
            }),
            Some(_) => Err(Failure::new(format!(
                "mana is installed in {}: the dynamic loader takes a path with a space, ':', ';' or '$' apart; move the tree to a directory without them",
                root.display()
            ))),
        }
    }

    /// The program that runs the lower half.
    pub fn lower(&self) -> PathBuf {
        self.root.join("lib/mana/mana-lower")
    }

    /// The library that lets one MPICH's `MPI_Finalize` end between nodes.
    pub fn finalize_cure(&self) -> PathBuf {
        self.root.join("lib/mana/libmana_mpich_finalize.so")
    }

    /// The library for wrapper scripts.
    pub fn wrapper(&self) -> PathBuf {
        self.root.join("lib/mana/libmana_wrapper.so")
    }

    /// The upper half's library of the application interface.
    pub fn interface(&self) -> PathBuf {
        self.root.join("lib/mana/libmana_interface.so")
    }

    /// The program of all commands.
    pub fn command(&self) -> PathBuf {
        self.root.join("bin/mana")
    }

    /// Where adapters are.
    pub fn adapters_dir(&self) -> PathBuf {
        self.root.join("lib/mana/adapters")
    }

    /// Sources for building an adapter.
    pub fn sources(&self) -> PathBuf {
        self.root.join("share/mana/src")
    }

    /// A page of the guide.
    pub fn guide(&self, page: &str) -> PathBuf {
        self.root.join("share/doc/mana/guide").join(page)
    }

    /// Commented examples of mana.conf.
    pub fn templates(&self) -> PathBuf {
        self.root.join("share/mana/templates")
    }

    /// All adapters, in order of their names.
    pub fn adapters(&self) -> Result<Vec<InstalledAdapter>, Failure> {
        let dir = self.adapters_dir();
        let mut found = Vec::new();
        let Ok(entries) = fs::read_dir(&dir) else {
            return Ok(found);
        };
        for entry in entries.flatten() {
            let path = entry.path();
            let facts_path = path.join("adapter.toml");
            let library = path.join("libmana_adapter.so");
            if !library.is_file() {
                continue;
            }
            let text = fs::read_to_string(&facts_path)
                .map_err(|e| Failure::new(format!("cannot read {}: {e}", facts_path.display())))?;
            let facts: AdapterFacts = toml::from_str(&text)
                .map_err(|e| Failure::new(format!("{}: {e}", facts_path.display())))?;
            found.push(InstalledAdapter { facts, library });
        }
        found.sort_by(|a, b| a.facts.name.cmp(&b.facts.name));
        Ok(found)
    }

    /// The upper half's MPI library for a family; `wanted` is the name the program asks for.
    pub fn stub(&self, family: Family, wanted: Option<&str>) -> Result<Stub, Failure> {
        let directory = self.root.join("lib/mana/stubs").join(family.name());
        let usual = match family {
            Family::OpenMpi => "libmpi.so.40",
            Family::Mpich => "libmpich.so.12",
            Family::Standard => "libmpi_abi.so.1",
        };
        let name = wanted
            .filter(|name| directory.join(name).is_file())
            .unwrap_or(usual);
        let library = directory.join(name);
        if !library.is_file() {
            return Err(Failure::new(format!(
                "{}: missing; this installation has no library for {} programs, build it again where {} is installed",
                library.display(),
                family.title(),
                family.title()
            )));
        }
        Ok(Stub {
            family,
            preload: vec![library],
            directory,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_the_loader_takes_apart_is_refused() {
        for path in [
            "/opt/my tools/mana",
            "/opt/a:b",
            "/opt/$LIB/mana",
            "/opt/a;b",
        ] {
            let refused = Installation::in_directory(Path::new(path));
            assert!(refused.is_err_and(|e| e.text.contains(path)));
        }
        assert!(Installation::in_directory(Path::new("/opt/mana-0.1_x+y")).is_ok());
    }
}
