//! The batch system's part in a job's end. What is known of it was asked by `mana_launch`.

use std::io;
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use libckpt::identity;
use libckpt::refusal::{self, Refusal};
use mana::slurm::{self, AtWork, Printed, Question, Queued, Requeue, PATIENCE};
use split_process::Aside;

use crate::{job, messages};

/// From SIGTERM to the kill where nobody says.
const GRACE: Duration = Duration::from_secs(30);
/// No time limit.
const NEVER: u64 = u64::MAX;
/// Between two questions, where the first has no answer.
const PAUSE: Duration = Duration::from_secs(1);
/// For the controller to take the job back, at least.
const LIMIT: Duration = Duration::from_secs(20);
/// What of the time until the limit is left to the end itself.
const RESERVE: Duration = Duration::from_secs(10);

/// When the time limit comes, as Slurm last said after the start; 0: it was not asked.
static ENDS_AT: AtomicU64 = AtomicU64::new(0);

/// Slurm's commands, which are none of the program's children.
struct Beside(Aside);

impl AtWork for Beside {
    fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.0.try_wait()
    }

    fn end(&mut self) {
        self.0.end();
    }
}

/// From now on Slurm's commands run beside the program.
pub fn ask_beside_the_program() {
    fn start(command: Command) -> io::Result<(Box<dyn AtWork>, [Printed; 2])> {
        let (aside, printed) = Aside::start(&command)?;
        let output: [Printed; 2] = [Box::new(printed.output), Box::new(printed.errors)];
        Ok((Box::new(Beside(aside)), output))
    }
    slurm::start_by(start);
}

/// What is left until the time limit, on the rank that knows.
pub fn time_left() -> Option<Duration> {
    let told = job().spec.batch.as_ref()?.ends_at;
    let ends_at = match ENDS_AT.load(Ordering::Relaxed) {
        0 => told?,
        NEVER => return None,
        later => later,
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    Some(Duration::from_secs(ends_at).saturating_sub(now))
}

/// From SIGTERM to the kill. A second of it is left for whoever has to kill in time.
pub fn grace() -> Duration {
    let spec = &job().spec;
    if let Some(seconds) = spec.config.stop_grace {
        return Duration::from_secs_f64(seconds);
    }
    let told = spec.batch.as_ref().and_then(|batch| batch.grace);
    told.map_or(GRACE, |seconds| {
        Duration::from_secs(seconds.saturating_sub(1).max(1))
    })
}

/// Whether [`ask_time_left`] could say more than [`grace`].
pub fn can_be_asked() -> bool {
    job().spec.batch.as_ref().is_some_and(|batch| batch.asks)
}

/// After a SIGTERM: how long until the kill, if Slurm is not about to end the job at once. One that is preempted with a
/// grace time runs on, with the end of that time as its own; what else follows a SIGTERM comes only then. Waits for the
/// controller, with a bound.
pub fn ask_time_left() -> Option<Duration> {
    let name = &job().spec.batch.as_ref()?.job;
    let deadline = Instant::now() + grace();
    let queued = loop {
        let answer = Queued::ask(name).and_then(Question::answer);
        match answer.and_then(|text| Queued::read(name, &text)) {
            Ok(queued) => break queued,
            // A busy controller.
            Err(why) => log::debug!("time left: {why}"),
        }
        if Instant::now() + PAUSE >= deadline {
            return None;
        }
        std::thread::sleep(PAUSE);
    };
    log::debug!("time left: Slurm says {queued:?}");
    if !queued.is_running() {
        return None;
    }
    let ends_at = match (queued.ends_at, queued.preempted_at) {
        (Some(end), _) => end,
        (None, Some(since)) => since + slurm::grace_time(&queued.partition).ok()?,
        // No kill is announced.
        (None, None) => return None,
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    Some(Duration::from_secs(ends_at).saturating_sub(now) + grace())
}

/// How long until the time limit now, [`Duration::MAX`] if there is none any more. A job that Slurm is ending, or has suspended, has
/// none to tell. Waits for the controller, with a bound.
pub fn ask_limit() -> Option<Duration> {
    let name = &job().spec.batch.as_ref()?.job;
    let answer = Queued::ask(name).and_then(Question::answer);
    let queued = answer.and_then(|text| Queued::read(name, &text));
    let queued = queued
        .map_err(|why| log::debug!("time limit: {why}"))
        .ok()?;
    if !queued.is_running() {
        return None;
    }
    ENDS_AT.store(queued.ends_at.unwrap_or(NEVER), Ordering::Relaxed);
    match queued.ends_at {
        None => Some(Duration::MAX),
        Some(_) => time_left(),
    }
}

/// In a batch job: leaves word that mana itself has failed, for whoever would start it again. The exit code says so
/// too, but may be hidden by that of a rank that the launcher has killed.
pub fn note_failure(why: &dyn std::fmt::Display, passing: bool) {
    let spec = &job().spec;
    let batch_job = identity::batch_job(&|name: &str| std::env::var(name).ok());
    if let Some(name) = batch_job {
        let refusal = Refusal {
            restart_count: spec.restart_count,
            reason: why.to_string(),
            passing,
        };
        let _ = refusal::note(&spec.config.global_ckpt_dir, &name, &refusal);
    }
}

/// Puts the job back into the queue; Slurm then ends this start of it.
///
/// # Errors
/// Why it could not be done, with the next step.
pub fn requeue() -> Result<(), String> {
    let spec = &job().spec;
    let Some(batch) = &spec.batch else {
        return Err("not in a Slurm job".into());
    };
    let left = time_left().map_or(PATIENCE, |left| left.saturating_sub(RESERVE));
    let requeue = Requeue {
        name: batch.name.as_deref(),
        job: &batch.job,
        restarts: spec.restart_count,
        limit: left.clamp(LIMIT, PATIENCE),
    };
    requeue.order(&|why| messages::line(format_args!("the job is not requeued yet: {why}")))
}
