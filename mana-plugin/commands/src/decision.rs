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
use libckpt::Config;
use mana::spec::Mode;
use mana_control::{Client, Rendezvous};

use crate::launcher::Launcher;
use crate::message::Failure;
use crate::rerun::{AGAIN, RETRY};

/// How long a parallel file system may take to appear on a node.
const GLOBAL_LIMIT: Duration = Duration::from_secs(60);

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

/// What was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// For `mana-lower`.
    pub mode: Mode,
    /// A line for the user.
    pub note: Option<String>,
}

/// Decides for job `id`. `leading`: this is the rank that asks whether an older start still runs.
pub fn decide(
    config: &Config,
    id: &str,
    occasion: Occasion,
    leading: bool,
) -> Result<Decision, Failure> {
    let global = &config.global_ckpt_dir;
    if matches!(occasion, Occasion::Again | Occasion::Restart) {
        wait_for(global)?;
    } else {
        make(global)?;
        writable("local_ckpt_dir", &config.local_ckpt_dir)?;
    }
    let records = Records::new(Store::global(config, id));
    let state = records
        .state()
        .map_err(|e| Failure::of_job(crate::message::chain(&e)))?;
    if occasion == Occasion::Again && std::env::var_os(AGAIN).is_some_and(|v| v == RETRY) {
        if let Some(End::Stopped { reason }) = records.end() {
            return Err(Failure::of_job(format!(
                "job {id} was ended on request ({reason}): not started again; resume it with --restart (the same command line) or mana_restart"
            )));
        }
    }
    if leading && occasion != Occasion::Again {
        refuse_if_running(global, id, &state)?;
    }
    by_state(&state, id, occasion, global)
}

fn by_state(
    state: &JobState,
    id: &str,
    occasion: Occasion,
    global: &Path,
) -> Result<Decision, Failure> {
    let plain = |mode| Decision { mode, note: None };
    let from_start = |why: &str| Decision {
        mode: Mode::Fresh,
        note: Some(format!("{why}: starting from the beginning")),
    };
    Ok(match (state, occasion) {
        (_, Occasion::Fresh) | (JobState::New | JobState::Finished, Occasion::First) => plain(Mode::Fresh),
        (JobState::New, Occasion::Again) => from_start("this job has not been started before"),
        (JobState::Finished, Occasion::Again) => from_start("this job has ended normally before"),
        (JobState::New, Occasion::Restart) => {
            return Err(Failure::of_job(format!(
                "nothing to resume: no job {id} in {}; the identity depends on program, arguments and directory, name it with --id ('mana list' shows what is there)",
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
        "{what}; a checkpoint holds the program as it was. Name the same program, or begin anew with --fresh"
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

/// A start whose coordinator still answers is alive.
fn refuse_if_running(global: &Path, id: &str, state: &JobState) -> Result<(), Failure> {
    if !matches!(state, JobState::Unfinished { .. }) {
        return Ok(());
    }
    // Missing, damaged or unreachable: not alive as far as can be told from here.
    let Ok(rendezvous) = Rendezvous::read(&Rendezvous::path(global, id)) else {
        return Ok(());
    };
    match Client::connect(&rendezvous, ALIVE_LIMIT) {
        Ok(_) => Err(Failure::of_job(format!(
            "job {id} is running (its coordinator is process {} on {}): give this one another name with --id, or end that one with mana_status --kill",
            rendezvous.pid, rendezvous.host
        ))),
        Err(_) => Ok(()),
    }
}

/// On a requeue the directory was there once: its absence means that a file system is not mounted
/// (yet), not that the job is new.
fn wait_for(global: &Path) -> Result<(), Failure> {
    let deadline = Instant::now() + GLOBAL_LIMIT;
    while !global.is_dir() {
        if Instant::now() > deadline {
            return Err(Failure::new(format!(
                "the global directory {} is not there, after {} s; is its file system mounted here? To resume without it: mana_restart --without-global",
                global.display(),
                GLOBAL_LIMIT.as_secs()
            )));
        }
        thread::sleep(Duration::from_millis(200));
    }
    Ok(())
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
        .map_err(|e| failed("make it", e.to_string()))?;
    use nix::unistd::{access, AccessFlags};
    access(path, AccessFlags::W_OK | AccessFlags::X_OK)
        .map_err(|e| failed("write there", e.desc().to_owned()))
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
            },
            committed,
        }
    }

    fn mode(state: &JobState, occasion: Occasion) -> Option<Mode> {
        by_state(state, "job", occasion, Path::new("/g"))
            .ok()
            .map(|d| d.mode)
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
