//! Generalised requests: what the language libraries want to know of them.
//!
//! Upper half. The extra state that travels through the lower half is the address of a slot here; it
//! holds the program's extra state and language. In Open MPI's ABI the slot is also the object behind
//! the handle: its first word is what `objects` expects, and its Fortran library clears the byte at
//! `OFFSET`.

use core::ffi::c_void;
use core::sync::atomic::{AtomicU64, AtomicU8, Ordering};

use mana_raw::cross;
use mpi_std::slot;

use crate::translate as t;

const SLOTS: usize = 512;
/// Offset of `greq_funcs_are_c` in Open MPI's structure.
const OFFSET: usize = 0xc0;

/// One generalised request.
#[repr(C, align(64))]
pub struct Slot {
    content: AtomicU64,
    extra: AtomicU64,
    used: AtomicU64,
    fill: [AtomicU64; OFFSET / 8 - 3],
    is_c: AtomicU8,
}

const _: () = assert!(core::mem::offset_of!(Slot, is_c) == OFFSET);

static ALL: [Slot; SLOTS] = [const {
    Slot {
        content: AtomicU64::new(0),
        extra: AtomicU64::new(0),
        used: AtomicU64::new(0),
        fill: [const { AtomicU64::new(0) }; OFFSET / 8 - 3],
        is_c: AtomicU8::new(1),
    }
}; SLOTS];

fn take() -> Option<&'static Slot> {
    ALL.iter().find(|s| s.used.swap(1, Ordering::Acquire) == 0)
}

/// The slot behind an extra state.
fn of(extra: usize) -> Option<&'static Slot> {
    let offset = extra.wrapping_sub(ALL.as_ptr() as usize);
    ALL.get(offset / size_of::<Slot>())
}

/// The program's extra state, and whether its functions are Fortran.
pub fn program(extra: usize) -> (usize, bool) {
    match of(extra) {
        Some(s) => (
            s.extra.load(Ordering::Relaxed) as usize,
            s.is_c.load(Ordering::Relaxed) == 0,
        ),
        None => (extra, false),
    }
}

/// The request is gone.
pub fn release(extra: usize) {
    if let Some(s) = of(extra) {
        s.content.store(0, Ordering::Relaxed);
        s.used.store(0, Ordering::Release);
    }
}

/// Says that the functions of a request are Fortran.
#[allow(dead_code, reason = "Open MPI's library clears the byte by itself")]
pub fn set_fortran(word: u64) {
    for s in &ALL {
        if s.used.load(Ordering::Relaxed) != 0
            && s.content.load(Ordering::Relaxed) & 0xffff_ffff == word
        {
            s.is_c.store(0, Ordering::Relaxed);
        }
    }
}

/// Starts a request with `call`, which gets the extra state and where to put the word.
///
/// # Safety
/// `request` is the program's output.
pub unsafe fn start(
    extra: *const c_void,
    request: *mut t::Handle,
    call: impl FnOnce(*const c_void, *mut u64) -> i32,
) -> i32 {
    let Some(s) = take() else {
        return t::error_back(mpi_std::MPI_ERR_NO_MEM);
    };
    let _ = &s.fill;
    s.extra.store(extra as u64, Ordering::Relaxed);
    s.is_c.store(1, Ordering::Relaxed);
    let mut word = 0u64;
    let state: *const c_void = (&raw const *s).cast();
    let rc = call(state, &raw mut word);
    if rc == 0 {
        s.content
            .store(t::GREQUEST_MAGIC << 32 | word, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { *request = t::grequest_back(word, state as usize) };
    } else {
        s.used.store(0, Ordering::Release);
    }
    t::error_back(rc)
}

/// `MPI_Grequest_start`
#[no_mangle]
unsafe extern "C" fn mana_MPI_Grequest_start(
    query: *mut c_void,
    free: *mut c_void,
    cancel: *mut c_void,
    extra: *const c_void,
    request: *mut t::Handle,
) -> i32 {
    // SAFETY: the program's output.
    unsafe {
        start(extra, request, |state, word| {
            cross!(slot::MPI_Grequest_start,
                fn(*mut c_void, *mut c_void, *mut c_void, *const c_void, *mut u64) -> i32;
                query, free, cancel, state, word)
        })
    }
}
