//! Signals pending for the process as a whole.
use crate::error::StateError;
use serde::{Deserialize, Serialize};

/// One pending signal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingSignal {
    /// Signal number.
    pub signal: i32,
    /// The kernel's siginfo, 128 bytes.
    pub info: Vec<u8>,
}

pub(crate) fn capture(_mask: u64) -> Result<Vec<PendingSignal>, StateError> {
    Ok(Vec::new())
}
pub(crate) fn restore(_: &[PendingSignal]) -> Result<(), StateError> {
    Ok(())
}
