//! What the stub itself has to know about a communicator, to translate arrays that have one element
//! for each peer or neighbour.
//!
//! Upper half; asks the lower half like the program would.

use mana_raw::layout::{CommCache, COMM_CACHE, COMM_CACHE_MAX};
use mpi_std::slot;

use crate::translate as t;

/// The published rank and size of a communicator, if they are.
#[inline(always)]
pub fn cached(comm: u64) -> Option<CommCache> {
    let at = if comm == mpi_std::MPI_COMM_WORLD {
        0
    } else if comm == mpi_std::MPI_COMM_SELF {
        1
    } else if mpi_std::kind_of(comm) == mpi_std::kind::COMM && comm >> 32 == 0 {
        mpi_std::index_of(comm) as usize + 2
    } else {
        return None;
    };
    if at >= COMM_CACHE_MAX {
        return None;
    }
    // SAFETY: the cache is mapped whenever a program runs under the launcher; entries are single
    // 64-bit words, so a reader sees one value or the other.
    let entry = unsafe { core::ptr::read_volatile((COMM_CACHE as *const CommCache).add(at)) };
    if entry.size == 0 {
        None
    } else {
        Some(entry)
    }
}

/// Elements of the arrays of an all-to-all: the other side's size.
pub fn peers(comm: t::Handle) -> usize {
    let comm = t::comm(comm);
    let (mut inter, mut size) = (0, 0);
    let (inter_p, size_p) = (&raw mut inter, &raw mut size);
    {
        mana_raw::cross!(slot::MPI_Comm_test_inter, fn(u64, *mut i32) -> i32; comm, inter_p);
        if inter != 0 {
            mana_raw::cross!(slot::MPI_Comm_remote_size, fn(u64, *mut i32) -> i32; comm, size_p);
        } else {
            mana_raw::cross!(slot::MPI_Comm_size, fn(u64, *mut i32) -> i32; comm, size_p);
        }
    }
    t::len(size)
}

/// Sources and destinations of this process in the communicator's topology.
pub fn degrees(comm: t::Handle) -> (usize, usize) {
    let comm = t::comm(comm);
    let (mut kind, mut a, mut b, mut c) = (0, 0, 0, 0);
    let (kind_p, a_p, b_p, c_p) = (&raw mut kind, &raw mut a, &raw mut b, &raw mut c);
    {
        mana_raw::cross!(slot::MPI_Topo_test, fn(u64, *mut i32) -> i32; comm, kind_p);
        match kind {
            mpi_std::MPI_CART => {
                mana_raw::cross!(slot::MPI_Cartdim_get, fn(u64, *mut i32) -> i32; comm, a_p);
                (2 * t::len(a), 2 * t::len(a))
            }
            mpi_std::MPI_GRAPH => {
                mana_raw::cross!(slot::MPI_Comm_rank, fn(u64, *mut i32) -> i32; comm, a_p);
                mana_raw::cross!(slot::MPI_Graph_neighbors_count, fn(u64, i32, *mut i32) -> i32;
                                 comm, a, b_p);
                (t::len(b), t::len(b))
            }
            mpi_std::MPI_DIST_GRAPH => {
                mana_raw::cross!(slot::MPI_Dist_graph_neighbors_count,
                                 fn(u64, *mut i32, *mut i32, *mut i32) -> i32; comm, a_p, b_p, c_p);
                (t::len(a), t::len(b))
            }
            _ => (0, 0),
        }
    }
}
