//! `MPI_Type_create_darray_c` beyond an `int`.
//!
//! Lower half. The part of a distributed array that one process has (MPI-4.0, 5.1.4), put together dimension by
//! dimension from types that every library can make. All three distributions are blocks dealt out in turn:
//!
//! ```text
//!   gsize indices, blocks of b, process p of P:   |<- p*b ->[ b ]<- (P-1)*b ->[ b ] ...  [ what is left ]
//! ```
//! with one turn for `MPI_DISTRIBUTE_BLOCK`, and one block and process for `MPI_DISTRIBUTE_NONE`.

use crate::datatypes;
use crate::large_types::{array, built, extent, product, refused, small, Steps};
use crate::state::Outcome;
use mpi_std::*;

/// One dimension, as a process sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Dimension {
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
    fn part(&self, steps: &mut Steps, stride: i64, old: u64) -> Outcome<u64> {
        let (turn, whole, last) = self.parts()?;
        let step = product(stride, turn)?;
        let first = product(stride, product(self.place, self.block)?)?;
        let (mut places, mut types) = (Vec::new(), Vec::new());
        if whole > 0 {
            let block = steps.repeated(self.block, stride, old)?;
            places.push(first);
            types.push(steps.repeated(whole, step, block)?);
        }
        if last > 0 {
            places.push(first + product(step, whole)?);
            types.push(steps.repeated(last, stride, old)?);
        }
        steps.structure(&vec![1; types.len()], &places, &types)
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

pub unsafe extern "C" fn MPI_Type_create_darray_c(
    size: i32,
    rank: i32,
    ndims: i32,
    array_of_gsizes: *const i64,
    array_of_distribs: *const i32,
    array_of_dargs: *const i32,
    array_of_psizes: *const i32,
    order: i32,
    oldtype: u64,
    newtype: *mut u64,
) -> i32 {
    const NAME: &str = "MPI_Type_create_darray_c";
    let n = i64::from(ndims);
    // SAFETY: the program's array.
    let Some(sizes) = (unsafe { array(array_of_gsizes, n) }) else {
        return refused(newtype, NAME);
    };
    if let Some(sizes) = small(&sizes) {
        // SAFETY: the program's arguments, and an array of ours.
        return unsafe {
            datatypes::MPI_Type_create_darray(
                size,
                rank,
                ndims,
                sizes.as_ptr(),
                array_of_distribs,
                array_of_dargs,
                array_of_psizes,
                order,
                oldtype,
                newtype,
            )
        };
    }
    // SAFETY: the program's arrays.
    let (Some(distribs), Some(dargs), Some(psizes)) = (unsafe {
        (
            array(array_of_distribs, n),
            array(array_of_dargs, n),
            array(array_of_psizes, n),
        )
    }) else {
        return refused(newtype, NAME);
    };
    let together = sizes.iter().zip(&distribs).zip(dargs.iter().zip(&psizes));
    let all: Option<Vec<Dimension>> = together
        .map(|((size, how), (argument, n))| Dimension::new(*size, *how, *argument, *n))
        .collect();
    let Some(mut dimensions) = all else {
        return refused(newtype, NAME);
    };
    if !placed(&mut dimensions, size, rank) {
        return refused(newtype, NAME);
    }
    // The fastest one first.
    match order {
        MPI_ORDER_C => dimensions.reverse(),
        MPI_ORDER_FORTRAN => {}
        _ => return refused(newtype, NAME),
    }
    built(newtype, NAME, |steps| {
        let (mut stride, mut part) = (extent(oldtype)?, oldtype);
        for d in &dimensions {
            part = d.part(steps, stride, part)?;
            stride = product(stride, d.size)?;
        }
        steps.sized(stride, part)
    })
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
