//! Storage of virtual objects: index in, object out.
//!
//! Lower half. The index of an object is a part of the handle the program holds, so it never changes
//! and survives a restart (a slab is serialised with its holes). Freed indices are used again, the
//! most recently freed first, which keeps the program's request loops inside a few cache lines.

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Slot<T> {
    Full(T),
    /// Next free index, or `NONE`.
    Hole(u32),
}

const NONE: u32 = u32::MAX;

/// Largest number of objects of a kind: a handle word has 24 bits for the index.
pub const MAX: u32 = 1 << 24;

/// Objects of one kind.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: u32,
    len: u32,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Slab<T> {
    /// An empty slab, whose first index is 0.
    pub const fn new() -> Self {
        Slab {
            slots: Vec::new(),
            free: NONE,
            len: 0,
        }
    }

    /// An empty slab, whose first index is `first`.
    pub fn starting_at(first: u32) -> Self {
        let slots = (0..first).map(|_| Slot::Hole(NONE)).collect();
        Slab {
            slots,
            free: NONE,
            len: 0,
        }
    }

    /// Stores an object at an index that is not in use and below those that `insert` gives.
    pub fn place(&mut self, index: u32, value: T) {
        if let Some(slot) = self.slots.get_mut(index as usize) {
            if matches!(slot, Slot::Hole(_)) {
                self.len += 1;
            }
            *slot = Slot::Full(value);
        }
    }

    /// Stores an object; `None` when all [`MAX`] indices are in use.
    #[inline]
    pub fn insert(&mut self, value: T) -> Option<u32> {
        if self.free != NONE {
            let index = self.free;
            if let Some(slot) = self.slots.get_mut(index as usize) {
                if let Slot::Hole(next) = *slot {
                    self.free = next;
                    *slot = Slot::Full(value);
                    self.len += 1;
                    return Some(index);
                }
            }
        }
        self.push(value)
    }

    #[cold]
    fn push(&mut self, value: T) -> Option<u32> {
        let index = self.slots.len() as u32;
        if index >= MAX {
            return None;
        }
        self.slots.push(Slot::Full(value));
        self.len += 1;
        Some(index)
    }

    /// The object at `index`.
    #[inline]
    pub fn get(&self, index: u32) -> Option<&T> {
        match self.slots.get(index as usize) {
            Some(Slot::Full(value)) => Some(value),
            _ => None,
        }
    }

    /// The object at `index`.
    #[inline]
    pub fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        match self.slots.get_mut(index as usize) {
            Some(Slot::Full(value)) => Some(value),
            _ => None,
        }
    }

    /// Takes the object at `index` out.
    #[inline]
    pub fn remove(&mut self, index: u32) -> Option<T> {
        let slot = self.slots.get_mut(index as usize)?;
        if matches!(slot, Slot::Hole(_)) {
            return None;
        }
        let old = std::mem::replace(slot, Slot::Hole(self.free));
        self.free = index;
        self.len -= 1;
        match old {
            Slot::Full(value) => Some(value),
            Slot::Hole(_) => None,
        }
    }

    /// Number of objects.
    #[cfg(test)]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// All objects by index.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.slots.iter().enumerate().filter_map(|(i, s)| match s {
            Slot::Full(v) => Some((i as u32, v)),
            Slot::Hole(_) => None,
        })
    }

    /// All objects by index.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut T)> {
        self.slots
            .iter_mut()
            .enumerate()
            .filter_map(|(i, s)| match s {
                Slot::Full(v) => Some((i as u32, v)),
                Slot::Hole(_) => None,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_are_reused_last_freed_first() {
        let mut s = Slab::new();
        let a = s.insert("a").unwrap();
        let b = s.insert("b").unwrap();
        let c = s.insert("c").unwrap();
        assert_eq!((a, b, c), (0, 1, 2));
        assert_eq!(s.remove(a), Some("a"));
        assert_eq!(s.remove(c), Some("c"));
        assert_eq!(s.remove(c), None);
        assert_eq!(s.insert("d"), Some(c));
        assert_eq!(s.insert("e"), Some(a));
        assert_eq!(s.insert("f"), Some(3));
        assert_eq!((s.remove(3), s.remove(3)), (Some("f"), None));
        assert_eq!(s.len(), 3);
        assert_eq!(s.insert("g"), Some(3));
        assert_eq!(s.get(b), Some(&"b"));
    }

    #[test]
    fn a_serialised_slab_keeps_indices_and_holes() {
        let mut s = Slab::new();
        for i in 0..10u64 {
            s.insert(i).unwrap();
        }
        s.remove(3);
        s.remove(7);
        let bytes = postcard::to_allocvec(&s).unwrap();
        let mut back: Slab<u64> = postcard::from_bytes(&bytes).unwrap();
        assert_eq!(back.get(3), None);
        assert_eq!(back.get(8), Some(&8));
        assert_eq!(back.insert(70), Some(7));
        assert_eq!(back.insert(30), Some(3));
        assert_eq!(back.insert(100), Some(10));
    }
}
