//! Virtual handle words, `kind << 24 | index`.
//!
//! Both front ends give the word to the program as it is: an `int` in the MPICH ABI, a pointer value
//! in the Open MPI ABI, the Fortran integer in both. The kinds are those whose top bits look like a
//! "direct" handle of the MPICH ABI.

/// Every handle word below is a predefined object of the standard ABI; none of ours or of a library.
pub const PREDEFINED_END: u64 = 0x1000;

/// The lowest index given to a virtual object. The MPICH ABI's pair types are 0x8c000000 and up.
pub const FIRST_INDEX: u32 = 16;

/// The kinds of virtual handles.
pub mod kind {
    /// Communicators.
    pub const COMM: u8 = 0x84;
    /// Groups.
    pub const GROUP: u8 = 0x88;
    /// Datatypes.
    pub const DATATYPE: u8 = 0x8c;
    /// Files.
    pub const FILE: u8 = 0x90;
    /// Error handlers.
    pub const ERRHANDLER: u8 = 0x94;
    /// Reduction operations.
    pub const OP: u8 = 0x98;
    /// Info objects.
    pub const INFO: u8 = 0x9c;
    /// Windows.
    pub const WIN: u8 = 0xa0;
    /// Matched messages.
    pub const MESSAGE: u8 = 0xa8;
    /// Requests.
    pub const REQUEST: u8 = 0xac;
    /// Sessions.
    pub const SESSION: u8 = 0xb0;
}

/// The virtual handle of an object; `index` below 2^24.
#[inline(always)]
pub const fn handle(kind: u8, index: u32) -> u64 {
    (kind as u64) << 24 | index as u64
}

/// The kind of a virtual handle (meaningless for predefined ones).
#[inline(always)]
pub const fn kind_of(word: u64) -> u8 {
    (word >> 24) as u8
}

/// The index of a virtual handle.
#[inline(always)]
pub const fn index_of(word: u64) -> u32 {
    word as u32 & 0x00ff_ffff
}

/// Attribute keys made by the program are `KEYVAL_BASE + index` in every ABI (positive, and no
/// predefined key of any of them).
pub const KEYVAL_BASE: i32 = 0x2600_0000;

/// The attribute key of an index.
#[inline(always)]
pub const fn keyval(index: u32) -> i32 {
    KEYVAL_BASE + index as i32
}

/// The index of an attribute key, if it is one that the program made.
#[inline(always)]
pub const fn keyval_index(key: i32) -> Option<u32> {
    if key >= KEYVAL_BASE && key < KEYVAL_BASE + (1 << 24) {
        Some((key - KEYVAL_BASE) as u32)
    } else {
        None
    }
}
