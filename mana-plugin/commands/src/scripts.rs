//! `mana start`, `mana restart` of such a run, `mana stop`: scripts and programs without MPI, each with a
//! directory of its own.

use std::ffi::OsString;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use libckpt::records::{JobState, Records};
use libckpt::store::Store;
use libckpt::Config;
use mana_control::{Client, Rendezvous};

use crate::cli;
use crate::launcher::Launcher;
use crate::message::{failure_code, Failure, Speaker};
use crate::program::Program;
use crate::run_directory::RunDirectory;
use crate::run_lock::{Attempt, Lock};
use crate::status::ANSWER_LIMIT;
use crate::supervision::{last_checkpoint, supervise, Wishes, STOPPED};

/// For a run in the background to be under control, and for one that was stopped to be gone.
const SETTLED: Duration = Duration::from_secs(60);
/// Between two looks.
const TICK: Duration = Duration::from_millis(50);

fn wishes(when: &cli::When) -> Wishes {
    Wishes {
        time: when.time.map(Duration::from_secs_f64),
        kill_after: when.kill_after,
    }
}

/// `mana start`.
pub fn start(options: &cli::StartRun, speaker: &mut Speaker) -> Result<i32, Failure> {
    let command = command_line(&options.program)?;
    let name = match &options.id {
        Some(name) => name.clone(),
        None => name_of(&options.program[0]),
    };
    let run = RunDirectory::named(&name)?;
    speaker.job = Some(name);
    // What cannot be run is said before there is a directory.
    let program = Program::find(&command[0])?;
    if let Some(library) = &program.mpi {
        return Err(Failure::new(format!(
            "{} is an MPI program ({}): start it as usual, with mana_launch before it",
            program.path.display(),
            library.soname
        )));
    }
    let settings = settings(&run, options)?;
    let record = run.create(&command, &settings)?;
    // Where that does not work nothing is left behind.
    if let Err(e) = lock(&run) {
        run.remove();
        return Err(e);
    }
    begin(
        &run,
        &record.command.join(" "),
        false,
        &options.when,
        speaker,
    )
}

/// `mana restart` of a run that was started so. `None`: it is no such run.
pub fn restart(options: &cli::Restart, speaker: &mut Speaker) -> Result<Option<i32>, Failure> {
    // The ranks of an MPI job in the same directory mean another job.
    let several = Launcher::from_environment().size.is_some_and(|n| n > 1);
    let plain = several || options.start.settings.config.is_some() || options.dry_run;
    let run = match &options.start.id {
        _ if plain => None,
        Some(id) => RunDirectory::named(id).ok().filter(RunDirectory::exists),
        None => match RunDirectory::all()?.is_empty() {
            true => None,
            false => Some(RunDirectory::find(None)?),
        },
    };
    let Some(run) = run else {
        return Ok(None);
    };
    speaker.job = Some(run.name().to_owned());
    let records = Records::new(Store::at(run.global().join(run.name())));
    if records
        .state()
        .is_ok_and(|state| state == JobState::Finished)
    {
        return Err(Failure::new(format!(
            "nothing to resume: {} has ended normally; to run it anew delete {} and start it again",
            run.name(),
            run.path().display()
        )));
    }
    let record = run.record()?;
    begin(
        &run,
        &record.command.join(" "),
        true,
        &options.when,
        speaker,
    )
    .map(Some)
}

/// `mana stop`.
pub fn stop(options: &cli::Stop) -> Result<i32, Failure> {
    let run = RunDirectory::find(options.id.as_deref())?;
    let name = run.name();
    let unknown = match run.lock()? {
        Attempt::Taken(_) => return Err(Failure::new(format!("run {name} does not run"))),
        Attempt::Held => String::new(),
        Attempt::Elsewhere(holder) => format!(" ({holder})"),
    };
    if options.now {
        let mut client = Client::connect(&Rendezvous::read(&run.rendezvous())?, ANSWER_LIMIT)?;
        client.kill("mana stop --now")?;
        println!("run {name}: told to end");
    } else {
        let taken = last_checkpoint(&run.rendezvous()).map_err(|e| {
            Failure::new(format!("run {name} runs on, no checkpoint: {e}{unknown}"))
        })?;
        run.note(format_args!("mana stop: {taken}"));
        println!("run {name}: {taken}; go on with: mana restart --id {name}");
    }
    // Whoever goes on at once finds it gone.
    let deadline = Instant::now() + SETTLED;
    while !matches!(run.lock()?, Attempt::Taken(_)) {
        if Instant::now() >= deadline {
            return Err(Failure::new(format!(
                "run {name} was told to end, and has not within {} s",
                SETTLED.as_secs()
            )));
        }
        std::thread::sleep(TICK);
    }
    Ok(0)
}

/// `mana supervise`: what stays with a run in the background.
pub fn stay(options: &cli::Supervise, speaker: &mut Speaker) -> Result<i32, Failure> {
    let run = RunDirectory::named(&options.id)?;
    speaker.job = Some(options.id.clone());
    attended(&run, options.resume, &options.when, speaker)
}

/// The run's lock, or why it is not to be had.
fn lock(run: &RunDirectory) -> Result<Lock, Failure> {
    let name = run.name();
    match run.lock()? {
        Attempt::Taken(lock) => Ok(lock),
        Attempt::Held => Err(Failure::new(format!("run {name} runs already"))),
        Attempt::Elsewhere(holder) => Err(Failure::new(format!("run {name}: {holder}"))),
    }
}

fn attended(
    run: &RunDirectory,
    resume: bool,
    when: &cli::When,
    speaker: &Speaker,
) -> Result<i32, Failure> {
    let lock = lock(run)?;
    if let Lock::Recorded(path) = &lock {
        speaker.say(format_args!(
            "{}: no locks on this file system; {} says that the run runs",
            run.path().display(),
            path.display()
        ));
    }
    supervise(run, &run.record()?, resume, wishes(when))
}

fn begin(
    run: &RunDirectory,
    line: &str,
    resume: bool,
    when: &cli::When,
    speaker: &Speaker,
) -> Result<i32, Failure> {
    let word = if resume { "resuming" } else { "starting" };
    speaker.say(format_args!(
        "{word} {line}; output in {}",
        run.path().join("application.log").display()
    ));
    if !when.background {
        let code = attended(run, resume, when, speaker)?;
        if code == failure_code() {
            // Its line is in a log.
            tell_end_of_log(run, speaker);
        } else if code == STOPPED {
            speaker.say(format_args!(
                "stopped with a checkpoint; go on with: mana restart --id {}",
                run.name()
            ));
        }
        return Ok(code);
    }
    drop(lock(run)?);
    let log = run.log("execution.log")?;
    let own = std::env::current_exe()?;
    let mut command = Command::new(own);
    command.args(["supervise", "--id", run.name()]);
    if resume {
        command.arg("--resume");
    }
    if let Some(time) = when.time {
        command.args(["--time", &time.to_string()]);
    }
    if when.kill_after {
        command.arg("--kill-after");
    }
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    // SAFETY: setsid is async-signal-safe and touches nothing of the parent.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid()
                .map(drop)
                .map_err(std::io::Error::from)
        })
    };
    // An older run's file is not this one's.
    let _ = std::fs::remove_file(run.rendezvous());
    let mut child = command.spawn()?;
    let deadline = Instant::now() + SETTLED;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            let code = status.code().unwrap_or_else(failure_code);
            if code == failure_code() {
                tell_end_of_log(run, speaker);
            }
            return Ok(code);
        }
        if run.rendezvous().is_file() {
            return Ok(0);
        }
        std::thread::sleep(TICK);
    }
    speaker.say("it is still starting; its logs tell more");
    Ok(0)
}

/// Repeats what mana itself said last.
fn tell_end_of_log(run: &RunDirectory, speaker: &Speaker) {
    for name in ["coordinator.log", "application.log", "execution.log"] {
        let text = std::fs::read_to_string(run.path().join(name)).unwrap_or_default();
        if let Some(line) = text.lines().rev().find(|l| l.contains("error: ")) {
            speaker.say(format_args!("from {name}: {line}"));
            return;
        }
    }
}

/// A script is given to its interpreter if it cannot be executed itself.
fn command_line(program: &[OsString]) -> Result<Vec<OsString>, Failure> {
    let path = Path::new(&program[0]);
    let is_script = |extension: &str| path.extension().is_some_and(|e| e == extension);
    let interpreter = [
        ("py", "python3"),
        ("sh", "sh"),
        ("R", "Rscript"),
        ("jl", "julia"),
        ("pl", "perl"),
    ]
    .into_iter()
    .find(|(extension, _)| is_script(extension));
    let mut line = program.to_vec();
    if let (Some((_, interpreter)), true) = (interpreter, path.is_file()) {
        line.insert(0, executable(interpreter));
    } else if path.is_file() && !program[0].as_bytes().contains(&b'/') {
        line[0] = Path::new(".").join(path).into();
    }
    Ok(line)
}

/// An interpreter that is a script itself (a version manager's) starts another program in its place, which
/// nobody would control: it is asked which.
fn executable(interpreter: &str) -> OsString {
    let is_script = |path: &Path| {
        let mut start = [0u8; 2];
        let read = std::fs::File::open(path).and_then(|mut f| f.read_exact(&mut start));
        read.is_ok() && start == *b"#!"
    };
    let found = std::env::var_os("PATH").and_then(|all| {
        let mut places = std::env::split_paths(&all).map(|dir| dir.join(interpreter));
        places.find(|path| path.is_file())
    });
    if interpreter == "python3" && found.as_deref().is_some_and(is_script) {
        let code = "import sys; print(sys.executable)";
        let asked = Command::new(interpreter).args(["-c", code]).output();
        let told = asked.ok().filter(|output| output.status.success());
        let path = told.and_then(|o| String::from_utf8(o.stdout).ok());
        if let Some(path) = path.filter(|p| Path::new(p.trim()).is_file()) {
            return path.trim().into();
        }
    }
    interpreter.into()
}

/// The default name of a run: that of the script without its ending.
fn name_of(program: &OsString) -> String {
    let stem = Path::new(program).file_stem().unwrap_or(program);
    let allowed = |c: char| {
        if c.is_ascii_alphanumeric() || c == '-' || c == '_' {
            c
        } else {
            '-'
        }
    };
    stem.to_string_lossy().chars().map(allowed).collect()
}

/// Everything that was set, by file, environment and command line, and where this run keeps its state.
fn settings(run: &RunDirectory, options: &cli::StartRun) -> Result<Vec<(String, String)>, Failure> {
    let given = options.settings.set.iter().cloned().collect();
    let environment = |name: &str| std::env::var(name).ok();
    let told = |e: libckpt::Error| Failure::new(crate::message::chain(&e));
    let file = options.settings.config.as_deref();
    let mut all = Config::given(file, &given, &environment).map_err(told)?;
    let text = |path: &Path| path.display().to_string();
    all.insert("global_ckpt_dir".into(), text(&run.global()));
    all.insert("log_file".into(), text(&run.coordinator_log()));
    all.entry("local_ckpt_dir".into())
        .or_insert_with(|| text(&run.local()));
    if let Some(interval) = options.interval {
        all.retain(|key, _| !key.ends_with("_ckpt_interval"));
        all.insert("global_ckpt_interval".into(), interval.to_string());
    }
    // It is one process on one node.
    all.retain(|key, _| {
        !matches!(
            key.as_str(),
            "test_mode" | "node_size" | "group_size" | "mpi"
        )
    });
    Ok(all.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_command_lines() {
        assert_eq!(name_of(&"a/train v2.py".into()), "train-v2");
        let line = command_line(&["no-such.py".into(), "1".into()]).expect("words");
        assert_eq!(line, ["no-such.py", "1"]);
        let dir = tempfile::tempdir().expect("a directory");
        let script = dir.path().join("train.py");
        std::fs::write(&script, "").expect("written");
        let line = command_line(&[script.clone().into(), "1".into()]).expect("words");
        assert_eq!(line[1..], [script.into_os_string(), "1".into()]);
        assert!(line[0].to_string_lossy().contains("python"));
    }
}
