//! Descriptors that the MPI library opens later than in `MPI_Init` (a connection to another node at
//! the first message, say) get numbers above the program's as well.
//!
//! These functions are exported from the executable, so that the lower half's libraries find them
//! before those of the C library. The upper half has a C library of its own and never sees them.
//! Numbers are raised by duplicating; where that fails the low number stays, which costs a warning
//! at the next checkpoint and nothing else.

use std::ffi::{c_char, c_int, c_uint, c_void};

use split_process::LOWER_FD_BASE;

/// Gives a new descriptor a high number, keeping its close-on-exec flag.
pub fn raise(fd: c_int) -> c_int {
    if !(3..LOWER_FD_BASE).contains(&fd) {
        return fd;
    }
    // SAFETY: the descriptor was just made and nobody else knows its number.
    unsafe {
        let errno = *libc::__errno_location();
        let flags = libc::fcntl(fd, libc::F_GETFD);
        let how = if flags & libc::FD_CLOEXEC != 0 {
            libc::F_DUPFD_CLOEXEC
        } else {
            libc::F_DUPFD
        };
        let high = libc::fcntl(fd, how, LOWER_FD_BASE);
        if high < 0 {
            *libc::__errno_location() = errno;
            return fd;
        }
        libc::syscall(libc::SYS_close, fd);
        high
    }
}

/// Makes the call and raises what it returns.
macro_rules! call {
    ($number:expr $(, $argument:expr)*) => {{
        // SAFETY: the caller's arguments, passed on to the system call of the same name.
        let result = unsafe { libc::syscall($number $(, $argument)*) };
        raise(result as c_int)
    }};
}

/// Raises both ends that a successful call has made.
fn raise_pair(result: c_int, ends: *mut c_int) -> c_int {
    if result == 0 {
        for i in 0..2 {
            // SAFETY: the call succeeded, so both elements were written.
            unsafe { *ends.add(i) = raise(*ends.add(i)) };
        }
    }
    result
}

/// socket(2)
#[no_mangle]
extern "C" fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int {
    call!(libc::SYS_socket, domain, kind, protocol)
}

/// socketpair(2)
#[no_mangle]
extern "C" fn socketpair(domain: c_int, kind: c_int, protocol: c_int, ends: *mut c_int) -> c_int {
    // SAFETY: the caller's arguments.
    let result = unsafe { libc::syscall(libc::SYS_socketpair, domain, kind, protocol, ends) };
    raise_pair(result as c_int, ends)
}

/// accept(2)
#[no_mangle]
extern "C" fn accept(fd: c_int, address: *mut c_void, len: *mut c_uint) -> c_int {
    accept4(fd, address, len, 0)
}

/// accept4(2)
#[no_mangle]
extern "C" fn accept4(fd: c_int, address: *mut c_void, len: *mut c_uint, flags: c_int) -> c_int {
    call!(libc::SYS_accept4, fd, address, len, flags)
}

/// epoll_create(2)
#[no_mangle]
extern "C" fn epoll_create(size: c_int) -> c_int {
    call!(libc::SYS_epoll_create, size)
}

/// epoll_create1(2)
#[no_mangle]
extern "C" fn epoll_create1(flags: c_int) -> c_int {
    call!(libc::SYS_epoll_create1, flags)
}

/// eventfd(2)
#[no_mangle]
extern "C" fn eventfd(initial: c_uint, flags: c_int) -> c_int {
    call!(libc::SYS_eventfd2, initial, flags)
}

/// timerfd_create(2)
#[no_mangle]
extern "C" fn timerfd_create(clock: c_int, flags: c_int) -> c_int {
    call!(libc::SYS_timerfd_create, clock, flags)
}

/// pipe(2)
#[no_mangle]
extern "C" fn pipe(ends: *mut c_int) -> c_int {
    pipe2(ends, 0)
}

/// pipe2(2)
#[no_mangle]
extern "C" fn pipe2(ends: *mut c_int, flags: c_int) -> c_int {
    // SAFETY: the caller's arguments.
    let result = unsafe { libc::syscall(libc::SYS_pipe2, ends, flags) };
    raise_pair(result as c_int, ends)
}

/// shm_open(3): Linux's, a file in /dev/shm.
#[no_mangle]
unsafe extern "C" fn shm_open(name: *const c_char, flags: c_int, mode: libc::mode_t) -> c_int {
    use std::os::unix::ffi::OsStrExt as _;
    // SAFETY: the caller's string.
    let name = unsafe { std::ffi::CStr::from_ptr(name) }.to_bytes();
    let bare = name.strip_prefix(b"/").unwrap_or(name);
    let path = std::path::Path::new("/dev/shm").join(std::ffi::OsStr::from_bytes(bare));
    if bare.is_empty() || bare.contains(&b'/') || bare.len() > 255 {
        // SAFETY: this thread's errno.
        unsafe { *libc::__errno_location() = libc::EINVAL };
        return -1;
    }
    let Ok(path) = std::ffi::CString::new(path.as_os_str().as_bytes()) else {
        return -1;
    };
    let flags = flags | libc::O_CLOEXEC | libc::O_NOFOLLOW | libc::O_NONBLOCK;
    call!(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags, mode)
}
