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

    /// A pipe, a socket or a terminal: what has no name to open it by again.
    fn is_stream(&self) -> bool {
        let terminal = !(libc::major(self.rdev) == 1 || self.rdev == 0);
        match self.file_type {
            libc::S_IFIFO | libc::S_IFSOCK => true,
            libc::S_IFCHR => terminal,
            _ => false,
        }
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

    /// Which of 0, 1 and 2 the description with `identity` and `numbers` was at the start, if any.
    pub(crate) fn standard(&self, identity: &Identity, numbers: &[RawFd]) -> Option<RawFd> {
        // Of a file anybody can open again, such as /dev/null, a second description is not the
        // stream; of a pipe or terminal it is as good.
        let is_stream = identity.is_stream() || numbers.iter().any(|fd| (0..=2).contains(fd));
        if !is_stream {
            return None;
        }
        let same = |i: &&Identity| (0..=2).contains(&i.fd) && i.same_file(identity);
        // If all three are one terminal, a number keeps its own.
        let own = self.0.iter().filter(same).find(|i| i.fd == identity.fd);
        own.or_else(|| self.0.iter().find(same)).map(|i| i.fd)
    }

    /// Whether `identity` is an inherited stream, under whatever number.
    pub(crate) fn stream(&self, identity: &Identity) -> bool {
        identity.is_stream() && self.0.iter().any(|i| i.same_file(identity))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn a_second_dev_null_is_not_the_stream() {
        let open = || {
            std::fs::File::options()
                .read(true)
                .open("/dev/null")
                .unwrap()
        };
        let (first, second) = (open(), open());
        let identity = |fd| Identity::of(fd).unwrap();
        let mut at_start = identity(first.as_raw_fd());
        at_start.fd = 0;
        let inherited = Inherited(vec![at_start]);
        let found = identity(second.as_raw_fd());
        assert_eq!(inherited.standard(&found, &[9]), None);
        assert_eq!(inherited.standard(&found, &[0, 9]), Some(0));
        assert!(!inherited.stream(&found));
    }

    #[test]
    fn a_pipe_is_the_stream_under_any_number() {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let mut at_start = Identity::of(writer.as_raw_fd()).unwrap();
        at_start.fd = 1;
        let inherited = Inherited(vec![at_start]);
        let writer = Identity::of(writer.as_raw_fd()).unwrap();
        assert_eq!(inherited.standard(&writer, &[12]), Some(1));
        let reader = Identity::of(reader.as_raw_fd()).unwrap();
        assert_eq!(
            inherited.standard(&reader, &[12]),
            None,
            "the other end is another stream"
        );
    }
}
