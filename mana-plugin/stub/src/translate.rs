//! One function for each kind of value, program ABI to standard and (`..._back`, `give`) back.
//!
//! Upper half: no libc of ours, no panics, no thread-local storage. What depends on the ABI is in
//! `abi`; the integer tables are generated.

use core::ffi::{c_char, c_void};
use core::mem::MaybeUninit;

use mpi_std::Status;

pub use crate::abi::*;
pub use crate::exports::constants::*;

/// A rank.
#[inline(always)]
pub fn rank(value: i32) -> i32 {
    if value >= 0 {
        value
    } else {
        negative_rank(value)
    }
}

/// A rank, back.
#[inline(always)]
pub fn rank_back(value: i32) -> i32 {
    if value >= 0 {
        value
    } else {
        negative_rank_back(value)
    }
}

/// A tag.
#[inline(always)]
pub fn tag(value: i32) -> i32 {
    if value >= 0 {
        value
    } else {
        negative_tag(value)
    }
}

/// A tag, back.
#[inline(always)]
pub fn tag_back(value: i32) -> i32 {
    if value >= 0 {
        value
    } else {
        negative_tag_back(value)
    }
}

/// An error code of the program.
#[inline(always)]
pub fn error(code: i32) -> i32 {
    if code == 0 {
        0
    } else if code >= mpi_std::EXPLAINED_CODES {
        code & !0xff | failure(code & 0xff)
    } else if code > LAST_CODE {
        code - LAST_CODE + mpi_std::MPI_ERR_LASTCODE
    } else {
        failure(code)
    }
}

/// An error class, as the program knows it.
#[inline(always)]
pub fn error_back(class: i32) -> i32 {
    if class == 0 {
        0
    } else {
        error_back_cold(class)
    }
}

#[cold]
fn error_back_cold(class: i32) -> i32 {
    // Their last byte is the class: a program may end with it.
    if class >= mpi_std::EXPLAINED_CODES {
        return class & !0xff | failure_back(class & 0xff);
    }
    // The program's own classes and codes follow the last one of its ABI.
    if class > mpi_std::MPI_ERR_LASTCODE {
        return class - mpi_std::MPI_ERR_LASTCODE + LAST_CODE;
    }
    failure_back(class)
}

/// Assertions about an epoch, bit by bit.
#[inline(always)]
pub fn assert(value: i32) -> i32 {
    if value == 0 {
        return 0;
    }
    let mut out = 0;
    for (program, standard) in [
        (MPI_MODE_NOCHECK, mpi_std::MPI_MODE_NOCHECK),
        (MPI_MODE_NOSTORE, mpi_std::MPI_MODE_NOSTORE),
        (MPI_MODE_NOPUT, mpi_std::MPI_MODE_NOPUT),
        (MPI_MODE_NOPRECEDE, mpi_std::MPI_MODE_NOPRECEDE),
        (MPI_MODE_NOSUCCEED, mpi_std::MPI_MODE_NOSUCCEED),
    ] {
        if value & program != 0 {
            out |= standard;
        }
    }
    out
}

/// How a file is opened, by the bits of the program and the standard's.
const ACCESS_MODES: [(i32, i32); 9] = [
    (MPI_MODE_APPEND, mpi_std::MPI_MODE_APPEND),
    (MPI_MODE_CREATE, mpi_std::MPI_MODE_CREATE),
    (MPI_MODE_DELETE_ON_CLOSE, mpi_std::MPI_MODE_DELETE_ON_CLOSE),
    (MPI_MODE_EXCL, mpi_std::MPI_MODE_EXCL),
    (MPI_MODE_RDONLY, mpi_std::MPI_MODE_RDONLY),
    (MPI_MODE_RDWR, mpi_std::MPI_MODE_RDWR),
    (MPI_MODE_SEQUENTIAL, mpi_std::MPI_MODE_SEQUENTIAL),
    (MPI_MODE_UNIQUE_OPEN, mpi_std::MPI_MODE_UNIQUE_OPEN),
    (MPI_MODE_WRONLY, mpi_std::MPI_MODE_WRONLY),
];

/// An access mode; what is none stays wrong.
pub fn amode(value: i32) -> i32 {
    let (mut out, mut rest) = (0, value);
    for (program, standard) in ACCESS_MODES {
        if value & program != 0 {
            out |= standard;
            rest &= !program;
        }
    }
    if rest == 0 {
        out
    } else {
        -1
    }
}

/// An access mode, back.
pub fn amode_back(value: i32) -> i32 {
    let mut out = 0;
    for (program, standard) in ACCESS_MODES {
        if value & standard != 0 {
            out |= program;
        }
    }
    out
}

/// The length of an array that the caller may leave out, with its length.
///
/// # Safety
/// `count` is null or readable.
#[allow(dead_code, reason = "not every ABI has such a procedure")]
pub unsafe fn len_at(count: *const i32) -> usize {
    // SAFETY: the caller's promise.
    match unsafe { count.as_ref() } {
        Some(count) => len(*count),
        None => 0,
    }
}

/// An element count that is negative only in wrong programs.
#[inline(always)]
pub fn len(count: i32) -> usize {
    if count < 0 {
        0
    } else {
        count as usize
    }
}

extern "C" {
    fn malloc(size: usize) -> *mut c_void;
    fn free(block: *mut c_void);
}

/// Elements an array may have without memory from the program's heap.
const SHORT: usize = 64;

/// Space for an array of plain values, on the stack if it is short.
pub struct Space<T: Copy> {
    short: [MaybeUninit<T>; SHORT],
    long: *mut T,
}

impl<T: Copy> Space<T> {
    /// Space for `len` values. Without memory there is space for none: the caller's length is cut.
    #[inline(always)]
    pub fn new(len: &mut usize) -> Self {
        let mut space: Space<T> = Space {
            short: [const { MaybeUninit::uninit() }; SHORT],
            long: core::ptr::null_mut(),
        };
        if *len > SHORT {
            // SAFETY: the program's allocator, on a thread of the program outside the lower half.
            space.long = unsafe { malloc(len.wrapping_mul(size_of::<T>())) }.cast();
            if space.long.is_null() {
                *len = 0;
            }
        }
        space
    }

    /// The first value.
    #[inline(always)]
    pub fn pointer(&mut self) -> *mut T {
        if self.long.is_null() {
            self.short.as_mut_ptr().cast()
        } else {
            self.long
        }
    }
}

impl<T: Copy> Drop for Space<T> {
    #[inline(always)]
    fn drop(&mut self) {
        if !self.long.is_null() {
            // SAFETY: from `malloc` in `new`.
            unsafe { free(self.long.cast()) };
        }
    }
}

/// An array of handles as words.
pub struct Words {
    space: Space<u64>,
    len: usize,
    null: bool,
}

impl Words {
    /// The words of `len` handles.
    ///
    /// # Safety
    /// `handles` is null or has `len` elements.
    #[inline(always)]
    pub unsafe fn new(handles: *const Handle, len: usize, word: fn(Handle) -> u64) -> Self {
        let null = handles.is_null();
        let mut len = if null { 0 } else { len };
        let mut space = Space::<u64>::new(&mut len);
        let to = space.pointer();
        let mut i = 0;
        while i < len {
            // SAFETY: within `len`.
            unsafe { to.add(i).write(word(*handles.add(i))) };
            i += 1;
        }
        Words { space, len, null }
    }

    /// Space for `len` handles that come out; elements not written stay 0.
    ///
    /// # Safety
    /// As [`Words::new`].
    #[inline(always)]
    pub unsafe fn empty(handles: *const Handle, len: usize, _word: fn(Handle) -> u64) -> Self {
        // SAFETY: the caller's promise; what the array holds is not looked at.
        unsafe { Self::new(handles, len, |_| 0) }
    }

    /// The first word.
    #[inline(always)]
    pub fn pointer(&mut self) -> *mut u64 {
        if self.null {
            core::ptr::null_mut()
        } else {
            self.space.pointer()
        }
    }

    /// Hands the words back.
    ///
    /// # Safety
    /// `handles` is what was given to `new`.
    #[inline(always)]
    pub unsafe fn give(&mut self, handles: *mut Handle, back: fn(u64) -> Handle) {
        let from = self.space.pointer();
        let mut i = 0;
        while i < self.len {
            // SAFETY: within `len`.
            unsafe {
                let word = *from.add(i);
                if word != 0 {
                    *handles.add(i) = back(word);
                }
            }
            i += 1;
        }
    }

    /// Hands back the words that are not those of the handles any more. A handle that stays is not
    /// written: the program may compare it.
    ///
    /// # Safety
    /// `handles` is what was given to `new`.
    #[inline(always)]
    pub unsafe fn give_changed(
        &mut self,
        handles: *mut Handle,
        word: fn(Handle) -> u64,
        back: fn(u64) -> Handle,
    ) {
        let from = self.space.pointer();
        let mut i = 0;
        while i < self.len {
            // SAFETY: within `len`.
            unsafe {
                let now = *from.add(i);
                if now != word(*handles.add(i)) {
                    *handles.add(i) = back(now);
                }
            }
            i += 1;
        }
    }
}

/// An array of translated integers.
pub struct Integers {
    space: Space<i32>,
    null: bool,
}

impl Integers {
    /// The translated values.
    ///
    /// # Safety
    /// `values` is null or has `len` elements.
    #[inline(always)]
    pub unsafe fn new(values: *const i32, len: usize, translate: fn(i32) -> i32) -> Self {
        let null = values.is_null();
        let mut len = if null { 0 } else { len };
        let mut space = Space::<i32>::new(&mut len);
        let to = space.pointer();
        let mut i = 0;
        while i < len {
            // SAFETY: within `len`.
            unsafe { to.add(i).write(translate(*values.add(i))) };
            i += 1;
        }
        Integers { space, null }
    }

    /// The first value.
    #[inline(always)]
    pub fn pointer(&mut self) -> *mut i32 {
        if self.null {
            core::ptr::null_mut()
        } else {
            self.space.pointer()
        }
    }
}

/// Translates an array that has been written.
///
/// # Safety
/// `values` is null or has `len` elements.
#[inline(always)]
pub unsafe fn each(values: *mut i32, len: usize, translate: fn(i32) -> i32) {
    if values.is_null() {
        return;
    }
    let mut i = 0;
    while i < len {
        // SAFETY: within `len`.
        unsafe { *values.add(i) = translate(*values.add(i)) };
        i += 1;
    }
}

/// Marks a status that nothing was written to.
const UNTOUCHED: i32 = i32::MIN;

/// The status of a call with a single completion: `MPI_ERROR` is left alone.
pub struct OneStatus {
    status: Status,
    wanted: bool,
}

impl OneStatus {
    /// For a status that comes out.
    #[inline(always)]
    pub fn new(status: *const ProgramStatus) -> Self {
        OneStatus {
            status: Status {
                source: UNTOUCHED,
                tag: 0,
                error: 0,
                internal: [0; 5],
            },
            wanted: status as usize != STATUS_IGNORE,
        }
    }

    /// Where the lower half writes; null if the program ignores it.
    #[inline(always)]
    pub fn pointer(&mut self) -> *mut Status {
        if self.wanted {
            &raw mut self.status
        } else {
            core::ptr::null_mut()
        }
    }

    /// Hands it back, if it was written.
    ///
    /// # Safety
    /// `to` is what was given to `new`.
    #[inline(always)]
    pub unsafe fn give(&self, to: *mut ProgramStatus) {
        if self.wanted && self.status.source != UNTOUCHED {
            // SAFETY: not ignored, so valid.
            unsafe { status_give(&self.status, &mut *to) };
        }
    }
}

/// A status that goes in.
///
/// # Safety
/// `status` is valid.
#[inline(always)]
pub unsafe fn status_in(status: *const ProgramStatus) -> Status {
    // SAFETY: the caller's promise.
    unsafe { status_take(&*status) }
}

/// The statuses of a call that completes several requests.
pub struct Statuses {
    space: Space<Status>,
    len: usize,
    wanted: bool,
}

impl Statuses {
    /// For `len` statuses.
    ///
    /// # Safety
    /// `from` is ignored or has `len` elements.
    #[inline(always)]
    pub unsafe fn new(from: *const ProgramStatus, len: usize) -> Self {
        let wanted = from as usize != STATUSES_IGNORE;
        let mut len = if wanted { len } else { 0 };
        let mut space = Space::<Status>::new(&mut len);
        let to = space.pointer();
        let mut i = 0;
        while i < len {
            // SAFETY: within `len`.
            unsafe {
                to.add(i).write(Status {
                    source: UNTOUCHED,
                    tag: 0,
                    error: status_error(&*from.add(i)),
                    internal: [0; 5],
                });
            }
            i += 1;
        }
        Statuses { space, len, wanted }
    }

    /// The first status; null if the program ignores them.
    #[inline(always)]
    pub fn pointer(&mut self) -> *mut Status {
        if self.wanted {
            self.space.pointer()
        } else {
            core::ptr::null_mut()
        }
    }

    /// Hands them back; `rc` is the standard class the call returned.
    ///
    /// # Safety
    /// `to` is what was given to `new`.
    #[inline(always)]
    pub unsafe fn give(&mut self, to: *mut ProgramStatus, rc: i32) {
        let from = self.space.pointer();
        let mut i = 0;
        while i < self.len {
            // SAFETY: within `len`; `new` wrote each.
            let (from, to) = unsafe { (&*from.add(i), &mut *to.add(i)) };
            if from.source != UNTOUCHED {
                status_give(from, to);
            }
            if rc == mpi_std::MPI_ERR_IN_STATUS {
                status_set_error(to, error_back(from.error));
            }
            i += 1;
        }
    }
}

/// Room for a text of the standard's longest length, which the program's buffer may not have.
pub struct Text<const N: usize> {
    bytes: [MaybeUninit<u8>; N],
}

impl<const N: usize> Text<N> {
    /// An empty text.
    #[inline(always)]
    #[allow(
        clippy::new_without_default,
        reason = "made in one generated place only"
    )]
    pub fn new() -> Self {
        let mut bytes = [const { MaybeUninit::uninit() }; N];
        if let Some(first) = bytes.first_mut() {
            first.write(0);
        }
        Text { bytes }
    }

    /// Where it is written, NUL-terminated.
    #[inline(always)]
    pub fn pointer(&mut self) -> *mut c_char {
        self.bytes.as_mut_ptr().cast()
    }

    /// Copies it to the program's buffer of `room` bytes; its length there.
    ///
    /// # Safety
    /// `to` has `room` bytes.
    pub unsafe fn give(&self, to: *mut c_char, room: usize) -> i32 {
        let from: *const c_char = self.bytes.as_ptr().cast();
        let mut n = 0;
        // SAFETY: the text ends within `N`, and `n` stays below `room`.
        unsafe {
            while n + 1 < room && n + 1 < N {
                let c = *from.add(n);
                if c == 0 {
                    break;
                }
                *to.add(n) = c;
                n += 1;
            }
            if room > 0 {
                *to.add(n) = 0;
            }
        }
        n as i32
    }
}
