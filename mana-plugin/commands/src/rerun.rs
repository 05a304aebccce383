//! `mana run`: a command line with `mana_launch` in it, started again after a failure.
//!
//! The child stays in our process group, so that a terminal's Ctrl-C reaches it by itself; signals
//! sent to us alone (by a batch system or `kill`) are passed on. After one that asks to stop, the
//! command is not started again.

use std::ffi::OsString;
use std::mem::MaybeUninit;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::signal::{kill, SigSet, SigmaskHow, Signal};
use nix::unistd::Pid;

use crate::cli;
use crate::message::{failure_code, Failure, Speaker};

/// Tells `mana_launch` that this is a further start of the same job: resume, or begin again if
/// nothing was committed.
pub const AGAIN: &str = "MANA_RESTART";

/// Its value when nobody but us wants that start: not of a job that was ended on request.
pub const RETRY: &str = "retry";

/// When this run was begun, in seconds since 1970.
pub const BEGUN: &str = "MANA_RUN_BEGUN";

/// Signals to pass on; the first group asks the job to end.
const STOPPING: &[Signal] = &[
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
];
const OTHERS: &[Signal] = &[Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGCONT];

/// Runs until the program's normal end, our own failure, or the last retry's.
pub fn run(options: &cli::Run, speaker: &Speaker) -> Result<i32, Failure> {
    let waited = wait_set();
    let before = waited
        .thread_swap_mask(SigmaskHow::SIG_BLOCK)
        .map_err(|e| Failure::new(format!("cannot block signals: {e}")))?;
    let name = options.command[0].to_string_lossy();
    if !options.quiet && forgotten(&options.command) {
        speaker.say(format_args!("no mana_launch is in this command line: unless a script in it has one, the program runs without checkpoints"));
    }
    let begun = SystemTime::now().duration_since(UNIX_EPOCH);
    let begun = begun.map_or(0, |since| since.as_secs()).to_string();
    let mut attempt = 0;
    loop {
        let mut command = Command::new(&options.command[0]);
        command.args(&options.command[1..]).env(BEGUN, &begun);
        if attempt > 0 {
            command.env(AGAIN, RETRY);
        } else if options.restart {
            command.env(AGAIN, "1");
        }
        // A child has the mask of its maker: a launcher or shell would never hear of what we pass on.
        // SAFETY: sigprocmask is async-signal-safe and touches nothing of the parent.
        unsafe {
            command.pre_exec(move || before.thread_set_mask().map_err(std::io::Error::from));
        }
        let mut child = command
            .spawn()
            .map_err(|e| Failure::new(format!("cannot run {name}: {e}")))?;
        let (status, told_by) = attend(&mut child, &waited)?;
        let code = code_of(status);
        if code == 0 {
            return Ok(0);
        }
        if code == failure_code() {
            speaker.say(format_args!("{name} ended with code {code}: the job was ended on request, or mana itself refused or failed (see above): not starting again"));
            return Ok(code);
        }
        if let Some(signal) = told_by {
            speaker.say(format_args!(
                "{name} ended with {} after {signal}: not started again; 'mana run --restart -- ...' goes on from its newest checkpoint",
                described(status)
            ));
            return Ok(code);
        }
        if attempt == options.retries {
            speaker.say(format_args!(
                "{name} ended with {}; {} starts, not trying again",
                described(status),
                attempt + 1
            ));
            return Ok(code);
        }
        attempt += 1;
        if !options.quiet {
            speaker.say(format_args!(
                "{name} ended with {}; starting again ({attempt} of {})",
                described(status),
                options.retries
            ));
        }
    }
}

/// No word of the line, alone or as the end of a path, is one of the commands that put a program under control.
fn forgotten(command: &[OsString]) -> bool {
    let ours = |word: &OsString| {
        let text = word.to_string_lossy();
        text.contains("mana_launch") || text.contains("mana_restart")
    };
    !command.iter().any(ours)
}

fn wait_set() -> SigSet {
    let mut set = SigSet::empty();
    set.add(Signal::SIGCHLD);
    for signal in STOPPING.iter().chain(OTHERS) {
        set.add(*signal);
    }
    set
}

/// Waits for the child's end, passing signals on. Also says which one of them asked to stop.
fn attend(child: &mut Child, waited: &SigSet) -> Result<(ExitStatus, Option<Signal>), Failure> {
    let pid = Pid::from_raw(i32::try_from(child.id()).map_err(|e| Failure::new(e.to_string()))?);
    let mut told_by = None;
    loop {
        if let Some(status) = child
            .try_wait()
            .map_err(|e| Failure::new(format!("cannot wait for process {pid}: {e}")))?
        {
            return Ok((status, told_by));
        }
        let Some((signal, from_a_process)) = next_signal(waited) else {
            continue;
        };
        if STOPPING.contains(&signal) {
            told_by = Some(signal);
        }
        if signal != Signal::SIGCHLD && from_a_process {
            // It may have ended in this moment: the next turn of the loop sees that.
            let _ = kill(pid, signal);
        }
    }
}

/// The next signal of the set, and whether a process (not the terminal's driver) sent it.
fn next_signal(waited: &SigSet) -> Option<(Signal, bool)> {
    let mut info = MaybeUninit::<libc::siginfo_t>::uninit();
    // SAFETY: both pointers are valid for the call; it fills in `info` when it returns a signal.
    let number = unsafe { libc::sigwaitinfo(waited.as_ref(), info.as_mut_ptr()) };
    let signal = Signal::try_from(number).ok()?;
    // SAFETY: sigwaitinfo returned a signal, so it has filled in the structure.
    let info = unsafe { info.assume_init() };
    Some((signal, info.si_code <= 0))
}

fn code_of(status: ExitStatus) -> i32 {
    status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(1)
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

    #[test]
    fn a_line_without_mana_launch_is_noticed() {
        let line = |text: &str| -> Vec<OsString> { text.split(' ').map(Into::into).collect() };
        assert!(!forgotten(&line("mpirun -n 4 mana_launch ./app")));
        assert!(!forgotten(&line("srun /opt/mana/bin/mana_restart --id a")));
        assert!(!forgotten(&[
            "sh".into(),
            "-c".into(),
            "mpirun mana_launch ./app".into()
        ]));
        assert!(forgotten(&line("mpirun -n 4 ./app")));
    }
}
