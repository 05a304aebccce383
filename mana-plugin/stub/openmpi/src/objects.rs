//! Objects behind the handles of the program: a word that says what they are.
//!
//! Handles of Open MPI are addresses. Predefined ones are data symbols, of which the executable may
//! hold copies; communicators, windows, datatypes, requests, operations and error handlers that the program makes get an
//! object here, because Open MPI's Fortran and C++ libraries look into theirs; all other handles are
//! the virtual word itself. Every object starts with `MAGIC << 32 | word`, and is looked up by
//! content: that survives both the copy and a restart.

use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use mpi_std::{index_of, kind, kind_of, PREDEFINED_END};

use crate::callbacks::ErrorOn;
use crate::table::{Table, Zeroed};

/// "MPIH".
pub const MAGIC: u64 = 0x4d50_4948;

/// One object. `WORDS` covers the fields the language libraries touch.
#[repr(C, align(64))]
struct Object<const WORDS: usize>([AtomicU64; WORDS]);

impl<const WORDS: usize> Object<WORDS> {
    #[allow(
        clippy::declare_interior_mutable_const,
        reason = "an initialiser of statics, never used as a value"
    )]
    const EMPTY: Self = Object([const { AtomicU64::new(0) }; WORDS]);
}

// SAFETY: numbers.
unsafe impl<const WORDS: usize> Zeroed for Object<WORDS> {}

type Objects<const WORDS: usize, const FIRST: usize> = Table<Object<WORDS>, FIRST>;

const COMMS: usize = 8192;
const WINDOWS: usize = 4096;
const DATATYPES: usize = 16384;
const OPS: usize = 1024;
const ERRHANDLERS: usize = 1024;
const REQUESTS: usize = 16384;

static COMM_OBJECTS: Objects<48, COMMS> = Table::new([const { Object::EMPTY }; COMMS]);
static WIN_OBJECTS: Objects<32, WINDOWS> = Table::new([const { Object::EMPTY }; WINDOWS]);
static DATATYPE_OBJECTS: Objects<32, DATATYPES> = Table::new([const { Object::EMPTY }; DATATYPES]);
static OP_OBJECTS: Objects<16, OPS> = Table::new([const { Object::EMPTY }; OPS]);
static REQUEST_OBJECTS: Objects<16, REQUESTS> = Table::new([const { Object::EMPTY }; REQUESTS]);
static ERRHANDLER_OBJECTS: Objects<24, ERRHANDLERS> =
    Table::new([const { Object::EMPTY }; ERRHANDLERS]);

/// Words of the structures that Open MPI's libraries read or write.
const COMM_ATTRIBUTES: usize = 272 / 8;
const WIN_ATTRIBUTES: usize = 240 / 8;
const DATATYPE_ATTRIBUTES: usize = 208 / 8;
/// The Fortran integer of a request, which Open MPI's Fortran library reads after a completion: that
/// of a persistent request stays.
const REQUEST_INTEGER: usize = 104 / 8;
const OP_FLAGS: usize = 80 / 8;
/// `OMPI_OP_FLAGS_FORTRAN_FUNC`, in the upper half of that word.
const OP_FORTRAN: u64 = 2 << 32;

/// The lowest virtual word: 2 GiB, above everything the small code model can place.
const FIRST_WORD: usize = 1 << 31;

/// The word of a handle.
#[inline(always)]
pub fn word(handle: usize) -> u64 {
    // Virtual words have the top bit of 32 set. Below them are the predefined symbols that a
    // program which is not position independent has copied into itself.
    if handle < PREDEFINED_END as usize || (handle >> 32 == 0 && handle >= FIRST_WORD) {
        return handle as u64;
    }
    // SAFETY: a handle of this ABI that is no small integer is the address of an object; a program
    // that passes another address would crash in the real library too.
    let first = unsafe { *(handle as *const u64) };
    if first >> 32 == MAGIC {
        first & 0xffff_ffff
    } else {
        0
    }
}

/// The word in what Open MPI's Fortran library took for an object's attributes.
pub fn attributes_word(attributes: u64) -> u64 {
    if attributes >> 32 == MAGIC {
        attributes & 0xffff_ffff
    } else {
        0
    }
}

#[inline(always)]
fn address<const WORDS: usize, const FIRST: usize>(
    objects: &'static Objects<WORDS, FIRST>,
    word: u64,
    attributes: Option<usize>,
) -> usize {
    let Some(object) = objects.get(index_of(word)) else {
        return word as usize;
    };
    let content = MAGIC << 32 | word;
    let [first, ..] = object.0.as_slice() else {
        return word as usize;
    };
    first.store(content, Ordering::Relaxed);
    if let Some(cell) = attributes.and_then(|at| object.0.get(at)) {
        cell.store(content, Ordering::Relaxed);
    }
    &raw const *object as usize
}

/// The handle of a virtual word.
#[inline(always)]
pub fn handle(word: u64) -> usize {
    match kind_of(word) {
        kind::COMM => address(&COMM_OBJECTS, word, Some(COMM_ATTRIBUTES)),
        kind::WIN => address(&WIN_OBJECTS, word, Some(WIN_ATTRIBUTES)),
        kind::DATATYPE => address(&DATATYPE_OBJECTS, word, Some(DATATYPE_ATTRIBUTES)),
        kind::REQUEST => address(&REQUEST_OBJECTS, word, Some(REQUEST_INTEGER)),
        kind::OP => address(&OP_OBJECTS, word, None),
        kind::ERRHANDLER => address(&ERRHANDLER_OBJECTS, word, None),
        _ => word as usize,
    }
}

/// Forgets what the object of an operation was used for before.
pub fn fresh_op(word: u64) {
    if let Some(cell) = OP_OBJECTS
        .get(index_of(word))
        .and_then(|o| o.0.get(OP_FLAGS))
    {
        cell.store(0, Ordering::Relaxed);
    }
    set_cxx_function(word, 0);
}

/// Where `ompi_errhandler_t` has its functions for communicators, files and windows, and the one by which its C++
/// library calls a handler of C++.
const ERRHANDLER_FUNCTIONS: [usize; 3] = [88 / 8, 96 / 8, 104 / 8];
const ERRHANDLER_DISPATCH: usize = 120 / 8;

fn dispatch_cell(word: u64) -> Option<&'static AtomicU64> {
    let object = ERRHANDLER_OBJECTS.get(index_of(word))?;
    object.0.get(ERRHANDLER_DISPATCH)
}

/// Forgets what the object of an error handler was used for before.
pub fn fresh_errhandler(word: u64) {
    if let Some(cell) = dispatch_cell(word) {
        cell.store(0, Ordering::Relaxed);
    }
}

/// The function by which the C++ library calls a handler; 0 if it is not one of C++.
pub fn cxx_dispatch(word: u64) -> usize {
    dispatch_cell(word).map_or(0, |cell| cell.load(Ordering::Relaxed) as usize)
}

extern "C" {
    static ompi_mpi_errors_throw_exceptions: [AtomicU64; 16];
}

/// The function that the C++ library has put into `MPI::ERRORS_THROW_EXCEPTIONS`; 0 without that library.
pub fn throw_function(kind: ErrorOn) -> usize {
    // SAFETY: the data symbol, or the executable's copy of it.
    let object = unsafe { &ompi_mpi_errors_throw_exceptions };
    let at = ERRHANDLER_FUNCTIONS.get(kind as usize);
    let cell = at.and_then(|at| object.get(*at));
    cell.map_or(0, |cell| cell.load(Ordering::Relaxed) as usize)
}

/// Whether Open MPI's Fortran library has marked an operation as Fortran.
pub fn is_fortran_op(word: u64) -> bool {
    OP_OBJECTS
        .get(index_of(word))
        .and_then(|o| o.0.get(OP_FLAGS))
        .is_some_and(|cell| cell.load(Ordering::Relaxed) & OP_FORTRAN != 0)
}

static CXX_FUNCTIONS: Table<AtomicUsize, OPS> = Table::new([const { AtomicUsize::new(0) }; OPS]);

/// Records the C++ function of an operation.
pub fn set_cxx_function(word: u64, function: usize) {
    if let Some(cell) = CXX_FUNCTIONS.get(index_of(word)) {
        cell.store(function, Ordering::Relaxed);
    }
}

/// The C++ function of an operation; 0 if it is not one of C++.
pub fn cxx_function(word: u64) -> usize {
    CXX_FUNCTIONS
        .get(index_of(word))
        .map_or(0, |cell| cell.load(Ordering::Relaxed))
}

const KEYS: usize = 4096;
static KEY_LANGUAGES: Table<AtomicU32, KEYS> = Table::new([const { AtomicU32::new(0) }; KEYS]);

/// The language of an attribute key's functions.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum KeyLanguage {
    /// C and C++.
    C,
    /// Fortran with address-sized attributes.
    FortranAddress,
    /// Fortran with default integers (MPI-1).
    FortranInteger,
}

/// Records the language of a key.
pub fn set_key_language(key: i32, language: KeyLanguage) {
    let Some(index) = mpi_std::keyval_index(key) else {
        return;
    };
    if let Some(cell) = KEY_LANGUAGES.get(index) {
        cell.store(language as u32, Ordering::Relaxed);
    }
}

/// The language of a key.
pub fn key_language(key: i32) -> KeyLanguage {
    let value = mpi_std::keyval_index(key)
        .and_then(|index| KEY_LANGUAGES.get(index))
        .map_or(0, |cell| cell.load(Ordering::Relaxed));
    match value {
        1 => KeyLanguage::FortranAddress,
        2 => KeyLanguage::FortranInteger,
        _ => KeyLanguage::C,
    }
}
