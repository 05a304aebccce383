//! Raw system calls: no errno, no TLS, no libc. Either half.

use core::arch::asm;

/// `read`
pub const READ: usize = 0;
/// `poll`
pub const POLL: usize = 7;
/// `mmap`
pub const MMAP: usize = 9;
/// `mprotect`
pub const MPROTECT: usize = 10;
/// `munmap`
pub const MUNMAP: usize = 11;
/// `brk`
pub const BRK: usize = 12;
/// `rt_sigaction`
pub const RT_SIGACTION: usize = 13;
/// `rt_sigprocmask`
pub const RT_SIGPROCMASK: usize = 14;
/// `rt_sigreturn`
pub const RT_SIGRETURN: usize = 15;
/// `mremap`
pub const MREMAP: usize = 25;
/// `madvise`
pub const MADVISE: usize = 28;
/// `nanosleep`
pub const NANOSLEEP: usize = 35;
/// `getpid`
pub const GETPID: usize = 39;
/// `clone`
pub const CLONE: usize = 56;
/// `execve`
pub const EXECVE: usize = 59;
/// `exit`
pub const EXIT: usize = 60;
/// `wait4`
pub const WAIT4: usize = 61;
/// `kill`
pub const KILL: usize = 62;
/// `readlink`
pub const READLINK: usize = 89;
/// `setpgid`
pub const SETPGID: usize = 109;
/// `getppid`
pub const GETPPID: usize = 110;
/// `getpgrp`
pub const GETPGRP: usize = 111;
/// `setsid`
pub const SETSID: usize = 112;
/// `getpgid`
pub const GETPGID: usize = 121;
/// `getsid`
pub const GETSID: usize = 124;
/// `sigaltstack`
pub const SIGALTSTACK: usize = 131;
/// `arch_prctl`
pub const ARCH_PRCTL: usize = 158;
/// `gettid`
pub const GETTID: usize = 186;
/// `tkill`
pub const TKILL: usize = 200;
/// `futex`
pub const FUTEX: usize = 202;
/// `set_tid_address`
pub const SET_TID_ADDRESS: usize = 218;
/// `timer_create`
pub const TIMER_CREATE: usize = 222;
/// `clock_nanosleep`
pub const CLOCK_NANOSLEEP: usize = 230;
/// `exit_group`
pub const EXIT_GROUP: usize = 231;
/// `epoll_wait`
pub const EPOLL_WAIT: usize = 232;
/// `tgkill`
pub const TGKILL: usize = 234;
/// `waitid`
pub const WAITID: usize = 247;
/// `readlinkat`
pub const READLINKAT: usize = 267;
/// `set_robust_list`
pub const SET_ROBUST_LIST: usize = 273;
/// `get_robust_list`
pub const GET_ROBUST_LIST: usize = 274;
/// `epoll_pwait`
pub const EPOLL_PWAIT: usize = 281;
/// `rt_tgsigqueueinfo`
pub const RT_TGSIGQUEUEINFO: usize = 297;
/// `execveat`
pub const EXECVEAT: usize = 322;
/// `rseq`
pub const RSEQ: usize = 334;
/// `pidfd_open`
pub const PIDFD_OPEN: usize = 434;
/// `clone3`
pub const CLONE3: usize = 435;

/// `arch_prctl` code: set the FS base.
pub const ARCH_SET_FS: usize = 0x1002;
/// `arch_prctl` code: get the FS base.
pub const ARCH_GET_FS: usize = 0x1003;
/// `arch_prctl` code: set the GS base.
pub const ARCH_SET_GS: usize = 0x1001;

/// Issues system call `nr` and returns what the kernel does: a result, or a negated errno.
///
/// # Safety
/// As the system call itself: it may change memory, descriptors, or end the process.
#[inline(always)]
pub unsafe fn syscall(nr: usize, args: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the kernel's convention; rcx and r11 are the only registers it changes beside rax.
    unsafe {
        asm!("syscall",
            inlateout("rax") nr as isize => result,
            in("rdi") args[0], in("rsi") args[1], in("rdx") args[2],
            in("r10") args[3], in("r8") args[4], in("r9") args[5],
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

/// Sleeps for `nanoseconds` (less than a second), or until a signal handler has run.
pub fn nap(nanoseconds: u32) {
    let time: [u64; 2] = [0, u64::from(nanoseconds)];
    // SAFETY: reads the two words of `time`, writes nothing.
    unsafe { syscall(NANOSLEEP, [time.as_ptr() as usize, 0, 0, 0, 0, 0]) };
}
