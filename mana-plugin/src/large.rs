//! Large counts: `MPI_X_c` is `MPI_X` with narrower arguments.
//!
//! Lower half. A buffer of more elements than an `int` counts becomes one element of a datatype made
//! for the call. Everything after it (requests, drains, the rebuild) sees an ordinary call, whatever
//! the library below offers. Reductions beyond an `int` are in `large_reductions`, arrays of counts and
//! displacements in `large_arrays`, constructors of datatypes in `large_types`. Most entries are
//! generated (`build/large.rs`); those by hand are below and in these.

use crate::datatypes;
use crate::entry;
use crate::errors::{check, finish};
use crate::large_types::committed;
use crate::requests;
use crate::state::{core, Kept, Outcome};
use mpi_std::*;
use std::ffi::c_void;

/// Elements of the block that large datatypes are made of.
const BLOCK: i64 = 1 << 30;

/// A count and datatype that an ordinary entry takes. A datatype made for it goes with it; a request
/// that needs it holds it longer.
pub struct Pair {
    /// Elements.
    pub count: i32,
    /// Word of the datatype.
    pub datatype: u64,
    made: bool,
}

impl Drop for Pair {
    fn drop(&mut self) {
        if self.made {
            // SAFETY: a word of ours.
            unsafe { datatypes::MPI_Type_free(&mut self.datatype) };
        }
    }
}

/// `count` elements of `datatype`.
pub fn pair(count: i64, datatype: u64) -> Outcome<Pair> {
    if let Ok(count) = i32::try_from(count) {
        return Ok(Pair {
            count,
            datatype,
            made: false,
        });
    }
    if count < 0 {
        return Err(MPI_ERR_COUNT);
    }
    Ok(Pair {
        count: 1,
        datatype: whole(count, datatype)?,
        made: true,
    })
}

/// A committed datatype of `count` elements.
fn whole(count: i64, datatype: u64) -> Outcome<u64> {
    let real = core().real_type(datatype)?;
    let (mut lb, mut extent) = (0, 0);
    // SAFETY: output arguments of ours, here and below.
    check(unsafe { (core().procs().MPI_Type_get_extent)(real, &mut lb, &mut extent) })?;
    let blocks = i32::try_from(count / BLOCK).map_err(|_| MPI_ERR_COUNT)?;
    let rest = (count % BLOCK) as i32;
    let (mut block, mut out) = (MPI_DATATYPE_NULL, MPI_DATATYPE_NULL);
    // SAFETY: as above.
    check(unsafe { datatypes::MPI_Type_contiguous(BLOCK as i32, datatype, &mut block) })?;
    let (lengths, types) = ([blocks, rest], [block, datatype]);
    let places = [0, i64::from(blocks) * BLOCK * extent];
    // SAFETY: arrays of two elements.
    let made = check(unsafe {
        datatypes::MPI_Type_create_struct(
            2,
            lengths.as_ptr(),
            places.as_ptr(),
            types.as_ptr(),
            &mut out,
        )
    });
    // SAFETY: as above.
    unsafe { datatypes::MPI_Type_free(&mut block) };
    made?;
    // SAFETY: as above.
    check(unsafe { datatypes::MPI_Type_commit(&mut out) })?;
    Ok(out)
}

/// A committed datatype of `count` elements.
pub fn contiguous(count: i64, datatype: u64) -> Outcome<u64> {
    match i32::try_from(count) {
        Ok(_) => committed(|steps| steps.contiguous(count, datatype)),
        Err(_) => whole(count, datatype),
    }
}

/// A number that must fit.
pub fn narrow(n: i64) -> Outcome<i32> {
    i32::try_from(n).map_err(|_| {
        log::error!("a count of {n} is beyond an int where this is not carried");
        MPI_ERR_COUNT
    })
}

/// An array of numbers that fit.
#[derive(Default)]
pub struct Integers(Option<Box<[u64]>>);

impl Integers {
    /// The first, as the program's array: null if that was null or is not looked at.
    pub fn pointer(&self) -> *const i32 {
        match &self.0 {
            Some(words) => words.as_ptr().cast(),
            None => std::ptr::null(),
        }
    }
}

/// The array `from` of `n` numbers, each as `map` makes it of its place and value.
///
/// # Safety
/// It is null or has `n` elements, or `significant` is false.
pub unsafe fn integers(
    from: *const i64,
    n: usize,
    significant: bool,
    map: impl Fn(usize, i64) -> i64,
) -> Outcome<Integers> {
    if from.is_null() || !significant {
        return Ok(Integers(None));
    }
    let mut words = vec![0u64; n / 2 + 1].into_boxed_slice();
    let to = words.as_mut_ptr().cast::<i32>();
    for i in 0..n {
        // SAFETY: the caller's promise.
        let value = narrow(map(i, unsafe { *from.add(i) }))?;
        // SAFETY: the words have room for `n` numbers.
        unsafe { to.add(i).write(value) };
    }
    Ok(Integers(Some(words)))
}

/// Keeps arrays until the request completes: the library may look at them.
pub fn keep(request: u64, arrays: Vec<Integers>) {
    let Ok(Some(index)) = requests::index(request) else {
        return;
    };
    if let Ok(r) = core().request(index) {
        let kept = r.kept.get_or_insert_with(|| Box::new(Kept::default()));
        kept.words.extend(arrays.into_iter().filter_map(|a| a.0));
    }
}

fn type_size(datatype: u64) -> Outcome<i64> {
    let real = core().real_type(datatype)?;
    let mut size = 0;
    // SAFETY: an output argument of ours.
    check(unsafe { (core().procs().MPI_Type_size_x)(real, &mut size) })?;
    Ok(size)
}

pub unsafe extern "C" fn MPI_Get_count_c(
    status: *const Status,
    datatype: u64,
    count: *mut i64,
) -> i32 {
    let _guard = entry::enter();
    let outcome = type_size(datatype).map(|size| {
        // SAFETY: the program's status.
        let bytes = unsafe { (*status).bytes() } as i64;
        let n = match (bytes, size) {
            (0, _) => 0,
            (_, 0) => i64::from(MPI_UNDEFINED),
            _ if bytes % size == 0 => bytes / size,
            _ => i64::from(MPI_UNDEFINED),
        };
        // SAFETY: an output argument.
        unsafe { *count = n };
    });
    finish(outcome, crate::errors::NO_OBJECT, "MPI_Get_count_c")
}

pub unsafe extern "C" fn MPI_Pack_size_c(
    incount: i64,
    datatype: u64,
    comm: u64,
    size: *mut i64,
) -> i32 {
    let _guard = entry::enter();
    let outcome = (|| {
        let real_comm = core().comm(comm)?.1.real;
        let bytes = type_size(datatype)?.saturating_mul(incount);
        let mut total = bytes;
        if let (Ok(n), true) = (i32::try_from(incount), bytes < BLOCK) {
            let real = core().real_type(datatype)?;
            let mut found = 0;
            // SAFETY: an output argument of ours.
            check(unsafe { (core().procs().MPI_Pack_size)(n, real, real_comm, &mut found) })?;
            total = i64::from(found);
        }
        // SAFETY: an output argument.
        unsafe { *size = total };
        Ok(())
    })();
    finish(outcome, comm, "MPI_Pack_size_c")
}

/// The part of a packed buffer that an ordinary call can see: from `position` on.
///
/// # Safety
/// `position` is the program's argument.
unsafe fn window(size: i64, position: *const i64) -> Outcome<(i64, i32)> {
    // SAFETY: the caller's promise.
    let at = unsafe { *position };
    if at < 0 || at > size {
        return Err(MPI_ERR_ARG);
    }
    Ok((at, (size - at).min(i64::from(i32::MAX)) as i32))
}

pub unsafe extern "C" fn MPI_Pack_c(
    inbuf: *const c_void,
    incount: i64,
    datatype: u64,
    outbuf: *mut c_void,
    outsize: i64,
    position: *mut i64,
    comm: u64,
) -> i32 {
    let _guard = entry::enter();
    let outcome = (|| {
        let real_comm = core().comm(comm)?.1.real;
        // SAFETY: an argument both in and out.
        let (at, room) = unsafe { window(outsize, position) }?;
        let whole = pair(incount, datatype)?;
        let real = core().real_type(whole.datatype)?;
        let mut used = 0;
        // SAFETY: the program's arguments; `at` is inside the buffer.
        check(unsafe {
            let to = outbuf.cast::<u8>().add(at as usize).cast();
            (core().procs().MPI_Pack)(inbuf, whole.count, real, to, room, &mut used, real_comm)
        })?;
        // SAFETY: as above.
        unsafe { *position = at + i64::from(used) };
        Ok(())
    })();
    finish(outcome, comm, "MPI_Pack_c")
}

pub unsafe extern "C" fn MPI_Unpack_c(
    inbuf: *const c_void,
    insize: i64,
    position: *mut i64,
    outbuf: *mut c_void,
    outcount: i64,
    datatype: u64,
    comm: u64,
) -> i32 {
    let _guard = entry::enter();
    let outcome = (|| {
        let real_comm = core().comm(comm)?.1.real;
        // SAFETY: an argument both in and out.
        let (at, room) = unsafe { window(insize, position) }?;
        let whole = pair(outcount, datatype)?;
        let real = core().real_type(whole.datatype)?;
        let mut used = 0;
        // SAFETY: the program's arguments; `at` is inside the buffer.
        check(unsafe {
            let from = inbuf.cast::<u8>().add(at as usize).cast();
            (core().procs().MPI_Unpack)(from, room, &mut used, outbuf, whole.count, real, real_comm)
        })?;
        // SAFETY: as above.
        unsafe { *position = at + i64::from(used) };
        Ok(())
    })();
    finish(outcome, comm, "MPI_Unpack_c")
}

/// The function gets its length as a large count: the stub sees that from a bit no address has.
pub unsafe extern "C" fn MPI_Op_create_c(user_fn: *mut c_void, commute: i32, op: *mut u64) -> i32 {
    let marked = (user_fn as usize | LARGE_FUNCTION) as *mut c_void;
    // SAFETY: the program's arguments.
    unsafe { crate::ops::MPI_Op_create(marked, commute, op) }
}

pub unsafe extern "C" fn MPI_Type_get_envelope_c(
    datatype: u64,
    num_integers: *mut i64,
    num_addresses: *mut i64,
    num_large_counts: *mut i64,
    num_datatypes: *mut i64,
    combiner: *mut i32,
) -> i32 {
    let (mut integers, mut addresses, mut types) = (0, 0, 0);
    // SAFETY: output arguments of ours and the program's.
    let rc = unsafe {
        datatypes::MPI_Type_get_envelope(
            datatype,
            &mut integers,
            &mut addresses,
            &mut types,
            combiner,
        )
    };
    if rc == MPI_SUCCESS {
        // SAFETY: output arguments.
        unsafe {
            *num_integers = i64::from(integers);
            *num_addresses = i64::from(addresses);
            *num_large_counts = 0;
            *num_datatypes = i64::from(types);
        }
    }
    rc
}

pub unsafe extern "C" fn MPI_Type_get_contents_c(
    datatype: u64,
    max_integers: i64,
    max_addresses: i64,
    max_large_counts: i64,
    max_datatypes: i64,
    array_of_integers: *mut i32,
    array_of_addresses: *mut i64,
    array_of_large_counts: *mut i64,
    array_of_datatypes: *mut u64,
) -> i32 {
    let _ = (max_large_counts, array_of_large_counts);
    let most = |n: i64| n.clamp(0, i64::from(i32::MAX)) as i32;
    // SAFETY: the program's arguments.
    unsafe {
        datatypes::MPI_Type_get_contents(
            datatype,
            most(max_integers),
            most(max_addresses),
            most(max_datatypes),
            array_of_integers,
            array_of_addresses,
            array_of_datatypes,
        )
    }
}
