//! The record that commits a generation, and the records that complete its levels.
//!
//! A generation exists once one node holds a valid manifest; every node writes the same one.

use serde::{Deserialize, Serialize};

use crate::store::{read_sealed, write_sealed, Store};
use crate::{Error, GenerationId, Level, Topology};

const KIND: [u8; 8] = *b"manifest";
const COMPLETE: [u8; 8] = *b"complete";

/// One rank's image in a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageEntry {
    /// Length of the file in bytes.
    pub len: u64,
    /// Its root hash.
    pub root: [u8; 16],
}

/// The whole generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Identity of the job.
    pub job: String,
    /// Which generation.
    pub generation: GenerationId,
    /// The level it was to reach.
    pub level: Level,
    /// When, in seconds since 1970.
    pub created: u64,
    /// The images, by rank.
    pub images: Vec<ImageEntry>,
    /// Where the ranks were.
    pub topology: Topology,
}

impl Manifest {
    /// Writes it into a store, durably.
    ///
    /// # Errors
    /// When that fails.
    pub fn write(&self, store: &Store) -> Result<(), Error> {
        write_sealed(&store.manifest(self.generation), KIND, self)
    }

    /// Reads one and checks that it belongs there.
    ///
    /// # Errors
    /// When there is none, or it is damaged or another's.
    pub fn read(store: &Store, job: &str, generation: GenerationId) -> Result<Self, Error> {
        let path = store.manifest(generation);
        let found: Self = read_sealed(&path, KIND)?;
        let differs = |what, found: String, expected: String| Error::Incompatible {
            path: path.clone(),
            what,
            found,
            expected,
        };
        if found.job != job {
            return Err(differs("job", found.job, job.to_owned()));
        }
        if found.generation != generation {
            return Err(differs(
                "generation",
                found.generation.to_string(),
                generation.to_string(),
            ));
        }
        if found.images.len() != found.topology.node_of.len() || found.images.is_empty() {
            return Err(differs(
                "number of images",
                found.images.len().to_string(),
                found.topology.node_of.len().to_string(),
            ));
        }
        Ok(found)
    }
}

/// Records that `level` of a generation is complete.
///
/// # Errors
/// When it cannot be written.
pub fn write_complete(store: &Store, generation: GenerationId, level: Level) -> Result<(), Error> {
    write_sealed(
        &store.complete(generation, level),
        COMPLETE,
        &(generation, level),
    )
}

/// Whether `level` of a generation is recorded as complete.
pub fn is_complete(store: &Store, generation: GenerationId, level: Level) -> bool {
    read_sealed::<(GenerationId, Level)>(&store.complete(generation, level), COMPLETE)
        .is_ok_and(|found| found == (generation, level))
}
