//! The keys: names, types, bounds, defaults.

use std::path::PathBuf;

use super::signals;
use super::{AtEnd, Config, Files, LogLevel, LostFd, OnError, OnResubmit, Snapshot};
use crate::lines::{Format, Lines};
use crate::Error;

/// Every key, as in the file.
pub(super) const NAMES: [&str; 36] = [
    "global_ckpt_dir",
    "local_ckpt_dir",
    "local_ckpt_interval",
    "partner_ckpt_interval",
    "solomon_ckpt_interval",
    "global_ckpt_interval",
    "test_mode",
    "node_size",
    "group_size",
    "encode_max_threads",
    "encode_blocks_per_thread",
    "keep",
    "keep_local",
    "keep_partner",
    "keep_global",
    "keep_after_end",
    "snapshot",
    "mpi",
    "lower_preload",
    "checkpoint_timeout",
    "drain_budget",
    "on_error",
    "on_resubmit",
    "files",
    "lost_fd",
    "group_ckpt_interval",
    "plugins",
    "log_file",
    "log_format",
    "log_level",
    "metrics_file",
    "checkpoint_signals",
    "at_end",
    "end_margin",
    "stop_grace",
    "coordinator_timeout",
];

/// The environment variable of a key.
pub(super) fn variable(key: &str) -> String {
    format!("MANA_{}", key.to_uppercase())
}

const YEAR: f64 = 365.0 * 86400.0;

/// What was set so far.
#[derive(Default)]
pub(super) struct Values {
    global: Option<PathBuf>,
    local: Option<PathBuf>,
    intervals: [Option<f64>; 4],
    test_mode: Option<bool>,
    node_size: Option<u32>,
    group_size: Option<u32>,
    keep: [Option<u32>; 4],
    keep_all: Option<u32>,
    keep_after_end: Option<bool>,
    snapshot: Option<Snapshot>,
    mpi: Option<String>,
    lower_preload: Option<String>,
    checkpoint_timeout: Option<u64>,
    drain_budget: Option<u64>,
    on_error: Option<OnError>,
    on_resubmit: Option<OnResubmit>,
    files: Option<Files>,
    lost_fd: Option<LostFd>,
    plugins: Option<Vec<PathBuf>>,
    lines: Lines,
    log_level: Option<LogLevel>,
    metrics_file: Option<PathBuf>,
    checkpoint_signals: Option<Vec<i32>>,
    at_end: Option<AtEnd>,
    end_margin: Option<f64>,
    stop_grace: Option<f64>,
    coordinator_timeout: Option<f64>,
}

/// Keys whose values are paths with variables.
const PATHS: [&str; 5] = [
    "global_ckpt_dir",
    "local_ckpt_dir",
    "plugins",
    "log_file",
    "metrics_file",
];

impl Values {
    /// Leaves a key that is not needed out, if its value has a variable that is not defined here.
    pub fn leave(
        &mut self,
        key: &str,
        value: &str,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> bool {
        let unknown = |part: &str| {
            let name = part.split_once('}').map(|(name, _)| name);
            name.is_some_and(|name| environment(name).is_none())
        };
        let left = PATHS.contains(&key) && value.split("${").skip(1).any(unknown);
        if left && key == "local_ckpt_dir" {
            self.local = Some(value.into());
        }
        left
    }

    /// Sets one key; later calls win.
    pub fn set(
        &mut self,
        key: &str,
        value: &str,
        place: &str,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<(), Error> {
        let bad = |reason: String| Error::Config {
            place: place.to_owned(),
            reason,
        };
        let path = || {
            expand(value, environment)
                .map(PathBuf::from)
                .map_err(|r| bad(format!("{key}: {r}")))
        };
        let whole = |min: u64, max: u64| match value.parse::<u64>() {
            Ok(n) if (min..=max).contains(&n) => Ok(n),
            _ => Err(bad(format!(
                "{key}: {value:?} is not a whole number from {min} to {max}"
            ))),
        };
        let small = |min: u64, max: u64| whole(min, max).map(|n| n as u32);
        let seconds = || match value.parse::<f64>() {
            Ok(x) if (0.0..=YEAR).contains(&x) => Ok(x),
            _ => Err(bad(format!(
                "{key}: {value:?} is not a number of seconds from 0 (off) to a year"
            ))),
        };
        let truth = || match value {
            "1" | "true" | "yes" | "on" => Ok(true),
            "0" | "false" | "no" | "off" => Ok(false),
            _ => Err(bad(format!("{key}: {value:?} is neither true nor false"))),
        };
        match key {
            "global_ckpt_dir" => self.global = Some(path()?),
            "local_ckpt_dir" => self.local = Some(path()?),
            "local_ckpt_interval" => self.intervals[0] = Some(seconds()?),
            "partner_ckpt_interval" => self.intervals[1] = Some(seconds()?),
            "solomon_ckpt_interval" | "group_ckpt_interval" => self.intervals[2] = Some(seconds()?),
            "global_ckpt_interval" => self.intervals[3] = Some(seconds()?),
            "test_mode" => self.test_mode = Some(truth()?),
            "node_size" => self.node_size = Some(small(1, 1 << 20)?),
            "group_size" => self.group_size = Some(small(1, 1 << 20)?),
            // Accepted and of no effect until there is a group level.
            "encode_max_threads" => drop(whole(0, 4096)?),
            "encode_blocks_per_thread" => drop(whole(1, 1 << 20)?),
            "keep" => self.keep_all = Some(small(1, 1 << 20)?),
            "keep_local" => self.keep[0] = Some(small(1, 1 << 20)?),
            "keep_partner" => self.keep[1] = Some(small(1, 1 << 20)?),
            "keep_global" => self.keep[3] = Some(small(1, 1 << 20)?),
            "keep_after_end" => self.keep_after_end = Some(truth()?),
            "snapshot" => {
                self.snapshot = Some(match value {
                    "auto" => Snapshot::Auto,
                    "fork" => Snapshot::Fork,
                    "stop" => Snapshot::Stop,
                    _ => {
                        return Err(bad(format!(
                            "snapshot: {value:?} is none of auto, fork, stop"
                        )))
                    }
                });
            }
            "mpi" => self.mpi = (!value.is_empty()).then(|| value.to_owned()),
            "lower_preload" => self.lower_preload = (!value.is_empty()).then(|| value.to_owned()),
            "plugins" => {
                let mut all = Vec::new();
                for one in value.split(':').filter(|one| !one.is_empty()) {
                    let path = expand(one, environment).map_err(|r| bad(format!("{key}: {r}")))?;
                    if path.contains(' ') || !path.contains('/') {
                        return Err(bad(format!(
                            "{key}: {path:?} is not a path with a directory and without spaces"
                        )));
                    }
                    all.push(absolute(path.into()));
                }
                self.plugins = Some(all);
            }
            "checkpoint_timeout" => self.checkpoint_timeout = Some(whole(1, 7 * 86400)?),
            "drain_budget" => {
                self.drain_budget = Some(bytes(value).ok_or_else(|| {
                    bad(format!(
                        "drain_budget: {value:?} is not a size (bytes, or with K, M, G)"
                    ))
                })?)
            }
            "on_error" => {
                self.on_error = Some(match value {
                    "continue" => OnError::Continue,
                    "stop" => OnError::Stop,
                    _ => {
                        return Err(bad(format!(
                            "on_error: {value:?} is neither continue nor stop"
                        )))
                    }
                });
            }
            "files" => {
                self.files = Some(match value {
                    "reflink" => Files::Reflink,
                    "copy" => Files::Copy,
                    "warn" => Files::Warn,
                    _ => {
                        return Err(bad(format!(
                            "files: {value:?} is none of reflink, copy, warn"
                        )))
                    }
                });
            }
            "lost_fd" => {
                self.lost_fd = Some(match value {
                    "warn" => LostFd::Warn,
                    "refuse" => LostFd::Refuse,
                    _ => {
                        return Err(bad(format!(
                            "lost_fd: {value:?} is neither warn nor refuse"
                        )))
                    }
                });
            }
            "log_file" => self.lines.file = Some(absolute(path()?)),
            "metrics_file" => self.metrics_file = Some(absolute(path()?)),
            "log_format" => {
                self.lines.format = match value {
                    "text" => Format::Text,
                    "json" => Format::Json,
                    _ => {
                        return Err(bad(format!(
                            "log_format: {value:?} is neither text nor json"
                        )))
                    }
                };
            }
            "log_level" => {
                self.log_level = Some(value.parse().map_err(|()| {
                    bad(format!(
                        "log_level: {value:?} is none of error, warn, info, debug, trace"
                    ))
                })?);
            }
            "checkpoint_signals" => {
                self.checkpoint_signals = match value {
                    "auto" => None,
                    "none" => Some(Vec::new()),
                    list => Some(signals::numbers(list).map_err(|r| bad(format!("{key}: {r}")))?),
                };
            }
            "on_resubmit" => {
                self.on_resubmit = Some(match value {
                    "anew" => OnResubmit::Anew,
                    "resume" => OnResubmit::Resume,
                    "refuse" => OnResubmit::Refuse,
                    _ => {
                        return Err(bad(format!(
                            "on_resubmit: {value:?} is none of anew, resume, refuse"
                        )))
                    }
                });
            }
            "at_end" => {
                self.at_end = Some(match value {
                    "continue" => AtEnd::Continue,
                    "stop" => AtEnd::Stop,
                    "requeue" => AtEnd::Requeue,
                    _ => {
                        return Err(bad(format!(
                            "at_end: {value:?} is none of continue, stop, requeue"
                        )))
                    }
                });
            }
            "end_margin" if value == "auto" => self.end_margin = None,
            "end_margin" => self.end_margin = Some(seconds()?),
            "stop_grace" if value == "auto" => self.stop_grace = None,
            "stop_grace" => self.stop_grace = Some(seconds()?),
            "coordinator_timeout" => self.coordinator_timeout = Some(seconds()?),
            unknown => {
                let near = nearest(unknown);
                return Err(bad(format!(
                    "unknown key {unknown:?}; the nearest known key is {near}"
                )));
            }
        }
        Ok(())
    }

    /// Fills in the defaults.
    pub fn finish(
        self,
        file: Option<PathBuf>,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Config {
        let mut notes = Vec::new();
        let global = self.global.unwrap_or_else(|| "mana-ckpt".into());
        let local = self.local.unwrap_or_else(|| {
            environment("TMPDIR")
                .unwrap_or_else(|| "/tmp".into())
                .into()
        });
        if file.is_none() && self.intervals.iter().all(Option::is_none) {
            notes.push(format!(
                "no mana.conf: checkpoints by hand only (mana_status --checkpoint), global directory {}, local {}",
                global.display(),
                local.display()
            ));
        }
        let mut intervals = self.intervals.map(|i| i.unwrap_or(0.0));
        if intervals[2] > 0.0 {
            let group = std::mem::take(&mut intervals[2]);
            if intervals[1] == 0.0 || group < intervals[1] {
                intervals[1] = group;
            }
            notes.push(format!(
                "solomon_ckpt_interval = {group}: the group level is not there yet, served as partner"
            ));
        }
        let keep_all = self.keep_all.unwrap_or(2);
        Config {
            file,
            global_ckpt_dir: absolute(global),
            local_ckpt_dir: absolute(local),
            intervals,
            test_mode: self.test_mode.unwrap_or(false),
            node_size: self.node_size.unwrap_or(1),
            group_size: self.group_size.unwrap_or(4),
            keep: self.keep.map(|k| k.unwrap_or(keep_all)),
            keep_after_end: self.keep_after_end.unwrap_or(false),
            snapshot: self.snapshot.unwrap_or_default(),
            mpi: self.mpi,
            lower_preload: self.lower_preload,
            checkpoint_timeout: self.checkpoint_timeout.unwrap_or(300),
            drain_budget: self.drain_budget.unwrap_or(1 << 30),
            on_error: self.on_error.unwrap_or_default(),
            on_resubmit: self.on_resubmit.unwrap_or_default(),
            files: self.files.unwrap_or_default(),
            lost_fd: self.lost_fd.unwrap_or_default(),
            plugins: self.plugins.unwrap_or_default(),
            lines: self.lines,
            log_level: self.log_level,
            metrics_file: self.metrics_file,
            checkpoint_signals: self.checkpoint_signals,
            at_end: self.at_end.unwrap_or_default(),
            end_margin: self.end_margin,
            stop_grace: self.stop_grace,
            coordinator_timeout: self.coordinator_timeout.unwrap_or(60.0),
            notes,
        }
    }
}

fn absolute(path: PathBuf) -> PathBuf {
    // A variable of the job's, left as it is, has the whole path.
    if path.to_string_lossy().starts_with("${") {
        return path;
    }
    std::path::absolute(&path).unwrap_or(path)
}

/// What was written as for a shell, which would replace it. (A name with a `$` that is no variable's is one like others.)
fn for_a_shell(text: &str, environment: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    if text == "~" || text.starts_with("~/") {
        return Some(format!("{text:?}: write ${{HOME}} for the home directory"));
    }
    let letter = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut names = text.split('$').skip(1).map(|part| {
        let end = part.find(|c| !letter(c)).unwrap_or(part.len());
        &part[..end]
    });
    let name = names.find(|name| !name.is_empty() && environment(name).is_some())?;
    Some(format!("{text:?}: write ${{{name}}} for the variable"))
}

/// `${NAME}` replaced by the environment's value.
fn expand(text: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    if let Some(wrong) = for_a_shell(text, environment) {
        return Err(wrong);
    }
    let mut done = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        done.push_str(&rest[..at]);
        let (name, after) = rest[at + 2..]
            .split_once('}')
            .ok_or_else(|| format!("{text:?} has ${{ without }}"))?;
        done.push_str(
            &environment(name)
                .ok_or_else(|| {
                    format!("variable {name} in {text:?} is not defined here; define it, or name the path with --set")
                })?,
        );
        rest = after;
    }
    done.push_str(rest);
    if done.is_empty() {
        return Err("a path cannot be empty".into());
    }
    Ok(done)
}

fn bytes(text: &str) -> Option<u64> {
    let (digits, unit) = text.split_at(
        text.find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len()),
    );
    let scale: u64 = match unit.trim().to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "K" | "KIB" => 1 << 10,
        "M" | "MIB" => 1 << 20,
        "G" | "GIB" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(scale)
}

/// The known key with the smallest edit distance (Levenshtein).
fn nearest(word: &str) -> &'static str {
    let distance = |known: &str| {
        let mut row: Vec<usize> = (0..=known.len()).collect();
        for (i, a) in word.bytes().enumerate() {
            let mut corner = row[0];
            row[0] = i + 1;
            for (j, b) in known.bytes().enumerate() {
                let cost = corner + usize::from(a != b);
                corner = row[j + 1];
                row[j + 1] = cost.min(corner + 1).min(row[j] + 1);
            }
        }
        row[known.len()]
    };
    NAMES
        .into_iter()
        .min_by_key(|k| distance(k))
        .unwrap_or(NAMES[0])
}
