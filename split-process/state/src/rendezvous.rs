//! Where the ranks of a node meet at a restart, to share what they shared before: a directory with
//! one symbolic link for each object, which says where its first restorer has it. Making the link is
//! atomic; a lock file per object keeps two from filling it both. Nobody waits without a bound.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::context::{ObjectId, RestoreContext};
use crate::error::StateError;
use crate::path::FilePath;

/// Pause between two looks at what another process is doing.
const PAUSE: Duration = Duration::from_millis(2);

/// What is to be done about an object.
pub(crate) enum Turn {
    /// Another process has it here.
    Found(FilePath),
    /// This process makes it and then calls [`Place::publish`].
    Make(Place),
}

/// The right to make one object; given up when dropped.
pub(crate) struct Place {
    link: PathBuf,
    _lock: File,
}

impl Place {
    /// Tells the others where the object is.
    pub(crate) fn publish(self, at: &Path) -> Result<(), StateError> {
        std::os::unix::fs::symlink(at, &self.link)
            .map_err(|e| StateError::io("make the link", self.link.display(), e))
    }
}

/// Finds the object `id`, or gets the right to make it. A process that cannot make it (its content
/// was saved by another rank) says so and waits for the other.
pub(crate) fn meet(
    ctx: &RestoreContext<'_>,
    id: ObjectId,
    can_make: bool,
) -> Result<Turn, StateError> {
    let kind = if id.sysv { "segment" } else { "object" };
    let name = format!("{kind}-{:x}-{:x}-{}", id.major, id.minor, id.inode);
    let link = ctx.rendezvous.join(&name);
    let lock_path = ctx.rendezvous.join(name + ".lock");
    let deadline = Instant::now() + ctx.timeout;
    let opened = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&lock_path);
    let lock = opened.map_err(|e| StateError::io("open", lock_path.display(), e))?;
    let lock = File::from(crate::descriptors::raise(lock.into(), ctx.descriptor_base)?);
    loop {
        // SAFETY: flock takes and returns numbers.
        let locked = unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0;
        if locked {
            match fs::read_link(&link) {
                Ok(at) => return Ok(Turn::Found(FilePath::from(&*at))),
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(StateError::io("read", link.display(), e));
                }
                Err(_) if can_make => return Ok(Turn::Make(Place { link, _lock: lock })),
                Err(_) => {
                    // SAFETY: flock takes and returns numbers.
                    unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_UN) };
                }
            }
        }
        if Instant::now() >= deadline {
            let path = link.display().to_string();
            return Err(StateError::RendezvousTimeout {
                path,
                seconds: ctx.timeout.as_secs(),
            });
        }
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryBlobs;

    const ID: ObjectId = ObjectId {
        major: 0,
        minor: 1,
        inode: 77,
        sysv: false,
    };

    #[test]
    fn the_first_makes_and_the_others_find() {
        let directory = tempfile::tempdir().unwrap();
        let blobs = MemoryBlobs::new();
        let ctx = RestoreContext::new(300, &blobs, directory.path());
        let Turn::Make(place) = meet(&ctx, ID, true).unwrap() else {
            panic!()
        };
        place.publish(Path::new("/proc/1/fd/9")).unwrap();
        for can_make in [true, false] {
            let Turn::Found(at) = meet(&ctx, ID, can_make).unwrap() else {
                panic!()
            };
            assert_eq!(at.as_bytes(), b"/proc/1/fd/9");
        }
    }

    #[test]
    fn waiting_for_a_maker_that_never_comes_ends() {
        let directory = tempfile::tempdir().unwrap();
        let blobs = MemoryBlobs::new();
        let mut ctx = RestoreContext::new(300, &blobs, directory.path());
        ctx.timeout = Duration::from_millis(20);
        assert!(matches!(
            meet(&ctx, ID, false),
            Err(StateError::RendezvousTimeout { .. })
        ));
    }
}
