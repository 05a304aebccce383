//! What a file is: view, hints, group, mode, error handlers; and data representations.
//!
//! Lower half.

use super::{access, finish, merge, pairs_of, raise, text, Datarep, Hints, Pointer, View};
use crate::errors::{self, bytes_of, check, put_string};
use crate::state::{core, Outcome};
use crate::{datatypes, entry, groups, info};
use mpi_std::*;
use std::ffi::{c_char, c_void};

/// `MPI_DISPLACEMENT_CURRENT` of both libraries' headers.
const CURRENT: i64 = -54_278_278;

/// The byte at the shared pointer, for a file that is accessed in sequence.
fn current(fh: u64) -> Outcome<i64> {
    let real = core().file(fh)?.real;
    let procs = core().procs();
    let (mut offset, mut byte) = (0, 0);
    // SAFETY: output arguments of ours, here and below.
    check(unsafe { (procs.MPI_File_get_position_shared)(real, &mut offset) })?;
    // SAFETY: as above.
    check(unsafe { (procs.MPI_File_get_byte_offset)(real, offset, &mut byte) })?;
    Ok(byte)
}

pub unsafe extern "C" fn MPI_File_set_view(
    fh: u64,
    disp: i64,
    etype: u64,
    filetype: u64,
    datarep: *const c_char,
    info: u64,
) -> i32 {
    static NAME: &str = "MPI_File_set_view";
    let _guard = entry::enter();
    let outcome = (|| {
        let sequential = core().file(fh)?.amode & MPI_MODE_SEQUENTIAL != 0;
        let strict = core().adapter.family == Family::Mpich;
        let disp = match disp {
            CURRENT | MPI_DISPLACEMENT_CURRENT_WIDE if sequential => current(fh)?,
            _ if sequential && strict => return Err(MPI_ERR_ARG),
            d => d,
        };
        let (real_etype, real_filetype) = (core().real_type(etype)?, core().real_type(filetype)?);
        let pairs = info::pairs(info)?;
        let hints = Hints::new(info, &pairs)?;
        // SAFETY: a string argument.
        let name = unsafe { bytes_of(datarep) };
        let given = text(&name);
        let access = access::begin(fh, Pointer::None, true, false, &NAME)?;
        let call = core().procs().MPI_File_set_view;
        // SAFETY: real handles and a string of ours.
        let rc = entry::unlocked(|| unsafe {
            call(
                access.real,
                disp,
                real_etype,
                real_filetype,
                given.as_ptr().cast(),
                hints.real(),
            )
        });
        access.end();
        check(rc)?;
        for datatype in [etype, filetype] {
            core().use_type(datatype);
        }
        let f = core().file(fh)?;
        merge(&mut f.info, pairs);
        let old = f.view.replace(View {
            disp,
            etype,
            filetype,
            datarep: name,
        });
        for datatype in old.iter().flat_map(|v| [v.etype, v.filetype]) {
            if datatype >= PREDEFINED_END {
                datatypes::unuse(datatype);
            }
        }
        Ok(())
    })();
    finish(outcome, fh, NAME)
}

/// The standard ABI's `MPI_DISPLACEMENT_CURRENT`.
const MPI_DISPLACEMENT_CURRENT_WIDE: i64 = MPI_DISPLACEMENT_CURRENT as i64;

pub unsafe extern "C" fn MPI_File_get_view(
    fh: u64,
    disp: *mut i64,
    etype: *mut u64,
    filetype: *mut u64,
    datarep: *mut c_char,
) -> i32 {
    let _guard = entry::enter();
    let outcome = (|| {
        let view = core().file(fh)?.view.clone().unwrap_or(View {
            disp: 0,
            etype: MPI_BYTE,
            filetype: MPI_BYTE,
            datarep: b"native".to_vec(),
        });
        for datatype in [view.etype, view.filetype] {
            // A derived one is a handle more that the program holds.
            if datatype >= PREDEFINED_END {
                core().datatype_mut(datatype)?.held += 1;
            }
        }
        // SAFETY: output arguments; the buffer has the length the standard asks for.
        unsafe {
            *disp = view.disp;
            *etype = view.etype;
            *filetype = view.filetype;
            put_string(
                &view.datarep,
                datarep,
                MPI_MAX_DATAREP_STRING as usize,
                std::ptr::null_mut(),
            );
        }
        Ok(())
    })();
    finish(outcome, fh, "MPI_File_get_view")
}

pub unsafe extern "C" fn MPI_File_set_info(fh: u64, info: u64) -> i32 {
    static NAME: &str = "MPI_File_set_info";
    let _guard = entry::enter();
    let outcome = (|| {
        core().file(fh)?;
        let pairs = info::pairs(info)?;
        let hints = Hints::new(info, &pairs)?;
        let access = access::begin(fh, Pointer::None, true, false, &NAME)?;
        let call = core().procs().MPI_File_set_info;
        // SAFETY: real handles.
        let rc = entry::unlocked(|| unsafe { call(access.real, hints.real()) });
        access.end();
        check(rc)?;
        merge(&mut core().file(fh)?.info, pairs);
        Ok(())
    })();
    finish(outcome, fh, NAME)
}

pub unsafe extern "C" fn MPI_File_get_info(fh: u64, info_used: *mut u64) -> i32 {
    let _guard = entry::enter();
    let outcome = (|| {
        let real = core().file(fh)?.real;
        let mut used = MPI_INFO_NULL;
        // SAFETY: an output argument of ours.
        check(unsafe { (core().procs().MPI_File_get_info)(real, &mut used) })?;
        let pairs = pairs_of(used);
        // SAFETY: an object that was made for us.
        unsafe { (core().procs().MPI_Info_free)(&mut used) };
        let word = info::make(pairs?)?;
        // SAFETY: an output argument.
        unsafe { *info_used = word };
        Ok(())
    })();
    finish(outcome, fh, "MPI_File_get_info")
}

pub unsafe extern "C" fn MPI_File_get_group(fh: u64, group: *mut u64) -> i32 {
    let _guard = entry::enter();
    let outcome = (|| {
        let comm = core().file(fh)?.comm;
        let word = groups::of_members(comm)?;
        // SAFETY: an output argument.
        unsafe { *group = word };
        Ok(())
    })();
    finish(outcome, fh, "MPI_File_get_group")
}

pub unsafe extern "C" fn MPI_File_get_amode(fh: u64, amode: *mut i32) -> i32 {
    let _guard = entry::enter();
    // SAFETY: an output argument.
    let outcome = core().file(fh).map(|f| unsafe { *amode = f.amode });
    finish(outcome, fh, "MPI_File_get_amode")
}

/// Names that are there from the beginning.
const PREDEFINED: [&[u8]; 3] = [b"native", b"internal", b"external32"];

/// Both libraries refuse functions that convert; without them Open MPI refuses as well.
pub unsafe extern "C" fn MPI_Register_datarep(
    datarep: *const c_char,
    read_conversion_fn: *mut c_void,
    write_conversion_fn: *mut c_void,
    dtype_file_extent_fn: *mut c_void,
    _extra_state: *const c_void,
) -> i32 {
    // SAFETY: a string argument.
    let name = unsafe { bytes_of(datarep) };
    let functions = [read_conversion_fn, write_conversion_fn];
    register(
        name,
        functions,
        dtype_file_extent_fn,
        "MPI_Register_datarep",
    )
}

/// The same with functions that count in `MPI_Count`; neither kind is ever called.
pub unsafe extern "C" fn MPI_Register_datarep_c(
    datarep: *const c_char,
    read_conversion_fn: *mut c_void,
    write_conversion_fn: *mut c_void,
    dtype_file_extent_fn: *mut c_void,
    _extra_state: *const c_void,
) -> i32 {
    // SAFETY: a string argument.
    let name = unsafe { bytes_of(datarep) };
    let functions = [read_conversion_fn, write_conversion_fn];
    register(
        name,
        functions,
        dtype_file_extent_fn,
        "MPI_Register_datarep_c",
    )
}

fn register(
    name: Vec<u8>,
    conversions: [*mut c_void; 2],
    extent: *mut c_void,
    procedure: &'static str,
) -> i32 {
    let _guard = entry::enter();
    let known = &core().state.datareps;
    let mpich = core().adapter.family == Family::Mpich;
    let longest = MPI_MAX_DATAREP_STRING as usize;
    let outcome =
        if name.is_empty() || name.len() >= longest + usize::from(mpich) || extent.is_null() {
            Err(MPI_ERR_ARG)
        } else if conversions.iter().any(|f| !f.is_null()) {
            Err(MPI_ERR_CONVERSION)
        } else if known.iter().any(|d| d.name == name) {
            Err(MPI_ERR_DUP_DATAREP)
        } else if mpich {
            // The names that are there from the beginning can be given once more.
            core().state.datareps.push(Datarep { name });
            Ok(())
        } else if PREDEFINED.contains(&name.as_slice()) {
            Err(MPI_ERR_DUP_DATAREP)
        } else {
            Err(MPI_ERR_OTHER)
        };
    finish(outcome, MPI_FILE_NULL, procedure)
}

/// The handler of a file; that of the null file is what new files get.
fn handler(fh: u64) -> Outcome<&'static mut u64> {
    match fh {
        MPI_FILE_NULL => Ok(&mut core().state.file_errhandler),
        word => core().file(word).map(|f| &mut f.errhandler),
    }
}

pub unsafe extern "C" fn MPI_File_set_errhandler(file: u64, errhandler: u64) -> i32 {
    let _guard = entry::enter();
    let outcome = (|| {
        let new = errors::handler(errhandler)?;
        let old = std::mem::replace(handler(file)?, new);
        errors::hold(new);
        errors::release(old);
        Ok(())
    })();
    finish(outcome, file, "MPI_File_set_errhandler")
}

pub unsafe extern "C" fn MPI_File_get_errhandler(file: u64, errhandler: *mut u64) -> i32 {
    let _guard = entry::enter();
    let outcome = handler(file).map(|h| *h).map(|h| {
        errors::hold(h);
        // SAFETY: an output argument.
        unsafe { *errhandler = h };
    });
    finish(outcome, file, "MPI_File_get_errhandler")
}

pub unsafe extern "C" fn MPI_File_call_errhandler(fh: u64, errorcode: i32) -> i32 {
    let _guard = entry::enter();
    if let Err(code) = handler(fh).map(|_| ()) {
        return raise(MPI_FILE_NULL, code, "MPI_File_call_errhandler");
    }
    crate::explanations::forget();
    raise(fh, errorcode, "MPI_File_call_errhandler");
    MPI_SUCCESS
}
