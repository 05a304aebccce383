//! `mana status --watch`: one start after the other, until the job is over.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use libckpt::records::{End, JobState, Records};
use libckpt::store::Store;
use mana::slurm;
use mana_control::{Client, Rendezvous, Status};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::cli;
use crate::job;
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
#[derive(Clone, Copy, PartialEq)]
enum Seen {
    /// This start is over.
    Over,
    /// Its coordinator does not answer any more: it may be over, or come back.
    Lost,
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
    /// A signal asked to leave the live view.
    leave: Arc<AtomicBool>,
    /// No view is drawn: signals end the process themselves.
    between: Arc<AtomicBool>,
}

/// Until the job is over, or nobody reads any more.
pub fn watch(options: &cli::Status) -> Result<i32, Failure> {
    let global = settings::load(&options.job.settings)?.global_ckpt_dir;
    let (id, mut known) = match job::running(&options.job) {
        Ok(found) => (found.job.clone(), Some(found)),
        // Between two starts there may be no coordinator to be found.
        Err(failure) if job::is_any_announced(&options.job, &global)? => return Err(failure),
        Err(failure) => match job::stored(&options.job, &global) {
            Ok(id) if job::in_queue(&global, &id).is_some() => (id, None),
            _ => return Err(failure),
        },
    };
    let live = !options.json && std::io::stdout().is_terminal() && moves_its_cursor();
    let watch = Watch {
        options,
        global,
        id,
        live,
        leave: Arc::new(AtomicBool::new(false)),
        between: Arc::new(AtomicBool::new(true)),
    };
    if live {
        watch.leave_on_signals();
    }
    let mut seen = Seen::Lost;
    if let Some(found) = &known {
        match job::connect(found, &options.job) {
            Ok(mut client) => seen = watch.one_start(&mut client)?,
            Err(_) if job::in_queue(&watch.global, &watch.id).is_some() => {}
            Err(failure) => return Err(failure),
        }
    }
    while seen != Seen::Gone {
        let Some((found, mut client)) = watch.next_start(known.as_ref(), seen)? else {
            break;
        };
        known = Some(found);
        seen = watch.one_start(&mut client)?;
    }
    Ok(0)
}

/// Whether a live view can be drawn: a terminal that says it is dumb (an editor's, a log) takes lines.
fn moves_its_cursor() -> bool {
    std::env::var_os("TERM").is_some_and(|kind| !kind.is_empty() && kind != "dumb")
}

/// How long a view may take to leave a terminal that has gone, in seconds.
const AT_LAST: u32 = 2;

impl Watch<'_> {
    /// Without it the terminal would be left as the view has it. What cannot be had is no reason not to show one.
    fn leave_on_signals(&self) {
        for signal in [SIGTERM, SIGINT, SIGHUP] {
            let between = Arc::clone(&self.between);
            let _ = signal_hook::flag::register_conditional_default(signal, between);
        }
        for signal in [SIGTERM, SIGINT] {
            let _ = signal_hook::flag::register(signal, Arc::clone(&self.leave));
        }
        let told = Arc::clone(&self.leave);
        let gone = move || {
            told.store(true, Ordering::Relaxed);
            // SAFETY: async-signal-safe, no preconditions; nobody else uses SIGALRM, which ends the process.
            unsafe { libc::alarm(AT_LAST) };
        };
        // SAFETY: the action stores to an atomic and calls alarm(2): both may be done in a signal handler.
        let _ = unsafe { signal_hook::low_level::register(SIGHUP, gone) };
    }

    fn one_start(&self, client: &mut Client) -> Result<Seen, Failure> {
        if self.live {
            self.between.store(false, Ordering::Relaxed);
            let left = view::live(client, &self.leave);
            self.between.store(true, Ordering::Relaxed);
            let (line, seen) = match left? {
                Left::Over(line) => (line, Seen::Over),
                Left::Lost(line) => (line, Seen::Lost),
                Left::Gone => return Ok(Seen::Gone),
            };
            return Ok(if put(&line) { seen } else { Seen::Gone });
        }
        let mut said: Option<(String, Instant)> = None;
        loop {
            let asked = Instant::now();
            let state = match client.status() {
                Ok(state) => state,
                Err(e) => {
                    eprintln!("{e}: the job has ended, or its coordinator has");
                    // One that has not answered once is not asked again.
                    return Ok(said.map_or(Seen::Over, |_| Seen::Lost));
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

    /// The coordinator of the start after `known`, or of that one again if it was lost; `None`: there will be none.
    fn next_start(
        &self,
        known: Option<&Rendezvous>,
        seen: Seen,
    ) -> Result<Option<(Rendezvous, Client)>, Failure> {
        let file = Rendezvous::path(&self.global, &self.id);
        let began = Instant::now();
        // Since when the batch system is known not to have it.
        let mut gone = began;
        let mut queued = None;
        let mut asked: Option<Instant> = None;
        let mut said = String::new();
        loop {
            let asks = asked.is_none_or(|when| when.elapsed() >= ASK_EVERY);
            let again = seen == Seen::Lost && asks && asked.is_some();
            let found = Rendezvous::read(&file).ok();
            if let Some(found) = found.filter(|found| again || Some(found) != known) {
                if let Ok(client) = Client::connect(&found, ANSWER_LIMIT) {
                    return Ok(Some((found, client)));
                }
            }
            if asks {
                asked = Some(Instant::now());
                if is_final(&self.global, &self.id) {
                    return Ok(None);
                }
                match job::look_in_queue(&self.global, &self.id, slurm::LIMIT) {
                    Ok(found) => queued = found,
                    // A controller that does not answer says nothing new.
                    Err(_) if began.elapsed() < slurm::PATIENCE => gone = Instant::now(),
                    Err(_) => {}
                }
            }
            if self.leave.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let why = match &queued {
                // In the script of that job this would wait for itself.
                Some(queued) if queued.is_ours => return Ok(None),
                Some(queued) => queued.to_string(),
                None if gone.elapsed() < SOON => {
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
            std::thread::sleep(EVERY);
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
