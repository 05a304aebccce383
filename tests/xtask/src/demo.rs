//! placeholder
use anyhow::Result;
pub fn run() -> Result<bool> {
    Ok(false)
}
