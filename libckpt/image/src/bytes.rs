//! Little-endian reading and writing with bounds.

use crate::FormatError;

/// Appends little-endian values.
#[derive(Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// Empty.
    pub fn new() -> Self {
        Self::default()
    }
    /// Appends one.
    pub fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    /// Appends one.
    pub fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    /// Appends them as they are.
    pub fn bytes(&mut self, value: &[u8]) {
        self.0.extend_from_slice(value);
    }
    /// Appends a length (u32) and the bytes.
    pub fn text(&mut self, value: &[u8]) {
        self.u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
        self.bytes(&value[..value.len().min(u32::MAX as usize)]);
    }
    /// Appends zeros up to a multiple of `to`.
    pub fn pad(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }
    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.0.len()
    }
    /// Nothing yet?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// All of it.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Takes little-endian values from a slice, never beyond its end.
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    what: &'static str,
}

impl<'a> Reader<'a> {
    /// From the start of `bytes`; `what` names the part in errors.
    pub fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { bytes, at: 0, what }
    }
    /// The next `len` bytes.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], FormatError> {
        let left = &self.bytes[self.at..];
        let taken = left.get(..len).ok_or(FormatError::Truncated {
            what: self.what,
            offset: self.at as u64,
            needed: len as u64,
            available: left.len() as u64,
        })?;
        self.at += len;
        Ok(taken)
    }
    /// The next value.
    pub fn u32(&mut self) -> Result<u32, FormatError> {
        let mut b = [0; 4];
        b.copy_from_slice(self.take(4)?);
        Ok(u32::from_le_bytes(b))
    }
    /// The next value.
    pub fn u64(&mut self) -> Result<u64, FormatError> {
        let mut b = [0; 8];
        b.copy_from_slice(self.take(8)?);
        Ok(u64::from_le_bytes(b))
    }
    /// The next 16 bytes.
    pub fn hash(&mut self) -> Result<crate::Hash, FormatError> {
        let mut b = [0; 16];
        b.copy_from_slice(self.take(16)?);
        Ok(b)
    }
    /// A length (u32) and that many bytes.
    pub fn text(&mut self) -> Result<&'a [u8], FormatError> {
        let len = self.u32()?;
        self.take(len as usize)
    }
    /// Bytes not taken yet.
    pub fn left(&self) -> usize {
        self.bytes.len() - self.at
    }
}
