//! Storage of requests: like a slab, but a freed request stays where it was and the next one is
//! written over it field by field.
//!
//! Lower half. A request is large and short-lived. Built elsewhere and moved in, its narrow stores
//! are read back as wide loads, which stalls the processor on every `MPI_Isend`. Invariant: a vacant
//! request keeps no memory (`kept` is `None`).

use crate::slab::MAX;
use crate::state::Request;
use serde::{Deserialize, Serialize};

/// Mark of an entry in use.
const FULL: u32 = u32::MAX;
/// End of the list of vacant entries.
const NONE: u32 = u32::MAX - 1;

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    /// [`FULL`], or the next vacant index, or [`NONE`].
    next: u32,
    request: Request,
}

/// All requests.
#[derive(Debug, Serialize, Deserialize)]
pub struct Pool {
    entries: Vec<Entry>,
    vacant: u32,
}

impl Pool {
    /// An empty pool, whose first index is `first`.
    pub fn starting_at(first: u32) -> Pool {
        let entry = || Entry {
            next: NONE,
            request: Request::vacant(),
        };
        Pool {
            entries: (0..first).map(|_| entry()).collect(),
            vacant: NONE,
        }
    }

    /// An index, and the request there, to be overwritten; `None` when all are in use.
    #[inline(always)]
    pub fn claim(&mut self) -> Option<(u32, &mut Request)> {
        if self.vacant == NONE {
            self.grow()?;
        }
        let index = self.vacant;
        let entry = self.entries.get_mut(index as usize)?;
        self.vacant = entry.next;
        entry.next = FULL;
        Some((index, &mut entry.request))
    }

    #[cold]
    fn grow(&mut self) -> Option<()> {
        let index = self.entries.len() as u32;
        if index >= MAX {
            return None;
        }
        self.entries.push(Entry {
            next: NONE,
            request: Request::vacant(),
        });
        self.vacant = index;
        Some(())
    }

    /// Stores a request.
    pub fn insert(&mut self, request: Request) -> Option<u32> {
        let (index, place) = self.claim()?;
        *place = request;
        Some(index)
    }

    /// The request at `index`.
    #[inline(always)]
    pub fn get(&self, index: u32) -> Option<&Request> {
        match self.entries.get(index as usize) {
            Some(entry) if entry.next == FULL => Some(&entry.request),
            _ => None,
        }
    }

    /// The request at `index`.
    #[inline(always)]
    pub fn get_mut(&mut self, index: u32) -> Option<&mut Request> {
        match self.entries.get_mut(index as usize) {
            Some(entry) if entry.next == FULL => Some(&mut entry.request),
            _ => None,
        }
    }

    /// Forgets the request at `index` and what it kept; its communicator and datatype.
    #[inline(always)]
    pub fn remove(&mut self, index: u32) -> Option<(u32, u64)> {
        let entry = self.entries.get_mut(index as usize)?;
        if entry.next != FULL {
            return None;
        }
        entry.next = self.vacant;
        self.vacant = index;
        if entry.request.kept.is_some() {
            entry.request.kept = None;
        }
        Some((entry.request.comm, entry.request.datatype))
    }

    /// All requests by index.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Request)> {
        let full = |(i, e): (usize, _)| {
            let e: &Entry = e;
            (e.next == FULL).then_some((i as u32, &e.request))
        };
        self.entries.iter().enumerate().filter_map(full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_are_reused_last_freed_first_also_after_saving() {
        let mut pool = Pool::starting_at(2);
        let claim = |p: &mut Pool| p.claim().unwrap().0;
        assert_eq!(
            [claim(&mut pool), claim(&mut pool), claim(&mut pool)],
            [2, 3, 4]
        );
        assert!(pool.remove(2).is_some() && pool.remove(4).is_some());
        assert!(pool.remove(4).is_none() && pool.get(4).is_none());
        assert!(pool.get(1).is_none());
        let bytes = postcard::to_allocvec(&pool).unwrap();
        let mut back: Pool = postcard::from_bytes(&bytes).unwrap();
        assert_eq!(back.iter().map(|(i, _)| i).collect::<Vec<_>>(), [3]);
        assert_eq!(
            [claim(&mut back), claim(&mut back), claim(&mut back)],
            [4, 2, 5]
        );
    }
}
