//! Partitioned communication: a persistent message that the program declares ready piece by piece.
//!
//! Lower half. The message is sent when its last partition is ready, over the layer's private
//! communicator, where no receive of the program can meet it. Both sides compute the same tag from
//! the communicator's identity, the program's tag, and how many of the same kind were made before
//! it: partitioned requests match in the order they are made. Everything else is point-to-point
//! communication: counting, drain, receives posted again.

use crate::comms::identity;
use crate::errors::{check, finish};
use crate::p2p::{self, Envelope, STANDARD};
use crate::requests;
use crate::state::{core, Kept, Outcome, Phase, SavedStatus, Work, PRIVATE};
use crate::{entry, large};
use mpi_std::*;
use serde::{Deserialize, Serialize};
use std::ffi::c_void;

/// Tags below are the layer's own.
const FIRST_TAG: u64 = 1024;
/// Tags above differ between libraries, and a job may be resumed under another one.
const LAST_TAG: u64 = 1 << 19;

/// What a partitioned request has more than another one.
#[derive(Debug, Serialize, Deserialize)]
pub struct Partitions {
    /// Which are ready; of a receive none ever.
    ready: Vec<bool>,
    /// Not ready.
    left: usize,
    /// It is a send.
    sends: bool,
    /// It is a send that has all it needs.
    posted: bool,
    /// The other side in the program's communicator.
    peer: i32,
    /// The program's tag.
    tag: i32,
}

impl Partitions {
    /// Active, it still waits for partitions.
    pub fn waits(&self) -> bool {
        self.sends && !self.posted
    }

    /// Puts the program's rank and tag into the status of a completed receive.
    pub fn tell(&self, status: &mut SavedStatus) {
        if !self.sends && self.peer >= 0 {
            status.0 = self.peer;
            status.1 = self.tag;
        }
    }
}

/// The private communicator's tag of the next request like this one.
fn wire_tag(comm: u64, tag: i32, world: u32, sends: bool) -> i32 {
    let state = &mut core().state;
    let key = identity(&[comm, tag as u32 as u64, world as u64, sends as u64]);
    let number = match state.channels.iter_mut().find(|(k, _)| *k == key) {
        Some((_, n)) => {
            *n += 1;
            *n
        }
        None => {
            state.channels.push((key, 0));
            0
        }
    };
    let bound = LAST_TAG.min(crate::attributes::tag_bound() as u64);
    let spread = identity(&[comm, tag as u32 as u64, number]) % (bound - FIRST_TAG);
    (FIRST_TAG + spread) as i32
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
    let wire = Envelope {
        buf: e.buf,
        count: whole.count,
        datatype: whole.datatype,
        peer: world.map_or(MPI_PROC_NULL, |w| w as i32),
        tag: world.map_or(0, |w| wire_tag(id, e.tag, w, sends)),
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
            peer: e.peer,
            tag: e.tag,
        }),
        ..Kept::default()
    }));
    let i = core().insert_request(r)?;
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

/// Starts partitioned request `index` (inactive): a receive at once, a send waits for its partitions.
pub fn start(index: u32) -> Outcome {
    let r = core().request(index)?;
    let sends = matches!(r.work, Work::Send(_));
    if sends && r.peer != MPI_PROC_NULL {
        r.phase = Phase::Active;
        r.real = MPI_REQUEST_NULL;
    } else {
        p2p::start(index)?;
    }
    let mut status = core().request(index)?.status;
    let p = partitions(index)?;
    p.ready.fill(false);
    p.posted = false;
    p.left = p.ready.len();
    p.tell(&mut status);
    core().request(index)?.status = status;
    Ok(())
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
    finish(outcome, MPI_COMM_WORLD, name)
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
    finish(outcome, MPI_COMM_WORLD, "MPI_Parrived")
}
