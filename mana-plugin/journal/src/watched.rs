//! One file that the program has named: what must be saved before it changes.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use mana_control::GenerationId;
use xxhash_rust::xxh3::xxh3_64;

use super::lock;
use super::place::Current;
use super::store::{self, Origin, BLOCK};
use super::unstored::Identity;

/// A file, by its resolved path.
#[derive(Debug)]
pub struct Watched {
    path: PathBuf,
    volume: Option<String>,
    seen: Mutex<Seen>,
}

/// What this process knows of the records of one generation.
#[derive(Debug, Default)]
struct Seen {
    epoch: u64,
    origin: Option<Origin>,
    /// Blocks that are saved.
    blocks: BTreeSet<u64>,
}

/// Says a warning once in a process.
fn warn_once(text: String) {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    if !lock(&SAID).contains(&text) {
        log::warn!("{text}");
        lock(&SAID).insert(text);
    }
}

/// Which regular file a descriptor is of.
pub fn identity(fd: i32) -> Option<Identity> {
    let found = status(fd).ok()?;
    let regular = found.st_mode & libc::S_IFMT == libc::S_IFREG;
    regular.then_some((found.st_dev, found.st_ino))
}

fn status(fd: i32) -> io::Result<libc::stat> {
    // SAFETY: a structure of integers.
    let mut found: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: an output argument of ours.
    match unsafe { libc::fstat(fd, &mut found) } {
        0 => Ok(found),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A second descriptor of an open file, which can read.
fn reader(fd: i32) -> io::Result<File> {
    let path = format!("/proc/thread-self/fd/{fd}\0");
    // SAFETY: a string with its end.
    let read = unsafe {
        libc::syscall(
            libc::SYS_openat,
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::O_RDONLY | libc::O_CLOEXEC,
        )
    };
    if read < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that was just made.
    let owned = unsafe { OwnedFd::from_raw_fd(read as i32) };
    Ok(owned.into())
}

impl Watched {
    /// The file at `path`; its volume if only this node has it.
    pub fn new(path: PathBuf, volume: Option<String>) -> Self {
        Watched {
            path,
            volume,
            seen: Mutex::default(),
        }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its volume.
    pub fn volume(&self) -> Option<&str> {
        self.volume.as_deref()
    }

    /// Runs `with` with the directory of this file's records and what is known of them, if a generation
    /// is to be kept. A failure is said and noted: the program's write is not held up by it.
    fn recording(
        &self,
        current: Current,
        with: impl FnOnce(&Path, GenerationId, &mut Seen) -> io::Result<()>,
    ) {
        let Some((dir, generation, epoch)) = current else {
            return;
        };
        let mut seen = lock(&self.seen);
        if seen.epoch != epoch {
            *seen = Seen {
                epoch,
                ..Seen::default()
            };
        }
        let Err(e) = with(&dir, generation, &mut seen) else {
            return;
        };
        // <root>/<generation>/<key>
        let root = dir.ancestors().nth(2);
        let consequence = match root.map(|root| store::lose(root, generation)) {
            Some(Ok(())) => "a resume needs a newer one, or is refused".to_owned(),
            Some(Err(e)) => format!("after a resume the file may be newer than the program's memory, and this cannot be noted ({e})"),
            None => "after a resume the file may be newer than the program's memory".to_owned(),
        };
        warn_once(format!(
            "{}: what it was at generation {generation} cannot be saved ({}: {e}): {consequence}",
            self.path.display(),
            dir.display()
        ));
    }

    fn origin(&self, was: Option<(u64, u64)>) -> Origin {
        Origin {
            path: self.path.as_os_str().as_bytes().to_vec(),
            was,
        }
    }

    /// The file is about to be changed from byte `from` on, up to `to`, through `fd`.
    pub fn before_change(&self, current: Current, fd: i32, inode: u64, from: u64, to: u64) {
        self.recording(current, |dir, _, seen| {
            if seen.origin.is_none() {
                let found = status(fd)?;
                let origin = self.origin(Some((found.st_size as u64, found.st_ino)));
                seen.origin = Some(store::claim_origin(dir, origin)?);
            }
            let Some((size, _)) = seen
                .origin
                .as_ref()
                .and_then(|o| o.was)
                .filter(|(_, i)| *i == inode)
            else {
                return Ok(()); // it did not exist then
            };
            save(dir, seen, fd, size, from, to)
        });
    }

    /// The file is about to be opened with flags that make it, or empty it.
    pub fn before_open(&self, current: Current, flags: i32) {
        self.recording(current, |dir, _, seen| {
            let was = self.found()?;
            if seen.origin.is_none() {
                seen.origin = Some(store::claim_origin(dir, self.origin(was))?);
            }
            let then = seen.origin.as_ref().and_then(|o| o.was);
            let Some((size, _)) = then.filter(|t| was.is_some_and(|w| w.1 == t.1)) else {
                return Ok(());
            };
            if flags & libc::O_TRUNC != 0 {
                let file = File::open(&self.path)?;
                use std::os::fd::AsRawFd as _;
                save(dir, seen, file.as_raw_fd(), size, 0, size)?;
            }
            Ok(())
        });
    }

    /// Length and inode of what is there now.
    fn found(&self) -> io::Result<Option<(u64, u64)>> {
        match fs::metadata(&self.path) {
            Ok(m) => Ok(Some((m.len(), m.ino()))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The name is about to be deleted: the file stays, under another one beside it.
    pub fn before_unlink(&self, current: Current) {
        self.recording(current, |dir, generation, seen| {
            let Some(was) = self.found()? else {
                return Ok(());
            };
            if seen.origin.is_none() {
                seen.origin = Some(store::claim_origin(dir, self.origin(Some(was)))?);
            }
            let then = seen.origin.as_ref().and_then(|o| o.was);
            if then.is_none_or(|t| t.1 != was.1) {
                return Ok(()); // made since
            }
            let name = self.path.file_name().unwrap_or_default();
            let mut aside = format!(
                ".mana-{:08x}-{}.{}-",
                xxh3_64(dir.as_os_str().as_bytes()) as u32,
                generation.incarnation,
                generation.number
            )
            .into_bytes();
            aside.extend(name.as_bytes());
            let aside = self.path.with_file_name(store::path(&aside));
            // The record first: what it names is removed with it.
            store::claim(dir, "aside", aside.as_os_str().as_bytes())?;
            match fs::hard_link(&self.path, &aside) {
                Ok(()) => Ok(()),
                // Another rank has kept it, and may have deleted the name by now.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
                Err(e) => Err(e),
            }
        });
    }

    /// The only name is about to be deleted: ranks that have written to the file need not look for it.
    /// `records`: of this file, the newest last.
    pub fn note_gone(&self, records: &[PathBuf]) {
        let (Ok(found), Some(records)) = (fs::metadata(&self.path), records.last()) else {
            return;
        };
        if found.nlink() == 1 {
            let noted = store::make(records)
                .and_then(|()| File::create(records.join(store::gone(found.ino()))));
            if let Err(e) = noted {
                log::debug!("{}: {e}", records.display());
            }
        }
    }
}

/// Saves the blocks of a file that was `size` bytes long, as far as they are about to change.
fn save(dir: &Path, seen: &mut Seen, fd: i32, size: u64, from: u64, to: u64) -> io::Result<()> {
    let to = to.min(size);
    if from >= to {
        return Ok(());
    }
    let mut file = None;
    for block in from / BLOCK..=(to - 1) / BLOCK {
        if seen.blocks.contains(&block) {
            continue;
        }
        let name = format!("block-{block}");
        if !dir.join(&name).exists() {
            let file = match &file {
                Some(file) => file,
                None => file.insert(reader(fd)?),
            };
            let at = block * BLOCK;
            let mut bytes = vec![0; (size - at).min(BLOCK) as usize];
            read_up_to(file, &mut bytes, at)?;
            store::claim(dir, &name, &bytes)?;
        }
        seen.blocks.insert(block);
    }
    Ok(())
}

/// Reads what is there; the rest stays zero.
fn read_up_to(file: &File, bytes: &mut [u8], at: u64) -> io::Result<()> {
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|r| !r.is_empty()) {
        match file.read_at(rest, at + done as u64) {
            Ok(0) => return Ok(()),
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
