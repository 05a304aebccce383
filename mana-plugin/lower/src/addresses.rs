//! Keeps mappings of the lower half out of the arena, by exported functions that replace the C library's.
//!
//! Libraries that share tables by address (hwloc's topology, PMIx's data) ask for the middle of the widest
//! gap of the process that made them. That may be in the arena of this one, where the mapping would be
//! taken for the program's. Without the wish the kernel maps elsewhere, and such a library, finding
//! itself elsewhere, makes a table of its own.
//!
//! Lower half; any thread. A mapping that says `MAP_FIXED` is ours (the program's memory) and stays.

use std::ffi::{c_int, c_void};

use mana_raw::layout::{ARENA_END, ARENA_START};

/// Where to map: the address asked for, unless it is only a wish and in the arena.
fn allowed(address: usize, len: usize, flags: c_int) -> usize {
    let fixed = flags & (libc::MAP_FIXED | libc::MAP_FIXED_NOREPLACE) != 0;
    let inside = address < ARENA_END && address.saturating_add(len) > ARENA_START;
    if inside && !fixed {
        0
    } else {
        address
    }
}

/// As the C library's.
///
/// # Safety
/// As the C library's.
#[no_mangle]
pub unsafe extern "C" fn mmap(
    address: *mut c_void,
    len: usize,
    protection: c_int,
    flags: c_int,
    fd: c_int,
    offset: libc::off_t,
) -> *mut c_void {
    let address = allowed(address as usize, len, flags);
    // SAFETY: the caller's arguments, with the address as a wish taken away at most.
    let at = unsafe { libc::syscall(libc::SYS_mmap, address, len, protection, flags, fd, offset) };
    at as *mut c_void
}

/// As the C library's.
///
/// # Safety
/// As the C library's.
#[no_mangle]
pub unsafe extern "C" fn mmap64(
    address: *mut c_void,
    len: usize,
    protection: c_int,
    flags: c_int,
    fd: c_int,
    offset: libc::off_t,
) -> *mut c_void {
    // SAFETY: the same function on this processor.
    unsafe { mmap(address, len, protection, flags, fd, offset) }
}
