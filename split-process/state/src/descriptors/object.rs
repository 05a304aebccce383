//! Descriptors of memory objects and unlinked files: a position in a [`crate::SharedObject`].

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use crate::error::StateError;
use crate::path::FilePath;

/// A description of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectFile {
    /// Index into [`crate::ProcessState::objects`].
    pub object: u32,
    /// File position in bytes.
    pub position: u64,
}

/// A new description of the object open as `object`.
pub(super) fn restore(
    record: &ObjectFile,
    object: BorrowedFd<'_>,
    flags: i32,
) -> Result<OwnedFd, StateError> {
    let path = FilePath::new(format!("/proc/self/fd/{}", object.as_raw_fd()));
    let fd = super::open(&path, flags)?;
    // SAFETY: lseek touches no memory.
    let at = unsafe { libc::lseek(fd.as_raw_fd(), record.position as i64, libc::SEEK_SET) };
    if at < 0 && flags & libc::O_PATH == 0 {
        return Err(StateError::last("set the position of", path));
    }
    Ok(fd)
}
