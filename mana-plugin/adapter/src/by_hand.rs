//! The few procedures whose translation is not a matter of kinds.

use core::ffi::{c_char, c_void};
use core::sync::atomic::{AtomicI32, Ordering};

use mpi_std::Status;

use crate::ffi;
use crate::translate as t;

fn returns_errors() {
    t::returns_errors(t::handle(mpi_std::MPI_COMM_WORLD));
    t::returns_errors(t::handle(mpi_std::MPI_COMM_SELF));
}

/// `MPI_Init`. The program's arguments stay in the upper half.
pub(crate) unsafe extern "C" fn MPI_Init(_argc: *mut i32, _argv: *mut c_void) -> i32 {
    // SAFETY: null arguments are allowed.
    let rc = unsafe { ffi::MPI_Init(core::ptr::null_mut(), core::ptr::null_mut()) };
    if rc == 0 {
        returns_errors();
    }
    t::error(rc)
}

/// `MPI_Init_thread`. The program's arguments stay in the upper half.
pub(crate) unsafe extern "C" fn MPI_Init_thread(
    _argc: *mut i32,
    _argv: *mut c_void,
    required: i32,
    provided: *mut i32,
) -> i32 {
    let mut level = 0;
    // SAFETY: null arguments are allowed.
    let rc = unsafe {
        ffi::MPI_Init_thread(
            core::ptr::null_mut(),
            core::ptr::null_mut(),
            t::thread_level(required),
            &mut level,
        )
    };
    if rc == 0 {
        returns_errors();
        // SAFETY: the caller's output.
        unsafe { *provided = t::thread_level_back(level) };
    }
    t::error(rc)
}

/// Values of predefined attributes, in standard form: the caller gets pointers to these.
static ATTRIBUTES: [AtomicI32; 8] = [const { AtomicI32::new(0) }; 8];

/// `MPI_Comm_get_attr` of the predefined keys; others are the core's.
pub(crate) unsafe extern "C" fn MPI_Comm_get_attr(
    comm: u64,
    key: i32,
    value: *mut c_void,
    flag: *mut i32,
) -> i32 {
    let at = match key {
        mpi_std::MPI_TAG_UB..=mpi_std::MPI_UNIVERSE_SIZE => (key - mpi_std::MPI_TAG_UB) as usize,
        _ => return mpi_std::MPI_ERR_KEYVAL,
    };
    let mut found: *mut i32 = core::ptr::null_mut();
    // SAFETY: a predefined key of a communicator; the value is a pointer to an int.
    let rc = unsafe {
        ffi::MPI_Comm_get_attr(
            t::handle(comm),
            t::keyval(key),
            (&raw mut found).cast(),
            flag,
        )
    };
    // SAFETY: `flag` was written by the library.
    if rc != 0 || unsafe { *flag } == 0 || found.is_null() {
        return t::error(rc);
    }
    // SAFETY: the library's int.
    let number = unsafe { *found };
    let number = match key {
        mpi_std::MPI_HOST | mpi_std::MPI_IO => t::rank_back(number),
        mpi_std::MPI_LASTUSEDCODE => mpi_std::MPI_ERR_LASTCODE,
        _ => number,
    };
    if let Some(cell) = ATTRIBUTES.get(at) {
        cell.store(number, Ordering::Relaxed);
        // SAFETY: the caller's output, a pointer to a pointer.
        unsafe { *value.cast::<*mut i32>() = cell.as_ptr() };
    }
    0
}

/// `MPI_Comm_idup`: the library writes the handle when it has it, at `newcomm`. It is the word then: the rest of
/// that is zero, and no duplicate is a predefined communicator. Errors are returned as on the original.
pub(crate) unsafe extern "C" fn MPI_Comm_idup(
    comm: u64,
    newcomm: *mut u64,
    request: *mut u64,
) -> i32 {
    let mut l: ffi::MPI_Request = t::handle(mpi_std::MPI_REQUEST_NULL);
    // SAFETY: the caller's place, which lives as long as the request.
    let rc = unsafe {
        *newcomm = 0;
        ffi::MPI_Comm_idup(t::handle(comm), newcomm.cast(), &mut l)
    };
    if rc == 0 {
        // SAFETY: the caller's output.
        unsafe { *request = t::request_word(l) };
    }
    t::error(rc)
}

/// `MPI_Error_class`: our codes are classes, those of the program's own classes the library's.
pub(crate) unsafe extern "C" fn MPI_Error_class(code: i32, class: *mut i32) -> i32 {
    let mut found = 0;
    // SAFETY: read-only query.
    let rc = unsafe { ffi::MPI_Error_class(t::class(code), &mut found) };
    if rc == 0 {
        // SAFETY: the caller's output.
        unsafe { *class = t::error(found) };
    }
    t::error(rc)
}

/// `MPI_Error_string` of a standard class.
pub(crate) unsafe extern "C" fn MPI_Error_string(
    code: i32,
    string: *mut c_char,
    resultlen: *mut i32,
) -> i32 {
    // SAFETY: the standard's buffer is at least as long as any library's.
    t::error(unsafe { ffi::MPI_Error_string(t::class(code), string, resultlen) })
}

/// [`mpi_std::Extras::error_code`]
pub(crate) unsafe extern "C" fn error_code(class: i32) -> i32 {
    t::class(class)
}

extern "C" {
    static mana_tool_errors: [i32; 2];
    fn mana_no_object_is_self() -> i32;
}

/// [`mpi_std::Extras::no_object`]
pub(crate) unsafe extern "C" fn no_object() -> u64 {
    // SAFETY: MPI is active, says the caller.
    match unsafe { mana_no_object_is_self() } {
        0 => mpi_std::MPI_COMM_WORLD,
        _ => mpi_std::MPI_COMM_SELF,
    }
}

/// [`mpi_std::Extras::tool_error`]
pub(crate) unsafe extern "C" fn tool_error(session: bool) -> i32 {
    // SAFETY: read-only data of `constants.c`.
    unsafe { mana_tool_errors[usize::from(session)] }
}

/// [`mpi_std::Extras::error_string`]
pub(crate) unsafe extern "C" fn error_text(class: i32, text: *mut c_char, len: usize) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { text_of(t::class(class), text, len) }
}

/// [`mpi_std::Extras::last_error`]
pub(crate) unsafe extern "C" fn last_error(text: *mut c_char, len: usize) -> i32 {
    let (code, class) = t::last_error();
    // SAFETY: the caller's promise.
    if class != 0 && len > 0 && unsafe { text_of(code, text, len) } != 0 {
        return 0;
    }
    class
}

/// The library's text for a code of its own, NUL-terminated, at most `len` bytes.
///
/// # Safety
/// `text` has room for `len` bytes.
unsafe fn text_of(code: i32, text: *mut c_char, len: usize) -> i32 {
    let mut buffer = [0 as c_char; 1024];
    let mut n = 0;
    // SAFETY: longer than any library's limit.
    let rc = unsafe { ffi::MPI_Error_string(code, buffer.as_mut_ptr(), &mut n) };
    if rc != 0 || len == 0 {
        return t::error(rc);
    }
    let n = t::len(n).min(len - 1).min(buffer.len() - 1);
    // SAFETY: `n + 1 <= len`, says the caller of `len`.
    unsafe {
        core::ptr::copy_nonoverlapping(buffer.as_ptr(), text, n);
        *text.add(n) = 0;
    }
    0
}

/// `MPI_Status_set_elements`.
pub(crate) unsafe extern "C" fn MPI_Status_set_elements(
    status: *mut Status,
    datatype: u64,
    count: i32,
) -> i32 {
    // SAFETY: as the caller's.
    unsafe { MPI_Status_set_elements_x(status, datatype, i64::from(count)) }
}

/// `MPI_Status_set_elements_x`: the library computes the bytes.
pub(crate) unsafe extern "C" fn MPI_Status_set_elements_x(
    status: *mut Status,
    datatype: u64,
    count: i64,
) -> i32 {
    // SAFETY: the caller's status.
    let mut l = unsafe { t::status_in(status) };
    // SAFETY: a status of the library's.
    let rc = unsafe { ffi::MPI_Status_set_elements_x(&mut l, t::handle(datatype), count as _) };
    if rc == 0 {
        // SAFETY: the caller's status.
        unsafe { (*status).set_bytes(t::count_bytes(&l)) };
    }
    t::error(rc)
}
