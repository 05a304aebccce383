//! Procedures that not every library has: they are looked up by name when they are first called.
//!
//! Lower half.

use core::ffi::{c_char, c_void, CStr};
use core::sync::atomic::{AtomicUsize, Ordering};

extern "C" {
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
}

/// Where one of them is.
pub(crate) struct Found(AtomicUsize);

impl Found {
    /// Not looked for yet.
    const UNKNOWN: usize = 1;

    pub(crate) const fn new() -> Self {
        Found(AtomicUsize::new(Self::UNKNOWN))
    }

    /// The address of `name` in what this library was loaded with; 0 if that does not have it.
    pub(crate) fn of(&self, name: &CStr) -> usize {
        let known = self.0.load(Ordering::Relaxed);
        if known != Self::UNKNOWN {
            return known;
        }
        // SAFETY: the default handle, which looks where this library's own symbols are looked for, and a string.
        let address = unsafe { dlsym(core::ptr::null_mut(), name.as_ptr()) } as usize;
        self.0.store(address, Ordering::Relaxed);
        address
    }
}

/// [`mpi_std::Extras::has`]
pub(crate) unsafe extern "C" fn has(name: *const c_char) -> bool {
    // SAFETY: the caller's string.
    Found::new().of(unsafe { CStr::from_ptr(name) }) != 0
}
