//! Error handling: the real library always returns errors; what happens with them is decided here, by
//! the handler the program attached. Also the program's own error classes and codes.
//!
//! Lower half.

use crate::entry;
use crate::explanations;
use crate::state::{core, Errhandler, Outcome};
use crate::upcall;
use mana_raw::layout::AGAIN;
use mpi_std::*;
use std::ffi::{c_char, c_void, CStr};
use std::sync::OnceLock;

/// Ends an entry: success, `AGAIN`, or an error on communicator `comm` (any word).
#[inline(always)]
pub fn finish(outcome: Outcome, comm: u64, name: &'static str) -> i32 {
    match outcome {
        Ok(()) => MPI_SUCCESS,
        Err(AGAIN) => AGAIN,
        Err(code) => raise(comm, code, name),
    }
}

/// A real procedure's result as an outcome.
#[inline(always)]
pub fn check(rc: i32) -> Outcome {
    if rc == MPI_SUCCESS {
        Ok(())
    } else {
        Err(rc)
    }
}

/// What an error belongs to that has no communicator, window, file or session.
pub const NO_OBJECT: u64 = MPI_COMM_NULL;

/// The communicator whose handler gets the errors without an object: the library's choice.
fn without_object() -> u64 {
    static CHOICE: OnceLock<u64> = OnceLock::new();
    if !core().active {
        return MPI_COMM_WORLD;
    }
    // SAFETY: MPI is active.
    *CHOICE.get_or_init(|| unsafe { (core().adapter.extras.no_object)() })
}

/// Hands an error to the handler of `comm`; if that is no communicator, to the one for errors without an object.
#[cold]
pub fn raise(comm: u64, code: i32, name: &str) -> i32 {
    crate::library::explain(code);
    let c = core();
    let word = match c.comm(comm) {
        Ok(_) => comm,
        Err(_) => without_object(),
    };
    let handler = c
        .comm(word)
        .map(|(_, c)| c.errhandler)
        .unwrap_or(MPI_ERRORS_ARE_FATAL);
    handle_error(handler, word, code, || {
        let on = match core().comm(word) {
            Ok((_, c)) if !c.name.is_empty() => String::from_utf8_lossy(&c.name).into_owned(),
            _ => format!("communicator 0x{word:x}"),
        };
        format!("{name} on {on}")
    })
}

/// Does with an error on `object` (a word) what its handler says; `place` tells a human where it was.
#[cold]
pub fn handle_error(handler: u64, object: u64, code: i32, place: impl FnOnce() -> String) -> i32 {
    let code = explanations::code(code);
    match handler {
        MPI_ERRORS_RETURN => code,
        MPI_ERRORS_THROW_EXCEPTIONS => {
            upcall::errhandler(0, object, code, handler);
            code
        }
        h if kind_of(h) == kind::ERRHANDLER && h >= PREDEFINED_END => {
            let function = core()
                .state
                .errhandlers
                .get(index_of(h))
                .map_or(0, |e| e.function);
            upcall::errhandler(function, object, code, h);
            if crate::library::forgives_what_is_handled(&core().state.library.version) {
                MPI_SUCCESS
            } else {
                code
            }
        }
        _ => {
            let (name, on) = match handler {
                MPI_ERRORS_ABORT => ("MPI_ERRORS_ABORT", object),
                _ => ("MPI_ERRORS_ARE_FATAL", MPI_COMM_WORLD),
            };
            log::error!(
                "error in {}: {} ({name}: the job is aborted)",
                place(),
                text(code).replace('\n', "; ")
            );
            let class = explanations::class(code).unwrap_or(code);
            // SAFETY: a query of a constant.
            let native = unsafe { (core().adapter.extras.error_code)(class) };
            abort(on, native)
        }
    }
}

/// Ends the job.
pub fn abort(comm: u64, code: i32) -> i32 {
    let c = core();
    c.hooks.aborting(code);
    if c.active {
        let real = c.comm(comm).map(|(_, c)| c.real).unwrap_or(MPI_COMM_WORLD);
        // SAFETY: MPI is active.
        unsafe { (c.procs().MPI_Abort)(real, code) };
    }
    std::process::exit(if code & 0xff == 0 { 1 } else { code & 0xff })
}

/// An entry for a procedure that this layer does not support.
#[cold]
#[allow(dead_code, reason = "the table may hold none")]
pub fn unsupported(name: &'static str) -> i32 {
    let _guard = entry::enter();
    log::error!("{name} is not supported under checkpointing");
    raise(NO_OBJECT, MPI_ERR_UNSUPPORTED_OPERATION, name)
}

/// The text of an error class or code.
pub fn text(code: i32) -> String {
    let c = core();
    if let Some((_, _, text)) = c.state.codes.iter().find(|(k, _, _)| *k == code) {
        return String::from_utf8_lossy(text).into_owned();
    }
    if let Some(text) = explanations::text(code) {
        return String::from_utf8_lossy(&text).into_owned();
    }
    let code = explanations::class(code).unwrap_or(code);
    let mut buf = [0 as c_char; MPI_MAX_ERROR_STRING as usize];
    // SAFETY: the buffer has the length that is passed.
    let rc = unsafe { (c.adapter.extras.error_string)(code, buf.as_mut_ptr(), buf.len()) };
    if rc != MPI_SUCCESS {
        return format!("MPI error {code}");
    }
    if let Some(last) = buf.last_mut() {
        *last = 0;
    }
    // SAFETY: the buffer ends with a NUL.
    unsafe { CStr::from_ptr(buf.as_ptr()) }
        .to_string_lossy()
        .into_owned()
}

/// The function argument of an entry as it is kept.
pub fn function(f: *mut c_void) -> u64 {
    f as u64
}

/// Copies a string of ours to a C buffer of `room` bytes, NUL included, and reports its length.
///
/// # Safety
/// `out` has `room` writable bytes; `len` is null or writable.
pub unsafe fn put_string(text: &[u8], out: *mut c_char, room: usize, len: *mut i32) {
    let n = text.len().min(room.saturating_sub(1));
    // SAFETY: the caller's promise.
    unsafe { std::ptr::copy_nonoverlapping(text.as_ptr().cast(), out, n) };
    // SAFETY: as above; n < room.
    unsafe { *out.add(n) = 0 };
    if !len.is_null() {
        // SAFETY: as above.
        unsafe { *len = n as i32 };
    }
}

/// A C string of the program.
///
/// # Safety
/// `text` is NUL-terminated.
pub unsafe fn bytes_of(text: *const c_char) -> Vec<u8> {
    if text.is_null() {
        return Vec::new();
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_bytes().to_vec()
}

fn code_index(code: i32) -> Option<usize> {
    core().state.codes.iter().position(|(k, _, _)| *k == code)
}

pub unsafe extern "C" fn MPI_Add_error_class(errorclass: *mut i32) -> i32 {
    let _guard = entry::enter();
    let s = &mut core().state;
    let code = MPI_ERR_LASTCODE + 1 + s.codes.len() as i32;
    s.codes.push((code, code, Vec::new()));
    // SAFETY: an output argument.
    unsafe { *errorclass = code };
    MPI_SUCCESS
}

pub unsafe extern "C" fn MPI_Add_error_code(errorclass: i32, errorcode: *mut i32) -> i32 {
    let _guard = entry::enter();
    let s = &mut core().state;
    let code = MPI_ERR_LASTCODE + 1 + s.codes.len() as i32;
    s.codes.push((code, errorclass, Vec::new()));
    // SAFETY: an output argument.
    unsafe { *errorcode = code };
    MPI_SUCCESS
}

pub unsafe extern "C" fn MPI_Add_error_string(errorcode: i32, string: *const c_char) -> i32 {
    let _guard = entry::enter();
    let Some(at) = code_index(errorcode) else {
        return raise(NO_OBJECT, MPI_ERR_ARG, "MPI_Add_error_string");
    };
    // SAFETY: a string argument.
    let text = unsafe { bytes_of(string) };
    if let Some(entry) = core().state.codes.get_mut(at) {
        entry.2 = text;
    }
    MPI_SUCCESS
}

/// What a class or code of the program that was removed has in its place: its number is not given again.
const REMOVED: i32 = i32::MIN;

/// Removes a class or code of the program's own.
fn remove(code: i32, class: bool, name: &'static str) -> i32 {
    let _guard = entry::enter();
    let known = |c: &&mut (i32, i32, Vec<u8>)| c.0 == code && (c.0 == c.1) == class;
    let outcome = match core().state.codes.iter_mut().find(known) {
        Some(entry) => {
            *entry = (REMOVED, REMOVED, Vec::new());
            Ok(())
        }
        None => Err(MPI_ERR_OTHER),
    };
    finish(outcome, NO_OBJECT, name)
}

pub unsafe extern "C" fn MPIX_Delete_error_class(errorclass: i32) -> i32 {
    remove(errorclass, true, "MPIX_Delete_error_class")
}

pub unsafe extern "C" fn MPIX_Delete_error_code(errorcode: i32) -> i32 {
    remove(errorcode, false, "MPIX_Delete_error_code")
}

pub unsafe extern "C" fn MPIX_Delete_error_string(errorcode: i32) -> i32 {
    let _guard = entry::enter();
    let outcome = match code_index(errorcode).and_then(|at| core().state.codes.get_mut(at)) {
        Some(entry) => {
            entry.2.clear();
            Ok(())
        }
        None => Err(MPI_ERR_OTHER),
    };
    finish(outcome, NO_OBJECT, "MPIX_Delete_error_string")
}

/// The outcome of a procedure that this library may not have.
pub fn answered(rc: i32, name: &'static str) -> Outcome {
    if rc == Extras::ABSENT {
        log::error!("{name}: the MPI library below the program does not have it");
        return Err(MPI_ERR_UNSUPPORTED_OPERATION);
    }
    check(rc)
}

pub unsafe extern "C" fn MPI_Error_class(errorcode: i32, errorclass: *mut i32) -> i32 {
    let _guard = entry::enter();
    let class = code_index(errorcode)
        .and_then(|at| core().state.codes.get(at))
        .map_or(errorcode, |c| c.1);
    let class = explanations::class(class).unwrap_or(class);
    // SAFETY: an output argument.
    unsafe { *errorclass = class };
    MPI_SUCCESS
}

pub unsafe extern "C" fn MPI_Error_string(
    errorcode: i32,
    string: *mut c_char,
    resultlen: *mut i32,
) -> i32 {
    let _guard = entry::enter();
    let text = text(errorcode);
    // SAFETY: the program's buffer has the length the standard asks for.
    unsafe {
        put_string(
            text.as_bytes(),
            string,
            MPI_MAX_ERROR_STRING as usize,
            resultlen,
        )
    };
    MPI_SUCCESS
}

/// A handler that may be attached or freed.
pub fn handler(word: u64) -> Outcome<u64> {
    let known = match word {
        MPI_ERRHANDLER_NULL => false,
        word if word < PREDEFINED_END => true,
        word => {
            kind_of(word) == kind::ERRHANDLER
                && core().state.errhandlers.get(index_of(word)).is_some()
        }
    };
    let class = || crate::library::class_of_wrong_handlers(&core().state.library.version);
    known.then_some(word).ok_or_else(class)
}

/// One more reference to a handler of the program.
pub fn hold(handler: u64) {
    if handler >= PREDEFINED_END {
        if let Some(e) = core().state.errhandlers.get_mut(index_of(handler)) {
            e.references += 1;
        }
    }
}

/// One reference less.
pub fn release(handler: u64) {
    if handler < PREDEFINED_END {
        return;
    }
    let table = &mut core().state.errhandlers;
    let gone = table.get_mut(index_of(handler)).is_some_and(|e| {
        e.references -= 1;
        e.references == 0
    });
    if gone {
        table.remove(index_of(handler));
    }
}

fn create(f: *mut c_void, out: *mut u64, name: &'static str) -> i32 {
    let _guard = entry::enter();
    let table = &mut core().state.errhandlers;
    match table.insert(Errhandler {
        function: function(f),
        references: 1,
    }) {
        Some(i) => {
            // SAFETY: an output argument.
            unsafe { *out = handle(kind::ERRHANDLER, i) };
            MPI_SUCCESS
        }
        None => raise(NO_OBJECT, MPI_ERR_OTHER, name),
    }
}

pub unsafe extern "C" fn MPI_Comm_create_errhandler(
    comm_errhandler_fn: *mut c_void,
    errhandler: *mut u64,
) -> i32 {
    create(comm_errhandler_fn, errhandler, "MPI_Comm_create_errhandler")
}

pub unsafe extern "C" fn MPI_Win_create_errhandler(
    win_errhandler_fn: *mut c_void,
    errhandler: *mut u64,
) -> i32 {
    create(win_errhandler_fn, errhandler, "MPI_Win_create_errhandler")
}

pub unsafe extern "C" fn MPI_File_create_errhandler(
    file_errhandler_fn: *mut c_void,
    errhandler: *mut u64,
) -> i32 {
    create(file_errhandler_fn, errhandler, "MPI_File_create_errhandler")
}

pub unsafe extern "C" fn MPI_Errhandler_free(errhandler: *mut u64) -> i32 {
    let _guard = entry::enter();
    // SAFETY: an argument both in and out.
    let word = unsafe { *errhandler };
    let outcome = handler(word).map(|word| {
        release(word);
        // SAFETY: as above.
        unsafe { *errhandler = MPI_ERRHANDLER_NULL };
    });
    finish(outcome, NO_OBJECT, "MPI_Errhandler_free")
}

pub unsafe extern "C" fn MPI_Comm_set_errhandler(comm: u64, errhandler: u64) -> i32 {
    let _guard = entry::enter();
    let outcome = (|| {
        let (_, c) = core().comm(comm)?;
        let old = std::mem::replace(&mut c.errhandler, handler(errhandler)?);
        hold(errhandler);
        release(old);
        Ok(())
    })();
    finish(outcome, comm, "MPI_Comm_set_errhandler")
}

pub unsafe extern "C" fn MPI_Comm_get_errhandler(comm: u64, errhandler: *mut u64) -> i32 {
    let _guard = entry::enter();
    let outcome = core().comm(comm).map(|(_, c)| c.errhandler);
    finish(
        outcome.map(|h| {
            hold(h);
            // SAFETY: an output argument.
            unsafe { *errhandler = h };
        }),
        comm,
        "MPI_Comm_get_errhandler",
    )
}

pub unsafe extern "C" fn MPI_Comm_call_errhandler(comm: u64, errorcode: i32) -> i32 {
    let _guard = entry::enter();
    if let Err(code) = core().comm(comm).map(|_| ()) {
        return raise(comm, code, "MPI_Comm_call_errhandler");
    }
    explanations::forget();
    raise(comm, errorcode, "MPI_Comm_call_errhandler");
    MPI_SUCCESS
}
