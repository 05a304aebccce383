//! The program's memory and stack at a fixed address, and the switch to and from that stack.

use mana_raw::layout::ThreadBlock;
use std::arch::naked_asm;
use std::fs;
use std::io::{Read, Write};

pub const BASE: usize = 0x2000_0000_0000;
const LEN: usize = 48 << 20;
const STACK_TOP: usize = BASE + (1 << 20);

/// Head of the region.
#[repr(C)]
pub struct Head {
    pub block: ThreadBlock,
    /// Stack pointer of the interrupted program.
    pub sp: usize,
    /// Why `interrupt` returned: 1 in a restarted process.
    pub restarted: usize,
}

pub fn head() -> &'static mut Head {
    unsafe { &mut *(BASE as *mut Head) }
}

/// The program's own data, above its stack.
pub fn data<T>() -> &'static mut T {
    unsafe { &mut *((BASE + (1 << 20)) as *mut T) }
}

pub fn map() {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
    let at = unsafe {
        libc::mmap(
            BASE as *mut _,
            LEN,
            libc::PROT_READ | libc::PROT_WRITE,
            flags,
            -1,
            0,
        )
    };
    assert_eq!(at as usize, BASE, "region");
}

pub fn set_gs() {
    const ARCH_SET_GS: libc::c_long = 0x1001;
    let rc = unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_SET_GS, BASE) };
    assert_eq!(rc, 0, "arch_prctl");
}

pub fn save(dir: &str, rank: usize) {
    let bytes = unsafe { std::slice::from_raw_parts(BASE as *const u8, LEN) };
    let mut f = fs::File::create(format!("{dir}/region-{rank}")).expect("create");
    f.write_all(bytes).expect("write");
}

pub fn load(dir: &str, rank: usize) {
    let bytes = unsafe { std::slice::from_raw_parts_mut(BASE as *mut u8, LEN) };
    let mut f = fs::File::open(format!("{dir}/region-{rank}")).expect("open");
    f.read_exact(bytes).expect("read");
}

/// Runs `f` on the region's stack; it does not return.
pub fn start(f: extern "C" fn() -> !) -> ! {
    unsafe { switch(STACK_TOP - 64, f as usize) }
}

#[unsafe(naked)]
unsafe extern "C" fn switch(sp: usize, f: usize) -> ! {
    naked_asm!("mov rsp, rdi", "call rsi", "ud2")
}

/// Saves the registers on the stack and the stack pointer in the head, then calls `then` on the same
/// stack; a restarted process comes back from here too.
#[unsafe(naked)]
pub unsafe extern "C" fn interrupt(sp: *mut usize, then: extern "C" fn()) {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "sub rsp, 8",
        "mov [rdi], rsp",
        "call rsi",
        "add rsp, 8",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
    )
}

#[unsafe(naked)]
unsafe extern "C" fn back(sp: usize) -> ! {
    naked_asm!(
        "mov rsp, rdi",
        "add rsp, 8",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
    )
}

/// Goes on where the saved program was interrupted.
pub fn resume() -> ! {
    head().restarted = 1;
    unsafe { back(head().sp) }
}
