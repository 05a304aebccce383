//! The procedure table and the entries that `build.rs` writes.
//!
//! Lower half.
#![allow(
    unused_variables,
    clippy::redundant_closure_call,
    reason = "generated for every procedure alike"
)]

use crate::errors::{check, finish};
use crate::state::core;
use mpi_std::*;
use std::ffi::{c_char, c_void};

include!(concat!(env!("OUT_DIR"), "/entries.rs"));
