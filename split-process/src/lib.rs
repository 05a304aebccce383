//! The split process: loads a program into the arena, switches between the halves, parks the
//! program's threads, captures and restores them. Lower half.
//!
//! ```text
//!  start:    Launch::resolve -> start(resolved, hooks)                             never returns
//!  capture:  park_all -> Parked::{run_on, state, regions, memory} -> release
//!  restore:  Restorer::begin -> map -> (fill the buffers) -> protect -> finish     never returns
//! ```
//!
//! | module | holds |
//! |---|---|
//! | `launch`, `elf` | what to start: PATH, scripts, refusals |
//! | `start` | mapping the program's loader and entering it |
//! | `arena`, `book` | placement of mappings, the break; what survives a restart |
//! | `sites`, `patch` | finding system-call instructions by decoding, patching them |
//! | `vdso`, `control` | the copied vDSO; the control page, slots |
//! | `aside` | commands the lower half runs beside the program |
//! | `calls`, `signals`, `children` | what the trapped system calls do |
//! | `notice` | signals that are held back from the program for a while |
//! | `threads` | one lower pthread for each thread of the program |
//! | `park`, `wait` | signal 33; interrupted waits go on |
//! | `capture`, `snapshot`, `restore`, `processor` | the image's view of all that |
//! | `excluded` | memory the program keeps out of its images |
//! | `tree` | the processes a program without MPI makes |
//! | `descriptors` | keeping the lower half's descriptors out of the program's way |
#![warn(missing_docs)]

mod api;
mod arena;
mod aside;
mod book;
mod calls;
mod capture;
mod children;
mod control;
mod descriptors;
mod elf;
mod excluded;
mod launch;
mod notice;
mod park;
mod patch;
mod processor;
mod restore;
mod signals;
mod sites;
mod snapshot;
mod start;
mod threads;
pub mod tree;
mod vdso;
mod wait;

pub use api::*;
pub use aside::{Aside, Printed};
pub use book::{in_upper_range, interface, restarts, set_interface};
pub use control::{
    membarrier, membarrier_register, publish_comm, publish_interface, publish_slots,
};
pub use descriptors::{with_reserved_descriptors, LOWER_FD_BASE};
pub use excluded::{exclude, include, Refused};
pub use mana_raw::layout::PARK_SIGNAL;
pub use mana_raw::upcall::{call_upper, NoUpcall};
pub use notice::{
    drop_signal, has_handler, held_since, hold_signals, hold_signals_in_member, may_hold,
    next_notice, pass_signal,
};
pub use park::{park_all, set_pending, Parked};
pub use restore::{Restorer, RunBuffer};
pub use signals::{block_signals, with_signals_blocked};
pub use snapshot::{may_be_unforkable, Snapshot};
pub use start::{set_hooks, start};
pub use threads::Job;

/// The identity of the calling thread, if it carries a thread of the upper half.
pub fn current_thread_id() -> Option<ThreadId> {
    threads::current().map(|t| t.identity())
}

/// Whether the program has threads: it has been entered, and has not ended.
pub fn is_running() -> bool {
    !threads::live().is_empty()
}

/// Whether a thread of the program is in the lower half just now: in MPI, or in a system call that the
/// lower half handles.
pub fn inside() -> bool {
    threads::live().iter().any(|thread| thread.depth() > 0)
}

/// The identity of the thread of the upper half that the kernel knows as `tid` in this process.
pub fn thread_of_kernel_tid(tid: i32) -> Option<ThreadId> {
    threads::by_kernel_tid(tid)
}

/// The number the program knows for the thread the kernel knows as `tid`; `tid` itself for others.
pub fn virtual_tid(tid: i32) -> i32 {
    threads::by_kernel_tid(tid).map_or(tid, |id| id.0)
}

/// The kernel's number for the thread the program knows as `id`; `id` itself for others.
pub fn real_tid(id: i32) -> i32 {
    threads::kernel_tid(id).unwrap_or(id)
}

/// Address ranges of the upper half: the arena, and what a program has outside it.
pub fn upper_ranges() -> Vec<std::ops::Range<usize>> {
    let arena = mana_raw::layout::SHIM_CODE..mana_raw::layout::ARENA_END;
    std::iter::once(arena)
        .chain(book::outside().map(|(start, end)| start..end))
        .collect()
}

/// Maps fresh private memory at exactly `[address, address + len)`.
pub(crate) fn memory_at(
    address: usize,
    len: usize,
    prot: i32,
    operation: &'static str,
) -> Result<(), LaunchError> {
    // SAFETY: NOREPLACE: nothing that exists is touched.
    let result = unsafe {
        mana_raw::sys::syscall(
            mana_raw::sys::MMAP,
            [
                address,
                len,
                prot as usize,
                0x22 | arena::NOREPLACE,
                usize::MAX,
                0,
            ],
        )
    };
    if result == address as isize {
        return Ok(());
    }
    if result > 0 {
        // A kernel before 4.17 ignores NOREPLACE and maps elsewhere.
        // SAFETY: the mapping just made.
        unsafe { libc::munmap(result as *mut _, len) };
    }
    let errno = if result < 0 {
        -result as i32
    } else {
        libc::EEXIST
    };
    Err(LaunchError::Memory {
        operation,
        address,
        errno,
    })
}

/// Changes the protection of memory of the upper half.
pub(crate) fn protect_at(address: usize, len: usize, prot: i32) -> Result<(), LaunchError> {
    // SAFETY: memory of the upper half or of its shim; the callers keep it usable for its owner.
    if unsafe { libc::mprotect(address as *mut _, arena::pages(len), prot) } == 0 {
        return Ok(());
    }
    Err(LaunchError::Memory {
        operation: "change the protection of memory",
        address,
        errno: arena::errno() as i32,
    })
}
