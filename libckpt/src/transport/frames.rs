//! An authenticated connection: handshake, then frames.
//!
//! ```text
//!  client                                   server
//!  "MANACPY1", nonce c (32)          ---->
//!                                    <----  nonce s (32), K(secret, "server" c s)
//!  K(secret, "client" c s)           ---->
//!  frames: length u32, bytes, K(session key, direction, number, bytes)[..16]
//! ```
//! K is keyed BLAKE3; the session key is K(secret, "session" c s).

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};

use serde::de::DeserializeOwned;
use serde::Serialize;

use super::{Addresses, Secret, CONNECT, GREETING, SILENCE};
use crate::Error;

/// Longest frame in bytes.
pub(super) const FRAME: usize = 1 << 20;
const HELLO: [u8; 8] = *b"MANACPY1";

pub(super) struct Channel {
    stream: TcpStream,
    peer: String,
    key: [u8; 32],
    /// What this side puts into its frames' code, and what the other does.
    roles: (u8, u8),
    sent: u64,
    received: u64,
    buffer: Vec<u8>,
}

fn keyed(key: &[u8; 32], parts: &[&[u8]]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_keyed(key);
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}

fn nonce() -> std::io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    crate::random(&mut bytes)?;
    Ok(bytes)
}

impl Channel {
    /// Connects to the first address that answers and proves itself.
    pub fn connect(peer: &Addresses, secret: &Secret) -> Result<Self, Error> {
        let failed = |reason: String| Error::Peer {
            operation: "connecting",
            peer: peer.join(","),
            reason,
        };
        let mut last = "no address".to_owned();
        for address in peer {
            let candidates = match address.to_socket_addrs() {
                Ok(all) => all,
                Err(e) => {
                    last = format!("{address}: {e}");
                    continue;
                }
            };
            for socket in candidates {
                let opened =
                    TcpStream::connect_timeout(&socket, CONNECT).map_err(|e| e.to_string());
                match opened.and_then(|s| Self::greet(s, address, secret)) {
                    Ok(channel) => return Ok(channel),
                    Err(e) => last = format!("{address}: {e}"),
                }
            }
        }
        Err(failed(last))
    }

    fn greet(mut stream: TcpStream, peer: &str, secret: &Secret) -> Result<Self, String> {
        let text = |e: std::io::Error| e.to_string();
        limits(&stream).map_err(text)?;
        let ours = nonce().map_err(text)?;
        stream
            .write_all(&[&HELLO[..], &ours].concat())
            .map_err(text)?;
        let mut answer = [0; 64];
        stream.read_exact(&mut answer).map_err(text)?;
        let (theirs, proof) = answer.split_at(32);
        let expected = keyed(secret, &[b"server", &ours, theirs]);
        let proof: [u8; 32] = proof
            .try_into()
            .map_err(|_| "proof of another length".to_owned())?;
        if expected != proof {
            return Err("it is another node, or does not know this job's secret".into());
        }
        stream
            .write_all(keyed(secret, &[b"client", &ours, theirs]).as_bytes())
            .map_err(text)?;
        Ok(Self::established(
            stream,
            peer,
            secret,
            &ours,
            theirs,
            (b'c', b's'),
        ))
    }

    /// The server's side of a new connection.
    pub fn accept(mut stream: TcpStream, secret: &Secret) -> Result<Self, Error> {
        let peer = stream
            .peer_addr()
            .map_or_else(|_| "?".to_owned(), |a| a.to_string());
        let failed = |reason: String| Error::Peer {
            operation: "greeting",
            peer: peer.clone(),
            reason,
        };
        let text = |e: std::io::Error| failed(e.to_string());
        limits(&stream).map_err(text)?;
        stream.set_read_timeout(Some(GREETING)).map_err(text)?;
        let mut hello = [0; 40];
        stream.read_exact(&mut hello).map_err(text)?;
        let (magic, theirs) = hello.split_at(8);
        if magic != HELLO {
            return Err(failed("it speaks something else".into()));
        }
        let ours = nonce().map_err(text)?;
        let proof = keyed(secret, &[b"server", theirs, &ours]);
        stream
            .write_all(&[&ours[..], proof.as_bytes()].concat())
            .map_err(text)?;
        let mut answer = [0; 32];
        stream.read_exact(&mut answer).map_err(text)?;
        if keyed(secret, &[b"client", theirs, &ours]) != answer {
            return Err(failed("it does not know this job's secret".into()));
        }
        stream.set_read_timeout(Some(SILENCE)).map_err(text)?;
        Ok(Self::established(
            stream,
            &peer,
            secret,
            theirs,
            &ours,
            (b's', b'c'),
        ))
    }

    fn established(
        stream: TcpStream,
        peer: &str,
        secret: &Secret,
        c: &[u8],
        s: &[u8],
        roles: (u8, u8),
    ) -> Self {
        let key = *keyed(secret, &[b"session", c, s]).as_bytes();
        Self {
            stream,
            peer: peer.to_owned(),
            key,
            roles,
            sent: 0,
            received: 0,
            buffer: Vec::new(),
        }
    }

    /// An error about this peer.
    pub fn complaint(&self, reason: &str) -> Error {
        Error::Peer {
            operation: "copying",
            peer: self.peer.clone(),
            reason: reason.to_owned(),
        }
    }

    pub fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let code = keyed(
            &self.key,
            &[&[self.roles.0], &self.sent.to_le_bytes(), bytes],
        );
        self.sent += 1;
        let len = u32::try_from(bytes.len()).map_err(|_| self.complaint("frame too long"))?;
        let mut write = |b: &[u8]| self.stream.write_all(b);
        let done = write(&len.to_le_bytes())
            .and_then(|()| write(bytes))
            .and_then(|()| write(&code.as_bytes()[..16]));
        done.map_err(|e| self.complaint(&e.to_string()))
    }

    /// The next frame.
    pub fn receive(&mut self) -> Result<&[u8], Error> {
        let mut len = [0; 4];
        self.stream
            .read_exact(&mut len)
            .map_err(|e| self.complaint(&e.to_string()))?;
        let len = u32::from_le_bytes(len) as usize;
        if len > FRAME {
            return Err(self.complaint("frame too long"));
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(len + 16, 0);
        let read = self.stream.read_exact(&mut buffer);
        self.buffer = buffer;
        read.map_err(|e| self.complaint(&e.to_string()))?;
        let (bytes, code) = self.buffer.split_at(len);
        let expected = keyed(
            &self.key,
            &[&[self.roles.1], &self.received.to_le_bytes(), bytes],
        );
        self.received += 1;
        if expected.as_bytes()[..16] != *code {
            return Err(self.complaint("frame with a wrong authentication code"));
        }
        Ok(&self.buffer[..len])
    }

    pub fn send_value<T: Serialize>(&mut self, value: &T) -> Result<(), Error> {
        let bytes = postcard::to_stdvec(value).map_err(|e| self.complaint(&e.to_string()))?;
        self.send(&bytes)
    }

    pub fn receive_value<T: DeserializeOwned>(&mut self) -> Result<T, Error> {
        let parsed = postcard::from_bytes(self.receive()?);
        parsed.map_err(|e| self.complaint(&e.to_string()))
    }
}

fn limits(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))
}
