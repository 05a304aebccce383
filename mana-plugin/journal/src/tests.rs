//! Whole lives of files: changed through watched descriptors, generation by generation, and put back.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::{AsRawFd as _, IntoRawFd as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use mana_control::GenerationId;

use crate::store::{self, BLOCK};
use crate::{check, restore, Journal, Machine, Near};

pub(crate) fn generation(number: u64) -> GenerationId {
    GenerationId {
        incarnation: 1,
        number,
    }
}

fn c(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

/// A rank: what the MPI library does in it.
pub(crate) struct Process {
    pub(crate) journal: Box<Journal>,
}

/// An open file of a rank.
pub(crate) struct Opened {
    file: File,
}

impl Process {
    pub(crate) fn new(root: &Path, resumed: Option<GenerationId>) -> Self {
        let journal = Box::new(Journal::new());
        journal.begin(root, resumed);
        Process { journal }
    }

    /// On a machine of which all local file systems are its own.
    pub(crate) fn on(machine: &Machine, root: &Path) -> Self {
        let journal = Box::new(Journal::new());
        journal.begin_on(root, None, machine.clone(), 0);
        Process { journal }
    }

    pub(crate) fn take(&self, number: u64) {
        self.journal.announce(generation(number));
        self.journal.settled();
    }

    pub(crate) fn open(&self, path: &Path) -> Opened {
        self.journal.name(path);
        let flags = libc::O_CREAT | libc::O_RDWR;
        let opening = self.journal.opening(&c(path), flags);
        let mut options = File::options();
        let file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .unwrap();
        self.journal.opened(opening, file.as_raw_fd(), flags);
        assert!(self.journal.is_watched(file.as_raw_fd()));
        Opened { file }
    }

    pub(crate) fn write(&self, opened: &Opened, at: u64, bytes: &[u8]) {
        let fd = opened.file.as_raw_fd();
        self.journal
            .before_write(fd, Some(at as i64), bytes.len() as u64);
        opened.file.write_all_at(bytes, at).unwrap();
    }

    pub(crate) fn cut(&self, opened: &Opened, len: u64) {
        self.journal
            .before_truncate(opened.file.as_raw_fd(), len as i64);
        opened.file.set_len(len).unwrap();
    }

    pub(crate) fn delete(&self, path: &Path) {
        self.journal.name(path);
        self.journal.before_unlink(&c(path));
        fs::remove_file(path).unwrap();
    }

    pub(crate) fn delete_hidden(&self, path: &Path) {
        self.journal.before_unlink(&c(path));
        fs::remove_file(path).unwrap();
        self.journal.unlinked(&c(path));
    }

    pub(crate) fn close(&self, opened: Opened) {
        let fd = opened.file.into_raw_fd();
        self.journal.closing(fd);
        assert!(!self.journal.is_watched(fd));
        // SAFETY: the descriptor taken out of the file above.
        unsafe { libc::close(fd) };
    }
}

pub(crate) struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Place {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("job")
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        let dir = self.dir.path().join("out");
        fs::create_dir_all(&dir).unwrap();
        fs::canonicalize(dir).unwrap().join(name)
    }

    /// Everything beside the program's files too: nothing may be left over.
    pub(crate) fn files(&self) -> Vec<(String, Vec<u8>)> {
        let mut all: Vec<_> = fs::read_dir(self.file("x").parent().unwrap())
            .unwrap()
            .map(|e| e.unwrap())
            .map(|e| {
                let name = e.file_name().into_string().unwrap();
                (name, fs::read(e.path()).unwrap())
            })
            .collect();
        all.sort();
        all
    }

    pub(crate) fn roots(&self) -> Vec<PathBuf> {
        vec![self.root()]
    }

    pub(crate) fn restore(&self, number: u64) {
        let lines = restore(&self.roots(), generation(number)).unwrap();
        assert_eq!(lines, Vec::<String>::new());
    }

    /// Twice, the first time interrupted before any record was deleted.
    pub(crate) fn restore_interrupted(&self, number: u64) {
        let saved = self.dir.path().join("saved");
        copy(&self.root(), &saved);
        self.restore(number);
        let then = self.files();
        fs::remove_dir_all(self.root()).unwrap();
        copy(&saved, &self.root());
        fs::remove_dir_all(&saved).unwrap();
        self.restore(number);
        assert_eq!(self.files(), then);
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => fs::copy(entry.path(), to).map(drop).unwrap(),
        }
    }
}

/// A content whose blocks differ.
pub(crate) fn content(len: u64, seed: u64) -> Vec<u8> {
    (0..len)
        .map(|i| (i * 7 + i / BLOCK * 31 + seed) as u8)
        .collect()
}

#[test]
fn nothing_is_recorded_before_a_checkpoint() {
    let place = Place::new();
    let p = Process::new(&place.root(), None);
    let f = p.open(&place.file("a"));
    p.write(&f, 0, &content(100, 0));
    p.write(&f, 50, &content(100, 1));
    assert_eq!(store::names(&place.root()), ["files-lost"]);
}

#[test]
fn appending_saves_no_block() {
    let place = Place::new();
    let p = Process::new(&place.root(), None);
    let f = p.open(&place.file("a"));
    p.write(&f, 0, &content(1000, 0));
    p.take(1);
    let then = place.files();
    p.write(&f, 1000, &content(3 * BLOCK, 1));
    p.write(&f, 5000, &content(10, 1));
    let dir = place.root().join(store::directory(generation(1)));
    let key = store::names(&dir).pop().unwrap();
    assert_eq!(store::names(&dir.join(key)), ["origin"]);
    place.restore(1);
    assert_eq!(place.files(), then);
}

#[test]
fn overwritten_cut_and_grown_files_come_back() {
    let place = Place::new();
    let p = Process::new(&place.root(), None);
    let f = p.open(&place.file("a"));
    p.write(&f, 0, &content(3 * BLOCK + 17, 0));
    p.take(1);
    let first = place.files();
    p.write(&f, BLOCK - 1, b"xyz");
    p.cut(&f, 5);
    p.write(&f, 2 * BLOCK, &content(4 * BLOCK, 9));
    p.take(2);
    let second = place.files();
    p.write(&f, 0, &content(100, 5));
    p.cut(&f, BLOCK);
    place.restore(2);
    assert_eq!(place.files(), second);
    place.restore(1);
    assert_eq!(place.files(), first);
    // What is resumed writes on, and falls back to the same generation once more.
    let p = Process::new(&place.root(), Some(generation(1)));
    let f = p.open(&place.file("a"));
    p.write(&f, 3 * BLOCK, b"other blocks");
    p.write(&f, BLOCK, b"the same block");
    place.restore(1);
    assert_eq!(place.files(), first);
}

#[test]
fn made_and_deleted_files_come_back_to_what_they_were() {
    let place = Place::new();
    let p = Process::new(&place.root(), None);
    let old = place.file("old");
    let f = p.open(&old);
    p.write(&f, 0, &content(100, 0));
    p.close(f);
    p.take(1);
    let first = place.files();
    let young = p.open(&place.file("young"));
    p.write(&young, 0, b"young");
    p.delete(&old);
    let again = p.open(&old);
    p.write(&again, 0, b"made again");
    p.take(2);
    let second = place.files();
    p.write(&again, 0, b"MADE");
    p.close(again);
    p.delete(&old);
    p.delete(&place.file("young"));
    let third = p.open(&old);
    p.write(&third, 0, b"a third file");
    // While it is deleted, through a descriptor that stays.
    p.write(&young, 0, b"gone?");
    place.restore_interrupted(2);
    // What generation 1 has kept aside is still there.
    let visible = |f: &(String, Vec<u8>)| !f.0.starts_with('.');
    let found: Vec<_> = place.files().into_iter().filter(visible).collect();
    assert_eq!(
        found,
        second.into_iter().filter(visible).collect::<Vec<_>>()
    );
    place.restore_interrupted(1);
    assert_eq!(place.files(), first);
}

#[test]
fn a_resume_that_goes_back_two_generations_at_once_can_be_interrupted() {
    let place = Place::new();
    let p = Process::new(&place.root(), None);
    let path = place.file("a");
    let f = p.open(&path);
    p.write(&f, 0, &content(2 * BLOCK, 0));
    p.take(1);
    let first = place.files();
    p.delete(&path);
    p.take(2);
    let f = p.open(&path);
    p.write(&f, 0, &content(3 * BLOCK, 3));
    p.take(3);
    p.write(&f, 0, b"overwritten");
    p.cut(&f, 100);
    p.take(4);
    p.delete(&path);
    place.restore_interrupted(1);
    assert_eq!(place.files(), first);
}

#[test]
fn of_several_ranks_the_first_saves_the_block() {
    let place = Place::new();
    let path = place.file("a");
    let ranks: Vec<_> = (0..8).map(|_| Process::new(&place.root(), None)).collect();
    let files: Vec<_> = ranks.iter().map(|p| p.open(&path)).collect();
    ranks[0].write(&files[0], 0, &content(4 * BLOCK, 0));
    ranks.iter().for_each(|p| p.take(1));
    let then = place.files();
    std::thread::scope(|s| {
        for (i, (p, f)) in ranks.iter().zip(&files).enumerate() {
            s.spawn(move || {
                for block in 0..4 {
                    let at = block * BLOCK + i as u64 * 100;
                    p.write(f, at, &[i as u8; 90]);
                }
            });
        }
    });
    assert_ne!(place.files(), then);
    place.restore(1);
    assert_eq!(place.files(), then);
}

#[test]
fn generations_that_are_gone_take_their_records_along() {
    let place = Place::new();
    let p = Process::new(&place.root(), None);
    let path = place.file("a");
    let f = p.open(&path);
    p.write(&f, 0, &content(BLOCK, 0));
    p.take(1);
    p.write(&f, 0, b"one");
    p.delete(&path);
    assert_eq!(place.files().len(), 1, "kept aside");
    let f = p.open(&path);
    p.write(&f, 0, b"second");
    p.take(2);
    p.write(&f, 0, b"two");
    crate::prune(&place.root(), generation(2)).unwrap();
    assert_eq!(store::generations(&place.root()), [generation(2)]);
    assert_eq!(place.files(), [("a".to_owned(), b"twoond".to_vec())]);
    place.restore(2);
    assert_eq!(place.files(), [("a".to_owned(), b"second".to_vec())]);
    crate::forget_all(&place.root());
    assert_eq!(fs::read_dir(place.root()).unwrap().count(), 0);
}

#[test]
fn a_damaged_record_and_a_vanished_file_are_named() {
    let place = Place::new();
    let p = Process::new(&place.root(), None);
    let path = place.file("a");
    let f = p.open(&path);
    p.write(&f, 0, &content(BLOCK, 0));
    p.take(1);
    p.write(&f, 0, b"changed");
    fs::remove_file(&path).unwrap();
    let lines = restore(&[place.root()], generation(1)).unwrap();
    assert!(lines[0].contains("has vanished"), "{lines:?}");
    fs::write(&path, b"short").unwrap();
    let dir = place.root().join(store::directory(generation(1)));
    let block = dir.join(store::names(&dir).pop().unwrap()).join("block-0");
    let mut bytes = fs::read(&block).unwrap();
    bytes[100] ^= 1;
    fs::write(&block, bytes).unwrap();
    let error = restore(&[place.root()], generation(1)).unwrap_err();
    assert!(std::error::Error::source(&error)
        .unwrap()
        .to_string()
        .contains("is damaged"));
}

#[test]
fn what_the_library_makes_beside_a_file_is_removed() {
    let place = Place::new();
    let p = Process::new(&place.root(), None);
    let path = place.file("a");
    let _f = p.open(&path);
    let hidden = place.file(".a.shfp.12");
    let flags = libc::O_CREAT | libc::O_RDWR;
    let only = [("a".to_owned(), Vec::new())];
    // Killed at once after it was made, after the library was told, and before its name is gone.
    for told in [false, true] {
        let opening = p.journal.opening(&c(&hidden), flags);
        let file = File::create_new(&hidden).unwrap();
        if told {
            p.journal.opened(opening, file.as_raw_fd(), flags);
            assert!(!p.journal.is_watched(file.as_raw_fd()));
            p.journal.before_unlink(&c(&hidden));
        }
        place.restore(1);
        assert_eq!(place.files(), only);
    }
    // It could not be made, or has been removed: what has the name then is not the library's.
    for made in [false, true] {
        let opening = p.journal.opening(&c(&hidden), flags);
        match made {
            false => p.journal.not_opened(opening),
            true => {
                let file = File::create_new(&hidden).unwrap();
                p.journal.opened(opening, file.as_raw_fd(), flags);
                p.delete_hidden(&hidden);
            }
        }
        fs::write(&hidden, b"another").unwrap();
        place.restore(1);
        assert!(hidden.exists(), "made: {made}");
        fs::remove_file(&hidden).unwrap();
    }
}

#[test]
fn a_record_that_cannot_be_made_forbids_older_generations() {
    let place = Place::new();
    let p = Process::new(&place.root(), None);
    let f = p.open(&place.file("a"));
    p.write(&f, 0, &content(BLOCK, 0));
    p.take(1);
    p.write(&f, 0, b"saved");
    p.take(2);
    assert!(check(&place.root(), generation(1)).is_ok());
    // Where the records would be is no directory: as if there were no room.
    let dir = place.root().join(store::directory(generation(2)));
    fs::write(&dir, b"").unwrap();
    p.write(&f, 5, b"not saved");
    for number in [1, 2] {
        let told = check(&place.root(), generation(number)).unwrap_err();
        assert!(told.to_string().contains("while 1.2 was"), "{told}");
    }
    fs::remove_file(&dir).unwrap();
    p.take(3);
    let third = place.files();
    p.write(&f, 9, b"saved again");
    assert!(check(&place.root(), generation(2)).is_err());
    assert!(check(&place.root(), generation(3)).is_ok());
    place.restore(3);
    assert_eq!(place.files(), third);
    fs::write(store::note(&place.root()), b"torn").unwrap();
    assert!(check(&place.root(), generation(3)).is_err());
    crate::forget_all(&place.root());
    assert_eq!(fs::read_dir(place.root()).unwrap().count(), 0);
}

#[test]
fn what_was_written_is_stored_once_whatever_became_of_its_name() {
    let place = Place::new();
    let p = Process::new(&place.root(), None);
    let [open, closed, renamed, deleted] =
        ["open", "closed", "renamed", "deleted"].map(|name| place.file(name));
    let f = p.open(&open);
    p.write(&f, 0, b"stays open");
    for path in [&closed, &renamed, &deleted] {
        let f = p.open(path);
        p.write(&f, 0, b"closed");
        p.close(f);
    }
    fs::rename(&renamed, place.file("new")).unwrap();
    p.delete(&deleted);
    p.take(1);
    let batch = p.journal.unstored();
    assert_eq!(batch.descriptors(), [f.file.as_raw_fd()]);
    // Made anew while it is under way: in the next one.
    let again = p.open(&closed);
    assert!(batch.store(&p.journal).is_empty());
    let batch = p.journal.unstored();
    assert_eq!(batch.descriptors(), [again.file.as_raw_fd()]);
    assert!(batch.store(&p.journal).is_empty());
    assert!(p.journal.unstored().is_empty());
    p.write(&f, 5, b"open");
    p.cut(&again, 3);
    let mut both = [f.file.as_raw_fd(), again.file.as_raw_fd()];
    both.sort_unstable();
    let mut found = p.journal.unstored().descriptors();
    found.sort_unstable();
    assert_eq!(found, both);
    // Kept for the generation, deleted before it was stored.
    p.close(again);
    p.delete(&closed);
    assert!(p.journal.unstored().store(&p.journal).is_empty());
    assert!(p.journal.unstored().is_empty());
}

fn machine(host: &str, boot: &str) -> Machine {
    Machine {
        host: host.into(),
        boot: boot.into(),
    }
}

/// The disk of one of two nodes, which both have it at the same path.
struct Disk<'a> {
    place: &'a Place,
    name: &'static str,
}

impl Disk<'_> {
    fn out(&self) -> PathBuf {
        self.place.dir.path().join("out")
    }

    fn with<R>(&self, run: impl FnOnce() -> R) -> R {
        let own = self.place.dir.path().join(self.name);
        fs::create_dir_all(&own).unwrap();
        fs::rename(&own, self.out()).unwrap();
        let result = run();
        fs::rename(self.out(), own).unwrap();
        result
    }
}

#[test]
fn a_path_on_disks_of_nodes_is_a_file_of_each() {
    let place = Place::new();
    let root = place.root();
    let nodes = ["one", "two"].map(|name| {
        let disk = Disk {
            place: &place,
            name,
        };
        (disk, machine(name, name))
    });
    let ranks = nodes
        .each_ref()
        .map(|(_, machine)| Process::on(machine, &root));
    let mut files = Vec::new();
    for (seed, ((disk, _), rank)) in nodes.iter().zip(&ranks).enumerate() {
        files.push(disk.with(|| {
            let f = rank.open(&place.file("scratch"));
            rank.write(&f, 0, &content(2 * BLOCK, seed as u64));
            f
        }));
    }
    ranks.iter().for_each(|r| r.take(1));
    for (((disk, _), rank), f) in nodes.iter().zip(&ranks).zip(&files) {
        disk.with(|| {
            rank.write(f, 5, b"overwritten");
            rank.cut(f, BLOCK);
            rank.delete(&place.file("scratch"));
        });
    }
    let volumes = crate::volumes(&root);
    assert_eq!(volumes.len(), 2);
    for (seed, (disk, machine)) in nodes.iter().enumerate() {
        disk.with(|| {
            let near = |r: &&crate::Records| r.volume.near(machine) == Near::Exactly;
            let own: Vec<_> = volumes.iter().filter(near).collect();
            assert_eq!(own.len(), 1);
            assert!(crate::concerned(&own[0].root, generation(1)));
            let lines = restore(&[own[0].root.clone()], generation(1)).unwrap();
            assert_eq!(lines, Vec::<String>::new());
            let expected = vec![("scratch".to_owned(), content(2 * BLOCK, seed as u64))];
            assert_eq!(place.files(), expected);
        });
    }
    // Each deletes what is its own, and the rest goes with the job.
    let ((disk, machine), rank) = (&nodes[0], &ranks[0]);
    disk.with(|| {
        let own = rank.journal.volumes();
        assert_eq!(own.len(), 1);
        assert_eq!(
            volumes[0].volume.near(machine) == Near::Exactly,
            volumes[0].root == own[0]
        );
        crate::prune(&own[0], generation(2)).unwrap();
        assert!(!crate::concerned(&own[0], generation(1)));
    });
    crate::forget_volumes(&root);
    assert_eq!(crate::volumes(&root).len(), 0);
}

#[test]
fn a_directory_of_one_kernel_is_one_volume_for_all_names_of_its_host() {
    let place = Place::new();
    let path = place.file("a");
    let names = ["container1", "container2"].map(|host| machine(host, "one start"));
    let ranks = names.each_ref().map(|m| Process::on(m, &place.root()));
    let files = ranks.each_ref().map(|r| r.open(&path));
    ranks[0].write(&files[0], 0, &content(BLOCK, 0));
    ranks.iter().for_each(|r| r.take(1));
    let then = place.files();
    for (rank, file) in ranks.iter().zip(&files) {
        rank.write(file, 0, b"changed");
    }
    let volumes = crate::volumes(&place.root());
    assert_eq!(volumes.len(), 1, "{volumes:?}");
    let near = |host, boot| volumes[0].volume.near(&machine(host, boot));
    for machine in &names {
        assert_eq!(volumes[0].volume.near(machine), Near::Exactly);
    }
    assert_eq!(near("container3", "one start"), Near::Exactly);
    // Started again, the name must do.
    assert_eq!(near("container1", "another start"), Near::ByName);
    assert_eq!(near("container2", "another start"), Near::No);
    restore(&[volumes[0].root.clone()], generation(1)).unwrap();
    assert_eq!(place.files(), then);
}

#[test]
fn records_of_before_and_after_a_node_was_started_again_are_put_back_in_order() {
    let place = Place::new();
    let path = place.file("a");
    let p = Process::on(&machine("n", "first"), &place.root());
    let f = p.open(&path);
    p.write(&f, 0, &content(2 * BLOCK, 0));
    p.take(1);
    let first = place.files();
    p.write(&f, 0, b"one");
    p.take(2);
    p.write(&f, 1, b"two");
    let p = Process::on(&machine("n", "second"), &place.root());
    p.take(3);
    let f = p.open(&path);
    p.write(&f, 2, b"three");
    p.take(4);
    p.write(&f, BLOCK, b"four");
    let roots: Vec<_> = crate::volumes(&place.root())
        .into_iter()
        .map(|r| r.root)
        .collect();
    assert_eq!(roots.len(), 2);
    for roots in [roots.clone(), roots.into_iter().rev().collect()] {
        let saved = place.dir.path().join("saved");
        let changed = fs::read(&path).unwrap();
        copy(&place.root(), &saved);
        restore(&roots, generation(1)).unwrap();
        assert_eq!(place.files(), first);
        fs::write(&path, changed).unwrap();
        fs::remove_dir_all(place.root()).unwrap();
        copy(&saved, &place.root());
        fs::remove_dir_all(&saved).unwrap();
    }
}
