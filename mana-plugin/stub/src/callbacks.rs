//! Entries the lower half calls: the program's own functions, in its ABI and language.
//!
//! Upper half, called with the upper half's FS from below; see `mpi_std::StubEntries`.

use core::ffi::c_void;
use core::sync::atomic::{AtomicBool, Ordering};

use mpi_std::{CopyCall, DeleteCall, Status, StubEntries, REGISTER_STUB, STUB_MAGIC, STUB_VERSION};

use crate::abi;
use crate::grequests;
use crate::translate as t;

/// The table handed to the lower half.
#[no_mangle]
pub static mana_stub_entries: StubEntries = StubEntries {
    magic: STUB_MAGIC,
    version: STUB_VERSION,
    size: size_of::<StubEntries>() as u32,
    op,
    copy,
    delete,
    errhandler,
    grequest_query,
    grequest_free,
    grequest_cancel,
    grequest_poll,
    grequest_wait,
    event: crate::events::event,
    event_free: crate::events::event_free,
    event_dropped: crate::events::event_dropped,
};

static REGISTERED: AtomicBool = AtomicBool::new(false);

/// Hands the table over, once in the life of the program (restarts included).
pub fn register() {
    if !REGISTERED.swap(true, Ordering::Relaxed) {
        let entries = &raw const mana_stub_entries;
        // The slot's signature is `RegisterStub`.
        mana_raw::cross!(REGISTER_STUB, fn(*const StubEntries) -> i32; entries);
    }
}

/// The program's reduction function.
type UserOp = unsafe extern "C" fn(*mut u8, *mut u8, *mut i32, *mut t::Handle);
/// The same with a large count.
type LargeOp = unsafe extern "C" fn(*mut u8, *mut u8, *mut i64, *mut t::Handle);
/// The same in Fortran: the datatype is an integer.
type FortranOp = unsafe extern "C" fn(*mut u8, *mut u8, *mut i32, *mut i32);

unsafe extern "C" fn op(
    function: usize,
    invec: *mut u8,
    inoutvec: *mut u8,
    len: i32,
    datatype: u64,
    operation: u64,
) -> i32 {
    let mut len = len;
    let mut handle = t::datatype_back(datatype);
    if function & mpi_std::LARGE_FUNCTION != 0 {
        let mut count = i64::from(len);
        // SAFETY: `function` is what the program gave for this operation, with the mark.
        unsafe {
            let call: LargeOp = core::mem::transmute(function & !mpi_std::LARGE_FUNCTION);
            call(invec, inoutvec, &mut count, &mut handle);
        }
        return 0;
    }
    // SAFETY: `function` is what the program gave for this operation.
    unsafe {
        if abi::call_cxx_op(function, operation, invec, inoutvec, &mut len, &mut handle) {
            return 0;
        }
        if abi::is_fortran_op(operation) {
            let mut integer = abi::fortran_datatype(datatype);
            let call: FortranOp = core::mem::transmute(function);
            call(invec, inoutvec, &mut len, &mut integer);
        } else {
            let call: UserOp = core::mem::transmute(function);
            call(invec, inoutvec, &mut len, &mut handle);
        }
    }
    0
}

/// The handle of an object whose kind is in its word.
fn object_back(word: u64) -> t::Handle {
    match word {
        mpi_std::MPI_COMM_WORLD | mpi_std::MPI_COMM_SELF => t::comm_back(word),
        w if w < mpi_std::PREDEFINED_END => t::datatype_back(w),
        w if mpi_std::kind_of(w) == mpi_std::kind::DATATYPE => t::datatype_back(w),
        w if mpi_std::kind_of(w) == mpi_std::kind::WIN => t::win_back(w),
        w => t::comm_back(w),
    }
}

/// The standard's number for the predefined function that copies the value; 0 copies nothing.
const DUPLICATE: usize = 1;

type UserCopy =
    unsafe extern "C" fn(t::Handle, i32, *mut c_void, *mut c_void, *mut c_void, *mut i32) -> i32;
type UserDelete = unsafe extern "C" fn(t::Handle, i32, *mut c_void, *mut c_void) -> i32;

unsafe extern "C" fn copy(call: *mut CopyCall) -> i32 {
    // SAFETY: the core's structure.
    let call = unsafe { &mut *call };
    // The predefined functions are the standard's numbers: copy nothing, or the value.
    if call.function <= DUPLICATE {
        call.flag = (call.function == DUPLICATE) as i32;
        call.value_out = call.value_in;
        return 0;
    }
    // SAFETY: `function` is what the program gave for this key.
    let rc = unsafe {
        if let Some(rc) = abi::foreign_copy(call, object_back(call.object)) {
            rc
        } else {
            let function: UserCopy = core::mem::transmute(call.function);
            function(
                object_back(call.object),
                call.keyval,
                call.extra as *mut c_void,
                call.value_in as *mut c_void,
                (&raw mut call.value_out).cast(),
                &raw mut call.flag,
            )
        }
    };
    t::error(rc)
}

unsafe extern "C" fn delete(call: *mut DeleteCall) -> i32 {
    // SAFETY: the core's structure.
    let call = unsafe { &mut *call };
    if call.function <= DUPLICATE {
        return 0;
    }
    // SAFETY: `function` is what the program gave for this key.
    let rc = unsafe {
        if let Some(rc) = abi::foreign_delete(call, object_back(call.object)) {
            rc
        } else {
            let function: UserDelete = core::mem::transmute(call.function);
            function(
                object_back(call.object),
                call.keyval,
                call.value as *mut c_void,
                call.extra as *mut c_void,
            )
        }
    };
    t::error(rc)
}

type UserErrhandler = unsafe extern "C" fn(*mut t::Handle, *mut i32, ...);
type FortranErrhandler = unsafe extern "C" fn(*mut i32, *mut i32);

/// What an error was found on, as the language libraries number it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum ErrorOn {
    /// A communicator.
    Comm = 0,
    /// A file.
    File = 1,
    /// A window.
    Win = 2,
}

unsafe extern "C" fn errhandler(function: usize, object: u64, code: i32, handler: u64) -> i32 {
    let mut code = t::error_back(code);
    let is_file = object == mpi_std::MPI_FILE_NULL
        || object >= mpi_std::PREDEFINED_END && mpi_std::kind_of(object) == mpi_std::kind::FILE;
    let (mut handle, mut file) = match is_file {
        true => (t::comm_back(mpi_std::MPI_COMM_NULL), t::file_back(object)),
        false => (object_back(object), t::file_back(mpi_std::MPI_FILE_NULL)),
    };
    let kind = match (is_file, mpi_std::kind_of(object)) {
        (true, _) => ErrorOn::File,
        (_, mpi_std::kind::WIN) if object >= mpi_std::PREDEFINED_END => ErrorOn::Win,
        _ => ErrorOn::Comm,
    };
    let at: *mut c_void = match is_file {
        true => (&raw mut file).cast(),
        false => (&raw mut handle).cast(),
    };
    // SAFETY: the handler's, and the object's handle.
    if unsafe { abi::foreign_errhandler(handler, function, kind, at, &mut code) } {
        return 0;
    }
    // SAFETY: `function` is what the program gave for this handler.
    unsafe {
        if let Some(fortran) = abi::fortran_function(function) {
            let mut integer = abi::fortran_object(object);
            let call: FortranErrhandler = core::mem::transmute(fortran);
            call(&mut integer, &mut code);
        } else {
            let call: UserErrhandler = core::mem::transmute(function);
            call(at.cast(), &mut code);
        }
    }
    0
}

unsafe extern "C" fn grequest_query(function: usize, extra: usize, status: *mut Status) -> i32 {
    type Query = unsafe extern "C" fn(usize, *mut t::ProgramStatus) -> i32;
    type FortranQuery = unsafe extern "C" fn(*mut usize, *mut t::ProgramStatus, *mut i32);
    let (mut extra, fortran) = grequests::program(extra);
    let mut rc = 0;
    // SAFETY: `function` is what the program gave; the status is the core's.
    unsafe {
        let mut s = t::ProgramStatus::default();
        t::status_give(&*status, &mut s);
        if fortran {
            let call: FortranQuery = core::mem::transmute(function);
            call(&mut extra, &mut s, &mut rc);
        } else {
            let call: Query = core::mem::transmute(function);
            rc = call(extra, &mut s);
        }
        let error = (*status).error;
        *status = t::status_in(&s);
        (*status).error = error;
    }
    t::error(rc)
}

unsafe extern "C" fn grequest_free(function: usize, state: usize) -> i32 {
    type Free = unsafe extern "C" fn(usize) -> i32;
    type FortranFree = unsafe extern "C" fn(*mut usize, *mut i32);
    let (mut extra, fortran) = grequests::program(state);
    let mut rc = 0;
    // SAFETY: `function` is what the program gave.
    unsafe {
        if fortran {
            let call: FortranFree = core::mem::transmute(function);
            call(&mut extra, &mut rc);
        } else {
            let call: Free = core::mem::transmute(function);
            rc = call(extra);
        }
    }
    grequests::release(state);
    t::error(rc)
}

unsafe extern "C" fn grequest_cancel(function: usize, state: usize, complete: i32) -> i32 {
    type Cancel = unsafe extern "C" fn(usize, i32) -> i32;
    type FortranCancel = unsafe extern "C" fn(*mut usize, *mut i32, *mut i32);
    let (mut extra, fortran) = grequests::program(state);
    let (mut rc, mut complete) = (0, complete);
    // SAFETY: `function` is what the program gave.
    unsafe {
        if fortran {
            let call: FortranCancel = core::mem::transmute(function);
            call(&mut extra, &mut complete, &mut rc);
        } else {
            let call: Cancel = core::mem::transmute(function);
            rc = call(extra, complete);
        }
    }
    t::error(rc)
}

unsafe extern "C" fn grequest_poll(function: usize, extra: usize, status: *mut Status) -> i32 {
    type Poll = unsafe extern "C" fn(usize, *mut t::ProgramStatus) -> i32;
    let (extra, _) = grequests::program(extra);
    // SAFETY: `function` is what the program gave; the status is the core's.
    unsafe {
        let mut s = t::ProgramStatus::default();
        t::status_give(&*status, &mut s);
        let call: Poll = core::mem::transmute(function);
        t::error(call(extra, &mut s))
    }
}

unsafe extern "C" fn grequest_wait(function: usize, extra: usize) -> i32 {
    type Wait = unsafe extern "C" fn(i32, *mut usize, f64, *mut t::ProgramStatus) -> i32;
    let (mut extra, _) = grequests::program(extra);
    // SAFETY: `function` is what the program gave; like MPICH, one request at a time and no status.
    unsafe {
        let call: Wait = core::mem::transmute(function);
        t::error(call(1, &mut extra, 0.0, core::ptr::null_mut()))
    }
}
