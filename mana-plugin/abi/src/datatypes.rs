//! The predefined datatypes and their sizes on x86-64 Linux.

use crate::constants::*;

/// One predefined datatype.
#[derive(Clone, Copy, Debug)]
pub struct Predefined {
    /// Its handle.
    pub handle: u64,
    /// The bytes of data in one element (`MPI_Type_size`).
    pub size: u32,
    /// Its name, as `MPI_Type_get_name` gives it.
    pub name: &'static str,
}

macro_rules! predefined {
    ($($name:ident $size:literal)*) => {
        /// All predefined datatypes, by handle.
        pub static PREDEFINED_DATATYPES: &[Predefined] = &[
            $(Predefined { handle: $name, size: $size, name: stringify!($name) },)*
        ];

        const fn sizes() -> [u8; 256] {
            let mut sizes = [0xff; 256];
            $(sizes[($name - MPI_DATATYPE_NULL) as usize] = $size;)*
            sizes
        }
    };
}

predefined! {
    MPI_AINT 8
    MPI_COUNT 8
    MPI_OFFSET 8
    MPI_PACKED 1
    MPI_SHORT 2
    MPI_INT 4
    MPI_LONG 8
    MPI_LONG_LONG 8
    MPI_UNSIGNED_SHORT 2
    MPI_UNSIGNED 4
    MPI_UNSIGNED_LONG 8
    MPI_UNSIGNED_LONG_LONG 8
    MPI_FLOAT 4
    MPI_C_FLOAT_COMPLEX 8
    MPI_CXX_FLOAT_COMPLEX 8
    MPI_DOUBLE 8
    MPI_C_DOUBLE_COMPLEX 16
    MPI_CXX_DOUBLE_COMPLEX 16
    MPI_LOGICAL 4
    MPI_INTEGER 4
    MPI_REAL 4
    MPI_COMPLEX 8
    MPI_DOUBLE_PRECISION 8
    MPI_DOUBLE_COMPLEX 16
    MPI_CHARACTER 1
    MPI_LONG_DOUBLE 16
    MPI_C_LONG_DOUBLE_COMPLEX 32
    MPI_CXX_LONG_DOUBLE_COMPLEX 32
    MPI_FLOAT_INT 8
    MPI_DOUBLE_INT 12
    MPI_LONG_INT 12
    MPI_2INT 8
    MPI_SHORT_INT 6
    MPI_LONG_DOUBLE_INT 20
    MPI_2REAL 8
    MPI_2DOUBLE_PRECISION 16
    MPI_2INTEGER 8
    MPI_C_BOOL 1
    MPI_CXX_BOOL 1
    MPI_WCHAR 4
    MPI_INT8_T 1
    MPI_UINT8_T 1
    MPI_CHAR 1
    MPI_SIGNED_CHAR 1
    MPI_UNSIGNED_CHAR 1
    MPI_BYTE 1
    MPI_INT16_T 2
    MPI_UINT16_T 2
    MPI_INT32_T 4
    MPI_UINT32_T 4
    MPI_INT64_T 8
    MPI_UINT64_T 8
    MPI_LOGICAL1 1
    MPI_INTEGER1 1
    MPI_LOGICAL2 2
    MPI_INTEGER2 2
    MPI_REAL2 2
    MPI_LOGICAL4 4
    MPI_INTEGER4 4
    MPI_REAL4 4
    MPI_COMPLEX4 4
    MPI_LOGICAL8 8
    MPI_INTEGER8 8
    MPI_REAL8 8
    MPI_COMPLEX8 8
    MPI_LOGICAL16 16
    MPI_INTEGER16 16
    MPI_REAL16 16
    MPI_COMPLEX16 16
    MPI_COMPLEX32 32
    MPI_LB 0
    MPI_UB 0
}

static SIZES: [u8; 256] = sizes();

/// The size of a predefined datatype; `None` for every other word.
#[inline(always)]
pub fn predefined_size(handle: u64) -> Option<u32> {
    let at = handle.wrapping_sub(MPI_DATATYPE_NULL);
    if at >= 256 {
        return None;
    }
    match SIZES[at as usize] {
        0xff => None,
        size => Some(size as u32),
    }
}
