//! Patching a mapped piece of code, and what must be trapped. Lower half.

use crate::book::book;
use crate::sites::{self, Number};
use crate::tree::numbers;
use mana_raw::layout::{SHIM_CODE, SHIM_CODE_END, TRAMPOLINES, TRAMPOLINE_LEN, TRAPPED};
use mana_raw::sys;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

/// Calls that always go to the lower half.
pub const ALWAYS: &[usize] = &[
    sys::MMAP,
    sys::MUNMAP,
    sys::BRK,
    sys::RT_SIGACTION,
    sys::MREMAP,
    sys::MADVISE,
    30, // shmat
    sys::CLONE,
    sys::EXECVE,
    sys::EXIT,
    sys::KILL,
    sys::READLINK,
    129, // rt_sigqueueinfo
    sys::TKILL,
    sys::SET_TID_ADDRESS,
    sys::TIMER_CREATE,
    sys::EXIT_GROUP,
    sys::TGKILL,
    sys::READLINKAT,
    sys::RT_TGSIGQUEUEINFO,
    sys::EXECVEAT,
    sys::RSEQ,
    sys::CLONE3,
];

/// Calls that go to the lower half once the numbers the program knows differ from the kernel's.
pub const AFTER_RESTART: &[usize] = &[
    sys::GETPID,
    142, // sched_setparam
    143, // sched_getparam
    144, // sched_setscheduler
    145, // sched_getscheduler
    sys::GETTID,
    203, // sched_setaffinity
    204, // sched_getaffinity
];

/// Sets or clears one call in the table the trampolines look at.
pub fn trap(number: usize, on: bool) {
    let word = (TRAPPED + number / 32 * 4) as *mut u32;
    // SAFETY: within the mapped table, for numbers below 512.
    unsafe {
        let old = word.read_volatile();
        let bit = 1 << (number % 32);
        word.write_volatile(if on { old | bit } else { old & !bit });
    }
}

/// Calls a C library makes, and that must have been found in one: without them memory, handlers
/// or threads would escape.
const IN_A_C_LIBRARY: &[(u32, &str)] = &[
    (9, "mmap"),
    (11, "munmap"),
    (12, "brk"),
    (13, "rt_sigaction"),
    (25, "mremap"),
    (56, "clone"),
    (60, "exit"),
];

/// More system-call instructions than this in one segment: perhaps a C library.
const C_LIBRARY: usize = 150;

/// What was found in one piece of code.
#[derive(Debug, Default)]
pub struct Patched {
    /// Numbers led through a trampoline.
    pub numbers: Vec<u32>,
    /// Sites that should have been and could not.
    pub failed: Vec<(usize, Number)>,
    /// Calls that must be there if this is a C library, and are not.
    pub missing: Vec<&'static str>,
}

static LOCK: Mutex<()> = Mutex::new(());

/// Keeps the trampolines still across a fork.
pub fn hold() -> impl Drop {
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Patches the code at `[base, base + len)`, whose pages have protection `prot`.
///
/// # Safety
/// The range is mapped with that protection, private, and not executed by any thread yet.
pub unsafe fn code(base: usize, len: usize, prot: i32) -> Patched {
    let mut result = Patched::default();
    // SAFETY: mapped; execute-only code is made readable below before it is looked at.
    let view = || unsafe { std::slice::from_raw_parts(base as *const u8, len) };
    if prot & libc::PROT_READ == 0 && crate::protect_at(base, len, prot | libc::PROT_READ).is_err()
    {
        return result;
    }
    let trapped = |n: u32| {
        let lists = [ALWAYS, AFTER_RESTART, numbers::TRAPPED];
        lists.iter().any(|list| list.contains(&(n as usize)))
    };
    let wanted: Vec<_> = sites::find(view(), |n| trapped(n) || sites::is_timed(n))
        .into_iter()
        .map(|site| {
            let trapped = match site.number {
                Number::Generic => true,
                Number::Known(n) => trapped(n),
            };
            (site, trapped)
        })
        .collect();
    if wanted.is_empty() {
        return result;
    }
    let _guard = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    let open = crate::protect_at(base, len, libc::PROT_READ | libc::PROT_WRITE)
        .and_then(|()| crate::protect_at(SHIM_CODE, SHIM_CODE_END - SHIM_CODE, 7));
    if open.is_err() {
        result.failed = wanted.into_iter().map(|(s, _)| (s.at, s.number)).collect();
        return result;
    }
    for (site, trapped) in wanted {
        // SAFETY: the book exists before any code is patched.
        let book = unsafe { book() };
        let index = book.trampolines.load(Ordering::Relaxed);
        let at = TRAMPOLINES + index * TRAMPOLINE_LEN;
        let made = sites::trampoline(view(), base, &site, index, trapped)
            .zip(sites::jump(base, &site, index));
        match made {
            Some((trampoline, jump)) if at + TRAMPOLINE_LEN <= SHIM_CODE_END => {
                let start = site.patch.map_or(site.at, |(start, _)| start);
                // SAFETY: the trampolines' zone is mapped and writable, and so is the code.
                unsafe {
                    std::ptr::copy_nonoverlapping(
                        trampoline.as_ptr(),
                        at as *mut u8,
                        TRAMPOLINE_LEN,
                    );
                    std::ptr::copy_nonoverlapping(
                        jump.as_ptr(),
                        (base + start) as *mut u8,
                        jump.len(),
                    );
                }
                book.trampolines.store(index + 1, Ordering::Relaxed);
                if let Number::Known(n) = site.number {
                    result.numbers.push(n);
                }
            }
            _ => result.failed.push((site.at, site.number)),
        }
    }
    if view().windows(2).filter(|w| *w == [0x0f, 0x05]).count() > C_LIBRARY {
        let missing = IN_A_C_LIBRARY
            .iter()
            .filter(|(n, _)| !result.numbers.contains(n));
        result.missing = missing.map(|(_, name)| *name).collect();
    }
    let closed = crate::protect_at(
        SHIM_CODE,
        SHIM_CODE_END - SHIM_CODE,
        libc::PROT_READ | libc::PROT_EXEC,
    )
    .and_then(|()| crate::protect_at(base, len, prot));
    if let Err(error) = closed {
        log::error!("{error}");
    }
    for (at, number) in &result.failed {
        if matches!(number, Number::Known(n) if ALWAYS.contains(&(*n as usize))) {
            log::warn!(
                "system call {number:?} at {:#x} cannot be controlled",
                base + at
            );
        }
    }
    result
}
