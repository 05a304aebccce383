//! What happened to a job, kept for `mana report`: one JSON object a line, in `events.jsonl` of the job's
//! global directory.
//!
//! A line is appended with one `write(2)` (`O_APPEND`), so that lines of several writers never mix, and
//! a reader that meets half a line (a node that died) skips it. When the file has grown to
//! [`EventLog::LIMIT`] it becomes `events.1.jsonl`, in the place of an older one: together they are never
//! larger than about twice the limit. While the job runs the file's time of change is kept up, which
//! tells a later start when the one before was last alive. Fields are only ever added, and a reader ignores kinds it does
//! not know.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::{GenerationId, GenerationStatus, Level, Outcome};

/// One thing that happened. Times are seconds, sizes bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Event {
    /// All ranks of a start are there.
    Started {
        /// Ranks.
        ranks: u32,
        /// Nodes.
        nodes: u32,
        /// The program.
        program: String,
        /// Seconds between checkpoints of each level, in the order of [`Level::ALL`].
        intervals: [Option<f64>; 4],
        /// Which levels the job has, in the same order.
        enabled: [bool; 4],
    },
    /// The program went on from a checkpoint.
    Resumed {
        /// Which.
        generation: GenerationId,
        /// Its level.
        level: Level,
        /// When it was committed, in seconds since 1970.
        taken: f64,
        /// Images by where they came from.
        sources: BTreeMap<String, u32>,
        /// Why newer ones were not used.
        rejected: Vec<String>,
        /// When the start before was last known to be alive, in seconds since 1970.
        #[serde(default)]
        last_seen: Option<f64>,
    },
    /// A checkpoint is valid.
    Committed {
        /// A level was due (else it was asked for).
        scheduled: bool,
        /// Its figures.
        #[serde(flatten)]
        figures: GenerationStatus,
    },
    /// A checkpoint was given up.
    Abandoned {
        /// Which.
        generation: GenerationId,
        /// The level it was to have.
        level: Level,
        /// The step it had reached.
        step: String,
        /// How long it had been under way.
        seconds: f64,
        /// Why.
        reason: String,
    },
    /// A checkpoint has reached a level.
    LevelComplete {
        /// Which.
        generation: GenerationId,
        /// The level.
        level: Level,
        /// How long that took, after the commit or the level before.
        seconds: f64,
        /// Bytes of all images.
        bytes: u64,
    },
    /// A checkpoint has not reached a level.
    LevelFailed {
        /// Which.
        generation: GenerationId,
        /// The level.
        level: Level,
        /// Why.
        reason: String,
    },
    /// A rank went away without a word.
    Lost {
        /// Which.
        rank: u32,
        /// Where it was.
        host: String,
        /// Its node.
        node: u32,
    },
    /// Something has announced the end of this start: a last checkpoint is taken.
    Announced {
        /// What: a signal, the time limit.
        cause: String,
    },
    /// This start of the job is over.
    Ended {
        /// How.
        outcome: Outcome,
    },
    /// A kind of a later version.
    #[serde(other)]
    Unknown,
}

/// An event with its time and place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Seconds since 1970.
    pub time: f64,
    /// Which start of the job.
    pub incarnation: u32,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

impl Record {
    /// Happened just now.
    pub fn now(incarnation: u32, event: Event) -> Self {
        let time = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0.0, |since| since.as_secs_f64());
        Self {
            time: (time * 1e3).round() / 1e3,
            incarnation,
            event,
        }
    }
}

/// The events of one job.
#[derive(Clone, Debug)]
pub struct EventLog {
    directory: PathBuf,
}

impl EventLog {
    /// Name of the file.
    pub const FILE_NAME: &'static str = "events.jsonl";
    /// Name of the file with older events.
    pub const OLDER_NAME: &'static str = "events.1.jsonl";
    /// Size at which a new file is begun (16 thousand checkpoints or so), in bytes.
    pub const LIMIT: u64 = 8 << 20;

    /// The log in a job's global directory.
    pub fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
        }
    }

    /// Adds an event.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn append(&self, record: &Record) -> io::Result<()> {
        self.append_below(record, Self::LIMIT)
    }

    fn append_below(&self, record: &Record, limit: u64) -> io::Result<()> {
        let path = self.directory.join(Self::FILE_NAME);
        if fs::metadata(&path).is_ok_and(|facts| facts.len() >= limit) {
            fs::rename(&path, self.directory.join(Self::OLDER_NAME))?;
        }
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)?;
        // One call: appended whole, or (a full disk) cut, which a reader sees.
        file.write_all(&line)
    }

    /// Notes that the job is alive, without a line: in the file's time of change.
    ///
    /// # Errors
    /// When the file is not there, or not ours.
    pub fn touch(&self) -> io::Result<()> {
        let path = self.directory.join(Self::FILE_NAME);
        let file = OpenOptions::new().append(true).open(path)?;
        file.set_modified(SystemTime::now())
    }

    /// When the job was last known to be alive, in seconds since 1970; `None` if nothing is known.
    pub fn last_seen(&self) -> Option<f64> {
        let facts = fs::metadata(self.directory.join(Self::FILE_NAME)).ok()?;
        let since = facts.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
        Some(since.as_secs_f64())
    }

    /// All events in order of time; lines that cannot be read are left out. Empty if there are none.
    ///
    /// # Errors
    /// When a file is there and cannot be read.
    pub fn read(&self) -> io::Result<Vec<Record>> {
        let mut all = Vec::new();
        for name in [Self::OLDER_NAME, Self::FILE_NAME] {
            match fs::read(self.directory.join(name)) {
                Ok(bytes) => all.extend(
                    bytes
                        .split(|byte| *byte == b'\n')
                        .filter_map(|line| serde_json::from_slice::<Record>(line).ok()),
                ),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        all.sort_by(|a, b| a.time.total_cmp(&b.time));
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn committed(number: u64) -> Record {
        Record {
            time: number as f64,
            incarnation: 1,
            event: Event::Committed {
                scheduled: true,
                figures: GenerationStatus {
                    generation: GenerationId {
                        incarnation: 1,
                        number,
                    },
                    level: Level::Partner,
                    bytes: 1 << 40,
                    seconds: 1.5,
                    gate: 0.0,
                    drain: 0.001,
                    snapshot: 0.02,
                    stopped: 0.021,
                    write: 1.25,
                },
            },
        }
    }

    #[test]
    fn what_is_written_is_read_and_damage_is_skipped() {
        let place = tempfile::tempdir().expect("a directory");
        let log = EventLog::new(place.path());
        assert_eq!(log.read().expect("nothing yet"), []);
        let ended = Record {
            time: 3.0,
            incarnation: 1,
            event: Event::Ended {
                outcome: Outcome::Failed { rank: 2, code: 7 },
            },
        };
        log.append(&committed(1)).expect("append");
        let path = place.path().join(EventLog::FILE_NAME);
        let mut text = fs::read_to_string(&path).expect("text");
        assert!(
            text.contains("\"event\":\"committed\"") && text.contains("\"bytes\":1099511627776"),
            "{text}"
        );
        text += "{\"time\":2.0,\"incarnation\":1,\"event\":\"from-the-future\",\"x\":1}\n{\"time\":2.5,\"inc\n";
        fs::write(&path, text).expect("write");
        log.append(&ended).expect("append");
        let read = log.read().expect("read");
        assert_eq!(read.len(), 3, "{read:?}");
        assert_eq!((&read[0], &read[2]), (&committed(1), &ended));
        assert_eq!(read[1].event, Event::Unknown);
    }

    #[test]
    fn the_log_does_not_grow_for_ever() {
        let place = tempfile::tempdir().expect("a directory");
        let log = EventLog::new(place.path());
        for number in 1..200 {
            log.append_below(&committed(number), 2000).expect("append");
        }
        let size = |name| fs::metadata(place.path().join(name)).map_or(0, |facts| facts.len());
        let both = [EventLog::FILE_NAME, EventLog::OLDER_NAME].map(size);
        assert!(
            both.iter().all(|bytes| (1..2600).contains(bytes)),
            "{both:?}"
        );
        let read = log.read().expect("read");
        assert_eq!(read.last(), Some(&committed(199)));
    }
}
