//! An image file laid out for somebody else to fill: the forked child of a fork snapshot.
//!
//! The length of every part is known before anything is hashed, so that all that needs an allocation
//! or a lock is done here, before the fork. The program stands still meanwhile: space is reserved by
//! whoever fills the file.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use mana_image::{Hash, HeaderDraft, Layout, SectionKind, PAGE};

use super::writer::{direct, explain, header};
use super::{ImageContent, ImageName, ImageReport};
use crate::fault::point;
use crate::session::Session;
use crate::store::{create, make_dir, publish, temporary};
use crate::{Error, GenerationId};

/// An image under a temporary name, with nothing in it.
pub struct PreparedImage {
    /// The file.
    pub file: File,
    /// The same opened with O_DIRECT, where the storage can.
    pub direct: Option<File>,
    /// Where the parts lie.
    pub layout: Layout,
    /// The header but for its hashes.
    pub header: HeaderDraft,
    /// The encoded sections.
    pub meta: Vec<u8>,
    /// The name it is to get.
    pub pending: PendingImage,
}

/// An image that is not published yet. Dropping it deletes the temporary file.
#[derive(Debug)]
pub struct PendingImage {
    temporary: PathBuf,
    path: PathBuf,
    total: u64,
    published: bool,
}

/// Prepares the image of `content` under `path`. Places the runs of its region table; else `content`
/// stays as it is.
///
/// # Errors
/// When there is no room, or the file cannot be made. Nothing is left behind then.
pub fn prepare(
    path: &Path,
    name: &ImageName,
    content: &mut ImageContent,
) -> Result<PreparedImage, Error> {
    make_dir(path.parent().unwrap_or(Path::new(".")))?;
    let data_len = content.regions.place();
    if data_len % PAGE != 0 {
        let e = io::Error::new(
            io::ErrorKind::InvalidInput,
            "the runs of the region table are not whole pages",
        );
        return Err(Error::io("write", path)(e));
    }
    let table = content.regions.encode();
    content.sections.push(SectionKind::REGIONS, table);
    let meta = content.sections.encode();
    content.sections.0.pop();
    let layout = Layout::new(meta.len() as u64, data_len);
    let failed = |e| explain(e, path, layout.total);
    let temporary = temporary(path);
    let file = create(&temporary).map_err(failed)?;
    let pending = PendingImage {
        temporary,
        path: path.into(),
        total: layout.total,
        published: false,
    };
    let direct = direct(&pending.temporary);
    let header = header(name, &layout);
    Ok(PreparedImage {
        file,
        direct,
        layout,
        header: header.draft(),
        meta,
        pending,
    })
}

impl PendingImage {
    /// The file is complete and durable: gives it its name.
    ///
    /// # Errors
    /// When that fails; nothing is left behind.
    pub fn publish(&mut self, root: Hash) -> Result<ImageReport, Error> {
        publish(&self.temporary, &self.path)?;
        self.published = true;
        point("image.after");
        Ok(ImageReport {
            len: self.total,
            root,
        })
    }

    /// The error of an operation on the file, with what is known of it.
    pub fn failed(&self, source: io::Error) -> Error {
        explain(source, &self.path, self.total)
    }
}

impl Drop for PendingImage {
    fn drop(&mut self) {
        if !self.published {
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

impl Session {
    /// Prepares this rank's image in the node's storage; see [`prepare`].
    ///
    /// # Errors
    /// When that fails; nothing is left behind.
    pub fn prepare_image(
        &self,
        generation: GenerationId,
        content: &mut ImageContent,
    ) -> Result<PreparedImage, Error> {
        point("image.before");
        prepare(
            &self.image_path(generation),
            &self.image_name(generation),
            content,
        )
    }
}
