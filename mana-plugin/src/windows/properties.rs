//! Names, hints, error handlers and attributes of windows.
//!
//! Lower half. The predefined attributes are answered by the stub, whose memory a restart brings back.

use super::{finish, raise};
use crate::errors::{self, bytes_of, put_string};
use crate::state::core;
use crate::{attributes, entry, info};
use mpi_std::*;
use std::ffi::{c_char, c_void};

pub unsafe extern "C" fn MPI_Win_set_name(win: u64, win_name: *const c_char) -> i32 {
    let _guard = entry::enter();
    // SAFETY: a string argument.
    let mut name = unsafe { bytes_of(win_name) };
    name.truncate(MPI_MAX_OBJECT_NAME as usize - 1);
    let outcome = core().window(win).map(|w| w.name = name);
    finish(outcome, win, "MPI_Win_set_name")
}

pub unsafe extern "C" fn MPI_Win_get_name(
    win: u64,
    win_name: *mut c_char,
    resultlen: *mut i32,
) -> i32 {
    let _guard = entry::enter();
    let outcome = core().window(win).map(|w| {
        // SAFETY: the program's buffer has the length the standard asks for.
        unsafe { put_string(&w.name, win_name, MPI_MAX_OBJECT_NAME as usize, resultlen) };
    });
    finish(outcome, win, "MPI_Win_get_name")
}

pub unsafe extern "C" fn MPI_Win_set_info(win: u64, info: u64) -> i32 {
    let _guard = entry::enter();
    let outcome = info::pairs(info).and_then(|pairs| {
        let w = core().window(win)?;
        for (key, value) in pairs {
            match w.info.iter_mut().find(|(k, _)| *k == key) {
                Some(entry) => entry.1 = value,
                None => w.info.push((key, value)),
            }
        }
        Ok(())
    });
    finish(outcome, win, "MPI_Win_set_info")
}

pub unsafe extern "C" fn MPI_Win_get_info(win: u64, info_used: *mut u64) -> i32 {
    let _guard = entry::enter();
    let pairs = core().window(win).map(|w| w.info.clone());
    let outcome = pairs.and_then(info::make).map(|word| {
        // SAFETY: an output argument.
        unsafe { *info_used = word };
    });
    finish(outcome, win, "MPI_Win_get_info")
}

pub unsafe extern "C" fn MPI_Win_set_errhandler(win: u64, errhandler: u64) -> i32 {
    let _guard = entry::enter();
    let outcome = (|| {
        let w = core().window(win)?;
        let old = std::mem::replace(&mut w.errhandler, errors::handler(errhandler)?);
        errors::hold(errhandler);
        errors::release(old);
        Ok(())
    })();
    finish(outcome, win, "MPI_Win_set_errhandler")
}

pub unsafe extern "C" fn MPI_Win_get_errhandler(win: u64, errhandler: *mut u64) -> i32 {
    let _guard = entry::enter();
    let outcome = core().window(win).map(|w| w.errhandler).map(|h| {
        errors::hold(h);
        // SAFETY: an output argument.
        unsafe { *errhandler = h };
    });
    finish(outcome, win, "MPI_Win_get_errhandler")
}

pub unsafe extern "C" fn MPI_Win_call_errhandler(win: u64, errorcode: i32) -> i32 {
    let _guard = entry::enter();
    if let Err(code) = core().window(win).map(|_| ()) {
        return raise(win, code, "MPI_Win_call_errhandler");
    }
    crate::explanations::forget();
    raise(win, errorcode, "MPI_Win_call_errhandler");
    MPI_SUCCESS
}

pub unsafe extern "C" fn MPI_Win_get_attr(
    win: u64,
    win_keyval: i32,
    attribute_val: *mut c_void,
    flag: *mut i32,
) -> i32 {
    let _guard = entry::enter();
    // SAFETY: the program's arguments.
    let outcome = unsafe { attributes::get(kind::WIN, win, win_keyval, attribute_val, flag) };
    finish(outcome, win, "MPI_Win_get_attr")
}

pub unsafe extern "C" fn MPI_Win_set_attr(
    win: u64,
    win_keyval: i32,
    attribute_val: *const c_void,
) -> i32 {
    let _guard = entry::enter();
    let outcome = attributes::set(kind::WIN, win, win_keyval, attribute_val as u64);
    finish(outcome, win, "MPI_Win_set_attr")
}

pub unsafe extern "C" fn MPI_Win_delete_attr(win: u64, win_keyval: i32) -> i32 {
    let _guard = entry::enter();
    let outcome = attributes::delete(kind::WIN, win, win_keyval);
    finish(outcome, win, "MPI_Win_delete_attr")
}
