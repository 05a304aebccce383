//! Memory objects without a file on disk.
use crate::blob::BlobSink;
use crate::context::{CaptureContext, ObjectId};
use crate::error::{StateError, Warning};
use crate::maps::Mapping;
use serde::{Deserialize, Serialize};

/// A memory object that is open or mapped shared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedObject {
    /// Identity on its node at the checkpoint.
    pub id: ObjectId,
}

/// Objects opened again.
#[derive(Debug, Default)]
pub struct OpenObjects {}

#[derive(Debug, Default)]
pub(crate) struct ObjectList {}

impl ObjectList {
    pub(crate) fn save(
        self,
        _: &CaptureContext<'_>,
        _: &mut dyn BlobSink,
        _: &mut Vec<Warning>,
    ) -> Result<Vec<SharedObject>, StateError> {
        Ok(Vec::new())
    }
}

/// The identity of what `mapping` maps.
pub(crate) fn id_of(mapping: &Mapping) -> ObjectId {
    ObjectId {
        major: mapping.major,
        minor: mapping.minor,
        inode: mapping.inode,
        sysv: mapping.path.as_bytes().starts_with(b"/SYSV"),
    }
}
