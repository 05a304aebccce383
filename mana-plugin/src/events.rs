//! Events of the tool interface: the library calls functions of ours, which call the program's.
//!
//! Lower half. Registrations and instances are the library's handles, as for variables. A registration does
//! not survive a restart: the library that knew it is gone, and says so of its handle.

use crate::errors::function;
use crate::state::core;
use crate::{entry, tool, upcall};
use mpi_std::*;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What the program gave with a function.
#[derive(Clone, Copy)]
struct Given {
    function: u64,
    data: u64,
}

/// What the program gave: the library gets the number of an entry as its user data.
#[derive(Default)]
struct Table {
    given: Vec<Given>,
    /// Functions for events that were not delivered, by registration.
    dropped: Option<HashMap<usize, u64>>,
}

static TABLE: Mutex<Table> = Mutex::new(Table {
    given: Vec::new(),
    dropped: None,
});

fn table() -> MutexGuard<'static, Table> {
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The user data that stands for these; those of the process's whole life stay.
fn keep(function: u64, data: *const c_void) -> *const c_void {
    let data = data as u64;
    let mut t = table();
    let known = |g: &Given| g.function == function && g.data == data;
    let at = t.given.iter().position(known).unwrap_or_else(|| {
        t.given.push(Given { function, data });
        t.given.len() - 1
    });
    (at + 1) as *const c_void
}

fn given(user: *mut c_void) -> Option<Given> {
    let at = (user as usize).checked_sub(1)?;
    table().given.get(at).copied()
}

unsafe extern "C" fn happened(
    instance: *mut c_void,
    registration: *mut c_void,
    safety: i32,
    user: *mut c_void,
) {
    let Some(g) = given(user) else { return };
    tool::come(instance as usize);
    upcall::event(
        g.function,
        instance as u64,
        registration as u64,
        safety,
        g.data,
    );
    tool::gone(instance as usize);
}

unsafe extern "C" fn freed(registration: *mut c_void, safety: i32, user: *mut c_void) {
    if let Some(dropped) = table().dropped.as_mut() {
        dropped.remove(&(registration as usize));
    }
    if let Some(g) = given(user).filter(|g| g.function != 0) {
        upcall::event_free(g.function, registration as u64, safety, g.data);
    }
}

unsafe extern "C" fn missed(
    count: i64,
    registration: *mut c_void,
    source: i32,
    safety: i32,
    user: *mut c_void,
) {
    let at = registration as usize;
    let function = table().dropped.as_ref().and_then(|d| d.get(&at)).copied();
    let data = given(user).map_or(0, |g| g.data);
    if let Some(function) = function {
        upcall::event_dropped(function, count, at as u64, (source, safety), data);
    }
}

pub unsafe extern "C" fn MPI_T_event_register_callback(
    event_registration: *mut c_void,
    cb_safety: i32,
    info: u64,
    user_data: *const c_void,
    event_cb_function: *mut c_void,
) -> i32 {
    let _guard = entry::enter();
    let (true, Some(hints)) = (tool::live(event_registration), tool::hints(info)) else {
        return tool::stale(false);
    };
    let (user, call) = match event_cb_function.is_null() {
        // The end of a registration.
        true => (user_data, std::ptr::null_mut()),
        false => (
            keep(function(event_cb_function), user_data),
            happened as *mut c_void,
        ),
    };
    let register = core().procs().MPI_T_event_register_callback;
    // SAFETY: a handle of the library's, and a function of its signature.
    match unsafe { register(event_registration, cb_safety, hints.real(), user, call) } {
        Extras::ABSENT => tool::absent("MPI_T_event_register_callback"),
        rc => rc,
    }
}

pub unsafe extern "C" fn MPI_T_event_set_dropped_handler(
    event_registration: *mut c_void,
    dropped_cb_function: *mut c_void,
) -> i32 {
    let _guard = entry::enter();
    if !tool::live(event_registration) {
        return tool::stale(false);
    }
    let call = match dropped_cb_function.is_null() {
        true => std::ptr::null_mut(),
        false => missed as *mut c_void,
    };
    let set = core().procs().MPI_T_event_set_dropped_handler;
    // SAFETY: a handle of the library's, and a function of its signature.
    let rc = unsafe { set(event_registration, call) };
    if rc == Extras::ABSENT {
        return tool::absent("MPI_T_event_set_dropped_handler");
    }
    if rc == MPI_SUCCESS {
        let mut t = table();
        let dropped = t.dropped.get_or_insert_with(HashMap::new);
        dropped.insert(event_registration as usize, function(dropped_cb_function));
    }
    rc
}

pub unsafe extern "C" fn MPI_T_event_handle_free(
    event_registration: *mut c_void,
    user_data: *const c_void,
    free_cb_function: *mut c_void,
) -> i32 {
    let _guard = entry::enter();
    if !tool::live(event_registration) {
        return tool::stale(false);
    }
    let user = keep(function(free_cb_function), user_data);
    let free = core().procs().MPI_T_event_handle_free;
    // SAFETY: a handle of the library's, and a function of its signature.
    let rc = unsafe { free(event_registration, user, freed as *mut c_void) };
    match rc {
        Extras::ABSENT => return tool::absent("MPI_T_event_handle_free"),
        MPI_SUCCESS => tool::gone(event_registration as usize),
        _ => {}
    }
    rc
}
