//! The connecting side: find the coordinator, prove membership.

use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use crate::auth::{Challenge, Hello, Role, Transcript};
use crate::protocol::{bounded, MAX_FROM_COORDINATOR};
use crate::secret::random_bytes;
use crate::wire::Wire;
use crate::{ControlError, Secret};

/// Longest wait for one address.
const ONE_ADDRESS: Duration = Duration::from_secs(3);
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
    pub fd_floor: i32,
}

impl Target<'_> {
    /// Tries all addresses until one proves to be this job's coordinator: a rank again and again, a
    /// tool only once, because the file that names the addresses is written by whoever listens there
    /// already.
    pub fn connect(&self, limit: Duration) -> Result<Wire, ControlError> {
        let mut deadline = after(limit);
        let mut refused = None;
        loop {
            let mut reason = String::from("no address known");
            for address in self.addresses {
                let until = deadline.min(Instant::now() + ONE_ADDRESS);
                match self.connect_to(address, until) {
                    Ok(wire) => return Ok(wire),
                    // Waiting does not cure it.
                    Err(e @ ControlError::Version { .. }) => return Err(e),
                    Err(e @ ControlError::Denied { .. }) if self.role == Role::Tool => {
                        return Err(e)
                    }
                    Err(e) => {
                        reason = one_line(&e);
                        if matches!(e, ControlError::Denied { .. }) && refused.is_none() {
                            refused = Some(reason.clone());
                            deadline = deadline.min(after(CHANGE_OF_START));
                        }
                    }
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
                });
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn connect_to(&self, address: &str, until: Instant) -> Result<Wire, ControlError> {
        let resolved = address
            .to_socket_addrs()
            .map_err(|e| ControlError::io("look up", address, e))?;
        let mut last = ControlError::Closed {
            peer: address.to_owned(),
        };
        for socket in resolved {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let attempt = TcpStream::connect_timeout(&socket, left)
                .map_err(|e| ControlError::io("connect to", address, e))
                .and_then(|stream| {
                    Wire::new(
                        stream,
                        format!("the coordinator at {address}"),
                        self.fd_floor,
                    )
                })
                .and_then(|wire| self.prove(wire, until));
            match attempt {
                Ok(wire) => return Ok(wire),
                Err(e @ ControlError::Version { .. }) => return Err(e),
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    fn prove(&self, mut wire: Wire, until: Instant) -> Result<Wire, ControlError> {
        let hello = Hello {
            role: self.role,
            job: self.job.to_owned(),
            incarnation: self.incarnation,
            nonce: random_bytes()?,
        };
        let hello = hello.encode()?;
        wire.push(&hello)?;
        let answer = await_message(&mut wire, until, "authentication")?;
        match Challenge::decode(&answer, &wire.peer)? {
            Challenge::Refused { reason } => Err(ControlError::Denied {
                reason: format!("{}: {}", wire.peer, bounded(&reason)),
            }),
            Challenge::Prove { nonce, proof } => {
                let transcript = Transcript::new(self.secret, &hello, &nonce);
                if !transcript.is_listener(proof) {
                    return Err(ControlError::Refused {
                        peer: wire.peer.clone(),
                        reason: "it does not know this job's secret".into(),
                    });
                }
                wire.push(&transcript.connector_proof())?;
                wire.authenticate(transcript.into_connector(), MAX_FROM_COORDINATOR);
                wire.flush()?;
                Ok(wire)
            }
        }
    }
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
