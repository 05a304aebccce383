//! Open MPI's ABI: handles, statuses, special addresses.

use core::ffi::c_void;

use mpi_std::{CopyCall, DeleteCall, Status, PREDEFINED_END};

use crate::callbacks::ErrorOn;
use crate::exports::{FORTRAN, PREDEFINED};
use crate::objects::{self, KeyLanguage};

/// A handle: an address, or a virtual word.
pub type Handle = usize;
/// A file's handle.
pub type FileHandle = Handle;

/// The address of a data symbol.
pub struct Address(pub *const u64);
// SAFETY: an address is a value.
unsafe impl Sync for Address {}

/// `MPI_Status`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct ProgramStatus {
    source: i32,
    tag: i32,
    error: i32,
    cancelled: i32,
    count: usize,
}

const _: () = assert!(size_of::<ProgramStatus>() == 24);

/// `MPI_ERR_LASTCODE`
pub const LAST_CODE: i32 = 0x5c;

/// `MPI_STATUS_IGNORE`
pub const STATUS_IGNORE: usize = 0;
/// `MPI_STATUSES_IGNORE`
pub const STATUSES_IGNORE: usize = 0;

/// A status in standard form, without its error.
#[inline(always)]
pub fn status_take(from: &ProgramStatus) -> Status {
    let mut to = Status {
        source: crate::translate::rank(from.source),
        tag: crate::translate::tag(from.tag),
        error: 0,
        internal: [0; 5],
    };
    to.set_bytes(from.count as u64);
    to.set_cancelled(from.cancelled != 0);
    to
}

/// A status in the program's form; its error stays.
#[inline(always)]
pub fn status_give(from: &Status, to: &mut ProgramStatus) {
    to.source = crate::translate::rank_back(from.source);
    to.tag = crate::translate::tag_back(from.tag);
    to.cancelled = from.cancelled() as i32;
    to.count = from.bytes() as usize;
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

/// A buffer: the special addresses are the standard's.
#[inline(always)]
pub fn buffer(address: *const c_void) -> *const c_void {
    address
}

/// An array of weights.
#[inline(always)]
pub fn weights(address: *const i32) -> *const i32 {
    match address as usize {
        2 => mpi_std::MPI_UNWEIGHTED as *const i32,
        3 => mpi_std::MPI_WEIGHTS_EMPTY as *const i32,
        _ => address,
    }
}

/// A function of the program: the predefined ones become the standard's numbers.
#[inline(always)]
pub fn function(address: *mut c_void) -> *mut c_void {
    crate::languages::predefined_function(address)
}

/// The handle of any word.
#[inline(always)]
fn handle(word: u64) -> Handle {
    if word < PREDEFINED_END {
        PREDEFINED
            .get(word as usize)
            .map_or(0, |address| address.0 as usize)
    } else {
        objects::handle(word)
    }
}

macro_rules! kinds {
    ($($take:ident $back:ident)*) => {$(
        /// The word of a handle of this kind.
        #[inline(always)]
        pub fn $take(handle: Handle) -> u64 {
            objects::word(handle)
        }

        /// The handle of a word of this kind.
        #[inline(always)]
        pub fn $back(word: u64) -> Handle {
            handle(word)
        }
    )*};
}

kinds! {
    comm comm_back
    group group_back
    datatype datatype_back
    file file_back
    errhandler errhandler_back
    session session_back
    info info_back
    win win_back
    message message_back
    op op_back
}

/// The word of a request.
#[inline(always)]
pub fn request(handle: Handle) -> u64 {
    objects::word(handle)
}

/// The handle of a request: null, or its object.
#[inline(always)]
pub fn request_back(word: u64) -> Handle {
    handle(word)
}

/// First word of the object behind a generalised request: as in `objects`.
pub const GREQUEST_MAGIC: u64 = objects::MAGIC;

/// The handle of a new generalised request: its object, which Open MPI's Fortran library writes to.
pub fn grequest_back(_word: u64, object: usize) -> Handle {
    object
}

/// The Fortran integer of a word.
pub fn integer(word: u64) -> i32 {
    if word >= PREDEFINED_END {
        return word as u32 as i32;
    }
    for (w, integer) in &FORTRAN {
        if u64::from(*w) == word {
            return i32::from(*integer);
        }
    }
    -1
}

/// The standard word of a Fortran integer, among the predefined ones from `first` to `last`.
pub fn from_integer(integer: i32, first: u64, last: u64) -> u64 {
    if integer < 0 {
        return u64::from(integer as u32);
    }
    for (w, i) in &FORTRAN {
        let word = u64::from(*w);
        if word >= first && word <= last && i32::from(*i) == integer {
            return word;
        }
    }
    0
}

/// The Fortran integer of a datatype.
pub fn fortran_datatype(word: u64) -> i32 {
    integer(word)
}

/// The Fortran integer of a communicator, window or file.
pub fn fortran_object(word: u64) -> i32 {
    integer(word)
}

/// Whether an operation's function is Fortran.
pub fn is_fortran_op(word: u64) -> bool {
    objects::is_fortran_op(word)
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
    type Intercept = unsafe extern "C" fn(*mut u8, *mut u8, *mut i32, *mut Handle, usize);
    let user = objects::cxx_function(operation);
    if user == 0 {
        return false;
    }
    // SAFETY: the C++ library gave this function for the operation.
    unsafe {
        let intercept: Intercept = core::mem::transmute(function);
        intercept(invec, inoutvec, len, datatype, user);
    }
    true
}

/// Forgets what an earlier handler of the same index was.
pub fn fresh_errhandler(word: u64) {
    objects::fresh_errhandler(word);
}

/// Forgets what an earlier key of the same index was.
pub fn fresh_key(key: i32) {
    objects::set_key_language(key, KeyLanguage::C);
}

/// Calls a handler of C++ through that language's library, which puts what it needs into the handler's object;
/// that of `MPI::ERRORS_THROW_EXCEPTIONS` has the functions themselves, for each kind of object.
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
    type Dispatch = unsafe extern "C" fn(*mut c_void, *mut i32, *const c_void, usize);
    type Throw = unsafe extern "C" fn(*mut c_void, *mut i32, *const c_void);
    let no_message = core::ptr::null();
    if handler == mpi_std::MPI_ERRORS_THROW_EXCEPTIONS {
        let throw = objects::throw_function(kind);
        if throw != 0 {
            // SAFETY: the C++ library has put this function there.
            unsafe {
                let throw: Throw = core::mem::transmute(throw);
                throw(object, code, no_message);
            }
        }
        return true;
    }
    let dispatch = objects::cxx_dispatch(handler);
    if dispatch == 0 {
        return false;
    }
    // SAFETY: as above, for a handler of C++.
    unsafe {
        let dispatch: Dispatch = core::mem::transmute(dispatch);
        dispatch(object, code, no_message, function);
    }
    true
}

/// Marks the function of an error handler as Fortran, in a bit no address has.
const FORTRAN_FUNCTION: usize = 1 << 62;

/// A Fortran function, to be passed through the lower half.
pub fn tag_fortran(function: usize) -> usize {
    function | FORTRAN_FUNCTION
}

/// The Fortran function, if it is one.
pub fn fortran_function(function: usize) -> Option<usize> {
    if function & FORTRAN_FUNCTION != 0 {
        Some(function & !FORTRAN_FUNCTION)
    } else {
        None
    }
}

/// Calls a key's copy function, if it is Fortran.
///
/// # Safety
/// The arguments are those of the attribute.
pub unsafe fn foreign_copy(call: &mut CopyCall, object: Handle) -> Option<i32> {
    let mut object = integer(objects::word(object));
    let mut key = call.keyval;
    let (mut flag, mut error) = (0, 0);
    match objects::key_language(call.keyval) {
        KeyLanguage::C => return None,
        KeyLanguage::FortranAddress => {
            type Copy = unsafe extern "C" fn(
                *mut i32,
                *mut i32,
                *mut usize,
                *mut usize,
                *mut usize,
                *mut i32,
                *mut i32,
            );
            let (mut extra, mut value) = (call.extra, call.value_in);
            // SAFETY: the Fortran program's function for this key.
            unsafe {
                let function: Copy = core::mem::transmute(call.function);
                function(
                    &mut object,
                    &mut key,
                    &mut extra,
                    &mut value,
                    &mut call.value_out,
                    &mut flag,
                    &mut error,
                );
            }
        }
        KeyLanguage::FortranInteger => {
            type Copy = unsafe extern "C" fn(
                *mut i32,
                *mut i32,
                *mut i32,
                *mut i32,
                *mut i32,
                *mut i32,
                *mut i32,
            );
            let (mut extra, mut value) = (call.extra as i32, call.value_in as i32);
            let mut out = 0;
            // SAFETY: the Fortran program's function for this key.
            unsafe {
                let function: Copy = core::mem::transmute(call.function);
                function(
                    &mut object,
                    &mut key,
                    &mut extra,
                    &mut value,
                    &mut out,
                    &mut flag,
                    &mut error,
                );
            }
            call.value_out = out as isize as usize;
        }
    }
    call.flag = (flag != 0) as i32;
    Some(error)
}

/// Calls a key's delete function, if it is Fortran.
///
/// # Safety
/// The arguments are those of the attribute.
pub unsafe fn foreign_delete(call: &mut DeleteCall, object: Handle) -> Option<i32> {
    let mut object = integer(objects::word(object));
    let mut key = call.keyval;
    let mut error = 0;
    match objects::key_language(call.keyval) {
        KeyLanguage::C => return None,
        KeyLanguage::FortranAddress => {
            type Delete =
                unsafe extern "C" fn(*mut i32, *mut i32, *mut usize, *mut usize, *mut i32);
            let (mut value, mut extra) = (call.value, call.extra);
            // SAFETY: the Fortran program's function for this key.
            unsafe {
                let function: Delete = core::mem::transmute(call.function);
                function(&mut object, &mut key, &mut value, &mut extra, &mut error);
            }
        }
        KeyLanguage::FortranInteger => {
            type Delete = unsafe extern "C" fn(*mut i32, *mut i32, *mut i32, *mut i32, *mut i32);
            let (mut value, mut extra) = (call.value as i32, call.extra as i32);
            // SAFETY: the Fortran program's function for this key.
            unsafe {
                let function: Delete = core::mem::transmute(call.function);
                function(&mut object, &mut key, &mut value, &mut extra, &mut error);
            }
        }
    }
    Some(error)
}

/// MPI has started, or could not.
pub fn initialized(ok: bool) {
    if ok {
        crate::languages::set_state(2);
    }
}

/// MPI has ended.
pub fn finalized() {
    crate::languages::set_state(5);
}
