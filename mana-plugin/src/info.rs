//! Info objects, wholly here. The library gets one of its own ([`Hints`]) where the hints say what is to be
//! done; hints about how the library works inside are kept and not passed on.
//!
//! Lower half.

use crate::errors::{bytes_of, check, finish, put_string};
use crate::state::{core, Outcome};
use crate::{entry, library};
use mpi_std::*;
use std::ffi::{c_char, c_void};

/// Keys and values in the order they were set.
pub type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

fn table(word: u64) -> Outcome<&'static mut Pairs> {
    if word == MPI_INFO_ENV {
        return Ok(&mut core().state.environment);
    }
    if kind_of(word) != kind::INFO {
        return Err(MPI_ERR_INFO);
    }
    core()
        .state
        .infos
        .get_mut(index_of(word))
        .ok_or(MPI_ERR_INFO)
}

/// What an info object holds; nothing for the null object.
pub fn pairs(word: u64) -> Outcome<Pairs> {
    match word {
        MPI_INFO_NULL => Ok(Vec::new()),
        w => table(w).map(|p| p.clone()),
    }
}

/// Notes what the library says of the job, at its beginning: a resume changes nothing of it. The command that
/// the library knows is ours, or none; the program gets its own. `given`: `MPI_Init` was given the arguments.
pub fn learn_environment(given: bool) {
    let c = core();
    let Ok(mut found) = pairs_of(MPI_INFO_ENV) else {
        return;
    };
    let version = &c.state.library.version;
    let known = found.iter().any(|(key, _)| key == b"command");
    if known || given && library::takes_command(version) {
        let (mut command, arguments) = c.hooks.command();
        if !library::names_whole_path(version) {
            let name = command.iter().rposition(|b| *b == b'/');
            command.drain(..name.map_or(0, |at| at + 1));
        }
        found.retain(|(key, _)| key != b"command" && key != b"argv");
        if !arguments.is_empty() {
            found.insert(0, (b"argv".to_vec(), arguments));
        }
        found.insert(0, (b"command".to_vec(), command));
    }
    c.state.environment = found;
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

/// An info object of the library, for one call.
pub struct Hints(u64);

impl Hints {
    /// One with these pairs; `word`: the program's object, of which the null one stays null.
    pub fn new(word: u64, pairs: &Pairs) -> Outcome<Hints> {
        if word == MPI_INFO_NULL {
            return Ok(Hints(MPI_INFO_NULL));
        }
        let procs = core().procs();
        let mut hints = Hints(MPI_INFO_NULL);
        // SAFETY: an output argument of ours.
        check(unsafe { (procs.MPI_Info_create)(&mut hints.0) })?;
        for (key, value) in pairs {
            let (key, value) = (text(key), text(value));
            let (key, value) = (key.as_ptr().cast(), value.as_ptr().cast());
            // SAFETY: strings of ours.
            check(unsafe { (procs.MPI_Info_set)(hints.0, key, value) })?;
        }
        Ok(hints)
    }

    /// One that says what the program's object says; null if that is nothing.
    pub fn of(word: u64) -> Outcome<Hints> {
        let pairs = pairs(word).unwrap_or_default();
        let word = if pairs.is_empty() {
            MPI_INFO_NULL
        } else {
            word
        };
        Hints::new(word, &pairs)
    }

    /// Its handle.
    pub fn real(&self) -> u64 {
        self.0
    }
}

impl Drop for Hints {
    fn drop(&mut self) {
        if self.0 != MPI_INFO_NULL {
            // SAFETY: an object of ours.
            unsafe { (core().procs().MPI_Info_free)(&mut self.0) };
        }
    }
}

/// What the library has added to an object of the program, in a call that was given `hints` made of it.
pub fn update(word: u64, hints: &Hints) -> Outcome {
    if hints.real() == MPI_INFO_NULL {
        return Ok(());
    }
    let found = pairs_of(hints.real())?;
    *table(word)? = found;
    Ok(())
}

/// With a NUL at the end.
pub fn text(bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    out.push(0);
    out
}

/// The pairs of an info object of the library.
pub fn pairs_of(real: u64) -> Outcome<Pairs> {
    let procs = core().procs();
    let mut n = 0;
    // SAFETY: output arguments of ours, in this and the following calls.
    check(unsafe { (procs.MPI_Info_get_nkeys)(real, &mut n) })?;
    let mut out = Pairs::new();
    for i in 0..n {
        let mut key = [0 as c_char; MPI_MAX_INFO_KEY as usize + 1];
        // SAFETY: as above.
        check(unsafe { (procs.MPI_Info_get_nthkey)(real, i, key.as_mut_ptr()) })?;
        let mut value = [0 as c_char; MPI_MAX_INFO_VAL as usize + 1];
        let mut flag = 0;
        // SAFETY: as above; the buffer has one byte more than is said.
        check(unsafe {
            (procs.MPI_Info_get)(
                real,
                key.as_ptr(),
                MPI_MAX_INFO_VAL,
                value.as_mut_ptr(),
                &mut flag,
            )
        })?;
        if flag != 0 {
            // SAFETY: strings that the library has ended.
            out.push(unsafe { (bytes_of(key.as_ptr()), bytes_of(value.as_ptr())) });
        }
    }
    Ok(out)
}

unsafe fn give(outcome: Outcome<u64>, out: *mut u64, name: &'static str) -> i32 {
    let outcome = outcome.map(|w| {
        // SAFETY: an output argument.
        unsafe { *out = w };
    });
    finish(outcome, crate::errors::NO_OBJECT, name)
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
    let environment = core().state.environment.clone();
    // SAFETY: an output argument.
    unsafe { give(make(environment), info, "MPI_Info_create_env") }
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
    let outcome = table(word).and_then(|_| {
        if word == MPI_INFO_ENV {
            return Err(MPI_ERR_INFO);
        }
        core().state.infos.remove(index_of(word));
        // SAFETY: as above.
        unsafe { *info = MPI_INFO_NULL };
        Ok(())
    });
    finish(outcome, crate::errors::NO_OBJECT, "MPI_Info_free")
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
    finish(outcome, crate::errors::NO_OBJECT, "MPI_Info_set")
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
    finish(outcome, crate::errors::NO_OBJECT, "MPI_Info_delete")
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
    finish(outcome, crate::errors::NO_OBJECT, "MPI_Info_get")
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
    finish(outcome, crate::errors::NO_OBJECT, "MPI_Info_get_string")
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
    finish(outcome, crate::errors::NO_OBJECT, "MPI_Info_get_valuelen")
}

pub unsafe extern "C" fn MPI_Info_get_nkeys(info: u64, nkeys: *mut i32) -> i32 {
    let _guard = entry::enter();
    // SAFETY: an output argument.
    let outcome = existing(info).map(|p| unsafe { *nkeys = p.len() as i32 });
    finish(outcome, crate::errors::NO_OBJECT, "MPI_Info_get_nkeys")
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
    finish(outcome, crate::errors::NO_OBJECT, "MPI_Info_get_nthkey")
}
