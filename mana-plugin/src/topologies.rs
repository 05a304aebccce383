//! Topologies: making communicators that have one, and reading what the library has made of it.
//!
//! Lower half. A topology is a part of the communicator's description, so that a restart makes the
//! communicator with it.

use crate::comms::create;
use crate::errors::check;
use crate::state::{core, Outcome, Topology};
use mpi_std::*;

/// The topology of a real communicator.
pub fn topology_of(real: u64) -> Outcome<Topology> {
    let procs = core().procs();
    let mut kind = MPI_UNDEFINED;
    // SAFETY: output arguments of ours, in this and the following calls.
    check(unsafe { (procs.MPI_Topo_test)(real, &mut kind) })?;
    match kind {
        MPI_CART => {
            let mut n = 0;
            // SAFETY: as above.
            check(unsafe { (procs.MPI_Cartdim_get)(real, &mut n) })?;
            let (mut dims, mut periods, mut coords) = (
                vec![0; n as usize],
                vec![0; n as usize],
                vec![0; n as usize],
            );
            // SAFETY: as above.
            check(unsafe {
                (procs.MPI_Cart_get)(
                    real,
                    n,
                    dims.as_mut_ptr(),
                    periods.as_mut_ptr(),
                    coords.as_mut_ptr(),
                )
            })?;
            Ok(Topology::Cart { dims, periods })
        }
        MPI_GRAPH => {
            let (mut nodes, mut edges) = (0, 0);
            // SAFETY: as above.
            check(unsafe { (procs.MPI_Graphdims_get)(real, &mut nodes, &mut edges) })?;
            let (mut index, mut to) = (vec![0; nodes as usize], vec![0; edges as usize]);
            // SAFETY: as above.
            check(unsafe {
                (procs.MPI_Graph_get)(real, nodes, edges, index.as_mut_ptr(), to.as_mut_ptr())
            })?;
            Ok(Topology::Graph { index, edges: to })
        }
        MPI_DIST_GRAPH => {
            let (mut i, mut o, mut weighted) = (0, 0, 0);
            // SAFETY: as above.
            check(unsafe {
                (procs.MPI_Dist_graph_neighbors_count)(real, &mut i, &mut o, &mut weighted)
            })?;
            let (mut sources, mut sw) = (vec![0; i as usize], vec![0; i as usize]);
            let (mut destinations, mut dw) = (vec![0; o as usize], vec![0; o as usize]);
            // SAFETY: as above.
            check(unsafe {
                (procs.MPI_Dist_graph_neighbors)(
                    real,
                    i,
                    sources.as_mut_ptr(),
                    sw.as_mut_ptr(),
                    o,
                    destinations.as_mut_ptr(),
                    dw.as_mut_ptr(),
                )
            })?;
            let weighted = weighted != 0;
            Ok(Topology::Distributed {
                sources,
                source_weights: weighted.then_some(sw),
                destinations,
                destination_weights: weighted.then_some(dw),
            })
        }
        _ => Ok(Topology::Plain),
    }
}

pub unsafe extern "C" fn MPI_Cart_create(
    comm_old: u64,
    ndims: i32,
    dims: *const i32,
    periods: *const i32,
    reorder: i32,
    comm_cart: *mut u64,
) -> i32 {
    static NAME: &str = "MPI_Cart_create";
    create(comm_old, comm_cart, &NAME, |real, new| {
        // SAFETY: the program's arrays.
        unsafe { (core().procs().MPI_Cart_create)(real, ndims, dims, periods, reorder, new) }
    })
}

pub unsafe extern "C" fn MPI_Cart_sub(
    comm: u64,
    remain_dims: *const i32,
    newcomm: *mut u64,
) -> i32 {
    static NAME: &str = "MPI_Cart_sub";
    create(comm, newcomm, &NAME, |real, new| {
        // SAFETY: the program's array.
        unsafe { (core().procs().MPI_Cart_sub)(real, remain_dims, new) }
    })
}

pub unsafe extern "C" fn MPI_Graph_create(
    comm_old: u64,
    nnodes: i32,
    index: *const i32,
    edges: *const i32,
    reorder: i32,
    comm_graph: *mut u64,
) -> i32 {
    static NAME: &str = "MPI_Graph_create";
    create(comm_old, comm_graph, &NAME, |real, new| {
        // SAFETY: the program's arrays.
        unsafe { (core().procs().MPI_Graph_create)(real, nnodes, index, edges, reorder, new) }
    })
}

pub unsafe extern "C" fn MPI_Dist_graph_create(
    comm_old: u64,
    n: i32,
    sources: *const i32,
    degrees: *const i32,
    destinations: *const i32,
    weights: *const i32,
    info: u64,
    reorder: i32,
    comm_dist_graph: *mut u64,
) -> i32 {
    static NAME: &str = "MPI_Dist_graph_create";
    let _ = info;
    create(comm_old, comm_dist_graph, &NAME, |real, new| {
        // SAFETY: the program's arrays.
        unsafe {
            (core().procs().MPI_Dist_graph_create)(
                real,
                n,
                sources,
                degrees,
                destinations,
                weights,
                MPI_INFO_NULL,
                reorder,
                new,
            )
        }
    })
}

pub unsafe extern "C" fn MPI_Dist_graph_create_adjacent(
    comm_old: u64,
    indegree: i32,
    sources: *const i32,
    sourceweights: *const i32,
    outdegree: i32,
    destinations: *const i32,
    destweights: *const i32,
    info: u64,
    reorder: i32,
    comm_dist_graph: *mut u64,
) -> i32 {
    static NAME: &str = "MPI_Dist_graph_create_adjacent";
    let _ = info;
    create(comm_old, comm_dist_graph, &NAME, |real, new| {
        // SAFETY: the program's arrays.
        unsafe {
            (core().procs().MPI_Dist_graph_create_adjacent)(
                real,
                indegree,
                sources,
                sourceweights,
                outdegree,
                destinations,
                destweights,
                MPI_INFO_NULL,
                reorder,
                new,
            )
        }
    })
}
