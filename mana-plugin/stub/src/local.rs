//! Procedures answered in the upper half, and those with a short cut before the crossing.
//!
//! Upper half. Each is the body of `MPI_X` under the name `mana_MPI_X`.

use core::ffi::c_void;

use mana_raw::cross;
use mpi_std::{slot, Status};

use crate::attributes;
use crate::callbacks;
use crate::queries::cached;
use crate::translate as t;

#[repr(C)]
struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

extern "C" {
    fn clock_gettime(clock: i32, time: *mut Timespec) -> i32;
    fn posix_memalign(block: *mut *mut c_void, alignment: usize, size: usize) -> i32;
    fn free(block: *mut c_void);
}

const CLOCK_MONOTONIC: i32 = 1;

/// `MPI_Wtime`: the program's own monotonic clock, which goes on after a restart.
#[no_mangle]
pub unsafe extern "C" fn mana_MPI_Wtime() -> f64 {
    let mut now = Timespec {
        seconds: 0,
        nanoseconds: 0,
    };
    // SAFETY: the program's libc.
    unsafe { clock_gettime(CLOCK_MONOTONIC, &mut now) };
    now.seconds as f64 + now.nanoseconds as f64 * 1e-9
}

/// `MPI_Wtick`
#[no_mangle]
pub unsafe extern "C" fn mana_MPI_Wtick() -> f64 {
    1e-9
}

/// `MPI_Init`
#[no_mangle]
unsafe extern "C" fn mana_MPI_Init(argc: *mut i32, argv: *mut c_void) -> i32 {
    callbacks::register();
    let rc = cross!(slot::MPI_Init, fn(*mut i32, *mut c_void) -> i32; argc, argv);
    crate::abi::initialized(rc == 0);
    t::error_back(rc)
}

/// `MPI_Init_thread`
#[no_mangle]
unsafe extern "C" fn mana_MPI_Init_thread(
    argc: *mut i32,
    argv: *mut c_void,
    required: i32,
    provided: *mut i32,
) -> i32 {
    let required = t::thread_level(required);
    let mut level = 0;
    let level_p = &raw mut level;
    // SAFETY: the slots' signatures are the table's; `provided` is the program's output.
    unsafe {
        callbacks::register();
        let rc = cross!(slot::MPI_Init_thread, fn(*mut i32, *mut c_void, i32, *mut i32) -> i32;
                        argc, argv, required, level_p);
        if rc == 0 {
            *provided = t::thread_level_back(level);
        }
        crate::abi::initialized(rc == 0);
        t::error_back(rc)
    }
}

/// `MPI_Finalize`
#[no_mangle]
unsafe extern "C" fn mana_MPI_Finalize() -> i32 {
    let rc = cross!(slot::MPI_Finalize, fn() -> i32;);
    if rc == 0 {
        crate::abi::finalized();
    }
    t::error_back(rc)
}

/// `MPI_Comm_rank`
#[no_mangle]
unsafe extern "C" fn mana_MPI_Comm_rank(comm: t::Handle, rank: *mut i32) -> i32 {
    let comm = t::comm(comm);
    if let Some(entry) = cached(comm) {
        // SAFETY: the program's output.
        unsafe { *rank = entry.rank };
        return 0;
    }
    t::error_back(cross!(slot::MPI_Comm_rank, fn(u64, *mut i32) -> i32; comm, rank))
}

/// `MPI_Comm_size`
#[no_mangle]
unsafe extern "C" fn mana_MPI_Comm_size(comm: t::Handle, size: *mut i32) -> i32 {
    let comm = t::comm(comm);
    if let Some(entry) = cached(comm) {
        // SAFETY: the program's output.
        unsafe { *size = entry.size };
        return 0;
    }
    t::error_back(cross!(slot::MPI_Comm_size, fn(u64, *mut i32) -> i32; comm, size))
}

/// `MPI_Type_size`
#[no_mangle]
unsafe extern "C" fn mana_MPI_Type_size(datatype: t::Handle, size: *mut i32) -> i32 {
    let word = t::datatype(datatype);
    if let Some(known) = mpi_std::predefined_size(word) {
        // SAFETY: the program's output.
        unsafe { *size = known as i32 };
        return 0;
    }
    t::error_back(cross!(slot::MPI_Type_size, fn(u64, *mut i32) -> i32; word, size))
}

/// `MPI_Get_count`
#[no_mangle]
unsafe extern "C" fn mana_MPI_Get_count(
    status: *const t::ProgramStatus,
    datatype: t::Handle,
    count: *mut i32,
) -> i32 {
    let word = t::datatype(datatype);
    // SAFETY: the program's status.
    let status = unsafe { t::status_in(status) };
    if let Some(size) = mpi_std::predefined_size(word) {
        let (bytes, size) = (status.bytes(), u64::from(size));
        let n = match (bytes, size) {
            (0, _) => 0,
            (_, 0) => i64::from(mpi_std::MPI_UNDEFINED),
            _ if bytes % size == 0 && bytes / size <= i32::MAX as u64 => (bytes / size) as i64,
            _ => i64::from(mpi_std::MPI_UNDEFINED),
        };
        // SAFETY: the program's output.
        unsafe { *count = n as i32 };
        return 0;
    }
    let status = &raw const status;
    t::error_back(
        cross!(slot::MPI_Get_count, fn(*const Status, u64, *mut i32) -> i32; status, word, count),
    )
}

/// `MPI_Test_cancelled`
#[no_mangle]
unsafe extern "C" fn mana_MPI_Test_cancelled(
    status: *const t::ProgramStatus,
    flag: *mut i32,
) -> i32 {
    // SAFETY: the program's status and output.
    unsafe { *flag = t::status_in(status).cancelled() as i32 };
    0
}

/// `MPI_Status_set_cancelled`
#[no_mangle]
unsafe extern "C" fn mana_MPI_Status_set_cancelled(
    status: *mut t::ProgramStatus,
    flag: i32,
) -> i32 {
    // SAFETY: the program's status.
    unsafe {
        let mut s = t::status_in(status);
        s.set_cancelled(flag != 0);
        t::status_give(&s, &mut *status);
    }
    0
}

/// `MPI_Status_set_elements_x`
#[no_mangle]
pub unsafe extern "C" fn mana_MPI_Status_set_elements_x(
    status: *mut t::ProgramStatus,
    datatype: t::Handle,
    count: i64,
) -> i32 {
    let word = t::datatype(datatype);
    // SAFETY: the program's status; the slot's signature is the table's.
    unsafe {
        let mut s = t::status_in(status);
        let rc = match mpi_std::predefined_size(word) {
            Some(size) => {
                s.set_bytes(count.max(0) as u64 * u64::from(size));
                0
            }
            None => {
                let s_p = &raw mut s;
                cross!(slot::MPI_Status_set_elements_x, fn(*mut Status, u64, i64) -> i32;
                       s_p, word, count)
            }
        };
        if rc == 0 {
            t::status_give(&s, &mut *status);
        }
        t::error_back(rc)
    }
}

/// `MPI_Status_set_elements`
#[no_mangle]
unsafe extern "C" fn mana_MPI_Status_set_elements(
    status: *mut t::ProgramStatus,
    datatype: t::Handle,
    count: i32,
) -> i32 {
    // SAFETY: as the caller's.
    unsafe { mana_MPI_Status_set_elements_x(status, datatype, i64::from(count)) }
}

/// `MPI_Pcontrol`
#[no_mangle]
unsafe extern "C" fn mana_MPI_Pcontrol(_level: i32) -> i32 {
    0
}

/// `MPI_Get_address`
#[no_mangle]
unsafe extern "C" fn mana_MPI_Get_address(location: *const c_void, address: *mut i64) -> i32 {
    // SAFETY: the program's output.
    unsafe { *address = location as i64 };
    0
}

/// `MPI_Aint_add`
#[no_mangle]
unsafe extern "C" fn mana_MPI_Aint_add(base: i64, disp: i64) -> i64 {
    base.wrapping_add(disp)
}

/// `MPI_Aint_diff`
#[no_mangle]
unsafe extern "C" fn mana_MPI_Aint_diff(a: i64, b: i64) -> i64 {
    a.wrapping_sub(b)
}

fn bounds(datatype: t::Handle) -> (i32, i64, i64) {
    let word = t::datatype(datatype);
    let (mut lb, mut extent) = (0, 0);
    let (lb_p, extent_p) = (&raw mut lb, &raw mut extent);
    let rc =
        cross!(slot::MPI_Type_get_extent, fn(u64, *mut i64, *mut i64) -> i32; word, lb_p, extent_p);
    (rc, lb, extent)
}

/// `MPI_Type_extent`
#[no_mangle]
unsafe extern "C" fn mana_MPI_Type_extent(datatype: t::Handle, extent: *mut i64) -> i32 {
    let (rc, _, e) = bounds(datatype);
    if rc == 0 {
        // SAFETY: the program's output.
        unsafe { *extent = e };
    }
    t::error_back(rc)
}

/// `MPI_Type_lb`
#[no_mangle]
unsafe extern "C" fn mana_MPI_Type_lb(datatype: t::Handle, bound: *mut i64) -> i32 {
    let (rc, lb, _) = bounds(datatype);
    if rc == 0 {
        // SAFETY: the program's output.
        unsafe { *bound = lb };
    }
    t::error_back(rc)
}

/// `MPI_Type_ub`
#[no_mangle]
unsafe extern "C" fn mana_MPI_Type_ub(datatype: t::Handle, bound: *mut i64) -> i32 {
    let (rc, lb, e) = bounds(datatype);
    if rc == 0 {
        // SAFETY: the program's output.
        unsafe { *bound = lb + e };
    }
    t::error_back(rc)
}

/// `MPI_Type_match_size`
#[no_mangle]
unsafe extern "C" fn mana_MPI_Type_match_size(
    typeclass: i32,
    size: i32,
    datatype: *mut t::Handle,
) -> i32 {
    let found = match (t::typeclass(typeclass), size) {
        (mpi_std::MPI_TYPECLASS_REAL, 4) => mpi_std::MPI_REAL4,
        (mpi_std::MPI_TYPECLASS_REAL, 8) => mpi_std::MPI_REAL8,
        (mpi_std::MPI_TYPECLASS_REAL, 16) => mpi_std::MPI_REAL16,
        (mpi_std::MPI_TYPECLASS_INTEGER, 1) => mpi_std::MPI_INTEGER1,
        (mpi_std::MPI_TYPECLASS_INTEGER, 2) => mpi_std::MPI_INTEGER2,
        (mpi_std::MPI_TYPECLASS_INTEGER, 4) => mpi_std::MPI_INTEGER4,
        (mpi_std::MPI_TYPECLASS_INTEGER, 8) => mpi_std::MPI_INTEGER8,
        (mpi_std::MPI_TYPECLASS_COMPLEX, 8) => mpi_std::MPI_COMPLEX8,
        (mpi_std::MPI_TYPECLASS_COMPLEX, 16) => mpi_std::MPI_COMPLEX16,
        (mpi_std::MPI_TYPECLASS_COMPLEX, 32) => mpi_std::MPI_COMPLEX32,
        _ => return t::error_back(mpi_std::MPI_ERR_ARG),
    };
    // SAFETY: the program's output.
    unsafe { *datatype = t::datatype_back(found) };
    0
}

/// Copies a status as it is: the Fortran status has the C status's words.
unsafe fn copy_status(from: *const i32, to: *mut i32) -> i32 {
    let words = size_of::<t::ProgramStatus>() / 4;
    let mut i = 0;
    while i < words {
        // SAFETY: both have that many words, says the caller.
        unsafe { *to.add(i) = *from.add(i) };
        i += 1;
    }
    0
}

/// `MPI_Status_c2f`
#[no_mangle]
unsafe extern "C" fn mana_MPI_Status_c2f(from: *const i32, to: *mut i32) -> i32 {
    // SAFETY: the program's statuses.
    unsafe { copy_status(from, to) }
}

/// `MPI_Status_f2c`
#[no_mangle]
unsafe extern "C" fn mana_MPI_Status_f2c(from: *const i32, to: *mut i32) -> i32 {
    // SAFETY: the program's statuses.
    unsafe { copy_status(from, to) }
}

/// `MPIX_Query_cuda_support`: device memory does not survive.
#[no_mangle]
unsafe extern "C" fn mana_MPIX_Query_cuda_support() -> i32 {
    0
}

/// `MPIX_Query_hip_support`
#[no_mangle]
unsafe extern "C" fn mana_MPIX_Query_hip_support() -> i32 {
    0
}

/// `MPIX_Query_ze_support`
#[no_mangle]
unsafe extern "C" fn mana_MPIX_Query_ze_support() -> i32 {
    0
}

/// `MPI_Comm_get_attr`
#[no_mangle]
unsafe extern "C" fn mana_MPI_Comm_get_attr(
    comm: t::Handle,
    key: i32,
    value: *mut c_void,
    flag: *mut i32,
) -> i32 {
    let (comm, key) = (t::comm(comm), t::keyval(key));
    let rc = cross!(slot::MPI_Comm_get_attr, fn(u64, i32, *mut c_void, *mut i32) -> i32;
                    comm, key, value, flag);
    // SAFETY: the program's outputs, written if there was no error.
    unsafe {
        if rc == 0 && *flag != 0 {
            let value: *mut *mut i32 = value.cast();
            *value = attributes::in_upper_memory(key, *value);
        }
    }
    t::error_back(rc)
}

/// `MPI_Alloc_mem`: memory of the program's heap, saved like the rest of it. The lower half is asked
/// only to raise the error if there is none.
#[no_mangle]
unsafe extern "C" fn mana_MPI_Alloc_mem(size: i64, _info: t::Handle, base: *mut c_void) -> i32 {
    let mut block = core::ptr::null_mut();
    // SAFETY: the program's allocator; a cache line suits every datatype.
    if size >= 0 && unsafe { posix_memalign(&mut block, 64, size.max(1) as usize) } == 0 {
        // SAFETY: the program's output, a pointer to a pointer.
        unsafe { *base.cast::<*mut c_void>() = block };
        return 0;
    }
    let class = if size < 0 {
        mpi_std::MPI_ERR_ARG
    } else {
        mpi_std::MPI_ERR_NO_MEM
    };
    cross!(slot::MPI_Comm_call_errhandler, fn(u64, i32) -> i32; mpi_std::MPI_COMM_WORLD, class);
    t::error_back(class)
}

/// `MPI_Free_mem`
#[no_mangle]
unsafe extern "C" fn mana_MPI_Free_mem(base: *mut c_void) -> i32 {
    // SAFETY: from `MPI_Alloc_mem`, says the program.
    unsafe { free(base) };
    0
}
