//! Derived datatypes: each is kept as its recipe in the form of `MPI_Type_get_contents`, from which
//! the real one is made, now and at every restart.
//!
//! Lower half. A datatype lives while the program holds a handle, or another datatype or a request
//! needs it.

use crate::errors::{self, check, finish, put_string};
use crate::state::{core, Datatype, Outcome, Recipe};
use crate::{attributes, darray, entry, library};
use mpi_std::*;
use std::ffi::c_char;

/// Makes the real datatype of a recipe.
pub fn construct(recipe: &Recipe) -> Outcome<u64> {
    let c = core();
    let p = c.procs();
    let ints = &recipe.integers;
    let addresses = recipe.addresses.as_ptr();
    let types: Vec<u64> = recipe
        .types
        .iter()
        .map(|t| c.real_type(*t))
        .collect::<Outcome<_>>()?;
    let old = types.first().copied().unwrap_or(MPI_DATATYPE_NULL);
    let int = |i: usize| ints.get(i).copied().unwrap_or(0);
    let address = |i: usize| recipe.addresses.get(i).copied().unwrap_or(0);
    let part = |from: usize| ints.get(from..).unwrap_or(&[]).as_ptr();
    let n = int(0);
    let at = n.max(0) as usize;
    if recipe.combiner == MPI_COMBINER_DARRAY && library::misplaces_arrays(&c.state.library.version)
    {
        if let Some(real) = darray::of_recipe(ints, old)? {
            return Ok(real);
        }
    }
    let mut new = MPI_DATATYPE_NULL;
    let out = &mut new;
    // SAFETY: the recipe holds the arrays in the lengths the constructor reads (`create` and the
    // standard's table of contents).
    check(unsafe {
        match recipe.combiner {
            MPI_COMBINER_DUP => (p.MPI_Type_dup)(old, out),
            MPI_COMBINER_CONTIGUOUS => (p.MPI_Type_contiguous)(n, old, out),
            MPI_COMBINER_VECTOR => (p.MPI_Type_vector)(n, int(1), int(2), old, out),
            MPI_COMBINER_HVECTOR => (p.MPI_Type_create_hvector)(n, int(1), address(0), old, out),
            MPI_COMBINER_INDEXED => (p.MPI_Type_indexed)(n, part(1), part(1 + at), old, out),
            MPI_COMBINER_HINDEXED => (p.MPI_Type_create_hindexed)(n, part(1), addresses, old, out),
            MPI_COMBINER_INDEXED_BLOCK => {
                (p.MPI_Type_create_indexed_block)(n, int(1), part(2), old, out)
            }
            MPI_COMBINER_HINDEXED_BLOCK => {
                (p.MPI_Type_create_hindexed_block)(n, int(1), addresses, old, out)
            }
            MPI_COMBINER_STRUCT => {
                (p.MPI_Type_create_struct)(n, part(1), addresses, types.as_ptr(), out)
            }
            MPI_COMBINER_SUBARRAY => (p.MPI_Type_create_subarray)(
                n,
                part(1),
                part(1 + at),
                part(1 + 2 * at),
                int(1 + 3 * at),
                old,
                out,
            ),
            MPI_COMBINER_DARRAY => {
                let d = int(2).max(0) as usize;
                let (sizes, distribs, dargs, psizes) =
                    (part(3), part(3 + d), part(3 + 2 * d), part(3 + 3 * d));
                (p.MPI_Type_create_darray)(
                    n,
                    int(1),
                    int(2),
                    sizes,
                    distribs,
                    dargs,
                    psizes,
                    int(3 + 4 * d),
                    old,
                    out,
                )
            }
            MPI_COMBINER_RESIZED => (p.MPI_Type_create_resized)(old, address(0), address(1), out),
            MPI_COMBINER_F90_REAL => (p.MPI_Type_create_f90_real)(n, int(1), out),
            MPI_COMBINER_F90_COMPLEX => (p.MPI_Type_create_f90_complex)(n, int(1), out),
            MPI_COMBINER_F90_INTEGER => (p.MPI_Type_create_f90_integer)(n, out),
            _ => MPI_ERR_TYPE,
        }
    })?;
    Ok(new)
}

/// Makes a datatype of the program.
fn create(recipe: Recipe, out: *mut u64, name: &'static str) -> i32 {
    let _guard = entry::enter();
    let outcome = make(recipe).map(|w| {
        // SAFETY: an output argument.
        unsafe { *out = w };
    });
    finish(outcome, crate::errors::NO_OBJECT, name)
}

/// Makes a datatype that the program may have.
pub fn make(recipe: Recipe) -> Outcome<u64> {
    let real = construct(&recipe)?;
    let c = core();
    if real < PREDEFINED_END {
        return Ok(real);
    }
    for t in recipe.types.clone() {
        c.use_type(t);
    }
    let serial = c.next_serial();
    let named = matches!(
        recipe.combiner,
        MPI_COMBINER_F90_REAL | MPI_COMBINER_F90_COMPLEX | MPI_COMBINER_F90_INTEGER
    );
    let made = Datatype {
        real,
        recipe,
        held: 1,
        used: 0,
        committed: named,
        serial,
        name: Vec::new(),
        attributes: Vec::new(),
    };
    let i = c.state.datatypes.insert(made).ok_or(MPI_ERR_OTHER)?;
    Ok(handle(kind::DATATYPE, i))
}

/// A request or datatype does not need `word` any more.
pub fn unuse(word: u64) {
    if let Ok(t) = core().datatype_mut(word) {
        t.used -= 1;
        sweep(word);
    }
}

/// Forgets a datatype that nobody needs.
fn sweep(word: u64) {
    let c = core();
    if !c.datatype(word).is_ok_and(|t| t.held == 0 && t.used == 0) {
        return;
    }
    let Some(gone) = c.state.datatypes.remove(index_of(word)) else {
        return;
    };
    let f90 = matches!(
        gone.recipe.combiner,
        MPI_COMBINER_F90_REAL | MPI_COMBINER_F90_COMPLEX | MPI_COMBINER_F90_INTEGER
    );
    let mut real = gone.real;
    crate::ops::forget_type(real);
    // SAFETY: a datatype of the library that nothing uses; those of F90 must not be freed.
    if !f90 && unsafe { (c.procs().MPI_Type_free)(&mut real) } != MPI_SUCCESS {
        log::warn!("freeing a datatype failed");
    }
    for t in gone.recipe.types {
        if t >= PREDEFINED_END {
            unuse(t);
        }
    }
}

/// The program's array as a vector.
///
/// # Safety
/// `array` has `n` elements, or `n` is not positive.
unsafe fn copied<T: Copy>(array: *const T, n: i32) -> Vec<T> {
    if n <= 0 || array.is_null() {
        return Vec::new();
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(array, n as usize) }.to_vec()
}

/// A recipe with one type in it.
pub fn recipe(combiner: i32, integers: Vec<i32>, addresses: Vec<i64>, old: u64) -> Recipe {
    Recipe {
        combiner,
        integers,
        addresses,
        types: vec![old],
    }
}

fn joined(parts: &[&[i32]]) -> Vec<i32> {
    parts.concat()
}

pub unsafe extern "C" fn MPI_Type_dup(oldtype: u64, newtype: *mut u64) -> i32 {
    let _guard = entry::enter();
    let outcome = (|| {
        let new = make(recipe(MPI_COMBINER_DUP, vec![], vec![], oldtype))?;
        let committed = oldtype < PREDEFINED_END || core().datatype(oldtype)?.committed;
        core().datatype_mut(new)?.committed = committed;
        let copied = attributes::copy_type(oldtype, new);
        let mut word = new;
        if copied.is_err() {
            core().datatype_mut(new)?.held -= 1;
            sweep(new);
            word = MPI_DATATYPE_NULL;
        }
        // SAFETY: an output argument.
        unsafe { *newtype = word };
        copied
    })();
    finish(outcome, crate::errors::NO_OBJECT, "MPI_Type_dup")
}

pub unsafe extern "C" fn MPI_Type_contiguous(count: i32, oldtype: u64, newtype: *mut u64) -> i32 {
    create(
        recipe(MPI_COMBINER_CONTIGUOUS, vec![count], vec![], oldtype),
        newtype,
        "MPI_Type_contiguous",
    )
}

pub unsafe extern "C" fn MPI_Type_vector(
    count: i32,
    blocklength: i32,
    stride: i32,
    oldtype: u64,
    newtype: *mut u64,
) -> i32 {
    create(
        recipe(
            MPI_COMBINER_VECTOR,
            vec![count, blocklength, stride],
            vec![],
            oldtype,
        ),
        newtype,
        "MPI_Type_vector",
    )
}

pub unsafe extern "C" fn MPI_Type_create_hvector(
    count: i32,
    blocklength: i32,
    stride: i64,
    oldtype: u64,
    newtype: *mut u64,
) -> i32 {
    create(
        recipe(
            MPI_COMBINER_HVECTOR,
            vec![count, blocklength],
            vec![stride],
            oldtype,
        ),
        newtype,
        "MPI_Type_create_hvector",
    )
}

pub unsafe extern "C" fn MPI_Type_indexed(
    count: i32,
    array_of_blocklengths: *const i32,
    array_of_displacements: *const i32,
    oldtype: u64,
    newtype: *mut u64,
) -> i32 {
    // SAFETY: the program's arrays.
    let (lengths, displacements) = unsafe {
        (
            copied(array_of_blocklengths, count),
            copied(array_of_displacements, count),
        )
    };
    let ints = joined(&[&[count], &lengths, &displacements]);
    create(
        recipe(MPI_COMBINER_INDEXED, ints, vec![], oldtype),
        newtype,
        "MPI_Type_indexed",
    )
}

pub unsafe extern "C" fn MPI_Type_create_hindexed(
    count: i32,
    array_of_blocklengths: *const i32,
    array_of_displacements: *const i64,
    oldtype: u64,
    newtype: *mut u64,
) -> i32 {
    // SAFETY: the program's arrays.
    let (lengths, displacements) = unsafe {
        (
            copied(array_of_blocklengths, count),
            copied(array_of_displacements, count),
        )
    };
    let ints = joined(&[&[count], &lengths]);
    create(
        recipe(MPI_COMBINER_HINDEXED, ints, displacements, oldtype),
        newtype,
        "MPI_Type_create_hindexed",
    )
}

pub unsafe extern "C" fn MPI_Type_create_indexed_block(
    count: i32,
    blocklength: i32,
    array_of_displacements: *const i32,
    oldtype: u64,
    newtype: *mut u64,
) -> i32 {
    // SAFETY: the program's array.
    let displacements = unsafe { copied(array_of_displacements, count) };
    let ints = joined(&[&[count, blocklength], &displacements]);
    create(
        recipe(MPI_COMBINER_INDEXED_BLOCK, ints, vec![], oldtype),
        newtype,
        "MPI_Type_create_indexed_block",
    )
}

pub unsafe extern "C" fn MPI_Type_create_hindexed_block(
    count: i32,
    blocklength: i32,
    array_of_displacements: *const i64,
    oldtype: u64,
    newtype: *mut u64,
) -> i32 {
    // SAFETY: the program's array.
    let displacements = unsafe { copied(array_of_displacements, count) };
    create(
        recipe(
            MPI_COMBINER_HINDEXED_BLOCK,
            vec![count, blocklength],
            displacements,
            oldtype,
        ),
        newtype,
        "MPI_Type_create_hindexed_block",
    )
}

pub unsafe extern "C" fn MPI_Type_create_struct(
    count: i32,
    array_of_blocklengths: *const i32,
    array_of_displacements: *const i64,
    array_of_types: *const u64,
    newtype: *mut u64,
) -> i32 {
    // SAFETY: the program's arrays.
    let (lengths, addresses, types) = unsafe {
        (
            copied(array_of_blocklengths, count),
            copied(array_of_displacements, count),
            copied(array_of_types, count),
        )
    };
    let integers = joined(&[&[count], &lengths]);
    create(
        Recipe {
            combiner: MPI_COMBINER_STRUCT,
            integers,
            addresses,
            types,
        },
        newtype,
        "MPI_Type_create_struct",
    )
}

pub unsafe extern "C" fn MPI_Type_create_subarray(
    ndims: i32,
    array_of_sizes: *const i32,
    array_of_subsizes: *const i32,
    array_of_starts: *const i32,
    order: i32,
    oldtype: u64,
    newtype: *mut u64,
) -> i32 {
    // SAFETY: the program's arrays.
    let (sizes, subsizes, starts) = unsafe {
        (
            copied(array_of_sizes, ndims),
            copied(array_of_subsizes, ndims),
            copied(array_of_starts, ndims),
        )
    };
    let ints = joined(&[&[ndims], &sizes, &subsizes, &starts, &[order]]);
    create(
        recipe(MPI_COMBINER_SUBARRAY, ints, vec![], oldtype),
        newtype,
        "MPI_Type_create_subarray",
    )
}

pub unsafe extern "C" fn MPI_Type_create_darray(
    size: i32,
    rank: i32,
    ndims: i32,
    array_of_gsizes: *const i32,
    array_of_distribs: *const i32,
    array_of_dargs: *const i32,
    array_of_psizes: *const i32,
    order: i32,
    oldtype: u64,
    newtype: *mut u64,
) -> i32 {
    // SAFETY: the program's arrays.
    let (sizes, distribs) = unsafe {
        (
            copied(array_of_gsizes, ndims),
            copied(array_of_distribs, ndims),
        )
    };
    // SAFETY: as above.
    let (dargs, psizes) = unsafe {
        (
            copied(array_of_dargs, ndims),
            copied(array_of_psizes, ndims),
        )
    };
    let ints = joined(&[
        &[size, rank, ndims],
        &sizes,
        &distribs,
        &dargs,
        &psizes,
        &[order],
    ]);
    create(
        recipe(MPI_COMBINER_DARRAY, ints, vec![], oldtype),
        newtype,
        "MPI_Type_create_darray",
    )
}

pub unsafe extern "C" fn MPI_Type_create_resized(
    oldtype: u64,
    lb: i64,
    extent: i64,
    newtype: *mut u64,
) -> i32 {
    create(
        recipe(MPI_COMBINER_RESIZED, vec![], vec![lb, extent], oldtype),
        newtype,
        "MPI_Type_create_resized",
    )
}

/// Datatypes of F90 are the same object whenever asked for with the same arguments.
fn f90(combiner: i32, integers: Vec<i32>, out: *mut u64, name: &'static str) -> i32 {
    let _guard = entry::enter();
    let wanted = Recipe {
        combiner,
        integers,
        addresses: vec![],
        types: vec![],
    };
    let known = core()
        .state
        .datatypes
        .iter()
        .find(|(_, t)| t.recipe == wanted)
        .map(|(i, _)| handle(kind::DATATYPE, i));
    let outcome = known.map_or_else(|| make(wanted), Ok).map(|w| {
        // SAFETY: an output argument.
        unsafe { *out = w };
    });
    finish(outcome, crate::errors::NO_OBJECT, name)
}

pub unsafe extern "C" fn MPI_Type_create_f90_real(p: i32, r: i32, newtype: *mut u64) -> i32 {
    f90(
        MPI_COMBINER_F90_REAL,
        vec![p, r],
        newtype,
        "MPI_Type_create_f90_real",
    )
}

pub unsafe extern "C" fn MPI_Type_create_f90_complex(p: i32, r: i32, newtype: *mut u64) -> i32 {
    f90(
        MPI_COMBINER_F90_COMPLEX,
        vec![p, r],
        newtype,
        "MPI_Type_create_f90_complex",
    )
}

pub unsafe extern "C" fn MPI_Type_create_f90_integer(r: i32, newtype: *mut u64) -> i32 {
    f90(
        MPI_COMBINER_F90_INTEGER,
        vec![r],
        newtype,
        "MPI_Type_create_f90_integer",
    )
}

/// Commits the real datatype.
pub fn commit(real: u64) -> Outcome {
    let mut real = real;
    // SAFETY: a datatype of the library.
    check(unsafe { (core().procs().MPI_Type_commit)(&mut real) })
}

pub unsafe extern "C" fn MPI_Type_commit(datatype: *mut u64) -> i32 {
    let _guard = entry::enter();
    // SAFETY: an argument both in and out.
    let word = unsafe { *datatype };
    let outcome = (|| {
        if word < PREDEFINED_END {
            return if word == MPI_DATATYPE_NULL {
                Err(MPI_ERR_TYPE)
            } else {
                Ok(())
            };
        }
        commit(core().datatype(word)?.real)?;
        core().datatype_mut(word)?.committed = true;
        Ok(())
    })();
    finish(outcome, crate::errors::NO_OBJECT, "MPI_Type_commit")
}

pub unsafe extern "C" fn MPI_Type_free(datatype: *mut u64) -> i32 {
    let _guard = entry::enter();
    // SAFETY: an argument both in and out.
    let word = unsafe { *datatype };
    let outcome = (|| {
        let t = core().datatype_mut(word)?;
        if t.held == 0 {
            return Err(MPI_ERR_TYPE);
        }
        if t.held == 1 {
            attributes::delete_type(word)?;
        }
        core().datatype_mut(word)?.held -= 1;
        sweep(word);
        // SAFETY: as above.
        unsafe { *datatype = MPI_DATATYPE_NULL };
        Ok(())
    })();
    finish(outcome, crate::errors::NO_OBJECT, "MPI_Type_free")
}

pub unsafe extern "C" fn MPI_Type_get_envelope(
    datatype: u64,
    num_integers: *mut i32,
    num_addresses: *mut i32,
    num_datatypes: *mut i32,
    combiner: *mut i32,
) -> i32 {
    let _guard = entry::enter();
    let outcome = (|| {
        let (i, a, t, k) = if datatype < PREDEFINED_END {
            if datatype == MPI_DATATYPE_NULL {
                return Err(MPI_ERR_TYPE);
            }
            (0, 0, 0, MPI_COMBINER_NAMED)
        } else {
            let r = &core().datatype(datatype)?.recipe;
            (
                r.integers.len() as i32,
                r.addresses.len() as i32,
                r.types.len() as i32,
                r.combiner,
            )
        };
        // SAFETY: output arguments.
        unsafe { *num_integers = i };
        // SAFETY: as above.
        unsafe { *num_addresses = a };
        // SAFETY: as above.
        unsafe { *num_datatypes = t };
        // SAFETY: as above.
        unsafe { *combiner = k };
        Ok(())
    })();
    finish(outcome, crate::errors::NO_OBJECT, "MPI_Type_get_envelope")
}

pub unsafe extern "C" fn MPI_Type_get_contents(
    datatype: u64,
    max_integers: i32,
    max_addresses: i32,
    max_datatypes: i32,
    array_of_integers: *mut i32,
    array_of_addresses: *mut i64,
    array_of_datatypes: *mut u64,
) -> i32 {
    let _guard = entry::enter();
    let outcome = (|| {
        let r = core().datatype(datatype)?.recipe.clone();
        let room = |max: i32, n: usize| {
            if (max.max(0) as usize) < n {
                Err(MPI_ERR_ARG)
            } else {
                Ok(())
            }
        };
        room(max_integers, r.integers.len())?;
        room(max_addresses, r.addresses.len())?;
        room(max_datatypes, r.types.len())?;
        // SAFETY: the program's arrays are as long as it says.
        unsafe {
            std::ptr::copy_nonoverlapping(r.integers.as_ptr(), array_of_integers, r.integers.len())
        };
        // SAFETY: as above.
        unsafe {
            std::ptr::copy_nonoverlapping(
                r.addresses.as_ptr(),
                array_of_addresses,
                r.addresses.len(),
            )
        };
        for (i, &t) in r.types.iter().enumerate() {
            // The handle returned is one more that the program holds.
            if t >= PREDEFINED_END {
                core().datatype_mut(t)?.held += 1;
            }
            // SAFETY: as above.
            unsafe { *array_of_datatypes.add(i) = t };
        }
        Ok(())
    })();
    finish(outcome, crate::errors::NO_OBJECT, "MPI_Type_get_contents")
}

pub unsafe extern "C" fn MPI_Type_set_name(datatype: u64, type_name: *const c_char) -> i32 {
    let _guard = entry::enter();
    // SAFETY: a string argument.
    let mut name = unsafe { errors::bytes_of(type_name) };
    name.truncate(MPI_MAX_OBJECT_NAME as usize - 1);
    let outcome = match datatype {
        d if d < PREDEFINED_END => core().predefined_type(d).map(|t| t.name = name),
        d => core().datatype_mut(d).map(|t| t.name = name),
    };
    finish(outcome, crate::errors::NO_OBJECT, "MPI_Type_set_name")
}

pub unsafe extern "C" fn MPI_Type_get_name(
    datatype: u64,
    type_name: *mut c_char,
    resultlen: *mut i32,
) -> i32 {
    let _guard = entry::enter();
    let outcome = (|| {
        let name = if datatype < PREDEFINED_END {
            // The null datatype has a name, too.
            match core().predefined_type(datatype) {
                Ok(t) => t.name.as_slice(),
                Err(_) => b"MPI_DATATYPE_NULL",
            }
        } else {
            core().datatype(datatype)?.name.as_slice()
        };
        // SAFETY: the program's buffer has the length the standard asks for.
        unsafe { put_string(name, type_name, MPI_MAX_OBJECT_NAME as usize, resultlen) };
        Ok(())
    })();
    finish(outcome, crate::errors::NO_OBJECT, "MPI_Type_get_name")
}
