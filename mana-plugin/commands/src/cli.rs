//! The one definition of commands and options: parser, `--help`, manual pages and completions come
//! from it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Transparent multi-level checkpointing for MPI programs
#[derive(Debug, Parser)]
#[command(
    name = "mana",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
#[command(
    after_help = "The commands launch, restart, status and coordinator can also be called as mana_launch and so on. Exit code of launch, restart and run: the program's own; 99 when mana fails (MANA_FAIL_RC changes that). The guide is in share/doc/mana/guide of the installation; begin with README.md there."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Verb,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Start a program under control; on a requeue, resume by itself
    Launch(Launch),
    /// Resume the newest generation by hand, under mpirun or srun, without naming the program (or what mana start has started)
    Restart(Restart),
    /// Start a script or program without MPI, with a directory of its own for logs and checkpoints
    Start(StartRun),
    /// Checkpoint and stop what mana start has started
    Stop(Stop),
    /// Show a running job, take a checkpoint, or end it
    Status(Status),
    /// Run a stand-alone coordinator (by default rank 0 brings its own)
    Coordinator(Coordinator),
    /// Run a command line with mana_launch in it, and again after a failure, resuming
    Run(Run),
    /// In a job script: put the Slurm job back into the queue after a failure, unless another start would not help
    Requeue(Requeue),
    /// List the generations in the stores of a job
    List(List),
    /// Show what one image file holds
    Inspect(Inspect),
    /// Read every image of a job and compare all checksums
    Verify(Verify),
    /// Delete checkpoints of a job that does not run
    Prune(Prune),
    /// Look whether this machine, its MPIs, Slurm and storage are fit, and say how to mend what is not
    Doctor(Doctor),
    /// Write a page about a job: what was taken, what it cost, what failed, which intervals would be best
    Report(Report),
    /// Test mode: lose simulated nodes of a running job (their ranks are killed, their storage deleted)
    FailNode(FailNode),
    /// Build an adapter for another MPI into this installation
    Adapter(Adapter),
    /// Execute what a wrapper script executes, under control if it is an MPI program
    #[command(hide = true)]
    Wrapped(Wrapped),
    /// Compute for a while, with a known result: the program of doctor's trials
    #[command(hide = true)]
    Exercise(Exercise),
    /// Stay with a run of mana start
    #[command(hide = true)]
    Supervise(Supervise),
    /// Write the manual pages
    #[command(hide = true)]
    Man(Man),
    /// Print a shell's completion script
    #[command(hide = true)]
    Completions(Completions),
}

/// Where the configuration comes from.
#[derive(Args, Clone, Debug, Default)]
pub struct Settings {
    /// Configuration file [default: $MANA_CONF, ./mana.conf, ~/.config/mana/mana.conf, /etc/mana/mana.conf]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Set one key of the configuration, over file and environment (may be repeated)
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    pub set: Vec<(String, String)>,
}

/// How to find a job from outside.
#[derive(Args, Clone, Debug, Default)]
pub struct JobChoice {
    #[command(flatten)]
    pub settings: Settings,
    /// Identity of the job [default: the only one, or the one last started, of the configuration's directory]
    #[arg(long, value_name = "NAME")]
    pub id: Option<String>,
}

/// Options of everything that starts a job.
#[derive(Args, Clone, Debug, Default)]
pub struct Start {
    #[command(flatten)]
    pub settings: Settings,
    /// Identity of the job [default: made of the Slurm job, the program's name, its arguments and the directory; of mana_restart: the only unfinished job]
    #[arg(long, value_name = "NAME")]
    pub id: Option<String>,
    /// Resume this generation instead of the newest: NUMBER, or INCARNATION.NUMBER
    #[arg(long, value_name = "GENERATION", value_parser = generation)]
    pub generation: Option<(Option<u32>, u64)>,
    /// Name of the adapter (the MPI) to use, instead of choosing by program and launcher; none: the program has no MPI, and each task is a job of its own
    #[arg(long, value_name = "NAME")]
    pub mpi: Option<String>,
    /// Host of a stand-alone coordinator, as mana_coordinator prints it
    #[arg(long, value_name = "HOST", env = "MANA_COORD_HOST")]
    pub coord_host: Option<String>,
    /// Port of a stand-alone coordinator, as mana_coordinator prints it
    #[arg(long, value_name = "PORT", env = "MANA_COORD_PORT")]
    pub coord_port: Option<u16>,
    /// No lines about normal events
    #[arg(long, short)]
    pub quiet: bool,
    /// Write mana's lines to this file; only errors go to standard error too
    #[arg(long, value_name = "FILE")]
    pub log_file: Option<String>,
    /// Write mana's lines as JSON objects
    #[arg(long)]
    pub log_json: bool,
    /// How much mana says: error, warn, info, debug, trace
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
}

/// `mana launch`
#[derive(Args, Clone, Debug)]
pub struct Launch {
    #[command(flatten)]
    pub start: Start,
    /// Resume the unfinished job of this identity
    #[arg(long, conflicts_with = "fresh")]
    pub restart: bool,
    /// Start from the beginning although an unfinished job of this identity exists
    #[arg(long)]
    pub fresh: bool,
    /// The program is one of those a wrapper script executes
    #[arg(long, hide = true)]
    pub wrapped: bool,
    /// The program and its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "PROGRAM"
    )]
    pub program: Vec<OsString>,
}

/// `mana wrapped`
#[derive(Args, Clone, Debug)]
pub struct Wrapped {
    /// `argv[0]`, file and arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub words: Vec<OsString>,
}

/// `mana restart`
#[derive(Args, Clone, Debug)]
pub struct Restart {
    #[command(flatten)]
    pub start: Start,
    /// Print which generation would be used and where each rank's image would come from; start nothing
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub when: When,
}

/// When a run of `mana start` is to stop.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "What mana start has started")]
pub struct When {
    /// Stop after this long, with a last checkpoint (exit code 85)
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub time: Option<f64>,
    /// Stop after the first checkpoint (exit code 85)
    #[arg(long)]
    pub kill_after: bool,
    /// Return as soon as it runs; 'mana stop' ends it
    #[arg(long, short)]
    pub background: bool,
}

/// `mana start`
#[derive(Args, Clone, Debug)]
pub struct StartRun {
    #[command(flatten)]
    pub settings: Settings,
    /// Name of the run, and of its directory NAME.run [default: the script's name without its ending]
    #[arg(long, value_name = "NAME")]
    pub id: Option<String>,
    /// Seconds between checkpoints [default: as configured; without mana.conf none]
    #[arg(long, short, value_name = "SECONDS", value_parser = seconds)]
    pub interval: Option<f64>,
    /// The script or program and its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "PROGRAM"
    )]
    pub program: Vec<OsString>,
    #[command(flatten)]
    pub when: When,
}

/// `mana stop`
#[derive(Args, Clone, Debug)]
pub struct Stop {
    /// Name of the run [default: the only one of this directory]
    #[arg(long, value_name = "NAME")]
    pub id: Option<String>,
    /// Without a last checkpoint
    #[arg(long)]
    pub now: bool,
}

/// `mana supervise`
#[derive(Args, Clone, Debug)]
pub struct Supervise {
    /// Name of the run.
    #[arg(long)]
    pub id: String,
    /// From its newest checkpoint.
    #[arg(long)]
    pub resume: bool,
    #[command(flatten)]
    pub when: When,
}

/// `mana status`
#[derive(Args, Clone, Debug)]
pub struct Status {
    #[command(flatten)]
    pub job: JobChoice,
    /// Keep showing until the job ends, over all its starts: a live view on a terminal (q leaves), a line for each change elsewhere
    #[arg(long, short)]
    pub watch: bool,
    /// Print the state as JSON (share/doc/mana/guide/status.md says what is in it); with --watch an object a line, every second
    #[arg(long)]
    pub json: bool,
    /// Take a checkpoint now
    #[arg(long)]
    pub checkpoint: bool,
    /// The checkpoint's level [default: the highest enabled]
    #[arg(long, requires = "checkpoint", value_name = "LEVEL")]
    pub level: Option<Level>,
    /// Wait until the checkpoint is complete on its level
    #[arg(long, requires = "checkpoint")]
    pub wait: bool,
    /// End the job (with --checkpoint: once that is complete)
    #[arg(long)]
    pub kill: bool,
    /// Take checkpoints of a level every so many seconds, until the job's next start (0: by hand only)
    #[arg(long, value_name = "LEVEL=SECONDS", value_parser = interval, conflicts_with_all = ["checkpoint", "kill", "watch"])]
    pub interval: Vec<(Level, Duration)>,
    /// Give up after this long
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub timeout: u64,
}

fn interval(text: &str) -> Result<(Level, Duration), String> {
    let (level, every) = text
        .split_once('=')
        .ok_or("LEVEL=SECONDS is wanted, as in local=600")?;
    let level = Level::from_str(level, true)
        .map_err(|_| format!("{level:?} is no level; levels are local, partner, group, global"))?;
    Ok((level, interval_seconds(every)?))
}

/// An interval: a number of seconds, of a year at most, or zero.
///
/// # Errors
/// What it is instead.
pub fn interval_seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=366.0 * 86400.0).contains(&seconds) => {
            Ok(Duration::from_secs_f64(seconds))
        }
        _ => Err(format!("{text:?} is not a number of seconds")),
    }
}

/// A storage level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Level {
    /// On the node's own storage
    Local,
    /// A copy on another node
    Partner,
    /// Parity over a group of nodes
    #[value(alias = "solomon")]
    Group,
    /// On the parallel file system
    Global,
}

impl Level {
    /// As the stores have it.
    pub fn to_store(self) -> libckpt::Level {
        match self {
            Self::Local => libckpt::Level::Local,
            Self::Partner => libckpt::Level::Partner,
            Self::Group => libckpt::Level::Group,
            Self::Global => libckpt::Level::Global,
        }
    }

    /// As the control plane has it.
    pub fn to_control(self) -> mana_control::Level {
        match self {
            Self::Local => mana_control::Level::Local,
            Self::Partner => mana_control::Level::Partner,
            Self::Group => mana_control::Level::Group,
            Self::Global => mana_control::Level::Global,
        }
    }
}

/// `mana coordinator`
#[derive(Args, Clone, Debug)]
pub struct Coordinator {
    #[command(flatten)]
    pub settings: Settings,
    /// Identity of the only job to coordinate [default: any, one after the other]
    #[arg(long, value_name = "NAME")]
    pub id: Option<String>,
    /// Host name or address to listen on
    #[arg(
        long,
        value_name = "HOST",
        default_value = "0.0.0.0",
        env = "MANA_COORD_HOST"
    )]
    pub coord_host: String,
    /// Port to listen on; 0: any free one, printed
    #[arg(
        long,
        value_name = "PORT",
        default_value_t = 0,
        env = "MANA_COORD_PORT"
    )]
    pub coord_port: u16,
    /// Take the one-letter commands from standard input even if that is no terminal
    #[arg(long)]
    pub interactive: bool,
}

/// `mana run`
#[derive(Args, Clone, Debug)]
pub struct Run {
    /// How often to start again after a failure
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub retries: u32,
    /// Resume in the first start too
    #[arg(long)]
    pub restart: bool,
    /// No lines about normal events
    #[arg(long, short)]
    pub quiet: bool,
    /// The command line, as in: mana run -- mpirun -n 4 mana_launch ./app
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    pub command: Vec<OsString>,
}

/// `mana requeue`
#[derive(Args, Clone, Debug)]
pub struct Requeue {
    #[command(flatten)]
    pub settings: Settings,
    /// Identity of the job, if mana_launch was given one [default: all programs of this Slurm job]
    #[arg(long, value_name = "NAME")]
    pub id: Option<String>,
    /// The exit code of srun or mpirun; with 0 nothing is done
    #[arg(long, value_name = "CODE")]
    pub after: i32,
    /// How many starts in a row may commit no checkpoint and be followed by another
    #[arg(long, value_name = "N", default_value_t = 5, env = "MANA_MAX_RESTARTS")]
    pub limit: u32,
    /// Only tell whether another start would help: exit code 0 if so, and the number of the start that has committed last
    #[arg(long)]
    pub check: bool,
}

/// `mana list`
#[derive(Args, Clone, Debug)]
pub struct List {
    #[command(flatten)]
    pub job: JobChoice,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

/// `mana inspect`
#[derive(Args, Clone, Debug)]
pub struct Inspect {
    /// An image (rank-N.img)
    pub image: PathBuf,
    /// List every section and memory range too
    #[arg(long, short)]
    pub all: bool,
}

/// `mana verify`
#[derive(Args, Clone, Debug)]
pub struct Verify {
    #[command(flatten)]
    pub job: JobChoice,
    /// Only this generation: NUMBER, or INCARNATION.NUMBER
    #[arg(long, value_name = "GENERATION", value_parser = generation)]
    pub generation: Option<(Option<u32>, u64)>,
}

/// `mana prune`
#[derive(Args, Clone, Debug)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["keep", "all"]))]
pub struct Prune {
    #[command(flatten)]
    pub settings: Settings,
    /// Identity of the job [default: the only one of the configuration's directory]
    #[arg(long, value_name = "NAME")]
    pub id: Option<String>,
    /// Keep the newest N intact ones, and delete what is older
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub keep: Option<u32>,
    /// Look only at checkpoints that were taken for this level
    #[arg(long, value_name = "LEVEL", requires = "keep")]
    pub level: Option<Level>,
    /// Delete all of them: of a job that has ended normally
    #[arg(long)]
    pub all: bool,
    /// With --all: also of a job that has not; it counts as ended then. Also of a job that may still run somewhere
    #[arg(long)]
    pub force: bool,
    /// Say what would be deleted, and delete nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// `mana doctor`
#[derive(Args, Clone, Debug)]
pub struct Doctor {
    #[command(flatten)]
    pub settings: Settings,
    /// Also run a small job for some ten seconds: checkpoint, kill, resume (inside an allocation on its nodes)
    #[arg(long)]
    pub self_test: bool,
    /// Print the findings as JSON
    #[arg(long)]
    pub json: bool,
}

/// `mana exercise`
#[derive(Args, Clone, Debug)]
pub struct Exercise {
    /// How long
    #[arg(long, default_value_t = 1)]
    pub seconds: u32,
    /// It does not end before it was resumed
    #[arg(long)]
    pub until_resumed: bool,
}

/// `mana report`
#[derive(Args, Clone, Debug)]
pub struct Report {
    #[command(flatten)]
    pub job: JobChoice,
    /// The page [default: mana-report-JOB.html in the current directory]
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Mean time between failures of one level, for the advice, instead of what the job met
    /// (process, node or job: what local, partner and global checkpoints are for)
    #[arg(long = "mtbf", value_name = "WHAT=SECONDS", value_parser = mean_time)]
    pub mtbf: Vec<(Failing, f64)>,
    /// Print the figures as JSON instead
    #[arg(long)]
    pub json: bool,
}

/// What fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failing {
    /// A process: local checkpoints.
    Process,
    /// A node: partner or group checkpoints.
    Node,
    /// The job with all its nodes: global checkpoints.
    Job,
}

/// `mana fail-node`
#[derive(Args, Clone, Debug)]
pub struct FailNode {
    #[command(flatten)]
    pub job: JobChoice,
    /// Numbers of the simulated nodes, from 0; several are lost at once
    #[arg(required = true, value_name = "NODE")]
    pub nodes: Vec<u32>,
    /// Kill the ranks, but leave the storage
    #[arg(long)]
    pub keep_storage: bool,
}

/// `mana adapter`
#[derive(Args, Clone, Debug)]
pub struct Adapter {
    /// The MPI's compiler wrapper
    #[arg(long, value_name = "PATH", required_unless_present = "include")]
    pub mpicc: Option<PathBuf>,
    /// For an MPI without a wrapper: the directory of its mpi.h
    #[arg(long, value_name = "DIR", requires = "lib", conflicts_with = "mpicc")]
    pub include: Option<PathBuf>,
    /// For an MPI without a wrapper: the directory of its library
    #[arg(long, value_name = "DIR", requires = "include")]
    pub lib: Option<PathBuf>,
    /// Name of the adapter [default: made from the MPI's name and version]
    #[arg(long)]
    pub name: Option<String>,
    /// How processes of this MPI are started: openmpi, pmix, pmi (may be repeated) [default: usual ones]
    #[arg(long = "launcher", value_name = "KIND")]
    pub launchers: Vec<String>,
    /// Sources to build from
    #[arg(long, value_name = "DIR", hide = true)]
    pub sources: Option<PathBuf>,
    /// Where to build
    #[arg(long, value_name = "DIR", hide = true)]
    pub target_dir: Option<PathBuf>,
    /// Say nothing unless it fails
    #[arg(long, short)]
    pub quiet: bool,
}

/// `mana man`
#[derive(Args, Clone, Debug)]
pub struct Man {
    /// Directory to write to
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// `mana completions`
#[derive(Args, Clone, Debug)]
pub struct Completions {
    /// The shell
    pub shell: clap_complete::Shell,
    /// The command: mana, or one of its classic names (mana_launch, ...)
    #[arg(long, value_name = "NAME", default_value = "mana")]
    pub name: String,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if x > 0.0 && x <= 366.0 * 86400.0 => Ok(x),
        _ => Err("expected a number of seconds".into()),
    }
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => {
            Ok((key.trim().to_owned(), value.trim().to_owned()))
        }
        _ => Err("expected KEY=VALUE".into()),
    }
}

fn mean_time(text: &str) -> Result<(Failing, f64), String> {
    let expected = "expected process=SECONDS, node=SECONDS or job=SECONDS";
    let (what, seconds) = text.split_once('=').ok_or(expected)?;
    let what = match what {
        "process" => Failing::Process,
        "node" => Failing::Node,
        "job" => Failing::Job,
        _ => return Err(expected.into()),
    };
    match seconds.parse::<f64>() {
        Ok(seconds) if seconds.is_finite() && seconds > 0.0 => Ok((what, seconds)),
        _ => Err(expected.into()),
    }
}

fn generation(text: &str) -> Result<(Option<u32>, u64), String> {
    let wrong = |_| "expected NUMBER or INCARNATION.NUMBER".to_owned();
    match text.split_once('.') {
        Some((incarnation, number)) => Ok((
            Some(incarnation.parse().map_err(wrong)?),
            number.parse().map_err(wrong)?,
        )),
        None => Ok((None, text.parse().map_err(wrong)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_of_the_program_are_left_alone() {
        let cli = Cli::try_parse_from([
            "mana", "launch", "--fresh", "-q", "lmp", "--help", "-in", "x",
        ])
        .expect("parses");
        let Verb::Launch(launch) = cli.command else {
            panic!("launch expected");
        };
        assert!(launch.fresh && launch.start.quiet);
        assert_eq!(launch.program, ["lmp", "--help", "-in", "x"]);
    }

    #[test]
    fn intervals_are_those_of_levels() {
        let of = |text| interval(text).ok();
        assert_eq!(
            of("local=2.5"),
            Some((Level::Local, Duration::from_millis(2500)))
        );
        assert_eq!(of("global=0"), Some((Level::Global, Duration::ZERO)));
        for wrong in [
            "60",
            "local",
            "local=",
            "nowhere=60",
            "local=-1",
            "local=never",
        ] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }

    /// README.md and the pages of the guide.
    fn pages() -> Vec<(String, String)> {
        let top = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let guide = std::fs::read_dir(top.join("docs/guide")).expect("the guide");
        let mut files: Vec<_> = guide.flatten().map(|entry| entry.path()).collect();
        files.push(top.join("README.md"));
        let read = |path: &PathBuf| {
            let text = std::fs::read_to_string(path).expect("a page");
            let ours = |line: &&str| !line.contains("mana[");
            // The other system's commands are in the first column.
            let own = |line: &str| match line.strip_prefix('|').and_then(|l| l.split_once('|')) {
                Some((_, rest)) if path.ends_with("moving.md") => rest.to_owned(),
                _ => line.to_owned(),
            };
            let lines: Vec<_> = text.lines().filter(ours).map(own).collect();
            lines.join("\n")
        };
        files
            .iter()
            .map(|path| (path.display().to_string(), read(path)))
            .collect()
    }

    /// Lines of blocks, and what stands between backquotes.
    fn code(page: &str) -> Vec<&str> {
        let block = |line: &&str| line.starts_with("    ");
        let blocks = page.lines().filter(block);
        let spans = page.lines().filter(|line| !block(line));
        let spans = spans.flat_map(|line| line.split('`').skip(1).step_by(2));
        blocks.chain(spans).collect()
    }

    /// The verb of a word like `mana_launch`, or of the word after `mana`.
    fn verb(words: &[&str]) -> Option<(String, usize)> {
        let last = words[0].rsplit('/').next().unwrap_or("");
        match (last, words.get(1)) {
            ("mana", Some(next))
                if next.starts_with(|c: char| c.is_ascii_lowercase())
                    && next.chars().all(|c| c.is_ascii_lowercase() || c == '-') =>
            {
                Some(((*next).to_owned(), 2))
            }
            _ => {
                let name = last.strip_prefix("mana_")?;
                let classic = ["launch", "restart", "status", "coordinator"];
                classic.contains(&name).then(|| (name.to_owned(), 1))
            }
        }
    }

    #[test]
    fn the_documents_name_commands_and_options_that_exist() {
        let all = Cli::command();
        let mut count = 0;
        for (name, page) in pages() {
            for line in code(&page) {
                let words: Vec<&str> = line
                    .split(|c: char| c.is_whitespace() || "();|[]".contains(c))
                    .filter(|word| !word.is_empty())
                    .collect();
                for at in 0..words.len() {
                    let Some((verb, skip)) = verb(&words[at..]) else {
                        continue;
                    };
                    let Some(command) = all.find_subcommand(&verb) else {
                        panic!("{name}: there is no command {verb:?}: {line}");
                    };
                    let mut rest = words[at + skip..].iter();
                    while let Some(word) = rest.next().filter(|w| w.starts_with('-')) {
                        let known = command.get_arguments().find(|a| {
                            let long = a.get_long().is_some_and(|l| *word == format!("--{l}"));
                            long || a.get_short().is_some_and(|s| *word == format!("-{s}"))
                        });
                        match known {
                            Some(found) if found.get_action().takes_values() => drop(rest.next()),
                            Some(_) => {}
                            None if ["--", "--help", "--version"].contains(word) => break,
                            None => panic!("{name}: {verb} has no option {word}: {line}"),
                        }
                        count += 1;
                    }
                }
            }
        }
        assert!(count > 40, "only {count} options found");
    }

    #[test]
    fn the_readme_names_every_command() {
        let readme = include_str!("../../../README.md");
        for command in Cli::command()
            .get_subcommands()
            .filter(|c| !c.is_hide_set())
        {
            let verb = command.get_name();
            let forms = [
                format!("mana_{verb}`"),
                format!("`{verb}`"),
                format!("`mana {verb}"),
            ];
            let there = forms.iter().any(|form| readme.contains(form))
                || readme.contains(&format!("`mana_{verb} "));
            assert!(there, "{verb} is not in README.md");
        }
    }

    #[test]
    fn generations() {
        assert_eq!(generation("7"), Ok((None, 7)));
        assert_eq!(generation("2.7"), Ok((Some(2), 7)));
        assert!(generation("x").is_err() && generation("1.").is_err());
    }
}
