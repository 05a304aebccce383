//! What the forked child does. It is one thread in a copy of a process that had many.
//!
//! **Illegal here**, because another thread may have held the lock at the moment of the fork, and
//! nobody will ever release it: allocation and deallocation (so: no `Vec` grows, no `Drop` of one),
//! every function of a libc but the `mem*` ones, logging, printing, environment, panics (no indexing,
//! no slicing that can fail, no `unwrap`), threads, anything with a lock. System calls are made
//! directly; errors are negated errnos. All memory was prepared by the parent.

use mana_image::{hash, Hash, HeaderDraft, Layout, Pieces, CHUNK_LEN};
use mana_raw::sys;

use crate::page::Report;

const PWRITE64: usize = libc::SYS_pwrite64 as usize;
const FALLOCATE: usize = libc::SYS_fallocate as usize;
const FTRUNCATE: usize = libc::SYS_ftruncate as usize;
const FSYNC: usize = libc::SYS_fsync as usize;
const OPEN: usize = libc::SYS_open as usize;
const WRITE: usize = libc::SYS_write as usize;
const CLOSE: usize = libc::SYS_close as usize;
const CLOSE_RANGE: usize = libc::SYS_close_range as usize;
const PRCTL: usize = libc::SYS_prctl as usize;
const GETPPID: usize = libc::SYS_getppid as usize;

/// All the child needs, in memory that exists before the fork.
pub struct Work<'a> {
    /// Process id of the parent.
    pub parent: i32,
    /// The image file.
    pub file: i32,
    /// The same file opened with O_DIRECT, or -1.
    pub direct: i32,
    /// Descriptors below this are closed one by one where the kernel has no `close_range`.
    pub descriptors: i32,
    pub layout: Layout,
    pub header: HeaderDraft,
    pub meta: &'a [u8],
    pub pieces: Pieces<'a>,
    /// As long as the index.
    pub index: &'a mut [u8],
    /// One chunk, aligned to a page.
    pub buffer: &'a mut [u8],
}

/// Exit codes, for people who trace it; the page says the same.
const OK: usize = 0;
const BAD: usize = 1;

/// Writes the image, reports, and ends the process.
pub fn run(work: &mut Work, report: &Report) -> ! {
    settle(work);
    let code = match write_image(work, report) {
        Ok(root) => {
            report.done(&root);
            OK
        }
        Err(errno) => {
            report.failed(errno);
            BAD
        }
    };
    loop {
        call(sys::EXIT_GROUP, [code, 0, 0, 0]);
    }
}

/// A system call that takes only memory of ours and descriptors of ours.
fn call(nr: usize, args: [usize; 4]) -> isize {
    // SAFETY: this process has one thread and runs this module only: no other code depends on its
    // descriptors, signal mask or memory; pointers given here are to live objects.
    unsafe { sys::syscall(nr, [args[0], args[1], args[2], args[3], 0, 0]) }
}

/// Makes the process harmless to others.
fn settle(work: &Work) {
    call(
        PRCTL,
        [
            libc::PR_SET_PDEATHSIG as usize,
            libc::SIGKILL as usize,
            0,
            0,
        ],
    );
    if call(GETPPID, [0; 4]) != work.parent as isize {
        call(sys::EXIT_GROUP, [BAD, 0, 0, 0]); // the parent died in between
    }
    call(
        PRCTL,
        [
            libc::PR_SET_NAME as usize,
            c"mana-snapshot".as_ptr() as usize,
            0,
            0,
        ],
    );
    // Pipes and sockets must not seem open because of this process.
    close_all_but(work.file, work.direct, work.descriptors);
    // If memory is short, this process goes, not the program.
    let adj = call(
        OPEN,
        [
            c"/proc/self/oom_score_adj".as_ptr() as usize,
            libc::O_WRONLY as usize,
            0,
            0,
        ],
    );
    if adj >= 0 {
        call(WRITE, [adj as usize, b"1000".as_ptr() as usize, 4, 0]);
        call(CLOSE, [adj as usize, 0, 0, 0]);
    }
}

fn close_all_but(file: i32, direct: i32, limit: i32) {
    let (low, high) = match direct {
        -1 => (file, file),
        _ => (file.min(direct), file.max(direct)),
    };
    let ranges = [
        (0, low.saturating_sub(1)),
        (low.saturating_add(1), high.saturating_sub(1)),
        (high.saturating_add(1), i32::MAX),
    ];
    for (first, last) in ranges {
        if first > last {
            continue;
        }
        if call(CLOSE_RANGE, [first as usize, last as usize, 0, 0]) != 0 {
            for fd in first..last.min(limit) {
                call(CLOSE, [fd as usize, 0, 0, 0]);
            }
            if last < limit {
                call(CLOSE, [last as usize, 0, 0, 0]);
            }
        }
    }
}

/// The root hash, or an errno.
fn write_image(work: &mut Work, report: &Report) -> Result<Hash, i32> {
    let layout = work.layout;
    reserve(work.file, layout.total)?;
    let mut direct = work.direct;
    let mut at = 0;
    let mut hashes = work.index.chunks_exact_mut(16);
    while at < layout.data.1 {
        let len = CHUNK_LEN.min(layout.data.1 - at);
        // Copied even where it lies in one piece: direct I/O pins pages, and the kernel would first give
        // this process its own copy of each page it shares with the parent.
        let bytes = work
            .pieces
            .gather(at, len as usize, work.buffer)
            .ok_or(libc::EINVAL)?;
        hashes
            .next()
            .ok_or(libc::EINVAL)?
            .copy_from_slice(&hash(bytes));
        let offset = layout.data.0 + at;
        let mut written = Err(libc::EINVAL);
        if direct >= 0 {
            written = put(direct, bytes, offset, report);
            if written == Err(libc::EINVAL) {
                direct = -1; // the storage wants another alignment
            }
        }
        if written == Err(libc::EINVAL) {
            written = put(work.file, bytes, offset, report);
        }
        written?;
        at += len;
    }
    put(work.file, work.meta, layout.meta.0, report)?;
    put(work.file, work.index, layout.index.0, report)?;
    let root = work.header.seal(&hash(work.meta), &hash(work.index));
    put(work.file, work.header.bytes(), 0, report)?;
    match call(FSYNC, [work.file as usize, 0, 0, 0]) {
        e if e < 0 => Err(-e as i32),
        _ => Ok(root),
    }
}

/// Space for the whole file, so that a full disk shows at once.
fn reserve(file: i32, total: u64) -> Result<(), i32> {
    let done = call(FALLOCATE, [file as usize, 0, 0, total as usize]);
    if done == -(libc::EOPNOTSUPP as isize) || done == -(libc::ENOSYS as isize) {
        return match call(FTRUNCATE, [file as usize, total as usize, 0, 0]) {
            e if e < 0 => Err(-e as i32),
            _ => Ok(()),
        };
    }
    if done < 0 {
        return Err(-done as i32);
    }
    Ok(())
}

fn put(fd: i32, mut bytes: &[u8], mut at: u64, report: &Report) -> Result<(), i32> {
    while !bytes.is_empty() {
        let n = call(
            PWRITE64,
            [
                fd as usize,
                bytes.as_ptr() as usize,
                bytes.len(),
                at as usize,
            ],
        );
        match n {
            n if n == -(libc::EINTR as isize) => continue,
            n if n < 0 => return Err(-n as i32),
            0 => return Err(libc::ENOSPC),
            n => {
                bytes = bytes.get(n as usize..).unwrap_or_default();
                at += n as u64;
                report.advance(n as u64);
            }
        }
    }
    Ok(())
}
