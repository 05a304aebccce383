//! Small programs, native and in the upper half: the same output and exit code when left alone,
//! when checkpointed all the time, and when killed and resumed.
//!
//! Needs gcc. Everything is bounded by a time-out. With `MANA_TEST_SHORT` each program is run fewer
//! times (for a second run in another release of Debian, `tests/roots`).

use std::ffi::OsStr;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(120);

/// The programs keep both processors busy: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

struct Place {
    dir: tempfile::TempDir,
    _alone: std::sync::MutexGuard<'static, ()>,
}

fn place() -> Place {
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    Place {
        dir: tempfile::tempdir().expect("a directory"),
        _alone: alone,
    }
}

impl Place {
    fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    fn compile(&self, name: &str, flags: &[&str]) -> PathBuf {
        let source = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/programs")
            .join(format!("{name}.c"));
        let program = self.dir.path().join(name);
        let status = Command::new("gcc")
            .args(["-O2", "-pthread", "-o"])
            .arg(&program)
            .arg(&source)
            .args(flags)
            .stderr(Stdio::null())
            .status();
        assert!(
            status.expect("gcc is installed").success(),
            "{} does not compile",
            source.display()
        );
        program
    }
}

/// Runs a command to its end, or kills its process group at the limit.
fn run(command: &mut Command) -> Output {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .expect("started");
    let group = -i32::try_from(child.id()).expect("a process id");
    let (done, ended) = std::sync::mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        if ended.recv_timeout(LIMIT) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            // SAFETY: a group of our own making.
            unsafe { libc::kill(group, libc::SIGKILL) };
        }
    });
    let output = child.wait_with_output().expect("waited");
    drop(done);
    watchdog.join().expect("joined");
    output
}

fn split(place: &Place, options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_split-run"));
    command.args(options).arg(place.image());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn same(what: &str, native: &Output, ours: &Output) {
    assert_eq!(
        (text(&native.stdout), native.status.code()),
        (text(&ours.stdout), ours.status.code()),
        "{what}\nstderr: {}",
        text(&ours.stderr)
    );
}

fn short() -> bool {
    std::env::var_os("MANA_TEST_SHORT").is_some()
}

/// Native, split, checkpointed every few milliseconds, killed and resumed (twice in a chain).
fn three_ways(place: &Place, program: &Path, arguments: &[&str]) {
    let native = run(Command::new(program).args(arguments));
    if !short() {
        let alone = run(split(place, &[]).arg(program).args(arguments));
        same("left alone", &native, &alone);
    }
    let often: Vec<&str> = ["--checkpoint-after", "20"].repeat(200);
    let continued = run(split(place, &often).arg(program).args(arguments));
    same("checkpointed and continued", &native, &continued);
    killed_and_resumed(place, program, arguments, &native);
}

fn killed_and_resumed(place: &Place, program: &Path, arguments: &[&str], native: &Output) {
    let moments: &[&str] = if short() { &["120"] } else { &["30", "150"] };
    for first in moments {
        let kill = ["--checkpoint-after", *first, "--kill"];
        let killed = run(split(place, &kill).arg(program).args(arguments));
        if killed.status.code() == native.status.code() {
            continue; // it had ended before
        }
        assert_eq!(
            killed.status.signal(),
            Some(libc::SIGKILL),
            "{}",
            text(&killed.stderr)
        );
        let again = run(&mut split(
            place,
            &["--resume", "--checkpoint-after", "50", "--kill"],
        ));
        if again.status.signal() == Some(libc::SIGKILL) {
            let mut resumed = run(&mut split(place, &["--resume"]));
            let output = [killed.stdout, again.stdout, resumed.stdout].concat();
            resumed.stdout = output;
            same("resumed twice", native, &resumed);
        } else {
            let resumed = Output {
                stdout: [killed.stdout, again.stdout].concat(),
                ..again
            };
            same("resumed", native, &resumed);
        }
    }
}

#[test]
fn snapshots_by_fork() {
    let place = place();
    for name in ["memory", "threads"] {
        let program = place.compile(name, &[]);
        let native = run(&mut Command::new(&program));
        let options = [
            "--fork",
            "--checkpoint-after",
            "60",
            "--checkpoint-after",
            "10",
            "--kill",
        ];
        let killed = run(split(&place, &options).arg(&program));
        assert_eq!(
            killed.status.signal(),
            Some(libc::SIGKILL),
            "{}",
            text(&killed.stderr)
        );
        let mut resumed = run(&mut split(&place, &["--resume"]));
        resumed.stdout = [killed.stdout, resumed.stdout].concat();
        same(name, &native, &resumed);
    }
}

#[test]
fn a_living_child_is_named() {
    let place = place();
    // On a busy machine the shell may need longer until its child has become `sleep`.
    let mut said = Vec::new();
    // On a busy machine the shell needs longer until its child has become `sleep`.
    for after in ["300", "2000", "6000"] {
        let arguments = ["--checkpoint-after", after];
        let output = run(split(&place, &arguments).args(["/bin/sh", "-c", "sleep 10; true"]));
        let message = text(&output.stderr);
        if output.status.code() == Some(98) && message.contains("(sleep) of the program is alive") {
            return;
        }
        said.push(message);
    }
    panic!("{said:?}");
}

#[test]
fn hello() {
    let place = place();
    let program = place.compile("hello", &[]);
    for arguments in [&[][..], &["3", "two words", ""]] {
        let native = run(Command::new(&program).args(arguments));
        let ours = run(split(&place, &[]).arg(&program).args(arguments));
        same("hello", &native, &ours);
    }
}

#[test]
fn compute() {
    let place = place();
    let program = place.compile("compute", &[]);
    three_ways(&place, &program, &["300000000"]);
}

#[test]
fn threads() {
    let place = place();
    let program = place.compile("threads", &[]);
    three_ways(&place, &program, &[]);
}

#[test]
fn signals() {
    let place = place();
    let program = place.compile("signals", &[]);
    three_ways(&place, &program, &[]);
}

#[test]
fn memory() {
    let place = place();
    let program = place.compile("memory", &[]);
    three_ways(&place, &program, &[]);
}

#[test]
fn memory_without_pie() {
    let place = place();
    let program = place.compile("memory", &["-no-pie"]);
    three_ways(&place, &program, &[]);
}

#[test]
fn waits() {
    let place = place();
    let program = place.compile("waits", &[]);
    let time = if short() { "0.1" } else { "0.3" };
    three_ways(&place, &program, &[time, "1.5"]);
}

#[test]
fn interrupted() {
    let place = place();
    let program = place.compile("interrupted", &[]);
    let native = run(&mut Command::new(&program));
    let often: Vec<&str> = ["--checkpoint-after", "4"].repeat(400);
    let continued = run(split(&place, &often).arg(&program));
    same("checkpointed and continued", &native, &continued);
}

#[test]
fn a_handler_s_interruption_is_not_taken_for_ours() {
    let place = place();
    let program = place.compile("owed", &[]);
    let rounds = if short() { "60000" } else { "200000" };
    let native = run(Command::new(&program).arg(rounds));
    let often: Vec<&str> = ["--checkpoint-after", "3"].repeat(400);
    let continued = run(split(&place, &often).arg(&program).arg(rounds));
    same("checkpointed and continued", &native, &continued);
    killed_and_resumed(&place, &program, &[rounds], &native);
    killed_and_resumed(&place, &program, &[rounds, "raise"], &native);
}

#[test]
fn children() {
    let place = place();
    let program = place.compile("children", &[]);
    let native = run(Command::new(&program).arg("3"));
    let ours = run(split(&place, &[]).arg(&program).arg("3"));
    same("children", &native, &ours);
    // Checkpoints wait for the children.
    let often: Vec<&str> = ["--checkpoint-after", "20"].repeat(100);
    let continued = run(split(&place, &often).arg(&program).arg("3"));
    same("checkpointed", &native, &continued);
}

#[test]
fn script_on_path() {
    use std::os::unix::fs::PermissionsExt;
    let place = place();
    let script = place.dir.path().join("job");
    std::fs::write(
        &script,
        "#!/bin/sh\ni=0\nwhile [ $i -lt 30000 ]; do i=$((i+1)); done\necho \"$1 $i\"; exit 4\n",
    )
    .expect("written");
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).expect("changed");
    let path = format!("{}:/usr/bin:/bin", place.dir.path().display());
    let native = run(Command::new(&script).arg("x"));
    let ours = run(split(&place, &["--checkpoint-after", "30"])
        .args(["job", "x"])
        .env("PATH", path));
    same("script", &native, &ours);
}

#[test]
fn libraries_opened_late() {
    let place = place();
    let part = place.compile("libraries", &["-DPART", "-shared", "-fPIC"]);
    let library = part.with_extension("so");
    std::fs::rename(&part, &library).expect("renamed");
    let program = place.compile("libraries", &["-ldl"]);
    three_ways(&place, &program, &[library.to_str().expect("a plain path")]);
}

/// Debian's own: what else is called python3 may be a wrapper of another kind.
const PYTHON: &str = "/usr/bin/python3";

#[test]
fn python() {
    if !Path::new(PYTHON).exists() {
        eprintln!("skipped: no {PYTHON}");
        return;
    }
    let place = place();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/standard.py");
    let rounds = if short() { "2" } else { "8" };
    three_ways(
        &place,
        Path::new(PYTHON),
        &[source.to_str().expect("a plain path"), rounds],
    );
}

#[test]
fn python_with_numpy() {
    let python = Path::new(PYTHON);
    let have = Command::new(python)
        .args(["-c", "import numpy"])
        .stderr(Stdio::null())
        .status();
    if !have.is_ok_and(|s| s.success()) {
        eprintln!("skipped: no python3 with numpy");
        return;
    }
    let place = place();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/matrices.py");
    three_ways(
        &place,
        python,
        &[source.to_str().expect("a plain path"), "8"],
    );
}

#[test]
fn without_the_fsgsbase_instructions() {
    let place = place();
    for name in ["threads", "signals"] {
        let program = place.compile(name, &[]);
        let native = run(&mut Command::new(&program));
        let options = [
            "--checkpoint-after",
            "20",
            "--checkpoint-after",
            "20",
            "--checkpoint-after",
            "20",
        ];
        let ours = run(split(&place, &options)
            .arg(&program)
            .env("MANA_NO_FSGSBASE", "1"));
        same(name, &native, &ours);
    }
}

#[test]
fn with_an_unlimited_stack() {
    let place = place();
    let program = place.compile("memory", &[]);
    let native = run(&mut Command::new(&program));
    let limited = |options: &str, program: &OsStr| {
        let mut command = Command::new("sh");
        command
            .args([
                "-c",
                &format!("ulimit -s unlimited; exec \"$0\" {options} \"$@\""),
            ])
            .arg(env!("CARGO_BIN_EXE_split-run"))
            .arg(place.image());
        if !program.is_empty() {
            command.arg(program);
        }
        run(&mut command)
    };
    let killed = limited("--checkpoint-after 60 --kill", program.as_os_str());
    assert_eq!(
        killed.status.signal(),
        Some(libc::SIGKILL),
        "{}",
        text(&killed.stderr)
    );
    let mut resumed = limited("--resume", OsStr::new(""));
    resumed.stdout = [killed.stdout, resumed.stdout].concat();
    same("resumed", &native, &resumed);
}

#[test]
fn refusals_are_named() {
    let place = place();
    let fixed = place.compile("hello", &["-static"]);
    let output = run(split(&place, &[]).arg(&fixed));
    assert_eq!(output.status.code(), Some(99));
    assert!(
        text(&output.stderr).contains("statically linked"),
        "{}",
        text(&output.stderr)
    );
    let output = run(split(&place, &[]).arg("no-such-program-anywhere"));
    assert!(
        text(&output.stderr).contains("not found on PATH"),
        "{}",
        text(&output.stderr)
    );
    let begin = Instant::now();
    let output = run(split(&place, &[]).arg("/etc/passwd"));
    assert!(
        text(&output.stderr).contains("not an executable file"),
        "{}",
        text(&output.stderr)
    );
    assert!(begin.elapsed() < LIMIT);
}
