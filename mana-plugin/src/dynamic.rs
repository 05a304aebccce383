//! Dynamic processes: what is spawned, accepted or joined lives outside the job.
//!
//! Lower half. The calls go to the library. A process outside the job has no rank in the world: it
//! gets a number from [`FOREIGN`] on, which no message count and no gate knows. While a communicator
//! with such a process exists, nothing of the job can be brought back elsewhere, so checkpoints are
//! refused ([`refusal`]); they work again when it has been disconnected.

use crate::collectives::{self, enter_outwards, leave};
use crate::comms::{self, adopt_as, identity};
use crate::errors::{check, finish};
use crate::group::Members;
use crate::state::{core, Outcome};
use crate::{entry, info::Hints, inter};
use mpi_std::*;
use std::ffi::{c_char, c_void};
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

/// The first number of a process outside the job.
pub const FOREIGN: u32 = 1 << 31;

/// Communicators with processes outside the job.
static CONNECTIONS: AtomicI32 = AtomicI32::new(0);
/// Calls that wait for such processes.
static WAITING: AtomicI32 = AtomicI32::new(0);
static NEXT: AtomicU32 = AtomicU32::new(FOREIGN);

/// Why no checkpoint can be taken now, and until when.
pub fn refusal() -> Option<&'static str> {
    if CONNECTIONS.load(Ordering::Acquire) > 0 {
        return Some(
            "the program is connected to processes outside the job: no checkpoint until it has called MPI_Comm_disconnect or MPI_Comm_free on every communicator with them",
        );
    }
    (WAITING.load(Ordering::Acquire) > 0).then_some(
        "the program waits for processes outside the job to connect: no checkpoint until they have come and gone",
    )
}

/// Whether a member is outside the job.
pub fn is_foreign(members: &[u32], local: Option<&Members>) -> bool {
    let outside = |m: &u32| *m >= FOREIGN;
    members.iter().any(outside) || local.is_some_and(|l| l.iter().any(outside))
}

/// A communicator with processes outside the job has come (`1`) or gone (`-1`).
pub fn count(change: i32) {
    CONNECTIONS.fetch_add(change, Ordering::AcqRel);
}

/// Numbers for the members of real group `group` that have no rank in the world (`ranks` has
/// `MPI_UNDEFINED` there): the number another communicator knows the process by, or a new one.
pub fn number(group: u64, ranks: Vec<i32>) -> Outcome<Vec<u32>> {
    let mut out: Vec<Option<u32>> = ranks.iter().map(|r| u32::try_from(*r).ok()).collect();
    if out.contains(&None) {
        let known: Vec<(u64, Members, Option<Members>)> = core()
            .state
            .comms
            .iter()
            .filter(|(_, c)| c.real != MPI_COMM_NULL && c.foreign)
            .map(|(_, c)| (c.real, c.members.clone(), c.local.clone()))
            .collect();
        let procs = core().procs();
        for (real, members, local) in known {
            let (own, remote) = match &local {
                Some(own) => (own, Some(&members)),
                None => (&members, None),
            };
            recognise(group, &mut out, real, procs.MPI_Comm_group, own)?;
            if let Some(remote) = remote {
                recognise(group, &mut out, real, procs.MPI_Comm_remote_group, remote)?;
            }
        }
    }
    let new = || NEXT.fetch_add(1, Ordering::Relaxed);
    Ok(out.into_iter().map(|n| n.unwrap_or_else(new)).collect())
}

/// Fills the gaps of `out` with the numbers of the same processes in a group of communicator `real`.
fn recognise(
    group: u64,
    out: &mut [Option<u32>],
    real: u64,
    ask: unsafe extern "C" fn(u64, *mut u64) -> i32,
    numbers: &[u32],
) -> Outcome {
    let procs = core().procs();
    let mut other = MPI_GROUP_NULL;
    // SAFETY: output arguments of ours, in this and the following calls.
    check(unsafe { ask(real, &mut other) })?;
    for (at, number) in out.iter_mut().enumerate() {
        if number.is_some() {
            continue;
        }
        let (from, mut to) = (at as i32, MPI_UNDEFINED);
        // SAFETY: as above.
        check(unsafe { (procs.MPI_Group_translate_ranks)(group, 1, &from, other, &mut to) })?;
        *number = usize::try_from(to)
            .ok()
            .and_then(|r| numbers.get(r).copied());
    }
    // SAFETY: as above.
    unsafe { (procs.MPI_Group_free)(&mut other) };
    Ok(())
}

/// What a new connection is known by, `mine` on this side. If all of it is within the job, it is brought back by a
/// restart, for which both sides must know it alike.
fn origin(real: u64, mine: u64) -> Outcome<u64> {
    if real == MPI_COMM_NULL {
        return Ok(mine);
    }
    let procs = core().procs();
    for ask in [procs.MPI_Comm_group, procs.MPI_Comm_remote_group] {
        if is_foreign(&comms::world_ranks(real, ask)?, None) {
            return Ok(mine);
        }
    }
    inter::agree(real, mine)
}

/// A collective that connects: gate, call, adoption.
fn connect(
    comm: u64,
    out: *mut u64,
    name: &'static &'static str,
    hints: u64,
    call: impl FnOnce(u64, u64, &mut u64) -> i32,
) -> i32 {
    let _guard = entry::enter();
    let outcome = (|| {
        let hints = Hints::of(hints)?;
        let (index, real) = collectives::comm(comm)?;
        let info = core().comm(comm)?.1;
        let (parent, handler, session) = (info.id, info.errhandler, info.session);
        let number = enter_outwards(index, name)?;
        let mut new = MPI_COMM_NULL;
        WAITING.fetch_add(1, Ordering::AcqRel);
        let rc = entry::unlocked(|| call(real, hints.real(), &mut new));
        let adopted = check(rc)
            .and_then(|()| origin(new, identity(&[parent, number])))
            .and_then(|origin| adopt_as(new, &[origin], handler, session));
        WAITING.fetch_sub(1, Ordering::AcqRel);
        leave();
        let word = adopted?;
        // SAFETY: an output argument.
        unsafe { *out = word };
        Ok(())
    })();
    finish(outcome, comm, name)
}

pub unsafe extern "C" fn MPI_Comm_spawn(
    command: *const c_char,
    argv: *mut c_void,
    maxprocs: i32,
    info: u64,
    root: i32,
    comm: u64,
    intercomm: *mut u64,
    array_of_errcodes: *mut i32,
) -> i32 {
    static NAME: &str = "MPI_Comm_spawn";
    connect(comm, intercomm, &NAME, info, |real, info, new| {
        let call = core().procs().MPI_Comm_spawn;
        // SAFETY: the program's arguments, with real handles.
        unsafe {
            call(
                command,
                argv,
                maxprocs,
                info,
                root,
                real,
                new,
                array_of_errcodes,
            )
        }
    })
}

pub unsafe extern "C" fn MPI_Comm_spawn_multiple(
    count: i32,
    array_of_commands: *mut c_void,
    array_of_argv: *mut c_void,
    array_of_maxprocs: *const i32,
    array_of_info: *const u64,
    root: i32,
    comm: u64,
    intercomm: *mut u64,
    array_of_errcodes: *mut i32,
) -> i32 {
    static NAME: &str = "MPI_Comm_spawn_multiple";
    let _guard = entry::enter();
    let is_root = core().comm(comm).is_ok_and(|(_, c)| c.rank == root);
    let n = if is_root { count.max(0) as usize } else { 0 };
    // SAFETY: the program's array, significant at the root.
    let words = (0..n).map(|i| unsafe { *array_of_info.add(i) });
    let hints: Vec<Hints> = match words.map(Hints::of).collect() {
        Ok(hints) => hints,
        Err(code) => return finish(Err(code), comm, NAME),
    };
    let mut infos = vec![MPI_INFO_NULL; count.max(1) as usize];
    for (place, hints) in infos.iter_mut().zip(&hints) {
        *place = hints.real();
    }
    connect(comm, intercomm, &NAME, MPI_INFO_NULL, |real, _, new| {
        // SAFETY: the program's arguments, with real handles.
        unsafe {
            (core().procs().MPI_Comm_spawn_multiple)(
                count,
                array_of_commands,
                array_of_argv,
                array_of_maxprocs,
                infos.as_ptr(),
                root,
                real,
                new,
                array_of_errcodes,
            )
        }
    })
}

pub unsafe extern "C" fn MPI_Comm_accept(
    port_name: *const c_char,
    info: u64,
    root: i32,
    comm: u64,
    newcomm: *mut u64,
) -> i32 {
    static NAME: &str = "MPI_Comm_accept";
    connect(comm, newcomm, &NAME, info, |real, info, new| {
        // SAFETY: the program's arguments, with real handles.
        unsafe { (core().procs().MPI_Comm_accept)(port_name, info, root, real, new) }
    })
}

pub unsafe extern "C" fn MPI_Comm_connect(
    port_name: *const c_char,
    info: u64,
    root: i32,
    comm: u64,
    newcomm: *mut u64,
) -> i32 {
    static NAME: &str = "MPI_Comm_connect";
    connect(comm, newcomm, &NAME, info, |real, info, new| {
        // SAFETY: the program's arguments, with real handles.
        unsafe { (core().procs().MPI_Comm_connect)(port_name, info, root, real, new) }
    })
}

pub unsafe extern "C" fn MPI_Comm_join(fd: i32, intercomm: *mut u64) -> i32 {
    static NAME: &str = "MPI_Comm_join";
    connect(
        MPI_COMM_SELF,
        intercomm,
        &NAME,
        MPI_INFO_NULL,
        |_, _, new| {
            // SAFETY: the program's socket: both halves share the descriptors.
            unsafe { (core().procs().MPI_Comm_join)(fd, new) }
        },
    )
}

/// A call with an info object that asks the launcher.
fn local(word: u64, name: &'static str, call: impl FnOnce(u64) -> i32) -> i32 {
    let _guard = entry::enter();
    let outcome = Hints::of(word).and_then(|hints| check(entry::unlocked(|| call(hints.real()))));
    finish(outcome, crate::errors::NO_OBJECT, name)
}

pub unsafe extern "C" fn MPI_Open_port(info: u64, port_name: *mut c_char) -> i32 {
    // SAFETY: the program's arguments, here and below.
    let call = |info| unsafe { (core().procs().MPI_Open_port)(info, port_name) };
    local(info, "MPI_Open_port", call)
}

pub unsafe extern "C" fn MPI_Close_port(port_name: *const c_char) -> i32 {
    // SAFETY: as above.
    let call = |_| unsafe { (core().procs().MPI_Close_port)(port_name) };
    local(MPI_INFO_NULL, "MPI_Close_port", call)
}

pub unsafe extern "C" fn MPI_Publish_name(
    service_name: *const c_char,
    info: u64,
    port_name: *const c_char,
) -> i32 {
    // SAFETY: as above.
    let call = |info| unsafe { (core().procs().MPI_Publish_name)(service_name, info, port_name) };
    local(info, "MPI_Publish_name", call)
}

pub unsafe extern "C" fn MPI_Unpublish_name(
    service_name: *const c_char,
    info: u64,
    port_name: *const c_char,
) -> i32 {
    // SAFETY: as above.
    let call = |info| unsafe { (core().procs().MPI_Unpublish_name)(service_name, info, port_name) };
    local(info, "MPI_Unpublish_name", call)
}

pub unsafe extern "C" fn MPI_Lookup_name(
    service_name: *const c_char,
    info: u64,
    port_name: *mut c_char,
) -> i32 {
    // SAFETY: as above.
    let call = |info| unsafe { (core().procs().MPI_Lookup_name)(service_name, info, port_name) };
    local(info, "MPI_Lookup_name", call)
}

/// The communicator with the processes that have spawned this job; null if none have.
pub unsafe extern "C" fn MPI_Comm_get_parent(parent: *mut u64) -> i32 {
    let _guard = entry::enter();
    let outcome = (|| {
        let c = core();
        let mut real = MPI_COMM_NULL;
        // SAFETY: an output argument of ours.
        check(unsafe { (c.procs().MPI_Comm_get_parent)(&mut real) })?;
        let known = c.state.comms.iter().find(|(_, k)| k.real == real);
        let word = match known.map(|(index, _)| index) {
            _ if real == MPI_COMM_NULL => MPI_COMM_NULL,
            Some(index) => c.comm_word(index),
            None => adopt_as(real, &[0], MPI_ERRORS_ARE_FATAL, None)?,
        };
        // SAFETY: an output argument.
        unsafe { *parent = word };
        Ok(())
    })();
    finish(outcome, crate::errors::NO_OBJECT, "MPI_Comm_get_parent")
}
