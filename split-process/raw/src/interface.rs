//! What the library of the application interface (upper half) and the launcher (lower half) agree on:
//! numbers of slots, results, and the structure through which events reach the program.
//!
//! **Events.** The lower half appends an event to `queue`, raises `posted` and wakes whoever waits on
//! that word; the program's event thread runs the callbacks and raises `done`. Both are counters that
//! only grow (and wrap); their difference is at most [`QUEUE`]. The structure is static data of the
//! library, part of every image: a restart goes on with the counters as they were.

use core::sync::atomic::AtomicU32;

/// Slots, counted from `layout::INTERFACE_SLOTS`.
pub mod slot {
    /// `(*const Events) -> i32`: events are wanted from now on.
    pub const REGISTER: usize = 0;
    /// `(level: i32, wait: i32) -> i64`: a checkpoint is wanted; a ticket, 0, or an error.
    pub const REQUEST: usize = 1;
    /// `(ticket: i64, restarts: u64) -> i32`: [`super::PENDING`], or what became of it.
    pub const OUTCOME: usize = 2;
    /// `() -> u64`: how often the program was resumed.
    pub const RESTARTS: usize = 3;
    /// `(why: *const u8, len: usize) -> i32`: no checkpoint from here on.
    pub const HOLD: usize = 4;
    /// `() -> i32`: takes one hold back.
    pub const RELEASE: usize = 5;
    /// `(address: usize, len: usize) -> i32`
    pub const EXCLUDE: usize = 6;
    /// `(address: usize, len: usize) -> i32`
    pub const INCLUDE: usize = 7;
    /// `(key: *const u8, len: usize, value: *const u8, len: usize) -> i32`
    pub const PUBLISH: usize = 8;
    /// `() -> i64`: size of the world (bits 32 and up), rank in it, [`super::HOLDS`]; an error before the
    /// job has begun, or in a callback.
    pub const PLACE: usize = 9;
    /// `(on: i32) -> i32`: the calling thread begins (1) or ends (0) to run callbacks.
    pub const CALLBACKS: usize = 10;
    /// `(rank: i32, seconds: i32) -> i32`: a collective request still waits for this rank.
    pub const MISSING: usize = 11;
    /// How many there are.
    pub const COUNT: usize = 12;
}

/// Of `OUTCOME`: not decided yet.
pub const PENDING: i32 = 0;
/// The checkpoint is taken and the program has gone on.
pub const CONTINUED: i32 = 1;
/// The program has been resumed from an image.
pub const RESUMED: i32 = 2;

/// Of `PLACE`: the calling thread holds checkpoints back.
pub const HOLDS: i64 = 1 << 62;

/// Not under control (never returned by a slot).
pub const ERR_NOT_RUNNING: i32 = -1;
/// An argument makes no sense.
pub const ERR_ARGUMENT: i32 = -2;
/// The checkpoint was not taken; standard error says why.
pub const ERR_FAILED: i32 = -3;
/// Checkpoints are not possible now: before `MPI_Init`, after `MPI_Finalize`, or without coordinator.
pub const ERR_CLOSED: i32 = -4;
/// Not possible while this thread holds checkpoints back, or from a callback.
pub const ERR_BUSY: i32 = -5;
/// More than there is room for.
pub const ERR_FULL: i32 = -6;

/// Before the threads stop for an image.
pub const EVENT_CHECKPOINT: u32 = 1;
/// After it, in the same process (also when the checkpoint was given up).
pub const EVENT_CONTINUED: u32 = 2;
/// After it, in a new process.
pub const EVENT_RESTARTED: u32 = 3;

/// Events that may be on their way.
pub const QUEUE: usize = 8;

/// [`Events::magic`]
pub const EVENTS_MAGIC: u64 = u64::from_le_bytes(*b"mana-evt");
/// [`Events::version`]
pub const EVENTS_VERSION: u32 = 1;

/// See the module's text.
#[repr(C)]
#[derive(Debug)]
pub struct Events {
    /// [`EVENTS_MAGIC`]
    pub magic: u64,
    /// [`EVENTS_VERSION`]
    pub version: u32,
    /// Events appended so far; a futex.
    pub posted: AtomicU32,
    /// Events dealt with; a futex.
    pub done: AtomicU32,
    /// Which of the callbacks is running, counted from 1; 0: none.
    pub running: AtomicU32,
    /// The last events, by their number modulo [`QUEUE`].
    pub queue: [AtomicU32; QUEUE],
}
