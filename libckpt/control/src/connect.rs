//! The connecting side: find the coordinator, prove membership.
//!
//! An address that swallows every packet (a network that is not routed, a firewall, a dead node) must not cost the others
//! their time: all are tried side by side, and the first that proves itself is taken. Nothing is proven to the others.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::PollFd;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage};
use nix::sys::time::TimeSpec;

use crate::auth::{Challenge, Hello, Role, Transcript};
use crate::protocol::{bounded, MAX_FROM_COORDINATOR};
use crate::secret::random_bytes;
use crate::wire::Wire;
use crate::{ControlError, Secret};

/// Longest wait for one address.
const ONE_ADDRESS: Duration = Duration::from_secs(3);
/// What a rank leaves to an address before it tries the next one as well: of ten thousand ranks none connects twice for
/// nothing.
const HEAD_START: Duration = Duration::from_secs(1);
/// How long a coordinator that serves another start of a job may take to see that start's end.
const CHANGE_OF_START: Duration = Duration::from_secs(10);
/// Pause between rounds over all addresses.
const PAUSE: Duration = Duration::from_millis(100);

/// What to look for.
pub(crate) struct Target<'a> {
    pub role: Role,
    pub job: &'a str,
    pub incarnation: u32,
    pub secret: &'a Secret,
    pub addresses: &'a [String],
    /// It runs on this host, or may do: its loopback addresses are meant for us.
    pub near: bool,
    pub fd_floor: i32,
}

/// An address that led nowhere.
struct Missed {
    error: ControlError,
    /// Only its own host can tell.
    loopback: bool,
}

impl Missed {
    /// Nobody of this job listens there, for certain.
    fn is_vacant(&self) -> bool {
        use std::io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset};
        match &self.error {
            ControlError::Io { source, .. } => matches!(
                source.kind(),
                ConnectionRefused | ConnectionReset | BrokenPipe
            ),
            ControlError::Refused { .. }
            | ControlError::Broken { .. }
            | ControlError::Closed { .. }
            | ControlError::Denied { .. } => true,
            _ => false,
        }
    }

    /// Neither waiting nor another address cures it.
    fn is_final(&self, role: Role) -> bool {
        match self.error {
            ControlError::Version { .. } => true,
            ControlError::Denied { .. } => role == Role::Tool,
            _ => false,
        }
    }
}

/// An address that is being tried.
struct Attempt {
    wire: Wire,
    hello: Vec<u8>,
    address: SocketAddr,
    began: Instant,
}

impl Attempt {
    fn missed(&self, error: ControlError) -> Missed {
        Missed {
            error,
            loopback: self.address.ip().is_loopback(),
        }
    }

    /// As far as it goes without waiting. `Some`: it is the job's coordinator.
    fn step(&mut self, secret: &Secret) -> Result<Option<Transcript>, ControlError> {
        if let Some(e) = self.wire.connecting_error() {
            return Err(ControlError::io("connect to", self.address, e));
        }
        self.wire.flush()?;
        self.wire.receive()?;
        let Some(answer) = self.wire.next()? else {
            return Ok(None);
        };
        match Challenge::decode(&answer, &self.wire.peer)? {
            Challenge::Refused { reason } => Err(ControlError::Denied {
                reason: format!("{}: {}", self.wire.peer, bounded(&reason)),
            }),
            Challenge::Prove { nonce, proof } => {
                let transcript = Transcript::new(secret, &self.hello, &nonce);
                if transcript.is_listener(proof) {
                    return Ok(Some(transcript));
                }
                Err(ControlError::Refused {
                    peer: self.wire.peer.clone(),
                    reason: "it does not know this job's secret".into(),
                })
            }
        }
    }

    /// Proves in turn.
    fn finish(mut self, transcript: Transcript) -> Result<Wire, Missed> {
        let proven = self
            .wire
            .push(&transcript.connector_proof())
            .and_then(|()| {
                let session = transcript.into_connector();
                self.wire.authenticate(session, MAX_FROM_COORDINATOR);
                self.wire.flush()
            });
        match proven {
            Ok(()) => Ok(self.wire),
            Err(e) => Err(self.missed(e)),
        }
    }

    fn is_silent(&self) -> Missed {
        let waited = self.began.elapsed().as_millis();
        self.missed(ControlError::Timeout {
            peer: self.wire.peer.clone(),
            after: Duration::from_millis(u64::try_from(waited).unwrap_or(u64::MAX)),
            operation: "authentication",
        })
    }
}

impl Target<'_> {
    /// Tries all addresses until one proves to be this job's coordinator: a rank again and again, a
    /// tool only once, because the file that names the addresses is written by whoever listens there
    /// already.
    pub fn connect(&self, limit: Duration) -> Result<Wire, ControlError> {
        let mut deadline = after(limit);
        let mut refused = None;
        loop {
            let missed = match self.round(deadline) {
                Ok(wire) => return Ok(wire),
                Err(missed) => missed,
            };
            let silent = self.is_silence(&missed);
            let mut reason = String::from("no address known");
            for one in missed {
                if one.is_final(self.role) {
                    return Err(one.error);
                }
                reason = one_line(&one.error);
                if matches!(one.error, ControlError::Denied { .. }) && refused.is_none() {
                    refused = Some(reason.clone());
                    deadline = deadline.min(after(CHANGE_OF_START));
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left < PAUSE || self.addresses.is_empty() || self.role == Role::Tool {
                if let Some(reason) = refused {
                    return Err(ControlError::Denied { reason });
                }
                return Err(ControlError::Unreachable {
                    job: self.job.to_owned(),
                    tried: self.addresses.join(", "),
                    reason,
                    silent,
                });
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Whether the coordinator may be there all the same: an address did not say no, or none of them could have known.
    fn is_silence(&self, missed: &[Missed]) -> bool {
        let mut telling = missed
            .iter()
            .filter(|m| self.near || !m.loopback)
            .peekable();
        telling.peek().is_none() || telling.any(|m| !m.is_vacant())
    }

    /// All addresses once; why none of them is it, the silent ones last.
    fn round(&self, until: Instant) -> Result<Wire, Vec<Missed>> {
        let mut waiting = self.addresses.iter();
        let (head_start, until) = match self.role {
            Role::Tool => (Duration::ZERO, until),
            Role::Rank(_) => {
                let others = u32::try_from(waiting.len().saturating_sub(1)).unwrap_or(u32::MAX);
                let all = ONE_ADDRESS + HEAD_START.saturating_mul(others);
                (HEAD_START, until.min(after(all)))
            }
        };
        let mut running: Vec<Attempt> = Vec::new();
        let mut missed = Vec::new();
        let mut next_at = Instant::now();
        loop {
            while running.is_empty() || Instant::now() >= next_at {
                let Some(address) = waiting.next() else { break };
                next_at = Instant::now() + head_start;
                self.begin(address, &mut running, &mut missed);
            }
            let now = Instant::now();
            if running.is_empty() || now >= until {
                missed.extend(running.iter().map(Attempt::is_silent));
                return Err(missed);
            }
            let next = if waiting.len() == 0 { until } else { next_at };
            wait(&running, next.min(until).saturating_duration_since(now));
            for mut attempt in std::mem::take(&mut running) {
                let failed = match attempt.step(self.secret) {
                    Ok(None) => {
                        running.push(attempt);
                        continue;
                    }
                    Ok(Some(transcript)) => match attempt.finish(transcript) {
                        Ok(wire) => return Ok(wire),
                        Err(failed) => failed,
                    },
                    Err(e) => attempt.missed(e),
                };
                if failed.is_final(self.role) {
                    return Err(vec![failed]);
                }
                missed.push(failed);
            }
        }
    }

    /// Sets out for everything an address stands for.
    fn begin(&self, address: &str, running: &mut Vec<Attempt>, missed: &mut Vec<Missed>) {
        let resolved = match address.to_socket_addrs() {
            Ok(resolved) => resolved,
            Err(e) => {
                return missed.push(Missed {
                    error: ControlError::io("look up", address, e),
                    loopback: false,
                })
            }
        };
        for socket in resolved {
            match self.set_out(address, socket) {
                Ok(attempt) => running.push(attempt),
                Err(error) => missed.push(Missed {
                    error,
                    loopback: socket.ip().is_loopback(),
                }),
            }
        }
    }

    fn set_out(&self, name: &str, address: SocketAddr) -> Result<Attempt, ControlError> {
        let failed = |e: Errno| ControlError::io("connect to", name, e.into());
        let family = match address {
            SocketAddr::V4(_) => AddressFamily::Inet,
            SocketAddr::V6(_) => AddressFamily::Inet6,
        };
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let stream = socket::socket(family, SockType::Stream, flags, None).map_err(failed)?;
        match socket::connect(stream.as_raw_fd(), &SockaddrStorage::from(address)) {
            Ok(()) | Err(Errno::EINPROGRESS | Errno::EINTR) => {}
            Err(e) => return Err(failed(e)),
        }
        let hello = Hello {
            role: self.role,
            job: self.job.to_owned(),
            incarnation: self.incarnation,
            nonce: random_bytes()?,
        };
        let hello = hello.encode()?;
        let peer = format!("the coordinator at {name}");
        let mut wire = Wire::new(TcpStream::from(stream), peer, self.fd_floor)?;
        wire.push(&hello)?;
        Ok(Attempt {
            wire,
            hello,
            address,
            began: Instant::now(),
        })
    }
}

/// Until one of them can go on.
fn wait(attempts: &[Attempt], limit: Duration) {
    let mut fds: Vec<PollFd> = attempts
        .iter()
        .map(|attempt| PollFd::new(attempt.wire.as_fd(), attempt.wire.interest()))
        .collect();
    // Whatever it says: the next step tells.
    let _ = nix::poll::ppoll(&mut fds, Some(TimeSpec::from_duration(limit)), None);
}

/// The instant `limit` from now; a limit beyond the clock's range is a year.
pub(crate) fn after(limit: Duration) -> Instant {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
    Instant::now() + limit.min(YEAR)
}

/// Sends what is queued and waits for the next message.
pub(crate) fn await_message(
    wire: &mut Wire,
    until: Instant,
    operation: &'static str,
) -> Result<Vec<u8>, ControlError> {
    let began = Instant::now();
    loop {
        wire.flush()?;
        if let Some(message) = wire.next()? {
            return Ok(message);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ControlError::Timeout {
                peer: wire.peer.clone(),
                after: until.saturating_duration_since(began),
                operation,
            });
        }
        if wire.wait(None, left) {
            wire.receive()?;
        }
    }
}

/// An error with its causes.
pub(crate) fn one_line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text += &format!(": {cause}");
        next = cause.source();
    }
    text
}
