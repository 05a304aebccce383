//! Fortran procedures that Debian's `libmpi.so.40` itself has: the predefined attribute functions,
//! clocks and address arithmetic, each under the spellings of four compilers' conventions.

use crate::local;

macro_rules! spellings {
    ($($upper:literal $lower:literal $body:literal)*) => {$(
        core::arch::global_asm!(
            ".text",
            concat!(".globl ", $upper),
            concat!(".globl ", $lower),
            concat!(".globl ", $lower, "_"),
            concat!(".globl ", $lower, "__"),
            concat!(".type ", $upper, ", @function"),
            concat!(".type ", $lower, ", @function"),
            concat!(".type ", $lower, "_, @function"),
            concat!(".type ", $lower, "__, @function"),
            ".p2align 4",
            concat!($upper, ":"),
            concat!($lower, ":"),
            concat!($lower, "_:"),
            concat!($lower, "__:"),
            concat!("jmp ", $body),
        );
    )*};
}

spellings! {
    "MPI_COMM_DUP_FN" "mpi_comm_dup_fn" "mana_f_dup"
    "MPI_COMM_NULL_COPY_FN" "mpi_comm_null_copy_fn" "mana_f_null_copy"
    "MPI_COMM_NULL_DELETE_FN" "mpi_comm_null_delete_fn" "mana_f_null_delete"
    "MPI_TYPE_DUP_FN" "mpi_type_dup_fn" "mana_f_dup"
    "MPI_TYPE_NULL_COPY_FN" "mpi_type_null_copy_fn" "mana_f_null_copy"
    "MPI_TYPE_NULL_DELETE_FN" "mpi_type_null_delete_fn" "mana_f_null_delete"
    "MPI_WIN_DUP_FN" "mpi_win_dup_fn" "mana_f_dup"
    "MPI_WIN_NULL_COPY_FN" "mpi_win_null_copy_fn" "mana_f_null_copy"
    "MPI_WIN_NULL_DELETE_FN" "mpi_win_null_delete_fn" "mana_f_null_delete"
    "MPI_DUP_FN" "mpi_dup_fn" "mana_f_dup_integer"
    "MPI_NULL_COPY_FN" "mpi_null_copy_fn" "mana_f_null_copy"
    "MPI_NULL_DELETE_FN" "mpi_null_delete_fn" "mana_f_null_delete"
    "MPI_CONVERSION_FN_NULL" "mpi_conversion_fn_null" "mana_f_no_conversion"
    "MPI_WTIME_F90" "mpi_wtime_f90" "mana_f_wtime"
    "MPI_WTICK_F90" "mpi_wtick_f90" "mana_f_wtick"
    "MPI_AINT_ADD_F90" "mpi_aint_add_f90" "mana_f_aint_add"
    "MPI_AINT_DIFF_F90" "mpi_aint_diff_f90" "mana_f_aint_diff"
}

#[no_mangle]
unsafe extern "C" fn mana_f_dup(
    _object: *mut i32,
    _key: *mut i32,
    _extra: *mut i64,
    value: *mut i64,
    out: *mut i64,
    flag: *mut i32,
    error: *mut i32,
) {
    // SAFETY: the arguments of a Fortran copy function.
    unsafe {
        *flag = 1;
        *out = *value;
        *error = 0;
    }
}

#[no_mangle]
unsafe extern "C" fn mana_f_dup_integer(
    _object: *mut i32,
    _key: *mut i32,
    _extra: *mut i32,
    value: *mut i32,
    out: *mut i32,
    flag: *mut i32,
    error: *mut i32,
) {
    // SAFETY: the arguments of a Fortran copy function of MPI-1.
    unsafe {
        *flag = 1;
        *out = *value;
        *error = 0;
    }
}

#[no_mangle]
unsafe extern "C" fn mana_f_null_copy(
    _object: *mut i32,
    _key: *mut i32,
    _extra: *mut i64,
    _value: *mut i64,
    _out: *mut i64,
    flag: *mut i32,
    error: *mut i32,
) {
    // SAFETY: the arguments of a Fortran copy function.
    unsafe {
        *flag = 0;
        *error = 0;
    }
}

#[no_mangle]
unsafe extern "C" fn mana_f_null_delete(
    _object: *mut i32,
    _key: *mut i32,
    _value: *mut i64,
    _extra: *mut i64,
    error: *mut i32,
) {
    // SAFETY: the arguments of a Fortran delete function.
    unsafe { *error = 0 };
}

#[no_mangle]
unsafe extern "C" fn mana_f_no_conversion(
    _user: *mut i32,
    _datatype: *mut i32,
    _count: *mut i32,
    _file: *mut i32,
    _position: *mut i64,
    _extra: *mut i64,
    error: *mut i32,
) {
    // SAFETY: the arguments of a Fortran conversion function.
    unsafe { *error = 0 };
}

#[no_mangle]
unsafe extern "C" fn mana_f_wtime(time: *mut f64) {
    // SAFETY: the caller's output.
    unsafe { *time = local::mana_MPI_Wtime() };
}

#[no_mangle]
unsafe extern "C" fn mana_f_wtick(tick: *mut f64) {
    // SAFETY: the caller's output.
    unsafe { *tick = local::mana_MPI_Wtick() };
}

#[no_mangle]
unsafe extern "C" fn mana_f_aint_add(base: *const i64, disp: *const i64, sum: *mut i64) {
    // SAFETY: the caller's numbers.
    unsafe { *sum = (*base).wrapping_add(*disp) };
}

#[no_mangle]
unsafe extern "C" fn mana_f_aint_diff(a: *const i64, b: *const i64, difference: *mut i64) {
    // SAFETY: the caller's numbers.
    unsafe { *difference = (*a).wrapping_sub(*b) };
}
