//! Group procedures, computed here from lists of world ranks.
//!
//! Lower half; nothing reaches the library.

use crate::entry;
use crate::errors::finish;
use crate::group::{self, Comparison, Members};
use crate::state::{core, Group, Outcome};
use mpi_std::*;
use std::sync::Arc;

/// The members of a group's word.
pub fn members(word: u64) -> Outcome<Members> {
    if word == MPI_GROUP_EMPTY {
        return Ok(Arc::from(Vec::new()));
    }
    group(word).map(|g| g.members.clone())
}

fn group(word: u64) -> Outcome<&'static Group> {
    if kind_of(word) != kind::GROUP {
        return Err(MPI_ERR_GROUP);
    }
    let found = core().state.groups.get(index_of(word));
    found.ok_or(MPI_ERR_GROUP)
}

/// The session that a group stems from.
pub fn session(word: u64) -> Option<u32> {
    group(word).ok().and_then(|g| g.session)
}

/// A new word for a group that stems from the world's communicators.
pub fn make(members: Members) -> Outcome<u64> {
    make_of(members, None)
}

/// The same of one that stems from a session.
pub fn make_of(members: Members, session: Option<u32>) -> Outcome<u64> {
    if members.is_empty() {
        return Ok(MPI_GROUP_EMPTY);
    }
    let made = Group { members, session };
    let index = core().state.groups.insert(made);
    index.map(|i| handle(kind::GROUP, i)).ok_or(MPI_ERR_OTHER)
}

/// A new word for the group of communicator `index`, as windows and files give it.
pub fn of_members(index: u32) -> Outcome<u64> {
    match core().state.comms.get(index) {
        Some(c) => make_of(c.members.clone(), c.session),
        None => Ok(MPI_GROUP_EMPTY),
    }
}

/// A group made of group `parent`.
unsafe fn give(outcome: Outcome<Members>, parent: u64, out: *mut u64, name: &'static str) -> i32 {
    let made = outcome.and_then(|members| make_of(members, session(parent)));
    let outcome = made.map(|w| {
        // SAFETY: an output argument.
        unsafe { *out = w };
    });
    finish(outcome, crate::errors::NO_OBJECT, name)
}

/// The program's array of `n` ranks.
///
/// # Safety
/// `ranks` has `n` elements.
unsafe fn ranks_of<'a>(n: i32, ranks: *const i32) -> &'a [i32] {
    if n <= 0 || ranks.is_null() {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(ranks, n as usize) }
}

pub unsafe extern "C" fn MPI_Group_size(group: u64, size: *mut i32) -> i32 {
    let _guard = entry::enter();
    // SAFETY: an output argument.
    let outcome = members(group).map(|m| unsafe { *size = m.len() as i32 });
    finish(outcome, crate::errors::NO_OBJECT, "MPI_Group_size")
}

pub unsafe extern "C" fn MPI_Group_rank(group: u64, rank: *mut i32) -> i32 {
    let _guard = entry::enter();
    let me = core().state.rank as u32;
    // SAFETY: an output argument.
    let outcome =
        members(group).map(|m| unsafe { *rank = group::rank_of(&m, me).unwrap_or(MPI_UNDEFINED) });
    finish(outcome, crate::errors::NO_OBJECT, "MPI_Group_rank")
}

pub unsafe extern "C" fn MPI_Group_compare(group1: u64, group2: u64, result: *mut i32) -> i32 {
    let _guard = entry::enter();
    let outcome = members(group1)
        .and_then(|a| Ok((a, members(group2)?)))
        .map(|(a, b)| {
            let r = match group::compare(&a, &b) {
                Comparison::Ident => MPI_IDENT,
                Comparison::Similar => MPI_SIMILAR,
                Comparison::Unequal => MPI_UNEQUAL,
            };
            // SAFETY: an output argument.
            unsafe { *result = r };
        });
    finish(outcome, crate::errors::NO_OBJECT, "MPI_Group_compare")
}

pub unsafe extern "C" fn MPI_Group_translate_ranks(
    group1: u64,
    n: i32,
    ranks1: *const i32,
    group2: u64,
    ranks2: *mut i32,
) -> i32 {
    let _guard = entry::enter();
    let outcome = (|| {
        let (a, b) = (members(group1)?, members(group2)?);
        // SAFETY: the program's array.
        for (i, &r) in unsafe { ranks_of(n, ranks1) }.iter().enumerate() {
            let to = if r == MPI_PROC_NULL {
                MPI_PROC_NULL
            } else {
                let world = *usize::try_from(r)
                    .ok()
                    .and_then(|r| a.get(r))
                    .ok_or(MPI_ERR_RANK)?;
                group::rank_of(&b, world).unwrap_or(MPI_UNDEFINED)
            };
            // SAFETY: as above.
            unsafe { *ranks2.add(i) = to };
        }
        Ok(())
    })();
    finish(
        outcome,
        crate::errors::NO_OBJECT,
        "MPI_Group_translate_ranks",
    )
}

fn two(a: u64, b: u64, f: impl Fn(&[u32], &[u32]) -> Vec<u32>) -> Outcome<Members> {
    Ok(Arc::from(f(&members(a)?, &members(b)?)))
}

pub unsafe extern "C" fn MPI_Group_union(group1: u64, group2: u64, newgroup: *mut u64) -> i32 {
    let _guard = entry::enter();
    // SAFETY: an output argument.
    unsafe {
        give(
            two(group1, group2, group::union),
            group1,
            newgroup,
            "MPI_Group_union",
        )
    }
}

pub unsafe extern "C" fn MPI_Group_intersection(
    group1: u64,
    group2: u64,
    newgroup: *mut u64,
) -> i32 {
    let _guard = entry::enter();
    // SAFETY: an output argument.
    unsafe {
        give(
            two(group1, group2, group::intersection),
            group1,
            newgroup,
            "MPI_Group_intersection",
        )
    }
}

pub unsafe extern "C" fn MPI_Group_difference(group1: u64, group2: u64, newgroup: *mut u64) -> i32 {
    let _guard = entry::enter();
    // SAFETY: an output argument.
    unsafe {
        give(
            two(group1, group2, group::difference),
            group1,
            newgroup,
            "MPI_Group_difference",
        )
    }
}

fn by_ranks(
    group: u64,
    ranks: Option<&[i32]>,
    f: impl Fn(&[u32], &[i32]) -> Option<Vec<u32>>,
) -> Outcome<Members> {
    let m = members(group)?;
    ranks
        .and_then(|r| f(&m, r))
        .map(Arc::from)
        .ok_or(MPI_ERR_RANK)
}

pub unsafe extern "C" fn MPI_Group_incl(
    group: u64,
    n: i32,
    ranks: *const i32,
    newgroup: *mut u64,
) -> i32 {
    let _guard = entry::enter();
    // SAFETY: the program's array.
    let ranks = unsafe { ranks_of(n, ranks) };
    // SAFETY: an output argument.
    unsafe {
        give(
            by_ranks(group, Some(ranks), group::incl),
            group,
            newgroup,
            "MPI_Group_incl",
        )
    }
}

pub unsafe extern "C" fn MPI_Group_excl(
    group: u64,
    n: i32,
    ranks: *const i32,
    newgroup: *mut u64,
) -> i32 {
    let _guard = entry::enter();
    // SAFETY: the program's array.
    let ranks = unsafe { ranks_of(n, ranks) };
    // SAFETY: an output argument.
    unsafe {
        give(
            by_ranks(group, Some(ranks), group::excl),
            group,
            newgroup,
            "MPI_Group_excl",
        )
    }
}

unsafe fn ranges_of(n: i32, ranges: *const i32) -> Option<Vec<i32>> {
    // SAFETY: the caller's array of `3 n` elements.
    let flat = unsafe { ranks_of(n.saturating_mul(3), ranges) };
    let triplets: Vec<[i32; 3]> = flat
        .chunks_exact(3)
        .filter_map(|c| c.try_into().ok())
        .collect();
    group::expand_ranges(&triplets)
}

pub unsafe extern "C" fn MPI_Group_range_incl(
    group: u64,
    n: i32,
    ranges: *const i32,
    newgroup: *mut u64,
) -> i32 {
    let _guard = entry::enter();
    // SAFETY: the program's array.
    let ranks = unsafe { ranges_of(n, ranges) };
    // SAFETY: an output argument.
    unsafe {
        give(
            by_ranks(group, ranks.as_deref(), group::incl),
            group,
            newgroup,
            "MPI_Group_range_incl",
        )
    }
}

pub unsafe extern "C" fn MPI_Group_range_excl(
    group: u64,
    n: i32,
    ranges: *const i32,
    newgroup: *mut u64,
) -> i32 {
    let _guard = entry::enter();
    // SAFETY: the program's array.
    let ranks = unsafe { ranges_of(n, ranges) };
    // SAFETY: an output argument.
    unsafe {
        give(
            by_ranks(group, ranks.as_deref(), group::excl),
            group,
            newgroup,
            "MPI_Group_range_excl",
        )
    }
}

pub unsafe extern "C" fn MPI_Group_free(group: *mut u64) -> i32 {
    let _guard = entry::enter();
    // SAFETY: an argument both in and out.
    let word = unsafe { *group };
    let outcome = members(word).map(|_| {
        if word != MPI_GROUP_EMPTY {
            core().state.groups.remove(index_of(word));
        }
        // SAFETY: as above.
        unsafe { *group = MPI_GROUP_NULL };
    });
    finish(outcome, crate::errors::NO_OBJECT, "MPI_Group_free")
}

pub unsafe extern "C" fn MPI_Comm_group(comm: u64, group: *mut u64) -> i32 {
    let _guard = entry::enter();
    let outcome = core()
        .comm(comm)
        .and_then(|(_, c)| make_of(c.own().clone(), c.session));
    let outcome = outcome.map(|w| {
        // SAFETY: an output argument.
        unsafe { *group = w };
    });
    finish(outcome, comm, "MPI_Comm_group")
}
