//! The status of a receive.

/// `MPI_Status` of the standard ABI, 32 bytes.
///
/// The standard leaves `internal` to the implementation. Ours: words 0 and 1 are the number of bytes
/// received (low word first), word 2 is non-zero if the request was cancelled, the rest is zero.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Rank of the sender.
    pub source: i32,
    /// Tag of the message.
    pub tag: i32,
    /// Error class; only meaningful where several requests completed.
    pub error: i32,
    /// Byte count and cancellation.
    pub internal: [i32; 5],
}

impl Status {
    /// The empty status (`MPI_ANY_SOURCE`, `MPI_ANY_TAG`, no bytes).
    pub const EMPTY: Status = Status {
        source: crate::MPI_ANY_SOURCE,
        tag: crate::MPI_ANY_TAG,
        error: crate::MPI_SUCCESS,
        internal: [0; 5],
    };

    /// Number of bytes received.
    #[inline(always)]
    pub const fn bytes(&self) -> u64 {
        (self.internal[1] as u32 as u64) << 32 | self.internal[0] as u32 as u64
    }

    /// Sets the number of bytes received.
    #[inline(always)]
    pub fn set_bytes(&mut self, bytes: u64) {
        self.internal[0] = bytes as u32 as i32;
        self.internal[1] = (bytes >> 32) as u32 as i32;
    }

    /// Whether the request was cancelled.
    #[inline(always)]
    pub const fn cancelled(&self) -> bool {
        self.internal[2] != 0
    }

    /// Sets whether the request was cancelled.
    #[inline(always)]
    pub fn set_cancelled(&mut self, cancelled: bool) {
        self.internal[2] = cancelled as i32;
    }
}

const _: () = assert!(core::mem::size_of::<Status>() == 32);
