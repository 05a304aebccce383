//! Signals pending for the process as a whole (those of one thread belong to its record).
//!
//! A signal is only pending for the process while every thread blocks it. It is taken out with its
//! siginfo and queued again at once. What another process has sent (a batch system's SIGTERM, a
//! user's SIGUSR1) was meant for this run and is not recorded: it must not reach the next one.

use std::io;

use serde::{Deserialize, Serialize};

use crate::blob::Bytes;
use crate::error::StateError;

/// Bytes of a siginfo.
const INFO_SIZE: usize = 128;
/// No process can have more pending than its limit; this only keeps a mistake from looping.
const MAX_PENDING: usize = 1 << 16;

/// One pending signal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingSignal {
    /// Signal number.
    pub signal: i32,
    /// The kernel's siginfo, 128 bytes.
    pub info: Bytes,
}

/// `SigPnd` and `ShdPnd` of proc(5): pending for the calling thread, and for the process.
fn masks() -> Result<(u64, u64), StateError> {
    let path = "/proc/thread-self/status";
    let status = std::fs::read_to_string(path).map_err(|e| StateError::io("read", path, e))?;
    let mask = |name: &str| {
        let word = status.lines().find_map(|l| l.strip_prefix(name));
        word.and_then(|w| u64::from_str_radix(w.trim(), 16).ok())
            .unwrap_or(0)
    };
    Ok((mask("SigPnd:"), mask("ShdPnd:")))
}

/// Place of `si_code` in a siginfo.
const CODE: usize = 8;
/// Place of `si_pid` in the siginfo of a signal that a process has sent.
const SENDER: usize = 16;

fn word(info: &[u8], at: usize) -> i32 {
    let bytes = info.get(at..at + 4).and_then(|b| b.try_into().ok());
    bytes.map_or(0, i32::from_ne_bytes)
}

/// Whether a process has sent it, and not the kernel.
fn sent(info: &[u8]) -> bool {
    matches!(
        word(info, CODE),
        libc::SI_USER | libc::SI_QUEUE | libc::SI_TKILL
    )
}

/// Whether a process other than this one has sent it.
fn foreign(info: &[u8]) -> bool {
    // SAFETY: getpid takes nothing.
    sent(info) && word(info, SENDER) != unsafe { libc::getpid() }
}

/// Records the pending signals of `mask` (bit n-1 is signal n), in the order of their delivery.
/// The calling thread has them blocked; one that is also pending for it alone is left where it is.
pub(crate) fn capture(mask: u64) -> Result<Vec<PendingSignal>, StateError> {
    let mut pending = Vec::new();
    if mask == 0 {
        return Ok(pending);
    }
    let (own, shared) = masks()?;
    let mask = mask & shared & !own;
    while mask != 0 && pending.len() < MAX_PENDING {
        let mut info = [0u64; INFO_SIZE / 8];
        let none = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: the set has the eight bytes announced, and `info` is as large as a siginfo.
        let signal = unsafe {
            libc::syscall(
                libc::SYS_rt_sigtimedwait,
                &raw const mask,
                info.as_mut_ptr(),
                &raw const none,
                8usize,
            )
        };
        if signal <= 0 {
            break;
        }
        let bytes = info.iter().flat_map(|word| word.to_ne_bytes()).collect();
        pending.push(PendingSignal {
            signal: signal as i32,
            info: Bytes(bytes),
        });
    }
    queue(&pending, false)?;
    pending.retain(|signal| !foreign(&signal.info.0));
    Ok(pending)
}

/// Queues the recorded signals to this process, which has sent them in an earlier life.
pub(crate) fn restore(pending: &[PendingSignal]) -> Result<(), StateError> {
    queue(pending, true)
}

/// Queues signals to this process again. `own`: with this process as the sender.
fn queue(pending: &[PendingSignal], own: bool) -> Result<(), StateError> {
    for signal in pending {
        let mut info = [0u8; INFO_SIZE];
        let length = signal.info.0.len().min(INFO_SIZE);
        info[..length].copy_from_slice(&signal.info.0[..length]);
        let number = signal.signal;
        // SAFETY: getpid takes nothing.
        let process = unsafe { libc::getpid() };
        if own && sent(&info) {
            info[SENDER..SENDER + 4].copy_from_slice(&process.to_ne_bytes());
        }
        // SAFETY: `info` is as large as a siginfo and only read. A process may send itself any.
        let queued =
            unsafe { libc::syscall(libc::SYS_rt_sigqueueinfo, process, number, info.as_ptr()) };
        if queued == 0 {
            continue;
        }
        let error = io::Error::last_os_error();
        // A siginfo the kernel made (si_code above 0) may only be sent by a thread to itself on
        // some kernels; the plain signal is what is left.
        // SAFETY: kill takes and returns numbers.
        if error.raw_os_error() != Some(libc::EPERM) || unsafe { libc::kill(process, number) } != 0
        {
            return Err(StateError::io("queue again signal", number, error));
        }
    }
    Ok(())
}
