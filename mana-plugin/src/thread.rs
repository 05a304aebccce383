//! The calling thread's block (`mana_raw::layout::ThreadBlock`), reached through the GS base.
//!
//! Lower half, on threads of the upper half that are inside an MPI call. Only the two continuation
//! words are used here: what a repeated call goes on with.

use mana_raw::layout::thread_block;
use std::arch::asm;

/// What the call that returned `AGAIN` on this thread left behind; 0 if nothing.
#[inline(always)]
pub fn cont() -> u64 {
    let value: u64;
    // SAFETY: every thread that enters MPI has its GS base at its ThreadBlock (the stub could not
    // have crossed otherwise); `CONT` is inside it.
    unsafe {
        asm!("mov {}, qword ptr gs:[{off}]", out(reg) value, off = const thread_block::CONT, options(nostack, preserves_flags, readonly));
    }
    value
}

/// The second continuation word.
#[inline]
pub fn cont_arg() -> u64 {
    let value: u64;
    // SAFETY: as in `cont`.
    unsafe {
        asm!("mov {}, qword ptr gs:[{off}]", out(reg) value, off = const thread_block::CONT_ARG, options(nostack, preserves_flags, readonly));
    }
    value
}

/// Leaves words for the repeated call.
#[cold]
pub fn set_cont(cont: u64, arg: u64) {
    // SAFETY: as in `cont`; the block belongs to this thread.
    unsafe {
        asm!("mov qword ptr gs:[{off}], {}", in(reg) cont, off = const thread_block::CONT, options(nostack, preserves_flags));
    }
    // SAFETY: as above.
    unsafe {
        asm!("mov qword ptr gs:[{off}], {}", in(reg) arg, off = const thread_block::CONT_ARG, options(nostack, preserves_flags));
    }
}
