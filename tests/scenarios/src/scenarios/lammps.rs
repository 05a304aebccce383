//! The main job: Debian's LAMMPS on simulated nodes, one of which is lost.

use std::path::Path;
use std::time::Duration;

use anyhow::{bail, ensure, Context as _, Result};

use super::Scenario;
use crate::context::{Context, Verdict, Workplace};
use crate::generations::Id;
use crate::job::Job;
use crate::mpi::{find, Mpi};
use crate::product::{Intervals, Setup};

/// Longest a run may take: about 30 s of work on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(300);

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
        let Some(lammps) = find("lmp") else {
            return Ok(Err(Verdict::Skipped("lammps is not installed".into())));
        };
        if Mpi::OpenMpi.tool("mpirun").is_none() {
            return Ok(Err(Verdict::Skipped(
                "mpirun.openmpi is not installed".into(),
            )));
        }
        let place = context.directory(name)?;
        let input = Path::new(env!("CARGO_MANIFEST_DIR"))
            .with_file_name("programs")
            .join("melt.lammps");
        let steps = if context.full { "14000" } else { "3400" };
        let words = [
            &lammps.to_string_lossy(),
            "-in",
            &input.to_string_lossy(),
            "-var",
            "steps",
            steps,
            "-log",
            "log.lammps",
            "-screen",
            "none",
        ];
        let line: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let expected = context.native(&format!("lammps {steps}"), || {
            let mut directory = context.directory("lammps-native")?;
            let mut command = Mpi::OpenMpi.native(RANKS);
            command.args(&line).current_dir(directory.path());
            Job::start(command, directory.path())?
                .wait(LIMIT)?
                .expect(0)?;
            let rows = thermo(directory.path())?;
            directory.done();
            Ok(rows)
        })?;
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

    /// Run until a generation is complete on all three levels, then SIGKILL every rank. Its name.
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
        let found = thermo(&self.setup.directory)?;
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

/// Run until a generation is complete on all three levels, then SIGKILL every rank. Its name.
pub fn run_and_kill(setup: &Setup, line: &[String]) -> Result<Id> {
    let stores = setup.stores();
    let mut job = setup.launch(&[], line)?;
    job.until(
        "a generation complete on all levels, after another",
        LIMIT,
        |_| (stores.complete().is_some() && stores.committed().len() >= 2).then_some(()),
    )?;
    job.kill_ranks();
    let ended = job.wait(Duration::from_secs(60))?;
    ensure!(
        ended.code() != 0,
        "killed, and it ended well\n{}",
        ended.report()
    );
    stores
        .complete()
        .context("no generation is complete after the kill")
}

/// The thermo table of `log.lammps`: rows of numbers, which contain no timing.
fn thermo(directory: &Path) -> Result<String> {
    let path = directory.join("log.lammps");
    let log =
        std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
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
pub const LEVELS: Intervals = Intervals {
    local: 1,
    partner: 2,
    global: 3,
};

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
    let mut melt = match Melt::prepare(context, "lammps/kill-resume", LEVELS)? {
        Ok(melt) => melt,
        Err(verdict) => return Ok(verdict),
    };
    let (incarnation, number) = melt.run_and_kill()?;
    melt.resume()?;
    Ok(Verdict::Passed(format!(
        "complete on all levels at the kill: {incarnation}.{number}"
    )))
}

fn node_lost(context: &Context) -> Result<Verdict> {
    let mut melt = match Melt::prepare(context, "lammps/node-lost", LEVELS)? {
        Ok(melt) => melt,
        Err(verdict) => return Ok(verdict),
    };
    melt.run_and_kill()?;
    let node = context.random("node-lost").below(u64::from(RANKS)) as u32;
    let lost = melt.setup.stores().node_directory(node);
    std::fs::remove_dir_all(&lost).with_context(|| format!("deleting {}", lost.display()))?;
    melt.resume()?;
    Ok(Verdict::Passed(format!("node {node} lost")))
}
