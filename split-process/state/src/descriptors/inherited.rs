//! What was open when the process started: the standard streams, and whatever else the one who
//! started it left open (an MPI launcher's sockets and pipes).
//!
//! A stream the process inherited has no name to open it by; at restart the new run has its own. So
//! a description of the program that is still the inherited one is recorded as such.

use std::fs;
use std::os::fd::RawFd;

use serde::{Deserialize, Serialize};

/// Identity of one inherited descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub fd: RawFd,
    pub device: u64,
    pub inode: u64,
    /// Type bits of the mode.
    pub file_type: u32,
    /// The device it is, for a character device.
    pub rdev: u64,
    /// Access mode.
    pub access: i32,
}

impl Identity {
    /// The identity of an open descriptor, `None` if it is closed.
    pub(crate) fn of(fd: RawFd) -> Option<Identity> {
        let stat = nix::sys::stat::fstat(borrow(fd)).ok()?;
        // SAFETY: F_GETFL takes and returns numbers.
        let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
        (flags >= 0).then_some(Identity {
            fd,
            device: stat.st_dev,
            inode: stat.st_ino,
            file_type: stat.st_mode & libc::S_IFMT,
            rdev: stat.st_rdev,
            access: flags & libc::O_ACCMODE,
        })
    }

    fn same_file(&self, other: &Identity) -> bool {
        (self.device, self.inode, self.rdev) == (other.device, other.inode, other.rdev)
            && self.access == other.access
    }
}

fn borrow<'a>(fd: RawFd) -> std::os::fd::BorrowedFd<'a> {
    // SAFETY: used for one fstat; a closed number gives EBADF, which the caller handles. The
    // numbers asked for are not -1.
    unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) }
}

/// The descriptors open at the start of this process. Made once, before anything is opened; not
/// part of the image (each incarnation has its own).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inherited(Vec<Identity>);

impl Inherited {
    /// Notes all open descriptors.
    pub fn observe() -> Inherited {
        let Ok(entries) = fs::read_dir("/proc/self/fd") else {
            return Inherited((0..3).filter_map(Identity::of).collect());
        };
        let names = entries.flatten().map(|e| e.file_name());
        let numbers: Vec<RawFd> = names.filter_map(|n| n.to_str()?.parse().ok()).collect();
        // The directory itself is closed by now and not found again.
        Inherited(numbers.into_iter().filter_map(Identity::of).collect())
    }

    /// Which of 0, 1 and 2 `identity` (of any number) was at the start, if any.
    pub(crate) fn standard(&self, identity: &Identity) -> Option<RawFd> {
        let same = |i: &&Identity| (0..=2).contains(&i.fd) && i.same_file(identity);
        // If all three are one terminal, a number keeps its own.
        let own = self.0.iter().filter(same).find(|i| i.fd == identity.fd);
        own.or_else(|| self.0.iter().find(same)).map(|i| i.fd)
    }

    /// Whether `identity` is an inherited stream (not a regular file or directory) under its number.
    pub(crate) fn stream(&self, identity: &Identity) -> bool {
        let named = matches!(identity.file_type, libc::S_IFREG | libc::S_IFDIR);
        !named && self.0.iter().any(|i| i.same_file(identity))
    }
}
