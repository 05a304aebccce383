//! Memory objects without a file on disk, open or mapped shared: memfd, POSIX shared memory,
//! anonymous shared memory, unlinked files, System V segments ([`super::segments`]).
//!
//! An object is saved once however many descriptors and mappings refer to it, and made once at a
//! restart; ranks of a node that shared one share it again ([`crate::rendezvous`]).

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::segments::Segment;
use crate::blob::{BlobSink, Content, Extent};
use crate::context::{CaptureContext, ObjectId, RestoreContext};
use crate::descriptors::{open as open_path, raise, OpenFile};
use crate::error::{StateError, Warning};
use crate::maps::Mapping;
use crate::path::FilePath;
use crate::rendezvous::{self, Turn};
use crate::{ProcessState, Restored};

/// A memory object that is open or mapped shared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedObject {
    /// Identity on its node at the checkpoint.
    pub id: ObjectId,
    /// What it is.
    pub kind: ObjectKind,
    /// Its content; `None`: another rank of the node saved it.
    pub content: Option<Content>,
}

/// What a memory object is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ObjectKind {
    /// memfd_create, or anonymous shared memory, which comes back as one.
    Memfd {
        /// Its name.
        name: FilePath,
        /// F_GET_SEALS.
        seals: i32,
        /// Made of huge pages.
        huge: bool,
    },
    /// A file in `/dev/shm` that still has its name.
    Named {
        /// Its path.
        path: FilePath,
        /// Permission bits.
        mode: u32,
    },
    /// A file without a name.
    Unlinked {
        /// The path it had.
        path: FilePath,
        /// Permission bits.
        mode: u32,
    },
    /// A System V segment.
    Segment(Segment),
}

/// The name in `/dev/shm` of a file whose name is said to be gone: a C library makes a semaphore under
/// another name first, which whoever made it goes on being told.
fn other_name(id: ObjectId) -> Option<FilePath> {
    fs::read_dir("/dev/shm").ok()?.flatten().find_map(|entry| {
        let found = entry.metadata().ok()?;
        let device = (libc::major(found.dev()), libc::minor(found.dev()));
        let same = (device, found.ino()) == ((id.major, id.minor), id.inode);
        (same && found.is_file() && !id.sysv).then(|| FilePath::from(entry.path().as_path()))
    })
}

/// The identity of what `mapping` maps.
pub(crate) fn id_of(mapping: &Mapping) -> ObjectId {
    ObjectId {
        major: mapping.major,
        minor: mapping.minor,
        inode: mapping.inode,
        sysv: mapping.path.as_bytes().starts_with(b"/SYSV"),
    }
}

/// An object met at capture, and how to read it.
#[derive(Debug)]
struct Found {
    id: ObjectId,
    kind: ObjectKind,
    name: String,
    length: u64,
    /// A number that is open on it.
    fd: Option<RawFd>,
    /// Where it is mapped: (address, offset, bytes).
    mapped: Vec<(usize, u64, u64)>,
}

/// The objects met so far during a capture.
#[derive(Debug, Default)]
pub(crate) struct ObjectList(Vec<Found>);

impl ObjectList {
    /// The index of the object `file` is open on.
    pub(crate) fn open_file(&mut self, file: &OpenFile) -> Result<u32, StateError> {
        let device = file.stat.st_dev;
        let id = ObjectId {
            major: libc::major(device),
            minor: libc::minor(device),
            inode: file.stat.st_ino,
            sysv: false,
        };
        if let Some(i) = self.0.iter().position(|o| o.id == id) {
            let readable = file.info.flags & libc::O_ACCMODE != libc::O_WRONLY;
            if readable {
                self.0[i].fd = Some(file.fd);
            }
            return Ok(i as u32);
        }
        let path = file
            .target
            .strip_suffix(b" (deleted)")
            .unwrap_or(&file.target);
        let mode = file.stat.st_mode & 0o7777;
        let kind = if let Some(name) = path.strip_prefix(b"/memfd:") {
            // SAFETY: F_GET_SEALS takes and returns numbers.
            let seals = unsafe { libc::fcntl(file.fd, libc::F_GET_SEALS) }.max(0);
            let huge = file.stat.st_blksize > 1 << 20;
            ObjectKind::Memfd {
                name: FilePath::new(name),
                seals,
                huge,
            }
        } else if let Some(path) = file.deleted().then(|| other_name(id)).flatten() {
            ObjectKind::Named { path, mode }
        } else if file.deleted() {
            ObjectKind::Unlinked {
                path: FilePath::new(path),
                mode,
            }
        } else {
            ObjectKind::Named {
                path: FilePath::new(path),
                mode,
            }
        };
        self.0.push(Found {
            id,
            kind,
            name: file.name(),
            length: file.stat.st_size as u64,
            fd: Some(file.fd),
            mapped: Vec::new(),
        });
        Ok((self.0.len() - 1) as u32)
    }

    /// The index of the object that `mapping` maps.
    pub(crate) fn mapping(&mut self, mapping: &Mapping) -> Result<u32, StateError> {
        let id = id_of(mapping);
        let end = mapping.offset + mapping.len() as u64;
        let place = (mapping.start, mapping.offset, mapping.len() as u64);
        if let Some(i) = self.0.iter().position(|o| o.id == id) {
            let object = &mut self.0[i];
            object.mapped.push(place);
            if object.fd.is_none() && !matches!(object.kind, ObjectKind::Segment(_)) {
                object.length = object.length.max(end);
            }
            return Ok(i as u32);
        }
        let path = mapping.path.as_bytes();
        let mut length = end;
        let kind = if id.sysv {
            let segment = Segment::of(id.inode as i32)?;
            length = segment.bytes;
            ObjectKind::Segment(segment)
        } else if let Some(name) = path.strip_prefix(b"/memfd:") {
            ObjectKind::Memfd {
                name: FilePath::new(name),
                seals: 0,
                huge: false,
            }
        } else if path == b"/dev/zero" || path.starts_with(b"/anon_hugepage") {
            let huge = path != b"/dev/zero";
            ObjectKind::Memfd {
                name: FilePath::new(*b"anonymous"),
                seals: 0,
                huge,
            }
        } else {
            let named = match mapping.deleted {
                true => other_name(id),
                false => Some(mapping.path.clone()),
            };
            match named {
                None => ObjectKind::Unlinked {
                    path: mapping.path.clone(),
                    mode: 0o600,
                },
                Some(path) => {
                    let metadata = fs::metadata(path.as_path())
                        .map_err(|e| StateError::io("look at", &path, e))?;
                    length = metadata.len();
                    let mode = metadata.mode() & 0o7777;
                    ObjectKind::Named { path, mode }
                }
            }
        };
        let name = format!("{} at {:#x}", mapping.path, mapping.start);
        self.0.push(Found {
            id,
            kind,
            name,
            length,
            fd: None,
            mapped: vec![place],
        });
        Ok((self.0.len() - 1) as u32)
    }

    /// Saves the content of all objects this process answers for.
    pub(crate) fn save(
        self,
        ctx: &CaptureContext<'_>,
        blobs: &mut dyn BlobSink,
    ) -> Result<Vec<SharedObject>, StateError> {
        let save = |object: Found| {
            let content = match (ctx.saves)(object.id) {
                true => Some(object.save(ctx, blobs)?),
                false => None,
            };
            Ok(SharedObject {
                id: object.id,
                kind: object.kind,
                content,
            })
        };
        self.0.into_iter().map(save).collect()
    }
}

impl Found {
    fn save(
        &self,
        ctx: &CaptureContext<'_>,
        blobs: &mut dyn BlobSink,
    ) -> Result<Content, StateError> {
        // The bound is on files; memory is saved whatever its size, as private memory is.
        if self.mapped.is_empty() && self.length > ctx.max_saved_file {
            let (length, limit) = (self.length, ctx.max_saved_file);
            return Err(StateError::TooLarge {
                object: self.name.clone(),
                length,
                limit,
            });
        }
        if let Some(file) = self.readable() {
            let length = file.metadata().map_or(self.length, |m| m.len());
            return Content::of_file(&file, length, &self.name, blobs);
        }
        if self.mapped.is_empty() {
            let cause = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
            return Err(StateError::io("read", &self.name, cause));
        }
        self.save_memory(blobs)
    }

    /// The object as a file open for reading, by one of the ways this process is allowed.
    fn readable(&self) -> Option<File> {
        if let Some(fd) = self.fd {
            if let Ok(file) = File::open(format!("/proc/thread-self/fd/{fd}")) {
                return Some(file);
            }
        }
        if matches!(self.kind, ObjectKind::Segment(_)) {
            return None;
        }
        // With CAP_CHECKPOINT_RESTORE.
        let by_map = self.mapped.iter().find_map(|&(address, _, bytes)| {
            let end = address + bytes as usize;
            File::open(format!("/proc/self/map_files/{address:x}-{end:x}")).ok()
        });
        by_map.or_else(|| match &self.kind {
            ObjectKind::Named { path, .. } => File::open(path.as_path()).ok(),
            _ => None,
        })
    }

    /// Saves the mapped parts through the process's own memory.
    fn save_memory(&self, blobs: &mut dyn BlobSink) -> Result<Content, StateError> {
        let path = "/proc/self/mem";
        let memory = File::open(path).map_err(|e| StateError::io("open", path, e))?;
        let mut mapped = self.mapped.clone();
        mapped.sort_by_key(|m| m.1);
        let mut extents: Vec<Extent> = Vec::new();
        for &(_, offset, bytes) in &mapped {
            let done = extents.last().map_or(0, |e| e.offset + e.length);
            let (start, end) = (offset.max(done), (offset + bytes).min(self.length));
            if start < end {
                extents.push(Extent {
                    offset: start,
                    length: end - start,
                });
            }
        }
        let read = |buffer: &mut [u8], at: u64| {
            let inside = |m: &&(usize, u64, u64)| m.1 <= at && at < m.1 + m.2;
            let Some(&(address, offset, bytes)) = mapped.iter().find(inside) else {
                return Ok(0);
            };
            let part = buffer.len().min((offset + bytes - at) as usize);
            match memory.read_at(&mut buffer[..part], address as u64 + (at - offset)) {
                // Beyond the end of a file that is shorter than its mapping.
                Err(e) if matches!(e.raw_os_error(), Some(libc::EIO | libc::EFAULT)) => Ok(0),
                read => read,
            }
        };
        Content::of_extents(self.length, extents, &self.name, blobs, &read)
    }
}

/// Objects opened again, by their index; numbers above the program's.
#[derive(Debug, Default)]
pub struct OpenObjects(Vec<Option<OwnedFd>>);

/// The object `index` (not a segment), opened or made now if it was not yet.
pub(crate) fn open<'o>(
    objects: &'o mut OpenObjects,
    state: &ProcessState,
    ctx: &RestoreContext<'_>,
    index: u32,
    warnings: &mut Vec<Warning>,
) -> Result<BorrowedFd<'o>, StateError> {
    let index = index as usize;
    let record = state
        .objects
        .get(index)
        .ok_or_else(|| StateError::Inconsistent {
            what: format!("object {index} is referred to and not there"),
        })?;
    if objects.0.len() <= index {
        objects.0.resize_with(index + 1, || None);
    }
    let slot = &mut objects.0[index];
    let fd = match slot.take() {
        Some(fd) => fd,
        None => make_or_find(record, ctx, warnings)?,
    };
    let fd: &'o OwnedFd = slot.insert(fd);
    Ok(fd.as_fd())
}

fn make_or_find(
    record: &SharedObject,
    ctx: &RestoreContext<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<OwnedFd, StateError> {
    let place = match rendezvous::meet(ctx, record.id, record.content.is_some())? {
        Turn::Found(at) => return raise(open_path(&at, libc::O_RDWR)?, ctx.descriptor_base),
        Turn::Make(place) => place,
    };
    let fd = raise(make(&record.kind, warnings)?, ctx.descriptor_base)?;
    let file = File::from(fd);
    let label = label(&record.kind);
    if let Some(content) = &record.content {
        content.write_to(&file, &label, ctx.blobs)?;
    }
    if let ObjectKind::Memfd { seals, .. } = record.kind {
        // F_SEAL_SEAL stands on every memfd that was made without MFD_ALLOW_SEALING.
        // SAFETY: F_ADD_SEALS takes and returns numbers.
        if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } < 0 && seals != 0 {
            warnings.push(Warning::new(&label, "its seals could not be set again"));
        }
    }
    let at = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    place.publish(Path::new(&at))?;
    Ok(file.into())
}

fn label(kind: &ObjectKind) -> String {
    match kind {
        ObjectKind::Memfd { name, .. } => format!("memfd:{name}"),
        ObjectKind::Named { path, .. } => path.to_string(),
        ObjectKind::Unlinked { path, .. } => format!("{path} (deleted)"),
        ObjectKind::Segment(segment) => format!("segment {}", segment.id),
    }
}

/// An empty object of that kind, open for reading and writing.
fn make(kind: &ObjectKind, warnings: &mut Vec<Warning>) -> Result<OwnedFd, StateError> {
    match kind {
        ObjectKind::Memfd { name, huge, .. } => {
            let name = name.to_c_string();
            memfd(&name, *huge).or_else(|error| {
                if !huge {
                    return Err(error);
                }
                let message = "was made of huge pages, of which there are none here";
                warnings.push(Warning::new(label(kind), message));
                memfd(&name, false)
            })
        }
        ObjectKind::Named { path, mode } => {
            // What the former run left has newer content; its processes keep theirs.
            let _ = fs::remove_file(path.as_path());
            let file = File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .open(path.as_path());
            let file = file.map_err(|e| StateError::io("make", path, e))?;
            set_mode(&file, *mode, path)?;
            Ok(file.into())
        }
        ObjectKind::Unlinked { path, mode } => {
            let parent = path.as_path().parent().unwrap_or(Path::new("/"));
            let file = unnamed(parent).or_else(|_| unnamed(&std::env::temp_dir()))?;
            set_mode(&file, *mode, path)?;
            Ok(file.into())
        }
        ObjectKind::Segment(_) => Err(StateError::Inconsistent {
            what: "a descriptor refers to a System V segment".to_owned(),
        }),
    }
}

fn set_mode(file: &File, mode: u32, path: &FilePath) -> Result<(), StateError> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(fs::Permissions::from_mode(mode))
        .map_err(|e| StateError::io("set the permissions of", path, e))
}

fn memfd(name: &CString, huge: bool) -> Result<OwnedFd, StateError> {
    let huge = if huge { libc::MFD_HUGETLB } else { 0 };
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING | huge;
    // SAFETY: `name` is a C string.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), flags) };
    if fd < 0 {
        return Err(StateError::last("make", "a memory file"));
    }
    // SAFETY: just made, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A file in `directory` without a name.
fn unnamed(directory: &Path) -> Result<File, StateError> {
    let path = FilePath::from(directory);
    if let Ok(fd) = open_path(&path, libc::O_TMPFILE | libc::O_RDWR) {
        return Ok(fd.into());
    }
    // File systems without O_TMPFILE.
    let name = directory.join(format!(".mana-unlinked-{}", std::process::id()));
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&name);
    let file = file.map_err(|e| StateError::io("make an unnamed file in", &path, e))?;
    fs::remove_file(&name).map_err(|e| StateError::io("remove", name.display(), e))?;
    Ok(file)
}

/// Makes the segments' and mappings' part of [`Restored`] reachable without borrowing it whole.
pub(super) fn open_in<'r>(
    restored: &'r mut Restored,
    state: &ProcessState,
    ctx: &RestoreContext<'_>,
    index: u32,
) -> Result<BorrowedFd<'r>, StateError> {
    open(
        &mut restored.objects,
        state,
        ctx,
        index,
        &mut restored.warnings,
    )
}
