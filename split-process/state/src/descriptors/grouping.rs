//! Which numbers share one open file description.
//!
//! kcmp(2) tells. Where it is not allowed (some containers filter it), two numbers of the same file
//! with the same flags are told apart by switching O_NONBLOCK on one of them and looking at the
//! other; the program is parked, and the flag is put back at once.

use std::os::fd::RawFd;

use super::OpenFile;

/// `KCMP_FILE` of linux/kcmp.h.
const KCMP_FILE: i32 = 0;

/// For each of `files` the index of the first one with the same description (its own, if none).
pub(super) fn leaders(files: &[OpenFile]) -> Vec<usize> {
    let mut leaders: Vec<usize> = Vec::with_capacity(files.len());
    for (i, file) in files.iter().enumerate() {
        let first = (0..i).find(|&j| {
            leaders[j] == j && could_be_same(&files[j], file) && same(files[j].fd, file.fd)
        });
        leaders.push(first.unwrap_or(i));
    }
    leaders
}

fn could_be_same(a: &OpenFile, b: &OpenFile) -> bool {
    (a.stat.st_dev, a.stat.st_ino) == (b.stat.st_dev, b.stat.st_ino)
        && a.info.position == b.info.position
        && (a.info.flags ^ b.info.flags) & !libc::O_CLOEXEC == 0
}

fn same(a: RawFd, b: RawFd) -> bool {
    compare(a, b).unwrap_or_else(|| same_by_flag(a, b))
}

/// The answer of kcmp, `None` if it may not be used.
fn compare(a: RawFd, b: RawFd) -> Option<bool> {
    // SAFETY: gettid and kcmp take and return numbers.
    let order = unsafe {
        // Of this thread, whose table may be its own.
        let pid = libc::gettid();
        libc::syscall(
            libc::SYS_kcmp,
            pid,
            pid,
            KCMP_FILE,
            a as libc::c_ulong,
            b as libc::c_ulong,
        )
    };
    (order >= 0).then_some(order == 0)
}

fn same_by_flag(a: RawFd, b: RawFd) -> bool {
    let get = |fd| {
        // SAFETY: F_GETFL takes and returns numbers.
        unsafe { libc::fcntl(fd, libc::F_GETFL) }
    };
    let set = |fd, flags: i32| {
        // SAFETY: F_SETFL takes and returns numbers.
        unsafe { libc::fcntl(fd, libc::F_SETFL, flags) }
    };
    let (before, other) = (get(a), get(b));
    if before < 0 || other < 0 || set(a, before ^ libc::O_NONBLOCK) < 0 {
        return false;
    }
    let followed = (get(b) ^ other) & libc::O_NONBLOCK != 0;
    set(a, before);
    followed
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsRawFd;

    #[test]
    fn both_ways_agree() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let one = File::open(file.path()).unwrap();
        let dup = one.try_clone().unwrap();
        let other = File::open(file.path()).unwrap();
        for (a, b, expected) in [(&one, &dup, true), (&one, &other, false)] {
            let (a, b) = (a.as_raw_fd(), b.as_raw_fd());
            assert_eq!(same_by_flag(a, b), expected);
            assert!(compare(a, b).is_none_or(|same| same == expected));
        }
    }
}
