//! `mana requeue`: the last line of a job script. After a failure the job goes back into Slurm's queue, unless another
//! start would not come further than this one.
//!
//! What decides is on record in the global directory. An exit code alone does not tell: `srun -K1` returns that of a
//! rank it has killed. And Slurm's restart count alone does not either: it also counts preemptions and slices. How many
//! starts in a row have come to nothing is its distance from the last start that has committed a checkpoint. Only starts of
//! this Slurm job count: one with `--id` may have begun in another, whose counts are its own.

use std::thread;
use std::time::{Duration, Instant};

use libckpt::records::{End, JobState, Records};
use libckpt::refusal::{self, Refusal};
use libckpt::store::Store;
use libckpt::{identity, Config};
use mana::slurm::{task_name, Question, Queued, Requeue, PATIENCE};

use crate::cli;
use crate::job;
use crate::message::{failure_code, Failure, Speaker};
use crate::settings;

/// Between two looks at records that could not be read.
const PAUSE: Duration = Duration::from_secs(5);

/// One program of the Slurm job, as the records of its starts by this job have it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Facts {
    finished: bool,
    /// The restart count of its newest start.
    newest: u32,
    end: Option<End>,
    /// The restart count of the newest start that has committed a checkpoint.
    committed: Option<u32>,
    /// The number of that start among all of the program.
    start: Option<u32>,
}

impl Facts {
    /// `None`: the newest start, if any, is not one of this job.
    fn read(config: &Config, name: &str, batch_job: &str) -> Result<Option<Self>, libckpt::Error> {
        let records = Records::new(Store::global(config, name));
        let Some(newest) = records.last()?.filter(|newest| newest.is_of(batch_job)) else {
            return Ok(None);
        };
        let committed = records.newest_commit()?;
        let committed = committed.filter(|start| start.is_of(batch_job));
        Ok(Some(Self {
            finished: records.state()? == JobState::Finished,
            newest: newest.restart_count,
            end: records.end(),
            committed: committed.as_ref().map(|start| start.restart_count),
            start: committed.map(|start| start.number),
        }))
    }

    /// Of every program of the Slurm job, or of the one that is named.
    fn all(config: &Config, batch_job: &str, id: Option<&str>) -> Result<Vec<Self>, Failure> {
        let mut found = Vec::new();
        for (name, _) in job::names(&config.global_ckpt_dir)? {
            if id.is_some_and(|id| id != name) {
                continue;
            }
            match Self::read(config, &name, batch_job) {
                Ok(facts) => found.extend(facts),
                // What is wrong with other jobs is none of ours.
                Err(e) if id.is_some() || is_named_after(&name, batch_job) => {
                    return Err(Failure::of_records(&e))
                }
                Err(_) => {}
            }
        }
        Ok(found)
    }

    /// The same; what may pass is waited for.
    fn wait_for_all(
        config: &Config,
        batch_job: &str,
        id: Option<&str>,
        speaker: &Speaker,
    ) -> Result<Vec<Self>, Failure> {
        let deadline = Instant::now() + PATIENCE;
        let mut said = false;
        loop {
            match Self::all(config, batch_job, id) {
                Err(e) if e.passing && Instant::now() < deadline => {
                    if !std::mem::replace(&mut said, true) {
                        let limit = PATIENCE.as_secs();
                        speaker.say(format_args!(
                            "{}: tried again, for {limit} s at most",
                            e.text
                        ));
                    }
                    thread::sleep(PAUSE);
                }
                answer => return answer,
            }
        }
    }
}

/// Whether it has its identity from this Slurm job.
fn is_named_after(name: &str, batch_job: &str) -> bool {
    name.strip_prefix(batch_job)
        .is_some_and(|rest| rest.starts_with(['-', '+']))
}

/// What is known when the step has ended.
struct Situation<'a> {
    /// The step's exit code.
    code: i32,
    /// Slurm's count, of this start.
    restarts: u32,
    /// Starts in a row without a checkpoint that are followed by another.
    limit: u32,
    refusal: Option<&'a Refusal>,
    /// The global directory is not there.
    unseen: bool,
    programs: &'a [Facts],
}

/// Why the job should be started again, or why not.
fn decide(now: &Situation) -> Result<String, String> {
    if let Some(Refusal { reason, .. }) = now.refusal.filter(|refusal| !refusal.passing) {
        return Err(format!("mana itself has refused or failed ({reason})"));
    }
    if now.programs.iter().any(|p| p.newest > now.restarts) {
        return Err("a newer start of the job has taken over".into());
    }
    // Nothing was ever begun, and nobody says that it may pass: a mistake in the script. A job that has begun once may
    // not find its file systems, or its other nodes, this time.
    let untold = now.refusal.is_none() && !now.unseen;
    if now.code == failure_code() && untold && now.programs.is_empty() {
        return Err("mana itself has refused or failed".into());
    }
    if let Some(reason) = now.programs.iter().find_map(|p| match &p.end {
        Some(End::Stopped { reason }) if p.newest == now.restarts => Some(reason),
        _ => None,
    }) {
        return Err(format!("it was ended on request ({reason})"));
    }
    if !now.programs.is_empty() && now.programs.iter().all(|p| p.finished) {
        return Err("the program has ended normally".into());
    }
    let committed = now
        .programs
        .iter()
        .filter(|p| !p.finished)
        .filter_map(|p| p.committed)
        .max();
    let in_vain = match committed {
        Some(last) => now.restarts.saturating_sub(last),
        None => now.restarts + 1,
    };
    match in_vain {
        0 => Ok("this start has committed checkpoints".into()),
        n if n <= now.limit => Ok(format!(
            "no checkpoint committed in {}, of {} in a row",
            starts(n),
            now.limit + 1
        )),
        n => Err(format!("no checkpoint committed in {}", starts(n))),
    }
}

fn starts(number: u32) -> String {
    match number {
        1 => "this start".into(),
        n => format!("the last {n} starts"),
    }
}

/// Exit code 0: it was put back (with `--check`: it should be).
pub fn run(options: &cli::Requeue, speaker: &Speaker) -> Result<i32, Failure> {
    let get = |name: &str| std::env::var(name).ok();
    let Some(batch_job) = identity::batch_job(&get) else {
        return Err(Failure::new(
            "not in a Slurm job: mana requeue is for job scripts",
        ));
    };
    if options.after == 0 {
        return Ok(1);
    }
    let config = settings::load(&options.settings)?;
    let restarts = identity::restart_count(&get);
    let global = &config.global_ckpt_dir;
    let refused = refusal::read(global, &batch_job).filter(|found| found.restart_count == restarts);
    let programs = Facts::wait_for_all(&config, &batch_job, options.id.as_deref(), speaker)?;
    let decision = decide(&Situation {
        code: options.after,
        restarts,
        limit: options.limit,
        refusal: refused.as_ref(),
        unseen: !global.is_dir(),
        programs: &programs,
    });
    let code = options.after;
    let why = match decision {
        Err(why) => {
            if !options.check {
                // Told now; a file that stays is of no use.
                let _ = refusal::forget(global, &batch_job);
            }
            speaker.say(format_args!(
                "the step ended with code {code}, starting again would not help: {why}"
            ));
            return Ok(1);
        }
        Ok(why) => why,
    };
    if options.check {
        let starts = programs.iter().filter_map(|program| program.start);
        let starts: Vec<String> = starts.map(|number| number.to_string()).collect();
        println!("{}", starts.join(" "));
        return Ok(0);
    }
    let number = get("SLURM_JOB_ID").unwrap_or_default();
    let queued = Queued::ask(&number)
        .and_then(Question::answer)
        .and_then(|text| Queued::read(&number, &text));
    // Without an answer: it does no harm to ask twice.
    if let Ok(queued) = queued {
        let why = match queued.restarts {
            // Slurm has lost sight of this node, but not of the job. (A job that another one has submitted may have that
            // one's number in its environment: Slurm tells it only from the second start on.)
            Some(count) if count > restarts => "it has started the job again already".into(),
            _ if !queued.is_running() => format!("it ends this start itself, {}", queued.state),
            _ => String::new(),
        };
        if !why.is_empty() {
            speaker.say(format_args!(
                "the step ended with code {code}; the job is left to Slurm: {why}"
            ));
            return Ok(1);
        }
    }
    speaker.say(format_args!(
        "the step ended with code {code}: the job is requeued ({why})"
    ));
    let name = task_name(&get);
    let requeue = Requeue {
        name: name.as_deref(),
        job: &number,
        restarts,
        limit: PATIENCE,
    };
    requeue
        .order(&|why| speaker.say(format_args!("the job is not requeued yet: {why}")))
        .map_err(|e| Failure::new(format!("the job is not requeued: {e}")))?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(code: i32, restarts: u32, programs: &[Facts]) -> Result<String, String> {
        decide(&Situation {
            code,
            restarts,
            limit: 5,
            refusal: None,
            unseen: false,
            programs,
        })
    }

    fn program(newest: u32, committed: Option<u32>) -> Facts {
        Facts {
            newest,
            committed,
            ..Facts::default()
        }
    }

    #[test]
    fn only_starts_in_vain_count() {
        // Preempted a hundred times, then a crash.
        assert!(with(137, 100, &[program(100, Some(100))]).is_ok());
        // It has crashed before each checkpoint since.
        assert!(with(137, 105, &[program(105, Some(100))]).is_ok());
        assert!(with(137, 106, &[program(106, Some(100))]).is_err());
        // Nothing was ever committed.
        assert!(with(1, 4, &[program(4, None)]).is_ok());
        assert!(with(1, 5, &[program(5, None)]).is_err());
        // A node that dies before the start is on record.
        assert!(with(1, 2, &[program(1, Some(1))]).is_ok());
        assert!(with(1, 0, &[]).is_ok());
        assert!(with(1, 5, &[]).is_err());
    }

    #[test]
    fn what_was_meant_to_end_is_not_started_again() {
        let ended = |end| Facts {
            end: Some(end),
            ..program(3, Some(3))
        };
        let reason = String::from("mana_status --kill");
        let stopped = ended(End::Stopped { reason });
        assert!(with(137, 3, std::slice::from_ref(&stopped)).is_err());
        // That was an earlier start.
        assert!(with(137, 4, &[stopped]).is_ok());
        let reason = String::from("the time limit");
        assert!(with(137, 3, &[ended(End::Paused { reason })]).is_ok());
        let finished = Facts {
            finished: true,
            ..program(3, Some(3))
        };
        assert!(with(1, 3, std::slice::from_ref(&finished)).is_err());
        assert!(with(1, 3, &[finished, program(3, Some(3))]).is_ok());
        // The script of a node that Slurm has lost sight of.
        assert!(with(137, 2, &[program(3, Some(2))]).is_err());
    }

    /// The fourth start of a job.
    fn refused(code: i32, refusal: Option<(&str, bool)>, unseen: bool, programs: &[Facts]) -> bool {
        let refusal = refusal.map(|(reason, passing)| Refusal {
            restart_count: 4,
            reason: reason.into(),
            passing,
        });
        let now = Situation {
            code,
            restarts: 4,
            limit: 5,
            refusal: refusal.as_ref(),
            unseen,
            programs,
        };
        decide(&now).is_err()
    }

    #[test]
    fn a_refusal_is_final_unless_it_may_pass() {
        let programs = [program(3, Some(3))];
        let own = failure_code();
        for code in [137, own] {
            assert!(refused(
                code,
                Some(("nothing intact", false)),
                false,
                &programs
            ));
            assert!(!refused(
                code,
                Some(("cannot read", true)),
                false,
                &programs
            ));
            assert!(!refused(code, Some(("cannot read", true)), false, &[]));
        }
        // Nobody could leave word: the fourth node has not mounted the global directory, or no node has.
        assert!(!refused(own, None, false, &programs));
        assert!(!refused(own, None, true, &[]));
        assert!(refused(own, None, false, &[]), "never begun");
        // Begun, and ended by on_error: that may have been the network.
        assert!(with(own, 3, &programs).is_ok());
        // It passes, or not, within the starts in vain.
        assert!(with(own, 8, &programs).is_ok());
        assert!(with(own, 9, &programs).is_err());
    }

    #[test]
    fn only_starts_of_this_slurm_job_count() {
        use libckpt::records::Incarnation;
        let dir = tempfile::tempdir().expect("directory");
        let config = libckpt::simulation::configuration(dir.path(), &[]).expect("configuration");
        let start = |name: &str, batch_job: Option<&str>, restart_count, commits| {
            let records = Records::new(Store::global(&config, name));
            let begun = records.begin(Incarnation {
                number: 0,
                parent: None,
                size: 1,
                thread_level: 0,
                program: "app".into(),
                program_hash: None,
                created: 0,
                restart_count,
                batch_job: batch_job.map(str::to_owned),
                topology: libckpt::Topology::default(),
            });
            let number = begun.expect("begun").number;
            if commits {
                records.mark_committed(number).expect("noted");
            }
        };
        let all = |id| Facts::all(&config, "8", id).unwrap_or_else(|e| panic!("{}", e.text));
        // Named by the user, over three Slurm jobs; and another job's.
        start("run1", Some("7"), 3, true);
        start("81-app-00", Some("81"), 0, true);
        start("desk", None, 0, true);
        assert_eq!(all(None), []);
        // What another job has committed is no merit of this one.
        start("run1", Some("8"), 0, false);
        assert_eq!(all(None), [program(0, None)]);
        start("run1", Some("8+0"), 1, true);
        start("8-app-00", Some("8"), 1, false);
        let run1 = Facts {
            start: Some(3),
            ..program(1, Some(1))
        };
        assert_eq!(all(None), [program(1, None), run1.clone()]);
        assert_eq!(all(Some("run1")), [run1]);
        // Other jobs' damage is not ours.
        let damaged = Store::global(&config, "desk").root().join("incarnation-1");
        std::fs::write(damaged, "x").expect("written");
        assert_eq!(all(None).len(), 2);
        start("run1", Some("9"), 0, false);
        assert_eq!(all(Some("run1")), []);
    }
}
