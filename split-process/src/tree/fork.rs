//! A fork by a process of the tree: the child's lower half has the forking thread only, and goes on
//! from there. Lower half.
//!
//! The fork is the lower C library's own, so that its locks and its idea of the thread are right in
//! the child; our locks are held across it for the same reason. What control threads keep for
//! themselves is the parent's alone: the child starts a control thread of its own ([`crate::Hooks`]).

use mana_raw::entry::Frame;
use std::sync::atomic::Ordering;

use super::table::Place;
use crate::book::book;
use crate::threads::{self, Thread};
use crate::{arena, calls, children, control, excluded, notice, park, patch, signals, start};

const CLONE_PARENT_SETTID: usize = 0x10_0000;
const CLONE_CHILD_CLEARTID: usize = 0x20_0000;
const CLONE_CHILD_SETTID: usize = 0x100_0000;

/// Whether a clone with these flags is a plain fork.
pub fn is_plain_fork(flags: usize) -> bool {
    let known = CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID | CLONE_CHILD_SETTID;
    flags & !known == libc::SIGCHLD as usize
}

/// Forks; `None`: there is no tree, or no place in it.
pub fn fork(frame: &Frame, thread: &'static Thread) -> Option<isize> {
    let table = super::table()?;
    let place = table.reserve(super::own()?.id())?;
    let (flags, parent_tid, child_tid) = (frame.rdi, frame.rdx, frame.r10);
    let others = (
        excluded::hold(),
        arena::hold(),
        patch::hold(),
        children::hold(),
        start::hold_hooks(),
    );
    let mut registry = threads::hold();
    // SAFETY: no other thread of the process uses what the locks protect; signals are blocked.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let id = child(place);
        registry.only(thread, id);
        drop(registry);
        drop(others);
        let clear = if flags & CLONE_CHILD_CLEARTID != 0 {
            child_tid
        } else {
            0
        };
        thread.tid_address.store(clear, Ordering::Relaxed);
        if flags & CLONE_CHILD_SETTID != 0 {
            // SAFETY: the word the program gave for the number.
            unsafe { (child_tid as *mut i32).write_volatile(id) };
        }
        children::forget();
        control::membarrier_register();
        // The lower C library takes the child for a process of one thread, and may install handlers of
        // its own with the next: see `start::start`.
        std::thread::spawn(|| {}).join().ok();
        signals::install_saved();
        signals::install_park();
        if let Some(on_fork) = start::hooks().on_fork {
            on_fork();
        }
        return Some(0);
    }
    let error = arena::errno();
    drop(registry);
    drop(others);
    if pid < 0 {
        place.free();
        return Some(-error);
    }
    let id = table.settle(place, pid, None);
    if flags & CLONE_PARENT_SETTID != 0 {
        // SAFETY: the word the program gave for the number.
        unsafe { (parent_tid as *mut i32).write_volatile(id) };
    }
    Some(id as isize)
}

/// The first steps of a child: who it is.
fn child(place: &'static Place) -> i32 {
    calls::remember_pid();
    calls::forget_ending();
    let real = std::process::id() as i32;
    let id = super::table().map_or(real, |t| t.settle(place, real, None));
    super::take(place);
    // SAFETY: this thread is the only one.
    unsafe { book() }.pid.store(id, Ordering::Relaxed);
    park::forget();
    notice::forget();
    id
}
