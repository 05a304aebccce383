//! Attribute keys and attributes of communicators, datatypes and windows, wholly here; the program's copy and
//! delete functions are called through the stub.
//!
//! Lower half. Predefined attributes are answered with the address of a word of this library that
//! never moves while the process lives; the stub copies the value to memory of the upper half.

use crate::errors::{check, finish, function, NO_OBJECT};
use crate::state::{core, Keyval, Outcome, PredefinedType};
use crate::{entry, upcall};
use mpi_std::*;
use std::ffi::c_void;

fn create(
    kind: u8,
    copy: *mut c_void,
    delete: *mut c_void,
    key: *mut i32,
    extra: u64,
    name: &'static str,
) -> i32 {
    let _guard = entry::enter();
    let made = Keyval {
        kind,
        copy: function(copy),
        delete: function(delete),
        extra,
        references: 1,
    };
    let outcome = core()
        .state
        .keyvals
        .insert(made)
        .ok_or(MPI_ERR_OTHER)
        .map(|i| {
            // SAFETY: an output argument.
            unsafe { *key = keyval(i) };
        });
    finish(outcome, crate::errors::NO_OBJECT, name)
}

macro_rules! keys {
    ($($create:ident $free:ident $kind:ident $copy:ident $delete:ident $keyval:ident;)*) => {$(
        pub unsafe extern "C" fn $create($copy: *mut c_void, $delete: *mut c_void, $keyval: *mut i32, extra_state: *const c_void) -> i32 {
            create(kind::$kind, $copy, $delete, $keyval, extra_state as u64, stringify!($create))
        }

        pub unsafe extern "C" fn $free($keyval: *mut i32) -> i32 {
            let _guard = entry::enter();
            // SAFETY: an argument both in and out.
            let outcome = find(unsafe { *$keyval }, kind::$kind).map(|i| {
                unhold(i);
                // SAFETY: as above.
                unsafe { *$keyval = MPI_KEYVAL_INVALID };
            });
            finish(outcome, crate::errors::NO_OBJECT, stringify!($free))
        }
    )*};
}

keys! {
    MPI_Comm_create_keyval MPI_Comm_free_keyval COMM comm_copy_attr_fn comm_delete_attr_fn comm_keyval;
    MPI_Type_create_keyval MPI_Type_free_keyval DATATYPE type_copy_attr_fn type_delete_attr_fn type_keyval;
    MPI_Win_create_keyval MPI_Win_free_keyval WIN win_copy_attr_fn win_delete_attr_fn win_keyval;
}

fn find(key: i32, kind: u8) -> Outcome<u32> {
    let i = keyval_index(key).ok_or(MPI_ERR_KEYVAL)?;
    match core().state.keyvals.get(i) {
        Some(k) if k.kind == kind => Ok(i),
        _ => Err(MPI_ERR_KEYVAL),
    }
}

fn unhold(index: u32) {
    let table = &mut core().state.keyvals;
    let gone = table.get_mut(index).is_some_and(|k| {
        k.references -= 1;
        k.references == 0
    });
    if gone {
        table.remove(index);
    }
}

/// The attributes of an object.
fn list(kind: u8, object: u64) -> Outcome<&'static mut Vec<(i32, u64)>> {
    match kind {
        kind::COMM => core().comm(object).map(|(_, c)| &mut c.attributes),
        kind::WIN => core().window(object).map(|w| &mut w.attributes),
        _ if object < PREDEFINED_END => core().predefined_type(object).map(|t| &mut t.attributes),
        _ => core().datatype_mut(object).map(|t| &mut t.attributes),
    }
}

fn call_delete(object: u64, key: i32, value: u64) -> Outcome {
    let Some(k) = keyval_index(key)
        .and_then(|i| core().state.keyvals.get(i))
        .cloned()
    else {
        return Ok(());
    };
    let mut call = DeleteCall {
        function: k.delete as usize,
        object,
        keyval: key,
        reserved: 0,
        value: value as usize,
        extra: k.extra as usize,
    };
    check(upcall::delete(&mut call))
}

/// Sets an attribute.
pub fn set(kind: u8, object: u64, key: i32, value: u64) -> Outcome {
    let i = find(key, kind)?;
    let old = list(kind, object)?
        .iter()
        .find(|(k, _)| *k == key)
        .map(|(_, v)| *v);
    if let Some(old) = old {
        call_delete(object, key, old)?;
        if let Some(entry) = list(kind, object)?.iter_mut().find(|(k, _)| *k == key) {
            entry.1 = value;
        }
        return Ok(());
    }
    if let Some(k) = core().state.keyvals.get_mut(i) {
        k.references += 1;
    }
    list(kind, object)?.push((key, value));
    Ok(())
}

/// Deletes an attribute.
pub fn delete(kind: u8, object: u64, key: i32) -> Outcome {
    let i = find(key, kind)?;
    let value = list(kind, object)?
        .iter()
        .find(|(k, _)| *k == key)
        .map(|(_, v)| *v)
        .ok_or(MPI_ERR_KEYVAL)?;
    call_delete(object, key, value)?;
    list(kind, object)?.retain(|(k, _)| *k != key);
    unhold(i);
    Ok(())
}

/// Deletes all attributes, the one set last first.
fn delete_all(kind: u8, object: u64) -> Outcome {
    while let Some((key, value)) = list(kind, object)?.last().copied() {
        call_delete(object, key, value)?;
        list(kind, object)?.retain(|(k, _)| *k != key);
        if let Some(i) = keyval_index(key) {
            unhold(i);
        }
    }
    Ok(())
}

/// Copies the attributes of `old` to `new`, which has none; if one cannot be copied, `new` has none again.
fn copy_all(kind: u8, old: u64, new: u64) -> Outcome {
    let copied = copy_each(kind, old, new);
    if copied.is_err() {
        while let Some((key, value)) = list(kind, new)?.pop() {
            let _ = call_delete(new, key, value);
            if let Some(i) = keyval_index(key) {
                unhold(i);
            }
        }
    }
    copied
}

fn copy_each(kind: u8, old: u64, new: u64) -> Outcome {
    for (key, value) in list(kind, old)?.clone() {
        let Some(i) = keyval_index(key) else { continue };
        let Some(k) = core().state.keyvals.get(i).cloned() else {
            continue;
        };
        let mut call = CopyCall {
            function: k.copy as usize,
            object: old,
            keyval: key,
            flag: 0,
            extra: k.extra as usize,
            value_in: value as usize,
            value_out: 0,
        };
        check(upcall::copy(&mut call))?;
        if call.flag != 0 {
            if let Some(k) = core().state.keyvals.get_mut(i) {
                k.references += 1;
            }
            list(kind, new)?.push((key, call.value_out as u64));
        }
    }
    Ok(())
}

/// Copies a communicator's attributes to its duplicate.
pub fn copy_comm(old: u64, new: u64) -> Outcome {
    copy_all(kind::COMM, old, new)
}

/// Deletes a communicator's attributes.
pub fn delete_comm(comm: u64) -> Outcome {
    delete_all(kind::COMM, comm)
}

/// Deletes a window's attributes.
pub fn delete_window(win: u64) -> Outcome {
    delete_all(kind::WIN, win)
}

/// Copies a datatype's attributes to its duplicate.
pub fn copy_type(old: u64, new: u64) -> Outcome {
    let bare = |t: &PredefinedType| t.word != old || t.attributes.is_empty();
    if old < PREDEFINED_END && core().state.predefined_types.iter().all(bare) {
        return Ok(());
    }
    copy_all(kind::DATATYPE, old, new)
}

/// Deletes a datatype's attributes.
pub fn delete_type(datatype: u64) -> Outcome {
    delete_all(kind::DATATYPE, datatype)
}

/// Looks an attribute of the program up.
///
/// # Safety
/// `value` is the address of a pointer, `flag` is writable.
pub unsafe fn get(kind: u8, object: u64, key: i32, value: *mut c_void, flag: *mut i32) -> Outcome {
    find(key, kind)?;
    let found = list(kind, object)?
        .iter()
        .find(|(k, _)| *k == key)
        .map(|(_, v)| *v);
    // SAFETY: output arguments; the first is the address of a pointer.
    unsafe { *flag = found.is_some() as i32 };
    if let Some(v) = found {
        // SAFETY: as above.
        unsafe { *value.cast::<u64>() = v };
    }
    Ok(())
}

/// The value of a predefined attribute of the world.
fn predefined(key: i32) -> Option<&'static i32> {
    let c = core();
    if let Some((_, v)) = c.state.predefined.iter().find(|(k, _)| *k == key) {
        return Some(v);
    }
    None
}

/// The largest tag.
pub fn tag_bound() -> i32 {
    let known = core().state.predefined.iter();
    known
        .filter(|(key, _)| *key == MPI_TAG_UB)
        .map(|(_, bound)| *bound)
        .next()
        .unwrap_or(32767)
}

/// Asks the library for the predefined attributes, at the start. What the program has seen before a
/// restart stays, but for the largest tag, which must be one this library can carry.
pub fn learn_predefined() {
    let c = core();
    let mut out = Vec::new();
    for key in [
        MPI_TAG_UB,
        MPI_HOST,
        MPI_IO,
        MPI_WTIME_IS_GLOBAL,
        MPI_APPNUM,
        MPI_UNIVERSE_SIZE,
        MPI_LASTUSEDCODE,
    ] {
        let (mut at, mut flag) = (std::ptr::null::<i32>(), 0);
        // SAFETY: output arguments of ours.
        let rc = unsafe {
            (c.procs().MPI_Comm_get_attr)(
                MPI_COMM_WORLD,
                key,
                (&mut at as *mut *const i32).cast(),
                &mut flag,
            )
        };
        if rc == MPI_SUCCESS && flag != 0 && !at.is_null() {
            // SAFETY: a predefined attribute of the world is the address of an int.
            out.push((key, unsafe { *at }));
        }
    }
    c.state.predefined = out;
}

pub unsafe extern "C" fn MPI_Comm_get_attr(
    comm: u64,
    comm_keyval: i32,
    attribute_val: *mut c_void,
    flag: *mut i32,
) -> i32 {
    let _guard = entry::enter();
    let outcome = (|| {
        core().comm(comm)?;
        if (MPI_TAG_UB - 1..=MPI_UNIVERSE_SIZE).contains(&comm_keyval) {
            let at = if comm_keyval == MPI_LASTUSEDCODE && !core().state.codes.is_empty() {
                last_used_code()
            } else {
                predefined(comm_keyval)
            };
            // SAFETY: output arguments; the first is the address of a pointer.
            unsafe { *flag = at.is_some() as i32 };
            if let Some(at) = at {
                // SAFETY: as above.
                unsafe { *attribute_val.cast::<*const i32>() = at };
            }
            return Ok(());
        }
        // SAFETY: the program's arguments.
        unsafe { get(kind::COMM, comm, comm_keyval, attribute_val, flag) }
    })();
    finish(outcome, comm, "MPI_Comm_get_attr")
}

/// The code of the program made last.
fn last_used_code() -> Option<&'static i32> {
    core().state.codes.last().map(|(code, _, _)| code)
}

pub unsafe extern "C" fn MPI_Comm_set_attr(
    comm: u64,
    comm_keyval: i32,
    attribute_val: *const c_void,
) -> i32 {
    let _guard = entry::enter();
    finish(
        set(kind::COMM, comm, comm_keyval, attribute_val as u64),
        comm,
        "MPI_Comm_set_attr",
    )
}

pub unsafe extern "C" fn MPI_Comm_delete_attr(comm: u64, comm_keyval: i32) -> i32 {
    let _guard = entry::enter();
    finish(
        delete(kind::COMM, comm, comm_keyval),
        comm,
        "MPI_Comm_delete_attr",
    )
}

pub unsafe extern "C" fn MPI_Type_get_attr(
    datatype: u64,
    type_keyval: i32,
    attribute_val: *mut c_void,
    flag: *mut i32,
) -> i32 {
    let _guard = entry::enter();
    // SAFETY: the program's arguments.
    let outcome = unsafe { get(kind::DATATYPE, datatype, type_keyval, attribute_val, flag) };
    finish(outcome, crate::errors::NO_OBJECT, "MPI_Type_get_attr")
}

pub unsafe extern "C" fn MPI_Type_set_attr(
    datatype: u64,
    type_keyval: i32,
    attribute_val: *const c_void,
) -> i32 {
    let _guard = entry::enter();
    finish(
        set(kind::DATATYPE, datatype, type_keyval, attribute_val as u64),
        NO_OBJECT,
        "MPI_Type_set_attr",
    )
}

pub unsafe extern "C" fn MPI_Type_delete_attr(datatype: u64, type_keyval: i32) -> i32 {
    let _guard = entry::enter();
    finish(
        delete(kind::DATATYPE, datatype, type_keyval),
        NO_OBJECT,
        "MPI_Type_delete_attr",
    )
}
