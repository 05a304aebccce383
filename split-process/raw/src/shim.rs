//! Code of the lower half that lives in the arena, because signals and system calls return through
//! it: an image taken while one is in progress must find it at the same address.
//!
//! Position independent; copied to [`SHIM_CODE`](crate::layout::SHIM_CODE) at start and restored
//! with the arena. It reaches the lower half only through the control page and GS. It is executed
//! with the upper half's FS and must not touch a stack slot below the red zone of its caller.

use crate::entry::Frame;
use crate::layout::{
    thread_block as tb, ControlPage, CONTROL, HANDLERS, RESTARTING, REWOUND_BY_KERNEL, TRAMPOLINES,
    TRAMPOLINE_LEN, TRAMPOLINE_TAIL,
};
use core::arch::global_asm;
use core::mem::offset_of;

global_asm!(
    ".pushsection .text.mana_shim,\"ax\",@progbits",
    ".globl mana_shim_start",
    ".hidden mana_shim_start",
    ".globl mana_shim_signal",
    ".hidden mana_shim_signal",
    ".globl mana_shim_park",
    ".hidden mana_shim_park",
    ".globl mana_shim_notice",
    ".hidden mana_shim_notice",
    ".globl mana_shim_restorer",
    ".hidden mana_shim_restorer",
    ".globl mana_shim_exit",
    ".hidden mana_shim_exit",
    ".globl mana_shim_wait",
    ".hidden mana_shim_wait",
    ".globl mana_shim_wait_call",
    ".hidden mana_shim_wait_call",
    ".globl mana_shim_wait_again",
    ".hidden mana_shim_wait_again",
    ".globl mana_shim_end",
    ".hidden mana_shim_end",
    ".balign 64",
    "mana_shim_start:",
    // ---- signal entry: the kernel calls it in place of the program's handler.
    // rdi = number, rsi = siginfo, rdx = ucontext; [rsp] = the program's restorer.
    "mana_shim_signal:",
    "push rbx",
    "push r12",
    "push r13", // aligned to 16 for the call
    "xor r12d, r12d",
    "mov r13, rdx",
    // A wait that a park has rewound, and that this handler interrupts, is owed an EINTR.
    "mov rax, gs:[{rewound}]",
    "test rax, rax",
    "jz 1f",
    "btr rax, {by_kernel}",
    "jnc 8f",
    "movabs rcx, {restarting}",
    "bt dword ptr [rcx], edi", // does this handler restart calls? Then nothing is owed
    "jc 1f",
    "8:",
    "cmp rax, [rdx + 168]", // ucontext: rip
    "jne 1f",
    "mov qword ptr gs:[{rewound}], 0",
    "add rax, 2",
    "mov [rdx + 168], rax",
    "mov [rdx + 152], rax", // rcx, as after a system call
    "mov qword ptr [rdx + 144], -4", // ucontext: rax = -EINTR
    "1:",
    // Which half was interrupted? Without the instructions, ask the kernel.
    "cmp qword ptr gs:[{nofs}], 0",
    "jne 5f",
    "rdfsbase rbx",
    "cmp rbx, gs:[{lower}]",
    "jne 2f",
    "mov r12d, 1",
    "mov rax, gs:[{upper}]",
    "wrfsbase rax",
    "2:",
    "movabs rax, {handlers}",
    "movsxd rdi, edi",
    "call [rax + rdi*8]",
    "test r12d, r12d",
    "jz 4f",
    "cmp qword ptr gs:[{nofs}], 0",
    "jne 6f",
    "mov rax, gs:[{lower}]",
    "wrfsbase rax",
    "3:",
    "pop r13",
    "pop r12",
    "pop rbx",
    "ret",
    // The handler is done. Did it interrupt a wait, which is to return -EINTR now? A park that finds
    // the thread where the wait returns would take this EINTR for its own doing and rewind the wait,
    // which nothing might ever end again. Fresh out of a system call rcx holds the address it has
    // returned to (the instruction puts it there); the 0 says that a handler has run since.
    "4:",
    "cmp qword ptr [r13 + 144], -4", // ucontext: rax = -EINTR
    "jne 3b",
    "mov rax, [r13 + 168]", // ucontext: rip
    "cmp rax, [r13 + 152]", // ucontext: rcx
    "jne 3b",
    "mov qword ptr [r13 + 152], 0",
    "jmp 3b",
    "5:", // slow: FS by arch_prctl
    "push rdi",
    "push rsi",
    "push rdx",
    "sub rsp, 8",
    "mov rsi, rsp",
    "mov edi, 0x1003", // ARCH_GET_FS
    "mov eax, 158",
    "syscall",
    "pop rbx",
    "cmp rbx, gs:[{lower}]",
    "jne 7f",
    "mov r12d, 1",
    "mov rsi, gs:[{upper}]",
    "mov edi, 0x1002", // ARCH_SET_FS
    "mov eax, 158",
    "syscall",
    "7:",
    "pop rdx",
    "pop rsi",
    "pop rdi",
    "jmp 2b",
    "6:",
    "mov rsi, gs:[{lower}]",
    "mov edi, 0x1002",
    "mov eax, 158",
    "syscall",
    "jmp 3b",
    // ---- the park signal: to the lower half's handler of today.
    ".balign 16",
    "mana_shim_park:",
    "movabs rax, {park}",
    "jmp [rax]",
    // ---- a signal that is held back: the lower half is asked first, then perhaps the program's
    // handler. The depth is raised before anything of the lower half is loaded.
    ".balign 16",
    "mana_shim_notice:",
    "push rdi",
    "push rsi",
    "push rdx", // aligned to 16 for the call
    "inc qword ptr gs:[{depth}]",
    "movabs rax, {notice}",
    "call [rax]",
    "dec qword ptr gs:[{depth}]",
    "pop rdx",
    "pop rsi",
    "pop rdi",
    "test eax, eax",
    "jnz mana_shim_signal",
    "ret",
    // ---- return from a signal whose handler was installed by us.
    ".balign 16",
    "mana_shim_restorer:",
    "mov eax, 15",
    "syscall",
    "ud2",
    // ---- end of a trapped system call: rsp = `entry::Frame`. The mask is restored here, in the
    // arena, so that a park signal that waited for it finds a parkable thread.
    ".balign 16",
    "mana_shim_exit:",
    "mov edi, 2", // SIG_SETMASK
    "mov rsi, rsp",
    "xor edx, edx",
    "mov r10d, 8",
    "mov eax, 14",
    "syscall",
    "9:",
    "add rsp, 8",
    "pop rax",
    "pop rdx",
    "pop rsi",
    "pop rdi",
    "pop r8",
    "pop r9",
    "pop r10",
    "pop rbx",
    "pop r12",
    "pop r13",
    "pop r14",
    "pop r15",
    "pop rbp",
    "pop r11",
    "lea rsp, [rsp + 128]",
    "jmp r11",
    // ---- a wait for children that has found none: rsp = `entry::Frame`, with the site's number as
    // its target. The thread waits here, where it can be parked, until one may be had (which stays
    // to be had), and goes through its trampoline's entry again with the numbers the program knows.
    ".balign 16",
    "mana_shim_wait:",
    "mov edi, 2", // SIG_SETMASK
    "mov rsi, rsp",
    "xor edx, edx",
    "mov r10d, 8",
    "mov eax, 14",
    "syscall",
    "mana_shim_wait_call:",
    "mov rdi, gs:[{wait_kind}]",
    "mov rsi, gs:[{wait_id}]",
    "xor edx, edx", // nothing is told here
    "mov r10, gs:[{wait_options}]",
    "xor r8d, r8d",
    "mov eax, 247", // waitid
    "syscall",
    "cmp rax, -4", // EINTR: a handler of the program has run
    "je 20f",
    "mana_shim_wait_again:",
    "add rsp, 8",
    "pop rax",
    "pop rdx",
    "pop rsi",
    "pop rdi",
    "pop r8",
    "pop r9",
    "pop r10",
    "pop rbx",
    "pop r12",
    "pop r13",
    "pop r14",
    "pop r15",
    "pop rbp",
    "movabs r11, {entry}",
    "jmp [r11]", // the site's number is on top of the stack, as the trampoline put it
    "20:",
    "mov qword ptr [rsp + {rax}], -4",
    "mov r11, [rsp + {target}]",
    "shl r11, {shift}",
    "movabs rcx, {behind}",
    "add r11, rcx",
    "mov [rsp + {target}], r11",
    "jmp 9b",
    "mana_shim_end:",
    ".popsection",
    rewound = const tb::REWOUND,
    by_kernel = const REWOUND_BY_KERNEL,
    restarting = const RESTARTING,
    nofs = const tb::NO_FSGSBASE,
    lower = const tb::LOWER_FS,
    upper = const tb::UPPER_FS,
    handlers = const HANDLERS,
    park = const CONTROL + offset_of!(ControlPage, park_entry),
    entry = const CONTROL + offset_of!(ControlPage, syscall_entry),
    wait_kind = const tb::WAIT_KIND,
    wait_id = const tb::WAIT_ID,
    wait_options = const tb::WAIT_OPTIONS,
    rax = const offset_of!(Frame, rax),
    target = const offset_of!(Frame, target),
    shift = const TRAMPOLINE_LEN.trailing_zeros(),
    behind = const TRAMPOLINES + TRAMPOLINE_TAIL + 2,
    notice = const CONTROL + offset_of!(ControlPage, notice_entry),
    depth = const tb::IN_LOWER,
);

extern "C" {
    static mana_shim_start: u8;
    static mana_shim_signal: u8;
    static mana_shim_park: u8;
    static mana_shim_notice: u8;
    static mana_shim_restorer: u8;
    static mana_shim_exit: u8;
    static mana_shim_wait: u8;
    static mana_shim_wait_call: u8;
    static mana_shim_wait_again: u8;
    static mana_shim_end: u8;
}

/// The bytes to copy to the arena.
pub fn code() -> &'static [u8] {
    let start = &raw const mana_shim_start;
    // SAFETY: both labels are in one section, `end` behind `start`.
    unsafe {
        let len = (&raw const mana_shim_end).offset_from(start) as usize;
        core::slice::from_raw_parts(start, len)
    }
}

fn at(label: *const u8) -> usize {
    crate::layout::SHIM_CODE + (label as usize - &raw const mana_shim_start as usize)
}

/// Address in the arena of the entry for the program's signal handlers.
pub fn signal() -> usize {
    at(&raw const mana_shim_signal)
}

/// Address in the arena of the park signal's entry.
pub fn park() -> usize {
    at(&raw const mana_shim_park)
}

/// Address in the arena of the entry of signals that are held back.
pub fn notice() -> usize {
    at(&raw const mana_shim_notice)
}

/// Address in the arena of `rt_sigreturn` (expects rsp at the ucontext).
pub fn restorer() -> usize {
    at(&raw const mana_shim_restorer)
}

/// Address in the arena of the end of a trapped system call (expects rsp at a frame).
pub fn exit() -> usize {
    at(&raw const mana_shim_exit)
}

/// Address in the arena of the wait for children (expects rsp at a frame whose target is the number
/// of its site).
pub fn wait() -> usize {
    at(&raw const mana_shim_wait)
}

/// Where a thread stands that waits for children: its call names a process of this run.
pub fn waiting() -> core::ops::Range<usize> {
    at(&raw const mana_shim_wait_call)..again()
}

/// Where such a thread goes on instead in another run: it looks for its children again.
pub fn again() -> usize {
    at(&raw const mana_shim_wait_again)
}
