//! Reductions of more elements than an `int` counts.
//!
//! Lower half. The elements are taken together in blocks that an `int` counts: a contiguous datatype, and an operation
//! of ours that applies the program's to each element of a block (`ops::Blocks`). All members give the same counts
//! (MPI-4.0, 6.9), so all take the same blocks without asking each other, and blocking, non-blocking and persistent
//! forms are ordinary calls with one request, on any library. A block is as short as the numbers allow, so that the
//! library may still divide the vector; a prime number of elements is one block. Where the result is scattered, an `int`
//! has room for the sum: libraries add the counts up in one (MPICH 4.0.2 refuses its own `MPI_Reduce_scatter_block_c`
//! beyond it).
//!
//! `MPI_Reduce_scatter_c` whose counts have no common block goes to the library's own (see `large_arrays`), with what
//! that makes of it: MPICH 4.0.2 ends with an error or a segmentation fault where the sum is beyond an `int`.

use crate::entry;
use crate::errors::{check, finish};
use crate::large::{contiguous, integers, Integers};
use crate::ops::{self, Blocks};
use crate::state::{core, Outcome};
use crate::{collectives, datatypes};
use mpi_std::*;
use std::ffi::c_void;

/// Divisors that are tried for the shortest block.
const TRIES: u64 = 1 << 16;

/// The shortest length of which every number is a multiple that an `int` holds.
pub fn block(numbers: impl Iterator<Item = i64> + Clone) -> Option<i64> {
    let most = numbers.clone().map(i64::unsigned_abs).max().unwrap_or(0);
    block_for(most, numbers)
}

/// The same where an `int` holds as many blocks as are in `most`.
fn block_for(most: u64, numbers: impl Iterator<Item = i64>) -> Option<i64> {
    let common = numbers.map(i64::unsigned_abs).fold(0, gcd);
    let least = most.div_ceil(i32::MAX as u64).max(1);
    if common == 0 || common < least {
        return (most == 0).then_some(1);
    }
    let short = (least..=common.min(least + TRIES)).find(|n| common % n == 0);
    i64::try_from(short.unwrap_or(common)).ok()
}

fn gcd(a: u64, b: u64) -> u64 {
    match b {
        0 => a,
        _ => gcd(b, a % b),
    }
}

/// A datatype and an operation that an ordinary entry takes. What was made for it goes with it; a request or a recipe
/// that needs it holds it longer.
pub struct Element {
    datatype: u64,
    op: u64,
    made: bool,
}

impl Element {
    fn new(length: i64, datatype: u64, op: u64) -> Outcome<Element> {
        if length == 1 {
            return Ok(Element {
                datatype,
                op,
                made: false,
            });
        }
        let blocks = Blocks {
            op,
            datatype,
            count: length,
        };
        let op = ops::on_blocks(blocks)?;
        let mut made = Element {
            datatype: MPI_DATATYPE_NULL,
            op,
            made: true,
        };
        made.datatype = contiguous(length, datatype)?;
        Ok(made)
    }
}

impl Drop for Element {
    fn drop(&mut self) {
        if self.made {
            // SAFETY: a word of ours.
            unsafe { ops::MPI_Op_free(&mut self.op) };
        }
        if self.made && self.datatype != MPI_DATATYPE_NULL {
            // SAFETY: as above.
            unsafe { datatypes::MPI_Type_free(&mut self.datatype) };
        }
    }
}

/// The arguments of a reduction with one count.
pub struct Reduction {
    /// Elements.
    pub count: i32,
    element: Element,
}

/// `count` elements of `datatype` under `op`, for each of so many processes.
pub fn reduction(count: i64, processes: usize, datatype: u64, op: u64) -> Outcome<Reduction> {
    if count < 0 {
        return Err(MPI_ERR_COUNT);
    }
    let most = (count as u64).saturating_mul(processes as u64);
    // One block is always possible.
    let length = block_for(most, [count].into_iter()).unwrap_or(count);
    Ok(Reduction {
        count: (count / length) as i32,
        element: Element::new(length, datatype, op)?,
    })
}

impl Reduction {
    /// Word of the datatype.
    pub fn datatype(&self) -> u64 {
        self.element.datatype
    }

    /// Word of the operation.
    pub fn op(&self) -> u64 {
        self.element.op
    }
}

/// The arguments of a reduction with a count for each process.
pub struct Scattered {
    counts: Integers,
    element: Element,
}

/// The counts `from` of `n` processes, in elements of `datatype` under `op`.
///
/// # Safety
/// `from` is null or has `n` elements.
pub unsafe fn scattered(from: *const i64, n: usize, datatype: u64, op: u64) -> Outcome<Scattered> {
    // SAFETY: the caller's promise.
    let all = unsafe { counts(from, n) };
    let each = || block(all.iter().copied());
    let length = common(all).or_else(each).unwrap_or(1);
    Ok(Scattered {
        // SAFETY: as above.
        counts: unsafe { integers(from, n, true, |_, count| count / length) }?,
        element: Element::new(length, datatype, op)?,
    })
}

/// Whether the counts have a common block.
///
/// # Safety
/// `from` is null or has `n` elements.
pub unsafe fn divisible(from: *const i64, n: usize) -> bool {
    // SAFETY: the caller's promise.
    common(unsafe { counts(from, n) }).is_some()
}

/// # Safety
/// `from` is null or has `n` elements.
unsafe fn counts<'a>(from: *const i64, n: usize) -> &'a [i64] {
    if from.is_null() {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(from, n) }
}

fn common(counts: &[i64]) -> Option<i64> {
    let sizes = counts.iter().map(|n| n.unsigned_abs());
    let sum = sizes.fold(0, u64::saturating_add);
    block_for(sum, counts.iter().copied())
}

impl Scattered {
    /// The counts.
    pub fn counts(&self) -> *const i32 {
        self.counts.pointer()
    }

    /// Word of the datatype.
    pub fn datatype(&self) -> u64 {
        self.element.datatype
    }

    /// Word of the operation.
    pub fn op(&self) -> u64 {
        self.element.op
    }

    /// What the library may look at until the request completes.
    pub fn arrays(&mut self) -> Vec<Integers> {
        vec![std::mem::take(&mut self.counts)]
    }
}

pub unsafe extern "C" fn MPI_Reduce_local_c(
    inbuf: *const c_void,
    inoutbuf: *mut c_void,
    count: i64,
    datatype: u64,
    op: u64,
) -> i32 {
    let _guard = entry::enter();
    let outcome = (|| {
        let whole = reduction(count, 1, datatype, op)?;
        let real = core().real_type(whole.datatype())?;
        let op = collectives::op(whole.op(), whole.datatype(), real);
        // SAFETY: the program's arguments, with real handles.
        check(unsafe { (core().procs().MPI_Reduce_local)(inbuf, inoutbuf, whole.count, real, op) })
    })();
    finish(outcome, crate::errors::NO_OBJECT, "MPI_Reduce_local_c")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(numbers: &[i64]) -> Option<i64> {
        block(numbers.iter().copied())
    }

    #[test]
    fn what_an_int_counts_is_left_as_it_is() {
        assert_eq!(of(&[]), Some(1));
        assert_eq!(of(&[0, 0]), Some(1));
        assert_eq!(of(&[5, 7, i32::MAX.into()]), Some(1));
        assert_eq!(of(&[-5, i32::MIN as i64 + 1]), Some(1));
    }

    #[test]
    fn blocks_are_as_short_as_the_numbers_allow() {
        assert_eq!(of(&[1 << 32]), Some(4));
        assert_eq!(of(&[(1 << 31) + 5]), Some(7));
        assert_eq!(of(&[3 << 40, 9 << 40, 0]), Some(3 << 11));
        // A prime number.
        assert_eq!(of(&[2_147_483_659]), Some(2_147_483_659));
    }

    #[test]
    fn the_sum_of_what_is_scattered_fits() {
        assert_eq!(common(&[1 << 31, 1 << 31]), Some(4));
        assert_eq!(common(&[1 << 30, 1 << 30]), Some(2));
        assert_eq!(common(&[1 << 30, 1 << 30, 3]), None);
        assert_eq!(common(&[5, 7]), Some(1));
    }

    #[test]
    fn numbers_without_a_common_block_have_none() {
        assert_eq!(of(&[(1 << 32) + 1, 3]), None);
        assert_eq!(of(&[1 << 33, 2]), None);
    }
}
