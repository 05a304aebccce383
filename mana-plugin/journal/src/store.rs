//! The directory of records: claims, and how long they stay.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use mana_control::GenerationId;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::open;

/// Bytes of a block.
pub const BLOCK: u64 = 1 << 20;
/// Directory of hidden files that the library has made.
const LITTER: &str = "files-litter";
const PREFIX: &str = "files-";
/// The newest generation of which a record could not be made.
const LOST: &str = "files-lost";

/// What a file was when a generation was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Its path.
    pub path: Vec<u8>,
    /// Its length and inode; `None` if it did not exist.
    pub was: Option<(u64, u64)>,
}

/// Name of a generation's directory.
pub fn directory(generation: GenerationId) -> String {
    format!("{PREFIX}{}.{}", generation.incarnation, generation.number)
}

/// Where a rank keeps clones of files that its program writes in place without MPI, with the records of the
/// generation and for as long.
pub fn clones(root: &Path, generation: GenerationId, rank: u32) -> PathBuf {
    let kept = root.join(directory(generation)).join("clones");
    kept.join(rank.to_string())
}

/// Where there are notes and no records: of the time before the first checkpoint.
pub const BEFORE_ALL: GenerationId = GenerationId {
    incarnation: 0,
    number: 0,
};

/// Name of the note that a file is gone: nobody needs it on stable storage.
pub fn gone(inode: u64) -> String {
    format!("gone-{inode}")
}

/// Name of a file's directory in it.
pub fn key(path: &Path) -> String {
    format!("{:016x}", xxh3_64(path.as_os_str().as_bytes()))
}

/// A path from bytes.
pub fn path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsString::from_vec(bytes.to_vec()))
}

/// Makes a directory of records.
pub fn make(dir: &Path) -> io::Result<()> {
    let mut new = fs::DirBuilder::new();
    new.recursive(true).mode(0o700).create(dir)
}

/// Makes a record durably, unless there is one; whether it is ours.
pub fn claim(dir: &Path, name: &str, content: &[u8]) -> io::Result<bool> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let target = dir.join(name);
    make(dir)?;
    let host = hostname::get().unwrap_or_default();
    let own = dir.join(format!(
        ".new-{}-{}-{}",
        host.to_string_lossy(),
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    ));
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&own)?;
    let made = file
        .write_all(&xxh3_64(content).to_le_bytes())
        .and_then(|()| file.write_all(content))
        .and_then(|()| file.sync_data())
        .and_then(|()| match fs::hard_link(&own, &target) {
            Ok(()) => File::open(dir).and_then(|d| d.sync_all()).map(|()| true),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(e) => Err(e),
        });
    let _ = fs::remove_file(&own);
    made
}

/// Reads a record.
pub fn read(dir: &Path, name: &str) -> io::Result<Option<Vec<u8>>> {
    let mut file = match File::open(dir.join(name)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let (mut sum, mut content) = ([0; 8], Vec::new());
    file.read_exact(&mut sum)?;
    file.read_to_end(&mut content)?;
    if xxh3_64(&content).to_le_bytes() != sum {
        let damaged = format!("{} is damaged", dir.join(name).display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, damaged));
    }
    Ok(Some(content))
}

/// The origin of a file, claimed now unless it was before.
pub fn claim_origin(dir: &Path, origin: Origin) -> io::Result<Origin> {
    let bytes = postcard::to_stdvec(&origin).map_err(io::Error::other)?;
    if claim(dir, "origin", &bytes)? {
        return Ok(origin);
    }
    read_origin(dir)?.ok_or_else(|| io::Error::other("a record has vanished"))
}

/// The origin of a file.
pub fn read_origin(dir: &Path) -> io::Result<Option<Origin>> {
    match read(dir, "origin")? {
        None => Ok(None),
        Some(bytes) => postcard::from_bytes(&bytes)
            .map(Some)
            .map_err(io::Error::other),
    }
}

/// Where the note is that records are missing.
pub fn note(root: &Path) -> PathBuf {
    root.join(LOST)
}

/// What the note holds; all ranks write the same for a generation, so they may do it at once.
fn noted(generation: GenerationId) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&generation.incarnation.to_le_bytes());
    bytes[4..].copy_from_slice(&generation.number.to_le_bytes());
    bytes
}

/// Takes the room for the note, so that a full disk cannot prevent it.
pub fn reserve(root: &Path) -> io::Result<()> {
    match note(root).exists() {
        true => Ok(()),
        false => claim(root, LOST, &[0; 12]).map(|_| ()),
    }
}

/// A record of `generation` could not be made: neither it nor an older one is complete.
pub fn lose(root: &Path, generation: GenerationId) -> io::Result<()> {
    let bytes = noted(generation);
    let file = match File::options().write(true).open(note(root)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return claim(root, LOST, &bytes).map(|_| ());
        }
        other => other?,
    };
    let whole = [&xxh3_64(&bytes).to_le_bytes()[..], &bytes].concat();
    file.write_all_at(&whole, 0)?;
    file.sync_data()
}

/// The newest generation of which a record is missing.
pub fn lost(root: &Path) -> io::Result<Option<GenerationId>> {
    let Some(bytes) = read(root, LOST)? else {
        return Ok(None);
    };
    let number = |from: usize, len: usize| {
        let mut wide = [0; 8];
        let part = bytes.get(from..from + len).unwrap_or_default();
        wide[..part.len()].copy_from_slice(part);
        u64::from_le_bytes(wide)
    };
    let (incarnation, number) = (number(0, 4) as u32, number(4, 8));
    Ok((incarnation > 0).then_some(GenerationId {
        incarnation,
        number,
    }))
}

fn litter_key(root: &Path, path: &Path) -> (PathBuf, String) {
    (root.join(LITTER), key(path))
}

/// The library has made a file that nobody needs after its end.
pub fn note_litter(root: &Path, path: &Path) {
    let (dir, name) = litter_key(root, path);
    if let Err(e) = claim(&dir, &name, path.as_os_str().as_bytes()) {
        log::debug!("{}: {e}", dir.display());
    }
}

/// It has removed it.
pub fn forget_litter(root: &Path, path: &Path) {
    let (dir, name) = litter_key(root, path);
    let _ = fs::remove_file(dir.join(name));
}

/// Removes what dead processes have left.
pub fn remove_litter(root: &Path) {
    let dir = root.join(LITTER);
    for name in names(&dir) {
        if let Ok(Some(bytes)) = read(&dir, &name) {
            let _ = fs::remove_file(path(&bytes));
        }
        let _ = fs::remove_file(dir.join(name));
    }
}

/// Names in a directory, but for those being made.
pub fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|n| !n.starts_with('.'))
        .collect()
}

/// Generations that have records, ascending.
pub fn generations(root: &Path) -> Vec<GenerationId> {
    let parse = |name: &String| {
        let (i, n) = name.strip_prefix(PREFIX)?.split_once('.')?;
        Some(GenerationId {
            incarnation: i.parse().ok()?,
            number: n.parse().ok()?,
        })
    };
    let mut all: Vec<_> = names(root).iter().filter_map(parse).collect();
    all.sort_unstable();
    all
}

/// Deletes a generation's records, and what was kept of deleted files. Another process may do the same.
pub fn remove(root: &Path, generation: GenerationId) -> io::Result<()> {
    let dir = root.join(directory(generation));
    for name in names(&dir) {
        open::forget(&dir.join(&name))?;
        if let Some(aside) = read(&dir.join(name), "aside")? {
            match fs::remove_file(path(&aside)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
    }
    match fs::remove_dir_all(&dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Deletes what no generation needs from which the job can be resumed: `oldest` is the first of them.
pub fn prune(root: &Path, oldest: GenerationId) -> io::Result<()> {
    for generation in generations(root) {
        if generation < oldest {
            remove(root, generation)?;
        }
    }
    Ok(())
}

/// Deletes everything: the job begins anew, or has ended.
pub fn forget_all(root: &Path) {
    for generation in generations(root) {
        if let Err(e) = remove(root, generation) {
            log::warn!(
                "{}: records of files are not deleted: {e}",
                root.join(directory(generation)).display()
            );
        }
    }
    remove_litter(root);
    let _ = fs::remove_dir(root.join(LITTER));
    let _ = fs::remove_file(note(root));
}
