//! Calls of a program in a tree that name processes: the numbers it knows become the kernel's and
//! back. Lower half.
//!
//! A wait for a child never waits here: it looks, and if there is none the thread waits in the
//! shim, where it can be parked, and comes again (`shim::wait`). What the shim's call names belongs
//! to this run; a resume makes the thread look again first.

use mana_raw::entry::Frame;
use mana_raw::sys;
use std::sync::atomic::AtomicI32;

use super::table::Place;
use crate::calls::{is_process, Then};
use crate::notice;
use crate::threads::Thread;

/// Calls that are trapped while there is a tree.
pub const TRAPPED: &[usize] = &[
    sys::WAIT4,
    sys::WAITID,
    sys::SETPGID,
    sys::GETPPID,
    sys::GETPGRP,
    sys::SETSID,
    sys::GETPGID,
    sys::GETSID,
    sys::PIDFD_OPEN,
];

const WNOWAIT: usize = 0x0100_0000;
const P_PIDFD: usize = 3;

/// The kernel's number for the process the program knows as `id`; `id` itself for others.
pub fn real(id: i32) -> i32 {
    let known = super::table().and_then(|t| t.by_id(id));
    known.and_then(Place::real).unwrap_or(id)
}

/// The number the program knows for the kernel's `real`; `real` itself for others.
pub fn id(real: i32) -> i32 {
    let known = super::table().and_then(|t| t.by_real(real));
    known.map(Place::id).filter(|id| *id != 0).unwrap_or(real)
}

/// The same for what names a process if positive, and a group if negative.
pub fn real_target(id: i32) -> i32 {
    match id {
        2.. => real(id),
        ..-1 => -real(-id),
        _ => id,
    }
}

/// The program sends `signal` to `target` (the kernel's number, or that of a group below 0): if that ends a
/// process of the tree, the program has wanted it.
pub fn sends(target: i32, signal: i32) {
    let Some(table) = super::table().filter(|_| notice::may_hold(signal)) else {
        return;
    };
    // SAFETY: getpgid takes and returns numbers; 0 is this process.
    let group = |real: i32| unsafe { libc::getpgid(real) };
    for place in table.places() {
        let meant = place.real().is_some_and(|real| match target {
            1.. => real == target,
            0 => group(real) == group(0),
            -1 => true,
            _ => group(real) == -target,
        });
        if meant {
            place.set_ended_by_tree(signal);
        }
    }
}

/// A trapped call of this module's, if it is one.
pub fn call(frame: &Frame, thread: &'static Thread) -> Option<Then> {
    if super::table().is_none() || !is_process() {
        return None;
    }
    let result = |frame: &Frame, args: [usize; 2]| {
        // SAFETY: the program's call; only numbers of processes differ. None of these waits.
        unsafe {
            sys::syscall(
                frame.rax,
                [args[0], args[1], frame.rdx, frame.r10, frame.r8, frame.r9],
            )
        }
    };
    let known = |value: isize| {
        if value > 0 {
            id(value as i32) as isize
        } else {
            value
        }
    };
    let (first, second) = (frame.rdi as i32, frame.rsi as i32);
    Some(match frame.rax {
        sys::WAIT4 => wait4(frame, thread),
        sys::WAITID => waitid(frame, thread),
        sys::GETPPID | sys::GETPGRP | sys::SETSID => {
            Then::Result(known(result(frame, [frame.rdi, frame.rsi])))
        }
        sys::GETPGID | sys::GETSID => {
            Then::Result(known(result(frame, [real(first) as usize, frame.rsi])))
        }
        sys::SETPGID => Then::Result(result(frame, [real(first) as usize, real(second) as usize])),
        sys::PIDFD_OPEN => Then::Result(result(frame, [real(first) as usize, frame.rsi])),
        _ => return None,
    })
}

/// The thread waits in the shim for what `waitid` would wait for.
fn wait_in_shim(thread: &'static Thread, kind: usize, number: i32, options: usize) -> Then {
    thread.with_block(|block| {
        block.wait_kind = kind;
        block.wait_id = number as usize;
        block.wait_options = options & !(libc::WNOHANG as usize) | WNOWAIT;
    });
    Then::Wait
}

/// What became of a child that was found.
enum Became {
    /// It has stopped, goes on, or was only looked at.
    Other,
    /// It has ended, by this signal if not by itself (0).
    Gone(i32),
}

/// A child that was seen and not yet waited for. After that the kernel knows it no more, and the root may free its place
/// at any time ([`super::table::Table::sweep`]): what is in it is read before.
struct Seen {
    real: i32,
    known: i32,
    /// The signal by which the program has wanted to end it, or 0.
    wanted: i32,
}

impl Seen {
    fn child(real: i32) -> Self {
        let place = super::table().and_then(|t| t.by_real(real));
        Self {
            real,
            known: id(real),
            wanted: place.map_or(0, Place::ended_by_tree),
        }
    }

    /// It was waited for: its number, and an end to its place if it is gone now.
    fn waited(self, became: Became) -> i32 {
        if let (Became::Gone(signal), Some(table)) = (became, super::table()) {
            if notice::may_hold(signal) && self.wanted != signal {
                table.note_loss(self.known, signal);
            }
            if let Some(place) = table.by_real(self.real) {
                place.free();
            }
        }
        self.known
    }
}

/// Looks what `waitid` would tell, without waiting: the result, and 0 as process if there is nothing.
fn look(kind: usize, number: i32, options: usize, told: &mut Told, usage: usize) -> isize {
    // SAFETY: the program's call, which does not wait; `told` is as large as a siginfo, and `usage` is the program's.
    unsafe {
        sys::syscall(
            sys::WAITID,
            [
                kind,
                number as isize as usize,
                told.as_mut_ptr() as usize,
                options | libc::WNOHANG as usize,
                usage,
                0,
            ],
        )
    }
}

/// Another thread of this process was first.
fn is_taken(result: isize, process: i32) -> bool {
    process == 0 || result == -(libc::ECHILD as isize)
}

fn wait4(frame: &Frame, thread: &'static Thread) -> Then {
    let wanted = frame.rdi as i32;
    let (kind, number) = match wanted {
        -1 => (libc::P_ALL as usize, 0),
        0 => {
            // SAFETY: no arguments.
            (libc::P_PGID as usize, unsafe { libc::getpgrp() })
        }
        1.. => (libc::P_PID as usize, real(wanted)),
        _ => (libc::P_PGID as usize, real(wanted.wrapping_neg())),
    };
    let local = AtomicI32::new(0);
    let status = match frame.rsi {
        0 => local.as_ptr() as usize,
        given => given,
    };
    let options = frame.rdx | libc::WEXITED as usize;
    loop {
        let mut told: Told = [0; 32];
        let result = look(kind, number, options | WNOWAIT, &mut told, 0);
        if result < 0 {
            return Then::Result(result);
        }
        if told[PID] == 0 {
            return match frame.rdx & libc::WNOHANG as usize {
                0 => wait_in_shim(thread, kind, number, options),
                _ => Then::Result(0),
            };
        }
        let seen = Seen::child(told[PID]);
        // SAFETY: the program's call, which does not wait; its places are checked by the kernel.
        let got = unsafe {
            sys::syscall(
                sys::WAIT4,
                [
                    told[PID] as usize,
                    status,
                    frame.rdx | libc::WNOHANG as usize,
                    frame.r10,
                    0,
                    0,
                ],
            )
        };
        if is_taken(got, got as i32) {
            continue;
        }
        if got < 0 {
            return Then::Result(got);
        }
        // SAFETY: the kernel has just written there.
        let status = unsafe { (status as *const i32).read_unaligned() };
        let became = match (libc::WIFEXITED(status), libc::WIFSIGNALED(status)) {
            (true, _) => Became::Gone(0),
            (_, true) => Became::Gone(libc::WTERMSIG(status)),
            _ => Became::Other,
        };
        return Then::Result(seen.waited(became) as isize);
    }
}

/// What `waitid` tells: the first seven words of a siginfo.
type Told = [i32; 32];
const CODE: usize = 2;
const PID: usize = 4;
const STATUS: usize = 6;

fn waitid(frame: &Frame, thread: &'static Thread) -> Then {
    let kind = frame.rdi;
    let number = match kind as u32 {
        libc::P_PID | libc::P_PGID => real(frame.rsi as i32),
        _ => frame.rsi as i32,
    };
    if kind > P_PIDFD {
        return Then::Native;
    }
    let told = loop {
        let mut told: Told = [0; 32];
        let result = look(kind, number, frame.r10 | WNOWAIT, &mut told, frame.r8);
        if result < 0 {
            return Then::Result(result);
        }
        let process = told[PID];
        if process == 0 && frame.r10 & libc::WNOHANG as usize == 0 {
            return wait_in_shim(thread, kind, number, frame.r10);
        }
        if process == 0 {
            break told;
        }
        let seen = Seen::child(process);
        if frame.r10 & WNOWAIT != 0 {
            told[PID] = seen.waited(Became::Other);
            break told;
        }
        let one = libc::P_PID as usize;
        let result = look(one, process, frame.r10, &mut told, frame.r8);
        if is_taken(result, told[PID]) {
            continue;
        }
        if result < 0 {
            return Then::Result(result);
        }
        let became = match told[CODE] {
            libc::CLD_EXITED => Became::Gone(0),
            libc::CLD_KILLED | libc::CLD_DUMPED => Became::Gone(told[STATUS]),
            _ => Became::Other,
        };
        told[PID] = seen.waited(became);
        break told;
    };
    if frame.rdx != 0 {
        // Number, error, code; then process, user, status. The word between is padding.
        for word in [0, 1, 2, 4, 5, 6] {
            // SAFETY: the program's siginfo.
            unsafe {
                (frame.rdx as *mut i32)
                    .add(word)
                    .write_unaligned(told[word])
            };
        }
    }
    Then::Result(0)
}
