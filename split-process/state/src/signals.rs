//! Signals pending for the process as a whole (those of one thread belong to its record).
//!
//! A signal is only pending for the process while every thread blocks it. It is taken out with its
//! siginfo and queued again at once.

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

/// Records the pending signals of `mask` (bit n-1 is signal n), in the order of their delivery.
/// The calling thread has them blocked, and none pending for itself alone.
pub(crate) fn capture(mask: u64) -> Result<Vec<PendingSignal>, StateError> {
    let mut pending = Vec::new();
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
    restore(&pending)?;
    Ok(pending)
}

/// Queues the signals to this process again.
pub(crate) fn restore(pending: &[PendingSignal]) -> Result<(), StateError> {
    for signal in pending {
        let mut info = [0u8; INFO_SIZE];
        let length = signal.info.0.len().min(INFO_SIZE);
        info[..length].copy_from_slice(&signal.info.0[..length]);
        let number = signal.signal;
        // SAFETY: getpid takes nothing.
        let process = unsafe { libc::getpid() };
        // SAFETY: `info` is as large as a siginfo and only read. A process may send itself any.
        let sent =
            unsafe { libc::syscall(libc::SYS_rt_sigqueueinfo, process, number, info.as_ptr()) };
        if sent == 0 {
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
