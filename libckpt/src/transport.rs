//! Copies of images between nodes, over connections of our own.
//!
//! Every node runs one [`Server`] over its store. Both sides prove that they know the node's secret, made of the job's
//! ([`secret_of`]; BLAKE3 keyed over role and both nonces); the session key, made from the same, authenticates
//! every frame with its number. A peer that does not know the secret, is silent, or sends frames of
//! an impossible length is dropped. An image that arrives is verified before it gets its name.

mod frames;
mod server;

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use server::Server;

use crate::fault::operation;
use crate::image_file::{verify, ImageName, ImageReport};
use crate::store::{create, make_dir, publish, temporary, Copy};
use crate::{Error, GenerationId};
use frames::{Channel, FRAME};

/// The job's secret, or a node's.
pub type Secret = [u8; 32];

/// What both ends of a connection to a node prove that they know. Nodes may have an address in common (that of a bridge of
/// containers, say) and the same port by chance: whoever is reached there must be the node that was meant.
pub fn secret_of(job: &Secret, node: u32) -> Secret {
    *blake3::keyed_hash(job, format!("node {node}").as_bytes()).as_bytes()
}

/// A peer that says nothing for this long is gone.
const SILENCE: Duration = Duration::from_secs(60);
/// For establishing a connection to one address.
const CONNECT: Duration = Duration::from_secs(5);
/// A server's patience with a peer that has not proved itself yet.
const GREETING: Duration = Duration::from_secs(10);

/// What a client asks of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Request {
    /// Keep this image as the partner's copy; its bytes follow.
    Put {
        generation: GenerationId,
        rank: u32,
        size: u32,
        report: ImageReport,
    },
    /// Send this image.
    Get {
        generation: GenerationId,
        rank: u32,
        copy: Copy,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Reply {
    /// Done, or this many bytes follow.
    Done { len: u64 },
    /// No, because.
    No { reason: String },
}

/// The node to talk to: addresses in the order to be tried, as `host:port`.
pub type Addresses = Vec<String>;

/// Sends an image to be kept as partner's copy. Returns when it is durable and verified there.
///
/// # Errors
/// When that did not happen.
pub fn put(
    peer: &Addresses,
    secret: &Secret,
    image: &Path,
    name: &ImageName,
    report: ImageReport,
) -> Result<(), Error> {
    let mut file = File::open(image).map_err(Error::io("open", image))?;
    let mut channel = Channel::connect(peer, secret)?;
    let request = Request::Put {
        generation: name.generation,
        rank: name.rank,
        size: name.size,
        report,
    };
    channel.send_value(&request)?;
    expect_done(&mut channel, peer)?;
    let mut buffer = vec![0; FRAME];
    let mut left = report.len;
    while left > 0 {
        let n = (left as usize).min(FRAME);
        file.read_exact(&mut buffer[..n])
            .map_err(Error::io("read", image))?;
        channel.send(&buffer[..n])?;
        left -= n as u64;
    }
    expect_done(&mut channel, peer).map(drop)
}

/// Fetches an image into `path`, verified and durable.
///
/// # Errors
/// When the peer does not have it, or what comes is not what the manifest says.
pub fn get(
    peer: &Addresses,
    secret: &Secret,
    copy: Copy,
    path: &Path,
    name: &ImageName,
    report: ImageReport,
) -> Result<(), Error> {
    let mut channel = Channel::connect(peer, secret)?;
    channel.send_value(&Request::Get {
        generation: name.generation,
        rank: name.rank,
        copy,
    })?;
    let len = expect_done(&mut channel, peer)?;
    if len != report.len {
        let reason = format!(
            "its copy of rank {}'s image has {len} bytes instead of {}",
            name.rank, report.len
        );
        return Err(Error::Peer {
            operation: "fetching",
            peer: peer.join(","),
            reason,
        });
    }
    receive(&mut channel, path, name, report)
}

fn expect_done(channel: &mut Channel, peer: &Addresses) -> Result<u64, Error> {
    match channel.receive_value::<Reply>()? {
        Reply::Done { len } => Ok(len),
        Reply::No { reason } => Err(Error::Peer {
            operation: "copying",
            peer: peer.join(","),
            reason,
        }),
    }
}

/// Takes `report.len` bytes into a temporary file, verifies the image, gives it its name.
fn receive(
    channel: &mut Channel,
    path: &Path,
    name: &ImageName,
    report: ImageReport,
) -> Result<(), Error> {
    if let Some(dir) = path.parent() {
        make_dir(dir)?;
    }
    let tmp = temporary(path);
    let done =
        take(channel, &tmp, report.len).and_then(|()| verify(&tmp, name, Some(report)).map(drop));
    if done.is_err() {
        let _ = fs::remove_file(&tmp);
        return done;
    }
    publish(&tmp, path)
}

fn take(channel: &mut Channel, tmp: &Path, len: u64) -> Result<(), Error> {
    let mut file = create(tmp).map_err(Error::io("create", tmp))?;
    let mut got = 0;
    while got < len {
        let frame = channel.receive()?;
        got += frame.len() as u64;
        if frame.is_empty() || got > len {
            return Err(channel.complaint("more or fewer bytes than announced"));
        }
        file.write_all(frame).map_err(|e| match e.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => Error::NoSpace {
                path: tmp.into(),
                missing: len - got + frame.len() as u64,
            },
            _ => Error::io("write", tmp)(e),
        })?;
    }
    operation("store.sync", tmp)
        .and_then(|()| file.sync_all())
        .map_err(Error::io("synchronise", tmp))
}

#[cfg(test)]
mod tests;
