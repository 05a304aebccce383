//! Writable regular files are brought to stable storage before a checkpoint commits.
//!
//! This happens while the program runs on. The thread that does it has its own copy of the
//! descriptor table: the program may close and reopen its files meanwhile, and when the thread
//! closes its copies, record locks of the program stay (they belong to the table they were made in).

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use crate::descriptors::OpenFile;
use crate::error::{StateError, Warning};
use crate::mappings::{classify, Class};
use crate::maps::{self, Mapping};
use crate::path::FilePath;

/// Bound on the start of the thread.
const START: Duration = Duration::from_secs(10);

/// An fdatasync of all regular files open or mapped for writing, under way on a thread of its own.
#[derive(Debug)]
pub struct FileSync {
    done: Receiver<Vec<Warning>>,
}

/// Files of the program that none of its own descriptors leads to.
pub struct Further {
    /// Numbers that stay open in the thread until `store` has run.
    pub descriptors: Vec<RawFd>,
    /// Brings the files to stable storage, on the thread; the names of those it cannot, and why.
    pub store: Box<dyn FnOnce() -> Vec<(String, io::Error)> + Send>,
}

impl FileSync {
    /// Starts it, while the program is parked. Descriptors for which `lower_descriptor` answers
    /// true are left out.
    pub fn start(
        lower_descriptor: &dyn Fn(RawFd) -> bool,
        further: Option<Further>,
    ) -> Result<FileSync, StateError> {
        let files = writable_files(lower_descriptor)?;
        let mapped = mapped_files()?;
        let (finished, done) = channel();
        if files.is_empty() && mapped.is_empty() && further.is_none() {
            let _ = finished.send(Vec::new());
            return Ok(FileSync { done });
        }
        let (started, ready) = channel();
        let before = block_signals();
        let thread = thread::Builder::new()
            .name("mana-sync".into())
            .spawn(move || {
                // SAFETY: unshare gives this thread a copy of the table and touches no memory.
                if unsafe { libc::unshare(libc::CLONE_FILES) } != 0 {
                    let _ = started.send(Err(io::Error::last_os_error()));
                    return;
                }
                // The program's pipes and sockets must not stay open through our copy of the table.
                let numbers = files.iter().map(|f| f.0);
                let also = further.iter().flat_map(|f| f.descriptors.iter().copied());
                close_all_but(numbers.chain(also).collect());
                let mapped: Vec<(File, String)> = mapped
                    .into_iter()
                    .filter_map(|path| Some((File::open(path.as_path()).ok()?, path.to_string())))
                    .collect();
                let _ = started.send(Ok(()));
                let mut warnings = Vec::new();
                let open = files.iter().map(|(fd, name)| (*fd, name));
                for (fd, name) in
                    open.chain(mapped.iter().map(|(file, name)| (file.as_raw_fd(), name)))
                {
                    warnings.extend(synchronise(fd, name));
                }
                if let Some(further) = further {
                    let failed = (further.store)();
                    warnings.extend(failed.into_iter().map(|(name, e)| unstored(&name, e)));
                }
                let _ = finished.send(warnings);
            });
        restore_signals(before);
        let failed = |e| StateError::io("start", "the thread that synchronises files", e);
        thread.map_err(failed)?;
        match ready.recv_timeout(START) {
            Ok(Ok(())) => Ok(FileSync { done }),
            Ok(Err(e)) => Err(failed(e)),
            Err(_) => Err(failed(io::ErrorKind::TimedOut.into())),
        }
    }

    /// Waits until all files are on stable storage. `None`: it takes longer than `timeout` (ask
    /// again, or abandon the checkpoint). Warnings name files that could not be synchronised.
    pub fn wait(&mut self, timeout: Duration) -> Option<Vec<Warning>> {
        match self.done.recv_timeout(timeout) {
            Ok(warnings) => Some(warnings),
            Err(RecvTimeoutError::Timeout) => None,
            // Asked again after the answer.
            Err(RecvTimeoutError::Disconnected) => Some(Vec::new()),
        }
    }
}

/// Brings one file to stable storage.
fn synchronise(fd: RawFd, name: &str) -> Option<Warning> {
    // SAFETY: fdatasync takes and returns numbers.
    if unsafe { libc::fdatasync(fd) } == 0 {
        return None;
    }
    let error = io::Error::last_os_error();
    // A kind of file that has no storage.
    let without = matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EROFS));
    (!without).then(|| unstored(name, error))
}

fn unstored(name: &str, error: io::Error) -> Warning {
    let message = format!("could not be written to stable storage ({error})");
    Warning::new(name, message)
}

/// Regular files mapped shared and writable; they need not be open.
fn mapped_files() -> Result<Vec<FilePath>, StateError> {
    let written = |m: &Mapping| m.write && classify(m) == Class::SharedFile;
    let mut paths: Vec<FilePath> = maps::read_self()?
        .into_iter()
        .filter(written)
        .map(|m| m.path)
        .collect();
    paths.sort();
    paths.dedup();
    Ok(paths)
}

/// Regular files open for writing, one number for each.
fn writable_files(
    lower_descriptor: &dyn Fn(RawFd) -> bool,
) -> Result<Vec<(RawFd, String)>, StateError> {
    let directory = "/proc/thread-self/fd";
    let entries = fs::read_dir(directory).map_err(|e| StateError::io("list", directory, e))?;
    let names = entries.flatten().map(|e| e.file_name());
    let numbers: Vec<RawFd> = names.filter_map(|n| n.to_str()?.parse().ok()).collect();
    let mut files = Vec::new();
    let mut known = Vec::new();
    for fd in numbers.into_iter().filter(|&fd| !lower_descriptor(fd)) {
        // The listing's own number is closed by now.
        let Ok(file) = OpenFile::read(fd) else {
            continue;
        };
        let identity = (file.stat.st_dev, file.stat.st_ino);
        let writable = file.info.flags & libc::O_ACCMODE != libc::O_RDONLY
            && file.info.flags & libc::O_PATH == 0;
        let stored = file.file_type() == libc::S_IFREG && file.stat.st_nlink > 0;
        if writable && stored && !known.contains(&identity) {
            known.push(identity);
            files.push((fd, String::from_utf8_lossy(&file.target).into_owned()));
        }
    }
    Ok(files)
}

/// Closes everything in this thread's own table but these numbers.
fn close_all_but(mut kept: Vec<RawFd>) {
    kept.sort_unstable();
    kept.dedup();
    let mut first = 0u32;
    for next in kept.into_iter().map(|fd| fd as u32) {
        if next > first {
            close_range(first, next - 1);
        }
        first = next + 1;
    }
    close_range(first, u32::MAX);
}

fn close_range(first: u32, last: u32) {
    // SAFETY: the table is this thread's own; nothing in this thread uses the numbers closed.
    let failed = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } != 0;
    if failed {
        close_each(first, last);
    }
}

/// For kernels before 5.9. The listing is read first: its own number may be in the range.
fn close_each(first: u32, last: u32) {
    let Ok(entries) = fs::read_dir("/proc/thread-self/fd") else {
        return;
    };
    let names = entries.flatten().map(|e| e.file_name());
    let numbers: Vec<u32> = names.filter_map(|n| n.to_str()?.parse().ok()).collect();
    for fd in numbers.into_iter().filter(|fd| (first..=last).contains(fd)) {
        // SAFETY: the table is this thread's own; nothing in this thread uses the numbers closed.
        unsafe { libc::close(fd as i32) };
    }
}

/// Blocks every signal in this thread, so that a new thread starts that way: handlers of the
/// program must not run on it. Without the C library, which leaves two of them out.
fn block_signals() -> u64 {
    let all = u64::MAX;
    let mut before = 0u64;
    // SAFETY: both sets have the eight bytes announced.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_BLOCK,
            &raw const all,
            &raw mut before,
            8usize,
        )
    };
    before
}

fn restore_signals(before: u64) {
    let none = std::ptr::null_mut::<u64>();
    // SAFETY: the set has the eight bytes announced.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const before,
            none,
            8usize,
        )
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_of_its_own_table_closes_without_the_new_call() {
        let file = File::open("/dev/null").unwrap();
        let fd = file.as_raw_fd();
        let is_open = move || {
            // SAFETY: F_GETFD takes and returns numbers.
            unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
        };
        let closed = thread::spawn(move || {
            // SAFETY: unshare touches no memory.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_FILES) }, 0);
            close_each(fd as u32, fd as u32);
            !is_open()
        });
        assert!(closed.join().unwrap());
        assert!(is_open(), "the others keep theirs");
    }
}
