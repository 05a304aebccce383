//! What Slurm says about the job's end: asked once, by the rank that brings the coordinator, before
//! anything runs.

use libckpt::config::AtEnd;
use libckpt::Config;
use mana::slurm::{task_name, Question, Queued};
use mana::spec::Batch;

use crate::launcher::{Launcher, Wireup};

/// Asks. `None`: not in a batch job. Besides a line for the user when something that matters for what
/// is configured could not be found out.
pub fn ask(config: &Config, launcher: &Launcher) -> (Option<Batch>, Option<String>) {
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
    let end = wants_end.then(|| Queued::ask(&job));
    let wait = wants_grace.then(|| Question::put("scontrol", &["show", "config"]));
    let end = end.map(|question| {
        let answer = question.and_then(Question::answer);
        answer.and_then(|text| Queued::read(&job, &text))
    });
    let wait = wait.map(|question| question.and_then(Question::answer));
    let (ends_at, note) = match end {
        None => (told, None),
        Some(Ok(queued)) => (queued.ends_at, None),
        Some(Err(why)) => (None, Some(why)),
    };
    let note = note.filter(|_| config.at_end != AtEnd::Continue).map(|why| {
        format!("the job's time limit is not known ({why}): no last checkpoint before it, but one at SIGTERM")
    });
    let grace = wait.and_then(Result::ok).and_then(|text| kill_wait(&text));
    let patience = launchers_patience(launcher, &get);
    let grace = match (grace, patience) {
        (known, Some(patience)) if config.stop_grace.is_none() => {
            Some(known.map_or(patience, |known| known.min(patience)))
        }
        (known, _) => known,
    };
    let batch = Batch {
        asks: wants_grace && patience.is_none(),
        name: task_name(&get),
        job,
        ends_at,
        grace,
    };
    (Some(batch), note)
}

/// Without Slurm: the time between SIGTERM and SIGKILL that is known all the same, a second of it left for the launcher.
pub fn grace_of_launcher(launcher: &Launcher) -> Option<f64> {
    let get = |name: &str| std::env::var(name).ok();
    if get("SLURM_JOB_ID").is_some() {
        return None;
    }
    let seconds = launchers_patience(launcher, &get)?.saturating_sub(1).max(1);
    u32::try_from(seconds).ok().map(f64::from)
}

/// Seconds that Open MPI's mpirun gives its ranks: its daemons get the SIGTERM too, and kill them one second after they
/// have passed it on, whatever Slurm's `KillWait` is. Measured: 1.9 s.
fn launchers_patience(launcher: &Launcher, get: &dyn Fn(&str) -> Option<String>) -> Option<u64> {
    if launcher.wireups.first() != Some(&Wireup::OpenMpi) {
        return None;
    }
    let told = get("OMPI_MCA_odls_base_sigkill_timeout").and_then(|text| text.trim().parse().ok());
    Some(told.unwrap_or(1u64).saturating_add(1))
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
    fn open_mpis_daemons_kill_sooner() {
        let mut launcher = Launcher::default();
        let patience = |launcher: &Launcher, value: Option<&str>| {
            launchers_patience(launcher, &|_| value.map(str::to_owned))
        };
        assert_eq!(patience(&launcher, None), None);
        launcher.wireups.push(Wireup::OpenMpi);
        assert_eq!(patience(&launcher, None), Some(2));
        assert_eq!(patience(&launcher, Some("10")), Some(11));
    }

    #[test]
    fn the_time_before_a_kill() {
        let text = "KeepAliveTime           = SYSTEM_DEFAULT\nKillOnBadExit = 0\nKillWait                = 30 sec\n";
        assert_eq!(kill_wait(text), Some(30));
        assert_eq!(kill_wait("nothing"), None);
    }
}
