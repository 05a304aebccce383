//! Exports the functions of `src/raised.rs` and `src/addresses.rs` from the executable.

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
    ] {
        println!("cargo:rustc-link-arg-bins=-Wl,--export-dynamic-symbol={name}");
    }
    println!("cargo:rerun-if-changed=build.rs");
}
