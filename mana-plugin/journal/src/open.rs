//! Files that are open while a generation is taken, and that the program renames or deletes itself afterwards
//! (`x.tmp`, which becomes `x`). The library does not see that; a resume has to open them under their name.
//!
//! ```text
//!  <records>/open -> <directory>/.mana-open-<...>   a second name of the file: a hard link
//!           /path -> <directory>/<name>             what it was called
//! ```
//! Nothing here is synchronised while the program stands still: the directories are, before the generation
//! is committed ([`super::Batch`]).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{symlink, MetadataExt as _};
use std::path::{Path, PathBuf};

use mana_control::GenerationId;
use xxhash_rust::xxh3::xxh3_64;

use super::{lock, store, Journal};

const SECOND: &str = "open";
const NAME: &str = "path";

impl Journal {
    /// A file is open for writing, while a generation is taken. `first`: of the processes that have it open, this is the
    /// one who does what is to be done once.
    pub fn stays_open(&self, path: &Path, first: bool) {
        let file = self.file(path);
        // On a node's own disk each has another one.
        if !first && file.volume().is_none() {
            return;
        }
        let Some(records) = self.announced_records(&file) else {
            return;
        };
        match keep(file.path(), &records) {
            Ok(()) => {
                let mut unstored = lock(&self.unstored);
                let generation = records.parent();
                for made in [
                    Some(file.path()),
                    Some(&records.join(NAME)),
                    Some(&records),
                    generation,
                ] {
                    made.iter().for_each(|made| unstored.touch(made));
                }
            }
            Err(e) => log::debug!("{}: no second name: {e}", file.path().display()),
        }
    }
}

fn keep(path: &Path, records: &Path) -> io::Result<()> {
    let found = fs::metadata(path)?;
    let second = path.with_file_name(format!(
        ".mana-open-{:016x}",
        xxh3_64(records.as_os_str().as_encoded_bytes())
    ));
    store::make(records)?;
    // The notes first: what they name is removed with them.
    for (note, target) in [(NAME, path), (SECOND, &second)] {
        there(symlink(target, records.join(note)))?;
    }
    there(fs::hard_link(path, &second))?;
    let same = |m: &fs::Metadata| (m.dev(), m.ino()) == (found.dev(), found.ino());
    if !fs::metadata(&second).as_ref().is_ok_and(same) {
        // Of a life of the job that was forgotten.
        fs::remove_file(&second)?;
        there(fs::hard_link(path, &second))?;
    }
    Ok(())
}

/// Another process may have done it.
fn there(made: io::Result<()>) -> io::Result<()> {
    match made {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Removes the second name that records know.
pub fn forget(records: &Path) -> io::Result<()> {
    match fs::read_link(records.join(SECOND)) {
        Ok(second) => match fs::remove_file(second) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        },
        Err(_) => Ok(()),
    }
}

/// Files that were open at `target`, and whose names lead to something else or nowhere now, are made again: their
/// paths, and the inodes their records name. What they have become stays as it is under other names.
pub fn make_again(
    root: &Path,
    target: GenerationId,
    newer: &[GenerationId],
) -> Result<BTreeMap<PathBuf, u64>, (PathBuf, io::Error)> {
    let mut made = BTreeMap::new();
    let dir = root.join(store::directory(target));
    for key in store::names(&dir) {
        let records = dir.join(&key);
        let (Ok(second), Ok(path)) = (
            fs::read_link(records.join(SECOND)),
            fs::read_link(records.join(NAME)),
        ) else {
            continue;
        };
        let Ok(kept) = fs::metadata(&second) else {
            continue;
        };
        let identity = |m: &fs::Metadata| (m.dev(), m.ino());
        let now = fs::metadata(&path).ok();
        if now.as_ref().map(identity) == Some(identity(&kept)) {
            continue;
        }
        // The library has deleted it: it comes back whole.
        let aside = |g: &GenerationId| {
            let records = root.join(store::directory(*g)).join(&key);
            let aside = store::read(&records, "aside").ok().flatten()?;
            let found = fs::metadata(store::path(&aside)).ok()?;
            (identity(&found) == identity(&kept)).then_some(())
        };
        if now.is_none() && newer.iter().find_map(aside).is_some() {
            continue;
        }
        copy(&second, &path).map_err(|e| (path.clone(), e))?;
        made.insert(path, kept.ino());
    }
    Ok(made)
}

/// The copy has its name when it is whole.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut name = from.file_name().unwrap_or_default().to_owned();
    name.push("-new");
    let new = to.with_file_name(name);
    fs::copy(from, &new)?;
    fs::rename(new, to)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use crate::restore;
    use crate::store::{self, BLOCK};
    use crate::tests::{content, generation, Opened, Place, Process};

    /// A generation is taken while `x.tmp` is open; what it was then.
    fn open_at_1(place: &Place) -> (Process, Opened, PathBuf, Vec<u8>) {
        let p = Process::new(&place.root(), None);
        let path = place.file("x.tmp");
        let f = p.open(&path);
        let then = content(2 * BLOCK + 5, 0);
        p.write(&f, 0, &then);
        p.journal.announce(generation(1));
        p.journal.stays_open(&path, true);
        p.journal.stays_open(&path, true);
        p.journal.stays_open(&path, false);
        p.journal.settled();
        (p, f, path, then)
    }

    fn back(place: &Place) -> usize {
        restore(&place.roots(), generation(1)).unwrap().len()
    }

    #[test]
    fn renamed_by_the_program() {
        let place = Place::new();
        let (p, f, path, then) = open_at_1(&place);
        p.write(&f, BLOCK, b"changed");
        p.write(&f, 2 * BLOCK, &content(BLOCK, 3));
        p.close(f);
        let complete = fs::read(&path).unwrap();
        fs::rename(&path, place.file("x")).unwrap();
        for _ in 0..2 {
            assert_eq!(back(&place), 1);
            assert_eq!(fs::read(&path).unwrap(), then);
            assert_eq!(fs::read(place.file("x")).unwrap(), complete);
        }
        store::forget_all(&place.root());
        let names: Vec<_> = place.files().into_iter().map(|f| f.0).collect();
        assert_eq!(names, ["x", "x.tmp"]);
    }

    #[test]
    fn renamed_and_made_anew() {
        let place = Place::new();
        let (p, f, path, then) = open_at_1(&place);
        p.close(f);
        fs::rename(&path, place.file("x")).unwrap();
        let f = p.open(&path);
        p.write(&f, 0, b"the next one");
        p.take(2);
        p.write(&f, 0, b"goes on");
        p.close(f);
        assert_eq!(back(&place), 1);
        assert_eq!(fs::read(&path).unwrap(), then);
        assert_eq!(fs::read(place.file("x")).unwrap(), then);
    }

    #[test]
    fn deleted_by_the_program_or_by_the_library() {
        for library in [false, true] {
            let place = Place::new();
            let (p, f, path, then) = open_at_1(&place);
            p.write(&f, 0, b"changed");
            p.close(f);
            match library {
                true => p.delete(&path),
                false => fs::remove_file(&path).unwrap(),
            }
            assert_eq!(back(&place), usize::from(!library));
            assert_eq!(fs::read(&path).unwrap(), then);
        }
    }

    #[test]
    fn still_there() {
        let place = Place::new();
        let (p, f, path, then) = open_at_1(&place);
        p.write(&f, 0, b"changed");
        assert_eq!(back(&place), 0);
        assert_eq!(fs::read(&path).unwrap(), then);
        store::prune(&place.root(), generation(2)).unwrap();
        assert_eq!(place.files(), [("x.tmp".to_owned(), then)]);
    }
}
