//! Word of a start that mana itself refused or gave up, and whether starting again may help.
//!
//! The exit code says so too, but under `srun -K1` that of another rank, killed meanwhile, may hide it. The file lies
//! beside the jobs' directories in the global one and is named after the batch job: the job's own directory may not
//! be known yet.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::store::{read_sealed, remove_file, write_sealed};
use crate::Error;

const REFUSED: [u8; 8] = *b"refused\0";

/// A start that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The batch system's restart count of that start.
    pub restart_count: u32,
    /// Why.
    pub reason: String,
    /// It may pass (a file system or a network that failed): another start may come further.
    pub passing: bool,
}

/// One for all components of a heterogeneous job.
fn path(global: &Path, batch_job: &str) -> PathBuf {
    let job = batch_job.split('+').next().unwrap_or(batch_job);
    global.join(format!("refused-{job}"))
}

/// Leaves word of it, unless the global directory is not there: it is not made for that, in the place where its file system
/// belongs.
///
/// # Errors
/// When it cannot be written.
pub fn note(global: &Path, batch_job: &str, refusal: &Refusal) -> Result<(), Error> {
    if !global.is_dir() {
        return Ok(());
    }
    write_sealed(&path(global, batch_job), REFUSED, refusal)
}

/// The last refusal of that batch job.
pub fn read(global: &Path, batch_job: &str) -> Option<Refusal> {
    read_sealed(&path(global, batch_job), REFUSED).ok()
}

/// It has been told, and is of no more use.
///
/// # Errors
/// When it cannot be deleted.
pub fn forget(global: &Path, batch_job: &str) -> Result<(), Error> {
    remove_file(&path(global, batch_job))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back_and_never_where_nothing_is_mounted() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let refusal = Refusal {
            restart_count: 3,
            reason: "cannot read".into(),
            passing: true,
        };
        note(dir.path(), "8_2+1", &refusal).expect("noted");
        assert_eq!(read(dir.path(), "8_2"), Some(refusal.clone()));
        forget(dir.path(), "8_2").expect("forgotten");
        assert_eq!(read(dir.path(), "8_2"), None);
        let missing = dir.path().join("not-mounted");
        note(&missing, "8", &refusal).expect("left out");
        assert!(!missing.exists());
    }
}
