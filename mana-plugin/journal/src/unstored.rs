//! What this process has written through MPI, as far as it is not known to be on stable storage.
//!
//! A checkpoint brings it there before the rank reports that it is durable: what a committed generation
//! expects in a file must be there after a loss of power. It happens while the program runs on, on a thread
//! with a descriptor table of its own. A file that is open is reached by its descriptor, one that was closed
//! by its name or by the one under which it is kept. Where neither leads to it (the program has renamed it,
//! say) and nobody has noted that it was deleted, its file system is synchronised as a whole.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd as _, FromRawFd as _, RawFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::{lock, store, Journal};

/// A file whatever its name: device and inode.
pub type Identity = (u64, u64);

/// A file that was opened for writing.
#[derive(Debug)]
pub struct Written {
    identity: Identity,
    /// Resolved.
    path: Mutex<PathBuf>,
    changes: AtomicU64,
    /// How many of them are on stable storage.
    stored: AtomicU64,
}

impl Written {
    /// It is about to change.
    pub fn changes(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    fn pending(&self) -> Option<u64> {
        let changes = self.changes.load(Ordering::Relaxed);
        (self.stored.load(Ordering::Relaxed) < changes).then_some(changes)
    }
}

/// All of them.
#[derive(Debug)]
pub struct Unstored {
    files: BTreeMap<Identity, Arc<Written>>,
    /// In which names were made or deleted, and when last: a number.
    directories: BTreeMap<PathBuf, u64>,
    touched: u64,
}

impl Unstored {
    /// Nothing.
    pub const fn new() -> Self {
        Unstored {
            files: BTreeMap::new(),
            directories: BTreeMap::new(),
            touched: 0,
        }
    }

    /// A file is open for writing.
    pub fn file(&mut self, identity: Identity, path: &Path) -> Arc<Written> {
        let written = self.files.entry(identity).or_insert_with(|| {
            Arc::new(Written {
                identity,
                path: Mutex::default(),
                changes: AtomicU64::new(0),
                stored: AtomicU64::new(0),
            })
        });
        *lock(&written.path) = path.to_path_buf();
        Arc::clone(written)
    }

    /// A name beside `path`, or itself, was made or deleted.
    pub fn touch(&mut self, path: &Path) {
        if let Some(directory) = path.parent() {
            self.touched += 1;
            self.directories
                .insert(directory.to_path_buf(), self.touched);
        }
    }
}

/// One file of a [`Batch`].
struct Item {
    written: Arc<Written>,
    changes: u64,
    /// A descriptor of it.
    fd: Option<RawFd>,
    /// Where notes may be of what became of its name.
    records: Vec<PathBuf>,
}

/// What is to reach stable storage before a generation is committed.
pub struct Batch {
    items: Vec<Item>,
    directories: Vec<(PathBuf, u64)>,
}

impl Batch {
    /// Descriptors it needs.
    pub fn descriptors(&self) -> Vec<RawFd> {
        self.items.iter().filter_map(|i| i.fd).collect()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty() && self.directories.is_empty()
    }

    /// Does it, in a thread that has the descriptors under the same numbers. What failed, and why.
    pub fn store(self, journal: &Journal) -> Vec<(String, io::Error)> {
        let since = Instant::now();
        let mut failed = Vec::new();
        let (files, names) = (self.items.len(), self.directories.len());
        for item in self.items {
            match item.store() {
                Ok(()) => {
                    let stored = &item.written.stored;
                    stored.fetch_max(item.changes, Ordering::Relaxed);
                }
                Err(e) => failed.push((lock(&item.written.path).display().to_string(), e)),
            }
        }
        let mut done = Vec::new();
        for (directory, touched) in self.directories {
            match synchronised(&directory) {
                Ok(()) => done.push((directory, touched)),
                Err(e) => failed.push((directory.display().to_string(), e)),
            }
        }
        let mut unstored = lock(&journal.unstored);
        unstored
            .directories
            .retain(|d, t| !done.iter().any(|(other, then)| other == d && then == t));
        // Those that a descriptor has stay.
        unstored
            .files
            .retain(|_, w| w.pending().is_some() || Arc::strong_count(w) > 1);
        log::debug!(
            "written through MPI: {files} files and {names} directories on stable storage after {:?}, {} not",
            since.elapsed(),
            failed.len()
        );
        failed
    }
}

impl Item {
    fn store(&self) -> io::Result<()> {
        if let Some(fd) = self.fd {
            // SAFETY: the thread has the descriptor; it is not closed here.
            let file = ManuallyDrop::new(unsafe { File::from_raw_fd(fd) });
            return match file.metadata()?.nlink() {
                0 => Ok(()),
                _ => file.sync_data(),
            };
        }
        let path = lock(&self.written.path).clone();
        let mut names = vec![path.clone()];
        for records in &self.records {
            let aside = store::read(records, "aside").ok().flatten();
            names.extend(aside.map(|bytes| store::path(&bytes)));
        }
        for name in &names {
            if let Some(file) = self.open(name)? {
                return file.sync_data();
            }
        }
        let gone = store::gone(self.written.identity.1);
        if self.records.iter().any(|r| r.join(&gone).exists()) {
            return Ok(());
        }
        log::debug!("{}: not found under this name", path.display());
        synchronise_all(&path)
    }

    /// The file, if `name` leads to it.
    fn open(&self, name: &Path) -> io::Result<Option<File>> {
        let leads = |m: fs::Metadata| (m.dev(), m.ino()) == self.written.identity;
        if !fs::metadata(name).is_ok_and(leads) {
            return Ok(None);
        }
        let opened = File::open(name).or_else(|e| match e.kind() {
            io::ErrorKind::PermissionDenied => File::options().write(true).open(name),
            _ => Err(e),
        });
        match opened {
            Ok(file) if leads(file.metadata()?) => Ok(Some(file)),
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(None),
        }
    }
}

/// The names in a directory are on stable storage; those of one that is gone need not be.
fn synchronised(directory: &Path) -> io::Result<()> {
    match File::open(directory).and_then(|d| d.sync_all()) {
        // Some file systems have nothing to do here.
        Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) => Ok(()),
        other => other,
    }
}

/// Everything on the file system that `path` is on, or was.
fn synchronise_all(path: &Path) -> io::Result<()> {
    let there = path.ancestors().skip(1).find_map(|d| File::open(d).ok());
    let Some(there) = there else { return Ok(()) };
    // SAFETY: syncfs takes and returns numbers.
    match unsafe { libc::syncfs(there.as_raw_fd()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

impl Journal {
    /// What this process has written since it was last brought to stable storage. On a thread of the
    /// program, after [`Journal::settled`], while no operation is under way.
    pub fn unstored(&self) -> Batch {
        let unstored = lock(&self.unstored);
        let mut items = Vec::new();
        for written in unstored.files.values() {
            let Some(changes) = written.pending() else {
                continue;
            };
            let fd = self.writable(written.identity);
            let records = match fd {
                Some(_) => Vec::new(),
                None => self.recent_records(&self.file(&lock(&written.path).clone())),
            };
            items.push(Item {
                written: Arc::clone(written),
                changes,
                fd,
                records,
            });
        }
        let directories = unstored.directories.iter().map(|(d, t)| (d.clone(), *t));
        Batch {
            items,
            directories: directories.collect(),
        }
    }
}
