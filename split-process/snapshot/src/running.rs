//! Starting the child, and waiting for it without blocking.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::task::Poll;
use std::time::{Duration, Instant};

use mana_image::{Hash, HeaderDraft, Layout, Pieces, CHUNK_LEN, PAGE};
use mana_raw::sys;

use crate::child::{self, Work};
use crate::page::{SharedPage, DONE, FAILED};

/// A child that writes nothing for so long is given up.
const STALL: Duration = Duration::from_secs(600);
/// For a killed child to be gone.
const REAP: Duration = Duration::from_secs(10);
/// Descriptors closed one by one on old kernels.
const DESCRIPTORS: u64 = 1 << 16;

/// What the child is to write, and where to.
pub struct Plan<'a> {
    /// The image file, empty, as long as the layout says.
    pub file: BorrowedFd<'a>,
    /// The same file opened with O_DIRECT, if that can be.
    pub direct: Option<BorrowedFd<'a>>,
    /// Where the parts lie.
    pub layout: Layout,
    /// The header but for its hashes.
    pub header: HeaderDraft,
    /// The encoded sections.
    pub meta: &'a [u8],
    /// The memory. The child writes it as it is when [`start`] is called.
    pub pieces: Pieces<'a>,
}

/// Why no child was started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// No page to report on.
    #[error("no memory for the snapshot's report: {source}")]
    Page {
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel does not fork.
    #[error("the process cannot be forked for a snapshot: {source}")]
    Fork {
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// Why the child has written no image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// An operation on the file failed.
    #[error("writing the snapshot: {source}")]
    Write {
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The child died.
    #[error(
        "the process that wrote the snapshot was killed by signal {signal} after {written} bytes"
    )]
    Killed {
        /// By what.
        signal: i32,
        /// What it had written.
        written: u64,
    },
    /// The child ended without a report.
    #[error("the process that wrote the snapshot ended without a report after {written} bytes")]
    Vanished {
        /// What it had written.
        written: u64,
    },
    /// The child makes no progress.
    #[error("the process that writes the snapshot has written nothing for {seconds} s, {written} bytes in all")]
    Stalled {
        /// How long.
        seconds: u64,
        /// What it had written.
        written: u64,
    },
}

/// A child at work. Dropping it kills and reaps the child.
pub struct Running {
    pid: i32,
    page: SharedPage,
    /// Bytes written when that changed last, and when that was.
    progress: (u64, Instant),
    reaped: bool,
}

/// Forks the child. To be called on a thread whose descriptor table is not the program's, while the
/// memory in `plan` stands still; it may change as soon as this returns.
///
/// # Errors
/// When there is no memory, or no process to be had: the caller writes the image itself.
pub fn start(plan: Plan<'_>) -> Result<Running, StartError> {
    let page = SharedPage::new().map_err(|source| StartError::Page { source })?;
    let chunks = plan.layout.data.1.div_ceil(CHUNK_LEN);
    let mut index = vec![0; chunks as usize * 16];
    let mut space = vec![0; (CHUNK_LEN + PAGE) as usize];
    let aligned = space.as_ptr().align_offset(PAGE as usize);
    let buffer = space
        .get_mut(aligned..aligned + CHUNK_LEN as usize)
        .unwrap_or_default();
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: fills the structure.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    let mut work = Work {
        // SAFETY: getpid has no preconditions.
        parent: unsafe { libc::getpid() },
        file: plan.file.as_raw_fd(),
        direct: plan.direct.map_or(-1, |d| d.as_raw_fd()),
        descriptors: limit.rlim_cur.min(DESCRIPTORS) as i32,
        layout: plan.layout,
        header: plan.header,
        meta: plan.meta,
        pieces: plan.pieces,
        index: &mut index,
        buffer,
    };
    match fork(|| child::run(&mut work, page.report())) {
        Ok(pid) => Ok(Running {
            pid,
            page,
            progress: (0, Instant::now()),
            reaped: false,
        }),
        Err(source) => Err(StartError::Fork { source }),
    }
}

/// Runs `body` in a child without an exit signal; the parent gets its process id. All signals are
/// blocked in the child.
fn fork(mut body: impl FnMut()) -> io::Result<i32> {
    let all = u64::MAX;
    let mut before = 0u64;
    let mask = |how: i32, new: &u64, old: *mut u64| {
        // SAFETY: `new` is read and `old` written, eight bytes each; the mask is this thread's.
        unsafe {
            sys::syscall(
                sys::RT_SIGPROCMASK,
                [
                    how as usize,
                    new as *const u64 as usize,
                    old as usize,
                    8,
                    0,
                    0,
                ],
            )
        }
    };
    mask(libc::SIG_SETMASK, &all, &raw mut before);
    // SAFETY: no flags and no stack: the child goes on here in a copy of all memory. It runs `body`,
    // which never returns to code that relies on other threads.
    let pid = unsafe { sys::syscall(sys::CLONE, [0; 6]) };
    if pid == 0 {
        body();
        loop {
            // SAFETY: ends the child.
            unsafe { sys::syscall(sys::EXIT_GROUP, [1, 0, 0, 0, 0, 0]) };
        }
    }
    mask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
    match pid {
        pid if pid < 0 => Err(io::Error::from_raw_os_error(-pid as i32)),
        pid => Ok(pid as i32),
    }
}

/// What waitpid says.
enum Wait {
    Alive,
    Ended(i32),
    /// Somebody else has reaped it (a program that waits for clones).
    Gone,
}

impl Running {
    /// The child.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Has the child ended? Returns the root hash of the durable image. Not to be asked again then.
    pub fn poll(&mut self) -> Poll<Result<Hash, SnapshotError>> {
        let ended = self.wait();
        let (state, errno, root) = self.page.report().read();
        let written = self.page.report().written();
        let status = match ended {
            Wait::Alive => return self.watch(written),
            Wait::Ended(status) => Some(status),
            Wait::Gone => None,
        };
        Poll::Ready(match (state, status) {
            (DONE, _) => Ok(root),
            (FAILED, _) => Err(SnapshotError::Write {
                source: io::Error::from_raw_os_error(errno),
            }),
            (_, Some(status)) if libc::WIFSIGNALED(status) => Err(SnapshotError::Killed {
                signal: libc::WTERMSIG(status),
                written,
            }),
            _ => Err(SnapshotError::Vanished { written }),
        })
    }

    fn watch(&mut self, written: u64) -> Poll<Result<Hash, SnapshotError>> {
        let (before, since) = self.progress;
        if written != before {
            self.progress = (written, Instant::now());
        } else if since.elapsed() > STALL {
            self.kill();
            return Poll::Ready(Err(SnapshotError::Stalled {
                seconds: STALL.as_secs(),
                written,
            }));
        }
        Poll::Pending
    }

    fn wait(&mut self) -> Wait {
        if self.reaped {
            return Wait::Gone;
        }
        let mut status = 0;
        // SAFETY: writes `status`.
        let found = unsafe { libc::waitpid(self.pid, &mut status, libc::__WCLONE | libc::WNOHANG) };
        match found {
            0 => Wait::Alive,
            pid if pid == self.pid => {
                self.reaped = true;
                Wait::Ended(status)
            }
            _ if io::Error::last_os_error().raw_os_error() == Some(libc::EINTR) => Wait::Alive,
            _ => {
                self.reaped = true;
                Wait::Gone
            }
        }
    }

    /// Ends the child and reaps it. Bounded: a child inside the kernel may take longer to go.
    fn kill(&mut self) {
        if self.reaped {
            return;
        }
        // SAFETY: the child has not been reaped, so that the number is still its.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
        let end = Instant::now() + REAP;
        while matches!(self.wait(), Wait::Alive) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}
