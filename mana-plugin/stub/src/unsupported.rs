//! The honest answer of procedures that are not carried yet: an error, and one line that says so.
//!
//! Upper half.
#![allow(dead_code, reason = "the table may hold none")]

use core::sync::atomic::{AtomicBool, Ordering};

extern "C" {
    fn write(fd: i32, bytes: *const u8, len: usize) -> isize;
}

fn put(text: &mut [u8; 256], at: usize, part: &str) -> usize {
    let mut at = at;
    for byte in part.bytes() {
        if let Some(to) = text.get_mut(at) {
            *to = byte;
            at += 1;
        }
    }
    at
}

/// Says once that `name` is unsupported; the program's `MPI_ERR_UNSUPPORTED_OPERATION`.
#[cold]
pub fn refuse(said: &AtomicBool, name: &str, reason: &str) -> i32 {
    if !said.swap(true, Ordering::Relaxed) {
        let mut text = [0; 256];
        let mut n = put(&mut text, 0, "mana: ");
        n = put(&mut text, n, name);
        n = put(&mut text, n, " is not supported under mana yet (");
        n = put(&mut text, n, reason);
        n = put(&mut text, n, "): it returns an error\n");
        // SAFETY: the program's libc; standard error.
        unsafe { write(2, text.as_ptr(), n) };
    }
    crate::translate::error_back(mpi_std::MPI_ERR_UNSUPPORTED_OPERATION)
}
