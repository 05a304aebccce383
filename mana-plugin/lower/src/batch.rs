//! The batch system's part in a job's end. What is known of it was asked by `mana_launch`.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::job;

/// From SIGTERM to the kill where nobody says.
const GRACE: Duration = Duration::from_secs(30);
/// For the controller to answer.
const LIMIT: Duration = Duration::from_secs(20);

/// What is left until the time limit, on the rank that knows.
pub fn time_left() -> Option<Duration> {
    let ends_at = job().spec.batch.as_ref()?.ends_at?;
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

/// Puts the job back into the queue; Slurm then ends this start of it.
///
/// # Errors
/// Why it could not be done, with the next step.
pub fn requeue() -> Result<(), String> {
    let Some(batch) = &job().spec.batch else {
        return Err("not in a Slurm job".into());
    };
    let mut child = Command::new("scontrol")
        .args(["requeue", &batch.job])
        .env_remove("LD_PRELOAD")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .map_err(|e| format!("cannot run scontrol: {e}"))?;
    let deadline = Instant::now() + LIMIT;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => {
                return Err(format!("scontrol requeue {} failed ({status})", batch.job))
            }
            Ok(None) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("scontrol did not answer in {} s", LIMIT.as_secs()));
            }
            Err(e) => return Err(format!("waiting for scontrol: {e}")),
        }
    }
}
