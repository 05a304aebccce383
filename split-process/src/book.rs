//! The book: what the lower half knows about the upper one and must survive a restart. It lies in
//! the arena (behind the shim's tables), so that it is saved and restored with the program's memory
//! and always agrees with it. Written by the lower half only.

use mana_raw::layout::{ARENA_END, ARENA_START, SHIM_CODE, SHIM_DATA, SHIM_DATA_LEN};
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

/// The kernel's `struct sigaction`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelSigaction {
    /// `SIG_DFL`, `SIG_IGN` or a function.
    pub handler: usize,
    /// `SA_*`
    pub flags: usize,
    /// Where the handler returns to.
    pub restorer: usize,
    /// Signals blocked meanwhile.
    pub mask: u64,
}

/// Most ranges outside the arena (segments of a non-PIE program, `MAP_32BIT` memory).
pub const MAX_OUTSIDE: usize = 128;
/// Most threads that can have a timed wait adjusted at the same time.
pub const MAX_SCRATCH: usize = 8192;
/// Most ranges that can be kept out of images.
pub const MAX_EXCLUDED: usize = 256;

/// See the module's text.
#[repr(C)]
pub struct Book {
    /// Bytes of the shim's code, for the comparison at restart.
    pub shim_len: usize,
    /// First address of the emulated break.
    pub break_start: usize,
    /// The break.
    pub break_now: AtomicUsize,
    /// Where the next module is tried.
    pub modules_next: AtomicUsize,
    /// Where the next anonymous mapping is tried.
    pub anonymous_next: AtomicUsize,
    /// Trampolines in use.
    pub trampolines: AtomicUsize,
    /// The process id the program knows.
    pub pid: AtomicI32,
    /// How many restarts this memory has seen.
    pub restarts: usize,
    /// How many of `outside` are in use.
    pub outside_len: AtomicUsize,
    /// Ranges of the upper half outside the arena: start, end.
    pub outside: [[AtomicUsize; 2]; MAX_OUTSIDE],
    /// The program's signal actions, by number.
    pub sigactions: [KernelSigaction; 65],
    /// Bytes of `exe`.
    pub exe_len: usize,
    /// What `/proc/self/exe` is for the program.
    pub exe: [u8; 4096],
    /// Time values for timed waits that go on with their remainder, by the thread's slot.
    pub scratch: [[i64; 2]; MAX_SCRATCH],
    /// What the program registered for events (`mana_raw::interface::Events`); 0: nothing.
    pub interface: AtomicUsize,
    /// Memory the program keeps out of images: start, end; 0, 0: free. See `excluded`.
    pub excluded: [[AtomicUsize; 2]; MAX_EXCLUDED],
}

/// Address of the book.
pub const BOOK: usize = SHIM_DATA + 0x1000;
const _: () = assert!(size_of::<Book>() + 0x1000 <= SHIM_DATA_LEN);

/// The book.
///
/// # Safety
/// The arena's own areas have been mapped (by `start` or by a restore). Fields without atomics are
/// changed by one thread at a time: under the lock of the table they belong to, or before the
/// program runs.
pub unsafe fn book() -> &'static mut Book {
    // SAFETY: mapped, zero-initialised memory is a valid book; see above for aliasing.
    unsafe { &mut *(BOOK as *mut Book) }
}

/// Whether the book can be read: set once the arena's own areas exist.
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// Declares the book readable.
pub fn open() {
    OPEN.store(1, Ordering::Release);
}

/// Whether the book can be read.
pub fn is_open() -> bool {
    OPEN.load(Ordering::Acquire) != 0
}

/// How many restarts the program's memory has seen.
pub fn restarts() -> usize {
    match is_open() {
        // SAFETY: the book is open; written before the program runs.
        true => unsafe { book() }.restarts,
        false => 0,
    }
}

/// Address of what the program registered for events; 0: nothing.
pub fn interface() -> usize {
    match is_open() {
        // SAFETY: the book is open; an atomic.
        true => unsafe { book() }.interface.load(Ordering::Acquire),
        false => 0,
    }
}

/// Remembers it over restarts. Called for the program, whose book is open.
pub fn set_interface(address: usize) {
    if is_open() {
        // SAFETY: as above.
        unsafe { book() }
            .interface
            .store(address, Ordering::Release);
    }
}

/// Whether `address` belongs to the upper half.
pub fn in_upper_range(address: usize) -> bool {
    if (SHIM_CODE..ARENA_END).contains(&address) {
        return true;
    }
    if (ARENA_START..SHIM_CODE).contains(&address) || OPEN.load(Ordering::Acquire) == 0 {
        return false;
    }
    outside().any(|(start, end)| (start..end).contains(&address))
}

/// The upper half's ranges outside the arena.
pub fn outside() -> impl Iterator<Item = (usize, usize)> {
    let len = if OPEN.load(Ordering::Acquire) == 0 {
        0
    } else {
        // SAFETY: the book is open; the array's elements are atomics.
        unsafe { book() }.outside_len.load(Ordering::Acquire)
    };
    (0..len.min(MAX_OUTSIDE)).map(|i| {
        // SAFETY: as above.
        let [start, end] = unsafe { &book().outside[i] };
        (start.load(Ordering::Relaxed), end.load(Ordering::Relaxed))
    })
}

/// Remembers a range outside the arena. `false`: the table is full.
pub fn add_outside(start: usize, end: usize) -> bool {
    if outside().any(|(s, e)| s <= start && end <= e) {
        return true;
    }
    // SAFETY: the callers hold the arena's lock, so that no two writers meet; readers see the
    // length last.
    let book = unsafe { book() };
    let len = book.outside_len.load(Ordering::Relaxed);
    if let Some(i) = (0..len.min(MAX_OUTSIDE)).find(|&i| {
        let (s, e) = (
            book.outside[i][0].load(Ordering::Relaxed),
            book.outside[i][1].load(Ordering::Relaxed),
        );
        start <= e && s <= end
    }) {
        book.outside[i][0].fetch_min(start, Ordering::Relaxed);
        book.outside[i][1].fetch_max(end, Ordering::Release);
        return true;
    }
    if len >= MAX_OUTSIDE {
        return false;
    }
    book.outside[len][0].store(start, Ordering::Relaxed);
    book.outside[len][1].store(end, Ordering::Relaxed);
    book.outside_len.store(len + 1, Ordering::Release);
    true
}
