//! Windows: one-sided communication (decision 003).
//!
//! Lower half. The library's window is in one permanent passive epoch (`MPI_Win_lock_all` from its
//! creation to its end); the epochs the program sees are ours, so that nothing waits for another
//! member's call inside the library, where a stop cannot reach it. What they need is on a [`Board`],
//! which a second window of the library, the control window, shows to the other members:
//!
//! | word | is | written by |
//! |---|---|---|
//! | 0 | the lock on this member's memory | sums only ([`locks`]) |
//! | 1 | completed access epochs on this member's memory | sums only ([`epochs`]) |
//! | 2 + r | exposure epochs that member r has opened for this one | sums only ([`epochs`]) |
//!
//! Sums only, because the libraries promise atomicity between equal operations only, and Open MPI
//! 4.1.4 crashes in a compare-and-swap of a process with itself.
//!
//! Window memory is upper memory, at addresses that do not change: a restart makes both library
//! windows again over it. Each window has a communicator of its own among the state's, which the
//! program never sees: its gate counts fences and the freeing, and the library's windows are made on
//! it.

mod alone;
pub mod create;
pub mod epochs;
pub mod locks;
pub mod properties;
pub mod transfer;

use self::alone::library;
use crate::entry;
use crate::errors::{self, check};
use crate::state::{core, Core, Outcome};
use mana_raw::layout::AGAIN;
use mpi_std::*;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::sync::atomic::{AtomicU64, Ordering};

/// A window.
#[derive(Debug, Serialize, Deserialize)]
pub struct Window {
    /// Today's handle of the window over the program's memory.
    #[serde(skip)]
    pub real: u64,
    /// Today's handle of the window over the board.
    #[serde(skip)]
    pub control: u64,
    /// Index of its communicator.
    pub comm: u32,
    /// `MPI_WIN_FLAVOR_*`.
    pub flavor: i32,
    /// Address of this member's memory.
    pub base: u64,
    /// Its bytes.
    pub size: i64,
    /// Displacement unit.
    pub disp_unit: i32,
    /// Attached memory of a dynamic window: address and bytes.
    pub attached: Vec<(u64, i64)>,
    /// Of a shared window: every member's memory.
    pub parts: Vec<Part>,
    /// What the other members read and write.
    pub board: Board,
    /// The program's epochs.
    pub epochs: Epochs,
    /// `MPI_Win_set_name`.
    pub name: Vec<u8>,
    /// Error handler's word.
    pub errhandler: u64,
    /// Attributes by key, in the order they were set.
    pub attributes: Vec<(i32, u64)>,
    /// Hints the program gave.
    pub info: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A member's memory in a shared window, as this member sees it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Part {
    /// Address in this process.
    pub address: u64,
    /// Bytes.
    pub size: i64,
    /// Displacement unit.
    pub disp_unit: i32,
}

/// MPICH 4.0.2 takes the memory of `MPI_Win_create` to begin at a multiple of this, whatever it is told.
const ALIGNMENT: u64 = 16;

impl Part {
    /// Bytes between where the library believes that the part begins and where it does.
    fn shift(&self) -> u64 {
        self.address % ALIGNMENT
    }

    /// The displacement in the library's window that is `disp` in the program's.
    pub fn displacement(&self, disp: i64) -> i64 {
        self.shift() as i64 + disp * i64::from(self.disp_unit)
    }
}

/// The open epochs of one window.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Epochs {
    /// The last fence lets accesses follow.
    pub fence: bool,
    /// `MPI_Win_start`: the targets.
    pub access: Option<Vec<i32>>,
    /// `MPI_Win_post`: how many origins will complete.
    pub exposure: Option<u64>,
    /// `MPI_Win_lock`.
    pub locks: Vec<(i32, Lock)>,
    /// `MPI_Win_lock_all`.
    pub all: Option<All>,
    /// Exposure epochs of each member that were matched by a start.
    pub posts: Vec<u64>,
    /// Completions that were waited for.
    pub completions: u64,
}

/// A lock this process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lock {
    /// `MPI_LOCK_EXCLUSIVE`
    Exclusive,
    /// `MPI_LOCK_SHARED`
    Shared,
    /// With `MPI_MODE_NOCHECK`: nothing is held.
    Unchecked,
}

/// A lock on all members. Members' locks are taken when they are first accessed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct All {
    /// Without `MPI_MODE_NOCHECK`.
    pub checked: bool,
    /// Members whose lock is held.
    pub held: Vec<bool>,
}

/// Words the other members operate on; see the module.
#[derive(Debug)]
pub struct Board(Box<[AtomicU64]>);

impl Board {
    /// Word of the lock.
    pub const LOCK: usize = 0;
    /// Word of completed access epochs.
    pub const COMPLETED: usize = 1;
    /// Word of the exposure epochs of member 0.
    pub const POSTED: usize = 2;

    /// A board in a window of `members`.
    pub fn new(members: usize) -> Board {
        Board(
            (0..members + Board::POSTED)
                .map(|_| AtomicU64::new(0))
                .collect(),
        )
    }

    /// A word of this member's board; the library may be writing it.
    pub fn read(&self, word: usize) -> u64 {
        self.0.get(word).map_or(0, |w| w.load(Ordering::Acquire))
    }

    fn address(&self) -> *const AtomicU64 {
        self.0.as_ptr()
    }

    fn bytes(&self) -> i64 {
        size_of_val::<[AtomicU64]>(&self.0) as i64
    }

    /// Members of the window.
    pub fn members(&self) -> usize {
        self.0.len() - Board::POSTED
    }
}

impl Serialize for Board {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let words: Vec<u64> = (0..self.0.len()).map(|i| self.read(i)).collect();
        words.serialize(to)
    }
}

impl<'de> Deserialize<'de> for Board {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let words = Vec::<u64>::deserialize(from)?;
        Ok(Board(words.into_iter().map(AtomicU64::new).collect()))
    }
}

impl Core {
    /// A window of the program.
    #[inline(always)]
    pub fn window(&mut self, word: u64) -> Outcome<&mut Window> {
        if kind_of(word) != kind::WIN {
            return Err(MPI_ERR_WIN);
        }
        self.state
            .windows
            .get_mut(index_of(word))
            .ok_or(MPI_ERR_WIN)
    }
}

/// Ends an entry: success, `AGAIN`, or an error on window `win` (any word).
#[inline(always)]
pub fn finish(outcome: Outcome, win: u64, name: &'static str) -> i32 {
    match outcome {
        Ok(()) => MPI_SUCCESS,
        Err(AGAIN) => AGAIN,
        Err(code) => raise(win, code, name),
    }
}

/// Hands an error to the handler of `win`, of the world if that is no window.
#[cold]
fn raise(win: u64, code: i32, name: &'static str) -> i32 {
    match core().window(win) {
        Ok(w) => {
            let (handler, title) = (w.errhandler, String::from_utf8_lossy(&w.name).into_owned());
            let on = match title.is_empty() {
                true => format!("window 0x{win:x}"),
                false => title,
            };
            errors::handle_error(handler, win, code, || format!("{name} on {on}"))
        }
        Err(_) => errors::raise(crate::errors::NO_OBJECT, code, name),
    }
}

/// Runs a procedure of the library that may wait for another member's progress, without the lock.
fn waiting(call: impl FnOnce() -> i32) -> Outcome {
    check(entry::unlocked(call))
}

/// Completes this process's operations on `rank`, here and there.
fn flush(real: u64, rank: i32) -> Outcome {
    let call = library(real).MPI_Win_flush;
    // SAFETY: a window of the library, always in a passive epoch on all members.
    waiting(|| unsafe { call(rank, real) })
}

/// Completes this process's operations on all members, here and there.
fn flush_all(real: u64) -> Outcome {
    let call = library(real).MPI_Win_flush_all;
    // SAFETY: as above.
    waiting(|| unsafe { call(real) })
}

/// Makes the library's windows: over the program's memory and over the board.
pub fn realise(comm: u64, window: &Window) -> Outcome<(u64, u64)> {
    let procs = core().procs();
    let real = match over_memory(comm, window) {
        Err(_) if alone::possible(window) => {
            let (base, _, unit) = memory(window);
            alone::make(base, unit, comm)
        }
        made => made?,
    };
    let board = &window.board;
    let base = board.address();
    let mut control = MPI_WIN_NULL;
    // SAFETY: the board stays where it is as long as the window lives.
    let made = check(unsafe {
        (procs.MPI_Win_create)(
            base.cast(),
            board.bytes(),
            8,
            MPI_INFO_NULL,
            comm,
            &mut control,
        )
    });
    match made {
        Err(_) if alone::possible(window) => control = alone::make(base as u64, 8, comm),
        made => made?,
    }
    for win in [real, control] {
        // SAFETY: a window of the library; nobody ever locks one exclusively.
        check(unsafe { (library(win).MPI_Win_lock_all)(MPI_MODE_NOCHECK, win) })?;
    }
    // A member whose windows are ready must not be met by one whose are not.
    // SAFETY: a communicator of ours.
    check(unsafe { (procs.MPI_Barrier)(comm) })?;
    Ok((real, control))
}

/// What the library is told of a window's memory: address, bytes, displacement unit. The parts of a
/// shared window follow each other, and begin where the program's sizes say: the library gets an
/// aligned address, and bytes as displacements (`Part::displacement`).
fn memory(window: &Window) -> (u64, i64, i32) {
    match window.flavor {
        MPI_WIN_FLAVOR_SHARED => {
            let shift = window.base % ALIGNMENT;
            (window.base - shift, window.size + shift as i64, 1)
        }
        _ => (window.base, window.size, window.disp_unit),
    }
}

fn over_memory(comm: u64, window: &Window) -> Outcome<u64> {
    let procs = core().procs();
    let mut real = MPI_WIN_NULL;
    // The hints are not passed on: they promise things about the program's epochs, not about ours.
    if window.flavor == MPI_WIN_FLAVOR_DYNAMIC {
        // SAFETY: an output argument of ours.
        check(unsafe { (procs.MPI_Win_create_dynamic)(MPI_INFO_NULL, comm, &mut real) })?;
        for (address, size) in &window.attached {
            attach(real, *address, *size)?;
        }
    } else {
        let (base, size, unit) = memory(window);
        // SAFETY: memory of the program, as it says, and an output argument of ours.
        check(unsafe {
            (procs.MPI_Win_create)(base as *const _, size, unit, MPI_INFO_NULL, comm, &mut real)
        })?;
    }
    Ok(real)
}

fn attach(real: u64, address: u64, size: i64) -> Outcome {
    // SAFETY: memory of the program, as it says.
    check(unsafe { (core().procs().MPI_Win_attach)(real, address as *const _, size) })
}

/// Every window's library handles and index, in the order that all members have in common.
fn in_order() -> Vec<(u64, u32)> {
    let c = core();
    let mut order: Vec<(u64, u32)> = c
        .state
        .windows
        .iter()
        .map(|(i, w)| (c.state.comms.get(w.comm).map_or(0, |c| c.id), i))
        .collect();
    order.sort_unstable();
    order
}

/// Whether there are windows.
pub fn any() -> bool {
    core().state.windows.iter().next().is_some()
}

/// Drain: completes all operations of this process, on all windows. All ranks call it; what is left
/// of a request is then a matter of a test.
pub fn complete_all() -> Outcome {
    // The flushes let go of the layer, so it must be held.
    let _guard = entry::enter();
    for (_, index) in in_order() {
        let Some(w) = core().state.windows.get(index) else {
            continue;
        };
        for real in [w.real, w.control] {
            flush_all(real)?;
        }
    }
    Ok(())
}

/// Restart: makes all windows again, on communicators that exist. Members make theirs in a common
/// order, so this waits for nobody who waits for us.
pub fn rebuild() -> Result<(), (i32, u64)> {
    for (id, index) in in_order() {
        let c = core();
        let Some(w) = c.state.windows.get(index) else {
            continue;
        };
        let comm = c.state.comms.get(w.comm).map_or(MPI_COMM_NULL, |c| c.real);
        let (real, control) = realise(comm, w).map_err(|code| (code, id))?;
        if let Some(w) = core().state.windows.get_mut(index) {
            (w.real, w.control) = (real, control);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_board_comes_back_with_its_words() {
        let board = Board::new(3);
        assert_eq!((board.members(), board.bytes()), (3, 40));
        for (i, word) in board.0.iter().enumerate() {
            word.store(i as u64 * 7, Ordering::Relaxed);
        }
        let bytes = postcard::to_allocvec(&board).unwrap();
        let back: Board = postcard::from_bytes(&bytes).unwrap();
        assert_eq!(back.members(), 3);
        assert!((0..5).all(|i| back.read(i) == i as u64 * 7));
        assert_eq!(back.read(5), 0);
    }
}
