//! Attributes of the process as a whole: working directory, umask, limits, nice value.

use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

use crate::error::{StateError, Warning};
use crate::path::FilePath;

/// Number of resources getrlimit knows.
const RESOURCES: u32 = 16;

/// Attributes of the process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// Working directory.
    pub directory: FilePath,
    /// umask
    pub umask: u32,
    /// Soft limit of each resource, by its number. The hard limits are the new run's.
    pub soft_limits: Vec<u64>,
    /// Nice value of the main thread.
    pub nice: i32,
    /// PR_SET_DUMPABLE.
    pub dumpable: i32,
    /// PR_SET_CHILD_SUBREAPER.
    pub child_subreaper: bool,
    /// PR_SET_THP_DISABLE.
    pub huge_pages_disabled: bool,
    /// PR_SET_TIMERSLACK of the main thread, in nanoseconds.
    pub timer_slack: u64,
}

pub(crate) fn capture() -> Result<Attributes, StateError> {
    let directory = fs::read_link("/proc/self/cwd")
        .map_err(|e| StateError::io("read the working directory", "/proc/self/cwd", e))?;
    let mut subreaper = 0i32;
    // SAFETY: PR_GET_CHILD_SUBREAPER writes one int at the address given.
    unsafe { libc::prctl(libc::PR_GET_CHILD_SUBREAPER, &mut subreaper as *mut i32) };
    Ok(Attributes {
        directory: FilePath::from(&*directory),
        umask: umask()?,
        soft_limits: (0..RESOURCES)
            .map(|r| Ok(limit(r)?.rlim_cur))
            .collect::<Result<_, _>>()?,
        nice: nice(),
        dumpable: get(libc::PR_GET_DUMPABLE),
        child_subreaper: subreaper != 0,
        huge_pages_disabled: get(libc::PR_GET_THP_DISABLE) > 0,
        timer_slack: get(libc::PR_GET_TIMERSLACK).max(0) as u64,
    })
}

pub(crate) fn restore(
    attributes: &Attributes,
    warnings: &mut Vec<Warning>,
) -> Result<(), StateError> {
    let directory = &attributes.directory;
    std::env::set_current_dir(directory.as_path())
        .map_err(|e| StateError::io("change to the working directory", directory, e))?;
    // SAFETY: umask only changes the mask.
    unsafe { libc::umask(attributes.umask as libc::mode_t) };
    for (resource, &wanted) in (0..RESOURCES).zip(&attributes.soft_limits) {
        restore_limit(resource, wanted, warnings)?;
    }
    if nice() != attributes.nice {
        // SAFETY: setpriority touches no memory.
        let failed = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, attributes.nice) } != 0;
        if failed {
            let message = format!("was {} and cannot be set again", attributes.nice);
            warnings.push(Warning::new("nice value", message));
        }
    }
    set(
        libc::PR_SET_CHILD_SUBREAPER,
        attributes.child_subreaper as u64,
    );
    set(
        libc::PR_SET_THP_DISABLE,
        attributes.huge_pages_disabled as u64,
    );
    if attributes.timer_slack > 0 {
        set(libc::PR_SET_TIMERSLACK, attributes.timer_slack);
    }
    if attributes.dumpable <= 1 && attributes.dumpable != get(libc::PR_GET_DUMPABLE) {
        set(libc::PR_SET_DUMPABLE, attributes.dumpable as u64);
    }
    Ok(())
}

fn restore_limit(
    resource: u32,
    wanted: u64,
    warnings: &mut Vec<Warning>,
) -> Result<(), StateError> {
    let mut now = limit(resource)?;
    if now.rlim_cur == wanted {
        return Ok(());
    }
    if wanted > now.rlim_max {
        warnings.push(Warning::new(
            format!("limit {resource}"),
            format!("was {wanted}, but the hard limit here is {}", now.rlim_max),
        ));
    }
    now.rlim_cur = wanted.min(now.rlim_max);
    // SAFETY: `now` is a valid rlimit.
    if unsafe { libc::setrlimit(resource, &now) } != 0 {
        return Err(StateError::last("set limit", resource));
    }
    Ok(())
}

fn limit(resource: u32) -> Result<libc::rlimit, StateError> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is a valid place for the answer.
    if unsafe { libc::getrlimit(resource, &mut limit) } != 0 {
        return Err(StateError::last("read limit", resource));
    }
    Ok(limit)
}

/// The umask, without changing it for a moment as umask(2) would.
fn umask() -> Result<u32, StateError> {
    let path = "/proc/self/status";
    let status = fs::read_to_string(path).map_err(|e| StateError::io("read", path, e))?;
    let value = status.lines().find_map(|l| l.strip_prefix("Umask:"));
    value
        .and_then(|v| u32::from_str_radix(v.trim(), 8).ok())
        .ok_or_else(|| {
            let cause = io::Error::new(io::ErrorKind::InvalidData, "no Umask line");
            StateError::io("read the umask from", path, cause)
        })
}

fn nice() -> i32 {
    // The control thread may have another value than the program: ask for the main thread's.
    // SAFETY: getpriority touches no memory.
    unsafe { libc::getpriority(libc::PRIO_PROCESS, libc::getpid() as libc::id_t) }
}

fn get(option: i32) -> i32 {
    // SAFETY: the options used with this function take no pointer.
    unsafe { libc::prctl(option, 0, 0, 0, 0) }
}

fn set(option: i32, value: u64) {
    // SAFETY: the options used with this function take a number, and failure changes nothing.
    unsafe { libc::prctl(option, value, 0, 0, 0) };
}
