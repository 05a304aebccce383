//! Pipes and named FIFOs with both ends in this process.
//!
//! The content is copied with tee(2) into a pipe of our own, which takes nothing out. Only where
//! that pipe cannot be made large enough is the content read and written back, which nobody sees
//! while the program is parked.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use nix::fcntl::{fcntl, FcntlArg, OFlag};
use serde::{Deserialize, Serialize};

use super::OpenFile;
use crate::blob::{BlobSink, Content, Extent};
use crate::context::{CaptureContext, RestoreContext};
use crate::error::{StateError, Warning};
use crate::path::FilePath;

/// A pipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pipe {
    /// Path of a named FIFO.
    pub path: Option<FilePath>,
    /// F_GETPIPE_SZ, in bytes.
    pub capacity: u32,
    /// What was written and not read yet.
    pub content: Option<Content>,
}

/// One description of a pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PipeEnd {
    /// Index into [`super::Descriptors::pipes`].
    pub pipe: u32,
}

/// A description that reads and one that writes (they may be the same) among `files`, which are all
/// of one pipe; `None` if its other end is somebody else's. Where nobody has the other end any more,
/// the one that is left stands for both.
pub(super) fn ends<'a>(
    files: impl Iterator<Item = &'a OpenFile> + Clone,
) -> Option<(&'a OpenFile, &'a OpenFile)> {
    let access = |f: &OpenFile| f.info.flags & libc::O_ACCMODE;
    let reader = files.clone().find(|f| access(f) != libc::O_WRONLY);
    let writer = files.clone().find(|f| access(f) != libc::O_RDONLY);
    match (reader, writer) {
        (Some(reader), Some(writer)) => Some((reader, writer)),
        (Some(left), None) | (None, Some(left)) => is_alone(left).then_some((left, left)),
        (None, None) => None,
    }
}

/// Whether nobody has the other end of the pipe `file` is open on.
fn is_alone(file: &OpenFile) -> bool {
    let mut asked = libc::pollfd {
        fd: file.fd,
        events: 0,
        revents: 0,
    };
    // SAFETY: one structure, and no waiting.
    let told = unsafe { libc::poll(&raw mut asked, 1, 0) };
    // A reader is told of a hang-up, a writer of an error.
    told == 1 && asked.revents & (libc::POLLHUP | libc::POLLERR) != 0
}

/// Records the pipe whose ends are `reader` and `writer` (which may be the same).
pub(super) fn capture(
    reader: &OpenFile,
    writer: &OpenFile,
    ctx: &CaptureContext<'_>,
    blobs: &mut dyn BlobSink,
    warnings: &mut Vec<Warning>,
) -> Result<Pipe, StateError> {
    let failed = |e: nix::Error| StateError::io("look into", reader.name(), e);
    let capacity = fcntl(reader.borrow(), FcntlArg::F_GETPIPE_SZ).map_err(failed)? as u32;
    let waiting = waiting(reader.fd).map_err(|e| StateError::io("look into", reader.name(), e))?;
    if waiting as u64 > ctx.max_saved_file {
        let (length, limit) = (waiting as u64, ctx.max_saved_file);
        return Err(StateError::TooLarge {
            object: reader.name(),
            length,
            limit,
        });
    }
    if waiting > 0 && reader.info.flags & libc::O_DIRECT != 0 {
        let message = "is in packet mode: its packets are one stream after a restart";
        warnings.push(Warning::new(reader.name(), message));
    }
    let content = match waiting {
        0 => None,
        _ if reader.info.flags & libc::O_ACCMODE == libc::O_WRONLY => None, // nobody will read it
        _ => {
            let data = match copy_of(reader, capacity, waiting) {
                Some(data) => data,
                None => take_and_put_back(reader, writer, waiting)?,
            };
            let whole = vec![Extent {
                offset: 0,
                length: data.len() as u64,
            }];
            let from = |buffer: &mut [u8], offset: u64| (&data[offset as usize..]).read(buffer);
            Some(Content::of_extents(
                data.len() as u64,
                whole,
                &reader.name(),
                blobs,
                &from,
            )?)
        }
    };
    let path = (!reader.target.starts_with(b"pipe:") && !reader.deleted())
        .then(|| FilePath::new(reader.target.clone()));
    Ok(Pipe {
        path,
        capacity,
        content,
    })
}

/// Bytes in the pipe.
fn waiting(fd: RawFd) -> io::Result<usize> {
    let mut bytes = 0i32;
    // SAFETY: FIONREAD writes one int at the address given.
    match unsafe { libc::ioctl(fd, libc::FIONREAD, &raw mut bytes) } {
        0 => Ok(bytes.max(0) as usize),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The content by tee, `None` if not all of it could be had.
fn copy_of(reader: &OpenFile, capacity: u32, waiting: usize) -> Option<Vec<u8>> {
    let (ours, into) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).ok()?;
    // As many buffers as the other has, full or not.
    fcntl(
        into.as_fd(),
        FcntlArg::F_SETPIPE_SZ(i32::try_from(capacity).ok()?),
    )
    .ok()?;
    let flags = libc::SPLICE_F_NONBLOCK;
    // SAFETY: tee takes and returns numbers.
    let copied = unsafe { libc::tee(reader.fd, into.as_raw_fd(), waiting, flags) };
    drop(into);
    if usize::try_from(copied) != Ok(waiting) {
        return None;
    }
    let mut data = Vec::with_capacity(waiting);
    File::from(ours)
        .take(waiting as u64)
        .read_to_end(&mut data)
        .ok()?;
    (data.len() == waiting).then_some(data)
}

fn take_and_put_back(
    reader: &OpenFile,
    writer: &OpenFile,
    waiting: usize,
) -> Result<Vec<u8>, StateError> {
    let failed = |e: io::Error| StateError::io("read and write back", reader.name(), e);
    let file = |f: &OpenFile| f.borrow().try_clone_to_owned().map(File::from);
    let (mut from, mut to) = (file(reader).map_err(failed)?, file(writer).map_err(failed)?);
    let mut data = vec![0; waiting];
    from.read_exact(&mut data).map_err(failed)?;
    to.write_all(&data).map_err(failed)?;
    Ok(data)
}

/// A pipe made again: each description is opened from one of its ends.
pub(super) struct OpenPipe {
    reader: OwnedFd,
    writer: OwnedFd,
    /// Whether the description that pipe(2) made is still to be given to the program. Others are
    /// opened by name, which leaves O_LARGEFILE on them.
    reader_free: bool,
    writer_free: bool,
}

pub(super) fn restore(
    record: &Pipe,
    ctx: &RestoreContext<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<OpenPipe, StateError> {
    let failed = |e: io::Error| StateError::io("make", "a pipe", e);
    let (reader, writer) = match &record.path {
        None => nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|e| failed(e.into()))?,
        Some(path) => {
            let opened = super::open(path, libc::O_RDWR | libc::O_NONBLOCK)?;
            let other = opened.try_clone().map_err(failed)?;
            (opened, other)
        }
    };
    if record.capacity > 0 {
        let size = FcntlArg::F_SETPIPE_SZ(record.capacity as i32);
        if fcntl(writer.as_fd(), size).is_err() {
            let message = format!(
                "its capacity was {} bytes, which is not allowed here",
                record.capacity
            );
            warnings.push(Warning::new("a pipe", message));
        }
    }
    if let Some(content) = &record.content {
        let object = "a pipe";
        let fetch = |source| StateError::Blob {
            operation: "fetch",
            object: object.into(),
            source,
        };
        let mut data = vec![0; content.length as usize];
        ctx.blobs
            .open(content.blob)
            .and_then(|mut b| b.read_exact(&mut data))
            .map_err(fetch)?;
        fill(&writer, &data).map_err(|e| StateError::io("fill", object, e))?;
    }
    // The numbers below are the program's.
    let base = ctx.descriptor_base;
    let free = record.path.is_none();
    Ok(OpenPipe {
        reader: super::raise(reader, base)?,
        writer: super::raise(writer, base)?,
        reader_free: free,
        writer_free: free,
    })
}

/// Writes without waiting: what was in the pipe fits into it.
fn fill(writer: &OwnedFd, data: &[u8]) -> io::Result<()> {
    let flags = fcntl(writer.as_fd(), FcntlArg::F_GETFL)?;
    let flags = OFlag::from_bits_retain(flags);
    fcntl(writer.as_fd(), FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    File::from(writer.try_clone()?).write_all(data)?;
    fcntl(writer.as_fd(), FcntlArg::F_SETFL(flags))?;
    Ok(())
}

impl OpenPipe {
    /// A new description of the pipe with the access mode and flags recorded, or the first one
    /// (whose flags are the caller's to set).
    pub(super) fn open(&mut self, flags: i32) -> Result<OwnedFd, StateError> {
        let (end, free) = match flags & libc::O_ACCMODE {
            libc::O_WRONLY => (&self.writer, &mut self.writer_free),
            _ => (&self.reader, &mut self.reader_free),
        };
        let one_way = flags & libc::O_ACCMODE != libc::O_RDWR;
        if one_way && std::mem::take(free) {
            return end
                .try_clone()
                .map_err(|e| StateError::io("duplicate", "a pipe", e));
        }
        // Both ends are open, so this never waits.
        let path = FilePath::new(format!("/proc/self/fd/{}", end.as_raw_fd()));
        super::open(&path, flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_copied_and_stays() {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let mut to = File::from(writer);
        // Many small writes: every one takes a buffer of its own if it cannot be merged.
        for i in 0..200u8 {
            to.write_all(&[i; 37]).unwrap();
        }
        let expected: Vec<u8> = (0..200u8).flat_map(|i| [i; 37]).collect();
        let reader_file = OpenFile::read(reader.as_raw_fd()).unwrap();
        let writer_file = OpenFile::read(to.as_raw_fd()).unwrap();
        let size = expected.len();
        assert_eq!(copy_of(&reader_file, 65536, size).unwrap(), expected);
        assert_eq!(waiting(reader.as_raw_fd()).unwrap(), size);
        assert_eq!(
            take_and_put_back(&reader_file, &writer_file, size).unwrap(),
            expected
        );
        assert_eq!(waiting(reader.as_raw_fd()).unwrap(), size);
        drop(to);
        let mut left = Vec::new();
        File::from(reader).read_to_end(&mut left).unwrap();
        assert_eq!(left, expected);
    }
}
