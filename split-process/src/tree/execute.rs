//! A process of the tree executes a program: the lower half is executed instead, which starts the
//! program under control. Lower half; also in a child that borrows its parent's memory (`vfork`,
//! `posix_spawn`), on the lower stack of the thread that waits for it.

use mana_raw::entry::Frame;
use mana_raw::sys;
use std::ffi::{CStr, CString};
use std::sync::atomic::Ordering;

use crate::calls::{is_process, kernel_pid};
use crate::threads::Thread;
use crate::{notice, park, signals};

/// What to execute in place of what a process of the tree asked for.
pub struct Execute {
    /// The file.
    pub path: CString,
    /// `argv`.
    pub argv: Vec<CString>,
    /// The environment.
    pub env: Vec<CString>,
}

/// [`Execute`] as the kernel takes it. Kept by the thread until its next: where a child borrows the
/// memory, nobody is left to free it.
struct Words {
    what: Execute,
    argv: Vec<*const libc::c_char>,
    env: Vec<*const libc::c_char>,
}

fn pointers(words: &[CString]) -> Vec<*const libc::c_char> {
    let all = words.iter().map(|w| w.as_ptr());
    all.chain(std::iter::once(std::ptr::null())).collect()
}

fn forget_words(thread: &Thread) {
    let old = thread.words.swap(0, Ordering::AcqRel) as *mut Words;
    if !old.is_null() {
        // SAFETY: put there by `execute` below, taken out once.
        drop(unsafe { Box::from_raw(old) });
    }
}

/// `execve` by a process of the tree, or by a child that is about to become one. Returns the error;
/// `None`: by the root, and to be done as without a tree.
pub fn execute(frame: &Frame, thread: &'static Thread) -> Option<isize> {
    let call = [frame.rdi, frame.rsi, frame.rdx, frame.r10, frame.r8, 0];
    let mut mask = frame.mask;
    if !is_process() {
        mask = notice::mask_of_borrower(thread, mask, false);
    }
    let instead = (frame.rax == sys::EXECVE && frame.rdi != 0)
        .then(|| {
            let on_execute = crate::start::hooks().on_execute?;
            // SAFETY: the program's path; a wild pointer would fault, as in its own strlen.
            let path = unsafe { CStr::from_ptr(frame.rdi as *const libc::c_char) };
            on_execute(
                path,
                frame.rsi as *const *const libc::c_char,
                frame.rdx as *const *const libc::c_char,
                mask,
            )
        })
        .flatten();
    let Some(what) = instead else {
        let root = is_process() && !super::is_member();
        return (!root).then(|| plainly(frame, thread, call));
    };
    let words = Box::new(Words {
        argv: pointers(&what.argv),
        env: pointers(&what.env),
        what,
    });
    let call = [
        words.what.path.as_ptr() as usize,
        words.argv.as_ptr() as usize,
        words.env.as_ptr() as usize,
        0,
        0,
        0,
    ];
    forget_words(thread);
    thread
        .words
        .store(Box::into_raw(words) as usize, Ordering::Release);
    // What announces the end stays pending until the lower half can hold it back there. The root begins
    // anew, with everything.
    let root = is_process() && !super::is_member();
    let blocked = if root { 0 } else { notice::mask() };
    let result = leave(thread, mask, sys::EXECVE, call, blocked);
    forget_words(thread);
    Some(result)
}

/// Executes what was asked for: this process is not under control from here on, and a checkpoint
/// is refused by its name while it lives.
fn plainly(frame: &Frame, thread: &'static Thread, call: [usize; 6]) -> isize {
    let table = super::table();
    let (place, made) = if is_process() {
        (super::own(), false)
    } else {
        let parent = super::own().map_or(0, |p| p.id());
        let place = table.and_then(|t| t.reserve(parent));
        if let (Some(table), Some(place)) = (table, place) {
            table.settle(place, kernel_pid(), None);
        }
        (place, true)
    };
    if let Some(place) = place {
        place.set_plain(true);
    }
    // What is not there is not executed: the child goes on.
    // SAFETY: the program's path, which the kernel checks.
    let there = || unsafe {
        let access = [frame.rdi, libc::X_OK as usize, 0, 0, 0, 0];
        frame.rax != sys::EXECVE || sys::syscall(libc::SYS_access as usize, access) == 0
    };
    let mask = match made && there() {
        true => notice::mask_of_borrower(thread, frame.mask, true),
        false => frame.mask,
    };
    let result = leave(thread, mask, frame.rax, call, 0);
    if let Some(place) = place {
        place.set_plain(false);
        if made {
            place.free();
        }
    }
    result
}

/// The call itself, as if from the program: with its `mask` (and `blocked`), and not inside the lower half (whose depth
/// outlives a child that borrows it). A park signal that comes meanwhile is ignored: what is executed has
/// no handler for it yet, and would end.
pub fn leave(
    thread: &'static Thread,
    mask: u64,
    number: usize,
    call: [usize; 6],
    blocked: u64,
) -> isize {
    // A child that borrows memory has no control thread that could park it, and shares this thread's record.
    let parkable = is_process();
    if parkable {
        signals::ignore_park();
    }
    if parkable && blocked != 0 {
        notice::carry(thread);
    }
    thread.with_block(|block| block.in_lower -= 1);
    signals::set_mask(mask | blocked);
    // SAFETY: the program's call, or one whose words live in `thread.words`.
    let result = unsafe { sys::syscall(number, call) };
    signals::set_mask(!0);
    thread.with_block(|block| block.in_lower += 1);
    if parkable {
        signals::install_park();
        park::missed();
    }
    result
}
