//! Predefined attributes: pointers to integers, which must be in the program's ABI and in memory that a
//! restart brings back.
//!
//! Upper half.

use core::sync::atomic::{AtomicI32, Ordering};

use crate::translate as t;

const FIRST: i32 = mpi_std::MPI_TAG_UB;
static VALUES: [AtomicI32; 8] = [const { AtomicI32::new(0) }; 8];

/// The program's form of a predefined attribute's value.
pub fn value(key: i32, standard: i32) -> i32 {
    match key {
        mpi_std::MPI_HOST | mpi_std::MPI_IO => t::rank_back(standard),
        mpi_std::MPI_LASTUSEDCODE if standard > mpi_std::MPI_ERR_LASTCODE => {
            t::error_back(standard)
        }
        mpi_std::MPI_LASTUSEDCODE => t::LAST_CODE,
        _ => standard,
    }
}

/// The pointer the program gets for what the lower half answered; other attributes are unchanged.
///
/// # Safety
/// For a predefined key `answer` is null or points to an integer.
pub unsafe fn in_upper_memory(key: i32, answer: *mut i32) -> *mut i32 {
    let at = key.wrapping_sub(FIRST) as usize;
    let Some(cell) = VALUES.get(at) else {
        return answer;
    };
    if answer.is_null() {
        return answer;
    }
    // SAFETY: the caller's promise.
    cell.store(value(key, unsafe { *answer }), Ordering::Relaxed);
    cell.as_ptr()
}
