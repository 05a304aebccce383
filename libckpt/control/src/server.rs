//! The coordinator's thread: sockets in front of the machine.
//!
//! One thread serves all connections with epoll; nothing in it blocks. A connection is a stranger
//! until it has proven its membership, and is dropped if that takes longer than [`PATIENCE`], if it
//! sends more than a stranger may, or too much too fast afterwards. Strangers are few at a time, so
//! that they cannot use up descriptors.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read as _};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::Receiver;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags, EpollTimeout};

use crate::auth::{exactly, Challenge, Hello, Role, Transcript};
use crate::connect::one_line;
use crate::coordinator::{Command, Ending};
use crate::keeper::Keeper;
use crate::machine::{Action, Core, To};
use crate::metrics;
use crate::protocol::{FromRank, FromTool, ToRank, ToTool, MAX_TO_COORDINATOR};
use crate::secret::random_bytes;
use crate::wire::{encode, Wire};
use crate::{ControlError, Event, Record, Rendezvous, Secret};

/// How long a stranger may take to prove itself and, if it is a rank, to register.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most strangers at a time; the oldest makes room.
const MAX_STRANGERS: usize = 1024;
/// Most tools at a time.
const MAX_TOOLS: usize = 64;
/// Most bytes queued for one peer that does not read.
const MAX_UNSENT: usize = 256 << 20;
/// Between two looks of a monitoring system.
const METRICS: Duration = Duration::from_secs(15);
/// For the job's last events to be written.
const LAST_EVENTS: Duration = Duration::from_secs(2);
/// Messages a peer may send at once, and per second in the long run.
const BURST: f64 = 4000.0;
const RATE: f64 = 2000.0;

const LISTENER: u64 = 0;
const WAKER: u64 = 1;

enum Stage {
    /// Nothing heard yet.
    Silent,
    /// Challenged.
    Challenged(Box<Transcript>, Hello),
    /// Proven; a rank that has not registered yet.
    Proven {
        rank: u32,
        job: String,
        incarnation: u32,
    },
    Rank(u32),
    Tool,
    /// To be closed once everything is sent.
    Closing,
}

struct Peer {
    wire: Wire,
    stage: Stage,
    since: Duration,
    /// Messages it may still send now.
    credit: f64,
    credited: Duration,
    wants_write: bool,
}

impl Peer {
    fn is_stranger(&self) -> bool {
        !matches!(self.stage, Stage::Rank(_) | Stage::Tool)
    }
}

pub(crate) struct Server {
    core: Core,
    secret: Secret,
    listener: TcpListener,
    waker: UnixStream,
    commands: Receiver<Command>,
    ending: Arc<Ending>,
    rendezvous: Option<(std::path::PathBuf, Rendezvous)>,
    fd_floor: i32,
    epoll: Epoll,
    began: Instant,
    next_token: u64,
    peers: HashMap<u64, Peer>,
    strangers: VecDeque<u64>,
    /// Connection of each rank.
    ranks: Vec<Option<u64>>,
    /// Connections with something new to send.
    touched: Vec<u64>,
    quit: bool,
    /// Not accepting for lack of descriptors until then.
    accept_again: Option<Duration>,
    keeper: Option<Keeper>,
    /// When to write metrics next.
    next_metrics: Duration,
    /// The job has ended: there is nothing to measure until the next begins.
    is_over: bool,
}

pub(crate) struct ServerParts {
    pub core: Core,
    pub secret: Secret,
    pub listener: TcpListener,
    pub waker: UnixStream,
    pub commands: Receiver<Command>,
    pub ending: Arc<Ending>,
    pub rendezvous: Option<(std::path::PathBuf, Rendezvous)>,
    pub fd_floor: i32,
    pub epoll: Epoll,
    pub keeper: Option<Keeper>,
}

impl Server {
    pub fn new(parts: ServerParts) -> Result<Self, ControlError> {
        let watch = |fd: std::os::fd::BorrowedFd, token| {
            parts
                .epoll
                .add(fd, EpollEvent::new(EpollFlags::EPOLLIN, token))
                .map_err(|e| ControlError::io("watch", "the coordinator's socket", e.into()))
        };
        watch(std::os::fd::AsFd::as_fd(&parts.listener), LISTENER)?;
        watch(std::os::fd::AsFd::as_fd(&parts.waker), WAKER)?;
        Ok(Self {
            core: parts.core,
            secret: parts.secret,
            listener: parts.listener,
            waker: parts.waker,
            commands: parts.commands,
            ending: parts.ending,
            rendezvous: parts.rendezvous,
            fd_floor: parts.fd_floor,
            epoll: parts.epoll,
            began: Instant::now(),
            next_token: WAKER + 1,
            peers: HashMap::new(),
            strangers: VecDeque::new(),
            ranks: Vec::new(),
            touched: Vec::new(),
            quit: false,
            accept_again: None,
            keeper: parts.keeper,
            next_metrics: Duration::ZERO,
            is_over: false,
        })
    }

    /// Serves until told to stop.
    pub fn run(mut self) {
        let mut events = vec![EpollEvent::empty(); 256];
        while !self.quit {
            let timeout = self.timeout();
            let ready = match self.epoll.wait(&mut events, timeout) {
                Ok(ready) => ready,
                Err(nix::errno::Errno::EINTR) => 0,
                Err(e) => {
                    log::error!("the coordinator stops: epoll_wait: {e}; the program runs on without checkpoints");
                    break;
                }
            };
            let now = self.began.elapsed();
            for event in events.iter().take(ready) {
                match event.data() {
                    LISTENER => self.accept(now),
                    WAKER => self.take_wakeups(),
                    token => self.serve(now, token, event.events()),
                }
            }
            self.take_commands(now);
            if now >= self.core.wake() {
                self.core.tick(now);
            }
            self.drop_silent(now);
            self.act();
            self.measure(now);
            self.withdraw();
            self.flush(now);
            self.note_end();
        }
        self.ending.stop();
        if let Some((path, rendezvous)) = &self.rendezvous {
            rendezvous.remove(path);
        }
    }

    fn timeout(&self) -> EpollTimeout {
        let now = self.began.elapsed();
        let mut wake = self.core.wake();
        if let Some(peer) = self
            .strangers
            .front()
            .and_then(|token| self.peers.get(token))
        {
            wake = wake.min(peer.since + PATIENCE);
        }
        if let Some(again) = self.accept_again {
            wake = wake.min(again);
        }
        if self.measures() {
            wake = wake.min(self.next_metrics);
        }
        // Rounded up, or the loop would spin for the last fraction of a millisecond.
        let millis = wake.saturating_sub(now).as_millis().saturating_add(1);
        EpollTimeout::try_from(i32::try_from(millis).unwrap_or(i32::MAX))
            .unwrap_or(EpollTimeout::ZERO)
    }

    fn accept(&mut self, now: Duration) {
        loop {
            match self.listener.accept() {
                Ok((stream, address)) => {
                    let peer = format!("{address}");
                    match Wire::new(stream, peer, self.fd_floor) {
                        Ok(wire) => self.admit(now, wire),
                        Err(e) => log::debug!("{}", one_line(&e)),
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e)
                    if matches!(
                        e.raw_os_error(),
                        Some(libc_errno::EMFILE | libc_errno::ENFILE)
                    ) =>
                {
                    log::warn!(
                        "the coordinator cannot take more than {} connections: {e}; raise the limit of open files (ulimit -n)",
                        self.peers.len()
                    );
                    // The listener stays readable: look away for a moment instead of spinning.
                    let _ = self.epoll.delete(&self.listener);
                    self.accept_again = Some(now + Duration::from_secs(1));
                    return;
                }
                // The peer has given up already, or was interrupted: the next one.
                Err(_) => {}
            }
        }
    }

    fn admit(&mut self, now: Duration, wire: Wire) {
        if self.strangers.len() >= MAX_STRANGERS {
            if let Some(oldest) = self.strangers.front().copied() {
                self.close(
                    now,
                    oldest,
                    "too many connections that have not proven their membership",
                );
            }
        }
        let token = self.next_token;
        self.next_token += 1;
        if let Err(e) = self
            .epoll
            .add(&wire, EpollEvent::new(EpollFlags::EPOLLIN, token))
        {
            log::debug!("{}: {e}", wire.peer);
            return;
        }
        self.strangers.push_back(token);
        self.peers.insert(
            token,
            Peer {
                wire,
                stage: Stage::Silent,
                since: now,
                credit: BURST,
                credited: now,
                wants_write: false,
            },
        );
    }

    fn take_wakeups(&mut self) {
        let mut bytes = [0; 64];
        while matches!(self.waker.read(&mut bytes), Ok(n) if n > 0) {}
    }

    fn take_commands(&mut self, now: Duration) {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Status(reply) => {
                    // A caller that does not wait any more needs no answer.
                    let _ = reply.send(self.core.status(now));
                }
                Command::Needed(reply) => {
                    let _ = reply.send(self.core.needed(now));
                }
                Command::Request(request) => {
                    if let Err(reason) = self.core.want(now, request, None) {
                        log::warn!("checkpoint not taken: {reason}");
                    }
                }
                Command::Kill(reason) => self.core.end_job(now, &reason),
                Command::SetInterval(level, interval) => {
                    if let Err(reason) = self.core.set_interval(now, level, interval) {
                        log::warn!("interval not changed: {reason}");
                    }
                }
                Command::Shutdown => self.quit = true,
            }
        }
    }

    /// Reads and handles what one connection has sent.
    fn serve(&mut self, now: Duration, token: u64, events: EpollFlags) {
        let Some(peer) = self.peers.get_mut(&token) else {
            return;
        };
        if events.contains(EpollFlags::EPOLLOUT) {
            self.touched.push(token);
        }
        if !events.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
            return;
        }
        if let Err(e) = peer.wire.receive() {
            return self.close(now, token, &one_line(&e));
        }
        while let Some(peer) = self.peers.get_mut(&token) {
            if matches!(peer.stage, Stage::Closing) {
                // Whatever it still says; the end of the connection is what counts.
                if peer.wire.next().is_err() {
                    self.close(now, token, "refused");
                }
                return;
            }
            let message = match peer.wire.next() {
                Ok(Some(message)) => message,
                Ok(None) => return,
                Err(e) => return self.close(now, token, &one_line(&e)),
            };
            let earned = now.saturating_sub(peer.credited).as_secs_f64() * RATE;
            peer.credit = (peer.credit + earned).min(BURST) - 1.0;
            peer.credited = now;
            if peer.credit < 0.0 {
                return self.close(now, token, "it sends too many messages");
            }
            if let Err(e) = self.handle(now, token, &message) {
                return self.close(now, token, &one_line(&e));
            }
        }
    }

    fn handle(&mut self, now: Duration, token: u64, message: &[u8]) -> Result<(), ControlError> {
        let Some(peer) = self.peers.get_mut(&token) else {
            return Ok(());
        };
        match &peer.stage {
            Stage::Silent => self.challenge(token, message),
            Stage::Challenged(..) => self.prove(token, message),
            Stage::Proven {
                rank,
                job,
                incarnation,
            } => {
                let FromRank::Register(found) = exactly(message, &peer.wire.peer)? else {
                    return Err(ControlError::Broken {
                        peer: peer.wire.peer.clone(),
                        reason: "a message before the registration".into(),
                    });
                };
                let (rank, job, incarnation) = (*rank, job.clone(), *incarnation);
                match self.core.register(now, rank, &job, incarnation, &found) {
                    Ok(()) => {
                        peer.stage = Stage::Rank(rank);
                        self.strangers.retain(|stranger| *stranger != token);
                        let index = rank as usize;
                        if self.ranks.len() <= index {
                            self.ranks.resize(index + 1, None);
                        }
                        if let Some(old) = self.ranks[index].replace(token) {
                            // It has not been noticed yet that this connection is dead.
                            if let Some(peer) = self.peers.remove(&old) {
                                let _ = self.epoll.delete(&peer.wire);
                            }
                        }
                        // Later orders may go to all: this one is for the rank that has just come.
                        self.act();
                        Ok(())
                    }
                    Err(reason) => {
                        log::warn!("{} not accepted: {reason}", peer.wire.peer);
                        peer.wire.push_message(&ToRank::Denied { reason })?;
                        peer.stage = Stage::Closing;
                        self.touched.push(token);
                        Ok(())
                    }
                }
            }
            Stage::Rank(rank) => {
                let rank = *rank;
                let message: FromRank = exactly(message, &peer.wire.peer)?;
                self.core.rank(now, rank, message);
                Ok(())
            }
            Stage::Tool => {
                let message: FromTool = exactly(message, &peer.wire.peer)?;
                self.core.tool(now, token, message);
                Ok(())
            }
            Stage::Closing => Ok(()),
        }
    }

    /// The first message of a stranger.
    fn challenge(&mut self, token: u64, message: &[u8]) -> Result<(), ControlError> {
        let Some(peer) = self.peers.get_mut(&token) else {
            return Ok(());
        };
        let refuse = |peer: &mut Peer, reason: String| {
            peer.stage = Stage::Closing;
            peer.wire.push(&Challenge::Refused { reason }.encode())
        };
        let hello = match Hello::decode(message, &peer.wire.peer) {
            Ok(hello) => hello,
            Err(e @ ControlError::Version { .. }) => {
                log::warn!("{e}");
                self.touched.push(token);
                // Our own version is in front of the refusal.
                return refuse(peer, "another version".into());
            }
            Err(e) => return Err(e),
        };
        if matches!(hello.role, Role::Rank(_))
            && self.core.is_stand_alone()
            && self.core.is_deserted()
        {
            self.core.reset();
            self.ranks.clear();
        }
        self.touched.push(token);
        let is_tool = hello.role == Role::Tool;
        if let Err(reason) = self.core.admits(&hello.job, hello.incarnation, is_tool) {
            return refuse(peer, reason);
        }
        let nonce = random_bytes()?;
        let transcript = Transcript::new(&self.secret, message, &nonce);
        peer.wire.push(
            &Challenge::Prove {
                nonce,
                proof: transcript.listener_proof(),
            }
            .encode(),
        )?;
        peer.stage = Stage::Challenged(Box::new(transcript), hello);
        Ok(())
    }

    /// The second message of a stranger.
    fn prove(&mut self, token: u64, message: &[u8]) -> Result<(), ControlError> {
        let tools = self
            .peers
            .values()
            .filter(|peer| matches!(peer.stage, Stage::Tool))
            .count();
        let Some(peer) = self.peers.get_mut(&token) else {
            return Ok(());
        };
        let Stage::Challenged(transcript, hello) =
            std::mem::replace(&mut peer.stage, Stage::Closing)
        else {
            return Ok(());
        };
        let refused = |peer: &Peer, reason: &str| ControlError::Refused {
            peer: peer.wire.peer.clone(),
            reason: reason.into(),
        };
        let proof = <[u8; 32]>::try_from(message)
            .map_err(|_| refused(peer, "a proof of the wrong length"))?;
        if !transcript.is_connector(proof) {
            log::warn!(
                "{} does not know the job's secret: connection dropped",
                peer.wire.peer
            );
            return Err(refused(peer, "wrong proof"));
        }
        peer.wire
            .authenticate(transcript.into_listener(), MAX_TO_COORDINATOR);
        match hello.role {
            Role::Rank(rank) => {
                peer.wire.peer = format!("rank {rank} at {}", peer.wire.peer);
                peer.stage = Stage::Proven {
                    rank,
                    job: hello.job,
                    incarnation: hello.incarnation,
                };
            }
            Role::Tool if tools >= MAX_TOOLS => {
                return Err(refused(peer, "too many tools at a time"))
            }
            Role::Tool => {
                peer.stage = Stage::Tool;
                self.strangers.retain(|stranger| *stranger != token);
            }
        }
        Ok(())
    }

    fn drop_silent(&mut self, now: Duration) {
        while let Some(token) = self.strangers.front().copied() {
            match self.peers.get(&token) {
                Some(peer) if peer.is_stranger() && now < peer.since + PATIENCE => break,
                Some(peer) if peer.is_stranger() => {
                    log::debug!("{} did not prove its membership in time", peer.wire.peer);
                    self.close(now, token, "silent");
                }
                _ => {
                    self.strangers.pop_front();
                }
            }
        }
        if self.accept_again.is_some_and(|again| now >= again) {
            self.accept_again = None;
            if let Err(e) = self.epoll.add(
                &self.listener,
                EpollEvent::new(EpollFlags::EPOLLIN, LISTENER),
            ) {
                log::warn!("the coordinator accepts no more connections: {e}");
            }
        }
    }

    /// Carries out what the machine wants.
    fn act(&mut self) {
        for action in self.core.take_actions() {
            match action {
                Action::Send { to, message } => self.send(to, &message),
                Action::Answer { tool, message } => self.answer(tool, &message),
                Action::Log {
                    warning: true,
                    text,
                } => log::warn!("{text}"),
                Action::Log {
                    warning: false,
                    text,
                } => log::info!("{text}"),
                Action::Event {
                    job,
                    incarnation,
                    event,
                } => self.keep(job, Record::now(incarnation, event)),
                Action::Quit => self.quit = true,
            }
        }
    }

    /// Keeps an event for the report; at the end of the job it is written before anybody is told.
    fn keep(&mut self, job: String, record: Record) {
        let Some(keeper) = &mut self.keeper else {
            return;
        };
        match record.event {
            Event::Started { .. } => self.is_over = false,
            Event::Ended { .. } => self.is_over = true,
            _ => {}
        }
        keeper.event(job, record);
        if self.is_over {
            keeper.no_metrics();
            keeper.flush(LAST_EVENTS);
        }
        self.next_metrics = Duration::ZERO;
    }

    /// Whether metrics are to be written, and there is something to measure.
    fn measures(&self) -> bool {
        let keeper = self.keeper.as_ref();
        !self.is_over && keeper.is_some_and(Keeper::keeps_metrics)
    }

    /// Writes metrics, if they are wanted and it is time.
    fn measure(&mut self, now: Duration) {
        if now < self.next_metrics || !self.measures() {
            return;
        }
        let text = metrics::text(&self.core.status(now));
        if let Some(keeper) = &mut self.keeper {
            keeper.metrics(text);
        }
        self.next_metrics = now + METRICS;
    }

    /// Encodes once, seals for each.
    fn send(&mut self, to: To, message: &ToRank) {
        let payload = match encode(message) {
            Ok(payload) => payload,
            Err(e) => return log::error!("{}", one_line(&e)),
        };
        let tokens: Vec<u64> = match to {
            To::Rank(rank) => self
                .ranks
                .get(rank as usize)
                .copied()
                .flatten()
                .into_iter()
                .collect(),
            _ => (0u32..)
                .zip(&self.ranks)
                .filter(|(rank, _)| self.core.is_addressed(to, *rank))
                .filter_map(|(_, token)| *token)
                .collect(),
        };
        for token in tokens {
            self.push(token, &payload);
        }
    }

    fn answer(&mut self, tool: u64, message: &ToTool) {
        match encode(message) {
            Ok(payload) => self.push(tool, &payload),
            Err(e) => log::error!("{}", one_line(&e)),
        }
    }

    fn push(&mut self, token: u64, payload: &[u8]) {
        if let Some(peer) = self.peers.get_mut(&token) {
            // A payload has a length below 4 GiB; an overfull queue is noticed when flushing.
            let _ = peer.wire.push(payload);
            self.touched.push(token);
        }
    }

    fn flush(&mut self, now: Duration) {
        // Closing a rank's connection makes the machine send again.
        while !self.touched.is_empty() {
            let mut touched = std::mem::take(&mut self.touched);
            // Tools first: a rank that is told to end may take this process along.
            let is_tool = |token: &u64| {
                self.peers
                    .get(token)
                    .is_some_and(|peer| matches!(peer.stage, Stage::Tool))
            };
            touched.sort_by_key(|token| !is_tool(token));
            for token in touched {
                let Some(peer) = self.peers.get_mut(&token) else {
                    continue;
                };
                if let Err(e) = peer.wire.flush() {
                    self.close(now, token, &one_line(&e));
                    continue;
                }
                if peer.wire.unsent() > MAX_UNSENT {
                    self.close(now, token, "it does not read what it is sent");
                    continue;
                }
                let wants_write = peer.wire.unsent() > 0;
                if !wants_write && matches!(peer.stage, Stage::Closing) {
                    self.close(now, token, "refused");
                    continue;
                }
                if wants_write != peer.wants_write {
                    let mut interest = EpollFlags::EPOLLIN;
                    interest.set(EpollFlags::EPOLLOUT, wants_write);
                    if self
                        .epoll
                        .modify(&peer.wire, &mut EpollEvent::new(interest, token))
                        .is_ok()
                    {
                        peer.wants_write = wants_write;
                    }
                }
            }
            self.act();
        }
    }

    fn close(&mut self, now: Duration, token: u64, reason: &str) {
        let Some(peer) = self.peers.remove(&token) else {
            return;
        };
        let _ = self.epoll.delete(&peer.wire);
        log::debug!("connection to {} closed: {reason}", peer.wire.peer);
        if peer.is_stranger() {
            self.strangers.retain(|stranger| *stranger != token);
        }
        if let Stage::Rank(rank) = peer.stage {
            let place = self.ranks.get_mut(rank as usize);
            // Otherwise the rank has come back on another connection.
            if let Some(place) = place.filter(|place| **place == Some(token)) {
                *place = None;
                self.core.lost(now, rank);
            }
        }
    }

    /// The job is over: removes the rendezvous file *before* the last rank is told, because this
    /// process may end as soon as it knows.
    fn withdraw(&mut self) {
        if self.core.over().is_some() && !self.core.is_stand_alone() {
            if let Some((path, rendezvous)) = self.rendezvous.take() {
                rendezvous.remove(&path);
            }
        }
    }

    /// Tells those who wait for the end, once everything that was to be sent is on its way.
    fn note_end(&mut self) {
        let Some(outcome) = self.core.over() else {
            return;
        };
        let is_sent =
            |peer: &Peer| !matches!(peer.stage, Stage::Rank(_)) || peer.wire.unsent() == 0;
        if self.peers.values().all(is_sent) {
            self.ending.note(outcome);
        }
    }
}

/// The two numbers of `accept` that mean "no more descriptors".
mod libc_errno {
    pub const EMFILE: i32 = nix::errno::Errno::EMFILE as i32;
    pub const ENFILE: i32 = nix::errno::Errno::ENFILE as i32;
}
