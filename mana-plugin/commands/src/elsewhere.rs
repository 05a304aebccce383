//! An unfinished job that this start could be meant to go on with: the same program, arguments and directory under
//! another number of the batch system. It is named to the user, and never resumed by itself.

use std::path::Path;
use std::time::Duration;

use libckpt::identity;
use libckpt::records::{Incarnation, JobState, Records};
use libckpt::store::Store;
use mana_control::{Client, Rendezvous};

use crate::job;

/// How long its coordinator may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// The newest of those jobs.
#[derive(Debug)]
pub struct Elsewhere {
    /// Its identity.
    pub id: String,
    incarnation: Incarnation,
    /// How many others there are.
    others: usize,
}

impl Elsewhere {
    /// The newest one that has committed a checkpoint. What cannot be read is no reason to stop a start.
    pub fn find(global: &Path, ours: &str) -> Option<Self> {
        let batch_job = identity::batch_job(&|name: &str| std::env::var(name).ok());
        Self::beside(global, ours, batch_job.as_deref())
    }

    fn beside(global: &Path, ours: &str, batch_job: Option<&str>) -> Option<Self> {
        let names = job::names(global).ok()?.into_iter().map(|(name, _)| name);
        let mut found: Vec<(Incarnation, String)> = names
            .filter(|name| identity::is_elsewhere(ours, batch_job, name))
            .filter_map(
                |name| match Records::new(Store::at(global.join(&name))).state() {
                    Ok(JobState::Unfinished {
                        incarnation,
                        committed: true,
                    }) => Some((incarnation, name)),
                    _ => None,
                },
            )
            .collect();
        found.sort_by_key(|(incarnation, _)| incarnation.created);
        let (incarnation, id) = found.pop()?;
        Some(Self {
            id,
            incarnation,
            others: found.len(),
        })
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
        let find = || Elsewhere::beside(dir.path(), "12-app-0badcafe", Some("12"));
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
    }
}
