//! Running a command for a bounded time.

use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{killpg, Signal};
use nix::unistd::Pid;

/// Between two looks at a process.
const TICK: Duration = Duration::from_millis(20);

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; `None`: killed, by a signal or for lack of time.
    pub code: Option<i32>,
    /// What it wrote to standard output.
    pub output: String,
    /// What it wrote to standard error.
    pub errors: String,
}

impl Ended {
    /// The last line that says what is wrong.
    pub fn complaint(&self) -> String {
        let lines = self.errors.lines().chain(self.output.lines());
        let said: Vec<&str> = lines.map(str::trim).filter(|l| !l.is_empty()).collect();
        let error = said.iter().rev().find(|line| line.contains("error"));
        match (error.or(said.last()), self.code) {
            (Some(line), _) => (*line).to_owned(),
            (None, Some(code)) => format!("exit code {code}, nothing said"),
            (None, None) => "killed, or took too long; nothing said".into(),
        }
    }
}

/// A running command, with everything it starts. Killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    readers: Vec<JoinHandle<String>>,
}

impl Running {
    /// Starts it in a process group of its own.
    pub fn start(mut command: Command) -> std::io::Result<Self> {
        let mut child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut readers = Vec::new();
        if let (Some(mut output), Some(mut errors)) = (child.stdout.take(), child.stderr.take()) {
            readers.push(std::thread::spawn(move || {
                let mut text = Vec::new();
                // What came until then is what counts.
                let _ = output.read_to_end(&mut text);
                String::from_utf8_lossy(&text).into_owned()
            }));
            readers.push(std::thread::spawn(move || {
                let mut text = Vec::new();
                // As above.
                let _ = errors.read_to_end(&mut text);
                String::from_utf8_lossy(&text).into_owned()
            }));
        }
        Ok(Self { child, readers })
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end; kills it at `limit`.
    pub fn wait(mut self, limit: Duration) -> Ended {
        let deadline = Instant::now() + limit;
        while !self.has_ended() && Instant::now() < deadline {
            std::thread::sleep(TICK);
        }
        let code = match self.child.try_wait() {
            Ok(Some(status)) => status.code(),
            _ => None,
        };
        self.kill();
        let mut texts = self
            .readers
            .drain(..)
            .map(|reader| reader.join().unwrap_or_default());
        Ended {
            code,
            output: texts.next().unwrap_or_default(),
            errors: texts.next().unwrap_or_default(),
        }
    }

    fn kill(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // Its group may be gone already.
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs a command to its end, at most for `limit`; `None` if it cannot be started.
pub fn run(program: &str, arguments: &[&str], limit: Duration) -> Option<Ended> {
    let mut command = Command::new(program);
    command.args(arguments);
    Some(Running::start(command).ok()?.wait(limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_and_limit() {
        let limit = Duration::from_secs(20);
        let said = run("sh", &["-c", "echo out; echo an error >&2; exit 3"], limit).expect("sh");
        assert_eq!(
            (said.code, said.output.as_str(), said.complaint().as_str()),
            (Some(3), "out\n", "an error")
        );
        let began = Instant::now();
        let late = run("sleep", &["60"], Duration::from_millis(100)).expect("sleep");
        assert!(late.code.is_none() && began.elapsed() < limit);
        assert!(run("no-such-program-here", &[], limit).is_none());
    }
}
