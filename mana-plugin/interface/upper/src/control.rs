//! Whether there is a lower half, and the plain questions to it.

use core::sync::atomic::{AtomicI32, Ordering};

use mana_raw::interface::slot;
use mana_raw::layout::{ARENA_END, ARENA_START, INTERFACE_SLOTS};
use mana_raw::{cross, cross_plain, sys};

extern "C" {
    fn getpid() -> i32;
}

/// The process that asked first; 0: none yet. What a fork copies is not its own.
static OWNER: AtomicI32 = AtomicI32::new(0);

/// At load time, before the program can fork.
#[used]
#[link_section = ".init_array"]
static AT_LOAD: extern "C" fn() = {
    extern "C" fn remember() {
        controlled();
    }
    remember
};

/// Whether this process is under control: the library lies in the arena (nothing else does), and the
/// process is the one that was started, not a fork of it.
pub fn controlled() -> bool {
    let here = controlled as *const () as usize;
    if !(ARENA_START..ARENA_END).contains(&here) {
        return false;
    }
    // SAFETY: the program's libc; the number stays the same over restarts.
    let me = unsafe { getpid() };
    let owner = match OWNER.compare_exchange(0, me, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => me,
        Err(owner) => owner,
    };
    // SAFETY: threads of a program under control have their block in GS, and the page is mapped.
    owner == me && unsafe { cross::slot(INTERFACE_SLOTS + slot::RESTARTS) } != 0
}

/// How often the program was resumed.
pub fn restarts() -> u64 {
    cross_plain!(INTERFACE_SLOTS + slot::RESTARTS, fn() -> u64;)
}

/// A pause of a wait in upper code, where a checkpoint may come; longer each time.
pub struct Pause(u32);

impl Pause {
    /// The first one is short.
    pub fn new() -> Self {
        Self(100_000)
    }

    /// Waits; nanoseconds that were meant.
    pub fn rest(&mut self) -> u64 {
        let now = self.0;
        sys::nap(now);
        self.0 = (now * 2).min(5_000_000);
        now.into()
    }
}
