//! timerfd, interval timers, POSIX timers, pending signals.

use std::io::Read;
use std::ptr;

use super::*;

const HOUR: i64 = 3600;

fn spec(value: i64, interval: i64) -> libc::itimerspec {
    let seconds = |tv_sec| libc::timespec { tv_sec, tv_nsec: 0 };
    libc::itimerspec {
        it_value: seconds(value),
        it_interval: seconds(interval),
    }
}

fn timerfd(fd: RawFd, clock: i32, flags: i32, setting: libc::itimerspec) {
    let made = unsafe { libc::timerfd_create(clock, libc::TFD_NONBLOCK) };
    assert_eq!(unsafe { libc::dup2(made, fd) }, fd);
    unsafe { libc::close(made) };
    assert_eq!(
        unsafe { libc::timerfd_settime(fd, flags, &setting, ptr::null_mut()) },
        0
    );
}

fn left(fd: RawFd) -> (i64, i64) {
    let mut setting = spec(0, 0);
    assert_eq!(unsafe { libc::timerfd_gettime(fd, &mut setting) }, 0);
    (setting.it_value.tv_sec, setting.it_interval.tv_sec)
}

#[test]
fn timer_descriptors_go_on() {
    Scenario::new(
        |_| {
            timerfd(30, libc::CLOCK_MONOTONIC, 0, spec(HOUR, 7));
            timerfd(31, libc::CLOCK_MONOTONIC, 0, spec(0, 0));
            let mut soon = spec(0, 0);
            soon.it_value.tv_nsec = 1;
            timerfd(32, libc::CLOCK_MONOTONIC, 0, soon);
            assert!(readable(32, 5000));
            let mut now = spec(0, 0).it_value;
            unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &mut now) };
            let later = spec(now.tv_sec + 2 * HOUR, 0);
            timerfd(33, libc::CLOCK_REALTIME, libc::TFD_TIMER_ABSTIME, later);
        },
        |_, _| {
            let near = |seconds: i64, wanted: i64| (wanted - 60..=wanted).contains(&seconds);
            assert!(near(left(30).0, HOUR) && left(30).1 == 7);
            assert_eq!(left(31), (0, 0));
            // Expired, and the expiration is still to be read.
            assert_eq!(left(32), (0, 0));
            assert!(readable(32, 5000) && !readable(31, 0));
            assert!(near(left(33).0, 2 * HOUR));
        },
    )
    .run("timing::timer_descriptors_go_on");
}

#[test]
fn interval_timers_go_on() {
    Scenario::new(
        |_| {
            let time = |tv_sec| libc::timeval { tv_sec, tv_usec: 0 };
            for (which, value) in [(libc::ITIMER_REAL, HOUR), (libc::ITIMER_PROF, 2 * HOUR)] {
                let setting = libc::itimerval {
                    it_value: time(value),
                    it_interval: time(9),
                };
                let which = which as u32;
                assert_eq!(
                    unsafe { libc::syscall(libc::SYS_setitimer, which, &setting, 0) },
                    0
                );
            }
        },
        |_, _| {
            let zero = libc::timeval {
                tv_sec: 0,
                tv_usec: 0,
            };
            for (which, wanted) in [(0, HOUR), (1, 0), (2, 2 * HOUR)] {
                let mut setting = libc::itimerval {
                    it_value: zero,
                    it_interval: zero,
                };
                unsafe { libc::syscall(libc::SYS_getitimer, which, &mut setting) };
                let value = setting.it_value.tv_sec;
                assert!(
                    (wanted - 60..=wanted).contains(&value),
                    "timer {which}: {value}"
                );
                assert_eq!(setting.it_interval.tv_sec, if wanted > 0 { 9 } else { 0 });
            }
        },
    )
    .run("timing::interval_timers_go_on");
}

#[repr(C)]
struct Event {
    value: u64,
    signal: i32,
    notify: i32,
    thread: i32,
    padding: [i32; 11],
}

fn create(signal: i32, value: u64) -> i32 {
    let event = Event {
        value,
        signal,
        notify: 0,
        thread: 0,
        padding: [0; 11],
    };
    let mut id = 0i32;
    let made = unsafe {
        libc::syscall(
            libc::SYS_timer_create,
            libc::CLOCK_MONOTONIC,
            &event,
            &mut id,
        )
    };
    assert_eq!(made, 0);
    id
}

#[test]
fn posix_timers_have_their_identifiers() {
    Scenario::new(
        |_| {
            // Leaves identifiers 1 and 3; 0 and 2 are gone.
            let ids: Vec<i32> = (0..4).map(|i| create(libc::SIGUSR1, 0xabc0 + i)).collect();
            assert_eq!(ids, [0, 1, 2, 3]);
            for id in [0, 2] {
                unsafe { libc::syscall(libc::SYS_timer_delete, id) };
            }
            let setting = spec(HOUR, 5);
            assert_eq!(
                unsafe { libc::syscall(libc::SYS_timer_settime, 3, 0, &setting, 0) },
                0
            );
        },
        |_, restarted| {
            let text = std::fs::read_to_string("/proc/self/timers").unwrap();
            let ids: Vec<&str> = text.lines().filter(|l| l.starts_with("ID")).collect();
            assert_eq!(ids.len(), 2, "{text}");
            assert!(
                text.contains("ID: 1\n") && text.contains("ID: 3\n"),
                "{text}"
            );
            assert!(text.contains("abc3"), "{text}");
            let mut setting = spec(0, 0);
            assert_eq!(
                unsafe { libc::syscall(libc::SYS_timer_gettime, 3, &mut setting) },
                0
            );
            assert!((HOUR - 60..=HOUR).contains(&setting.it_value.tv_sec));
            assert_eq!(setting.it_interval.tv_sec, 5);
            assert_eq!(
                unsafe { libc::syscall(libc::SYS_timer_gettime, 1, &mut setting) },
                0
            );
            assert_eq!((setting.it_value.tv_sec, setting.it_value.tv_nsec), (0, 0));
            if restarted {
                // New ones get other identifiers.
                let id = create(libc::SIGUSR1, 0);
                assert!(![1, 3].contains(&id));
            }
        },
    )
    .run("timing::posix_timers_have_their_identifiers");
}

#[test]
fn pending_signals_stay_pending() {
    const MASK: u64 = 1 << (QUEUED - 1);
    Scenario {
        adjust: |ctx| ctx.pending_signals = MASK,
        ..Scenario::new(
            |_| {
                // To this process as a whole, with a word.
                for word in [11usize, 22] {
                    let value = libc::sigval {
                        sival_ptr: word as *mut libc::c_void,
                    };
                    assert_eq!(unsafe { libc::sigqueue(libc::getpid(), QUEUED, value) }, 0);
                }
            },
            |_, restarted| {
                let pending = std::fs::read_to_string("/proc/self/status").unwrap();
                let line = pending
                    .lines()
                    .find_map(|l| l.strip_prefix("ShdPnd:\t"))
                    .unwrap();
                let bits = u64::from_str_radix(line, 16).unwrap();
                assert_ne!(bits & MASK, 0, "{line}");
                if restarted {
                    let mask = MASK;
                    let fd = unsafe { libc::syscall(libc::SYS_signalfd4, -1, &mask, 8usize, 0) };
                    for word in [11u64, 22] {
                        let mut info = [0; 128];
                        at(fd as i32).read_exact(&mut info).unwrap();
                        let value = u64::from_ne_bytes(info[48..56].try_into().unwrap());
                        assert_eq!(value, word);
                    }
                }
            },
        )
    }
    .run("timing::pending_signals_stay_pending");
}
