//! What the library says of an error beyond its class.
//!
//! Lower half. MPICH gives every error a code of its own, whose text names the procedure, its arguments and what is wrong with
//! them; Open MPI's codes are classes. Inside, errors are classes. One that reaches the program gets a code here, if the
//! library has more to say, which is that of the last error the thread has got from it. Codes and texts are the program's: they
//! stay after a restart, also under another library. The oldest of many are given again, as MPICH does it.

use std::ffi::{c_char, CStr};

use mpi_std::*;
use serde::{Deserialize, Serialize};

use crate::errors;
use crate::state::core;

/// Texts that are kept.
const ROOM: usize = 512;

/// The errors of which the library has said something.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanations {
    /// Class and text; the code has their place and the class.
    kept: Vec<(i32, Vec<u8>)>,
    /// The place that is taken next, once all are.
    next: usize,
}

impl Explanations {
    /// The code of an error of this class and text.
    fn code(&mut self, class: i32, text: &[u8]) -> i32 {
        let known = |e: &(i32, Vec<u8>)| e.0 == class && e.1 == text;
        let at = match self.kept.iter().position(known) {
            Some(at) => at,
            None if self.kept.len() < ROOM => {
                self.kept.push((class, text.to_vec()));
                self.kept.len() - 1
            }
            None => {
                let at = self.next;
                self.next = (at + 1) % ROOM;
                self.kept[at] = (class, text.to_vec());
                at
            }
        };
        EXPLAINED_CODES | (at as i32) << 8 | class
    }

    /// What a code stands for. A place may have been given again to an error of another class.
    fn text(&self, code: i32) -> Option<&[u8]> {
        let at = usize::try_from((code - EXPLAINED_CODES) >> 8).ok()?;
        let (class, text) = self.kept.get(at)?;
        (*class == code & 0xff).then_some(text)
    }
}

/// Whether it is a code that was made here.
fn is_explained(code: i32) -> bool {
    (EXPLAINED_CODES..EXPLAINED_CODES + ((ROOM as i32) << 8)).contains(&code)
}

/// The class of a code that was made here.
pub fn class(code: i32) -> Option<i32> {
    is_explained(code).then_some(code & 0xff)
}

/// The text of a code that was made here, as long as it is known.
pub fn text(code: i32) -> Option<Vec<u8>> {
    let text = is_explained(code).then(|| core().state.explanations.text(code))?;
    text.map(<[u8]>::to_vec)
}

/// What the program gets for an error of this class.
#[cold]
pub fn code(class: i32) -> i32 {
    let mut buffer = [0 as c_char; MPI_MAX_ERROR_STRING as usize];
    // SAFETY: the buffer has the length that is passed.
    let last = unsafe { (core().adapter.extras.last_error)(buffer.as_mut_ptr(), buffer.len()) };
    // That of several requests stands for their own, and is looked for as it is.
    if last != class || class == MPI_ERR_IN_STATUS || !(1..=0xff).contains(&class) {
        return class;
    }
    // SAFETY: the adapter ends it with a NUL.
    let text = unsafe { CStr::from_ptr(buffer.as_ptr()) }.to_bytes();
    if text.is_empty() || text == errors::text(class).as_bytes() {
        return class;
    }
    core().state.explanations.code(class, text)
}

/// What the library said last is not what comes next: an error of the program's own making.
pub fn forget() {
    // SAFETY: no room for a text.
    unsafe { (core().adapter.extras.last_error)(std::ptr::null_mut(), 0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_one_code_each() {
        let mut all = Explanations::default();
        let first = all.code(MPI_ERR_RANK, b"rank 99");
        let second = all.code(MPI_ERR_RANK, b"rank 98");
        assert_ne!(first, second);
        assert_eq!(all.code(MPI_ERR_RANK, b"rank 99"), first);
        assert_eq!(all.text(first), Some(&b"rank 99"[..]));
        for code in [first, second] {
            assert_eq!(class(code), Some(MPI_ERR_RANK));
        }
    }

    #[test]
    fn the_oldest_are_given_again() {
        let mut all = Explanations::default();
        let text = |n: usize| n.to_string().into_bytes();
        let first = all.code(MPI_ERR_RANK, &text(0));
        for n in 1..ROOM {
            all.code(MPI_ERR_RANK, &text(n));
        }
        assert_eq!(all.text(first), Some(&b"0"[..]));
        let after = all.code(MPI_ERR_TAG, b"another");
        assert_eq!(all.text(after), Some(&b"another"[..]));
        assert_eq!(all.text(first), None, "its class is another");
        assert_eq!(class(first), Some(MPI_ERR_RANK));
        assert!(is_explained(after) && class(MPI_ERR_LASTCODE + 1).is_none());
    }
}
