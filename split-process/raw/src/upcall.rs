//! The way back: a function of the program called from the lower half.
//!
//! Lower half. `in_lower` stays raised, so the thread is not parkable while the function runs.

use crate::base;
use crate::layout::ThreadBlock;

/// Why an upcall cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoUpcall {
    /// The calling thread is not one of the upper half's (FS is not that of its block): a thread
    /// the lower half made has no context of the program to run its function in.
    ForeignThread,
}

/// Calls `function`, code of the upper half with the C calling convention, with the upper half's
/// FS, and returns its integer result with the lower half's FS back in place.
///
/// # Safety
/// GS is set on this thread; `function` is such a function and `args` are what it expects.
pub unsafe fn call_upper(function: usize, args: &[u64; 6]) -> Result<u64, NoUpcall> {
    // SAFETY: GS is set, says the caller.
    let block: *mut ThreadBlock = unsafe { base::block() };
    // SAFETY: the block is valid as long as its thread.
    let (lower, upper) = unsafe { ((*block).lower_fs, (*block).upper_fs) };
    // SAFETY: GS is set.
    if unsafe { base::fs() } != lower || upper == 0 {
        return Err(NoUpcall::ForeignThread);
    }
    let a = *args;
    // SAFETY: the caller's promise on the address.
    let f: extern "C" fn(u64, u64, u64, u64, u64, u64) -> u64 =
        unsafe { core::mem::transmute(function) };
    // SAFETY: the thread control block of the program's thread; only the program's code runs until
    // FS is back.
    unsafe { base::set_fs(upper) };
    let result = f(a[0], a[1], a[2], a[3], a[4], a[5]);
    // SAFETY: the lower thread's own.
    unsafe { base::set_fs(lower) };
    Ok(result)
}
