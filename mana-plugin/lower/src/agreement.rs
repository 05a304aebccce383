//! What every rank decided by itself before MPI was there must be the same everywhere.
//!
//! `mana_launch` reads the job's records on each node. Where a file system shows them to one node
//! later than to another, some ranks would begin and others resume: they would wait for each other
//! in different places. So it is compared before anything else is exchanged. Control thread.

use libckpt::Collective;
use mana::spec::{LaunchSpec, Mode};
use serde::{Deserialize, Serialize};

use crate::Failure;

/// One rank's view.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct View {
    resume: bool,
    identity: String,
    generation: Option<(u32, u64)>,
    global: std::path::PathBuf,
    host: String,
}

impl View {
    fn of(spec: &LaunchSpec) -> View {
        View {
            resume: spec.mode == Mode::Resume,
            identity: spec.identity.clone(),
            generation: spec.generation,
            global: spec.config.global_ckpt_dir.clone(),
            host: hostname::get()
                .map(|h| h.to_string_lossy().into_owned())
                .unwrap_or_default(),
        }
    }

    /// How `other` differs, in words for the user.
    fn against(&self, other: &View) -> Option<String> {
        let does = |view: &View| match view.resume {
            true => "resumes",
            false => "starts from the beginning",
        };
        if self.identity != other.identity {
            return Some(format!(
                "belongs to job {}, rank 0 to job {}: start all ranks with one command line, or name their job with --id, the same for all",
                other.identity, self.identity
            ));
        }
        if self.global != other.global {
            return Some(format!(
                "has global_ckpt_dir {}, rank 0 {}: all nodes need one mana.conf",
                other.global.display(),
                self.global.display()
            ));
        }
        if self.resume != other.resume || self.generation != other.generation {
            return Some(format!(
                "{}, rank 0 {}: {} does not look the same from both nodes; try again, and check that it is on a file system that all nodes share",
                does(other),
                does(self),
                self.global.display()
            ));
        }
        None
    }
}

/// Compares this rank's view with the others'.
///
/// # Errors
/// The same on every rank, naming the first rank that differs from rank 0.
pub fn check(spec: &LaunchSpec, all: &dyn Collective) -> Result<(), Failure> {
    let views = all.allgather(&postcard::to_stdvec(&View::of(spec))?)?;
    let mut views = views
        .iter()
        .map(|bytes| postcard::from_bytes::<View>(bytes));
    let Some(first) = views.next() else {
        return Ok(());
    };
    let first = first?;
    for (rank, view) in (1..).zip(views) {
        let view = view?;
        if let Some(how) = first.against(&view) {
            return Err(format!("rank {rank} on {} {how}", view.host).into());
        }
    }
    Ok(())
}
