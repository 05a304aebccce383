//! What an image needs to know about a parked program: its regions, and the state outside its
//! memory. Lower half, on a control thread.

use crate::api::{CaptureError, Region, RegionKind, Run};
use crate::arena::PAGE;
use crate::book::book;
use crate::park::Parked;
use crate::processor::Processor;
use crate::threads::Thread;
use mana_raw::layout::{ARENA_START, CONTROL_VERSION, PARK_SIGNAL, SHIM_CODE, SHIM_DATA, VDSO};
use mana_raw::{shim, sys};
use serde::{Deserialize, Serialize};
use std::io::{Read, Seek, SeekFrom};
use std::sync::atomic::Ordering;

/// Version of [`State`].
pub const STATE_VERSION: u32 = 2;

/// A thread, apart from its memory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ThreadState {
    /// Number the program knows.
    pub id: i32,
    /// The process's first thread?
    pub main: bool,
    /// FS base.
    pub fs: u64,
    /// Address of the ucontext to return to.
    pub context: u64,
    /// Word to clear at exit.
    pub tid_address: u64,
    /// `ThreadBlock::cont` and `cont_arg`.
    pub cont: (u64, u64),
    /// `ThreadBlock::rewound`.
    pub rewound: u64,
    /// `ThreadBlock::wait_nr`: a wait that was rewound is not recorded again on its way in.
    pub wait_nr: u64,
    /// Robust futex list: head and length.
    pub robust: (u64, u64),
    /// Signals pending for this thread alone (bit n-1 is signal n).
    pub pending: u64,
    /// Index of the time value in the book.
    pub slot: usize,
    /// Name.
    pub name: Vec<u8>,
}

/// The state of the process outside its memory and descriptors.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    /// [`STATE_VERSION`]
    pub version: u32,
    /// Layout of the two halves.
    pub layout: u32,
    /// The shim's code, which the image holds and today's lower half must match.
    pub shim: Vec<u8>,
    /// The processor.
    pub processor: Processor,
    /// The process id the program knows.
    pub pid: i32,
    /// The program.
    pub exe: Vec<u8>,
    /// All threads.
    pub threads: Vec<ThreadState>,
}

/// `SigPnd` of proc(5): what is pending for one thread, as long as it blocks it.
fn pending_for(tid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/self/task/{tid}/status"));
    let status = status.unwrap_or_default();
    let mask = status.lines().find_map(|l| l.strip_prefix("SigPnd:"));
    mask.and_then(|m| u64::from_str_radix(m.trim(), 16).ok())
        .unwrap_or(0)
}

fn thread_state(thread: &Thread) -> ThreadState {
    let tid = thread.tid.load(Ordering::Relaxed);
    let (mut head, mut len) = (0u64, 0u64);
    // SAFETY: the kernel writes the two words.
    unsafe {
        sys::syscall(
            sys::GET_ROBUST_LIST,
            [
                tid as usize,
                (&raw mut head) as usize,
                (&raw mut len) as usize,
                0,
                0,
                0,
            ],
        )
    };
    if !crate::in_upper_range(head as usize) {
        head = 0; // still the lower libc's
    }
    let mut name = std::fs::read(format!("/proc/self/task/{tid}/comm")).unwrap_or_default();
    name.truncate(name.iter().position(|&b| b == b'\n').unwrap_or(name.len()));
    ThreadState {
        id: thread.id.load(Ordering::Relaxed),
        main: thread.main.load(Ordering::Relaxed),
        fs: thread.block.upper_fs as u64,
        context: thread.context.load(Ordering::Relaxed) as u64,
        tid_address: thread.tid_address.load(Ordering::Relaxed) as u64,
        cont: (thread.block.cont, thread.block.cont_arg),
        rewound: thread.block.rewound,
        wait_nr: thread.block.wait_nr,
        robust: (head, len),
        pending: pending_for(tid) & !(1 << (PARK_SIGNAL - 1)),
        slot: thread.slot,
        name,
    }
}

impl Parked {
    /// The state outside memory and descriptors, for [`crate::Restorer::begin`].
    pub fn state(&self) -> Result<Vec<u8>, CaptureError> {
        // SAFETY: the program stands still.
        let book = unsafe { book() };
        let state = State {
            version: STATE_VERSION,
            layout: CONTROL_VERSION,
            shim: shim::code().to_vec(),
            processor: Processor::here(),
            pid: book.pid.load(Ordering::Relaxed),
            exe: book.exe[..book.exe_len].to_vec(),
            threads: self.threads.iter().map(|t| thread_state(t)).collect(),
        };
        postcard::to_stdvec(&state).map_err(|source| CaptureError::Encode { source })
    }

    /// The mappings of the upper half, with the runs of pages an image must hold. Shared mappings
    /// have no runs: their content belongs to the object, not to this process.
    ///
    /// Memory that cannot be read is made readable until the release.
    pub fn regions(&self) -> Result<Vec<Region>, CaptureError> {
        const MAPS: &str = "/proc/self/maps";
        const PAGEMAP: &str = "/proc/self/pagemap";
        let proc = |operation, path: &'static str| {
            move |source| CaptureError::Proc {
                operation,
                path,
                source,
            }
        };
        let maps = std::fs::read_to_string(MAPS).map_err(proc("read", MAPS))?;
        let mut pagemap = std::fs::File::open(PAGEMAP).map_err(proc("open", PAGEMAP))?;
        let mut regions = Vec::new();
        for line in maps.lines() {
            let Some(mut region) = parse(line) else {
                continue;
            };
            let start = region.start as usize;
            if (ARENA_START..SHIM_CODE).contains(&start) || !crate::in_upper_range(start) {
                continue;
            }
            if region.kind != RegionKind::Shared {
                region.runs = match region.kind {
                    RegionKind::PrivateFile => self.file_runs(&region),
                    _ => present_runs(&mut pagemap, &region).map_err(proc("read", PAGEMAP))?,
                };
                if region.kind == RegionKind::Anonymous {
                    crate::excluded::leave_out(&mut region.runs);
                }
                if !region.runs.is_empty() && region.prot & libc::PROT_READ as u32 == 0 {
                    self.make_readable(&region);
                }
            }
            regions.push(region);
        }
        Ok(regions)
    }

    /// The bytes of a run, valid until the release.
    pub fn memory(&self, run: &Run) -> &[u8] {
        // SAFETY: runs come from `regions`: mapped, readable, and still while `self` lives.
        unsafe { std::slice::from_raw_parts(run.start as *const u8, run.len as usize) }
    }

    fn make_readable(&self, region: &Region) {
        let (start, len, prot) = (
            region.start as usize,
            region.len as usize,
            region.prot as i32,
        );
        if crate::protect_at(start, len, prot | libc::PROT_READ).is_ok() {
            self.opened.borrow_mut().push((start, len, prot));
        }
    }

    /// The pages of a private file mapping that can be read at all: those behind the end of the
    /// file cannot.
    fn file_runs(&self, region: &Region) -> Vec<Run> {
        if region.prot & libc::PROT_READ as u32 == 0 {
            if region.prot == 0 {
                return Vec::new(); // a loader's gap: never had content
            }
            self.make_readable(region);
        }
        let mut runs: Vec<Run> = Vec::new();
        let mut page = region.start;
        let end = region.start + region.len;
        while page < end {
            let n = readable_pages(page, ((end - page) as usize / PAGE).min(256)) as u64;
            if n > 0 {
                push_run(&mut runs, page, n * PAGE as u64);
                page += n * PAGE as u64;
            } else {
                page += PAGE as u64;
            }
        }
        runs
    }
}

fn push_run(runs: &mut Vec<Run>, start: u64, len: u64) {
    match runs.last_mut() {
        Some(run) if run.start + run.len == start => run.len += len,
        _ => runs.push(Run { start, len }),
    }
}

/// How many of `count` pages from `page` on can be read, by having the kernel read a byte of each.
fn readable_pages(page: u64, count: usize) -> usize {
    let mut bytes = vec![0u8; count];
    let remote: Vec<libc::iovec> = (0..count)
        .map(|i| libc::iovec {
            iov_base: (page as usize + i * PAGE) as *mut _,
            iov_len: 1,
        })
        .collect();
    let local = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: count,
    };
    // SAFETY: the kernel checks every address; `bytes` is large enough.
    let n = unsafe {
        libc::process_vm_readv(libc::getpid(), &local, 1, remote.as_ptr(), count as u64, 0)
    };
    if n >= 0 {
        return n as usize;
    }
    let refused = std::io::Error::last_os_error().raw_os_error() != Some(libc::EFAULT);
    if refused {
        count // a policy forbids the probe: take the mapping as whole
    } else {
        0
    }
}

/// Runs of pages that exist in memory or swap.
fn present_runs(pagemap: &mut std::fs::File, region: &Region) -> std::io::Result<Vec<Run>> {
    const ENTRIES: usize = 32768;
    const PRESENT_OR_SWAPPED: u64 = 3 << 62;
    let mut runs = Vec::new();
    let mut buffer = vec![0u8; ENTRIES * 8];
    let mut page = region.start / PAGE as u64;
    let end = (region.start + region.len) / PAGE as u64;
    pagemap.seek(SeekFrom::Start(page * 8))?;
    while page < end {
        let n = ((end - page) as usize).min(ENTRIES);
        pagemap.read_exact(&mut buffer[..n * 8])?;
        for entry in buffer[..n * 8].chunks_exact(8) {
            let entry = u64::from_le_bytes(entry.try_into().unwrap_or([0; 8]));
            if entry & PRESENT_OR_SWAPPED != 0 {
                push_run(&mut runs, page * PAGE as u64, PAGE as u64);
            }
            page += 1;
        }
    }
    Ok(runs)
}

/// One line of `/proc/self/maps`.
fn parse(line: &str) -> Option<Region> {
    let mut words = line.splitn(6, ' ');
    let (start, end) = words.next()?.split_once('-')?;
    let (start, end) = (
        u64::from_str_radix(start, 16).ok()?,
        u64::from_str_radix(end, 16).ok()?,
    );
    let flags = words.next()?.as_bytes();
    let offset = u64::from_str_radix(words.next()?, 16).ok()?;
    let (major, minor) = words.next()?.split_once(':')?;
    let device =
        u64::from_str_radix(major, 16).ok()? << 32 | u64::from_str_radix(minor, 16).ok()?;
    let inode: u64 = words.next()?.parse().ok()?;
    let name = words.next().unwrap_or("").trim_start().to_owned();
    let bit = |i: usize, letter: u8, value: i32| {
        if flags.get(i) == Some(&letter) {
            value as u32
        } else {
            0
        }
    };
    let prot = bit(0, b'r', libc::PROT_READ)
        | bit(1, b'w', libc::PROT_WRITE)
        | bit(2, b'x', libc::PROT_EXEC);
    let ours = [SHIM_CODE as u64, SHIM_DATA as u64, VDSO as u64].contains(&start);
    let kind = if flags.get(3) == Some(&b's') {
        RegionKind::Shared
    } else if inode != 0 && !ours {
        RegionKind::PrivateFile
    } else if end as usize == mana_raw::layout::STACK_TOP {
        RegionKind::Stack
    } else {
        RegionKind::Anonymous
    };
    Some(Region {
        start,
        len: end - start,
        prot,
        kind,
        name,
        offset,
        inode: (device, inode),
        runs: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_maps() {
        let line = "300001000000-300001026000 r-xp 00001000 fe:00 123                        /usr/lib/a b.so (deleted)";
        let region = parse(line).expect("a region");
        assert_eq!(
            (region.start, region.len, region.prot),
            (0x3000_0100_0000, 0x26000, 5)
        );
        assert_eq!(
            (region.kind, region.offset),
            (RegionKind::PrivateFile, 0x1000)
        );
        assert_eq!(region.name, "/usr/lib/a b.so (deleted)");
        let shared = parse("310000000000-310000001000 rw-s 00000000 00:01 9 /dev/zero (deleted)")
            .expect("a region");
        assert_eq!(shared.kind, RegionKind::Shared);
        assert!(parse("nonsense").is_none());
    }
}
