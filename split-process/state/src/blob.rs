//! Content that goes beside the records: bytes of unlinked files, pipes and shared memory.
//!
//! Records are small and are deserialised whole; content can be large and is streamed. The caller
//! decides where it goes: [`MemoryBlobs`] keeps it in memory and is itself serialisable; an image
//! writer can implement [`BlobSink`] and [`BlobSource`] over its own sections instead.

use std::fmt;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::StateError;

/// Names one blob within one captured state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BlobId(pub u32);

/// Where captured content goes.
pub trait BlobSink {
    /// Stores everything `content` yields (`length` bytes are promised) and returns its name.
    /// `label` is for messages and listings only.
    fn store(&mut self, label: &str, length: u64, content: &mut dyn Read) -> io::Result<BlobId>;
}

/// Where restored content comes from.
pub trait BlobSource {
    /// The content of `id`, from its first byte.
    fn open(&self, id: BlobId) -> io::Result<Box<dyn Read + '_>>;
}

/// Blobs in memory. Serialises as a sequence of byte strings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryBlobs(Vec<Bytes>);

impl MemoryBlobs {
    /// No blobs.
    pub fn new() -> MemoryBlobs {
        MemoryBlobs::default()
    }

    /// Bytes of all blobs together.
    pub fn total_bytes(&self) -> u64 {
        self.0.iter().map(|b| b.0.len() as u64).sum()
    }
}

impl BlobSink for MemoryBlobs {
    fn store(&mut self, _label: &str, length: u64, content: &mut dyn Read) -> io::Result<BlobId> {
        let id = u32::try_from(self.0.len()).map_err(|_| io::Error::other("too many blobs"))?;
        let mut data = Vec::new();
        let hint = usize::try_from(length).map_err(|_| io::ErrorKind::OutOfMemory)?;
        data.try_reserve_exact(hint)
            .map_err(|_| io::ErrorKind::OutOfMemory)?;
        content.read_to_end(&mut data)?;
        self.0.push(Bytes(data));
        Ok(BlobId(id))
    }
}

impl BlobSource for MemoryBlobs {
    fn open(&self, id: BlobId) -> io::Result<Box<dyn Read + '_>> {
        match self.0.get(id.0 as usize) {
            Some(data) => Ok(Box::new(&data.0[..])),
            None => Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("no blob {}", id.0),
            )),
        }
    }
}

/// Bytes that serialise as one string instead of a sequence of numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        struct BytesVisitor;
        impl<'de> Visitor<'de> for BytesVisitor {
            type Value = Bytes;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a byte string")
            }
            fn visit_bytes<E>(self, v: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes(v.to_vec()))
            }
            fn visit_byte_buf<E>(self, v: Vec<u8>) -> Result<Bytes, E> {
                Ok(Bytes(v))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Bytes, A::Error> {
                let mut data = Vec::new();
                while let Some(byte) = seq.next_element()? {
                    data.push(byte);
                }
                Ok(Bytes(data))
            }
        }
        deserializer.deserialize_byte_buf(BytesVisitor)
    }
}

/// A stretch of a file that holds data; everything between extents is a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// Byte offset in the file.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// The saved content of a file or memory object, holes left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// Length of the whole object in bytes.
    pub length: u64,
    /// Where the data lies, ascending, without overlap.
    pub extents: Vec<Extent>,
    /// The extents' bytes one after the other.
    pub blob: BlobId,
}

impl Content {
    /// Saves all of the file behind `file` (open for reading), of `length` bytes.
    pub(crate) fn of_file(
        file: &std::fs::File,
        length: u64,
        label: &str,
        sink: &mut dyn BlobSink,
    ) -> Result<Content, StateError> {
        let extents = data_extents(file, length);
        Content::of_extents(length, extents, label, sink, &|buffer, offset| {
            file.read_at(buffer, offset)
        })
    }

    /// Saves `extents` of an object of `length` bytes; `read_at` reads at an offset of the object.
    /// A short object (it shrank while it was read) is padded with zeros.
    pub(crate) fn of_extents(
        length: u64,
        extents: Vec<Extent>,
        label: &str,
        sink: &mut dyn BlobSink,
        read_at: &dyn Fn(&mut [u8], u64) -> io::Result<usize>,
    ) -> Result<Content, StateError> {
        let total = extents.iter().map(|e| e.length).sum();
        let mut reader = ExtentReader {
            extents: &extents,
            at: 0,
            done: 0,
            read_at,
        };
        let blob = sink
            .store(label, total, &mut reader)
            .map_err(|source| StateError::Blob {
                operation: "store",
                object: label.to_owned(),
                source,
            })?;
        Ok(Content {
            length,
            extents,
            blob,
        })
    }

    /// Writes the content into `file`, which becomes exactly `length` bytes long. Several processes may do the same at
    /// once: it is at no instant shorter than it will be.
    pub(crate) fn write_to(
        &self,
        file: &std::fs::File,
        label: &str,
        blobs: &dyn BlobSource,
    ) -> Result<(), StateError> {
        let failed = |source| StateError::Blob {
            operation: "fetch",
            object: label.to_owned(),
            source,
        };
        let wrote = |source| StateError::io("write the saved content of", label, source);
        file.set_len(self.length).map_err(wrote)?;
        let mut content = blobs.open(self.blob).map_err(failed)?;
        let mut buffer = vec![0u8; 1 << 20];
        let mut written = 0;
        for extent in &self.extents {
            if extent
                .offset
                .checked_add(extent.length)
                .is_none_or(|end| end > self.length)
            {
                return Err(StateError::Inconsistent {
                    what: format!("an extent of {label} lies beyond its end"),
                });
            }
            clear(file, written, extent.offset).map_err(wrote)?;
            written = extent.offset + extent.length;
            let mut done = 0;
            while done < extent.length {
                let part = (extent.length - done).min(buffer.len() as u64) as usize;
                content.read_exact(&mut buffer[..part]).map_err(failed)?;
                file.write_all_at(&buffer[..part], extent.offset + done)
                    .map_err(wrote)?;
                done += part as u64;
            }
        }
        clear(file, written, self.length).map_err(wrote)
    }
}

/// Makes the bytes of a file from `from` to `to` zeros: a hole where the file system can (fallocate(2)).
fn clear(file: &std::fs::File, from: u64, to: u64) -> io::Result<()> {
    if from >= to {
        return Ok(());
    }
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: fallocate takes numbers, and changes nothing but the file.
    let punched =
        unsafe { libc::fallocate(file.as_raw_fd(), mode, from as i64, (to - from) as i64) };
    if punched == 0 {
        return Ok(());
    }
    let zeros = vec![0u8; (to - from).min(1 << 20) as usize];
    let mut at = from;
    while at < to {
        let part = (to - at).min(zeros.len() as u64) as usize;
        file.write_all_at(&zeros[..part], at)?;
        at += part as u64;
    }
    Ok(())
}

/// Yields the bytes of some extents one after the other.
struct ExtentReader<'a> {
    extents: &'a [Extent],
    at: usize,
    done: u64,
    read_at: &'a dyn Fn(&mut [u8], u64) -> io::Result<usize>,
}

impl Read for ExtentReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(extent) = self.extents.get(self.at) {
            let left = extent.length - self.done;
            if left == 0 {
                self.at += 1;
                self.done = 0;
                continue;
            }
            if buffer.is_empty() {
                return Ok(0);
            }
            let part = left.min(buffer.len() as u64) as usize;
            let mut got = (self.read_at)(&mut buffer[..part], extent.offset + self.done)?;
            if got == 0 {
                buffer[..part].fill(0);
                got = part;
            }
            self.done += got as u64;
            return Ok(got);
        }
        Ok(0)
    }
}

/// The parts of a file that hold data, by `SEEK_DATA`; the whole file where that is not supported.
/// The file position is put back.
fn data_extents(file: &std::fs::File, length: u64) -> Vec<Extent> {
    let fd = file.as_fd().as_raw_fd();
    let seek = |offset: i64, whence: i32| {
        // SAFETY: lseek touches no memory, and the descriptor is open for the life of `file`.
        unsafe { libc::lseek(fd, offset, whence) }
    };
    let whole = || {
        if length == 0 {
            Vec::new()
        } else {
            vec![Extent { offset: 0, length }]
        }
    };
    let before = seek(0, libc::SEEK_CUR);
    if before < 0 {
        return whole();
    }
    let mut extents = Vec::new();
    let mut at = 0i64;
    let mut complete = true;
    while (at as u64) < length {
        let data = seek(at, libc::SEEK_DATA);
        if data < 0 {
            // ENXIO: nothing but a hole up to the end.
            complete = io::Error::last_os_error().raw_os_error() == Some(libc::ENXIO);
            break;
        }
        let hole = seek(data, libc::SEEK_HOLE);
        if hole <= data {
            complete = false;
            break;
        }
        let end = (hole as u64).min(length);
        if (data as u64) < end {
            extents.push(Extent {
                offset: data as u64,
                length: end - data as u64,
            });
        }
        at = hole;
    }
    seek(before, libc::SEEK_SET);
    if complete {
        extents
    } else {
        whole()
    }
}
