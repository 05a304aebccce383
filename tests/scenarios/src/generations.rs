//! The stores of a job as files: what is committed, where a copy lies, and how to damage one.
//!
//! Scenarios judge recovery by what is on the disk, not by what the product says about it. Layout
//! (docs/format.md): `<local>/node<k>/<job>/gen-<incarnation>.<n>/` and
//! `<global>/<job>/gen-<incarnation>.<n>/`, with `manifest`, `rank-<r>.img`, `partner/rank-<r>.img`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{bail, Context as _, Result};

/// The directories of one job.
#[derive(Debug, Clone)]
pub struct Stores {
    /// `local_ckpt_dir`.
    pub local: PathBuf,
    /// `global_ckpt_dir`.
    pub global: PathBuf,
    /// Ranks of the job.
    pub ranks: u32,
}

/// (incarnation, number).
pub type Id = (u32, u64);

/// The generation that a start says it resumed: `resumed generation 1.4 (partner): ...`.
pub fn resumed(messages: &str) -> Option<Id> {
    let (_, rest) = messages.split_once("resumed generation ")?;
    let (incarnation, number) = rest.split_whitespace().next()?.split_once('.')?;
    Some((incarnation.parse().ok()?, number.parse().ok()?))
}

/// The files of one generation.
#[derive(Debug, Clone, Default)]
pub struct Generation {
    /// Manifests, on every node and globally.
    pub manifests: Vec<PathBuf>,
    /// Images a node holds of its own ranks.
    pub own: BTreeMap<u32, PathBuf>,
    /// Copies for another node's ranks.
    pub partner: BTreeMap<u32, PathBuf>,
    /// Copies on the parallel file system.
    pub global: BTreeMap<u32, PathBuf>,
    /// Files under a temporary name: being written.
    pub unfinished: Vec<PathBuf>,
    /// Records that a level is complete.
    pub records: Vec<PathBuf>,
}

impl Generation {
    /// One manifest proves it.
    pub fn committed(&self) -> bool {
        !self.manifests.is_empty()
    }

    /// Every copy of one rank's image.
    pub fn copies(&self, rank: u32) -> Vec<&PathBuf> {
        [&self.own, &self.partner, &self.global]
            .into_iter()
            .filter_map(|level| level.get(&rank))
            .collect()
    }

    /// Every image.
    pub fn images(&self) -> Vec<&PathBuf> {
        self.own
            .values()
            .chain(self.partner.values())
            .chain(self.global.values())
            .collect()
    }
}

impl Stores {
    /// Everything on the disk now, oldest first.
    pub fn generations(&self) -> BTreeMap<Id, Generation> {
        let mut found = BTreeMap::new();
        self.walk(&self.local, false, &mut found);
        self.walk(&self.global, true, &mut found);
        found
    }

    /// The committed ones, oldest first.
    pub fn committed(&self) -> Vec<Id> {
        self.generations()
            .into_iter()
            .filter(|(_, generation)| generation.committed())
            .map(|(id, _)| id)
            .collect()
    }

    /// The newest generation of which all three levels hold every rank.
    pub fn complete(&self) -> Option<Id> {
        let whole = self.ranks as usize;
        let full = |g: &Generation| {
            [&g.own, &g.partner, &g.global]
                .iter()
                .all(|level| level.len() == whole)
        };
        self.generations()
            .into_iter()
            .rev()
            .find(|(_, g)| g.committed() && full(g))
            .map(|(id, _)| id)
    }

    /// The newest generation of which every rank's image is still held somewhere.
    pub fn servable(&self) -> Option<Id> {
        let served = |g: &Generation| (0..self.ranks).all(|rank| !g.copies(rank).is_empty());
        self.generations()
            .into_iter()
            .rev()
            .find(|(_, g)| g.committed() && served(g))
            .map(|(id, _)| id)
    }

    /// The simulated node a file is on.
    pub fn node_directory(&self, node: u32) -> PathBuf {
        self.local.join(format!("node{node}"))
    }

    fn walk(&self, directory: &Path, global: bool, found: &mut BTreeMap<Id, Generation>) {
        let Ok(entries) = fs::read_dir(directory) else {
            return;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            match generation_of(&name) {
                Some(id) => collect(&path, global, found.entry(id).or_default()),
                None => self.walk(&path, global, found),
            }
        }
    }
}

fn generation_of(name: &str) -> Option<Id> {
    let (incarnation, number) = name.strip_prefix("gen-")?.split_once('.')?;
    Some((incarnation.parse().ok()?, number.parse().ok()?))
}

fn collect(directory: &Path, global: bool, generation: &mut Generation) {
    let rank_of = |name: &str| {
        name.strip_prefix("rank-")?
            .strip_suffix(".img")?
            .parse::<u32>()
            .ok()
    };
    for (below, level) in [(directory.to_owned(), 0), (directory.join("partner"), 1)] {
        for entry in fs::read_dir(&below).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.contains(".tmp-") {
                generation.unfinished.push(entry.path());
            } else if name == "manifest" && level == 0 {
                generation.manifests.push(entry.path());
            } else if name.starts_with("complete-") {
                generation.records.push(entry.path());
            } else if let Some(rank) = rank_of(&name) {
                let images = match (level, global) {
                    (_, true) => &mut generation.global,
                    (0, false) => &mut generation.own,
                    _ => &mut generation.partner,
                };
                images.insert(rank, entry.path());
            }
        }
    }
}

/// Ways a file goes bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// One bit, somewhere in the middle of the data.
    Flip,
    /// The last third is gone.
    Truncate,
    /// A file of no bytes.
    Empty,
    /// No file.
    Remove,
}

impl Damage {
    /// Do it to `path`.
    pub fn inflict(self, path: &Path) -> Result<()> {
        let context = || format!("{self:?} of {}", path.display());
        match self {
            Self::Remove => fs::remove_file(path).with_context(context),
            Self::Empty => fs::write(path, b"").with_context(context),
            Self::Truncate | Self::Flip => {
                let mut file = fs::OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open(path)
                    .with_context(context)?;
                let length = file.metadata().with_context(context)?.len();
                if length < 3 {
                    bail!("{} has only {length} bytes", path.display());
                }
                if self == Self::Truncate {
                    return file.set_len(length / 3 * 2).with_context(context);
                }
                let mut byte = [0];
                file.seek(SeekFrom::Start(length / 2))
                    .with_context(context)?;
                file.read_exact(&mut byte).with_context(context)?;
                byte[0] ^= 0x10;
                file.seek(SeekFrom::Start(length / 2))
                    .with_context(context)?;
                file.write_all(&byte).with_context(context)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{generation_of, resumed};

    #[test]
    fn names() {
        assert_eq!(generation_of("gen-2.17"), Some((2, 17)));
        assert_eq!(generation_of("gen-2"), None);
        assert_eq!(
            resumed("mana[job x] resumed generation 1.4 (partner): 3"),
            Some((1, 4))
        );
        assert_eq!(resumed("started"), None);
    }
}
