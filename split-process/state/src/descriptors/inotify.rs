//! inotify: which paths are watched. Events not read yet are not kept.
//!
//! The kernel names a watched file by a handle only. Paths come from the system-call layer
//! ([`crate::WatchTable`]); without it, a process with the right to open by handle finds them.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use serde::{Deserialize, Serialize};

use super::OpenFile;
use crate::context::CaptureContext;
use crate::error::{StateError, Warning};
use crate::fdinfo::InotifyWatch;
use crate::path::FilePath;

/// An inotify descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inotify {
    /// Its watches, ascending by number.
    pub watches: Vec<Watch>,
}

/// One watch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    /// Watch descriptor.
    pub number: i32,
    /// IN_* bits.
    pub mask: u32,
    /// What is watched.
    pub path: FilePath,
}

/// Watch numbers are given in ascending order; beyond this many no attempt is made to meet one.
const MAX_NUMBER: i32 = 1 << 20;

pub(super) fn capture(
    file: &OpenFile,
    numbers: &[RawFd],
    ctx: &CaptureContext<'_>,
    warnings: &mut Vec<Warning>,
) -> Inotify {
    let mut watches = Vec::new();
    for info in &file.info.inotify {
        let noted = ctx.watches.and_then(|table| {
            numbers
                .iter()
                .find_map(|&fd| table.path(fd, info.watch))
                .cloned()
        });
        match noted.or_else(|| by_handle(info)) {
            Some(path) => watches.push(Watch {
                number: info.watch,
                mask: info.mask,
                path,
            }),
            None => {
                let message = format!(
                    "watch {} (inode {}) has an unknown path and will be gone after a restart",
                    info.watch, info.inode
                );
                warnings.push(Warning::new(file.name(), message));
            }
        }
    }
    watches.sort_by_key(|w| w.number);
    Inotify { watches }
}

/// The path of a handle, tried on the file systems of the root and the working directory.
fn by_handle(info: &InotifyWatch) -> Option<FilePath> {
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: i32,
        data: [u8; 128],
    }
    let mut handle = Handle {
        bytes: info.handle.len() as u32,
        kind: info.handle_type,
        data: [0; 128],
    };
    handle
        .data
        .get_mut(..info.handle.len())?
        .copy_from_slice(&info.handle);
    for place in ["/", ".", "/tmp", "/dev/shm"] {
        let Ok(mount) = std::fs::File::open(place) else {
            continue;
        };
        // SAFETY: `handle` is a file_handle with its bytes behind it, and only read.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_open_by_handle_at,
                mount.as_raw_fd(),
                &raw mut handle,
                libc::O_PATH | libc::O_CLOEXEC,
            )
        };
        if fd < 0 {
            continue;
        }
        // SAFETY: just made, and nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        let found = OpenFile::read(fd.as_raw_fd()).ok()?;
        if found.stat.st_ino == info.inode && found.target.starts_with(b"/") && !found.deleted() {
            return Some(FilePath::new(found.target));
        }
    }
    None
}

pub(super) fn restore(
    record: &Inotify,
    warnings: &mut Vec<Warning>,
) -> Result<OwnedFd, StateError> {
    // SAFETY: inotify_init1 takes and returns numbers.
    let fd = unsafe { libc::inotify_init1(libc::IN_CLOEXEC) };
    if fd < 0 {
        return Err(StateError::last("make", "an inotify descriptor"));
    }
    // SAFETY: just made, and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    for watch in &record.watches {
        if !add(fd.as_raw_fd(), watch) {
            let cause = std::io::Error::last_os_error();
            let message = format!("is not watched for changes any more ({cause})");
            warnings.push(Warning::new(&watch.path, message));
        }
    }
    Ok(fd)
}

/// Adds the watch under its number: the kernel counts up, so watches are made and removed until the
/// count is there.
fn add(fd: RawFd, watch: &Watch) -> bool {
    let path = watch.path.to_c_string();
    for _ in 0..MAX_NUMBER {
        // SAFETY: `path` is a C string.
        let number = unsafe { libc::inotify_add_watch(fd, path.as_ptr(), watch.mask) };
        if number == watch.number {
            return true;
        }
        if number < 0 || number > watch.number {
            return false;
        }
        // SAFETY: inotify_rm_watch takes and returns numbers.
        unsafe { libc::inotify_rm_watch(fd, number) };
        drain_ignored(fd);
    }
    false
}

/// Reads the IN_IGNORED event that a removal leaves behind.
fn drain_ignored(fd: RawFd) {
    let mut event = [0u8; 512];
    // SAFETY: `event` has the bytes announced; the event is there, so this does not wait.
    unsafe { libc::read(fd, event.as_mut_ptr().cast(), event.len()) };
}
