//! The MPI layer: virtual handles, point-to-point accounting, gates before collectives, drain and
//! rebuild. It lives in the lower half (ordinary Rust), between the stub (upper half, which has
//! already translated the program's ABI to the standard one) and the adapter (which translates the
//! standard ABI to the site's MPI).
//!
//! Life of it: [`install`] once at start-up; the program's calls come in through the returned slots;
//! a checkpoint is driven through [`checkpoint`]; a restart calls [`install`], then
//! [`checkpoint::rebuild`] before the upper half runs.
#![warn(missing_docs)]

pub mod checkpoint;
mod hooks;

pub use hooks::{Go, Initialized, MpiHooks};

/// Byte-wise collectives of all ranks over the MPI layer's private communicator. Only on the MPI
/// thread: inside `MpiHooks::initialized`, between [`checkpoint::drain`] and
/// [`checkpoint::resume`], and after [`checkpoint::rebuild`] before the upper half runs.
/// Errors are standard MPI error classes.
#[derive(Clone, Copy, Debug)]
pub struct WorldCollective {
    rank: u32,
    size: u32,
}

impl WorldCollective {
    /// This rank.
    pub fn rank(&self) -> u32 {
        self.rank
    }

    /// Number of ranks.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// Returns when all ranks have called it.
    pub fn barrier(&self) -> Result<(), i32> {
        Err(mpi_other())
    }

    /// `data` of rank `root` on all ranks (its content elsewhere is replaced).
    pub fn bcast(&self, root: u32, data: &mut Vec<u8>) -> Result<(), i32> {
        let _ = (root, data);
        Err(mpi_other())
    }

    /// Everyone's `data` (any lengths), by rank.
    pub fn allgather(&self, data: &[u8]) -> Result<Vec<Vec<u8>>, i32> {
        let _ = data;
        Err(mpi_other())
    }

    /// `data[r]` goes to rank `r`; the result's element `r` came from rank `r`.
    pub fn alltoall(&self, data: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, i32> {
        let _ = data;
        Err(mpi_other())
    }
}

fn mpi_other() -> i32 {
    16
}

/// The private communicator's collectives, once MPI is initialised.
pub fn world_collective() -> Option<WorldCollective> {
    None
}
