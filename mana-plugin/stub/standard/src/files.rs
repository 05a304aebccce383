//! The integers of files.

use crate::translate::Handle;

/// `MPI_File_c2f`
#[no_mangle]
unsafe extern "C" fn mana_MPI_File_c2f(file: Handle) -> i32 {
    file as i32
}

/// `MPI_File_f2c`
#[no_mangle]
unsafe extern "C" fn mana_MPI_File_f2c(integer: i32) -> Handle {
    integer as u32 as Handle
}
