//! Messages taken out of the network by a drain, waiting in memory for the program's receive.
//!
//! Lower half. One queue per communicator, in the order in which the library would have matched them
//! (the order in which matched probes returned them). A receive or probe looks here first. Invariant:
//! no message in a queue matches a receive that is posted in the library, because the library had
//! matched them before a probe could see the message.

use crate::synchronous::Sender;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    /// Rank of the sender in the communicator.
    pub source: i32,
    /// Its tag.
    pub tag: i32,
    /// The packed content.
    pub data: Vec<u8>,
    /// Who waits for its receive: it was sent synchronously.
    pub sender: Option<Sender>,
}

/// What a receive or probe asks for; wildcards are `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// Rank in the communicator.
    pub source: Option<i32>,
    /// Tag.
    pub tag: Option<i32>,
}

impl Pattern {
    fn matches(&self, m: &Drained) -> bool {
        self.source.is_none_or(|s| s == m.source) && self.tag.is_none_or(|t| t == m.tag)
    }
}

/// The queue of one communicator.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Queue {
    messages: VecDeque<Drained>,
}

impl Queue {
    /// Nothing to look at: the fast path.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Appends a message.
    pub fn push(&mut self, message: Drained) {
        self.messages.push_back(message);
    }

    /// The oldest message that matches.
    pub fn peek(&self, pattern: Pattern) -> Option<&Drained> {
        self.messages.iter().find(|m| pattern.matches(m))
    }

    /// Takes the oldest message that matches.
    pub fn take(&mut self, pattern: Pattern) -> Option<Drained> {
        let at = self.messages.iter().position(|m| pattern.matches(m))?;
        self.messages.remove(at)
    }

    /// Leaves out what does not stay.
    pub fn retain(&mut self, stays: impl Fn(&Drained) -> bool) {
        self.messages.retain(stays);
    }

    /// The message of one sender and tag after which `later` more of the same came.
    pub fn newest(&mut self, source: i32, tag: i32, later: u64) -> Option<&mut Drained> {
        let same = |m: &&mut Drained| (m.source, m.tag) == (source, tag);
        let mut newest_first = self.messages.iter_mut().rev().filter(same);
        newest_first.nth(usize::try_from(later).ok()?)
    }

    /// Loses the oldest message. For tests of tests, like the following ones: false if none fits.
    pub fn drop_one(&mut self) -> bool {
        self.messages.pop_front().is_some()
    }

    /// Doubles the oldest message.
    pub fn duplicate_one(&mut self) -> bool {
        let first = self.messages.front().cloned();
        let found = first.is_some();
        self.messages.extend(first);
        found
    }

    /// Swaps two messages that MPI orders: same source, same tag.
    pub fn swap_two(&mut self) -> bool {
        let n = self.messages.len();
        let ordered = |a: usize, b: usize| {
            let (a, b) = (&self.messages[a], &self.messages[b]);
            (a.source, a.tag) == (b.source, b.tag) && a.data != b.data
        };
        let pairs = || (0..n).flat_map(|a| (a + 1..n).map(move |b| (a, b)));
        let Some((a, b)) = pairs().find(|&(a, b)| ordered(a, b)) else {
            return false;
        };
        self.messages.swap(a, b);
        true
    }

    /// Changes a byte of a message.
    pub fn corrupt_one(&mut self) -> bool {
        let byte = self.messages.iter_mut().find_map(|m| m.data.last_mut());
        byte.map(|b| *b ^= 1).is_some()
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        self.messages.iter().map(|m| m.data.len() as u64).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(source: i32, tag: i32, id: u8) -> Drained {
        Drained {
            source,
            tag,
            data: vec![id],
            sender: None,
        }
    }

    fn pattern(source: impl Into<Option<i32>>, tag: impl Into<Option<i32>>) -> Pattern {
        Pattern {
            source: source.into(),
            tag: tag.into(),
        }
    }

    #[test]
    fn matching_is_in_order_with_and_without_wildcards() {
        let mut q = Queue::default();
        for m in [
            message(1, 7, 0),
            message(2, 7, 1),
            message(1, 8, 2),
            message(1, 7, 3),
        ] {
            q.push(m);
        }
        assert_eq!(q.peek(pattern(2, None)).unwrap().data, [1]);
        assert_eq!(q.take(pattern(1, 8)).unwrap().data, [2]);
        assert_eq!(q.take(pattern(1, 9)), None);
        assert_eq!(q.take(pattern(None, 7)).unwrap().data, [0]);
        assert_eq!(q.take(pattern(1, None)).unwrap().data, [3]);
        assert_eq!(q.take(pattern(None, None)).unwrap().data, [1]);
        assert!(q.is_empty());
    }
}
