//! The program's signal handlers, and masks around lower code. Lower half.
//!
//! The kernel knows the arena's shim as the handler of everything; the program's own function is in
//! the table the shim calls through, and the whole action in the book.

use crate::book::{book, KernelSigaction};
use crate::notice;
use mana_raw::layout::{HANDLERS, PARK_SIGNAL, RESTARTING};
use mana_raw::{shim, sys};

const EINVAL: isize = -(libc::EINVAL as isize);
const SA_RESTORER: usize = 0x0400_0000;

fn set(number: usize, action: &KernelSigaction) -> isize {
    let mut kernel = *action;
    let held = notice::holds(number, action.handler);
    if held && action.handler == libc::SIG_DFL {
        kernel = KernelSigaction {
            handler: shim::notice(),
            flags: SA_RESTORER | (libc::SA_SIGINFO | libc::SA_RESTART) as usize,
            restorer: shim::restorer(),
            mask: !0,
        };
    }
    if action.handler > 1 {
        // SAFETY: one of the 65 words of the table.
        unsafe {
            (HANDLERS as *mut usize)
                .add(number)
                .write_volatile(action.handler)
        };
        kernel.handler = shim::signal();
        if held {
            kernel.handler = shim::notice();
            // The handler's first call is not the program's yet.
            kernel.flags &= !(libc::SA_RESETHAND as usize);
            kernel.flags |= libc::SA_SIGINFO as usize;
        }
        let word = (RESTARTING + number / 64 * 8) as *mut u64;
        let bit = 1u64 << (number % 64);
        // SAFETY: one of the two words of the map.
        unsafe {
            let old = word.read_volatile() & !bit;
            let restarts = action.flags & libc::SA_RESTART as usize != 0;
            word.write_volatile(if restarts { old | bit } else { old });
        }
    }
    // SAFETY: the shim is mapped; the program's restorer is in the arena like its handler.
    unsafe {
        sys::syscall(
            sys::RT_SIGACTION,
            [number, (&raw const kernel) as usize, 0, 8, 0, 0],
        )
    }
}

/// `rt_sigaction` of the program.
///
/// # Safety
/// `new` and `old` are what the program passed.
pub unsafe fn action(number: usize, new: usize, old: usize, size: usize) -> isize {
    if !(1..=64).contains(&number) || size != 8 {
        return EINVAL;
    }
    // SAFETY: signals are blocked, and actions are changed by one thread at a time in any program
    // that works without us.
    let entry = unsafe { &mut book().sigactions[number] };
    let before = *entry;
    if new != 0 {
        // SAFETY: the program's structure.
        let wanted = unsafe { std::ptr::read_unaligned(new as *const KernelSigaction) };
        if number as i32 == PARK_SIGNAL {
            // Ours; the program's handler (its C library's) is called when it is not for us.
            // SAFETY: one of the 65 words of the table.
            unsafe {
                (HANDLERS as *mut usize)
                    .add(number)
                    .write_volatile(wanted.handler)
            };
        } else {
            let result = set(number, &wanted);
            if result < 0 {
                return result;
            }
        }
        *entry = wanted;
    }
    if old != 0 {
        // SAFETY: the program's structure.
        unsafe { std::ptr::write_unaligned(old as *mut KernelSigaction, before) };
    }
    0
}

/// Takes over the dispositions the process was started with (ignored signals stay ignored).
pub fn inherit() {
    for number in (1..=64usize).filter(|n| *n as i32 != PARK_SIGNAL) {
        let mut action = KernelSigaction::default();
        // SAFETY: the kernel fills the structure.
        let result = unsafe {
            sys::syscall(
                sys::RT_SIGACTION,
                [number, 0, (&raw mut action) as usize, 8, 0, 0],
            )
        };
        if result == 0 && action.handler == libc::SIG_IGN {
            // SAFETY: before the program runs.
            unsafe { book().sigactions[number] = action };
        }
    }
}

/// After a restart: gives the kernel the program's actions again.
pub fn install_saved() {
    for number in 1..=64usize {
        if matches!(number as i32, libc::SIGKILL | libc::SIGSTOP | PARK_SIGNAL) {
            continue;
        }
        // SAFETY: before the program runs.
        let action = unsafe { book().sigactions[number] };
        set(number, &action);
    }
}

/// Gives the kernel the action of one signal anew, after a change of what is held back.
pub fn renew(number: usize) {
    // SAFETY: the book exists; a program changes an action from one thread at a time.
    let action = unsafe { book().sigactions[number] };
    set(number, &action);
}

/// Lets a signal have its default effect from now on.
pub fn default_effect(number: usize) {
    let action = KernelSigaction::default();
    // SAFETY: the default action has no code of ours.
    unsafe {
        sys::syscall(
            sys::RT_SIGACTION,
            [number, (&raw const action) as usize, 0, 8, 0, 0],
        )
    };
}

/// Installs the park signal's handler.
pub fn install_park() {
    set_park(shim::park());
}

/// This process is about to execute a program: a park signal that comes now would find no handler in it, and end it.
/// What is ignored stays so, and what was pending is gone.
pub fn ignore_park() {
    set_park(libc::SIG_IGN);
}

fn set_park(handler: usize) {
    let action = KernelSigaction {
        handler,
        flags: SA_RESTORER | (libc::SA_SIGINFO | libc::SA_RESTART) as usize,
        restorer: shim::restorer(),
        mask: !0,
    };
    // SAFETY: the shim is mapped.
    unsafe {
        sys::syscall(
            sys::RT_SIGACTION,
            [
                PARK_SIGNAL as usize,
                (&raw const action) as usize,
                0,
                8,
                0,
                0,
            ],
        )
    };
}

/// Sets this thread's mask and returns the old one.
pub fn set_mask(mask: u64) -> u64 {
    let mut old = 0u64;
    // SAFETY: two words of this frame.
    unsafe {
        sys::syscall(
            sys::RT_SIGPROCMASK,
            [
                2,
                (&raw const mask) as usize,
                (&raw mut old) as usize,
                8,
                0,
                0,
            ],
        );
    }
    old
}

/// Blocks the signals of `mask` (bit n is signal n + 1) in this thread, too, and returns the old mask.
pub fn block_signals(mask: u64) -> u64 {
    let old = set_mask(!0);
    set_mask(old | mask);
    old
}

/// Runs `f` with every signal blocked, so that threads it creates (helpers of an MPI library)
/// never run a handler of the program: they would do it with the wrong FS.
pub fn with_signals_blocked<R>(f: impl FnOnce() -> R) -> R {
    struct Restore(u64);
    impl Drop for Restore {
        fn drop(&mut self) {
            set_mask(self.0);
        }
    }
    let _restore = Restore(set_mask(!0));
    f()
}
