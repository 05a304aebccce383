//! Several programs in one job (`mpirun A : B`, `srun --multi-prog`), held together by one name: resumed by the same line, and by
//! `mana_restart`.

use std::os::unix::fs::PermissionsExt as _;

use anyhow::{ensure, Context as _, Result};

use super::{same, under_control, Stage, LIMIT};
use crate::job::{Ended, Job};

pub fn several_programs(stage: &Stage) -> Result<()> {
    let other = stage.setup.directory.join("other");
    let first = stage.line.first().context("no program")?;
    let mut bytes = std::fs::read(first)?;
    // Another file, and the same program.
    bytes.push(0);
    std::fs::write(&other, &bytes)?;
    std::fs::set_permissions(&other, std::fs::Permissions::from_mode(0o755))?;
    let mut job = start(stage, &[])?;
    under_control(&mut job)?;
    end(stage, job)?;
    let mut resumed = start(stage, &["--restart"])?;
    under_control(&mut resumed)?;
    let ended = end(stage, resumed)?;
    ensure!(
        ended.stderr.contains("resumed generation 1.1"),
        "{}",
        ended.report()
    );
    same(&stage.restart(2)?, &stage.expected)
}

/// A last checkpoint, and the end.
fn end(stage: &Stage, job: Job) -> Result<Ended> {
    let words = ["--checkpoint", "--wait", "--kill"];
    stage.mana("status", &words)?.expect(0)?;
    job.wait(LIMIT)
}

/// A rank of each program, on one command line.
fn start(stage: &Stage, options: &[&str]) -> Result<Job> {
    let setup = &stage.setup;
    let mut command = setup.mpi.launcher(1, false);
    let launch = setup.product.command("mana_launch");
    let one = |command: &mut std::process::Command, program: &str| {
        command.arg(&launch).arg("--config");
        command.arg(setup.configuration());
        command.args(["--id", &setup.id]).args(options).arg("--");
        command.arg(program).args(&stage.line[1..]);
    };
    one(&mut command, &stage.line[0]);
    command.args([":", "-n", "1"]);
    one(
        &mut command,
        &setup.directory.join("other").display().to_string(),
    );
    command.current_dir(&setup.directory);
    Job::start(command, &setup.directory)
}
