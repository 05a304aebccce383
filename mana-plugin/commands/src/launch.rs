//! `mana launch` and `mana restart`: decide, then become `mana-lower`.

use std::path::PathBuf;

use mana::spec::{CoordinatorAddress, LaunchSpec, Mode, OsText};

use crate::choice::{choose, Choice};
use crate::cli;
use crate::execution::become_lower;
use crate::identity;
use crate::installation::Installation;
use crate::launcher::Launcher;
use crate::message::{Failure, Speaker};
use crate::program::Program;

/// `mana launch`. Returns only on failure.
pub fn launch(options: cli::Launch, speaker: &mut Speaker) -> Result<i32, Failure> {
    let launcher = Launcher::from_environment();
    speaker.rank = launcher.rank;
    let installation = Installation::find()?;
    let program = Program::find(&options.program[0])?;
    let identity = match &options.start.id {
        Some(id) => identity::checked(id)?,
        None => identity::derived(&options.program)?,
    };
    speaker.job = Some(identity.clone());
    let name = options.program[0].to_string_lossy();
    let choice = choose(
        &installation,
        &launcher,
        program.mpi.as_ref(),
        options.start.mpi.as_deref(),
        &name,
    )?;
    let args = options.program[1..].iter().cloned().map(OsText).collect();
    let spec = assemble(
        &options.start,
        &launcher,
        identity,
        choice,
        program.path,
        args,
        Mode::Fresh,
    )?;
    match become_lower(&installation.lower(), &spec, "".as_ref())? {}
}

/// `mana restart`. Returns only on failure.
pub fn restart(_options: cli::Restart, _speaker: &mut Speaker) -> Result<i32, Failure> {
    Err(Failure::new("restart is not built yet"))
}

fn assemble(
    start: &cli::Start,
    launcher: &Launcher,
    identity: String,
    choice: Choice,
    program: PathBuf,
    args: Vec<OsText>,
    mode: Mode,
) -> Result<LaunchSpec, Failure> {
    let (adapter, stub) = match choice {
        Some((adapter, stub)) => (Some(adapter.to_spec()), Some(stub)),
        None => (None, None),
    };
    Ok(LaunchSpec {
        version: env!("CARGO_PKG_VERSION").into(),
        mode,
        program,
        args,
        identity,
        restart_count: launcher.restart_count,
        generation: None,
        without_global: start.without_global,
        adapter,
        stub,
        upper_ld_preload: std::env::var_os("LD_PRELOAD").map(OsText),
        upper_ld_library_path: std::env::var_os("LD_LIBRARY_PATH").map(OsText),
        coordinator: coordinator(start)?,
        quiet: start.quiet,
    })
}

/// A stand-alone coordinator needs both parts of its address.
fn coordinator(start: &cli::Start) -> Result<Option<CoordinatorAddress>, Failure> {
    match (&start.coord_host, start.coord_port) {
        (Some(host), Some(port)) if port != 0 => Ok(Some(CoordinatorAddress { host: host.clone(), port })),
        (None, None) => Ok(None),
        _ => Err(Failure::of_job(
            "a stand-alone coordinator needs both --coord-host and --coord-port (or MANA_COORD_HOST and MANA_COORD_PORT), as mana_coordinator prints them",
        )),
    }
}
