//! One image on storage: writing, verifying, reading.
//!
//! The writer takes slices of memory and writes them as they are, with O_DIRECT in large blocks where
//! the storage can, hashing each chunk on the way; two workers keep the device and a core busy. The
//! verifier reads everything once and compares every hash.

mod prepared;
mod reader;
mod writer;

pub use prepared::{prepare, PendingImage, PreparedImage};
pub use reader::{verify, ImageFile};
pub use writer::{write, ImageContent};

/// A written or verified image: what the manifest says of it.
pub use crate::manifest::ImageEntry as ImageReport;

/// Threads that write or verify one image.
const WORKERS: usize = 2;

/// Identity of an image, put into its header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageName {
    /// Identity of the job.
    pub job: String,
    /// The generation.
    pub generation: crate::GenerationId,
    /// World rank.
    pub rank: u32,
    /// World size.
    pub size: u32,
}

#[cfg(test)]
mod tests;
