//! The directory of a run that was begun with `mana start`: `NAME.run` beside what is run.
//!
//! ```text
//!  run.toml           the command line, where and when it was begun
//!  mana.conf          the configuration in effect, by which every other command finds the run
//!  application.log    what the program writes
//!  execution.log      starts, stops, ends
//!  coordinator.log    mana's own lines
//!  global/, local/    checkpoints
//!  lock               held while the run runs (`run_lock`; `holder-<n>` where there are no locks)
//! ```

use std::ffi::OsString;
use std::fmt::Display;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use libckpt::lines;
use mana_control::Rendezvous;
use serde::{Deserialize, Serialize};

use crate::message::{short_host, Failure};
use crate::run_lock::{self, Attempt};

/// What ends the names of these directories.
const SUFFIX: &str = ".run";

/// `run.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Where the program is started.
    pub directory: PathBuf,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// When (UTC).
    pub begun: String,
    /// On which host.
    pub host: String,
}

/// One run.
#[derive(Clone, Debug)]
pub struct RunDirectory {
    path: PathBuf,
    name: String,
}

fn failed(operation: &str, path: &Path, e: impl Display) -> Failure {
    Failure::new(format!("cannot {operation} {}: {e}", path.display()))
}

impl RunDirectory {
    /// That of a name, in the current directory; it need not exist.
    pub fn named(name: &str) -> Result<Self, Failure> {
        let name = libckpt::identity::given(name)?;
        let path = std::path::absolute(format!("{name}{SUFFIX}"))
            .map_err(|e| Failure::new(format!("cannot find the current directory: {e}")))?;
        Ok(Self { path, name })
    }

    /// The one that is meant: of this name, or the only one here.
    pub fn find(name: Option<&str>) -> Result<Self, Failure> {
        if let Some(name) = name {
            let run = Self::named(name)?;
            return match run.exists() {
                true => Ok(run),
                false => Err(Failure::new(format!(
                    "no run {name} here ({} is missing); go to the directory it was started in",
                    run.path.display()
                ))),
            };
        }
        let mut all = Self::all()?;
        match (all.pop(), all.is_empty()) {
            (Some(only), true) => Ok(only),
            (None, _) => Err(Failure::new(
                "no run was started in this directory (mana start); name another directory's by going there",
            )),
            (Some(last), false) => {
                all.push(last);
                let names: Vec<_> = all.into_iter().map(|r| r.name).collect();
                Err(Failure::new(format!(
                    "several runs were started in this directory: name one with --id ({})",
                    names.join(", ")
                )))
            }
        }
    }

    /// Those of the current directory.
    pub fn all() -> Result<Vec<Self>, Failure> {
        let here = fs::read_dir(".").map_err(|e| failed("list", Path::new("."), e))?;
        let mut names: Vec<String> = here
            .flatten()
            .filter_map(|e| e.file_name().into_string().ok())
            .filter_map(|n| n.strip_suffix(SUFFIX).map(str::to_owned))
            .collect();
        names.sort();
        let runs = names.iter().filter_map(|n| Self::named(n).ok());
        Ok(runs.filter(Self::exists).collect())
    }

    /// Whether it was begun.
    pub fn exists(&self) -> bool {
        self.path.join("run.toml").is_file()
    }

    /// Makes it. `settings`: keys and values of its configuration.
    pub fn create(
        &self,
        command: &[OsString],
        settings: &[(String, String)],
    ) -> Result<Record, Failure> {
        if let Err(e) = fs::create_dir(&self.path) {
            if e.kind() == std::io::ErrorKind::AlreadyExists {
                return Err(Failure::new(format!(
                    "{} exists: go on with 'mana restart --id {}', or start under another --id, or delete it to begin anew",
                    self.path.display(),
                    self.name
                )));
            }
            return Err(failed("make", &self.path, e));
        }
        let words = command.iter().map(|w| w.clone().into_string());
        let command: Vec<String> = words.collect::<Result<_, _>>().map_err(|w| {
            Failure::new(format!(
                "{}: not UTF-8; use mana_launch",
                w.to_string_lossy()
            ))
        })?;
        let directory = std::env::current_dir()
            .map_err(|e| Failure::new(format!("cannot find the current directory: {e}")))?;
        let record = Record {
            directory,
            command,
            begun: now(),
            host: short_host(),
        };
        let mut text = format!(
            "# the configuration of run {}, as it was started\n",
            self.name
        );
        for (key, value) in settings {
            let plain = value.parse::<f64>().is_ok() || value == "true" || value == "false";
            match plain {
                true => text.push_str(&format!("{key} = {value}\n")),
                false => text.push_str(&format!("{key} = {}\n", toml::Value::from(value.as_str()))),
            }
        }
        self.write("mana.conf", &text)?;
        self.write("run.toml", &toml::to_string(&record)?)?;
        Ok(record)
    }

    fn write(&self, name: &str, text: &str) -> Result<(), Failure> {
        let path = self.path.join(name);
        fs::write(&path, text).map_err(|e| failed("write", &path, e))
    }

    /// What it runs.
    pub fn record(&self) -> Result<Record, Failure> {
        let path = self.path.join("run.toml");
        let text = fs::read_to_string(&path).map_err(|e| failed("read", &path, e))?;
        toml::from_str(&text).map_err(|e| failed("understand", &path, e.message()))
    }

    /// Its name, which is the job's identity.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its configuration.
    pub fn configuration(&self) -> PathBuf {
        self.path.join("mana.conf")
    }

    /// Where checkpoints go that outlive a node.
    pub fn global(&self) -> PathBuf {
        self.path.join("global")
    }

    /// Where those of this node go.
    pub fn local(&self) -> PathBuf {
        self.path.join("local")
    }

    /// mana's lines.
    pub fn coordinator_log(&self) -> PathBuf {
        self.path.join("coordinator.log")
    }

    /// The file where the running job's coordinator is found.
    pub fn rendezvous(&self) -> PathBuf {
        Rendezvous::path(&self.global(), &self.name)
    }

    /// A log, to be appended to.
    pub fn log(&self, name: &str) -> Result<File, Failure> {
        let path = self.path.join(name);
        let opened = OpenOptions::new().append(true).create(true).open(&path);
        opened.map_err(|e| failed("open", &path, e))
    }

    /// A line of execution.log.
    pub fn note(&self, text: impl Display) {
        if let Ok(mut log) = self.log("execution.log") {
            // A full disk stops the run by itself.
            let _ = log.write_all(format!("{} {text}\n", now()).as_bytes());
        }
    }

    /// Takes the lock.
    pub fn lock(&self) -> Result<Attempt, Failure> {
        run_lock::take(&self.path)
    }

    /// Deletes it: what was to be run has not begun.
    pub fn remove(&self) {
        // What is left is in the way of a second attempt, which then says so.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// The time, in UTC.
pub fn now() -> String {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    utc(since.unwrap_or_default())
}

/// To the second.
fn utc(since: Duration) -> String {
    let text = lines::iso(since);
    format!("{}Z", text.split('.').next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_in_words() {
        assert_eq!(utc(Duration::ZERO), "1970-01-01T00:00:00Z");
        let later = Duration::from_secs(1_700_000_000);
        assert_eq!(utc(later), "2023-11-14T22:13:20Z");
    }

    #[test]
    fn made_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let run = RunDirectory {
            path: dir.path().join("a.run"),
            name: "a".into(),
        };
        let settings = [
            ("keep".to_owned(), "3".to_owned()),
            ("mpi".to_owned(), "a \"b\"".to_owned()),
        ];
        let record = run
            .create(&["x".into(), "y z".into()], &settings)
            .expect("made");
        assert_eq!(run.record().expect("read"), record);
        let text = fs::read_to_string(run.configuration()).expect("written");
        let table: toml::Table = text.parse().expect("TOML");
        assert_eq!(table["keep"].as_integer(), Some(3));
        assert_eq!(table["mpi"].as_str(), Some("a \"b\""));
        let refused = run.create(&["x".into()], &[]).expect_err("exists").text;
        assert!(refused.contains("mana restart --id a"), "{refused}");
        run.remove();
        run.create(&["x".into()], &[]).expect("made again");
    }
}
