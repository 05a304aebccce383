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

use crate::errors::{self, check};
use crate::info::Pairs;
use crate::state::{core, Core, Outcome};
use mana_raw::layout::AGAIN;
use mpi_std::*;
use serde::{Deserialize, Serialize};
use std::ffi::c_char;

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

/// An info object of the library, for one call.
pub struct Hints(u64);

impl Hints {
    /// One with these pairs; `word`: the program's object, of which the null one stays null.
    pub fn new(word: u64, pairs: &Pairs) -> Outcome<Hints> {
        if word == MPI_INFO_NULL {
            return Ok(Hints(MPI_INFO_NULL));
        }
        let procs = core().procs();
        let mut hints = Hints(MPI_INFO_NULL);
        // SAFETY: an output argument of ours.
        check(unsafe { (procs.MPI_Info_create)(&mut hints.0) })?;
        for (key, value) in pairs {
            let (key, value) = (text(key), text(value));
            let (key, value) = (key.as_ptr().cast(), value.as_ptr().cast());
            // SAFETY: strings of ours.
            check(unsafe { (procs.MPI_Info_set)(hints.0, key, value) })?;
        }
        Ok(hints)
    }

    /// Its handle.
    pub fn real(&self) -> u64 {
        self.0
    }
}

impl Drop for Hints {
    fn drop(&mut self) {
        if self.0 != MPI_INFO_NULL {
            // SAFETY: an object of ours.
            unsafe { (core().procs().MPI_Info_free)(&mut self.0) };
        }
    }
}

/// With a NUL at the end.
pub fn text(bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    out.push(0);
    out
}

/// The pairs of an info object of the library.
pub fn pairs_of(real: u64) -> Outcome<Pairs> {
    let procs = core().procs();
    let mut n = 0;
    // SAFETY: output arguments of ours, in this and the following calls.
    check(unsafe { (procs.MPI_Info_get_nkeys)(real, &mut n) })?;
    let mut out = Pairs::new();
    for i in 0..n {
        let mut key = [0 as c_char; MPI_MAX_INFO_KEY as usize + 1];
        // SAFETY: as above.
        check(unsafe { (procs.MPI_Info_get_nthkey)(real, i, key.as_mut_ptr()) })?;
        let mut value = [0 as c_char; MPI_MAX_INFO_VAL as usize + 1];
        let mut flag = 0;
        // SAFETY: as above; the buffer has one byte more than is said.
        check(unsafe {
            (procs.MPI_Info_get)(
                real,
                key.as_ptr(),
                MPI_MAX_INFO_VAL,
                value.as_mut_ptr(),
                &mut flag,
            )
        })?;
        if flag != 0 {
            // SAFETY: strings that the library has ended.
            out.push(unsafe {
                (
                    errors::bytes_of(key.as_ptr()),
                    errors::bytes_of(value.as_ptr()),
                )
            });
        }
    }
    Ok(out)
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
