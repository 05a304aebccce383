//! Tables by the index of a handle, as long as they have to be: the first places are there from the
//! beginning, further ones come in blocks from the program's allocator when they are first asked for.
//!
//! Upper half. A block never moves and is never given back, so an address in it is as good as one of a static.

use core::ffi::c_void;
use core::sync::atomic::{AtomicPtr, Ordering};

extern "C" {
    fn calloc(count: usize, size: usize) -> *mut c_void;
    fn free(block: *mut c_void);
}

/// Places of a block.
const BLOCK: usize = 4096;
/// Blocks for all indices that a handle can have.
const BLOCKS: usize = (1 << 24) / BLOCK;
/// Addresses of places are multiples of this, if the size of one is.
const ALIGNMENT: usize = 64;

/// # Safety
/// All bytes zero is a value.
pub unsafe trait Zeroed: Sync + 'static {}

// SAFETY: a number.
unsafe impl Zeroed for core::sync::atomic::AtomicUsize {}
// SAFETY: as above.
unsafe impl Zeroed for core::sync::atomic::AtomicU32 {}

/// A table whose first `N` places are there.
pub struct Table<T: Zeroed, const N: usize> {
    first: [T; N],
    rest: [AtomicPtr<T>; BLOCKS],
}

impl<T: Zeroed, const N: usize> Table<T, N> {
    /// With its first places.
    pub const fn new(first: [T; N]) -> Self {
        const { assert!(align_of::<T>() <= ALIGNMENT) };
        Table {
            first,
            rest: [const { AtomicPtr::new(core::ptr::null_mut()) }; BLOCKS],
        }
    }

    /// The place at an index; `None` if there is no memory for it.
    #[inline(always)]
    pub fn get(&'static self, index: u32) -> Option<&'static T> {
        match self.first.get(index as usize) {
            Some(place) => Some(place),
            None => self.further(index as usize - N),
        }
    }

    #[cold]
    fn further(&'static self, index: usize) -> Option<&'static T> {
        let cell = self.rest.get(index / BLOCK)?;
        let mut block = cell.load(Ordering::Acquire);
        if block.is_null() {
            block = make(cell)?;
        }
        // SAFETY: the block has `BLOCK` places, and zeroes are values.
        Some(unsafe { &*block.add(index % BLOCK) })
    }
}

fn make<T: Zeroed>(cell: &AtomicPtr<T>) -> Option<*mut T> {
    // SAFETY: the program's allocator.
    let memory = unsafe { calloc(1, BLOCK * size_of::<T>() + ALIGNMENT) };
    if memory.is_null() {
        return None;
    }
    let block: *mut T = memory
        .wrapping_byte_add(memory.align_offset(ALIGNMENT))
        .cast();
    let null = core::ptr::null_mut();
    match cell.compare_exchange(null, block, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => Some(block),
        Err(other) => {
            // Another thread was faster.
            // SAFETY: memory from above that nobody knows.
            unsafe { free(memory) };
            Some(other)
        }
    }
}
