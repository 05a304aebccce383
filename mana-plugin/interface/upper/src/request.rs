//! `mana_checkpoint`.
//!
//! A blocking request waits in upper code, so that the image holds the caller in the middle of this very
//! call: it returns once in the process that goes on, and once in each that is resumed.
//!
//! In a job of several ranks it is collective over all of them. Rank 0 hears from every other rank that
//! it has come to the call (or why it may not), asks, and tells all what became of it, by messages on a communicator of our
//! own. Point to point, since a rank that waits for a message can be checkpointed at any time; one that
//! waits inside a collective operation cannot, until all others have entered it.

use core::sync::atomic::{AtomicU64, Ordering};

use mana_raw::interface::{slot, CONTINUED, ERR_ARGUMENT, ERR_BUSY, ERR_FAILED, HOLDS, PENDING};
use mana_raw::layout::INTERFACE_SLOTS;
use mana_raw::{cross, cross_plain};
use mpi_std::{Status, MPI_COMM_WORLD, MPI_INT};

use crate::control::{restarts, Pause};

/// `MANA_WAIT`
const WAIT: i32 = 1;
/// `MANA_LEVEL_GLOBAL`
const HIGHEST_LEVEL: i32 = 4;

/// "Here I am", with the level asked for.
const ARRIVAL: i32 = 1;
/// What became of it.
const RESULT: i32 = 2;

/// Nanoseconds after which a rank that is missing is named first; then each time this has doubled.
const PATIENCE: u64 = 10_000_000_000;

/// The communicator of our own; 0: not made yet.
static COMM: AtomicU64 = AtomicU64::new(0);

/// The request as such.
pub fn checkpoint(level: i32, flags: i32) -> i32 {
    if !(0..=HIGHEST_LEVEL).contains(&level) || flags & !WAIT != 0 {
        return ERR_ARGUMENT;
    }
    if flags & WAIT == 0 {
        return ask(level, 0) as i32;
    }
    let place = cross_plain!(INTERFACE_SLOTS + slot::PLACE, fn() -> i64;);
    if place < 0 {
        return place as i32;
    }
    // Who holds would wait for itself; the others are told so.
    let wish = match place & HOLDS {
        0 => level,
        _ => ERR_BUSY,
    };
    let place = place & !HOLDS;
    match ((place >> 32) as i32, place as i32) {
        (..=1, _) if wish < 0 => wish,
        (..=1, _) => alone(wish),
        (size, rank) => together(wish, rank, size),
    }
}

fn ask(level: i32, wait: i32) -> i64 {
    cross_plain!(INTERFACE_SLOTS + slot::REQUEST, fn(i32, i32) -> i64; level, wait)
}

fn outcome(ticket: i64, before: u64) -> i32 {
    let mut pause = Pause::new();
    loop {
        let found = cross!(INTERFACE_SLOTS + slot::OUTCOME, fn(i64, u64) -> i32; ticket, before);
        if found != PENDING {
            return found;
        }
        pause.rest();
    }
}

/// This process asks for itself.
fn alone(level: i32) -> i32 {
    let before = restarts();
    match ask(level, 1) {
        error @ ..=-1 => error as i32,
        ticket => outcome(ticket, before),
    }
}

/// `wish`: a level, or this rank's error.
fn together(wish: i32, rank: i32, size: i32) -> i32 {
    let Some(comm) = communicator(rank) else {
        return ERR_FAILED;
    };
    if rank != 0 {
        let mut result = ERR_FAILED;
        let sent = send(wish, 0, ARRIVAL, comm);
        if sent != 0 || !receive(&mut result, 0, RESULT, comm, None) {
            return ERR_FAILED;
        }
        // This rank's own callbacks may still be running.
        if result >= CONTINUED {
            outcome(0, restarts());
        }
        return result;
    }
    let mut agreed = wish;
    for other in 1..size {
        let mut theirs = wish;
        if !receive(&mut theirs, other, ARRIVAL, comm, Some(other)) {
            return ERR_FAILED;
        }
        if agreed >= 0 && theirs != agreed {
            agreed = theirs.min(ERR_ARGUMENT);
        }
    }
    let result = match agreed {
        level @ 0.. => alone(level),
        error => error,
    };
    for other in 1..size {
        if send(result, other, RESULT, comm) != 0 {
            return ERR_FAILED;
        }
    }
    result
}

/// All ranks of the world, apart from the program's messages; made at the first call of all.
fn communicator(rank: i32) -> Option<u64> {
    let known = COMM.load(Ordering::Acquire);
    if known != 0 {
        return Some(known);
    }
    let mut made = 0u64;
    let made_at = &raw mut made;
    let rc = cross!(mpi_std::slot::MPI_Comm_split, fn(u64, i32, i32, *mut u64) -> i32;
                    MPI_COMM_WORLD, 0, rank, made_at);
    if rc != 0 {
        return None;
    }
    COMM.store(made, Ordering::Release);
    Some(made)
}

fn send(value: i32, to: i32, tag: i32, comm: u64) -> i32 {
    let from = &raw const value;
    cross!(mpi_std::slot::MPI_Send, fn(*const i32, i32, u64, i32, i32, u64) -> i32;
           from, 1, MPI_INT, to, tag, comm)
}

/// Receives one number, without keeping the processor busy. `name`: the rank to name when it is late.
fn receive(value: &mut i32, from: i32, tag: i32, comm: u64, name: Option<i32>) -> bool {
    let (mut request, mut status, mut there) = (0u64, Status::default(), 0i32);
    let (into, request_at) = (&raw mut *value, &raw mut request);
    let rc = cross!(mpi_std::slot::MPI_Irecv, fn(*mut i32, i32, u64, i32, i32, u64, *mut u64) -> i32;
                    into, 1, MPI_INT, from, tag, comm, request_at);
    if rc != 0 {
        return false;
    }
    let (mut pause, mut waited, mut patience) = (Pause::new(), 0u64, PATIENCE);
    loop {
        let (there_at, status_at) = (&raw mut there, &raw mut status);
        let rc = cross!(mpi_std::slot::MPI_Test, fn(*mut u64, *mut i32, *mut Status) -> i32;
                        request_at, there_at, status_at);
        if rc != 0 {
            return false;
        }
        // SAFETY: `there` lives in this frame; written by the call above.
        if unsafe { there_at.read_volatile() } != 0 {
            return true;
        }
        waited += pause.rest();
        if let (Some(rank), true) = (name, waited >= patience) {
            patience = patience.saturating_mul(2);
            let seconds = (waited / 1_000_000_000) as i32;
            cross!(INTERFACE_SLOTS + slot::MISSING, fn(i32, i32) -> i32; rank, seconds);
        }
    }
}
