//! A snapshot by fork: the child keeps the memory as it was while the program runs on. Lower half.

use crate::park::Parked;
use crate::signals;
use mana_raw::sys;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// `__WCLONE`: wait for children that send no signal, which the program's own waits do not see.
const WCLONE: i32 = i32::MIN;

static UNFORKABLE: AtomicBool = AtomicBool::new(false);

/// The program has asked for memory that a fork does not copy (`MADV_DONTFORK`, `MADV_WIPEONFORK`,
/// huge pages of the system's pool). A restart brings memory back without that.
pub fn note_unforkable() {
    UNFORKABLE.store(true, Ordering::Relaxed);
}

/// Whether the program's memory may not all be in a snapshot.
pub fn may_be_unforkable() -> bool {
    UNFORKABLE.load(Ordering::Relaxed)
}

/// A child process that holds the memory of the moment it was made.
#[derive(Debug)]
pub struct Snapshot {
    pid: i32,
}

impl Parked {
    /// Forks; the child runs `write` with all signals blocked, and ends with its result as exit
    /// code. The program can be released at once.
    ///
    /// Shared mappings are not part of the snapshot: the child sees later changes of them.
    ///
    /// # Safety
    /// The child has this thread only, while other threads of the lower half may hold locks of the
    /// C library: `write` must not allocate, log, or take a lock. It owns what it captures; nothing
    /// is dropped in the child.
    pub unsafe fn snapshot(&self, write: impl FnOnce() -> i32) -> std::io::Result<Snapshot> {
        let mask = signals::set_mask(!0);
        // SAFETY: no flags: a copy of the memory, no signal at the child's end.
        let pid = unsafe { sys::syscall(sys::CLONE, [0; 6]) };
        if pid == 0 {
            let code = write();
            // SAFETY: ends the child without running anything of the parent's.
            unsafe { sys::syscall(sys::EXIT_GROUP, [code as usize, 0, 0, 0, 0, 0]) };
        }
        signals::set_mask(mask);
        if pid < 0 {
            return Err(std::io::Error::from_raw_os_error(-pid as i32));
        }
        Ok(Snapshot { pid: pid as i32 })
    }
}

impl Snapshot {
    /// The child's process id.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Waits for the child's end, at most `limit`. `Some(code)`: it has ended (128 + n: by signal
    /// n); `None`: not yet.
    pub fn wait(&self, limit: Duration) -> Option<i32> {
        let begin = Instant::now();
        loop {
            let mut status = 0;
            // SAFETY: fills `status`.
            let got = unsafe { libc::waitpid(self.pid, &mut status, WCLONE | libc::WNOHANG) };
            if got == self.pid {
                return Some(if libc::WIFEXITED(status) {
                    libc::WEXITSTATUS(status)
                } else {
                    128 + libc::WTERMSIG(status)
                });
            }
            if got < 0 && std::io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
                return Some(127); // gone: somebody else has reaped it
            }
            if begin.elapsed() >= limit {
                return None;
            }
            std::thread::sleep(Duration::from_millis(1).min(limit));
        }
    }

    /// Ends the child; its image is incomplete then.
    pub fn kill(&self) {
        // SAFETY: a child not yet reaped keeps its number.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
    }
}
