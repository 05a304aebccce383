//! Calls of a program in a tree that name processes: the numbers it knows become the kernel's and
//! back. Lower half.
//!
//! A wait for a child never waits here: it looks, and if there is none the thread waits in the
//! shim, where it can be parked, and comes again (`shim::wait`). What the shim's call names belongs
//! to this run; a resume makes the thread look again first.

use mana_raw::entry::Frame;
use mana_raw::sys;
use std::sync::atomic::{AtomicI32, Ordering};

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

/// A child was found: its number, and an end to its place if it is gone now.
fn found(real: i32, became: Became) -> i32 {
    let known = id(real);
    if let (Became::Gone(signal), Some(table)) = (became, super::table()) {
        let place = table.by_real(real);
        if notice::may_hold(signal) && place.is_none_or(|p| p.ended_by_tree() != signal) {
            table.note_loss(known, signal);
        }
        if let Some(place) = place {
            place.free();
        }
    }
    known
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
    let target = match wanted {
        ..=0 if kind == libc::P_PGID as usize => -number,
        -1 => -1,
        _ => number,
    };
    let local = AtomicI32::new(0);
    let status = match frame.rsi {
        0 => local.as_ptr() as usize,
        given => given,
    };
    let options = frame.rdx | libc::WNOHANG as usize;
    // SAFETY: the program's call, which does not wait; its places are checked by the kernel.
    let got = unsafe {
        sys::syscall(
            sys::WAIT4,
            [target as isize as usize, status, options, frame.r10, 0, 0],
        )
    };
    if got > 0 {
        // SAFETY: the kernel has just written there.
        let status = unsafe { (status as *const i32).read_unaligned() };
        let became = match (libc::WIFEXITED(status), libc::WIFSIGNALED(status)) {
            (true, _) => Became::Gone(0),
            (_, true) => Became::Gone(libc::WTERMSIG(status)),
            _ => Became::Other,
        };
        return Then::Result(found(got as i32, became) as isize);
    }
    if got == 0 && frame.rdx & libc::WNOHANG as usize == 0 {
        let options = frame.rdx | libc::WEXITED as usize;
        return wait_in_shim(thread, kind, number, options);
    }
    local.store(0, Ordering::Relaxed);
    Then::Result(got)
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
    let mut told: Told = [0; 32];
    let options = frame.r10 | libc::WNOHANG as usize;
    // SAFETY: the program's call, which does not wait; `told` is as large as a siginfo.
    let result = unsafe {
        sys::syscall(
            sys::WAITID,
            [
                kind,
                number as isize as usize,
                told.as_mut_ptr() as usize,
                options,
                frame.r8,
                0,
            ],
        )
    };
    if result < 0 {
        return Then::Result(result);
    }
    if told[PID] == 0 && frame.r10 & libc::WNOHANG as usize == 0 {
        return wait_in_shim(thread, kind, number, frame.r10);
    }
    if told[PID] != 0 {
        let became = match told[CODE] {
            _ if frame.r10 & WNOWAIT != 0 => Became::Other,
            libc::CLD_EXITED => Became::Gone(0),
            libc::CLD_KILLED | libc::CLD_DUMPED => Became::Gone(told[STATUS]),
            _ => Became::Other,
        };
        told[PID] = found(told[PID], became);
    }
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
