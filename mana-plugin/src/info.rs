//! Info objects, wholly here. None is passed to the library: their hints are about how the library
//! works inside, which is not the program's when a checkpoint layer is between.
//!
//! Lower half.

use crate::entry;
use crate::errors::{bytes_of, check, finish, put_string};
use crate::state::{core, Outcome};
use mpi_std::*;
use std::ffi::{c_char, c_void};

/// Keys and values in the order they were set.
pub type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

fn table(word: u64) -> Outcome<&'static mut Pairs> {
    if kind_of(word) != kind::INFO {
        return Err(MPI_ERR_INFO);
    }
    core()
        .state
        .infos
        .get_mut(index_of(word))
        .ok_or(MPI_ERR_INFO)
}

/// What an info object holds; nothing for the null object and the environment's.
pub fn pairs(word: u64) -> Outcome<Pairs> {
    match word {
        MPI_INFO_NULL | MPI_INFO_ENV => Ok(Vec::new()),
        w => table(w).map(|p| p.clone()),
    }
}

/// [`pairs`] of an object that must be one.
fn existing(word: u64) -> Outcome<Pairs> {
    if word == MPI_INFO_NULL && core().active {
        // The libraries differ in the class.
        let mut n = 0;
        // SAFETY: an output argument of ours.
        check(unsafe { (core().procs().MPI_Info_get_nkeys)(word, &mut n) })?;
        return Err(MPI_ERR_INFO);
    }
    pairs(word)
}

/// A new info object.
pub fn make(pairs: Pairs) -> Outcome<u64> {
    core()
        .state
        .infos
        .insert(pairs)
        .map(|i| handle(kind::INFO, i))
        .ok_or(MPI_ERR_OTHER)
}

unsafe fn give(outcome: Outcome<u64>, out: *mut u64, name: &'static str) -> i32 {
    let outcome = outcome.map(|w| {
        // SAFETY: an output argument.
        unsafe { *out = w };
    });
    finish(outcome, MPI_COMM_WORLD, name)
}

pub unsafe extern "C" fn MPI_Info_create(info: *mut u64) -> i32 {
    let _guard = entry::enter();
    // SAFETY: an output argument.
    unsafe { give(make(Vec::new()), info, "MPI_Info_create") }
}

pub unsafe extern "C" fn MPI_Info_create_env(
    argc: *mut i32,
    argv: *mut c_void,
    info: *mut u64,
) -> i32 {
    let _guard = entry::enter();
    let _ = (argc, argv);
    // SAFETY: an output argument.
    unsafe { give(make(Vec::new()), info, "MPI_Info_create_env") }
}

pub unsafe extern "C" fn MPI_Info_dup(info: u64, newinfo: *mut u64) -> i32 {
    let _guard = entry::enter();
    // SAFETY: an output argument.
    unsafe { give(existing(info).and_then(make), newinfo, "MPI_Info_dup") }
}

pub unsafe extern "C" fn MPI_Info_free(info: *mut u64) -> i32 {
    let _guard = entry::enter();
    // SAFETY: an argument both in and out.
    let word = unsafe { *info };
    let outcome = table(word).map(|_| {
        core().state.infos.remove(index_of(word));
        // SAFETY: as above.
        unsafe { *info = MPI_INFO_NULL };
    });
    finish(outcome, MPI_COMM_WORLD, "MPI_Info_free")
}

pub unsafe extern "C" fn MPI_Info_set(info: u64, key: *const c_char, value: *const c_char) -> i32 {
    let _guard = entry::enter();
    // SAFETY: string arguments.
    let (key, value) = unsafe { (bytes_of(key), bytes_of(value)) };
    let outcome = (|| {
        if key.is_empty() || key.len() >= MPI_MAX_INFO_KEY as usize {
            return Err(MPI_ERR_INFO_KEY);
        }
        if value.len() >= MPI_MAX_INFO_VAL as usize {
            return Err(MPI_ERR_INFO_VALUE);
        }
        let t = table(info)?;
        match t.iter_mut().find(|(k, _)| *k == key) {
            Some(entry) => entry.1 = value,
            None => t.push((key, value)),
        }
        Ok(())
    })();
    finish(outcome, MPI_COMM_WORLD, "MPI_Info_set")
}

pub unsafe extern "C" fn MPI_Info_delete(info: u64, key: *const c_char) -> i32 {
    let _guard = entry::enter();
    // SAFETY: a string argument.
    let key = unsafe { bytes_of(key) };
    let outcome = (|| {
        let t = table(info)?;
        let at = t
            .iter()
            .position(|(k, _)| *k == key)
            .ok_or(MPI_ERR_INFO_NOKEY)?;
        t.remove(at);
        Ok(())
    })();
    finish(outcome, MPI_COMM_WORLD, "MPI_Info_delete")
}

fn value_of(info: u64, key: &[u8]) -> Outcome<Option<Vec<u8>>> {
    Ok(existing(info)?
        .into_iter()
        .find(|(k, _)| k == key)
        .map(|(_, v)| v))
}

pub unsafe extern "C" fn MPI_Info_get(
    info: u64,
    key: *const c_char,
    valuelen: i32,
    value: *mut c_char,
    flag: *mut i32,
) -> i32 {
    let _guard = entry::enter();
    // SAFETY: a string argument.
    let outcome = value_of(info, &unsafe { bytes_of(key) }).map(|found| {
        // SAFETY: an output argument.
        unsafe { *flag = found.is_some() as i32 };
        if let Some(v) = found {
            // The buffer has one byte more than `valuelen`.
            // SAFETY: as the standard asks of the program.
            unsafe {
                put_string(
                    &v,
                    value,
                    valuelen.max(0) as usize + 1,
                    std::ptr::null_mut(),
                )
            };
        }
    });
    finish(outcome, MPI_COMM_WORLD, "MPI_Info_get")
}

pub unsafe extern "C" fn MPI_Info_get_string(
    info: u64,
    key: *const c_char,
    buflen: *mut i32,
    value: *mut c_char,
    flag: *mut i32,
) -> i32 {
    let _guard = entry::enter();
    // SAFETY: a string argument.
    let outcome = value_of(info, &unsafe { bytes_of(key) }).map(|found| {
        // SAFETY: an output argument.
        unsafe { *flag = found.is_some() as i32 };
        if let Some(v) = found {
            // SAFETY: an argument both in and out.
            let room = unsafe { *buflen }.max(0) as usize;
            if room > 0 {
                // SAFETY: the buffer has `buflen` bytes.
                unsafe { put_string(&v, value, room, std::ptr::null_mut()) };
            }
            // SAFETY: as above.
            unsafe { *buflen = v.len() as i32 + 1 };
        }
    });
    finish(outcome, MPI_COMM_WORLD, "MPI_Info_get_string")
}

pub unsafe extern "C" fn MPI_Info_get_valuelen(
    info: u64,
    key: *const c_char,
    valuelen: *mut i32,
    flag: *mut i32,
) -> i32 {
    let _guard = entry::enter();
    // SAFETY: a string argument.
    let outcome = value_of(info, &unsafe { bytes_of(key) }).map(|found| {
        // SAFETY: output arguments.
        unsafe { *flag = found.is_some() as i32 };
        if let Some(v) = found {
            // SAFETY: as above.
            unsafe { *valuelen = v.len() as i32 };
        }
    });
    finish(outcome, MPI_COMM_WORLD, "MPI_Info_get_valuelen")
}

pub unsafe extern "C" fn MPI_Info_get_nkeys(info: u64, nkeys: *mut i32) -> i32 {
    let _guard = entry::enter();
    // SAFETY: an output argument.
    let outcome = existing(info).map(|p| unsafe { *nkeys = p.len() as i32 });
    finish(outcome, MPI_COMM_WORLD, "MPI_Info_get_nkeys")
}

pub unsafe extern "C" fn MPI_Info_get_nthkey(info: u64, n: i32, key: *mut c_char) -> i32 {
    let _guard = entry::enter();
    let outcome = existing(info).and_then(|p| {
        let (k, _) = usize::try_from(n)
            .ok()
            .and_then(|n| p.get(n))
            .ok_or(MPI_ERR_ARG)?;
        // SAFETY: the program's buffer has the length the standard asks for.
        unsafe { put_string(k, key, MPI_MAX_INFO_KEY as usize, std::ptr::null_mut()) };
        Ok(())
    });
    finish(outcome, MPI_COMM_WORLD, "MPI_Info_get_nthkey")
}
