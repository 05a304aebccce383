//! Programs that really run: what counts in the end.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use libckpt::Config;

use super::exercise::expected;
use super::process::{Ended, Running};
use super::Findings;
use crate::installation::{Installation, InstalledAdapter};

/// For a program that does next to nothing.
const QUICK: Duration = Duration::from_secs(30);
/// For a job to come under control, to be checkpointed, to be resumed.
const STEP: Duration = Duration::from_secs(60);
/// Between two looks at a job.
const TICK: Duration = Duration::from_millis(100);
/// How long the job of the self-test computes.
const SECONDS: u32 = 4;

/// A program without MPI, in a place of its own.
pub fn program(installation: &Installation) -> Findings {
    let mut found = Findings::new("trial");
    let place = std::env::temp_dir().join(format!("mana-doctor-{}", std::process::id()));
    let began = Instant::now();
    let mut command = ours(installation);
    command
        .args(["launch", "--id", "doctor", "--fresh", "--quiet"])
        .args(["--set", "test_mode=true"])
        .arg("--set")
        .arg(format!(
            "global_ckpt_dir={}",
            place.join("global").display()
        ))
        .arg("--set")
        .arg(format!("local_ckpt_dir={}", place.join("local").display()))
        .arg("--")
        .arg(installation.command())
        .args(["exercise", "--seconds", "0"]);
    let ended = Running::start(command).map(|running| running.wait(QUICK));
    match ended {
        Ok(ended) if ended.code == Some(0) && ended.output.contains(&expected(0, 1)) => found.ok(
            "a program",
            format!("runs under control, {:.1} s", began.elapsed().as_secs_f64()),
        ),
        Ok(ended) => found.no(
            "a program",
            format!("does not run under control: {}", ended.complaint()),
            "the line says what is missing; MANA_LOG=debug says more",
        ),
        Err(e) => found.no(
            "a program",
            format!("{} cannot be run: {e}", installation.command().display()),
            "install again: cargo xtask install --prefix DIR",
        ),
    }
    // What is left there is of no use to anybody.
    let _ = std::fs::remove_dir_all(&place);
    found
}

/// A job on each MPI: started, checkpointed, ended, resumed, its result compared.
pub fn jobs(installation: &Installation, config: &Config) -> Findings {
    let mut found = Findings::new("self-test");
    for adapter in installation.adapters().unwrap_or_default() {
        let name = adapter.facts.name.clone();
        let Some(way) = Way::find(&adapter) else {
            found.warning(
                name,
                "no launcher of this MPI is on this machine",
                format!(
                    "install its mpirun ({}), or run this inside an allocation",
                    adapter.facts.launchers.join(" or ")
                ),
            );
            continue;
        };
        let trial = Trial {
            installation,
            config,
            id: format!("doctor-{}-{name}", std::process::id()),
            way,
            mpi: name.clone(),
        };
        let began = Instant::now();
        match trial.run() {
            Ok(text) => found.ok(
                name,
                format!("{text}, {:.1} s in all", began.elapsed().as_secs_f64()),
            ),
            Err(why) => found.no(
                name,
                why,
                format!(
                    "{} explains mana's lines; start a small program by hand with MANA_LOG=debug to see more",
                    installation.guide("messages.md").display()
                ),
            ),
        }
        trial.clean();
    }
    found
}

/// Our own program, with nothing of the user's settings for single jobs.
fn ours(installation: &Installation) -> Command {
    let mut command = Command::new(installation.command());
    command
        .env_remove("MANA_COORD_HOST")
        .env_remove("MANA_COORD_PORT")
        .env_remove("SLURM_RESTART_COUNT");
    command
}

/// How to start ranks.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Way {
    words: Vec<String>,
    ranks: u32,
    /// On the nodes of an allocation.
    allocated: bool,
}

impl Way {
    fn find(adapter: &InstalledAdapter) -> Option<Self> {
        let facts = &adapter.facts;
        let starts = |kind: &str| facts.launchers.iter().any(|l| l == kind);
        let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
        if let (Ok(_), Some(nodes)) = (std::env::var("SLURM_JOB_ID"), number("SLURM_NNODES")) {
            let kind = match (starts("pmix"), starts("pmi")) {
                (true, _) => "--mpi=pmix",
                (_, true) => "--mpi=pmi2",
                _ => return None,
            };
            let ranks = nodes.max(2);
            // The allocation may have fewer CPUs than that, and be in use by the step that this runs in.
            let words = ["srun", "--overlap", "--overcommit", kind, "-N"].map(str::to_owned);
            let mut words = words.to_vec();
            words.extend([nodes.to_string(), "-n".into(), ranks.to_string()]);
            return Some(Self {
                words,
                ranks,
                allocated: true,
            });
        }
        // mpicc.mpich has mpirun.mpich beside it.
        let name = facts.mpicc.file_name()?.to_str()?;
        let launcher = facts
            .mpicc
            .with_file_name(name.replacen("mpicc", "mpirun", 1));
        if !launcher.is_file() {
            return None;
        }
        let mut words = vec![launcher.to_str()?.to_owned()];
        if starts("openmpi") {
            words.push("--oversubscribe".into());
        }
        words.extend(["-n".into(), "2".into()]);
        Some(Self {
            words,
            ranks: 2,
            allocated: false,
        })
    }
}

struct Trial<'a> {
    installation: &'a Installation,
    config: &'a Config,
    id: String,
    way: Way,
    mpi: String,
}

impl Trial<'_> {
    fn run(&self) -> Result<String, String> {
        let mut job = self.start(&["launch", "--fresh"], true)?;
        self.until_controlled(&mut job)?;
        let taken = self.ask(&["--checkpoint", "--wait", "--kill"])?;
        if taken.code != Some(0) {
            return Err(format!("no checkpoint: {}", taken.complaint()));
        }
        job.wait(STEP);
        let resumed = self.start(&["restart"], false)?.wait(STEP);
        let result = expected(SECONDS, self.way.ranks);
        if resumed.code != Some(0) {
            return Err(format!("not resumed: {}", resumed.complaint()));
        }
        if !resumed.output.contains(&result) {
            return Err(format!(
                "resumed, but with another result: {:?} instead of {result:?}",
                resumed.output.trim()
            ));
        }
        let taken = taken.output.lines().next().unwrap_or_default().to_owned();
        Ok(format!(
            "{} ranks: {taken}; ended, resumed, right result",
            self.way.ranks
        ))
    }

    fn settings(&self, command: &mut Command) {
        if let Some(file) = &self.config.file {
            command.arg("--config").arg(file);
        }
        command.args(["--id", &self.id]);
        for (key, path) in [
            ("global_ckpt_dir", &self.config.global_ckpt_dir),
            ("local_ckpt_dir", &self.config.local_ckpt_dir),
        ] {
            command
                .arg("--set")
                .arg(format!("{key}={}", path.display()));
        }
        let test_mode = self.config.test_mode || !self.way.allocated;
        command.arg("--set").arg(format!("test_mode={test_mode}"));
        for level in ["local", "partner", "global"] {
            command.arg("--set").arg(format!("{level}_ckpt_interval=0"));
        }
    }

    fn start(&self, words: &[&str], program: bool) -> Result<Running, String> {
        let (launcher, options) = self.way.words.split_first().ok_or("no launcher")?;
        let mut command = Command::new(launcher);
        command.args(options).arg(self.installation.command());
        command.args(words);
        self.settings(&mut command);
        command.args(["--mpi", &self.mpi]);
        if program {
            command.arg("--").arg(self.installation.command());
            // However slow the machine is, it does not end before its checkpoint.
            command.args([
                "exercise",
                "--until-resumed",
                "--seconds",
                &SECONDS.to_string(),
            ]);
        }
        command
            .env_remove("MANA_COORD_HOST")
            .env_remove("MANA_COORD_PORT")
            .env_remove("SLURM_RESTART_COUNT");
        if nix::unistd::geteuid().is_root() {
            command
                .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
                .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
        }
        Running::start(command).map_err(|e| format!("{launcher} cannot be run: {e}"))
    }

    fn ask(&self, words: &[&str]) -> Result<Ended, String> {
        let mut command = ours(self.installation);
        command.arg("status");
        self.settings(&mut command);
        command.args(words);
        let running = Running::start(command).map_err(|e| e.to_string())?;
        Ok(running.wait(STEP))
    }

    fn until_controlled(&self, job: &mut Running) -> Result<(), String> {
        let deadline = Instant::now() + STEP;
        let wanted = format!("{} ranks", self.way.ranks);
        while Instant::now() < deadline {
            let seen = self.ask(&[])?;
            if seen.output.contains("running") && seen.output.contains(&wanted) {
                return Ok(());
            }
            if job.has_ended() {
                return Err("the job ended before it was under control".into());
            }
            std::thread::sleep(TICK);
        }
        Err(format!(
            "the job was not under control after {} s",
            STEP.as_secs()
        ))
    }

    /// Deletes what the job has left.
    fn clean(&self) {
        let remove = |path: &Path| {
            // It may never have been made.
            let _ = std::fs::remove_dir_all(path);
        };
        remove(&self.config.global_ckpt_dir.join(&self.id));
        let _ = std::fs::remove_dir(&self.config.global_ckpt_dir);
        let local = &self.config.local_ckpt_dir;
        remove(&local.join(&self.id));
        for node in 0..self.way.ranks {
            let node = local.join(format!("node{node}"));
            remove(&node.join(&self.id));
            let _ = std::fs::remove_dir(&node);
        }
        let _ = std::fs::remove_dir(local);
    }
}
