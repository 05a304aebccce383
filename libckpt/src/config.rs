//! mana.conf: where it is, what may stand in it, and what wins.
//!
//! Order: command line, environment (`MANA_` and the key in upper case), file, default. The file is
//! TOML or the older `key=value` form (unquoted values). Unknown keys, wrong types and absurd values
//! are errors that name file and line.

mod file;
mod keys;
mod signals;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use mana_control::AtEnd;

use crate::lines::Lines;
use crate::{Error, Level};

/// How the image is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Snapshot {
    /// Fork if there is memory for it, else stop.
    #[default]
    Auto,
    /// A forked child writes while the program runs on.
    Fork,
    /// The program stands still until its image is written.
    Stop,
}

/// What to do when checkpointing as such fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// Run on unprotected, and say so.
    #[default]
    Continue,
    /// End the job.
    Stop,
}

/// Files the program writes in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Files {
    /// Clone where the file system can, else copy.
    Reflink,
    /// Copy.
    Copy,
    /// Say so.
    #[default]
    Warn,
}

/// What a start does that has no job of its own yet, where the job of the same program, arguments and directory that was
/// started last is unfinished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnResubmit {
    /// It begins a job of its own, with a line.
    #[default]
    Anew,
    /// It goes on with that one.
    Resume,
    /// It is an error.
    Refuse,
}

/// Descriptors that cannot survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LostFd {
    /// Name them.
    #[default]
    Warn,
    /// Fail the checkpoint.
    Refuse,
}

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What went wrong.
    Error,
    /// And what deserves attention.
    Warn,
    /// And changes of state.
    Info,
    /// And what helps to find a mistake of ours.
    Debug,
    /// Everything.
    Trace,
}

impl std::str::FromStr for LogLevel {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Ok(match text {
            "error" => Self::Error,
            "warn" => Self::Warn,
            "info" => Self::Info,
            "debug" => Self::Debug,
            "trace" => Self::Trace,
            _ => return Err(()),
        })
    }
}

impl From<LogLevel> for log::LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::Error,
            LogLevel::Warn => Self::Warn,
            LogLevel::Info => Self::Info,
            LogLevel::Debug => Self::Debug,
            LogLevel::Trace => Self::Trace,
        }
    }
}

/// The effective configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// File it was read from.
    pub file: Option<PathBuf>,
    /// Directory all nodes share.
    pub global_ckpt_dir: PathBuf,
    /// Directory of the node.
    pub local_ckpt_dir: PathBuf,
    /// Seconds between checkpoints of each level, in the order of [`Level::ALL`]; 0: by hand only.
    pub intervals: [f64; 4],
    /// Nodes are simulated.
    pub test_mode: bool,
    /// Ranks of a simulated node.
    pub node_size: u32,
    /// Nodes of a group.
    pub group_size: u32,
    /// Generations kept of each level, in the order of [`Level::ALL`].
    pub keep: [u32; 4],
    /// Keep the newest generation when the program has ended normally.
    pub keep_after_end: bool,
    /// How to take the image.
    pub snapshot: Snapshot,
    /// The program's MPI, if it cannot be seen.
    pub mpi: Option<String>,
    /// Libraries the site's MPI needs preloaded.
    pub lower_preload: Option<String>,
    /// Seconds a checkpoint may take to reach its safe point.
    pub checkpoint_timeout: u64,
    /// Bytes of messages in flight that each rank may take in.
    pub drain_budget: u64,
    /// When checkpointing fails.
    pub on_error: OnError,
    /// When a script is submitted again whose job is unfinished.
    #[serde(default)]
    pub on_resubmit: OnResubmit,
    /// Files written in place.
    pub files: Files,
    /// Descriptors that cannot survive.
    pub lost_fd: LostFd,
    /// Libraries loaded into the program before all others (separated by `:` in the file).
    pub plugins: Vec<PathBuf>,
    /// Where lines about what happens go.
    #[serde(default)]
    pub lines: Lines,
    /// How much is said; `None`: what the options say.
    #[serde(default)]
    pub log_level: Option<LogLevel>,
    /// File for metrics in Prometheus' text format.
    #[serde(default)]
    pub metrics_file: Option<PathBuf>,
    /// Signals that ask for a last checkpoint, by number; `None`: SIGTERM, and SIGUSR1 and SIGUSR2 as
    /// long as the program has no handler for them.
    pub checkpoint_signals: Option<Vec<i32>>,
    /// After the last checkpoint.
    pub at_end: AtEnd,
    /// How many seconds before the time limit the last checkpoint begins; 0: none, `None`: as the
    /// measured cost of earlier ones says.
    pub end_margin: Option<f64>,
    /// Seconds from SIGTERM to the kill, in which the last checkpoint must fit; `None`: what the batch
    /// system says.
    pub stop_grace: Option<f64>,
    /// Seconds during which a rank looks for a coordinator whose connection was lost.
    pub coordinator_timeout: f64,
    /// What to tell the user once.
    pub notes: Vec<String>,
}

impl Config {
    /// Reads the configuration. `options` are the command line's, by key; `environment` looks up a
    /// variable. The file is `explicit`, else the first that exists of `$MANA_CONF`, `./mana.conf`,
    /// `$XDG_CONFIG_HOME/mana/mana.conf` and `/etc/mana/mana.conf`.
    ///
    /// # Errors
    /// When anything in it cannot be used.
    pub fn load(
        explicit: Option<&Path>,
        options: &BTreeMap<String, String>,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Error> {
        Self::load_for(&keys::NAMES, explicit, options, environment)
    }

    /// The same for a command that looks at a job from outside, where the job's variables are not defined: a path that
    /// names one of them is an error for the keys in `needed` only. Else `local_ckpt_dir` stays as it is written (nothing
    /// is there), and the others count as not set.
    ///
    /// # Errors
    /// When anything else in it cannot be used.
    pub fn load_for(
        needed: &[&str],
        explicit: Option<&Path>,
        options: &BTreeMap<String, String>,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Error> {
        let file = file_in_use(explicit, environment);
        let mut values = keys::Values::default();
        for entry in gather(file.as_deref(), explicit.is_some(), options, environment)? {
            let other = !needed.contains(&entry.key.as_str());
            if other && values.leave(&entry.key, &entry.value, environment) {
                continue;
            }
            values.set(&entry.key, &entry.value, &entry.place, environment)?;
        }
        Ok(values.finish(file, environment))
    }

    /// What was set, by key, as it was written; without defaults.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn given(
        explicit: Option<&Path>,
        options: &BTreeMap<String, String>,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<BTreeMap<String, String>, Error> {
        Self::load(explicit, options, environment)?;
        let file = file_in_use(explicit, environment);
        let all = gather(file.as_deref(), explicit.is_some(), options, environment)?;
        Ok(all.into_iter().map(|e| (e.key, e.value)).collect())
    }

    /// The environment variables that set a key.
    pub fn variables() -> impl Iterator<Item = String> {
        keys::NAMES.into_iter().map(keys::variable)
    }

    /// The interval of a level; `None`: by hand only.
    pub fn interval(&self, level: Level) -> Option<Duration> {
        let seconds = self.intervals[level.index()];
        (seconds > 0.0).then(|| Duration::from_secs_f64(seconds))
    }

    /// Whether a level exists in a job of so many nodes.
    pub fn enabled(&self, level: Level, nodes: u32) -> bool {
        match level {
            Level::Local | Level::Global => true,
            Level::Partner => nodes > 1,
            Level::Group => false,
        }
    }
}

/// The file in effect.
fn file_in_use(
    explicit: Option<&Path>,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Option<PathBuf> {
    let named = explicit.map(Path::to_owned);
    named
        .or_else(|| environment("MANA_CONF").map(PathBuf::from))
        .or_else(|| search(environment).into_iter().find(|p| p.is_file()))
}

/// All that was set, in the order in which later ones win.
fn gather(
    file: Option<&Path>,
    explicit: bool,
    options: &BTreeMap<String, String>,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<file::Entry>, Error> {
    let mut all = Vec::new();
    if let Some(path) = file {
        let text = std::fs::read_to_string(path).map_err(|e| Error::Config {
            place: path.display().to_string(),
            reason: format!(
                "the configuration file named by {} cannot be read ({e})",
                if explicit {
                    "--config"
                } else {
                    "MANA_CONF, or found where one is looked for,"
                }
            ),
        })?;
        all.extend(file::entries(path, &text)?);
    }
    for key in keys::NAMES {
        let variable = keys::variable(key);
        if let Some(value) = environment(&variable) {
            all.push(file::Entry {
                key: key.to_owned(),
                value,
                place: variable,
            });
        }
    }
    for (key, value) in options {
        all.push(file::Entry {
            key: key.clone(),
            value: value.clone(),
            place: "command line".to_owned(),
        });
    }
    Ok(all)
}

fn search(environment: &dyn Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    let config_home = environment("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| environment("HOME").map(|h| Path::new(&h).join(".config")));
    let mut all = vec![PathBuf::from("mana.conf")];
    all.extend(config_home.map(|c| c.join("mana/mana.conf")));
    all.push("/etc/mana/mana.conf".into());
    all
}

#[cfg(test)]
mod tests;
