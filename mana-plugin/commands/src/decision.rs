//! Fresh, resume, or refuse: decided by what the global directory says about the job.
//!
//! All ranks of a start decide by the same records: those of this start are written only after
//! `MPI_Init`, which no rank leaves before all have decided.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use libckpt::records::{program_hash, End, Incarnation, JobState, Records};
use libckpt::store::Store;
use libckpt::{identity, Config};
use mana::slurm;
use mana::spec::Mode;

use crate::alive::{self, Sign, SILENCE};
use crate::launcher::Launcher;
use crate::message::{Failure, Speaker};
use crate::rerun::{AGAIN, BEGUN, RETRY};
use crate::stores::Catalog;

/// How long a parallel file system may take to appear on a node.
const GLOBAL_LIMIT: Duration = Duration::from_secs(60);

/// After this long a line says what is waited for.
const SOON: Duration = Duration::from_secs(2);

/// How long an old coordinator may take to show that it lives.
const ALIVE_LIMIT: Duration = Duration::from_secs(2);

/// Why this start may resume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// A first start, as far as anybody said.
    First,
    /// The batch system, or `mana run`, starts the job again.
    Again,
    /// The user asked for it.
    Restart,
    /// The user asked for a new beginning.
    Fresh,
}

impl Occasion {
    /// From options and environment.
    pub fn of(restart: bool, fresh: bool, launcher: &Launcher) -> Self {
        let again = launcher.restart_count > 0
            || std::env::var_os(AGAIN).is_some_and(|v| v != "0" && !v.is_empty());
        match (restart, fresh, again) {
            (true, _, _) => Self::Restart,
            (_, true, _) => Self::Fresh,
            (_, _, true) => Self::Again,
            _ => Self::First,
        }
    }
}

/// Whether an earlier start of this batch job, or of this `mana run`, has obeyed `--fresh` already.
///
/// All ranks find the same: the records of a start are written after `MPI_Init`.
pub fn fresh_is_spent(config: &Config, id: &str, launcher: &Launcher) -> bool {
    // What cannot be read is told by who decides.
    let Ok(Some(last)) = Records::new(Store::global(config, id)).last() else {
        return false;
    };
    if std::env::var_os(AGAIN).is_some_and(|v| v == RETRY) {
        let begun = std::env::var(BEGUN).ok().and_then(|v| v.parse().ok());
        return begun.is_some_and(|begun: u64| last.created >= begun);
    }
    let own = identity::batch_job(&|name: &str| std::env::var(name).ok());
    own.is_some_and(|own| last.is_of(&own)) && last.restart_count < launcher.restart_count
}

/// What was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// For `mana-lower`; `None`: there is nothing left to do.
    pub mode: Option<Mode>,
    /// A line for the user.
    pub note: Option<String>,
}

/// Waits for the global directory, if this start is not the first, and makes it if it may.
pub fn prepare_global(
    config: &Config,
    occasion: Occasion,
    leading: bool,
    speaker: &Speaker,
) -> Result<(), Failure> {
    let global = &config.global_ckpt_dir;
    let was_there = match occasion {
        Occasion::Again | Occasion::Restart => {
            was_there(global, occasion, GLOBAL_LIMIT, leading.then_some(speaker))?
        }
        Occasion::First | Occasion::Fresh => false,
    };
    if !was_there {
        make(global)?;
        writable("local_ckpt_dir", &config.local_ckpt_dir)?;
    }
    Ok(())
}

/// Decides for job `id`. `leading`: this is the rank that asks whether an older start still runs, and speaks.
pub fn decide(
    config: &Config,
    id: &str,
    occasion: Occasion,
    leading: bool,
    speaker: &Speaker,
) -> Result<Decision, Failure> {
    let global = &config.global_ckpt_dir;
    prepare_global(config, occasion, leading, speaker)?;
    let records = Records::new(Store::global(config, id));
    let state = records.state().map_err(|e| Failure::of_records(&e))?;
    if occasion == Occasion::Again && std::env::var_os(AGAIN).is_some_and(|v| v == RETRY) {
        if state == JobState::Finished {
            return Ok(Decision {
                mode: None,
                note: Some(format!(
                    "job {id} has ended normally, though what had started it failed afterwards: not run again (--fresh would)"
                )),
            });
        }
        if let Some(End::Stopped { reason } | End::Paused { reason }) = records.end() {
            return Err(Failure::of_job(format!(
                "job {id} was ended on request ({reason}): not started again; resume it with --restart (the same command line) or mana_restart"
            )));
        }
    }
    if state == JobState::New && occasion == Occasion::Again {
        refuse_if_records_are_lost(config, id)?;
    }
    if leading {
        refuse_if_running(global, id, occasion, &records, &state)?;
    }
    by_state(&state, id, occasion, global)
}

fn by_state(
    state: &JobState,
    id: &str,
    occasion: Occasion,
    global: &Path,
) -> Result<Decision, Failure> {
    let plain = |mode| Decision {
        mode: Some(mode),
        note: None,
    };
    let from_start = |why: &str| Decision {
        mode: Some(Mode::Fresh),
        note: Some(format!("{why}: starting from the beginning")),
    };
    Ok(match (state, occasion) {
        (_, Occasion::Fresh) | (JobState::New | JobState::Finished, Occasion::First) => plain(Mode::Fresh),
        (JobState::New, Occasion::Again) => from_start("this job has not been started before"),
        (JobState::Finished, Occasion::Again) => from_start("this job has ended normally before"),
        (JobState::New, Occasion::Restart) => {
            return Err(Failure::of_job(format!(
                "nothing to resume: no job {id} in {}; the identity depends on the Slurm job, program, arguments and directory, name it with --id ('mana list' shows what is there)",
                global.display()
            )))
        }
        (JobState::Finished, Occasion::Restart) => {
            return Err(Failure::of_job(format!(
                "nothing to resume: job {id} has ended normally; start it without --restart to run it again"
            )))
        }
        (JobState::Unfinished { committed: true, .. }, Occasion::Again | Occasion::Restart) => plain(Mode::Resume),
        (JobState::Unfinished { committed: false, .. }, Occasion::Again | Occasion::Restart) => {
            from_start("the job was started before, but no checkpoint was committed")
        }
        (JobState::Unfinished { incarnation, committed }, Occasion::First) => {
            return Err(refused(id, incarnation, *committed))
        }
    })
}

/// An image holds the program as it was: another one under its name would be ignored in silence.
pub fn same_program(started: &Path, incarnation: &Incarnation) -> Result<(), Failure> {
    let before = &incarnation.program;
    // Where it lies does not matter; a record without a hash can only tell by the path.
    let same = match incarnation.program_hash {
        Some(hash) => program_hash(started) == Some(hash),
        None => started == before,
    };
    if same {
        return Ok(());
    }
    let what = if started == before {
        format!("{} has changed since the job was started", before.display())
    } else {
        format!(
            "the job runs {}, not {}",
            before.display(),
            started.display()
        )
    };
    Err(Failure::of_job(format!(
        "{what}; a checkpoint holds the program as it was. Name the same program, or begin anew with mana_launch --fresh"
    )))
}

fn refused(id: &str, incarnation: &Incarnation, committed: bool) -> Failure {
    let what = if committed {
        "checkpoints"
    } else {
        "no checkpoint yet"
    };
    Failure::of_job(format!(
        "an unfinished job {id} exists (start {}, {what}); nothing was started. Resume it with --restart (the same command line), or begin anew with --fresh, or use another --id",
        incarnation.number
    ))
}

/// What is known of the former start before anybody is asked.
#[derive(Debug, PartialEq, Eq)]
enum Former {
    /// Whoever starts the job again says that it is over: nothing is asked, and nothing delayed.
    Over,
    /// Slurm says so. One that answers knows better.
    SaidToBeOver,
    Unknown,
}

/// `ours`: the Slurm job of this start, which is its `restarts`th again.
fn former(
    occasion: Occasion,
    ours: Option<&str>,
    restarts: u32,
    incarnation: &Incarnation,
) -> Former {
    let is_of_ours = ours.is_some_and(|job| incarnation.is_of(job));
    let is_of_another = ours.is_some() && incarnation.batch_job.is_some() && !is_of_ours;
    match occasion {
        Occasion::Again if !is_of_another => Former::Over,
        _ if is_of_ours && restarts > incarnation.restart_count => Former::SaidToBeOver,
        _ => Former::Unknown,
    }
}

/// Checkpoints of a job that is started again, and no record of it: another directory lies where its records were. A start from
/// the beginning would delete them.
fn refuse_if_records_are_lost(config: &Config, id: &str) -> Result<(), Failure> {
    let catalog = Catalog::open(config, id)?;
    if catalog.generations()?.is_empty() {
        return Ok(());
    }
    Err(Failure {
        passing: true,
        ..Failure::new(format!(
            "the global directory {} has no record of job {id}, of which checkpoints lie on this node: is its file system mounted here? Nothing was started. To begin anew all the same: mana_launch --fresh",
            config.global_ckpt_dir.display()
        ))
    })
}

/// A start that still runs, or may do as far as can be told from here: a second one would end it.
fn refuse_if_running(
    global: &Path,
    id: &str,
    occasion: Occasion,
    records: &Records,
    state: &JobState,
) -> Result<(), Failure> {
    let JobState::Unfinished { incarnation, .. } = state else {
        return Ok(());
    };
    let get = |name: &str| std::env::var(name).ok();
    let (ours, restarts) = (identity::batch_job(&get), identity::restart_count(&get));
    let former = former(occasion, ours.as_deref(), restarts, incarnation);
    if former == Former::Over {
        return Ok(());
    }
    match alive::look(global, id, ALIVE_LIMIT) {
        Sign::Runs(rendezvous) => Err(Failure::of_job(format!(
            "job {id} is running (its coordinator is process {} on {}): give this one another name with --id, or end that one with mana_status --kill",
            rendezvous.pid, rendezvous.host
        ))),
        Sign::Perhaps(perhaps) if records.end().is_none() && former == Former::Unknown => {
            let text = format!(
                "{}; nothing was started. If it has ended, start again when that is {} s; else end it first, there: mana_status --kill",
                perhaps.text(id),
                SILENCE.as_secs()
            );
            Err(Failure {
                // Put back into the queue, a first start would be another one.
                passing: occasion != Occasion::First,
                ..Failure::of_job(text)
            })
        }
        // A first start is refused anyway, and the other ranks wait for that only shortly.
        _ if records.end().is_none()
            && former == Former::Unknown
            && occasion != Occasion::First =>
        {
            match incarnation.batch_job.as_deref() {
                Some(job) if slurm::is_suspended(job) => Err(Failure::of_job(format!(
                    "job {id} is suspended, as Slurm's job {job}; nothing was started. scontrol resume {job} has it go on; scancel {job} ends it, before another start"
                ))),
                _ => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

/// On a requeue the directory was there once: its absence means that a file system is not mounted
/// (yet), or that no start came so far as to make it. `false`: the latter, as far as can be told: what it
/// is to lie in is there, and not empty as the place of a file system that is not mounted.
fn was_there(
    global: &Path,
    occasion: Occasion,
    limit: Duration,
    speaker: Option<&Speaker>,
) -> Result<bool, Failure> {
    let began = Instant::now();
    let deadline = began + limit;
    let mut said = false;
    while !global.is_dir() {
        let speaker = speaker.filter(|_| !said && began.elapsed() >= SOON);
        if let Some(speaker) = speaker {
            said = true;
            speaker.say(format_args!(
                "the global directory {} is not there yet: waiting for it, {} s at most",
                global.display(),
                limit.as_secs()
            ));
        }
        if Instant::now() > deadline {
            let above = global.parent().and_then(|above| above.read_dir().ok());
            if occasion == Occasion::Again && above.is_some_and(|mut list| list.next().is_some()) {
                return Ok(false);
            }
            return Err(Failure::new(format!(
                "the global directory {} is not there, after {} s; is its file system mounted here? Nothing is resumed without the job's records in it; for a job that was never started, make it (mkdir -p)",
                global.display(),
                limit.as_secs()
            )));
        }
        thread::sleep(Duration::from_millis(200));
    }
    Ok(true)
}

/// Makes the global directory, for its owner only.
pub fn make(global: &Path) -> Result<(), Failure> {
    writable("global_ckpt_dir", global)
}

/// Makes a directory if it is not there; one that cannot be written would fail every checkpoint.
fn writable(key: &str, path: &Path) -> Result<(), Failure> {
    let failed = |what: &str, why: String| {
        let whose = match key {
            "global_ckpt_dir" => "all nodes see and",
            _ => "of the node's own storage that",
        };
        Failure::new(format!(
            "{key} {}: cannot {what}: {why}; set {key} in mana.conf to a directory {whose} you can write",
            path.display()
        ))
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|e| failed("make it", e.to_string() + &closed_by(path)))?;
    use nix::unistd::{access, AccessFlags};
    access(path, AccessFlags::W_OK | AccessFlags::X_OK)
        .map_err(|e| failed("write there", e.desc().to_owned() + &closed_by(path)))
}

/// Whose directory is in the way: the first of several users that make their own below a common one may have made that, too,
/// for himself alone.
fn closed_by(path: &Path) -> String {
    use std::os::unix::fs::MetadataExt as _;
    let own = nix::unistd::geteuid().as_raw();
    let in_the_way = path.ancestors().find_map(|above| {
        // One that cannot be seen lies below it.
        let facts = std::fs::metadata(above).ok()?;
        let other = ![0, own].contains(&facts.uid()) && facts.mode() & 0o002 == 0;
        Some(other.then_some((above, facts.uid())))
    });
    let Some((above, owner)) = in_the_way.flatten() else {
        return String::new();
    };
    let name = nix::unistd::User::from_uid(owner.into()).ok().flatten();
    let name = name.map_or(format!("user {owner}"), |user| user.name);
    format!(" ({} belongs to {name})", above.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unfinished(committed: bool) -> JobState {
        JobState::Unfinished {
            incarnation: Incarnation {
                number: 3,
                parent: None,
                size: 4,
                thread_level: 0,
                program: "/bin/app".into(),
                program_hash: None,
                created: 0,
                restart_count: 0,
                batch_job: None,
                topology: libckpt::Topology::default(),
            },
            committed,
        }
    }

    fn mode(state: &JobState, occasion: Occasion) -> Option<Mode> {
        by_state(state, "job", occasion, Path::new("/g"))
            .ok()
            .and_then(|d| d.mode)
    }

    /// Every state and every occasion.
    #[test]
    fn the_table() {
        use Mode::{Fresh, Resume};
        let rows = [
            (JobState::New, [Some(Fresh), Some(Fresh), None, Some(Fresh)]),
            (
                JobState::Finished,
                [Some(Fresh), Some(Fresh), None, Some(Fresh)],
            ),
            (
                unfinished(false),
                [None, Some(Fresh), Some(Fresh), Some(Fresh)],
            ),
            (
                unfinished(true),
                [None, Some(Resume), Some(Resume), Some(Fresh)],
            ),
        ];
        for (state, expected) in rows {
            let occasions = [
                Occasion::First,
                Occasion::Again,
                Occasion::Restart,
                Occasion::Fresh,
            ];
            for (occasion, wanted) in occasions.into_iter().zip(expected) {
                assert_eq!(mode(&state, occasion), wanted, "{state:?} {occasion:?}");
            }
        }
    }

    /// A node that was lost swallows packets, and the job's record is seconds old.
    #[test]
    fn a_requeue_asks_nobody_and_a_start_by_hand_does() {
        use Former::{Over, SaidToBeOver, Unknown};
        use Occasion::{Again, First, Fresh, Restart};
        let JobState::Unfinished { incarnation, .. } = unfinished(true) else {
            unreachable!()
        };
        let of = |job: Option<&str>, restart_count| Incarnation {
            batch_job: job.map(str::to_owned),
            restart_count,
            ..incarnation.clone()
        };
        let rows = [
            // Slurm's requeue, a relaunch in the allocation, mana run.
            (Again, Some("8"), 2, of(Some("8"), 1), Over),
            (Again, Some("8+0"), 0, of(Some("8"), 0), Over),
            (Again, None, 0, of(None, 0), Over),
            // A script with --restart, requeued.
            (Restart, Some("8"), 2, of(Some("8"), 1), SaidToBeOver),
            (Fresh, Some("8"), 2, of(Some("8"), 1), SaidToBeOver),
            // By hand: beside the job, in its allocation, in another Slurm job.
            (Restart, None, 0, of(Some("8"), 1), Unknown),
            (Restart, Some("8"), 1, of(Some("8"), 1), Unknown),
            (First, Some("9"), 0, of(Some("8"), 1), Unknown),
            (Again, Some("9"), 2, of(Some("8"), 1), Unknown),
            (Fresh, Some("81"), 2, of(Some("8"), 1), Unknown),
        ];
        for (occasion, ours, restarts, incarnation, expected) in rows {
            let found = former(occasion, ours, restarts, &incarnation);
            assert_eq!(found, expected, "{occasion:?} in {ours:?}, {restarts}");
        }
    }

    #[test]
    fn a_directory_that_no_start_has_made() {
        let dir = tempfile::tempdir().expect("directory");
        let global = dir.path().join("global");
        let is = |occasion| was_there(&global, occasion, Duration::ZERO, None).ok();
        // Where something is to be mounted, as it looks.
        assert_eq!(is(Occasion::Again), None);
        std::fs::write(dir.path().join("app"), "").expect("written");
        assert_eq!(is(Occasion::Again), Some(false));
        assert_eq!(is(Occasion::Restart), None);
        std::fs::create_dir(&global).expect("made");
        assert_eq!(is(Occasion::Restart), Some(true));
    }

    #[test]
    fn another_program_is_refused_and_a_moved_one_is_not() {
        let dir = tempfile::tempdir().expect("directory");
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).expect("written");
            path
        };
        let (app, moved) = (file("app", "one"), file("moved", "one"));
        let JobState::Unfinished {
            mut incarnation, ..
        } = unfinished(true)
        else {
            unreachable!()
        };
        incarnation.program = app.clone();
        incarnation.program_hash = program_hash(&app);
        assert!(same_program(&app, &incarnation).is_ok());
        assert!(same_program(&moved, &incarnation).is_ok());
        let text = |path: &Path| same_program(path, &incarnation).expect_err("refused").text;
        let other = file("other", "two");
        assert!(text(&other).contains("not") && text(&other).contains("--fresh"));
        file("app", "rebuilt");
        assert!(text(&app).contains("has changed since"));
    }

    #[test]
    fn refusals_say_how_to_go_on() {
        let error = by_state(&unfinished(true), "job", Occasion::First, Path::new("/g"))
            .expect_err("refused");
        assert!(
            error.text.contains("--restart") && error.text.contains("--fresh"),
            "{}",
            error.text
        );
    }
}
