//! What the trapped system calls of the upper half do. Lower half: entered from a trampoline
//! through `mana_raw::entry`, on the thread's lower stack, all signals blocked.

use crate::arena::{self, Request};
use crate::book::book;
use crate::threads::{self, Thread};
use crate::tree::{self, numbers};
use crate::{children, signals};
use mana_raw::entry::Frame;
use mana_raw::layout::{TRAMPOLINES, TRAMPOLINE_LEN, TRAMPOLINE_TAIL};
use mana_raw::{base, shim, sys};
use std::ffi::CStr;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

/// How the program goes on.
pub enum Then {
    /// The call is done: this is its result.
    Result(isize),
    /// The kernel does it, in the arena, with the thread parkable.
    Native,
    /// The thread waits in the shim for a child, and calls again.
    Wait,
}

const EPERM: isize = -(libc::EPERM as isize);
const ENOSYS: isize = -(libc::ENOSYS as isize);

/// The kernel's number of this process. A child that shares or copied our memory has another.
static REAL_PID: AtomicI32 = AtomicI32::new(0);

/// The kernel's number of the caller.
pub fn kernel_pid() -> i32 {
    // SAFETY: no arguments.
    unsafe { sys::syscall(sys::GETPID, [0; 6]) as i32 }
}

/// Remembers this process's number.
pub fn remember_pid() {
    REAL_PID.store(kernel_pid(), Ordering::Relaxed);
}

/// Whether the caller is the process itself and not a child in its memory.
pub fn is_process() -> bool {
    REAL_PID.load(Ordering::Relaxed) == kernel_pid()
}

/// Whether the caller, which is not the process, is in its memory, and not in a copy that was forked of it.
pub fn borrows() -> bool {
    // SAFETY: mapped as long as the program.
    let entry = unsafe { crate::control::page() }.syscall_entry;
    entry != mana_raw::entry::child_entry as *const () as usize
}

/// The C entry: switches FS around [`dispatch`] and says where the shim goes on.
///
/// # Safety
/// Called by `entry::syscall_entry` only.
pub unsafe extern "C" fn handle(frame: *mut Frame) -> usize {
    // SAFETY: GS points to this thread's record; nothing here uses thread-local storage until FS
    // is the lower half's.
    let block = unsafe { base::block() };
    // SAFETY: as above; the program may have set FS itself (its loader does).
    let upper = unsafe { base::fs() };
    // SAFETY: this thread's block.
    let lower = unsafe {
        (*block).upper_fs = upper;
        (*block).lower_fs
    };
    // SAFETY: the lower thread's own thread control block.
    unsafe { base::set_fs(lower) };
    // SAFETY: the frame on the upper stack and this thread's record, which begins with the block.
    let next = unsafe { dispatch(&mut *frame, &*(block as *const Thread)) };
    // SAFETY: back to the program's.
    unsafe { base::set_fs(upper) };
    next
}

#[inline(never)]
fn dispatch(frame: &mut Frame, thread: &'static Thread) -> usize {
    let site = frame.target;
    let tail = TRAMPOLINES + site * TRAMPOLINE_LEN + TRAMPOLINE_TAIL;
    frame.target = tail + 2;
    match call(frame, thread) {
        Then::Result(result) => frame.rax = result as usize,
        Then::Native => frame.target = tail,
        Then::Wait => {
            frame.target = site;
            return shim::wait();
        }
    }
    shim::exit()
}

fn call(frame: &mut Frame, thread: &'static Thread) -> Then {
    match frame.rax {
        sys::MMAP => Then::Result(map(frame)),
        sys::MUNMAP => Then::Result(arena::unmap(frame.rdi, frame.rsi)),
        sys::MREMAP => Then::Result(arena::remap(
            frame.rdi, frame.rsi, frame.rdx, frame.r10, frame.r8,
        )),
        sys::MADVISE => {
            if matches!(
                frame.rdx as i32,
                libc::MADV_DONTFORK | libc::MADV_WIPEONFORK
            ) {
                crate::snapshot::note_unforkable();
            }
            Then::Native
        }
        sys::BRK => Then::Result(arena::set_break(frame.rdi) as isize),
        30 => Then::Result(attach_segment(frame)),
        sys::RT_SIGACTION => {
            if !is_process() {
                // SAFETY: as below.
                return unsafe { borrower_action(frame) };
            }
            // SAFETY: pointers of the program, checked by the kernel as for the real call.
            Then::Result(unsafe { signals::action(frame.rdi, frame.rsi, frame.rdx, frame.r10) })
        }
        sys::SET_TID_ADDRESS => {
            thread.tid_address.store(frame.rdi, Ordering::Relaxed);
            Then::Result(thread.id.load(Ordering::Relaxed) as isize)
        }
        sys::RSEQ => Then::Result(ENOSYS),
        sys::CLONE3 => clone3(frame),
        sys::CLONE => clone(frame, thread),
        sys::EXIT => {
            if !is_process() {
                return Then::Native;
            }
            threads::exit(thread, frame.rdi)
        }
        sys::EXIT_GROUP => {
            if is_process() {
                ending(frame.rdi as i32);
            }
            Then::Native
        }
        sys::EXECVE | sys::EXECVEAT => replace(frame, thread),
        sys::READLINK => read_own_path(frame.rdi, frame.rsi, frame.rdx),
        sys::READLINKAT => read_own_path(frame.rsi, frame.rdx, frame.r10),
        sys::GETPID if is_process() => {
            // SAFETY: an atomic of the book.
            Then::Result(unsafe { book() }.pid.load(Ordering::Relaxed) as isize)
        }
        sys::GETTID if is_process() => Then::Result(thread.id.load(Ordering::Relaxed) as isize),
        sys::KILL | 129 => {
            let target = real_pid(frame.rdi);
            numbers::sends(target as i32, frame.rsi as i32);
            translated(frame, [target, frame.rsi])
        }
        sys::TKILL => translated(frame, [real_tid(frame.rdi), frame.rsi]),
        sys::TGKILL | sys::RT_TGSIGQUEUEINFO => {
            translated(frame, [real_pid(frame.rdi), real_tid(frame.rsi)])
        }
        142..=145 | 203 | 204 => translated(frame, [real_tid(frame.rdi), frame.rsi]),
        sys::TIMER_CREATE => timer_create(frame),
        _ => numbers::call(frame, thread).unwrap_or(Then::Native),
    }
}

/// `rt_sigaction` of a child that is not the process. One that borrows its memory makes all handlers default before it
/// executes a program, which does that anyway: what may be held back is, until then.
///
/// # Safety
/// The pointers are the program's.
unsafe fn borrower_action(frame: &Frame) -> Then {
    let keeps = tree::own().is_some() && borrows() && crate::notice::may_hold(frame.rdi as i32);
    // SAFETY: the program's structure, whose first word is the handler.
    if !keeps || frame.rsi == 0 || unsafe { *(frame.rsi as *const usize) } != libc::SIG_DFL {
        return Then::Native;
    }
    // SAFETY: the program's call, with a look at the old action only.
    Then::Result(unsafe { sys::syscall(frame.rax, [frame.rdi, 0, frame.rdx, frame.r10, 0, 0]) })
}

/// Makes a call here with the kernel's numbers in place of the program's, its first two arguments: a
/// park between the translation and the call would keep numbers that mean nothing after a restart. None of
/// these calls waits; a signal it sends to this thread is delivered on the way out.
fn translated(frame: &Frame, first: [usize; 2]) -> Then {
    let [a, b] = first;
    // SAFETY: the program's call; only numbers of processes and threads differ.
    Then::Result(unsafe {
        sys::syscall(frame.rax, [a, b, frame.rdx, frame.r10, frame.r8, frame.r9])
    })
}

/// The kernel's number for a process the program names.
fn real_pid(pid: usize) -> usize {
    // SAFETY: an atomic of the book.
    let known = unsafe { book() }.pid.load(Ordering::Relaxed);
    if pid as i32 == known && is_process() {
        REAL_PID.load(Ordering::Relaxed) as usize
    } else {
        numbers::real_target(pid as i32) as isize as usize
    }
}

/// The kernel's number for a thread the program names.
fn real_tid(tid: usize) -> usize {
    threads::kernel_tid(tid as i32).map_or(tid, |t| t as usize)
}

fn map(frame: &Frame) -> isize {
    let request = Request {
        address: frame.rdi,
        len: frame.rsi,
        prot: frame.rdx,
        flags: frame.r10,
        fd: frame.r8,
        offset: frame.r9,
    };
    if request.flags & libc::MAP_HUGETLB as usize != 0 {
        crate::snapshot::note_unforkable();
    }
    let result = arena::map(&request);
    let code = request.prot & libc::PROT_EXEC as usize != 0
        && request.flags & (libc::MAP_ANONYMOUS | libc::MAP_SHARED) as usize == 0;
    if result > 0 && code {
        // SAFETY: just mapped, private, and known to nobody else yet. Pages behind the end of the
        // file would fault: the file's length bounds the look.
        unsafe {
            let len = file_len_in(request.fd, request.offset, request.len);
            let patched = crate::patch::code(result as usize, len, request.prot as i32);
            if !patched.missing.is_empty() && is_c_library(request.fd) {
                // The program has not run yet; it must not, half under control.
                eprintln!(
                    "mana: the program's C library is not supported: its system calls {} were not found",
                    patched.missing.join(", ")
                );
                libc::_exit(99);
            }
        }
    }
    result
}

/// Whether a file of the program is its C library.
fn is_c_library(fd: usize) -> bool {
    let path = format!("/proc/self/fd/{}", fd as i32);
    crate::elf::Elf::read(std::path::Path::new(&path))
        .is_ok_and(|(_, elf)| elf.is_ok_and(|elf| elf.is_c_library()))
}

/// How many bytes of a mapping are backed by its file.
fn file_len_in(fd: usize, offset: usize, len: usize) -> usize {
    // SAFETY: a plain structure the kernel fills.
    let size = unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        if libc::fstat(fd as i32, &mut stat) != 0 {
            return 0;
        }
        stat.st_size as usize
    };
    len.min(size.saturating_sub(offset))
}

fn attach_segment(frame: &Frame) -> isize {
    let attach = |address: usize| -> isize {
        // SAFETY: the program's request; the address is free or its own choice.
        unsafe { sys::syscall(30, [frame.rdi, address, frame.rdx, 0, 0, 0]) }
    };
    if frame.rsi != 0 {
        return attach(frame.rsi);
    }
    // SAFETY: a plain structure the kernel fills.
    let size = unsafe {
        let mut info: libc::shmid_ds = std::mem::zeroed();
        if libc::shmctl(frame.rdi as i32, libc::IPC_STAT, &mut info) != 0 {
            return -arena::errno();
        }
        info.shm_segsz
    };
    // A taken place answers EINVAL here; bounded, since another reason for it may stay.
    for _ in 0..64 {
        let result = arena::place(false, arena::pages(size), 4096, attach);
        if result != -(libc::EINVAL as isize) {
            return result;
        }
    }
    -(libc::EINVAL as isize)
}

const CLONE_VM: usize = 0x100;
const CLONE_PARENT_SETTID: usize = 0x10_0000;
const CLONE_CHILD_CLEARTID: usize = 0x20_0000;
const CLONE_SETTLS: usize = 0x8_0000;
const CLONE_THREAD: usize = 0x1_0000;
const CLONE_CHILD_SETTID: usize = 0x100_0000;

struct NewThread {
    flags: usize,
    stack: usize,
    parent_tid: usize,
    child_tid: usize,
    fs: usize,
}

fn new_thread(frame: &Frame, new: &NewThread) -> isize {
    if new.flags & CLONE_SETTLS == 0 || new.stack == 0 {
        return -(libc::EINVAL as isize);
    }
    let thread = threads::record();
    let clear = if new.flags & CLONE_CHILD_CLEARTID != 0 {
        new.child_tid
    } else {
        0
    };
    thread.tid_address.store(clear, Ordering::Relaxed);
    // SAFETY: the stack the program gave for the new thread.
    let stack = unsafe { threads::child_frame(frame, new.stack) };
    let begin = threads::Begin {
        fs: new.fs,
        stack,
        target: threads::exit_target(),
    };
    if let Err(error) = threads::spawn(thread, &begin) {
        return -(error as isize);
    }
    let id = thread.id.load(Ordering::Relaxed);
    for (flag, word) in [
        (CLONE_PARENT_SETTID, new.parent_tid),
        (CLONE_CHILD_SETTID, new.child_tid),
    ] {
        if new.flags & flag != 0 {
            // SAFETY: the word the program gave for the number.
            unsafe { (word as *mut i32).write_volatile(id) };
        }
    }
    threads::release(thread);
    id as isize
}

fn clone3(frame: &Frame) -> Then {
    const WORDS: usize = 8;
    if frame.rsi < WORDS * 8 || !is_process() {
        return Then::Result(ENOSYS);
    }
    // SAFETY: the structure the program passes, at least this long.
    let a = unsafe { std::ptr::read_unaligned(frame.rdi as *const [usize; WORDS]) };
    let [flags, _pidfd, child_tid, parent_tid, _signal, stack, stack_len, fs] = a;
    if flags & CLONE_THREAD == 0 {
        // The C library falls back to clone, which is handled.
        return Then::Result(ENOSYS);
    }
    Then::Result(new_thread(
        frame,
        &NewThread {
            flags,
            stack: stack + stack_len,
            parent_tid,
            child_tid,
            fs,
        },
    ))
}

fn clone(frame: &Frame, thread: &'static Thread) -> Then {
    let flags = frame.rdi;
    if flags & CLONE_THREAD != 0 {
        if !is_process() {
            return Then::Result(EPERM);
        }
        let new = NewThread {
            flags,
            stack: frame.rsi,
            parent_tid: frame.rdx,
            child_tid: frame.r10,
            fs: frame.r8,
        };
        return Then::Result(new_thread(frame, &new));
    }
    if flags & CLONE_VM != 0 || frame.rsi != 0 {
        return Then::Native; // posix_spawn, vfork: the parent waits in the arena
    }
    if tree::fork::is_plain_fork(flags) && is_process() {
        if let Some(result) = tree::fork::fork(frame, thread) {
            return Then::Result(result);
        }
    }
    // fork: made here, so that the child can lose its ties to the lower half before it runs.
    // SAFETY: as the program's own call; the child has a copy of this stack.
    let result = unsafe {
        sys::syscall(
            sys::CLONE,
            [flags, 0, frame.rdx, frame.r10, frame.r8, frame.r9],
        )
    };
    if result == 0 {
        // SAFETY: the child's own copy of the control page; it has one thread.
        unsafe { crate::control::page() }.syscall_entry =
            mana_raw::entry::child_entry as *const () as usize;
    } else if result > 0 {
        children::forked(result as i32);
    }
    Then::Result(result)
}

/// The program has called for its end.
static ENDING: AtomicBool = AtomicBool::new(false);

/// Whether it has: its threads will not come out of the lower half any more.
pub fn is_ending() -> bool {
    ENDING.load(Ordering::SeqCst)
}

/// In a forked child: its parent's end is not its own.
pub fn forget_ending() {
    ENDING.store(false, Ordering::SeqCst);
}

/// The program ends: tells the glue, once; other threads that end it meanwhile wait.
fn ending(code: i32) {
    if ENDING.swap(true, Ordering::SeqCst) {
        loop {
            sys::nap(100_000_000);
        }
    }
    if let Some(on_exit) = crate::start::hooks().on_exit {
        on_exit(code & 0xff);
    }
}

fn replace(frame: &Frame, thread: &'static Thread) -> Then {
    if tree::table().is_some() {
        if let Some(error) = tree::execute::execute(frame, thread) {
            return Then::Result(error);
        }
    }
    if !is_process() {
        return Then::Native;
    }
    let on_execve = crate::start::hooks().on_execve;
    if let Some(on_execve) = on_execve.filter(|_| frame.rax == sys::EXECVE && frame.rdi != 0) {
        // SAFETY: the program's path; a wild pointer would fault, as in its own strlen.
        let path = unsafe { CStr::from_ptr(frame.rdi as *const libc::c_char) };
        if let Err(error) = on_execve(
            path,
            frame.rsi as *const *const libc::c_char,
            frame.rdx as *const *const libc::c_char,
        ) {
            return Then::Result(-(error as isize));
        }
    }
    let call = [frame.rdi, frame.rsi, frame.rdx, frame.r10, frame.r8, 0];
    Then::Result(tree::execute::leave(thread, frame.mask, frame.rax, call, 0))
}

/// `/proc/self/exe` is the launcher; the program means itself.
fn read_own_path(path: usize, buffer: usize, len: usize) -> Then {
    if path == 0 {
        return Then::Native;
    }
    // SAFETY: the program's path; bounded by its terminator.
    let name = unsafe { CStr::from_ptr(path as *const libc::c_char) }.to_bytes();
    let own = name == b"/proc/self/exe" || name == b"/proc/thread-self/exe" || {
        // SAFETY: an atomic of the book.
        let pid = unsafe { book() }.pid.load(Ordering::Relaxed);
        name.strip_prefix(b"/proc/")
            .and_then(|n| n.strip_suffix(b"/exe"))
            .and_then(|n| std::str::from_utf8(n).ok()?.parse::<i32>().ok())
            == Some(pid)
    };
    // SAFETY: written at start only.
    let book = unsafe { book() };
    if !own || book.exe_len == 0 || buffer == 0 {
        return Then::Native;
    }
    let n = book.exe_len.min(len);
    // SAFETY: the program's buffer of `len` bytes.
    unsafe { std::ptr::copy_nonoverlapping(book.exe.as_ptr(), buffer as *mut u8, n) };
    Then::Result(n as isize)
}

fn timer_create(frame: &Frame) -> Then {
    const SIGEV_THREAD_ID: i32 = 4;
    if frame.rsi == 0 {
        return Then::Native;
    }
    // SAFETY: `struct sigevent` of the program: value, number, way, thread; 64 bytes.
    let mut event = unsafe { std::ptr::read_unaligned(frame.rsi as *const [i32; 16]) };
    if event[3] != SIGEV_THREAD_ID {
        return Then::Native;
    }
    event[4] = real_tid(event[4] as usize) as i32;
    // SAFETY: the kernel reads the copy and writes the program's id word.
    Then::Result(unsafe {
        sys::syscall(
            sys::TIMER_CREATE,
            [frame.rdi, event.as_ptr() as usize, frame.rdx, 0, 0, 0],
        )
    })
}
