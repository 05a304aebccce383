//! System V shared memory segments that the upper half has attached.
//!
//! A segment cannot get its former identifier back; the system-call layer translates
//! ([`crate::Restored::segments`]).

use std::io;
use std::ptr;

use serde::{Deserialize, Serialize};

use super::objects::{ObjectKind, SharedObject};
use super::SharedMapping;
use crate::blob::Content;
use crate::context::RestoreContext;
use crate::error::StateError;
use crate::rendezvous::{self, Turn};
use crate::{ProcessState, Restored};

/// SHM_DEST of linux/shm.h: removed, and gone with the last detach.
const SHM_DEST: u32 = 0o1000;
const SHM_HUGETLB: u32 = 0o4000;

/// A System V segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// The identifier the program knows.
    pub id: i32,
    /// Its key; 0 is IPC_PRIVATE (and every removed segment).
    pub key: i32,
    /// Bytes.
    pub bytes: u64,
    /// Permission bits.
    pub mode: u32,
    /// Already removed (IPC_RMID).
    pub removed: bool,
    /// Of huge pages.
    pub huge: bool,
}

impl Segment {
    /// Asks the kernel about segment `id`.
    pub(super) fn of(id: i32) -> Result<Segment, StateError> {
        // SAFETY: a shmid_ds of zeros is valid, and IPC_STAT fills it.
        let mut status: libc::shmid_ds = unsafe { std::mem::zeroed() };
        // SAFETY: `status` is a valid place for the answer.
        if unsafe { libc::shmctl(id, libc::IPC_STAT, &mut status) } < 0 {
            return Err(StateError::last("look at System V segment", id));
        }
        let mode = status.shm_perm.mode as u32;
        Ok(Segment {
            id,
            key: status.shm_perm.__key,
            bytes: status.shm_segsz as u64,
            mode: mode & 0o777,
            removed: mode & SHM_DEST != 0,
            huge: mode & SHM_HUGETLB != 0,
        })
    }
}

/// A segment attached at an address of the kernel's choice; detached when dropped.
struct Attached {
    address: *mut libc::c_void,
}

impl Attached {
    fn new(id: i32, read_only: bool) -> Result<Attached, StateError> {
        let flags = if read_only { libc::SHM_RDONLY } else { 0 };
        // SAFETY: the kernel chooses a free range.
        let address = unsafe { libc::shmat(id, ptr::null(), flags) };
        if address as isize == -1 {
            return Err(StateError::last("attach System V segment", id));
        }
        Ok(Attached { address })
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // SAFETY: attached by us at this address. Parts moved elsewhere stay.
        unsafe { libc::shmdt(self.address) };
    }
}

/// Makes the segment of `record` or finds the one another rank made, and maps `parts` of it.
pub(super) fn restore(
    state: &ProcessState,
    ctx: &RestoreContext<'_>,
    index: usize,
    parts: &[&SharedMapping],
    restored: &mut Restored,
) -> Result<(), StateError> {
    let record = &state.objects[index];
    let ObjectKind::Segment(segment) = &record.kind else {
        return Ok(());
    };
    let id = match rendezvous::meet(ctx, record.id, record.content.is_some())? {
        Turn::Found(at) => {
            let text = at.to_string();
            text.parse().map_err(|_| StateError::Inconsistent {
                what: format!("the link of segment {} says \"{text}\"", segment.id),
            })?
        }
        Turn::Make(place) => {
            let id = make(segment, record, ctx)?;
            place.publish(std::path::Path::new(&id.to_string()))?;
            id
        }
    };
    for part in parts {
        attach(id, segment, part)?;
    }
    restored.segments.push((segment.id, id));
    if segment.removed {
        // It stays for those who have it attached, and others can still attach it by its number.
        // SAFETY: IPC_RMID takes no buffer.
        unsafe { libc::shmctl(id, libc::IPC_RMID, ptr::null_mut()) };
    }
    Ok(())
}

fn make(
    segment: &Segment,
    record: &SharedObject,
    ctx: &RestoreContext<'_>,
) -> Result<i32, StateError> {
    // The key of a removed segment is 0 already.
    let huge = if segment.huge { libc::SHM_HUGETLB } else { 0 };
    let flags = libc::IPC_CREAT | libc::IPC_EXCL | segment.mode as i32 | huge;
    let size = segment.bytes as usize;
    let get = |flags| {
        // SAFETY: shmget takes and returns numbers.
        unsafe { libc::shmget(segment.key, size, flags) }
    };
    let mut id = get(flags);
    if id < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EEXIST) {
        remove_stale(segment.key);
        id = get(flags);
    }
    if id < 0 {
        return Err(StateError::last(
            "make a System V segment with key",
            segment.key,
        ));
    }
    let Some(content) = &record.content else {
        return Ok(id);
    };
    fill(id, segment, content, ctx).inspect_err(|_| {
        // SAFETY: ours; nobody else knows it yet.
        unsafe { libc::shmctl(id, libc::IPC_RMID, ptr::null_mut()) };
    })?;
    Ok(id)
}

/// Removes a segment of this key that nobody has attached: the former run left it.
fn remove_stale(key: i32) {
    // SAFETY: shmget takes and returns numbers.
    let id = unsafe { libc::shmget(key, 0, 0) };
    // SAFETY: a shmid_ds of zeros is valid.
    let mut status: libc::shmid_ds = unsafe { std::mem::zeroed() };
    // SAFETY: `status` is a valid place for the answer.
    let known = id >= 0 && unsafe { libc::shmctl(id, libc::IPC_STAT, &mut status) } == 0;
    if known && status.shm_nattch == 0 {
        // SAFETY: nobody has it attached.
        unsafe { libc::shmctl(id, libc::IPC_RMID, ptr::null_mut()) };
    }
}

fn fill(
    id: i32,
    segment: &Segment,
    content: &Content,
    ctx: &RestoreContext<'_>,
) -> Result<(), StateError> {
    let attached = Attached::new(id, false)?;
    // SAFETY: the whole segment is attached there, for writing, and no other process has it yet.
    let memory = unsafe {
        std::slice::from_raw_parts_mut(attached.address.cast::<u8>(), segment.bytes as usize)
    };
    let object = format!("segment {}", segment.id);
    let failed = |source| StateError::Blob {
        operation: "fetch",
        object: object.clone(),
        source,
    };
    let mut from = ctx.blobs.open(content.blob).map_err(failed)?;
    for extent in &content.extents {
        let end = extent.offset.saturating_add(extent.length);
        let range = memory.get_mut(extent.offset as usize..end as usize);
        let range = range.ok_or_else(|| StateError::Inconsistent {
            what: format!("the content of {object} is larger than it"),
        })?;
        from.read_exact(range).map_err(failed)?;
    }
    Ok(())
}

/// Maps one recorded part: attaches the segment anywhere and moves the part to its address.
fn attach(id: i32, segment: &Segment, part: &SharedMapping) -> Result<(), StateError> {
    let size = (part.end - part.start) as usize;
    let page = 4096;
    let whole = (segment.bytes as usize).next_multiple_of(page);
    if part.offset as usize + size > whole && !segment.huge {
        let what = format!("a mapping of segment {} lies beyond its end", segment.id);
        return Err(StateError::Inconsistent { what });
    }
    let attached = Attached::new(
        id,
        part.prot & libc::PROT_WRITE == 0 && segment.mode & 0o222 == 0,
    )?;
    let from = attached.address.wrapping_byte_add(part.offset as usize);
    let to = part.start as *mut libc::c_void;
    // SAFETY: the range lies in the attachment; the target is the caller's to fill.
    let moved = unsafe {
        libc::mremap(
            from,
            size,
            size,
            libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
            to,
        )
    };
    if moved == libc::MAP_FAILED {
        return Err(StateError::last("move System V segment", segment.id));
    }
    // SAFETY: just mapped by us.
    if unsafe { libc::mprotect(to, size, part.prot) } != 0 {
        return Err(StateError::last("protect System V segment", segment.id));
    }
    Ok(())
}
