//! Open descriptors: numbers, the open file descriptions behind them, and what each of those is.
//!
//! Two numbers that came from `dup` or `fork` share one description, with one position and one set
//! of status flags; that relation is kept. Each kind of file has its module with a record, a
//! `capture` and a `restore`.
//!
//! At restart a description is opened at any number, moved to the numbers that had it with `dup3`,
//! and closed; numbers from [`RestoreContext::descriptor_base`] on are used for everything that is
//! open only meanwhile.

pub mod device;
pub mod epoll;
pub mod eventfd;
mod grouping;
pub mod inherited;
pub mod inotify;
pub mod locks;
pub mod lost;
pub mod object;
pub mod pipe;
mod record;
pub mod regular;
mod reopen;
pub mod several;
pub mod signalfd;
pub mod socketpair;
pub mod timerfd;

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;

use serde::{Deserialize, Serialize};

use crate::blob::BlobSink;
use crate::context::{CaptureContext, RestoreContext};
use crate::error::{StateError, Warning};
use crate::fdinfo::FdInfo;
use crate::mappings::objects::ObjectList;
use crate::path::FilePath;
use crate::{ProcessState, Restored};

pub(crate) use record::capture;
pub(crate) use reopen::{arm_timers, restore, restore_late};

/// All descriptors of the upper half.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptors {
    /// Open numbers, ascending.
    pub numbers: Vec<Number>,
    /// Open file descriptions.
    pub descriptions: Vec<Description>,
    /// Pipes with both ends in this process, and their content.
    pub pipes: Vec<pipe::Pipe>,
    /// Content of files written in place, put back before they are opened.
    pub in_place: Vec<regular::InPlace>,
    /// Which of 0, 1 and 2 were closed.
    pub closed_standard: Vec<RawFd>,
    /// Locks on files.
    pub locks: Vec<locks::Lock>,
}

/// One descriptor number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Number {
    /// The number.
    pub fd: RawFd,
    /// FD_CLOEXEC.
    pub close_on_exec: bool,
    /// Index into [`Descriptors::descriptions`].
    pub description: u32,
}

/// One open file description.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// What `/proc/self/fd` called it; for messages.
    pub target: String,
    /// Access mode and status flags as open(2) takes them, without O_CLOEXEC.
    pub flags: i32,
    /// Who gets SIGIO, if anybody.
    pub owner: Option<Owner>,
    /// What it is.
    pub kind: Kind,
}

/// F_SETOWN_EX and F_SETSIG of a description whose owner is this process or a thread of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The thread identifier the program knows; `None`: the process.
    pub thread: Option<i32>,
    /// Signal sent instead of SIGIO; 0: SIGIO.
    pub signal: i32,
}

/// What an open file description refers to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Kind {
    /// Standard input, output or error of the job (0, 1, 2): the new run's at restart.
    Standard(RawFd),
    /// Handed to the process by whoever started it, and not a file: left as the new run has it.
    Inherited,
    /// A regular file with a name.
    Regular(regular::Regular),
    /// A directory.
    Directory(regular::Directory),
    /// A memory object or unlinked file, see [`crate::SharedObject`].
    Object(object::ObjectFile),
    /// A device with no state of its own.
    Device(device::Device),
    /// An end of a pipe whose other end is in this process as well.
    Pipe(pipe::PipeEnd),
    /// One end of a socket pair whose other end is in this process as well.
    SocketPair(socketpair::PairEnd),
    /// eventfd
    EventFd(eventfd::EventFd),
    /// timerfd
    TimerFd(timerfd::TimerFd),
    /// signalfd
    SignalFd(signalfd::SignalFd),
    /// epoll
    Epoll(epoll::Epoll),
    /// inotify
    Inotify(inotify::Inotify),
    /// Something outside the process: answers ECONNRESET after a restart.
    Lost,
}

/// What is known about an open number.
#[derive(Debug)]
pub(crate) struct OpenFile {
    /// The number it has here.
    pub fd: RawFd,
    /// The number the program knows; another one if it is a copy of another process's.
    pub number: RawFd,
    /// The process of a tree that has it.
    pub process: u32,
    /// Its line in `/proc/self/fd`.
    pub target: Vec<u8>,
    pub stat: nix::sys::stat::FileStat,
    pub info: FdInfo,
}

impl OpenFile {
    /// Asks the kernel about `fd`.
    pub(crate) fn read(fd: RawFd) -> Result<OpenFile, StateError> {
        let link = format!("/proc/thread-self/fd/{fd}");
        let target = fs::read_link(&link).map_err(|e| StateError::io("read", &link, e))?;
        // SAFETY: the program is parked, so the number stays open for this call.
        let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
        let stat =
            nix::sys::stat::fstat(borrowed).map_err(|e| StateError::io("look at", &link, e))?;
        let target = target.as_os_str().as_bytes().to_vec();
        Ok(OpenFile {
            fd,
            number: fd,
            process: 0,
            target,
            stat,
            info: FdInfo::read(fd)?,
        })
    }

    /// The descriptor; valid while the program is parked.
    pub(crate) fn borrow(&self) -> BorrowedFd<'_> {
        // SAFETY: the program is parked, so the number stays open while this value is used.
        unsafe { BorrowedFd::borrow_raw(self.fd) }
    }

    /// For messages.
    pub(crate) fn name(&self) -> String {
        format!(
            "descriptor {} ({})",
            self.number,
            String::from_utf8_lossy(&self.target)
        )
    }

    /// Type bits of the mode; 0 for anonymous inodes.
    pub(crate) fn file_type(&self) -> u32 {
        self.stat.st_mode & libc::S_IFMT
    }

    /// Whether its name is gone.
    pub(crate) fn deleted(&self) -> bool {
        self.stat.st_nlink == 0 || self.target.ends_with(b" (deleted)")
    }
}

/// Opens `path` with the flags of a description, close-on-exec.
pub(crate) fn open(path: &FilePath, flags: i32) -> Result<OwnedFd, StateError> {
    // These act at the moment of opening only; the kernel does not report them, but a record might.
    let mut flags = flags & !(libc::O_CREAT | libc::O_EXCL | libc::O_TRUNC);
    if path.as_bytes().starts_with(b"/proc/self/fd/") {
        // How the file was found once does not matter to what is open already.
        flags &= !libc::O_NOFOLLOW;
        if flags & libc::O_TMPFILE == libc::O_TMPFILE {
            flags &= !libc::O_TMPFILE;
        }
    }
    // SAFETY: the path is a C string.
    let fd = unsafe {
        libc::open(
            path.to_c_string().as_ptr(),
            flags | libc::O_CLOEXEC | libc::O_NOCTTY,
        )
    };
    if fd < 0 {
        return Err(StateError::last("open", path));
    }
    // SAFETY: just made, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Moves a descriptor to a number from `base` on.
pub(crate) fn raise(fd: OwnedFd, base: RawFd) -> Result<OwnedFd, StateError> {
    if fd.as_raw_fd() >= base {
        return Ok(fd);
    }
    duplicate(fd.as_fd(), base)
}

/// Another number, from `base` on, for the same description.
pub(crate) fn duplicate(fd: BorrowedFd<'_>, base: RawFd) -> Result<OwnedFd, StateError> {
    // SAFETY: F_DUPFD_CLOEXEC takes and returns numbers.
    let new = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, base) };
    if new < 0 {
        return Err(StateError::last(
            "duplicate above the program's numbers",
            fd.as_raw_fd(),
        ));
    }
    // SAFETY: just made, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(new) })
}

/// The numbers `state` needs that are open in this process: what a launcher left there. Give those
/// that the lower half still uses to [`vacate`], and close the others.
pub fn conflicts(state: &ProcessState) -> Vec<RawFd> {
    let records = &state.descriptors;
    let needed = records.numbers.iter().filter(|n| {
        let description = records.descriptions.get(n.description as usize);
        n.fd > 2 && description.is_some_and(|d| d.kind != Kind::Inherited)
    });
    needed
        .map(|n| n.fd)
        .filter(|&fd| inherited::Identity::of(fd).is_some())
        .collect()
}

/// Moves the descriptors `fds` to free numbers from `base` on and frees theirs. Returns the pairs
/// (old, new). For what a launcher left at low numbers and the lower half still needs.
pub fn vacate(fds: &[RawFd], base: RawFd) -> Result<Vec<(RawFd, RawFd)>, StateError> {
    let mut moved = Vec::new();
    for &fd in fds {
        // SAFETY: F_GETFD takes and returns numbers.
        let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
        let command = match flags & libc::FD_CLOEXEC {
            0 => libc::F_DUPFD,
            _ => libc::F_DUPFD_CLOEXEC,
        };
        // SAFETY: F_DUPFD takes and returns numbers.
        let new = unsafe { libc::fcntl(fd, command, base) };
        if flags < 0 || new < 0 {
            return Err(StateError::last("move descriptor", fd));
        }
        // SAFETY: the caller gives the number up.
        unsafe { libc::close(fd) };
        moved.push((fd, new));
    }
    Ok(moved)
}
