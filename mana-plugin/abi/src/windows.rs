//! How the stub tells the core of the memory of a shared window.

/// A member's part of a shared window.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SharedPart {
    /// Bytes.
    pub size: i64,
    /// Displacement unit.
    pub disp_unit: i64,
    /// Where it begins in the shared memory.
    pub offset: i64,
}

/// The memory of a shared window, which the stub has mapped: what `MPI_Win_allocate_shared`'s slot
/// gets in the place of the program's `baseptr`.
#[repr(C)]
#[derive(Debug)]
pub struct SharedMemory {
    /// Address of the whole in this process.
    pub address: u64,
    /// The parts, one for each member.
    pub parts: *const SharedPart,
}
