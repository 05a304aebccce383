//! Opening, closing and deleting files.
//!
//! Lower half. A file is opened within one passage of the communicator's gate: its own communicator,
//! then the library's file. `MPI_MODE_SEQUENTIAL` is kept here and not passed on: a restart has to put
//! the shared pointer back, which the library refuses for such files.

use super::{finish, raise, text, File, Hints, Noted};
use crate::errors::{self, bytes_of, check};
use crate::state::{core, Outcome};
use crate::{collectives, comms, datatypes, entry, gate, info};
use mana_raw::layout::AGAIN;
use mpi_std::*;
use std::ffi::{c_char, OsStr};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// Length of the prefix that names a kind of file system (`ufs:`), with its colon.
fn prefix(name: &[u8]) -> usize {
    let colon = name.iter().position(|b| *b == b':').unwrap_or(0);
    let word = name.get(..colon).unwrap_or_default();
    match word.len() > 1 && word.iter().all(|b| b.is_ascii_alphanumeric()) {
        true => colon + 1,
        false => 0,
    }
}

/// The path in a name.
pub fn path_in(name: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(
        name.get(prefix(name)..).unwrap_or_default(),
    ))
}

/// A name that means the same from any directory; the path in it is told to the surroundings.
fn absolute(name: &[u8]) -> Vec<u8> {
    let (kind, rest) = name.split_at(prefix(name));
    let path = Path::new(OsStr::from_bytes(rest));
    let path = match std::env::current_dir() {
        Ok(here) => here.join(path),
        Err(_) => path.to_path_buf(),
    };
    core().hooks.file_named(&path);
    [kind, path.as_os_str().as_bytes()].concat()
}

unsafe fn open(
    comm: u64,
    filename: *const c_char,
    amode: i32,
    hints: u64,
    name: &'static &'static str,
) -> Outcome<u64> {
    let info = info::pairs(hints)?;
    let (_, parent) = core().comm(comm)?;
    if parent.local.is_some() {
        return Err(MPI_ERR_COMM);
    }
    let both = MPI_MODE_SEQUENTIAL | MPI_MODE_RDWR;
    if amode & both == both {
        return Err(MPI_ERR_AMODE);
    }
    if filename.is_null() {
        return Err(MPI_ERR_ARG);
    }
    // SAFETY: a string argument.
    let full = absolute(unsafe { bytes_of(filename) }.as_slice());
    let real_hints = Hints::new(hints, &info)?;
    let mut real = MPI_FILE_NULL;
    let own = comms::create_inner(comm, name, |parent, new| {
        let procs = core().procs();
        // SAFETY: output arguments of ours, here and below.
        let rc = unsafe { (procs.MPI_Comm_dup)(parent, new) };
        if rc != MPI_SUCCESS {
            return rc;
        }
        let mode = match amode {
            -1 => -1,
            mode => mode & !MPI_MODE_SEQUENTIAL,
        };
        // SAFETY: the program's name.
        let rc =
            unsafe { (procs.MPI_File_open)(*new, filename, mode, real_hints.real(), &mut real) };
        if rc != MPI_SUCCESS {
            // SAFETY: a communicator of ours that nothing uses.
            unsafe { (procs.MPI_Comm_free)(new) };
        }
        rc
    })?;
    let c = core();
    let comm = c.comm_index(own)?;
    // Errors of its requests are returned; those of the file go to the file's handler.
    if let Some(own) = c.state.comms.get_mut(comm) {
        errors::release(std::mem::replace(&mut own.errhandler, MPI_ERRORS_RETURN));
    }
    let errhandler = core().state.file_errhandler;
    errors::hold(errhandler);
    let visible = path_in(&full).exists();
    let file = File {
        real,
        comm,
        name: full,
        amode,
        info,
        view: None,
        errhandler,
        split: None,
        // At the end of the file, where a restart must put it again.
        shared: amode & MPI_MODE_APPEND != 0,
        noted: Noted::default(),
        visible,
    };
    let index = core().state.files.insert(file).ok_or(MPI_ERR_OTHER)?;
    Ok(handle(kind::FILE, index))
}

pub unsafe extern "C" fn MPI_File_open(
    comm: u64,
    filename: *const c_char,
    amode: i32,
    info: u64,
    fh: *mut u64,
) -> i32 {
    static NAME: &str = "MPI_File_open";
    let _guard = entry::enter();
    // SAFETY: the program's arguments.
    match unsafe { open(comm, filename, amode, info, &NAME) } {
        Ok(word) => {
            // SAFETY: an output argument.
            unsafe { *fh = word };
            MPI_SUCCESS
        }
        Err(AGAIN) => AGAIN,
        Err(code) => raise(MPI_FILE_NULL, code, NAME),
    }
}

fn close(word: u64, name: &'static &'static str) -> Outcome {
    let f = core().file(word)?;
    let (comm, mut real) = (f.comm, f.real);
    collectives::enter(comm, name)?;
    let call = core().procs().MPI_File_close;
    // SAFETY: a file of the library.
    let rc = entry::unlocked(|| unsafe { call(&mut real) });
    collectives::leave();
    check(rc)?;
    let c = core();
    if let Some(gone) = c.state.files.remove(index_of(word)) {
        errors::release(gone.errhandler);
        for datatype in gone.view.iter().flat_map(|v| [v.etype, v.filetype]) {
            if datatype >= PREDEFINED_END {
                datatypes::unuse(datatype);
            }
        }
    }
    comms::let_go(comm);
    Ok(())
}

pub unsafe extern "C" fn MPI_File_close(fh: *mut u64) -> i32 {
    static NAME: &str = "MPI_File_close";
    let _guard = entry::enter();
    // SAFETY: an argument both in and out.
    let word = unsafe { *fh };
    let outcome = close(word, &NAME).map(|()| {
        // SAFETY: as above.
        unsafe { *fh = MPI_FILE_NULL };
    });
    finish(outcome, word, NAME)
}

pub unsafe extern "C" fn MPI_File_delete(filename: *const c_char, info: u64) -> i32 {
    static NAME: &str = "MPI_File_delete";
    let _guard = entry::enter();
    let outcome = (|| {
        let hints = Hints::new(info, &info::pairs(info)?)?;
        // SAFETY: a string argument.
        let name = unsafe { bytes_of(filename) };
        absolute(&name);
        let name = text(&name);
        let call = core().procs().MPI_File_delete;
        gate::enter_alone(&NAME, core().multiple);
        // SAFETY: a string of ours, an object of the library.
        let rc = entry::unlocked(|| unsafe { call(name.as_ptr().cast(), hints.real()) });
        gate::leave(core().multiple);
        check(rc)
    })();
    finish(outcome, MPI_FILE_NULL, NAME)
}

#[cfg(test)]
mod tests {
    use super::prefix;

    #[test]
    fn a_prefix_is_a_word_of_two_letters_and_more() {
        assert_eq!(prefix(b"ufs:out"), 4);
        assert_eq!(prefix(b"/a/b:c"), 0);
        assert_eq!(prefix(b"c:out"), 0);
        assert_eq!(prefix(b"out"), 0);
        assert_eq!(prefix(b":out"), 0);
    }
}
