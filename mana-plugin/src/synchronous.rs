//! Synchronous sends whose message a drain has taken in: they complete when the program receives it.
//!
//! Lower half. The library completes such a send at the drain, since the drain has received it; for
//! the program it must go on until its own matching receive has begun (MPI-3.1, section 3.4). So
//! the receiver marks the drained message, and acknowledges it over the private communicator when
//! the program takes it; the sender's request waits for that acknowledgement instead.
//!
//! *Which* drained message belongs to a send is known by counting from the end: MPI does not let
//! messages of one sender, communicator and tag overtake each other, so those in the queue are the
//! last ones sent. While a synchronous send is under way, its communicator counts all sends by
//! destination and tag ([`Log`]).

use crate::checkpoint::DrainError;
use crate::errors::check;
use crate::p2p;
use crate::state::{core, Core, Outcome, Phase, Request, Work, PRIVATE};
use crate::world::WorldCollective;
use mpi_std::*;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Tags of acknowledgements on the private communicator; below are those of its own collectives, above
/// those of partitioned messages. More sends than this to one rank share tags, and then one may
/// complete at the receive of another.
const TAGS: std::ops::Range<u64> = 16..1024;

/// Sends on a communicator since a synchronous one is under way.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Log {
    /// Synchronous sends under way.
    active: u32,
    /// Number of sends by destination and tag.
    started: HashMap<(i32, i32), u64>,
}

impl Log {
    /// One more send.
    pub fn count(&mut self, dest: i32, tag: i32) {
        *self.started.entry((dest, tag)).or_default() += 1;
    }
}

/// Where an acknowledgement goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sender {
    /// Rank in the world.
    world: u32,
    /// Tag on the private communicator.
    tag: i32,
}

/// How far a synchronous send is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Progress {
    /// In the library: its number among the sends of its [`Log`].
    Sent(u64),
    /// Drained: the acknowledgement is awaited from this world rank, with this tag.
    Drained(u32, i32),
}

/// A synchronous send on `comm` begins; to be called before it is counted.
#[cold]
pub fn begin(comm: u32) {
    if let Some(c) = core().state.comms.get_mut(comm) {
        c.synchronous.get_or_insert_default().active += 1;
    }
}

/// The number of the send that was counted last.
#[cold]
pub fn number(comm: u32, dest: i32, tag: i32) -> Progress {
    let comms = &core().state.comms;
    let log = comms.get(comm).and_then(|c| c.synchronous.as_ref());
    let number = log.and_then(|log| log.started.get(&(dest, tag)));
    Progress::Sent(number.copied().unwrap_or(0))
}

/// A synchronous send on `comm` has ended.
#[cold]
pub fn end(comm: u32) {
    let Some(c) = core().state.comms.get_mut(comm) else {
        return;
    };
    if let Some(log) = &mut c.synchronous {
        log.active = log.active.saturating_sub(1);
        if log.active == 0 {
            c.synchronous = None;
        }
    }
}

impl Core {
    /// Books that a synchronous send is complete for the program.
    pub fn complete_synchronous(&mut self, comm: u32, progress: Progress) {
        match progress {
            Progress::Sent(_) => end(comm),
            Progress::Drained(world, _) => self.count_received(PRIVATE, world as i32),
        }
    }
}

/// The program receives a drained message: its sender, if it waits for that, is told.
pub fn acknowledge(sender: Option<Sender>) {
    let Some(Sender { world, tag }) = sender else {
        return;
    };
    if let Err(class) = p2p::send_bytes(PRIVATE, world as i32, tag, Vec::new(), None) {
        log::error!(
            "a synchronous send of rank {world} cannot be acknowledged: MPI error class {class}"
        );
    }
}

/// Posts the receive of an acknowledgement.
pub fn await_acknowledgement(world: u32, tag: i32) -> Outcome<u64> {
    let c = core();
    let mut real = MPI_REQUEST_NULL;
    // SAFETY: no bytes are received; an output argument of ours.
    check(unsafe {
        (c.procs().MPI_Irecv)(
            std::ptr::null_mut(),
            0,
            MPI_BYTE,
            world as i32,
            tag,
            c.private,
            &mut real,
        )
    })?;
    Ok(real)
}

/// A send that the drain may complete before the program's receive.
pub struct Waiting {
    /// Its request.
    request: u32,
    /// World rank it goes to.
    world: u32,
    /// What the receiver needs to find the message.
    claim: Claim,
}

/// Names one message to its receiver.
#[derive(Serialize, Deserialize)]
struct Claim {
    /// Communicator.
    comm: u64,
    /// The sender's rank in it.
    source: i32,
    /// The message's tag.
    tag: i32,
    /// How many of the same sender, communicator and tag were sent after it.
    later: u64,
    /// Tag of the acknowledgement.
    acknowledgement: i32,
}

fn progress(r: &Request) -> Option<Progress> {
    let waits = r.phase == Phase::Active && !r.orphan && matches!(r.work, Work::Send(_));
    r.kept.as_ref()?.synchronous.filter(|_| waits)
}

/// The synchronous sends in the library; to be asked before the drain receives anything.
pub fn under_way() -> Vec<Waiting> {
    let s = &mut core().state;
    let mut serial = s.serial;
    let mut all = Vec::new();
    for (request, r) in s.requests.iter() {
        let (Some(Progress::Sent(number)), Some(comm)) = (progress(r), s.comms.get(r.comm)) else {
            continue;
        };
        let Some(&world) = comm.members.get(r.peer as usize) else {
            continue;
        };
        let log = comm.synchronous.as_ref();
        let last = log.and_then(|log| log.started.get(&(r.peer, r.tag)));
        let spread = TAGS.start + serial % (TAGS.end - TAGS.start);
        serial += 1;
        all.push(Waiting {
            request,
            world,
            claim: Claim {
                comm: comm.id,
                source: comm.rank,
                tag: r.tag,
                later: last.map_or(0, |last| last.saturating_sub(number)),
                acknowledgement: spread as i32,
            },
        });
    }
    s.serial = serial;
    all
}

/// After the drain, with all sends complete in the library: receivers mark the messages of `waiting`
/// that they hold, and those sends wait for the acknowledgement. Collective.
pub fn settle(world: &WorldCollective, waiting: &[Waiting]) -> Result<(), DrainError> {
    let failed = |operation| move |class| DrainError::Mpi { operation, class };
    let towards = |rank: u32| waiting.iter().filter(move |w| w.world == rank);
    let mut claims = Vec::new();
    for rank in 0..world.size() {
        let mine: Vec<&Claim> = towards(rank).map(|w| &w.claim).collect();
        claims.push(postcard::to_allocvec(&mine).map_err(DrainError::Encode)?);
    }
    let claims = world.alltoall(&claims).map_err(failed("MPI_Alltoall"))?;
    let mut answers = Vec::new();
    for (sender, bytes) in claims.iter().enumerate() {
        let claims: Vec<Claim> = postcard::from_bytes(bytes).map_err(DrainError::Encode)?;
        let held = claims.iter().map(|claim| mark(sender as u32, claim));
        answers.push(held.map(u8::from).collect());
    }
    let answers = world.alltoall(&answers).map_err(failed("MPI_Alltoall"))?;
    for (rank, held) in answers.iter().enumerate() {
        for (w, _) in towards(rank as u32)
            .zip(held)
            .filter(|(_, held)| **held == 1)
        {
            wait_on(w).map_err(failed("MPI_Irecv"))?;
        }
    }
    for (_, comm) in core().state.comms.iter_mut() {
        comm.synchronous = None;
    }
    Ok(())
}

/// Marks the message that `claim` names; whether it is held.
fn mark(sender: u32, claim: &Claim) -> bool {
    let comms = core().state.comms.iter_mut();
    let mut comms = comms.map(|(_, c)| c).filter(|c| c.id == claim.comm);
    let message = comms.find_map(|c| c.drained.newest(claim.source, claim.tag, claim.later));
    message.is_some_and(|m| {
        m.sender = Some(Sender {
            world: sender,
            tag: claim.acknowledgement,
        });
        true
    })
}

/// A send that is complete in the library goes on until it is acknowledged.
fn wait_on(w: &Waiting) -> Outcome {
    let tag = w.claim.acknowledgement;
    let real = await_acknowledgement(w.world, tag)?;
    let r = core().request(w.request)?;
    r.phase = Phase::Active;
    r.real = real;
    if let Some(kept) = &mut r.kept {
        kept.synchronous = Some(Progress::Drained(w.world, tag));
    }
    Ok(())
}
