//! Entries into the lower half from the arena's trampolines, and the ways back. Lower half.
//!
//! ```text
//!  upper stack                               lower stack (block.lower_rsp)
//!  | ... program      |                      | pthread start, saved context |
//!  | red zone, 128    |                      | XSAVE area                   |
//!  | site or target   |  Frame::target       | handler                      |
//!  | rbp ... rax      |
//!  | signal mask      |  <- Frame
//! ```
//! All signals are blocked while the handler runs, so it never nests on the lower stack.

use crate::layout::{
    thread_block as tb, ControlPage, ThreadBlock, CONTROL, TRAMPOLINES, TRAMPOLINE_TAIL,
};
use core::arch::naked_asm;
use core::mem::offset_of;

/// What a trapped system call leaves on the upper stack. `shim::exit` restores it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// Signal mask of the thread.
    pub mask: u64,
    /// Number, then result.
    pub rax: usize,
    /// Third argument.
    pub rdx: usize,
    /// Second argument.
    pub rsi: usize,
    /// First argument.
    pub rdi: usize,
    /// Fifth argument.
    pub r8: usize,
    /// Sixth argument.
    pub r9: usize,
    /// Fourth argument.
    pub r10: usize,
    /// Preserved, like the following.
    pub rbx: usize,
    /// Preserved.
    pub r12: usize,
    /// Preserved.
    pub r13: usize,
    /// Preserved.
    pub r14: usize,
    /// Preserved.
    pub r15: usize,
    /// Preserved.
    pub rbp: usize,
    /// On entry the site's number, on exit the address to go on at.
    pub target: usize,
}

/// Bytes between a frame's end and the stack pointer the program goes on with (its red zone).
pub const RED_ZONE: usize = 128;

/// Where trampolines enter. `ControlPage::syscall_entry` points here.
///
/// # Safety
/// Jumped to by a trampoline only, with the site's number on the stack.
#[unsafe(naked)]
pub unsafe extern "C" fn syscall_entry() {
    naked_asm!(
        "inc qword ptr gs:[{depth}]",
        "push rbp",
        "push r15",
        "push r14",
        "push r13",
        "push r12",
        "push rbx",
        "push r10",
        "push r9",
        "push r8",
        "push rdi",
        "push rsi",
        "push rdx",
        "push rax",
        "push -1", // the new mask, then the old one
        "mov edi, 2",
        "mov rsi, rsp",
        "mov rdx, rsp",
        "mov r10d, 8",
        "mov eax, 14",
        "syscall",
        "mov rbp, rsp",
        "mov rsp, gs:[{stack}]",
        "and rsp, -64",
        "sub rsp, 2816",
        // The kernel preserves all vector registers; so do we. The header must be zero but for
        // what XSAVE writes itself.
        "xor eax, eax",
        "mov [rsp + 512], rax",
        "mov [rsp + 520], rax",
        "mov [rsp + 528], rax",
        "mov [rsp + 536], rax",
        "mov [rsp + 544], rax",
        "mov [rsp + 552], rax",
        "mov [rsp + 560], rax",
        "mov [rsp + 568], rax",
        "mov eax, 0xe7", // x87, SSE, AVX, AVX-512
        "xor edx, edx",
        "xsave64 [rsp]",
        "mov rdi, rbp",
        "call gs:[{handler}]",
        "mov r11, rax",
        "mov eax, 0xe7",
        "xor edx, edx",
        "xrstor64 [rsp]",
        "mov rsp, rbp",
        "dec qword ptr gs:[{depth}]",
        "jmp r11",
        depth = const tb::IN_LOWER,
        stack = const tb::LOWER_RSP,
        handler = const tb::SYS_HANDLER,
    )
}

/// Where trampolines enter in a forked child, which has one thread and no lower half to speak of:
/// everything is the kernel's, but for calls that replace the program (still handled, to keep its
/// environment clean), `/proc/self/exe`, and the break, which cannot grow any more.
///
/// # Safety
/// As [`syscall_entry`].
#[unsafe(naked)]
pub unsafe extern "C" fn child_entry() {
    naked_asm!(
        "cmp eax, 59",
        "je {full}",
        "cmp eax, 322",
        "je {full}",
        "cmp eax, 89",
        "je {full}",
        "cmp eax, 267",
        "je {full}",
        "mov r11, [rsp]",
        "shl r11, 8",
        "movabs rcx, {tail}",
        "add r11, rcx",
        "lea rsp, [rsp + 136]",
        "cmp eax, 12",
        "je 2f",
        "jmp r11",
        "2:",
        "movabs rcx, {brk}",
        "mov rax, [rcx]",
        "add r11, 2",
        "jmp r11",
        full = sym syscall_entry,
        tail = const TRAMPOLINES + TRAMPOLINE_TAIL,
        brk = const CONTROL + offset_of!(ControlPage, brk),
    )
}

/// Calls `f(arg)` with this thread's callee-saved registers and stack pointer kept in
/// `block.lower_rsp`, so that [`leave_thread`] can return from here.
///
/// # Safety
/// `block` is this thread's, `f` does not return.
#[unsafe(naked)]
pub unsafe extern "C" fn call_keeping_context(
    block: *mut ThreadBlock,
    f: unsafe extern "C" fn(usize) -> !,
    arg: usize,
) {
    naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "sub rsp, 8",
        "mov [rdi + {stack}], rsp",
        "mov rdi, rdx",
        "call rsi",
        "ud2",
        stack = const tb::LOWER_RSP,
    )
}

/// Returns from the [`call_keeping_context`] of this thread. FS is the lower half's already.
///
/// # Safety
/// On the thread of `block`, which is inside [`call_keeping_context`].
#[unsafe(naked)]
pub unsafe extern "C" fn leave_thread(block: *mut ThreadBlock) -> ! {
    naked_asm!(
        "mov rsp, [rdi + {stack}]",
        "add rsp, 8",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
        stack = const tb::LOWER_RSP,
    )
}

/// Lowers `in_lower` and goes on at `target` in upper code with stack pointer `stack`. FS is the
/// upper half's already.
///
/// # Safety
/// `target` is `shim::exit` (with a [`Frame`] at `stack`), `shim::restorer` (with a ucontext) or the
/// entry of a program loader.
#[unsafe(naked)]
pub unsafe extern "C" fn go_upper(stack: usize, target: usize) -> ! {
    naked_asm!(
        "dec qword ptr gs:[{depth}]",
        "mov rsp, rdi",
        "mov r11, rsi",
        "xor eax, eax",
        "xor ebx, ebx",
        "xor ecx, ecx",
        "xor edx, edx",
        "xor ebp, ebp",
        "xor edi, edi",
        "xor esi, esi",
        "jmp r11",
        depth = const tb::IN_LOWER,
    )
}

/// Calls `f(arg)` on the stack that ends at `top`.
///
/// # Safety
/// `top` is aligned to 16 and the end of a stack large enough.
#[unsafe(naked)]
pub unsafe extern "C" fn call_on_stack(top: usize, f: unsafe extern "C" fn(usize), arg: usize) {
    naked_asm!(
        "push rbp",
        "mov rbp, rsp",
        "mov rsp, rdi",
        "mov rdi, rdx",
        "call rsi",
        "mov rsp, rbp",
        "pop rbp",
        "ret",
    )
}
