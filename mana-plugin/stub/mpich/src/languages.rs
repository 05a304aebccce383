//! What Debian's Fortran and C++ libraries for MPICH take from `libmpich.so.12` besides MPI itself.
//!
//! They are MPICH's own libraries, unmodified, on top of this stub. Names and signatures are those of
//! MPICH 4.0.

use core::ffi::c_void;
use core::sync::atomic::{AtomicUsize, Ordering};

use mana_raw::cross;
use mpi_std::slot;

use crate::attributes;
use crate::grequests;
use crate::table::{Table, Zeroed};
use crate::translate as t;

const OPS: usize = 1024;
static CXX_OPS: Table<AtomicUsize, OPS> = Table::new([const { AtomicUsize::new(0) }; OPS]);

fn op_cell(word: u64) -> Option<&'static AtomicUsize> {
    CXX_OPS.get(mpi_std::index_of(word))
}

/// The C++ library's function for an operation of C++; 0 for others.
pub fn cxx_op(word: u64) -> usize {
    op_cell(word).map_or(0, |cell| cell.load(Ordering::Relaxed))
}

/// `MPI_Op_create`: what an earlier operation of the same index was is forgotten.
#[no_mangle]
unsafe extern "C" fn mana_MPI_Op_create(
    function: *mut c_void,
    commute: i32,
    op: *mut t::Handle,
) -> i32 {
    let mut word = 0u64;
    let word_p = &raw mut word;
    let rc = cross!(slot::MPI_Op_create, fn(*mut c_void, i32, *mut u64) -> i32;
                    function, commute, word_p);
    if rc == 0 {
        if let Some(cell) = op_cell(word) {
            cell.store(0, Ordering::Relaxed);
        }
        // SAFETY: the program's output.
        unsafe { *op = t::op_back(word) };
    }
    t::error_back(rc)
}

/// `MPII_Op_set_cxx`
#[no_mangle]
unsafe extern "C" fn MPII_Op_set_cxx(op: t::Handle, call: usize) {
    if let Some(cell) = op_cell(t::op(op)) {
        cell.store(call, Ordering::Relaxed);
    }
}

const ERRHANDLERS: usize = 1024;
static CXX_ERRHANDLERS: Table<AtomicUsize, ERRHANDLERS> =
    Table::new([const { AtomicUsize::new(0) }; ERRHANDLERS]);

/// The C++ library's function for an error handler of C++; 0 for others.
pub fn cxx_errhandler(word: u64) -> usize {
    CXX_ERRHANDLERS
        .get(mpi_std::index_of(word))
        .map_or(0, |cell| cell.load(Ordering::Relaxed))
}

/// Sets it.
pub fn set_cxx_errhandler(word: u64, call: usize) {
    if let Some(cell) = CXX_ERRHANDLERS.get(mpi_std::index_of(word)) {
        cell.store(call, Ordering::Relaxed);
    }
}

/// `MPII_Errhandler_set_cxx`
#[no_mangle]
unsafe extern "C" fn MPII_Errhandler_set_cxx(errhandler: t::Handle, call: usize) {
    set_cxx_errhandler(t::errhandler(errhandler), call);
}

/// `MPII_Grequest_set_lang_f77`
#[no_mangle]
unsafe extern "C" fn MPII_Grequest_set_lang_f77(request: t::Handle) {
    grequests::set_fortran(t::request(request));
}

/// `MPIR_ATTR_PTR`: attributes are passed as addresses.
pub const ATTRIBUTE_ADDRESS: i32 = 0;
/// `MPIR_ATTR_INT`
const ATTRIBUTE_INT: i32 = 3;

/// The proxies of a key.
pub struct Key {
    /// Of its copy function.
    pub copy: AtomicUsize,
    /// Of its delete function.
    pub delete: AtomicUsize,
}

// SAFETY: numbers.
unsafe impl Zeroed for Key {}

const KEYS: usize = 4096;
static ALL_KEYS: Table<Key, KEYS> = Table::new(
    [const {
        Key {
            copy: AtomicUsize::new(0),
            delete: AtomicUsize::new(0),
        }
    }; KEYS],
);

/// The proxies of a key of the program.
pub fn key(key: i32) -> Option<&'static Key> {
    ALL_KEYS.get(mpi_std::keyval_index(key)?)
}

/// `MPII_Keyval_set_proxy`
#[no_mangle]
unsafe extern "C" fn MPII_Keyval_set_proxy(keyval: i32, copy: usize, delete: usize) {
    if let Some(key) = key(keyval) {
        key.copy.store(copy, Ordering::Relaxed);
        key.delete.store(delete, Ordering::Relaxed);
    }
}

/// A key as C has it: Fortran's predefined keys are the next even numbers.
fn c_key(key: i32) -> i32 {
    match key {
        0x6440_0000..=0x6440_000f | 0x6600_0000..=0x6600_000f => (key - 1) | 1,
        _ => key,
    }
}

unsafe fn get_attribute(
    slot: usize,
    object: u64,
    key: i32,
    value: *mut c_void,
    flag: *mut i32,
    kind: i32,
) -> i32 {
    let key = t::keyval(c_key(key));
    let window = match kind {
        ATTRIBUTE_ADDRESS => crate::windows::attribute(object, key).map(|at| at as i64),
        _ => crate::windows::number(object, key),
    };
    if let Some(number) = window {
        // SAFETY: the caller's outputs.
        unsafe {
            *flag = 1;
            if kind == ATTRIBUTE_INT {
                *value.cast::<i32>() = number as i32;
            } else {
                *value.cast::<i64>() = number;
            }
        }
        return 0;
    }
    let mut found: *mut i32 = core::ptr::null_mut();
    let found_p: *mut c_void = (&raw mut found).cast();
    let rc = cross!(slot, fn(u64, i32, *mut c_void, *mut i32) -> i32; object, key, found_p, flag);
    // SAFETY: the caller's outputs; a predefined attribute is an integer behind a pointer.
    unsafe {
        if rc == 0 && *flag != 0 {
            let number = if kind != ATTRIBUTE_ADDRESS && mpi_std::keyval_index(key).is_none() {
                attributes::value(key, *found) as isize as usize
            } else {
                found as usize
            };
            if kind == ATTRIBUTE_INT {
                *value.cast::<i32>() = number as i32;
            } else {
                *value.cast::<usize>() = number;
            }
        }
    }
    t::error_back(rc)
}

fn set_attribute(slot: usize, object: u64, key: i32, value: *const c_void) -> i32 {
    let key = t::keyval(c_key(key));
    t::error_back(cross!(slot, fn(u64, i32, *const c_void) -> i32; object, key, value))
}

macro_rules! attributes {
    ($($get:ident $set:ident $take:ident $get_slot:ident $set_slot:ident;)*) => {$(
        #[no_mangle]
        unsafe extern "C" fn $get(
            object: t::Handle, key: i32, value: *mut c_void, flag: *mut i32, kind: i32,
        ) -> i32 {
            // SAFETY: as the caller's.
            unsafe { get_attribute(slot::$get_slot, t::$take(object), key, value, flag, kind) }
        }

        #[no_mangle]
        unsafe extern "C" fn $set(
            object: t::Handle, key: i32, value: *const c_void, _kind: i32,
        ) -> i32 {
            set_attribute(slot::$set_slot, t::$take(object), key, value)
        }
    )*};
}

attributes! {
    MPII_Comm_get_attr MPII_Comm_set_attr comm MPI_Comm_get_attr MPI_Comm_set_attr;
    MPII_Type_get_attr MPII_Type_set_attr datatype MPI_Type_get_attr MPI_Type_set_attr;
    MPII_Win_get_attr MPII_Win_set_attr win MPI_Win_get_attr MPI_Win_set_attr;
}

/// `MPI_COMM_DUP_FN` and its kin.
#[no_mangle]
unsafe extern "C" fn MPIR_Dup_fn(
    _object: t::Handle,
    _key: i32,
    _extra: *mut c_void,
    value: *mut c_void,
    out: *mut *mut c_void,
    flag: *mut i32,
) -> i32 {
    // SAFETY: the caller's outputs.
    unsafe {
        *flag = 1;
        *out = value;
    }
    0
}

/// The standard's number for the predefined copy function; the null functions are 0 already.
pub fn predefined_function(address: *mut c_void) -> *mut c_void {
    if address as usize == core::hint::black_box(MPIR_Dup_fn as *const () as usize) {
        core::ptr::without_provenance_mut(1)
    } else {
        address
    }
}

/// `MPI_File_c2f`: the Fortran integer is the virtual word.
#[no_mangle]
unsafe extern "C" fn mana_MPI_File_c2f(file: t::FileHandle) -> i32 {
    file as u32 as i32
}

/// `MPI_File_f2c`
#[no_mangle]
unsafe extern "C" fn mana_MPI_File_f2c(file: i32) -> t::FileHandle {
    file as u32 as usize
}
