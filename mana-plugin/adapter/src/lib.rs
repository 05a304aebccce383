//! The standard ABI in front of one site's MPI library.
//!
//! Built once for each MPI (`MPICC` names its compiler), loaded by the lower half, which asks
//! `mana_adapter_v1` for the table. The entries are generated from the procedure table; `translate`
//! has one function for each kind of value; `watch` the waits that can be interrupted; `optional` finds what
//! not every library has.
#![allow(
    non_snake_case,
    non_upper_case_globals,
    reason = "the names are the standard's"
)]

mod by_hand;
mod library;
mod operations;
mod optional;
mod translate;
mod watch;

use mpi::ffi;
use mpi_std::{AdapterTable, Extras, ADAPTER_MAGIC, ADAPTER_VERSION, SLOT_COUNT};

mod entries {
    //! Generated from the table.
    use core::ffi::{c_char, c_void};

    use mpi::ffi;
    use mpi_std::Status;

    use crate::translate as t;

    include!(concat!(env!("OUT_DIR"), "/entries.rs"));
}

static TABLE: AdapterTable = AdapterTable {
    magic: ADAPTER_MAGIC,
    version: ADAPTER_VERSION,
    size: core::mem::size_of::<AdapterTable>() as u32,
    family: library::FAMILY,
    slots: SLOT_COUNT as u32,
    library: library::NAME.as_ptr(),
    procs: entries::PROCS,
    extras: Extras {
        wait_watch: watch::wait,
        waitall_watch: watch::waitall,
        send_watch: watch::send,
        recv_watch: watch::recv,
        error_string: by_hand::error_text,
        last_error: by_hand::last_error,
        error_code: by_hand::error_code,
        no_object: by_hand::no_object,
        tool_error: by_hand::tool_error,
        progress: watch::progress,
        op_create: operations::create,
        has: optional::has,
    },
};

/// The adapter's only entry.
#[no_mangle]
pub extern "C" fn mana_adapter_v1() -> *const AdapterTable {
    &TABLE
}
