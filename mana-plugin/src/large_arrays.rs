//! Arrays of counts and displacements beyond an `int`, in collectives.
//!
//! Lower half. Every process has its own arrays, and one that has only small numbers cannot know of another's: each
//! must decide alone, and what it calls must match what the others call.
//!
//! | form | beyond an `int` |
//! |---|---|
//! | with a datatype for each process (`w`) | that process's block is one element of a datatype made for it, which has the displacement in it. Type signatures are the same, so it matches anything, on any library |
//! | with one datatype (`v`), a library that has `MPI_X_c` | the library's own. It is one procedure with `MPI_X` (MPI-4.0, 2.5.8), so it matches the calls of the others |
//! | with one datatype, a library without | blocks of a datatype of several elements, if the numbers have a common divisor; else `MPI_ERR_COUNT` with a line |
//!
//! No agreement is made: it would have to come before every call, of small numbers too, and a non-blocking call must
//! not wait for it. The library's own is called through the same gate and leaves the same kind of request as the
//! ordinary form. A persistent one is a recipe with the large numbers, so each start decides by today's library.
//! `MPI_Reduce_scatter_c` prefers common blocks (`large_reductions`): all members have the same numbers there.

use crate::datatypes;
use crate::large::{contiguous, integers, Integers};
use crate::large_reductions::block;
use crate::large_types::committed;
use crate::state::{core, Outcome};
use mpi_std::*;
use std::ffi::CStr;

/// Whether the library below has the procedure.
pub fn has(name: &CStr) -> bool {
    // SAFETY: a string.
    unsafe { (core().adapter.extras.has)(name.as_ptr()) }
}

/// An array of the program; none if it is null or not looked at.
///
/// # Safety
/// `from` is null or has `n` elements, or `significant` is false.
unsafe fn array<'a, T>(from: *const T, n: usize, significant: bool) -> Option<&'a [T]> {
    let there = significant && !from.is_null();
    // SAFETY: the caller's promise.
    there.then(|| unsafe { std::slice::from_raw_parts(from, n) })
}

fn small(n: i64) -> bool {
    i32::try_from(n).is_ok()
}

/// Whether an `int` has room for each number of the array.
///
/// # Safety
/// `from` is null or has `n` elements, or `significant` is false.
pub unsafe fn fit(from: *const i64, n: usize, significant: bool) -> bool {
    // SAFETY: the caller's promise.
    unsafe { array(from, n, significant) }.is_none_or(|all| all.iter().all(|n| small(*n)))
}

/// Counts and displacements in elements of one datatype, as an ordinary entry takes them.
pub struct Blocks {
    counts: Integers,
    places: Integers,
    datatype: u64,
    made: bool,
}

impl Drop for Blocks {
    fn drop(&mut self) {
        if self.made {
            // SAFETY: a word of ours.
            unsafe { datatypes::MPI_Type_free(&mut self.datatype) };
        }
    }
}

/// Elements of a block, and how many lie between the places that displacements count: such that all numbers fit.
fn divided(counts: &[i64], places: &[i64]) -> Option<(i64, i64)> {
    // Where nothing is, it does not matter where.
    let places = || {
        let filled = counts.iter().zip(places).filter(|(n, _)| **n != 0);
        filled.map(|(_, at)| *at)
    };
    if let Some(both) = block(counts.iter().copied().chain(places())) {
        return Some((both, both));
    }
    // Blocks that do not follow each other may lie anywhere.
    let length = counts.iter().copied().find(|n| *n != 0)?;
    let alike = counts.iter().all(|n| *n == 0 || *n == length);
    Some((length, block(places()).filter(|_| alike)?))
}

/// `n` counts and displacements in elements of `datatype`.
///
/// # Safety
/// Each array is null or has `n` elements, or `significant` is false.
pub unsafe fn blocks(
    counts: *const i64,
    places: *const i64,
    n: usize,
    significant: bool,
    datatype: u64,
) -> Outcome<Blocks> {
    // SAFETY: the caller's promise, here and below.
    let (all, at) = unsafe { (array(counts, n, significant), array(places, n, significant)) };
    let (length, step) = match (all, at) {
        (Some(all), Some(at)) if !all.iter().chain(at).all(|n| small(*n)) => {
            divided(all, at).unwrap_or((1, 1))
        }
        _ => (1, 1),
    };
    let empty = |i: usize| all.is_some_and(|all| all[i] == 0);
    let counted = |i: usize, at: i64| if empty(i) && !small(at) { 0 } else { at / step };
    let mut blocks = Blocks {
        // SAFETY: as above.
        counts: unsafe { integers(counts, n, significant, |_, count| count / length) }?,
        // SAFETY: as above.
        places: unsafe { integers(places, n, significant, counted) }?,
        datatype,
        made: false,
    };
    if (length, step) != (1, 1) {
        blocks.datatype = match length == step {
            true => contiguous(length, datatype)?,
            false => committed(|steps| {
                let block = steps.contiguous(length, datatype)?;
                steps.every(step, datatype, block)
            })?,
        };
        blocks.made = true;
    }
    Ok(blocks)
}

impl Blocks {
    /// The counts.
    pub fn counts(&self) -> *const i32 {
        self.counts.pointer()
    }

    /// The displacements.
    pub fn places(&self) -> *const i32 {
        self.places.pointer()
    }

    /// Word of the datatype.
    pub fn datatype(&self) -> u64 {
        self.datatype
    }

    /// What the library may look at until the request completes.
    pub fn arrays(&mut self) -> Vec<Integers> {
        vec![
            std::mem::take(&mut self.counts),
            std::mem::take(&mut self.places),
        ]
    }
}

/// Counts, displacements in bytes and datatypes of each process, as an ordinary entry takes them.
pub struct Places {
    counts: Integers,
    places: Integers,
    types: Option<Box<[u64]>>,
    made: Vec<u64>,
}

impl Drop for Places {
    fn drop(&mut self) {
        for word in &mut self.made {
            // SAFETY: a word of ours.
            unsafe { datatypes::MPI_Type_free(word) };
        }
    }
}

/// Counts, displacements and datatypes of `n` processes. Without `places` the displacements are addresses, and stay.
///
/// # Safety
/// Each array is null or has `n` elements, or `significant` is false.
pub unsafe fn places(
    counts: *const i64,
    places: *const i64,
    types: *const u64,
    n: usize,
    significant: bool,
) -> Outcome<Places> {
    // SAFETY: the caller's promise, here and below.
    let (all, at) = unsafe { (array(counts, n, significant), array(places, n, significant)) };
    // SAFETY: as above.
    let mut words = unsafe { array(types, n, significant) }.map(Box::<[u64]>::from);
    let each = words.as_deref_mut().unwrap_or_default().iter_mut();
    let mut out = Places {
        counts: Integers::default(),
        places: Integers::default(),
        types: None,
        made: Vec::new(),
    };
    let place = |i: usize| at.map_or(0, |at| at[i]);
    let large = |i: usize, count: i64| !small(count) || count != 0 && !small(place(i));
    for (i, word) in each.enumerate() {
        let count = all.map_or(0, |all| all[i]);
        if !large(i, count) {
            continue;
        }
        if count < 0 {
            return Err(MPI_ERR_COUNT);
        }
        let (old, outside) = (*word, if small(place(i)) { 0 } else { place(i) });
        *word = match outside {
            0 => contiguous(count, old)?,
            at => committed(|steps| steps.structure(&[count], &[at], &[old]))?,
        };
        out.made.push(*word);
    }
    let narrowed = |i: usize, count: i64| if large(i, count) { 1 } else { count };
    // SAFETY: as above.
    out.counts = unsafe { integers(counts, n, significant, narrowed) }?;
    let inside = |_: usize, at: i64| if small(at) { at } else { 0 };
    // SAFETY: as above.
    out.places = unsafe { integers(places, n, significant, inside) }?;
    out.types = words;
    Ok(out)
}

impl Places {
    /// The counts.
    pub fn counts(&self) -> *const i32 {
        self.counts.pointer()
    }

    /// The displacements, if they were looked at.
    pub fn places(&self) -> *const i32 {
        self.places.pointer()
    }

    /// Words of the datatypes.
    pub fn types(&self) -> *const u64 {
        self.types.as_ref().map_or(std::ptr::null(), |t| t.as_ptr())
    }

    /// What the library may look at until the request completes. (It has copies of the datatypes.)
    pub fn arrays(&mut self) -> Vec<Integers> {
        vec![
            std::mem::take(&mut self.counts),
            std::mem::take(&mut self.places),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAR: i64 = 3_000_000_000;

    #[test]
    fn numbers_are_divided_by_what_they_have_in_common() {
        assert_eq!(divided(&[FAR, 0, 2 * FAR], &[0, 1, FAR]), Some((3, 3)));
        assert_eq!(divided(&[4, 4], &[2 * FAR, 0]), Some((4, 4)));
    }

    #[test]
    fn equal_blocks_may_lie_anywhere() {
        assert_eq!(divided(&[3, 0, 3], &[2 * FAR, 7, FAR]), Some((3, 3)));
        assert_eq!(divided(&[7, 7], &[FAR, 2 * FAR]), Some((7, 3)));
        assert_eq!(divided(&[5, 7], &[FAR + 1, 2 * FAR]), None);
    }
}
