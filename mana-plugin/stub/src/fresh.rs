//! The making of objects of which the stub knows the language: an index may have had another one before, of
//! another language, and what is known of that is forgotten.
//!
//! Upper half.

use core::ffi::c_void;

use mana_raw::cross;
use mpi_std::slot;

use crate::abi;
use crate::translate as t;

macro_rules! errhandlers {
    ($($entry:ident $slot:ident;)*) => {$(
        #[no_mangle]
        unsafe extern "C" fn $entry(function: *mut c_void, errhandler: *mut t::Handle) -> i32 {
            let (function, mut word) = (t::function(function), 0u64);
            let word_p = &raw mut word;
            let rc = cross!(slot::$slot, fn(*mut c_void, *mut u64) -> i32; function, word_p);
            if rc == 0 {
                abi::fresh_errhandler(word);
                // SAFETY: the program's output.
                unsafe { *errhandler = t::errhandler_back(word) };
            }
            t::error_back(rc)
        }
    )*};
}

errhandlers! {
    mana_MPI_Comm_create_errhandler MPI_Comm_create_errhandler;
    mana_MPI_File_create_errhandler MPI_File_create_errhandler;
    mana_MPI_Session_create_errhandler MPI_Session_create_errhandler;
    mana_MPI_Win_create_errhandler MPI_Win_create_errhandler;
}

macro_rules! keys {
    ($($entry:ident $slot:ident;)*) => {$(
        #[no_mangle]
        unsafe extern "C" fn $entry(
            copy: *mut c_void, delete: *mut c_void, key: *mut i32, extra: *const c_void,
        ) -> i32 {
            let (copy, delete, mut made) = (t::function(copy), t::function(delete), 0);
            let made_p = &raw mut made;
            let rc = cross!(slot::$slot,
                fn(*mut c_void, *mut c_void, *mut i32, *const c_void) -> i32;
                copy, delete, made_p, extra);
            if rc == 0 {
                abi::fresh_key(made);
                // SAFETY: the program's output.
                unsafe { *key = t::keyval_back(made) };
            }
            t::error_back(rc)
        }
    )*};
}

keys! {
    mana_MPI_Comm_create_keyval MPI_Comm_create_keyval;
    mana_MPI_Type_create_keyval MPI_Type_create_keyval;
    mana_MPI_Win_create_keyval MPI_Win_create_keyval;
}
