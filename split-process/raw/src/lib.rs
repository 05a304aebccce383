//! What both halves of the process agree on, and the code that runs without a libc.
//!
//! Everything here is `no_std`, allocates nothing, unwinds nowhere and touches no thread-local
//! storage: it is linked into the upper half's stub library (under the program's libc) and into the
//! lower half's launcher (under ours), and some of it runs while the FS register belongs to the
//! other half.
#![no_std]

pub mod base;
pub mod cross;
pub mod entry;
pub mod interface;
pub mod layout;
pub mod shim;
pub mod sys;
pub mod upcall;
