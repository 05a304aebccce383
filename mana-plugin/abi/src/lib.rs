//! The contract between the two halves: the MPI 5.0 standard ABI as Rust constants and types.
//!
//! Used by the stubs (upper half, no libc of ours), the core and the adapters (lower half), so it is
//! `no_std` and holds nothing but data. Handles are 64-bit words: below [`PREDEFINED_END`] they are
//! the standard's predefined handles; between stub and core all others are *virtual*
//! ([`handle`], [`kind`]), between core and adapter they are the library's own.
#![no_std]
#![warn(missing_docs)]
#![allow(
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    reason = "the names are the standard's"
)]

mod adapter;
mod callbacks;
mod constants;
mod datatypes;
mod handles;
mod status;
mod windows;

use core::ffi::{c_char, c_void};

pub use adapter::{
    AdapterTable, Extras, Family, OpFunction, ADAPTER_MAGIC, ADAPTER_SYMBOL, ADAPTER_VERSION,
};
pub use callbacks::{
    CopyCall, DeleteCall, RegisterStub, StubEntries, LARGE_FUNCTION, STUB_MAGIC, STUB_VERSION,
};
pub use constants::*;
pub use datatypes::{predefined_size, Predefined, PREDEFINED_DATATYPES};
pub use handles::{
    handle, index_of, keyval, keyval_index, kind, kind_of, FIRST_INDEX, KEYVAL_BASE, PREDEFINED_END,
};
pub use status::Status;
pub use windows::{SharedMemory, SharedPart};

/// Codes from here on stand for errors of which the library has said more than their class, which is their last byte. They have
/// the same number in every ABI (but for that byte), beyond the codes that programs add.
pub const EXPLAINED_CODES: i32 = 0x5000_0000;

include!(concat!(env!("OUT_DIR"), "/procedures.rs"));

/// Slot after the procedures: the stub hands over its callback entries ([`RegisterStub`]).
pub const REGISTER_STUB: usize = SLOT_COUNT;

/// Slots in all.
pub const ALL_SLOTS: usize = SLOT_COUNT + 1;
