//! A stand-alone coordinator that is asked to end before its job has ended, as in a step of a Slurm job.

use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;

use super::{coordinator, same, says, under_control, Stage, LIMIT, SHORT};
use crate::job::Job;

fn ask(coordinator: &Job) -> Result<()> {
    let process = coordinator.processes().into_iter().next();
    let process = process.context("there is no coordinator")?;
    kill(Pid::from_raw(process.pid), Signal::SIGTERM).context("SIGTERM")
}

/// It stays while its job takes a last checkpoint, and until it has ended; without a job, or asked twice, it does not.
pub fn leaving(stage: &Stage) -> Result<()> {
    const AT_ONCE: Duration = Duration::from_secs(10);
    let stays = |coordinator: &mut Job| {
        coordinator.until("that it stays", SHORT, |coordinator| {
            let said = coordinator.messages();
            said.contains("until it has ended").then_some(())
        })
    };
    let hurry = stage.place.path().join("leave");
    let until = hurry.display().to_string();
    let line = [&stage.line[0], "--pause", "900", "--until", &until].map(str::to_owned);
    let (mut first, port) = coordinator(stage, "coordinator-stays", "0")?;
    let options = ["--coord-host", "localhost", "--coord-port", &port];
    let mut job = stage.setup.launch(&options, &line)?;
    under_control(&mut job)?;
    ask(&first)?;
    stays(&mut first)?;
    let options = ["--checkpoint", "--wait"];
    let taken = stage.setup.mana("status", &options, LIMIT)?;
    says(taken.expect(0)?, &["committed"])?;
    std::fs::write(&hurry, "").context("ending the pauses")?;
    same(&job.wait(LIMIT)?, &stage.expected)?;
    first.wait(AT_ONCE)?.expect(0)?;

    let (second, port) = coordinator(stage, "coordinator-alone", "0")?;
    ask(&second)?;
    second.wait(AT_ONCE)?.expect(0)?;

    std::fs::remove_file(&hurry).context("pausing again")?;
    let (mut third, port_of_third) = coordinator(stage, "coordinator-hurries", &port)?;
    let mut setup = stage.setup.clone();
    setup.id = "hurries".into();
    let options = ["--coord-host", "localhost", "--coord-port", &port_of_third];
    let settings = ["--set", "on_error=stop", "--set", "coordinator_timeout=1"];
    let mut job = setup.launch(&[&options[..], &settings].concat(), &line)?;
    under_control(&mut job)?;
    ask(&third)?;
    stays(&mut third)?;
    ask(&third)?;
    third.wait(AT_ONCE)?.expect(0)?;
    job.destroy();
    job.wait(LIMIT)?;
    Ok(())
}
