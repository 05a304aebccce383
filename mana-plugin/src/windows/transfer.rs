//! Transfers: put, get, the accumulates, and their request forms.
//!
//! Lower half. The program's own epochs are checked here, since the library's is always open. A
//! request is complete after a drain, which completes every operation under way.

use super::alone::library;
use super::{finish, locks};
use crate::p2p::{self, Envelope};
use crate::state::{core, Outcome, Work};
use crate::{entry, requests};
use mpi_std::*;
use std::ffi::c_void;

/// Where a transfer goes to: the library's window, and the displacement in it.
type Target = (u64, i64);

/// The target, if the program may access `rank`; `None` for `MPI_PROC_NULL`.
#[inline(always)]
fn target(win: u64, rank: i32, disp: i64) -> Outcome<Option<Target>> {
    let w = core().window(win)?;
    if rank == MPI_PROC_NULL {
        return Ok(None);
    }
    if rank < 0 || rank as usize >= w.board.members() {
        return Err(MPI_ERR_RANK);
    }
    let real = w.real;
    let disp = match w.parts.get(rank as usize) {
        Some(part) => part.displacement(disp),
        None => disp,
    };
    let e = &w.epochs;
    if let Some(all) = &e.all {
        if all.checked && all.held.get(rank as usize) == Some(&false) {
            locks::take_promised(win, rank)?;
        }
        return Ok(Some((real, disp)));
    }
    let open = e.locks.iter().any(|(r, _)| *r == rank)
        || e.access.as_ref().is_some_and(|t| t.contains(&rank))
        || e.fence;
    if open {
        Ok(Some((real, disp)))
    } else {
        Err(MPI_ERR_RMA_SYNC)
    }
}

/// Runs a transfer.
#[inline(always)]
fn transfer(
    win: u64,
    rank: i32,
    disp: i64,
    name: &'static str,
    call: impl FnOnce(&'static ProcTable, u64, i64) -> Outcome<i32>,
) -> i32 {
    let _guard = entry::enter();
    let outcome = target(win, rank, disp).and_then(|target| match target {
        Some((real, disp)) => crate::errors::check(call(library(real), real, disp)?),
        None => Ok(()),
    });
    finish(outcome, win, name)
}

/// Runs a transfer with a request.
fn requested(
    win: u64,
    rank: i32,
    disp: i64,
    name: &'static str,
    request: *mut u64,
    call: impl FnOnce(&'static ProcTable, u64, i64, &mut u64) -> Outcome<i32>,
) -> i32 {
    let _guard = entry::enter();
    let outcome = (|| {
        let target = target(win, rank, disp)?;
        let comm = core().window(win)?.comm;
        let e = Envelope {
            buf: 0,
            count: 0,
            datatype: MPI_DATATYPE_NULL,
            peer: MPI_PROC_NULL,
            tag: 0,
            comm: 0,
        };
        let mut real_request = MPI_REQUEST_NULL;
        if let Some((real, disp)) = target {
            crate::errors::check(call(library(real), real, disp, &mut real_request)?)?;
        }
        let made = if real_request == MPI_REQUEST_NULL {
            p2p::done(Work::OneSided, comm, &e, Status::EMPTY, MPI_SUCCESS)
        } else {
            p2p::request(Work::OneSided, comm, &e, real_request)
        };
        let index = core().insert_request(made)?;
        // SAFETY: an output argument.
        unsafe { *request = requests::word(index) };
        Ok(())
    })();
    finish(outcome, win, name)
}

fn real(datatype: u64) -> Outcome<u64> {
    core().real_type(datatype)
}

/// Operations of accumulates are predefined ones.
fn predefined(op: u64) -> Outcome<u64> {
    if op < PREDEFINED_END && op != MPI_OP_NULL {
        Ok(op)
    } else {
        Err(MPI_ERR_OP)
    }
}

/// The origin's datatype, which means nothing where nothing is sent.
fn origin(datatype: u64, op: u64) -> Outcome<u64> {
    if op == MPI_NO_OP {
        // The libraries look at it all the same.
        return Ok(real(datatype)
            .ok()
            .filter(|t| *t != MPI_DATATYPE_NULL)
            .unwrap_or(MPI_BYTE));
    }
    real(datatype)
}

/// A transfer: the arguments before the target's rank and displacement, those after them, and what
/// becomes of handles among them.
macro_rules! transfers {
    ($($name:ident ($($before:ident: $before_type:ty),*; $($after:ident: $after_type:ty),*)
        { $($handle:ident = $real:expr),* })*) => {$(
        pub unsafe extern "C" fn $name(
            $($before: $before_type,)*
            target_rank: i32,
            target_disp: i64,
            $($after: $after_type,)*
            win: u64,
        ) -> i32 {
            transfer(win, target_rank, target_disp, stringify!($name), |procs, window, disp| {
                $(let $handle = $real;)*
                // SAFETY: the program's arguments, with real handles.
                Ok(unsafe { (procs.$name)($($before,)* target_rank, disp, $($after,)* window) })
            })
        }
    )*};
}

/// As `transfers`, of the forms with a request.
macro_rules! requested_transfers {
    ($($name:ident ($($before:ident: $before_type:ty),*; $($after:ident: $after_type:ty),*)
        { $($handle:ident = $real:expr),* })*) => {$(
        pub unsafe extern "C" fn $name(
            $($before: $before_type,)*
            target_rank: i32,
            target_disp: i64,
            $($after: $after_type,)*
            win: u64,
            request: *mut u64,
        ) -> i32 {
            requested(win, target_rank, target_disp, stringify!($name), request, |procs, window, disp, out| {
                $(let $handle = $real;)*
                // SAFETY: the program's arguments, with real handles.
                Ok(unsafe { (procs.$name)($($before,)* target_rank, disp, $($after,)* window, out) })
            })
        }
    )*};
}

/// Those that exist in both forms.
macro_rules! both_forms {
    ($($blocking:ident $requested:ident $arguments:tt $handles:tt)*) => {
        transfers! { $($blocking $arguments $handles)* }
        requested_transfers! { $($requested $arguments $handles)* }
    };
}

both_forms! {
    MPI_Put MPI_Rput (
        origin_addr: *const c_void, origin_count: i32, origin_datatype: u64;
        target_count: i32, target_datatype: u64
    ) {
        origin_datatype = real(origin_datatype)?,
        target_datatype = real(target_datatype)?
    }
    MPI_Get MPI_Rget (
        origin_addr: *mut c_void, origin_count: i32, origin_datatype: u64;
        target_count: i32, target_datatype: u64
    ) {
        origin_datatype = real(origin_datatype)?,
        target_datatype = real(target_datatype)?
    }
    MPI_Accumulate MPI_Raccumulate (
        origin_addr: *const c_void, origin_count: i32, origin_datatype: u64;
        target_count: i32, target_datatype: u64, op: u64
    ) {
        origin_datatype = real(origin_datatype)?,
        target_datatype = real(target_datatype)?,
        op = predefined(op)?
    }
    MPI_Get_accumulate MPI_Rget_accumulate (
        origin_addr: *const c_void, origin_count: i32, origin_datatype: u64,
        result_addr: *mut c_void, result_count: i32, result_datatype: u64;
        target_count: i32, target_datatype: u64, op: u64
    ) {
        origin_datatype = origin(origin_datatype, op)?,
        result_datatype = real(result_datatype)?,
        target_datatype = real(target_datatype)?,
        op = predefined(op)?
    }
}

transfers! {
    MPI_Fetch_and_op (
        origin_addr: *const c_void, result_addr: *mut c_void, datatype: u64;
        op: u64
    ) {
        datatype = real(datatype)?,
        op = predefined(op)?
    }
    MPI_Compare_and_swap (
        origin_addr: *const c_void, compare_addr: *const c_void, result_addr: *mut c_void, datatype: u64;
    ) {
        datatype = real(datatype)?
    }
}
