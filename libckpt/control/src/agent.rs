//! The rank's end of the control connection.
//!
//! Lower half, one control thread per rank. Spawn it with all signals blocked: the thread inherits
//! the mask, and a handler of the program must never run on it.

use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::auth::{exactly, Role};
use crate::connect::{after, await_message, Target};
use crate::protocol::{FromRank, Registration, Rejoin, ToRank};
use crate::service::Service;
use crate::wire::{above, Wire};
use crate::{ControlError, Outcome, RankHooks, Request, Resumed, Secret, Settings};

/// Who this rank is, and where its coordinator listens.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// Identity of the job.
    pub job: String,
    /// Which start of it.
    pub incarnation: u32,
    /// World rank.
    pub rank: u32,
    /// Ranks in the job.
    pub size: u32,
    /// Host name.
    pub host: String,
    /// Node number: ranks with the same number fail together.
    pub node: u32,
    /// The program, for `mana_status`.
    pub program: String,
    /// The number the next generation should have (the coordinator takes the largest of all ranks).
    pub next_number: u64,
    /// What the job has resumed from, on rank 0, if it has.
    pub resumed: Option<Resumed>,
    /// What this rank was configured with; the coordinator follows rank 0's unless it has its own.
    pub settings: Settings,
    /// `host:port` of the coordinator, in the order to try.
    pub addresses: Vec<String>,
    /// The job's secret.
    pub secret: Secret,
    /// How long to keep trying to connect.
    pub connect_limit: Duration,
    /// How long to look for a coordinator whose connection was lost before the program runs on unprotected; zero: for
    /// good. Else it is looked for later, too.
    pub rejoin_limit: Duration,
    /// The file a stand-alone coordinator leaves: one that was started again has another secret and
    /// perhaps other addresses. It outlives rank 0's process, an embedded one does not.
    pub stand_alone: Option<PathBuf>,
    /// Our descriptors are moved to this number or above, out of the program's way (0: leave them).
    pub fd_floor: i32,
}

impl AgentOptions {
    /// Connects, proves membership, registers. `rejoin`: this rank was registered before.
    pub(crate) fn join(
        &self,
        limit: Duration,
        rejoin: Option<Rejoin>,
    ) -> Result<Wire, ControlError> {
        let deadline = after(limit);
        let target = Target {
            role: Role::Rank(self.rank),
            job: &self.job,
            incarnation: self.incarnation,
            secret: &self.secret,
            addresses: &self.addresses,
            near: true,
            fd_floor: self.fd_floor,
        };
        let mut wire = target.connect(limit)?;
        wire.push_message(&FromRank::Register(Box::new(Registration {
            size: self.size,
            host: self.host.clone(),
            node: self.node,
            pid: std::process::id(),
            program: self.program.clone(),
            next_number: self.next_number,
            settings: self.settings.clone(),
            rejoin,
            resumed: self.resumed.clone().filter(|_| rejoin.is_none()),
        })))?;
        let answer = await_message(&mut wire, deadline, "registration")?;
        match exactly(&answer, &wire.peer)? {
            ToRank::Welcome => Ok(wire),
            ToRank::Denied { reason } => Err(ControlError::Denied { reason }),
            _ => Err(ControlError::Broken {
                peer: wire.peer.clone(),
                reason: "no answer to the registration".into(),
            }),
        }
    }
}

/// `MPI_Finalize`, seen from the control connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Finalize {
    #[default]
    No,
    /// To be announced.
    Wanted,
    Announced,
    Granted,
}

/// What the program's threads and the control thread tell each other.
#[derive(Debug, Default)]
pub(crate) struct Exchange {
    pub finalize: Finalize,
    pub exit: Option<i32>,
    pub exit_announced: bool,
    pub requests: Vec<Request>,
    /// Signals held back.
    pub signals: Vec<i32>,
    /// The batch system's answers.
    pub times_left: Vec<Option<Duration>>,
    /// Answers about the time limit.
    pub limits: Vec<Option<Duration>>,
    pub outcome: Option<Outcome>,
    pub disconnected: bool,
    pub stop: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Shared {
    exchange: Mutex<Exchange>,
    changed: Condvar,
}

impl Shared {
    pub fn lock(&self) -> MutexGuard<'_, Exchange> {
        self.exchange.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes something the program's threads may wait for.
    pub fn update(&self, change: impl FnOnce(&mut Exchange)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

/// Handle to a rank's control thread. All methods may be called from any thread that shares the
/// descriptor table of the thread that spawned the agent (they wake the control thread through a
/// descriptor); [`Agent::is_connected`], and [`Agent::finalizing`] after its first call, from any.
/// Dropping it ends the connection (which the coordinator takes for a loss, unless [`Agent::exit`] was
/// called).
#[derive(Debug)]
pub struct Agent {
    shared: Arc<Shared>,
    waker: UnixStream,
}

impl Agent {
    /// Connects, proves membership, registers the rank and starts the control thread.
    ///
    /// # Errors
    /// When no address leads to the job's coordinator within `connect_limit`, or it does not accept
    /// this rank.
    pub fn spawn(options: AgentOptions, hooks: Box<dyn RankHooks>) -> Result<Self, ControlError> {
        let wire = options.join(options.connect_limit, None)?;
        let rank = options.rank;
        let failed =
            |operation, e| ControlError::io(operation, format!("rank {rank}'s control thread"), e);
        let (waker, woken) =
            UnixStream::pair().map_err(|e| failed("make a wake-up channel for", e))?;
        let [waker, woken] =
            [waker, woken].map(|end| UnixStream::from(above(OwnedFd::from(end), options.fd_floor)));
        for end in [&waker, &woken] {
            end.set_nonblocking(true)
                .map_err(|e| failed("prepare the wake-up channel of", e))?;
        }
        let shared = Arc::new(Shared::default());
        let service = Service::new(options, wire, hooks, Arc::clone(&shared), woken);
        std::thread::Builder::new()
            .name("mana-agent".into())
            .spawn(move || service.run())
            .map_err(|e| failed("start", e))?;
        Ok(Self { shared, waker })
    }

    /// The program is in `MPI_Finalize`: may it go on? The first call announces it; ask again until
    /// `true`. No checkpoint begins once this rank (or any other) was told `true`. Never waits;
    /// `true` at once if the coordinator is gone, and then for good: one that comes back later hears of it.
    pub fn finalizing(&self) -> bool {
        let mut exchange = self.shared.lock();
        match exchange.finalize {
            _ if exchange.disconnected => {
                exchange.finalize = Finalize::Granted;
                true
            }
            Finalize::Granted => true,
            Finalize::Wanted | Finalize::Announced => false,
            Finalize::No => {
                exchange.finalize = Finalize::Wanted;
                drop(exchange);
                self.wake();
                false
            }
        }
    }

    /// The program ends with `code`: reports it and waits up to `limit` until a generation that is
    /// being written is committed or abandoned and the job's outcome is known
    /// ([`RankHooks::finish`] has then been called). With another code than 0 it does not wait for
    /// the other ranks. [`Outcome::Undecided`] when the coordinator is gone, `None` when the limit passes:
    /// it may be asked again.
    pub fn exit(&self, code: i32, limit: Duration) -> Option<Outcome> {
        let deadline = after(limit);
        let mut exchange = self.shared.lock();
        exchange.exit.get_or_insert(code);
        self.wake();
        loop {
            if let Some(outcome) = &exchange.outcome {
                return Some(outcome.clone());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if exchange.disconnected {
                return Some(Outcome::Undecided);
            }
            if left.is_zero() {
                return None;
            }
            exchange = self
                .shared
                .changed
                .wait_timeout(exchange, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Asks the coordinator for a checkpoint, as a signal of the batch system would. Does not wait.
    pub fn request(&self, request: Request) {
        self.shared.lock().requests.push(request);
        self.wake();
    }

    /// A signal that announces the end has come and is held back: asks for a last checkpoint.
    /// [`RankHooks::signal_over`] follows. Does not wait.
    pub fn signal(&self, number: i32) {
        self.shared.lock().signals.push(number);
        self.wake();
    }

    /// The answer to [`RankHooks::ask_time_left`]: how long until the job is killed, if that could be
    /// found out. Does not wait.
    pub fn time_left(&self, left: Option<Duration>) {
        self.shared.lock().times_left.push(left);
        self.wake();
    }

    /// The answer to [`RankHooks::ask_limit`]: how long until the time limit, [`Duration::MAX`] without one, `None` if it
    /// could not be found out. Does not wait.
    pub fn limit(&self, left: Option<Duration>) {
        self.shared.lock().limits.push(left);
        self.wake();
    }

    /// Whether the coordinator is connected, or looked for within `rejoin_limit`. One that is found later counts again.
    pub fn is_connected(&self) -> bool {
        !self.shared.lock().disconnected
    }

    fn wake(&self) {
        // A full channel means that the thread will wake up anyway.
        let _ = (&self.waker).write(&[1]);
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Not joined: a hook may be at work, and the process is on its way out.
        self.shared.lock().stop = true;
        self.wake();
    }
}
