//! What the generated entries of collectives use: the gate, the translation of arguments, the request
//! of a non-blocking one.
//!
//! Lower half. The entries themselves are written by `build.rs` from the procedure table: gate, real
//! handles, call, leave. A non-blocking collective counts when it is started; a drain completes it.

use crate::comms::identity;
use crate::gate::{self, Gate, Passage};
use crate::p2p::{self, Envelope};
use crate::requests;
use crate::state::{core, Kept, Outcome, Phase, Work};
use crate::whereabouts::Place;
use crate::{entry, ops};
use mana_raw::layout::AGAIN;
use mpi_std::*;

/// A communicator's index and real handle.
#[inline(always)]
pub fn comm(word: u64) -> Outcome<(u32, u64)> {
    let (index, info) = core().comm(word)?;
    Ok((index, info.real))
}

/// Passes the gate of communicator `index`; the caller leaves with [`leave`].
#[inline(always)]
pub fn enter(index: u32, name: &'static &'static str) -> Outcome {
    let c = core();
    match c.state.comms.get(index).and_then(|i| i.gate) {
        Some(g) => pass(g, name),
        None => Err(MPI_ERR_COMM),
    }
}

/// Passes the gate of communicator `index` for a call that waits for processes outside it. What has passed: one
/// number more with each, of a communicator of this process alone too. The gate of such a communicator lets
/// everything through, since nobody else is waited for; here it would let this process into the library, where no
/// stop finds it, while the others are held. So there is another one for these calls.
pub fn enter_outwards(index: u32, name: &'static &'static str) -> Outcome<u64> {
    let c = core();
    let comm = c.state.comms.get(index).ok_or(MPI_ERR_COMM)?;
    let own = comm.gate.ok_or(MPI_ERR_COMM)?;
    let gate = match comm.processes() {
        1 => outward(),
        _ => own,
    };
    pass(gate, name)?;
    Ok(gate.seq())
}

/// The gate of what this process begins alone with others.
pub fn outward() -> &'static Gate {
    let c = core();
    let key = identity(&[u64::from_le_bytes(*b"outwards"), c.state.rank as u64]);
    let new = || gate::create(key, 2, 0);
    c.group_gates.entry((0, key)).or_insert_with(new)
}

/// Passes a gate.
#[inline(always)]
pub fn pass(g: &'static Gate, name: &'static &'static str) -> Outcome {
    match gate::enter(g, name, core().multiple) {
        Passage::Open => Ok(()),
        Passage::Closed => wait(g),
    }
}

#[cold]
fn wait(g: &'static Gate) -> Outcome {
    // The gate itself knows who waits there.
    let place = || Place::of("");
    let passed = entry::poll(place, || (gate::retry(g) == Passage::Open).then_some(()));
    passed.inspect_err(|code| {
        if *code == AGAIN {
            gate::give_up(g);
        }
    })
}

/// The collective, or the start of it, is over.
#[inline(always)]
pub fn leave() {
    gate::leave(core().multiple);
}

/// The real word of an operation, ready to be called with `datatype` (a word of the program).
#[inline(always)]
pub fn op(word: u64, datatype: u64, real_datatype: u64) -> u64 {
    if word < PREDEFINED_END {
        return word;
    }
    ops::real(word, datatype, real_datatype)
}

/// Real words of an array of `n` datatypes; empty where the array is not significant.
///
/// # Safety
/// `types` is null or has `n` elements, or `significant` is false.
pub unsafe fn types(types: *const u64, n: usize, significant: bool) -> Box<[u64]> {
    if types.is_null() || !significant {
        return vec![MPI_DATATYPE_NULL; n].into_boxed_slice();
    }
    let c = core();
    // SAFETY: the caller's promise.
    (0..n)
        .map(|i| c.lenient_type(unsafe { *types.add(i) }))
        .collect()
}

/// Members of the communicator, of the other side of an inter-communicator.
pub fn size(index: u32) -> usize {
    core().state.comms.get(index).map_or(0, |c| c.members.len())
}

/// Members of the local group.
pub fn own_size(index: u32) -> usize {
    core().state.comms.get(index).map_or(0, |c| c.own().len())
}

/// Whether this process is the root of a collective.
pub fn is_root(index: u32, root: i32) -> bool {
    let comm = core().state.comms.get(index);
    comm.is_some_and(|c| match c.local {
        Some(_) => root == MPI_ROOT,
        None => root == c.rank,
    })
}

/// Processes with an edge to this one, and those this one has an edge to.
pub fn degrees(index: u32) -> (usize, usize) {
    use crate::state::Topology::*;
    let Some(c) = core().state.comms.get(index) else {
        return (0, 0);
    };
    match &c.topology {
        Plain => (0, 0),
        Cart { dims, .. } => (2 * dims.len(), 2 * dims.len()),
        Graph { index, .. } => {
            let r = c.rank as usize;
            let end = index.get(r).copied().unwrap_or(0);
            let start = if r == 0 {
                0
            } else {
                index.get(r - 1).copied().unwrap_or(0)
            };
            ((end - start).max(0) as usize, (end - start).max(0) as usize)
        }
        Distributed {
            sources,
            destinations,
            ..
        } => (sources.len(), destinations.len()),
    }
}

/// Stores the request of a started collective; its word.
///
/// `uses`: operations and datatypes that must live as long as the request.
pub fn started(index: u32, real: u64, words: Vec<Box<[u64]>>, uses: &[u64]) -> Outcome<u64> {
    let e = Envelope {
        buf: 0,
        count: 0,
        datatype: MPI_DATATYPE_NULL,
        peer: MPI_PROC_NULL,
        tag: 0,
        comm: 0,
    };
    let mut r = p2p::request(Work::Collective, index, &e, real);
    let uses: Vec<u64> = uses
        .iter()
        .copied()
        .filter(|w| *w >= PREDEFINED_END)
        .collect();
    if !words.is_empty() || !uses.is_empty() {
        for word in &uses {
            core().use_type(*word);
            ops::hold(*word);
        }
        r.kept = Some(Box::new(Kept {
            words,
            uses,
            ..Kept::default()
        }));
    }
    core().insert_request(r).map(requests::word)
}

/// A request that is complete from the start; its word.
pub fn finished(index: u32) -> Outcome<u64> {
    let word = started(index, MPI_REQUEST_NULL, Vec::new(), &[])?;
    if let Some(i) = requests::index(word)? {
        core().request(i)?.phase = Phase::Done;
    }
    Ok(word)
}
