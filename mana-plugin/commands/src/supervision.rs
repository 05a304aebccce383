//! The process that stays with a run of `mana start`: it starts the program, stops it when it is time to,
//! and writes down what happened.
//!
//! The program is in a process group of its own: a terminal's Ctrl-C reaches this process only, which then
//! has a last checkpoint taken. A second one ends the run as it is, but for what Slurm or a launcher sends twice.

use std::fs::File;
use std::io::IsTerminal as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{channel, Receiver, TryRecvError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use libckpt::records::{End, Records};
use libckpt::store::Store;
use libckpt::Config;
use mana_control::{Client, ControlError, Event, EventLog, Rendezvous, Request, Status};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};

use crate::installation::Installation;
use crate::message::{failure_code, Failure};
use crate::run_directory::{Record, RunDirectory};
use crate::status::ANSWER_LIMIT;

/// The exit code of a run that was stopped with a checkpoint to go on from.
pub const STOPPED: i32 = 85;

/// How often the coordinator is asked whether a checkpoint is complete.
const LOOK: Duration = Duration::from_secs(1);
/// For a checkpoint that ends the run; its steps have limits of their own.
const CHECKPOINT: Duration = Duration::from_secs(24 * 3600);
/// After a last checkpoint that failed, until the next is tried: at first soon, since the program may just
/// have been starting.
const AGAIN: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];
/// A second SIGTERM within this time is the first one's.
const ONE_SIGNAL: Duration = Duration::from_secs(2);
/// How many times soon.
const SOON: u32 = 10;

/// When the run is to be stopped.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wishes {
    /// So long after the start.
    pub time: Option<Duration>,
    /// After the first checkpoint.
    pub kill_after: bool,
}

/// The last checkpoint, being taken.
struct Stopping {
    why: String,
    answer: Receiver<Result<String, String>>,
}

/// Runs it until it has ended; the exit code.
pub fn supervise(
    run: &RunDirectory,
    record: &Record,
    resume: bool,
    wishes: Wishes,
) -> Result<i32, Failure> {
    let mut waited = SigSet::empty();
    for signal in [
        Signal::SIGCHLD,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
    ] {
        waited.add(signal);
    }
    let before = waited
        .thread_swap_mask(SigmaskHow::SIG_BLOCK)
        .map_err(|e| Failure::new(format!("cannot block signals: {e}")))?;
    let started = Instant::now();
    let mut child = start(run, record, resume, before)?;
    run.note(format_args!(
        "{}: {} (process {}, host {})",
        if resume { "resumed" } else { "started" },
        record.command.join(" "),
        child.id(),
        crate::message::short_host()
    ));
    let mut supervisor = Supervisor {
        run,
        wishes,
        stop_at: wishes.time.map(|t| started + t),
        again: None,
        stopping: None,
        stopped: None,
        hurry: false,
        signalled: None,
        failures: 0,
        complaint: String::new(),
    };
    let status = supervisor.attend(&mut child, &waited)?;
    let seconds = started.elapsed().as_secs();
    let by_signal = ended_by(run, supervisor.signalled, status);
    let stopped = supervisor.stopped.or_else(|| on_request(run)).or(by_signal);
    Ok(match stopped {
        Some(why) => {
            run.note(format_args!(
                "stopped after {seconds} s, {why}; go on with: mana restart --id {}",
                run.name()
            ));
            STOPPED
        }
        None => {
            run.note(format_args!(
                "ended with {} after {seconds} s",
                described(status)
            ));
            code_of(status)
        }
    })
}

/// Why it was ended from elsewhere (`mana stop`, `mana_status --kill`), if it was.
fn on_request(run: &RunDirectory) -> Option<String> {
    match Records::new(Store::at(run.global().join(run.name()))).end() {
        Some(End::Stopped { reason } | End::Paused { reason }) => Some(reason),
        _ => None,
    }
}

/// Why it ended, if a signal that came to this process also came to the program (a batch system sends it to all), which
/// ended by it after a last checkpoint of its own.
fn ended_by(
    run: &RunDirectory,
    signalled: Option<(Signal, SystemTime)>,
    status: ExitStatus,
) -> Option<String> {
    let (signal, came) = signalled.filter(|(signal, _)| status.signal() == Some(*signal as i32))?;
    let came = came.duration_since(UNIX_EPOCH).ok()?.as_secs_f64();
    let events = EventLog::new(&run.global().join(run.name())).read().ok()?;
    let taken = events.iter().rev().find_map(|record| match &record.event {
        // A time of the log is to the millisecond.
        Event::Committed { figures, .. } if record.time + 0.001 >= came => Some(figures),
        _ => None,
    })?;
    Some(format!(
        "{signal} came to the program too: checkpoint {} ({}) is complete",
        taken.generation.number, taken.level
    ))
}

/// Starts the program, with the signal mask this process was started with.
fn start(
    run: &RunDirectory,
    record: &Record,
    resume: bool,
    mask: SigSet,
) -> Result<Child, Failure> {
    let output = run.log("application.log")?;
    let errors: File = output.try_clone()?;
    let mut command = Command::new(Installation::find()?.command());
    command.arg("launch");
    if resume {
        command.arg("--restart");
    }
    command
        .arg("--config")
        .arg(run.configuration())
        .args(["--id", run.name(), "--"])
        .args(&record.command)
        .current_dir(&record.directory)
        .stdout(output)
        .stderr(errors)
        .process_group(0);
    // They are in the run's configuration as they were when it was begun.
    for variable in Config::variables() {
        command.env_remove(variable);
    }
    if std::io::stdin().is_terminal() {
        command.stdin(Stdio::null());
    }
    // A child has the mask of its maker: a shell would wait for children of which it never hears.
    // SAFETY: sigprocmask is async-signal-safe and touches nothing of the parent.
    unsafe { command.pre_exec(move || mask.thread_set_mask().map_err(std::io::Error::from)) };
    command
        .spawn()
        .map_err(|e| Failure::new(format!("cannot run mana launch: {e}")))
}

struct Supervisor<'a> {
    run: &'a RunDirectory,
    wishes: Wishes,
    stop_at: Option<Instant>,
    /// When a last checkpoint is tried again, and why it is taken.
    again: Option<(Instant, String)>,
    stopping: Option<Stopping>,
    /// Why it was stopped, once it was.
    stopped: Option<String>,
    /// Told to end before.
    hurry: bool,
    /// The signal, and when it came.
    signalled: Option<(Signal, SystemTime)>,
    /// Last checkpoints that failed, and why the last one did.
    failures: u32,
    complaint: String,
}

impl Supervisor<'_> {
    fn attend(&mut self, child: &mut Child, waited: &SigSet) -> Result<ExitStatus, Failure> {
        loop {
            let status = child
                .try_wait()
                .map_err(|e| Failure::new(format!("cannot wait for the program: {e}")))?;
            self.settle(status.is_some());
            if let Some(status) = status {
                return Ok(status);
            }
            if self.stop_at.is_some_and(|at| Instant::now() >= at) {
                self.stop("--time is over");
            }
            if let Some((_, why)) = self.again.take_if(|(at, _)| Instant::now() >= *at) {
                self.stop(&why);
            }
            if self.wishes.kill_after && self.stopping.is_none() && self.is_taken() {
                self.end("--kill-after: a checkpoint is complete");
            }
            match next_signal(waited, self.patience()) {
                None | Some(Signal::SIGCHLD) => {}
                Some(signal) if self.is_the_same(signal) => {}
                Some(signal) if self.stopping.is_some() || self.hurry => {
                    self.run
                        .note(format_args!("{signal} again: ended as it is"));
                    let group = i32::try_from(child.id()).unwrap_or(0);
                    // SAFETY: the process group that was made for the program.
                    unsafe { libc::killpg(group, libc::SIGKILL) };
                }
                Some(signal) => {
                    self.signalled = Some((signal, SystemTime::now()));
                    self.stop(&format!("{signal} came"));
                    self.hurry = true;
                }
            }
        }
    }

    /// Slurm sends SIGTERM at the beginning of a grace time and at its end, and a launcher passes on what came to all.
    fn is_the_same(&self, signal: Signal) -> bool {
        let in_slurm = std::env::var_os("SLURM_JOB_ID").is_some();
        let just_now = |at: &SystemTime| at.elapsed().is_ok_and(|passed| passed < ONE_SIGNAL);
        let first = self.signalled.filter(|(first, _)| *first == signal);
        signal == Signal::SIGTERM && first.is_some_and(|(_, at)| in_slurm || just_now(&at))
    }

    /// How long nothing needs to be done.
    fn patience(&self) -> Duration {
        let looks = self.wishes.kill_after || self.stopping.is_some() || self.again.is_some();
        let usual = if looks {
            LOOK
        } else {
            Duration::from_secs(3600)
        };
        match self.stop_at {
            Some(at) if self.stopping.is_none() => {
                usual.min(at.saturating_duration_since(Instant::now()))
            }
            _ => usual,
        }
    }

    /// Has the last checkpoint taken, after which the job ends.
    fn stop(&mut self, why: &str) {
        self.stop_at = None;
        if self.stopping.is_some() {
            return;
        }
        if self.failures == 0 {
            self.run
                .note(format_args!("{why}: a last checkpoint, then it stops"));
        }
        let rendezvous = self.run.rendezvous();
        let (sender, answer) = channel();
        std::thread::spawn(move || {
            let _ = sender.send(last_checkpoint(&rendezvous));
        });
        self.stopping = Some(Stopping {
            why: why.to_owned(),
            answer,
        });
    }

    /// Ends the job, which has a checkpoint.
    fn end(&mut self, why: &str) {
        self.wishes.kill_after = false;
        let ended = connect(&self.run.rendezvous()).and_then(|mut c| c.kill(why));
        match ended {
            Ok(()) => self.stopped = Some(why.to_owned()),
            Err(e) => self.run.note(format_args!("cannot stop it: {e}")),
        }
    }

    /// Looks at the answer to a last checkpoint. `ended`: there will be no other.
    fn settle(&mut self, ended: bool) {
        let Some(stopping) = &self.stopping else {
            return;
        };
        // The end of the program may come before the answer that announces it.
        let answer = match ended {
            true => stopping.answer.recv_timeout(ANSWER_LIMIT).ok(),
            false => match stopping.answer.try_recv() {
                Err(TryRecvError::Empty) => return,
                other => other.ok(),
            },
        };
        match answer {
            Some(Ok(taken)) => self.stopped = Some(format!("{}: {taken}", stopping.why)),
            Some(Err(e)) => {
                if e != self.complaint {
                    let goes_on = if ended { "" } else { "; tried again" };
                    self.run
                        .note(format_args!("no last checkpoint: {e}{goes_on}"));
                    self.complaint = e;
                }
                let pause = AGAIN[usize::from(self.failures >= SOON)];
                self.failures += 1;
                self.again = Some((Instant::now() + pause, stopping.why.clone()));
            }
            None => {}
        }
        self.stopping = None;
    }

    /// Whether a checkpoint of this start is complete. Another may be under way: with short intervals, at
    /// every look.
    fn is_taken(&self) -> bool {
        let state = connect(&self.run.rendezvous()).and_then(|mut c| c.status());
        state.is_ok_and(|s| has_complete(&s))
    }
}

/// Whether a committed checkpoint, or a later one, is complete on the level it was taken for.
fn has_complete(status: &Status) -> bool {
    status.recent.iter().any(|taken| {
        let mut levels = status.levels.iter().filter(|l| l.level == taken.level);
        levels.any(|l| l.last.is_some_and(|last| last >= taken.generation))
    })
}

fn connect(rendezvous: &std::path::Path) -> Result<Client, ControlError> {
    Client::connect(&Rendezvous::read(rendezvous)?, ANSWER_LIMIT)
}

/// Takes it and ends the job; what was taken, or why not.
pub fn last_checkpoint(rendezvous: &std::path::Path) -> Result<String, String> {
    let request = Request {
        level: None,
        kill: true,
    };
    match connect(rendezvous).and_then(|mut c| c.checkpoint(request, true, CHECKPOINT)) {
        Ok(Some(taken)) => Ok(format!(
            "checkpoint {} ({}) is complete",
            taken.generation.number, taken.level
        )),
        Ok(None) => Err("the coordinator did not say".into()),
        Err(ControlError::Denied { reason }) => Err(reason),
        Err(e) => Err(crate::message::chain(&e)),
    }
}

fn next_signal(waited: &SigSet, limit: Duration) -> Option<Signal> {
    let time = libc::timespec {
        tv_sec: libc::time_t::try_from(limit.as_secs()).unwrap_or(3600),
        tv_nsec: limit.subsec_nanos().into(),
    };
    // SAFETY: the set and the time are valid; nothing is written.
    let number = unsafe { libc::sigtimedwait(waited.as_ref(), std::ptr::null_mut(), &time) };
    Signal::try_from(number).ok()
}

fn code_of(status: ExitStatus) -> i32 {
    let code = status.code().or_else(|| status.signal().map(|s| 128 + s));
    code.unwrap_or_else(failure_code)
}

fn described(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an unknown status".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::text::tests::busy;

    #[test]
    fn a_complete_checkpoint_is_seen_while_the_next_is_taken() {
        let mut status = busy();
        assert!(status.current.is_some() && !status.level_work.is_empty());
        for level in &mut status.levels {
            level.last = None;
        }
        assert!(!has_complete(&status), "written, and not yet complete");
        // Number 3 is complete, and 11 is the last one committed.
        let taken = status.recent[2].clone();
        for level in &mut status.levels {
            level.last = (level.level == taken.level).then_some(taken.generation);
        }
        assert!(has_complete(&status));
        status.recent.clear();
        assert!(!has_complete(&status), "nothing is committed");
    }
}
