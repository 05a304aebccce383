//! eventfd: a counter.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use serde::{Deserialize, Serialize};

use super::OpenFile;
use crate::error::StateError;

/// An eventfd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventFd {
    /// Its counter.
    pub count: u64,
    /// EFD_SEMAPHORE.
    pub semaphore: bool,
}

pub(super) fn capture(file: &OpenFile) -> Result<EventFd, StateError> {
    let count = file.info.eventfd_count.unwrap_or(0);
    let semaphore = match file.info.eventfd_semaphore {
        Some(semaphore) => semaphore,
        None => probe(file.fd, count).ok_or_else(|| StateError::last("probe", file.name()))?,
    };
    Ok(EventFd { count, semaphore })
}

/// Kernels before 6.5 do not tell whether an eventfd is a semaphore: a read of 2 or more takes one
/// or all. The counter is put back.
fn probe(fd: RawFd, count: u64) -> Option<bool> {
    let raised = count < 2;
    if raised {
        write(fd, 2)?;
    }
    let taken = read(fd)?;
    if taken == 1 {
        // One is gone; of a raised counter a second one has to go.
        if raised {
            read(fd)?;
        } else {
            write(fd, 1)?;
        }
        return Some(true);
    }
    if count > 0 {
        write(fd, count)?;
    }
    Some(false)
}

fn read(fd: RawFd) -> Option<u64> {
    let mut value = 0u64;
    // SAFETY: `value` has the eight bytes that are read. The counter is not 0, so this cannot wait.
    let got = unsafe { libc::read(fd, (&raw mut value).cast(), 8) };
    (got == 8).then_some(value)
}

fn write(fd: RawFd, value: u64) -> Option<()> {
    // SAFETY: `value` has the eight bytes that are written. The sum stays below the maximum.
    let put = unsafe { libc::write(fd, (&raw const value).cast(), 8) };
    (put == 8).then_some(())
}

pub(super) fn restore(record: &EventFd) -> Result<OwnedFd, StateError> {
    let flags = libc::EFD_CLOEXEC
        | if record.semaphore {
            libc::EFD_SEMAPHORE
        } else {
            0
        };
    // SAFETY: eventfd takes and returns numbers.
    let fd = unsafe { libc::eventfd(0, flags) };
    if fd < 0 {
        return Err(StateError::last("make", "an eventfd"));
    }
    // SAFETY: just made, and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    if record.count > 0 {
        write(fd.as_raw_fd(), record.count)
            .ok_or_else(|| StateError::last("set the counter of", "an eventfd"))?;
    }
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probing_tells_and_changes_nothing() {
        for count in [0, 1, 2, 7] {
            for semaphore in [false, true] {
                let fd = restore(&EventFd { count, semaphore }).unwrap();
                assert_eq!(probe(fd.as_raw_fd(), count), Some(semaphore));
                let info = crate::fdinfo::FdInfo::read(fd.as_raw_fd()).unwrap();
                assert_eq!(info.eventfd_count, Some(count));
            }
        }
    }
}
