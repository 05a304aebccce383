//! The state of a running job for people: as text, as a line for each change, as a live view.

mod keyboard;
mod live;
pub mod text;

pub use live::{live, Left};
pub use text::{describe, generation_line, size};
