//! Which nodes know a file by its path.
//!
//! On a parallel file system a path is one file for all nodes. On a disk or in memory of a node it is another
//! file on each, and what is noted of one must not be taken for the others'. Such files have their records
//! below a directory of their *volume*: a directory on a file system that is local by its kind, and not that
//! of the job's global directory (which all nodes have, also where one of them exports a disk of its own).
//!
//! A volume is known by what the kernel says of the directory, not by the host's name: containers on one
//! machine have different names and may share a directory, or the same name and not. After the machine was
//! started again, host and path must do.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::store;

const PREFIX: &str = "files-on-";
/// The record that says what a directory of records is for.
const RECORD: &str = "volume";

/// What tells this machine from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Its name.
    pub host: String,
    /// Of this start of its kernel; containers on it have the same.
    pub boot: String,
}

impl Machine {
    /// The one this runs on.
    pub fn this() -> Self {
        let host = hostname::get().unwrap_or_default();
        let host = host.to_string_lossy().into_owned();
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id");
        Machine {
            boot: boot.map_or_else(|_| host.clone(), |b| b.trim().to_owned()),
            host,
        }
    }
}

/// A directory that only one machine has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    host: String,
    boot: String,
    directory: Vec<u8>,
    device: u64,
    /// 0 where it says nothing (overlay).
    inode: u64,
}

/// How sure it is that a process sees a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Near {
    /// It does not.
    No,
    /// Its host was started again since, or the directory made anew.
    ByName,
    /// The kernel says so.
    Exactly,
}

impl Near {
    /// As a byte that can be compared.
    pub fn byte(self) -> u8 {
        self as u8
    }
}

impl Volume {
    /// The volume of files in `directory`; `None` if all nodes have them. `shared`: the device of the job's
    /// global directory.
    pub fn of(directory: &Path, machine: &Machine, shared: u64) -> io::Result<Option<Self>> {
        let kind = kind(directory)?;
        let found = fs::metadata(directory)?;
        if !is_local(kind) || found.dev() == shared {
            return Ok(None);
        }
        // The inode of an overlay's directory may change while nobody has it open.
        let inode = match kind == OVERLAY {
            true => 0,
            false => found.ino(),
        };
        Ok(Some(Volume {
            host: machine.host.clone(),
            boot: machine.boot.clone(),
            directory: directory.as_os_str().as_bytes().to_vec(),
            device: found.dev(),
            inode,
        }))
    }

    /// Where it is, for messages.
    pub fn place(&self) -> String {
        format!("{} on {}", self.directory().display(), self.host)
    }

    fn directory(&self) -> PathBuf {
        store::path(&self.directory)
    }

    /// Name of its records' directory.
    pub fn name(&self) -> String {
        let which = format!("{} {} {}", self.boot, self.device, self.inode);
        format!(
            "{}{:016x}",
            beginning(&self.boot),
            xxh3_64(which.as_bytes())
        )
    }

    /// Makes its records' directory.
    pub fn make(&self, root: &Path) -> io::Result<()> {
        let bytes = postcard::to_stdvec(self).map_err(io::Error::other)?;
        let dir = root.join(self.name());
        if !dir.join(RECORD).exists() {
            store::claim(&dir, RECORD, &bytes)?;
        }
        store::reserve(&dir)
    }

    /// Whether a process on `machine` sees it.
    pub fn near(&self, machine: &Machine) -> Near {
        let found = fs::metadata(self.directory());
        let same = found
            .is_ok_and(|m| m.dev() == self.device && (self.inode == 0 || m.ino() == self.inode));
        match same && machine.boot == self.boot {
            true => Near::Exactly,
            false if machine.host == self.host => Near::ByName,
            false => Near::No,
        }
    }
}

/// How the names of this machine's volumes begin.
fn beginning(boot: &str) -> String {
    format!("{PREFIX}{:08x}-", xxh3_64(boot.as_bytes()) as u32)
}

/// A volume's records.
#[derive(Clone, Debug)]
pub struct Records {
    /// Their directory.
    pub root: PathBuf,
    /// Whose they are.
    pub volume: Volume,
}

/// All volumes that have records, by name.
pub fn all(root: &Path) -> Vec<Records> {
    with_prefix(root, PREFIX)
}

/// Those of this machine since it was started.
pub fn of_this_start(root: &Path, machine: &Machine) -> Vec<Records> {
    let mut found = with_prefix(root, &beginning(&machine.boot));
    found.retain(|r| r.volume.near(machine) == Near::Exactly);
    found
}

fn with_prefix(root: &Path, prefix: &str) -> Vec<Records> {
    let mut names = store::names(root);
    names.retain(|name| name.starts_with(prefix));
    names.sort_unstable();
    let read = |name: &String| {
        let root = root.join(name);
        let bytes = store::read(&root, RECORD).ok().flatten()?;
        let volume = postcard::from_bytes(&bytes).ok()?;
        Some(Records { root, volume })
    };
    names.iter().filter_map(read).collect()
}

/// Deletes the directories of all volumes; what was kept on them is deleted by those who see it.
pub fn forget(root: &Path) {
    for name in store::names(root) {
        if name.starts_with(PREFIX) {
            let _ = fs::remove_dir_all(root.join(name));
        }
    }
}

/// linux/magic.h
const OVERLAY: u64 = 0x794c_7630;

/// Whether a kind of file system is one of a single node. A kind that is not known counts as shared.
fn is_local(kind: u64) -> bool {
    const EXT: u64 = 0xef53;
    const XFS: u64 = 0x5846_5342;
    const BTRFS: u64 = 0x9123_683e;
    const TMPFS: u64 = 0x0102_1994;
    const RAMFS: u64 = 0x8584_58f6;
    const HUGETLBFS: u64 = 0x9584_58f6;
    const F2FS: u64 = 0xf2f5_2010;
    const ZFS: u64 = 0x2fc1_2fc1;
    const BCACHEFS: u64 = 0xca45_1a4e;
    const JFS: u64 = 0x3153_464a;
    const REISERFS: u64 = 0x5265_4973;
    const MSDOS: u64 = 0x4d44;
    const EXFAT: u64 = 0x2011_bab0;
    const LOCAL: [u64; 14] = [
        EXT, XFS, BTRFS, TMPFS, RAMFS, HUGETLBFS, F2FS, ZFS, BCACHEFS, JFS, REISERFS, MSDOS, EXFAT,
        OVERLAY,
    ];
    LOCAL.contains(&kind)
}

/// The device that `path`, or the first directory above it that is there, is on; 0 if none.
pub fn device(path: &Path) -> u64 {
    let found = path.ancestors().find_map(|p| fs::metadata(p).ok());
    found.map_or(0, |m| m.dev())
}

/// What kind of file system a directory is on.
fn kind(directory: &Path) -> io::Result<u64> {
    let path = CString::new(directory.as_os_str().as_bytes())?;
    // SAFETY: a structure of integers.
    let mut found: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: a string and an output argument of ours.
    match unsafe { libc::statfs(path.as_ptr(), &mut found) } {
        // Numbers of 32 bits, some with the highest set.
        0 => Ok(u64::from(found.f_type as u32)),
        _ => Err(io::Error::last_os_error()),
    }
}
