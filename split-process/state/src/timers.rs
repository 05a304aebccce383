//! Interval timers (setitimer) and POSIX timers (timer_create).
//!
//! The kernel lists POSIX timers with their parameters in `/proc/self/timers`; which of them are the
//! program's is known from the system-call layer, which notes creations in a [`TimerTable`]. All
//! calls on timers are made without the C library, whose handles are not the kernel's numbers.

use std::collections::BTreeSet;
use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

use crate::context::{CaptureContext, RestoreContext};
use crate::error::{StateError, Warning};

/// PR_TIMER_CREATE_RESTORE_IDS of linux/prctl.h (Linux 6.15).
const PR_TIMER_CREATE_RESTORE_IDS: i32 = 77;
/// How many timers are made and removed to meet a wanted identifier on older kernels.
const MAX_ATTEMPTS: u32 = 1 << 20;
const SIGEV_SIGNAL: i32 = 0;
const SIGEV_NONE: i32 = 1;
const SIGEV_THREAD_ID: i32 = 4;

/// Identifiers of the POSIX timers the upper half made. Part of the image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimerTable(BTreeSet<i32>);

impl TimerTable {
    /// No timers.
    pub fn new() -> TimerTable {
        TimerTable::default()
    }

    /// `timer_create` gave the program timer `id` (the kernel's number, not the C library's handle).
    pub fn note_create(&mut self, id: i32) {
        self.0.insert(id);
    }

    /// `timer_delete(id)` succeeded.
    pub fn note_delete(&mut self, id: i32) {
        self.0.remove(&id);
    }

    /// Whether `id` is the program's.
    pub fn contains(&self, id: i32) -> bool {
        self.0.contains(&id)
    }
}

/// All timers of the program.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timers {
    /// ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF: time left and interval in microseconds; 0: off.
    pub interval: [(u64, u64); 3],
    /// POSIX timers.
    pub posix: Vec<PosixTimer>,
}

/// A POSIX timer. Times in nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PosixTimer {
    /// The kernel's identifier.
    pub id: i32,
    /// Its clock.
    pub clock: i32,
    /// Signal sent at expiration.
    pub signal: i32,
    /// `sigev_value`.
    pub value: u64,
    /// Who is told.
    pub notify: Notify,
    /// Time left; 0: not armed.
    pub left: u64,
    /// Interval; 0: once.
    pub interval: u64,
}

/// Who is told of an expiration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Notify {
    /// SIGEV_NONE.
    Nobody,
    /// SIGEV_SIGNAL.
    Process,
    /// SIGEV_THREAD_ID, with the thread identifier the program knows.
    Thread(i32),
}

/// The time of `clock` in nanoseconds.
pub(crate) fn now(clock: i32) -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid place for the answer.
    unsafe { libc::clock_gettime(clock, &mut time) };
    nanoseconds(time)
}

fn nanoseconds(time: libc::timespec) -> u64 {
    (time.tv_sec.max(0) as u64) * 1_000_000_000 + time.tv_nsec.max(0) as u64
}

/// Nanoseconds as the kernel takes them.
pub(crate) fn timespec(nanoseconds: u64) -> libc::timespec {
    libc::timespec {
        tv_sec: (nanoseconds / 1_000_000_000) as i64,
        tv_nsec: (nanoseconds % 1_000_000_000) as i64,
    }
}

pub(crate) fn capture(ctx: &CaptureContext<'_>) -> Result<Timers, StateError> {
    let mut interval = [(0, 0); 3];
    for (which, place) in interval.iter_mut().enumerate() {
        *place = interval_timer(which as i32)?;
    }
    let path = "/proc/self/timers";
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        // A kernel without CONFIG_CHECKPOINT_RESTORE, in which a program without timers is fine.
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            if ctx.timers.is_some_and(|t| !t.0.is_empty()) {
                return Err(StateError::io(
                    "read the parameters of the program's timers in",
                    path,
                    e,
                ));
            }
            String::new()
        }
        Err(e) => return Err(StateError::io("read", path, e)),
    };
    let mut posix = parse(&text)?;
    posix.retain(|t| ctx.timers.is_none_or(|table| table.contains(t.id)));
    for timer in &mut posix {
        if let Notify::Thread(thread) = &mut timer.notify {
            *thread = (ctx.virtual_tid)(*thread);
        }
        let setting = get_posix(timer.id)?;
        timer.left = nanoseconds(setting.it_value);
        timer.interval = nanoseconds(setting.it_interval);
    }
    Ok(Timers { interval, posix })
}

fn interval_timer(which: i32) -> Result<(u64, u64), StateError> {
    let zero = libc::timeval {
        tv_sec: 0,
        tv_usec: 0,
    };
    let mut value = libc::itimerval {
        it_interval: zero,
        it_value: zero,
    };
    // SAFETY: getitimer fills an itimerval.
    if unsafe { libc::syscall(libc::SYS_getitimer, which, &raw mut value) } != 0 {
        return Err(StateError::last("read interval timer", which));
    }
    let microseconds = |t: libc::timeval| t.tv_sec as u64 * 1_000_000 + t.tv_usec as u64;
    Ok((
        microseconds(value.it_value),
        microseconds(value.it_interval),
    ))
}

/// Parses `/proc/self/timers`: four lines for each timer, see proc_pid_timers(5).
fn parse(text: &str) -> Result<Vec<PosixTimer>, StateError> {
    let mut timers: Vec<PosixTimer> = Vec::new();
    for (i, line) in text.lines().enumerate() {
        entry(&mut timers, line).ok_or_else(|| StateError::Parse {
            object: "/proc/self/timers".to_owned(),
            line: i + 1,
            text: line.to_owned(),
        })?;
    }
    Ok(timers)
}

fn entry(timers: &mut Vec<PosixTimer>, line: &str) -> Option<()> {
    let (name, value) = line.split_once(": ")?;
    if name == "ID" {
        timers.push(PosixTimer {
            id: value.parse().ok()?,
            clock: 0,
            signal: 0,
            value: 0,
            notify: Notify::Nobody,
            left: 0,
            interval: 0,
        });
        return Some(());
    }
    let timer = timers.last_mut()?;
    match name {
        "signal" => {
            let (signal, word) = value.split_once('/')?;
            timer.signal = signal.parse().ok()?;
            timer.value = match word {
                "(null)" => 0,
                word => u64::from_str_radix(word.trim_start_matches("0x"), 16).ok()?,
            };
        }
        "notify" => {
            let (how, whom) = value.split_once('/')?;
            let (kind, number) = whom.split_once('.')?;
            timer.notify = match (how, kind) {
                ("none", _) => Notify::Nobody,
                (_, "tid") => Notify::Thread(number.parse().ok()?),
                _ => Notify::Process,
            };
        }
        "ClockID" => timer.clock = value.parse().ok()?,
        _ => {}
    }
    Some(())
}

fn get_posix(id: i32) -> Result<libc::itimerspec, StateError> {
    let zero = timespec(0);
    let mut setting = libc::itimerspec {
        it_interval: zero,
        it_value: zero,
    };
    // SAFETY: timer_gettime fills an itimerspec.
    if unsafe { libc::syscall(libc::SYS_timer_gettime, id, &raw mut setting) } != 0 {
        return Err(StateError::last("read timer", id));
    }
    Ok(setting)
}

pub(crate) fn restore(
    timers: &Timers,
    ctx: &RestoreContext<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<(), StateError> {
    for timer in &timers.posix {
        match create(timer, ctx) {
            Ok(()) => arm(timer)?,
            // A clock of another process or of a device: nothing else of the program depends on it.
            Err(StateError::Io { source, .. }) => {
                let object = format!("timer {}", timer.id);
                warnings.push(Warning::new(
                    object,
                    format!("cannot be made again ({source})"),
                ));
            }
            Err(other) => return Err(other),
        }
    }
    for (which, &(left, interval)) in timers.interval.iter().enumerate() {
        if left == 0 {
            continue;
        }
        let time = |t: u64| libc::timeval {
            tv_sec: (t / 1_000_000) as i64,
            tv_usec: (t % 1_000_000) as i64,
        };
        let value = libc::itimerval {
            it_interval: time(interval),
            it_value: time(left),
        };
        let none = std::ptr::null_mut::<libc::itimerval>();
        // SAFETY: `value` is valid; the former value is not asked for.
        if unsafe { libc::syscall(libc::SYS_setitimer, which, &raw const value, none) } != 0 {
            return Err(StateError::last("set interval timer", which));
        }
    }
    Ok(())
}

/// `struct sigevent` as the kernel reads it: value, signal, notify, thread; 64 bytes.
#[repr(C)]
struct SigEvent {
    value: u64,
    signal: i32,
    notify: i32,
    thread: i32,
    padding: [i32; 11],
}

/// Makes the timer under its identifier.
fn create(timer: &PosixTimer, ctx: &RestoreContext<'_>) -> Result<(), StateError> {
    let (notify, thread) = match timer.notify {
        Notify::Nobody => (SIGEV_NONE, 0),
        Notify::Process => (SIGEV_SIGNAL, 0),
        Notify::Thread(thread) => (SIGEV_THREAD_ID, (ctx.real_tid)(thread)),
    };
    let event = SigEvent {
        value: timer.value,
        signal: timer.signal,
        notify,
        thread,
        padding: [0; 11],
    };
    if restore_ids(true) {
        let made = make(timer.clock, &event, timer.id);
        restore_ids(false);
        return match made {
            Ok(_) => Ok(()),
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {
                let reason = "the lower half has a timer of that number".to_owned();
                Err(StateError::TimerId {
                    id: timer.id,
                    reason,
                })
            }
            Err(e) => Err(StateError::io("make timer", timer.id, e)),
        };
    }
    create_by_counting(timer, &event)
}

/// For kernels that choose the identifier. They give them in ascending order: timers are made and
/// removed until it is the turn of the wanted one.
fn create_by_counting(timer: &PosixTimer, event: &SigEvent) -> Result<(), StateError> {
    for _ in 0..MAX_ATTEMPTS {
        let id =
            make(timer.clock, event, 0).map_err(|e| StateError::io("make timer", timer.id, e))?;
        if id == timer.id {
            return Ok(());
        }
        // SAFETY: timer_delete takes and returns numbers; the timer is ours.
        unsafe { libc::syscall(libc::SYS_timer_delete, id) };
        if id > timer.id {
            break;
        }
    }
    let reason = "this kernel is past that number".to_owned();
    Err(StateError::TimerId {
        id: timer.id,
        reason,
    })
}

/// Switches the kernel between choosing identifiers and taking ours; false: it cannot.
fn restore_ids(on: bool) -> bool {
    // SAFETY: this option takes numbers.
    unsafe { libc::prctl(PR_TIMER_CREATE_RESTORE_IDS, on as libc::c_ulong, 0, 0, 0) == 0 }
}

fn make(clock: i32, event: &SigEvent, wanted: i32) -> io::Result<i32> {
    let mut id = wanted;
    // SAFETY: `event` is 64 bytes laid out as the kernel reads them; `id` takes the answer.
    match unsafe {
        libc::syscall(
            libc::SYS_timer_create,
            clock,
            &raw const *event,
            &raw mut id,
        )
    } {
        0 => Ok(id),
        _ => Err(io::Error::last_os_error()),
    }
}

fn arm(timer: &PosixTimer) -> Result<(), StateError> {
    let setting = libc::itimerspec {
        it_value: timespec(timer.left),
        it_interval: timespec(timer.interval),
    };
    let none = std::ptr::null_mut::<libc::itimerspec>();
    // SAFETY: `setting` is valid; the former setting is not asked for.
    let failed = unsafe {
        libc::syscall(
            libc::SYS_timer_settime,
            timer.id,
            0,
            &raw const setting,
            none,
        ) != 0
    };
    if failed {
        return Err(StateError::last("arm timer", timer.id));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_listing() {
        let text = "ID: 1\nsignal: 60/00007fff86e452a8\nnotify: signal/pid.2634\nClockID: 0\n\
                    ID: 0\nsignal: 34/(null)\nnotify: signal/tid.7\nClockID: 1\n\
                    ID: 5\nsignal: 0/0000000000000000\nnotify: none/pid.2634\nClockID: -6\n";
        let timers = parse(text).unwrap();
        assert_eq!(timers.len(), 3);
        assert_eq!(
            (timers[0].id, timers[0].signal, timers[0].value),
            (1, 60, 0x7fff86e452a8)
        );
        assert_eq!(timers[0].notify, Notify::Process);
        assert_eq!((timers[1].notify, timers[1].clock), (Notify::Thread(7), 1));
        assert_eq!((timers[2].notify, timers[2].clock), (Notify::Nobody, -6));
        assert!(parse("signal: 1/2\n").is_err());
        assert!(parse("ID: x\n").is_err());
    }

    #[test]
    fn the_layout_of_the_event() {
        assert_eq!(size_of::<SigEvent>(), 64);
        assert_eq!(std::mem::offset_of!(SigEvent, thread), 16);
    }

    #[test]
    fn an_identifier_met_by_counting() {
        let event = SigEvent {
            value: 0,
            signal: 0,
            notify: SIGEV_NONE,
            thread: 0,
            padding: [0; 11],
        };
        let wanted = |id| PosixTimer {
            id,
            clock: libc::CLOCK_MONOTONIC,
            signal: 0,
            value: 0,
            notify: Notify::Nobody,
            left: 0,
            interval: 0,
        };
        // The only test of this process that makes timers.
        let first = make(libc::CLOCK_MONOTONIC, &event, 0).unwrap();
        create_by_counting(&wanted(first + 9), &event).unwrap();
        assert!(get_posix(first + 9).is_ok() && get_posix(first + 8).is_err());
        let passed = create_by_counting(&wanted(first), &event);
        assert!(matches!(passed, Err(StateError::TimerId { id, .. }) if id == first));
    }
}
