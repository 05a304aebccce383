//! The descriptors of several processes, which share open file descriptions: a tree's.
//!
//! At a checkpoint copies of all of them are in one table, that of the calling thread, and each
//! description is recorded once. At a restart the first process opens every description once, above
//! the program's numbers; the others are forked with them, and each gives its own numbers to what it
//! had ([`place`]).

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use serde::{Deserialize, Serialize};

use super::reopen::{self, Opener};
use super::{locks, record, regular, Descriptors, Kind, Number, OpenFile};
use crate::blob::BlobSink;
use crate::context::{CaptureContext, RestoreContext};
use crate::error::{StateError, Warning};
use crate::mappings::objects::ObjectList;
use crate::{ProcessState, Restored};

/// A copy of a descriptor of one of the processes.
#[derive(Debug)]
pub struct Held {
    /// Whose it is.
    pub process: u32,
    /// Its number there.
    pub fd: RawFd,
    /// FD_CLOEXEC there.
    pub close_on_exec: bool,
    /// The copy, in the table of the calling thread.
    pub here: OwnedFd,
}

/// What a descriptor is in its process, for the one that makes a copy of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Own {
    /// Its number.
    pub fd: RawFd,
    /// FD_CLOEXEC.
    pub close_on_exec: bool,
}

/// The open descriptors of the program in this thread's table.
///
/// # Errors
/// When they cannot be listed.
pub fn own(ctx: &CaptureContext<'_>) -> Result<Vec<Own>, StateError> {
    let files = record::open_files(ctx)?;
    let one = |f: &OpenFile| Own {
        fd: f.fd,
        close_on_exec: f.info.flags & libc::O_CLOEXEC != 0,
    };
    Ok(files.iter().map(one).collect())
}

/// The descriptors of the processes of a tree.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedFiles {
    /// Only objects and descriptors are in it; the descriptors have no numbers.
    files: ProcessState,
    /// The numbers of each process.
    numbers: Vec<Vec<Number>>,
    /// Locks that belong to descriptions, by the process that takes them again.
    locks: Vec<Vec<locks::Lock>>,
}

/// Records `held`, the descriptors of `processes` processes.
///
/// # Errors
/// As [`crate::capture`].
pub fn capture(
    ctx: &CaptureContext<'_>,
    held: &[Held],
    processes: usize,
    blobs: &mut dyn BlobSink,
    warnings: &mut Vec<Warning>,
) -> Result<SharedFiles, StateError> {
    let read = |h: &Held| {
        let mut file = OpenFile::read(h.here.as_raw_fd())?;
        file.number = h.fd;
        file.process = h.process;
        Ok(file)
    };
    let files: Vec<OpenFile> = held.iter().map(read).collect::<Result<_, StateError>>()?;
    let mut objects = ObjectList::default();
    let mut descriptors = record::capture_of(&files, ctx, &mut objects, blobs, warnings)?;
    let mut out = SharedFiles {
        numbers: vec![Vec::new(); processes],
        locks: vec![Vec::new(); processes],
        ..SharedFiles::default()
    };
    let of = |process: u32| StateError::Inconsistent {
        what: format!("a descriptor of process {process} of {processes}"),
    };
    for (number, held) in std::mem::take(&mut descriptors.numbers).iter().zip(held) {
        let place = out.numbers.get_mut(held.process as usize);
        place.ok_or_else(|| of(held.process))?.push(Number {
            close_on_exec: held.close_on_exec,
            ..*number
        });
    }
    // Those of a process are told to it alone, and are in its own record.
    descriptors.locks.clear();
    for file in &files {
        let first = locks::capture(file).filter(|l| l.call != locks::Call::Process);
        for lock in first {
            let known = out.locks.iter().flatten().any(|l| {
                (l.call, l.start, l.length, &l.target)
                    == (lock.call, lock.start, lock.length, &lock.target)
            });
            if !known {
                let place = out.locks.get_mut(file.process as usize);
                place.ok_or_else(|| of(file.process))?.push(lock);
            }
        }
    }
    out.files.descriptors = descriptors;
    out.files.objects = objects.save(ctx, blobs)?;
    Ok(out)
}

/// What of descriptors belongs to one process and not to a description: locks, and which standard
/// streams are closed.
pub(crate) fn apart(ctx: &CaptureContext<'_>) -> Result<Descriptors, StateError> {
    let files = record::open_files(ctx)?;
    let mut locks: Vec<locks::Lock> = Vec::new();
    for lock in files.iter().flat_map(locks::capture) {
        let same = |l: &locks::Lock| {
            (l.start, l.length, inode(&files, l.fd))
                == (lock.start, lock.length, inode(&files, lock.fd))
        };
        if lock.call == locks::Call::Process && !locks.iter().any(same) {
            locks.push(lock);
        }
    }
    Ok(Descriptors {
        locks,
        closed_standard: record::closed_standard(ctx, &files),
        ..Descriptors::default()
    })
}

fn inode(files: &[OpenFile], fd: RawFd) -> Option<(u64, u64)> {
    let file = files.iter().find(|f| f.fd == fd)?;
    Some((file.stat.st_dev, file.stat.st_ino))
}

/// All descriptions of a tree, open above the program's numbers.
#[derive(Debug)]
pub struct OpenFiles {
    descriptions: Vec<Option<OwnedFd>>,
    standard: Vec<Option<OwnedFd>>,
    /// Shared objects, and warnings.
    pub restored: Restored,
}

impl SharedFiles {
    /// The numbers the processes need that are open in this one.
    pub fn conflicts(&self) -> Vec<RawFd> {
        let kinds = &self.files.descriptors.descriptions;
        let mut all: Vec<RawFd> = self
            .numbers
            .iter()
            .flatten()
            .filter(|n| {
                let description = kinds.get(n.description as usize);
                n.fd > 2 && description.is_some_and(|d| d.kind != Kind::Inherited)
            })
            .map(|n| n.fd)
            .filter(|&fd| super::inherited::Identity::of(fd).is_some())
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// How many descriptors are open at the same time while the tree comes back.
    pub fn needed(&self) -> usize {
        self.files.descriptors.descriptions.len() * 2 + self.files.objects.len() + 64
    }

    /// Opens every description. The numbers of the processes must be free.
    ///
    /// # Errors
    /// As [`crate::restore_descriptors`].
    pub fn open(&self, ctx: &RestoreContext<'_>) -> Result<OpenFiles, StateError> {
        let records = &self.files.descriptors;
        for numbers in &self.numbers {
            reopen::check(numbers, &records.descriptions, ctx)?;
        }
        let mut open = OpenFiles {
            descriptions: Vec::new(),
            standard: reopen::standard_streams(ctx),
            restored: Restored::default(),
        };
        for file in &records.in_place {
            regular::restore_in_place(file, ctx)?;
        }
        let mut opener = Opener::new(&self.files, ctx);
        for i in 0..records.descriptions.len() {
            let mut numbers = self.numbers.iter().flatten();
            let first = numbers.find(|n| n.description as usize == i);
            let first = first.map_or(-1, |n| n.fd);
            open.descriptions
                .push(opener.open(i, first, &mut open.restored)?);
        }
        Ok(open)
    }

    fn of(&self, process: usize) -> &[Number] {
        self.numbers.get(process).map_or(&[], Vec::as_slice)
    }

    /// Gives process `process`, the caller, its numbers.
    ///
    /// # Errors
    /// As [`crate::restore_descriptors`].
    pub fn place(
        &self,
        process: usize,
        open: &OpenFiles,
        ctx: &RestoreContext<'_>,
        warnings: &mut Vec<Warning>,
    ) -> Result<(), StateError> {
        let own = self.of(process);
        for (i, description) in self.files.descriptors.descriptions.iter().enumerate() {
            let numbers = reopen::numbers_of(own, i);
            if numbers.is_empty() {
                continue;
            }
            if let Kind::Standard(stream) = description.kind {
                reopen::place_standard(stream, &open.standard, &numbers, warnings)?;
            } else if let Some(Some(fd)) = open.descriptions.get(i) {
                reopen::place(fd, &numbers)?;
            }
        }
        // A description is filled once, by the first process that has it.
        let first: Vec<Number> = own
            .iter()
            .filter(|n| self.is_first(process, n.description))
            .copied()
            .collect();
        reopen::watch(&self.files.descriptors, &first, ctx, warnings)
    }

    fn is_first(&self, process: usize, description: u32) -> bool {
        let before = self.numbers.iter().take(process).flatten();
        !before.into_iter().any(|n| n.description == description)
    }

    /// Locks of descriptions, when all processes have their numbers.
    pub fn lock(&self, process: usize, warnings: &mut Vec<Warning>) {
        for lock in self.locks.get(process).into_iter().flatten() {
            locks::restore(lock, warnings);
        }
    }

    /// Starts the timer descriptors of process `process`, the caller, last of all.
    ///
    /// # Errors
    /// As [`crate::restore_timers`].
    pub fn arm(&self, process: usize, ctx: &RestoreContext<'_>) -> Result<(), StateError> {
        let own = self.of(process).iter();
        let first: Vec<Number> = own
            .filter(|n| self.is_first(process, n.description))
            .copied()
            .collect();
        reopen::arm(&self.files.descriptors, &first, ctx)
    }
}
