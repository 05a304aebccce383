//! Fault tolerance as a library may offer it (`MPIX_Comm_agree` and the like): calls go to the library,
//! communicators that come out are the program's like all others.
//!
//! Lower half. A failed process ends the job under most launchers, and a resume brings it back: a program
//! meets these procedures in the runs without failures. MPICH 4 has the names and ends the job in them,
//! with or without us. A revoked communicator cannot be drained: while one exists no checkpoint is taken.

use crate::collectives::{self, enter, leave};
use crate::errors::{answered, check, finish};
use crate::group::Members;
use crate::state::{core, Outcome};
use crate::{comms, entry, groups};
use mpi_std::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

pub unsafe extern "C" fn MPIX_Comm_agree(comm: u64, flag: *mut i32) -> i32 {
    static NAME: &str = "MPIX_Comm_agree";
    let _guard = entry::enter();
    let outcome = (|| {
        let (index, real) = collectives::comm(comm)?;
        enter(index, &NAME)?;
        let call = core().procs().MPIX_Comm_agree;
        // SAFETY: a real handle and the program's argument.
        let rc = entry::unlocked(|| unsafe { call(real, flag) });
        leave();
        answered(rc, NAME)
    })();
    finish(outcome, comm, NAME)
}

pub unsafe extern "C" fn MPIX_Comm_shrink(comm: u64, newcomm: *mut u64) -> i32 {
    static NAME: &str = "MPIX_Comm_shrink";
    comms::create(comm, newcomm, &NAME, |real, new| {
        // SAFETY: a real handle and an output argument of ours.
        let rc = unsafe { (core().procs().MPIX_Comm_shrink)(real, new) };
        answered(rc, NAME).err().unwrap_or(MPI_SUCCESS)
    })
}

pub unsafe extern "C" fn MPIX_Comm_failure_ack(comm: u64) -> i32 {
    let _guard = entry::enter();
    let outcome = collectives::comm(comm).and_then(|(_, real)| {
        // SAFETY: a real handle.
        let rc = unsafe { (core().procs().MPIX_Comm_failure_ack)(real) };
        answered(rc, "MPIX_Comm_failure_ack")
    });
    finish(outcome, comm, "MPIX_Comm_failure_ack")
}

pub unsafe extern "C" fn MPIX_Comm_failure_get_acked(comm: u64, failedgrp: *mut u64) -> i32 {
    let _guard = entry::enter();
    let outcome = (|| {
        let (index, real) = collectives::comm(comm)?;
        let procs = core().procs();
        let mut failed = MPI_GROUP_NULL;
        // SAFETY: a real handle and an output argument of ours.
        let rc = unsafe { (procs.MPIX_Comm_failure_get_acked)(real, &mut failed) };
        answered(rc, "MPIX_Comm_failure_get_acked")?;
        let word = members_of(failed, index, real).and_then(groups::make);
        if failed != MPI_GROUP_EMPTY {
            // SAFETY: a group that was made for us.
            unsafe { (procs.MPI_Group_free)(&mut failed) };
        }
        let word = word?;
        // SAFETY: an output argument.
        unsafe { *failedgrp = word };
        Ok(())
    })();
    finish(outcome, comm, "MPIX_Comm_failure_get_acked")
}

/// World ranks of the members of a real group, which are members of communicator `index`.
fn members_of(group: u64, index: u32, real: u64) -> Outcome<Members> {
    let procs = core().procs();
    let mut n = 0;
    // SAFETY: output arguments of ours, in this and the following calls.
    check(unsafe { (procs.MPI_Group_size)(group, &mut n) })?;
    if n == 0 {
        return Ok(Members::from(Vec::new()));
    }
    let mut all = MPI_GROUP_NULL;
    // SAFETY: as above.
    check(unsafe { (procs.MPI_Comm_group)(real, &mut all) })?;
    let ranks: Vec<i32> = (0..n).collect();
    let mut out = vec![0i32; ranks.len()];
    // SAFETY: as above; arrays of that length.
    let rc = unsafe {
        (procs.MPI_Group_translate_ranks)(group, n, ranks.as_ptr(), all, out.as_mut_ptr())
    };
    // SAFETY: as above.
    unsafe { (procs.MPI_Group_free)(&mut all) };
    check(rc)?;
    let members = core().state.comms.get(index).map(|c| c.own().clone());
    let world = |r: &i32| members.as_ref()?.get(usize::try_from(*r).ok()?).copied();
    out.iter().map(|r| world(r).ok_or(MPI_ERR_GROUP)).collect()
}

pub unsafe extern "C" fn MPIX_Comm_revoke(comm: u64) -> i32 {
    let _guard = entry::enter();
    let outcome = collectives::comm(comm).and_then(|(index, real)| {
        // SAFETY: a real handle.
        let rc = unsafe { (core().procs().MPIX_Comm_revoke)(real) };
        answered(rc, "MPIX_Comm_revoke")?;
        let id = core().state.comms.get(index).map_or(0, |c| c.id);
        let mut revoked = revoked();
        if !revoked.contains(&id) {
            revoked.push(id);
            COUNT.store(revoked.len(), Ordering::Release);
        }
        Ok(())
    });
    finish(outcome, comm, "MPIX_Comm_revoke")
}

/// Identities of communicators that this process has revoked and not freed.
static REVOKED: Mutex<Vec<u64>> = Mutex::new(Vec::new());
static COUNT: AtomicUsize = AtomicUsize::new(0);

fn revoked() -> MutexGuard<'static, Vec<u64>> {
    REVOKED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The program has freed the communicator of this identity.
pub fn freed(id: u64) {
    if COUNT.load(Ordering::Relaxed) > 0 {
        let mut revoked = revoked();
        revoked.retain(|r| *r != id);
        COUNT.store(revoked.len(), Ordering::Release);
    }
}

/// Why no checkpoint can be taken now, and until when.
pub fn refusal() -> Option<&'static str> {
    (COUNT.load(Ordering::Acquire) > 0).then_some(
        "the program has revoked a communicator: no checkpoint until it has called MPI_Comm_free on it",
    )
}
