//! What `mana_launch` hands to `mana-lower`. An ordinary program's code: no half is special here.
//!
//! Only [`spec`] is public: it is the contract between the command that decides and the program
//! that runs the lower half.
#![warn(missing_docs)]

pub mod spec;
