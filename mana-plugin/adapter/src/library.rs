//! What library this adapter was built for.

use core::ffi::CStr;

use mpi_std::Family;

/// Its family.
#[cfg(not(mpich_status))]
pub const FAMILY: Family = Family::OpenMpi;
/// Its family.
#[cfg(mpich_status)]
pub const FAMILY: Family = Family::Mpich;

/// Its name; the version is asked from the library itself (`MPI_Get_library_version`).
#[cfg(not(mpich_status))]
pub const NAME: &CStr = c"Open MPI";
/// Its name; the version is asked from the library itself (`MPI_Get_library_version`).
#[cfg(mpich_status)]
pub const NAME: &CStr = c"MPICH";
