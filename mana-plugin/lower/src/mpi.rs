//! What the MPI layer asks of its surroundings.

use std::os::unix::ffi::OsStrExt as _;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use libckpt::config::OnError;
use mana_plugin::{Go, Initialized, MpiHooks};

use crate::{awaited, control, job, messages, waits};

/// The one object of that kind.
pub static SURROUNDINGS: Surroundings = Surroundings;

/// Kernel thread id of the thread that called `MPI_Init`; 0 before.
static MPI_THREAD: AtomicI32 = AtomicI32::new(0);

pub struct Surroundings;

/// The upper half's identity of the MPI thread; `None` before `MPI_Init`.
pub fn thread() -> Option<split_process::ThreadId> {
    match MPI_THREAD.load(Ordering::Acquire) {
        0 => None,
        tid => split_process::thread_of_kernel_tid(tid),
    }
}

/// Puts the MPI layer between the stub and the adapter, if the job has MPI.
pub fn install() -> Result<(), crate::Failure> {
    if let Some(adapter) = &job().spec.adapter {
        let table = crate::adapter::open(&adapter.library)?;
        mana_plugin::enable_comm_cache();
        split_process::publish_slots(&[])?;
        let slots = mana_plugin::install(table, &SURROUNDINGS);
        split_process::publish_slots(slots)?;
    }
    Ok(())
}

impl MpiHooks for Surroundings {
    fn starting(&self, start: &mut dyn FnMut()) {
        awaited::has_come();
        let what = || "MPI_Init of the MPI library (it waits for the other ranks)".to_owned();
        let config = &job().spec.config;
        // A program that has just begun waits as it does without mana.
        let ends = crate::resume::in_progress() || config.on_error == OnError::Stop;
        let limit = ends.then(|| Duration::from_secs(config.checkpoint_timeout));
        waits::bounded(waits::speaks_before_mpi(), limit, what, || {
            split_process::with_reserved_descriptors(start);
        });
    }

    fn initialized(&self, facts: Initialized) {
        MPI_THREAD.store(facts.mpi_thread, Ordering::Release);
        awaited::has_come();
        if let (Ok(rank), Ok(size)) = (u32::try_from(facts.rank), u32::try_from(facts.size)) {
            messages::set_rank(rank);
            if size == 1 {
                warn_of_singletons();
            }
        }
        if crate::resume::in_progress() {
            return; // the control thread is there already
        }
        if let Err(e) = control::begin_job(mana_plugin::world_collective(), facts.thread_level) {
            control::failed(&*e);
        }
    }

    fn finalizing(&self) -> Go {
        if control::may_finalize() {
            Go::On
        } else {
            Go::Wait
        }
    }

    fn finalized(&self) {}

    fn aborting(&self, code: i32) {
        control::aborting(code);
    }

    fn command(&self) -> (Vec<u8>, Vec<u8>) {
        let spec = &crate::job().spec;
        let program = spec.program.as_os_str().as_bytes().to_vec();
        let arguments: Vec<&[u8]> = spec
            .args
            .iter()
            .flatten()
            .map(|a| a.0.as_os_str().as_bytes())
            .collect();
        (program, arguments.join(&b' '))
    }

    fn file_named(&self, path: &std::path::Path) {
        crate::calls::JOURNAL.name(path);
    }

    fn file_stays_open(&self, path: &std::path::Path, first: bool) {
        crate::calls::JOURNAL.stays_open(path, first);
    }

    fn files_settled(&self) {
        crate::calls::JOURNAL.settled();
    }

    fn misused(&self, what: &str) {
        messages::fail(format_args!("{what}"));
    }

    unsafe fn upcall(&self, function: usize, args: &[u64; 6]) -> u64 {
        // SAFETY: as the caller promises.
        match unsafe { split_process::call_upper(function, args) } {
            Ok(value) => value,
            Err(_) => messages::fail(format_args!(
                "MPI called a function of the program on a thread of its own; this is not supported"
            )),
        }
    }
}

/// `srun` with another PMI than the library speaks starts N jobs of one rank each.
fn warn_of_singletons() {
    let tasks = std::env::var("SLURM_STEP_NUM_TASKS")
        .ok()
        .and_then(|n| n.parse::<u32>().ok());
    if let Some(n) = tasks.filter(|n| *n > 1 && std::env::var_os("OMPI_COMM_WORLD_SIZE").is_none())
    {
        messages::fail(format_args!(
            "srun started {n} tasks, but MPI sees a job of one rank each: use srun --mpi=pmi2 for MPICH, --mpi=pmix for Open MPI"
        ));
    }
}
