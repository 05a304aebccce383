//! Procedures of MPI-4.1 and MPI-5.0 that need no more than the lower half has, and the integers of handles
//! as functions: MPICH 4.3 and later, and the standard's ABI, export them.
//!
//! Upper half.

use mana_raw::cross;
use mpi_std::{slot, Status};

use crate::translate as t;

macro_rules! integers {
    ($($c2f:ident $f2c:ident $fromint:ident $toint:ident)*) => {$(
        #[no_mangle]
        unsafe extern "C" fn $toint(handle: t::Handle) -> i32 {
            handle as i32
        }

        #[no_mangle]
        unsafe extern "C" fn $fromint(integer: i32) -> t::Handle {
            integer as u32 as t::Handle
        }

        #[no_mangle]
        unsafe extern "C" fn $c2f(handle: t::Handle) -> i32 {
            handle as i32
        }

        #[no_mangle]
        unsafe extern "C" fn $f2c(integer: i32) -> t::Handle {
            integer as u32 as t::Handle
        }
    )*};
}

integers! {
    mana_MPI_Comm_c2f mana_MPI_Comm_f2c mana_MPI_Comm_fromint mana_MPI_Comm_toint
    mana_MPI_Errhandler_c2f mana_MPI_Errhandler_f2c mana_MPI_Errhandler_fromint mana_MPI_Errhandler_toint
    mana_MPI_Group_c2f mana_MPI_Group_f2c mana_MPI_Group_fromint mana_MPI_Group_toint
    mana_MPI_Info_c2f mana_MPI_Info_f2c mana_MPI_Info_fromint mana_MPI_Info_toint
    mana_MPI_Message_c2f mana_MPI_Message_f2c mana_MPI_Message_fromint mana_MPI_Message_toint
    mana_MPI_Op_c2f mana_MPI_Op_f2c mana_MPI_Op_fromint mana_MPI_Op_toint
    mana_MPI_Request_c2f mana_MPI_Request_f2c mana_MPI_Request_fromint mana_MPI_Request_toint
    mana_MPI_Session_c2f mana_MPI_Session_f2c mana_MPI_Session_fromint mana_MPI_Session_toint
    mana_MPI_Type_c2f mana_MPI_Type_f2c mana_MPI_Type_fromint mana_MPI_Type_toint
    mana_MPI_Win_c2f mana_MPI_Win_f2c mana_MPI_Win_fromint mana_MPI_Win_toint
}

/// `MPI_File_toint`: files are pointers in every ABI, ours hold the word.
#[no_mangle]
unsafe extern "C" fn mana_MPI_File_toint(file: t::FileHandle) -> i32 {
    file as i32
}

/// `MPI_File_fromint`
#[no_mangle]
unsafe extern "C" fn mana_MPI_File_fromint(integer: i32) -> t::FileHandle {
    integer as u32 as t::FileHandle
}

macro_rules! fields {
    ($($get:ident $set:ident $field:ident $take:ident $back:ident)*) => {$(
        #[no_mangle]
        unsafe extern "C" fn $get(status: *const t::ProgramStatus, value: *mut i32) -> i32 {
            // SAFETY: the program's status and output.
            unsafe { *value = t::$back(t::status_in(status).$field) };
            0
        }

        #[no_mangle]
        unsafe extern "C" fn $set(status: *mut t::ProgramStatus, value: i32) -> i32 {
            // SAFETY: the program's status.
            unsafe {
                let mut s = t::status_in(status);
                s.$field = t::$take(value);
                t::status_give(&s, &mut *status);
            }
            0
        }
    )*};
}

fields! {
    mana_MPI_Status_get_source mana_MPI_Status_set_source source rank rank_back
    mana_MPI_Status_get_tag mana_MPI_Status_set_tag tag tag tag_back
}

/// `MPI_Status_get_error`
#[no_mangle]
unsafe extern "C" fn mana_MPI_Status_get_error(
    status: *const t::ProgramStatus,
    error: *mut i32,
) -> i32 {
    // SAFETY: the program's status and output.
    unsafe { *error = t::status_error(&*status) };
    0
}

/// `MPI_Status_set_error`
#[no_mangle]
unsafe extern "C" fn mana_MPI_Status_set_error(status: *mut t::ProgramStatus, error: i32) -> i32 {
    // SAFETY: the program's status.
    unsafe { t::status_set_error(&mut *status, error) };
    0
}

/// `MPI_Status_set_elements_c`
#[no_mangle]
unsafe extern "C" fn mana_MPI_Status_set_elements_c(
    status: *mut t::ProgramStatus,
    datatype: t::Handle,
    count: i64,
) -> i32 {
    // SAFETY: as the caller's.
    unsafe { crate::local::mana_MPI_Status_set_elements_x(status, datatype, count) }
}

/// Whether a request is complete; its status goes to `status`, unless that is ignored.
unsafe fn look(request: t::Handle, flag: &mut i32, status: *mut t::ProgramStatus) -> i32 {
    let word = t::request(request);
    let mut s = t::OneStatus::new(status);
    let (s_p, flag_p) = (s.pointer(), &raw mut *flag);
    let rc = cross!(slot::MPI_Request_get_status, fn(u64, *mut i32, *mut Status) -> i32;
                    word, flag_p, s_p);
    if *flag != 0 {
        // SAFETY: the caller's status.
        unsafe { s.give(status) };
    }
    rc
}

/// The `i`th of an array of statuses, unless they are ignored.
unsafe fn nth(statuses: *mut t::ProgramStatus, i: usize) -> *mut t::ProgramStatus {
    if statuses as usize == t::STATUSES_IGNORE {
        t::STATUS_IGNORE as *mut t::ProgramStatus
    } else {
        // SAFETY: within the array, says the caller.
        unsafe { statuses.add(i) }
    }
}

/// `MPI_Request_get_status_all`
#[no_mangle]
unsafe extern "C" fn mana_MPI_Request_get_status_all(
    count: i32,
    requests: *const t::Handle,
    flag: *mut i32,
    statuses: *mut t::ProgramStatus,
) -> i32 {
    let mut all = 1;
    let mut i = 0;
    // SAFETY: the program's arrays of `count` elements; its output.
    unsafe {
        while all != 0 && i < t::len(count) {
            let rc = look(*requests.add(i), &mut all, nth(statuses, i));
            if rc != 0 {
                return t::error_back(rc);
            }
            i += 1;
        }
        *flag = all;
    }
    0
}

/// `MPI_Request_get_status_any`
#[no_mangle]
unsafe extern "C" fn mana_MPI_Request_get_status_any(
    count: i32,
    requests: *const t::Handle,
    index: *mut i32,
    flag: *mut i32,
    status: *mut t::ProgramStatus,
) -> i32 {
    let mut active = false;
    let mut i = 0;
    // SAFETY: the program's array of `count` elements; its outputs.
    unsafe {
        *index = t::MPI_UNDEFINED;
        *flag = 0;
        while i < t::len(count) {
            let request = *requests.add(i);
            if t::request(request) != mpi_std::MPI_REQUEST_NULL {
                active = true;
                let rc = look(request, &mut *flag, status);
                if rc != 0 {
                    return t::error_back(rc);
                }
                if *flag != 0 {
                    *index = i as i32;
                    return 0;
                }
            }
            i += 1;
        }
        if !active {
            *flag = 1;
            if status as usize != t::STATUS_IGNORE {
                t::status_give(&Status::EMPTY, &mut *status);
            }
        }
    }
    0
}

/// `MPI_Request_get_status_some`
#[no_mangle]
unsafe extern "C" fn mana_MPI_Request_get_status_some(
    count: i32,
    requests: *const t::Handle,
    done: *mut i32,
    indices: *mut i32,
    statuses: *mut t::ProgramStatus,
) -> i32 {
    let mut active = false;
    let (mut i, mut n) = (0, 0);
    // SAFETY: the program's arrays of `count` elements; its outputs.
    unsafe {
        while i < t::len(count) {
            let request = *requests.add(i);
            if t::request(request) != mpi_std::MPI_REQUEST_NULL {
                active = true;
                let mut flag = 0;
                let rc = look(request, &mut flag, nth(statuses, n));
                if rc != 0 {
                    return t::error_back(rc);
                }
                if flag != 0 {
                    *indices.add(n) = i as i32;
                    n += 1;
                }
            }
            i += 1;
        }
        *done = if active { n as i32 } else { t::MPI_UNDEFINED };
    }
    0
}

/// `MPI_Type_get_value_index`
#[no_mangle]
unsafe extern "C" fn mana_MPI_Type_get_value_index(
    value: t::Handle,
    index: t::Handle,
    pair: *mut t::Handle,
) -> i32 {
    let found = match (t::datatype(value), t::datatype(index)) {
        (mpi_std::MPI_FLOAT, mpi_std::MPI_INT) => mpi_std::MPI_FLOAT_INT,
        (mpi_std::MPI_DOUBLE, mpi_std::MPI_INT) => mpi_std::MPI_DOUBLE_INT,
        (mpi_std::MPI_LONG, mpi_std::MPI_INT) => mpi_std::MPI_LONG_INT,
        (mpi_std::MPI_SHORT, mpi_std::MPI_INT) => mpi_std::MPI_SHORT_INT,
        (mpi_std::MPI_INT, mpi_std::MPI_INT) => mpi_std::MPI_2INT,
        (mpi_std::MPI_LONG_DOUBLE, mpi_std::MPI_INT) => mpi_std::MPI_LONG_DOUBLE_INT,
        (mpi_std::MPI_REAL, mpi_std::MPI_REAL) => mpi_std::MPI_2REAL,
        (mpi_std::MPI_DOUBLE_PRECISION, mpi_std::MPI_DOUBLE_PRECISION) => {
            mpi_std::MPI_2DOUBLE_PRECISION
        }
        (mpi_std::MPI_INTEGER, mpi_std::MPI_INTEGER) => mpi_std::MPI_2INTEGER,
        _ => mpi_std::MPI_DATATYPE_NULL,
    };
    // SAFETY: the program's output.
    unsafe { *pair = t::datatype_back(found) };
    0
}

/// An info object without keys.
unsafe fn no_info(info: *mut t::Handle) -> i32 {
    let mut word = 0u64;
    let word_p = &raw mut word;
    let rc = cross!(slot::MPI_Info_create, fn(*mut u64) -> i32; word_p);
    if rc == 0 {
        // SAFETY: the program's output.
        unsafe { *info = t::info_back(word) };
    }
    t::error_back(rc)
}

/// `MPI_Get_hw_resource_info`: nothing is known, and after a restart it would not hold.
#[no_mangle]
unsafe extern "C" fn mana_MPI_Get_hw_resource_info(info: *mut t::Handle) -> i32 {
    // SAFETY: the program's output.
    unsafe { no_info(info) }
}

/// `MPI_Abi_get_version`
#[no_mangle]
unsafe extern "C" fn mana_MPI_Abi_get_version(major: *mut i32, minor: *mut i32) -> i32 {
    // SAFETY: the program's outputs.
    unsafe {
        *major = 1;
        *minor = 0;
    }
    0
}

/// `MPI_Abi_get_info`
#[no_mangle]
unsafe extern "C" fn mana_MPI_Abi_get_info(info: *mut t::Handle) -> i32 {
    // SAFETY: the program's output.
    unsafe { no_info(info) }
}
