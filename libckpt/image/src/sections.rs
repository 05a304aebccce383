//! The block of sections between header and data.
//!
//! `count: u32`, zero `u32`, then for each section its name (8 bytes, zero padded), offset in the
//! block and length (`u64` each), then the contents. The block is covered by one hash.

use crate::{FormatError, Reader, Writer};

/// Name of a section.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SectionKind(pub [u8; 8]);

impl SectionKind {
    /// The memory regions and where their pages lie ([`crate::RegionTable`]).
    pub const REGIONS: Self = Self(*b"regions\0");
    /// The split process: threads, signals, arena.
    pub const SPLIT: Self = Self(*b"split\0\0\0");
    /// Descriptors, timers, directory and the like.
    pub const STATE: Self = Self(*b"state\0\0\0");
    /// Content of shared memory objects and unlinked files.
    pub const BLOBS: Self = Self(*b"blobs\0\0\0");
    /// The MPI layer.
    pub const MPI: Self = Self(*b"mpi\0\0\0\0\0");
    /// What was started: program, arguments, versions.
    pub const LAUNCH: Self = Self(*b"launch\0\0");

    /// For messages.
    pub fn name(&self) -> String {
        String::from_utf8_lossy(&self.0)
            .trim_end_matches('\0')
            .to_owned()
    }
}

/// One section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Its name.
    pub kind: SectionKind,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// All sections of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sections(pub Vec<Section>);

impl Sections {
    /// Adds one.
    pub fn push(&mut self, kind: SectionKind, bytes: Vec<u8>) {
        self.0.push(Section { kind, bytes });
    }

    /// The content of one, if it is there.
    pub fn get(&self, kind: SectionKind) -> Option<&[u8]> {
        self.0
            .iter()
            .find(|s| s.kind == kind)
            .map(|s| s.bytes.as_slice())
    }

    /// The content of one that must be there.
    ///
    /// # Errors
    /// When it is not.
    pub fn need(&self, kind: SectionKind) -> Result<&[u8], FormatError> {
        self.get(kind)
            .ok_or_else(|| FormatError::NoSection { name: kind.name() })
    }

    /// Length of [`Sections::encode`] in bytes.
    pub fn encoded_len(&self) -> u64 {
        self.0
            .iter()
            .fold(8, |sum, s| sum + 24 + s.bytes.len() as u64)
    }

    /// The block.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u32(self.0.len() as u32);
        w.u32(0);
        let mut at = 8 + 24 * self.0.len() as u64;
        for s in &self.0 {
            w.bytes(&s.kind.0);
            w.u64(at);
            w.u64(s.bytes.len() as u64);
            at += s.bytes.len() as u64;
        }
        for s in &self.0 {
            w.bytes(&s.bytes);
        }
        w.finish()
    }

    /// Reads a block whose hash has been checked.
    ///
    /// # Errors
    /// When it is not one.
    pub fn parse(block: &[u8]) -> Result<Self, FormatError> {
        let mut r = Reader::new(block, "section table");
        let count = r.u32()?;
        r.u32()?;
        let mut all = Vec::new();
        for _ in 0..count {
            let mut kind = [0; 8];
            kind.copy_from_slice(r.take(8)?);
            let (offset, len) = (r.u64()?, r.u64()?);
            let end = offset.saturating_add(len);
            let range = usize::try_from(offset).ok().zip(usize::try_from(end).ok());
            let bytes = range
                .and_then(|(a, b)| block.get(a..b))
                .ok_or(FormatError::Truncated {
                    what: "section",
                    offset,
                    needed: len,
                    available: (block.len() as u64).saturating_sub(offset),
                })?;
            all.push(Section {
                kind: SectionKind(kind),
                bytes: bytes.to_vec(),
            });
        }
        Ok(Self(all))
    }
}
