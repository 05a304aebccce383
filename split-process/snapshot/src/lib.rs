//! The fork snapshot: a forked child writes the image while the program runs on. Lower half.
//!
//! ```text
//!  control thread                                  child
//!  --------------                                  -----
//!  everything prepared: file, layout, buffers
//!  all signals blocked, clone(flags = 0) --------> all signals blocked, dies with its parent
//!  the program runs on                             closes every descriptor but the image's
//!  poll: waitpid(__WCLONE | WNOHANG), page         chunk by chunk: gather, hash, pwrite (O_DIRECT)
//!          <------------ shared page ------------  index, sections, header, fsync, report
//!  renames the file                                exit_group
//! ```
//! * The clone has no exit signal: the program's `wait` does not see the child and no SIGCHLD comes.
//! * It happens on a control thread, whose descriptor table is not the program's: the child inherits
//!   that one.
//! * What cannot go through a fork is told by [`mappings`], whether there is memory for one by
//!   [`headroom`]; the caller stops the program and writes itself where this says so.
#![warn(missing_docs)]

mod child;
pub mod headroom;
pub mod mappings;
mod page;
mod running;

pub use running::{start, Plan, Running, SnapshotError, StartError};
