//! The application interface of mana for Rust programs.
//!
//! Nothing to link: the functions look for their counterparts in the running process. Without mana
//! [`running`] is false and everything else answers [`Error::NotRunning`].
//!
//! ```ignore
//! match mana_interface::checkpoint(Level::Highest, true) {
//!     Ok(Taken::Resumed) => eprintln!("going on after a restart"),
//!     Ok(_) | Err(mana_interface::Error::NotRunning) => {}
//!     Err(e) => eprintln!("no checkpoint: {e}"),
//! }
//! ```
//! In MPI programs a request that waits is collective. See `docs/guide/interface.md`.
#![warn(missing_docs)]

use std::ffi::{c_char, c_int, c_void, CStr, CString};
use std::fmt;

/// Where a checkpoint is to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Level {
    /// The highest the job has.
    Highest = 0,
    /// The node's own storage.
    Local = 1,
    /// A copy on another node.
    Partner = 2,
    /// Parity over a group of nodes.
    Group = 3,
    /// The parallel file system.
    Global = 4,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Asked for, not waited for.
    Requested,
    /// Taken; the program goes on.
    Continued,
    /// This process was started from an image, and the call returns there.
    Resumed,
}

/// When a callback is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Event {
    /// Before the threads are stopped for an image.
    Checkpoint = 1,
    /// After it, in the same process; also when it was given up.
    Continued = 2,
    /// After it, in a process resumed from that image.
    Restarted = 3,
}

/// Why something was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// Not under mana, or in a forked child.
    NotRunning,
    /// An argument makes no sense.
    Argument,
    /// The checkpoint was not taken; standard error says why.
    Failed,
    /// No checkpoints now: before `MPI_Init`, after `MPI_Finalize`, or unprotected.
    Closed,
    /// This thread holds checkpoints back, or runs a callback.
    Busy,
    /// More than there is room for.
    Full,
    /// Of a later version.
    Other(i32),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Error::NotRunning => "the program does not run under mana",
            Error::Argument => "an argument makes no sense",
            Error::Failed => "the checkpoint was not taken; standard error says why",
            Error::Closed => "no checkpoints are possible now",
            Error::Busy => {
                "not possible while this thread holds checkpoints back, or in a callback"
            }
            Error::Full => "more than there is room for",
            Error::Other(code) => return write!(f, "error {code}"),
        })
    }
}

impl std::error::Error for Error {}

extern "C" {
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
}

/// The function of that name in this process.
fn find(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: a null handle searches the whole process; the name is a string.
    let found = unsafe { dlsym(std::ptr::null_mut(), name.as_ptr()) };
    (!found.is_null()).then_some(found)
}

fn result(code: c_int) -> Result<c_int, Error> {
    Err(match code {
        0.. => return Ok(code),
        -1 => Error::NotRunning,
        -2 => Error::Argument,
        -3 => Error::Failed,
        -4 => Error::Closed,
        -5 => Error::Busy,
        -6 => Error::Full,
        other => Error::Other(other),
    })
}

/// Calls a function of the interface with this signature, if it is there.
macro_rules! call {
    ($name:literal, fn($($t:ty),*); $($a:expr),*) => {
        match find($name) {
            None => Err(Error::NotRunning),
            Some(at) => {
                // SAFETY: the signature is that of the name's in the interface, version 1.
                let function: unsafe extern "C" fn($($t),*) -> c_int = unsafe { std::mem::transmute(at) };
                // SAFETY: the arguments are valid for the call.
                result(unsafe { function($($a),*) })
            }
        }
    };
}

fn string(text: &str) -> Result<CString, Error> {
    CString::new(text).map_err(|_| Error::Argument)
}

/// Whether this process is under mana.
pub fn running() -> bool {
    call!(c"mana_1_running", fn();) == Ok(1)
}

/// How often the program was resumed.
pub fn restarts() -> Result<u32, Error> {
    call!(c"mana_1_restarts", fn();).map(|n| n as u32)
}

/// Asks for a checkpoint; `wait`: until it is complete on its level (collective in MPI programs).
pub fn checkpoint(level: Level, wait: bool) -> Result<Taken, Error> {
    let code = call!(c"mana_1_checkpoint", fn(c_int, c_int); level as c_int, c_int::from(wait))?;
    Ok(match code {
        0 => Taken::Requested,
        1 => Taken::Continued,
        _ => Taken::Resumed,
    })
}

/// A critical section: no checkpoint while it lives.
#[derive(Debug)]
#[must_use = "checkpoints are held back as long as this lives"]
pub struct Hold {
    held: bool,
}

/// Begins a critical section; `why` is what a message says when a checkpoint waits for it. Without mana it
/// has no effect.
pub fn hold(why: &str) -> Result<Hold, Error> {
    let why = string(why)?;
    match call!(c"mana_1_hold", fn(*const c_char); why.as_ptr()) {
        Ok(_) => Ok(Hold { held: true }),
        Err(Error::NotRunning) => Ok(Hold { held: false }),
        Err(e) => Err(e),
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.held {
            let _ = call!(c"mana_1_release", fn(););
        }
    }
}

/// Has `callback` called at every such event, on a thread of mana's own in this process. It must not panic.
pub fn on(event: Event, callback: impl Fn(Event) + Send + Sync + 'static) -> Result<(), Error> {
    type Boxed = Box<dyn Fn(Event) + Send + Sync>;
    extern "C" fn enter(event: c_int, data: *mut c_void) {
        // SAFETY: leaked below, never freed.
        let callback = unsafe { &*(data as *const Boxed) };
        callback(match event {
            1 => Event::Checkpoint,
            2 => Event::Continued,
            _ => Event::Restarted,
        });
    }
    if !running() {
        return Err(Error::NotRunning);
    }
    let data = Box::into_raw(Box::new(Box::new(callback) as Boxed)) as *mut c_void;
    type Enter = extern "C" fn(c_int, *mut c_void);
    let done =
        call!(c"mana_1_on", fn(c_int, Enter, *mut c_void); event as c_int, enter as Enter, data);
    done.map(drop)
}

/// Leaves the whole pages of `memory` out of images: they are zero after a restart.
///
/// # Safety
/// Zeros are valid there, and [`include`] is called before the memory is freed.
pub unsafe fn exclude<T>(memory: &mut [T]) -> Result<(), Error> {
    let (at, len) = (
        memory.as_ptr().cast::<c_void>(),
        std::mem::size_of_val(memory),
    );
    call!(c"mana_1_exclude", fn(*const c_void, usize); at, len).map(drop)
}

/// Takes [`exclude`] back.
pub fn include<T>(memory: &mut [T]) -> Result<(), Error> {
    let (at, len) = (
        memory.as_ptr().cast::<c_void>(),
        std::mem::size_of_val(memory),
    );
    call!(c"mana_1_include", fn(*const c_void, usize); at, len).map(drop)
}

/// Leaves a key with a value for the report.
pub fn publish(key: &str, value: &str) -> Result<(), Error> {
    let (key, value) = (string(key)?, string(value)?);
    call!(c"mana_1_publish", fn(*const c_char, *const c_char); key.as_ptr(), value.as_ptr())
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_mana_nothing_happens() {
        assert!(!running());
        assert_eq!(restarts(), Err(Error::NotRunning));
        assert_eq!(checkpoint(Level::Highest, true), Err(Error::NotRunning));
        drop(hold("a test").expect("accepted"));
        assert_eq!(on(Event::Checkpoint, |_| {}), Err(Error::NotRunning));
        assert_eq!(publish("a", "b"), Err(Error::NotRunning));
        assert_eq!(publish("a\0", "b"), Err(Error::Argument));
        let mut memory = vec![0u8; 8192];
        assert_eq!(include(&mut memory), Err(Error::NotRunning));
    }
}
