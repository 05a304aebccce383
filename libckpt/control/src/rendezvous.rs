//! The file that tells tools where a job's coordinator listens, and proves their right to talk to it.
//!
//! `<global_ckpt_dir>/<job>/coordinator.json`, mode 0600, replaced atomically at every start of the
//! job, removed at its end. Whoever can read it is the job's owner: it holds the secret. A file that
//! others could have read or written is refused.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{ControlError, Secret};

/// Longest file accepted.
const MAX_BYTES: u64 = 64 * 1024;

/// Where a coordinator is and how to prove membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendezvous {
    /// Identity of the job.
    pub job: String,
    /// Which start of it.
    pub incarnation: u32,
    /// `host:port` in the order they should be tried.
    pub addresses: Vec<String>,
    /// The job's secret.
    pub secret: Secret,
    /// Host the coordinator runs on.
    pub host: String,
    /// Its process id there.
    pub pid: u32,
}

/// The name of this host, as the file has it.
pub(crate) fn this_host() -> String {
    nix::unistd::gethostname()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_else(|_| "localhost".into())
}

#[derive(Serialize, Deserialize)]
struct OnDisk {
    version: u32,
    job: String,
    incarnation: u32,
    addresses: Vec<String>,
    secret: String,
    host: String,
    pid: u32,
}

impl Rendezvous {
    /// The file's name within the job's directory.
    pub const FILE_NAME: &'static str = "coordinator.json";

    /// The file's path for a job.
    pub fn path(global_ckpt_dir: &Path, job: &str) -> PathBuf {
        global_ckpt_dir.join(job).join(Self::FILE_NAME)
    }

    /// Writes the file with mode 0600, replacing an older one in one step.
    ///
    /// # Errors
    /// When the directory is missing or cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), ControlError> {
        let on_disk = OnDisk {
            version: 1,
            job: self.job.clone(),
            incarnation: self.incarnation,
            addresses: self.addresses.clone(),
            secret: self.secret.to_hex(),
            host: self.host.clone(),
            pid: self.pid,
        };
        let text = serde_json::to_vec_pretty(&on_disk)
            .map_err(|e| ControlError::io("encode", path.display(), io::Error::other(e)))?;
        let temporary = path.with_extension(format!("json.{}.{}", self.host, self.pid));
        let written = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .and_then(|mut file| {
                // The mode above does not apply to a file that a crash left behind.
                file.set_permissions(fs::Permissions::from_mode(0o600))?;
                file.write_all(&text)?;
                file.sync_all()
            })
            .and_then(|()| fs::rename(&temporary, path));
        written.map_err(|e| {
            let _ = fs::remove_file(&temporary);
            ControlError::io("write", path.display(), e)
        })
    }

    /// Reads the file.
    ///
    /// # Errors
    /// [`ControlError::NoRendezvous`] when it is missing, [`ControlError::BadRendezvous`] when it
    /// belongs to somebody else, could be read by others, or makes no sense.
    pub fn read(path: &Path) -> Result<Self, ControlError> {
        let bad = |reason: String| ControlError::BadRendezvous {
            path: path.to_owned(),
            reason,
        };
        let file = match fs::OpenOptions::new().read(true).open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(ControlError::NoRendezvous {
                    path: path.to_owned(),
                })
            }
            Err(e) => return Err(ControlError::io("open", path.display(), e)),
        };
        let facts = file
            .metadata()
            .map_err(|e| ControlError::io("stat", path.display(), e))?;
        let me = nix::unistd::Uid::effective();
        if !facts.is_file() {
            return Err(bad("it is not a regular file".into()));
        }
        if facts.uid() != me.as_raw() && !me.is_root() {
            return Err(bad(format!(
                "it belongs to user {}, not to user {me}",
                facts.uid()
            )));
        }
        if facts.mode() & 0o077 != 0 {
            return Err(bad(format!(
                "its mode is {:o}: others may have read the secret (expected 600)",
                facts.mode() & 0o777
            )));
        }
        if facts.len() > MAX_BYTES {
            return Err(bad(format!("it is {} bytes long", facts.len())));
        }
        let mut text = Vec::new();
        file.take(MAX_BYTES)
            .read_to_end(&mut text)
            .map_err(|e| ControlError::io("read", path.display(), e))?;
        let on_disk: OnDisk = serde_json::from_slice(&text).map_err(|e| bad(e.to_string()))?;
        if on_disk.version != 1 {
            return Err(bad(format!(
                "it has version {}, this program knows version 1",
                on_disk.version
            )));
        }
        let secret = Secret::from_hex(&on_disk.secret)
            .ok_or_else(|| bad("the secret is not 64 hexadecimal digits".into()))?;
        Ok(Self {
            job: on_disk.job,
            incarnation: on_disk.incarnation,
            addresses: on_disk.addresses,
            secret,
            host: on_disk.host,
            pid: on_disk.pid,
        })
    }

    /// Removes the file if it is still this coordinator's (a later start may have replaced it).
    pub fn remove(&self, path: &Path) {
        if Self::read(path).is_ok_and(|there| &there == self) {
            // Nothing depends on it: a tool that finds a stale file is told that nobody answers.
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Rendezvous {
        Rendezvous {
            job: "4711".into(),
            incarnation: 2,
            addresses: vec!["10.0.0.1:4242".into()],
            secret: Secret::from_bytes([7; 32]),
            host: "n1".into(),
            pid: 99,
        }
    }

    #[test]
    fn there_and_back_owner_only() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join(Rendezvous::FILE_NAME);
        let sample = sample();
        sample.write(&path).expect("write");
        let mode = fs::metadata(&path).expect("stat").mode() & 0o777;
        assert_eq!(mode, 0o600);
        assert_eq!(Rendezvous::read(&path).expect("read"), sample);
        assert_eq!(
            fs::read_dir(dir.path()).expect("list").count(),
            1,
            "no debris"
        );
        let newer = Rendezvous {
            incarnation: 3,
            ..sample.clone()
        };
        newer.write(&path).expect("replace");
        sample.remove(&path);
        assert_eq!(Rendezvous::read(&path).expect("still there"), newer);
        newer.remove(&path);
        assert!(matches!(
            Rendezvous::read(&path),
            Err(ControlError::NoRendezvous { .. })
        ));
    }

    #[test]
    fn readable_by_others_is_refused() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join(Rendezvous::FILE_NAME);
        sample().write(&path).expect("write");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("chmod");
        let error = Rendezvous::read(&path)
            .expect_err("must be refused")
            .to_string();
        assert!(error.contains("640"), "{error}");
    }

    #[test]
    fn nonsense_is_refused() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join(Rendezvous::FILE_NAME);
        sample().write(&path).expect("write");
        for text in ["", "{}", "[1,2", "\u{0}\u{0}"] {
            fs::write(&path, text).expect("overwrite");
            assert!(
                matches!(
                    Rendezvous::read(&path),
                    Err(ControlError::BadRendezvous { .. })
                ),
                "{text:?}"
            );
        }
    }
}
