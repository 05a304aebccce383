//! Handles between C and Fortran: `MPI_X_c2f` and `MPI_X_f2c`.
//!
//! Open MPI's Fortran integers are table indices. Predefined handles keep theirs; for all others the
//! integer is the virtual word, which is negative as an `i32`.

use crate::abi::{from_integer, integer};
use crate::translate as t;

macro_rules! conversions {
    ($($c2f:ident $f2c:ident $take:ident $back:ident $first:ident $last:ident $null:ident;)*) => {$(
        #[no_mangle]
        unsafe extern "C" fn $c2f(handle: t::Handle) -> i32 {
            integer(t::$take(handle))
        }

        #[no_mangle]
        unsafe extern "C" fn $f2c(value: i32) -> t::Handle {
            match from_integer(value, mpi_std::$first, mpi_std::$last) {
                0 => t::$back(mpi_std::$null),
                word => t::$back(word),
            }
        }
    )*};
}

conversions! {
    mana_MPI_Comm_c2f mana_MPI_Comm_f2c comm comm_back MPI_COMM_NULL MPI_COMM_SELF MPI_COMM_NULL;
    mana_MPI_Errhandler_c2f mana_MPI_Errhandler_f2c errhandler errhandler_back
        MPI_ERRHANDLER_NULL MPI_ERRORS_THROW_EXCEPTIONS MPI_ERRHANDLER_NULL;
    mana_MPI_File_c2f mana_MPI_File_f2c file file_back MPI_FILE_NULL MPI_FILE_NULL MPI_FILE_NULL;
    mana_MPI_Group_c2f mana_MPI_Group_f2c group group_back
        MPI_GROUP_NULL MPI_GROUP_EMPTY MPI_GROUP_NULL;
    mana_MPI_Info_c2f mana_MPI_Info_f2c info info_back MPI_INFO_NULL MPI_INFO_ENV MPI_INFO_NULL;
    mana_MPI_Message_c2f mana_MPI_Message_f2c message message_back
        MPI_MESSAGE_NULL MPI_MESSAGE_NO_PROC MPI_MESSAGE_NULL;
    mana_MPI_Op_c2f mana_MPI_Op_f2c op op_back MPI_OP_NULL MPI_NO_OP MPI_OP_NULL;
    mana_MPI_Request_c2f mana_MPI_Request_f2c request request_back
        MPI_REQUEST_NULL MPI_REQUEST_NULL MPI_REQUEST_NULL;
    mana_MPI_Session_c2f mana_MPI_Session_f2c session session_back
        MPI_SESSION_NULL MPI_SESSION_NULL MPI_SESSION_NULL;
    mana_MPI_Type_c2f mana_MPI_Type_f2c datatype datatype_back
        MPI_DATATYPE_NULL MPI_UB MPI_DATATYPE_NULL;
    mana_MPI_Win_c2f mana_MPI_Win_f2c win win_back MPI_WIN_NULL MPI_WIN_NULL MPI_WIN_NULL;
}
