//! The upper half's `libmana_interface.so`: what a program under control calls through `mana.h`, the
//! Fortran module, the Python module or the Rust crate.
//!
//! Linked as a static library into a shared one, preloaded into every program under control; runs under
//! the program's libc. No panics, no thread-local storage, no heap. The names carry the number of the
//! interface (`mana_1_...`): programs look them up weakly, so that they run without us too.
//!
//! A forked child without an `exec` has the library, but no lower half: there, as in a process that
//! somebody else loaded the library into, everything answers "not under control".
#![no_std]

mod control;
mod events;
mod request;

use core::ffi::{c_char, c_void, CStr};

use mana_raw::cross;
use mana_raw::interface::{slot, ERR_ARGUMENT, ERR_NOT_RUNNING};
use mana_raw::layout::INTERFACE_SLOTS;

use control::controlled;

/// Is this process under control?
#[no_mangle]
pub extern "C" fn mana_1_running() -> i32 {
    controlled().into()
}

/// How often the program was resumed; negative: not under control.
#[no_mangle]
pub extern "C" fn mana_1_restarts() -> i32 {
    if !controlled() {
        return ERR_NOT_RUNNING;
    }
    i32::try_from(control::restarts()).unwrap_or(i32::MAX)
}

/// Asks for a checkpoint.
#[no_mangle]
pub extern "C" fn mana_1_checkpoint(level: i32, flags: i32) -> i32 {
    if !controlled() {
        return ERR_NOT_RUNNING;
    }
    request::checkpoint(level, flags)
}

/// No checkpoint until as many releases.
///
/// # Safety
/// `why` is null or a string.
#[no_mangle]
pub unsafe extern "C" fn mana_1_hold(why: *const c_char) -> i32 {
    if !controlled() {
        return ERR_NOT_RUNNING;
    }
    // SAFETY: the caller's string.
    let (text, len) = unsafe { text(why) };
    cross!(INTERFACE_SLOTS + slot::HOLD, fn(*const c_char, usize) -> i32; text, len)
}

/// Takes one hold back.
#[no_mangle]
pub extern "C" fn mana_1_release() -> i32 {
    if !controlled() {
        return ERR_NOT_RUNNING;
    }
    cross!(INTERFACE_SLOTS + slot::RELEASE, fn() -> i32;)
}

/// Has `callback(event, data)` called at events of this kind.
#[no_mangle]
pub extern "C" fn mana_1_on(
    event: i32,
    callback: Option<extern "C" fn(i32, *mut c_void)>,
    data: *mut c_void,
) -> i32 {
    if !controlled() {
        return ERR_NOT_RUNNING;
    }
    match callback {
        Some(callback) => events::register(event, callback, data),
        None => ERR_ARGUMENT,
    }
}

/// Keeps the whole pages of a range out of images.
#[no_mangle]
pub extern "C" fn mana_1_exclude(address: *const c_void, len: usize) -> i32 {
    if !controlled() {
        return ERR_NOT_RUNNING;
    }
    cross!(INTERFACE_SLOTS + slot::EXCLUDE, fn(usize, usize) -> i32; address as usize, len)
}

/// Takes that back.
#[no_mangle]
pub extern "C" fn mana_1_include(address: *const c_void, len: usize) -> i32 {
    if !controlled() {
        return ERR_NOT_RUNNING;
    }
    cross!(INTERFACE_SLOTS + slot::INCLUDE, fn(usize, usize) -> i32; address as usize, len)
}

/// Leaves a key with a value for the report.
///
/// # Safety
/// Both are null or strings.
#[no_mangle]
pub unsafe extern "C" fn mana_1_publish(key: *const c_char, value: *const c_char) -> i32 {
    if !controlled() {
        return ERR_NOT_RUNNING;
    }
    // SAFETY: the caller's strings.
    let ((key, key_len), (value, value_len)) = unsafe { (text(key), text(value)) };
    cross!(INTERFACE_SLOTS + slot::PUBLISH,
           fn(*const c_char, usize, *const c_char, usize) -> i32; key, key_len, value, value_len)
}

/// A string and its length; null has none.
///
/// # Safety
/// `string` is null or a string.
unsafe fn text(string: *const c_char) -> (*const c_char, usize) {
    match string.is_null() {
        true => (string, 0),
        // SAFETY: the caller's promise.
        false => (string, unsafe { CStr::from_ptr(string) }.count_bytes()),
    }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // Nothing here panics; were it otherwise, the program must not go on.
    loop {
        core::hint::spin_loop();
    }
}
