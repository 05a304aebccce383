//! Multi-level checkpoint storage: configuration, placement, images, commit, levels and recovery.
//!
//! Nothing here links MPI or touches the program's memory. What needs all ranks goes through the
//! [`Collective`] trait, which also has an in-process simulation of any number of ranks and nodes.
//!
//! | module | holds |
//! |---|---|
//! | `config` | mana.conf, environment, precedence |
//! | `identity` | which job this is |
//! | `topology` | nodes, partners |
//! | `records` | job and incarnation records in the global directory |
//! | `refusal` | word of a start that mana refused, for whoever would start again |
//! | `store` | names and places of files, durable writing |
//! | `image_file` | writing and verifying one image |
//! | `manifest` | the record that commits a generation, completion records |
//! | `transport` | copies between nodes |
//! | `session` | one rank's part in taking generations |
//! | `fence` | whether a newer start of the job has taken over |
//! | `recovery` | choosing and fetching what to resume from |
//! | `lines` | what is said, on standard error or in a file |
//! | `published` | what programs leave for the report |
//! | `fault` | places where tests make the process die or the storage stop |
#![warn(missing_docs)]

pub mod collective;
pub mod config;
mod error;
pub mod fault;
pub mod fence;
pub mod identity;
pub mod image_file;
pub mod lines;
pub mod manifest;
pub mod published;
pub mod records;
pub mod recovery;
pub mod refusal;
pub mod session;
pub mod simulation;
pub mod store;
pub mod topology;
pub mod transport;

pub use collective::Collective;
pub use config::Config;
pub use error::Error;
pub use mana_control::{GenerationId, Level};
pub use topology::Topology;

/// Fills in random bytes.
fn random(bytes: &mut [u8]) -> std::io::Result<()> {
    use std::io::Read as _;
    std::fs::File::open("/dev/urandom")?.read_exact(bytes)
}
