//! What an adapter (one build per site MPI, loaded by the lower half) offers to the core.
//!
//! Handles are real words: predefined ones as standard constants, all others whatever the adapter
//! made of the library's handle (never below [`crate::PREDEFINED_END`]). Handles that come out null
//! or predefined are standard constants. Everything else has standard form: constants, statuses,
//! error codes (standard classes; codes of user-defined classes pass unchanged). All communicators
//! return errors. `MPI_ERROR` of a status is only written by calls that complete several requests.

use core::ffi::{c_char, c_void};
use core::sync::atomic::AtomicU64;

use crate::{ProcTable, Status};

/// Name of the adapter's only entry: `extern "C" fn() -> *const AdapterTable`.
pub const ADAPTER_SYMBOL: &core::ffi::CStr = c"mana_adapter_v1";
/// "mana-adp" in memory order.
pub const ADAPTER_MAGIC: u64 = u64::from_le_bytes(*b"mana-adp");
/// Version of [`AdapterTable`].
pub const ADAPTER_VERSION: u32 = 8;

/// The libraries an adapter can be built for.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Open MPI.
    OpenMpi = 1,
    /// MPICH and what has its ABI.
    Mpich = 2,
}

/// The adapter's table.
#[repr(C)]
pub struct AdapterTable {
    /// [`ADAPTER_MAGIC`]
    pub magic: u64,
    /// [`ADAPTER_VERSION`]
    pub version: u32,
    /// Size of this structure.
    pub size: u32,
    /// Which library it was built for.
    pub family: Family,
    /// [`crate::SLOT_COUNT`] it was built with.
    pub slots: u32,
    /// Name and version of the library it was built with, NUL-terminated.
    pub library: *const c_char,
    /// The procedures.
    pub procs: ProcTable,
    /// What MPI itself does not have.
    pub extras: Extras,
}

// SAFETY: the table is immutable data and functions.
unsafe impl Sync for AdapterTable {}

/// Entries beyond MPI. `stop` is a word that another thread sets non-zero when the caller must
/// leave; it is read every few tests. The functions then return `mana_raw::layout::AGAIN` (the value
/// is [`Extras::AGAIN`]) with whatever is still pending in the request words.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Extras {
    /// Waits for one request. On completion `*request` is `MPI_REQUEST_NULL` (persistent: unchanged)
    /// and `*status` filled (may be null).
    pub wait_watch:
        unsafe extern "C" fn(request: *mut u64, status: *mut Status, stop: *const AtomicU64) -> i32,
    /// Waits for all of `count` requests. On `AGAIN` those that completed are `MPI_REQUEST_NULL` with
    /// their statuses filled (`statuses` may be null); call again with the same arrays. Returns
    /// `MPI_ERR_IN_STATUS` as `MPI_Waitall` does. Without `wanted` statuses are filled only where this is an error, by
    /// libraries whose error handlers are told the error of a request (Open MPI).
    pub waitall_watch: unsafe extern "C" fn(
        count: i32,
        requests: *mut u64,
        statuses: *mut Status,
        wanted: bool,
        stop: *const AtomicU64,
    ) -> i32,
    /// Starts a send and waits for it. `mode` is one of the `SEND_` constants. On `AGAIN` `*request` is
    /// the pending send: go on with `wait_watch`.
    pub send_watch: unsafe extern "C" fn(
        mode: i32,
        buf: *const c_void,
        count: i32,
        datatype: u64,
        dest: i32,
        tag: i32,
        comm: u64,
        request: *mut u64,
        stop: *const AtomicU64,
    ) -> i32,
    /// Starts a receive and waits for it, like `send_watch`.
    pub recv_watch: unsafe extern "C" fn(
        buf: *mut c_void,
        count: i32,
        datatype: u64,
        source: i32,
        tag: i32,
        comm: u64,
        request: *mut u64,
        status: *mut Status,
        stop: *const AtomicU64,
    ) -> i32,
    /// The library's text for a standard error class, NUL-terminated, at most `len` bytes.
    pub error_string: unsafe extern "C" fn(class: i32, text: *mut c_char, len: usize) -> i32,
    /// What the library says of the last error that this thread has got from it, once: its standard class, or `MPI_SUCCESS`
    /// if there is none that was not asked for. `text` ends with a NUL after at most `len` bytes; it may be null with 0.
    pub last_error: unsafe extern "C" fn(text: *mut c_char, len: usize) -> i32,
    /// The library's number of a standard error class, for an exit code.
    pub error_code: unsafe extern "C" fn(class: i32) -> i32,
    /// The communicator whose error handler the library calls for an error without an object: `MPI_COMM_WORLD` or
    /// `MPI_COMM_SELF`. MPI is active.
    pub no_object: unsafe extern "C" fn() -> u64,
    /// The library's code for an invalid handle of the tool interface, or session.
    pub tool_error: unsafe extern "C" fn(session: bool) -> i32,
    /// Drives the library's progress engine once. `comm` is a communicator with more members than this
    /// process, if there are others, on which nothing ever arrives with tag [`Extras::PROGRESS_TAG`]:
    /// a library may know without looking that nothing comes from a process to itself.
    pub progress: unsafe extern "C" fn(comm: u64),
    /// Makes a real reduction operation whose function is `function(invec, inoutvec, len, datatype)`
    /// with `datatype` as a real word of ours. `slot` (below [`Extras::OP_SLOTS`]) names the
    /// operation: `function` gets it as its last argument.
    pub op_create:
        unsafe extern "C" fn(function: OpFunction, commute: i32, slot: u32, op: *mut u64) -> i32,
    /// Whether the library has a procedure that not every one has.
    pub has: unsafe extern "C" fn(name: *const c_char) -> bool,
}

/// The function of a real operation, called by the library in the lower half.
pub type OpFunction = unsafe extern "C" fn(
    invec: *mut c_void,
    inoutvec: *mut c_void,
    len: i32,
    datatype: u64,
    slot: u32,
);

impl Extras {
    /// `mana_raw::layout::AGAIN`.
    pub const AGAIN: i32 = i32::MIN + 0x4d41;
    /// What a procedure answers that this library does not have (of the tool interface and of fault tolerance,
    /// where libraries differ).
    pub const ABSENT: i32 = i32::MIN + 0x4d42;
    /// Mode of `send_watch`: `MPI_Send`.
    pub const SEND_STANDARD: i32 = 0;
    /// Mode of `send_watch`: `MPI_Ssend`.
    pub const SEND_SYNCHRONOUS: i32 = 1;
    /// Mode of `send_watch`: `MPI_Rsend`.
    pub const SEND_READY: i32 = 2;
    /// Mode of `send_watch`: `MPI_Bsend`.
    pub const SEND_BUFFERED: i32 = 3;
    /// No message has this tag on the communicator that `progress` gets.
    pub const PROGRESS_TAG: i32 = 12;
    /// How many operations of the program can exist at once.
    pub const OP_SLOTS: u32 = 16384;
}
