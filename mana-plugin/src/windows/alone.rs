//! Windows of one member, where the library refuses them.
//!
//! Lower half. On a communicator of one process Open MPI 4.1.4 makes no window over given memory, but
//! allocates memory with a window, or a shared one, so programs have those there. Every transfer in one is of this process with
//! itself: a message to itself on the window's own communicator, which has no other messages, and for
//! accumulates a local reduction. All is complete at once, so there is nothing to flush. The
//! procedures here take the library's places in a table, so that the rest does not see a difference;
//! the word of such a window is the address of an [`Alone`], marked.

use super::Window;
use crate::errors::check;
use crate::state::{core, Outcome};
use mpi_std::*;
use std::ffi::c_void;
use std::sync::OnceLock;

/// Bits 62 and 63 of a word: neither an address nor an extended integer has them so.
const MARK: u64 = 1 << 62;

/// What a window of one member is.
struct Alone {
    base: u64,
    unit: i64,
    comm: u64,
}

/// Whether the library makes a window of this kind by other means than given memory.
pub fn possible(window: &Window) -> bool {
    let allocated = [MPI_WIN_FLAVOR_ALLOCATE, MPI_WIN_FLAVOR_SHARED];
    window.board.members() == 1 && allocated.contains(&window.flavor)
}

/// A window over `base`; `comm` is the library's handle of a communicator with this process alone.
pub fn make(base: u64, unit: i32, comm: u64) -> u64 {
    let window = Box::new(Alone {
        base,
        unit: i64::from(unit),
        comm,
    });
    Box::into_raw(window) as u64 | MARK
}

/// The procedures to use with a window.
#[inline(always)]
pub fn library(window: u64) -> &'static ProcTable {
    if window >> 62 == 1 {
        procs()
    } else {
        core().procs()
    }
}

#[cold]
fn procs() -> &'static ProcTable {
    static TABLE: OnceLock<ProcTable> = OnceLock::new();
    TABLE.get_or_init(|| ProcTable {
        MPI_Put: put,
        MPI_Get: get,
        MPI_Accumulate: accumulate,
        MPI_Get_accumulate: get_accumulate,
        MPI_Fetch_and_op: fetch_and_op,
        MPI_Compare_and_swap: compare_and_swap,
        MPI_Rput: rput,
        MPI_Rget: rget,
        MPI_Raccumulate: raccumulate,
        MPI_Rget_accumulate: rget_accumulate,
        MPI_Win_flush: flush,
        MPI_Win_flush_local: flush,
        MPI_Win_flush_all: nothing,
        MPI_Win_flush_local_all: nothing,
        MPI_Win_sync: nothing,
        MPI_Win_lock_all: lock_all,
        MPI_Win_unlock_all: nothing,
        MPI_Win_free: free,
        ..*core().procs()
    })
}

fn of(window: u64) -> &'static Alone {
    // SAFETY: `make` made the word, and `free` comes last.
    unsafe { &*((window & !MARK) as *const Alone) }
}

/// Part of memory: address, number of elements, the library's datatype.
#[derive(Clone, Copy)]
struct Data(u64, i32, u64);

impl Data {
    fn at(window: u64, disp: i64, count: i32, datatype: u64) -> Data {
        let w = of(window);
        Data(w.base.wrapping_add((disp * w.unit) as u64), count, datatype)
    }
}

fn copy(comm: u64, from: Data, to: Data) -> Outcome {
    let mut status = Status::EMPTY;
    // SAFETY: the program's memory as it described it, or ours; both handles are real.
    check(unsafe {
        (core().procs().MPI_Sendrecv)(
            from.0 as *const c_void,
            from.1,
            from.2,
            0,
            0,
            to.0 as *mut c_void,
            to.1,
            to.2,
            0,
            0,
            comm,
            &mut status,
        )
    })
}

/// The predefined datatype that a datatype of the library consists of.
fn basic(datatype: u64) -> Outcome<u64> {
    let p = core().procs();
    let mut now = datatype;
    loop {
        let (mut integers, mut addresses, mut datatypes, mut combiner) = (0, 0, 0, 0);
        // SAFETY: output arguments of ours.
        check(unsafe {
            (p.MPI_Type_get_envelope)(
                now,
                &mut integers,
                &mut addresses,
                &mut datatypes,
                &mut combiner,
            )
        })?;
        if combiner == MPI_COMBINER_NAMED || datatypes == 0 {
            return Ok(now);
        }
        let mut i = vec![0i32; integers.max(0) as usize];
        let mut a = vec![0i64; addresses.max(0) as usize];
        let mut d = vec![MPI_DATATYPE_NULL; datatypes.max(0) as usize];
        // SAFETY: arrays of the lengths that are given.
        check(unsafe {
            (p.MPI_Type_get_contents)(
                now,
                integers,
                addresses,
                datatypes,
                i.as_mut_ptr(),
                a.as_mut_ptr(),
                d.as_mut_ptr(),
            )
        })?;
        // What the library handed out is a reference of ours, unless it is predefined.
        if now != datatype {
            // SAFETY: a derived datatype from the round before.
            unsafe { (p.MPI_Type_free)(&mut now) };
        }
        now = *d.first().ok_or(MPI_ERR_TYPE)?;
    }
}

/// `target = origin op target`
fn combine(comm: u64, origin: Data, target: Data, op: u64) -> Outcome {
    if op == MPI_NO_OP {
        return Ok(());
    }
    if op == MPI_REPLACE {
        return copy(comm, origin, target);
    }
    let p = core().procs();
    let element = basic(origin.2)?;
    let (mut size, mut whole) = (0, 0);
    let (mut lb, mut extent) = (0, 0);
    // SAFETY: output arguments of ours.
    check(unsafe { (p.MPI_Type_size)(element, &mut size) })?;
    // SAFETY: as above.
    check(unsafe { (p.MPI_Type_size)(origin.2, &mut whole) })?;
    // SAFETY: as above.
    check(unsafe { (p.MPI_Type_get_extent)(element, &mut lb, &mut extent) })?;
    let bytes = i64::from(whole) * i64::from(origin.1);
    if size <= 0 || bytes == 0 {
        return Ok(());
    }
    let n = i32::try_from(bytes / i64::from(size)).map_err(|_| MPI_ERR_COUNT)?;
    // Words, so that every element is aligned.
    let words = (i64::from(n) * extent) as usize / 8 + 1;
    let (mut ours, mut theirs) = (vec![0u64; words], vec![0u64; words]);
    let first = Data(ours.as_mut_ptr() as u64, n, element);
    let second = Data(theirs.as_mut_ptr() as u64, n, element);
    copy(comm, origin, first)?;
    copy(comm, target, second)?;
    // SAFETY: `n` elements in each.
    check(unsafe {
        (p.MPI_Reduce_local)(
            first.0 as *const c_void,
            second.0 as *mut c_void,
            n,
            element,
            op,
        )
    })?;
    copy(comm, second, target)
}

fn code(outcome: Outcome) -> i32 {
    outcome.err().unwrap_or(MPI_SUCCESS)
}

unsafe extern "C" fn put(
    from: *const c_void,
    count: i32,
    datatype: u64,
    _rank: i32,
    disp: i64,
    target_count: i32,
    target_datatype: u64,
    win: u64,
) -> i32 {
    let target = Data::at(win, disp, target_count, target_datatype);
    code(copy(
        of(win).comm,
        Data(from as u64, count, datatype),
        target,
    ))
}

unsafe extern "C" fn get(
    to: *mut c_void,
    count: i32,
    datatype: u64,
    _rank: i32,
    disp: i64,
    target_count: i32,
    target_datatype: u64,
    win: u64,
) -> i32 {
    let target = Data::at(win, disp, target_count, target_datatype);
    code(copy(of(win).comm, target, Data(to as u64, count, datatype)))
}

unsafe extern "C" fn accumulate(
    from: *const c_void,
    count: i32,
    datatype: u64,
    _rank: i32,
    disp: i64,
    target_count: i32,
    target_datatype: u64,
    op: u64,
    win: u64,
) -> i32 {
    let target = Data::at(win, disp, target_count, target_datatype);
    code(combine(
        of(win).comm,
        Data(from as u64, count, datatype),
        target,
        op,
    ))
}

unsafe extern "C" fn get_accumulate(
    from: *const c_void,
    count: i32,
    datatype: u64,
    result: *mut c_void,
    result_count: i32,
    result_datatype: u64,
    _rank: i32,
    disp: i64,
    target_count: i32,
    target_datatype: u64,
    op: u64,
    win: u64,
) -> i32 {
    let comm = of(win).comm;
    let target = Data::at(win, disp, target_count, target_datatype);
    let result = Data(result as u64, result_count, result_datatype);
    code(
        copy(comm, target, result)
            .and_then(|()| combine(comm, Data(from as u64, count, datatype), target, op)),
    )
}

unsafe extern "C" fn fetch_and_op(
    from: *const c_void,
    result: *mut c_void,
    datatype: u64,
    rank: i32,
    disp: i64,
    op: u64,
    win: u64,
) -> i32 {
    // SAFETY: the caller's arguments: one element each.
    unsafe {
        get_accumulate(
            from, 1, datatype, result, 1, datatype, rank, disp, 1, datatype, op, win,
        )
    }
}

unsafe extern "C" fn compare_and_swap(
    from: *const c_void,
    compare: *const c_void,
    result: *mut c_void,
    datatype: u64,
    _rank: i32,
    disp: i64,
    win: u64,
) -> i32 {
    let comm = of(win).comm;
    let target = Data::at(win, disp, 1, datatype);
    let mut size = 0;
    // SAFETY: an output argument of ours.
    let known = check(unsafe { (core().procs().MPI_Type_size)(datatype, &mut size) });
    let outcome = known.and_then(|()| {
        copy(comm, target, Data(result as u64, 1, datatype))?;
        let length = size.max(0) as usize;
        // SAFETY: both hold one element of a predefined datatype without gaps.
        let old = unsafe { std::slice::from_raw_parts(result.cast::<u8>(), length) };
        // SAFETY: as above.
        let wanted = unsafe { std::slice::from_raw_parts(compare.cast::<u8>(), length) };
        if old == wanted {
            copy(comm, Data(from as u64, 1, datatype), target)?;
        }
        Ok(())
    });
    code(outcome)
}

/// The forms with a request: it is complete already.
macro_rules! requested {
    ($($name:ident = $plain:ident($($arg:ident: $type:ty),*);)*) => {$(
        unsafe extern "C" fn $name($($arg: $type),*, request: *mut u64) -> i32 {
            // SAFETY: an output argument.
            unsafe { *request = MPI_REQUEST_NULL };
            // SAFETY: the caller's arguments.
            unsafe { $plain($($arg),*) }
        }
    )*};
}

requested! {
    rput = put(from: *const c_void, count: i32, datatype: u64, rank: i32, disp: i64,
        target_count: i32, target_datatype: u64, win: u64);
    rget = get(to: *mut c_void, count: i32, datatype: u64, rank: i32, disp: i64,
        target_count: i32, target_datatype: u64, win: u64);
    raccumulate = accumulate(from: *const c_void, count: i32, datatype: u64, rank: i32, disp: i64,
        target_count: i32, target_datatype: u64, op: u64, win: u64);
    rget_accumulate = get_accumulate(from: *const c_void, count: i32, datatype: u64,
        result: *mut c_void, result_count: i32, result_datatype: u64, rank: i32, disp: i64,
        target_count: i32, target_datatype: u64, op: u64, win: u64);
}

unsafe extern "C" fn flush(_rank: i32, _win: u64) -> i32 {
    MPI_SUCCESS
}

unsafe extern "C" fn lock_all(_assert: i32, _win: u64) -> i32 {
    MPI_SUCCESS
}

unsafe extern "C" fn nothing(_win: u64) -> i32 {
    MPI_SUCCESS
}

unsafe extern "C" fn free(win: *mut u64) -> i32 {
    // SAFETY: an argument both in and out.
    let word = unsafe { std::mem::replace(&mut *win, MPI_WIN_NULL) };
    // SAFETY: `make` made the word, and nothing uses it any more.
    drop(unsafe { Box::from_raw((word & !MARK) as *mut Alone) });
    MPI_SUCCESS
}
