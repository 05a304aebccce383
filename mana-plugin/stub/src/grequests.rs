//! Generalised requests: what the language libraries want to know of them.
//!
//! Upper half. The extra state that travels through the lower half is the address of a slot here; it
//! holds the program's extra state and language. In Open MPI's ABI the slot is also the object behind
//! the handle: its first word is what `objects` expects, and its Fortran library clears the byte at
//! `OFFSET`.

use core::ffi::c_void;
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicU8, Ordering};

use mana_raw::cross;
use mpi_std::slot;

use crate::table::{Table, Zeroed};
use crate::translate as t;

/// Offset of `greq_funcs_are_c` in Open MPI's structure.
const OFFSET: usize = 0xc0;

/// One generalised request.
#[repr(C, align(64))]
pub struct Slot {
    content: AtomicU64,
    extra: AtomicU64,
    used: AtomicU32,
    /// Its place in the table.
    index: AtomicU32,
    fill: [AtomicU64; OFFSET / 8 - 3],
    is_c: AtomicU8,
}

const _: () = assert!(core::mem::offset_of!(Slot, is_c) == OFFSET);

// SAFETY: numbers.
unsafe impl Zeroed for Slot {}

const SLOTS: usize = 512;
static ALL: Table<Slot, SLOTS> = Table::new(
    [const {
        Slot {
            content: AtomicU64::new(0),
            extra: AtomicU64::new(0),
            used: AtomicU32::new(0),
            index: AtomicU32::new(0),
            fill: [const { AtomicU64::new(0) }; OFFSET / 8 - 3],
            is_c: AtomicU8::new(1),
        }
    }; SLOTS],
);

/// No place below this is free.
static LOWEST: AtomicU32 = AtomicU32::new(0);
/// The place that was taken last.
static NEWEST: AtomicU32 = AtomicU32::new(0);

fn take() -> Option<&'static Slot> {
    let lowest = LOWEST.load(Ordering::Acquire);
    let mut index = lowest;
    loop {
        let slot = ALL.get(index)?;
        if slot.used.swap(1, Ordering::Acquire) == 0 {
            // Not if another thread has given one back meanwhile.
            let _ = LOWEST.compare_exchange(lowest, index + 1, Ordering::AcqRel, Ordering::Relaxed);
            NEWEST.store(index, Ordering::Relaxed);
            slot.index.store(index, Ordering::Relaxed);
            return Some(slot);
        }
        index += 1;
    }
}

/// The slot behind an extra state.
fn of(extra: usize) -> &'static Slot {
    // SAFETY: the lower half hands back what `start` has given it, the address of a slot.
    unsafe { &*(extra as *const Slot) }
}

/// The program's extra state, and whether its functions are Fortran.
pub fn program(extra: usize) -> (usize, bool) {
    let s = of(extra);
    (
        s.extra.load(Ordering::Relaxed) as usize,
        s.is_c.load(Ordering::Relaxed) == 0,
    )
}

/// The request is gone.
pub fn release(extra: usize) {
    let s = of(extra);
    s.content.store(0, Ordering::Relaxed);
    give_back(s);
}

fn give_back(slot: &Slot) {
    slot.used.store(0, Ordering::Release);
    LOWEST.fetch_min(slot.index.load(Ordering::Relaxed), Ordering::AcqRel);
}

/// Says that the functions of a request, the one started last, are Fortran.
#[allow(dead_code, reason = "Open MPI's library clears the byte by itself")]
pub fn set_fortran(word: u64) {
    let newest = NEWEST.load(Ordering::Relaxed);
    for index in (0..=newest).rev() {
        let Some(s) = ALL.get(index) else { return };
        if s.used.load(Ordering::Relaxed) != 0
            && s.content.load(Ordering::Relaxed) & 0xffff_ffff == word
        {
            s.is_c.store(0, Ordering::Relaxed);
            return;
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
        cross!(slot::MPI_Comm_call_errhandler, fn(u64, i32) -> i32;
            mpi_std::MPI_COMM_WORLD, mpi_std::MPI_ERR_NO_MEM);
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
        give_back(s);
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
