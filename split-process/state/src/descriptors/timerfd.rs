//! timerfd: a clock, the time that is left, and expirations not read yet.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use serde::{Deserialize, Serialize};

use super::OpenFile;
use crate::error::StateError;
use crate::timers::{now, timespec};

/// `_IOW('T', 0, u64)` of linux/timerfd.h.
const TFD_IOC_SET_TICKS: libc::c_ulong = 0x4008_5400;

/// A timerfd. Times in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimerFd {
    /// Its clock.
    pub clock: i32,
    /// Time left to the next expiration; 0: not armed.
    pub left: u64,
    /// For an absolute timer on a clock of the outside world, when it expires.
    pub at: Option<u64>,
    /// Interval; 0: once.
    pub interval: u64,
    /// Expirations not read yet.
    pub ticks: u64,
    /// TFD_TIMER_CANCEL_ON_SET.
    pub cancel_on_set: bool,
}

pub(super) fn capture(file: &OpenFile) -> Result<TimerFd, StateError> {
    let info = file.info.timer.ok_or_else(|| StateError::Inconsistent {
        what: format!("the kernel tells nothing of the timer of {}", file.name()),
    })?;
    let absolute = info.set_flags & libc::TFD_TIMER_ABSTIME != 0;
    let outside = matches!(
        info.clock,
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_ALARM
    );
    let at = (absolute && outside && info.left > 0).then(|| now(info.clock) + info.left);
    Ok(TimerFd {
        clock: info.clock,
        left: info.left,
        at,
        interval: info.interval,
        ticks: info.ticks,
        cancel_on_set: info.set_flags & libc::TFD_TIMER_CANCEL_ON_SET != 0,
    })
}

/// Makes the timer; [`arm`] starts it.
pub(super) fn restore(record: &TimerFd) -> Result<OwnedFd, StateError> {
    // SAFETY: timerfd_create takes and returns numbers.
    let fd = unsafe { libc::timerfd_create(record.clock, libc::TFD_CLOEXEC) };
    if fd < 0 {
        return Err(StateError::last(
            "make a timer descriptor of clock",
            record.clock,
        ));
    }
    // SAFETY: just made, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Starts the timer behind `fd` with the time that was left.
pub(super) fn arm(record: &TimerFd, fd: RawFd) -> Result<(), StateError> {
    let mut flags = 0;
    let mut value = record.left;
    if let Some(at) = record.at {
        flags = libc::TFD_TIMER_ABSTIME;
        if record.cancel_on_set {
            flags |= libc::TFD_TIMER_CANCEL_ON_SET;
        }
        value = at;
    }
    let setting = libc::itimerspec {
        it_value: timespec(value),
        it_interval: timespec(record.interval),
    };
    set(fd, flags, &setting)?;
    if record.ticks == 0 {
        return Ok(());
    }
    // SAFETY: the ioctl reads eight bytes at the address given.
    if unsafe { libc::ioctl(fd, TFD_IOC_SET_TICKS, &raw const record.ticks) } == 0 {
        return Ok(());
    }
    if record.left == 0 {
        // A kernel without that ioctl: an expired timer expires once more, at once.
        let soon = libc::itimerspec {
            it_value: timespec(1),
            ..setting
        };
        set(fd, 0, &soon)?;
    }
    Ok(())
}

fn set(fd: RawFd, flags: i32, setting: &libc::itimerspec) -> Result<(), StateError> {
    // SAFETY: `setting` is valid, and the former value is not asked for.
    if unsafe { libc::timerfd_settime(fd, flags, setting, std::ptr::null_mut()) } != 0 {
        return Err(StateError::last("arm timer descriptor", fd));
    }
    Ok(())
}
