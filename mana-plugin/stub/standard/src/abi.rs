//! The standard's ABI: handles are words, statuses and constants are those of the contract between the halves.

use core::ffi::c_void;

use mpi_std::{CopyCall, DeleteCall, Status};

use crate::callbacks::ErrorOn;

/// A handle: a pointer that is never followed.
pub type Handle = usize;
/// A file's handle.
pub type FileHandle = Handle;

/// `MPI_Status`.
pub type ProgramStatus = Status;

/// `MPI_ERR_LASTCODE`
pub const LAST_CODE: i32 = mpi_std::MPI_ERR_LASTCODE;

/// `MPI_STATUS_IGNORE`
pub const STATUS_IGNORE: usize = mpi_std::MPI_STATUS_IGNORE;
/// `MPI_STATUSES_IGNORE`
pub const STATUSES_IGNORE: usize = mpi_std::MPI_STATUS_IGNORE;

/// A status without its error.
#[inline(always)]
pub fn status_take(from: &ProgramStatus) -> Status {
    Status { error: 0, ..*from }
}

/// A status in the program's form; its error stays.
#[inline(always)]
pub fn status_give(from: &Status, to: &mut ProgramStatus) {
    *to = Status {
        error: to.error,
        ..*from
    };
}

/// The error field.
#[inline(always)]
pub fn status_error(status: &ProgramStatus) -> i32 {
    status.error
}

/// Sets the error field.
#[inline(always)]
pub fn status_set_error(status: &mut ProgramStatus, error: i32) {
    status.error = error;
}

/// A buffer.
#[inline(always)]
pub fn buffer(address: *const c_void) -> *const c_void {
    address
}

/// An array of weights.
#[inline(always)]
pub fn weights(address: *const i32) -> *const i32 {
    address
}

/// A function of the program; the predefined ones are numbers.
#[inline(always)]
pub fn function(address: *mut c_void) -> *mut c_void {
    address
}

macro_rules! kinds {
    ($($take:ident $back:ident)*) => {$(
        /// The word of a handle of this kind.
        #[inline(always)]
        pub fn $take(handle: Handle) -> u64 {
            handle as u64
        }

        /// The handle of a word of this kind.
        #[inline(always)]
        pub fn $back(word: u64) -> Handle {
            word as Handle
        }
    )*};
}

kinds! {
    comm comm_back
    group group_back
    file file_back
    errhandler errhandler_back
    info info_back
    win win_back
    message message_back
    request request_back
    session session_back
    datatype datatype_back
    op op_back
}

/// A mark in the slots of generalised requests; nothing looks at it.
pub const GREQUEST_MAGIC: u64 = 0x4d50_4935;

/// The handle of a new generalised request.
pub fn grequest_back(word: u64, _object: usize) -> Handle {
    word as Handle
}

/// The Fortran integer of a datatype: the word.
pub fn fortran_datatype(word: u64) -> i32 {
    word as u32 as i32
}

/// The Fortran integer of a communicator, window or file: the word.
pub fn fortran_object(word: u64) -> i32 {
    word as u32 as i32
}

/// No operation has a Fortran function of its own.
pub fn is_fortran_op(_word: u64) -> bool {
    false
}

/// There is no C++ library of this ABI.
///
/// # Safety
/// None is needed.
pub unsafe fn call_cxx_op(
    _function: usize,
    _operation: u64,
    _invec: *mut u8,
    _inoutvec: *mut u8,
    _len: &mut i32,
    _datatype: &mut Handle,
) -> bool {
    false
}

/// Error handlers are all of C.
pub fn fresh_errhandler(_word: u64) {}

/// Keys are all of C.
pub fn fresh_key(_key: i32) {}

/// No handler is of another language; without a C++ library nobody can have asked for exceptions.
///
/// # Safety
/// None is needed.
pub unsafe fn foreign_errhandler(
    handler: u64,
    _function: usize,
    _kind: ErrorOn,
    _object: *mut c_void,
    _code: &mut i32,
) -> bool {
    handler == mpi_std::MPI_ERRORS_THROW_EXCEPTIONS
}

/// No error handler is marked as Fortran's.
pub fn fortran_function(_function: usize) -> Option<usize> {
    None
}

/// Keys have no proxies.
///
/// # Safety
/// None is needed.
pub unsafe fn foreign_copy(_call: &mut CopyCall, _object: Handle) -> Option<i32> {
    None
}

/// Keys have no proxies.
///
/// # Safety
/// None is needed.
pub unsafe fn foreign_delete(_call: &mut DeleteCall, _object: Handle) -> Option<i32> {
    None
}

/// MPI has started, or could not.
pub fn initialized(_ok: bool) {}

/// MPI has ended.
pub fn finalized() {}
