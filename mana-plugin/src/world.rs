//! Byte-wise collectives of all ranks over the layer's private communicator.
//!
//! Lower half, the MPI thread only.

use crate::errors::check;
use crate::state::core;
use mpi_std::*;

/// Byte-wise collectives of all ranks over the MPI layer's private communicator. Only on the MPI
/// thread: inside `MpiHooks::initialized`, between [`crate::checkpoint::drain`] and
/// [`crate::checkpoint::resume`], after [`crate::checkpoint::start`] and
/// [`crate::checkpoint::rebuild`] until the upper half runs.
/// Errors are standard MPI error classes.
#[derive(Clone, Copy, Debug)]
pub struct WorldCollective {
    rank: u32,
    size: u32,
}

/// Longest piece moved by one call.
const PIECE: usize = 1 << 30;

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
        let c = core();
        // SAFETY: a communicator of ours.
        check(unsafe { (c.procs().MPI_Barrier)(c.private) })
    }

    /// Leaves MPI on all ranks, which end after it: a launcher that has been told so kills nobody when one
    /// of them ends with an error code before the others.
    pub fn leave(self) {
        let c = core();
        // SAFETY: MPI is active, and nothing of the program is under way: it has not been entered.
        if let Err(class) = check(unsafe { (c.procs().MPI_Finalize)() }) {
            log::debug!("MPI_Finalize before an end: MPI error class {class}");
        }
    }

    /// `data` of rank `root` on all ranks (its content elsewhere is replaced).
    pub fn bcast(&self, root: u32, data: &mut Vec<u8>) -> Result<(), i32> {
        let c = core();
        let procs = c.procs();
        let mut len = data.len() as u64;
        // SAFETY: one element of ours.
        check(unsafe {
            (procs.MPI_Bcast)(
                (&raw mut len).cast(),
                1,
                MPI_UINT64_T,
                root as i32,
                c.private,
            )
        })?;
        data.resize(len as usize, 0);
        for piece in data.chunks_mut(PIECE) {
            // SAFETY: a slice of ours.
            check(unsafe {
                (procs.MPI_Bcast)(
                    piece.as_mut_ptr().cast(),
                    piece.len() as i32,
                    MPI_BYTE,
                    root as i32,
                    c.private,
                )
            })?;
        }
        Ok(())
    }

    /// Everyone's `data` (any lengths), by rank.
    pub fn allgather(&self, data: &[u8]) -> Result<Vec<Vec<u8>>, i32> {
        let lengths = self.allgather_word(data.len() as u64)?;
        let mut out = Vec::with_capacity(lengths.len());
        for (rank, _) in lengths.iter().enumerate() {
            // One broadcast each: lengths may differ widely, and this is not a path that matters.
            let mut piece = if rank as u32 == self.rank {
                data.to_vec()
            } else {
                Vec::new()
            };
            self.bcast(rank as u32, &mut piece)?;
            out.push(piece);
        }
        Ok(out)
    }

    /// Everyone's number, by rank.
    pub fn allgather_word(&self, word: u64) -> Result<Vec<u64>, i32> {
        let c = core();
        let mut out = vec![0u64; self.size as usize];
        // SAFETY: one element, and a buffer of one element per rank.
        check(unsafe {
            (c.procs().MPI_Allgather)(
                (&raw const word).cast(),
                1,
                MPI_UINT64_T,
                out.as_mut_ptr().cast(),
                1,
                MPI_UINT64_T,
                c.private,
            )
        })?;
        Ok(out)
    }

    /// `words[r]` goes to rank `r`; the result's element `r` came from rank `r`.
    pub fn alltoall_words(&self, words: &[u64]) -> Result<Vec<u64>, i32> {
        let c = core();
        if words.len() != self.size as usize {
            return Err(MPI_ERR_COUNT);
        }
        let mut out = vec![0u64; words.len()];
        // SAFETY: buffers of one element per rank.
        check(unsafe {
            (c.procs().MPI_Alltoall)(
                words.as_ptr().cast(),
                1,
                MPI_UINT64_T,
                out.as_mut_ptr().cast(),
                1,
                MPI_UINT64_T,
                c.private,
            )
        })?;
        Ok(out)
    }

    /// `data[r]` goes to rank `r`; the result's element `r` came from rank `r`.
    pub fn alltoall(&self, data: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, i32> {
        const TAG: i32 = 11;
        let c = core();
        let procs = c.procs();
        let lengths: Vec<u64> = data.iter().map(|d| d.len() as u64).collect();
        let incoming = self.alltoall_words(&lengths)?;
        let mut out: Vec<Vec<u8>> = incoming.iter().map(|n| vec![0u8; *n as usize]).collect();
        let mut pending = Vec::new();
        for (rank, buf) in out.iter_mut().enumerate() {
            for piece in buf.chunks_mut(PIECE) {
                let mut real = MPI_REQUEST_NULL;
                // SAFETY: `out` lives until the wait below.
                check(unsafe {
                    (procs.MPI_Irecv)(
                        piece.as_mut_ptr().cast(),
                        piece.len() as i32,
                        MPI_BYTE,
                        rank as i32,
                        TAG,
                        c.private,
                        &mut real,
                    )
                })?;
                pending.push(real);
            }
        }
        for (rank, buf) in data.iter().enumerate() {
            for piece in buf.chunks(PIECE) {
                let mut real = MPI_REQUEST_NULL;
                // SAFETY: `data` lives until the wait below.
                check(unsafe {
                    (procs.MPI_Isend)(
                        piece.as_ptr().cast(),
                        piece.len() as i32,
                        MPI_BYTE,
                        rank as i32,
                        TAG,
                        c.private,
                        &mut real,
                    )
                })?;
                pending.push(real);
            }
        }
        // SAFETY: the requests above.
        check(unsafe {
            (procs.MPI_Waitall)(
                pending.len() as i32,
                pending.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        })?;
        Ok(out)
    }
}

/// The private communicator's collectives, while MPI is active.
pub fn world_collective() -> Option<WorldCollective> {
    if !crate::state::installed() || !core().active {
        return None;
    }
    Some(WorldCollective {
        rank: core().state.rank as u32,
        size: core().state.size as u32,
    })
}
