//! The upper half's `libmpi.so.40`: Open MPI's ABI in front of the slots.
//!
//! Linked as a static library into a shared one (see `../README.md`); runs under the program's libc.
//! No panics, no thread-local storage, no heap but the program's for long arrays.
#![no_std]
#![allow(
    non_snake_case,
    non_upper_case_globals,
    reason = "the names are the ABI's"
)]

mod abi;
mod fortran;
mod fortran_functions;
mod languages;
mod objects;

#[path = "../../src/attributes.rs"]
mod attributes;
#[path = "../../src/callbacks.rs"]
mod callbacks;
#[path = "../../src/events.rs"]
mod events;
#[path = "../../src/fresh.rs"]
mod fresh;
#[path = "../../src/grequests.rs"]
mod grequests;
#[path = "../../src/local.rs"]
mod local;
#[path = "../../src/queries.rs"]
mod queries;
#[path = "../../src/sessions.rs"]
mod sessions;
#[path = "../../src/table.rs"]
mod table;
#[path = "../../src/translate.rs"]
mod translate;
#[path = "../../src/unsupported.rs"]
mod unsupported;
#[path = "../../src/windows.rs"]
mod windows;

mod exports {
    //! Generated from the table.
    #![allow(
        clippy::undocumented_unsafe_blocks,
        unused_unsafe,
        dead_code,
        reason = "generated; the generator states the reason once for all"
    )]
    use core::ffi::{c_char, c_void};

    use mpi_std::Status;

    use crate::translate as t;

    include!(concat!(env!("OUT_DIR"), "/exports.rs"));
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // Nothing here panics; were it otherwise, the program must not go on.
    loop {
        core::hint::spin_loop();
    }
}
