//! What the MPI layer asks of the program around it (the lower half's glue, or a test harness).
//!
//! Lower half. The glue installs one object for the life of the process; all methods may be called
//! on any thread that is inside an MPI call, never by the control thread.

/// Whether a thread may go on, or has to leave the lower half and repeat its call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Go {
    /// Go on now.
    On,
    /// A checkpoint is in progress: ask again (the caller drives MPI progress meanwhile, and leaves
    /// the lower half with `AGAIN` once [`crate::checkpoint::stop`] was called).
    Wait,
}

/// Facts about the job that are known once the real `MPI_Init` has returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Initialized {
    /// Rank in `MPI_COMM_WORLD`.
    pub rank: i32,
    /// Size of `MPI_COMM_WORLD`.
    pub size: i32,
    /// Thread level the real library granted (`MPI_THREAD_*` of the standard ABI).
    pub thread_level: i32,
    /// Kernel thread id (lower half's `gettid`) of the thread that called `MPI_Init`: the MPI thread.
    pub mpi_thread: i32,
}

/// The surroundings of the MPI layer.
pub trait MpiHooks: Sync {
    /// Calls `start`, which starts the real MPI, with whatever arrangements the process needs around
    /// it (which descriptors its sockets may get, for one). The default just calls it.
    fn starting(&self, start: &mut dyn FnMut()) {
        start();
    }

    /// The real `MPI_Init` has succeeded on this rank; called on the MPI thread before `MPI_Init`
    /// returns to the program. [`crate::world_collective`] works from here on.
    fn initialized(&self, facts: Initialized);

    /// The program has called `MPI_Finalize`. Asked repeatedly until it says [`Go::On`]; says
    /// [`Go::Wait`] while a checkpoint is in progress. `Go::On` also ends checkpointing for good.
    fn finalizing(&self) -> Go;

    /// The real `MPI_Finalize` has returned.
    fn finalized(&self);

    /// `MPI_Abort`, or an error under `MPI_ERRORS_ARE_FATAL`: end the job with `code`. Called before
    /// the real `MPI_Abort`; returning makes the layer call that.
    fn aborting(&self, code: i32);

    /// The program's path, and its arguments, joined by blanks.
    fn command(&self) -> (Vec<u8>, Vec<u8>) {
        (Vec::new(), Vec::new())
    }

    /// The program is about to open or delete a file through MPI, or a restart opens it again. `path` is
    /// absolute. What the library then does to it is for the surroundings to watch.
    fn file_named(&self, path: &std::path::Path) {
        let _ = path;
    }

    /// In a drain: a file is open for writing, and no operation on it is under way. `first`: of the processes that
    /// have it open, this is the one who does what is to be done once.
    fn file_stays_open(&self, path: &std::path::Path, first: bool) {
        let _ = (path, first);
    }

    /// In a drain, on all ranks or on none: no operation on a file is under way anywhere in the job, and
    /// none begins before this has returned on all ranks.
    fn files_settled(&self) {}

    /// The program did what it was told not to: says so and ends the process.
    fn misused(&self, what: &str) {
        log::error!("{what}");
        std::process::abort();
    }

    /// Calls `function`, code of the upper half with the C calling convention, with up to six
    /// integer or pointer arguments, and returns its integer result.
    ///
    /// # Safety
    /// `function` is the address of such a function and the arguments are what it expects.
    unsafe fn upcall(&self, function: usize, args: &[u64; 6]) -> u64;

    /// Anonymous memory of the upper half (saved in images) for `MPI_Alloc_mem`; `None` if there is
    /// none to be had. The default has none.
    fn allocate(&self, bytes: usize) -> Option<usize> {
        let _ = bytes;
        None
    }

    /// Gives memory from [`MpiHooks::allocate`] back, with the length that was asked for.
    fn release(&self, address: usize, bytes: usize) {
        let _ = (address, bytes);
    }
}
