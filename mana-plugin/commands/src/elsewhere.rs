//! Other jobs of the same program, arguments and directory: those that this start could be meant to go on with, under
//! another number of the batch system or outside it. Without `on_resubmit` one is only named to the user.

use std::path::Path;
use std::time::Duration;

use libckpt::identity;
use libckpt::records::{Incarnation, JobState, Records};
use libckpt::store::Store;
use mana_control::{Client, Rendezvous};

use crate::job;
use crate::message::Failure;

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
        resumable(all(global, ours, own_job().as_deref()).flatten().collect())
    }

    /// The one that was begun or gone on with last, however it stands: older ones were given up for it.
    ///
    /// # Errors
    /// When one of them cannot be read.
    pub fn last(global: &Path, ours: &str) -> Result<Option<Self>, Failure> {
        Ok(read_all(global, ours, own_job().as_deref())?.pop())
    }

    /// The one that an earlier start of this batch job went on with, or one outside batch jobs if this is no part of any.
    ///
    /// # Errors
    /// When one of them cannot be read.
    pub fn of_this_job(global: &Path, ours: &str) -> Result<Option<Self>, Failure> {
        let job = own_job();
        let mut found = read_all(global, ours, job.as_deref())?;
        found.retain(|other| match &job {
            Some(job) => other.incarnation.is_of(job),
            None => other.incarnation.batch_job.is_none(),
        });
        Ok(found.pop())
    }

    /// When its newest start was begun, in seconds since 1970.
    pub fn created(&self) -> u64 {
        self.incarnation.created
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

    /// Of one that runs: what is written to a file may be written by both.
    pub fn beside(&self) -> String {
        format!(
            "job {} of the same program, arguments and directory is running: this one is begun beside it, and both may write to the same files",
            self.id
        )
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

/// All of them, or why one is not known.
fn all<'a>(
    global: &'a Path,
    ours: &'a str,
    batch_job: Option<&'a str>,
) -> impl Iterator<Item = Result<Elsewhere, Failure>> + 'a {
    let names = job::names(global);
    let (names, wrong) = match names {
        Ok(names) => (names, None),
        Err(failure) => (Vec::new(), Some(Err(failure))),
    };
    let names = names.into_iter().map(|(name, _)| name);
    names
        .filter(move |name| identity::is_elsewhere(ours, batch_job, name))
        .filter_map(|id| read(global, id).transpose())
        .chain(wrong)
}

/// `None`: nothing of it was begun.
fn read(global: &Path, id: String) -> Result<Option<Elsewhere>, Failure> {
    let records = Records::new(Store::at(global.join(&id)));
    let known = || -> Result<_, libckpt::Error> { Ok((records.state()?, records.last()?)) };
    let (state, last) = known().map_err(|e| Failure::of_records(&e))?;
    Ok(last.map(|incarnation| Elsewhere {
        incarnation,
        unfinished: matches!(state, JobState::Unfinished { .. }),
        committed: matches!(state, JobState::Unfinished { committed, .. } if committed),
        others: 0,
        id,
    }))
}

/// The newest last.
fn read_all(global: &Path, ours: &str, batch_job: Option<&str>) -> Result<Vec<Elsewhere>, Failure> {
    let mut found: Vec<Elsewhere> = all(global, ours, batch_job).collect::<Result<_, _>>()?;
    sort(&mut found);
    Ok(found)
}

fn sort(found: &mut [Elsewhere]) {
    found.sort_by(|a, b| (a.created(), &a.id).cmp(&(b.created(), &b.id)));
}

fn resumable(mut found: Vec<Elsewhere>) -> Option<Elsewhere> {
    found.retain(|other| other.unfinished && other.committed);
    sort(&mut found);
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
        let all = || read_all(dir.path(), "12-app-0badcafe", Some("12")).expect("readable");
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
