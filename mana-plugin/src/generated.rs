//! The procedure table and the entries that `build.rs` writes.
//!
//! Lower half.
#![allow(
    unused_variables,
    unused_mut,
    clippy::redundant_closure_call,
    clippy::unnecessary_cast,
    clippy::let_and_return,
    reason = "generated for every procedure alike"
)]

use crate::errors::{check, finish};
use crate::state::core;
use mpi_std::*;
use std::ffi::{c_char, c_void};

include!(concat!(env!("OUT_DIR"), "/entries.rs"));
