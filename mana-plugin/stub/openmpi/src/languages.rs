//! What Debian's Fortran and C++ libraries for Open MPI take from `libmpi.so.40` besides MPI itself.
//!
//! They are Open MPI's own libraries, unmodified, on top of this stub. Names and signatures are those
//! of Open MPI 4.1.

use core::ffi::{c_char, c_void};
use core::sync::atomic::{AtomicI32, Ordering};

use mana_raw::cross;
use mpi_std::slot;

use crate::abi;
use crate::objects::{self, KeyLanguage};
use crate::translate as t;

extern "C" {
    fn malloc(size: usize) -> *mut c_void;
    fn free(block: *mut c_void);
    static ompi_mpi_state: AtomicI32;
    static ompi_mpi_errhandler_null: u64;
}

/// Sets `ompi_mpi_state`, which the libraries look at to see whether MPI is up.
pub fn set_state(state: i32) {
    // SAFETY: the data symbol, or the executable's copy of it.
    unsafe { ompi_mpi_state.store(state, Ordering::Relaxed) };
}

/// `MPI_Op_create`: the object behind the handle is cleared of an earlier operation's language.
#[no_mangle]
unsafe extern "C" fn mana_MPI_Op_create(
    function: *mut c_void,
    commute: i32,
    op: *mut t::Handle,
) -> i32 {
    let mut word = 0u64;
    let word_p = &raw mut word;
    // SAFETY: the slot's signature is the table's; `op` is the program's output.
    unsafe {
        let rc = cross!(slot::MPI_Op_create, fn(*mut c_void, i32, *mut u64) -> i32;
                        function, commute, word_p);
        if rc == 0 {
            objects::fresh_op(word);
            *op = t::op_back(word);
        }
        t::error_back(rc)
    }
}

macro_rules! null_functions {
    ($($copy:ident $delete:ident $dup:ident;)*) => {
        $(
            #[no_mangle]
            unsafe extern "C" fn $copy(
                _object: t::Handle, _key: i32, _extra: *mut c_void, _value: *mut c_void,
                _out: *mut c_void, flag: *mut i32,
            ) -> i32 {
                // SAFETY: the caller's output.
                unsafe { *flag = 0 };
                0
            }

            #[no_mangle]
            unsafe extern "C" fn $delete(
                _object: t::Handle, _key: i32, _value: *mut c_void, _extra: *mut c_void,
            ) -> i32 {
                0
            }

            #[no_mangle]
            unsafe extern "C" fn $dup(
                _object: t::Handle, _key: i32, _extra: *mut c_void, value: *mut c_void,
                out: *mut *mut c_void, flag: *mut i32,
            ) -> i32 {
                // SAFETY: the caller's outputs.
                unsafe {
                    *flag = 1;
                    *out = value;
                }
                0
            }
        )*

        /// The standard's numbers for the predefined copy and delete functions.
        pub fn predefined_function(address: *mut c_void) -> *mut c_void {
            let at = address as usize;
            $(
                if at == own($copy as *const () as usize) || at == own($delete as *const () as usize) {
                    return core::ptr::null_mut();
                }
                if at == own($dup as *const () as usize) {
                    return core::ptr::without_provenance_mut(1);
                }
            )*
            address
        }
    };
}

/// Keeps the comparison with a function's address at run time, where it is the program's view of it.
#[inline(always)]
fn own(address: usize) -> usize {
    core::hint::black_box(address)
}

null_functions! {
    OMPI_C_MPI_COMM_NULL_COPY_FN OMPI_C_MPI_COMM_NULL_DELETE_FN OMPI_C_MPI_COMM_DUP_FN;
    OMPI_C_MPI_TYPE_NULL_COPY_FN OMPI_C_MPI_TYPE_NULL_DELETE_FN OMPI_C_MPI_TYPE_DUP_FN;
    OMPI_C_MPI_WIN_NULL_COPY_FN OMPI_C_MPI_WIN_NULL_DELETE_FN OMPI_C_MPI_WIN_DUP_FN;
    OMPI_C_MPI_NULL_COPY_FN OMPI_C_MPI_NULL_DELETE_FN OMPI_C_MPI_DUP_FN;
}

/// Kinds of objects with attributes, and their create function's slot.
fn keyval_slot(object_type: i32) -> usize {
    match object_type {
        2 => slot::MPI_Type_create_keyval,
        3 => slot::MPI_Win_create_keyval,
        _ => slot::MPI_Comm_create_keyval,
    }
}

unsafe fn create_key(
    object_type: i32,
    copy: *mut c_void,
    delete: *mut c_void,
    key: *mut i32,
    extra: usize,
    language: KeyLanguage,
) -> i32 {
    let (copy, delete) = (predefined_function(copy), predefined_function(delete));
    let extra = extra as *const c_void;
    let mut made = 0;
    let made_p = &raw mut made;
    // SAFETY: the three slots have this signature; `key` is the caller's output.
    unsafe {
        let rc = cross!(keyval_slot(object_type),
            fn(*mut c_void, *mut c_void, *mut i32, *const c_void) -> i32;
            copy, delete, made_p, extra);
        if rc == 0 {
            objects::set_key_language(made, language);
            *key = made;
        }
        t::error_back(rc)
    }
}

#[no_mangle]
unsafe extern "C" fn ompi_attr_create_keyval(
    object_type: i32,
    copy: *mut c_void,
    delete: *mut c_void,
    key: *mut i32,
    extra: *mut c_void,
    _flags: i32,
    _bindings: *mut c_void,
) -> i32 {
    // SAFETY: as the caller's.
    unsafe {
        create_key(
            object_type,
            copy,
            delete,
            key,
            extra as usize,
            KeyLanguage::C,
        )
    }
}

#[no_mangle]
unsafe extern "C" fn ompi_attr_create_keyval_fint(
    object_type: i32,
    copy: *mut c_void,
    delete: *mut c_void,
    key: *mut i32,
    extra: i32,
    _flags: i32,
    _bindings: *mut c_void,
) -> i32 {
    let extra = extra as isize as usize;
    // SAFETY: as the caller's.
    unsafe {
        create_key(
            object_type,
            copy,
            delete,
            key,
            extra,
            KeyLanguage::FortranInteger,
        )
    }
}

#[no_mangle]
unsafe extern "C" fn ompi_attr_create_keyval_aint(
    object_type: i32,
    copy: *mut c_void,
    delete: *mut c_void,
    key: *mut i32,
    extra: usize,
    _flags: i32,
    _bindings: *mut c_void,
) -> i32 {
    // SAFETY: as the caller's.
    unsafe {
        create_key(
            object_type,
            copy,
            delete,
            key,
            extra,
            KeyLanguage::FortranAddress,
        )
    }
}

/// An attribute's value as Fortran sees it: predefined attributes are integers behind a pointer.
unsafe fn attribute(attributes: u64, key: i32, flag: *mut i32) -> (i32, i64) {
    let word = objects::attributes_word(attributes);
    let key = t::keyval(key);
    if let Some(number) = crate::windows::number(word, key) {
        // SAFETY: the caller's output.
        unsafe { *flag = 1 };
        return (0, number);
    }
    let mut value: *mut i32 = core::ptr::null_mut();
    let value_p: *mut c_void = (&raw mut value).cast();
    let slot = match mpi_std::kind_of(word) {
        mpi_std::kind::DATATYPE => slot::MPI_Type_get_attr,
        mpi_std::kind::WIN => slot::MPI_Win_get_attr,
        _ => slot::MPI_Comm_get_attr,
    };
    // SAFETY: the three slots have this signature; `flag` is the caller's output.
    unsafe {
        let rc = cross!(slot, fn(u64, i32, *mut c_void, *mut i32) -> i32;
                        word, key, value_p, flag);
        if rc != 0 || *flag == 0 {
            return (rc, 0);
        }
        if mpi_std::keyval_index(key).is_none() {
            return (0, i64::from(crate::attributes::value(key, *value)));
        }
        (0, value as i64)
    }
}

#[no_mangle]
unsafe extern "C" fn ompi_attr_get_fint(
    attributes: u64,
    key: i32,
    value: *mut i32,
    flag: *mut i32,
) -> i32 {
    // SAFETY: the caller's outputs.
    unsafe {
        let (rc, found) = attribute(attributes, key, flag);
        if rc == 0 && *flag != 0 {
            *value = found as i32;
        }
        t::error_back(rc)
    }
}

#[no_mangle]
unsafe extern "C" fn ompi_attr_get_aint(
    attributes: u64,
    key: i32,
    value: *mut i64,
    flag: *mut i32,
) -> i32 {
    // SAFETY: the caller's outputs.
    unsafe {
        let (rc, found) = attribute(attributes, key, flag);
        if rc == 0 && *flag != 0 {
            *value = found;
        }
        t::error_back(rc)
    }
}

unsafe fn set_attribute(object_type: i32, object: t::Handle, key: i32, value: i64) -> i32 {
    let word = t::comm(object);
    let key = t::keyval(key);
    let value = value as *const c_void;
    let slot = match object_type {
        2 => slot::MPI_Type_set_attr,
        3 => slot::MPI_Win_set_attr,
        _ => slot::MPI_Comm_set_attr,
    };
    t::error_back(cross!(slot, fn(u64, i32, *const c_void) -> i32; word, key, value))
}

#[no_mangle]
unsafe extern "C" fn ompi_attr_set_fint(
    object_type: i32,
    object: t::Handle,
    _attributes: *mut c_void,
    key: i32,
    value: i32,
    _predefined: bool,
) -> i32 {
    // SAFETY: as the caller's.
    unsafe { set_attribute(object_type, object, key, i64::from(value)) }
}

#[no_mangle]
unsafe extern "C" fn ompi_attr_set_aint(
    object_type: i32,
    object: t::Handle,
    _attributes: *mut c_void,
    key: i32,
    value: i64,
    _predefined: bool,
) -> i32 {
    // SAFETY: as the caller's.
    unsafe { set_attribute(object_type, object, key, value) }
}

/// `ompi_errhandler_create`: kinds of objects 1 communicator, 2 window, 3 file; languages 0 C, 1 C++,
/// 2 Fortran.
#[no_mangle]
unsafe extern "C" fn ompi_errhandler_create(
    object_type: i32,
    function: *mut c_void,
    language: i32,
) -> t::Handle {
    let slot = match object_type {
        2 => slot::MPI_Win_create_errhandler,
        3 => slot::MPI_File_create_errhandler,
        _ => slot::MPI_Comm_create_errhandler,
    };
    let function = if language == 2 {
        abi::tag_fortran(function as usize) as *mut c_void
    } else {
        function
    };
    let mut word = 0u64;
    let word_p = &raw mut word;
    let rc = cross!(slot, fn(*mut c_void, *mut u64) -> i32; function, word_p);
    if rc != 0 {
        // What the callers take for a failure: `MPI_ERRHANDLER_NULL`.
        return &raw const ompi_mpi_errhandler_null as usize;
    }
    objects::fresh_errhandler(word);
    t::errhandler_back(word)
}

/// `ompi_errhandler_invoke`: an error found by a language library, on any object. The handler of
/// `MPI_COMM_WORLD` decides, as for errors without an object.
#[no_mangle]
unsafe extern "C" fn ompi_errhandler_invoke(
    _handler: *mut c_void,
    _object: *mut c_void,
    _object_type: i32,
    code: i32,
    _message: *const c_char,
) -> i32 {
    let class = t::error(code);
    cross!(slot::MPI_Comm_call_errhandler, fn(u64, i32) -> i32; mpi_std::MPI_COMM_WORLD, class);
    code
}

/// The function behind `MPI_ERRORS_ARE_FATAL`.
#[no_mangle]
unsafe extern "C" fn ompi_mpi_errors_are_fatal_comm_handler(
    _comm: *mut t::Handle,
    code: *mut i32,
    _message: *const c_char,
) {
    // SAFETY: the caller's code, if it has one; the slot's signature is the table's.
    unsafe {
        let code = if code.is_null() { 1 } else { *code };
        cross!(slot::MPI_Abort, fn(u64, i32) -> i32; mpi_std::MPI_COMM_WORLD, code);
    }
}

/// `ompi_op_set_cxx_callback`: the function behind a C++ operation.
#[no_mangle]
unsafe extern "C" fn ompi_op_set_cxx_callback(op: t::Handle, function: usize) {
    objects::set_cxx_function(t::op(op), function);
}

/// `ompi_datatype_match_size`: the datatype for a size, a class and a language.
#[no_mangle]
unsafe extern "C" fn ompi_datatype_match_size(
    size: i32,
    typeclass: u16,
    _language: u16,
) -> t::Handle {
    extern "C" {
        fn PMPI_Type_match_size(typeclass: i32, size: i32, datatype: *mut t::Handle) -> i32;
    }
    let mut found = t::datatype_back(mpi_std::MPI_DATATYPE_NULL);
    // Open MPI's flags for the classes: integers 0x10, floats 0x20, complex 0x40.
    let class = match typeclass {
        0x10 => mpi_std::MPI_TYPECLASS_INTEGER,
        0x20 => mpi_std::MPI_TYPECLASS_REAL,
        _ => mpi_std::MPI_TYPECLASS_COMPLEX,
    };
    // SAFETY: an output of ours.
    unsafe { PMPI_Type_match_size(t::typeclass_back(class), size, &mut found) };
    found
}

const OMPI_SUCCESS: i32 = 0;
const OMPI_ERR_OUT_OF_RESOURCE: i32 = -2;

/// Length of a Fortran string without its trailing blanks.
unsafe fn trimmed(text: *const c_char, len: usize) -> usize {
    let mut n = len;
    // SAFETY: within `len`.
    while n > 0 && unsafe { *text.add(n - 1) } == b' ' as c_char {
        n -= 1;
    }
    n
}

/// `ompi_fortran_string_f2c`: a new C string without leading and trailing blanks.
#[no_mangle]
unsafe extern "C" fn ompi_fortran_string_f2c(
    text: *const c_char,
    len: i32,
    out: *mut *mut c_char,
) -> i32 {
    // SAFETY: the caller's string and output; memory from the program's allocator, as the caller
    // frees it.
    unsafe {
        let end = trimmed(text, t::len(len));
        let mut start = 0;
        while start < end && *text.add(start) == b' ' as c_char {
            start += 1;
        }
        let n = end - start;
        let copy: *mut c_char = malloc(n + 1).cast();
        if copy.is_null() {
            return OMPI_ERR_OUT_OF_RESOURCE;
        }
        core::ptr::copy_nonoverlapping(text.add(start), copy, n);
        *copy.add(n) = 0;
        *out = copy;
    }
    OMPI_SUCCESS
}

/// `ompi_fortran_string_c2f`: copies, cut or filled with blanks to `len`.
#[no_mangle]
unsafe extern "C" fn ompi_fortran_string_c2f(
    text: *const c_char,
    out: *mut c_char,
    len: i32,
) -> i32 {
    let len = t::len(len);
    let mut i = 0;
    // SAFETY: the caller's strings.
    unsafe {
        while i < len && *text.add(i) != 0 {
            *out.add(i) = *text.add(i);
            i += 1;
        }
        while i < len {
            *out.add(i) = b' ' as c_char;
            i += 1;
        }
    }
    OMPI_SUCCESS
}

/// A new NULL-terminated array of `count` C strings, from Fortran strings of `len` characters that
/// are `stride` bytes apart.
unsafe fn strings(
    array: *const c_char,
    len: i32,
    stride: usize,
    count: usize,
    out: *mut *mut *mut c_char,
) -> i32 {
    // SAFETY: the caller's arrays; memory from the program's allocator.
    unsafe {
        let list: *mut *mut c_char = malloc((count + 1) * size_of::<*mut c_char>()).cast();
        if list.is_null() {
            return OMPI_ERR_OUT_OF_RESOURCE;
        }
        for i in 0..count {
            let rc = ompi_fortran_string_f2c(array.add(i * stride), len, list.add(i));
            if rc != OMPI_SUCCESS {
                for j in 0..i {
                    free((*list.add(j)).cast());
                }
                free(list.cast());
                return rc;
            }
        }
        *list.add(count) = core::ptr::null_mut();
        *out = list;
    }
    OMPI_SUCCESS
}

/// `ompi_fortran_argv_count_f2c`: `count` strings.
#[no_mangle]
unsafe extern "C" fn ompi_fortran_argv_count_f2c(
    array: *const c_char,
    count: i32,
    string_len: i32,
    advance: i32,
    out: *mut *mut *mut c_char,
) -> i32 {
    // SAFETY: as the caller's.
    unsafe { strings(array, string_len, t::len(advance), t::len(count), out) }
}

/// `ompi_fortran_argv_blank_f2c`: strings up to a blank one.
#[no_mangle]
unsafe extern "C" fn ompi_fortran_argv_blank_f2c(
    array: *const c_char,
    string_len: i32,
    advance: i32,
    out: *mut *mut *mut c_char,
) -> i32 {
    let stride = t::len(advance);
    let mut count = 0;
    // SAFETY: as the caller's.
    unsafe {
        while trimmed(array.add(count * stride), t::len(string_len)) > 0 {
            count += 1;
        }
        strings(array, string_len, stride, count, out)
    }
}

/// `ompi_fortran_multiple_argvs_f2c`: one argument list for each of `commands`, by rows of a Fortran
/// matrix.
#[no_mangle]
unsafe extern "C" fn ompi_fortran_multiple_argvs_f2c(
    commands: i32,
    array: *const c_char,
    string_len: i32,
    out: *mut *mut *mut *mut c_char,
) -> i32 {
    let n = t::len(commands);
    // SAFETY: as the caller's; memory from the program's allocator.
    unsafe {
        let lists: *mut *mut *mut c_char = malloc((n + 1) * size_of::<*mut c_char>()).cast();
        if lists.is_null() {
            return OMPI_ERR_OUT_OF_RESOURCE;
        }
        for i in 0..n {
            let row = array.add(i * t::len(string_len));
            let rc = ompi_fortran_argv_blank_f2c(
                row,
                string_len,
                string_len.saturating_mul(commands),
                lists.add(i),
            );
            if rc != OMPI_SUCCESS {
                free(lists.cast());
                return rc;
            }
        }
        *lists.add(n) = core::ptr::null_mut();
        *out = lists;
    }
    OMPI_SUCCESS
}
