//! Regular files with a name, and directories.
//!
//! What the program wrote after the checkpoint is taken back as far as a length can tell: a file it
//! has open for writing is cut to the length it had. A file written *in place* keeps new bytes under
//! an old memory; [`InPlace`] is the remedy, by [`crate::FilePolicy`].

use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{open, OpenFile};
use crate::blob::{BlobSink, Content};
use crate::context::{CaptureContext, FilePolicy, RestoreContext};
use crate::error::{StateError, Warning};
use crate::path::FilePath;

/// `_IOW(0x94, 9, int)` of linux/fs.h.
const FICLONE: libc::c_ulong = 0x4004_9409;

/// A regular file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Regular {
    /// Its path.
    pub path: FilePath,
    /// File position in bytes.
    pub position: u64,
    /// Its length at the checkpoint in bytes.
    pub length: u64,
    /// Whether its length is under the program's control (not so in `/proc` and `/sys`).
    pub stored: bool,
}

/// A directory, or anything opened with O_PATH.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    /// Its path.
    pub path: FilePath,
    /// Position in the listing.
    pub position: u64,
}

/// Saved content of a file the program writes in place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InPlace {
    /// The file.
    pub path: FilePath,
    /// Its device and inode at the checkpoint.
    pub identity: (u64, u64),
    /// Where its content is.
    pub saved: SavedFile,
}

/// Where the content of a file is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SavedFile {
    /// With the checkpoint.
    Content(Content),
    /// In another file that shares its blocks: its name in the directory of clones.
    Clone(FilePath),
}

/// Paths below /proc/PID of this process mean the new process after a restart.
fn rebased(target: &[u8]) -> FilePath {
    let own = format!("/proc/{}/", std::process::id());
    match target.strip_prefix(own.as_bytes()) {
        Some(rest) => FilePath::new([b"/proc/self/", rest].concat()),
        None => FilePath::new(target),
    }
}

pub(super) fn capture(file: &OpenFile) -> Regular {
    let path = rebased(&file.target);
    let stored = ![&b"/proc/"[..], b"/sys/"]
        .iter()
        .any(|p| path.as_bytes().starts_with(p));
    Regular {
        path,
        position: file.info.position,
        length: file.stat.st_size as u64,
        stored,
    }
}

pub(super) fn capture_directory(file: &OpenFile) -> Directory {
    Directory {
        path: rebased(&file.target),
        position: file.info.position,
    }
}

pub(super) fn restore(record: &Regular, flags: i32, number: i32) -> Result<OwnedFd, StateError> {
    let path = &record.path;
    let fd = open(path, flags).map_err(|error| missing(error, path, number))?;
    if record.stored && flags & libc::O_PATH == 0 {
        let file = File::from(fd);
        fit(&file, record, flags)?;
        seek(&file, record.position, path)?;
        return Ok(file.into());
    }
    if flags & libc::O_PATH == 0 && record.position > 0 {
        let file = File::from(fd);
        seek(&file, record.position, path)?;
        return Ok(file.into());
    }
    Ok(fd)
}

fn missing(error: StateError, path: &FilePath, fd: i32) -> StateError {
    match error {
        StateError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            StateError::FileMissing {
                fd,
                path: path.to_string(),
                source,
            }
        }
        other => other,
    }
}

/// Cuts the file to its recorded length, and refuses one that is shorter.
fn fit(file: &File, record: &Regular, flags: i32) -> Result<(), StateError> {
    let path = &record.path;
    let found = file
        .metadata()
        .map_err(|e| StateError::io("read the length of", path, e))?
        .len();
    if found < record.length {
        let expected = record.length;
        return Err(StateError::FileShorter {
            path: path.to_string(),
            expected,
            found,
        });
    }
    let writable = flags & libc::O_ACCMODE != libc::O_RDONLY;
    if found > record.length && writable {
        file.set_len(record.length)
            .map_err(|e| StateError::io("truncate", path, e))?;
    }
    Ok(())
}

fn seek(file: &File, position: u64, path: &FilePath) -> Result<(), StateError> {
    // SAFETY: lseek touches no memory.
    let at = unsafe { libc::lseek(file.as_raw_fd(), position as i64, libc::SEEK_SET) };
    if at < 0 {
        return Err(StateError::last("set the position of", path));
    }
    Ok(())
}

pub(super) fn restore_directory(
    record: &Directory,
    flags: i32,
    number: i32,
) -> Result<OwnedFd, StateError> {
    let fd = open(&record.path, flags).map_err(|e| missing(e, &record.path, number))?;
    if record.position == 0 || flags & libc::O_PATH != 0 {
        return Ok(fd);
    }
    let file = File::from(fd);
    seek(&file, record.position, &record.path)?;
    Ok(file.into())
}

/// Whether a description's writes may change bytes that are already in the file.
pub(super) fn writes_in_place(record: &Regular, flags: i32) -> bool {
    let access = flags & libc::O_ACCMODE;
    let appends = flags & libc::O_APPEND != 0;
    let sequential = access == libc::O_WRONLY && record.position == record.length;
    record.stored
        && flags & libc::O_PATH == 0
        && access != libc::O_RDONLY
        && record.length > 0
        && !appends
        && !sequential
}

/// Saves the content of a file written in place, or warns, by the policy of `ctx`.
pub(crate) fn save_in_place(
    ctx: &CaptureContext<'_>,
    path: &FilePath,
    known: &mut Vec<InPlace>,
    blobs: &mut dyn BlobSink,
    warnings: &mut Vec<Warning>,
) -> Result<(), StateError> {
    let reading = |e| StateError::io("read", path, e);
    let metadata = match fs::metadata(path.as_path()) {
        Ok(metadata) => metadata,
        Err(e) => return Err(StateError::io("look at", path, e)),
    };
    use std::os::unix::fs::MetadataExt;
    let identity = (metadata.dev(), metadata.ino());
    if known.iter().any(|k| k.identity == identity) {
        return Ok(());
    }
    if ctx.files == FilePolicy::Warn {
        let message = "is written in place: after a restart it may be newer than the program's \
                       memory (files = \"copy\" or \"reflink\" saves it with each checkpoint)";
        let warning = Warning::new(path, message);
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
        return Ok(());
    }
    let file = File::open(path.as_path()).map_err(reading)?;
    if let (FilePolicy::Reflink, Some(directory)) = (ctx.files, ctx.clones) {
        if let Some(clone) = clone_into(&file, directory, identity) {
            known.push(InPlace {
                path: path.clone(),
                identity,
                saved: SavedFile::Clone(clone),
            });
            return Ok(());
        }
    }
    if metadata.len() > ctx.max_saved_file {
        let message = format!(
            "is written in place and too large to save ({} bytes): after a restart it may be \
             newer than the program's memory",
            metadata.len()
        );
        warnings.push(Warning::new(path, message));
        return Ok(());
    }
    let content = Content::of_file(&file, metadata.len(), &path.to_string(), blobs)?;
    known.push(InPlace {
        path: path.clone(),
        identity,
        saved: SavedFile::Content(content),
    });
    Ok(())
}

/// Makes a durable file in `directory` that shares the blocks of `file`: its name; `None` where the file systems
/// cannot.
fn clone_into(file: &File, directory: &Path, (device, inode): (u64, u64)) -> Option<FilePath> {
    let name = format!("file-{device:x}-{inode:x}");
    let path = directory.join(&name);
    let mut make = fs::DirBuilder::new();
    make.recursive(true).mode(0o700).create(directory).ok()?;
    let _ = fs::remove_file(&path);
    let mut new = File::options();
    let clone = new
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .ok()?;
    let stored = ficlone(&clone, file)
        && clone.sync_all().is_ok()
        && File::open(directory).and_then(|d| d.sync_all()).is_ok();
    if stored {
        return Some(FilePath::from(Path::new(&name)));
    }
    let _ = fs::remove_file(&path);
    None
}

fn ficlone(to: &File, from: &File) -> bool {
    // SAFETY: FICLONE takes a descriptor number.
    unsafe { libc::ioctl(to.as_raw_fd(), FICLONE, from.as_raw_fd()) == 0 }
}

/// Puts the saved content of a file back.
pub(super) fn restore_in_place(
    record: &InPlace,
    ctx: &RestoreContext<'_>,
) -> Result<(), StateError> {
    let path = &record.path;
    let mut options = File::options();
    let file = options
        .write(true)
        .create(true)
        .truncate(false)
        .open(path.as_path());
    let file = file.map_err(|e| StateError::io("open", path, e))?;
    match &record.saved {
        SavedFile::Content(content) => content.write_to(&file, &path.to_string(), ctx.blobs),
        SavedFile::Clone(name) => {
            let clone = match ctx.clones {
                Some(directory) => FilePath::from(&*directory.join(name.as_path())),
                None => name.clone(),
            };
            let mut saved = File::open(clone.as_path())
                .map_err(|e| StateError::io("open the saved copy", &clone, e))?;
            // Other ranks do the same: the file is at no instant shorter than it will be.
            let cut = saved.metadata().and_then(|m| file.set_len(m.len()));
            cut.map_err(|e| StateError::io("set the length of", path, e))?;
            if ficlone(&file, &saved) {
                return Ok(());
            }
            let copied = std::io::copy(&mut saved, &mut &file);
            copied
                .map(drop)
                .map_err(|e| StateError::io("write", path, e))
        }
    }
}
