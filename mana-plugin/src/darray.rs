//! The part of a distributed array that one process has (MPI-4.0, 5.1.4), put together dimension by dimension from types
//! that every library can make: beyond an `int`, and where a library's own `MPI_Type_create_darray` is wrong.
//!
//! Lower half. All three distributions are blocks dealt out in turn:
//!
//! ```text
//!   gsize indices, blocks of b, process p of P:   |<- p*b ->[ b ]<- (P-1)*b ->[ b ] ...  [ what is left ]
//! ```
//! with one turn for `MPI_DISTRIBUTE_BLOCK`, and one block and process for `MPI_DISTRIBUTE_NONE`.

use crate::errors::check;
use crate::large_types::product;
use crate::state::{core, Outcome};
use mpi_std::*;

/// What parts are made of.
pub trait Parts {
    /// `count` times `old`, `stride` bytes apart.
    fn repeated(&mut self, count: i64, stride: i64, old: u64) -> Outcome<u64>;
    /// One of each of `types`, at `places` in bytes.
    fn side_by_side(&mut self, places: &[i64], types: &[u64]) -> Outcome<u64>;
    /// `old`, from 0 to `extent`.
    fn sized(&mut self, extent: i64, old: u64) -> Outcome<u64>;
}

/// One dimension, as a process sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dimension {
    /// Indices.
    size: i64,
    /// Of a block.
    block: i64,
    /// Processes, and which of them this is.
    processes: i64,
    place: i64,
}

impl Dimension {
    fn new(size: i64, distribution: i32, argument: i32, processes: i32) -> Option<Dimension> {
        let processes = i64::from(processes);
        let given = (argument != MPI_DISTRIBUTE_DFLT_DARG).then_some(i64::from(argument));
        if size < 1 || processes < 1 {
            return None;
        }
        let least = (size - 1) / processes + 1;
        let block = match distribution {
            MPI_DISTRIBUTE_NONE => Some(size).filter(|_| processes == 1),
            MPI_DISTRIBUTE_BLOCK => Some(given.unwrap_or(least)).filter(|b| *b >= least),
            MPI_DISTRIBUTE_CYCLIC => Some(given.unwrap_or(1)).filter(|b| *b >= 1),
            _ => None,
        }?;
        Some(Dimension {
            size,
            block,
            processes,
            place: 0,
        })
    }

    /// Indices from one block to the next, blocks that are whole, and indices of the last one.
    fn parts(&self) -> Outcome<(i64, i64, i64)> {
        let turn = product(self.block, self.processes)?;
        let left = self.size % turn - product(self.place, self.block)?;
        Ok((turn, self.size / turn, left.clamp(0, self.block)))
    }

    /// What of this dimension the process has, of `old` with `stride` bytes from index to index.
    fn part(&self, made: &mut impl Parts, stride: i64, old: u64) -> Outcome<u64> {
        let (turn, whole, last) = self.parts()?;
        let step = product(stride, turn)?;
        let first = product(stride, product(self.place, self.block)?)?;
        let (mut places, mut types) = (Vec::new(), Vec::new());
        if whole > 0 {
            let block = made.repeated(self.block, stride, old)?;
            places.push(first);
            types.push(made.repeated(whole, step, block)?);
        }
        if last > 0 {
            places.push(first + product(step, whole)?);
            types.push(made.repeated(last, stride, old)?);
        }
        made.side_by_side(&places, &types)
    }
}

/// Puts the process's place in the grid, which is in row-major order, into its dimensions.
fn placed(dimensions: &mut [Dimension], size: i32, rank: i32) -> bool {
    let mut rest = i64::from(rank);
    for d in dimensions.iter_mut().rev() {
        d.place = rest % d.processes;
        rest /= d.processes;
    }
    let all = dimensions
        .iter()
        .try_fold(1i64, |n, d| n.checked_mul(d.processes));
    rank >= 0 && rest == 0 && all == Some(size.into())
}

/// The fastest dimension first, as process `rank` sees them. `None`: these are no arguments of a distributed array.
///
/// `sizes`, `how`, `arguments` and `grid` are the arrays of `MPI_Type_create_darray`, of a length each.
pub fn dimensions(
    (size, rank): (i32, i32),
    sizes: &[i64],
    how: &[i32],
    arguments: &[i32],
    grid: &[i32],
    order: i32,
) -> Option<Vec<Dimension>> {
    let together = sizes.iter().zip(how).zip(arguments.iter().zip(grid));
    let all: Option<Vec<Dimension>> = together
        .map(|((size, how), (argument, n))| Dimension::new(*size, *how, *argument, *n))
        .collect();
    let mut dimensions = all?;
    if !placed(&mut dimensions, size, rank) {
        return None;
    }
    match order {
        MPI_ORDER_C => dimensions.reverse(),
        MPI_ORDER_FORTRAN => {}
        _ => return None,
    }
    Some(dimensions)
}

/// The whole array's type, of elements `old` of `extent` bytes.
pub fn array(
    dimensions: &[Dimension],
    extent: i64,
    old: u64,
    made: &mut impl Parts,
) -> Outcome<u64> {
    let (mut stride, mut part) = (extent, old);
    for d in dimensions {
        part = d.part(made, stride, part)?;
        stride = product(stride, d.size)?;
    }
    made.sized(stride, part)
}

/// Real types made on the way, which the result needs no handle of.
#[derive(Default)]
struct Real(Vec<u64>);

impl Real {
    fn add(&mut self, make: impl FnOnce(&mut u64) -> i32) -> Outcome<u64> {
        let mut new = MPI_DATATYPE_NULL;
        check(make(&mut new))?;
        self.0.push(new);
        Ok(new)
    }
}

impl Parts for Real {
    fn repeated(&mut self, count: i64, stride: i64, old: u64) -> Outcome<u64> {
        let count = i32::try_from(count).map_err(|_| MPI_ERR_COUNT)?;
        // SAFETY: real handles, and an output argument of ours.
        self.add(|new| unsafe {
            (core().procs().MPI_Type_create_hvector)(count, 1, stride, old, new)
        })
    }

    fn side_by_side(&mut self, places: &[i64], types: &[u64]) -> Outcome<u64> {
        let n = i32::try_from(types.len()).map_err(|_| MPI_ERR_COUNT)?;
        let ones = vec![1; types.len()];
        // SAFETY: arrays of `n` elements, and an output argument of ours.
        self.add(|new| unsafe {
            (core().procs().MPI_Type_create_struct)(
                n,
                ones.as_ptr(),
                places.as_ptr(),
                types.as_ptr(),
                new,
            )
        })
    }

    fn sized(&mut self, extent: i64, old: u64) -> Outcome<u64> {
        // SAFETY: a real handle, and an output argument of ours.
        self.add(|new| unsafe { (core().procs().MPI_Type_create_resized)(old, 0, extent, new) })
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        for real in &mut self.0 {
            // SAFETY: a handle that nobody else has.
            unsafe { (core().procs().MPI_Type_free)(real) };
        }
    }
}

/// The real type of a recipe for `MPI_Type_create_darray`, whose integers are `ints` and whose element is `old`, a real
/// type. `None`: these are no arguments of one.
pub fn of_recipe(ints: &[i32], old: u64) -> Outcome<Option<u64>> {
    let Some(([size, rank, n], rest)) = ints.split_first_chunk() else {
        return Ok(None);
    };
    let n = usize::try_from(*n).unwrap_or(0);
    let [sizes, how, arguments, grid, order] = &rest.chunks(n.max(1)).collect::<Vec<_>>()[..]
    else {
        return Ok(None);
    };
    let sizes: Vec<i64> = sizes.iter().copied().map(i64::from).collect();
    let known = dimensions((*size, *rank), &sizes, how, arguments, grid, order[0]);
    let Some(dimensions) = known else {
        return Ok(None);
    };
    let (mut lb, mut extent) = (0, 0);
    // SAFETY: output arguments of ours.
    check(unsafe { (core().procs().MPI_Type_get_extent)(old, &mut lb, &mut extent) })?;
    let mut made = Real::default();
    let whole = array(&dimensions, extent, old, &mut made)?;
    made.0.retain(|real| *real != whole);
    Ok(Some(whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAR: i64 = 3_000_000_000;

    fn parts(size: i64, how: i32, argument: i32, place: i64) -> (i64, i64, i64) {
        let d = Dimension::new(size, how, argument, 3).expect("a dimension");
        Dimension { place, ..d }.parts().expect("numbers that fit")
    }

    #[test]
    fn every_index_belongs_to_one_process() {
        for (how, argument) in [
            (MPI_DISTRIBUTE_BLOCK, MPI_DISTRIBUTE_DFLT_DARG),
            (MPI_DISTRIBUTE_BLOCK, 2_000_000_000),
            (MPI_DISTRIBUTE_CYCLIC, MPI_DISTRIBUTE_DFLT_DARG),
            (MPI_DISTRIBUTE_CYCLIC, 7),
            (MPI_DISTRIBUTE_CYCLIC, 1_500_000_000),
        ] {
            for size in [FAR, FAR + 1, FAR + 5] {
                let block = Dimension::new(size, how, argument, 3).map_or(0, |d| d.block);
                let of = |place| {
                    let (_, whole, last) = parts(size, how, argument, place);
                    whole * block + last
                };
                assert_eq!((0..3).map(of).sum::<i64>(), size, "{how} {argument}");
            }
        }
    }

    #[test]
    fn blocks_are_where_the_standard_says() {
        let block = (MPI_DISTRIBUTE_BLOCK, MPI_DISTRIBUTE_DFLT_DARG);
        assert_eq!(
            parts(FAR + 1, block.0, block.1, 2),
            (FAR + 3, 0, FAR / 3 - 1)
        );
        let whole = FAR / 21 + 1;
        assert_eq!(parts(FAR + 13, MPI_DISTRIBUTE_CYCLIC, 7, 0), (21, whole, 7));
        assert_eq!(parts(FAR + 13, MPI_DISTRIBUTE_CYCLIC, 7, 1), (21, whole, 3));
        assert_eq!(parts(FAR + 13, MPI_DISTRIBUTE_CYCLIC, 7, 2), (21, whole, 0));
    }

    #[test]
    fn wrong_arguments_are_refused() {
        assert_eq!(Dimension::new(FAR, MPI_DISTRIBUTE_BLOCK, 1000, 3), None);
        assert_eq!(Dimension::new(FAR, MPI_DISTRIBUTE_CYCLIC, 0, 3), None);
        assert_eq!(Dimension::new(FAR, MPI_DISTRIBUTE_NONE, 1, 3), None);
        assert_eq!(Dimension::new(0, MPI_DISTRIBUTE_CYCLIC, 1, 3), None);
    }

    #[test]
    fn ranks_go_through_the_grid_row_by_row() {
        let d = |processes| Dimension {
            size: FAR,
            block: 1,
            processes,
            place: 0,
        };
        let mut grid = [d(2), d(3)];
        assert!(placed(&mut grid, 6, 4));
        assert_eq!(grid.map(|d| d.place), [1, 1]);
        assert!(!placed(&mut grid, 6, 6));
        assert!(!placed(&mut grid, 5, 1));
    }
}
