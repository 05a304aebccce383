//! `mana status --watch`: one start after the other, until the job is over.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use libckpt::identity;
use libckpt::records::{End, JobState, Records};
use libckpt::store::Store;
use mana_control::{Client, Rendezvous, Status};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::cli;
use crate::job::{self, Queued};
use crate::message::Failure;
use crate::settings;
use crate::status::{is_over, waits, ANSWER_LIMIT};
use crate::view::{self, Left};

/// Between two looks.
const EVERY: Duration = Duration::from_secs(1);
/// Between two questions to the batch system.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// Without a terminal: a line at least this often.
const AT_LEAST: Duration = Duration::from_secs(30);
/// How long a job that the batch system does not know may take to be started again (by `mana run`).
const SOON: Duration = Duration::from_secs(10);

/// How a start was watched to its end.
#[derive(PartialEq)]
enum Seen {
    /// This start is over.
    Over,
    /// Whoever watched has gone.
    Gone,
}

/// Who watches, and what.
struct Watch<'a> {
    options: &'a cli::Status,
    global: PathBuf,
    id: String,
    /// A live view can be drawn.
    live: bool,
    /// A signal asked to leave; only where it does not end this process itself.
    leave: Arc<AtomicBool>,
}

/// Until the job is over, or nobody reads any more.
pub fn watch(options: &cli::Status, first: Rendezvous) -> Result<i32, Failure> {
    let live = !options.json && std::io::stdout().is_terminal() && moves_its_cursor();
    let watch = Watch {
        options,
        global: settings::load(&options.job.settings)?.global_ckpt_dir,
        id: first.job.clone(),
        live,
        leave: Arc::new(AtomicBool::new(false)),
    };
    if live {
        leave_on_signals(&watch.leave);
    }
    let mut known = first;
    let mut client = match job::connect(&known, &options.job) {
        Ok(client) => client,
        Err(failure) if job::queued(&watch.global, &watch.id).is_none() => return Err(failure),
        Err(_) => match watch.next_start(&known)? {
            Some((found, client)) => {
                known = found;
                client
            }
            None => return Ok(0),
        },
    };
    while watch.one_start(&mut client)? == Seen::Over {
        let Some((found, next)) = watch.next_start(&known)? else {
            break;
        };
        (known, client) = (found, next);
    }
    Ok(0)
}

/// How long a view may take to leave a terminal that has gone, in seconds.
const AT_LAST: u32 = 2;

/// Without them the terminal would be left as the view has it. What cannot be had is no reason not to show one.
fn leave_on_signals(leave: &Arc<AtomicBool>) {
    for signal in [SIGTERM, SIGINT] {
        let _ = signal_hook::flag::register(signal, Arc::clone(leave));
    }
    let told = Arc::clone(leave);
    let gone = move || {
        told.store(true, Ordering::Relaxed);
        // SAFETY: async-signal-safe, no preconditions; nobody else uses SIGALRM, which ends the process.
        unsafe { libc::alarm(AT_LAST) };
    };
    // SAFETY: the action stores to an atomic and calls alarm(2): both may be done in a signal handler.
    let _ = unsafe { signal_hook::low_level::register(SIGHUP, gone) };
}

/// Whether a live view can be drawn: a terminal that says it is dumb (an editor's, a log) takes lines.
fn moves_its_cursor() -> bool {
    std::env::var_os("TERM").is_some_and(|kind| !kind.is_empty() && kind != "dumb")
}

impl Watch<'_> {
    fn one_start(&self, client: &mut Client) -> Result<Seen, Failure> {
        if self.live {
            return Ok(match view::live(client, &self.leave)? {
                Left::Over(line) if put(&line) => Seen::Over,
                Left::Over(_) | Left::Gone => Seen::Gone,
            });
        }
        let mut said: Option<(String, Instant)> = None;
        loop {
            let asked = Instant::now();
            let state = match client.status() {
                Ok(state) => state,
                Err(e) if said.is_none() => return Err(e.into()),
                Err(e) => {
                    eprintln!("{e}: the job has ended, or its coordinator has");
                    return Ok(Seen::Over);
                }
            };
            let line = if self.options.json {
                said.get_or_insert((String::new(), asked));
                Some(serde_json::to_string(&state)?)
            } else {
                news(&mut said, &state)
            };
            if line.is_some_and(|line| !put(&line)) {
                return Ok(Seen::Gone);
            }
            if is_over(&state) {
                return Ok(Seen::Over);
            }
            std::thread::sleep(EVERY.saturating_sub(asked.elapsed()));
        }
    }

    /// The coordinator of the start after `known`; `None`: there will be none, or nobody waits for it any more.
    fn next_start(&self, known: &Rendezvous) -> Result<Option<(Rendezvous, Client)>, Failure> {
        let file = Rendezvous::path(&self.global, &self.id);
        let began = Instant::now();
        let mut queued = None;
        let mut asked: Option<Instant> = None;
        let mut said = String::new();
        loop {
            if let Some(found) = Rendezvous::read(&file).ok().filter(|found| found != known) {
                if let Ok(client) = Client::connect(&found, ANSWER_LIMIT) {
                    return Ok(Some((found, client)));
                }
            }
            if self.leave.load(Ordering::Relaxed) || is_final(&self.global, &self.id) {
                return Ok(None);
            }
            if asked.is_none_or(|when| when.elapsed() >= ASK_EVERY) {
                asked = Some(Instant::now());
                queued = job::in_queue(&self.global, &self.id).filter(|queued| !is_ours(queued));
            }
            let why = match &queued {
                Some(queued) => queued.to_string(),
                None if began.elapsed() < SOON => {
                    format!("it may be started again within {} s", SOON.as_secs())
                }
                None => return Ok(None),
            };
            if why != said {
                said.clone_from(&why);
                if !self.tell_of_waiting(why)? {
                    return Ok(None);
                }
            }
            std::thread::sleep(EVERY / 4);
        }
    }

    /// Whether anybody reads it.
    fn tell_of_waiting(&self, why: String) -> Result<bool, Failure> {
        Ok(put(&if self.options.json {
            serde_json::to_string(&waits(&self.id, why))?
        } else {
            format!("job {}: waiting for its next start: {why}", self.id)
        }))
    }
}

/// The line about a state, if it is a new one, or none came for a while.
fn news(said: &mut Option<(String, Instant)>, state: &Status) -> Option<String> {
    let line = view::text::line(state);
    let is_news = said
        .as_ref()
        .is_none_or(|(known, when)| *known != line || when.elapsed() >= AT_LEAST);
    is_news.then(|| {
        *said = Some((line.clone(), Instant::now()));
        format!("{:>7.0} s  {line}", state.uptime)
    })
}

/// `false`: whoever read has gone.
fn put(line: &str) -> bool {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).is_ok()
}

/// No start follows by itself.
fn is_final(global: &Path, id: &str) -> bool {
    let records = Records::new(Store::at(global.join(id)));
    matches!(records.state(), Ok(JobState::Finished | JobState::New))
        || matches!(records.end(), Some(End::Stopped { .. }))
}

/// The job of whose script this command is a part: that would wait for itself.
fn is_ours(queued: &Queued) -> bool {
    identity::batch_job(&|name: &str| std::env::var(name).ok()).as_ref() == Some(&queued.job)
}
