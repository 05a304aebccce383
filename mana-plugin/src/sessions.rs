//! Sessions: another way to begin and end MPI, and groups by the name of a process set.
//!
//! Lower half. There are two sets, the world and this process alone. The library below knows nothing
//! of sessions: the first one begins MPI unless `MPI_Init` has, and the last end of either ends it.
//! After that no session can be had (a library cannot be started twice).

use crate::buffers::{self, Owner};
use crate::comms::{self, adopt_as, identity};
use crate::errors::{self, bytes_of, check, finish, put_string};
use crate::state::{core, AttachedBuffer, Outcome};
use crate::{collectives, entry, gate, groups, info, life, upcall};
use mana_raw::layout::AGAIN;
use mpi_std::*;
use serde::{Deserialize, Serialize};
use std::ffi::{c_char, c_void};
use std::sync::Arc;

/// The process sets.
const SETS: [&str; 2] = ["mpi://WORLD", "mpi://SELF"];

/// A session.
#[derive(Debug, Serialize, Deserialize)]
pub struct Session {
    /// Error handler's word.
    errhandler: u64,
    /// Buffered sends on the communicators that stem from it.
    pub buffer: Option<AttachedBuffer>,
}

fn session(word: u64) -> Outcome<&'static mut Session> {
    if kind_of(word) != kind::SESSION {
        return Err(MPI_ERR_SESSION);
    }
    let found = core().state.sessions.get_mut(index_of(word));
    found.ok_or(MPI_ERR_SESSION)
}

/// The index of a session.
pub fn index(word: u64) -> Outcome<u32> {
    session(word).map(|_| index_of(word))
}

/// Ends an entry: an error goes to the session's handler.
pub fn end(outcome: Outcome, word: u64, name: &'static str) -> i32 {
    match outcome {
        // A wait that a checkpoint stops is no error.
        Err(code) if code != AGAIN && session(word).is_ok() => raise(word, code, name),
        other => finish(other, crate::errors::NO_OBJECT, name),
    }
}

fn raise(word: u64, code: i32, name: &'static str) -> i32 {
    let handler = session(word).map_or(MPI_ERRORS_ARE_FATAL, |s| s.errhandler);
    if [MPI_ERRORS_RETURN, MPI_ERRORS_THROW_EXCEPTIONS].contains(&handler) {
        return code;
    }
    let function = core().state.errhandlers.get(index_of(handler));
    match function.filter(|_| kind_of(handler) == kind::ERRHANDLER) {
        Some(found) => {
            upcall::errhandler(found.function, word, code, handler);
            code
        }
        None => {
            log::error!("error in {name} on a session: {}", errors::text(code));
            errors::abort(MPI_COMM_WORLD, code)
        }
    }
}

pub unsafe extern "C" fn MPI_Session_init(info: u64, errhandler: u64, session: *mut u64) -> i32 {
    let _guard = entry::enter();
    let outcome = (|| {
        let wanted = info::pairs(info).unwrap_or_default();
        let level = wanted.iter().find(|(k, _)| k == b"thread_level");
        let level = match level.map(|(_, v)| v.as_slice()) {
            Some(b"MPI_THREAD_MULTIPLE") => MPI_THREAD_MULTIPLE,
            Some(b"MPI_THREAD_SERIALIZED") => MPI_THREAD_SERIALIZED,
            Some(b"MPI_THREAD_FUNNELED") => MPI_THREAD_FUNNELED,
            _ => MPI_THREAD_SINGLE,
        };
        life::begin_session(level)?;
        let made = Session {
            errhandler,
            buffer: None,
        };
        let index = core().state.sessions.insert(made).ok_or(MPI_ERR_OTHER)?;
        errors::hold(errhandler);
        // SAFETY: an output argument.
        unsafe { *session = handle(kind::SESSION, index) };
        Ok(())
    })();
    if let Err(code) = outcome {
        log::error!("MPI_Session_init failed: {}", errors::text(code));
        return code;
    }
    MPI_SUCCESS
}

pub unsafe extern "C" fn MPI_Session_finalize(session: *mut u64) -> i32 {
    let _guard = entry::enter();
    // SAFETY: an argument both in and out.
    let word = unsafe { *session };
    let outcome = (|| {
        let handler = self::session(word)?.errhandler;
        // What is in its buffer is charged to its index, which the next session may have.
        buffers::flush(Owner::Session(index_of(word)))?;
        life::end_session(|| {
            core().state.sessions.remove(index_of(word));
            errors::release(handler);
        })?;
        // SAFETY: as above.
        unsafe { *session = MPI_SESSION_NULL };
        Ok(())
    })();
    end(outcome, word, "MPI_Session_finalize")
}

pub unsafe extern "C" fn MPI_Session_get_info(session: u64, info_used: *mut u64) -> i32 {
    let _guard = entry::enter();
    let level: &[u8] = match core().provided {
        MPI_THREAD_MULTIPLE => b"MPI_THREAD_MULTIPLE",
        MPI_THREAD_SERIALIZED => b"MPI_THREAD_SERIALIZED",
        MPI_THREAD_FUNNELED => b"MPI_THREAD_FUNNELED",
        _ => b"MPI_THREAD_SINGLE",
    };
    let outcome = self::session(session)
        .and_then(|_| info::make(vec![(b"thread_level".to_vec(), level.to_vec())]))
        .map(|word| {
            // SAFETY: an output argument.
            unsafe { *info_used = word };
        });
    end(outcome, session, "MPI_Session_get_info")
}

pub unsafe extern "C" fn MPI_Session_get_num_psets(
    session: u64,
    info: u64,
    npset_names: *mut i32,
) -> i32 {
    let _guard = entry::enter();
    let _ = info;
    let outcome = self::session(session).map(|_| {
        // SAFETY: an output argument.
        unsafe { *npset_names = SETS.len() as i32 };
    });
    end(outcome, session, "MPI_Session_get_num_psets")
}

pub unsafe extern "C" fn MPI_Session_get_nth_pset(
    session: u64,
    info: u64,
    n: i32,
    pset_len: *mut i32,
    pset_name: *mut c_char,
) -> i32 {
    let _guard = entry::enter();
    let _ = info;
    let outcome = (|| {
        self::session(session)?;
        let place = usize::try_from(n).ok();
        let name = place.and_then(|n| SETS.get(n)).ok_or(MPI_ERR_ARG)?;
        // SAFETY: an argument both in and out.
        let room = unsafe { *pset_len }.max(0) as usize;
        if room > 0 {
            // SAFETY: the program's buffer of that length.
            unsafe { put_string(name.as_bytes(), pset_name, room, std::ptr::null_mut()) };
        }
        // SAFETY: as above.
        unsafe { *pset_len = name.len() as i32 + 1 };
        Ok(())
    })();
    end(outcome, session, "MPI_Session_get_nth_pset")
}

/// World ranks of a process set.
fn set(name: &[u8]) -> Outcome<Vec<u32>> {
    let state = &core().state;
    match SETS
        .iter()
        .position(|s| s.as_bytes().eq_ignore_ascii_case(name))
    {
        Some(0) => Ok((0..state.size as u32).collect()),
        Some(_) => Ok(vec![state.rank as u32]),
        None => Err(MPI_ERR_ARG),
    }
}

pub unsafe extern "C" fn MPI_Session_get_pset_info(
    session: u64,
    pset_name: *const c_char,
    info: *mut u64,
) -> i32 {
    let _guard = entry::enter();
    // SAFETY: a string argument.
    let name = unsafe { bytes_of(pset_name) };
    let outcome = self::session(session)
        .and_then(|_| set(&name))
        .and_then(|members| {
            let size = members.len().to_string().into_bytes();
            info::make(vec![(b"mpi_size".to_vec(), size)])
        })
        .map(|word| {
            // SAFETY: an output argument.
            unsafe { *info = word };
        });
    end(outcome, session, "MPI_Session_get_pset_info")
}

pub unsafe extern "C" fn MPI_Group_from_session_pset(
    session: u64,
    pset_name: *const c_char,
    newgroup: *mut u64,
) -> i32 {
    let _guard = entry::enter();
    // SAFETY: a string argument.
    let name = unsafe { bytes_of(pset_name) };
    let outcome = self::session(session)
        .and_then(|_| set(&name))
        .and_then(|members| groups::make_of(Arc::from(members), Some(index_of(session))))
        .map(|word| {
            // SAFETY: an output argument.
            unsafe { *newgroup = word };
        });
    end(outcome, session, "MPI_Group_from_session_pset")
}

/// Passes the gate of what `members` make under `tag`, with others if `outwards`; what tells it from all they
/// have made.
fn pass(members: &[u32], tag: &[u8], outwards: bool, name: &'static &'static str) -> Outcome<u64> {
    let mut words = vec![u64::from_le_bytes(*b"sessions")];
    words.extend(tag.iter().map(|b| u64::from(*b)));
    words.push(u64::MAX);
    words.extend(members.iter().map(|m| u64::from(*m)));
    let key = identity(&words);
    let size = members.len() as u32;
    let gate = match (size, outwards) {
        (1, true) => collectives::outward(),
        _ => core()
            .group_gates
            .entry((0, key))
            .or_insert_with(|| gate::create(key, size, 0)),
    };
    collectives::pass(gate, name)?;
    Ok(identity(&[key, gate.seq()]))
}

/// The hints and name of a new communicator.
fn dress(word: u64, hints: u64) -> Outcome<u64> {
    let hints = info::pairs(hints).unwrap_or_default();
    core().comm(word)?.1.info = hints;
    Ok(word)
}

pub unsafe extern "C" fn MPI_Comm_create_from_group(
    group: u64,
    stringtag: *const c_char,
    info: u64,
    errhandler: u64,
    newcomm: *mut u64,
) -> i32 {
    static NAME: &str = "MPI_Comm_create_from_group";
    let _guard = entry::enter();
    // SAFETY: a string argument.
    let tag = unsafe { bytes_of(stringtag) };
    let outcome = (|| {
        let members = groups::members(group)?;
        let mut word = MPI_COMM_NULL;
        if members.contains(&(core().state.rank as u32)) {
            let origin = pass(&members, &tag, false, &NAME)?;
            let made = entry::unlocked(|| comms::make_plain(&members))
                .and_then(|real| adopt_as(real, &[origin], errhandler, groups::session(group)));
            collectives::leave();
            word = dress(made?, info)?;
        }
        // SAFETY: an output argument.
        unsafe { *newcomm = word };
        Ok(())
    })();
    finish(outcome, crate::errors::NO_OBJECT, NAME)
}

pub unsafe extern "C" fn MPI_Intercomm_create_from_groups(
    local_group: u64,
    local_leader: i32,
    remote_group: u64,
    remote_leader: i32,
    stringtag: *const c_char,
    info: u64,
    errhandler: u64,
    newintercomm: *mut u64,
) -> i32 {
    static NAME: &str = "MPI_Intercomm_create_from_groups";
    let _guard = entry::enter();
    // SAFETY: a string argument.
    let tag = unsafe { bytes_of(stringtag) };
    let outcome = (|| {
        let local = groups::members(local_group)?;
        let at = |members: &[u32], rank: i32| {
            let place = usize::try_from(rank).ok();
            place.and_then(|r| members.get(r).copied())
        };
        let leads = at(&local, local_leader) == Some(core().state.rank as u32);
        // Only the leader has to know the other side.
        let leader = if leads {
            let remote = groups::members(remote_group)?;
            at(&remote, remote_leader).ok_or(MPI_ERR_RANK)? as i32
        } else {
            MPI_PROC_NULL
        };
        let origin = pass(&local, &tag, true, &NAME)?;
        let made = entry::unlocked(|| {
            let mut own = comms::make_plain(&local)?;
            let c = core();
            let procs = c.procs();
            let mut new = MPI_COMM_NULL;
            // SAFETY: communicators of ours; the output argument is ours.
            let rc = unsafe {
                (procs.MPI_Intercomm_create)(own, local_leader, c.private, leader, 0, &mut new)
            };
            // SAFETY: a communicator of ours, not used any more.
            check(unsafe { (procs.MPI_Comm_free)(&mut own) })?;
            check(rc).map(|()| new)
        })
        .and_then(|new| {
            let origin = crate::inter::agree(new, origin)?;
            adopt_as(new, &[origin], errhandler, groups::session(local_group))
        });
        collectives::leave();
        let word = dress(made?, info)?;
        // SAFETY: an output argument.
        unsafe { *newintercomm = word };
        Ok(())
    })();
    finish(outcome, crate::errors::NO_OBJECT, NAME)
}

pub unsafe extern "C" fn MPI_Session_create_errhandler(
    session_errhandler_fn: *mut c_void,
    errhandler: *mut u64,
) -> i32 {
    // SAFETY: the program's arguments; handlers of all kinds are kept alike.
    unsafe { errors::MPI_Comm_create_errhandler(session_errhandler_fn, errhandler) }
}

pub unsafe extern "C" fn MPI_Session_set_errhandler(session: u64, errhandler: u64) -> i32 {
    let _guard = entry::enter();
    let outcome = self::session(session)
        .map(|s| std::mem::replace(&mut s.errhandler, errhandler))
        .map(|old| {
            errors::hold(errhandler);
            errors::release(old);
        });
    end(outcome, session, "MPI_Session_set_errhandler")
}

pub unsafe extern "C" fn MPI_Session_get_errhandler(session: u64, errhandler: *mut u64) -> i32 {
    let _guard = entry::enter();
    let outcome = self::session(session).map(|s| s.errhandler).map(|handler| {
        errors::hold(handler);
        // SAFETY: an output argument.
        unsafe { *errhandler = handler };
    });
    end(outcome, session, "MPI_Session_get_errhandler")
}

pub unsafe extern "C" fn MPI_Session_call_errhandler(session: u64, errorcode: i32) -> i32 {
    let _guard = entry::enter();
    if let Err(code) = self::session(session).map(|_| ()) {
        return finish(
            Err(code),
            crate::errors::NO_OBJECT,
            "MPI_Session_call_errhandler",
        );
    }
    crate::explanations::forget();
    raise(session, errorcode, "MPI_Session_call_errhandler");
    MPI_SUCCESS
}
