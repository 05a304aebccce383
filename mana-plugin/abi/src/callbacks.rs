//! Calls back into the program: functions it gave to MPI.
//!
//! The core never calls a function of the program itself. It calls, in the upper half, an entry of
//! the stub with standard constants and virtual handles; the entry translates to the program's ABI
//! and language and calls the program's function. `function` is whatever the stub passed as the
//! function argument when the object was made (it may carry the stub's own tag): the core keeps it
//! unread, also in the image.
//!
//! All entries take at most six integer or pointer arguments. Error codes are standard classes.

use crate::Status;

/// "manastub" in memory order.
pub const STUB_MAGIC: u64 = u64::from_le_bytes(*b"manastub");
/// Version of [`StubEntries`].
pub const STUB_VERSION: u32 = 3;

/// Bit of a reduction function whose length argument is an `MPI_Count`.
pub const LARGE_FUNCTION: usize = 1 << 62;

/// Slot [`crate::REGISTER_STUB`]: called by the stub when the program calls `MPI_Init` or
/// `MPI_Init_thread`, before their slot. The table is upper memory at an address that survives a
/// restart, so the core records the address in the image.
pub type RegisterStub = unsafe extern "C" fn(entries: *const StubEntries) -> i32;

/// The entry points of a stub.
#[repr(C)]
pub struct StubEntries {
    /// [`STUB_MAGIC`]
    pub magic: u64,
    /// [`STUB_VERSION`]
    pub version: u32,
    /// Size of this structure.
    pub size: u32,
    /// Applies the program's reduction function: `inoutvec[i] = invec[i] op inoutvec[i]` for `len`
    /// elements of `datatype` (standard or virtual word). `op` is the operation's virtual word.
    pub op: unsafe extern "C" fn(
        function: usize,
        invec: *mut u8,
        inoutvec: *mut u8,
        len: i32,
        datatype: u64,
        op: u64,
    ) -> i32,
    /// Copies an attribute (the copy function of a key).
    pub copy: unsafe extern "C" fn(call: *mut CopyCall) -> i32,
    /// Deletes an attribute (the delete function of a key).
    pub delete: unsafe extern "C" fn(call: *mut DeleteCall) -> i32,
    /// Calls an error handler's function for `object` (a communicator, window or file) with an error
    /// class. `handler` is the handler's word; `MPI_ERRORS_THROW_EXCEPTIONS` has no function.
    pub errhandler:
        unsafe extern "C" fn(function: usize, object: u64, code: i32, handler: u64) -> i32,
    /// The query function of a generalised request; fills `status`.
    pub grequest_query:
        unsafe extern "C" fn(function: usize, extra: usize, status: *mut Status) -> i32,
    /// The free function of a generalised request.
    pub grequest_free: unsafe extern "C" fn(function: usize, extra: usize) -> i32,
    /// The cancel function of a generalised request.
    pub grequest_cancel: unsafe extern "C" fn(function: usize, extra: usize, complete: i32) -> i32,
    /// The poll function of an extended generalised request.
    pub grequest_poll:
        unsafe extern "C" fn(function: usize, extra: usize, status: *mut Status) -> i32,
    /// The wait function of an extended generalised request.
    pub grequest_wait: unsafe extern "C" fn(function: usize, extra: usize) -> i32,
    /// The function of an event of the tool interface; `instance` and `registration` are the library's handles.
    pub event: unsafe extern "C" fn(
        function: usize,
        instance: usize,
        registration: usize,
        safety: i32,
        data: usize,
    ) -> i32,
    /// The function that is called when an event's registration is gone.
    pub event_free:
        unsafe extern "C" fn(function: usize, registration: usize, safety: i32, data: usize) -> i32,
    /// The function that is told of events that were not delivered.
    pub event_dropped: unsafe extern "C" fn(
        function: usize,
        count: i64,
        registration: usize,
        source: i32,
        safety: i32,
        data: usize,
    ) -> i32,
}

/// Arguments of an attribute's copy function.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CopyCall {
    /// As given when the key was made.
    pub function: usize,
    /// The communicator, datatype or window being duplicated.
    pub object: u64,
    /// The key.
    pub keyval: i32,
    /// Out: whether the attribute is copied.
    pub flag: i32,
    /// The key's extra state.
    pub extra: usize,
    /// The value.
    pub value_in: usize,
    /// Out: the new value.
    pub value_out: usize,
}

/// Arguments of an attribute's delete function.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct DeleteCall {
    /// As given when the key was made.
    pub function: usize,
    /// The communicator, datatype or window that has the attribute.
    pub object: u64,
    /// The key.
    pub keyval: i32,
    /// Zero.
    pub reserved: i32,
    /// The value.
    pub value: usize,
    /// The key's extra state.
    pub extra: usize,
}
