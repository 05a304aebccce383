//! The program of the trials: adds numbers up over all ranks, for some seconds, with a known result.
//!
//! It is this very program, executed again under control. MPI is what happens to be loaded (our stub, or
//! nothing), and is looked up by name, because this program is linked with none.
#![allow(
    unsafe_code,
    reason = "functions of an MPI library that is found at run time"
)]

use std::ffi::{c_char, c_int, c_void, CStr};
use std::time::Duration;

use crate::message::Failure;

/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(50);
/// Rounds a second.
const ROUNDS: u32 = 20;
/// Nobody may be left to resume it.
const HOLD: Duration = Duration::from_secs(180);

type Init = unsafe extern "C" fn(*mut c_int, *mut *mut *mut c_char) -> c_int;
type Ask = unsafe extern "C" fn(usize, *mut c_int) -> c_int;
type Reduce = unsafe extern "C" fn(*const c_void, *mut c_void, c_int, usize, usize, usize) -> c_int;
type End = unsafe extern "C" fn() -> c_int;

/// The MPI of this process. Handles are pointers or integers, and travel in the same registers.
struct Mpi {
    rank: u32,
    size: u32,
    world: usize,
    integer: usize,
    sum: usize,
    reduce: Reduce,
    end: End,
}

fn symbol(name: &CStr) -> Option<usize> {
    // SAFETY: the name is NUL-terminated.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!found.is_null()).then_some(found as usize)
}

impl Mpi {
    /// Starts MPI, if one is loaded.
    fn start() -> Result<Option<Self>, Failure> {
        let Some(init) = symbol(c"MPI_Init") else {
            return Ok(None);
        };
        let need = |name: &CStr| {
            symbol(name)
                .ok_or_else(|| Failure::new(format!("{} is missing", name.to_string_lossy())))
        };
        // Constants of mpi.h: Open MPI's are objects, MPICH's numbers.
        let (world, integer, sum) = match symbol(c"ompi_mpi_comm_world") {
            Some(world) => (world, need(c"ompi_mpi_int")?, need(c"ompi_mpi_op_sum")?),
            None => (0x4400_0000, 0x4c00_0405, 0x5800_0003),
        };
        // SAFETY: the standard's signatures.
        let init: Init = unsafe { std::mem::transmute(init) };
        // SAFETY: as above.
        let ask_rank: Ask = unsafe { std::mem::transmute(need(c"MPI_Comm_rank")?) };
        // SAFETY: as above.
        let ask_size: Ask = unsafe { std::mem::transmute(need(c"MPI_Comm_size")?) };
        // SAFETY: as above.
        let reduce: Reduce = unsafe { std::mem::transmute(need(c"MPI_Allreduce")?) };
        // SAFETY: as above.
        let end: End = unsafe { std::mem::transmute(need(c"MPI_Finalize")?) };
        let (mut rank, mut size) = (0, 0);
        // SAFETY: null arguments are allowed since MPI-2.
        unsafe { init(std::ptr::null_mut(), std::ptr::null_mut()) };
        // SAFETY: the world's handle and an integer.
        unsafe { ask_rank(world, &mut rank) };
        // SAFETY: as above.
        unsafe { ask_size(world, &mut size) };
        Ok(Some(Self {
            rank: u32::try_from(rank).unwrap_or(0),
            size: u32::try_from(size).unwrap_or(1),
            world,
            integer,
            sum,
            reduce,
            end,
        }))
    }

    fn add(&self, mine: i32) -> i32 {
        let mut all = 0i32;
        let (from, to) = (std::ptr::from_ref(&mine), std::ptr::from_mut(&mut all));
        // SAFETY: one integer each, and handles of the library.
        unsafe {
            (self.reduce)(
                from.cast(),
                to.cast(),
                1,
                self.integer,
                self.sum,
                self.world,
            )
        };
        all
    }
}

/// What a rank adds in a round.
fn part(round: u32, rank: u32) -> i32 {
    let mixed = (u64::from(round) << 32 | u64::from(rank)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    i32::try_from(mixed >> 44).unwrap_or(0) % 1000
}

fn fold(hash: u64, value: i32) -> u64 {
    (hash ^ u64::from(value.unsigned_abs())).wrapping_mul(0x0000_0100_0000_01b3)
}

/// The result of so many seconds on so many ranks.
pub fn expected(seconds: u32, size: u32) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325;
    for round in 0..seconds * ROUNDS + 1 {
        hash = fold(hash, (0..size).map(|rank| part(round, rank)).sum());
    }
    line(hash, size)
}

fn line(hash: u64, size: u32) -> String {
    format!("RESULT {hash:016x} of {size} ranks")
}

/// Whether this process is one of a resumed job. (Nothing of ours, nothing to wait for.)
fn is_resumed() -> bool {
    symbol(c"mana_1_restarts").is_none_or(|restarts| {
        // SAFETY: as mana.h declares it.
        let restarts: extern "C" fn() -> c_int = unsafe { std::mem::transmute(restarts) };
        restarts() != 0
    })
}

/// `mana exercise`: so many seconds, and then until it was resumed, [`HOLD`] at most.
pub fn exercise(seconds: u32, until_resumed: bool) -> Result<i32, Failure> {
    let mpi = Mpi::start()?;
    let (rank, size) = mpi.as_ref().map_or((0, 1), |mpi| (mpi.rank, mpi.size));
    let mut hash = 0xcbf2_9ce4_8422_2325;
    for round in 0..seconds * ROUNDS + 1 {
        let mine = part(round, rank);
        hash = fold(hash, mpi.as_ref().map_or(mine, |mpi| mpi.add(mine)));
        if round > 0 {
            std::thread::sleep(PAUSE);
        }
    }
    let mut held = Duration::ZERO;
    while until_resumed && held < HOLD && !is_resumed() {
        std::thread::sleep(PAUSE);
        held += PAUSE;
    }
    if rank == 0 {
        println!("{}", line(hash, size));
    }
    if let Some(mpi) = mpi {
        // SAFETY: no arguments; nothing of MPI is used after it.
        unsafe { (mpi.end)() };
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_differ() {
        assert_eq!(expected(1, 2), expected(1, 2));
        assert_ne!(expected(1, 2), expected(2, 2));
        assert_ne!(expected(1, 2), expected(1, 3));
        assert!((0..100).map(|r| part(r, 3)).any(|p| p != part(0, 3)));
    }
}
