//! What the caller tells the capture and the restore about the process.

use std::collections::BTreeMap;
use std::ops::Range;
use std::os::fd::RawFd;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::blob::BlobSource;
use crate::descriptors::inherited::Inherited;
use crate::timers::TimerTable;

/// What to do with files the program writes in place (neither appending nor at their end), whose
/// old content a restart would otherwise not find.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum FilePolicy {
    /// Keep a clone that shares blocks with the file where the file system can, else a copy.
    Reflink,
    /// Save the content with the checkpoint.
    Copy,
    /// Say that the file may not fit the memory after a restart.
    #[default]
    Warn,
}

/// What to do with a descriptor that cannot survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum LostPolicy {
    /// Name it in a warning; after a restart it answers ECONNRESET.
    #[default]
    Warn,
    /// Fail the checkpoint.
    Refuse,
}

/// Identity of a memory object that processes of one node can share: device and inode as
/// `/proc/self/maps` prints them. For a System V segment the inode is the segment's identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ObjectId {
    /// Major number of the device.
    pub major: u32,
    /// Minor number of the device.
    pub minor: u32,
    /// Inode.
    pub inode: u64,
    /// A System V segment (their inodes are numbered apart from the others' on the same device).
    pub sysv: bool,
}

/// Input of [`crate::capture`]. All upper threads are parked.
pub struct CaptureContext<'a> {
    /// Whether a descriptor belongs to the lower half (it is then not recorded).
    pub lower_descriptor: &'a dyn Fn(RawFd) -> bool,
    /// The address ranges of the upper half: the arena and the ranges of a non-PIE program.
    pub upper_regions: &'a [Range<usize>],
    /// What was open when this process started; see [`Inherited::observe`].
    pub inherited: &'a Inherited,
    /// Timers of the upper half as the system-call layer noted them. `None`: every POSIX timer of
    /// the process is the program's.
    pub timers: Option<&'a TimerTable>,
    /// Paths of inotify watches as the system-call layer noted them.
    pub watches: Option<&'a WatchTable>,
    /// The real thread identifier of the kernel -> the one the program knows.
    pub virtual_tid: &'a dyn Fn(i32) -> i32,
    /// Files written in place.
    pub files: FilePolicy,
    /// Directory for [`FilePolicy::Reflink`], made when it is needed. Files on other file systems than its own
    /// are saved as by [`FilePolicy::Copy`].
    pub clones: Option<&'a Path>,
    /// Descriptors that cannot survive.
    pub lost: LostPolicy,
    /// Largest content of one unlinked or in-place file that is saved, in bytes.
    pub max_saved_file: u64,
    /// Whether this process saves the content of an object that others on the node may map as
    /// well. The lowest rank among those whose [`crate::shared_objects`] list it should say true;
    /// always true is correct, and only saves it several times.
    pub saves: &'a dyn Fn(ObjectId) -> bool,
    /// Signals (bit n-1 is signal n) whose process-wide pending instances are recorded. The calling
    /// thread must have them blocked. 0: none.
    pub pending_signals: u64,
}

impl<'a> CaptureContext<'a> {
    /// A context with the usual policies, in which everything belongs to the program.
    pub fn new(inherited: &'a Inherited, upper_regions: &'a [Range<usize>]) -> CaptureContext<'a> {
        CaptureContext {
            lower_descriptor: &|_| false,
            upper_regions,
            inherited,
            timers: None,
            watches: None,
            virtual_tid: &|tid| tid,
            files: FilePolicy::Warn,
            clones: None,
            lost: LostPolicy::Warn,
            max_saved_file: 1 << 30,
            saves: &|_| true,
            pending_signals: 0,
        }
    }
}

/// Input of the `restore_*` functions.
pub struct RestoreContext<'a> {
    /// Temporary descriptors get numbers from here on: above every number the program had.
    pub descriptor_base: RawFd,
    /// Where the content saved with the checkpoint comes from.
    pub blobs: &'a dyn BlobSource,
    /// A directory of this node (0700, on any local file system, best in `/dev/shm`) that is the
    /// same for all ranks of the job on the node and new for each restart. In it ranks find the
    /// objects they share. The caller removes it once every rank of the node has restored.
    pub rendezvous: &'a Path,
    /// The directory that was [`CaptureContext::clones`]; it may have been moved since.
    pub clones: Option<&'a Path>,
    /// The thread identifier the program knows -> the real one of the kernel.
    pub real_tid: &'a dyn Fn(i32) -> i32,
    /// Bound on waiting for other ranks of the node.
    pub timeout: Duration,
}

impl<'a> RestoreContext<'a> {
    /// A context without virtual thread identifiers that waits at most 60 s.
    pub fn new(
        descriptor_base: RawFd,
        blobs: &'a dyn BlobSource,
        rendezvous: &'a Path,
    ) -> RestoreContext<'a> {
        RestoreContext {
            descriptor_base,
            blobs,
            rendezvous,
            clones: None,
            real_tid: &|tid| tid,
            timeout: Duration::from_secs(60),
        }
    }
}

/// Paths of inotify watches, noted by the system-call layer at `inotify_add_watch` (the kernel does
/// not tell them to an ordinary user). Part of the image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchTable(BTreeMap<(RawFd, i32), crate::FilePath>);

impl WatchTable {
    /// No watches.
    pub fn new() -> WatchTable {
        WatchTable::default()
    }

    /// `inotify_add_watch(fd, path)` returned `watch`. `path` must be absolute.
    pub fn note_add(&mut self, fd: RawFd, watch: i32, path: crate::FilePath) {
        self.0.insert((fd, watch), path);
    }

    /// `dup(fd)` returned `new` (also dup2, dup3, F_DUPFD).
    pub fn note_dup(&mut self, fd: RawFd, new: RawFd) {
        let copies: Vec<_> = self.0.range((fd, i32::MIN)..=(fd, i32::MAX)).collect();
        let copies: Vec<_> = copies
            .into_iter()
            .map(|(k, p)| ((new, k.1), p.clone()))
            .collect();
        self.0.extend(copies);
    }

    /// `close(fd)`: forget its watches.
    pub fn note_close(&mut self, fd: RawFd) {
        self.0.retain(|key, _| key.0 != fd);
    }

    /// The path of a watch.
    pub fn path(&self, fd: RawFd, watch: i32) -> Option<&crate::FilePath> {
        self.0.get(&(fd, watch))
    }
}
