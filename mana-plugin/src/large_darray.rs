//! `MPI_Type_create_darray_c`, beyond an `int` of parts.
//!
//! Lower half.

use crate::darray::{self, dimensions, Parts};
use crate::datatypes;
use crate::large_types::{array, built, extent, refused, small, Steps};
use crate::state::Outcome;

impl Parts for Steps {
    fn repeated(&mut self, count: i64, stride: i64, old: u64) -> Outcome<u64> {
        self.repeated(count, stride, old)
    }

    fn side_by_side(&mut self, places: &[i64], types: &[u64]) -> Outcome<u64> {
        self.structure(&vec![1; types.len()], places, types)
    }

    fn sized(&mut self, extent: i64, old: u64) -> Outcome<u64> {
        self.sized(extent, old)
    }
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
    let known = dimensions((size, rank), &sizes, &distribs, &dargs, &psizes, order);
    let Some(dimensions) = known else {
        return refused(newtype, NAME);
    };
    built(newtype, NAME, |steps| {
        darray::array(&dimensions, extent(oldtype)?, oldtype, steps)
    })
}
