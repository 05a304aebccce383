//! The types of the crate's interface.

use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// What to start.
#[derive(Clone, Debug, Default)]
pub struct Launch {
    /// The program as the user named it: a path, or a name to look up on the `PATH` of `env`.
    pub program: PathBuf,
    /// Its arguments, `argv[0]` excluded.
    pub args: Vec<OsString>,
    /// The whole environment of the upper half, its own `LD_PRELOAD` and `LD_LIBRARY_PATH` included.
    pub env: Vec<(OsString, OsString)>,
    /// Libraries loaded after those of the program's own `LD_PRELOAD` and before all others.
    pub upper_preload: Vec<PathBuf>,
    /// Directories searched before those of the program's own `LD_LIBRARY_PATH`.
    pub upper_library_path: Vec<PathBuf>,
    /// The signal mask it begins with (bit n is signal n + 1); `None`: the calling thread's.
    pub mask: Option<u64>,
}

/// A program that can be started.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The ELF file that runs (for a script: its interpreter).
    pub program: PathBuf,
    /// The program's dynamic loader.
    pub loader: PathBuf,
    /// `argv`, complete.
    pub argv: Vec<OsString>,
    /// Names of the libraries the ELF file asks for (`DT_NEEDED`).
    pub needed: Vec<String>,
    /// The rest of the request.
    pub launch: Launch,
}

/// See [`Hooks::on_execve`]: path, `argv`, `envp` (both null-terminated, of the program).
pub type OnExecve = fn(
    path: &std::ffi::CStr,
    argv: *const *const libc::c_char,
    envp: *const *const libc::c_char,
) -> Result<(), i32>;

/// See [`Hooks::on_execute`]: path, `argv`, `envp`, as [`OnExecve`]; the signal mask of the program, which
/// what is executed in place of it has to bring back ([`Launch::mask`]).
pub type OnExecute = fn(
    path: &std::ffi::CStr,
    argv: *const *const libc::c_char,
    envp: *const *const libc::c_char,
    mask: u64,
) -> Option<crate::tree::Execute>;

/// Functions of the glue that are called when the program does something of consequence. In the
/// lower half, with its FS; all signals blocked.
#[derive(Clone, Copy, Default)]
pub struct Hooks {
    /// The program ends with this code: called before `exit_group` really happens.
    pub on_exit: Option<fn(code: i32)>,
    /// The program replaces itself. Returning an error number refuses it.
    pub on_execve: Option<OnExecve>,
    /// In a child the program has forked, before it runs: the only thread of a process that belongs
    /// to the tree.
    pub on_fork: Option<fn()>,
    /// A process of the tree executes something: what to execute instead, so that it stays under
    /// control. `None`: what it asked for. May run in a child that borrows the memory of
    /// its parent.
    pub on_execute: Option<OnExecute>,
}

/// The identity of a thread of the upper half: what its `gettid` says. Survives restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ThreadId(pub i32);

/// A run of bytes of the upper half that an image holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Address.
    pub start: u64,
    /// Bytes, a multiple of the page size.
    pub len: u64,
}

/// What a mapping was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RegionKind {
    /// Anonymous private memory (restored as such).
    Anonymous,
    /// A private mapping of a file; its content is in the image, it is restored as anonymous memory.
    PrivateFile,
    /// A shared mapping: of a file, of shared memory, or anonymous.
    Shared,
    /// The growing stack of the main thread.
    Stack,
}

/// One mapping of the upper half.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// First address.
    pub start: u64,
    /// Bytes.
    pub len: u64,
    /// `PROT_*` bits.
    pub prot: u32,
    /// What it was made from.
    pub kind: RegionKind,
    /// The name in `/proc/self/maps`.
    pub name: String,
    /// Offset in the file.
    pub offset: u64,
    /// Device and inode of the file; 0 for anonymous memory.
    pub inode: (u64, u64),
    /// Its pages that hold anything but zeros, in order.
    pub runs: Vec<Run>,
}

/// Time allowed for parking if the caller has no better idea.
pub const PARK_DEADLINE: Duration = Duration::from_secs(10);

/// Why a program cannot be started under control.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// No such file, or not on the search path.
    #[error("{}: not found{}", program.display(), if *on_path { " on PATH" } else { "" })]
    NotFound {
        /// As asked for.
        program: PathBuf,
        /// Whether it was searched on `PATH`.
        on_path: bool,
    },
    /// The file cannot be executed or read.
    #[error("{}: cannot {operation}", path.display())]
    Io {
        /// What failed.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A program this method cannot control.
    #[error("{}: {reason}", program.display())]
    Refused {
        /// The file.
        program: PathBuf,
        /// What it is, and what to do about it.
        reason: String,
    },
    /// The address space or the kernel did not give what the upper half needs.
    #[error("cannot {operation} at {address:#x}: error {errno}")]
    Memory {
        /// What was attempted.
        operation: &'static str,
        /// Where.
        address: usize,
        /// The kernel's error number.
        errno: i32,
    },
    /// System-call instructions that must be controlled could not be.
    #[error("{}: {reason}", file.display())]
    Sites {
        /// The library.
        file: PathBuf,
        /// What is missing.
        reason: String,
    },
}

/// Why the threads could not be parked. None is parked afterwards.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ParkError {
    /// A thread did not reach upper code in time.
    #[error("thread {thread} ({name}) did not stop within {waited:?}: {place}")]
    Deadline {
        /// Which thread.
        thread: i32,
        /// Its name.
        name: String,
        /// How long was waited.
        waited: Duration,
        /// Depth in the lower half, instruction pointer and kernel state.
        place: String,
    },
    /// A child process of the program that shares or copied its memory is alive.
    #[error("child process {pid} ({name}) of the program is alive; it cannot be checkpointed")]
    Child {
        /// Its process id.
        pid: i32,
        /// Its name.
        name: String,
    },
    /// The program has not been started, or is ending.
    #[error("the program is not running")]
    NotRunning,
    /// Another checkpoint is in progress.
    #[error("the threads are parked already")]
    Busy,
}

/// Why the upper half could not be captured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureError {
    /// A file of `/proc` could not be read or understood.
    #[error("cannot {operation} {path}")]
    Proc {
        /// What was attempted.
        operation: &'static str,
        /// Which file.
        path: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The state could not be encoded.
    #[error("cannot encode the state of the threads")]
    Encode {
        /// Why.
        #[source]
        source: postcard::Error,
    },
}

/// Why a saved upper half cannot be brought back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The state is not of this version, or not a state.
    #[error("the state of the process in the image cannot be decoded")]
    Decode {
        /// Why.
        #[source]
        source: postcard::Error,
    },
    /// Another version of the layout of the two halves.
    #[error("the image was made by another version of mana (layout {recorded}, this is {here})")]
    Version {
        /// In the image.
        recorded: u32,
        /// Of this program.
        here: u32,
    },
    /// The processor lacks what the saved program may be using.
    #[error("this processor lacks {missing}, which the image was made with; restart on a node like the first")]
    Processor {
        /// Names of the features.
        missing: String,
    },
    /// An address of the image is taken in this process, or memory is short.
    #[error("cannot {operation} {start:#x}-{end:#x}: error {errno}")]
    Memory {
        /// What was attempted.
        operation: &'static str,
        /// First address.
        start: usize,
        /// End.
        end: usize,
        /// The kernel's error number.
        errno: i32,
    },
    /// A record of the state contradicts another.
    #[error("the image's record of {what} is not valid")]
    Invalid {
        /// What.
        what: &'static str,
    },
    /// A thread could not be made.
    #[error("cannot make thread {thread}: error {errno}")]
    Thread {
        /// Its identity.
        thread: i32,
        /// The C library's error number.
        errno: i32,
    },
}

/// Why a closure could not be run on a parked thread.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// No thread of that identity is parked.
    #[error("thread {thread} is not among the parked ones")]
    NoThread {
        /// The identity asked for.
        thread: i32,
    },
    /// The closure panicked.
    #[error("the operation on thread {thread} panicked")]
    Panicked {
        /// The thread.
        thread: i32,
    },
}
