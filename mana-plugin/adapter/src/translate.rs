//! One function for each kind of value, standard to library and (`..._back`, `..._word`) back.
//!
//! Lower half. Nothing here allocates for short arrays, nothing panics.

use core::cell::Cell;
use core::ffi::c_void;
use core::mem::{size_of, transmute_copy, MaybeUninit};

use mpi_std::{Status, PREDEFINED_END};

use crate::ffi;

pub(crate) mod constants {
    //! Written by the build script; the values come from the library's own header.
    include!(concat!(env!("OUT_DIR"), "/constants.rs"));
    extern "C" {
        pub(crate) static mana_in_place: *mut core::ffi::c_void;
        pub(crate) static mana_bottom: *mut core::ffi::c_void;
        pub(crate) static mana_status_ignore: *mut crate::ffi::MPI_Status;
        pub(crate) static mana_statuses_ignore: *mut crate::ffi::MPI_Status;
        pub(crate) fn mana_unweighted() -> *mut core::ffi::c_void;
        pub(crate) fn mana_weights_empty() -> *mut core::ffi::c_void;
    }
}
use constants::*;

/// A handle type of the library: an `int` or a pointer.
pub(crate) trait LibraryHandle: Copy {}
impl LibraryHandle for ffi::MPI_Comm {}
impl LibraryHandle for ffi::MPI_Group {}
impl LibraryHandle for ffi::MPI_Datatype {}
impl LibraryHandle for ffi::MPI_Errhandler {}
impl LibraryHandle for ffi::MPI_Op {}
impl LibraryHandle for ffi::MPI_Info {}
impl LibraryHandle for ffi::MPI_Message {}
impl LibraryHandle for ffi::MPI_Request {}
impl LibraryHandle for ffi::MPI_Win {}
impl LibraryHandle for ffi::MPI_File {}

#[inline(always)]
fn from_bits<H: LibraryHandle>(bits: usize) -> H {
    if size_of::<H>() == 4 {
        // SAFETY: the library's handle is a 32-bit integer.
        unsafe { transmute_copy(&(bits as u32)) }
    } else {
        // SAFETY: the library's handle is a pointer; the bits came from one.
        unsafe { transmute_copy(&bits) }
    }
}

#[inline(always)]
fn bits<H: LibraryHandle>(handle: H) -> u64 {
    if size_of::<H>() == 4 {
        // SAFETY: as in `from_bits`.
        u64::from(unsafe { transmute_copy::<H, u32>(&handle) })
    } else {
        // SAFETY: as in `from_bits`.
        unsafe { transmute_copy::<H, u64>(&handle) }
    }
}

#[inline(always)]
fn predefined(word: u64) -> u64 {
    // SAFETY: read-only data.
    let table = unsafe { &mana_handles };
    match table.get(word as usize) {
        Some(bits) => *bits as u64,
        None => 0,
    }
}

/// A handle, from a real word.
#[inline(always)]
pub(crate) fn handle<H: LibraryHandle>(word: u64) -> H {
    if word < PREDEFINED_END {
        from_bits(predefined(word) as usize)
    } else {
        from_bits(word as usize)
    }
}

#[inline(always)]
fn word_among<H: LibraryHandle, const N: usize>(handle: H, candidates: [u64; N]) -> u64 {
    let bits = bits(handle);
    for c in candidates {
        if bits == predefined(c) {
            return c;
        }
    }
    bits
}

#[inline(always)]
pub(crate) fn comm_word(h: ffi::MPI_Comm) -> u64 {
    word_among(
        h,
        [
            mpi_std::MPI_COMM_NULL,
            mpi_std::MPI_COMM_WORLD,
            mpi_std::MPI_COMM_SELF,
        ],
    )
}

#[inline(always)]
pub(crate) fn group_word(h: ffi::MPI_Group) -> u64 {
    word_among(h, [mpi_std::MPI_GROUP_NULL, mpi_std::MPI_GROUP_EMPTY])
}

#[inline(always)]
pub(crate) fn win_word(h: ffi::MPI_Win) -> u64 {
    word_among(h, [mpi_std::MPI_WIN_NULL])
}

pub(crate) fn file_word(h: ffi::MPI_File) -> u64 {
    word_among(h, [mpi_std::MPI_FILE_NULL])
}

#[inline(always)]
pub(crate) fn request_word(h: ffi::MPI_Request) -> u64 {
    word_among(h, [mpi_std::MPI_REQUEST_NULL])
}

#[inline(always)]
pub(crate) fn message_word(h: ffi::MPI_Message) -> u64 {
    word_among(h, [mpi_std::MPI_MESSAGE_NULL, mpi_std::MPI_MESSAGE_NO_PROC])
}

#[inline(always)]
pub(crate) fn info_word(h: ffi::MPI_Info) -> u64 {
    word_among(h, [mpi_std::MPI_INFO_NULL, mpi_std::MPI_INFO_ENV])
}

#[inline(always)]
pub(crate) fn op_word(h: ffi::MPI_Op) -> u64 {
    word_among(h, [mpi_std::MPI_OP_NULL])
}

/// The standard word of a datatype, predefined ones included.
pub(crate) fn datatype_word(h: ffi::MPI_Datatype) -> u64 {
    let bits = bits(h);
    let first = mpi_std::MPI_DATATYPE_NULL as usize;
    // SAFETY: read-only data.
    let table = unsafe { &mana_handles };
    for (at, value) in table.iter().enumerate().skip(first).take(256) {
        if *value as u64 == bits && bits != 0 {
            return at as u64;
        }
    }
    bits
}

#[inline(always)]
fn search(pairs: &[[i32; 2]], value: i32, from: usize) -> i32 {
    for pair in pairs {
        if pair[from] == value {
            return pair[1 - from];
        }
    }
    value
}

macro_rules! integers {
    ($($name:ident $back:ident $pairs:ident;)*) => {$(
        #[inline(always)]
        #[allow(dead_code, reason = "one of the two directions may not occur in the table")]
        pub(crate) fn $name(value: i32) -> i32 {
            // SAFETY: read-only data.
            search(unsafe { &$pairs }, value, 0)
        }

        #[inline(always)]
        #[allow(dead_code, reason = "one of the two directions may not occur in the table")]
        pub(crate) fn $back(value: i32) -> i32 {
            // SAFETY: read-only data.
            search(unsafe { &$pairs }, value, 1)
        }
    )*};
}

integers! {
    thread_level thread_level_back mana_thread_level;
    comparison comparison_back mana_comparison;
    topology topology_back mana_topology;
    split_type split_type_back mana_split_type;
    combiner combiner_back mana_combiner;
    order order_back mana_order;
    distrib distrib_back mana_distrib;
    darg darg_back mana_darg;
    typeclass typeclass_back mana_typeclass;
    keyval keyval_back mana_keyval;
    lock_type lock_type_back mana_lock_type;
    whence whence_back mana_whence;
    negative_rank negative_rank_back mana_rank;
    negative_tag negative_tag_back mana_tag;
}

/// A rank.
#[inline(always)]
pub(crate) fn rank(value: i32) -> i32 {
    if value >= 0 {
        value
    } else {
        negative_rank(value)
    }
}

/// A rank, back.
#[inline(always)]
pub(crate) fn rank_back(value: i32) -> i32 {
    if value >= 0 {
        value
    } else {
        negative_rank_back(value)
    }
}

/// A tag.
#[inline(always)]
pub(crate) fn tag(value: i32) -> i32 {
    if value >= 0 {
        value
    } else {
        negative_tag(value)
    }
}

/// A tag, back.
#[inline(always)]
pub(crate) fn tag_back(value: i32) -> i32 {
    if value >= 0 {
        value
    } else {
        negative_tag_back(value)
    }
}

/// A standard class as the library's.
pub(crate) fn class(value: i32) -> i32 {
    // SAFETY: read-only data.
    search(unsafe { &mana_error }, value, 0)
}

/// The standard class of an error the library returned.
#[inline(always)]
pub(crate) fn error(code: i32) -> i32 {
    if code == 0 {
        0
    } else {
        failure(code)
    }
}

thread_local! {
    /// The last error this thread has got from the library: its code and standard class.
    static LAST_ERROR: Cell<(i32, i32)> = const { Cell::new((0, 0)) };
}

/// The last error this thread has got from the library, once: its code and standard class; zeros: none.
pub(crate) fn last_error() -> (i32, i32) {
    LAST_ERROR.replace((0, 0))
}

#[cold]
fn failure(code: i32) -> i32 {
    let mut class = 0;
    // SAFETY: callable at any time, with any code.
    if unsafe { ffi::MPI_Error_class(code, &mut class) } != 0 {
        return mpi_std::MPI_ERR_UNKNOWN;
    }
    // SAFETY: read-only data.
    let class = search(unsafe { &mana_error }, class, 1);
    LAST_ERROR.set((code, class));
    class
}

/// Assertions about an epoch, bit by bit.
#[inline(always)]
pub(crate) fn assert(value: i32) -> i32 {
    // SAFETY: read-only data.
    let pairs = unsafe { &mana_assertions };
    pairs
        .iter()
        .filter(|[standard, _]| value & standard != 0)
        .fold(0, |bits, [_, library]| bits | library)
}

/// How a file is opened, bit by bit.
pub(crate) fn amode(value: i32) -> i32 {
    // SAFETY: read-only data.
    let pairs = unsafe { &mana_access_modes };
    let known = pairs.iter().fold(0, |bits, [standard, _]| bits | standard);
    let out = pairs
        .iter()
        .filter(|[standard, _]| value & standard != 0)
        .fold(0, |bits, [_, library]| bits | library);
    // What is no access mode stays wrong.
    if value & !known == 0 {
        out
    } else {
        -1
    }
}

/// The same, back.
pub(crate) fn amode_back(value: i32) -> i32 {
    // SAFETY: read-only data.
    let pairs = unsafe { &mana_access_modes };
    pairs
        .iter()
        .filter(|[_, library]| value & library != 0)
        .fold(0, |bits, [standard, _]| bits | standard)
}

/// The length of an array that the caller may leave out, with its length.
///
/// # Safety
/// `count` is null or readable.
pub(crate) unsafe fn len_at(count: *const i32) -> usize {
    // SAFETY: the caller's promise.
    match unsafe { count.as_ref() } {
        Some(count) => len(*count),
        None => 0,
    }
}

/// An element count that is negative only in wrong programs.
#[inline(always)]
pub(crate) fn len(count: i32) -> usize {
    count.max(0) as usize
}

/// A buffer, with the special addresses.
#[inline(always)]
pub(crate) fn buffer(address: *const c_void) -> *mut c_void {
    match address as usize {
        // SAFETY: read-only data.
        mpi_std::MPI_IN_PLACE => unsafe { mana_in_place },
        // SAFETY: read-only data.
        mpi_std::MPI_BOTTOM => unsafe { mana_bottom },
        _ => address.cast_mut(),
    }
}

/// An address, whatever the library's prototype says about const.
#[inline(always)]
pub(crate) fn address<T>(address: *const T) -> *mut T {
    address.cast_mut()
}

/// An array of weights, with the special addresses.
pub(crate) fn weights(address: *const i32) -> *mut i32 {
    match address as usize {
        // SAFETY: a function without arguments or effects.
        mpi_std::MPI_UNWEIGHTED => unsafe { mana_unweighted().cast() },
        // SAFETY: a function without arguments or effects.
        mpi_std::MPI_WEIGHTS_EMPTY => unsafe { mana_weights_empty().cast() },
        _ => address.cast_mut(),
    }
}

/// Makes a communicator return its errors.
pub(crate) fn returns_errors(comm: ffi::MPI_Comm) {
    if bits(comm) != predefined(mpi_std::MPI_COMM_NULL) {
        // SAFETY: a valid communicator.
        unsafe { ffi::MPI_Comm_set_errhandler(comm, handle(mpi_std::MPI_ERRORS_RETURN)) };
    }
}

/// Makes a window return its errors.
pub(crate) fn window_returns_errors(win: ffi::MPI_Win) {
    if bits(win) != predefined(mpi_std::MPI_WIN_NULL) {
        // SAFETY: a valid window.
        unsafe { ffi::MPI_Win_set_errhandler(win, handle(mpi_std::MPI_ERRORS_RETURN)) };
    }
}

/// Elements of the arrays of an all-to-all: the other side's size.
pub(crate) fn peers(comm: u64) -> usize {
    let comm: ffi::MPI_Comm = handle(comm);
    let (mut inter, mut size) = (0, 0);
    // SAFETY: local queries; a wrong communicator is answered with an error and size stays 0.
    unsafe {
        ffi::MPI_Comm_test_inter(comm, &mut inter);
        if inter != 0 {
            ffi::MPI_Comm_remote_size(comm, &mut size);
        } else {
            ffi::MPI_Comm_size(comm, &mut size);
        }
    }
    len(size)
}

/// Sources and destinations of this process in the communicator's topology.
pub(crate) fn degrees(comm: u64) -> (usize, usize) {
    let comm: ffi::MPI_Comm = handle(comm);
    let mut kind = 0;
    // SAFETY: local queries, on a communicator that has the topology asked for.
    unsafe {
        if ffi::MPI_Topo_test(comm, &mut kind) != 0 {
            return (0, 0);
        }
        match topology_back(kind) {
            mpi_std::MPI_CART => {
                let mut dims = 0;
                ffi::MPI_Cartdim_get(comm, &mut dims);
                (2 * len(dims), 2 * len(dims))
            }
            mpi_std::MPI_GRAPH => {
                let (mut rank, mut n) = (0, 0);
                ffi::MPI_Comm_rank(comm, &mut rank);
                ffi::MPI_Graph_neighbors_count(comm, rank, &mut n);
                (len(n), len(n))
            }
            mpi_std::MPI_DIST_GRAPH => {
                let (mut sources, mut destinations, mut weighted) = (0, 0, 0);
                ffi::MPI_Dist_graph_neighbors_count(
                    comm,
                    &mut sources,
                    &mut destinations,
                    &mut weighted,
                );
                (len(sources), len(destinations))
            }
            _ => (0, 0),
        }
    }
}

#[cfg(not(mpich_status))]
#[inline(always)]
fn count_of(s: &ffi::MPI_Status) -> (u64, bool) {
    (s._ucount as u64, s._cancelled != 0)
}

#[cfg(mpich_status)]
#[inline(always)]
fn count_of(s: &ffi::MPI_Status) -> (u64, bool) {
    let high = s.count_hi_and_cancelled as u32;
    (
        u64::from(high >> 1) << 32 | u64::from(s.count_lo as u32),
        high & 1 != 0,
    )
}

#[cfg(not(mpich_status))]
#[inline(always)]
fn set_count(s: &mut ffi::MPI_Status, bytes: u64, cancelled: bool) {
    s._ucount = bytes as _;
    s._cancelled = cancelled as _;
}

#[cfg(mpich_status)]
#[inline(always)]
fn set_count(s: &mut ffi::MPI_Status, bytes: u64, cancelled: bool) {
    s.count_lo = bytes as u32 as _;
    s.count_hi_and_cancelled = (((bytes >> 32) as u32) << 1 | cancelled as u32) as _;
}

const fn blank() -> ffi::MPI_Status {
    // SAFETY: a structure of integers.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// Everything but `MPI_ERROR`.
#[inline(always)]
fn give_status(from: &ffi::MPI_Status, to: &mut Status) {
    let (bytes, cancelled) = count_of(from);
    to.source = rank_back(from.MPI_SOURCE);
    to.tag = tag_back(from.MPI_TAG);
    to.internal = [0; 5];
    to.set_bytes(bytes);
    to.set_cancelled(cancelled);
}

/// A status as the library's.
///
/// # Safety
/// `status` is valid.
pub(crate) unsafe fn status_in(status: *const Status) -> ffi::MPI_Status {
    // SAFETY: the caller's promise.
    let from = unsafe { &*status };
    let mut to = blank();
    to.MPI_SOURCE = rank(from.source);
    to.MPI_TAG = tag(from.tag);
    set_count(&mut to, from.bytes(), from.cancelled());
    to
}

/// The status of a call with a single completion: `MPI_ERROR` is left alone.
pub(crate) struct OneStatus {
    status: ffi::MPI_Status,
    wanted: bool,
}

impl OneStatus {
    #[inline(always)]
    pub(crate) fn new(status: *const Status) -> Self {
        let mut l = blank();
        // Statuses of calls that complete nothing (a test without success) stay untouched.
        l.MPI_SOURCE = i32::MIN;
        OneStatus {
            status: l,
            wanted: !status.is_null(),
        }
    }

    #[inline(always)]
    pub(crate) fn pointer(&mut self) -> *mut ffi::MPI_Status {
        if self.wanted {
            &mut self.status
        } else {
            // SAFETY: read-only data.
            unsafe { mana_status_ignore }
        }
    }

    /// # Safety
    /// `to` is the pointer given to `new`.
    #[inline(always)]
    pub(crate) unsafe fn give(&self, to: *mut Status) {
        if self.wanted && self.status.MPI_SOURCE != i32::MIN {
            // SAFETY: the caller's promise.
            give_status(&self.status, unsafe { &mut *to });
        }
    }
}

/// The status of an operation on a file, of which the libraries write the count alone.
pub(crate) struct FileStatus {
    status: ffi::MPI_Status,
    wanted: bool,
}

impl FileStatus {
    pub(crate) fn new(status: *const Status) -> Self {
        FileStatus {
            status: blank(),
            wanted: !status.is_null(),
        }
    }

    pub(crate) fn pointer(&mut self) -> *mut ffi::MPI_Status {
        if self.wanted {
            &mut self.status
        } else {
            // SAFETY: read-only data.
            unsafe { mana_status_ignore }
        }
    }

    /// # Safety
    /// `to` is the pointer given to `new`.
    pub(crate) unsafe fn give(&self, to: *mut Status) {
        if self.wanted {
            // SAFETY: the caller's promise.
            give_status(&self.status, unsafe { &mut *to });
        }
    }
}

const SHORT: usize = 64;

/// Space for `N` values, on the stack if they are few.
enum Space<T: Copy> {
    Short([MaybeUninit<T>; SHORT]),
    Long(Vec<MaybeUninit<T>>),
}

impl<T: Copy> Space<T> {
    #[inline(always)]
    fn new(len: usize) -> Self {
        if len <= SHORT {
            Space::Short([const { MaybeUninit::uninit() }; SHORT])
        } else {
            Space::Long(vec![MaybeUninit::uninit(); len])
        }
    }

    #[inline(always)]
    fn pointer(&mut self) -> *mut T {
        match self {
            Space::Short(a) => a.as_mut_ptr().cast(),
            Space::Long(v) => v.as_mut_ptr().cast(),
        }
    }
}

/// The statuses of a call that completes several requests.
pub(crate) struct Statuses {
    space: Space<ffi::MPI_Status>,
    len: usize,
    wanted: bool,
}

impl Statuses {
    /// # Safety
    /// `from` is null or has `len` elements.
    #[inline(always)]
    pub(crate) unsafe fn new(from: *const Status, len: usize) -> Self {
        let wanted = !from.is_null();
        let len = if wanted { len } else { 0 };
        let mut space = Space::<ffi::MPI_Status>::new(len);
        let l = space.pointer();
        for i in 0..len {
            let mut status = blank();
            status.MPI_SOURCE = i32::MIN;
            // SAFETY: within `len`.
            unsafe {
                status.MPI_ERROR = (*from.add(i)).error;
                l.add(i).write(status);
            }
        }
        Statuses { space, len, wanted }
    }

    /// Statuses that are wanted only if something fails, and only of a library whose error handlers are told which
    /// error that is.
    ///
    /// # Safety
    /// As of `new`.
    #[inline(always)]
    pub(crate) unsafe fn of_failures(from: *const Status, len: usize) -> Self {
        let from = if cfg!(mpich_status) {
            core::ptr::null()
        } else {
            from
        };
        // SAFETY: the caller's promise.
        unsafe { Self::new(from, len) }
    }

    #[inline(always)]
    pub(crate) fn pointer(&mut self) -> *mut ffi::MPI_Status {
        if self.wanted {
            self.space.pointer()
        } else {
            // SAFETY: read-only data.
            unsafe { mana_statuses_ignore }
        }
    }

    /// # Safety
    /// `to` is the pointer given to `new`; `rc` is what the library returned.
    #[inline(always)]
    pub(crate) unsafe fn give(&mut self, to: *mut Status, rc: i32) {
        let failed = rc != 0 && error(rc) == mpi_std::MPI_ERR_IN_STATUS;
        let l = self.space.pointer();
        for i in 0..self.len {
            // SAFETY: within `len`; `new` wrote each.
            let (from, to) = unsafe { (&*l.add(i), &mut *to.add(i)) };
            if from.MPI_SOURCE != i32::MIN {
                give_status(from, to);
            }
            to.error = if failed {
                error(from.MPI_ERROR)
            } else {
                from.MPI_ERROR
            };
        }
    }
}

/// An array of handles.
pub(crate) struct Handles<H: LibraryHandle> {
    space: Space<H>,
    len: usize,
}

impl<H: LibraryHandle> Handles<H> {
    /// # Safety
    /// `words` has `len` elements.
    #[inline(always)]
    pub(crate) unsafe fn new(words: *const u64, len: usize) -> Self {
        let len = if words.is_null() { 0 } else { len };
        let mut space = Space::<H>::new(len);
        let l = space.pointer();
        for i in 0..len {
            // SAFETY: within `len`.
            unsafe { l.add(i).write(handle(*words.add(i))) };
        }
        Handles { space, len }
    }

    /// Space for `len` handles the library writes.
    #[inline(always)]
    pub(crate) unsafe fn empty(words: *const u64, len: usize) -> Self {
        // SAFETY: reading what is there is harmless: the words are integers the caller owns.
        unsafe { Self::new(words, len) }
    }

    #[inline(always)]
    pub(crate) fn pointer(&mut self) -> *mut H {
        self.space.pointer()
    }

    /// # Safety
    /// `words` is the pointer given to `new`.
    #[inline(always)]
    pub(crate) unsafe fn give(&mut self, words: *mut u64, word: fn(H) -> u64) {
        let l = self.space.pointer();
        for i in 0..self.len {
            // SAFETY: within `len`.
            unsafe { *words.add(i) = word(*l.add(i)) };
        }
    }
}

/// Turns an array of words into one of handles where it is, for a library that looks at it until a
/// request completes (Open MPI does, at the completion of an `MPI_Ialltoallw`).
///
/// # Safety
/// `words` is null or has `len` elements, which the caller gives up until then.
pub(crate) unsafe fn in_place<H: LibraryHandle>(words: *const u64, len: usize) -> *const H {
    let to = words.cast_mut().cast::<H>();
    if words.is_null() {
        return to;
    }
    for i in 0..len {
        // SAFETY: a handle is no longer than a word: what is overwritten has been read.
        unsafe { to.add(i).write(handle(*words.add(i))) };
    }
    to
}

/// An array of translated integers.
pub(crate) struct Integers {
    space: Space<i32>,
    null: bool,
}

impl Integers {
    /// # Safety
    /// `values` is null or has `len` elements.
    #[inline(always)]
    pub(crate) unsafe fn new(values: *const i32, len: usize, translate: fn(i32) -> i32) -> Self {
        let null = values.is_null();
        let len = if null { 0 } else { len };
        let mut space = Space::<i32>::new(len);
        let l = space.pointer();
        for i in 0..len {
            // SAFETY: within `len`.
            unsafe { l.add(i).write(translate(*values.add(i))) };
        }
        Integers { space, null }
    }

    #[inline(always)]
    pub(crate) fn pointer(&mut self) -> *mut i32 {
        if self.null {
            core::ptr::null_mut()
        } else {
            self.space.pointer()
        }
    }
}

/// Translates an array the library has written.
///
/// # Safety
/// `values` is null or has `len` elements.
#[inline(always)]
pub(crate) unsafe fn each(values: *mut i32, len: usize, translate: fn(i32) -> i32) {
    if values.is_null() {
        return;
    }
    for i in 0..len {
        // SAFETY: within `len`.
        unsafe { *values.add(i) = translate(*values.add(i)) };
    }
}

/// The bytes a status of the library counts.
pub(crate) fn count_bytes(status: &ffi::MPI_Status) -> u64 {
    count_of(status).0
}
