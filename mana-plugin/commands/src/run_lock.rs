//! Who stays with a run of `mana start`: one process, on whichever host.
//!
//! It holds `flock` on the file `lock`; its end, however it comes, gives that up. Some file systems have no such
//! locks (Lustre mounted without `flock`, NFS without its lock service). There the process leaves a record,
//! `holder-<n>`, created exclusively, and takes it away when it ends. The record of one that could not do that
//! (it was killed, the node was lost) tells host, boot, process and its start:
//!
//! | the record is of | the run |
//! |---|---|
//! | a process of this host that lives | runs |
//! | one of this host that has ended, or of an earlier boot | does not run: the next number is taken |
//! | another host (or another container of this one) | may run: whoever knows better deletes the record |

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::message::{short_host, Failure};

/// What the names of records begin with.
const PREFIX: &str = "holder-";

/// Held while a run runs.
#[derive(Debug)]
pub enum Lock {
    /// By the file system.
    Locked(#[allow(dead_code, reason = "its descriptor is the lock")] File),
    /// By a record.
    Recorded(PathBuf),
}

/// An attempt to take it.
#[derive(Debug)]
pub enum Attempt {
    /// It is ours.
    Taken(Lock),
    /// The run runs.
    Held,
    /// Somebody has left a record that cannot be checked from here.
    Elsewhere(Unknown),
}

/// A record that cannot be checked.
#[derive(Debug)]
pub struct Unknown {
    path: PathBuf,
    holder: Holder,
}

impl std::fmt::Display for Unknown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "process {} on {} stays with it, and this file system has no locks to see whether it still does: if it does not, delete {}",
            self.holder.process,
            self.holder.host,
            self.path.display()
        )
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Self::Recorded(path) = self {
            let _ = fs::remove_file(path);
        }
    }
}

/// A record's content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Holder {
    host: String,
    /// The kernel's word for this boot of it.
    boot: String,
    /// In which process numbers mean the same.
    namespace: String,
    process: u32,
    /// In ticks since the boot.
    started: u64,
}

impl Holder {
    fn own() -> Self {
        let process = std::process::id();
        Self {
            host: short_host(),
            boot: fs::read_to_string("/proc/sys/kernel/random/boot_id")
                .unwrap_or_default()
                .trim_end()
                .to_owned(),
            namespace: fs::read_link("/proc/self/ns/pid")
                .map(|link| link.display().to_string())
                .unwrap_or_default(),
            process,
            started: started(process).unwrap_or(0),
        }
    }

    /// Whether it lives; `None`: nobody here can tell.
    fn lives(&self) -> Option<bool> {
        let own = Self::own();
        if self.host != own.host {
            return None;
        }
        if self.boot != own.boot {
            return Some(false);
        }
        (self.namespace == own.namespace).then(|| started(self.process) == Some(self.started))
    }
}

/// When a process that has not ended was started.
fn started(process: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let mut words = stat.rsplit(')').next()?.split_whitespace();
    let state = words.next()?;
    // The 22nd, of which the state was the third.
    let started = words.nth(18)?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(started)
}

/// Takes the lock of the run whose directory this is.
///
/// # Errors
/// When the directory cannot be used; not because the run runs.
pub fn take(directory: &Path) -> Result<Attempt, Failure> {
    take_by(directory, flock)
}

fn flock(file: &File) -> io::Result<()> {
    loop {
        // SAFETY: a descriptor of ours.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
            return Ok(());
        }
        let e = io::Error::last_os_error();
        if e.kind() != io::ErrorKind::Interrupted {
            return Err(e);
        }
    }
}

fn take_by(directory: &Path, flock: impl Fn(&File) -> io::Result<()>) -> Result<Attempt, Failure> {
    let path = directory.join("lock");
    let failed = |operation: &str, path: &Path, e: io::Error| {
        Failure::new(format!("cannot {operation} {}: {e}", path.display()))
    };
    let opened = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path);
    let file = opened.map_err(|e| failed("open", &path, e))?;
    match flock(&file) {
        Ok(()) => Ok(Attempt::Taken(Lock::Locked(file))),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(Attempt::Held),
        Err(e) if is_unsupported(&e) => {
            record(directory).map_err(|e| failed("record who runs it in", directory, e))
        }
        Err(e) => Err(failed("lock", &path, e)),
    }
}

/// Whether it says that the file system has no locks.
fn is_unsupported(e: &io::Error) -> bool {
    matches!(
        e.raw_os_error(),
        Some(libc::ENOSYS | libc::ENOLCK | libc::EOPNOTSUPP)
    )
}

/// The records in a directory, the last one's number first.
fn records(directory: &Path) -> io::Result<Vec<u64>> {
    let names = fs::read_dir(directory)?
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok());
    let mut numbers: Vec<u64> = names
        .filter_map(|name| name.strip_prefix(PREFIX)?.parse().ok())
        .collect();
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    Ok(numbers)
}

fn record(directory: &Path) -> io::Result<Attempt> {
    let path = |number: u64| directory.join(format!("{PREFIX}{number}"));
    let older = records(directory)?;
    let newest = older.first().copied().unwrap_or(0);
    if newest > 0 {
        let path = path(newest);
        let found = match fs::read_to_string(&path) {
            // Its holder has just ended.
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            other => Some(other?),
        };
        // One that cannot be understood is being written.
        let holder = found.map(|text| toml::from_str::<Holder>(&text));
        match holder.map(|h| h.map(|h| (h.lives(), h))) {
            None | Some(Ok((Some(false), _))) => {}
            Some(Err(_) | Ok((Some(true), _))) => return Ok(Attempt::Held),
            Some(Ok((None, holder))) => return Ok(Attempt::Elsewhere(Unknown { path, holder })),
        }
    }
    let path = path(newest + 1);
    let created = OpenOptions::new().write(true).create_new(true).open(&path);
    let mut file = match created {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(Attempt::Held),
        other => other?,
    };
    let lock = Lock::Recorded(path);
    let text = toml::to_string(&Holder::own()).map_err(io::Error::other)?;
    file.write_all(text.as_bytes())?;
    for number in older {
        let _ = fs::remove_file(directory.join(format!("{PREFIX}{number}")));
    }
    Ok(Attempt::Taken(lock))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn without_locks(directory: &Path) -> Attempt {
        take_by(directory, |_| {
            Err(io::Error::from_raw_os_error(libc::ENOSYS))
        })
        .expect("taken")
    }

    fn leave(directory: &Path, holder: &Holder) {
        let text = toml::to_string(holder).expect("text");
        fs::write(directory.join("holder-7"), text).expect("written");
    }

    #[test]
    fn only_a_lock_that_is_held_says_that_the_run_runs() {
        let dir = tempfile::tempdir().expect("a directory");
        let Attempt::Taken(lock) = take(dir.path()).expect("works") else {
            panic!("nobody has it");
        };
        assert!(matches!(lock, Lock::Locked(_)));
        assert!(matches!(take(dir.path()), Ok(Attempt::Held)));
        drop(lock);
        assert!(matches!(take(dir.path()), Ok(Attempt::Taken(_))));
        let broken = |_: &File| Err(io::Error::from_raw_os_error(libc::EIO));
        let text = take_by(dir.path(), broken).expect_err("an error").text;
        assert!(text.contains("cannot lock"), "{text}");
    }

    #[test]
    fn without_locks_a_record_says_it_as_long_as_its_process_lives() {
        let dir = tempfile::tempdir().expect("a directory");
        let Attempt::Taken(lock) = without_locks(dir.path()) else {
            panic!("nobody has it");
        };
        assert!(matches!(&lock, Lock::Recorded(path) if path.is_file()));
        assert!(matches!(without_locks(dir.path()), Attempt::Held));
        drop(lock);
        assert!(records(dir.path()).expect("listed").is_empty());
        // One that was killed could not take it away.
        let mut ended = std::process::Command::new("true").spawn().expect("started");
        let dead = Holder {
            process: ended.id(),
            started: started(ended.id()).unwrap_or(1),
            ..Holder::own()
        };
        ended.wait().expect("ended");
        leave(dir.path(), &dead);
        let taken = without_locks(dir.path());
        assert!(matches!(taken, Attempt::Taken(_)), "{taken:?}");
        assert_eq!(records(dir.path()).expect("listed"), [8]);
        drop(taken);
        // The number is used again by another process, or the machine was started again.
        let own = Holder::own();
        for other in [
            Holder {
                started: own.started + 1,
                ..own.clone()
            },
            Holder {
                boot: "another".into(),
                ..own.clone()
            },
        ] {
            leave(dir.path(), &other);
            assert!(matches!(without_locks(dir.path()), Attempt::Taken(_)));
        }
    }

    #[test]
    fn a_record_of_another_host_is_for_the_user_to_judge() {
        let dir = tempfile::tempdir().expect("a directory");
        let own = Holder::own();
        for other in [
            Holder {
                host: "n17".into(),
                ..own.clone()
            },
            Holder {
                namespace: "another".into(),
                ..own.clone()
            },
        ] {
            leave(dir.path(), &other);
            let Attempt::Elsewhere(unknown) = without_locks(dir.path()) else {
                panic!("taken from {other:?}");
            };
            let text = unknown.to_string();
            assert!(
                text.contains(&other.host) && text.contains("delete"),
                "{text}"
            );
        }
        // Half of one.
        fs::write(dir.path().join("holder-7"), "host = \"n1").expect("written");
        assert!(matches!(without_locks(dir.path()), Attempt::Held));
    }
}
