//! A checkpoint as the MPI layer sees it: the gate that brings all ranks to a safe point, the stop
//! of all waits, the drain, the serialised state, and the rebuild at restart.
//!
//! Lower half. Who calls what:
//!
//! | step | function | thread |
//! |---|---|---|
//! | intent | [`gate_arm`] | control |
//! | targets | [`gate_targets`], [`gate_raise`] | control |
//! | poll | [`gate_poll`] | control |
//! | stop | [`stop`] (then the upper half's threads are parked) | control |
//! | until all ranks are parked, if [`attendance`] says so | [`attend`] | the parked MPI thread |
//! | drain | [`drain`], then [`serialize`] | the parked MPI thread |
//! | resume or abandon, from any step | [`resume`] | control |
//! | restart | [`start`], [`take_over`], then [`rebuild`] | the MPI thread, before the upper half runs |

mod drain;
mod rebuild;
mod sabotage;

pub use crate::whereabouts::Place;
pub(crate) use drain::{receive_message, with_bytes};

use crate::state::{self, core};
use crate::{entry, gate, whereabouts, windows};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicBool, Ordering};

/// Progress of one communicator's collectives on this rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CommSeq {
    /// Identity of the communicator, the same number on all its members.
    pub comm_id: u64,
    /// Number of members.
    pub size: u32,
    /// Collectives started on it so far (as a target: how many may be started).
    pub seq: u64,
}

/// What [`gate_poll`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GatePoll {
    /// Every sequence number equals its target and no thread is inside a blocking collective.
    pub reached: bool,
    /// The communicator at whose gate a thread waits, with the number it has reached.
    pub waiting: Option<CommSeq>,
    /// A communicator whose target is not reached yet.
    pub behind: Option<CommSeq>,
    /// All communicators that have started at least one collective.
    pub seqs: Vec<CommSeq>,
    /// What this rank is doing, for a human: `MPI_Allreduce on MPI_COMM_WORLD (number 12)`.
    pub where_: String,
}

/// What a successful [`drain`] took in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DrainReport {
    /// Messages taken out of the network into memory.
    pub messages: u64,
    /// Their bytes (with those drained earlier and not yet received by the program).
    pub bytes: u64,
    /// Receives of the program that stay posted.
    pub posted: u64,
}

/// Why a drain failed. The program can run on: [`resume`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DrainError {
    /// The messages in flight are larger than the budget on some rank.
    #[error(
        "messages in flight need more than the budget of {budget} bytes (this rank holds {held})"
    )]
    Budget {
        /// Bytes allowed on each rank.
        budget: u64,
        /// Bytes this rank held when the drain gave up.
        held: u64,
    },
    /// Counts did not balance in time.
    #[error("messages announced but not arrived after {seconds} s: {missing} (first: from world rank {from})")]
    Missing {
        /// How long the drain waited.
        seconds: u64,
        /// How many are missing.
        missing: u64,
        /// A sender they are missing from.
        from: u32,
    },
    /// An operation that should complete by itself did not.
    #[error("{operation} did not complete after {seconds} s")]
    Stuck {
        /// How long the drain waited.
        seconds: u64,
        /// What it waited for.
        operation: String,
    },
    /// The real MPI failed.
    #[error("{operation} failed during the drain: MPI error class {class}")]
    Mpi {
        /// The MPI procedure.
        operation: &'static str,
        /// Standard error class.
        class: i32,
    },
    /// What ranks tell each other about synchronous sends could not be written or read.
    #[error("the exchange about synchronous sends failed")]
    Encode(#[source] postcard::Error),
    /// Another rank gave up; its own error tells why.
    #[error("the drain failed on another rank")]
    Peer,
    /// The program is connected to processes outside the job.
    #[error("{0}")]
    Connected(&'static str),
    /// A resume could not open it again.
    #[error("{0} was deleted while it is open through MPI: no checkpoint until the program has closed it")]
    Deleted(String),
    /// MPI is not initialised (nothing to drain) or is finalised.
    #[error("MPI is not active on this rank")]
    NotActive,
}

/// Why the saved state could not be made real again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RebuildError {
    /// The bytes are not a state of this version.
    #[error("the MPI section of the image cannot be decoded")]
    Decode {
        /// The decoder's complaint.
        #[source]
        source: postcard::Error,
    },
    /// The state was written by another version of this layer.
    #[error("the MPI section of the image has version {found}, this launcher reads {expected}")]
    Version {
        /// In the image.
        found: u32,
        /// Ours.
        expected: u32,
    },
    /// Another number of ranks than at the checkpoint.
    #[error("the image is of rank {recorded_rank} of {recorded_size}, this process is rank {rank} of {size}")]
    World {
        /// Rank in the image.
        recorded_rank: i32,
        /// World size in the image.
        recorded_size: i32,
        /// This process's rank.
        rank: i32,
        /// This job's size.
        size: i32,
    },
    /// This library lacks what the program was given by another.
    #[error("the job was on {before}, and cannot go on under {now}: {what}")]
    Library {
        /// The library before.
        before: String,
        /// This one.
        now: String,
        /// What it lacks.
        what: String,
    },
    /// The real MPI failed.
    #[error("{operation} failed while rebuilding {object}: MPI error class {class}")]
    Mpi {
        /// The MPI procedure.
        operation: &'static str,
        /// What was being rebuilt.
        object: String,
        /// Standard error class.
        class: i32,
    },
}

/// Why no checkpoint can be taken now, and until when, in one line; asked before [`gate_arm`].
pub fn refusal() -> Option<&'static str> {
    crate::dynamic::refusal().or_else(crate::failures::refusal)
}

/// Closes the gates at the sequence numbers of this instant and reports them. Before `MPI_Init` and
/// after `MPI_Finalize` the list is empty. Does not wait.
pub fn gate_arm() -> Vec<CommSeq> {
    gate::arm()
}

/// Sets the agreed targets (the largest number of any member, per communicator). A communicator not
/// named keeps the number it had at [`gate_arm`], or 0 if it is younger. Targets only grow.
pub fn gate_targets(targets: &[CommSeq]) {
    gate::raise(targets);
}

/// Raises one target (the coordinator calls this on all ranks when no rank has advanced for a while).
pub fn gate_raise(target: CommSeq) {
    gate::raise(&[target]);
}

/// Where this rank stands. Does not wait; meant to be called every few hundred microseconds.
pub fn gate_poll() -> GatePoll {
    gate::poll()
}

/// Asks all threads that wait inside MPI what they wait for; [`places`] has the answers a moment later.
/// Nothing after [`stop`]. Costs the program nothing unless it waits.
pub fn ask_places() {
    whereabouts::ask();
}

/// What the program's threads wait for: the answers to [`ask_places`], or the collective one is inside.
/// Empty if none waits in MPI.
pub fn places() -> Vec<Place> {
    let mut places = whereabouts::answers();
    if places.is_empty() {
        places.extend(gate::place());
    }
    places
}

/// Makes every wait inside MPI return `AGAIN` to the stub, so that all threads can be parked in
/// upper code. Call it when all ranks have reached the safe point.
pub fn stop() {
    entry::STOP.store(entry::LEAVE, Ordering::SeqCst);
}

static ATTENDING: AtomicBool = AtomicBool::new(false);

/// Whether this rank, parked, is needed by others: a one-sided operation that another rank completes,
/// inside the library, may need this rank's progress. If so the caller runs [`attend`] on the parked
/// MPI thread until [`end_attendance`]. Only while all threads are parked.
pub fn attendance() -> bool {
    let needed = state::installed() && core().active && windows::any();
    ATTENDING.store(needed, Ordering::SeqCst);
    needed
}

/// Drives the library's progress until [`end_attendance`] is called, from another thread.
pub fn attend() {
    let step = entry::progress();
    while ATTENDING.load(Ordering::SeqCst) {
        step();
        std::thread::yield_now();
    }
}

/// Ends [`attend`], or prevents it.
pub fn end_attendance() {
    ATTENDING.store(false, Ordering::SeqCst);
}

/// Brings everything in flight to this rank's memory. Collective over the job: all ranks call it,
/// on their MPI threads, all other threads parked. `budget`: bytes of drained messages allowed on
/// each rank; beyond it, or if another rank fails, an error (on all ranks).
pub fn drain(budget: u64) -> Result<DrainReport, DrainError> {
    if !state::installed() {
        return Err(DrainError::NotActive);
    }
    drain::run(budget)
}

/// The state of the MPI layer as bytes for the image. Only between a successful [`drain`] and
/// [`resume`]. `None` when MPI is not active (the program has not called `MPI_Init`, or has finalised).
pub fn serialize() -> Option<Vec<u8>> {
    if !state::installed() || !core().active {
        return None;
    }
    let c = core();
    for (_, comm) in c.state.comms.iter_mut() {
        comm.seq = comm.gate.map_or(0, |g| g.seq());
    }
    c.state.group_gates = c
        .group_gates
        .iter()
        .map(|(id, g)| (*id, g.size(), g.seq()))
        .collect();
    match postcard::to_allocvec(&c.state) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            log::error!("the MPI layer's state cannot be written: {error}");
            None
        }
    }
}

/// Opens the gates and lets waits wait again, whatever step the checkpoint had reached.
pub fn resume() {
    entry::STOP.store(0, Ordering::SeqCst);
    gate::disarm();
}

/// Restart, first half: starts the real MPI, so that [`crate::world_collective`] works before any
/// image is read. `thread_level`: what the program had asked for, `MPI_THREAD_*` of the standard ABI;
/// pass `MPI_THREAD_MULTIPLE` if that is not known yet. Optional: [`take_over`] does it if it was not done.
pub fn start(thread_level: i32) -> Result<(), RebuildError> {
    rebuild::start(thread_level)
}

/// Instead of [`rebuild`], when there is nothing to resume: the program starts at its beginning, and its
/// `MPI_Init` finds the library that [`start`] has started.
pub fn set_aside() {
    let c = core();
    c.early = std::mem::take(&mut c.active);
}

/// Restart, second part: takes `state` (from [`serialize`]) as this job's, if this library and these ranks can. What is wrong
/// with it may be wrong on one rank alone: none goes on to [`rebuild`] before all have succeeded.
pub fn take_over(state: &[u8]) -> Result<(), RebuildError> {
    rebuild::take_over(state)
}

/// Restart, last part: makes every object of the state that was taken over real again, posts again
/// the receives that were posted, and returns when all ranks have done so. Collective over the job.
/// [`crate::install`] must have been called and the program's memory must be mapped: a message for a
/// receive posted here may arrive at once. `MpiHooks::initialized` is called from inside.
pub fn rebuild() -> Result<(), RebuildError> {
    rebuild::run()
}
