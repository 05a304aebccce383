//! What `mana_launch` hands to `mana-lower`. An ordinary program's code: no half is special here.
//!
//! [`spec`] is the contract between the command that decides and the program that runs the lower half;
//! both ask the batch system by [`slurm`].
#![warn(missing_docs)]

pub mod slurm;
pub mod spec;
