//! Restart: the real objects are made again from the descriptors.
//!
//! Lower half, the MPI thread of every rank. Order: the library itself, then datatypes (in the order
//! they were made, so that what one is made of exists), operations, communicators, windows, files, and last the
//! receives that were posted, in their order.
//!
//! Communicators are made with `MPI_Comm_create_group` over our private world, in ascending order of
//! identity. Only members take part, and every member works through its communicators in the same
//! global order, so of all unfinished ones the one with the lowest identity always has all its
//! members at it: no deadlock, however they overlap. Both groups of an inter-communicator are members
//! of it: each makes its own communicator, and the first of each join them.

use super::RebuildError;
use crate::comms;
use crate::deliveries;
use crate::errors::check;
use crate::p2p::{self, pattern, Envelope};
use crate::state::{
    core, Outcome, Phase, SavedStatus, State, Topology, Work, PRIVATE, SELF, VERSION, WORLD,
};
use crate::world::world_collective;
use crate::{
    attributes, datatypes, files, gate, library, life, ops, synchronous, windows, Initialized,
};
use mpi_std::*;

/// See [`super::start`].
pub fn start(thread_level: i32) -> Result<(), RebuildError> {
    if core().active {
        return Ok(());
    }
    life::begin(Some(thread_level)).map_err(failed("MPI_Init_thread", "MPI"))
}

fn failed(operation: &'static str, object: &str) -> impl Fn(i32) -> RebuildError {
    let object = object.to_owned();
    move |class| RebuildError::Mpi {
        operation,
        object: object.clone(),
        class,
    }
}

/// See [`super::take_over`].
pub fn take_over(bytes: &[u8]) -> Result<(), RebuildError> {
    let saved: State =
        postcard::from_bytes(bytes).map_err(|source| RebuildError::Decode { source })?;
    if saved.version != VERSION {
        return Err(RebuildError::Version {
            found: saved.version,
            expected: VERSION,
        });
    }
    start(saved.thread_level)?;
    let c = core();
    let (rank, size) = (c.state.rank, c.state.size);
    if (saved.rank, saved.size) != (rank, size) {
        return Err(RebuildError::World {
            recorded_rank: saved.rank,
            recorded_size: saved.size,
            rank,
            size,
        });
    }
    c.state = saved;
    c.state.sent = vec![0; size as usize];
    c.state.received = vec![0; size as usize];
    // SAFETY: gettid has no preconditions.
    c.main_thread = unsafe { libc::gettid() };
    attributes::learn_predefined();
    library::compare()
}

/// See [`super::rebuild`].
pub fn run() -> Result<(), RebuildError> {
    let (rank, size) = (core().state.rank, core().state.size);
    crate::tool::begin_again();
    rebuild_datatypes()?;
    rebuild_ops()?;
    rebuild_comms()?;
    windows::rebuild().map_err(|(class, id)| RebuildError::Mpi {
        operation: "MPI_Win_create",
        object: format!("the window of communicator {id:016x}"),
        class,
    })?;
    files::rebuild::run().map_err(|f| RebuildError::Mpi {
        operation: f.operation,
        object: f.name,
        class: f.class,
    })?;
    let gates = std::mem::take(&mut core().state.group_gates);
    for (key, size, seq) in gates {
        let gate = gate::create(key.1, size, seq);
        core().group_gates.insert(key, gate);
    }
    core().orphans = core()
        .state
        .requests
        .iter()
        .filter(|(_, r)| r.orphan && r.work != Work::Generalised)
        .map(|(i, _)| i)
        .collect();
    repost()?;
    let world = world_collective().ok_or(RebuildError::Mpi {
        operation: "MPI_Init",
        object: "MPI".into(),
        class: MPI_ERR_OTHER,
    })?;
    world
        .barrier()
        .map_err(failed("MPI_Barrier", "the end of the rebuild"))?;
    let c = core();
    c.hooks.initialized(Initialized {
        rank,
        size,
        thread_level: c.provided,
        mpi_thread: c.main_thread,
    });
    Ok(())
}

fn rebuild_datatypes() -> Result<(), RebuildError> {
    let mut order: Vec<(u64, u32)> = core()
        .state
        .datatypes
        .iter()
        .map(|(i, t)| (t.serial, i))
        .collect();
    order.sort_unstable();
    for (_, index) in order {
        let Some(t) = core().state.datatypes.get(index) else {
            continue;
        };
        let (recipe, committed) = (t.recipe.clone(), t.committed);
        let object = format!("datatype 0x{:x}", handle(kind::DATATYPE, index));
        let real =
            datatypes::construct(&recipe).map_err(failed("the datatype's constructor", &object))?;
        if committed {
            datatypes::commit(real).map_err(failed("MPI_Type_commit", &object))?;
        }
        if let Some(t) = core().state.datatypes.get_mut(index) {
            t.real = real;
        }
    }
    Ok(())
}

fn rebuild_ops() -> Result<(), RebuildError> {
    let all: Vec<(u32, u64, bool)> = core()
        .state
        .ops
        .iter()
        .map(|(i, o)| (i, o.function, o.commute))
        .collect();
    for (index, function, commute) in all {
        let real =
            ops::make(index, function, commute).map_err(failed("MPI_Op_create", "an operation"))?;
        if let Some(o) = core().state.ops.get_mut(index) {
            o.real = real;
        }
    }
    Ok(())
}

fn rebuild_comms() -> Result<(), RebuildError> {
    let mut order: Vec<(u64, u32)> = core().state.comms.iter().map(|(i, c)| (c.id, i)).collect();
    order.sort_unstable();
    for (id, index) in order {
        let Some(c) = core().state.comms.get(index) else {
            continue;
        };
        let (members, local, processes, topology, seq, freed) = (
            c.members.clone(),
            c.local.clone(),
            c.processes(),
            c.topology.clone(),
            c.seq,
            c.freed && c.pending == 0,
        );
        let object = format!("communicator {id:016x} of {processes} processes");
        let real = match index {
            WORLD => MPI_COMM_WORLD,
            SELF => MPI_COMM_SELF,
            PRIVATE => core().private,
            _ if local.is_some() => join(local.as_deref().unwrap_or_default(), &members)
                .map_err(failed("MPI_Intercomm_create", &object))?,
            _ => {
                let plain = comms::make_plain(&members)
                    .map_err(failed("MPI_Comm_create_group", &object))?;
                attach(plain, &topology).map_err(failed("attaching the topology", &object))?
            }
        };
        let mut real = real;
        if freed {
            // Made only because another member still has it.
            // SAFETY: a communicator of ours on which nothing is pending.
            check(unsafe { (core().procs().MPI_Comm_free)(&mut real) })
                .map_err(failed("MPI_Comm_free", &object))?;
            real = MPI_COMM_NULL;
        }
        core().ids.insert(id, index);
        if let Some(c) = core().state.comms.get_mut(index) {
            c.real = real;
            c.gate = Some(gate::create(id, processes as u32, seq));
        }
        if index != PRIVATE {
            comms::publish(index);
        }
    }
    Ok(())
}

/// An inter-communicator.
fn join(local: &[u32], remote: &[u32]) -> Outcome<u64> {
    let procs = core().procs();
    let mut own = comms::make_plain(local)?;
    let leader = remote.first().map_or(MPI_PROC_NULL, |&r| r as i32);
    let mut new = MPI_COMM_NULL;
    // SAFETY: communicators of ours, an output argument of ours.
    check(unsafe { (procs.MPI_Intercomm_create)(own, 0, core().private, leader, 0, &mut new) })?;
    // SAFETY: a communicator of ours, not used any more.
    check(unsafe { (procs.MPI_Comm_free)(&mut own) })?;
    Ok(new)
}

/// Puts the topology onto a communicator with the right members in the right order.
fn attach(plain: u64, topology: &Topology) -> Outcome<u64> {
    let procs = core().procs();
    let mut new = MPI_COMM_NULL;
    match topology {
        Topology::Plain => return Ok(plain),
        Topology::Cart { dims, periods } => {
            // SAFETY: arrays of ours; no reordering.
            check(unsafe {
                (procs.MPI_Cart_create)(
                    plain,
                    dims.len() as i32,
                    dims.as_ptr(),
                    periods.as_ptr(),
                    0,
                    &mut new,
                )
            })?;
        }
        Topology::Graph { index, edges } => {
            // SAFETY: as above.
            check(unsafe {
                (procs.MPI_Graph_create)(
                    plain,
                    index.len() as i32,
                    index.as_ptr(),
                    edges.as_ptr(),
                    0,
                    &mut new,
                )
            })?;
        }
        Topology::Distributed {
            sources,
            source_weights,
            destinations,
            destination_weights,
        } => {
            let weights = |w: &Option<Vec<i32>>| match w {
                Some(w) if w.is_empty() => MPI_WEIGHTS_EMPTY as *const i32,
                Some(w) => w.as_ptr(),
                None => MPI_UNWEIGHTED as *const i32,
            };
            // SAFETY: as above.
            check(unsafe {
                (procs.MPI_Dist_graph_create_adjacent)(
                    plain,
                    sources.len() as i32,
                    sources.as_ptr(),
                    weights(source_weights),
                    destinations.len() as i32,
                    destinations.as_ptr(),
                    weights(destination_weights),
                    MPI_INFO_NULL,
                    0,
                    &mut new,
                )
            })?;
        }
    }
    let mut plain = plain;
    // SAFETY: a communicator of ours, not used any more.
    check(unsafe { (procs.MPI_Comm_free)(&mut plain) })?;
    Ok(new)
}

/// Posts again what was posted, in its order. A drained message cannot match one of these (see
/// `drain`); should a library have broken its own matching order, the message is delivered here.
fn repost() -> Result<(), RebuildError> {
    let awaited: Vec<(u32, u32, i32)> = core()
        .state
        .requests
        .iter()
        .filter(|(_, r)| r.phase == Phase::Active)
        .filter_map(|(i, r)| r.acknowledgement().map(|(world, tag)| (i, world, tag)))
        .collect();
    for (index, world, tag) in awaited {
        let real = synchronous::await_acknowledgement(world, tag)
            .map_err(failed("MPI_Irecv", "an acknowledgement"))?;
        if let Some(r) = core().state.requests.get_mut(index) {
            r.real = real;
        }
    }
    let mut order: Vec<(u64, u32)> = core()
        .state
        .requests
        .iter()
        .filter(|(_, r)| r.phase == Phase::Active && r.work == Work::Recv && !r.unposted())
        .map(|(i, r)| (r.order, i))
        .collect();
    order.sort_unstable();
    for (_, index) in order {
        let c = core();
        let Some(r) = c.state.requests.get(index) else {
            continue;
        };
        let comm = r.comm;
        let e = Envelope {
            buf: r.buf,
            count: r.count,
            datatype: r.datatype,
            peer: r.peer,
            tag: r.tag,
            comm: c.comm_word(comm),
        };
        let Some(info) = c.state.comms.get_mut(comm) else {
            continue;
        };
        let real_comm = info.real;
        if let Some(m) = info.drained.take(pattern(e.peer, e.tag)) {
            // SAFETY: the program's buffer, mapped again.
            let (status, error) = unsafe { deliveries::deliver(&m, e.buf, e.count, e.datatype) };
            synchronous::acknowledge(m.sender);
            if let Some(r) = core().state.requests.get_mut(index) {
                r.phase = Phase::Done;
                r.status = SavedStatus::from(status);
                r.error = error;
                if let Some(p) = r.kept.as_ref().and_then(|k| k.partitions.as_ref()) {
                    p.tell(&mut r.status);
                }
            }
            continue;
        }
        // SAFETY: as above.
        let real = unsafe { p2p::start_recv(real_comm, &e) }
            .map_err(failed("MPI_Irecv", "a posted receive"))?;
        if let Some(r) = core().state.requests.get_mut(index) {
            r.real = real;
        }
    }
    Ok(())
}
