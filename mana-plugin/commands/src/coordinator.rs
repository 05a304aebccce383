//! `mana coordinator`: a coordinator of its own process, with a small command line on a terminal.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use libckpt::identity;
use mana_control::{Coordinator, CoordinatorOptions, Level, Request, Secret};
use nix::sys::signal::{SigSet, Signal};

use crate::cli;
use crate::message::Failure;
use crate::settings;
use crate::status::describe;

const HELP: &str = "l  list the ranks        s  status         c [LEVEL]  take a checkpoint\n\
                    i LEVEL SECONDS  change an interval (0: by hand)   k  kill the job   q  quit   h  help";

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

/// Runs until told to quit, by a signal or on the terminal.
pub fn run(options: &cli::Coordinator) -> Result<i32, Failure> {
    // Whoever installs one first wins; there is no other.
    let _ = log::set_logger(&LINES);
    log::set_max_level(log::LevelFilter::Info);
    let config = settings::load(&options.settings)?;
    let global = config.global_ckpt_dir.as_path();
    let stop = stop_signals()?;
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

/// A channel that tells when a signal asks us to stop. Before any other thread exists.
fn stop_signals() -> Result<mpsc::Receiver<Event>, Failure> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        set.add(signal);
    }
    set.thread_block()
        .map_err(|e| Failure::new(format!("cannot block signals: {e}")))?;
    let (sender, receiver) = mpsc::channel();
    let from_signals = sender.clone();
    thread::spawn(move || {
        if set.wait().is_ok() {
            // Nobody listens any more: we are ending already.
            let _ = from_signals.send(Event::Stop);
        }
    });
    if std::io::stdin().is_terminal() {
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
    Stop,
    Line(String),
}

fn serve(coordinator: &Coordinator, events: mpsc::Receiver<Event>) {
    loop {
        match events.recv_timeout(Duration::from_secs(3600)) {
            Ok(Event::Stop) | Err(mpsc::RecvTimeoutError::Disconnected) => return,
            Ok(Event::Line(line)) if line.trim() == "q" => return,
            Ok(Event::Line(line)) => command(coordinator, line.trim()),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
    }
}

fn command(coordinator: &Coordinator, line: &str) {
    let mut words = line.split_whitespace();
    let verb = words.next().unwrap_or("");
    let level = words.next().map(str::parse::<Level>).transpose();
    match (verb, level) {
        ("", _) => {}
        ("l" | "s", _) => match coordinator.status() {
            Ok(state) => print!("{}", describe(&state)),
            Err(e) => println!("{e}"),
        },
        ("c", Ok(level)) => coordinator.request(Request { level, kill: false }),
        ("i", Ok(Some(level))) => match words.next().and_then(|w| w.parse::<u64>().ok()) {
            Some(0) => coordinator.set_interval(level, None),
            Some(seconds) => coordinator.set_interval(level, Some(Duration::from_secs(seconds))),
            None => println!("i LEVEL SECONDS"),
        },
        ("k", _) => coordinator.kill("asked for on the coordinator's terminal"),
        (_, Err(e)) => println!("{e}"),
        _ => println!("{HELP}"),
    }
}
