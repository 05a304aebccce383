//! Where the parts of an image lie.

use crate::HEADER_LEN;

/// Page size of the format in bytes.
pub const PAGE: u64 = 4096;
/// Bytes of data under one hash.
pub const CHUNK_LEN: u64 = 4 << 20;

/// Offsets of an image whose sections and data have known lengths. They do not depend on the
/// content, so that a writer can place data before anything is hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Sections: offset and length.
    pub meta: (u64, u64),
    /// Data: offset and length.
    pub data: (u64, u64),
    /// Index: offset and length.
    pub index: (u64, u64),
    /// Length of the file.
    pub total: u64,
}

impl Layout {
    /// For `meta_len` bytes of sections and `data_len` bytes (whole pages) of data.
    pub fn new(meta_len: u64, data_len: u64) -> Self {
        let data = (data_offset(meta_len), data_len);
        let index = (data.0 + data.1, data_len.div_ceil(CHUNK_LEN) * 16);
        Self {
            meta: (HEADER_LEN, meta_len),
            data,
            index,
            total: index.0 + index.1,
        }
    }
}

/// Where the data start if the sections are this long.
fn data_offset(meta_len: u64) -> u64 {
    (HEADER_LEN + meta_len).next_multiple_of(PAGE)
}
