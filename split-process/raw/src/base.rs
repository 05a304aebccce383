//! The FS and GS base registers: FS is the thread pointer of the half that runs, GS points to the
//! thread's [`ThreadBlock`](crate::layout::ThreadBlock) in both halves. Either half.

use crate::layout::{thread_block as tb, ThreadBlock};
use crate::sys;
use core::arch::asm;

/// Whether the kernel lets user code run the FSGSBASE instructions (`AT_HWCAP2`, bit 1).
pub const HWCAP2_FSGSBASE: u64 = 2;

/// The block of this thread.
///
/// # Safety
/// GS must have been set with [`set_gs`].
#[inline(always)]
pub unsafe fn block() -> *mut ThreadBlock {
    let block: *mut ThreadBlock;
    // SAFETY: the first word of the block is its own address.
    unsafe {
        asm!("mov {}, gs:[{me}]", out(reg) block, me = const tb::ME, options(nostack, preserves_flags, readonly));
    }
    block
}

/// Whether FS must be set by a system call on this machine.
///
/// # Safety
/// As [`block`].
#[inline(always)]
unsafe fn no_fsgsbase() -> bool {
    let flag: u64;
    // SAFETY: reads a word of the block.
    unsafe {
        asm!("mov {}, gs:[{o}]", out(reg) flag, o = const tb::NO_FSGSBASE, options(nostack, preserves_flags, readonly));
    }
    flag != 0
}

/// Reads the FS base.
///
/// # Safety
/// As [`block`].
#[inline(always)]
pub unsafe fn fs() -> usize {
    // SAFETY: the caller has set GS.
    if unsafe { no_fsgsbase() } {
        fs_by_call()
    } else {
        let value: usize;
        // SAFETY: the instruction exists, the flag says.
        unsafe { asm!("rdfsbase {}", out(reg) value, options(nostack, nomem, preserves_flags)) };
        value
    }
}

/// Sets the FS base.
///
/// # Safety
/// As [`block`]; `value` is a thread control block of the half whose code runs next.
#[inline(always)]
pub unsafe fn set_fs(value: usize) {
    // SAFETY: the caller has set GS.
    if unsafe { no_fsgsbase() } {
        set_fs_by_call(value);
    } else {
        // SAFETY: the instruction exists, the flag says; the value is the caller's promise.
        unsafe { asm!("wrfsbase {}", in(reg) value, options(nostack, preserves_flags)) };
    }
}

/// Reads the FS base with a system call: for before GS is set, and for machines without FSGSBASE.
#[cold]
#[inline(never)]
pub fn fs_by_call() -> usize {
    let mut value = 0usize;
    // SAFETY: writes one word to `value`.
    unsafe {
        sys::syscall(
            sys::ARCH_PRCTL,
            [sys::ARCH_GET_FS, &raw mut value as usize, 0, 0, 0, 0],
        )
    };
    value
}

#[cold]
#[inline(never)]
fn set_fs_by_call(value: usize) {
    // SAFETY: the promise of `set_fs`, its only caller.
    unsafe { sys::syscall(sys::ARCH_PRCTL, [sys::ARCH_SET_FS, value, 0, 0, 0, 0]) };
}

/// Makes GS point to `block`, with a system call: it is done once a thread.
///
/// # Safety
/// `block` is valid for the life of the thread, and its `me` is set.
pub unsafe fn set_gs(block: *mut ThreadBlock) {
    // SAFETY: the GS base is not used by either libc on x86-64.
    unsafe {
        sys::syscall(
            sys::ARCH_PRCTL,
            [sys::ARCH_SET_GS, block as usize, 0, 0, 0, 0],
        )
    };
}
