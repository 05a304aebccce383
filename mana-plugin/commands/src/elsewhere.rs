//! Other jobs of the same program, arguments and directory: those that this start could be meant to go on with, under
//! another number of the batch system or outside it. Without `on_resubmit` one is only named to the user.

use std::path::Path;
use std::time::Duration;

use libckpt::identity;
use libckpt::records::{Incarnation, JobState, Records};
use libckpt::store::Store;
use mana_control::{Client, Rendezvous};

use crate::job;

/// How long its coordinator may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// One of those jobs.
#[derive(Debug)]
pub struct Elsewhere {
    /// Its identity.
    pub id: String,
    /// Its newest start.
    incarnation: Incarnation,
    /// It has not ended normally.
    pub unfinished: bool,
    /// It has committed a checkpoint.
    pub committed: bool,
    /// How many others there are that could be gone on with.
    others: usize,
}

impl Elsewhere {
    /// The newest one that can be gone on with. What cannot be read is no reason to stop a start.
    pub fn find(global: &Path, ours: &str) -> Option<Self> {
        resumable(all(global, ours, own_job().as_deref()))
    }

    /// The one that was begun or gone on with last, however it stands: older ones were given up for it.
    pub fn last(global: &Path, ours: &str) -> Option<Self> {
        all(global, ours, own_job().as_deref()).pop()
    }

    /// The one that an earlier start of this batch job went on with.
    pub fn of_this_job(global: &Path, ours: &str) -> Option<Self> {
        let job = own_job()?;
        let mut found = all(global, ours, Some(&job));
        found.retain(|other| other.incarnation.is_of(&job));
        found.pop()
    }

    /// Whether its coordinator answers.
    pub fn is_running(&self, global: &Path) -> bool {
        Rendezvous::read(&Rendezvous::path(global, &self.id))
            .is_ok_and(|found| Client::connect(&found, ANSWER_LIMIT).is_ok())
    }

    /// How many ranks it has.
    pub fn size(&self) -> u32 {
        self.incarnation.size
    }

    /// For a line about it.
    pub fn title(&self) -> String {
        let others = match self.others {
            0 => String::new(),
            n => format!(", {n} older ones too"),
        };
        format!(
            "job {} of the same program, arguments and directory is unfinished (start {}, {} ranks{others})",
            self.id, self.incarnation.number, self.incarnation.size
        )
    }
}

fn own_job() -> Option<String> {
    identity::batch_job(&|name: &str| std::env::var(name).ok())
}

/// All of them, the newest last.
fn all(global: &Path, ours: &str, batch_job: Option<&str>) -> Vec<Elsewhere> {
    let names = job::names(global).unwrap_or_default();
    let mut found: Vec<Elsewhere> = names
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| identity::is_elsewhere(ours, batch_job, name))
        .filter_map(|id| {
            let records = Records::new(Store::at(global.join(&id)));
            let state = records.state().ok()?;
            Some(Elsewhere {
                incarnation: records.last().ok()??,
                unfinished: matches!(state, JobState::Unfinished { .. }),
                committed: matches!(state, JobState::Unfinished { committed, .. } if committed),
                others: 0,
                id,
            })
        })
        .collect();
    found.sort_by(|a, b| {
        let of = |other: &Elsewhere| (other.incarnation.created, other.id.clone());
        of(a).cmp(&of(b))
    });
    found
}

fn resumable(mut found: Vec<Elsewhere>) -> Option<Elsewhere> {
    found.retain(|other| other.unfinished && other.committed);
    let newest = found.pop()?;
    Some(Elsewhere {
        others: found.len(),
        ..newest
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use libckpt::records::End;

    #[test]
    fn the_newest_that_can_be_gone_on_with() {
        let dir = tempfile::tempdir().expect("directory");
        let begun = |name: &str, created: u64, committed: bool| {
            let records = Records::new(Store::at(dir.path().join(name)));
            let incarnation = Incarnation {
                number: 0,
                parent: None,
                size: 4,
                thread_level: 0,
                program: "/bin/app".into(),
                program_hash: None,
                created,
                restart_count: 0,
                batch_job: None,
                topology: libckpt::Topology::default(),
            };
            let begun = records.begin(incarnation).expect("begun");
            if committed {
                records.mark_committed(begun.number).expect("committed");
            }
            records
        };
        let all = || all(dir.path(), "12-app-0badcafe", Some("12"));
        let find = || resumable(all());
        begun("12-app-0badcafe", 9, true);
        begun("10-app-0badcaff", 9, true);
        begun("11-app-0badcafe", 8, false);
        assert!(find().is_none());
        begun("7-app-0badcafe", 5, true);
        begun("app-0badcafe", 3, true);
        let newest = begun("9-app-0badcafe", 7, true);
        let found = find().expect("one");
        assert_eq!((found.id.as_str(), found.size()), ("9-app-0badcafe", 4));
        assert!(found.title().contains("2 older ones"), "{}", found.title());
        assert!(!found.is_running(dir.path()));
        newest.write_end(1, &End::Finished).expect("ended");
        assert_eq!(find().expect("one").id, "7-app-0badcafe");
        // What was begun last counts where nobody is asked: 11 has no checkpoint, 9 has ended.
        let last = all().pop().expect("some");
        assert_eq!(
            (last.id.as_str(), last.unfinished, last.committed),
            ("11-app-0badcafe", true, false)
        );
    }
}
