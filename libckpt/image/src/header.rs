//! The fixed header: the first 4096 bytes, readable alone.

use crate::{hash, FormatError, Hash, Reader, Writer, CHUNK_LEN, PAGE};

/// Length of the header in bytes.
pub const HEADER_LEN: u64 = 4096;
/// The first eight bytes of an image.
pub const MAGIC: [u8; 8] = *b"MANAIMG1";
/// Version of the format.
pub const VERSION: u32 = 1;

/// Longest job identity in bytes.
const JOB_MAX: usize = 1024;
/// The header's own hash is its last 16 bytes.
const HASH_AT: usize = HEADER_LEN as usize - 16;
/// Where the hashes of sections and index stand.
const META_HASH_AT: usize = 8 + 4 * 4 + 9 * 8;
const INDEX_HASH_AT: usize = META_HASH_AT + 16;

/// What the header says. Lengths and offsets are bytes from the start of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Identity of the job.
    pub job: String,
    /// World rank.
    pub rank: u32,
    /// World size.
    pub size: u32,
    /// Incarnation that took the checkpoint.
    pub incarnation: u32,
    /// Number of the generation, from 1.
    pub generation: u64,
    /// When, in seconds since 1970.
    pub created: u64,
    /// Sections: offset (page aligned) and length.
    pub meta: (u64, u64),
    /// Page data: offset and length (both page aligned).
    pub data: (u64, u64),
    /// Chunk index: offset; 16 bytes for each chunk of data.
    pub index: u64,
    /// Length of the file.
    pub total: u64,
    /// Hash of the sections block.
    pub meta_hash: Hash,
    /// Hash of the chunk index.
    pub index_hash: Hash,
}

impl Header {
    /// Number of chunks of the data area.
    pub fn chunks(&self) -> u64 {
        self.data.1.div_ceil(CHUNK_LEN)
    }

    /// Root hash: over every field of the header and, through the hashes in it, the whole file.
    pub fn root(&self) -> Hash {
        hash(&self.fields())
    }

    fn fields(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.bytes(&MAGIC);
        w.u32(VERSION);
        w.u32(self.rank);
        w.u32(self.size);
        w.u32(self.incarnation);
        for v in [
            self.generation,
            self.created,
            self.meta.0,
            self.meta.1,
            self.data.0,
            self.data.1,
            self.index,
            self.total,
            CHUNK_LEN,
        ] {
            w.u64(v);
        }
        w.bytes(&self.meta_hash);
        w.bytes(&self.index_hash);
        w.text(&self.job.as_bytes()[..self.job.len().min(JOB_MAX)]);
        w.finish()
    }

    /// The 4096 bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.fields();
        bytes.resize(HASH_AT, 0);
        let own = hash(&bytes);
        bytes.extend_from_slice(&own);
        bytes
    }

    /// The same with the hashes of sections and index left open.
    pub fn draft(&self) -> HeaderDraft {
        let mut bytes = [0; HEADER_LEN as usize];
        let fields = self.fields();
        bytes[..fields.len()].copy_from_slice(&fields);
        HeaderDraft {
            bytes,
            fields: fields.len(),
        }
    }

    /// Reads a header and checks it against the file's real length.
    ///
    /// # Errors
    /// When the bytes are not a header, or describe a file of another length.
    pub fn parse(bytes: &[u8], file_len: u64) -> Result<Self, FormatError> {
        let short = |available: usize| FormatError::Truncated {
            what: "header",
            offset: 0,
            needed: HEADER_LEN,
            available: available as u64,
        };
        let bytes = bytes.get(..HEADER_LEN as usize).ok_or(short(bytes.len()))?;
        if bytes[..8] != MAGIC {
            return Err(FormatError::Magic);
        }
        let mut r = Reader::new(&bytes[8..HASH_AT], "header");
        let found = r.u32()?;
        if found != VERSION {
            return Err(FormatError::Version {
                found,
                expected: VERSION,
            });
        }
        if hash(&bytes[..HASH_AT]) != bytes[HASH_AT..] {
            return Err(FormatError::Checksum { what: "header" });
        }
        let (rank, size, incarnation) = (r.u32()?, r.u32()?, r.u32()?);
        let (generation, created) = (r.u64()?, r.u64()?);
        let meta = (r.u64()?, r.u64()?);
        let data = (r.u64()?, r.u64()?);
        let (index, total, chunk) = (r.u64()?, r.u64()?, r.u64()?);
        let (meta_hash, index_hash) = (r.hash()?, r.hash()?);
        let job = String::from_utf8(r.text()?.to_vec()).map_err(|e| FormatError::Value {
            what: "job",
            value: e.as_bytes().len() as u64,
        })?;
        let value = |what, value| FormatError::Value { what, value };
        if chunk != CHUNK_LEN {
            return Err(value("chunk length", chunk));
        }
        if rank >= size {
            return Err(value("rank", u64::from(rank)));
        }
        let end = |(offset, len): (u64, u64), what| offset.checked_add(len).ok_or(value(what, len));
        if meta.0 != HEADER_LEN {
            return Err(value("section offset", meta.0));
        }
        if data.0 < end(meta, "section length")? || data.0 % PAGE != 0 || data.1 % PAGE != 0 {
            return Err(value("data offset", data.0));
        }
        if index != end(data, "data length")? {
            return Err(value("index offset", index));
        }
        let index_len = data.1.div_ceil(CHUNK_LEN) * 16;
        if end((index, index_len), "index length")? != total {
            return Err(value("total length", total));
        }
        if file_len != total {
            return Err(FormatError::Truncated {
                what: "image",
                offset: 0,
                needed: total,
                available: file_len,
            });
        }
        Ok(Self {
            job,
            rank,
            size,
            incarnation,
            generation,
            created,
            meta,
            data,
            index,
            total,
            meta_hash,
            index_hash,
        })
    }
}

/// An encoded header that waits for its hashes.
#[derive(Clone)]
pub struct HeaderDraft {
    bytes: [u8; HEADER_LEN as usize],
    /// Bytes of the fields, which the root hash covers.
    fields: usize,
}

impl HeaderDraft {
    /// Enters the hashes and returns the root hash. Allocates nothing and does not panic: a forked
    /// child does it.
    pub fn seal(&mut self, meta_hash: &Hash, index_hash: &Hash) -> Hash {
        self.put(META_HASH_AT, meta_hash);
        self.put(INDEX_HASH_AT, index_hash);
        let own = hash(self.bytes.get(..HASH_AT).unwrap_or_default());
        self.put(HASH_AT, &own);
        hash(self.bytes.get(..self.fields).unwrap_or_default())
    }

    fn put(&mut self, at: usize, value: &Hash) {
        if let Some(place) = self.bytes.get_mut(at..at + value.len()) {
            place.copy_from_slice(value);
        }
    }

    /// The 4096 bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_draft_is_the_header() {
        let layout = crate::Layout::new(100, 8192);
        let mut header = Header {
            job: "job".into(),
            rank: 1,
            size: 2,
            incarnation: 3,
            generation: 4,
            created: 5,
            meta: layout.meta,
            data: layout.data,
            index: layout.index.0,
            total: layout.total,
            meta_hash: Hash::default(),
            index_hash: Hash::default(),
        };
        let mut draft = header.draft();
        (header.meta_hash, header.index_hash) = ([7; 16], [8; 16]);
        assert_eq!(draft.seal(&[7; 16], &[8; 16]), header.root());
        assert_eq!(draft.bytes(), header.encode());
        assert_eq!(Header::parse(draft.bytes(), layout.total), Ok(header));
    }
}
