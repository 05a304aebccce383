//! The coordinator as a thread: embedded in rank 0's lower half, or in `mana_coordinator`.
//!
//! Spawn it with all signals blocked when it shares the process with a program.

use std::io::Write as _;
use std::net::{IpAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags};

use crate::connect::after;
use crate::keeper::{Keeper, Places};
use crate::machine::Core;
use crate::rendezvous::this_host;
use crate::server::{Server, ServerParts};
use crate::wire::above;
use crate::{ControlError, Level, Outcome, Rendezvous, Request, Secret, Settings, Status};

/// Where to listen and what to coordinate.
#[derive(Clone, Debug)]
pub struct CoordinatorOptions {
    /// The job; `None` (stand-alone): that of the first rank that registers.
    pub job: Option<String>,
    /// The incarnation; `None` (stand-alone): that of the first rank that registers.
    pub incarnation: Option<u32>,
    /// The job's secret.
    pub secret: Secret,
    /// Address to listen on, without port (`0.0.0.0`, `127.0.0.1`, `::`).
    pub bind: String,
    /// Port; 0: any free one.
    pub port: u16,
    /// Intervals and limits; `None`: those rank 0 brings.
    pub settings: Option<Settings>,
    /// Where to leave the file for tools (mode 0600), if anywhere; removed at the end.
    pub rendezvous: Option<PathBuf>,
    /// Directory of all jobs, to keep the job's events in (`<events>/<job>/events.jsonl`), if anywhere.
    pub events: Option<PathBuf>,
    /// File for metrics in Prometheus' text format, if anywhere; removed at the end.
    pub metrics: Option<PathBuf>,
    /// Our descriptors are moved to this number or above, out of the program's way (0: leave them).
    pub fd_floor: i32,
}

/// What a handle may ask of the coordinator's thread.
pub(crate) enum Command {
    Status(Sender<Status>),
    Needed(Sender<Option<Needed>>),
    Request(Request),
    Kill(String),
    SetInterval(Level, Option<Duration>),
    Shutdown,
}

/// For how long a job may still need its coordinator, if it was told to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needed {
    /// From its SIGTERM to its kill.
    pub grace: Duration,
    /// What is left for its last checkpoint, if one was asked for; a batch system may give more time than the grace.
    pub last: Option<Duration>,
}

/// How the job ended, for those who wait for it.
#[derive(Debug, Default)]
pub(crate) struct Ending {
    state: Mutex<(Option<Outcome>, bool)>,
    changed: Condvar,
}

impl Ending {
    fn lock(&self) -> MutexGuard<'_, (Option<Outcome>, bool)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the outcome.
    pub fn note(&self, outcome: &Outcome) {
        let mut state = self.lock();
        if state.0.as_ref() != Some(outcome) {
            state.0 = Some(outcome.clone());
            self.changed.notify_all();
        }
    }

    /// The coordinator stops: nothing more to wait for.
    pub fn stop(&self) {
        self.lock().1 = true;
        self.changed.notify_all();
    }

    fn wait(&self, limit: Duration) -> Outcome {
        let deadline = after(limit);
        let mut state = self.lock();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match &*state {
                (Some(outcome), _) => return outcome.clone(),
                (None, true) => return Outcome::Undecided,
                (None, false) if left.is_zero() => return Outcome::Undecided,
                (None, false) => {}
            }
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

/// Handle to a running coordinator. All methods may be called from any thread. Dropping it stops the
/// coordinator.
#[derive(Debug)]
pub struct Coordinator {
    commands: Mutex<Sender<Command>>,
    waker: UnixStream,
    ending: Arc<Ending>,
    thread: Option<JoinHandle<()>>,
    rendezvous: Rendezvous,
    port: u16,
}

impl Coordinator {
    /// Listens and starts the coordinator's thread.
    ///
    /// # Errors
    /// When the address cannot be listened on, or the rendezvous file not be written.
    pub fn spawn(options: CoordinatorOptions) -> Result<Self, ControlError> {
        let floor = options.fd_floor;
        let ip: IpAddr = options.bind.parse().map_err(|_| ControlError::Denied {
            reason: format!("{:?} is not an IP address to listen on", options.bind),
        })?;
        let failed =
            |operation, e| ControlError::io(operation, format!("{ip} port {}", options.port), e);
        let listener = TcpListener::bind((ip, options.port)).map_err(|e| failed("listen on", e))?;
        let listener = TcpListener::from(above(OwnedFd::from(listener), floor));
        listener
            .set_nonblocking(true)
            .map_err(|e| failed("prepare to listen on", e))?;
        let port = listener
            .local_addr()
            .map_err(|e| failed("find the port of", e))?
            .port();
        let (waker, woken) =
            UnixStream::pair().map_err(|e| failed("make a wake-up channel for", e))?;
        let [waker, woken] =
            [waker, woken].map(|end| UnixStream::from(above(OwnedFd::from(end), floor)));
        for end in [&waker, &woken] {
            end.set_nonblocking(true)
                .map_err(|e| failed("prepare the wake-up channel of", e))?;
        }
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
            .map_err(|e| failed("make an epoll instance for", e.into()))?;
        let epoll = Epoll(above(epoll.0, floor));

        let rendezvous = Rendezvous {
            job: options.job.clone().unwrap_or_default(),
            incarnation: options.incarnation.unwrap_or(0),
            addresses: reachable(ip)
                .iter()
                .map(|ip| std::net::SocketAddr::new(*ip, port).to_string())
                .collect(),
            secret: options.secret.clone(),
            host: this_host(),
            pid: std::process::id(),
        };
        if let Some(path) = &options.rendezvous {
            rendezvous.write(path)?;
        }
        let keeper = Keeper::start(Places {
            events: options.events,
            metrics: options.metrics,
        })?;
        let (commands, received) = mpsc::channel();
        let ending = Arc::new(Ending::default());
        let server = Server::new(ServerParts {
            core: Core::new(options.job, options.incarnation, options.settings),
            secret: options.secret,
            listener,
            waker: woken,
            commands: received,
            ending: Arc::clone(&ending),
            rendezvous: options.rendezvous.map(|path| (path, rendezvous.clone())),
            fd_floor: floor,
            epoll,
            keeper,
        })?;
        let thread = std::thread::Builder::new()
            .name("mana-coord".into())
            .spawn(move || server.run())
            .map_err(|e| failed("start the coordinator's thread for", e))?;
        Ok(Self {
            commands: Mutex::new(commands),
            waker,
            ending,
            thread: Some(thread),
            rendezvous,
            port,
        })
    }

    /// `host:port` under which ranks and tools can reach it, in the order to try.
    pub fn addresses(&self) -> Vec<String> {
        self.rendezvous.addresses.clone()
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What tools need to know to connect. A stand-alone coordinator names no job: any tool that
    /// knows the secret may talk to it.
    pub fn rendezvous(&self) -> Rendezvous {
        self.rendezvous.clone()
    }

    /// The state of the job.
    ///
    /// # Errors
    /// When the coordinator has stopped.
    pub fn status(&self) -> Result<Status, ControlError> {
        let (sender, receiver) = mpsc::channel();
        self.tell(Command::Status(sender));
        receiver
            .recv_timeout(Duration::from_secs(10))
            .map_err(|_| ControlError::Closed {
                peer: "the coordinator".into(),
            })
    }

    /// For how long the job that runs now may need the coordinator from here on, if it is told to end now; `None`: there is
    /// no such job.
    pub fn needed(&self) -> Option<Needed> {
        let (sender, receiver) = mpsc::channel();
        self.tell(Command::Needed(sender));
        receiver.recv_timeout(Duration::from_secs(10)).ok()?
    }

    /// Asks for a checkpoint. Does not wait; a refusal is logged.
    pub fn request(&self, request: Request) {
        self.tell(Command::Request(request));
    }

    /// Ends the job: every rank's [`crate::RankHooks::end_job`].
    pub fn kill(&self, reason: &str) {
        self.tell(Command::Kill(reason.to_owned()));
    }

    /// Changes one level's interval; `None`: by hand only.
    pub fn set_interval(&self, level: Level, interval: Option<Duration>) {
        self.tell(Command::SetInterval(level, interval));
    }

    /// Waits up to `limit` until every rank has reported its end or is gone. The process of rank 0
    /// must not exit before this returns.
    pub fn wait_end(&self, limit: Duration) -> Outcome {
        self.ending.wait(limit)
    }

    /// Whether the coordinator's thread has stopped (a tool's `quit`).
    pub fn has_stopped(&self) -> bool {
        self.ending.lock().1
    }

    /// Stops listening, drops all connections, removes the rendezvous file.
    pub fn shutdown(self) {
        drop(self);
    }

    fn tell(&self, command: Command) {
        // If the thread has stopped there is nobody to tell.
        let _ = self
            .commands
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .send(command);
        // A full channel means that it will wake up anyway.
        let _ = (&self.waker).write(&[1]);
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        self.tell(Command::Shutdown);
        if let Some(thread) = self.thread.take() {
            // It cannot fail but by a panic, which has been reported.
            let _ = thread.join();
        }
    }
}

/// The addresses a listener on `ip` can be reached at: this host's, with loopback last.
fn reachable(ip: IpAddr) -> Vec<IpAddr> {
    if !ip.is_unspecified() {
        return vec![ip];
    }
    let mut found: Vec<IpAddr> = Vec::new();
    // Without a list of interfaces loopback is left, which serves a job on one host.
    if let Ok(interfaces) = nix::ifaddrs::getifaddrs() {
        for interface in interfaces {
            use nix::net::if_::InterfaceFlags;
            // Without a carrier (a bridge of virtual machines, a cable that is not plugged in) nobody comes that way.
            let live = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING;
            if !interface.flags.contains(live) {
                continue;
            }
            let Some(address) = interface.address else {
                continue;
            };
            let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
            let v6 = address
                .as_sockaddr_in6()
                .filter(|a| a.scope_id() == 0)
                .map(|a| IpAddr::V6(a.ip()));
            found.extend(
                v4.or(v6.filter(|_| ip.is_ipv6()))
                    .filter(|ip| !ip.is_loopback()),
            );
        }
    }
    found.dedup();
    found.push(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));
    found
}
