//! Exports the functions of `src/raised.rs` from the executable.

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
    ] {
        println!("cargo:rustc-link-arg-bins=-Wl,--export-dynamic-symbol={name}");
    }
    println!("cargo:rerun-if-changed=build.rs");
}
