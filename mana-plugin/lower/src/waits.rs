//! No wait without a name, before there is a coordinator that sees to it: who has not come yet, and what
//! holds this process up.
//!
//! | wait | who says so | how it ends |
//! |---|---|---|
//! | all ranks in one step of a start or resume (`meeting`) | rank 0, whom and with what | after `checkpoint_timeout` as `on_error` has it, a resume with exit code 99; while images are read or copied, never |
//! | all ranks have put their program back ([`together`]) | rank 0, whom | when one has failed, as they all have then; else never: Slurm's time limit, or the user, decides |
//! | the same, and rank 0 does not answer | rank 1 | as above |
//! | the MPI library's own `MPI_Init` ([`bounded`]) | each node's first rank | after `checkpoint_timeout` in a resume, or with `on_error = "stop"`: exit code 99; else never |
//! | a file system, on one rank, where the others cannot be told ([`watched`]) | each node's first rank | never |

use std::collections::BTreeMap;
use std::sync::mpsc::{channel, RecvTimeoutError};
use std::time::{Duration, Instant};

use mana_plugin::{Gathered, Gatherer, Missing, Offer, WorldCollective, FIRST_WORD};

use crate::{messages, outcome, Failure};

/// Most groups of ranks in one line.
const GROUPS: usize = 6;

/// "2 of 8 ranks: rank 3 (opening /local/job), rank 5".
pub fn whom(size: u32, missing: &[Missing]) -> String {
    let mut by_doing: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
    for one in missing {
        by_doing.entry(&one.doing).or_default().push(one.rank);
    }
    let mut groups: Vec<(&str, Vec<u32>)> = by_doing.into_iter().collect();
    groups.sort_by_key(|(_, ranks)| ranks.first().copied());
    let more = groups.len().saturating_sub(GROUPS);
    let mut parts: Vec<String> = groups
        .iter()
        .take(GROUPS)
        .map(|(doing, ranks)| {
            let plural = if ranks.len() == 1 { "" } else { "s" };
            let ranks = mana_control::ranges(ranks);
            match doing.is_empty() {
                true => format!("rank{plural} {ranks}"),
                false => format!("rank{plural} {ranks} ({doing})"),
            }
        })
        .collect();
    if more > 0 {
        parts.push(format!("{more} more groups"));
    }
    match (size, missing.first()) {
        (1, Some(only)) => only.doing.clone(),
        _ => format!("{} of {size} ranks: {}", missing.len(), parts.join(", ")),
    }
}

/// "20 s".
pub fn seconds(time: Duration) -> String {
    format!("{} s", time.as_secs())
}

/// On rank 1.
pub fn rank_0_is_silent(title: &str, waited: Duration) {
    log::warn!(
        "{title} waits for rank 0, of which nothing was heard for {}",
        seconds(waited)
    );
}

/// A rank that has come, with what went wrong on it, if anything did.
struct Here {
    title: &'static str,
    size: u32,
    failure: String,
}

impl Gatherer for Here {
    fn offer(&mut self, _: Duration) -> Offer {
        Offer::Brings(self.failure.clone().into_bytes())
    }

    fn limit(&mut self) -> Option<Duration> {
        None
    }

    fn waits(&mut self, waited: Duration, missing: &[Missing]) {
        let whom = whom(self.size, missing);
        log::warn!("{} waits {} for {whom}", self.title, seconds(waited));
    }

    fn gives_up(&mut self, _: Duration, _: &[Missing]) -> String {
        String::new()
    }

    fn silent(&mut self, waited: Duration) {
        rank_0_is_silent(self.title, waited);
    }
}

/// Returns when all ranks have come here; on the MPI thread, before the program runs. `outcome` is what has come of this
/// rank's part until here: a failure of one rank is a failure of all.
///
/// # Errors
/// When it failed here or elsewhere, or MPI fails.
pub fn together<R>(
    world: Option<&WorldCollective>,
    title: &'static str,
    outcome: Result<R, Failure>,
) -> Result<R, Failure> {
    let Some(world) = world else { return outcome };
    if outcome.as_ref().is_err_and(|e| e.is::<outcome::Told>()) {
        return outcome;
    }
    let meet = |failure: String| {
        let size = world.size();
        let mut here = Here {
            title,
            size,
            failure,
        };
        match mana_plugin::gather(Some(world), &mut here) {
            Ok(Gathered::All(told)) => Ok(told),
            Ok(_) => Err(Failure::from(format!("{title} was given up"))),
            Err(class) => Err(format!("{title}: MPI error class {class}").into()),
        }
    };
    let own = outcome.as_ref().err().map(ToString::to_string);
    let told = match meet(own.unwrap_or_default()) {
        Ok(told) => told,
        Err(e) => return outcome.and(Err(e)),
    };
    let texts: Vec<Option<String>> = told
        .iter()
        .map(|text| (!text.is_empty()).then(|| String::from_utf8_lossy(text).into_owned()))
        .collect();
    outcome::of_all(world.rank(), &texts, true, outcome, "", || {
        // Why it fails does not matter any more.
        let _ = meet(String::new());
    })
}

/// Whether this process speaks for those beside it, before it knows them: the first of its node, as far as its
/// launcher says.
pub fn speaks_before_mpi() -> bool {
    let names = [
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "MPI_LOCALRANKID",
        "SLURM_LOCALID",
    ];
    let told = names.iter().find_map(|name| std::env::var(name).ok());
    told.is_none_or(|number| number == "0")
}

/// Does `work`, and says so if it takes long: on another thread, since this one may stand in the kernel. `speaks`:
/// whether this process speaks for those beside it.
pub fn watched<R>(speaks: bool, what: impl FnOnce() -> String, work: impl FnOnce() -> R) -> R {
    bounded(speaks, None, what, work)
}

/// The same; after `limit` the process ends.
pub fn bounded<R>(
    speaks: bool,
    limit: Option<Duration>,
    what: impl FnOnce() -> String,
    work: impl FnOnce() -> R,
) -> R {
    if !speaks {
        return work();
    }
    let what = what();
    let (done, is_done) = channel::<()>();
    let watch = move || {
        let since = Instant::now();
        let mut next = FIRST_WORD;
        loop {
            let until = limit.map_or(next, |limit| next.min(limit));
            match is_done.recv_timeout(until.saturating_sub(since.elapsed())) {
                Err(RecvTimeoutError::Timeout) => {
                    let waited = since.elapsed();
                    if limit.is_some_and(|limit| waited >= limit) {
                        messages::fail(format_args!(
                            "{what} has taken {}: this start is given up (checkpoint_timeout)",
                            seconds(waited)
                        ));
                    }
                    log::warn!("{what} takes {} so far", seconds(waited));
                    next = waited * 2;
                }
                _ => return,
            }
        }
    };
    let watcher = split_process::with_signals_blocked(|| {
        std::thread::Builder::new()
            .name("mana-watch".into())
            .spawn(watch)
    });
    let result = work();
    drop(done);
    if let Ok(watcher) = watcher {
        // It has nothing to wait for any more.
        let _ = watcher.join();
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(rank: u32, doing: &str) -> Missing {
        Missing {
            rank,
            doing: doing.to_owned(),
        }
    }

    #[test]
    fn ranks_that_do_the_same_are_named_together() {
        let all = [
            missing(1, "opening /a"),
            missing(2, "opening /a"),
            missing(5, ""),
            missing(7, "opening /a"),
        ];
        assert_eq!(
            whom(8, &all),
            "4 of 8 ranks: ranks 1-2, 7 (opening /a), rank 5"
        );
        assert_eq!(whom(1, &[missing(0, "opening /a")]), "opening /a");
        let many: Vec<_> = (0..20).map(|r| missing(r, &format!("step {r}"))).collect();
        let text = whom(20, &many);
        assert!(text.ends_with("rank 5 (step 5), 14 more groups"), "{text}");
    }
}
