//! Small messages of the layer to itself: one-sided news that nobody waits for in the library.
//!
//! Lower half. They go over the private communicator, each kind with a tag of its own, and are counted like all
//! messages: a drain takes in what is on its way, and an image holds it. Whoever expects a kind looks for it
//! ([`next`]). The end of MPI takes in what nobody has looked for, since some libraries complain about it.

use crate::drained::Pattern;
use crate::errors::check;
use crate::p2p;
use crate::requests;
use crate::state::{core, Outcome, PRIVATE};
use mpi_std::*;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A member has freed a communicator: see `farewells`.
pub const FAREWELL: i32 = 13;
/// A partitioned send has been made: see `partitioned`.
pub const CHANNEL: i32 = 14;
const KINDS: [i32; 2] = [FAREWELL, CHANNEL];

/// How long the end of MPI waits for what others have sent.
const PATIENCE: Duration = Duration::from_secs(30);

/// How many this process has sent to each world rank, and received.
#[derive(Debug, Default)]
pub struct Count {
    sent: BTreeMap<u32, u64>,
    received: u64,
    /// None is sent any more: MPI ends.
    over: bool,
}

/// Sends some words to a world rank.
pub fn send(world: u32, kind: i32, words: &[u64]) -> Outcome {
    let count = &mut core().mail;
    if count.over {
        return Ok(());
    }
    let data = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    p2p::send_bytes(PRIVATE, world as i32, kind, data, None)?;
    *core().mail.sent.entry(world).or_default() += 1;
    if core().orphans.len() > 1 {
        requests::reap();
    }
    Ok(())
}

/// The next message of a kind that has come: who sent it, and `N` words. What a drain has taken in comes first.
pub fn next<const N: usize>(kind: i32) -> Outcome<Option<(u32, [u64; N])>> {
    let found = match drained(kind) {
        None => receive(kind)?,
        some => some,
    };
    Ok(found.map(|(source, data)| {
        let mut words = [0; N];
        for (word, bytes) in words.iter_mut().zip(data.chunks_exact(8)) {
            *word = bytes.try_into().map_or(0, u64::from_le_bytes);
        }
        (source, words)
    }))
}

fn drained(kind: i32) -> Option<(u32, Vec<u8>)> {
    let private = core().state.comms.get_mut(PRIVATE)?;
    if private.drained.is_empty() {
        return None;
    }
    let pattern = Pattern {
        source: None,
        tag: Some(kind),
    };
    let message = private.drained.take(pattern)?;
    Some((message.source as u32, message.data))
}

fn receive(kind: i32) -> Outcome<Option<(u32, Vec<u8>)>> {
    let c = core();
    let (procs, private) = (c.procs(), c.private);
    let (mut flag, mut status) = (0, Status::EMPTY);
    // SAFETY: output arguments of ours.
    check(unsafe { (procs.MPI_Iprobe)(MPI_ANY_SOURCE, kind, private, &mut flag, &mut status) })?;
    if flag == 0 {
        return Ok(None);
    }
    let mut data = vec![0u8; status.bytes() as usize];
    // The message is there, so this does not wait.
    // SAFETY: a buffer of ours, of the message's size.
    check(unsafe {
        (procs.MPI_Recv)(
            data.as_mut_ptr().cast(),
            data.len() as i32,
            MPI_BYTE,
            status.source,
            kind,
            private,
            &mut status,
        )
    })?;
    c.count_received(PRIVATE, status.source);
    c.mail.received += 1;
    Ok(Some((status.source as u32, data)))
}

/// A drain has taken in a message of this tag on the private communicator.
pub fn drained_one(tag: i32) {
    if KINDS.contains(&tag) {
        core().mail.received += 1;
    }
}

/// MPI ends: takes in what is on its way, so that nothing is left in the library. All ranks call it.
pub fn end() -> Outcome {
    let c = core();
    c.mail.over = true;
    let mut sent = vec![0u64; c.state.size as usize];
    for (world, n) in &c.mail.sent {
        if let Some(place) = sent.get_mut(*world as usize) {
            *place = *n;
        }
    }
    let mut expected = 0u64;
    // SAFETY: one word for each rank, and one of ours.
    check(unsafe {
        (c.procs().MPI_Reduce_scatter_block)(
            sent.as_ptr().cast(),
            (&raw mut expected).cast(),
            1,
            MPI_UINT64_T,
            MPI_SUM,
            c.private,
        )
    })?;
    let begun = Instant::now();
    while core().mail.received < expected {
        for kind in KINDS {
            receive(kind)?;
        }
        if begun.elapsed() > PATIENCE {
            let missing = expected - core().mail.received;
            log::error!(
                "MPI_Finalize: {missing} messages of the MPI layer have not come in {} s",
                PATIENCE.as_secs()
            );
            break;
        }
    }
    Ok(())
}
