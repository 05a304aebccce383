//! Communicators: creation, duplication, freeing, queries.
//!
//! Lower half. Creating is a collective and passes the parent's gate; freeing waits for nobody. A new communicator's
//! identity is a hash of the parent's identity, the parent's sequence number at the creation and the
//! lowest world rank in it: all members compute the same without talking.

use crate::collectives::{self, enter, leave};
use crate::errors::{self, check, finish, put_string};
use crate::gate;
use crate::group::{self, Members};
use crate::info::{self, Hints};
use crate::state::{core, Comm, Outcome, PRIVATE, SELF, WORLD};
use crate::topologies::topology_of;
use crate::{attributes, dynamic, entry, failures, farewells, groups, requests};
use mpi_std::*;
use std::collections::HashSet;
use std::ffi::c_char;
use std::sync::atomic::AtomicU64;
use std::sync::Arc;

/// Mixes words into an identity (FNV-1a over their bytes, then a finaliser).
pub fn identity(words: &[u64]) -> u64 {
    let mut h = 0xcbf2_9ce4_8422_2325u64;
    for byte in words.iter().flat_map(|w| w.to_le_bytes()) {
        h = (h ^ byte as u64).wrapping_mul(0x100_0000_01b3);
    }
    h ^= h >> 29;
    h = h.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h ^ h >> 32
}

/// World ranks of the members of a group that `ask` gets out of a real communicator.
pub fn world_ranks(real: u64, ask: unsafe extern "C" fn(u64, *mut u64) -> i32) -> Outcome<Members> {
    let procs = core().procs();
    let (mut mine, mut world, mut n) = (MPI_GROUP_NULL, MPI_GROUP_NULL, 0);
    // SAFETY: output arguments of ours, in this and the following calls.
    check(unsafe { ask(real, &mut mine) })?;
    // SAFETY: as above.
    check(unsafe { (procs.MPI_Comm_group)(core().private, &mut world) })?;
    // SAFETY: as above.
    check(unsafe { (procs.MPI_Group_size)(mine, &mut n) })?;
    let ranks: Vec<i32> = (0..n).collect();
    let mut out = vec![0i32; n as usize];
    // SAFETY: as above.
    check(unsafe {
        (procs.MPI_Group_translate_ranks)(mine, n, ranks.as_ptr(), world, out.as_mut_ptr())
    })?;
    let out = dynamic::number(mine, out);
    // SAFETY: as above.
    unsafe { (procs.MPI_Group_free)(&mut mine) };
    // SAFETY: as above.
    unsafe { (procs.MPI_Group_free)(&mut world) };
    out.map(shared)
}

/// A list of world ranks; all that are the same as the world's are one.
fn shared(members: Vec<u32>) -> Members {
    match core().state.comms.get(WORLD) {
        Some(world) if world.members.as_ref() == members.as_slice() => world.members.clone(),
        _ => Members::from(members),
    }
}

impl Comm {
    /// World ranks of this process's group.
    pub fn own(&self) -> &Members {
        self.local.as_ref().unwrap_or(&self.members)
    }

    /// Processes in all groups.
    pub fn processes(&self) -> usize {
        self.members.len() + self.local.as_ref().map_or(0, |l| l.len())
    }
}

/// Identity of `MPI_COMM_WORLD`.
pub const WORLD_ID: u64 = 1;

/// A descriptor without attributes. `local` is the local group of an inter-communicator.
pub fn describe(
    real: u64,
    members: Members,
    local: Option<Members>,
    id: u64,
    errhandler: u64,
) -> Comm {
    let me = core().state.rank as u32;
    let own = local.as_ref().unwrap_or(&members);
    let foreign = dynamic::is_foreign(&members, local.as_ref());
    // Processes outside the job have no part in its safe points.
    let processes = match foreign {
        true => 1,
        false => members.len() + local.as_ref().map_or(0, |l| l.len()),
    };
    Comm {
        real,
        foreign,
        gate: Some(gate::create(id, processes as u32, 0)),
        rank: group::rank_of(own, me).unwrap_or(MPI_UNDEFINED),
        local,
        id,
        errhandler,
        ..Comm::vacant(members)
    }
}

/// Takes a new real communicator in; `parent` and `number` give its identity. Its word.
fn adopt(real: u64, parent: u32, number: u64) -> Outcome<u64> {
    match core().state.comms.get(parent) {
        Some(p) => adopt_as(real, &[p.id, number], p.errhandler, p.session),
        None => Err(MPI_ERR_COMM),
    }
}

/// Takes a new real communicator in, which stems from session `session`, if from any. `origin` is the same on all its
/// members; communicators of the same origin have no member in common.
pub fn adopt_as(real: u64, origin: &[u64], handler: u64, session: Option<u32>) -> Outcome<u64> {
    farewells::look();
    if real == MPI_COMM_NULL {
        return Ok(MPI_COMM_NULL);
    }
    let procs = core().procs();
    let mut inter = 0;
    // SAFETY: an output argument of ours.
    check(unsafe { (procs.MPI_Comm_test_inter)(real, &mut inter) })?;
    let own = world_ranks(real, procs.MPI_Comm_group)?;
    let (members, local) = if inter != 0 {
        (world_ranks(real, procs.MPI_Comm_remote_group)?, Some(own))
    } else {
        (own, None)
    };
    let id = identity_of(origin, &members, local.as_ref());
    let mut comm = describe(real, members, local, id, handler);
    comm.session = session;
    if inter == 0 {
        comm.topology = topology_of(real)?;
    }
    let foreign = comm.foreign;
    let index = insert(comm)?;
    if foreign {
        dynamic::count(1);
    }
    Ok(core().comm_word(index))
}

/// The identity of a communicator of these members.
fn identity_of(origin: &[u64], members: &Members, local: Option<&Members>) -> u64 {
    let all = || members.iter().chain(local.iter().flat_map(|l| l.iter()));
    let lowest = all().copied().min().unwrap_or(0);
    let mut words = origin.to_vec();
    words.extend([lowest as u64, all().count() as u64]);
    identity(&words)
}

/// Stores a new communicator; its index.
fn insert(comm: Comm) -> Outcome<u32> {
    let c = core();
    let (id, handler) = (comm.id, comm.errhandler);
    let index = c.state.comms.insert(comm).ok_or(MPI_ERR_OTHER)?;
    c.ids.insert(id, index);
    errors::hold(handler);
    publish(index);
    Ok(index)
}

/// Tells the stub's cache about rank and size of a communicator.
pub fn publish(index: u32) {
    let entry = core()
        .state
        .comms
        .get(index)
        .filter(|c| !c.freed)
        .map_or((0, 0), |c| (c.rank, c.own().len() as i32));
    let at = if index <= SELF { index } else { index + 2 };
    crate::cache::store(at, entry.0, entry.1);
}

/// A collective creation: gate, real call, adoption.
pub fn create(
    comm: u64,
    out: *mut u64,
    name: &'static &'static str,
    call: impl FnOnce(u64, &mut u64) -> i32,
) -> i32 {
    let _guard = entry::enter();
    let outcome = create_inner(comm, name, call).map(|w| {
        // SAFETY: an output argument.
        unsafe { *out = w };
    });
    finish(outcome, comm, name)
}

/// A collective creation on communicator `comm`; the new word. `call` makes the real communicator.
pub fn create_inner(
    comm: u64,
    name: &'static &'static str,
    call: impl FnOnce(u64, &mut u64) -> i32,
) -> Outcome<u64> {
    let (index, real) = collectives::comm(comm)?;
    enter(index, name)?;
    let number = core()
        .state
        .comms
        .get(index)
        .and_then(|c| c.gate)
        .map_or(0, |g| g.seq());
    let mut new = MPI_COMM_NULL;
    let rc = entry::unlocked(|| call(real, &mut new));
    let adopted = check(rc).and_then(|()| adopt(new, index, number));
    leave();
    adopted
}

fn dup(comm: u64, info: Option<u64>, out: *mut u64, name: &'static &'static str) -> i32 {
    let _guard = entry::enter();
    let outcome = (|| {
        let new = create_inner(comm, name, |real, new| {
            // SAFETY: an output argument of ours.
            unsafe { (core().procs().MPI_Comm_dup)(real, new) }
        })?;
        let made = inherit(comm, new, info);
        let new = if made.is_ok() { new } else { drop_new(new) };
        // SAFETY: an output argument.
        unsafe { *out = new };
        made
    })();
    finish(outcome, comm, name)
}

/// A communicator that was made, and whose attributes could not be copied, goes again, as in the libraries; the null
/// handle. Where other members have kept it, it waits for them like any freed one.
fn drop_new(new: u64) -> u64 {
    if let Ok((index, comm)) = core().comm(new) {
        failures::freed(comm.id);
        let_go(index);
    }
    MPI_COMM_NULL
}

/// Attributes and hints of a duplicate.
fn inherit(old: u64, new: u64, info: Option<u64>) -> Outcome {
    let c = core();
    let hints = match info {
        None => c.comm(old)?.1.info.clone(),
        Some(word) => info::pairs(word).unwrap_or_default(),
    };
    c.comm(new)?.1.info = hints;
    attributes::copy_comm(old, new)
}

pub unsafe extern "C" fn MPI_Comm_dup(comm: u64, newcomm: *mut u64) -> i32 {
    static NAME: &str = "MPI_Comm_dup";
    dup(comm, None, newcomm, &NAME)
}

pub unsafe extern "C" fn MPI_Comm_dup_with_info(comm: u64, info: u64, newcomm: *mut u64) -> i32 {
    static NAME: &str = "MPI_Comm_dup_with_info";
    dup(comm, Some(info), newcomm, &NAME)
}

/// A duplication that goes on while the program does. All of the duplicate is known from the start but its real
/// handle, which the library writes when it has it: the request keeps the place, and hands it over when it is
/// complete ([`Kept::duplicate`]). A drain completes it, like all collectives.
unsafe fn idup(
    comm: u64,
    info: Option<u64>,
    newcomm: *mut u64,
    request: *mut u64,
    name: &'static &'static str,
) -> i32 {
    let _guard = entry::enter();
    if core().comm(comm).is_ok_and(|(_, c)| c.foreign) {
        // SAFETY: the program's arguments.
        return unsafe { idup_at_once(comm, info, newcomm, request, name) };
    }
    let outcome = (|| {
        let (index, real) = collectives::comm(comm)?;
        enter(index, name)?;
        let started = start_dup(comm, index, real, info);
        leave();
        let (new, word) = started.unwrap_or((MPI_COMM_NULL, MPI_REQUEST_NULL));
        // SAFETY: output arguments.
        unsafe {
            *newcomm = new;
            *request = word;
        }
        started.map(|_| ())
    })();
    finish(outcome, comm, name)
}

/// Words of the duplicate and of the request.
fn start_dup(comm: u64, index: u32, real: u64, info: Option<u64>) -> Outcome<(u64, u64)> {
    let parent = core().state.comms.get(index).ok_or(MPI_ERR_COMM)?;
    let number = parent.gate.map_or(0, |g| g.seq());
    let (members, local) = (parent.members.clone(), parent.local.clone());
    let id = identity_of(&[parent.id, number], &members, local.as_ref());
    let (topology, session) = (parent.topology.clone(), parent.session);
    let mut made = describe(MPI_COMM_NULL, members, local, id, parent.errhandler);
    (made.topology, made.session) = (topology, session);
    let at = insert(made)?;
    let new = core().comm_word(at);
    let place = Box::new(AtomicU64::new(0));
    let mut request = MPI_REQUEST_NULL;
    let call = core().procs().MPI_Comm_idup;
    let started = inherit(comm, new, info).and_then(|()| {
        // SAFETY: the place lives as long as the request.
        check(entry::unlocked(|| unsafe {
            call(real, place.as_ptr(), &mut request)
        }))
    });
    if let Err(code) = started {
        let handler = core().state.comms.get(at).map(|c| c.errhandler);
        errors::release(handler.unwrap_or(MPI_ERRORS_RETURN));
        forget(at);
        publish(at);
        return Err(code);
    }
    let word = collectives::started(index, request, Vec::new(), &[])?;
    if let Some(i) = requests::index(word)? {
        let kept = core().request(i)?.kept.get_or_insert_default();
        kept.duplicate = Some((at, place));
    }
    Ok((new, word))
}

/// A duplication whose request is complete from the start: with processes outside the job, the members are
/// known from the real communicator only.
unsafe fn idup_at_once(
    comm: u64,
    info: Option<u64>,
    newcomm: *mut u64,
    request: *mut u64,
    name: &'static &'static str,
) -> i32 {
    let rc = dup(comm, info, newcomm, name);
    if rc != MPI_SUCCESS {
        return rc;
    }
    let outcome = collectives::comm(comm)
        .and_then(|(index, _)| collectives::finished(index))
        .map(|w| {
            // SAFETY: an output argument.
            unsafe { *request = w };
        });
    finish(outcome, comm, name)
}

pub unsafe extern "C" fn MPI_Comm_idup(comm: u64, newcomm: *mut u64, request: *mut u64) -> i32 {
    static NAME: &str = "MPI_Comm_idup";
    // SAFETY: the program's arguments.
    unsafe { idup(comm, None, newcomm, request, &NAME) }
}

pub unsafe extern "C" fn MPI_Comm_idup_with_info(
    comm: u64,
    info: u64,
    newcomm: *mut u64,
    request: *mut u64,
) -> i32 {
    static NAME: &str = "MPI_Comm_idup_with_info";
    // SAFETY: the program's arguments.
    unsafe { idup(comm, Some(info), newcomm, request, &NAME) }
}

/// Runs `with` with a real group of these world ranks.
pub fn with_real_group<T>(members: &[u32], with: impl FnOnce(u64) -> Outcome<T>) -> Outcome<T> {
    let ranks: Vec<i32> = members.iter().map(|&m| m as i32).collect();
    with_group_of(core().private, &ranks, with)
}

/// Runs `with` with a real group of these ranks of the real communicator `parent`.
fn with_group_of<T>(
    parent: u64,
    ranks: &[i32],
    with: impl FnOnce(u64) -> Outcome<T>,
) -> Outcome<T> {
    let procs = core().procs();
    if ranks.is_empty() {
        return with(MPI_GROUP_EMPTY);
    }
    let (mut world, mut real) = (MPI_GROUP_NULL, MPI_GROUP_NULL);
    // SAFETY: output arguments of ours, in this and the following calls.
    check(unsafe { (procs.MPI_Comm_group)(parent, &mut world) })?;
    // SAFETY: as above.
    let made = check(unsafe {
        (procs.MPI_Group_incl)(world, ranks.len() as i32, ranks.as_ptr(), &mut real)
    });
    // SAFETY: as above.
    unsafe { (procs.MPI_Group_free)(&mut world) };
    made?;
    let out = with(real);
    // SAFETY: as above.
    unsafe { (procs.MPI_Group_free)(&mut real) };
    out
}

pub unsafe extern "C" fn MPI_Comm_create(comm: u64, group: u64, newcomm: *mut u64) -> i32 {
    static NAME: &str = "MPI_Comm_create";
    let _guard = entry::enter();
    let ranks = core()
        .comm(comm)
        .map(|(index, _)| index)
        .and_then(|index| ranks_in(index, &groups::members(group)?));
    let ranks = match ranks {
        Ok(ranks) => ranks,
        Err(code) => return errors::raise(comm, code, NAME),
    };
    create(comm, newcomm, &NAME, |real, new| {
        // SAFETY: an output argument of ours.
        let call = |g| check(unsafe { (core().procs().MPI_Comm_create)(real, g, new) });
        with_group_of(real, &ranks, call)
            .err()
            .unwrap_or(MPI_SUCCESS)
    })
}

/// Ranks of world ranks in the communicator of that index.
fn ranks_in(index: u32, members: &[u32]) -> Outcome<Vec<i32>> {
    let all = match core().state.comms.get(index) {
        Some(comm) => comm.own().clone(),
        None => return Err(MPI_ERR_COMM),
    };
    let rank = |m: &u32| all.iter().position(|a| a == m).map(|r| r as i32);
    members
        .iter()
        .map(|m| rank(m).ok_or(MPI_ERR_GROUP))
        .collect()
}

/// A real communicator of these world ranks, made by them alone.
pub fn make_plain(members: &[u32]) -> Outcome<u64> {
    let c = core();
    let procs = c.procs();
    let mut new = MPI_COMM_NULL;
    if members.len() == 1 {
        // SAFETY: an output argument of ours.
        check(unsafe { (procs.MPI_Comm_dup)(c.private_self, &mut new) })?;
        return Ok(new);
    }
    let private = c.private;
    with_real_group(members, |group| {
        // SAFETY: an output argument of ours.
        check(unsafe { (procs.MPI_Comm_create_group)(private, group, 0, &mut new) })
    })?;
    Ok(new)
}

pub unsafe extern "C" fn MPI_Comm_create_group(
    comm: u64,
    group: u64,
    tag: i32,
    newcomm: *mut u64,
) -> i32 {
    static NAME: &str = "MPI_Comm_create_group";
    let _guard = entry::enter();
    let outcome = (|| {
        let (index, real) = collectives::comm(comm)?;
        let members = groups::members(group)?;
        let me = core().state.rank as u32;
        let mut new = MPI_COMM_NULL;
        if members.contains(&me) {
            // Only the group's members take part: the calls are counted per (parent, group, tag).
            let parent_id = core().state.comms.get(index).map_or(0, |c| c.id);
            let mut words = vec![parent_id, tag as u32 as u64];
            words.extend(members.iter().map(|&m| m as u64));
            let key = identity(&words);
            let size = members.len() as u32;
            let gate = *core()
                .group_gates
                .entry((parent_id, key))
                .or_insert_with(|| gate::create(key, size, 0));
            // MPICH 4.0.2 crashes here on a group that was taken from another communicator.
            let ranks = ranks_in(index, &members)?;
            collectives::pass(gate, &NAME)?;
            let procs = core().procs();
            let call = |g| {
                // SAFETY: an output argument of ours.
                check(unsafe { (procs.MPI_Comm_create_group)(real, g, tag, &mut new) })
            };
            let outcome = entry::unlocked(|| with_group_of(real, &ranks, call))
                .and_then(|()| adopt(new, index, key ^ gate.seq()));
            leave();
            new = outcome?;
        }
        // SAFETY: an output argument.
        unsafe { *newcomm = new };
        Ok(())
    })();
    finish(outcome, comm, NAME)
}

pub unsafe extern "C" fn MPI_Comm_split(comm: u64, color: i32, key: i32, newcomm: *mut u64) -> i32 {
    static NAME: &str = "MPI_Comm_split";
    create(comm, newcomm, &NAME, |real, new| {
        // SAFETY: an output argument of ours.
        unsafe { (core().procs().MPI_Comm_split)(real, color, key, new) }
    })
}

/// The hints say by what to split, and the library may add by what it has.
pub unsafe extern "C" fn MPI_Comm_split_type(
    comm: u64,
    split_type: i32,
    key: i32,
    info: u64,
    newcomm: *mut u64,
) -> i32 {
    static NAME: &str = "MPI_Comm_split_type";
    let _guard = entry::enter();
    let hints = match info::pairs(info).and_then(|pairs| Hints::new(info, &pairs)) {
        Ok(hints) => hints,
        Err(code) => return errors::raise(comm, code, NAME),
    };
    let given = hints.real();
    let rc = create(comm, newcomm, &NAME, |real, new| {
        // SAFETY: an output argument of ours, real handles.
        let rc = unsafe { (core().procs().MPI_Comm_split_type)(real, split_type, key, given, new) };
        if rc != MPI_SUCCESS {
            explain_split(split_type);
        }
        rc
    });
    if rc == MPI_SUCCESS && split_type == MPI_COMM_TYPE_HW_UNGUIDED {
        if let Err(code) = info::update(info, &hints) {
            return errors::raise(comm, code, NAME);
        }
    }
    rc
}

/// Says why a kind of split fails that the program may well know: this library has it not.
fn explain_split(split_type: i32) {
    let openmpi_s = (OMPI_COMM_TYPE_HWTHREAD..=OMPI_COMM_TYPE_CLUSTER).contains(&split_type);
    let newer = (MPI_COMM_TYPE_HW_UNGUIDED..=MPI_COMM_TYPE_RESOURCE_GUIDED).contains(&split_type);
    let what = match core().adapter.family {
        Family::Mpich if openmpi_s => "Open MPI's kinds of hardware (OMPI_COMM_TYPE_*)",
        Family::OpenMpi if newer => "MPI-4's kinds of hardware and resources",
        _ => return,
    };
    log::error!(
        "MPI_Comm_split_type by {what}: {} cannot",
        core().state.library.version
    );
}

/// Frees without waiting for the other members, as the libraries do. The descriptor stays, with its
/// gate: what this member has started is still part of the safe point, and while another member has
/// not freed the communicator a restart must make it on all of them. That all have is found out by
/// [`farewells`], or by a drain ([`forget_freed`]).
unsafe fn free(comm: *mut u64, disconnect: bool, name: &'static str) -> i32 {
    let _guard = entry::enter();
    // SAFETY: an argument both in and out.
    let word = unsafe { *comm };
    let outcome = (|| {
        let (index, _) = collectives::comm(word)?;
        if index <= PRIVATE {
            return Err(MPI_ERR_COMM);
        }
        attributes::delete_comm(word)?;
        if disconnect && core().comm(word)?.1.foreign {
            let mut real = std::mem::replace(&mut core().comm(word)?.1.real, MPI_COMM_NULL);
            let call = core().procs().MPI_Comm_disconnect;
            // SAFETY: a communicator of the library that is not used any more.
            check(entry::unlocked(|| unsafe { call(&mut real) }))?;
        }
        failures::freed(core().comm(word)?.1.id);
        let_go(index);
        // SAFETY: as above.
        unsafe { *comm = MPI_COMM_NULL };
        Ok(())
    })();
    finish(outcome, word, name)
}

/// Nobody in this process uses the communicator of that index any more, but for what is pending on it.
pub fn let_go(index: u32) {
    farewells::look();
    let Some(comm) = core().state.comms.get_mut(index) else {
        return;
    };
    comm.freed = true;
    let idle = comm.pending == 0;
    publish(index);
    if idle {
        bury(index);
    }
}

/// Frees the real communicator of one that the program has freed and on which nothing is pending.
pub fn bury(index: u32) {
    let Some(info) = core().state.comms.get_mut(index) else {
        return;
    };
    let mut real = std::mem::replace(&mut info.real, MPI_COMM_NULL);
    let handler = std::mem::replace(&mut info.errhandler, MPI_ERRORS_RETURN);
    let alone = info.processes() == 1 || info.foreign;
    let foreign = info.foreign;
    errors::release(handler);
    if real != MPI_COMM_NULL {
        // SAFETY: a communicator of the library that is not used any more.
        let rc = unsafe { (core().procs().MPI_Comm_free)(&mut real) };
        if rc != MPI_SUCCESS {
            log::warn!("freeing a communicator failed: {}", errors::text(rc));
        }
    }
    if foreign {
        dynamic::count(-1);
    }
    if alone {
        forget(index);
    } else {
        farewells::advance(index);
    }
}

/// All members have freed the communicator of that index: what they have made of it by groups is over too.
pub fn forget(index: u32) {
    let c = core();
    let Some(comm) = c.state.comms.remove(index) else {
        return;
    };
    c.ids.remove(&comm.id);
    c.state.heard.remove(&comm.id);
    c.state.channels.forget(comm.id);
    if let Some(g) = comm.gate {
        gate::destroy(g);
    }
    let of_groups = c.group_gates.range((comm.id, 0)..=(comm.id, u64::MAX));
    let keys: Vec<(u64, u64)> = of_groups.map(|(key, _)| *key).collect();
    for key in keys {
        if let Some(g) = c.group_gates.remove(&key) {
            gate::destroy(g);
        }
    }
}

/// Freed communicators whose descriptors are still here.
pub fn freed() -> Vec<(u32, u64)> {
    let idle = |c: &Comm| c.freed && c.pending == 0;
    core()
        .state
        .comms
        .iter()
        .filter(|(_, c)| idle(c))
        .map(|(i, c)| (i, c.id))
        .collect()
}

/// Forgets those freed communicators that are alive nowhere; `alive` are the identities of all that
/// some rank has not freed.
pub fn forget_freed(alive: &HashSet<u64>) {
    for (index, id) in freed() {
        if !alive.contains(&id) {
            forget(index);
        }
    }
    farewells::purge();
}

pub unsafe extern "C" fn MPI_Comm_free(comm: *mut u64) -> i32 {
    // SAFETY: the program's argument.
    unsafe { free(comm, false, "MPI_Comm_free") }
}

pub unsafe extern "C" fn MPI_Comm_disconnect(comm: *mut u64) -> i32 {
    // SAFETY: the program's argument.
    unsafe { free(comm, true, "MPI_Comm_disconnect") }
}

pub unsafe extern "C" fn MPI_Comm_rank(comm: u64, rank: *mut i32) -> i32 {
    let _guard = entry::enter();
    // SAFETY: an output argument.
    let outcome = core().comm(comm).map(|(_, c)| unsafe { *rank = c.rank });
    finish(outcome, comm, "MPI_Comm_rank")
}

pub unsafe extern "C" fn MPI_Comm_size(comm: u64, size: *mut i32) -> i32 {
    let _guard = entry::enter();
    // SAFETY: an output argument.
    let outcome = core()
        .comm(comm)
        .map(|(_, c)| unsafe { *size = c.own().len() as i32 });
    finish(outcome, comm, "MPI_Comm_size")
}

pub unsafe extern "C" fn MPI_Comm_compare(comm1: u64, comm2: u64, result: *mut i32) -> i32 {
    let _guard = entry::enter();
    let outcome = (|| {
        let groups = |c: &Comm| {
            (
                c.own().clone(),
                c.local.is_some().then(|| c.members.clone()),
            )
        };
        let (a, (own, remote)) = core().comm(comm1).map(|(i, c)| (i, groups(c)))?;
        let (b, (own_too, remote_too)) = core().comm(comm2).map(|(i, c)| (i, groups(c)))?;
        let locally = group::compare(&own, &own_too);
        let remotely = match (&remote, &remote_too) {
            (Some(a), Some(b)) => group::compare(a, b),
            (None, None) => group::Comparison::Ident,
            _ => group::Comparison::Unequal,
        };
        use group::Comparison::{Ident, Unequal};
        let r = match (locally, remotely) {
            _ if a == b => MPI_IDENT,
            (Ident, Ident) => MPI_CONGRUENT,
            (Unequal, _) | (_, Unequal) => MPI_UNEQUAL,
            _ => MPI_SIMILAR,
        };
        // SAFETY: an output argument.
        unsafe { *result = r };
        Ok(())
    })();
    finish(outcome, comm1, "MPI_Comm_compare")
}

pub unsafe extern "C" fn MPI_Comm_set_name(comm: u64, comm_name: *const c_char) -> i32 {
    let _guard = entry::enter();
    // SAFETY: a string argument.
    let mut name = unsafe { errors::bytes_of(comm_name) };
    name.truncate(MPI_MAX_OBJECT_NAME as usize - 1);
    let outcome = core().comm(comm).map(|(_, c)| c.name = name);
    finish(outcome, comm, "MPI_Comm_set_name")
}

pub unsafe extern "C" fn MPI_Comm_get_name(
    comm: u64,
    comm_name: *mut c_char,
    resultlen: *mut i32,
) -> i32 {
    let _guard = entry::enter();
    let outcome = core().comm(comm).map(|(_, c)| {
        // SAFETY: the program's buffer has the length the standard asks for.
        unsafe { put_string(&c.name, comm_name, MPI_MAX_OBJECT_NAME as usize, resultlen) };
    });
    finish(outcome, comm, "MPI_Comm_get_name")
}

pub unsafe extern "C" fn MPI_Comm_set_info(comm: u64, info: u64) -> i32 {
    let _guard = entry::enter();
    let outcome = info::pairs(info).and_then(|p| core().comm(comm).map(|(_, c)| c.info = p));
    finish(outcome, comm, "MPI_Comm_set_info")
}

pub unsafe extern "C" fn MPI_Comm_get_info(comm: u64, info_used: *mut u64) -> i32 {
    let _guard = entry::enter();
    let outcome = core()
        .comm(comm)
        .map(|(_, c)| c.info.clone())
        .and_then(info::make)
        .map(|w| {
            // SAFETY: an output argument.
            unsafe { *info_used = w };
        });
    finish(outcome, comm, "MPI_Comm_get_info")
}

/// Makes the descriptors of the world and of self.
pub fn begin(rank: i32, size: i32) {
    let everyone: Members = (0..size as u32).collect();
    let mut world = describe(
        MPI_COMM_WORLD,
        everyone,
        None,
        WORLD_ID,
        MPI_ERRORS_ARE_FATAL,
    );
    world.name = b"MPI_COMM_WORLD".to_vec();
    let mut own = describe(
        MPI_COMM_SELF,
        Arc::from(vec![rank as u32]),
        None,
        2,
        MPI_ERRORS_ARE_FATAL,
    );
    own.name = b"MPI_COMM_SELF".to_vec();
    let everyone: Members = (0..size as u32).collect();
    let private = describe(core().private, everyone, None, 3, MPI_ERRORS_ARE_FATAL);
    let comms = &mut core().state.comms;
    comms.place(WORLD, world);
    comms.place(SELF, own);
    comms.place(PRIVATE, private);
    publish(WORLD);
    publish(SELF);
}
