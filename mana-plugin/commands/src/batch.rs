//! What Slurm says about the job's end: asked once, by the rank that brings the coordinator, before
//! anything runs. Every question is bounded: a controller that does not answer delays no job for long.

use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use libckpt::config::AtEnd;
use libckpt::Config;
use mana::spec::Batch;

/// For an answer of the controller.
const LIMIT: Duration = Duration::from_secs(8);

/// Asks. `None`: not in a batch job. Besides a line for the user when something that matters for what
/// is configured could not be found out.
pub fn ask(config: &Config) -> (Option<Batch>, Option<String>) {
    let get = |name: &str| std::env::var(name).ok();
    let Some(job) = get("SLURM_JOB_ID") else {
        let note = (config.at_end == AtEnd::Requeue).then(|| {
            "at_end = requeue: not in a Slurm job, the end of its time limit is not known and nothing can be requeued".to_owned()
        });
        return (None, note);
    };
    let told = get("SLURM_JOB_END_TIME").and_then(|text| text.trim().parse::<u64>().ok());
    let wants_end = config.end_margin != Some(0.0) && told.is_none();
    let wants_grace = config.stop_grace.is_none();
    // Both at once: each takes the controller a moment.
    let left = wants_end.then(|| Question::put("squeue", &["-h", "-o", "%L", "-j", &job]));
    let wait = wants_grace.then(|| Question::put("scontrol", &["show", "config"]));
    let left = left.map(|q| q.and_then(Question::answer));
    let wait = wait.map(|q| q.and_then(Question::answer));
    let mut note = None;
    let ends_at = match left {
        None => told,
        Some(Ok(text)) => match time_left(text.trim()) {
            Some(Left::In(seconds)) => now().map(|now| now + seconds),
            Some(Left::Never) => None,
            None => {
                note = Some(format!("squeue says {:?}", text.trim()));
                None
            }
        },
        Some(Err(why)) => {
            note = Some(why);
            None
        }
    };
    let note = note.filter(|_| config.at_end != AtEnd::Continue).map(|why| {
        format!("the job's time limit is not known ({why}): no last checkpoint before it, but one at SIGTERM")
    });
    let grace = wait.and_then(Result::ok).and_then(|text| kill_wait(&text));
    let batch = Batch {
        job,
        ends_at,
        grace,
    };
    (Some(batch), note)
}

fn now() -> Option<u64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    Some(since.as_secs())
}

/// A command of Slurm's that is at work on an answer.
struct Question {
    program: &'static str,
    child: Child,
    reader: thread::JoinHandle<String>,
    deadline: Instant,
}

impl Question {
    fn put(program: &'static str, arguments: &[&str]) -> Result<Self, String> {
        let mut child = Command::new(program)
            .args(arguments)
            // What is to be loaded into the program has no business in Slurm's.
            .env_remove("LD_PRELOAD")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| format!("cannot run {program}: {e}"))?;
        let output = child.stdout.take();
        let reader = thread::spawn(move || {
            let mut text = String::new();
            if let Some(mut output) = output {
                // What is not text is no answer.
                let _ = output.read_to_string(&mut text);
            }
            text
        });
        Ok(Self {
            program,
            child,
            reader,
            deadline: Instant::now() + LIMIT,
        })
    }

    fn answer(mut self) -> Result<String, String> {
        let program = self.program;
        let mut pause = Duration::from_millis(1);
        let status = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if Instant::now() < self.deadline => thread::sleep(pause),
                other => {
                    let _ = self.child.kill();
                    let _ = self.child.wait();
                    let _ = self.reader.join();
                    return Err(match other {
                        Err(e) => format!("waiting for {program}: {e}"),
                        _ => format!("{program} did not answer in {} s", LIMIT.as_secs()),
                    });
                }
            }
            pause = (pause * 2).min(Duration::from_millis(20));
        };
        let text = self.reader.join().unwrap_or_default();
        if status.success() {
            Ok(text)
        } else {
            Err(format!("{program} failed ({status})"))
        }
    }
}

/// The time a job has left.
#[derive(Debug, PartialEq, Eq)]
enum Left {
    In(u64),
    Never,
}

/// `[days-][hours:]minutes:seconds`, as squeue prints it.
fn time_left(text: &str) -> Option<Left> {
    if text == "UNLIMITED" || text == "NOT_SET" {
        return Some(Left::Never);
    }
    let (days, clock) = match text.split_once('-') {
        Some((days, clock)) => (days.parse::<u64>().ok()?, clock),
        None => (0, text),
    };
    let parts: Vec<u64> = clock
        .split(':')
        .map(|part| part.parse().ok())
        .collect::<Option<_>>()?;
    if !(2..=3).contains(&parts.len()) {
        return None;
    }
    let seconds = parts.iter().fold(0u64, |sum, part| {
        sum.saturating_mul(60).saturating_add(*part)
    });
    Some(Left::In(days.saturating_mul(86400).saturating_add(seconds)))
}

/// `KillWait` of `scontrol show config`.
fn kill_wait(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.trim_start().strip_prefix("KillWait"))?;
    let value = line.trim_start().strip_prefix('=')?.trim();
    value.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_squeue_prints_them() {
        assert_eq!(time_left("59:58"), Some(Left::In(3598)));
        assert_eq!(time_left("1:02:03"), Some(Left::In(3723)));
        assert_eq!(time_left("2-00:00:01"), Some(Left::In(172_801)));
        assert_eq!(time_left("UNLIMITED"), Some(Left::Never));
        assert_eq!(time_left("INVALID"), None);
        assert_eq!(time_left(""), None);
    }

    #[test]
    fn the_time_before_a_kill() {
        let text = "KeepAliveTime           = SYSTEM_DEFAULT\nKillOnBadExit = 0\nKillWait                = 30 sec\n";
        assert_eq!(kill_wait(text), Some(30));
        assert_eq!(kill_wait("nothing"), None);
    }

    #[test]
    fn a_command_that_is_not_there_or_fails_is_named() {
        let failed = |program| Question::put(program, &[]).and_then(Question::answer);
        let missing = failed("mana-no-such-command").expect_err("missing");
        assert!(missing.contains("mana-no-such-command"), "{missing}");
        assert!(failed("false").expect_err("fails").contains("false"));
        assert_eq!(failed("true"), Ok(String::new()));
    }
}
