//! What needs all ranks at once.

use crate::Error;

/// Operations of all ranks of the job, called by each in the same order. Implemented over the MPI
/// layer's private communicator, by [`Single`] and by the simulation.
pub trait Collective {
    /// This rank, from 0.
    fn rank(&self) -> u32;
    /// Number of ranks.
    fn size(&self) -> u32;
    /// Everyone's bytes, by rank.
    ///
    /// # Errors
    /// When a rank is gone.
    fn allgather(&self, data: &[u8]) -> Result<Vec<Vec<u8>>, Error>;
    /// What this rank does from here on, before it comes to the next operation: whoever waits for it can say so.
    fn doing(&self, _what: &str) {}
    /// The same for what may take as long as there is much to be moved: nobody gives up waiting for it.
    fn moving(&self, what: &str) {
        self.doing(what);
    }
    /// Returns when all ranks have come.
    ///
    /// # Errors
    /// When a rank is gone.
    fn barrier(&self) -> Result<(), Error> {
        self.allgather(&[]).map(drop)
    }
    /// The bytes of rank `root`.
    ///
    /// # Errors
    /// When a rank is gone.
    fn bcast(&self, root: u32, data: &[u8]) -> Result<Vec<u8>, Error> {
        let mine = if self.rank() == root { data } else { &[] };
        let mut all = self.allgather(mine)?;
        Ok(std::mem::take(&mut all[root as usize]))
    }
}

/// The job of one rank.
pub struct Single;

impl Collective for Single {
    fn rank(&self) -> u32 {
        0
    }
    fn size(&self) -> u32 {
        1
    }
    fn allgather(&self, data: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        Ok(vec![data.to_vec()])
    }
}

/// [`Collective::allgather`] of values.
///
/// # Errors
/// When a rank is gone or sent something else.
pub fn gather<T>(all: &dyn Collective, operation: &'static str, value: &T) -> Result<Vec<T>, Error>
where
    T: serde::Serialize + serde::de::DeserializeOwned,
{
    let failed = |e: postcard::Error| Error::Collective {
        operation,
        reason: e.to_string(),
    };
    let mine = postcard::to_stdvec(value).map_err(failed)?;
    all.allgather(&mine)?
        .iter()
        .map(|b| postcard::from_bytes(b).map_err(failed))
        .collect()
}
