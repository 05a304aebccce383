//! `mana-lower`: the program of the lower half. `mana_launch` executes it in its own place; it starts
//! the application in the upper half, or recovers an image and resumes it there.
//!
//! | module | holds |
//! |---|---|
//! | `adapter` | opening the site's MPI adapter |
//! | `fresh`, `resume` | the two ways to begin |
//! | `control` | the control thread: storage session, agent, end |
//! | `awaited` | says that the program has not called `MPI_Init` yet |
//! | `fence` | ends a rank whose job was started anew elsewhere |
//! | `coordinator` | embedded in rank 0, or one that stands alone |
//! | `agreement` | what every rank decided before MPI was there is the same everywhere |
//! | `outcome` | a failure of one rank is a failure of all, said once |
//! | `meeting` | collectives of the control thread, done by the MPI thread |
//! | `waits` | no wait without a name, before there is a coordinator |
//! | `mpi` | what the MPI layer asks of its surroundings |
//! | `interface` | what the program asks of us by `mana.h`, and what it is told |
//! | `calls` | what the MPI library writes to the program's files, so that a resume can take it back |
//! | `written` | files written through MPI: put back at a resume, their records deleted when it is time |
//! | `raised` | high numbers for descriptors the MPI library opens |
//! | `addresses` | keeps mappings of the MPI library out of the program's addresses |
//! | `notices` | signals that announce the end: a last checkpoint before they take effect |
//! | `batch` | the time limit; putting the job back into the queue |
//! | `farewell` | what a stale process says to its launcher before it kills itself |
//! | `rank` | this rank's steps of a checkpoint |
//! | `snapshot` | who writes the image: a forked child, or this process |
//! | `tree` | the processes a program without MPI makes |
//! | `image` | what goes into an image beside memory |
//! | `messages` | lines on standard error |
//!
//! **Descriptors.** The program and the MPI library share the process's descriptor table. The control
//! thread has a table of its own (unshare), empty but for the standard streams, which its own threads
//! inherit: whatever checkpointing opens is never seen by the program, nor mistaken for its.
#![no_main] // the standard library's start would change the dispositions of SIGPIPE and SIGSEGV

mod adapter;
mod addresses;
mod agreement;
mod awaited;
mod batch;
mod calls;
mod control;
mod coordinator;
mod farewell;
mod fence;
mod fresh;
mod image;
mod interface;
mod meeting;
mod messages;
mod mpi;
mod notices;
mod outcome;
mod raised;
mod rank;
mod resume;
mod snapshot;
mod tree;
mod waits;
mod written;

use std::sync::OnceLock;

use mana::spec::{LaunchSpec, Mode};
use process_state::Inherited;

/// What this process was started with.
pub(crate) struct Job {
    pub spec: LaunchSpec,
    /// What was open when the process started.
    pub inherited: Inherited,
}

static JOB: OnceLock<Job> = OnceLock::new();

/// The job this process belongs to.
pub(crate) fn job() -> &'static Job {
    match JOB.get() {
        Some(job) => job,
        None => messages::fail(format_args!("the launch specification has not been read")),
    }
}

/// The C entry.
#[no_mangle]
pub extern "C" fn main(_argc: i32, _argv: *const *const libc::c_char) -> i32 {
    let inherited = Inherited::observe();
    let executed = tree::member::executed();
    let spec = match LaunchSpec::take_from_environment() {
        Ok(spec) => spec,
        Err(e) => messages::fail(format_args!("{e}")),
    };
    messages::install(&spec);
    mana::spec::without_handlers();
    batch::ask_beside_the_program();
    let mode = spec.mode;
    JOB.get_or_init(|| Job { spec, inherited });
    if let Some(executed) = executed {
        let failure = tree::member::run(&executed);
        outcome::fail(&*failure)
    }
    if let Err(e) = interface::install() {
        outcome::fail(&*e);
    }
    let ended = match mode {
        Mode::Fresh => fresh::run(),
        Mode::Resume => resume::run(),
    };
    match ended {
        Ok(never) => match never {},
        Err(e) => outcome::fail(&*e),
    }
}

/// Anything that keeps the program from running.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;
