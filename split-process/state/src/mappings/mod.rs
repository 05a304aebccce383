//! Shared mappings of the upper half: which there are, what is behind them, and how they come back.
//!
//! Private mappings (anonymous, or a private view of a file) are the caller's. What is shared falls
//! into: a regular file with a name (mapped again from the file), an object without one, whose
//! content is saved ([`objects`]), and memory of a device (lost).

pub mod objects;
pub mod segments;

use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use serde::{Deserialize, Serialize};

use crate::blob::BlobSink;
use crate::context::{CaptureContext, LostPolicy, ObjectId, RestoreContext};
use crate::descriptors::regular::{save_in_place, InPlace};
use crate::error::{StateError, Warning};
use crate::maps::Mapping;
use crate::{ProcessState, Restored};
use objects::{ObjectKind, ObjectList};

/// The shared mappings of the upper half, ascending.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mappings(pub Vec<SharedMapping>);

impl Mappings {
    /// Whether `address` lies in one of them (the caller's image of private memory leaves it out).
    pub fn contains(&self, address: usize) -> bool {
        self.0.iter().any(|m| m.range().contains(&address))
    }
}

/// One shared mapping.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedMapping {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// `PROT_*` bits.
    pub prot: i32,
    /// Offset in the file or object, in bytes.
    pub offset: u64,
    /// What is behind it.
    pub backing: Backing,
}

impl SharedMapping {
    /// Its addresses.
    pub fn range(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// What is behind a shared mapping.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Backing {
    /// A regular file with a name.
    File {
        /// Its path.
        path: crate::FilePath,
        /// Its length at the checkpoint.
        length: u64,
        /// Whether it can be made writable (it was opened for writing).
        writable: bool,
    },
    /// Index into [`ProcessState::objects`].
    Object(u32),
    /// A device or file that cannot be mapped again; the range is inaccessible after a restart.
    Lost,
}

/// How the caller should treat a mapping of the upper half.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Private: the caller's.
    Private,
    /// Shared, a regular file with a name on disk.
    SharedFile,
    /// Shared memory without a file on disk: memfd, `/dev/shm`, anonymous, unlinked.
    SharedObject,
    /// A System V segment.
    Segment,
    /// Memory of a device, or a pseudo-mapping of the kernel ([vdso], [vvar]).
    Special,
}

/// The shared objects mapped in `upper_regions`, for the ranks of a node to agree who saves which.
pub fn shared_objects(upper_regions: &[Range<usize>]) -> Result<Vec<ObjectId>, StateError> {
    let mut found: Vec<ObjectId> = crate::maps::read_self()?
        .iter()
        .filter(|m| m.touches(upper_regions))
        .filter(|m| matches!(classify(m), Class::SharedObject | Class::Segment))
        .map(objects::id_of)
        .collect();
    found.sort();
    found.dedup();
    Ok(found)
}

/// What kind of mapping `mapping` is.
pub fn classify(mapping: &Mapping) -> Class {
    let path = mapping.path.as_bytes();
    if path.starts_with(b"[v") || path == b"[uprobes]" {
        return Class::Special;
    }
    if !mapping.shared {
        return Class::Private;
    }
    if path.starts_with(b"/SYSV") && mapping.deleted {
        return Class::Segment;
    }
    // The ring of io_setup(2) looks like an unlinked file, but the kernel writes to it.
    if path == b"/[aio]" {
        return Class::Special;
    }
    let memory = [&b"/memfd:"[..], b"/dev/shm/", b"/anon_hugepage"];
    if mapping.deleted || memory.iter().any(|prefix| path.starts_with(prefix)) {
        return Class::SharedObject;
    }
    let device = path.starts_with(b"/dev/") && !path.starts_with(b"/dev/hugepages/");
    if device || !path.starts_with(b"/") {
        return Class::Special;
    }
    Class::SharedFile
}

pub(crate) fn capture(
    ctx: &CaptureContext<'_>,
    objects: &mut ObjectList,
    in_place: &mut Vec<InPlace>,
    blobs: &mut dyn BlobSink,
    warnings: &mut Vec<Warning>,
) -> Result<Mappings, StateError> {
    let mut found = Vec::new();
    for mapping in crate::maps::read_self()? {
        if !mapping.touches(ctx.upper_regions) {
            continue;
        }
        let backing = match classify(&mapping) {
            Class::Private => continue,
            // [vdso] and the like are private and the caller's; a device is shared and lost.
            Class::Special if !mapping.shared => continue,
            Class::Special => lost(&mapping, ctx, warnings)?,
            Class::SharedFile => file(&mapping, ctx, in_place, blobs, warnings)?,
            Class::SharedObject | Class::Segment => Backing::Object(objects.mapping(&mapping)?),
        };
        found.push(SharedMapping {
            start: mapping.start as u64,
            end: mapping.end as u64,
            prot: mapping.prot(),
            offset: mapping.offset,
            backing,
        });
    }
    Ok(Mappings(found))
}

fn lost(
    mapping: &Mapping,
    ctx: &CaptureContext<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<Backing, StateError> {
    if ctx.lost == LostPolicy::Refuse {
        return Err(StateError::UnrestorableMapping {
            address: mapping.start,
            target: mapping.path.to_string(),
        });
    }
    let object = format!("{} mapped at {:#x}", mapping.path, mapping.start);
    warnings.push(Warning::new(
        object,
        "cannot be mapped again after a restart",
    ));
    Ok(Backing::Lost)
}

fn file(
    mapping: &Mapping,
    ctx: &CaptureContext<'_>,
    in_place: &mut Vec<InPlace>,
    blobs: &mut dyn BlobSink,
    warnings: &mut Vec<Warning>,
) -> Result<Backing, StateError> {
    let path = mapping.path.clone();
    let metadata = std::fs::metadata(path.as_path())
        .map_err(|e| StateError::io("look at the mapped file", &path, e))?;
    if !metadata.is_file() {
        return lost(mapping, ctx, warnings);
    }
    if mapping.write {
        save_in_place(ctx, &path, in_place, blobs, warnings)?;
    }
    Ok(Backing::File {
        path,
        length: metadata.len(),
        writable: mapping.write,
    })
}

pub(crate) fn restore(
    state: &ProcessState,
    ctx: &RestoreContext<'_>,
    restored: &mut Restored,
) -> Result<(), StateError> {
    for (index, object) in state.objects.iter().enumerate() {
        if matches!(object.kind, ObjectKind::Segment(_)) {
            let backing = Backing::Object(index as u32);
            let parts: Vec<_> = state
                .mappings
                .0
                .iter()
                .filter(|m| m.backing == backing)
                .collect();
            segments::restore(state, ctx, index, &parts, restored)?;
        }
    }
    for mapping in &state.mappings.0 {
        match &mapping.backing {
            Backing::File {
                path,
                length,
                writable,
            } => {
                let file = open_file(path, *writable)?;
                let found = file.metadata().map(|m| m.len()).unwrap_or(0);
                if found < *length {
                    let (path, expected) = (path.to_string(), *length);
                    return Err(StateError::FileShorter {
                        path,
                        expected,
                        found,
                    });
                }
                map(mapping, Some(file.as_fd()))?;
            }
            Backing::Object(index) => match state.objects.get(*index as usize).map(|o| &o.kind) {
                Some(ObjectKind::Segment(_)) => {}
                _ => map(
                    mapping,
                    Some(objects::open_in(restored, state, ctx, *index)?),
                )?,
            },
            Backing::Lost => {
                let object = format!("the mapping at {:#x}", mapping.start);
                restored
                    .warnings
                    .push(Warning::new(object, "could not be brought back"));
                map(
                    &SharedMapping {
                        prot: libc::PROT_NONE,
                        ..mapping.clone()
                    },
                    None,
                )?;
            }
        }
    }
    Ok(())
}

/// The mapped file, for writing if that is allowed: the program may make the mapping writable.
fn open_file(path: &crate::FilePath, writable: bool) -> Result<File, StateError> {
    let opened = match File::options().read(true).write(true).open(path.as_path()) {
        Err(_) if !writable => File::open(path.as_path()),
        opened => opened,
    };
    opened.map_err(|e| StateError::io("open the mapped file", path, e))
}

/// Maps `fd` (or inaccessible memory) where `mapping` says.
fn map(mapping: &SharedMapping, fd: Option<BorrowedFd<'_>>) -> Result<(), StateError> {
    let length = (mapping.end - mapping.start) as usize;
    let (flags, number, offset) = match fd {
        Some(fd) => (libc::MAP_SHARED, fd.as_raw_fd(), mapping.offset as i64),
        None => (
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        ),
    };
    let address = mapping.start as *mut libc::c_void;
    // SAFETY: the range was a shared mapping of the program, and is given up to it by the caller.
    let mapped = unsafe {
        libc::mmap(
            address,
            length,
            mapping.prot,
            flags | libc::MAP_FIXED,
            number,
            offset,
        )
    };
    if mapped == libc::MAP_FAILED {
        return Err(StateError::last(
            "map again",
            format!("{:#x}", mapping.start),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_of_mappings() {
        for (rest, expected) in [
            ("rw-p 00000000 00:00 0 ", Class::Private),
            ("r-xp 00000000 08:01 7 /usr/lib/libc.so.6", Class::Private),
            ("r-xp 00000000 00:00 0 [vdso]", Class::Special),
            ("rw-s 00000000 08:01 7 /data/table", Class::SharedFile),
            (
                "rw-s 00000000 00:0f 7 /dev/hugepages/pool",
                Class::SharedFile,
            ),
            (
                "rw-s 00000000 08:01 7 /data/table (deleted)",
                Class::SharedObject,
            ),
            (
                "rw-s 00000000 00:01 7 /dev/zero (deleted)",
                Class::SharedObject,
            ),
            (
                "rw-s 00000000 00:01 7 /memfd:x (deleted)",
                Class::SharedObject,
            ),
            ("rw-s 00000000 00:1a 7 /dev/shm/x", Class::SharedObject),
            (
                "rw-s 00000000 00:1a 7 /dev/shm/x (deleted)",
                Class::SharedObject,
            ),
            (
                "rw-s 00000000 00:01 7 /SYSV00000000 (deleted)",
                Class::Segment,
            ),
            (
                "rw-s 00000000 00:06 7 /dev/infiniband/uverbs0",
                Class::Special,
            ),
            (
                "rw-s 00000000 00:0e 7 anon_inode:[io_uring]",
                Class::Special,
            ),
            ("rw-s 00000000 00:10 7 /[aio] (deleted)", Class::Special),
        ] {
            let line = format!("300000001000-300000003000 {rest}\n");
            let mapping = &crate::maps::parse(line.as_bytes()).unwrap()[0];
            assert_eq!(classify(mapping), expected, "{line}");
        }
    }
}
