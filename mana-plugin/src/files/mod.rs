//! Files: MPI's input and output (decision 004).
//!
//! Lower half. A file of the program is one of the library, opened over a communicator of its own that
//! the program never sees: its gate counts everything that all members call. The library keeps the
//! pointers; a drain asks for them when no operation is under way anywhere. A restart opens the file
//! again, as it is then, and sets view, atomicity and pointers. That the file then has the content it
//! had at the checkpoint is the surroundings' work ([`crate::MpiHooks::file_named`]).
//!
//! | module | holds |
//! |---|---|
//! | `open` | opening, closing, deleting |
//! | `access` | what every operation on a file passes through |
//! | `properties` | view, hints, group, data representations, error handlers |
//! | `rebuild` | what a drain notes, and what a restart makes of it |

pub mod access;
pub mod open;
pub mod properties;
pub mod rebuild;

use crate::errors;
use crate::info::Pairs;
pub use crate::info::{pairs_of, text, Hints};
use crate::state::{core, Core, Outcome};
use mana_raw::layout::AGAIN;
use mpi_std::*;
use serde::{Deserialize, Serialize};

/// A file.
#[derive(Debug, Serialize, Deserialize)]
pub struct File {
    /// Today's handle.
    #[serde(skip)]
    pub real: u64,
    /// Index of its communicator.
    pub comm: u32,
    /// Its name as the library gets it at a restart: absolute, with the program's prefix, if any.
    pub name: Vec<u8>,
    /// As opened; `MPI_MODE_*`.
    pub amode: i32,
    /// Hints the program gave.
    pub info: Pairs,
    /// `MPI_File_set_view`, if that was called.
    pub view: Option<View>,
    /// Error handler's word.
    pub errhandler: u64,
    /// A split collective between its two calls.
    pub split: Option<Split>,
    /// This process has used the shared pointer.
    pub shared: bool,
    /// Filled by a drain.
    pub noted: Noted,
    /// The name in `name` led to something when it was opened: not so for kinds of file systems that only the
    /// library knows.
    #[serde(skip)]
    pub visible: bool,
}

/// What a file's offsets count.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct View {
    /// Byte where it begins.
    pub disp: i64,
    /// Elementary type's word.
    pub etype: u64,
    /// File type's word.
    pub filetype: u64,
    /// Data representation.
    pub datarep: Vec<u8>,
}

/// A split collective: the operation is done when it begins, and its end tells what came of it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Split {
    /// Slot of the procedure that began it.
    pub begun_by: u32,
    /// The buffer.
    pub buf: u64,
    /// Bytes.
    pub bytes: u64,
}

/// What a drain finds out.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Noted {
    /// The individual pointer.
    pub position: i64,
    /// The shared pointer; -1 if this process has not used it.
    pub shared: i64,
    /// Atomic mode.
    pub atomic: bool,
}

/// Which pointer an operation uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pointer {
    /// None, the operation says where.
    Explicit,
    /// This process's.
    Individual,
    /// The one of all members, by an access.
    Shared,
    /// The one of all members, asked for or set: not for files that are written in sequence.
    SharedAlone,
    /// No access.
    None,
}

/// A data representation of the program. Neither library converts by one: a view that names it is an
/// error, as it is natively.
#[derive(Debug, Serialize, Deserialize)]
pub struct Datarep {
    /// Its name.
    pub name: Vec<u8>,
}

impl Core {
    /// A file of the program.
    pub fn file(&mut self, word: u64) -> Outcome<&mut File> {
        if word < PREDEFINED_END || kind_of(word) != kind::FILE {
            return Err(MPI_ERR_FILE);
        }
        self.state.files.get_mut(index_of(word)).ok_or(MPI_ERR_FILE)
    }
}

/// Ends an entry: success, `AGAIN`, or an error on file `fh` (any word).
#[inline(always)]
pub fn finish(outcome: Outcome, fh: u64, name: &'static str) -> i32 {
    match outcome {
        Ok(()) => MPI_SUCCESS,
        Err(AGAIN) => AGAIN,
        Err(code) => raise(fh, code, name),
    }
}

/// Hands an error to the handler of `fh`, of the null file if that is no file.
#[cold]
pub fn raise(fh: u64, code: i32, name: &'static str) -> i32 {
    let c = core();
    let (handler, word, on) = match c.file(fh) {
        Ok(f) => (
            f.errhandler,
            fh,
            String::from_utf8_lossy(&f.name).into_owned(),
        ),
        Err(_) => (
            c.state.file_errhandler,
            MPI_FILE_NULL,
            String::from("MPI_FILE_NULL"),
        ),
    };
    errors::handle_error(handler, word, code, || format!("{name} on {on}"))
}

/// Adds hints to those that are there.
fn merge(known: &mut Pairs, new: Pairs) {
    for (key, value) in new {
        match known.iter_mut().find(|(k, _)| *k == key) {
            Some(entry) => entry.1 = value,
            None => known.push((key, value)),
        }
    }
}
