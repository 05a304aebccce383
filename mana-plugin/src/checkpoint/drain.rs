//! The drain: everything in flight is brought into the memory of its receiver.
//!
//! Lower half, the MPI thread of every rank, while no code of the program runs and the job is at a
//! safe point. Two phases, each ended by an agreement of all ranks:
//!
//! 1. Counts of sent messages are exchanged. Posted receives are tested, matched messages received,
//!    and everything else taken by matched probe, until as many messages have come from each rank as
//!    it has sent. Non-blocking collectives complete (all members have started them), and so do
//!    operations on files.
//! 2. Now every message has been received somewhere, so every send completes.
//!
//! Before them every rank completes its one-sided operations, on all windows: they are in memory then,
//! here and there, and the exchange of counts tells that all ranks have come that far.
//!
//! Posted receives stay posted: none of them matches anything that was taken in, because the library
//! matches before a probe can see a message.

use super::{DrainError, DrainReport};
use crate::comms;
use crate::drained::Drained;
use crate::errors::check;
use crate::files::rebuild as files;
use crate::mail;
use crate::requests::{self, test_index};
use crate::state::{core, Outcome, Phase, Request, Work, PRIVATE};
use crate::synchronous;
use crate::windows;
use crate::world::{world_collective, WorldCollective};
use mpi_std::*;
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// How long nothing may happen before a drain gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// See [`super::drain`].
pub fn run(budget: u64) -> Result<DrainReport, DrainError> {
    let world = world_collective().ok_or(DrainError::NotActive)?;
    windows::complete_all().map_err(failed("MPI_Win_flush_all"))?;
    let expected = world
        .alltoall_words(&core().state.sent)
        .map_err(|class| DrainError::Mpi {
            operation: "MPI_Alltoall",
            class,
        })?;
    let mut report = DrainReport::default();
    // It may have connected since the intent.
    let refusal = super::refusal().map_or(Ok(()), |why| Err(DrainError::Connected(why)));
    agree(&world, refusal, 0)?;
    let synchronous = synchronous::under_way();
    let received = receive(budget, &expected, &mut report);
    let some = agree(&world, received, synchronous.len())?;
    // No operation on a file is under way on any rank.
    let noted = complete_sends().and_then(|()| files::note());
    agree(&world, noted, 0)?;
    core().hooks.files_settled();
    if some {
        synchronous::settle(&world, &synchronous)?;
    }
    let of_the_program = |index: &u32| *index != PRIVATE;
    let queues = core().state.comms.iter_mut();
    let queues = queues.filter(|(i, _)| of_the_program(i));
    super::sabotage::apply(queues.map(|(_, c)| &mut c.drained));
    requests::reap();
    forget_freed(&world).map_err(failed("MPI_Allgather"))?;
    report.bytes = held();
    report.posted = active(|r| r.work == Work::Recv).len() as u64;
    Ok(report)
}

/// Forgets communicators that every member has freed.
fn forget_freed(world: &WorldCollective) -> Outcome {
    let mine = comms::freed().len() as u64;
    if world.allgather_word(mine)?.iter().all(|n| *n == 0) {
        return Ok(());
    }
    let live: Vec<u8> = core()
        .state
        .comms
        .iter()
        .filter(|(_, c)| !c.freed || c.pending > 0)
        .flat_map(|(_, c)| c.id.to_le_bytes())
        .collect();
    let mut alive = HashSet::new();
    for ids in world.allgather(&live)? {
        alive.extend(
            ids.chunks_exact(8)
                .filter_map(|b| b.try_into().ok())
                .map(u64::from_le_bytes),
        );
    }
    comms::forget_freed(&alive);
    Ok(())
}

/// All ranks learn whether all have succeeded, and whether any has something more to exchange.
fn agree(
    world: &WorldCollective,
    mine: Result<(), DrainError>,
    more: usize,
) -> Result<bool, DrainError> {
    let votes = world
        .allgather_word(if mine.is_ok() { 1 + more as u64 } else { 0 })
        .map_err(|class| DrainError::Mpi {
            operation: "MPI_Allgather",
            class,
        })?;
    mine?;
    if votes.contains(&0) {
        return Err(DrainError::Peer);
    }
    Ok(votes.iter().any(|vote| *vote > 1))
}

/// Bytes of drained messages held.
fn held() -> u64 {
    let s = &core().state;
    let queued: u64 = s.comms.iter().map(|(_, c)| c.drained.bytes()).sum();
    let extracted: u64 = s
        .messages
        .iter()
        .filter_map(|(_, m)| m.data.as_ref())
        .map(|d| d.len() as u64)
        .sum();
    queued + extracted
}

fn active(which: impl Fn(&Request) -> bool) -> Vec<u32> {
    core()
        .state
        .requests
        .iter()
        .filter(|(_, r)| r.phase == Phase::Active && which(r) && !r.unposted())
        .map(|(i, _)| i)
        .collect()
}

fn failed(operation: &'static str) -> impl Fn(i32) -> DrainError {
    move |class| DrainError::Mpi { operation, class }
}

fn receive(budget: u64, expected: &[u64], report: &mut DrainReport) -> Result<(), DrainError> {
    let mut held = held();
    let mut since = Instant::now();
    loop {
        let mut moved = 0u64;
        for i in active(|r| r.work != Work::Generalised) {
            moved += test_index(i) as u64;
        }
        moved += receive_matched(budget, &mut held)?;
        let comms: Vec<(u32, u64)> = core()
            .state
            .comms
            .iter()
            .filter(|(_, c)| c.real != MPI_COMM_NULL)
            .map(|(i, c)| (i, c.real))
            .collect();
        for (index, real) in comms {
            while let Some(bytes) = take_one(index, real, budget, held)? {
                held += bytes;
                report.messages += 1;
                moved += 1;
            }
        }
        let missing: Vec<(usize, u64)> = core()
            .state
            .received
            .iter()
            .zip(expected)
            .enumerate()
            .filter(|(_, (got, sent))| got < sent)
            .map(|(rank, (got, sent))| (rank, sent - got))
            .collect();
        let collectives = active(|r| matches!(r.work, Work::Collective | Work::File));
        if missing.is_empty() && collectives.is_empty() {
            return Ok(());
        }
        if moved > 0 {
            since = Instant::now();
            continue;
        }
        if since.elapsed() > PATIENCE {
            let seconds = PATIENCE.as_secs();
            return Err(match missing.first() {
                Some((from, _)) => DrainError::Missing {
                    seconds,
                    missing: missing.iter().map(|(_, n)| n).sum(),
                    from: *from as u32,
                },
                None => DrainError::Stuck {
                    seconds,
                    operation: format!(
                        "{} non-blocking collectives and operations on files",
                        collectives.len()
                    ),
                },
            });
        }
        std::thread::yield_now();
    }
}

/// Receives the messages that the program has matched and not received.
fn receive_matched(budget: u64, held: &mut u64) -> Result<u64, DrainError> {
    let waiting: Vec<(u32, u64, u64)> = core()
        .state
        .messages
        .iter()
        .filter(|(_, m)| m.data.is_none())
        .map(|(i, m)| (i, m.real, m.bytes))
        .collect();
    let mut done = 0;
    for (index, real, bytes) in waiting {
        if *held + bytes > budget {
            return Err(DrainError::Budget {
                budget,
                held: *held,
            });
        }
        let data = receive_message(real, bytes).map_err(failed("MPI_Mrecv"))?;
        let c = core();
        let Some(m) = c.state.messages.get_mut(index) else {
            continue;
        };
        m.data = Some(data);
        m.real = MPI_MESSAGE_NULL;
        let (comm, source) = (m.comm, m.source);
        c.count_received(comm, source);
        *held += bytes;
        done += 1;
    }
    Ok(done)
}

/// Takes one message of a communicator in; its size.
fn take_one(index: u32, real: u64, budget: u64, held: u64) -> Result<Option<u64>, DrainError> {
    let procs = core().procs();
    let (mut flag, mut status) = (0, Status::EMPTY);
    // SAFETY: output arguments of ours, in this and the following calls.
    check(unsafe { (procs.MPI_Iprobe)(MPI_ANY_SOURCE, MPI_ANY_TAG, real, &mut flag, &mut status) })
        .map_err(failed("MPI_Iprobe"))?;
    if flag == 0 {
        return Ok(None);
    }
    if held + status.bytes() > budget {
        return Err(DrainError::Budget { budget, held });
    }
    let (source, tag) = (status.source, status.tag);
    let mut message = MPI_MESSAGE_NULL;
    // SAFETY: as above.
    check(unsafe { (procs.MPI_Improbe)(source, tag, real, &mut flag, &mut message, &mut status) })
        .map_err(failed("MPI_Improbe"))?;
    if flag == 0 {
        return Ok(None);
    }
    let bytes = status.bytes();
    let data = receive_message(message, bytes).map_err(failed("MPI_Mrecv"))?;
    let c = core();
    c.count_received(index, status.source);
    if index == PRIVATE {
        mail::drained_one(status.tag);
    }
    if let Some(comm) = c.state.comms.get_mut(index) {
        comm.drained.push(Drained {
            source: status.source,
            tag: status.tag,
            data,
            sender: None,
        });
    }
    Ok(Some(bytes))
}

/// Receives a matched message of so many bytes.
pub fn receive_message(message: u64, bytes: u64) -> Outcome<Vec<u8>> {
    let mut data = vec![0u8; bytes as usize];
    let mut message = message;
    let mut status = Status::EMPTY;
    with_bytes(bytes, |count, datatype| {
        // SAFETY: the buffer has the message's size.
        check(unsafe {
            (core().procs().MPI_Mrecv)(
                data.as_mut_ptr().cast(),
                count,
                datatype,
                &mut message,
                &mut status,
            )
        })
    })?;
    Ok(data)
}

/// Runs `with` with a count and real datatype that stand for `bytes` bytes, also beyond what an `int`
/// can count.
pub fn with_bytes(bytes: u64, with: impl FnOnce(i32, u64) -> Outcome) -> Outcome {
    if let Ok(count) = i32::try_from(bytes) {
        return with(count, MPI_BYTE);
    }
    const BLOCK: i32 = 1 << 30;
    let procs = core().procs();
    let (blocks, rest) = ((bytes >> 30) as i32, (bytes & (BLOCK as u64 - 1)) as i32);
    let (mut block, mut whole) = (MPI_DATATYPE_NULL, MPI_DATATYPE_NULL);
    // SAFETY: output arguments of ours, in this and the following calls.
    check(unsafe { (procs.MPI_Type_contiguous)(BLOCK, MPI_BYTE, &mut block) })?;
    let (lengths, places, types) = (
        [blocks, rest],
        [0i64, i64::from(blocks) << 30],
        [block, MPI_BYTE],
    );
    // SAFETY: as above, with arrays of two elements.
    check(unsafe {
        (procs.MPI_Type_create_struct)(
            2,
            lengths.as_ptr(),
            places.as_ptr(),
            types.as_ptr(),
            &mut whole,
        )
    })?;
    // SAFETY: as above.
    check(unsafe { (procs.MPI_Type_commit)(&mut whole) })?;
    let outcome = with(1, whole);
    // SAFETY: as above.
    unsafe { (procs.MPI_Type_free)(&mut whole) };
    // SAFETY: as above.
    unsafe { (procs.MPI_Type_free)(&mut block) };
    outcome
}

fn complete_sends() -> Result<(), DrainError> {
    let mut since = Instant::now();
    loop {
        let waiting = active(|r| {
            matches!(r.work, Work::Send(_) | Work::OneSided) && r.acknowledgement().is_none()
        });
        if waiting.is_empty() {
            return Ok(());
        }
        let done = waiting.iter().filter(|i| test_index(**i)).count();
        if done > 0 {
            since = Instant::now();
        } else if since.elapsed() > PATIENCE {
            let operation = format!("{} sends and transfers of the program", waiting.len());
            return Err(DrainError::Stuck {
                seconds: PATIENCE.as_secs(),
                operation,
            });
        }
        std::thread::yield_now();
    }
}
