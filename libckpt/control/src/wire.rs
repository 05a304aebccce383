//! One connection: a non-blocking socket with its buffers, before and after authentication.
//!
//! Never allocates for a length it was told: the buffer grows with the bytes that have arrived, and a
//! length above the limit ends the connection.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd as _, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{fcntl, FcntlArg};
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeSpec;

use crate::auth::{Session, LENGTH, MAX_HANDSHAKE, TAG};
use crate::ControlError;

/// Most bytes read from one connection before others have their turn.
const TURN: usize = 256 * 1024;
/// Data that a powered-off node never acknowledges ends the connection after this long.
const UNACKNOWLEDGED: Duration = Duration::from_secs(60);

pub(crate) struct Wire {
    stream: TcpStream,
    /// Who is at the other end, for messages.
    pub peer: String,
    inbox: Vec<u8>,
    /// How much of `inbox` has been handed out.
    taken: usize,
    outbox: Vec<u8>,
    /// How much of `outbox` has been sent.
    sent: usize,
    session: Option<Session>,
    limit: usize,
    ended: bool,
}

impl Wire {
    pub fn new(stream: TcpStream, peer: String, fd_floor: i32) -> Result<Self, ControlError> {
        let stream = TcpStream::from(above(stream.into(), fd_floor));
        let prepared = stream
            .set_nonblocking(true)
            .and_then(|()| stream.set_nodelay(true));
        prepared.map_err(|e| ControlError::io("prepare the connection to", &peer, e))?;
        let unacknowledged = u32::try_from(UNACKNOWLEDGED.as_millis()).unwrap_or(u32::MAX);
        // Without it a dead node is noticed by the step's time limit instead.
        let _ = setsockopt(&stream, sockopt::TcpUserTimeout, &unacknowledged);
        Ok(Self {
            stream,
            peer,
            inbox: Vec::new(),
            taken: 0,
            outbox: Vec::new(),
            sent: 0,
            session: None,
            limit: MAX_HANDSHAKE,
            ended: false,
        })
    }

    /// From here on both directions carry authenticated frames of at most `limit` bytes.
    pub fn authenticate(&mut self, session: Session, limit: usize) {
        self.session = Some(session);
        self.limit = limit;
    }

    /// Takes in what has arrived; how many bytes.
    pub fn receive(&mut self) -> Result<usize, ControlError> {
        self.inbox.drain(..self.taken);
        self.taken = 0;
        let mut chunk = [0; 16 * 1024];
        let mut arrived = 0;
        while arrived < TURN {
            match self.stream.read(&mut chunk) {
                Ok(0) => {
                    self.ended = true;
                    break;
                }
                Ok(n) => {
                    self.inbox.extend_from_slice(&chunk[..n]);
                    arrived += n;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(ControlError::io("receive from", &self.peer, e)),
            }
        }
        Ok(arrived)
    }

    /// The next whole message, checked if the connection is authenticated. `None`: not there yet.
    /// [`ControlError::Closed`] once everything has been taken and the peer has closed.
    pub fn next(&mut self) -> Result<Option<Vec<u8>>, ControlError> {
        let waiting = |ended: bool, peer: &str| match ended {
            true => Err(ControlError::Closed {
                peer: peer.to_owned(),
            }),
            false => Ok(None),
        };
        let arrived = &self.inbox[self.taken..];
        let Some(head) = arrived.first_chunk::<LENGTH>() else {
            return waiting(self.ended, &self.peer);
        };
        let length = u32::from_le_bytes(*head) as usize;
        if length > self.limit {
            return Err(ControlError::Broken {
                peer: self.peer.clone(),
                reason: format!("a message of {length} bytes, {} at most", self.limit),
            });
        }
        let tag_length = if self.session.is_some() { TAG } else { 0 };
        let whole = LENGTH + length + tag_length;
        let Some(message) = arrived.get(LENGTH..whole) else {
            return waiting(self.ended, &self.peer);
        };
        let mut message = message.to_vec();
        self.taken += whole;
        if let Some(session) = &mut self.session {
            let tag = message.split_off(length);
            let tag: [u8; TAG] = tag.try_into().unwrap_or([0; TAG]);
            session.open(&message, tag, &self.peer)?;
        }
        Ok(Some(message))
    }

    /// Queues a message; [`Wire::flush`] sends it.
    pub fn push(&mut self, payload: &[u8]) -> Result<(), ControlError> {
        if let Some(session) = &mut self.session {
            return session.seal(payload, &mut self.outbox);
        }
        let length = u32::try_from(payload.len()).map_err(|e| ControlError::Broken {
            peer: "this program".into(),
            reason: e.to_string(),
        })?;
        self.outbox.extend_from_slice(&length.to_le_bytes());
        self.outbox.extend_from_slice(payload);
        Ok(())
    }

    /// Encodes and queues a message.
    pub fn push_message<T: serde::Serialize>(&mut self, message: &T) -> Result<(), ControlError> {
        self.push(&encode(message)?)
    }

    /// Sends as much of the queue as the socket takes.
    pub fn flush(&mut self) -> Result<(), ControlError> {
        while self.sent < self.outbox.len() {
            match self.stream.write(&self.outbox[self.sent..]) {
                Ok(n) => self.sent += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(ControlError::io("send to", &self.peer, e)),
            }
        }
        if self.sent == self.outbox.len() {
            self.outbox.clear();
            self.outbox.shrink_to(TURN);
            self.sent = 0;
        }
        Ok(())
    }

    /// Bytes queued and not yet taken by the socket.
    pub fn unsent(&self) -> usize {
        self.outbox.len() - self.sent
    }

    /// What can make it go on.
    pub fn interest(&self) -> PollFlags {
        let mut interest = PollFlags::POLLIN;
        interest.set(PollFlags::POLLOUT, self.unsent() > 0);
        interest
    }

    /// Why it did not come about, if it did not.
    pub fn connecting_error(&self) -> Option<io::Error> {
        self.stream.take_error().ok().flatten()
    }

    /// Waits until the connection (or `wake`) has something to read, or can be written if something
    /// is queued, or `timeout` has passed; true if one of them is ready.
    pub fn wait(&self, wake: Option<BorrowedFd>, timeout: Duration) -> bool {
        let mut fds = vec![PollFd::new(self.stream.as_fd(), self.interest())];
        fds.extend(wake.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        match nix::poll::ppoll(&mut fds, Some(TimeSpec::from_duration(timeout)), None) {
            Ok(ready) => ready > 0,
            Err(Errno::EINTR) => false,
            // The next read or write says what is wrong.
            Err(_) => true,
        }
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Encodes a message of the protocol.
pub(crate) fn encode<T: serde::Serialize>(message: &T) -> Result<Vec<u8>, ControlError> {
    postcard::to_stdvec(message).map_err(|e| ControlError::Broken {
        peer: "this program".into(),
        reason: e.to_string(),
    })
}

/// Moves a descriptor to `floor` or above, close-on-exec. Where the process's limit does not allow
/// it the descriptor stays as it is.
pub(crate) fn above(fd: OwnedFd, floor: i32) -> OwnedFd {
    if floor <= 0 {
        return fd;
    }
    match fcntl(&fd, FcntlArg::F_DUPFD_CLOEXEC(floor)) {
        // SAFETY: the kernel has just made this descriptor for us; nobody else knows its number.
        Ok(moved) => unsafe { OwnedFd::from_raw_fd(moved) },
        Err(_) => fd,
    }
}
