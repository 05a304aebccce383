//! MPICH's extensions: generalised requests that are polled, with their classes, and what the processors of
//! graphics support.
//!
//! Upper half. A class is a row of functions kept here; the lower half sees requests only.

use core::ffi::c_void;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use mana_raw::cross;
use mpi_std::slot;

use crate::grequests;
use crate::table::{Table, Zeroed};
use crate::translate as t;

/// The functions of a request: query, free, cancel, poll, wait.
type Functions = [*mut c_void; 5];

/// A class: a program makes one for each kind of work.
struct Class([AtomicUsize; 5]);

// SAFETY: numbers.
unsafe impl Zeroed for Class {}

const CLASSES: usize = 64;
/// What a handle of a class has beside its number, as in MPICH.
const KIND: i32 = 0xb400_0000_u32 as i32;

static MADE: AtomicU32 = AtomicU32::new(0);
static ALL: Table<Class, CLASSES> =
    Table::new([const { Class([const { AtomicUsize::new(0) }; 5]) }; CLASSES]);

/// Raises an error of no object; the program's code for it.
fn fail(class: i32) -> i32 {
    cross!(slot::MPI_Comm_call_errhandler, fn(u64, i32) -> i32; mpi_std::MPI_COMM_WORLD, class);
    t::error_back(class)
}

unsafe fn start(f: Functions, extra: *const c_void, request: *mut t::Handle) -> i32 {
    let [query, free, cancel, poll, wait] = f;
    // SAFETY: the program's output.
    unsafe {
        grequests::start(extra, request, |state, word| {
            cross!(slot::MPIX_Grequest_start,
                fn(*mut c_void, *mut c_void, *mut c_void, *mut c_void, *mut c_void, *const c_void, *mut u64) -> i32;
                query, free, cancel, poll, wait, state, word)
        })
    }
}

/// `MPIX_Grequest_start`
#[no_mangle]
unsafe extern "C" fn mana_MPIX_Grequest_start(
    query: *mut c_void,
    free: *mut c_void,
    cancel: *mut c_void,
    poll: *mut c_void,
    wait: *mut c_void,
    extra: *const c_void,
    request: *mut t::Handle,
) -> i32 {
    // SAFETY: the program's arguments.
    unsafe { start([query, free, cancel, poll, wait], extra, request) }
}

/// `MPIX_Grequest_class_create`
#[no_mangle]
unsafe extern "C" fn mana_MPIX_Grequest_class_create(
    query: *mut c_void,
    free: *mut c_void,
    cancel: *mut c_void,
    poll: *mut c_void,
    wait: *mut c_void,
    class: *mut i32,
) -> i32 {
    let functions: Functions = [query, free, cancel, poll, wait];
    if functions.iter().any(|f| f.is_null()) {
        return fail(mpi_std::MPI_ERR_ARG);
    }
    let number = MADE.fetch_add(1, Ordering::Relaxed);
    let Some(row) = ALL.get(number) else {
        return fail(mpi_std::MPI_ERR_NO_MEM);
    };
    for (cell, function) in row.0.iter().zip(functions) {
        cell.store(function as usize, Ordering::Release);
    }
    // SAFETY: the program's output.
    unsafe { *class = KIND | number as i32 };
    0
}

/// `MPIX_Grequest_class_allocate`
#[no_mangle]
unsafe extern "C" fn mana_MPIX_Grequest_class_allocate(
    class: i32,
    extra: *const c_void,
    request: *mut t::Handle,
) -> i32 {
    let row = match class & KIND == KIND {
        true => ALL.get((class & !KIND) as u32),
        false => None,
    };
    let functions = row.map(|row| {
        let mut out: Functions = [core::ptr::null_mut(); 5];
        for (function, cell) in out.iter_mut().zip(&row.0) {
            *function = cell.load(Ordering::Acquire) as *mut c_void;
        }
        out
    });
    match functions {
        // SAFETY: the program's arguments.
        Some(f) if !f[0].is_null() => unsafe { start(f, extra, request) },
        _ => fail(mpi_std::MPI_ERR_ARG),
    }
}

/// Kinds of graphics processors: CUDA, ZE, HIP.
const PROCESSORS: i32 = 3;

/// `MPIX_GPU_query_support`: device memory does not survive.
#[no_mangle]
unsafe extern "C" fn mana_MPIX_GPU_query_support(kind: i32, supported: *mut i32) -> i32 {
    if !(0..PROCESSORS).contains(&kind) || supported.is_null() {
        return fail(mpi_std::MPI_ERR_ARG);
    }
    // SAFETY: the program's output.
    unsafe { *supported = 0 };
    0
}
