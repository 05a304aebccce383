//! The communicator cache on the control page: rank and size for the stub, without a crossing.
//!
//! Lower half. Where there is no control page (a test without the split) nothing is published.

use mana_raw::layout::{CommCache, COMM_CACHE, COMM_CACHE_MAX};
use std::sync::atomic::{AtomicBool, Ordering};

static PUBLISH: AtomicBool = AtomicBool::new(false);

/// Says that the control page exists.
pub fn enable() {
    PUBLISH.store(true, Ordering::Relaxed);
}

/// Publishes entry `at` (0 the world, 1 self, 2 + index); size 0 withdraws it.
pub fn store(at: u32, rank: i32, size: i32) {
    if !PUBLISH.load(Ordering::Relaxed) || at as usize >= COMM_CACHE_MAX {
        return;
    }
    let entry = (COMM_CACHE as *mut CommCache).wrapping_add(at as usize);
    // SAFETY: the control page is mapped (`enable`), and `at` is inside the cache.
    unsafe { entry.write_volatile(CommCache { rank, size }) };
}
