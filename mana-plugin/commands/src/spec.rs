//! The contract between `mana_launch` (decides, then executes) and `mana-lower` (runs).
//!
//! It travels as JSON in the environment variable [`VARIABLE`], or, when it is too long for one
//! variable (long command lines), in a memory file whose descriptor the variable names. The
//! environment that `mana-lower` finds is the lower half's; that of the program is
//! [`LaunchSpec::upper_environment`].

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;
use std::sync::OnceLock;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Of which signals Open MPI and UCX install handlers.
const FATAL_SIGNALS: [&str; 2] = ["OMPI_MCA_opal_signal", "UCX_ERROR_SIGNALS"];

/// Those that were set here, for this process alone.
static SET_HERE: OnceLock<Vec<&'static str>> = OnceLock::new();

/// Has Open MPI and UCX install no handlers of fatal signals in this process, unless the user has said which. They print
/// where the process is; on a thread of the program, whose thread pointer is not the library's, they would end it with
/// another signal, where natively the signal itself ends it. While there is one thread.
pub fn without_handlers() {
    SET_HERE.get_or_init(|| {
        let unset = |name: &&str| std::env::var_os(name).is_none();
        let names: Vec<_> = FATAL_SIGNALS.into_iter().filter(unset).collect();
        for name in &names {
            std::env::set_var(name, "");
        }
        names
    });
}

/// The environment variable that carries the specification.
pub const VARIABLE: &str = "MANA_LAUNCH_SPEC";

/// The kernel's limit for one environment variable is 128 KiB; longer ones go through a memory file.
const INLINE_LIMIT: usize = 96 * 1024;

/// Longest specification accepted.
const MAX_BYTES: u64 = 64 << 20;

/// Text of the operating system (an argument, a path), which need not be UTF-8. In JSON a string
/// if it is UTF-8, an array of bytes otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OsText(pub OsString);

impl OsText {
    /// The text as the operating system wants it.
    pub fn as_os_str(&self) -> &OsStr {
        &self.0
    }
}

impl<T: Into<OsString>> From<T> for OsText {
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

impl Serialize for OsText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.to_str() {
            Some(text) => serializer.serialize_str(text),
            None => serializer.collect_seq(self.0.as_bytes()),
        }
    }
}

impl<'de> Deserialize<'de> for OsText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Text(String),
            Bytes(Vec<u8>),
        }
        Ok(Self(match Form::deserialize(deserializer)? {
            Form::Text(text) => text.into(),
            Form::Bytes(bytes) => OsString::from_vec(bytes),
        }))
    }
}

/// Start from the beginning, or from an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// From the beginning: a new job, `--fresh`, or a requeue before anything was committed.
    Fresh,
    /// From the newest generation (or [`LaunchSpec::generation`]) that every rank can prove intact.
    /// At least one was committed: finding none intact is a failure (99), not a new beginning.
    Resume,
}

/// The families of MPI libraries, by the binary interface a program was compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// `libmpi.so.40`.
    OpenMpi,
    /// `libmpich.so.12`, `libmpi.so.12`.
    Mpich,
    /// `libmpi_abi.so.1`: a program built for the standard's own interface, which no library is called after.
    Standard,
}

impl Family {
    /// The name in directories and in `mpi =` of mana.conf.
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenMpi => "openmpi",
            Self::Mpich => "mpich",
            Self::Standard => "standard",
        }
    }

    /// For messages.
    pub fn title(self) -> &'static str {
        match self {
            Self::OpenMpi => "Open MPI",
            Self::Mpich => "MPICH",
            Self::Standard => "the standard ABI",
        }
    }
}

/// The real MPI of the lower half.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adapter {
    /// The adapter's name: a directory of `lib/mana/adapters`.
    pub name: String,
    /// Its family.
    pub family: Family,
    /// `libmana_adapter.so`, to be opened with `dlopen`.
    pub library: PathBuf,
}

/// Our MPI library for the upper half.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stub {
    /// The interface it has.
    pub family: Family,
    /// Libraries to load before the program's own (`split_process::Launch::upper_preload`).
    pub preload: Vec<PathBuf>,
    /// Where a late `dlopen` must look first (`split_process::Launch::upper_library_path`).
    pub directory: PathBuf,
}

/// What to run and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LaunchSpec {
    /// Version of the commands that wrote this; another one is refused.
    pub version: String,
    /// Fresh or resume.
    pub mode: Mode,
    /// The program as the user named it, resolved on `PATH` to a file (a script stays a script).
    /// Empty with [`Mode::Resume`] by `mana_restart` if the file is gone.
    pub program: PathBuf,
    /// Its arguments, `argv[0]` excluded; `None` by `mana_restart`, which is not told them.
    pub args: Option<Vec<OsText>>,
    /// The effective configuration, its directories absolute.
    pub config: libckpt::Config,
    /// The job's identity: the name of its directories.
    pub identity: String,
    /// How often the batch system has started this job before (0 outside one).
    pub restart_count: u32,
    /// Resume this generation (incarnation, number) instead of the newest.
    pub generation: Option<(u32, u64)>,
    /// The real MPI; `None`: a job of one rank without MPI.
    pub adapter: Option<Adapter>,
    /// The upper half's MPI library; `None` together with `adapter`.
    pub stub: Option<Stub>,
    /// Loaded into every program beside the stub: the library of the application interface.
    pub interface: Option<PathBuf>,
    /// The user's `LD_PRELOAD`, for the upper half only.
    pub upper_ld_preload: Option<OsText>,
    /// The user's `LD_LIBRARY_PATH`, for the upper half.
    pub upper_ld_library_path: Option<OsText>,
    /// What the batch system says about the job's end, on the rank that has asked it.
    pub batch: Option<Batch>,
    /// A stand-alone coordinator to use instead of one embedded in rank 0.
    pub coordinator: Option<CoordinatorAddress>,
    /// Before ranks know each other: this process says what all would say.
    pub speaks: bool,
    /// The command line that goes on with this job after its end.
    pub resume_by: String,
    /// No lines about normal events.
    pub quiet: bool,
}

/// What the batch system says about the job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Its number of the job.
    pub job: String,
    /// How `scontrol requeue` is told of it; `None`: Slurm has to be asked.
    pub name: Option<String>,
    /// When the job's time limit comes, in seconds since 1970; `None`: none, or not known.
    pub ends_at: Option<u64>,
    /// Seconds from its SIGTERM to its SIGKILL.
    pub grace: Option<u64>,
    /// At a SIGTERM it may give more time than that, and can be asked.
    pub asks: bool,
}

/// Where a stand-alone coordinator listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoordinatorAddress {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// The rendezvous file it left, which holds the secret.
    pub file: PathBuf,
}

/// Why the specification cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// Started by hand.
    #[error("{VARIABLE} is not set: mana-lower is started by mana_launch, not by hand")]
    Missing,
    /// Not written by these commands.
    #[error("{VARIABLE} cannot be read: {reason}")]
    Invalid {
        /// Why.
        reason: String,
    },
    /// Another installation's commands.
    #[error("mana_launch has version {found}, mana-lower {expected}: use one installation")]
    Version {
        /// Ours.
        expected: String,
        /// Theirs.
        found: String,
    },
    /// The memory file could not be made or read.
    #[error("cannot {operation} the memory file of the launch specification")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl LaunchSpec {
    /// The value for [`VARIABLE`]. A memory file, if one is needed, stays open across `execve`.
    ///
    /// # Errors
    /// When it cannot be encoded, or the memory file not be made.
    pub fn to_variable(&self) -> Result<String, SpecError> {
        let text = serde_json::to_string(self).map_err(|e| SpecError::Invalid {
            reason: e.to_string(),
        })?;
        if text.len() <= INLINE_LIMIT {
            return Ok(text);
        }
        let io = |operation| move |source| SpecError::Io { operation, source };
        // SAFETY: the name is a valid C string; the call has no other preconditions.
        let fd = unsafe { libc::memfd_create(c"mana-launch-spec".as_ptr(), 0) };
        if fd < 0 {
            return Err(io("create")(std::io::Error::last_os_error()));
        }
        // SAFETY: fd was made just above and nobody else owns it.
        let mut file = unsafe { File::from_raw_fd(fd) };
        file.write_all(text.as_bytes()).map_err(io("write"))?;
        file.rewind().map_err(io("rewind"))?;
        let value = format!("fd:{}", file.as_raw_fd());
        // The descriptor belongs to the program that is executed next.
        std::mem::forget(file);
        Ok(value)
    }

    /// Reads what `mana_launch` left in the environment and removes it from there.
    ///
    /// Call it before any other thread exists (it changes the environment).
    ///
    /// # Errors
    /// When there is none, it cannot be understood, or it is another version's.
    pub fn take_from_environment() -> Result<Self, SpecError> {
        let value = std::env::var(VARIABLE).map_err(|_| SpecError::Missing)?;
        std::env::remove_var(VARIABLE);
        Self::from_variable(&value)
    }

    /// The reverse of [`LaunchSpec::to_variable`]; closes the memory file.
    ///
    /// # Errors
    /// As [`LaunchSpec::take_from_environment`].
    pub fn from_variable(value: &str) -> Result<Self, SpecError> {
        let invalid = |reason: String| SpecError::Invalid { reason };
        let mut from_file = String::new();
        let text = match value.strip_prefix("fd:") {
            None => value,
            Some(number) => {
                let fd: i32 = number
                    .parse()
                    .ok()
                    .filter(|fd| *fd > 2)
                    .ok_or_else(|| invalid(format!("{number:?} is not a descriptor")))?;
                // SAFETY: the descriptor was left open for us by `to_variable`; nobody else uses it.
                let file = unsafe { File::from_raw_fd(fd) };
                file.take(MAX_BYTES)
                    .read_to_string(&mut from_file)
                    .map_err(|source| SpecError::Io {
                        operation: "read",
                        source,
                    })?;
                &from_file
            }
        };
        let spec: Self = serde_json::from_str(text).map_err(|e| invalid(e.to_string()))?;
        let expected = env!("CARGO_PKG_VERSION");
        if spec.version != expected {
            return Err(SpecError::Version {
                expected: expected.to_owned(),
                found: spec.version,
            });
        }
        Ok(spec)
    }

    /// The program's environment: this process's, with the user's own `LD_PRELOAD` and
    /// `LD_LIBRARY_PATH` and without what is ours. (The stub is added by `split_process`.)
    pub fn upper_environment(&self) -> Vec<(OsString, OsString)> {
        let set_here = SET_HERE.get().map_or(&[][..], Vec::as_slice);
        let mut all: Vec<_> = std::env::vars_os()
            .filter(|(name, _)| {
                let ours = set_here.iter().any(|one| name == one);
                !ours && name != VARIABLE && name != "LD_PRELOAD" && name != "LD_LIBRARY_PATH"
            })
            .collect();
        let mut put = |name: &str, value: &Option<OsText>| {
            if let Some(value) = value {
                all.push((name.into(), value.0.clone()));
            }
        };
        put("LD_PRELOAD", &self.upper_ld_preload);
        put("LD_LIBRARY_PATH", &self.upper_ld_library_path);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> LaunchSpec {
        LaunchSpec {
            version: env!("CARGO_PKG_VERSION").into(),
            mode: Mode::Resume,
            program: "/usr/bin/true".into(),
            args: Some(vec![
                "a b".into(),
                OsText(OsString::from_vec(vec![0xff, 1])),
            ]),
            config: libckpt::Config::load(None, &std::collections::BTreeMap::new(), &|_| None)
                .expect("defaults"),
            identity: "job".into(),
            restart_count: 2,
            generation: Some((1, 7)),
            adapter: None,
            stub: Some(Stub {
                family: Family::Mpich,
                preload: vec!["lib/libmpich.so.12".into()],
                directory: "lib".into(),
            }),
            interface: Some("lib/libmana_interface.so".into()),
            upper_ld_preload: Some("libx.so".into()),
            upper_ld_library_path: None,
            batch: None,
            coordinator: None,
            speaks: true,
            resume_by: "mana_restart --id job".into(),
            quiet: true,
        }
    }

    #[test]
    fn there_and_back() {
        let spec = sample();
        let value = spec.to_variable().expect("encodes");
        assert_eq!(LaunchSpec::from_variable(&value).expect("decodes"), spec);
    }

    #[test]
    fn long_command_lines_go_through_a_memory_file() {
        let mut spec = sample();
        spec.args = Some(vec!["x".repeat(1000).into(); 500]);
        let value = spec.to_variable().expect("encodes");
        assert!(value.starts_with("fd:"), "{}", value.len());
        assert_eq!(LaunchSpec::from_variable(&value).expect("decodes"), spec);
    }

    #[test]
    fn another_version_is_refused() {
        let mut spec = sample();
        spec.version = "0.0.0".into();
        let value = spec.to_variable().expect("encodes");
        assert!(matches!(
            LaunchSpec::from_variable(&value),
            Err(SpecError::Version { .. })
        ));
        assert!(LaunchSpec::from_variable("{}").is_err());
        assert!(LaunchSpec::from_variable("fd:1").is_err());
    }
}
