//! `mana status`: asks a job's coordinator.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use mana_control::{Client, Request, Status};

use crate::cli;
use crate::job;
use crate::message::Failure;
use crate::settings;
use crate::view;

/// How long a connection and a plain question may take.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Between two looks.
const EVERY: Duration = Duration::from_secs(1);
/// Without a terminal: a line at least this often.
const AT_LEAST: Duration = Duration::from_secs(30);

/// Shows or acts.
pub fn status(options: &cli::Status) -> Result<i32, Failure> {
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
    if options.watch {
        return watch(options, &mut client);
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
    let asked = options.json && !options.watch && !options.checkpoint && !options.kill;
    let config = settings::load(&options.job.settings)?;
    match job::queued(&config.global_ckpt_dir, id).filter(|_| asked) {
        Some(why) => {
            let state = Status {
                job: id.to_owned(),
                phase: "waiting".into(),
                closed: Some(why),
                ..Status::default()
            };
            println!("{}", serde_json::to_string_pretty(&state)?);
            Ok(0)
        }
        None => Err(failure),
    }
}

/// Until the job ends, or nobody reads any more.
fn watch(options: &cli::Status, client: &mut Client) -> Result<i32, Failure> {
    if !options.json && std::io::stdout().is_terminal() && moves_its_cursor() {
        view::live(client)?;
        return Ok(0);
    }
    let mut said: Option<(String, Instant)> = None;
    loop {
        let asked = Instant::now();
        let state = match client.status() {
            Ok(state) => state,
            Err(e) if said.is_none() => return Err(e.into()),
            Err(e) => {
                eprintln!("{e}: the job has ended, or its coordinator has");
                return Ok(0);
            }
        };
        let line = if options.json {
            said.get_or_insert((String::new(), asked));
            Some(serde_json::to_string(&state)?)
        } else {
            let line = view::text::line(&state);
            let is_news = said
                .as_ref()
                .is_none_or(|(known, when)| *known != line || when.elapsed() >= AT_LEAST);
            is_news.then(|| {
                said = Some((line.clone(), Instant::now()));
                format!("{:>7.0} s  {line}", state.uptime)
            })
        };
        if let Some(line) = line {
            let mut out = std::io::stdout().lock();
            if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
                // Whoever read has gone.
                return Ok(0);
            }
        }
        if is_over(&state) {
            return Ok(0);
        }
        std::thread::sleep(EVERY.saturating_sub(asked.elapsed()));
    }
}

/// Whether a live view can be drawn: a terminal that says it is dumb (an editor's, a log) takes lines.
fn moves_its_cursor() -> bool {
    std::env::var_os("TERM").is_some_and(|kind| !kind.is_empty() && kind != "dumb")
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
