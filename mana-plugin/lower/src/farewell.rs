//! Before a stale process kills itself: it takes leave of its PMIx server.
//!
//! A node whose slurmd has died goes on with its ranks, although Slurm has started the job again elsewhere. If such a
//! rank dies without a word, its server (Slurm's step daemon, plug-in mpi/pmix) has the whole step killed by
//! its number; and the first step of the new start has the same number. So the rank finalises PMIx first.
//!
//! The control thread cannot do it: PMIx's descriptors are not in its table. A thread is kept for it that shares the
//! program's.

use std::ffi::{c_int, c_void, CStr};
use std::sync::mpsc::{channel, Sender};
use std::sync::OnceLock;
use std::time::Duration;

/// For the server to answer.
const LIMIT: Duration = Duration::from_secs(5);
/// The library that every MPI with PMIx has loaded, of whichever release.
const LIBRARY: &CStr = c"libpmix.so.2";
/// `PMIx_Finalize` counts: it is called as often as it was initialised, and no more than this.
const TIMES: u32 = 8;
const STACK: usize = 256 * 1024;

type Finalize = unsafe extern "C" fn(info: *const c_void, count: usize) -> c_int;

/// Whom to tell that it is time, and whom it tells that it is done.
static THREAD: OnceLock<Sender<Sender<()>>> = OnceLock::new();

fn finalize() -> Option<Finalize> {
    // SAFETY: a valid string; the library is only looked up if it is loaded already.
    let handle = unsafe { libc::dlopen(LIBRARY.as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD) };
    if handle.is_null() {
        return None;
    }
    // SAFETY: a handle just opened and a valid string.
    let symbol = unsafe { libc::dlsym(handle, c"PMIx_Finalize".as_ptr()) };
    if symbol.is_null() {
        return None;
    }
    // SAFETY: the function of that name has had this type in all releases of the library's major version.
    Some(unsafe { std::mem::transmute::<*mut c_void, Finalize>(symbol) })
}

/// Makes ready for it, in a job of a batch system whose MPI has PMIx. On the MPI thread, which has the program's
/// descriptors.
pub fn prepare() {
    let Some(finalize) = finalize().filter(|_| libckpt::identity::is_in_batch_job()) else {
        return;
    };
    let (teller, told) = channel::<Sender<()>>();
    let body = move || {
        let Ok(done) = told.recv() else { return };
        for _ in 0..TIMES {
            // SAFETY: no list of wishes, of length 0. The library may be called on any thread.
            if unsafe { finalize(std::ptr::null(), 0) } != 0 {
                break;
            }
        }
        // Nobody may be waiting any more.
        let _ = done.send(());
    };
    let spawned = split_process::with_signals_blocked(|| {
        std::thread::Builder::new()
            .name("mana-farewell".into())
            .stack_size(STACK)
            .spawn(body)
    });
    match spawned {
        Ok(_) => {
            // Another one is there already: this one ends.
            let _ = THREAD.set(teller);
        }
        Err(e) => log::debug!("no thread to take leave of PMIx: {e}"),
    }
}

/// Does it, in five seconds at most. MPI is of no use afterwards.
pub fn leave() {
    let (done, ended) = channel();
    if THREAD.get().is_some_and(|thread| thread.send(done).is_ok()) {
        // Without an answer the end comes without it.
        let _ = ended.recv_timeout(LIMIT);
    }
}
