//! Finding a job from outside: by configuration and identity.

use std::fmt;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use libckpt::identity;
use libckpt::records::{JobState, Records};
use libckpt::store::Store;
use mana::slurm;
use mana_control::{Client, Rendezvous};

use crate::cli::JobChoice;
use crate::message::Failure;
use crate::settings;
use crate::status::ANSWER_LIMIT;
use crate::stores::{nodes, state_in_words};

/// The rendezvous of the running job that is meant.
pub fn running(choice: &JobChoice) -> Result<Rendezvous, Failure> {
    let config = settings::load(&choice.settings)?;
    let global = config.global_ckpt_dir.as_path();
    if let Some(id) = &choice.id {
        let id = of_this_start(global, identity::given(id)?)?;
        return Ok(Rendezvous::read(&Rendezvous::path(global, &id))?);
    }
    let mut found: Vec<String> = names(global)?
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| Rendezvous::path(global, name).is_file())
        .collect();
    if found.len() > 1 {
        // A job that was killed leaves its file behind.
        found.retain(|name| answers(&Rendezvous::path(global, name)));
    }
    match found.as_slice() {
        [only] => Ok(Rendezvous::read(&Rendezvous::path(global, only))?),
        [] => Err(Failure::new(format!(
            "no job runs under control with the global directory {} (an MPI program does from MPI_Init on); {}",
            global.display(),
            match stored(choice, global) {
                Ok(last) => format!("{last} was the last one ({}; 'mana list', 'mana report'); to see another directory's jobs {WHICH}", standing(global, &last)),
                Err(_) => WHICH.to_owned(),
            }
        ))),
        several => Err(Failure::new(format!(
            "several jobs run with {}: name one with --id ({})",
            global.display(),
            several.join(", ")
        ))),
    }
}

/// Connects to the coordinator of a running job; why not, if its records or the batch system can tell.
pub fn connect(rendezvous: &Rendezvous, choice: &JobChoice) -> Result<Client, Failure> {
    Client::connect(rendezvous, ANSWER_LIMIT).map_err(|e| {
        let mut failure = Failure::from(e);
        if let Ok(config) = settings::load(&choice.settings) {
            let id = &rendezvous.job;
            let standing = standing(&config.global_ckpt_dir, id);
            failure.text = format!("job {id} does not answer: {standing} ({})", failure.text);
        }
        failure
    })
}

/// How a job stands by its records, and in the batch system's queue.
fn standing(global: &Path, id: &str) -> String {
    let records = Records::new(Store::at(global.join(id)));
    let text = state_in_words(&records).unwrap_or_else(|e| e.text);
    match queued(global, id) {
        Some(queued) => format!("{queued}; {text}"),
        None => text,
    }
}

/// What the batch system says of a job in its queue.
#[derive(Debug)]
pub struct Queued {
    job: String,
    state: String,
    /// This process belongs to that job of the batch system.
    pub is_ours: bool,
}

impl Queued {
    /// Whether it runs or will; one that is completing has ended, and its nodes are cleared.
    pub fn goes_on(&self) -> bool {
        !self.state.starts_with("COMPLETING")
    }
}

impl fmt::Display for Queued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slurm's job {} is {}", self.job, self.state)
    }
}

/// An unfinished job, if the batch system has it in its queue and says so soon, and not as the one this process belongs to.
pub fn ask_queue(global: &Path, id: &str) -> Option<Queued> {
    let found = look_in_queue(global, id, slurm::SHORTLY).unwrap_or_default();
    found.filter(|queued| !queued.is_ours)
}

/// An unfinished job, if the batch system has it in its queue.
///
/// # Errors
/// When the batch system does not answer within `limit`.
pub fn look_in_queue(global: &Path, id: &str, limit: Duration) -> Result<Option<Queued>, String> {
    let records = Records::new(Store::at(global.join(id)));
    let Ok(JobState::Unfinished { incarnation, .. }) = records.state() else {
        return Ok(None);
    };
    let Some(job) = &incarnation.batch_job else {
        return Ok(None);
    };
    let ours = identity::batch_job(&|name: &str| std::env::var(name).ok());
    Ok(slurm::state(job, limit)?.map(|state| Queued {
        job: job.clone(),
        state,
        is_ours: ours.is_some_and(|ours| incarnation.is_of(&ours)),
    }))
}

/// The same; one that cannot be asked for is in no queue.
pub fn in_queue(global: &Path, id: &str) -> Option<Queued> {
    look_in_queue(global, id, slurm::LIMIT).unwrap_or_default()
}

/// The same in words.
pub fn queued(global: &Path, id: &str) -> Option<String> {
    in_queue(global, id).map(|queued| queued.to_string())
}

/// Those of a batch job, or of a component of it: named after it, or else gone on with by it.
pub fn of_batch_job(global: &Path, names: &[String], batch_job: &str) -> Vec<String> {
    let begin = format!("{batch_job}-");
    let named = |name: &&String| name.starts_with(&begin);
    let gone_on_with = |name: &&String| {
        let last = Records::new(Store::at(global.join(name))).last();
        last.is_ok_and(|last| last.is_some_and(|last| last.is_of(batch_job)))
    };
    let found: Vec<String> = names.iter().filter(named).cloned().collect();
    match found.is_empty() && !batch_job.contains('+') {
        true => names.iter().filter(gone_on_with).cloned().collect(),
        false => found,
    }
}

/// Whether a coordinator has left word of where it is, of the job that is meant or of any.
pub fn is_any_announced(choice: &JobChoice, global: &Path) -> Result<bool, Failure> {
    let is_there = |name: &str| Rendezvous::path(global, name).exists();
    if let Some(id) = &choice.id {
        return Ok(is_there(&of_this_start(global, identity::given(id)?)?));
    }
    Ok(names(global)?.iter().any(|(name, _)| is_there(name)))
}

/// Why nothing may be found.
pub const WHICH: &str = "name the job's configuration with --config (directories in it that are not absolute count from the current one)";

/// Whether a coordinator answers to this file.
pub fn answers(path: &Path) -> bool {
    Rendezvous::read(path).is_ok_and(|r| Client::connect(&r, ANSWER_LIMIT).is_ok())
}

/// The identity meant by offline commands: the one given, else the one last started.
pub fn stored(choice: &JobChoice, global: &Path) -> Result<String, Failure> {
    if let Some(id) = &choice.id {
        let id = of_this_start(global, identity::given(id)?)?;
        let all = names(global)?;
        if all.iter().any(|(name, _)| *name == id) {
            return Ok(id);
        }
        let list: Vec<_> = all.into_iter().map(|(name, _)| name).collect();
        return Err(Failure::new(match list.is_empty() {
            true => nothing(choice, global),
            false => format!(
                "no job {id} in {}; there are {}",
                global.display(),
                list.join(", ")
            ),
        }));
    }
    let mut all = names(global)?;
    all.sort_by_key(|(_, time)| *time);
    all.pop()
        .map(|(name, _)| name)
        .ok_or_else(|| Failure::new(nothing(choice, global)))
}

fn nothing(choice: &JobChoice, global: &Path) -> String {
    format!(
        "no job has left anything in the global directory {}{}; {WHICH}",
        global.display(),
        without_records(choice).unwrap_or_default()
    )
}

/// Jobs of which this node's storage has checkpoints, when there is no record of any.
fn without_records(choice: &JobChoice) -> Option<String> {
    let config = settings::load(&choice.settings).ok()?;
    let mut found: Vec<String> = Vec::new();
    for node in nodes(&config) {
        let base = Store::of_node(&config, node);
        let jobs = names(&base).ok()?.into_iter().map(|(name, _)| name);
        found.extend(jobs.filter(|name| {
            let here = Store::at(base.join(name)).generations();
            here.is_ok_and(|here| !here.is_empty())
        }));
    }
    found.sort();
    found.dedup();
    (!found.is_empty()).then(|| {
        format!(
            " (checkpoints of {} lie in {}, and no record of them here: without it nothing resumes them, and they may be deleted)",
            found.join(", "),
            config.local_ckpt_dir.display()
        )
    })
}

/// The name itself, or the only one of the Slurm job of that number, which is what its user knows.
fn of_this_start(global: &Path, given: String) -> Result<String, Failure> {
    let all: Vec<String> = names(global)?.into_iter().map(|(name, _)| name).collect();
    let is_number = given.starts_with(|c: char| c.is_ascii_digit());
    if !is_number || all.contains(&given) {
        return Ok(given);
    }
    Ok(match of_batch_job(global, &all, &given).as_slice() {
        [only] => only.clone(),
        _ => given,
    })
}

/// The jobs of a global directory, with the time of the last change.
pub fn names(global: &Path) -> Result<Vec<(String, SystemTime)>, Failure> {
    let entries = match fs::read_dir(global) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => {
            use std::io::ErrorKind::{NotADirectory, PermissionDenied};
            return Err(Failure {
                passing: !matches!(e.kind(), NotADirectory | PermissionDenied),
                ..Failure::new(format!("cannot list {}: {e}", global.display()))
            });
        }
    };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
            continue;
        };
        let Ok(facts) = entry.metadata() else {
            continue;
        };
        if facts.is_dir() && identity::given(&name).is_ok() {
            found.push((name, facts.modified().unwrap_or(SystemTime::UNIX_EPOCH)));
        }
    }
    found.sort();
    Ok(found)
}
