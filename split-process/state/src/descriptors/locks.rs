//! Locks on files: flock, and both kinds of fcntl locks.

use std::os::fd::RawFd;

use serde::{Deserialize, Serialize};

use super::OpenFile;
use crate::error::Warning;
use crate::fdinfo::LockKind;

/// A lock the program held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// A number that refers to the file.
    pub fd: RawFd,
    /// Which call made it.
    pub call: Call,
    /// For writing (exclusive).
    pub exclusive: bool,
    /// First byte.
    pub start: u64,
    /// Bytes; 0: to the end however the file grows.
    pub length: u64,
    /// For messages.
    pub target: String,
}

/// The call that made a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Call {
    /// flock
    Flock,
    /// fcntl F_SETLK, which belongs to the process
    Process,
    /// fcntl F_OFD_SETLK, which belongs to the description
    Description,
}

pub(super) fn capture(file: &OpenFile) -> impl Iterator<Item = Lock> + '_ {
    file.info.locks.iter().map(|lock| Lock {
        fd: file.number,
        call: match lock.kind {
            LockKind::Flock => Call::Flock,
            LockKind::Posix => Call::Process,
            LockKind::OpenFile => Call::Description,
        },
        exclusive: lock.write,
        start: lock.start,
        length: lock
            .end
            .map_or(0, |end| end.saturating_sub(lock.start).saturating_add(1)),
        target: file.name(),
    })
}

/// Takes the lock again without waiting: who holds it now may be a process of the former run that
/// is not gone yet, which is said.
pub(super) fn restore(lock: &Lock, warnings: &mut Vec<Warning>) {
    let done = match lock.call {
        Call::Flock => {
            let operation = if lock.exclusive {
                libc::LOCK_EX
            } else {
                libc::LOCK_SH
            };
            // SAFETY: flock takes and returns numbers.
            unsafe { libc::flock(lock.fd, operation | libc::LOCK_NB) }
        }
        Call::Process | Call::Description => {
            let command = if lock.call == Call::Process {
                libc::F_SETLK
            } else {
                libc::F_OFD_SETLK
            };
            let request = libc::flock {
                l_type: (if lock.exclusive {
                    libc::F_WRLCK
                } else {
                    libc::F_RDLCK
                }) as i16,
                l_whence: libc::SEEK_SET as i16,
                l_start: lock.start as i64,
                l_len: lock.length as i64,
                l_pid: 0,
            };
            // SAFETY: `request` is valid and only read.
            unsafe { libc::fcntl(lock.fd, command, &raw const request) }
        }
    };
    if done < 0 {
        let cause = std::io::Error::last_os_error();
        warnings.push(Warning::new(
            &lock.target,
            format!("its lock is held elsewhere ({cause})"),
        ));
    }
}
