//! The MPI libraries of this machine: compilers, launchers, and what each needs to run here.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// An MPI library.
#[allow(clippy::enum_variant_names, reason = "one of them is called so")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mpi {
    /// Debian's `mpirun.openmpi`.
    OpenMpi,
    /// Debian's `mpirun.mpich`.
    Mpich,
    /// One that the tests have fetched.
    Fetched(&'static Fetched),
}

/// A line of `tests/mpis.txt`.
#[derive(Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The name of its adapter and of its directory.
    pub name: &'static str,
    /// Whose ABI its programs have.
    pub open_mpi: bool,
}

/// Where the fetched ones are.
static PLACE: OnceLock<PathBuf> = OnceLock::new();

/// What makes a waiting rank leave the processor to others, and for whom.
static YIELDING: OnceLock<(PathBuf, Who)> = OnceLock::new();

/// Whose ranks leave the processor to others while they wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Those of every MPI.
    All,
    /// Those of the fetched ones.
    Fetched,
}

/// They do with the library at `path`; the first call counts.
pub fn yields_with(path: PathBuf, who: Who) {
    YIELDING.get_or_init(|| (path, who));
}

/// Says where the fetched MPIs are; the first call counts.
pub fn fetched_in(place: PathBuf) {
    PLACE.get_or_init(|| place);
}

/// The MPIs of `tests/mpis.txt`.
pub fn fetched() -> impl Iterator<Item = Mpi> {
    static ALL: OnceLock<Vec<Fetched>> = OnceLock::new();
    let all = ALL.get_or_init(|| {
        include_str!("../../mpis.txt")
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| {
                let mut words = line.split_whitespace();
                let name = words.next()?;
                let open_mpi = words.next()? == "openmpi";
                Some(Fetched { name, open_mpi })
            })
            .collect()
    });
    all.iter().map(Mpi::Fetched)
}

impl Fetched {
    fn directory(&self) -> PathBuf {
        let place = PLACE.get().map_or(Path::new("."), PathBuf::as_path);
        place.join(self.name)
    }

    /// The path of its library of this name.
    pub fn library(&self, name: &str) -> PathBuf {
        self.directory().join("lib").join(name)
    }
}

impl Mpi {
    /// Both of the system, in the order of the reports.
    pub const ALL: [Self; 2] = [Self::OpenMpi, Self::Mpich];

    /// As in `mpi =` of mana.conf and in scenario names.
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenMpi => "openmpi",
            Self::Mpich => "mpich",
            Self::Fetched(fetched) => fetched.name,
        }
    }

    /// The system's MPI with the same ABI.
    pub fn family(self) -> Self {
        match self {
            Self::Fetched(Fetched { open_mpi: true, .. }) => Self::OpenMpi,
            Self::Fetched(_) => Self::Mpich,
            own => own,
        }
    }

    /// The name under which its library is loaded.
    pub fn library(self) -> &'static str {
        match self {
            Self::Mpich => "libmpich.so.12",
            _ if self.family() == Self::OpenMpi => "libmpi.so.40",
            _ => "libmpi.so.12",
        }
    }

    /// The path of `tool` of this MPI (`mpicc`, `mpirun`, ...), if installed.
    pub fn tool(self, tool: &str) -> Option<PathBuf> {
        match self {
            Self::Fetched(fetched) => {
                let path = fetched.directory().join("bin").join(tool);
                executable(&path).then_some(path)
            }
            _ => find(&format!("{tool}.{}", self.name())),
        }
    }

    /// The same for the standard's own interface, if this MPI has it.
    pub fn standard_compiler(self) -> Option<(PathBuf, Vec<String>)> {
        let Self::Fetched(fetched) = self else {
            return None;
        };
        let library = fetched.directory().join("lib/libmpi_abi.so");
        let (compiler, mut words) = self.c_compiler().filter(|_| library.exists())?;
        words.pop();
        words.extend(["-DMPI_ABI", "-lmpi_abi"].map(str::to_owned));
        Some((compiler, words))
    }

    /// What compiles a C program, and what follows on its command line.
    pub fn c_compiler(self) -> Option<(PathBuf, Vec<String>)> {
        let Self::Fetched(fetched) = self else {
            return Some((self.tool("mpicc")?, Vec::new()));
        };
        let directory = fetched.directory();
        let lib = directory.join("lib");
        let words = vec![
            format!("-I{}", directory.join("include").display()),
            format!("-L{}", lib.display()),
            format!("-Wl,-rpath,{}", lib.display()),
            "-lmpi".to_owned(),
        ];
        Some((find("gcc")?, words))
    }

    /// What is loaded into a process beside this MPI so that it does.
    pub fn yielding(self) -> Option<&'static Path> {
        let (library, who) = YIELDING.get()?;
        let does = *who == Who::All || matches!(self, Self::Fetched(_));
        does.then_some(library)
    }

    /// The launcher of a native run.
    pub fn native(self, ranks: u32) -> Command {
        let mut command = self.launcher(ranks, false);
        if let Some(library) = self.yielding() {
            command.env("LD_PRELOAD", library);
        }
        command
    }

    /// `mpirun -n ranks`, to be completed by a program. Ranks outnumber the processors of a test
    /// machine, so those of Open MPI are told to yield; `tuned` leaves that out, for measurements.
    pub fn launcher(self, ranks: u32, tuned: bool) -> Command {
        let mut command = match self {
            Self::Fetched(fetched) => {
                let directory = fetched.directory();
                let name = if fetched.open_mpi {
                    "mpirun"
                } else {
                    "mpiexec.hydra"
                };
                let mut command = Command::new(directory.join("bin").join(name));
                // Packages that may be anywhere are told where they are.
                if fetched.open_mpi {
                    command.env("OPAL_PREFIX", &directory);
                    // Otherwise the launcher of 5.0.11 crashes when a program under mana spawns another.
                    command.env("PMIX_MCA_gds", "hash");
                } else {
                    command.env("I_MPI_ROOT", &directory);
                }
                command
            }
            _ => Command::new(format!("mpirun.{}", self.name())),
        };
        command.arg("-n").arg(ranks.to_string());
        if self.family() == Self::OpenMpi {
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
