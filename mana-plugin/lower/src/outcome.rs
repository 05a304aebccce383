//! A step of a start that fails on one rank fails on all, and what several ranks would say alike is
//! said once. Control thread, while the MPI thread serves its collectives.

use libckpt::collective::gather;
use libckpt::Collective;

use crate::{batch, messages, Failure};

/// A failure that has been told: nobody says it again.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Told {
    text: String,
    /// No rank goes on after it.
    all_end: bool,
    /// This rank is the first of those that failed.
    first: bool,
    /// What failed here may pass.
    passing: bool,
}

impl Told {
    /// What every rank was told by rank 0, without having met: they do not leave MPI together. Nobody notes it: the
    /// directory for that may be what does not answer.
    pub fn alone(text: String) -> Self {
        Self {
            text,
            all_end: false,
            first: false,
            passing: false,
        }
    }
}

/// Every rank's outcome becomes one. `tail` is put behind what is said; `ends` tells whether a failure ends this rank.
pub fn agree<R>(
    all: &dyn Collective,
    outcome: Result<R, Failure>,
    tail: &str,
    ends: bool,
) -> Result<R, Failure> {
    let mine = outcome.as_ref().err().map(ToString::to_string);
    // If the ranks cannot talk, each has only its own words.
    let Ok(told) = gather(all, "how the start went", &(mine.clone(), ends)) else {
        return outcome;
    };
    let all_end = told.iter().all(|(_, ends)| *ends);
    let texts: Vec<Option<String>> = told.into_iter().map(|(text, _)| text).collect();
    of_all(all.rank(), &texts, all_end, outcome, tail, || {
        let _ = all.barrier();
    })
}

/// What `outcome` of rank `own` becomes when `texts` is what failed on each rank, if anything did. `meet`: returns when all
/// ranks are there.
pub fn of_all<R>(
    own: u32,
    texts: &[Option<String>],
    all_end: bool,
    outcome: Result<R, Failure>,
    tail: &str,
    meet: impl FnOnce(),
) -> Result<R, Failure> {
    let Some((first, text)) = (0..)
        .zip(texts)
        .find_map(|(r, text)| Some((r, text.as_ref()?)))
    else {
        return outcome;
    };
    if let Err(mine) = &outcome {
        let before = &texts[..own as usize];
        if !before.contains(&texts[own as usize]) {
            messages::error(format_args!("{mine}{tail}"));
        }
    }
    // A launcher kills everyone as soon as one ends: nobody does before all have spoken.
    meet();
    Err(Box::new(Told {
        text: format!("rank {first}: {text}"),
        all_end,
        first: first == own,
        passing: outcome.as_ref().is_err_and(|e| passes(&**e)),
    }))
}

/// Whether another start may not meet it.
fn passes(error: &(dyn std::error::Error + 'static)) -> bool {
    error
        .downcast_ref::<libckpt::Error>()
        .is_some_and(libckpt::Error::is_passing)
}

/// The end of a process that cannot go on; says why unless that was said. What was told has failed on all
/// ranks, and is known on their MPI threads: if it ends all of them, they leave MPI together, so that each ends with its
/// own exit code. MPICH's launcher would kill those that are slower than the first, and may report its own signal (9).
pub fn fail(error: &(dyn std::error::Error + 'static)) -> ! {
    if let Some(told) = error.downcast_ref::<Told>() {
        if told.first {
            batch::note_failure(error, told.passing);
        }
        if let Some(world) = mana_plugin::world_collective().filter(|_| told.all_end) {
            world.leave();
        }
        messages::end()
    }
    batch::note_failure(error, passes(error));
    messages::fail(format_args!("{error}"))
}
