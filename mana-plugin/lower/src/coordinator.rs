//! The coordinator of this start: embedded in rank 0's process, or one that stands alone.

use std::path::PathBuf;
use std::time::Duration;

use libckpt::config::OnError;
use libckpt::session::Session;
use libckpt::Level;
use mana_control::{Coordinator, CoordinatorOptions, Rendezvous, Secret, Settings};
use serde::{Deserialize, Serialize};

use crate::{batch, job, Failure};

/// What every rank must know of the coordinator.
#[derive(Serialize, Deserialize, Default)]
pub struct Contact {
    pub addresses: Vec<String>,
    /// Of a stand-alone coordinator; an embedded one has the job's.
    secret: Option<[u8; 32]>,
}

impl Contact {
    /// The secret to prove membership with.
    pub fn secret(&self, jobs: Secret) -> Secret {
        self.secret.map_or(jobs, Secret::from_bytes)
    }
}

/// Where tools look for this job's coordinator.
fn file(session: &Session) -> PathBuf {
    session.global().root().join(Rendezvous::FILE_NAME)
}

/// Rank 0: starts the embedded coordinator, or finds the stand-alone one.
pub fn bring_up(
    session: &Session,
    secret: &Secret,
    incarnation: u32,
    size: u32,
) -> Result<Contact, Failure> {
    let spec = &job().spec;
    if let Some(other) = &spec.coordinator {
        let there = Rendezvous::read(&other.file)?;
        let addresses = vec![format!("{}:{}", other.host, other.port)];
        lead_tools(session, incarnation, &there, &addresses)?;
        return Ok(Contact {
            addresses,
            secret: Some(*there.secret.as_bytes()),
        });
    }
    let near = spec.config.test_mode || size == 1;
    let coordinator = Coordinator::spawn(CoordinatorOptions {
        job: Some(spec.identity.clone()),
        incarnation: Some(incarnation),
        secret: secret.clone(),
        bind: if near { "127.0.0.1" } else { "0.0.0.0" }.into(),
        port: 0,
        settings: Some(settings(session)),
        rendezvous: Some(file(session)),
        events: Some(spec.config.global_ckpt_dir.clone()),
        metrics: spec.config.metrics_file.clone(),
        fd_floor: 0,
    })?;
    let addresses = coordinator.addresses();
    // It runs as long as the process.
    std::mem::forget(coordinator);
    Ok(Contact {
        addresses,
        secret: None,
    })
}

/// Tools find a job by its own file, whoever coordinates it.
fn lead_tools(
    session: &Session,
    incarnation: u32,
    there: &Rendezvous,
    addresses: &[String],
) -> Result<(), Failure> {
    let own = Rendezvous {
        job: job().spec.identity.clone(),
        incarnation,
        addresses: addresses.to_vec(),
        ..there.clone()
    };
    Ok(own.write(&file(session))?)
}

/// A stand-alone coordinator that was lost is there again, perhaps with another secret.
pub fn renew(session: &Session, incarnation: u32) -> Result<(), Failure> {
    let Some(other) = job()
        .spec
        .coordinator
        .as_ref()
        .filter(|_| session.rank() == 0)
    else {
        return Ok(());
    };
    let there = Rendezvous::read(&other.file)?;
    let mut addresses = vec![format!("{}:{}", other.host, other.port)];
    addresses.extend(there.addresses.iter().cloned());
    lead_tools(session, incarnation, &there, &addresses)
}

/// The job is over: an embedded coordinator takes its file away itself.
pub fn leave(session: &Session) {
    if job().spec.coordinator.is_some() && session.rank() == 0 {
        // A tool that finds a stale file is told that nobody answers.
        let _ = std::fs::remove_file(file(session));
    }
}

/// What the coordinator is told.
pub fn settings(session: &Session) -> Settings {
    let config = &job().spec.config;
    let nodes = session.topology().nodes();
    let limit = Duration::from_secs(config.checkpoint_timeout);
    Settings {
        intervals: Level::ALL.map(|l| config.interval(l)),
        enabled: Level::ALL.map(|l| config.enabled(l, nodes)),
        gate_limit: limit,
        stopped_limit: limit,
        start_limit: limit,
        stop_on_error: config.on_error == OnError::Stop,
        time_left: batch::time_left(),
        end_margin: config.end_margin.map(Duration::from_secs_f64),
        grace: batch::grace(),
        asks: batch::can_be_asked(),
        at_end: config.at_end,
        ..Settings::default()
    }
}
