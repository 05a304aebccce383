//! The main job: Debian's LAMMPS on simulated nodes, one of which is lost.

use std::path::Path;
use std::time::Duration;

use anyhow::{bail, ensure, Context as _, Result};

use super::Scenario;
use crate::context::{Context, Verdict, Workplace};
use crate::generations::{resumed, Id};
use crate::job::Job;
use crate::mpi::{find, Mpi};
use crate::product::{Intervals, Setup};

/// Longest a run may take: about 30 s of work on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(600);

/// Its log.
const LOG: &str = "log.lammps";

/// Ranks, each a node.
pub const RANKS: u32 = 4;

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "lammps/plain",
            "the melt under mana_launch, no checkpoint",
            plain,
        ),
        Scenario::new(
            "lammps/kill-resume",
            "SIGKILL, resume: thermo output line for line the native one",
            kill_resume,
        ),
        Scenario::new(
            "lammps/node-lost",
            "a node's storage is gone: resumed from the partner copy",
            node_lost,
        ),
    ]
}

/// What a LAMMPS scenario works with.
pub struct Melt {
    /// The job.
    pub setup: Setup,
    /// Its command line.
    pub line: Vec<String>,
    /// The native run's thermo lines.
    pub expected: String,
    /// Where it runs.
    pub place: Workplace,
}

impl Melt {
    /// Everything ready to launch, or why not.
    pub fn prepare(
        context: &Context,
        name: &str,
        intervals: Intervals,
    ) -> Result<std::result::Result<Self, Verdict>> {
        let steps = if context.full { "14000" } else { "3400" };
        let line = match command_line(steps, Path::new(LOG)) {
            Ok(line) => line,
            Err(why) => return Ok(Err(Verdict::Skipped(why))),
        };
        let place = context.directory(name)?;
        let expected = native(context, steps, RANKS)?;
        let Some(product) = context.product() else {
            return Ok(Err(Verdict::Skipped(
                "no installed tree was named with --mana".into(),
            )));
        };
        let setup = product.setup(place.path(), Mpi::OpenMpi, RANKS, intervals)?;
        Ok(Ok(Self {
            setup,
            line,
            expected,
            place,
        }))
    }

    /// Take a checkpoint for each level, then SIGKILL every rank. The last one's name.
    pub fn run_and_kill(&self) -> Result<Id> {
        run_and_kill(&self.setup, &self.line)
    }

    /// Resume at longer intervals and compare with the native run; what the resume said.
    pub fn resume_calmly(&mut self) -> Result<String> {
        self.setup.configure(CALM, "")?;
        self.resume()
    }

    /// Resume and compare with the native run; what the resume said.
    pub fn resume(&mut self) -> Result<String> {
        let ended = self.setup.launch(&["--restart"], &self.line)?.wait(LIMIT)?;
        ended.expect(0)?;
        self.compare()
            .map_err(|error| error.context(ended.report()))?;
        self.place.done();
        Ok(ended.stderr)
    }

    /// The log's thermo lines against the native ones.
    pub fn compare(&self) -> Result<()> {
        let found = thermo(&self.setup.directory.join(LOG))?;
        if found != self.expected {
            let differing = self
                .expected
                .lines()
                .zip(found.lines())
                .position(|(a, b)| a != b);
            bail!(
                "thermo output differs: {} lines, {} natively, first difference in line {:?}",
                found.lines().count(),
                self.expected.lines().count(),
                differing
            );
        }
        Ok(())
    }
}

/// Take a checkpoint for each level, the last one on all three, then SIGKILL every rank. The last one's name.
///
/// They are asked for, and none is due: one that begins beside the kill may or may not be committed by it.
pub fn run_and_kill(setup: &Setup, line: &[String]) -> Result<Id> {
    let never: Vec<String> = ["local", "partner", "global"]
        .iter()
        .flat_map(|level| ["--set".to_owned(), format!("{level}_ckpt_interval=86400")])
        .collect();
    let never: Vec<&str> = never.iter().map(String::as_str).collect();
    let mut job = setup.launch(&never, line)?;
    job.until("the job under control", LIMIT, |job| {
        job.messages().contains("under control").then_some(())
    })?;
    for level in ["local", "partner", "global"] {
        setup
            .mana(
                "status",
                &["--checkpoint", "--level", level, "--wait"],
                LIMIT,
            )?
            .expect(0)?;
    }
    job.kill_ranks();
    let ended = job.wait(Duration::from_secs(60))?;
    ensure!(
        ended.code() != 0,
        "killed, and it ended well\n{}",
        ended.report()
    );
    let stores = setup.stores();
    let (complete, servable) = (stores.complete(), stores.servable());
    ensure!(
        complete == servable,
        "complete on all levels: {complete:?}, servable: {servable:?}"
    );
    complete.context("no generation is complete after the kill")
}

/// The command line of a melt of so many steps, or why there is none.
pub fn command_line(steps: &str, log: &Path) -> std::result::Result<Vec<String>, String> {
    let lammps = find("lmp").ok_or("lammps is not installed")?;
    if Mpi::OpenMpi.tool("mpirun").is_none() {
        return Err("mpirun.openmpi is not installed".into());
    }
    let input = Path::new(env!("CARGO_MANIFEST_DIR"))
        .with_file_name("programs")
        .join("melt.lammps");
    let words = [
        &lammps.to_string_lossy(),
        "-in",
        &input.to_string_lossy(),
        "-var",
        "steps",
        steps,
        "-log",
        &log.to_string_lossy(),
        "-screen",
        "none",
    ];
    Ok(words.iter().map(|word| (*word).to_owned()).collect())
}

/// The thermo lines of a native run. They depend on the number of ranks, which sum in another order.
pub fn native(context: &Context, steps: &str, ranks: u32) -> Result<String> {
    context.native(&format!("lammps {steps} on {ranks}"), || {
        let mut directory = context.directory("lammps-native")?;
        let mut command = Mpi::OpenMpi.native(ranks);
        let line = command_line(steps, Path::new(LOG)).map_err(anyhow::Error::msg)?;
        command.args(line).current_dir(directory.path());
        Job::start(command, directory.path())?
            .wait(LIMIT)?
            .expect(0)?;
        let rows = thermo(&directory.path().join(LOG))?;
        directory.done();
        Ok(rows)
    })
}

/// The thermo table of a log: rows of numbers, which contain no timing.
pub fn thermo(path: &Path) -> Result<String> {
    let log =
        std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let mut rows = String::new();
    let mut inside = false;
    for line in log.lines() {
        if line.trim_start().starts_with("Step ") {
            inside = true;
        } else if line.starts_with("Loop time") {
            inside = false;
        }
        if inside {
            rows += line;
            rows.push('\n');
        }
    }
    ensure!(
        rows.lines().count() > 10,
        "{} has no thermo table",
        path.display()
    );
    Ok(rows)
}

/// All three levels within seconds.
pub fn levels(context: &Context) -> Intervals {
    let (local, partner, global) = match context.full {
        true => (2, 4, 8),
        false => (1, 2, 3),
    };
    Intervals {
        local,
        partner,
        global,
    }
}

/// For a resumed run whose own checkpoints are not what is looked at.
pub const CALM: Intervals = Intervals {
    local: 5,
    partner: 10,
    global: 20,
};

fn plain(context: &Context) -> Result<Verdict> {
    let mut melt = match Melt::prepare(context, "lammps/plain", Intervals::default())? {
        Ok(melt) => melt,
        Err(verdict) => return Ok(verdict),
    };
    let ended = melt.setup.launch(&[], &melt.line)?.wait(LIMIT)?;
    ended.expect(0)?;
    melt.compare()?;
    melt.place.done();
    Ok(Verdict::Passed(String::new()))
}

fn kill_resume(context: &Context) -> Result<Verdict> {
    let mut melt = match Melt::prepare(context, "lammps/kill-resume", levels(context))? {
        Ok(melt) => melt,
        Err(verdict) => return Ok(verdict),
    };
    let (incarnation, number) = melt.run_and_kill()?;
    melt.resume_calmly()?;
    Ok(Verdict::Passed(format!(
        "complete on all levels at the kill: {incarnation}.{number}"
    )))
}

fn node_lost(context: &Context) -> Result<Verdict> {
    let mut melt = match Melt::prepare(context, "lammps/node-lost", levels(context))? {
        Ok(melt) => melt,
        Err(verdict) => return Ok(verdict),
    };
    let newest = melt.run_and_kill()?;
    let node = context.random("node-lost").below(u64::from(RANKS)) as u32;
    let lost = melt.setup.stores().node_directory(node);
    std::fs::remove_dir_all(&lost).with_context(|| format!("deleting {}", lost.display()))?;
    let said = melt.resume_calmly()?;
    ensure!(
        resumed(&said) == Some(newest) && said.contains("1 from partner copy"),
        "not {newest:?} with one partner copy\n{said}"
    );
    Ok(Verdict::Passed(format!(
        "node {node} lost, its image from the partner copy"
    )))
}
