//! Partitioned communication: a persistent message that the program declares ready piece by piece.
//!
//! Lower half. The message is sent when its last partition is ready, over the layer's private
//! communicator, where no receive of the program can meet it. Partitioned requests of one communicator, tag and
//! pair match in the order they are made, so both sides number them. The sender chooses a tag of the private
//! communicator that none of its requests to that process has, and tells it, with the number, when the request
//! is made ([`mail`]); a receive that is started before that is known waits for it, the first time. Everything
//! else is point-to-point communication: counting, drain, receives posted again.

use crate::errors::{check, finish};
use crate::mail::{self, CHANNEL};
use crate::p2p::{self, Envelope, STANDARD};
use crate::requests;
use crate::state::{core, Kept, Outcome, Phase, SavedStatus, Work, PRIVATE};
use crate::{entry, large};
use mpi_std::*;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::ffi::c_void;

/// Tags below are the layer's own.
const FIRST_TAG: u64 = 1024;
/// Tags above differ between libraries, and a job may be resumed under another one.
const LAST_TAG: u64 = 1 << 19;

/// One of two sides, and the place among all that match it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Channel {
    /// Identity of the communicator.
    comm: u64,
    /// The program's tag.
    tag: i32,
    /// World rank of the other side.
    world: u32,
    /// How many of the same were made before.
    number: u64,
}

/// What both sides of partitioned communication know of each other.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Channels {
    /// How many were made: by communicator, tag, world rank, and whether they send.
    made: HashMap<(u64, i32, u32, bool), u64>,
    /// Tags of the private communicator that senders have told.
    told: HashMap<Channel, i32>,
    /// How many such tags were given to requests to a world rank.
    given: HashMap<u32, u64>,
}

impl Channels {
    fn next(&mut self, comm: u64, tag: i32, world: u32, sends: bool) -> Channel {
        let made = self.made.entry((comm, tag, world, sends)).or_default();
        let number = *made;
        *made += 1;
        Channel {
            comm,
            tag,
            world,
            number,
        }
    }

    /// No more are made on a communicator. Those that are there go on.
    pub fn forget(&mut self, id: u64) {
        if !self.made.is_empty() {
            self.made.retain(|(comm, ..), _| *comm != id);
        }
    }
}

/// What a partitioned request has more than another one.
#[derive(Debug, Serialize, Deserialize)]
pub struct Partitions {
    /// Which are ready; of a receive none ever.
    ready: Vec<bool>,
    /// Not ready.
    left: usize,
    /// It is a send.
    sends: bool,
    /// It is with the library: a send has all its partitions, of a receive the tag is known.
    posted: bool,
    /// Of a receive: what it waits to be told the tag of; none once it is known.
    awaits: Option<Channel>,
    /// The other side in the program's communicator.
    peer: i32,
    /// The program's tag.
    tag: i32,
}

impl Partitions {
    /// Active, it is not with the library yet.
    pub fn waits(&self) -> bool {
        !self.posted
    }

    /// Puts the program's rank and tag into the status of a completed receive.
    pub fn tell(&self, status: &mut SavedStatus) {
        if !self.sends && self.peer >= 0 {
            status.0 = self.peer;
            status.1 = self.tag;
        }
    }
}

/// A tag of the private communicator for a new request that sends to `world`.
fn free_tag(world: u32) -> Outcome<i32> {
    let bound = LAST_TAG.min(crate::attributes::tag_bound() as u64);
    let tags = bound - FIRST_TAG;
    for _ in 0..tags {
        let s = &mut core().state;
        let given = s.channels.given.entry(world).or_default();
        let (number, tag) = (*given, (FIRST_TAG + *given % tags) as i32);
        *given += 1;
        // The first time round none can be in use.
        if number < tags || !in_use(world, tag) {
            return Ok(tag);
        }
    }
    Err(MPI_ERR_OTHER)
}

fn in_use(world: u32, tag: i32) -> bool {
    let mut all = core().state.requests.iter();
    all.any(|(_, r)| {
        let partitions = r.kept.as_ref().and_then(|k| k.partitions.as_ref());
        partitions.is_some_and(|p| p.sends) && (r.peer, r.tag) == (world as i32, tag)
    })
}

/// The tag that the sender of a channel has told, if it has.
fn told(channel: &Channel) -> Outcome<Option<i32>> {
    while let Some((world, [comm, tag, number, wire])) = mail::next(CHANNEL)? {
        let told = Channel {
            comm,
            tag: tag as i32,
            world,
            number,
        };
        core().state.channels.told.insert(told, wire as i32);
    }
    Ok(core().state.channels.told.remove(channel))
}

unsafe fn make(
    sends: bool,
    partitions: i32,
    count: i64,
    e: Envelope,
    request: *mut u64,
) -> Outcome {
    let c = core();
    let (_, info) = c.comm(e.comm)?;
    let id = info.id;
    let world = match usize::try_from(e.peer) {
        Ok(at) => Some(*info.members.get(at).ok_or(MPI_ERR_RANK)?),
        Err(_) if e.peer == MPI_PROC_NULL => None,
        Err(_) => return Err(MPI_ERR_RANK),
    };
    if partitions < 1 {
        return Err(MPI_ERR_ARG);
    }
    if count < 0 {
        return Err(MPI_ERR_COUNT);
    }
    c.real_type(e.datatype)?;
    let whole = large::pair(i64::from(partitions).saturating_mul(count), e.datatype)?;
    let channels = &mut core().state.channels;
    let channel = world.map(|w| channels.next(id, e.tag, w, sends));
    let tag = match channel.filter(|_| sends) {
        Some(c) => free_tag(c.world)?,
        None => 0,
    };
    let wire = Envelope {
        buf: e.buf,
        count: whole.count,
        datatype: whole.datatype,
        peer: world.map_or(MPI_PROC_NULL, |w| w as i32),
        tag,
        comm: c.comm_word(PRIVATE),
    };
    let work = if sends {
        Work::Send(STANDARD)
    } else {
        Work::Recv
    };
    let mut r = p2p::request(work, PRIVATE, &wire, MPI_REQUEST_NULL);
    r.phase = Phase::Inactive;
    r.persistent = true;
    r.kept = Some(Box::new(Kept {
        partitions: Some(Partitions {
            ready: vec![false; partitions as usize],
            left: 0,
            sends,
            posted: false,
            awaits: channel.filter(|_| !sends),
            peer: e.peer,
            tag: e.tag,
        }),
        ..Kept::default()
    }));
    let i = core().insert_request(r)?;
    if let Some(c) = channel.filter(|_| sends) {
        let words = [c.comm, c.tag as u32 as u64, c.number, tag as u64];
        mail::send(c.world, CHANNEL, &words)?;
    }
    // SAFETY: an output argument.
    unsafe { *request = requests::word(i) };
    Ok(())
}

pub unsafe extern "C" fn MPI_Psend_init(
    buf: *const c_void,
    partitions: i32,
    count: i64,
    datatype: u64,
    dest: i32,
    tag: i32,
    comm: u64,
    info: u64,
    request: *mut u64,
) -> i32 {
    let _guard = entry::enter();
    let _ = info;
    let e = Envelope {
        buf: buf as u64,
        count: 0,
        datatype,
        peer: dest,
        tag,
        comm,
    };
    // SAFETY: the program's arguments.
    let outcome = unsafe { make(true, partitions, count, e, request) };
    finish(outcome, comm, "MPI_Psend_init")
}

pub unsafe extern "C" fn MPI_Precv_init(
    buf: *mut c_void,
    partitions: i32,
    count: i64,
    datatype: u64,
    source: i32,
    tag: i32,
    comm: u64,
    info: u64,
    request: *mut u64,
) -> i32 {
    let _guard = entry::enter();
    let _ = info;
    let e = Envelope {
        buf: buf as u64,
        count: 0,
        datatype,
        peer: source,
        tag,
        comm,
    };
    // SAFETY: the program's arguments.
    let outcome = unsafe { make(false, partitions, count, e, request) };
    finish(outcome, comm, "MPI_Precv_init")
}

fn partitions(index: u32) -> Outcome<&'static mut Partitions> {
    let kept = core().request(index)?.kept.as_mut();
    kept.and_then(|k| k.partitions.as_mut())
        .ok_or(MPI_ERR_REQUEST)
}

/// Starts partitioned request `index` (inactive): a receive once its tag is known, a send waits for its
/// partitions.
pub fn start(index: u32) -> Outcome {
    let nobody = core().request(index)?.peer == MPI_PROC_NULL;
    let p = partitions(index)?;
    p.ready.fill(false);
    p.left = p.ready.len();
    p.posted = nobody;
    if nobody {
        p2p::start(index)?;
        return tell(index);
    }
    let sends = p.sends;
    let r = core().request(index)?;
    r.phase = Phase::Active;
    r.real = MPI_REQUEST_NULL;
    if !sends {
        post(index)?;
    }
    Ok(())
}

/// Puts the program's rank and tag into the status of a request that is complete.
fn tell(index: u32) -> Outcome {
    let mut status = core().request(index)?.status;
    partitions(index)?.tell(&mut status);
    core().request(index)?.status = status;
    Ok(())
}

/// Posts the receive `index` (active) if its tag is known; whether it is with the library, or complete.
pub fn post(index: u32) -> Outcome<bool> {
    let p = partitions(index)?;
    if p.sends || p.posted {
        return Ok(p.posted);
    }
    if let Some(channel) = p.awaits {
        let Some(tag) = told(&channel)? else {
            return Ok(false);
        };
        partitions(index)?.awaits = None;
        core().request(index)?.tag = tag;
    }
    partitions(index)?.posted = true;
    p2p::start(index)?;
    tell(index)?;
    Ok(true)
}

fn ready(index: u32, partition: i32) -> Outcome {
    let p = partitions(index)?;
    let place = usize::try_from(partition)
        .ok()
        .and_then(|at| p.ready.get_mut(at))
        .filter(|done| !**done)
        .ok_or(MPI_ERR_ARG)?;
    if !p.sends {
        return Err(MPI_ERR_REQUEST);
    }
    *place = true;
    p.left -= 1;
    if p.left > 0 {
        return Ok(());
    }
    let c = core();
    let r = c.request(index)?;
    if r.peer == MPI_PROC_NULL {
        return Ok(());
    }
    if r.phase != Phase::Active {
        return Err(MPI_ERR_REQUEST);
    }
    let e = Envelope {
        buf: r.buf,
        count: r.count,
        datatype: r.datatype,
        peer: r.peer,
        tag: r.tag,
        comm: 0,
    };
    let real_comm = c.private;
    // SAFETY: the program's buffer, which is ready.
    let real = unsafe { p2p::start_send(STANDARD, PRIVATE, real_comm, &e) }?;
    core().request(index)?.real = real;
    partitions(index)?.posted = true;
    Ok(())
}

fn each_ready(request: u64, list: impl Iterator<Item = i32>, name: &'static str) -> i32 {
    let _guard = entry::enter();
    let outcome = (|| {
        let index = requests::index(request)?.ok_or(MPI_ERR_REQUEST)?;
        for partition in list {
            ready(index, partition)?;
        }
        Ok(())
    })();
    finish(outcome, crate::errors::NO_OBJECT, name)
}

pub unsafe extern "C" fn MPI_Pready(partition: i32, request: u64) -> i32 {
    each_ready(request, std::iter::once(partition), "MPI_Pready")
}

pub unsafe extern "C" fn MPI_Pready_range(
    partition_low: i32,
    partition_high: i32,
    request: u64,
) -> i32 {
    each_ready(request, partition_low..=partition_high, "MPI_Pready_range")
}

pub unsafe extern "C" fn MPI_Pready_list(
    length: i32,
    array_of_partitions: *const i32,
    request: u64,
) -> i32 {
    // SAFETY: the program's array.
    let at = |i: i32| unsafe { *array_of_partitions.add(i as usize) };
    each_ready(request, (0..length.max(0)).map(at), "MPI_Pready_list")
}

pub unsafe extern "C" fn MPI_Parrived(request: u64, partition: i32, flag: *mut i32) -> i32 {
    let _guard = entry::enter();
    let outcome = (|| {
        let index = requests::index(request)?.ok_or(MPI_ERR_REQUEST)?;
        let p = partitions(index)?;
        if p.sends {
            return Err(MPI_ERR_REQUEST);
        }
        if usize::try_from(partition).map_or(true, |at| at >= p.ready.len()) {
            return Err(MPI_ERR_ARG);
        }
        let done = requests::test_index(index);
        // SAFETY: an output argument.
        unsafe { *flag = done as i32 };
        check(core().request(index)?.error)
    })();
    finish(outcome, crate::errors::NO_OBJECT, "MPI_Parrived")
}
