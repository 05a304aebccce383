//! The MPI layer: virtual handles, point-to-point accounting, gates before collectives, drain and
//! rebuild. It lives in the lower half (ordinary Rust), between the stub (upper half, which has
//! already translated the program's ABI to the standard one) and the adapter (which translates the
//! standard ABI to the site's MPI).
//!
//! Life of it: [`install`] once at start-up; the program's calls come in through the returned slots;
//! a checkpoint is driven through [`checkpoint`]; a restart calls [`install`], then
//! [`checkpoint::rebuild`] before the upper half runs.
#![warn(missing_docs)]
#![allow(non_snake_case, reason = "procedures have the standard's names")]
#![allow(
    clippy::missing_safety_doc,
    clippy::too_many_arguments,
    reason = "entries have the standard's contracts and parameters"
)]
#![allow(
    clippy::multiple_unsafe_ops_per_block,
    reason = "a call of a real procedure counts as two"
)]

mod attributes;
mod buffers;
mod cache;
pub mod checkpoint;
mod collectives;
mod comms;
mod darray;
mod datatypes;
mod deliveries;
mod drained;
mod dynamic;
mod entry;
mod errors;
mod events;
mod explanations;
mod failed;
mod failures;
mod farewells;
mod files;
mod gate;
mod gathering;
mod generated;
mod grequest;
mod group;
mod groups;
mod hooks;
mod info;
mod inter;
mod large;
mod large_arrays;
mod large_darray;
mod large_reductions;
mod large_types;
mod library;
mod life;
mod lock;
mod mail;
mod memory;
mod ops;
mod p2p;
mod partitioned;
mod persistent;
mod pool;
mod probe;
mod ready;
mod requests;
mod sendrecv;
mod sessions;
mod several;
mod slab;
mod state;
mod synchronous;
mod thread;
mod tool;
mod topologies;
mod upcall;
mod whereabouts;
mod windows;
mod world;

pub use cache::enable as enable_comm_cache;
pub use gathering::{gather, Gathered, Gatherer, Missing, Offer, FIRST_WORD};
pub use hooks::{Go, Initialized, MpiHooks};
pub use world::{world_collective, WorldCollective};

use mpi_std::{AdapterTable, ALL_SLOTS, REGISTER_STUB, SLOT_COUNT};
use std::sync::OnceLock;

/// Puts the layer between a stub and an adapter. Returns the values of the slots, in slot order
/// ([`mpi_std::ALL_SLOTS`] of them), to be published at `PROC_SLOTS`. Once per process; a second call
/// returns the same slots and changes nothing. Call [`enable_comm_cache`] before it where the control
/// page is mapped.
pub fn install(adapter: &'static AdapterTable, hooks: &'static dyn MpiHooks) -> &'static [usize] {
    static SLOTS: OnceLock<Vec<usize>> = OnceLock::new();
    SLOTS.get_or_init(|| {
        gate::register_membarrier();
        state::install(state::Core {
            adapter,
            hooks,
            state: state::State::new(),
            active: false,
            early: false,
            finalised: false,
            multiple: false,
            provided: 0,
            main_thread: 0,
            private: mpi_std::MPI_COMM_NULL,
            private_self: mpi_std::MPI_COMM_NULL,
            group_gates: Default::default(),
            ids: Default::default(),
            mail: Default::default(),
            orphans: Vec::new(),
            scratch: Default::default(),
        });
        let table = (&raw const generated::TABLE).cast::<usize>();
        let mut slots = vec![0; ALL_SLOTS];
        for (i, slot) in slots.iter_mut().enumerate().take(SLOT_COUNT) {
            // SAFETY: the table is `repr(C)` and holds `SLOT_COUNT` function pointers, nothing else.
            *slot = unsafe { *table.add(i) };
        }
        if let Some(slot) = slots.get_mut(REGISTER_STUB) {
            *slot = upcall::register as *const () as usize;
        }
        slots
    })
}

/// The layer's procedures, as the slots have them: for a test that calls them without a stub.
pub fn procedures() -> &'static mpi_std::ProcTable {
    &generated::TABLE
}

/// The calling thread begins (or ends) to run callbacks that may not call MPI; its calls end the program
/// by [`MpiHooks::misused`].
pub fn forbid_on(on: bool) {
    entry::forbid(on);
}

/// Whether MPI has been active in this process and has ended.
pub fn finalised() -> bool {
    state::installed() && state::core().finalised
}
