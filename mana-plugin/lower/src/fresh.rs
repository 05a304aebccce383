//! Starting the program from its beginning.

use std::convert::Infallible;
use std::path::PathBuf;

use mana::spec::LaunchSpec;
use split_process::{Hooks, Launch};

use crate::{awaited, control, job, mpi, notices, tree, Failure};

/// The glue's part in the split process.
pub fn hooks() -> Hooks {
    Hooks {
        on_exit: Some(control::exiting),
        on_execve: Some(control::replacing),
        // Called in the other processes of a tree.
        ..tree::member::hooks()
    }
}

/// What is loaded into the program before its own libraries: plug-ins first, since they may wrap the
/// functions of all others.
fn libraries(spec: &LaunchSpec) -> Vec<PathBuf> {
    let stub = spec.stub.iter().flat_map(|s| &s.preload);
    let all = spec
        .config
        .plugins
        .iter()
        .chain(stub)
        .chain(&spec.interface);
    all.cloned().collect()
}

/// Never returns but on failure.
pub fn run() -> Result<Infallible, Failure> {
    mpi::install()?;
    enter()
}

/// The same, with the MPI layer in place. Never returns but on failure.
pub fn enter() -> Result<Infallible, Failure> {
    let spec = &job().spec;
    let launch = Launch {
        program: spec.program.clone(),
        args: spec.args.iter().flatten().map(|a| a.0.clone()).collect(),
        env: spec.upper_environment(),
        upper_preload: libraries(spec),
        upper_library_path: spec.stub.iter().map(|s| s.directory.clone()).collect(),
        mask: None,
    };
    let mut resolved = launch.resolve()?;
    if spec.adapter.is_none() {
        tree::member::set_name(&resolved.program);
        // Children are carried too; without this a living one makes a checkpoint fail by name.
        if let Err(e) = tree::begin(None) {
            log::warn!("{e}");
        }
        // No MPI_Init will come: the job has one rank, and begins here.
        // A signal that comes once the job is said to be under control waits for its handler.
        resolved.launch.mask = Some(notices::block());
        control::begin_job(None, -1)?;
    } else {
        awaited::begin();
    }
    split_process::start(resolved, hooks())?;
    Err("the program could not be entered".into())
}
