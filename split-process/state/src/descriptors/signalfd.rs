//! signalfd: a set of signals. What is pending belongs to the process, not to the descriptor.

use std::os::fd::{FromRawFd, OwnedFd};

use serde::{Deserialize, Serialize};

use super::OpenFile;
use crate::error::StateError;

/// A signalfd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalFd {
    /// Bit n-1 is signal n.
    pub mask: u64,
}

pub(super) fn capture(file: &OpenFile) -> Result<SignalFd, StateError> {
    let mask = file
        .info
        .signal_mask
        .ok_or_else(|| StateError::Inconsistent {
            what: format!("the kernel tells no signal mask of {}", file.name()),
        })?;
    Ok(SignalFd { mask })
}

pub(super) fn restore(record: &SignalFd) -> Result<OwnedFd, StateError> {
    let mask = record.mask;
    // The kernel's signal set has 64 bits; the C library's type is larger.
    // SAFETY: `mask` has the eight bytes announced.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_signalfd4,
            -1,
            &raw const mask,
            8usize,
            libc::SFD_CLOEXEC,
        )
    };
    if fd < 0 {
        return Err(StateError::last("make", "a signalfd"));
    }
    // SAFETY: just made, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
