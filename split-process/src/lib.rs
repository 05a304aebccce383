//! The split process: loads a program into the arena, switches between the halves, parks the
//! program's threads, captures and restores them. Lower half.
//!
//! ```text
//!  start:    Launch::resolve -> start(resolved, hooks)                        never returns
//!  capture:  park_all -> Parked::{run_on, state, regions, memory} -> release
//!  restore:  Restorer::begin -> map -> (fill the runs) -> protect -> finish   never returns
//! ```
//!
//! | module | holds |
//! |---|---|
//! | `launch` | what to start: PATH, scripts, refusals |
//! | `elf` | reading ELF headers |
//! | `arena` | zones of the arena, placement of mappings, break |
//! | `sites` | finding system-call instructions by decoding, patching them |
//! | `shim` | code that lives in the arena: trampolines, signal entry, vDSO copy |
//! | `calls` | what the trapped system calls do |
//! | `threads` | one lower pthread for each thread of the program |
//! | `signals` | the program's handlers, masks around lower code |
//! | `park` | signal 33, EINTR rewind |
//! | `capture`, `restore` | the image's view of all that |
#![warn(missing_docs)]

mod api;

pub use api::*;
