//! Names and places of files, and writing them so that they are there or not, never half.
//!
//! ```text
//!  <global>/<job>/origin, incarnation-<i>, committed-<i>, end-<i>   records of the job
//!  <global>/<job>/gen-<i>.<n>/rank-<r>.img, manifest
//!  <local>/<job>/gen-<i>.<n>/rank-<r>.img, partner/rank-<r>.img, manifest, complete-<level>
//!  <local>/<job>/superseded-<i>                              a hint (see `fence`)
//! ```
//! In test mode `<local>` is `<local_ckpt_dir>/node<k>`. Files are 0600, directories 0700. A sealed
//! file is a small record: magic, kind, length, bytes, XXH3-128 of all before.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde::de::DeserializeOwned;
use serde::Serialize;

use crate::fault::operation;
use crate::fence;
use crate::image_file::{verify, ImageName, ImageReport};
use crate::{Config, Error, GenerationId};

/// Which copy of a rank's image.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, serde::Deserialize,
)]
pub enum Copy {
    /// The node's own.
    Own,
    /// Kept for another node.
    Partner,
}

/// A directory that holds generations of one job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// The job's directory on the global file system.
    pub fn global(config: &Config, job: &str) -> Self {
        Self {
            root: config.global_ckpt_dir.join(job),
        }
    }

    /// The job's directory on (simulated) node `node`.
    pub fn local(config: &Config, job: &str, node: u32) -> Self {
        Self {
            root: Self::of_node(config, node).join(job),
        }
    }

    /// Where (simulated) node `node` has the directories of its jobs.
    pub fn of_node(config: &Config, node: u32) -> PathBuf {
        match config.test_mode {
            true => config.local_ckpt_dir.join(format!("node{node}")),
            false => config.local_ckpt_dir.clone(),
        }
    }

    /// One that is at `root`.
    pub fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Directory of a generation.
    pub fn generation(&self, id: GenerationId) -> PathBuf {
        self.root
            .join(format!("gen-{}.{}", id.incarnation, id.number))
    }

    /// A rank's image.
    pub fn image(&self, id: GenerationId, rank: u32, copy: Copy) -> PathBuf {
        let dir = self.generation(id);
        match copy {
            Copy::Own => dir,
            Copy::Partner => dir.join("partner"),
        }
        .join(format!("rank-{rank}.img"))
    }

    /// The manifest of a generation.
    pub fn manifest(&self, id: GenerationId) -> PathBuf {
        self.generation(id).join("manifest")
    }

    /// The record that a level of a generation is complete.
    pub fn complete(&self, id: GenerationId, level: crate::Level) -> PathBuf {
        self.generation(id).join(format!("complete-{level}"))
    }

    /// Generations that have a directory here, ascending.
    ///
    /// # Errors
    /// When the directory exists and cannot be listed.
    pub fn generations(&self) -> Result<Vec<GenerationId>, Error> {
        let mut all: Vec<_> = names(&self.root)?
            .iter()
            .filter_map(|n| {
                let (i, n) = n.strip_prefix("gen-")?.split_once('.')?;
                Some(GenerationId {
                    incarnation: i.parse().ok()?,
                    number: n.parse().ok()?,
                })
            })
            .collect();
        all.sort_unstable();
        Ok(all)
    }

    /// Ranks whose images of a generation are here, by copy.
    ///
    /// # Errors
    /// When a directory exists and cannot be listed.
    pub fn images(&self, id: GenerationId) -> Result<Vec<(Copy, u32)>, Error> {
        let dir = self.generation(id);
        let mut all = Vec::new();
        for (copy, dir) in [
            (Copy::Own, dir.clone()),
            (Copy::Partner, dir.join("partner")),
        ] {
            for name in names(&dir)? {
                let rank = name
                    .strip_prefix("rank-")
                    .and_then(|n| n.strip_suffix(".img"));
                all.extend(rank.and_then(|r| r.parse().ok()).map(|r| (copy, r)));
            }
        }
        all.sort_unstable();
        Ok(all)
    }

    /// Deletes files in the making that a process left here when it died, and marks of starts that were taken
    /// over from.
    ///
    /// # Errors
    /// When the directory cannot be listed or a file not deleted.
    pub(crate) fn remove_unfinished(&self) -> Result<(), Error> {
        let left = |name: &str| name.contains(UNFINISHED) || name.starts_with(fence::PREFIX);
        let all = names(&self.root)?;
        let mut unfinished = all.iter().filter(|n| left(n));
        unfinished.try_for_each(|n| remove_file(&self.root.join(n)))
    }

    /// Local storage often lies in a directory that everybody can write, under a name that can be
    /// guessed: one that somebody else has made or can write is not used. Whoever can write there
    /// decides what a restart runs.
    ///
    /// # Errors
    /// When that is so.
    pub(crate) fn refuse_if_foreign(&self) -> Result<(), Error> {
        let found = match fs::symlink_metadata(&self.root) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(Error::io("examine", &self.root))?,
        };
        let reason = if !found.is_dir() {
            "it is not a directory"
        } else if found.uid() != nix::unistd::geteuid().as_raw() {
            "it belongs to another user"
        } else if found.mode() & 0o022 != 0 {
            "others can write it"
        } else {
            return Ok(());
        };
        Err(Error::Untrusted {
            path: self.root.clone(),
            reason,
        })
    }

    /// Deletes a generation: its records first, so that a crash leaves nothing that looks valid.
    ///
    /// # Errors
    /// When something there cannot be deleted.
    pub fn remove(&self, id: GenerationId) -> Result<(), Error> {
        let dir = self.generation(id);
        remove_file(&self.manifest(id))?;
        match operation("store.delete", &dir).and_then(|()| fs::remove_dir_all(&dir)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("delete", dir)(e)),
            _ => Ok(()),
        }
    }
}

/// Names in a directory; none if it does not exist.
pub(crate) fn names(dir: &Path) -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(Error::io("list", dir))?,
    };
    Ok(entries
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok())
        .collect())
}

/// Makes a directory and those above it, 0700, durably.
pub(crate) fn make_dir(dir: &Path) -> Result<(), Error> {
    if dir.is_dir() {
        return Ok(());
    }
    let missing: Vec<&Path> = dir
        .ancestors()
        .take_while(|d| !d.as_os_str().is_empty() && !d.exists())
        .collect();
    operation("store.mkdir", dir).map_err(Error::io("create", dir))?;
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(Error::io("create", dir))?;
    missing
        .iter()
        .filter_map(|d| d.parent())
        .filter(|d| !d.as_os_str().is_empty())
        .try_for_each(sync_dir)
}

/// Deletes a file that may be gone.
pub(crate) fn remove_file(path: &Path) -> Result<(), Error> {
    match operation("store.delete", path).and_then(|()| fs::remove_file(path)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("delete", path)(e)),
        _ => Ok(()),
    }
}

/// What follows the name of a file in the making.
const UNFINISHED: &str = ".tmp-";

/// Deletes what any process left of making `path`.
pub(crate) fn remove_unfinished(path: &Path) -> Result<(), Error> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else {
        return Ok(());
    };
    let prefix = format!("{name}{UNFINISHED}");
    let all = names(dir)?;
    let mut unfinished = all.iter().filter(|n| n.starts_with(&prefix));
    unfinished.try_for_each(|n| remove_file(&dir.join(n)))
}

/// Copies an image, verified at its new place and durable.
pub(crate) fn copy_verified(
    from: &Path,
    to: &Path,
    name: &ImageName,
    report: ImageReport,
) -> Result<(), Error> {
    let tmp = temporary(to);
    let copied = create(&tmp).and_then(|mut out| {
        io::copy(&mut File::open(from)?, &mut out)?;
        operation("store.sync", &tmp)?;
        out.sync_all()
    });
    let done = copied
        .map_err(|e| match e.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => Error::NoSpace {
                path: to.into(),
                missing: report.len,
            },
            _ => Error::io("copy", to)(e),
        })
        .and_then(|()| verify(&tmp, name, Some(report)).map(drop));
    if done.is_err() {
        let _ = fs::remove_file(&tmp);
        return done;
    }
    publish(&tmp, to)
}

/// The temporary name of a file in the making, another one for each thread and node.
pub(crate) fn temporary(path: &Path) -> PathBuf {
    static NODE: OnceLock<String> = OnceLock::new();
    let node = NODE.get_or_init(|| {
        hostname::get().map_or_else(|_| String::new(), |h| h.to_string_lossy().into_owned())
    });
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!("{UNFINISHED}{node}-{}", nix::unistd::gettid()));
    path.with_file_name(name)
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), Error> {
    match operation("store.sync_dir", dir).and_then(|()| File::open(dir)?.sync_all()) {
        // Some file systems cannot do that to a directory (and need not).
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        other => other.map_err(Error::io("synchronise", dir)),
    }
}

/// Gives a durable temporary file its name, durably. If the rename reports an error after it took
/// place (network file systems), what is there decides.
pub(crate) fn publish(temporary: &Path, path: &Path) -> Result<(), Error> {
    if let Err(e) = operation("store.rename", path).and_then(|()| fs::rename(temporary, path)) {
        if temporary.exists() || !path.exists() {
            let _ = fs::remove_file(temporary);
            return Err(Error::io("rename", path)(e));
        }
    }
    path.parent().map_or(Ok(()), sync_dir)
}

/// A new, empty file at a temporary name, 0600.
pub(crate) fn create(temporary: &Path) -> io::Result<File> {
    operation("store.create", temporary)?;
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(temporary)
}

const SEAL: [u8; 8] = *b"MANAREC1";

/// Longest record read.
const RECORD_MAX: u64 = 256 << 20;

/// Writes a record under `path`, durably; what was there is replaced.
pub(crate) fn write_sealed<T: Serialize>(
    path: &Path,
    kind: [u8; 8],
    value: &T,
) -> Result<(), Error> {
    let tmp = write_temporary(path, kind, value)?;
    publish(&tmp, path)
}

/// Writes a record under `path`, durably, unless something is there: of several who try at once
/// exactly one is told that it succeeded.
pub(crate) fn create_sealed<T: Serialize>(
    path: &Path,
    kind: [u8; 8],
    value: &T,
) -> Result<bool, Error> {
    let tmp = write_temporary(path, kind, value)?;
    let linked = operation("store.link", path).and_then(|()| fs::hard_link(&tmp, path));
    // Network file systems may report an error for a link that was made: the count decides.
    let done = linked.is_ok() || fs::metadata(&tmp).is_ok_and(|m| m.nlink() == 2);
    let _ = fs::remove_file(&tmp);
    match linked {
        _ if done => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        // No hard links here: a record written in place, whole or recognisably not.
        Err(e) if matches!(e.raw_os_error(), Some(libc::EPERM | libc::EOPNOTSUPP)) => {
            match OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)
            {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
                Err(e) => return Err(Error::io("create", path)(e)),
                Ok(_) => return write_sealed(path, kind, value).map(|()| true),
            }
        }
        Err(e) => return Err(Error::io("create", path)(e)),
        Ok(()) => {}
    }
    path.parent().map_or(Ok(()), sync_dir)?;
    Ok(true)
}

fn write_temporary<T: Serialize>(path: &Path, kind: [u8; 8], value: &T) -> Result<PathBuf, Error> {
    let bytes = postcard::to_stdvec(value).map_err(|e| Error::Corrupt {
        path: path.into(),
        reason: e.to_string(),
    })?;
    let mut all = Vec::with_capacity(bytes.len() + 40);
    all.extend_from_slice(&SEAL);
    all.extend_from_slice(&kind);
    all.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    all.extend_from_slice(&bytes);
    let hash = mana_image::hash(&all);
    all.extend_from_slice(&hash);
    if let Some(dir) = path.parent() {
        make_dir(dir)?;
    }
    let tmp = temporary(path);
    let written = create(&tmp).and_then(|mut f| {
        f.write_all(&all)?;
        operation("store.sync", &tmp)?;
        f.sync_all()
    });
    if let Err(e) = written {
        let _ = fs::remove_file(&tmp);
        return Err(match e.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => Error::NoSpace {
                path: path.into(),
                missing: all.len() as u64,
            },
            _ => Error::io("write", path)(e),
        });
    }
    Ok(tmp)
}

/// Reads a record.
pub(crate) fn read_sealed<T: DeserializeOwned>(path: &Path, kind: [u8; 8]) -> Result<T, Error> {
    let corrupt = |reason: &str| Error::Corrupt {
        path: path.into(),
        reason: reason.to_owned(),
    };
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let mut all = Vec::new();
    Read::by_ref(&mut file)
        .take(RECORD_MAX)
        .read_to_end(&mut all)
        .map_err(Error::io("read", path))?;
    let (body, hash) = all
        .split_at_checked(all.len().saturating_sub(16))
        .ok_or_else(|| corrupt("too short"))?;
    if body.len() < 24 || body[..8] != SEAL {
        return Err(corrupt(if all.is_empty() {
            "empty"
        } else {
            "not a record"
        }));
    }
    if mana_image::hash(body) != *hash {
        return Err(corrupt("checksum does not match"));
    }
    if body[8..16] != kind {
        return Err(corrupt("a record of another kind"));
    }
    postcard::from_bytes(&body[24..]).map_err(|e| corrupt(&e.to_string()))
}
