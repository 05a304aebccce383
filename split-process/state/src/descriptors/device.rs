//! Devices without a state of their own, and terminals.

use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use super::{open, OpenFile};
use crate::error::{StateError, Warning};
use crate::path::FilePath;

/// A character device that can be opened again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its path.
    pub path: FilePath,
    /// Whether it is a terminal: the new run may have none.
    pub terminal: bool,
}

/// The record, `None` for a device that cannot survive.
pub(super) fn capture(file: &OpenFile) -> Option<Device> {
    let (major, minor) = (
        libc::major(file.stat.st_rdev),
        libc::minor(file.stat.st_rdev),
    );
    // null, zero, full, random, urandom, kmsg; see Documentation/admin-guide/devices.txt.
    let stateless = major == 1 && matches!(minor, 3 | 5 | 7 | 8 | 9 | 11);
    // /dev/tty, /dev/console, /dev/ptmx is not (its other end dies); pseudo-terminals.
    let terminal = (major == 5 && minor <= 1) || major == 4 || (136..=143).contains(&major);
    let named = file.target.starts_with(b"/") && !file.deleted();
    (named && (stateless || terminal)).then(|| Device {
        path: FilePath::new(file.target.clone()),
        terminal,
    })
}

pub(super) fn restore(
    device: &Device,
    flags: i32,
    warnings: &mut Vec<Warning>,
) -> Result<OwnedFd, StateError> {
    if !device.terminal {
        return open(&device.path, flags);
    }
    // The terminal of the new run, not whoever has the old pseudo-terminal's number now.
    let here = FilePath::new(*b"/dev/tty");
    open(&here, flags | libc::O_NOCTTY).or_else(|_| {
        warnings.push(Warning::new(
            &device.path,
            "this run has no terminal; reads find an end",
        ));
        open(&FilePath::new(*b"/dev/null"), flags & libc::O_ACCMODE)
    })
}
