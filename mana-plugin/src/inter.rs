//! Inter-communicators: two disjoint groups, where a rank names a process of the other one.
//!
//! Lower half. A [`crate::state::Comm`] of this kind has the remote group as `members`, so that
//! everything that counts or checks messages by rank works as for the others; only what concerns the
//! local group asks for `own`. Collectives pass one gate, whose size is that of both groups.
//!
//! `MPI_Intercomm_create` has two parents, one on each side, and each side passes the gate of its own.
//! One side may have to wait inside for the other, which may be held at its gate: the gate that
//! waits is opened then, as for every deadlock of gates.

use crate::collectives::{self, enter_outwards, leave};
use crate::comms::{adopt_as, create, identity};
use crate::errors::{check, finish};
use crate::state::{core, Outcome};
use crate::{entry, groups};
use mpi_std::*;

/// A number that both sides of the real inter-communicator compute alike from one of each side. It waits for
/// all members, so without the layer's lock: two threads of each process may be in here at once.
pub fn agree(real: u64, mine: u64) -> Outcome<u64> {
    let procs = core().procs();
    let mut n = 0;
    // SAFETY: an output argument of ours.
    check(unsafe { (procs.MPI_Comm_remote_size)(real, &mut n) })?;
    let mut theirs = vec![0u64; n.max(0) as usize];
    // SAFETY: one element, and a buffer of one element for each process of the other side.
    check(entry::unlocked(|| unsafe {
        (procs.MPI_Allgather)(
            (&raw const mine).cast(),
            1,
            MPI_UINT64_T,
            theirs.as_mut_ptr().cast(),
            1,
            MPI_UINT64_T,
            real,
        )
    }))?;
    let other = theirs.first().copied().unwrap_or(0);
    Ok(identity(&[mine.min(other), mine.max(other)]))
}

pub unsafe extern "C" fn MPI_Intercomm_create(
    local_comm: u64,
    local_leader: i32,
    peer_comm: u64,
    remote_leader: i32,
    tag: i32,
    newintercomm: *mut u64,
) -> i32 {
    static NAME: &str = "MPI_Intercomm_create";
    let _guard = entry::enter();
    let outcome = (|| {
        let (index, real) = collectives::comm(local_comm)?;
        let info = core().comm(local_comm)?.1;
        if info.local.is_some() {
            return Err(MPI_ERR_COMM);
        }
        let (parent, rank, handler) = (info.id, info.rank, info.errhandler);
        let session = info.session;
        let leads = rank == local_leader;
        let peer = if leads {
            core().comm(peer_comm)?.1.real
        } else {
            MPI_COMM_NULL
        };
        let number = enter_outwards(index, &NAME)?;
        let mut new = MPI_COMM_NULL;
        let call = core().procs().MPI_Intercomm_create;
        // SAFETY: the program's arguments, with real handles.
        let rc = entry::unlocked(|| unsafe {
            call(real, local_leader, peer, remote_leader, tag, &mut new)
        });
        let adopted = check(rc)
            .and_then(|()| agree(new, identity(&[parent, number])))
            .and_then(|origin| adopt_as(new, &[origin], handler, session));
        leave();
        let word = adopted?;
        // SAFETY: an output argument.
        unsafe { *newintercomm = word };
        Ok(())
    })();
    finish(outcome, local_comm, NAME)
}

pub unsafe extern "C" fn MPI_Intercomm_merge(
    intercomm: u64,
    high: i32,
    newintracomm: *mut u64,
) -> i32 {
    static NAME: &str = "MPI_Intercomm_merge";
    create(intercomm, newintracomm, &NAME, |real, new| {
        // SAFETY: an output argument of ours.
        unsafe { (core().procs().MPI_Intercomm_merge)(real, high, new) }
    })
}

pub unsafe extern "C" fn MPI_Comm_test_inter(comm: u64, flag: *mut i32) -> i32 {
    let _guard = entry::enter();
    let outcome = core().comm(comm).map(|(_, c)| {
        // SAFETY: an output argument.
        unsafe { *flag = c.local.is_some() as i32 };
    });
    finish(outcome, comm, "MPI_Comm_test_inter")
}

pub unsafe extern "C" fn MPI_Comm_remote_size(comm: u64, size: *mut i32) -> i32 {
    let _guard = entry::enter();
    let outcome = (|| {
        let (_, c) = core().comm(comm)?;
        if c.local.is_none() {
            let real = c.real;
            // The libraries differ in what they answer here.
            // SAFETY: an output argument.
            return check(unsafe { (core().procs().MPI_Comm_remote_size)(real, size) });
        }
        // SAFETY: an output argument.
        unsafe { *size = c.members.len() as i32 };
        Ok(())
    })();
    finish(outcome, comm, "MPI_Comm_remote_size")
}

pub unsafe extern "C" fn MPI_Comm_remote_group(comm: u64, group: *mut u64) -> i32 {
    let _guard = entry::enter();
    let outcome = (|| {
        let (_, c) = core().comm(comm)?;
        if c.local.is_none() {
            return Err(MPI_ERR_COMM);
        }
        let (remote, session) = (c.members.clone(), c.session);
        let word = groups::make_of(remote, session)?;
        // SAFETY: an output argument.
        unsafe { *group = word };
        Ok(())
    })();
    finish(outcome, comm, "MPI_Comm_remote_group")
}
