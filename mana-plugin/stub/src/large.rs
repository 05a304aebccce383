//! Windows with displacement units as addresses: one that is no `int` is refused.
//!
//! Upper half.

use core::ffi::c_void;

use mana_raw::cross;
use mpi_std::slot;

use crate::translate as t;
use crate::windows;

/// A displacement unit as an `int`; 0, which no window can have, if it is none.
fn unit(value: i64) -> i32 {
    i32::try_from(value).unwrap_or(0)
}

/// `MPI_Win_create_c`
#[no_mangle]
unsafe extern "C" fn mana_MPI_Win_create_c(
    base: *mut c_void,
    size: i64,
    disp_unit: i64,
    info: t::Handle,
    comm: t::Handle,
    win: *mut t::Handle,
) -> i32 {
    // SAFETY: the program's arguments.
    unsafe { windows::mana_MPI_Win_create(base, size, unit(disp_unit), info, comm, win) }
}

/// `MPI_Win_allocate_c`
#[no_mangle]
unsafe extern "C" fn mana_MPI_Win_allocate_c(
    size: i64,
    disp_unit: i64,
    info: t::Handle,
    comm: t::Handle,
    baseptr: *mut c_void,
    win: *mut t::Handle,
) -> i32 {
    // SAFETY: the program's arguments.
    unsafe { windows::mana_MPI_Win_allocate(size, unit(disp_unit), info, comm, baseptr, win) }
}

/// `MPI_Win_allocate_shared_c`
#[no_mangle]
unsafe extern "C" fn mana_MPI_Win_allocate_shared_c(
    size: i64,
    disp_unit: i64,
    info: t::Handle,
    comm: t::Handle,
    baseptr: *mut c_void,
    win: *mut t::Handle,
) -> i32 {
    // SAFETY: the program's arguments.
    unsafe {
        windows::mana_MPI_Win_allocate_shared(size, unit(disp_unit), info, comm, baseptr, win)
    }
}

/// `MPI_Win_shared_query_c`
#[no_mangle]
unsafe extern "C" fn mana_MPI_Win_shared_query_c(
    win: t::Handle,
    rank: i32,
    size: *mut i64,
    disp_unit: *mut i64,
    baseptr: *mut c_void,
) -> i32 {
    let (win, rank, mut narrow) = (t::win(win), t::rank(rank), 0i32);
    let narrow_p = &raw mut narrow;
    let rc = cross!(slot::MPI_Win_shared_query,
                    fn(u64, i32, *mut i64, *mut i32, *mut c_void) -> i32;
                    win, rank, size, narrow_p, baseptr);
    if rc == 0 {
        // SAFETY: the program's output.
        unsafe { *disp_unit = i64::from(narrow) };
    }
    t::error_back(rc)
}
