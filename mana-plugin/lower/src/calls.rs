//! The MPI library's calls to the C library that change files, on their way to the kernel.
//!
//! Exported from the executable like those of `raised`. What is no file of the program costs one look at
//! a bit.

use std::ffi::{c_char, c_int, c_uint, c_void, CStr};
use std::sync::OnceLock;

use mana_journal::{Journal, Opening};

use crate::raised::raise;

/// What is known of the program's files.
pub static JOURNAL: Journal = Journal::new();

fn open_file(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    let flags_wide = flags | libc::O_LARGEFILE;
    // SAFETY: the caller's arguments.
    let call = || unsafe {
        libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, flags_wide, mode) as c_int
    };
    if !JOURNAL.any() || path.is_null() {
        return call();
    }
    // SAFETY: the caller's string.
    let opening = JOURNAL.opening(unsafe { CStr::from_ptr(path) }, flags);
    let fd = call();
    if fd < 0 {
        // SAFETY: this thread's own.
        let error = unsafe { *libc::__errno_location() };
        JOURNAL.not_opened(opening);
        // SAFETY: this thread's own; what it says is the kernel's answer to the caller.
        unsafe { *libc::__errno_location() = error };
        return fd;
    }
    let fd = match opening {
        Opening::Other => return fd,
        _ => raise(fd),
    };
    JOURNAL.opened(opening, fd, flags);
    fd
}

/// open(2)
#[no_mangle]
extern "C" fn open(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    open_file(path, flags, mode)
}

/// open(2)
#[no_mangle]
extern "C" fn open64(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    open_file(path, flags, mode)
}

/// close(2)
#[no_mangle]
extern "C" fn close(fd: c_int) -> c_int {
    if JOURNAL.is_watched(fd) {
        JOURNAL.closing(fd);
    }
    // SAFETY: the caller's descriptor.
    unsafe { libc::syscall(libc::SYS_close, fd) as c_int }
}

/// write(2)
#[no_mangle]
extern "C" fn write(fd: c_int, bytes: *const c_void, len: usize) -> isize {
    if JOURNAL.is_watched(fd) {
        JOURNAL.before_write(fd, None, len as u64);
    }
    // SAFETY: the caller's arguments.
    unsafe { libc::syscall(libc::SYS_write, fd, bytes, len) as isize }
}

/// Bytes of a vector.
///
/// # Safety
/// `parts` has `count` elements.
unsafe fn total(parts: *const libc::iovec, count: c_int) -> u64 {
    (0..usize::try_from(count).unwrap_or(0))
        // SAFETY: the caller's promise.
        .map(|i| unsafe { (*parts.add(i)).iov_len } as u64)
        .sum()
}

/// writev(2)
#[no_mangle]
extern "C" fn writev(fd: c_int, parts: *const libc::iovec, count: c_int) -> isize {
    if JOURNAL.is_watched(fd) {
        // SAFETY: the caller's vector.
        JOURNAL.before_write(fd, None, unsafe { total(parts, count) });
    }
    // SAFETY: the caller's arguments.
    unsafe { libc::syscall(libc::SYS_writev, fd, parts, count) as isize }
}

fn write_at(fd: c_int, bytes: *const c_void, len: usize, offset: i64) -> isize {
    if JOURNAL.is_watched(fd) {
        JOURNAL.before_write(fd, Some(offset), len as u64);
    }
    // SAFETY: the caller's arguments.
    unsafe { libc::syscall(libc::SYS_pwrite64, fd, bytes, len, offset) as isize }
}

/// pwrite(2)
#[no_mangle]
extern "C" fn pwrite(fd: c_int, bytes: *const c_void, len: usize, offset: i64) -> isize {
    write_at(fd, bytes, len, offset)
}

/// pwrite(2)
#[no_mangle]
extern "C" fn pwrite64(fd: c_int, bytes: *const c_void, len: usize, offset: i64) -> isize {
    write_at(fd, bytes, len, offset)
}

fn write_vector_at(fd: c_int, parts: *const libc::iovec, count: c_int, offset: i64) -> isize {
    if JOURNAL.is_watched(fd) {
        // SAFETY: the caller's vector.
        JOURNAL.before_write(fd, Some(offset), unsafe { total(parts, count) });
    }
    // SAFETY: the caller's arguments; the upper half of the offset is of no use on 64 bits.
    unsafe { libc::syscall(libc::SYS_pwritev, fd, parts, count, offset, 0) as isize }
}

/// pwritev(2)
#[no_mangle]
extern "C" fn pwritev(fd: c_int, parts: *const libc::iovec, count: c_int, offset: i64) -> isize {
    write_vector_at(fd, parts, count, offset)
}

/// pwritev(2)
#[no_mangle]
extern "C" fn pwritev64(fd: c_int, parts: *const libc::iovec, count: c_int, offset: i64) -> isize {
    write_vector_at(fd, parts, count, offset)
}

fn truncate_file(fd: c_int, len: i64) -> c_int {
    if JOURNAL.is_watched(fd) {
        JOURNAL.before_truncate(fd, len);
    }
    // SAFETY: the caller's arguments.
    unsafe { libc::syscall(libc::SYS_ftruncate, fd, len) as c_int }
}

/// ftruncate(2)
#[no_mangle]
extern "C" fn ftruncate(fd: c_int, len: i64) -> c_int {
    truncate_file(fd, len)
}

/// ftruncate(2)
#[no_mangle]
extern "C" fn ftruncate64(fd: c_int, len: i64) -> c_int {
    truncate_file(fd, len)
}

/// unlink(2)
#[no_mangle]
extern "C" fn unlink(path: *const c_char) -> c_int {
    if JOURNAL.any() && !path.is_null() {
        // SAFETY: the caller's string.
        JOURNAL.before_unlink(unsafe { CStr::from_ptr(path) });
    }
    // SAFETY: the caller's string.
    let done = unsafe { libc::syscall(libc::SYS_unlink, path) as c_int };
    if done == 0 && JOURNAL.any() {
        // SAFETY: the caller's string, which the kernel has read.
        JOURNAL.unlinked(unsafe { CStr::from_ptr(path) });
    }
    done
}

/// A function of the C library that comes after this executable's.
fn next(name: &CStr) -> usize {
    // SAFETY: strings with their ends.
    unsafe {
        let found = libc::dlsym(libc::RTLD_NEXT, name.as_ptr());
        if !found.is_null() {
            return found as usize;
        }
        // Before glibc 2.34 it was in a library of its own.
        let library = libc::dlopen(c"librt.so.1".as_ptr(), libc::RTLD_NOW);
        match library.is_null() {
            true => 0,
            false => libc::dlsym(library, name.as_ptr()) as usize,
        }
    }
}

/// The pre-image of what is queued is saved before it is.
///
/// # Safety
/// `block` is the caller's.
unsafe fn queued(block: *const libc::aiocb) {
    // SAFETY: the caller's promise.
    let (fd, offset, len) = unsafe {
        (
            (*block).aio_fildes,
            (*block).aio_offset,
            (*block).aio_nbytes,
        )
    };
    if JOURNAL.is_watched(fd) {
        JOURNAL.before_write(fd, Some(offset), len as u64);
    }
}

fn write_queued(block: *mut libc::aiocb) -> c_int {
    type Call = unsafe extern "C" fn(*mut libc::aiocb) -> c_int;
    static NEXT: OnceLock<usize> = OnceLock::new();
    // SAFETY: the caller's block.
    unsafe { queued(block) };
    let next = *NEXT.get_or_init(|| next(c"aio_write"));
    if next == 0 {
        // SAFETY: this thread's errno.
        unsafe { *libc::__errno_location() = libc::ENOSYS };
        return -1;
    }
    // SAFETY: the C library's function of that name, and the caller's block.
    unsafe { std::mem::transmute::<usize, Call>(next)(block) }
}

/// aio_write(3)
#[no_mangle]
extern "C" fn aio_write(block: *mut libc::aiocb) -> c_int {
    write_queued(block)
}

/// aio_write(3)
#[no_mangle]
extern "C" fn aio_write64(block: *mut libc::aiocb) -> c_int {
    write_queued(block)
}

/// lio_listio(3)
#[no_mangle]
extern "C" fn lio_listio(
    mode: c_int,
    list: *const *mut libc::aiocb,
    count: c_int,
    event: *mut libc::sigevent,
) -> c_int {
    type Call =
        unsafe extern "C" fn(c_int, *const *mut libc::aiocb, c_int, *mut libc::sigevent) -> c_int;
    static NEXT: OnceLock<usize> = OnceLock::new();
    for i in 0..usize::try_from(count).unwrap_or(0) {
        // SAFETY: the caller's array.
        let block = unsafe { *list.add(i) };
        // SAFETY: a block of the caller's.
        if !block.is_null() && unsafe { (*block).aio_lio_opcode } == libc::LIO_WRITE {
            // SAFETY: as above.
            unsafe { queued(block) };
        }
    }
    let next = *NEXT.get_or_init(|| next(c"lio_listio"));
    if next == 0 {
        // SAFETY: this thread's errno.
        unsafe { *libc::__errno_location() = libc::ENOSYS };
        return -1;
    }
    // SAFETY: the C library's function of that name, and the caller's arguments.
    unsafe { std::mem::transmute::<usize, Call>(next)(mode, list, count, event) }
}
