//! The processes a program without MPI makes: they stay under control, each with a lower half of
//! its own, and are checkpointed and resumed with it. Lower half.
//!
//! | module | holds |
//! |---|---|
//! | `table` | who belongs to the tree; shared by all its processes |
//! | `fork` | a forked child, whose lower half comes back to life |
//! | `execute` | a process of the tree that executes a program |
//! | `numbers` | waits for children, and calls that name processes |
//!
//! Without [`found`] or [`join`] there is no tree, and children are the kernel's alone.

pub(crate) mod execute;
pub(crate) mod fork;
pub(crate) mod numbers;
mod table;

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicPtr, Ordering};

pub use execute::Execute;
pub use table::{clock, exists, NotMet, Place, Table, AT_ONCE};

static TABLE: AtomicPtr<Table> = AtomicPtr::new(std::ptr::null_mut());
static OWN: AtomicPtr<Place> = AtomicPtr::new(std::ptr::null_mut());

/// The table of the tree this process belongs to.
pub fn table() -> Option<&'static Table> {
    // SAFETY: set once the table is mapped, and never unmapped.
    unsafe { TABLE.load(Ordering::Acquire).as_ref() }
}

/// This process's place in it.
pub fn own() -> Option<&'static Place> {
    // SAFETY: a place of the table, which stays mapped.
    unsafe { OWN.load(Ordering::Acquire).as_ref() }
}

/// Whether this process is in a tree, and not its root.
pub fn is_member() -> bool {
    own().is_some() && table().is_some_and(|t| t.root() != std::process::id() as i32)
}

/// Takes the place of this process.
fn take(place: &Place) {
    OWN.store(std::ptr::from_ref(place).cast_mut(), Ordering::Release);
}

fn map(fd: &OwnedFd) -> io::Result<&'static Table> {
    // SAFETY: a fresh shared mapping of a memory file that is as long as the table.
    let at = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            size_of::<Table>(),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            fd.as_raw_fd(),
            0,
        )
    };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: mapped for good; the kernel's pages are aligned for it.
    Ok(unsafe { &*at.cast::<Table>() })
}

/// Makes a tree whose root is this process, known to the program as `id` (`None`: at its first
/// start). The file stays open as long as others are to join.
///
/// # Errors
/// When there is no memory for it.
pub fn found(id: Option<i32>) -> io::Result<OwnedFd> {
    // SAFETY: the name is a C string.
    let fd = unsafe { libc::memfd_create(c"mana-tree".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: ftruncate takes and returns numbers.
    if unsafe { libc::ftruncate(fd.as_raw_fd(), size_of::<Table>() as i64) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let table = map(&fd)?;
    let real = std::process::id() as i32;
    table.begin(real, id.is_some());
    let place = table.reserve(0).ok_or(io::ErrorKind::OutOfMemory)?;
    table.settle(place, real, id);
    take(place);
    TABLE.store(std::ptr::from_ref(table).cast_mut(), Ordering::Release);
    Ok(fd)
}

/// Joins the tree whose table is the file at `path`: this process was executed by one of it.
///
/// # Errors
/// When there is no such table, or no place in it.
pub fn join(path: &Path) -> io::Result<()> {
    let file = std::fs::File::options().read(true).write(true).open(path)?;
    if file.metadata()?.len() != size_of::<Table>() as u64 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let table = map(&file.into())?;
    if !table.is_valid() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let real = std::process::id() as i32;
    let place = match table.by_real(real) {
        Some(place) => place,
        None => {
            // SAFETY: no arguments.
            let parent = unsafe { libc::getppid() };
            let parent = table.by_real(parent).map_or(parent, Place::id);
            let place = table.reserve(parent).ok_or(io::ErrorKind::OutOfMemory)?;
            // Who made this process knows it by the kernel's number.
            if table.settle(place, real, None) != real {
                place.free();
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            place
        }
    };
    place.set_plain(false);
    place.reply(0, "");
    take(place);
    TABLE.store(std::ptr::from_ref(table).cast_mut(), Ordering::Release);
    Ok(())
}

/// This process was forked by one that is bringing the tree back: it is `id` to the program.
/// `place` was reserved before the fork.
pub fn become_member(place: &'static Place, id: i32) {
    if let Some(table) = table() {
        table.settle(place, std::process::id() as i32, Some(id));
        take(place);
    }
}
