//! A command with everything it starts: its own session, output to files, an end that is always
//! reached.
//!
//! Every process of a job inherits a variable with the job's mark, so the ranks are found wherever
//! a launcher moved them (mpirun gives each its own process group). Dropping a job kills what is
//! left of it.

use std::fs;
use std::io;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{bail, Context as _, Result};
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;

/// The variable that marks the processes of a job.
const MARK: &str = "MANA_SCENARIO_JOB";

/// How often a condition is looked at.
const TICK: Duration = Duration::from_millis(20);

/// A started command.
pub struct Job {
    child: Child,
    mark: String,
    what: String,
    stdout: PathBuf,
    stderr: PathBuf,
    ended: Option<ExitStatus>,
    detached: bool,
}

/// How a job ended, and what it wrote.
#[derive(Debug)]
pub struct Ended {
    /// Its command line.
    pub what: String,
    /// The exit status of the command itself (the launcher's).
    pub status: ExitStatus,
    /// Its output.
    pub stdout: String,
    /// Its messages.
    pub stderr: String,
}

/// A process of a job.
#[derive(Debug, Clone)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// The file it executes.
    pub executable: PathBuf,
    /// Its rank, where the launcher said so.
    pub rank: Option<u32>,
}

impl Job {
    /// Start `command` with its output in `directory`.
    pub fn start(mut command: Command, directory: &Path) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let mark = format!("{}.{count}", std::process::id());
        let stdout = directory.join(format!("stdout.{count}"));
        let stderr = directory.join(format!("stderr.{count}"));
        let what = describe(&command);
        command
            .env(MARK, &mark)
            .stdin(Stdio::null())
            .stdout(
                fs::File::create(&stdout)
                    .with_context(|| format!("creating {}", stdout.display()))?,
            )
            .stderr(
                fs::File::create(&stderr)
                    .with_context(|| format!("creating {}", stderr.display()))?,
            );
        // SAFETY: setsid is async-signal-safe and touches nothing of the parent.
        unsafe {
            command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(io::Error::from));
        }
        let child = command
            .spawn()
            .with_context(|| format!("starting {what}"))?;
        Ok(Self {
            child,
            mark,
            what,
            stdout,
            stderr,
            ended: None,
            detached: false,
        })
    }

    /// Everything of this job that lives.
    pub fn processes(&self) -> Vec<Process> {
        let wanted = format!("{MARK}={}", self.mark);
        let Ok(entries) = fs::read_dir("/proc") else {
            return Vec::new();
        };
        entries
            .filter_map(|entry| {
                let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
                let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
                let mut variables = environment.split(|byte| *byte == 0);
                let ours = variables
                    .clone()
                    .any(|variable| variable == wanted.as_bytes());
                let executable = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
                let rank = variables.find_map(|variable| {
                    let text = std::str::from_utf8(variable).ok()?;
                    let (name, value) = text.split_once('=')?;
                    matches!(name, "OMPI_COMM_WORLD_RANK" | "PMI_RANK" | "PMIX_RANK")
                        .then(|| value.parse().ok())?
                });
                ours.then_some(Process {
                    pid,
                    executable,
                    rank,
                })
            })
            .collect()
    }

    /// The processes that are ranks, by their launcher's word; helpers that a rank forked share its
    /// rank, and die with it.
    pub fn ranks(&self) -> Vec<Process> {
        self.processes()
            .into_iter()
            .filter(|process| process.rank.is_some())
            .collect()
    }

    /// What Ctrl-C on its terminal does.
    pub fn interrupt(&self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = nix::sys::signal::killpg(Pid::from_raw(pid), Signal::SIGINT);
        }
    }

    /// SIGKILL to every rank at once; how many there were.
    pub fn kill_ranks(&self) -> usize {
        let ranks = self.ranks();
        for rank in &ranks {
            let _ = kill(Pid::from_raw(rank.pid), Signal::SIGKILL);
        }
        ranks.len()
    }

    /// SIGKILL to the processes of one rank; how many there were.
    pub fn kill_rank(&self, number: u32) -> usize {
        let ranks: Vec<_> = self
            .ranks()
            .into_iter()
            .filter(|process| process.rank == Some(number))
            .collect();
        for rank in &ranks {
            let _ = kill(Pid::from_raw(rank.pid), Signal::SIGKILL);
        }
        ranks.len()
    }

    /// Has the command ended?
    pub fn ended(&mut self) -> Result<bool> {
        if self.ended.is_none() {
            self.ended = self
                .child
                .try_wait()
                .with_context(|| format!("waiting for {}", self.what))?;
        }
        Ok(self.ended.is_some())
    }

    /// Wait until `condition` answers something; an error when the job ends or `limit` passes first.
    pub fn until<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut condition: impl FnMut(&Self) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(answer) = condition(self) {
                return Ok(answer);
            }
            if self.ended()? {
                bail!("the job ended before {what}\n{}", self.output());
            }
            if Instant::now() >= deadline {
                bail!(
                    "{what} did not happen in {} s\n{}",
                    limit.as_secs(),
                    self.output()
                );
            }
            std::thread::sleep(TICK);
        }
    }

    /// Wait for the end; a job that takes longer than `limit` is killed and is an error.
    pub fn wait(mut self, limit: Duration) -> Result<Ended> {
        let deadline = Instant::now() + limit;
        while !self.ended()? {
            if Instant::now() >= deadline {
                let stacks = self.stacks();
                self.destroy();
                bail!(
                    "{} did not end in {} s\n{stacks}{}",
                    self.what,
                    limit.as_secs(),
                    self.output()
                );
            }
            std::thread::sleep(TICK);
        }
        // The launcher may end before its last rank does.
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.processes().is_empty() && Instant::now() < deadline {
            std::thread::sleep(TICK);
        }
        let left = self.processes();
        self.destroy();
        if !left.is_empty() {
            bail!(
                "{} left {} processes behind: {:?}\n{}",
                self.what,
                left.len(),
                left[0].executable,
                self.output()
            );
        }
        Ok(Ended {
            what: self.what.clone(),
            status: self.ended.unwrap_or_else(|| ExitStatus::from_raw(0)),
            stdout: read(&self.stdout),
            stderr: read(&self.stderr),
        })
    }

    /// Wait for the command's end only: what it leaves behind goes on, and is somebody else's.
    pub fn wait_detached(mut self, limit: Duration) -> Result<Ended> {
        let deadline = Instant::now() + limit;
        while !self.ended()? {
            if Instant::now() >= deadline {
                bail!("{} did not end\n{}", self.what, self.output());
            }
            std::thread::sleep(TICK);
        }
        self.detached = true;
        Ok(Ended {
            what: self.what.clone(),
            status: self.ended.unwrap_or_else(|| ExitStatus::from_raw(0)),
            stdout: read(&self.stdout),
            stderr: read(&self.stderr),
        })
    }

    /// What the command wrote on stderr so far.
    pub fn messages(&self) -> String {
        read(&self.stderr)
    }

    /// What it wrote on stdout so far.
    pub fn printed(&self) -> String {
        read(&self.stdout)
    }

    /// Kill what is left, and wait until it is gone.
    pub fn destroy(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if self.ended.is_none() {
                let _ = self.child.kill();
                self.ended = self.child.try_wait().ok().flatten();
            }
            let left = self.processes();
            if (left.is_empty() && self.ended.is_some()) || Instant::now() >= deadline {
                return;
            }
            for process in left {
                let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
            }
            std::thread::sleep(TICK);
        }
    }

    /// The end of both streams, for a report.
    pub fn output(&self) -> String {
        tail(&self.what, &read(&self.stdout), &read(&self.stderr))
    }

    /// What each rank waits for in the kernel: the first question about a hang.
    fn stacks(&self) -> String {
        let mut text = String::new();
        for rank in self.ranks() {
            let Ok(tasks) = fs::read_dir(format!("/proc/{}/task", rank.pid)) else {
                continue;
            };
            for task in tasks.flatten() {
                let place = fs::read_to_string(task.path().join("wchan")).unwrap_or_default();
                let call = fs::read_to_string(task.path().join("syscall")).unwrap_or_default();
                text += &format!(
                    "  rank {} thread {}: {} {}\n",
                    rank.rank.unwrap_or(0),
                    task.file_name().to_string_lossy(),
                    place.trim(),
                    call.trim()
                );
            }
        }
        text
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if !self.detached {
            self.destroy();
        }
    }
}

impl Ended {
    /// The exit code, or 128 and the signal.
    pub fn code(&self) -> i32 {
        self.status
            .code()
            .unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }

    /// An error with the output unless the code is `expected`.
    pub fn expect(&self, expected: i32) -> Result<&Self> {
        if self.code() != expected {
            bail!(
                "exit code {}, {expected} expected\n{}",
                self.code(),
                self.report()
            );
        }
        Ok(self)
    }

    /// The value of the line `RESULT <value>`.
    pub fn result(&self) -> Result<String> {
        let mut values = self
            .stdout
            .lines()
            .filter_map(|line| line.trim().strip_prefix("RESULT "));
        let value = values
            .next()
            .with_context(|| format!("no RESULT line\n{}", self.report()))?;
        if let Some(other) = values.next() {
            bail!("a second RESULT line, {other}\n{}", self.report());
        }
        Ok(value.to_owned())
    }

    /// The end of both streams.
    pub fn report(&self) -> String {
        tail(&self.what, &self.stdout, &self.stderr)
    }
}

fn describe(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

fn read(path: &Path) -> String {
    fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

fn tail(what: &str, stdout: &str, stderr: &str) -> String {
    const LINES: usize = 40;
    let mut text = format!("  $ {what}\n");
    for (name, stream) in [("stdout", stdout), ("stderr", stderr)] {
        let lines: Vec<_> = stream.lines().collect();
        for line in &lines[lines.len().saturating_sub(LINES)..] {
            text += &format!("  {name}| {line}\n");
        }
    }
    text
}
