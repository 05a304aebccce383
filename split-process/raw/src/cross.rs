//! The crossing from the upper half to the lower one, for the stub library.
//!
//! Upper half: this code is linked into the stub and runs under the program's libc. The order is
//! the contract: raise `in_lower`, *then* load the slot (a checkpoint may replace the whole lower
//! half as long as `in_lower` is 0), set FS, call, set FS back, lower `in_lower`, and only then look
//! at `pending`. While FS is foreign nothing but the call itself runs.
//!
//! ```text
//! // a slot that returns an MPI error code or AGAIN: waits and repeats by itself
//! let rc = mana_raw::cross!(SLOT_SEND, fn(*const u8, i32, u64, i32, i32, u64) -> i32;
//!                           buf, count, datatype, dest, tag, comm);
//! // any other result type
//! let t = mana_raw::cross_plain!(SLOT_WTIME, fn() -> f64;);
//! ```

use crate::base;
use crate::layout::{thread_block as tb, AGAIN, PROC_SLOTS};
use crate::sys;
use core::arch::asm;

/// Raises `in_lower` and takes the lower half's FS. Balanced by [`leave`].
///
/// # Safety
/// On a thread of the upper half, in upper code; nothing that uses thread-local storage may run
/// until [`leave`], the called function of the lower half excepted.
#[inline(always)]
pub unsafe fn enter() {
    let lower: usize;
    // SAFETY: GS points to this thread's block, as on every thread of the upper half.
    unsafe {
        asm!("inc qword ptr gs:[{depth}]", "mov {fs}, gs:[{lower}]",
            fs = out(reg) lower, depth = const tb::IN_LOWER, lower = const tb::LOWER_FS, options(nostack));
    }
    // SAFETY: the thread control block of the lower thread that carries this one.
    unsafe { base::set_fs(lower) };
}

/// Takes the upper half's FS back and lowers `in_lower`.
///
/// # Safety
/// After [`enter`], on the same thread.
#[inline(always)]
pub unsafe fn leave() {
    let upper: usize;
    // SAFETY: as in `enter`.
    unsafe {
        asm!("mov {}, gs:[{upper}]", out(reg) upper, upper = const tb::UPPER_FS, options(nostack));
    }
    // SAFETY: the thread control block of the program's thread.
    unsafe { base::set_fs(upper) };
    // SAFETY: as in `enter`.
    unsafe { asm!("dec qword ptr gs:[{depth}]", depth = const tb::IN_LOWER, options(nostack)) };
}

/// The function in slot `index`. Only between [`enter`] and [`leave`].
///
/// # Safety
/// The control page is mapped (it is, on every thread of the upper half) and `index` is below
/// `ControlPage::proc_slots`.
#[inline(always)]
pub unsafe fn slot(index: usize) -> usize {
    // SAFETY: volatile, so that the load stays behind the raise of `in_lower`.
    unsafe { core::ptr::read_volatile((PROC_SLOTS as *const usize).add(index)) }
}

/// Whether a checkpoint wants this thread, and it has no lower frames below it.
#[inline(always)]
fn wanted() -> bool {
    let pending: u64;
    // SAFETY: reads a word of this thread's block.
    unsafe {
        asm!("mov {}, gs:[{pending}]", out(reg) pending, pending = const tb::PENDING, options(nostack, preserves_flags));
    }
    pending != 0 && depth() == 0
}

/// How deep this thread is in the lower half.
fn depth() -> u64 {
    let depth: u64;
    // SAFETY: reads a word of this thread's block.
    unsafe {
        asm!("mov {}, gs:[{depth}]", out(reg) depth, depth = const tb::IN_LOWER, options(nostack, preserves_flags));
    }
    depth
}

/// Looks at `pending` on the way out, and waits in upper code while it is set.
#[inline(always)]
pub fn check_pending() {
    if wanted() {
        park_wait();
    }
}

/// Waits in upper code, where the park signal can take the thread, until no checkpoint wants it.
/// Inside an upcall (depth above 0) it returns at once: such a thread cannot be parked.
#[cold]
#[inline(never)]
pub fn park_wait() {
    while wanted() {
        sys::nap(200_000);
    }
}

/// After a call: whether it has to be repeated. Waits for the checkpoint to pass.
#[inline(always)]
pub fn again(result: i32) -> bool {
    if result == AGAIN {
        wait_again();
        return true;
    }
    check_pending();
    false
}

#[cold]
#[inline(never)]
fn wait_again() {
    // At least one nap: the stop request of the MPI layer comes a little before `pending`.
    sys::nap(200_000);
    park_wait();
}

/// Calls slot `$slot` with the given signature (result `i32`) in the lower half; waits and repeats
/// the call as long as it returns [`AGAIN`]. Arguments must be plain values; they are evaluated once.
#[macro_export]
macro_rules! cross {
    ($slot:expr, fn($($t:ty),* $(,)?) -> i32; $($a:expr),* $(,)?) => {{
        let slot: usize = $slot;
        // The arguments as a tuple of functions would not inline; a nested function with the types does.
        #[inline(always)]
        unsafe fn call(f: usize, a: ($($t,)*)) -> i32 {
            let f: extern "C" fn($($t),*) -> i32 = unsafe { ::core::mem::transmute::<usize, _>(f) };
            $crate::cross_spread!(f, a, $($t),*)
        }
        let args: ($($t,)*) = ($($a,)*);
        loop {
            // SAFETY: a stub runs on threads of the upper half; the slot's signature is the table's.
            let result = unsafe {
                $crate::cross::enter();
                let result = call($crate::cross::slot(slot), args);
                $crate::cross::leave();
                result
            };
            if !$crate::cross::again(result) {
                break result;
            }
        }
    }};
}

/// Calls slot `$slot` with any result type (no `AGAIN`).
#[macro_export]
macro_rules! cross_plain {
    ($slot:expr, fn($($t:ty),* $(,)?) -> $r:ty; $($a:expr),* $(,)?) => {{
        let slot: usize = $slot;
        #[inline(always)]
        unsafe fn call(f: usize, a: ($($t,)*)) -> $r {
            let f: extern "C" fn($($t),*) -> $r = unsafe { ::core::mem::transmute::<usize, _>(f) };
            $crate::cross_spread!(f, a, $($t),*)
        }
        let args: ($($t,)*) = ($($a,)*);
        // SAFETY: as in `cross!`.
        let result = unsafe {
            $crate::cross::enter();
            let result = call($crate::cross::slot(slot), args);
            $crate::cross::leave();
            result
        };
        $crate::cross::check_pending();
        result
    }};
}

/// Calls `$f` with the elements of tuple `$a`, as many as there are types. For [`cross!`].
#[doc(hidden)]
#[macro_export]
macro_rules! cross_spread {
    ($f:ident, $a:ident,) => {{ let () = $a; $f() }};
    ($f:ident, $a:ident, $($t:ty),+) => { $crate::cross_spread!(@go $f, $a, [$($t),+], [], [a0 a1 a2 a3 a4 a5 a6 a7 a8 a9 a10 a11 a12 a13 a14 a15]) };
    (@go $f:ident, $a:ident, [], [$($n:ident)*], [$($rest:ident)*]) => {{ let ($($n,)*) = $a; $f($($n),*) }};
    (@go $f:ident, $a:ident, [$t:ty $(, $ts:ty)*], [$($n:ident)*], [$h:ident $($rest:ident)*]) => {
        $crate::cross_spread!(@go $f, $a, [$($ts),*], [$($n)* $h], [$($rest)*])
    };
}
