//! Datatype constructors with large counts.
//!
//! Lower half. What an `int` counts is an ordinary call. Beyond it a type is put together from several, which any
//! library can make, also the one that a job goes on with; it says of itself that it is a structure or a vector
//! of others. Distributed arrays are in `large_darray`.

use crate::datatypes::{self, make, recipe};
use crate::entry;
use crate::errors::{check, finish};
use crate::state::{core, Outcome, Recipe};
use mpi_std::*;

/// Elements of the blocks that large counts are divided into.
const BLOCK: i32 = 1 << 30;

/// Types made on the way: the result needs them, the program does not have them.
#[derive(Default)]
pub struct Steps(Vec<u64>);

impl Steps {
    fn add(&mut self, recipe: Recipe) -> Outcome<u64> {
        let word = make(recipe)?;
        self.0.push(word);
        Ok(word)
    }

    /// All but the result are freed.
    fn end_with(mut self, result: u64) -> u64 {
        self.0.retain(|word| *word != result);
        result
    }

    /// `count` times `old`, `stride` bytes apart.
    pub fn repeated(&mut self, count: i64, stride: i64, old: u64) -> Outcome<u64> {
        let mut vector = |n: i32, stride: i64, old: u64| {
            self.add(recipe(MPI_COMBINER_HVECTOR, vec![n, 1], vec![stride], old))
        };
        if let Ok(n) = i32::try_from(count) {
            return vector(n, stride, old);
        }
        let blocks = i32::try_from(count / i64::from(BLOCK)).map_err(|_| MPI_ERR_COUNT)?;
        let rest = (count % i64::from(BLOCK)) as i32;
        let step = product(stride, BLOCK.into())?;
        let block = vector(BLOCK, stride, old)?;
        let whole = vector(blocks, step, block)?;
        if rest == 0 {
            return Ok(whole);
        }
        let last = vector(rest, stride, old)?;
        let at = product(step, blocks.into())?;
        self.structure(&[1, 1], &[0, at], &[whole, last])
    }

    /// `count` times `old`, one after the other.
    pub fn contiguous(&mut self, count: i64, old: u64) -> Outcome<u64> {
        match i32::try_from(count) {
            Ok(n) => self.add(recipe(MPI_COMBINER_CONTIGUOUS, vec![n], vec![], old)),
            Err(_) => self.repeated(count, extent(old)?, old),
        }
    }

    /// `block`, with the next one `step` elements of `old` behind it.
    pub fn every(&mut self, step: i64, old: u64, block: u64) -> Outcome<u64> {
        let (lb, extent) = bounds(old)?;
        let places = vec![lb, product(step, extent)?];
        self.add(recipe(MPI_COMBINER_RESIZED, vec![], places, block))
    }

    /// `old`, from 0 to `extent`.
    pub fn sized(&mut self, extent: i64, old: u64) -> Outcome<u64> {
        self.add(recipe(MPI_COMBINER_RESIZED, vec![], vec![0, extent], old))
    }

    /// Blocks of types at places in bytes.
    pub fn structure(&mut self, lengths: &[i64], places: &[i64], types: &[u64]) -> Outcome<u64> {
        let n = i32::try_from(lengths.len()).map_err(|_| MPI_ERR_COUNT)?;
        let (mut integers, mut parts) = (vec![n], Vec::with_capacity(types.len()));
        for (&length, &old) in lengths.iter().zip(types) {
            let (length, old) = match i32::try_from(length) {
                Ok(length) => (length, old),
                Err(_) => (1, self.contiguous(length, old)?),
            };
            integers.push(length);
            parts.push(old);
        }
        self.add(Recipe {
            combiner: MPI_COMBINER_STRUCT,
            integers,
            addresses: places.to_vec(),
            types: parts,
        })
    }

    /// A part of an array whose fastest dimension comes first in `dimensions`: its size, the part's, and where it starts.
    fn part(&mut self, dimensions: &[(i64, i64, i64)], old: u64) -> Outcome<u64> {
        let (mut stride, mut at, mut part) = (extent(old)?, 0, old);
        for &(size, sub, start) in dimensions {
            if sub < 1 || start < 0 || start > size - sub {
                return Err(MPI_ERR_ARG);
            }
            part = self.repeated(sub, stride, part)?;
            at += product(stride, start)?;
            stride = product(stride, size)?;
        }
        let placed = self.structure(&[1], &[at], &[part])?;
        self.sized(stride, placed)
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        for word in &mut self.0 {
            // SAFETY: a word of ours.
            unsafe { datatypes::MPI_Type_free(word) };
        }
    }
}

/// `a` times `b`, if that is a number.
pub fn product(a: i64, b: i64) -> Outcome<i64> {
    a.checked_mul(b).ok_or(MPI_ERR_COUNT)
}

/// Bytes from one element to the next.
pub fn extent(datatype: u64) -> Outcome<i64> {
    bounds(datatype).map(|(_, extent)| extent)
}

/// Lower bound and extent.
fn bounds(datatype: u64) -> Outcome<(i64, i64)> {
    let real = core().real_type(datatype)?;
    let (mut lb, mut extent) = (0, 0);
    // SAFETY: output arguments of ours.
    check(unsafe { (core().procs().MPI_Type_get_extent)(real, &mut lb, &mut extent) })?;
    Ok((lb, extent))
}

/// A committed datatype that is put together for a call.
pub fn committed(build: impl FnOnce(&mut Steps) -> Outcome<u64>) -> Outcome<u64> {
    let mut steps = Steps::default();
    let word = build(&mut steps)?;
    datatypes::commit(core().real_type(word)?)?;
    core().datatype_mut(word)?.committed = true;
    Ok(steps.end_with(word))
}

/// Numbers, if an `int` has room for each.
pub fn small(numbers: &[i64]) -> Option<Vec<i32>> {
    numbers.iter().map(|n| i32::try_from(*n).ok()).collect()
}

/// An array of the program, which must be there if there are any elements.
///
/// # Safety
/// It is null or has `n` elements.
pub unsafe fn array<T: Copy>(from: *const T, n: i64) -> Option<Vec<T>> {
    match usize::try_from(n) {
        Ok(0) | Err(_) => Some(Vec::new()),
        _ if from.is_null() => None,
        // SAFETY: the caller's promise.
        Ok(n) => Some(unsafe { std::slice::from_raw_parts(from, n) }.to_vec()),
    }
}

/// An argument is wrong.
pub fn refused(newtype: *mut u64, name: &'static str) -> i32 {
    built(newtype, name, |_| Err(MPI_ERR_ARG))
}

/// Gives the program what `build` puts together.
pub fn built(
    newtype: *mut u64,
    name: &'static str,
    build: impl FnOnce(&mut Steps) -> Outcome<u64>,
) -> i32 {
    let _guard = entry::enter();
    let mut steps = Steps::default();
    let outcome = build(&mut steps).map(|word| {
        // SAFETY: an output argument.
        unsafe { *newtype = steps.end_with(word) };
    });
    finish(outcome, crate::errors::NO_OBJECT, name)
}

/// Blocks of one type at places that are counted in its extent.
fn indexed(
    steps: &mut Steps,
    lengths: &[i64],
    places: &[i64],
    unit: i64,
    old: u64,
) -> Outcome<u64> {
    let places: Outcome<Vec<i64>> = places.iter().map(|at| product(*at, unit)).collect();
    steps.structure(lengths, &places?, &vec![old; lengths.len()])
}

pub unsafe extern "C" fn MPI_Type_contiguous_c(count: i64, oldtype: u64, newtype: *mut u64) -> i32 {
    match i32::try_from(count) {
        // SAFETY: the program's arguments, here and below.
        Ok(count) => unsafe { datatypes::MPI_Type_contiguous(count, oldtype, newtype) },
        Err(_) => built(newtype, "MPI_Type_contiguous_c", |steps| {
            steps.contiguous(count, oldtype)
        }),
    }
}

pub unsafe extern "C" fn MPI_Type_vector_c(
    count: i64,
    blocklength: i64,
    stride: i64,
    oldtype: u64,
    newtype: *mut u64,
) -> i32 {
    if let Some([n, length, stride]) = small(&[count, blocklength, stride]).as_deref() {
        // SAFETY: as above.
        return unsafe { datatypes::MPI_Type_vector(*n, *length, *stride, oldtype, newtype) };
    }
    built(newtype, "MPI_Type_vector_c", |steps| {
        let block = steps.contiguous(blocklength, oldtype)?;
        steps.repeated(count, product(stride, extent(oldtype)?)?, block)
    })
}

pub unsafe extern "C" fn MPI_Type_create_hvector_c(
    count: i64,
    blocklength: i64,
    stride: i64,
    oldtype: u64,
    newtype: *mut u64,
) -> i32 {
    if let Some([n, length]) = small(&[count, blocklength]).as_deref() {
        // SAFETY: as above.
        return unsafe {
            datatypes::MPI_Type_create_hvector(*n, *length, stride, oldtype, newtype)
        };
    }
    built(newtype, "MPI_Type_create_hvector_c", |steps| {
        let block = steps.contiguous(blocklength, oldtype)?;
        steps.repeated(count, stride, block)
    })
}

pub unsafe extern "C" fn MPI_Type_indexed_c(
    count: i64,
    array_of_blocklengths: *const i64,
    array_of_displacements: *const i64,
    oldtype: u64,
    newtype: *mut u64,
) -> i32 {
    // SAFETY: the program's arrays.
    let (Some(lengths), Some(places)) = (unsafe {
        (
            array(array_of_blocklengths, count),
            array(array_of_displacements, count),
        )
    }) else {
        return refused(newtype, "MPI_Type_indexed_c");
    };
    if let (Ok(n), Some(lengths), Some(places)) =
        (i32::try_from(count), small(&lengths), small(&places))
    {
        // SAFETY: arrays of ours.
        return unsafe {
            datatypes::MPI_Type_indexed(n, lengths.as_ptr(), places.as_ptr(), oldtype, newtype)
        };
    }
    built(newtype, "MPI_Type_indexed_c", |steps| {
        indexed(steps, &lengths, &places, extent(oldtype)?, oldtype)
    })
}

pub unsafe extern "C" fn MPI_Type_create_hindexed_c(
    count: i64,
    array_of_blocklengths: *const i64,
    array_of_displacements: *const i64,
    oldtype: u64,
    newtype: *mut u64,
) -> i32 {
    // SAFETY: the program's arrays.
    let (Some(lengths), Some(places)) = (unsafe {
        (
            array(array_of_blocklengths, count),
            array(array_of_displacements, count),
        )
    }) else {
        return refused(newtype, "MPI_Type_create_hindexed_c");
    };
    if let (Ok(n), Some(lengths)) = (i32::try_from(count), small(&lengths)) {
        let places = places.as_ptr();
        // SAFETY: arrays of ours.
        return unsafe {
            datatypes::MPI_Type_create_hindexed(n, lengths.as_ptr(), places, oldtype, newtype)
        };
    }
    built(newtype, "MPI_Type_create_hindexed_c", |steps| {
        indexed(steps, &lengths, &places, 1, oldtype)
    })
}

pub unsafe extern "C" fn MPI_Type_create_indexed_block_c(
    count: i64,
    blocklength: i64,
    array_of_displacements: *const i64,
    oldtype: u64,
    newtype: *mut u64,
) -> i32 {
    // SAFETY: the program's array.
    let Some(places) = (unsafe { array(array_of_displacements, count) }) else {
        return refused(newtype, "MPI_Type_create_indexed_block_c");
    };
    if let (Some([n, length]), Some(places)) =
        (small(&[count, blocklength]).as_deref(), small(&places))
    {
        let places = places.as_ptr();
        // SAFETY: an array of ours.
        return unsafe {
            datatypes::MPI_Type_create_indexed_block(*n, *length, places, oldtype, newtype)
        };
    }
    built(newtype, "MPI_Type_create_indexed_block_c", |steps| {
        let lengths = vec![blocklength; places.len()];
        indexed(steps, &lengths, &places, extent(oldtype)?, oldtype)
    })
}

pub unsafe extern "C" fn MPI_Type_create_hindexed_block_c(
    count: i64,
    blocklength: i64,
    array_of_displacements: *const i64,
    oldtype: u64,
    newtype: *mut u64,
) -> i32 {
    // SAFETY: the program's array.
    let Some(places) = (unsafe { array(array_of_displacements, count) }) else {
        return refused(newtype, "MPI_Type_create_hindexed_block_c");
    };
    if let Some([n, length]) = small(&[count, blocklength]).as_deref() {
        let places = places.as_ptr();
        // SAFETY: an array of ours.
        return unsafe {
            datatypes::MPI_Type_create_hindexed_block(*n, *length, places, oldtype, newtype)
        };
    }
    built(newtype, "MPI_Type_create_hindexed_block_c", |steps| {
        let lengths = vec![blocklength; places.len()];
        indexed(steps, &lengths, &places, 1, oldtype)
    })
}

pub unsafe extern "C" fn MPI_Type_create_struct_c(
    count: i64,
    array_of_blocklengths: *const i64,
    array_of_displacements: *const i64,
    array_of_types: *const u64,
    newtype: *mut u64,
) -> i32 {
    // SAFETY: the program's arrays.
    let (Some(lengths), Some(places), Some(types)) = (unsafe {
        (
            array(array_of_blocklengths, count),
            array(array_of_displacements, count),
            array(array_of_types, count),
        )
    }) else {
        return refused(newtype, "MPI_Type_create_struct_c");
    };
    if let (Ok(n), Some(lengths)) = (i32::try_from(count), small(&lengths)) {
        let (lengths, places) = (lengths.as_ptr(), places.as_ptr());
        // SAFETY: arrays of ours.
        return unsafe {
            datatypes::MPI_Type_create_struct(n, lengths, places, types.as_ptr(), newtype)
        };
    }
    built(newtype, "MPI_Type_create_struct_c", |steps| {
        steps.structure(&lengths, &places, &types)
    })
}

pub unsafe extern "C" fn MPI_Type_create_subarray_c(
    ndims: i32,
    array_of_sizes: *const i64,
    array_of_subsizes: *const i64,
    array_of_starts: *const i64,
    order: i32,
    oldtype: u64,
    newtype: *mut u64,
) -> i32 {
    // SAFETY: the program's arrays.
    let (Some(sizes), Some(subs), Some(starts)) = (unsafe {
        let n = i64::from(ndims);
        (
            array(array_of_sizes, n),
            array(array_of_subsizes, n),
            array(array_of_starts, n),
        )
    }) else {
        return refused(newtype, "MPI_Type_create_subarray_c");
    };
    if let (Some(sizes), Some(subs), Some(starts)) = (small(&sizes), small(&subs), small(&starts)) {
        let (sizes, subs, starts) = (sizes.as_ptr(), subs.as_ptr(), starts.as_ptr());
        // SAFETY: arrays of ours.
        return unsafe {
            datatypes::MPI_Type_create_subarray(ndims, sizes, subs, starts, order, oldtype, newtype)
        };
    }
    let together = sizes.iter().zip(&subs).zip(&starts);
    let mut dimensions: Vec<_> = together.map(|((a, b), c)| (*a, *b, *c)).collect();
    match order {
        MPI_ORDER_C => dimensions.reverse(),
        MPI_ORDER_FORTRAN => {}
        _ => return refused(newtype, "MPI_Type_create_subarray_c"),
    }
    built(newtype, "MPI_Type_create_subarray_c", |steps| {
        steps.part(&dimensions, oldtype)
    })
}
