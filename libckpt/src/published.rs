//! Keys and values a program publishes while it runs, kept for the report.
//!
//! `<global>/<job>/published/rank-<r>.jsonl`: one line of JSON for each value, in order of time, over all
//! starts of the job. Nothing depends on it: a line that cannot be read is left out.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Error;

/// Longest key, in bytes.
pub const MAX_KEY: usize = 100;
/// Longest value, in bytes.
pub const MAX_VALUE: usize = 4000;
/// Longest file of a rank, in bytes; what comes then is not kept.
pub const MAX_FILE: u64 = 16 << 20;

/// One value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Which start of the job.
    pub incarnation: u32,
    /// World rank.
    pub rank: u32,
    /// Seconds since 1970.
    pub time: f64,
    /// What it is.
    pub key: String,
    /// The value.
    pub value: String,
}

fn directory(root: &Path) -> PathBuf {
    root.join("published")
}

/// Adds a value; `root`: the job's directory on the global file system.
///
/// # Errors
/// When the file cannot be written, or is full.
pub fn append(root: &Path, entry: &Entry) -> Result<(), Error> {
    let dir = directory(root);
    let path = dir.join(format!("rank-{}.jsonl", entry.rank));
    let io = |operation| {
        let path = path.clone();
        move |source| Error::Io {
            operation,
            path,
            source,
        }
    };
    match DirBuilder::new().mode(0o700).create(&dir) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(io("make the directory of")(e));
        }
        _ => {}
    }
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&path)
        .map_err(io("open"))?;
    let len = file.metadata().map_err(io("examine"))?.len();
    if len > MAX_FILE {
        return Err(io("add to")(std::io::Error::other(
            "it is full; further values the program publishes are not kept",
        )));
    }
    let mut line = serde_json::to_vec(entry).map_err(|e| io("encode for")(e.into()))?;
    line.push(b'\n');
    file.write_all(&line).map_err(io("write"))
}

/// All values of a job, by time.
///
/// # Errors
/// When the directory or a file exists and cannot be read.
pub fn read(root: &Path) -> Result<Vec<Entry>, Error> {
    let dir = directory(root);
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io {
            operation: "read",
            path,
            source,
        }
    };
    let entries = match fs::read_dir(&dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(io(&dir))?,
    };
    let mut all: Vec<Entry> = Vec::new();
    for entry in entries {
        let path = entry.map_err(io(&dir))?.path();
        let text = fs::read_to_string(&path).map_err(io(&path))?;
        all.extend(text.lines().filter_map(|l| serde_json::from_str(l).ok()));
    }
    all.sort_by(|a, b| a.time.total_cmp(&b.time));
    Ok(all)
}

/// The last value of each key.
#[must_use]
pub fn newest(all: &[Entry]) -> BTreeMap<&str, &Entry> {
    all.iter().map(|e| (e.key.as_str(), e)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_in_order() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(read(dir.path()).expect("nothing"), []);
        let entry = |rank, time, value: &str| Entry {
            incarnation: 1,
            rank,
            time,
            key: "step".into(),
            value: value.into(),
        };
        for e in [
            entry(0, 1.0, "a"),
            entry(1, 2.0, "b"),
            entry(0, 3.0, "\"c\""),
        ] {
            append(dir.path(), &e).expect("written");
        }
        let file = directory(dir.path()).join("rank-1.jsonl");
        let mut broken = OpenOptions::new().append(true).open(file).expect("there");
        broken.write_all(b"{\"incarnation\":").expect("written");
        let all = read(dir.path()).expect("read");
        let values: Vec<_> = all.iter().map(|e| e.value.as_str()).collect();
        assert_eq!(values, ["a", "b", "\"c\""]);
        assert_eq!(newest(&all)["step"].value, "\"c\"");
    }
}
