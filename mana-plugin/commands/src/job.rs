//! Finding a job from outside: by configuration and identity.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use libckpt::identity;
use mana_control::Rendezvous;

use crate::cli::JobChoice;
use crate::message::Failure;
use crate::settings;

/// The rendezvous of the running job that is meant.
pub fn running(choice: &JobChoice) -> Result<Rendezvous, Failure> {
    let config = settings::load(&choice.settings)?;
    let global = config.global_ckpt_dir.as_path();
    if let Some(id) = &choice.id {
        let id = identity::given(id)?;
        return Ok(Rendezvous::read(&Rendezvous::path(global, &id))?);
    }
    let mut found: Vec<String> = names(global)?
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| Rendezvous::path(global, name).is_file())
        .collect();
    match (found.pop(), found.is_empty()) {
        (Some(only), true) => Ok(Rendezvous::read(&Rendezvous::path(global, &only))?),
        (Some(last), false) => {
            found.push(last);
            Err(Failure::new(format!(
                "several jobs run with {}: name one with --id ({})",
                global.display(),
                found.join(", ")
            )))
        }
        (None, _) => Err(Failure::new(format!(
            "no job runs with {}; give the job's configuration (--config) or directory",
            global.display()
        ))),
    }
}

/// The identity meant by offline commands: the one given, else the one last started.
pub fn stored(choice: &JobChoice, global: &Path) -> Result<String, Failure> {
    if let Some(id) = &choice.id {
        return Ok(identity::given(id)?);
    }
    let mut all = names(global)?;
    all.sort_by_key(|(_, time)| *time);
    all.pop().map(|(name, _)| name).ok_or_else(|| {
        Failure::new(format!(
            "{}: no job has left anything here; check --config",
            global.display()
        ))
    })
}

/// The jobs of a global directory, with the time of the last change.
pub fn names(global: &Path) -> Result<Vec<(String, SystemTime)>, Failure> {
    let entries = match fs::read_dir(global) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => {
            return Err(Failure::new(format!(
                "cannot list {}: {e}",
                global.display()
            )))
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
