//! The test programs: where their sources are, how they are built, and with which arguments.
//!
//! `fast` and `slow` arguments give the same result; the slow ones only take longer, so that
//! checkpoints and kills find the program at work.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{bail, Context as _, Result};

use crate::job::Job;
use crate::mpi::Mpi;

/// How a source becomes something to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// `mpicc`.
    C,
    /// `mpicxx`.
    Cxx,
    /// `mpif90`.
    Fortran,
    /// `caf`, OpenCoarrays' wrapper of the Fortran compiler.
    Coarrays,
    /// The system's `python3`; nothing to build.
    Python,
}

/// One program.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// Name of the executable.
    pub name: &'static str,
    /// Name of the source below tests/programs or benches/programs.
    pub source: &'static str,
    /// How to build it.
    pub language: Language,
    /// Further compiler arguments.
    pub flags: &'static [&'static str],
    /// Ranks it is run with.
    pub ranks: u32,
    /// What it needs in its environment.
    pub environment: &'static [(&'static str, &'static str)],
    /// Further arguments of a native run.
    pub native: &'static [&'static str],
    /// Arguments of the quick run.
    pub fast: &'static [&'static str],
    /// Arguments of the run that takes some seconds.
    pub slow: &'static [&'static str],
    /// What the messages of a run with checkpoints must contain.
    pub says: &'static str,
    /// What they must not contain, if anything.
    pub silent: &'static str,
    /// The MPIs it exists for.
    pub mpis: &'static [Mpi],
    /// A file without which it cannot be built, and the package that has it.
    pub needs: Option<(&'static str, &'static str)>,
}

const C: Program = Program::C;

impl Program {
    /// A program in C for all MPIs.
    pub const C: Self = Self {
        name: "",
        source: "",
        language: Language::C,
        flags: &[],
        ranks: 3,
        environment: &[],
        native: &[],
        fast: &["--pause", "0"],
        slow: &[],
        says: "",
        silent: "",
        mpis: &Mpi::ALL,
        needs: None,
    };
}

/// Long computation between few messages.
pub const COMPUTE: Program = Program {
    name: "compute",
    source: "compute.c",
    ranks: 2,
    fast: &[],
    slow: &["--least", "160"],
    ..C
};

/// Files of each process in a directory that every node has of its own.
pub const SCRATCH: Program = Program {
    name: "scratch",
    source: "scratch.c",
    fast: &["--apart", "1", "--rounds", "12"],
    slow: &["--rounds", "12", "--pause", "600"],
    ..C
};

/// Ranks that wait for one that computes.
pub const STALL: Program = Program {
    name: "stall",
    source: "stall.c",
    ranks: 4,
    fast: &[],
    slow: &["--hold", "9"],
    ..C
};

/// Collectives of more bytes than an `int` counts.
pub const BEYOND: Program = Program {
    name: "beyond",
    source: "beyond.c",
    ranks: 2,
    fast: &[],
    mpis: &[Mpi::Mpich],
    ..C
};

/// The largest tag of an MPI.
pub const TAGS: Program = Program {
    name: "tags",
    source: "tags.c",
    ranks: 2,
    fast: &[],
    slow: &[],
    ..C
};

/// Every program whose result is compared in all modes.
pub const PROGRAMS: &[Program] = &[
    Program {
        name: "pingpong",
        source: "pingpong.c",
        ranks: 2,
        ..C
    },
    Program {
        name: "wildcards",
        source: "wildcards.c",
        ..C
    },
    Program {
        name: "gate",
        source: "gate.c",
        ..C
    },
    Program {
        name: "skew",
        source: "skew.c",
        fast: &["--pause", "1"],
        slow: &["--pause", "60"],
        ..C
    },
    Program {
        name: "free_order",
        source: "free_order.c",
        ..C
    },
    Program {
        name: "blocked",
        source: "blocked.c",
        fast: &["--rounds", "2", "--hold", "1"],
        slow: &["--rounds", "2", "--hold", "300"],
        ..C
    },
    Program {
        name: "synchronous",
        source: "synchronous.c",
        slow: &["--pause", "110"],
        ..C
    },
    COMPUTE,
    Program {
        name: "objects",
        source: "objects.c",
        ..C
    },
    Program {
        name: "idup",
        source: "idup.c",
        ..C
    },
    Program {
        name: "splits_openmpi",
        source: "splits.c",
        ranks: 2,
        mpis: &[Mpi::OpenMpi],
        ..C
    },
    Program {
        name: "splits_mpich",
        source: "splits.c",
        ranks: 2,
        mpis: &[Mpi::Mpich],
        ..C
    },
    Program {
        name: "answers_openmpi",
        source: "answers.c",
        ranks: 2,
        slow: &["--pause", "1200"],
        mpis: &[Mpi::OpenMpi],
        ..C
    },
    Program {
        name: "answers_mpich",
        source: "answers.c",
        ranks: 2,
        slow: &["--pause", "1200"],
        mpis: &[Mpi::Mpich],
        ..C
    },
    Program {
        name: "intercomm",
        source: "intercomm.c",
        fast: &["--rounds", "40", "--pause", "0"],
        slow: &["--rounds", "40", "--pause", "120"],
        ..C
    },
    Program {
        name: "persistent",
        source: "persistent.c",
        native: &["--single", "1"],
        fast: &["--rounds", "40", "--pause", "0"],
        slow: &["--rounds", "40", "--pause", "120"],
        ..C
    },
    Program {
        name: "persistent_large",
        source: "persistent.c",
        flags: &["-DLARGE"],
        native: &["--single", "1"],
        fast: &["--rounds", "40", "--pause", "0"],
        slow: &["--rounds", "40", "--pause", "120"],
        mpis: &[Mpi::Mpich],
        ..C
    },
    Program {
        name: "tool",
        source: "tool.c",
        ranks: 2,
        ..C
    },
    Program {
        name: "corners",
        source: "corners.c",
        flags: &["-Wno-deprecated-declarations", "-Wno-stringop-overread"],
        ..C
    },
    Program {
        name: "rest",
        source: "rest.c",
        flags: &["-Wno-deprecated-declarations"],
        ranks: 2,
        // MPICH 5.0.2 itself keeps what was sent from a buffer that it allocates.
        native: &["--growth", "200000"],
        ..C
    },
    Program {
        name: "extensions",
        source: "extensions.c",
        ranks: 2,
        mpis: &[Mpi::Mpich],
        ..C
    },
    Program {
        name: "large",
        source: "large.c",
        native: &["--refused", "1"],
        fast: &["--rounds", "25", "--pause", "0"],
        slow: &["--rounds", "25", "--pause", "200"],
        mpis: &[Mpi::Mpich],
        ..C
    },
    Program {
        name: "ordinary",
        source: "large.c",
        flags: &["-DORDINARY"],
        fast: &["--rounds", "25", "--pause", "0"],
        slow: &["--rounds", "25", "--pause", "200"],
        ..C
    },
    Program {
        name: "partitioned",
        source: "partitioned.c",
        native: &["--single", "1"],
        mpis: &[Mpi::Mpich],
        ..C
    },
    Program {
        name: "dynamic",
        source: "dynamic.c",
        ranks: 3,
        // Addresses of UCX, which MPICH's packages choose, are longer than the name of a port.
        environment: &[("MPIR_CVAR_CH4_NETMOD", "ofi")],
        fast: &["--pause", "0", "--connected", "0"],
        says: "the program is connected to processes outside the job",
        mpis: &[Mpi::OpenMpi],
        ..C
    },
    Program {
        name: "errors_openmpi",
        source: "errors.c",
        ranks: 2,
        mpis: &[Mpi::OpenMpi],
        ..C
    },
    Program {
        name: "errors_mpich",
        source: "errors.c",
        ranks: 2,
        mpis: &[Mpi::Mpich],
        ..C
    },
    Program {
        name: "completions_openmpi",
        source: "completions.c",
        ranks: 2,
        mpis: &[Mpi::OpenMpi],
        ..C
    },
    Program {
        name: "completions_mpich",
        source: "completions.c",
        ranks: 2,
        mpis: &[Mpi::Mpich],
        ..C
    },
    Program {
        name: "failures_openmpi",
        source: "failures.c",
        ranks: 2,
        mpis: &[Mpi::OpenMpi],
        ..C
    },
    Program {
        name: "failures_mpich",
        source: "failures.c",
        ranks: 2,
        mpis: &[Mpi::Mpich],
        ..C
    },
    Program {
        name: "sessions",
        source: "sessions.c",
        mpis: &[Mpi::Mpich],
        ..C
    },
    Program {
        name: "types",
        source: "types.c",
        slow: &["--right", "1"],
        ..C
    },
    Program {
        name: "requests",
        source: "requests.c",
        ..C
    },
    Program {
        name: "windows",
        source: "windows.c",
        slow: &["--pause", "150"],
        ..C
    },
    Program {
        name: "files",
        source: "files.c",
        fast: &["--rounds", "5", "--pause", "0"],
        slow: &["--rounds", "5", "--pause", "400"],
        ..C
    },
    Program {
        name: "files_large",
        source: "files.c",
        flags: &["-DLARGE"],
        fast: &["--rounds", "5", "--pause", "0"],
        slow: &["--rounds", "5", "--pause", "400"],
        mpis: &[Mpi::Mpich],
        ..C
    },
    Program {
        name: "hdf5_openmpi",
        source: "hdf5.c",
        flags: &[
            "-I/usr/include/hdf5/openmpi",
            "-L/usr/lib/x86_64-linux-gnu/hdf5/openmpi",
            "-Wl,--no-as-needed",
            "-lhdf5",
        ],
        slow: &["--pause", "200"],
        mpis: &[Mpi::OpenMpi],
        needs: Some(("/usr/include/hdf5/openmpi/hdf5.h", "libhdf5-openmpi-dev")),
        ..C
    },
    Program {
        name: "hdf5_mpich",
        source: "hdf5.c",
        flags: &[
            "-I/usr/include/hdf5/mpich",
            "-L/usr/lib/x86_64-linux-gnu/hdf5/mpich",
            "-Wl,--no-as-needed",
            "-lhdf5",
        ],
        slow: &["--pause", "200"],
        mpis: &[Mpi::Mpich],
        needs: Some(("/usr/include/hdf5/mpich/hdf5.h", "libhdf5-mpich-dev")),
        ..C
    },
    Program {
        name: "inplace",
        source: "inplace.c",
        ..C
    },
    Program {
        name: "fixed_address",
        source: "fixed_address.c",
        flags: &["-no-pie", "-fno-pie"],
        ranks: 2,
        fast: &["--pause", "0"],
        slow: &["--pause", "30"],
        ..C
    },
    Program {
        name: "multiple",
        source: "multiple.c",
        flags: &["-pthread"],
        ranks: 2,
        fast: &["--pause", "0"],
        slow: &["--pause", "120"],
        ..C
    },
    Program {
        name: "files_threads",
        source: "files_threads.c",
        flags: &["-pthread"],
        ranks: 2,
        fast: &["--pause", "0"],
        slow: &["--pause", "500"],
        ..C
    },
    Program {
        name: "creation",
        source: "creation.c",
        flags: &["-pthread"],
        ranks: 2,
        fast: &["--pause", "0", "--rounds", "120"],
        slow: &["--pause", "160", "--rounds", "120"],
        ..C
    },
    Program {
        name: "churn",
        source: "churn.c",
        fast: &["--pause", "0"],
        // A checkpoint takes memory, the first one most.
        slow: &["--pause", "60", "--most", "30000"],
        // An inter-communicator is made by a rank alone with others that are held.
        silent: "did not stop",
        ..C
    },
    Program {
        name: "threads",
        source: "threads.c",
        flags: &["-fopenmp"],
        ranks: 2,
        fast: &["--pause", "0"],
        slow: &["--pause", "40"],
        ..C
    },
    Program {
        name: "serialized",
        source: "serialized.c",
        flags: &["-pthread"],
        ranks: 2,
        fast: &["--pause", "0"],
        slow: &["--pause", "70"],
        ..C
    },
    Program {
        name: "tasks",
        source: "tasks.c",
        flags: &["-fopenmp"],
        ranks: 2,
        fast: &["--pause", "0"],
        slow: &["--pause", "60"],
        ..C
    },
    Program {
        name: "objects_cxx",
        source: "objects.cpp",
        language: Language::Cxx,
        ranks: 2,
        slow: &["--pause", "30"],
        ..C
    },
    Program {
        name: "fixed_form",
        source: "fixed_form.f",
        language: Language::Fortran,
        flags: &["-std=legacy"],
        ranks: 2,
        fast: &["100", "0"],
        slow: &["100", "40"],
        ..C
    },
    Program {
        name: "use_mpi",
        source: "use_mpi.f90",
        language: Language::Fortran,
        flags: &["-fallow-argument-mismatch"],
        ranks: 2,
        fast: &["100", "0"],
        slow: &["100", "40"],
        ..C
    },
    // Not on MPICH: it has no more than 2048 communicators.
    Program {
        name: "plenty",
        source: "plenty.f90",
        language: Language::Fortran,
        ranks: 2,
        fast: &["8", "0"],
        slow: &["8", "400"],
        mpis: &[Mpi::OpenMpi],
        ..C
    },
    Program {
        name: "use_f08",
        source: "use_f08.f90",
        language: Language::Fortran,
        ranks: 2,
        fast: &["100", "0"],
        slow: &["100", "40"],
        ..C
    },
    Program {
        name: "windows_f08",
        source: "windows_f08.f90",
        language: Language::Fortran,
        ranks: 2,
        fast: &["40", "0"],
        slow: &["40", "60"],
        ..C
    },
    // Not on MPICH: there it hangs natively (passive targets get no progress while they wait).
    Program {
        name: "coarray",
        source: "coarray.f90",
        language: Language::Coarrays,
        fast: &["60", "0"],
        slow: &["60", "70"],
        mpis: &[Mpi::OpenMpi],
        ..C
    },
    Program {
        name: "train",
        source: "train.py",
        language: Language::Python,
        ranks: 2,
        fast: &["100", "0"],
        slow: &["100", "40"],
        mpis: &[Mpi::OpenMpi],
        ..C
    },
    Program {
        name: "dense",
        source: "dense.c",
        fast: &["--rounds", "80", "--pause", "1", "--mixed", "7"],
        slow: &["--rounds", "80", "--pause", "100", "--mixed", "7"],
        ..C
    },
];

/// The dense program alone; its arguments are the scenario's.
pub const DENSE: Program = Program {
    name: "dense",
    source: "dense.c",
    ..C
};

/// The microbenchmarks and the memory program.
pub const MICRO: Program = Program {
    name: "micro",
    source: "micro.c",
    ranks: 2,
    ..C
};

/// Touches memory and stays.
pub const MEMORY: Program = Program {
    name: "memory",
    source: "memory.c",
    ranks: 2,
    ..C
};

impl Program {
    /// The source, wherever this crate was built from.
    fn source(&self) -> PathBuf {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .unwrap_or(Path::new("."));
        let here = tests.join("programs").join(self.source);
        if here.exists() {
            return here;
        }
        tests
            .with_file_name("benches")
            .join("programs")
            .join(self.source)
    }

    /// Build for `mpi` into `directory`; the path of the executable.
    pub fn build(&self, mpi: Mpi, directory: &Path) -> Result<PathBuf> {
        let source = self.source();
        if self.language == Language::Python {
            return Ok(source);
        }
        let wrapper = match self.language {
            Language::Cxx => "mpicxx",
            Language::Fortran => "mpif90",
            Language::Coarrays => "caf",
            _ => "mpicc",
        };
        // Whatever is not C is built with the system's MPI of the same ABI.
        let found = match self.language {
            Language::C => mpi.c_compiler(),
            _ => mpi.family().tool(wrapper).map(|path| (path, Vec::new())),
        };
        let found = found.with_context(|| format!("{wrapper}.{} is not installed", mpi.name()))?;
        self.compile(found, directory)
    }

    /// Build with a compiler and what follows on its command line.
    pub fn compile(&self, with: (PathBuf, Vec<String>), directory: &Path) -> Result<PathBuf> {
        let (source, (compiler, libraries)) = (self.source(), with);
        std::fs::create_dir_all(directory)
            .with_context(|| format!("creating {}", directory.display()))?;
        let executable = directory.join(self.name);
        let mut command = Command::new(compiler);
        command.arg("-O2").args(self.flags);
        if self.language == Language::C {
            command.args(["-std=gnu11", "-Wall", "-Wno-stringop-overflow"]);
            command
                .arg("-I")
                .arg(Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("programs"));
        }
        if matches!(self.language, Language::Fortran | Language::Coarrays) {
            command.arg("-J").arg(directory);
        }
        command.arg(source).arg("-o").arg(&executable);
        command.args(libraries).arg("-lm");
        let ended = Job::start(command, directory)?.wait(Duration::from_secs(120))?;
        if ended.code() != 0 {
            bail!("it does not compile\n{}", ended.report());
        }
        Ok(executable)
    }

    /// The command line of `executable` with `arguments`.
    pub fn line(&self, executable: &Path, arguments: &[&str]) -> Vec<String> {
        let mut line = Vec::new();
        if self.language == Language::Python {
            line.push("/usr/bin/python3".to_owned());
        }
        line.push(executable.to_string_lossy().into_owned());
        line.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        line
    }

    /// Why it cannot be built or run here, if so.
    pub fn missing(&self, mpi: Mpi) -> Option<String> {
        if mpi.tool("mpirun").is_none() {
            return Some(match mpi {
                Mpi::Fetched(_) => format!("{} could not be fetched", mpi.name()),
                _ => format!("mpirun.{} is not installed", mpi.name()),
            });
        }
        if let Some((_, package)) = self.needs.filter(|(file, _)| !Path::new(file).exists()) {
            return Some(format!("{package} is not installed"));
        }
        let wrapper = match self.language {
            Language::C => "mpicc",
            Language::Cxx => "mpicxx",
            Language::Fortran => "mpif90",
            Language::Coarrays => "caf",
            Language::Python => {
                let loads = Command::new("/usr/bin/python3")
                    .args(["-c", "import numpy, mpi4py.MPI"])
                    .output();
                return match loads {
                    Ok(output) if output.status.success() => None,
                    _ => Some("python3-mpi4py or python3-numpy is not installed".to_owned()),
                };
            }
        };
        mpi.family()
            .tool(wrapper)
            .is_none()
            .then(|| format!("{wrapper}.{} is not installed", mpi.name()))
    }
}
