//! The processes that a program without MPI makes (decision 006): the root, which is the rank, and
//! its members.
//!
//! | module | runs in | holds |
//! |---|---|---|
//! | `root` | the rank | stopping all, taking them into one image, letting them go |
//! | `member` | every other process | its control thread; executing a program under control |
//! | `record` | both | what an image knows of a tree |
//! | `restart` | both | making the processes again |
//! | `wire` | both | copies of descriptors, state and memory on their way to the root |

pub mod member;
pub mod record;
pub mod restart;
pub mod root;
mod wire;

use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::{control, Failure};

/// What the root asks of a member; its number, and above it that of the checkpoint.
mod verb {
    /// Run on.
    pub const RUN: u32 = 0;
    /// Stand still.
    pub const PARK: u32 = 1;
    /// Send copies of the descriptors.
    pub const FILES: u32 = 2;
    /// Send state and memory.
    pub const STATE: u32 = 3;
    /// In an answer: it could not be done.
    pub const FAILED: u32 = 0x80;
    /// Bits of a verb.
    pub const BITS: u32 = 8;
}

/// For one process to do what it was asked.
const STEP: Duration = Duration::from_secs(20);

/// Where a program that a process of the tree executes finds the table.
static TABLE: OnceLock<PathBuf> = OnceLock::new();

/// When this process became the root of a tree; not of one that goes on after a restart.
static BEGUN: OnceLock<Instant> = OnceLock::new();

/// Makes this process the root of a tree; `id`: what the program knows it as, after a restart. The
/// table is a memory file in the descriptor table of a thread that does nothing else: the program
/// cannot close it.
pub fn begin(id: Option<i32>) -> Result<(), Failure> {
    if id.is_none() {
        BEGUN.get_or_init(Instant::now);
    }
    let (sender, made) = channel();
    split_process::with_signals_blocked(|| {
        std::thread::Builder::new()
            .name("mana-tree".into())
            .spawn(move || {
                control::own_descriptors();
                let found = split_process::tree::found(id).inspect(|file| {
                    // SAFETY: no arguments.
                    let thread = unsafe { libc::gettid() };
                    let path = format!(
                        "/proc/{}/task/{thread}/fd/{}",
                        std::process::id(),
                        file.as_raw_fd()
                    );
                    TABLE.get_or_init(|| path.into());
                });
                let (file, result) = match found {
                    Ok(file) => (Some(file), Ok(())),
                    Err(e) => (None, Err(e)),
                };
                let _ = sender.send(result);
                while file.is_some() {
                    std::thread::park();
                }
            })
    })?;
    let made = made.recv().map_err(|_| "the tree's thread has ended")?;
    made.map_err(|e| format!("cannot make the table of child processes: {e}").into())
}
