//! Where the records of a file are: below the job's directory or below that of its volume, by generation.

use std::path::{Path, PathBuf};

use mana_control::GenerationId;

use super::volume::{self, Machine, Volume};
use super::watched::Watched;
use super::{lock, store, Journal};

/// The job's directory, and the generation whose state of the files is to be kept.
#[derive(Clone, Debug)]
pub struct Place {
    root: PathBuf,
    machine: Machine,
    /// The device of `root`.
    device: u64,
    current: Option<GenerationId>,
    /// What was current before.
    before: Option<GenerationId>,
    /// Raised whenever `current` changes.
    epoch: u64,
    /// The generation being taken.
    announced: Option<GenerationId>,
    /// Directories of records that this process has put back, of volumes it sees.
    adopted: Vec<PathBuf>,
}

/// The directory of a generation's records, the generation, and its number in this process.
pub type Current = Option<(PathBuf, GenerationId, u64)>;

impl Place {
    fn of(&self, volume: Option<&str>) -> PathBuf {
        match volume {
            Some(name) => self.root.join(name),
            None => self.root.clone(),
        }
    }
}

impl Journal {
    /// Where this job keeps its records, and the generation it was resumed from. Once.
    pub fn begin(&self, root: &Path, resumed: Option<GenerationId>) {
        self.begin_on(root, resumed, Machine::this(), volume::device(root));
    }

    pub(crate) fn begin_on(
        &self,
        root: &Path,
        resumed: Option<GenerationId>,
        machine: Machine,
        device: u64,
    ) {
        lock(&self.place).get_or_insert_with(|| Place {
            root: root.to_path_buf(),
            machine,
            device,
            current: resumed,
            before: None,
            epoch: 1,
            announced: None,
            adopted: Vec::new(),
        });
    }

    /// This process has put the files of these volumes back, and deletes their records when it is time.
    pub fn adopt(&self, roots: Vec<PathBuf>) {
        if let Some(place) = lock(&self.place).as_mut() {
            place.adopted.extend(roots);
        }
    }

    /// The directories of records of the volumes that this process sees.
    pub fn volumes(&self) -> Vec<PathBuf> {
        let place = lock(&self.place).clone();
        let Some(place) = place else {
            return Vec::new();
        };
        let mut roots = place.adopted;
        let found = volume::of_this_start(&place.root, &place.machine);
        roots.extend(found.into_iter().map(|r| r.root));
        roots.sort_unstable();
        roots.dedup();
        roots
    }

    /// A generation is about to be taken.
    pub fn announce(&self, generation: GenerationId) {
        if let Some(place) = lock(&self.place).as_mut() {
            place.announced = Some(generation);
        }
    }

    /// All ranks are drained: from here on it is the announced generation's state that must not be lost.
    /// That this generation may be given up later does no harm: what is saved for it is put back first,
    /// then what was saved for the ones before.
    pub fn settled(&self) {
        if let Some(place) = lock(&self.place).as_mut() {
            place.before = place.current;
            place.current = place.announced;
            place.epoch += 1;
        }
    }

    /// Where a file's records of the current generation go, if there is one.
    pub(crate) fn current(&self, file: &Watched) -> Current {
        let place = lock(&self.place);
        let place = place.as_ref()?;
        let generation = place.current?;
        let dir = place
            .of(file.volume())
            .join(store::directory(generation))
            .join(store::key(file.path()));
        Some((dir, generation, place.epoch))
    }

    /// Where a file's records of the generation being taken go.
    pub(crate) fn announced_records(&self, file: &Watched) -> Option<PathBuf> {
        let place = lock(&self.place);
        let place = place.as_ref()?;
        let generation = store::directory(place.announced?);
        let root = place.of(file.volume());
        Some(root.join(generation).join(store::key(file.path())))
    }

    /// Where the records of a file are since the last checkpoint, and were before it; the newest last.
    pub(crate) fn recent_records(&self, file: &Watched) -> Vec<PathBuf> {
        let place = lock(&self.place);
        let Some(place) = place.as_ref() else {
            return Vec::new();
        };
        let root = place.of(file.volume());
        let generations = [place.before, place.current].map(|g| g.unwrap_or(store::BEFORE_ALL));
        let key = store::key(file.path());
        let records = |g| root.join(store::directory(g)).join(&key);
        generations.map(records).to_vec()
    }

    /// The directory that all records of a volume's files are below.
    pub(crate) fn root_for(&self, volume: Option<&str>) -> Option<PathBuf> {
        lock(&self.place).as_ref().map(|p| p.of(volume))
    }

    /// The volume of the files in a directory; its records' directory is made.
    pub(crate) fn volume_of(&self, path: &Path) -> Option<String> {
        let directory = path.parent()?;
        if let Some(known) = lock(&self.directories).get(directory) {
            return known.clone();
        }
        let (root, machine, device) = {
            let place = lock(&self.place);
            let place = place.as_ref()?;
            (place.root.clone(), place.machine.clone(), place.device)
        };
        // A directory that is not there has no files.
        let volume = Volume::of(directory, &machine, device).ok()?;
        if let Some(volume) = &volume {
            log::debug!("{}: files of this node alone", volume.place());
            if let Err(e) = volume.make(&root) {
                super::not_noted(&root.join(volume.name()), &e);
            }
        }
        let name = volume.map(|v| v.name());
        lock(&self.directories).insert(directory.to_path_buf(), name.clone());
        name
    }

    pub(crate) fn root(&self) -> Option<PathBuf> {
        lock(&self.place).as_ref().map(|p| p.root.clone())
    }
}
