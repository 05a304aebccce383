//! A resume takes back what was written since the generation it goes back to.
//!
//! Before any file is opened again: rank 0, and for files that only one node has, a rank on that node. The
//! newest records first, each generation's on top: in the end every file is what it was. Interrupted at any point, the next resume does the same again.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use mana_control::GenerationId;

use super::open;
use super::store::{self, Origin, BLOCK};
use super::volume;

/// Why files are not what they were.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Of one file.
    #[error("{}: putting back what it was at generation {generation}: {source}", path.display())]
    File {
        /// The file, or its records.
        path: PathBuf,
        /// Where the records are from.
        generation: GenerationId,
        /// The cause.
        source: io::Error,
    },
    /// Records were not made.
    #[error("generation {target} is not resumed: what the program's files were then could not all be saved while {lost} was the newest generation (lines of that run name them); to resume with files that may be newer than the program's memory, delete {}", note.display())]
    Lost {
        /// What was to be resumed.
        target: GenerationId,
        /// The newest generation of which a record is missing.
        lost: GenerationId,
        /// What says so.
        note: PathBuf,
    },
    /// It is not known whether any are missing.
    #[error("{}: {source}", note.display())]
    Note {
        /// What would say so.
        note: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// Whether all records are there that [`restore`] needs. Rank 0, before the resume is decided.
///
/// # Errors
/// What the user is to know and can do.
pub fn check(root: &Path, target: GenerationId) -> Result<(), Error> {
    let volumes = volume::all(root).into_iter().map(|r| r.root);
    volumes.chain([root.to_path_buf()]).try_for_each(|root| {
        let note = store::note(&root);
        match store::lost(&root) {
            Err(source) => Err(Error::Note { note, source }),
            Ok(Some(lost)) if target <= lost => Err(Error::Lost { target, lost, note }),
            Ok(_) => Ok(()),
        }
    })
}

/// Generations that are newer than `target`, and itself, as far as they have records; the newest first.
fn since(root: &Path, target: GenerationId) -> Vec<GenerationId> {
    let mut newer = store::generations(root);
    newer.retain(|g| *g >= target);
    newer.reverse();
    newer
}

/// Whether anything is to be put back from the records below `root`.
pub fn concerned(root: &Path, target: GenerationId) -> bool {
    !since(root, target).is_empty()
}

/// Puts all files back, whose records are below `roots`, to what they were at `target`. Lines for the user.
pub fn restore(roots: &[PathBuf], target: GenerationId) -> Result<Vec<String>, Error> {
    let mut lines = Vec::new();
    let mut all: Vec<_> = roots.iter().flat_map(|r| since(r, target)).collect();
    all.sort_unstable();
    all.dedup();
    let mut made = BTreeMap::new();
    for root in roots {
        let again = open::make_again(root, target, &all);
        made.extend(again.map_err(|(path, source)| Error::File {
            path,
            generation: target,
            source,
        })?);
    }
    for path in made.keys() {
        lines.push(format!(
            "{}: renamed or deleted since the checkpoint; it is there again as it was",
            path.display()
        ));
    }
    // A file has records below two of them if its node was started again.
    for generation in all.into_iter().rev() {
        for root in roots {
            put_back_all(root, generation, target, &made, &mut lines)?;
        }
    }
    for root in roots {
        for generation in since(root, target).into_iter().filter(|g| *g > target) {
            store::remove(root, generation).map_err(|source| Error::File {
                path: root.join(store::directory(generation)),
                generation,
                source,
            })?;
        }
        store::remove_litter(root);
    }
    Ok(lines)
}

/// What one generation's records hold.
fn put_back_all(
    root: &Path,
    generation: GenerationId,
    target: GenerationId,
    made: &BTreeMap<PathBuf, u64>,
    lines: &mut Vec<String>,
) -> Result<(), Error> {
    let newer = since(root, target);
    let dir = root.join(store::directory(generation));
    for key in store::names(&dir) {
        let records = dir.join(&key);
        let failed = |path: PathBuf| {
            move |source| Error::File {
                path,
                generation,
                source,
            }
        };
        let origin = store::read_origin(&records).map_err(failed(records.clone()))?;
        if let Some(origin) = origin {
            let path = store::path(&origin.path);
            let older = older_files(root, &newer, generation, &key);
            // Of another file that had the name later.
            let inode = made.get(&path);
            if inode.is_some_and(|inode| origin.was.is_none_or(|w| w.1 != *inode)) {
                continue;
            }
            put_back(&records, &origin, &path, inode.is_some(), &older, lines)
                .map_err(failed(path))?;
        }
    }
    Ok(())
}

/// Inodes that a file's older records name. If one of them has the name now, an interrupted resume has
/// already gone back beyond the newer records, and these are not for that file.
///
/// Empty elements are records of a time when there was no such file.
fn older_files(
    root: &Path,
    all: &[GenerationId],
    than: GenerationId,
    key: &str,
) -> Vec<Option<u64>> {
    let older = all.iter().filter(|g| **g < than);
    older
        .filter_map(|g| store::read_origin(&root.join(store::directory(*g)).join(key)).ok()?)
        .map(|o| o.was.map(|w| w.1))
        .collect()
}

fn put_back(
    records: &Path,
    origin: &Origin,
    path: &Path,
    made_again: bool,
    older: &[Option<u64>],
    lines: &mut Vec<String>,
) -> io::Result<()> {
    let now = fs::metadata(path).map(|m| m.ino()).ok();
    if now.is_some_and(|now| older.contains(&Some(now)) && origin.was.is_none_or(|w| w.1 != now)) {
        return Ok(());
    }
    if let Some(aside) = store::read(records, "aside")? {
        match fs::rename(store::path(&aside), path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
        // If both names are of one file, renaming does nothing.
        let _ = fs::remove_file(store::path(&aside));
    }
    // What older records say counts.
    let mut say = |what: String| {
        if older.is_empty() {
            lines.push(format!("{}: {what}", path.display()));
        }
    };
    let Some((size, inode)) = origin.was else {
        return match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        };
    };
    let file = match File::options().write(true).open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            say("the file has vanished".into());
            return Ok(());
        }
        other => other?,
    };
    let found = file.metadata()?;
    if found.ino() != inode && !made_again {
        say(
            "this is another file than at the checkpoint; what was overwritten is put into it"
                .into(),
        );
    }
    for name in store::names(records) {
        let Some(block) = name
            .strip_prefix("block-")
            .and_then(|n| n.parse::<u64>().ok())
        else {
            continue;
        };
        if let Some(bytes) = store::read(records, &name)? {
            file.write_all_at(&bytes, block * BLOCK)?;
        }
    }
    let len = file.metadata()?.len();
    if len > size {
        file.set_len(size)?;
    } else if len < size {
        say(format!(
            "{len} bytes long, {size} at the checkpoint: something else than MPI has cut it"
        ));
    }
    file.sync_data()
}
