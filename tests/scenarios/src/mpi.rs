//! The MPI libraries of this machine: compilers, launchers, and what each needs to run here.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A family of MPI libraries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mpi {
    /// Debian's `mpirun.openmpi`.
    OpenMpi,
    /// Debian's `mpirun.mpich`.
    Mpich,
}

impl Mpi {
    /// Both, in the order of the reports.
    pub const ALL: [Self; 2] = [Self::OpenMpi, Self::Mpich];

    /// As in `mpi =` of mana.conf and in scenario names.
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenMpi => "openmpi",
            Self::Mpich => "mpich",
        }
    }

    /// The path of `tool` of this MPI (`mpicc`, `mpirun`, ...), if installed.
    pub fn tool(self, tool: &str) -> Option<PathBuf> {
        find(&format!("{tool}.{}", self.name()))
    }

    /// `mpirun -n ranks`, to be completed by a program. Ranks outnumber the processors of a test
    /// machine, so those of Open MPI are told to yield; `tuned` leaves that out, for measurements.
    pub fn launcher(self, ranks: u32, tuned: bool) -> Command {
        let mut command = Command::new(format!("mpirun.{}", self.name()));
        command.arg("-n").arg(ranks.to_string());
        if self == Self::OpenMpi {
            command.arg("--oversubscribe").args(["--bind-to", "none"]);
            command
                .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
                .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
            if !tuned {
                command.env("OMPI_MCA_mpi_yield_when_idle", "1");
            }
        }
        command
    }
}

/// `name` on PATH.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|candidate| executable(candidate))
}

fn executable(path: &Path) -> bool {
    nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).is_ok() && path.is_file()
}
