//! Running other programs: bounded in time, with what they said at hand when they fail.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, Context as _, Result};
use nix::fcntl::OFlag;
use nix::sys::signal::{killpg, Signal};
use nix::unistd::Pid;

/// The top of the sources.
pub fn workspace() -> Result<PathBuf> {
    // Cargo sets it for `cargo run`; the value at build time would be wrong after a move.
    let own = std::env::var_os("CARGO_MANIFEST_DIR").context("start this as 'cargo xtask ...'")?;
    let top = Path::new(&own).join("../..");
    top.canonicalize()
        .with_context(|| format!("cannot find {}", top.display()))
}

/// Cargo's target directory.
pub fn target_dir() -> Result<PathBuf> {
    Ok(match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => std::path::absolute(dir)?,
        None => workspace()?.join("target"),
    })
}

/// The cargo that started us.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // What `cargo run` set for xtask itself must not leak into other builds (it would make build
    // scripts run again for nothing).
    for (name, _) in std::env::vars_os() {
        let name_text = name.to_string_lossy();
        if name_text.starts_with("CARGO_PKG_")
            || name_text.starts_with("CARGO_MANIFEST_")
            || name_text == "CARGO_PRIMARY_PACKAGE"
        {
            command.env_remove(&name);
        }
    }
    if !is_watched() {
        command.env("CARGO_TERM_QUIET", "true");
    }
    command
}

/// Whether somebody sees what is going on: builds show their progress then, and take minutes.
pub fn is_watched() -> bool {
    std::io::IsTerminal::is_terminal(&std::io::stderr())
}

/// A command as a user would type it.
pub fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|a| a.to_string_lossy().into_owned()));
    words.join(" ")
}

/// Runs to the end with our own output; an error unless it succeeds.
pub fn run(command: &mut Command) -> Result<()> {
    let line = shown(command);
    let status = command
        .status()
        .with_context(|| format!("cannot run {line}"))?;
    if !status.success() {
        bail!("failed ({status}): {line}");
    }
    Ok(())
}

/// What a bounded run ended with.
pub struct Finished {
    /// Its status; `None`: it was killed at the limit.
    pub status: Option<ExitStatus>,
    /// Standard output and error, together.
    pub output: String,
}

impl Finished {
    /// Ended by itself, with code 0.
    pub fn success(&self) -> bool {
        self.status.is_some_and(|s| s.success())
    }
}

/// Runs at most `limit`, then kills the whole process group. Every line goes to `each` as it comes.
pub fn bounded(
    command: &mut Command,
    limit: Duration,
    mut each: impl FnMut(&str),
) -> Result<Finished> {
    let line = shown(command);
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).context("cannot make a pipe")?;
    let mut reader = File::from(reader);
    command
        .stdin(Stdio::null())
        .stdout(writer.try_clone().context("cannot duplicate a pipe")?)
        .stderr(writer)
        .process_group(0);
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot run {line}"))?;
    // Our copies of the pipe's writing end would keep it open.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let group = Pid::from_raw(i32::try_from(child.id())?);
    let deadline = Instant::now() + limit;
    let (sender, lines) = mpsc::channel::<String>();
    let reading = thread::spawn(move || {
        let mut pending = Vec::new();
        let mut block = [0; 8192];
        while let Ok(n) = reader.read(&mut block) {
            if n == 0 {
                break;
            }
            pending.extend_from_slice(&block[..n]);
            while let Some(end) = pending.iter().position(|b| *b == b'\n') {
                let rest = pending.split_off(end + 1);
                let text = String::from_utf8_lossy(&pending[..end]).into_owned();
                pending = rest;
                if sender.send(text).is_err() {
                    return;
                }
            }
        }
        if !pending.is_empty() {
            let _ = sender.send(String::from_utf8_lossy(&pending).into_owned());
        }
    });
    let mut output = String::new();
    let mut take = |text: String, each: &mut dyn FnMut(&str)| {
        each(&text);
        output.push_str(&text);
        output.push('\n');
    };
    let status = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match lines.recv_timeout(left.min(Duration::from_millis(50))) {
            Ok(text) => take(text, &mut each),
            Err(mpsc::RecvTimeoutError::Timeout | mpsc::RecvTimeoutError::Disconnected) => {}
        }
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if left.is_zero() {
            let _ = killpg(group, Signal::SIGKILL);
            child.wait()?;
            break None;
        }
    };
    // What was written before the end; a grandchild that lives on may keep the pipe open.
    while let Ok(text) = lines.recv_timeout(Duration::from_millis(500)) {
        take(text, &mut each);
    }
    if reading.is_finished() {
        let _ = reading.join();
    }
    Ok(Finished { status, output })
}

/// The full path of a program on `PATH`.
pub fn on_path(name: impl AsRef<OsStr>) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(name.as_ref()))
        .find(|file| {
            nix::unistd::access(file, nix::unistd::AccessFlags::X_OK).is_ok() && file.is_file()
        })
}

/// Standard output of a command that must succeed, trimmed.
pub fn captured(command: &mut Command) -> Result<String> {
    let line = shown(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {line}"))?;
    if !output.status.success() {
        bail!(
            "failed ({}): {line}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
