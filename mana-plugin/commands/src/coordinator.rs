//! `mana coordinator`: a coordinator of its own process, with a small command line on a terminal.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use libckpt::identity;
use mana_control::{Coordinator, CoordinatorOptions, Level, Request, Secret, Status};
use nix::sys::signal::{SigSet, Signal};

use crate::cli;
use crate::message::Failure;
use crate::settings;
use crate::view::text;

const HELP: &str = "\
l                  list the ranks, where they are and what they do
s                  status: levels, the last checkpoint, what is waited for
c [LEVEL]          take a checkpoint (of the highest level, unless named)
i                  show the intervals
i [LEVEL] SECONDS  change the interval of one level, or of all that have one (0: by hand only)
k                  kill the job's ranks
q                  quit; a job runs on without checkpoints
h                  this help";

/// The file a stand-alone coordinator leaves for ranks and tools: they need the secret in it.
pub fn file(global: &Path, port: u16) -> PathBuf {
    global.join(format!("coordinator-{port}.json"))
}

/// What the coordinator has to say, on standard error.
static LINES: Lines = Lines;

struct Lines;

impl log::Log for Lines {
    fn enabled(&self, metadata: &log::Metadata) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &log::Record) {
        let note = match record.level() {
            log::Level::Error => "error: ",
            log::Level::Warn => "warning: ",
            _ => "",
        };
        let line = format!("mana_coordinator: {note}{}\n", record.args());
        // There is nowhere to tell of a standard error that cannot be written.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }

    fn flush(&self) {}
}

/// Between two looks whether the job still needs its coordinator.
const LOOK: Duration = Duration::from_millis(200);
/// What a job that is asked to end may take at least; whoever kills sooner does so.
const GRACE: Duration = Duration::from_secs(30);

/// Runs until told to quit, by a signal or on the terminal.
pub fn run(options: &cli::Coordinator) -> Result<i32, Failure> {
    // Whoever installs one first wins; there is no other.
    let _ = log::set_logger(&LINES);
    log::set_max_level(log::LevelFilter::Info);
    let config = settings::load_for(&["global_ckpt_dir", "metrics_file"], &options.settings)?;
    let global = config.global_ckpt_dir.as_path();
    let stop = stop_signals(options.interactive || std::io::stdin().is_terminal())?;
    let job = options.id.as_deref().map(identity::given).transpose()?;
    let coordinator = Coordinator::spawn(CoordinatorOptions {
        job,
        incarnation: None,
        secret: Secret::generate()?,
        bind: address(&options.coord_host)?,
        port: options.coord_port,
        settings: None,
        // With port 0 the file's name is known only now.
        rendezvous: None,
        events: Some(global.to_owned()),
        metrics: config.metrics_file.clone(),
        fd_floor: 0,
    })
    .map_err(|e| {
        let text = crate::message::chain(&e);
        match options.coord_port {
            0 => Failure::new(text),
            _ => Failure::new(format!("{text}; use another port, or 0 for any free one")),
        }
    })?;
    let path = file(global, coordinator.port());
    crate::decision::make(global)?;
    coordinator.rendezvous().write(&path)?;
    let addresses = coordinator.addresses();
    let host = addresses
        .first()
        .and_then(|first| first.rsplit_once(':'))
        .map_or("", |(host, _)| host.trim_matches(['[', ']']));
    println!(
        "mana_coordinator: listening on {}; start jobs with MANA_COORD_HOST={host} MANA_COORD_PORT={port} or --coord-host {host} --coord-port {port} (secret in {})",
        addresses.join(" "),
        path.display(),
        port = coordinator.port(),
    );
    let _ = std::io::stdout().flush();
    serve(&coordinator, stop);
    let removed = std::fs::remove_file(&path);
    coordinator.shutdown();
    removed.map_err(|e| Failure::new(format!("cannot remove {}: {e}", path.display())))?;
    Ok(0)
}

/// The address of this host that a name means.
fn address(host: &str) -> Result<String, Failure> {
    use std::net::ToSocketAddrs as _;
    let mut found = (host, 0)
        .to_socket_addrs()
        .map_err(|e| Failure::new(format!("--coord-host {host}: {e}")))?;
    found
        .next()
        .map(|socket| socket.ip().to_string())
        .ok_or_else(|| Failure::new(format!("--coord-host {host}: has no address")))
}

/// A channel that tells when a signal asks us to stop, or (`interactive`) a line was typed. Before any
/// other thread exists.
fn stop_signals(interactive: bool) -> Result<mpsc::Receiver<Event>, Failure> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        set.add(signal);
    }
    set.thread_block()
        .map_err(|e| Failure::new(format!("cannot block signals: {e}")))?;
    let (sender, receiver) = mpsc::channel();
    let from_signals = sender.clone();
    thread::spawn(move || {
        while let Ok(signal) = set.wait() {
            if from_signals.send(Event::Signal(signal)).is_err() {
                // Nobody listens any more: we are ending already.
                break;
            }
        }
    });
    if interactive {
        thread::spawn(move || {
            for line in std::io::stdin().lock().lines().map_while(Result::ok) {
                if sender.send(Event::Line(line)).is_err() {
                    break;
                }
            }
        });
    }
    Ok(receiver)
}

enum Event {
    Signal(Signal),
    Line(String),
}

/// A SIGTERM has asked it to end. In a step of a Slurm job the ranks get it as well, and take a last checkpoint.
struct Leave {
    /// When it ends although the job has not.
    latest: Instant,
}

impl Leave {
    /// `None`: no job needs it.
    fn begin(coordinator: &Coordinator) -> Option<Self> {
        let needed = coordinator.needed()?;
        // The job's launcher may leave less; it is none of this process's.
        let grace = needed.grace.max(GRACE);
        let limit = needed.last.unwrap_or_default().max(grace);
        log::info!(
            "SIGTERM: stays for the job's last checkpoint until it has ended, {} s at most; a second signal ends it at once",
            limit.as_secs()
        );
        Some(Self {
            latest: Instant::now() + limit,
        })
    }

    /// Whether it is time.
    fn is_over(&mut self, coordinator: &Coordinator) -> bool {
        let Some(needed) = coordinator.needed() else {
            return true;
        };
        let now = Instant::now();
        self.latest = self.latest.max(now + needed.last.unwrap_or_default());
        now >= self.latest
    }
}

fn serve(coordinator: &Coordinator, events: mpsc::Receiver<Event>) {
    let mut leave: Option<Leave> = None;
    loop {
        let limit = leave.as_ref().map_or(Duration::from_secs(3600), |_| LOOK);
        match events.recv_timeout(limit) {
            Ok(Event::Signal(Signal::SIGTERM)) if leave.is_none() => {
                leave = Leave::begin(coordinator);
                if leave.is_none() {
                    return;
                }
            }
            Ok(Event::Signal(_)) | Err(mpsc::RecvTimeoutError::Disconnected) => return,
            Ok(Event::Line(line)) => {
                if act(coordinator, line.trim()) {
                    return;
                }
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
        if leave
            .as_mut()
            .is_some_and(|leave| leave.is_over(coordinator))
        {
            return;
        }
    }
}

/// What a typed line means.
#[derive(Debug, PartialEq, Eq)]
enum Order {
    Nothing,
    List,
    Status,
    Checkpoint(Option<Level>),
    Intervals,
    /// `None`: all levels that have one. Zero: by hand only.
    SetInterval(Option<Level>, Duration),
    Kill,
    Quit,
    Help,
}

fn parse(line: &str) -> Result<Order, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    Ok(match words.as_slice() {
        [] => Order::Nothing,
        ["l"] => Order::List,
        ["s"] => Order::Status,
        ["c"] => Order::Checkpoint(None),
        ["c", level] => Order::Checkpoint(Some(level.parse()?)),
        ["i"] => Order::Intervals,
        ["i", all] => Order::SetInterval(None, cli::interval_seconds(all)?),
        ["i", level, one] => Order::SetInterval(Some(level.parse()?), cli::interval_seconds(one)?),
        ["k"] => Order::Kill,
        ["q"] => Order::Quit,
        ["h" | "?"] => Order::Help,
        _ => return Err(format!("{line:?} is no command; h lists them")),
    })
}

/// Does what was typed. True: quit.
fn act(coordinator: &Coordinator, line: &str) -> bool {
    let with_state = |show: &dyn Fn(&Status) -> String| match coordinator.status() {
        Ok(state) => print!("{}", show(&state)),
        Err(e) => println!("{e}"),
    };
    match parse(line) {
        Ok(Order::Nothing) => {}
        Ok(Order::List) => with_state(&text::list),
        Ok(Order::Status) => with_state(&text::describe),
        Ok(Order::Checkpoint(level)) => coordinator.request(Request { level, kill: false }),
        Ok(Order::Intervals) => with_state(&text::intervals),
        Ok(Order::SetInterval(level, interval)) => {
            let wanted = (!interval.is_zero()).then_some(interval);
            let levels = match level {
                Some(level) => vec![level],
                None => with_interval(coordinator),
            };
            for level in levels {
                coordinator.set_interval(level, wanted);
            }
            with_state(&text::intervals);
        }
        Ok(Order::Kill) => coordinator.kill("asked for on the coordinator's terminal"),
        Ok(Order::Quit) => return true,
        Ok(Order::Help) => println!("{HELP}"),
        Err(why) => println!("{why}"),
    }
    // Whoever reads may be gone.
    let _ = std::io::stdout().flush();
    false
}

/// The levels that are taken at intervals.
fn with_interval(coordinator: &Coordinator) -> Vec<Level> {
    let levels = coordinator.status().map(|state| state.levels);
    levels.map_or_else(
        |_| Vec::new(),
        |levels| {
            let timed = levels.into_iter().filter(|l| l.interval.is_some());
            timed.map(|level| level.level).collect()
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters() {
        assert_eq!(parse("  "), Ok(Order::Nothing));
        assert_eq!(parse("c"), Ok(Order::Checkpoint(None)));
        assert_eq!(
            parse("c partner"),
            Ok(Order::Checkpoint(Some(Level::Partner)))
        );
        assert_eq!(
            parse("i local 2.5"),
            Ok(Order::SetInterval(
                Some(Level::Local),
                Duration::from_millis(2500)
            ))
        );
        assert_eq!(parse("i 0"), Ok(Order::SetInterval(None, Duration::ZERO)));
        assert_eq!(parse("i"), Ok(Order::Intervals));
        assert_eq!(parse("?"), Ok(Order::Help));
        for wrong in ["x", "c nowhere", "i local never", "i -1", "q q"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
