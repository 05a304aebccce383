//! epoll: which descriptors are watched, for what, with which word of the program.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use serde::{Deserialize, Serialize};

use super::OpenFile;
use crate::error::{StateError, Warning};

/// An epoll descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Epoll {
    /// What it watches.
    pub entries: Vec<Entry>,
}

/// One watched descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The number it was added under.
    pub fd: RawFd,
    /// A number that refers to the watched description; another one than `fd` if that was closed
    /// or used anew after a dup.
    pub open_as: RawFd,
    /// EPOLL* bits.
    pub events: u32,
    /// The program's word.
    pub data: u64,
}

/// KCMP_EPOLL_TFD of linux/kcmp.h, and its argument.
const KCMP_EPOLL_TFD: i32 = 7;

#[repr(C)]
struct EpollSlot {
    epoll: u32,
    target: u32,
    /// Which of several files that were added under one number.
    index: u32,
}

/// Records what `file` watches among `all` descriptors of the upper half.
pub(super) fn capture(file: &OpenFile, all: &[OpenFile], warnings: &mut Vec<Warning>) -> Epoll {
    let mut entries = Vec::new();
    for (i, watched) in file.info.watched.iter().enumerate() {
        let index = file.info.watched[..i]
            .iter()
            .filter(|w| w.fd == watched.fd)
            .count();
        let mut candidates: Vec<&OpenFile> = all
            .iter()
            .filter(|f| watched.inode.is_none_or(|inode| inode == f.stat.st_ino))
            .collect();
        // Of a tree's descriptors, those of the process that has this one.
        candidates.retain(|f| f.process == file.process);
        candidates.sort_by_key(|f| f.number != watched.fd);
        let found = candidates.iter().find(|f| {
            let told = is_target(file.fd, watched.fd, index, f.fd);
            told.unwrap_or(f.number == watched.fd)
        });
        match found {
            Some(open) => entries.push(Entry {
                fd: watched.fd,
                open_as: open.number,
                events: watched.events,
                data: watched.data,
            }),
            None => {
                let message = format!(
                    "watches a file (once descriptor {}) that no descriptor of the program refers \
                     to any more; it will not be watched after a restart",
                    watched.fd
                );
                warnings.push(Warning::new(file.name(), message));
            }
        }
    }
    Epoll { entries }
}

/// Whether the `index`th file added to `epoll` under number `target` is the description of `fd`;
/// `None` where the kernel does not tell.
fn is_target(epoll: RawFd, target: RawFd, index: usize, fd: RawFd) -> Option<bool> {
    let slot = EpollSlot {
        epoll: epoll as u32,
        target: target as u32,
        index: index as u32,
    };
    // Of this thread, whose table may be its own.
    // SAFETY: gettid takes nothing.
    let pid = unsafe { libc::gettid() };
    // SAFETY: the last argument is the address of a kcmp_epoll_slot, which is only read.
    let order = unsafe {
        libc::syscall(
            libc::SYS_kcmp,
            pid,
            pid,
            KCMP_EPOLL_TFD,
            fd as libc::c_ulong,
            &raw const slot,
        )
    };
    (order >= 0).then_some(order == 0)
}

pub(super) fn restore() -> Result<OwnedFd, StateError> {
    // SAFETY: epoll_create1 takes and returns numbers.
    let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    if fd < 0 {
        return Err(StateError::last("make", "an epoll descriptor"));
    }
    // SAFETY: just made, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Adds the watched descriptors, when all numbers are in place. An entry whose number now means
/// something else is added through a moment's `dup` of the right one.
pub(super) fn watch(
    record: &Epoll,
    fd: RawFd,
    base: RawFd,
    warnings: &mut Vec<Warning>,
) -> Result<(), StateError> {
    for entry in &record.entries {
        let added = match entry.fd == entry.open_as {
            true => add(fd, entry.fd, entry),
            false => add_as(fd, base, entry),
        };
        match added {
            Ok(()) => {}
            Err(e) if e.raw_os_error() == Some(libc::EPERM) => {
                let message = "cannot be watched: it is a file in this run";
                warnings.push(Warning::new(format!("descriptor {}", entry.fd), message));
            }
            Err(e) => return Err(StateError::io("watch again descriptor", entry.fd, e)),
        }
    }
    Ok(())
}

/// Adds the description of `entry.open_as` under the number `entry.fd`.
fn add_as(epoll: RawFd, base: RawFd, entry: &Entry) -> io::Result<()> {
    // SAFETY: F_DUPFD takes and returns numbers. -1 if the number is free now.
    let aside = unsafe { libc::fcntl(entry.fd, libc::F_DUPFD_CLOEXEC, base) };
    // SAFETY: F_GETFD takes and returns numbers.
    let close_on_exec = unsafe { libc::fcntl(entry.fd, libc::F_GETFD) } & libc::FD_CLOEXEC != 0;
    let dup = |from: RawFd, to: RawFd, cloexec: bool| {
        // SAFETY: dup3 takes and returns numbers; what `to` was is kept in `aside`.
        match unsafe { libc::dup3(from, to, if cloexec { libc::O_CLOEXEC } else { 0 }) } {
            0.. => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    dup(entry.open_as, entry.fd, true)?;
    let added = add(epoll, entry.fd, entry);
    if aside >= 0 {
        dup(aside, entry.fd, close_on_exec)?;
        // SAFETY: our own copy.
        unsafe { libc::close(aside) };
    } else {
        // SAFETY: the number was free before.
        unsafe { libc::close(entry.fd) };
    }
    added
}

fn add(epoll: RawFd, fd: RawFd, entry: &Entry) -> io::Result<()> {
    let mut event = libc::epoll_event {
        events: entry.events,
        u64: entry.data,
    };
    // SAFETY: `event` is valid and only read.
    match unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &mut event) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
