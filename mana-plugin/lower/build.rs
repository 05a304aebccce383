//! Exports the functions of `src/raised.rs`, `src/addresses.rs` and `src/calls.rs` from the executable.

fn main() {
    for name in [
        "socket",
        "socketpair",
        "accept",
        "accept4",
        "epoll_create",
        "epoll_create1",
        "eventfd",
        "timerfd_create",
        "pipe",
        "pipe2",
        "shm_open",
        "mmap",
        "mmap64",
        "open",
        "open64",
        "close",
        "write",
        "writev",
        "pwrite",
        "pwrite64",
        "pwritev",
        "pwritev64",
        "ftruncate",
        "ftruncate64",
        "unlink",
        "aio_write",
        "aio_write64",
        "lio_listio",
    ] {
        println!("cargo:rustc-link-arg-bins=-Wl,--export-dynamic-symbol={name}");
    }
    println!("cargo:rerun-if-changed=build.rs");
}
