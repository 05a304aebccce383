//! How the members of a communicator learn that all of them have freed it.
//!
//! Lower half. Freeing waits for nobody, and the descriptor with its gate stays until every member has
//! freed the communicator (see [`crate::comms`]). Each member tells so once: up a binary tree of the members
//! when all below it have told, and from its root down again when all have. These farewells are [`mail`]; they
//! are looked at when a communicator is made or freed. Nobody waits for one, and a member that never
//! frees its communicator keeps nobody from anything.

use crate::comms;
use crate::drained::Drained;
use crate::group::Members;
use crate::mail::{self, FAREWELL};
use crate::state::{core, Comm, PRIVATE};

/// All members below the sender have freed it, and so has the sender.
const FREED: u64 = 1;
/// All members have.
const GONE: u64 = 2;

/// The members in an order that all of them have in common: of an inter-communicator, the group with the lower
/// first rank comes first. With it, this process's place.
fn order(comm: &Comm) -> (&Members, Option<&Members>, usize) {
    let rank = comm.rank.max(0) as usize;
    match &comm.local {
        None => (&comm.members, None, rank),
        Some(own) if own.first() < comm.members.first() => (own, Some(&comm.members), rank),
        Some(own) => (&comm.members, Some(own), comm.members.len() + rank),
    }
}

/// A communicator's tree as this process sees it: world ranks.
struct Tree {
    above: Option<u32>,
    below: Vec<u32>,
}

fn tree(comm: &Comm) -> Tree {
    let (first, second, place) = order(comm);
    let at = |place: usize| match place.checked_sub(first.len()) {
        None => first.get(place).copied(),
        Some(rest) => second.and_then(|s| s.get(rest)).copied(),
    };
    Tree {
        above: place.checked_sub(1).and_then(|before| at(before / 2)),
        below: (1..=2).filter_map(|k| at(2 * place + k)).collect(),
    }
}

fn send(world: u32, what: u64, id: u64) {
    if let Err(class) = mail::send(world, FAREWELL, &[what, id]) {
        log::error!("rank {world} cannot be told of a freed communicator: MPI error class {class}");
    }
}

/// Communicator `index`, which this process has freed and on which nothing is pending: tells it if all below
/// have told.
pub fn advance(index: u32) {
    let s = &mut core().state;
    let Some(comm) = s.comms.get_mut(index) else {
        return;
    };
    if !comm.freed || comm.pending > 0 || comm.told {
        return;
    }
    let (id, tree) = (comm.id, tree(comm));
    let heard = s.heard.get(&id).copied().unwrap_or(0);
    if (heard as usize) < tree.below.len() {
        return;
    }
    comm.told = true;
    match tree.above {
        Some(above) => send(above, FREED, id),
        None => gone(index),
    }
}

/// All members have freed communicator `index`.
fn gone(index: u32) {
    let Some(comm) = core().state.comms.get(index) else {
        return;
    };
    let id = comm.id;
    for world in tree(comm).below {
        send(world, GONE, id);
    }
    comms::forget(index);
}

/// Takes in the farewells that have come.
pub fn look() {
    loop {
        let [what, id] = match mail::next(FAREWELL) {
            Ok(Some((_, words))) => words,
            Ok(None) => return,
            Err(class) => {
                log::error!("word of a freed communicator is lost: MPI error class {class}");
                return;
            }
        };
        let index = core().ids.get(&id).copied();
        match (what, index) {
            (GONE, Some(index)) => gone(index),
            (FREED, index) => {
                // It may be one that this process is about to make.
                *core().state.heard.entry(id).or_default() += 1;
                if let Some(index) = index {
                    advance(index);
                }
            }
            _ => {}
        }
    }
}

/// After a drain, with what all members had freed forgotten: farewells to it say nothing any more. Nothing is
/// being made anywhere, so what is not known never will be.
pub fn purge() {
    let c = core();
    let known = |id: u64| c.ids.contains_key(&id);
    c.state.heard.retain(|id, _| known(*id));
    let stale = |m: &Drained| {
        let id = m.data.get(8..16).and_then(|b| b.try_into().ok());
        m.tag == FAREWELL && !id.map(u64::from_le_bytes).is_some_and(known)
    };
    if let Some(private) = c.state.comms.get_mut(PRIVATE) {
        private.drained.retain(|m| !stale(m));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A communicator of two groups (the second may be empty) as `me`, a world rank, sees it.
    fn comm(one: &[u32], other: &[u32], me: u32) -> Comm {
        let (own, remote) = match one.contains(&me) {
            true => (one, other),
            false => (other, one),
        };
        let rank = own.iter().position(|m| *m == me).unwrap_or(0) as i32;
        let members = Members::from(if other.is_empty() { own } else { remote });
        let local = (!other.is_empty()).then(|| Members::from(own));
        Comm {
            rank,
            local,
            ..Comm::vacant(members)
        }
    }

    #[test]
    fn every_member_is_below_the_one_it_tells() {
        for (one, other) in [
            (&[4, 7, 2, 9, 5, 0, 3][..], &[][..]),
            (&[8, 1, 6], &[5, 2, 7, 3]),
            (&[5], &[4, 0]),
        ] {
            let all: Vec<u32> = one.iter().chain(other).copied().collect();
            let (mut roots, mut below) = (0, 0);
            for &me in &all {
                let mine = tree(&comm(one, other, me));
                assert!(mine.below.len() <= 2);
                below += mine.below.len();
                match mine.above {
                    Some(above) => {
                        assert!(tree(&comm(one, other, above)).below.contains(&me));
                    }
                    None => roots += 1,
                }
            }
            assert_eq!((roots, below), (1, all.len() - 1));
        }
    }
}
