//! Shared mappings of the upper half: which there are, what is behind them, and how they come back.
//!
//! Private mappings (anonymous, or a private view of a file) are the caller's. What is shared falls
//! into: a regular file with a name (mapped again from the file), an object without one, whose
//! content is saved ([`objects`]), and memory of a device (lost).

pub mod objects;

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::blob::BlobSink;
use crate::context::{CaptureContext, ObjectId, RestoreContext};
use crate::error::{StateError, Warning};
use crate::maps::Mapping;
use crate::{ProcessState, Restored};
use objects::ObjectList;

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
    let memory = path.starts_with(b"/memfd:")
        || path.starts_with(b"/dev/shm/")
        || path.starts_with(b"/anon_hugepage");
    if memory || mapping.deleted {
        return Class::SharedObject;
    }
    if path.starts_with(b"/dev/") || path.starts_with(b"anon_inode:") || !path.starts_with(b"/") {
        return Class::Special;
    }
    Class::SharedFile
}

pub(crate) fn capture(
    ctx: &CaptureContext<'_>,
    _objects: &mut ObjectList,
    _blobs: &mut dyn BlobSink,
    _warnings: &mut Vec<Warning>,
) -> Result<Mappings, StateError> {
    if shared_objects(ctx.upper_regions)?.is_empty() {
        return Ok(Mappings::default());
    }
    Err(StateError::Inconsistent {
        what: "shared mappings are not supported by this build".into(),
    })
}

pub(crate) fn restore(
    state: &ProcessState,
    _ctx: &RestoreContext<'_>,
    _restored: &mut Restored,
) -> Result<(), StateError> {
    if state.mappings.0.is_empty() {
        return Ok(());
    }
    Err(StateError::Inconsistent {
        what: "shared mappings are not supported by this build".into(),
    })
}
