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

/// Runs until told to quit, by a signal or on the terminal.
pub fn run(options: &cli::Coordinator) -> Result<i32, Failure> {
    let config = settings::load(&options.settings)?;
    let global = config.global_ckpt_dir.as_path();
    let stop = stop_signals()?;
    let job = options.id.as_deref().map(identity::given).transpose()?;
    let coordinator = Coordinator::spawn(CoordinatorOptions {
        job,
        incarnation: None,
        secret: Secret::generate()?,
        bind: options.coord_host.clone(),
        port: options.coord_port,
        settings: None,
        // With port 0 the file's name is known only now.
        rendezvous: None,
        fd_floor: 0,
    })?;
    let path = options
        .file
        .clone()
        .unwrap_or_else(|| file(global, coordinator.port()));
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)
            .map_err(|e| Failure::new(format!("cannot make {}: {e}", parent.display())))?;
    }
    coordinator.rendezvous().write(&path)?;
    println!(
        "mana_coordinator: listening on {} (--coord-port {}), {}",
        coordinator.addresses().join(" "),
        coordinator.port(),
        path.display()
    );
    let _ = std::io::stdout().flush();
    serve(&coordinator, stop);
    let removed = std::fs::remove_file(&path);
    coordinator.shutdown();
    removed.map_err(|e| Failure::new(format!("cannot remove {}: {e}", path.display())))?;
    Ok(0)
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
