//! The beginning of a session: another beginning of MPI.
//!
//! Upper half.

use mana_raw::cross;
use mpi_std::slot;

use crate::translate as t;

/// `MPI_Session_init`: another beginning of MPI.
#[no_mangle]
unsafe extern "C" fn mana_MPI_Session_init(
    info: t::Handle,
    errhandler: t::Handle,
    session: *mut t::Handle,
) -> i32 {
    let mut word = 0u64;
    let word_p = &raw mut word;
    let (info, errhandler) = (t::info(info), t::errhandler(errhandler));
    crate::callbacks::register();
    let rc = cross!(slot::MPI_Session_init, fn(u64, u64, *mut u64) -> i32;
                    info, errhandler, word_p);
    if rc == 0 {
        // SAFETY: the program's output.
        unsafe { *session = t::session_back(word) };
    }
    t::error_back(rc)
}
