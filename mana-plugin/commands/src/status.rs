//! `mana status`: asks a job's coordinator.

use std::time::Duration;

use mana_control::{Client, Request, Status};

use crate::cli;
use crate::job;
use crate::message::Failure;
use crate::settings;
use crate::view;
use crate::watch;

/// How long a connection and a plain question may take.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Shows or acts.
pub fn status(options: &cli::Status) -> Result<i32, Failure> {
    if options.watch && !options.checkpoint && !options.kill {
        return watch::watch(options);
    }
    let rendezvous = job::running(&options.job)?;
    let mut client = match job::connect(&rendezvous, &options.job) {
        Ok(client) => client,
        Err(failure) => return waiting(options, &rendezvous.job, failure),
    };
    if options.checkpoint {
        return checkpoint(options, &mut client);
    }
    if options.kill {
        client.kill("asked for by mana_status --kill")?;
        println!("job {}: told to end", rendezvous.job);
        return Ok(0);
    }
    for (level, every) in &options.interval {
        client.set_interval(level.to_control(), (!every.is_zero()).then_some(*every))?;
    }
    let state = client.status()?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&state)?);
    } else if !options.interval.is_empty() {
        print!("{}", view::text::intervals(&state));
    } else {
        print!("{}", view::describe(&state));
    }
    Ok(0)
}

/// For programs: a job that waits in the batch system's queue is a state, too.
fn waiting(options: &cli::Status, id: &str, failure: Failure) -> Result<i32, Failure> {
    let asked = options.json && !options.checkpoint && !options.kill;
    let config = settings::load(&options.job.settings)?;
    match job::queued(&config.global_ckpt_dir, id).filter(|_| asked) {
        Some(why) => {
            println!("{}", serde_json::to_string_pretty(&waits(id, why))?);
            Ok(0)
        }
        None => Err(failure),
    }
}

/// The state of a job whose next start is waited for.
pub fn waits(id: &str, why: String) -> Status {
    Status {
        job: id.to_owned(),
        phase: "waiting".into(),
        closed: Some(why),
        ..Status::default()
    }
}

/// Nothing more will happen.
pub fn is_over(state: &Status) -> bool {
    state.phase == "ended"
}

fn checkpoint(options: &cli::Status, client: &mut Client) -> Result<i32, Failure> {
    let request = Request {
        level: options.level.map(cli::Level::to_control),
        kill: options.kill,
    };
    let limit = Duration::from_secs(options.timeout);
    match client.checkpoint(request, options.wait, limit)? {
        Some(done) => println!("{}", view::generation_line(&done)),
        None => println!("checkpoint asked for"),
    }
    Ok(0)
}
