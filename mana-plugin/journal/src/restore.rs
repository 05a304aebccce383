//! A resume takes back what was written since the generation it goes back to.
//!
//! Rank 0, before any file is opened again. The newest records first, each generation's on top: in the
//! end every file is what it was. Interrupted at any point, the next resume does the same again.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use mana_control::GenerationId;

use super::store::{self, Origin, BLOCK};

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
    let note = store::note(root);
    match store::lost(root) {
        Err(source) => Err(Error::Note { note, source }),
        Ok(Some(lost)) if target <= lost => Err(Error::Lost { target, lost, note }),
        Ok(_) => Ok(()),
    }
}

/// Puts all files back to what they were at `target`. Lines for the user.
pub fn restore(root: &Path, target: GenerationId) -> Result<Vec<String>, Error> {
    let mut lines = Vec::new();
    let mut newer: Vec<_> = store::generations(root);
    newer.retain(|g| *g >= target);
    newer.reverse();
    for generation in &newer {
        let dir = root.join(store::directory(*generation));
        for key in store::names(&dir) {
            let records = dir.join(&key);
            let failed = |path: PathBuf| {
                let generation = *generation;
                move |source| Error::File {
                    path,
                    generation,
                    source,
                }
            };
            let origin = store::read_origin(&records).map_err(failed(records.clone()))?;
            if let Some(origin) = origin {
                let path = store::path(&origin.path);
                let older = older_files(root, &newer, *generation, &key);
                put_back(&records, &origin, &path, &older, &mut lines).map_err(failed(path))?;
            }
        }
    }
    for generation in newer.iter().filter(|g| **g > target) {
        store::remove(root, *generation).map_err(|source| Error::File {
            path: root.join(store::directory(*generation)),
            generation: *generation,
            source,
        })?;
    }
    store::remove_litter(root);
    Ok(lines)
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
    if found.ino() != inode {
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
