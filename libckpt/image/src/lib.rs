//! The checkpoint image: one rank's file in a generation. Pure data, no I/O, no `unsafe`.
//!
//! `docs/format.md` is normative. In short: a fixed header that can be read alone, a block of
//! sections (opaque to this crate, but for the region table), the page data, and the chunk index
//! with one XXH3-128 hash per chunk of data. The root hash covers all of it.
//!
//! Reading order is: bounds, then checksums, then parsing. Nothing read from a file is trusted for
//! a length or an offset before [`Header::parse`] has checked it against the file's real length.
#![warn(missing_docs)]
#![forbid(unsafe_code)]

mod bytes;
mod error;
mod header;
mod layout;
mod pieces;
mod regions;
mod sections;

pub use bytes::{Reader, Writer};
pub use error::FormatError;
pub use header::{Header, HeaderDraft, HEADER_LEN, MAGIC, VERSION};
pub use layout::{Layout, CHUNK_LEN, PAGE};
pub use pieces::Pieces;
pub use regions::{RegionRecord, RegionTable, RunRecord};
pub use sections::{Section, SectionKind, Sections};

use xxhash_rust::xxh3::Xxh3;

/// XXH3-128 of some bytes, as 16 bytes big-endian (the canonical form).
pub type Hash = [u8; 16];

/// XXH3-128 with seed 0.
pub fn hash(bytes: &[u8]) -> Hash {
    xxhash_rust::xxh3::xxh3_128(bytes).to_be_bytes()
}

/// XXH3-128 of a stream.
#[derive(Default)]
pub struct StreamHash(Xxh3);

impl StreamHash {
    /// Of nothing yet.
    pub fn new() -> Self {
        Self(Xxh3::new())
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash of all added so far.
    pub fn finish(&self) -> Hash {
        self.0.digest128().to_be_bytes()
    }
}
