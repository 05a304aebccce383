//! `mana launch` and `mana restart`: decide, then become `mana-lower`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use libckpt::records::{JobState, Records};
use libckpt::refusal::{self, Refusal};
use libckpt::store::Store;
use libckpt::{identity, Config};
use mana::spec::{CoordinatorAddress, LaunchSpec, Mode, OsText};

use crate::batch;
use crate::choice::{choose, without_mpi, NONE};
use crate::cli;
use crate::decision::{decide, fresh_is_spent, same_program, Decision, Occasion};
use crate::elsewhere::Elsewhere;
use crate::execution::become_lower;
use crate::installation::Installation;
use crate::launcher::Launcher;
use crate::message::{chain, Failure, Speaker};
use crate::program::Program;
use crate::resubmit;
use crate::settings;
use crate::wrapper;

/// This MPI's own `MPI_Finalize` hangs between nodes; slurm/mpich-finalize says why and how it is cured.
const HANGING_MPICH: &str = "MPICH 4.0.2";

/// What both commands know before they differ.
pub struct Context {
    launcher: Launcher,
    installation: Installation,
    /// The effective configuration.
    pub config: Config,
    /// The number of this task among others without MPI, each of which is a job of its own.
    task: Option<u32>,
}

/// What is known of the job besides its identity.
struct Job {
    mode: Mode,
    program: Option<Program>,
    /// The thread level it began with, if it resumes.
    began: Option<i32>,
}

impl Context {
    fn new(start: &cli::Start, speaker: &mut Speaker) -> Result<Self, Failure> {
        let mut launcher = Launcher::from_environment();
        speaker.rank = launcher.rank;
        let config = settings::load_with(&start.settings, &named(start)).map_err(|failure| {
            // Where the job's directory is may be known all the same.
            match settings::load(&start.settings) {
                Ok(known) => leave_word(&launcher, &known.global_ckpt_dir, failure),
                Err(_) => failure,
            }
        })?;
        speaker.lines = config.lines.clone();
        let mut task = None;
        if config.mpi.as_deref() == Some(NONE) {
            task = launcher.part();
            speaker.rank = None;
        }
        Ok(Self {
            launcher,
            installation: Installation::find()?,
            config,
            task,
        })
    }

    /// The identity `id`, or that of this task.
    fn own(&self, id: String) -> String {
        match self.task.map(|number| format!(".{number}")) {
            Some(suffix) if !id.ends_with(&suffix) => id + &suffix,
            _ => id,
        }
    }

    /// The command line that goes on with job `id` of `size` ranks, started as this one was.
    pub fn resume_by(&self, start: &cli::Start, id: &str, size: u32) -> String {
        let mut line = self.launcher.words(size) + "mana_restart";
        if let Some(file) = &start.settings.config {
            let file = std::path::absolute(file).unwrap_or_else(|_| file.clone());
            line += &format!(" --config {}", file.display());
        }
        if let Some(mpi) = start.mpi.as_deref().filter(|mpi| *mpi != NONE) {
            line += &format!(" --mpi {mpi}");
        }
        line + " --id " + id
    }

    /// Whether this rank speaks for all.
    pub fn leading(&self) -> bool {
        self.launcher.rank.unwrap_or(0) == 0
    }

    /// In a batch job: leaves word of a start that was refused, for whoever would start it again.
    fn refused(&self, failure: Failure) -> Failure {
        leave_word(&self.launcher, &self.config.global_ckpt_dir, failure)
    }

    fn decide(&self, id: &str, occasion: Occasion, speaker: &Speaker) -> Result<Decision, Failure> {
        decide(&self.config, id, occasion, self.leading(), speaker).map_err(|mut failure| {
            // On one node all ranks meet the same directories.
            failure.same_everywhere |= self.launcher.one_node;
            failure
        })
    }

    /// Lines of the rank that speaks for all.
    pub fn say(
        &self,
        start: &cli::Start,
        speaker: &Speaker,
        lines: impl IntoIterator<Item = String>,
    ) {
        if self.leading() && !start.quiet {
            lines.into_iter().for_each(|line| speaker.say(line));
        }
    }
}

/// In a batch job: word in the global directory of a start that was refused, by rank 0.
fn leave_word(launcher: &Launcher, global: &Path, failure: Failure) -> Failure {
    let batch_job = identity::batch_job(&|name: &str| std::env::var(name).ok());
    if let (0, Some(job)) = (launcher.rank.unwrap_or(0), batch_job) {
        let refusal = Refusal {
            restart_count: launcher.restart_count,
            reason: failure.text.clone(),
            passing: failure.passing,
        };
        // The exit code says so too.
        let _ = refusal::note(global, &job, &refusal);
    }
    failure
}

/// Keys of the configuration that have an option of their own.
fn named(start: &cli::Start) -> [(&'static str, Option<&str>); 4] {
    [
        ("mpi", start.mpi.as_deref()),
        ("log_file", start.log_file.as_deref()),
        ("log_format", start.log_json.then_some("json")),
        ("log_level", start.log_level.as_deref()),
    ]
}

/// `mana launch`. Returns only on failure, or if there is nothing left to do.
pub fn launch(options: cli::Launch, speaker: &mut Speaker) -> Result<i32, Failure> {
    let context = Context::new(&options.start, speaker)?;
    launch_in(&context, &options, speaker).map_err(|failure| context.refused(failure))
}

fn launch_in(
    context: &Context,
    options: &cli::Launch,
    speaker: &mut Speaker,
) -> Result<i32, Failure> {
    let start = &options.start;
    wrapper::launch(options, &context.launcher, &context.config, speaker)?;
    let program = Program::find(&options.program[0])?;
    let id = context.own(match &start.id {
        Some(id) => given(id)?,
        None => {
            let directory = std::env::current_dir()
                .map_err(|e| Failure::new(format!("cannot find the current directory: {e}")))?;
            let environment = |name: &str| std::env::var(name).ok();
            identity::derive(
                Path::new(&options.program[0]),
                &options.program[1..],
                &directory,
                &environment,
            )
        }
    });
    let mut occasion = Occasion::of(options.restart, options.fresh, &context.launcher);
    if options.wrapped && occasion == Occasion::Restart {
        // A script runs again from its beginning: what had ended before is not what is resumed.
        occasion = Occasion::Again;
    }
    if occasion == Occasion::Fresh && fresh_is_spent(&context.config, &id, &context.launcher) {
        occasion = Occasion::Again;
        let line = "--fresh was for the first start: this is another one of the same batch job, or of the same 'mana run'".to_owned();
        context.say(start, speaker, [line]);
    }
    let (id, occasion) = resubmit::which(context, start, id, occasion, speaker)?;
    speaker.job = Some(id.clone());
    let global = &context.config.global_ckpt_dir;
    let other = |of: Occasion| {
        if start.id.is_some() || !context.leading() || occasion != of {
            return None;
        }
        let found = Elsewhere::find(global, &id)?;
        let way = context.resume_by(start, &found.id, found.size());
        Some((found, way))
    };
    // Whatever they write to files is written by both.
    let beside = |occasion: Occasion| {
        if start.id.is_some() || !context.leading() || occasion != Occasion::First {
            return None;
        }
        let last = Elsewhere::last(global, &id).ok().flatten()?;
        let runs = last.unfinished && last.is_running(global);
        runs.then(|| last.beside())
    };
    let decision = context
        .decide(&id, occasion, speaker)
        .map_err(|mut failure| {
            // If it runs, it says so when it is to be resumed.
            if let Some((found, way)) = other(Occasion::Restart) {
                failure.text += &format!("; {}: to go on with that one: {way}", found.title());
            }
            failure
        })?;
    let mut began = None;
    if let (Some(Mode::Resume), JobState::Unfinished { incarnation, .. }) =
        (decision.mode, state(&context.config, &id)?)
    {
        // The record has rank 0's; other ranks may run another one.
        if context.leading() || program.path == incarnation.program {
            same_program(&program.path, &incarnation)?;
        }
        right_size(context, &id)?;
        began = Some(incarnation.thread_level);
    }
    context.say(start, speaker, decision.note);
    let Some(mode) = decision.mode else {
        return Ok(0);
    };
    if let Some((found, way)) = other(Occasion::First).filter(|(o, _)| !o.is_running(global)) {
        let line = format!(
            "{}: this start begins anew; to go on with that one instead: {way}",
            found.title()
        );
        context.say(start, speaker, [line]);
    } else if let Some(beside) = beside(occasion) {
        context.say(start, speaker, [beside]);
    }
    let job = Job {
        mode,
        program: Some(program),
        began,
    };
    execute(context, start, speaker, id, job, &options.program)
}

/// `mana restart`. Returns only on failure.
pub fn restart(options: cli::Restart, speaker: &mut Speaker) -> Result<i32, Failure> {
    let context = Context::new(&options.start, speaker)?;
    restart_in(&context, &options, speaker).map_err(|failure| context.refused(failure))
}

fn restart_in(
    context: &Context,
    options: &cli::Restart,
    speaker: &mut Speaker,
) -> Result<i32, Failure> {
    let start = &options.start;
    let id = match &start.id {
        Some(id) => context.own(given(id)?),
        None => unfinished_job(&context.config)?,
    };
    speaker.job = Some(id.clone());
    if options.dry_run {
        return crate::stores::plan(&context.config, &id, start.generation);
    }
    let decision = context.decide(&id, Occasion::Restart, speaker)?;
    let Some(mode @ Mode::Resume) = decision.mode else {
        return Err(Failure::of_job(format!(
            "nothing to resume: job {id} has committed no checkpoint; start it again with mana_launch --fresh"
        )));
    };
    right_size(context, &id)?;
    // For the choice of the MPI and the records: the image holds the program itself.
    let mut began = None;
    let program = match state(&context.config, &id)? {
        JobState::Unfinished { incarnation, .. } => {
            began = Some(incarnation.thread_level);
            let found = Program::find(incarnation.program.as_os_str()).ok();
            if let Some(program) = &found {
                same_program(&program.path, &incarnation)?;
            }
            found
        }
        _ => None,
    };
    context.say(start, speaker, decision.note);
    let job = Job {
        mode,
        program,
        began,
    };
    execute(context, start, speaker, id, job, &[])
}

/// A job resumes with as many ranks as it had.
pub fn right_size(context: &Context, id: &str) -> Result<(), Failure> {
    // Without a launcher it is alone.
    let alone = context.launcher.wireups.is_empty() && !context.launcher.slurm_step;
    let started = context.launcher.size.or(alone.then_some(1));
    let (Some(ranks), JobState::Unfinished { incarnation, .. }) =
        (started, state(&context.config, id)?)
    else {
        return Ok(());
    };
    if ranks == incarnation.size {
        return Ok(());
    }
    Err(Failure::of_job(format!(
        "job {id} has {} ranks, but {ranks} {} started: start as many as it had ({}...)",
        incarnation.size,
        if ranks == 1 { "was" } else { "were" },
        match context.launcher.words(incarnation.size) {
            none if none.is_empty() => format!("mpirun -n {} ", incarnation.size),
            words => words,
        }
    )))
}

fn given(id: &str) -> Result<String, Failure> {
    identity::given(id).map_err(|e| Failure::of_job(chain(&e)))
}

/// What is recorded about a job.
pub fn state(config: &Config, id: &str) -> Result<JobState, Failure> {
    Records::new(Store::global(config, id))
        .state()
        .map_err(|e| Failure::of_records(&e))
}

/// The one job that can be resumed.
fn unfinished_job(config: &Config) -> Result<String, Failure> {
    let mut found = Vec::new();
    for (name, _) in crate::job::names(&config.global_ckpt_dir)? {
        if matches!(state(config, &name)?, JobState::Unfinished { .. }) {
            found.push(name);
        }
    }
    // Within a batch job only its own.
    if let Some(job) = identity::batch_job(&|name: &str| std::env::var(name).ok()) {
        let own = crate::job::of_batch_job(&config.global_ckpt_dir, &found, &job);
        if !own.is_empty() {
            found = own;
        }
    }
    match found.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(Failure::of_job(format!(
            "nothing to resume: no unfinished job in the global directory {}; {}",
            config.global_ckpt_dir.display(),
            crate::job::WHICH
        ))),
        several => Err(Failure::of_job(format!(
            "several unfinished jobs in {}: name one with --id ({})",
            config.global_ckpt_dir.display(),
            several.join(", ")
        ))),
    }
}

fn execute(
    context: &Context,
    start: &cli::Start,
    speaker: &Speaker,
    identity: String,
    job: Job,
    command_line: &[OsString],
) -> Result<i32, Failure> {
    let Context {
        launcher,
        installation,
        config,
        ..
    } = context;
    let Job {
        mode,
        program,
        began,
    } = job;
    let name = match (command_line.first(), &program) {
        (Some(name), _) => name.to_string_lossy().into_owned(),
        (None, Some(program)) => program.path.display().to_string(),
        (None, None) => "the program".into(),
    };
    let library = program.as_ref().and_then(|p| p.mpi.as_ref());
    let wanted = config.mpi.as_deref();
    let choice = match without_mpi(launcher, program.as_ref(), wanted, began)? {
        true => None,
        false => choose(installation, launcher, library, wanted, &name)?,
    };
    let adapter_needs_cure = launcher.several_nodes
        && choice
            .as_ref()
            .is_some_and(|(adapter, _)| adapter.facts.version == HANGING_MPICH);
    let (adapter, stub) = match choice {
        Some((adapter, stub)) => (Some(adapter.to_spec()), Some(stub)),
        None => (None, None),
    };
    if let Some(missing) = config.plugins.iter().find(|p| !p.is_file()) {
        return Err(Failure::new(format!(
            "plugins: {} is missing; correct the path or leave it out",
            missing.display()
        )));
    }
    let batch = if context.leading() {
        let (batch, note) = batch::ask(config, launcher);
        context.say(start, speaker, note);
        batch
    } else {
        None
    };
    let mut config = config.clone();
    config.stop_grace = config
        .stop_grace
        .or_else(|| batch::grace_of_launcher(launcher));
    let config = &config;
    let cure = adapter_needs_cure.then(|| installation.finalize_cure());
    let spec = LaunchSpec {
        version: env!("CARGO_PKG_VERSION").into(),
        mode,
        program: program.map(|p| p.path).unwrap_or_default(),
        args: command_line
            .split_first()
            .map(|(_, rest)| rest.iter().cloned().map(OsText).collect()),
        config: config.clone(),
        generation: generation(config, &identity, start.generation)?,
        resume_by: context.resume_by(start, &identity, launcher.size.unwrap_or(1)),
        identity,
        restart_count: launcher.restart_count,
        adapter,
        stub,
        interface: Some(installation.interface()).filter(|path| path.is_file()),
        upper_ld_preload: std::env::var_os("LD_PRELOAD").map(OsText),
        upper_ld_library_path: std::env::var_os("LD_LIBRARY_PATH").map(OsText),
        batch,
        coordinator: coordinator(start, config)?,
        speaks: context.leading(),
        quiet: start.quiet,
    };
    let preload = lower_preload(context, cure);
    match become_lower(&installation.lower(), &spec, &preload)? {}
}

/// What is loaded before all else in the lower half: the site's libraries, and the cure if needed.
fn lower_preload(context: &Context, cure: Option<PathBuf>) -> OsString {
    let mut all = OsString::from(context.config.lower_preload.clone().unwrap_or_default());
    if let Some(cure) = cure.filter(|path| path.is_file()) {
        if !all.is_empty() {
            all.push(":");
        }
        all.push(cure);
    }
    all
}

/// Completes a number to a generation: that of the newest start in whose own part of the line of
/// descent it lies.
pub fn generation(
    config: &Config,
    id: &str,
    asked: Option<(Option<u32>, u64)>,
) -> Result<Option<(u32, u64)>, Failure> {
    let number = match asked {
        None => return Ok(None),
        Some((Some(incarnation), number)) => return Ok(Some((incarnation, number))),
        Some((None, number)) => number,
    };
    let records = Records::new(Store::global(config, id));
    let told = |e: libckpt::Error| Failure::of_job(chain(&e));
    let line = records
        .ancestry(records.newest().map_err(told)?)
        .map_err(told)?;
    for (incarnation, _) in line {
        let parent = records.read(incarnation).map_err(told)?.parent;
        if parent.is_none_or(|p| p.number < number) {
            return Ok(Some((incarnation, number)));
        }
    }
    Err(Failure::of_job(format!(
        "--generation {number}: job {id} has no start with it; 'mana list' shows all"
    )))
}

/// A stand-alone coordinator needs both parts of its address.
fn coordinator(start: &cli::Start, config: &Config) -> Result<Option<CoordinatorAddress>, Failure> {
    match (&start.coord_host, start.coord_port) {
        (Some(host), Some(port)) if port != 0 => {
            let file: PathBuf = crate::coordinator::file(&config.global_ckpt_dir, port);
            if !file.is_file() {
                return Err(Failure::of_job(format!(
                    "{}: missing; mana_coordinator leaves its secret there, start it with the same mana.conf, before the job",
                    file.display()
                )));
            }
            Ok(Some(CoordinatorAddress { host: host.clone(), port, file }))
        }
        (None, None) => Ok(None),
        _ => Err(Failure::of_job(
            "a stand-alone coordinator needs both --coord-host and --coord-port (or MANA_COORD_HOST and MANA_COORD_PORT), as mana_coordinator prints them",
        )),
    }
}
