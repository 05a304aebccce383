//! Verifying and reading one image.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Mutex;

use mana_image::{
    hash, FormatError, Header, RegionTable, SectionKind, Sections, CHUNK_LEN, HEADER_LEN,
};

use super::{ImageName, ImageReport, WORKERS};
use crate::Error;

/// An open image whose header, sections and chunk index have been verified.
pub struct ImageFile {
    path: PathBuf,
    file: File,
    header: Header,
    sections: Sections,
    regions: RegionTable,
    index: Vec<u8>,
}

impl ImageFile {
    /// Opens an image. The page data are not read yet.
    ///
    /// # Errors
    /// When it is missing, damaged, or (with `expected`) not what the manifest says.
    pub fn open(path: &Path, expected: Option<ImageReport>) -> Result<Self, Error> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let len = file.metadata().map_err(Error::io("examine", path))?.len();
        let corrupt = |reason: String| Error::Corrupt {
            path: path.into(),
            reason,
        };
        let format = |e: FormatError| corrupt(e.to_string());
        let read = |at: u64, len: u64| {
            let mut bytes = vec![0; len as usize];
            file.read_exact_at(&mut bytes, at)
                .map_err(Error::io("read", path))
                .map(|()| bytes)
        };
        if len == 0 {
            return Err(corrupt("the file is empty".into()));
        }
        if let Some(e) = expected.filter(|e| e.len != len) {
            return Err(corrupt(format!("{len} bytes long instead of {}", e.len)));
        }
        let header = Header::parse(&read(0, HEADER_LEN.min(len))?, len).map_err(format)?;
        if expected.is_some_and(|e| e.root != header.root()) {
            return Err(corrupt("root hash is not that of the manifest".into()));
        }
        let meta = read(header.meta.0, header.meta.1)?;
        if hash(&meta) != header.meta_hash {
            return Err(corrupt("checksum of the sections does not match".into()));
        }
        let index = read(header.index, header.chunks() * 16)?;
        if hash(&index) != header.index_hash {
            return Err(corrupt("checksum of the chunk index does not match".into()));
        }
        let sections = Sections::parse(&meta).map_err(format)?;
        let table = sections.need(SectionKind::REGIONS).map_err(format)?;
        let regions = RegionTable::parse(table, header.data.1).map_err(format)?;
        Ok(Self {
            path: path.into(),
            file,
            header,
            sections,
            regions,
            index,
        })
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The sections.
    pub fn sections(&self) -> &Sections {
        &self.sections
    }

    /// The memory regions.
    pub fn regions(&self) -> &RegionTable {
        &self.regions
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Fills `bytes` from the data area at `offset`. The content was verified by [`verify`].
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read_data(&self, offset: u64, bytes: &mut [u8]) -> Result<(), Error> {
        let at = self.header.data.0 + offset;
        self.file
            .read_exact_at(bytes, at)
            .map_err(Error::io("read", &self.path))
    }

    /// Reads all data and compares every chunk's hash.
    ///
    /// # Errors
    /// When one does not match.
    pub fn verify_data(&self) -> Result<(), Error> {
        let chunks = self.header.chunks();
        let next = AtomicU64::new(0);
        let failure = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..WORKERS.min(chunks as usize) {
                scope.spawn(|| {
                    let mut buffer = vec![0; CHUNK_LEN as usize];
                    loop {
                        let chunk = next.fetch_add(1, Ordering::Relaxed);
                        if chunk >= chunks {
                            break;
                        }
                        if let Err(e) = self.verify_chunk(chunk, &mut buffer) {
                            failure
                                .lock()
                                .unwrap_or_else(std::sync::PoisonError::into_inner)
                                .get_or_insert(e);
                            break;
                        }
                    }
                });
            }
        });
        failure
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .map_or(Ok(()), Err)
    }

    fn verify_chunk(&self, chunk: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let at = chunk * CHUNK_LEN;
        let bytes = &mut buffer[..(self.header.data.1 - at).min(CHUNK_LEN) as usize];
        self.read_data(at, bytes)?;
        let expected = &self.index[chunk as usize * 16..][..16];
        if hash(bytes) != *expected {
            let reason = format!(
                "checksum of the {} bytes at {} does not match",
                bytes.len(),
                self.header.data.0 + at
            );
            return Err(Error::Corrupt {
                path: self.path.clone(),
                reason,
            });
        }
        Ok(())
    }
}

/// Reads a whole image and checks all of it: format, checksums, identity and (if given) what the
/// manifest says of it.
///
/// # Errors
/// When anything does not match.
pub fn verify(
    path: &Path,
    name: &ImageName,
    expected: Option<ImageReport>,
) -> Result<ImageFile, Error> {
    let image = ImageFile::open(path, expected)?;
    let h = image.header();
    let differs = |what, found: String, expected: String| Error::Incompatible {
        path: path.into(),
        what,
        found,
        expected,
    };
    if h.job != name.job {
        return Err(differs("job", h.job.clone(), name.job.clone()));
    }
    if (h.rank, h.size) != (name.rank, name.size) {
        return Err(differs(
            "rank",
            format!("{} of {}", h.rank, h.size),
            format!("{} of {}", name.rank, name.size),
        ));
    }
    let found = crate::GenerationId {
        incarnation: h.incarnation,
        number: h.generation,
    };
    if found != name.generation {
        return Err(differs(
            "generation",
            found.to_string(),
            name.generation.to_string(),
        ));
    }
    image.verify_data()?;
    Ok(image)
}
