//! One lower pthread carries each thread of the upper half. Lower half.
//!
//! A thread's record is the extension of its GS block. Records are never freed, only used again:
//! a control thread may look at one at any time.

use crate::api::ThreadId;
use mana_raw::entry::{self, Frame, RED_ZONE};
use mana_raw::layout::ThreadBlock;
use mana_raw::{base, shim, sys};
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Work for a parked thread.
pub type Job = Box<dyn FnOnce() + Send>;

/// The record of a thread of the upper half.
#[repr(C)]
pub struct Thread {
    /// What GS points to. Must be the first field.
    pub block: ThreadBlock,
    /// The number the program knows.
    pub id: AtomicI32,
    /// The number the kernel knows.
    pub tid: AtomicI32,
    /// The word of the upper half to clear and wake at exit.
    pub tid_address: AtomicUsize,
    /// Index of the time value in the book.
    pub slot: usize,
    /// The process's first thread?
    pub main: AtomicBool,
    /// See [`crate::park`].
    pub park: AtomicU32,
    /// What the parked thread is to do.
    pub command: AtomicU32,
    /// Address of the signal frame's context while parked.
    pub context: AtomicUsize,
    /// Where the last park signal found the thread, if it could not be parked.
    pub refused_at: AtomicUsize,
    /// 0 until the new thread has published its numbers, then 1; 2: it may enter the upper half.
    pub started: AtomicU32,
    /// The job of a parked thread. Owned by whoever `command` says.
    pub job: UnsafeCell<Option<Job>>,
    /// Top of the stack jobs run on, once one was run.
    pub job_stack: AtomicUsize,
    /// Head and length of the program's robust list to register on entry; 0: none.
    pub robust: [AtomicUsize; 2],
    /// What the thread executed last, as the kernel takes it; see `tree::execute`.
    pub words: AtomicUsize,
    /// The child that borrows the process's memory and this record (`vfork`), as the kernel numbers it, and the signals
    /// that are held back for it (bit n is signal n + 1); see `notice`.
    pub borrower: AtomicI32,
    pub borrower_holds: AtomicU64,
    /// How the thread enters the upper half: FS, stack, target.
    start: UnsafeCell<[usize; 3]>,
}

// SAFETY: every field is an atomic, or handed over through one (`started` for `start`, `command`
// for `job`); the block is written by its own thread, but for `pending` and what a parker changes
// while the thread is parked.
unsafe impl Sync for Thread {}

#[derive(Default)]
pub struct Registry {
    live: Vec<&'static Thread>,
    spare: Vec<&'static Thread>,
    made: usize,
}

static REGISTRY: Mutex<Registry> = Mutex::new(Registry {
    live: Vec::new(),
    spare: Vec::new(),
    made: 0,
});

/// Keeps the records still across a fork.
pub fn hold() -> MutexGuard<'static, Registry> {
    registry()
}

impl Registry {
    /// In a forked child: `thread`, the caller, is all there is, and the process's first.
    pub fn only(&mut self, thread: &'static Thread, id: i32) {
        for other in std::mem::take(&mut self.live) {
            if !std::ptr::eq(other, thread) {
                other.id.store(0, Ordering::Relaxed);
                self.spare.push(other);
            }
        }
        self.live.push(thread);
        // SAFETY: no arguments.
        let tid = unsafe { sys::syscall(sys::GETTID, [0; 6]) } as i32;
        thread.tid.store(tid, Ordering::Relaxed);
        thread.id.store(id, Ordering::Relaxed);
        thread.main.store(true, Ordering::Relaxed);
        thread.park.store(0, Ordering::Relaxed);
        thread.command.store(0, Ordering::Relaxed);
        thread.set_pending(false);
    }
}

fn registry() -> MutexGuard<'static, Registry> {
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until `word` is no longer `value`.
pub fn wait_while(word: &AtomicU32, value: u32) {
    while word.load(Ordering::Acquire) == value {
        // SAFETY: FUTEX_WAIT_PRIVATE on a live word.
        unsafe {
            sys::syscall(
                sys::FUTEX,
                [word.as_ptr() as usize, 128, value as usize, 0, 0, 0],
            )
        };
    }
}

/// Wakes all who wait for a change of `word`.
pub fn wake(word: &AtomicU32) {
    // SAFETY: FUTEX_WAKE_PRIVATE on a live word.
    unsafe {
        sys::syscall(
            sys::FUTEX,
            [word.as_ptr() as usize, 129, i32::MAX as usize, 0, 0, 0],
        )
    };
}

/// A record for a new thread, not yet among the live ones.
pub fn record() -> &'static Thread {
    let mut registry = registry();
    if let Some(thread) = registry.spare.pop() {
        thread.park.store(0, Ordering::Relaxed);
        thread.command.store(0, Ordering::Relaxed);
        thread.started.store(0, Ordering::Relaxed);
        return thread;
    }
    let slot = registry.made % crate::book::MAX_SCRATCH;
    registry.made += 1;
    // SAFETY: all-zero bytes are a valid record (integers, atomics, `None`).
    let thread: Box<Thread> = unsafe { Box::new(std::mem::zeroed()) };
    let thread = Box::leak(thread);
    thread.slot = slot;
    thread
}

impl Thread {
    fn block_ptr(&self) -> *mut ThreadBlock {
        (&raw const self.block).cast_mut()
    }

    /// Sets `pending` (a request to come out of the lower half).
    pub fn set_pending(&self, on: bool) {
        // SAFETY: a word written by control threads only; the owner reads it through GS.
        unsafe { (&raw mut (*self.block_ptr()).pending).write_volatile(on.into()) };
    }

    /// Depth in the lower half, as it is just now.
    pub fn depth(&self) -> u64 {
        // SAFETY: a word its own thread changes; volatile.
        unsafe { (&raw const self.block.in_lower).read_volatile() }
    }

    /// Changes the block of a thread that is parked, or not running yet.
    pub fn with_block<R>(&self, f: impl FnOnce(&mut ThreadBlock) -> R) -> R {
        // SAFETY: its owner is parked (or this is the owner), so nobody else writes.
        f(unsafe { &mut *self.block_ptr() })
    }

    /// This thread's identity.
    pub fn identity(&self) -> ThreadId {
        ThreadId(self.id.load(Ordering::Relaxed))
    }

    /// Makes this record that of the calling lower thread: numbers, block, GS.
    pub fn adopt(&self) {
        // SAFETY: no arguments.
        let tid = unsafe { sys::syscall(sys::GETTID, [0; 6]) } as i32;
        self.tid.store(tid, Ordering::Relaxed);
        // `MANA_NO_FSGSBASE` was read when the control page was made.
        // SAFETY: the control page is mapped before any thread is adopted.
        let fsgsbase = unsafe { crate::control::page() }.fsgsbase;
        let fs = base::fs_by_call();
        self.with_block(|block| {
            block.me = self.block_ptr() as usize;
            block.lower_fs = fs;
            block.in_lower = 1;
            block.pending = 0;
            block.no_fsgsbase = (fsgsbase == 0).into();
            block.sys_handler = crate::calls::handle as *const () as usize;
        });
        // SAFETY: the record lives for ever.
        unsafe { base::set_gs(self.block_ptr()) };
    }
}

/// Adds a record to the live ones, giving it an identity if it has none.
pub fn enlist(thread: &'static Thread) {
    let mut registry = registry();
    if thread.id.load(Ordering::Relaxed) == 0 {
        let mut id = thread.tid.load(Ordering::Relaxed);
        let taken = |id: i32| {
            registry
                .live
                .iter()
                .any(|t| t.id.load(Ordering::Relaxed) == id)
        };
        let mut other = 0x2000_0000;
        while taken(id) {
            id = other;
            other += 1;
        }
        thread.id.store(id, Ordering::Relaxed);
    }
    registry.live.push(thread);
}

/// All live threads.
pub fn live() -> Vec<&'static Thread> {
    registry().live.clone()
}

/// The record of the calling thread, or `None` on threads of the lower half.
pub fn current() -> Option<&'static Thread> {
    // SAFETY: no arguments.
    let tid = unsafe { sys::syscall(sys::GETTID, [0; 6]) } as i32;
    registry()
        .live
        .iter()
        .copied()
        .find(|t| t.tid.load(Ordering::Relaxed) == tid)
}

/// The kernel's number of the thread the program knows as `id`.
pub fn kernel_tid(id: i32) -> Option<i32> {
    registry()
        .live
        .iter()
        .find(|t| t.id.load(Ordering::Relaxed) == id)
        .map(|t| t.tid.load(Ordering::Relaxed))
}

/// The identity of the thread the kernel knows as `tid`.
pub fn by_kernel_tid(tid: i32) -> Option<ThreadId> {
    registry()
        .live
        .iter()
        .find(|t| t.tid.load(Ordering::Relaxed) == tid)
        .map(|t| t.identity())
}

/// What a new thread of the program starts with.
pub struct Begin {
    /// FS base in the upper half.
    pub fs: usize,
    /// Its stack pointer: at a [`Frame`] or at a ucontext.
    pub stack: usize,
    /// `shim::exit()` or `shim::restorer()`.
    pub target: usize,
}

/// Starts a lower pthread for `thread`. It publishes its numbers, then waits for [`release`]
/// before it enters the upper half. All signals are blocked by the caller, and so in the new thread.
pub fn spawn(thread: &'static Thread, begin: &Begin) -> Result<(), i32> {
    // SAFETY: `started` is 0: the new thread does not exist yet.
    unsafe { *thread.start.get() = [begin.fs, begin.stack, begin.target] };
    // SAFETY: plain C structures, initialised before use; the record lives for ever.
    let error = unsafe {
        let mut attributes: libc::pthread_attr_t = std::mem::zeroed();
        libc::pthread_attr_init(&mut attributes);
        libc::pthread_attr_setstacksize(&mut attributes, 256 << 10);
        libc::pthread_attr_setdetachstate(&mut attributes, libc::PTHREAD_CREATE_DETACHED);
        let mut handle = 0;
        let error = libc::pthread_create(
            &mut handle,
            &attributes,
            carry,
            std::ptr::from_ref(thread) as *mut _,
        );
        libc::pthread_attr_destroy(&mut attributes);
        error
    };
    if error != 0 {
        registry().spare.push(thread);
        return Err(error);
    }
    wait_while(&thread.started, 0);
    Ok(())
}

/// Lets a spawned thread enter the upper half.
pub fn release(thread: &Thread) {
    thread.started.store(2, Ordering::Release);
    wake(&thread.started);
}

/// The life of a lower pthread that carries a thread of the program.
extern "C" fn carry(argument: *mut libc::c_void) -> *mut libc::c_void {
    // SAFETY: a record, which lives for ever.
    let thread: &'static Thread = unsafe { &*(argument as *const Thread) };
    thread.main.store(false, Ordering::Relaxed);
    thread.adopt();
    // SAFETY: written before this thread was made.
    let [fs, ..] = unsafe { *thread.start.get() };
    thread.with_block(|block| block.upper_fs = fs);
    enlist(thread);
    thread.started.store(1, Ordering::Release);
    wake(&thread.started);
    wait_while(&thread.started, 1);
    // SAFETY: this thread's block; `enter` does not return but through `leave_thread`.
    unsafe { entry::call_keeping_context(thread.block_ptr(), enter, argument as usize) };
    // The program's thread has ended; its stack may go as soon as this word is 0.
    let word = thread.tid_address.load(Ordering::Relaxed);
    retire(thread);
    if word != 0 {
        // SAFETY: the word the program gave for this purpose.
        unsafe { (*(word as *const AtomicU32)).store(0, Ordering::SeqCst) };
        // SAFETY: FUTEX_WAKE (shared, as the kernel itself does it) reads nothing.
        unsafe { sys::syscall(sys::FUTEX, [word, 1, i32::MAX as usize, 0, 0, 0]) };
    }
    std::ptr::null_mut()
}

/// Takes a record out of the live ones.
fn retire(thread: &'static Thread) {
    let mut registry = registry();
    registry.live.retain(|t| !std::ptr::eq(*t, thread));
    thread.id.store(0, Ordering::Relaxed);
    registry.spare.push(thread);
}

unsafe extern "C" fn enter(argument: usize) -> ! {
    // SAFETY: the record given by `carry`.
    let thread = unsafe { &*(argument as *const Thread) };
    // SAFETY: written before this thread was made.
    let [fs, stack, target] = unsafe { *thread.start.get() };
    let robust = [
        thread.robust[0].swap(0, Ordering::Relaxed),
        thread.robust[1].load(Ordering::Relaxed),
    ];
    if robust[0] != 0 {
        // SAFETY: registers an address of the program for the kernel to look at when this thread ends.
        unsafe { sys::syscall(sys::SET_ROBUST_LIST, [robust[0], robust[1], 0, 0, 0, 0]) };
    }
    // SAFETY: from here on only `go_upper` runs, which uses no libc.
    unsafe {
        base::set_fs(fs);
        entry::go_upper(stack, target)
    }
}

/// The program's thread ends (`exit`). Called in the lower half, on its lower stack.
pub fn exit(thread: &'static Thread, code: usize) -> ! {
    if thread.main.load(Ordering::Relaxed) {
        retire(thread);
        // SAFETY: ends this thread only; the process lives on with the others.
        unsafe { sys::syscall(sys::EXIT, [code, 0, 0, 0, 0, 0]) };
    }
    // The kernel must not walk the program's robust list after its memory is gone.
    // SAFETY: the kernel accepts an absent list of the right length.
    unsafe { sys::syscall(sys::SET_ROBUST_LIST, [0, 24, 0, 0, 0, 0]) };
    // SAFETY: inside `call_keeping_context` of `carry`, with the lower FS.
    unsafe { entry::leave_thread(thread.block_ptr()) }
}

/// Puts a copy of `frame` on the new thread's stack, which ends at `stack`, so that the thread
/// returns from its system call with 0.
///
/// # Safety
/// `stack` is the end of writable memory of the program meant for this purpose.
pub unsafe fn child_frame(frame: &Frame, stack: usize) -> usize {
    let at = stack - RED_ZONE - size_of::<Frame>();
    // SAFETY: below the end of the new stack.
    unsafe { (at as *mut Frame).write_unaligned(Frame { rax: 0, ..*frame }) };
    at
}

/// Enters the upper half on the process's first thread.
///
/// # Safety
/// `thread` is this thread's record; `begin` is a valid start. All signals blocked.
pub unsafe fn enter_main(thread: &'static Thread, begin: &Begin) -> ! {
    // SAFETY: this thread is the only one that uses its `start`.
    unsafe { *thread.start.get() = [begin.fs, begin.stack, begin.target] };
    thread.with_block(|block| block.upper_fs = begin.fs);
    // SAFETY: this thread's block. `exit` of the first thread does not come back here.
    unsafe {
        entry::call_keeping_context(
            thread.block_ptr(),
            enter,
            std::ptr::from_ref(thread) as usize,
        )
    };
    // SAFETY: not reached; ends the thread if it were.
    unsafe { libc::_exit(127) }
}

/// Makes the calling thread the first thread of the upper half.
pub fn adopt_main(id: i32, tid_address: usize) -> &'static Thread {
    let thread = record();
    thread.main.store(true, Ordering::Relaxed);
    thread.adopt();
    thread.id.store(
        if id == 0 {
            thread.tid.load(Ordering::Relaxed)
        } else {
            id
        },
        Ordering::Relaxed,
    );
    thread.tid_address.store(tid_address, Ordering::Relaxed);
    enlist(thread);
    thread
}

/// The address of the shim's exit, for [`Begin::target`].
pub fn exit_target() -> usize {
    shim::exit()
}
