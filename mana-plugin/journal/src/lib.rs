//! What is written to the program's files is noted, so that a resume can take it back (decision 004).
//!
//! Lower half, threads of the program inside MPI. The library's own calls to the C library come by here,
//! so views, data sieving and two-phase collectives are plain writes of bytes. Only files that were named
//! in `MPI_File_open` or `MPI_File_delete` are looked at.
//!
//! ```text
//!  <global>/<job>/files-<i>.<n>/<key>/origin    what the file was when generation i.n was taken
//!                                    /aside     where it is kept if it was deleted since
//!                                    /block-<k> what its block k was, saved before the first overwrite
//!                                    /gone-<i>  nobody needs the file with inode i
//!                                    /open, path  a second name of a file that was open then, and its name
//!                             /clones/<rank>/... files written without MPI, by `files = "reflink"`
//!  <global>/<job>/files-litter/<key>            a hidden file that the library has made
//!                /files-lost                    the newest generation of which a record could not be made
//!                /files-on-<volume>/...         the same for files that only one node has
//! ```
//! All ranks write there, from all nodes. Each of these is claimed: it is made under another name, is
//! durable, and gets its own by link(2), which one rank alone can do. A rank goes on to write only when
//! the claim exists, its own or another's; so whoever has won has read what was there before.
//!
//! | module | holds |
//! |---|---|
//! | `place` | the job's directory, and the generation that is current |
//! | `volume` | which files are one node's only |
//! | `store` | the directory: claims, records, what is kept and for how long |
//! | `open` | files that are open when a generation is taken, should they be renamed |
//! | `watched` | one file: what is saved before it changes |
//! | `restore` | a resume puts everything back |
//! | `unstored` | what must reach stable storage before a generation is committed |

mod open;
mod place;
mod restore;
mod store;
#[cfg(test)]
mod tests;
mod unstored;
mod volume;
mod watched;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, OsStr};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use place::Place;
pub use restore::{check, concerned, restore, Error};
pub use store::{clones, forget_all, prune};
pub use unstored::Batch;
use unstored::{Identity, Unstored, Written};
pub use volume::{all as volumes, forget as forget_volumes, Machine, Near, Records, Volume};
use watched::Watched;

/// A descriptor of the library that can write.
#[derive(Clone, Debug)]
struct Descriptor {
    file: Arc<Watched>,
    identity: Identity,
    written: Arc<Written>,
}

/// Descriptors can be watched up to this number.
const MOST: usize = 1 << 16;

/// What a process knows of the files that its program has named to MPI.
#[derive(Debug)]
pub struct Journal {
    /// Whether any file was named.
    any: AtomicBool,
    /// As the program named them, from the root.
    names: Mutex<BTreeSet<PathBuf>>,
    place: Mutex<Option<Place>>,
    descriptors: Mutex<BTreeMap<i32, Descriptor>>,
    /// By resolved path.
    files: Mutex<BTreeMap<PathBuf, Arc<Watched>>>,
    /// Directories of files, and the volumes of those that only this node has.
    directories: Mutex<BTreeMap<PathBuf, Option<String>>>,
    /// Hidden files the library has made and not removed.
    litter: Mutex<BTreeSet<PathBuf>>,
    unstored: Mutex<Unstored>,
    /// The numbers in `descriptors`, one bit each.
    watched: [AtomicU64; MOST / 64],
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A path from the root.
fn absolute(path: &CStr) -> PathBuf {
    let path = Path::new(OsStr::from_bytes(path.to_bytes()));
    match std::env::current_dir() {
        Ok(here) => here.join(path),
        Err(_) => path.to_path_buf(),
    }
}

/// The same file has the same path, whatever links lead to it.
fn resolved(path: &Path) -> PathBuf {
    if let Ok(found) = std::fs::canonicalize(path) {
        return found;
    }
    match (path.parent().map(std::fs::canonicalize), path.file_name()) {
        (Some(Ok(parent)), Some(name)) => parent.join(name),
        _ => path.to_path_buf(),
    }
}

/// There is no room for notes.
fn not_noted(root: &Path, e: &std::io::Error) {
    log::warn!(
        "{}: {e}: what the program writes to files may not be taken back by a resume",
        store::note(root).display()
    );
}

/// What a path that is being opened is.
#[derive(Debug)]
pub enum Opening {
    /// Nothing of ours.
    Other,
    /// A file the program has named, opened for writing or not.
    Named(PathBuf),
    /// A file the library makes for itself beside one.
    Litter(PathBuf),
    /// One that another process has made, or that was there before.
    Beside,
}

impl Default for Journal {
    fn default() -> Self {
        Self::new()
    }
}

impl Journal {
    /// One that knows nothing.
    pub const fn new() -> Self {
        Journal {
            any: AtomicBool::new(false),
            names: Mutex::new(BTreeSet::new()),
            place: Mutex::new(None),
            descriptors: Mutex::new(BTreeMap::new()),
            files: Mutex::new(BTreeMap::new()),
            directories: Mutex::new(BTreeMap::new()),
            litter: Mutex::new(BTreeSet::new()),
            unstored: Mutex::new(Unstored::new()),
            watched: [const { AtomicU64::new(0) }; MOST / 64],
        }
    }

    fn bit(&self, fd: i32) -> Option<(&AtomicU64, u64)> {
        let at = usize::try_from(fd).ok()?;
        Some((self.watched.get(at / 64)?, 1 << (at % 64)))
    }

    /// Whether a descriptor is one of a file that is looked at.
    #[inline]
    pub fn is_watched(&self, fd: i32) -> bool {
        self.bit(fd)
            .is_some_and(|(word, mask)| word.load(Ordering::Relaxed) & mask != 0)
    }

    /// Whether the program has named any file.
    #[inline]
    pub fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// The program names a file to MPI; `path` begins at the root.
    pub fn name(&self, path: &Path) {
        let first = {
            let mut names = lock(&self.names);
            names.insert(path.to_path_buf());
            names.len() == 1
        };
        self.any.store(true, Ordering::Release);
        if let Some(root) = self.root().filter(|_| first) {
            if let Err(e) = store::reserve(&root) {
                not_noted(&root, &e);
            }
        }
    }

    fn file(&self, path: &Path) -> Arc<Watched> {
        let path = resolved(path);
        if let Some(known) = lock(&self.files).get(&path) {
            return Arc::clone(known);
        }
        let new = Watched::new(path.clone(), self.volume_of(&path));
        let mut files = lock(&self.files);
        Arc::clone(files.entry(path).or_insert_with(|| Arc::new(new)))
    }

    /// The library opens a file; call [`Journal::opened`] with the descriptor, or [`Journal::not_opened`].
    pub fn opening(&self, path: &CStr, flags: i32) -> Opening {
        let path = absolute(path);
        if lock(&self.names).contains(&path) {
            if flags & (libc::O_CREAT | libc::O_TRUNC) != 0 {
                let file = self.file(&path);
                file.before_open(self.current(&file), flags);
                if !path.exists() {
                    lock(&self.unstored).touch(file.path());
                }
            }
            return Opening::Named(path);
        }
        if !self.beside_a_named_one(&path) {
            return Opening::Other;
        }
        if flags & libc::O_CREAT == 0 || path.exists() {
            return Opening::Beside;
        }
        // Noted before it is there: this process may be killed at any time.
        if let Some(root) = self.root_beside(&path) {
            store::note_litter(&root, &path);
        }
        lock(&self.litter).insert(path.clone());
        Opening::Litter(path)
    }

    /// The library could not open it.
    pub fn not_opened(&self, opening: Opening) {
        if let Opening::Litter(path) = opening {
            self.no_litter(&path);
        }
    }

    /// A hidden file of the library's is not there, or no longer.
    fn no_litter(&self, path: &Path) {
        if lock(&self.litter).remove(path) {
            if let Some(root) = self.root_beside(path) {
                store::forget_litter(&root, path);
            }
        }
    }

    /// Where the litter beside a file is noted.
    fn root_beside(&self, path: &Path) -> Option<PathBuf> {
        let directory = path.parent().map(std::fs::canonicalize)?.ok()?;
        self.root_for(self.volume_of(&directory.join("file")).as_deref())
    }

    fn beside_a_named_one(&self, path: &Path) -> bool {
        let Some(name) = path.file_name() else {
            return false;
        };
        lock(&self.names).iter().any(|named| {
            let stem = named.file_name().map_or(&b""[..], |n| n.as_bytes());
            named.parent() == path.parent()
                && !stem.is_empty()
                && name.as_bytes().windows(stem.len()).any(|w| w == stem)
        })
    }

    /// The library has opened it.
    pub fn opened(&self, opening: Opening, fd: i32, flags: i32) {
        match opening {
            Opening::Other | Opening::Beside | Opening::Litter(_) => {}
            Opening::Named(_) if flags & libc::O_ACCMODE == libc::O_RDONLY => {}
            Opening::Named(path) => {
                let Some(identity) = watched::identity(fd) else {
                    return; // no regular file
                };
                let file = self.file(&path);
                let written = lock(&self.unstored).file(identity, file.path());
                if flags & (libc::O_CREAT | libc::O_TRUNC) != 0 {
                    written.changes();
                }
                let descriptor = Descriptor {
                    file,
                    identity,
                    written,
                };
                lock(&self.descriptors).insert(fd, descriptor);
                if let Some((word, mask)) = self.bit(fd) {
                    word.fetch_or(mask, Ordering::Release);
                }
            }
        }
    }

    /// The library closes a descriptor that is watched.
    pub fn closing(&self, fd: i32) {
        if self.descriptor(fd).is_none() {
            return;
        }
        if let Some((word, mask)) = self.bit(fd) {
            word.fetch_and(!mask, Ordering::Release);
        }
        lock(&self.descriptors).remove(&fd);
    }

    /// What a number stands for in the table of the calling thread: the control thread has one of its
    /// own, in which the same number is something else.
    fn descriptor(&self, fd: i32) -> Option<Descriptor> {
        let known = lock(&self.descriptors).get(&fd).cloned()?;
        (watched::identity(fd) == Some(known.identity)).then_some(known)
    }

    /// A descriptor of the library that can write to a file.
    fn writable(&self, identity: Identity) -> Option<i32> {
        let descriptors = lock(&self.descriptors);
        let mut of_it = descriptors.iter().filter(|(_, d)| d.identity == identity);
        of_it
            .find(|(fd, _)| watched::identity(**fd) == Some(identity))
            .map(|(fd, _)| *fd)
    }

    /// The library is about to write `len` bytes at `offset` (`None`: at the descriptor's position).
    pub fn before_write(&self, fd: i32, offset: Option<i64>, len: u64) {
        let Some(d) = self.descriptor(fd) else { return };
        // SAFETY: lseek touches no memory.
        let offset = offset.unwrap_or_else(|| unsafe { libc::lseek(fd, 0, libc::SEEK_CUR) });
        let Ok(from) = u64::try_from(offset) else {
            return;
        };
        let to = from.saturating_add(len);
        d.file
            .before_change(self.current(&d.file), fd, d.identity.1, from, to);
        d.written.changes();
    }

    /// The library is about to set the file's length.
    pub fn before_truncate(&self, fd: i32, len: i64) {
        if let (Some(d), Ok(len)) = (self.descriptor(fd), u64::try_from(len)) {
            d.file
                .before_change(self.current(&d.file), fd, d.identity.1, len, u64::MAX);
            d.written.changes();
        }
    }

    /// The library is about to delete a name.
    pub fn before_unlink(&self, path: &CStr) {
        let path = absolute(path);
        if lock(&self.names).contains(&path) {
            let file = self.file(&path);
            file.before_unlink(self.current(&file));
            file.note_gone(&self.recent_records(&file));
            lock(&self.unstored).touch(file.path());
        }
    }

    /// The library has deleted a name.
    pub fn unlinked(&self, path: &CStr) {
        self.no_litter(&absolute(path));
    }
}
