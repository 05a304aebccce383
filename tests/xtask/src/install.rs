//! Copies the built tree to where it shall live.

use std::path::Path;

use anyhow::{bail, Result};

use crate::{process, tree};

/// Builds, and copies to `prefix`.
pub fn run(prefix: &Path) -> Result<()> {
    let prefix = std::path::absolute(prefix)?;
    let built = tree::build()?;
    if prefix.starts_with(process::target_dir()?.join("mana")) {
        bail!("{}: lies inside the build's own tree", prefix.display());
    }
    copy(&built, &prefix)?;
    println!("installed in {0}; add {0}/bin to PATH", prefix.display());
    Ok(())
}

/// Copies the tree `built` to `prefix`.
pub fn copy(built: &Path, prefix: &Path) -> Result<()> {
    for part in tree::PARTS {
        tree::copy_all(&built.join(part), &prefix.join(part))?;
    }
    Ok(())
}
