//! Bringing a saved upper half back in a new process. Lower half, main thread.
//!
//! | step | what | confirmed by |
//! |---|---|---|
//! | `begin` | version, shim and processor fit; control page; this thread gets its block | error by name |
//! | (glue) | descriptors at their old numbers, the MPI library started | |
//! | `map` | every private mapping, writable and empty | NOREPLACE |
//! | (glue) | fills the buffers, several threads at once if it likes | checksums |
//! | `protect` | final protections; free lists, vDSO slots, trapped calls | the shim's code is compared |
//! | (glue) | shared mappings, MPI objects | |
//! | `finish` | signal actions, threads, then `rt_sigreturn` on all | |

use crate::api::{Hooks, LaunchError, Region, RegionKind, RestoreError, Run, ThreadId};
use crate::book::{self, book};
use crate::capture::{State, ThreadState, STATE_VERSION};
use crate::processor::Processor;
use crate::threads::{self, Begin, Thread};
use crate::{arena, calls, control, patch, signals, start, vdso, wait};
use mana_raw::layout::{CONTROL_VERSION, SHIM_CODE};
use mana_raw::{shim, sys};
use std::convert::Infallible;
use std::sync::atomic::Ordering;

/// Memory to fill from an image.
#[derive(Debug)]
pub struct RunBuffer {
    /// Which run of the image.
    pub run: Run,
    /// Its memory in this process.
    pub bytes: &'static mut [u8],
}

/// A restore in progress. See the module's table for the order.
pub struct Restorer {
    state: State,
    main: Option<&'static Thread>,
    regions: Vec<Region>,
}

fn memory(error: LaunchError) -> RestoreError {
    match error {
        LaunchError::Memory {
            operation,
            address,
            errno,
        } => RestoreError::Memory {
            operation,
            start: address,
            end: address,
            errno,
        },
        _ => RestoreError::Invalid { what: "memory" },
    }
}

impl Restorer {
    /// Checks whether the state fits this program and this machine, and gives the calling thread
    /// (the process's first) its place in the upper half, so that the MPI library can be started.
    pub fn begin(state: &[u8]) -> Result<Restorer, RestoreError> {
        let state: State =
            postcard::from_bytes(state).map_err(|source| RestoreError::Decode { source })?;
        let version = |recorded, here| RestoreError::Version { recorded, here };
        if state.version != STATE_VERSION {
            return Err(version(state.version, STATE_VERSION));
        }
        if state.layout != CONTROL_VERSION || state.shim != shim::code() {
            return Err(version(state.layout, CONTROL_VERSION));
        }
        let missing = state.processor.missing_on(&Processor::here());
        if !missing.is_empty() {
            return Err(RestoreError::Processor {
                missing: missing.join(", "),
            });
        }
        if state.threads.iter().filter(|t| t.main).count() > 1 || state.threads.is_empty() {
            return Err(RestoreError::Invalid {
                what: "the threads",
            });
        }
        control::map().map_err(memory)?;
        calls::remember_pid();
        control::membarrier_register();
        wait::calibrate();
        vdso::fill_slots();
        let main = state.threads.iter().find(|t| t.main).map(|t| {
            let thread = threads::adopt_main(t.id, t.tid_address as usize);
            thread.with_block(|block| block.upper_fs = t.fs as usize);
            thread
        });
        Ok(Restorer {
            state,
            main,
            regions: Vec::new(),
        })
    }

    /// The program the image is of.
    pub fn program(&self) -> std::path::PathBuf {
        use std::os::unix::ffi::OsStrExt;
        std::ffi::OsStr::from_bytes(&self.state.exe).into()
    }

    /// The process id the program knows: how it is named in records made before the restart.
    pub fn recorded_pid(&self) -> i32 {
        self.state.pid
    }

    /// Maps all private regions at their addresses and returns the memory to fill, in the order of
    /// the regions and of their runs. Shared regions are left to their owner.
    pub fn map(&mut self, regions: &[Region]) -> Result<Vec<RunBuffer>, RestoreError> {
        let mut buffers = Vec::new();
        for region in regions.iter().filter(|r| r.kind != RegionKind::Shared) {
            let (start, len) = (region.start as usize, region.len as usize);
            let end = start.checked_add(len).ok_or(RestoreError::Invalid {
                what: "the regions",
            })?;
            let flags = match region.kind {
                RegionKind::Stack => start::STACK_FLAGS,
                _ => 0x4022, // private, anonymous, no reserve
            };
            // SAFETY: NOREPLACE.
            let result = unsafe {
                sys::syscall(
                    sys::MMAP,
                    [start, len, 3, flags | arena::NOREPLACE, usize::MAX, 0],
                )
            };
            if result != start as isize {
                let errno = if result < 0 {
                    -result as i32
                } else {
                    libc::EEXIST
                };
                return Err(RestoreError::Memory {
                    operation: "map",
                    start,
                    end,
                    errno,
                });
            }
            let mut last = region.start;
            for run in &region.runs {
                let inside = run.start >= last
                    && run.len > 0
                    && run
                        .start
                        .checked_add(run.len)
                        .is_some_and(|e| e <= region.start + region.len);
                if !inside {
                    return Err(RestoreError::Invalid {
                        what: "the runs of pages",
                    });
                }
                last = run.start + run.len;
                // SAFETY: inside the mapping just made; runs are in order and do not overlap.
                let bytes = unsafe {
                    std::slice::from_raw_parts_mut(run.start as *mut u8, run.len as usize)
                };
                buffers.push(RunBuffer { run: *run, bytes });
            }
        }
        self.regions = regions.to_vec();
        Ok(buffers)
    }

    /// Gives every region its protection, and wakes the book-keeping that came with the memory.
    /// Call it when all buffers are filled.
    pub fn protect(&mut self) -> Result<(), RestoreError> {
        for region in self
            .regions
            .iter()
            .filter(|r| r.kind != RegionKind::Shared && r.prot != 3)
        {
            crate::protect_at(
                region.start as usize,
                region.len as usize,
                region.prot as i32,
            )
            .map_err(memory)?;
        }
        let code = shim::code();
        if !self.regions.iter().any(|r| r.start as usize == SHIM_CODE) {
            return Err(RestoreError::Invalid { what: "the shim" });
        }
        // SAFETY: mapped and readable, as the regions say.
        let saved = unsafe { std::slice::from_raw_parts(SHIM_CODE as *const u8, code.len()) };
        if saved != code {
            return Err(RestoreError::Invalid {
                what: "the shim's code",
            });
        }
        // SAFETY: restored with the arena; no other thread uses it yet.
        let book = unsafe { book() };
        if book.shim_len != code.len()
            || book.outside_len.load(Ordering::Relaxed) > book::MAX_OUTSIDE
        {
            return Err(RestoreError::Invalid { what: "the book" });
        }
        book.restarts += 1;
        book::open();
        let ranges: Vec<_> = self
            .regions
            .iter()
            .map(|r| (r.start as usize, (r.start + r.len) as usize))
            .collect();
        arena::rebuild(&ranges);
        // SAFETY: mapped in `begin`.
        unsafe { control::page() }.brk = book.break_now.load(Ordering::Relaxed);
        for &number in patch::AFTER_RESTART {
            patch::trap(number, true);
        }
        Ok(())
    }

    /// The identity of the process's first thread in the upper half.
    pub fn main_thread(&self) -> Option<ThreadId> {
        self.main.map(Thread::identity)
    }

    /// Makes the program's threads, calls `last` on this one (nothing of the program has run yet),
    /// and lets them all go on where they were.
    pub fn finish(self, hooks: Hooks, last: impl FnOnce()) -> Result<Infallible, RestoreError> {
        start::set_hooks(hooks);
        crate::children::all_are_lower();
        // For good: what is pending for the program is not for this code.
        signals::set_mask(!0);
        std::thread::spawn(|| {}).join().ok(); // see `start::start`
        signals::install_saved();
        signals::install_park();
        crate::notice::install();
        let mut others = Vec::new();
        for saved in self.state.threads.iter().filter(|t| !t.main) {
            let thread = threads::record();
            thread.id.store(saved.id, Ordering::Relaxed);
            thread
                .tid_address
                .store(saved.tid_address as usize, Ordering::Relaxed);
            let begin = begin_at(saved);
            threads::spawn(thread, &begin).map_err(|errno| RestoreError::Thread {
                thread: saved.id,
                errno,
            })?;
            others.push(thread);
            bring_back(thread, saved);
        }
        if let (Some(main), Some(saved)) = (self.main, self.state.threads.iter().find(|t| t.main)) {
            bring_back(main, saved);
            last();
            others.into_iter().for_each(threads::release);
            // SAFETY: the context was saved with the memory; this thread's record.
            unsafe { threads::enter_main(main, &begin_at(saved)) }
        }
        last();
        others.into_iter().for_each(threads::release);
        // The program's first thread had ended before the checkpoint.
        // SAFETY: ends this thread only.
        unsafe { sys::syscall(sys::EXIT, [0; 6]) };
        Err(RestoreError::Invalid {
            what: "the threads",
        })
    }
}

fn begin_at(saved: &ThreadState) -> Begin {
    // A wait for a process of the former run: the thread looks for its children again.
    let rip = (saved.context as usize + wait::RIP) as *mut usize;
    // SAFETY: the ucontext of a thread that does not run yet, in restored memory.
    if shim::waiting().contains(&unsafe { *rip }) {
        // SAFETY: as above.
        unsafe { *rip = shim::again() };
    }
    Begin {
        fs: saved.fs as usize,
        stack: saved.context as usize,
        target: shim::restorer(),
    }
}

/// What a thread has in the kernel and in its block. The thread waits, or is the caller.
fn bring_back(thread: &Thread, saved: &ThreadState) {
    thread.with_block(|block| {
        block.cont = saved.cont.0;
        block.cont_arg = saved.cont.1;
        block.rewound = saved.rewound;
        block.wait_nr = saved.wait_nr;
    });
    thread.robust[1].store(saved.robust.1 as usize, Ordering::Relaxed);
    thread.robust[0].store(saved.robust.0 as usize, Ordering::Relaxed);
    wait::restamp(thread);
    raise_again(thread, saved.pending);
    let tid = thread.tid.load(Ordering::Relaxed);
    if let Err(error) = std::fs::write(format!("/proc/self/task/{tid}/comm"), &saved.name) {
        log::debug!("name of thread {}: {error}", saved.id);
    }
}

/// Makes signals pending again for a thread that blocks them all until it enters the program.
fn raise_again(thread: &Thread, pending: u64) {
    let tid = thread.tid.load(Ordering::Relaxed) as usize;
    for signal in (1..=64usize).filter(|n| pending >> (n - 1) & 1 != 0) {
        // SAFETY: a signal to a thread of this process, blocked there.
        unsafe {
            sys::syscall(
                sys::TGKILL,
                [std::process::id() as usize, tid, signal, 0, 0, 0],
            )
        };
    }
}
