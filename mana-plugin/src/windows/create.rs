//! Creation and freeing of windows, dynamic memory, and what a window is made of.
//!
//! Lower half. A window is made within one passage of the parent communicator's gate: its own
//! communicator, then the library's two windows. The memory of allocated and shared windows comes
//! from the stub: it is upper memory like any other of the program.

use super::alone::library;
use super::{finish, realise, Board, Epochs, Part, Window};
use crate::errors::{self, check};
use crate::state::{core, Outcome};
use crate::{attributes, collectives, comms, entry, groups, info};
use mpi_std::*;
use std::ffi::c_void;

/// What a new window is over.
struct Memory {
    flavor: i32,
    base: u64,
    size: i64,
    disp_unit: i32,
    parts: Vec<Part>,
}

fn make(comm: u64, hints: u64, memory: Memory, name: &'static &'static str) -> Outcome<u64> {
    if memory.size < 0 {
        return Err(MPI_ERR_SIZE);
    }
    if memory.disp_unit <= 0 {
        return Err(MPI_ERR_DISP);
    }
    let info = info::pairs(hints)?;
    let (_, parent) = core().comm(comm)?;
    if parent.local.is_some() {
        return Err(MPI_ERR_COMM);
    }
    let members = parent.members.len();
    let mut window = Window {
        real: MPI_WIN_NULL,
        control: MPI_WIN_NULL,
        comm: 0,
        flavor: memory.flavor,
        base: memory.base,
        size: memory.size,
        disp_unit: memory.disp_unit,
        attached: Vec::new(),
        parts: memory.parts,
        board: Board::new(members),
        epochs: Epochs {
            posts: vec![0; members],
            ..Epochs::default()
        },
        name: Vec::new(),
        errhandler: MPI_ERRORS_ARE_FATAL,
        attributes: Vec::new(),
        info,
    };
    let own = comms::create_inner(comm, name, |real, new| {
        // SAFETY: an output argument of ours.
        let rc = unsafe { (core().procs().MPI_Comm_dup)(real, new) };
        if rc != MPI_SUCCESS {
            return rc;
        }
        match realise(*new, &window) {
            Ok((real, control)) => {
                (window.real, window.control) = (real, control);
                MPI_SUCCESS
            }
            Err(code) => {
                // SAFETY: a communicator of ours that nothing uses.
                unsafe { (core().procs().MPI_Comm_free)(new) };
                code
            }
        }
    })?;
    window.comm = core().comm_index(own)?;
    let index = core().state.windows.insert(window).ok_or(MPI_ERR_OTHER)?;
    Ok(handle(kind::WIN, index))
}

/// Makes a window and hands its word out. Errors are the communicator's.
fn give(
    comm: u64,
    hints: u64,
    memory: Outcome<Memory>,
    win: *mut u64,
    name: &'static &'static str,
) -> i32 {
    let _guard = entry::enter();
    let outcome = memory.and_then(|m| make(comm, hints, m, name)).map(|w| {
        // SAFETY: an output argument.
        unsafe { *win = w };
    });
    errors::finish(outcome, comm, name)
}

pub unsafe extern "C" fn MPI_Win_create(
    base: *const c_void,
    size: i64,
    disp_unit: i32,
    info: u64,
    comm: u64,
    win: *mut u64,
) -> i32 {
    static NAME: &str = "MPI_Win_create";
    let memory = Memory {
        flavor: MPI_WIN_FLAVOR_CREATE,
        base: base as u64,
        size,
        disp_unit,
        parts: Vec::new(),
    };
    give(comm, info, Ok(memory), win, &NAME)
}

/// `baseptr` holds the address of the memory, which the stub has allocated.
pub unsafe extern "C" fn MPI_Win_allocate(
    size: i64,
    disp_unit: i32,
    info: u64,
    comm: u64,
    baseptr: *mut c_void,
    win: *mut u64,
) -> i32 {
    static NAME: &str = "MPI_Win_allocate";
    let memory = Memory {
        flavor: MPI_WIN_FLAVOR_ALLOCATE,
        // SAFETY: an argument of the stub, the address of a pointer.
        base: unsafe { *baseptr.cast::<u64>() },
        size,
        disp_unit,
        parts: Vec::new(),
    };
    give(comm, info, Ok(memory), win, &NAME)
}

/// `baseptr` is the address of a [`SharedMemory`], which the stub has made and agreed on.
pub unsafe extern "C" fn MPI_Win_allocate_shared(
    size: i64,
    disp_unit: i32,
    info: u64,
    comm: u64,
    baseptr: *mut c_void,
    win: *mut u64,
) -> i32 {
    static NAME: &str = "MPI_Win_allocate_shared";
    let memory = (|| {
        // SAFETY: an argument of the stub.
        let shared = unsafe { &*baseptr.cast::<SharedMemory>() };
        let (_, c) = core().comm(comm)?;
        let (rank, members) = (c.rank as usize, c.members.len());
        // SAFETY: the stub's array, of one element for each member.
        let all = unsafe { std::slice::from_raw_parts(shared.parts, members) };
        let part = |p: &SharedPart| Part {
            address: shared.address + p.offset as u64,
            size: p.size,
            disp_unit: p.disp_unit as i32,
        };
        let parts: Vec<Part> = all.iter().map(part).collect();
        Ok(Memory {
            flavor: MPI_WIN_FLAVOR_SHARED,
            base: parts.get(rank).map_or(0, |p| p.address),
            size,
            disp_unit,
            parts,
        })
    })();
    give(comm, info, memory, win, &NAME)
}

pub unsafe extern "C" fn MPI_Win_create_dynamic(info: u64, comm: u64, win: *mut u64) -> i32 {
    static NAME: &str = "MPI_Win_create_dynamic";
    let memory = Memory {
        flavor: MPI_WIN_FLAVOR_DYNAMIC,
        base: 0,
        size: 0,
        disp_unit: 1,
        parts: Vec::new(),
    };
    give(comm, info, Ok(memory), win, &NAME)
}

pub unsafe extern "C" fn MPI_Win_attach(win: u64, base: *const c_void, size: i64) -> i32 {
    let _guard = entry::enter();
    let outcome = (|| {
        let w = core().window(win)?;
        if w.flavor != MPI_WIN_FLAVOR_DYNAMIC {
            return Err(MPI_ERR_RMA_FLAVOR);
        }
        if size < 0 {
            return Err(MPI_ERR_SIZE);
        }
        super::attach(w.real, base as u64, size)?;
        core().window(win)?.attached.push((base as u64, size));
        Ok(())
    })();
    finish(outcome, win, "MPI_Win_attach")
}

pub unsafe extern "C" fn MPI_Win_detach(win: u64, base: *const c_void) -> i32 {
    let _guard = entry::enter();
    let outcome = (|| {
        let w = core().window(win)?;
        let at = w.attached.iter().position(|(a, _)| *a == base as u64);
        let at = at.ok_or(MPI_ERR_RMA_ATTACH)?;
        let real = w.real;
        // SAFETY: memory that was attached to this window.
        check(unsafe { (core().procs().MPI_Win_detach)(real, base) })?;
        core().window(win)?.attached.swap_remove(at);
        Ok(())
    })();
    finish(outcome, win, "MPI_Win_detach")
}

fn free(word: u64, name: &'static &'static str) -> Outcome {
    core().window(word)?;
    attributes::delete_window(word)?;
    let w = core().window(word)?;
    let (comm, control, real) = (w.comm, w.control, w.real);
    collectives::enter(comm, name)?;
    let libraries = [real, control].map(library);
    let rc = entry::unlocked(|| {
        for (mut win, procs) in [real, control].into_iter().zip(libraries) {
            // SAFETY: a window of the library in the epoch that `realise` has opened.
            let rc = unsafe { (procs.MPI_Win_unlock_all)(win) };
            if rc != MPI_SUCCESS {
                return rc;
            }
            // SAFETY: as above; no epoch is open now.
            let rc = unsafe { (procs.MPI_Win_free)(&mut win) };
            if rc != MPI_SUCCESS {
                return rc;
            }
        }
        MPI_SUCCESS
    });
    collectives::leave();
    check(rc)?;
    let c = core();
    if let Some(gone) = c.state.windows.remove(index_of(word)) {
        errors::release(gone.errhandler);
    }
    comms::let_go(comm);
    Ok(())
}

pub unsafe extern "C" fn MPI_Win_free(win: *mut u64) -> i32 {
    static NAME: &str = "MPI_Win_free";
    let _guard = entry::enter();
    // SAFETY: an argument both in and out.
    let word = unsafe { *win };
    let outcome = free(word, &NAME).map(|()| {
        // SAFETY: as above.
        unsafe { *win = MPI_WIN_NULL };
    });
    finish(outcome, word, NAME)
}

pub unsafe extern "C" fn MPI_Win_shared_query(
    win: u64,
    rank: i32,
    size: *mut i64,
    disp_unit: *mut i32,
    baseptr: *mut c_void,
) -> i32 {
    let _guard = entry::enter();
    let outcome = (|| {
        let w = core().window(win)?;
        if w.flavor != MPI_WIN_FLAVOR_SHARED {
            return Err(MPI_ERR_RMA_FLAVOR);
        }
        let part = if rank == MPI_PROC_NULL {
            let nothing = Part {
                address: 0,
                size: 0,
                disp_unit: 1,
            };
            let first = w.parts.iter().find(|p| p.size > 0);
            first.copied().unwrap_or(nothing)
        } else {
            let at = usize::try_from(rank).map_err(|_| MPI_ERR_RANK)?;
            *w.parts.get(at).ok_or(MPI_ERR_RANK)?
        };
        // SAFETY: output arguments.
        unsafe { *size = part.size };
        // SAFETY: as above.
        unsafe { *disp_unit = part.disp_unit };
        // SAFETY: as above; the address of a pointer.
        unsafe { *baseptr.cast::<u64>() = part.address };
        Ok(())
    })();
    finish(outcome, win, "MPI_Win_shared_query")
}

pub unsafe extern "C" fn MPI_Win_get_group(win: u64, group: *mut u64) -> i32 {
    let _guard = entry::enter();
    let outcome = (|| {
        let comm = core().window(win)?.comm;
        let word = groups::of_members(comm)?;
        // SAFETY: an output argument.
        unsafe { *group = word };
        Ok(())
    })();
    finish(outcome, win, "MPI_Win_get_group")
}
