//! MPICH's ABI: handles, statuses, special addresses.

use core::ffi::c_void;
use core::sync::atomic::Ordering;

use mpi_std::{CopyCall, DeleteCall, Status, FIRST_INDEX, PREDEFINED_END};

use crate::callbacks::ErrorOn;
use crate::exports::{DATATYPES, HANDLES, OPERATIONS, PAIRS};
use crate::languages;

/// A handle.
pub type Handle = i32;
/// A file's handle, a pointer. It holds the virtual word, and is never followed.
pub type FileHandle = usize;

/// `MPI_Status`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct ProgramStatus {
    count_lo: i32,
    count_hi_and_cancelled: i32,
    source: i32,
    tag: i32,
    error: i32,
}

const _: () = assert!(size_of::<ProgramStatus>() == 20);

/// `MPI_ERR_LASTCODE`
pub const LAST_CODE: i32 = 0x3fffffff;

/// `MPI_STATUS_IGNORE`
pub const STATUS_IGNORE: usize = 1;
/// `MPI_STATUSES_IGNORE`
pub const STATUSES_IGNORE: usize = 1;

/// A status in standard form, without its error.
#[inline(always)]
pub fn status_take(from: &ProgramStatus) -> Status {
    let mut to = Status {
        source: crate::translate::rank(from.source),
        tag: crate::translate::tag(from.tag),
        error: 0,
        internal: [0; 5],
    };
    let high = from.count_hi_and_cancelled as u32;
    to.set_bytes(u64::from(high >> 1) << 32 | u64::from(from.count_lo as u32));
    to.set_cancelled(high & 1 != 0);
    to
}

/// A status in the program's form; its error stays.
#[inline(always)]
pub fn status_give(from: &Status, to: &mut ProgramStatus) {
    let bytes = from.bytes();
    to.source = crate::translate::rank_back(from.source);
    to.tag = crate::translate::tag_back(from.tag);
    to.count_lo = bytes as u32 as i32;
    to.count_hi_and_cancelled = (((bytes >> 32) as u32) << 1 | u32::from(from.cancelled())) as i32;
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
    if address as isize == -1 {
        mpi_std::MPI_IN_PLACE as *const c_void
    } else {
        address
    }
}

extern "C" {
    static MPI_UNWEIGHTED: *const i32;
    static MPI_WEIGHTS_EMPTY: *const i32;
}

/// An array of weights. The special arrays are what two pointers of the library point to.
#[inline(always)]
pub fn weights(address: *const i32) -> *const i32 {
    // SAFETY: data symbols, or the executable's copies of them.
    let (unweighted, empty) = unsafe { (MPI_UNWEIGHTED, MPI_WEIGHTS_EMPTY) };
    if address == unweighted {
        mpi_std::MPI_UNWEIGHTED as *const i32
    } else if address == empty {
        mpi_std::MPI_WEIGHTS_EMPTY as *const i32
    } else {
        address
    }
}

/// A function of the program: the predefined one becomes the standard's number.
#[inline(always)]
pub fn function(address: *mut c_void) -> *mut c_void {
    languages::predefined_function(address)
}

#[inline(always)]
fn predefined(word: u64) -> Handle {
    HANDLES.get(word as usize).map_or(0, |h| *h as i32)
}

#[inline(always)]
fn back(word: u64) -> Handle {
    if word < PREDEFINED_END {
        predefined(word)
    } else {
        word as u32 as i32
    }
}

macro_rules! kinds {
    ($($take:ident $back:ident [$($word:ident),*])*) => {$(
        /// The word of a handle of this kind.
        #[inline(always)]
        pub fn $take(handle: Handle) -> u64 {
            $(
                if handle == const { constant(mpi_std::$word) } {
                    return mpi_std::$word;
                }
            )*
            u64::from(handle as u32)
        }

        /// The handle of a word of this kind.
        #[inline(always)]
        pub fn $back(word: u64) -> Handle {
            back(word)
        }
    )*};
}

/// A predefined handle, at compile time.
const fn constant(word: u64) -> i32 {
    HANDLES_AT_BUILD[word as usize] as i32
}
const HANDLES_AT_BUILD: [u32; 1024] = crate::exports::HANDLES_TABLE;

kinds! {
    comm comm_back [MPI_COMM_WORLD, MPI_COMM_SELF, MPI_COMM_NULL]
    group group_back [MPI_GROUP_NULL, MPI_GROUP_EMPTY]
    errhandler errhandler_back [
        MPI_ERRHANDLER_NULL, MPI_ERRORS_ARE_FATAL, MPI_ERRORS_ABORT, MPI_ERRORS_RETURN,
        MPI_ERRORS_THROW_EXCEPTIONS
    ]
    info info_back [MPI_INFO_NULL, MPI_INFO_ENV]
    win win_back [MPI_WIN_NULL]
    message message_back [MPI_MESSAGE_NULL, MPI_MESSAGE_NO_PROC]
    request request_back [MPI_REQUEST_NULL]
    session session_back [MPI_SESSION_NULL]
}

/// The word of a file.
#[inline(always)]
pub fn file(handle: FileHandle) -> u64 {
    if handle == 0 {
        mpi_std::MPI_FILE_NULL
    } else {
        handle as u64
    }
}

/// The handle of a file's word.
#[inline(always)]
pub fn file_back(word: u64) -> FileHandle {
    if word == mpi_std::MPI_FILE_NULL {
        0
    } else {
        word as usize
    }
}

/// The word of a datatype.
#[inline(always)]
pub fn datatype(handle: Handle) -> u64 {
    let h = handle as u32;
    let low = (h & 0xff) as usize;
    match h >> 24 {
        0x4c => DATATYPES.get(low).map_or(0, |w| u64::from(*w)),
        0x8c if h & 0x00ff_ffff < FIRST_INDEX => PAIRS.get(low).map_or(0, |w| u64::from(*w)),
        0x0c => mpi_std::MPI_DATATYPE_NULL,
        _ => u64::from(h),
    }
}

/// The handle of a datatype's word.
#[inline(always)]
pub fn datatype_back(word: u64) -> Handle {
    back(word)
}

/// The word of an operation.
#[inline(always)]
pub fn op(handle: Handle) -> u64 {
    let h = handle as u32;
    match h >> 24 {
        0x58 => OPERATIONS
            .get((h & 0xff) as usize)
            .map_or(0, |w| u64::from(*w)),
        0x18 => mpi_std::MPI_OP_NULL,
        _ => u64::from(h),
    }
}

/// The handle of an operation's word.
#[inline(always)]
pub fn op_back(word: u64) -> Handle {
    back(word)
}

/// A mark in the slots of generalised requests; nothing of MPICH looks at it.
pub const GREQUEST_MAGIC: u64 = 0x4d50_4948;

/// The handle of a new generalised request.
pub fn grequest_back(word: u64, _object: usize) -> Handle {
    back(word)
}

/// The Fortran integer of a datatype: the handle.
pub fn fortran_datatype(word: u64) -> i32 {
    back(word)
}

/// The Fortran integer of a communicator, window or file: the handle.
pub fn fortran_object(word: u64) -> i32 {
    back(word)
}

/// Fortran operations need nothing special: the handle is the Fortran integer.
pub fn is_fortran_op(_word: u64) -> bool {
    false
}

/// Calls an operation's function, if it is one of C++.
///
/// # Safety
/// The arguments are those of the operation.
pub unsafe fn call_cxx_op(
    function: usize,
    operation: u64,
    invec: *mut u8,
    inoutvec: *mut u8,
    len: &mut i32,
    datatype: &mut Handle,
) -> bool {
    type Intercept = unsafe extern "C" fn(*mut u8, *mut u8, i32, Handle, usize);
    let intercept = languages::cxx_op(operation);
    if intercept == 0 {
        return false;
    }
    // SAFETY: the C++ library gave this function for operations of C++.
    unsafe {
        let intercept: Intercept = core::mem::transmute(intercept);
        intercept(invec, inoutvec, *len, *datatype, function);
    }
    true
}

/// Forgets what an earlier handler of the same index was.
pub fn fresh_errhandler(word: u64) {
    languages::set_cxx_errhandler(word, 0);
}

/// Forgets what an earlier key of the same index was.
pub fn fresh_key(key: i32) {
    if let Some(key) = languages::key(key) {
        key.copy.store(0, Ordering::Relaxed);
        key.delete.store(0, Ordering::Relaxed);
    }
}

/// Calls a handler of C++ through that language's library. `MPI::ERRORS_THROW_EXCEPTIONS` needs nothing: the
/// library sees the code that comes back, and throws.
///
/// # Safety
/// The arguments are those of the handler; `object` holds the handle.
pub unsafe fn foreign_errhandler(
    handler: u64,
    function: usize,
    kind: ErrorOn,
    object: *mut c_void,
    code: &mut i32,
) -> bool {
    type Intercept = unsafe extern "C" fn(i32, *mut c_void, *mut i32, usize);
    if handler == mpi_std::MPI_ERRORS_THROW_EXCEPTIONS {
        return true;
    }
    let intercept = languages::cxx_errhandler(handler);
    if intercept == 0 {
        return false;
    }
    // SAFETY: the C++ library gave this function for handlers of C++.
    unsafe {
        let intercept: Intercept = core::mem::transmute(intercept);
        intercept(kind as i32, object, code, function);
    }
    true
}

/// Fortran error handlers need nothing special: handles are integers.
pub fn fortran_function(_function: usize) -> Option<usize> {
    None
}

/// Calls a key's copy function through the language library's proxy, if it has one.
///
/// # Safety
/// The arguments are those of the attribute.
pub unsafe fn foreign_copy(call: &mut CopyCall, object: Handle) -> Option<i32> {
    type Proxy =
        unsafe extern "C" fn(usize, i32, i32, usize, i32, usize, *mut usize, *mut i32) -> i32;
    let proxy = languages::key(call.keyval)?.copy.load(Ordering::Relaxed);
    if proxy == 0 {
        return None;
    }
    // SAFETY: the proxy that was set for this key.
    unsafe {
        let proxy: Proxy = core::mem::transmute(proxy);
        Some(proxy(
            call.function,
            object,
            call.keyval,
            call.extra,
            languages::ATTRIBUTE_ADDRESS,
            call.value_in,
            &mut call.value_out,
            &mut call.flag,
        ))
    }
}

/// Calls a key's delete function through the language library's proxy, if it has one.
///
/// # Safety
/// The arguments are those of the attribute.
pub unsafe fn foreign_delete(call: &mut DeleteCall, object: Handle) -> Option<i32> {
    type Proxy = unsafe extern "C" fn(usize, i32, i32, i32, usize, usize) -> i32;
    let proxy = languages::key(call.keyval)?.delete.load(Ordering::Relaxed);
    if proxy == 0 {
        return None;
    }
    // SAFETY: the proxy that was set for this key.
    unsafe {
        let proxy: Proxy = core::mem::transmute(proxy);
        Some(proxy(
            call.function,
            object,
            call.keyval,
            languages::ATTRIBUTE_ADDRESS,
            call.value,
            call.extra,
        ))
    }
}

/// MPI has started, or could not.
pub fn initialized(_ok: bool) {}

/// MPI has ended.
pub fn finalized() {}
