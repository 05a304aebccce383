//! Socket pairs with both ends in this process (event loops wake themselves with one).
//!
//! Which socket is whose peer is not told by any call on the socket; the kernel's socket monitoring
//! (sock_diag(7), unix_diag) tells it for all of the network name space. A stream's content is read
//! and written back while the program is parked.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use serde::{Deserialize, Serialize};

use super::OpenFile;
use crate::blob::{BlobSink, BlobSource, Content, Extent};
use crate::error::StateError;

/// One end of a stream socket pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairEnd {
    /// Number of the pair; its two ends have the same.
    pub pair: u64,
    /// What this end can read.
    pub content: Option<Content>,
    /// This end was shut down for writing.
    pub write_shut: bool,
}

/// The peers of the unix stream sockets of this name space: inode -> inode. Empty where the kernel
/// does not tell.
pub(super) fn peers() -> BTreeMap<u64, u64> {
    ask().unwrap_or_default()
}

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const UDIAG_SHOW_PEER: u32 = 4;
const UNIX_DIAG_PEER: u16 = 2;
const ESTABLISHED: u32 = 1 << 1;

fn ask() -> io::Result<BTreeMap<u64, u64>> {
    // SAFETY: socket takes and returns numbers.
    let fd = unsafe {
        libc::socket(
            libc::AF_NETLINK,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            libc::NETLINK_SOCK_DIAG,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, and nobody else's.
    let mut socket = std::fs::File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    let bound = libc::timeval {
        tv_sec: 5,
        tv_usec: 0,
    };
    // SAFETY: the option's value is a timeval of that size.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVTIMEO,
            (&raw const bound).cast(),
            size_of::<libc::timeval>() as u32,
        )
    };
    // nlmsghdr {length, type, flags, sequence, port} and unix_diag_req {family, protocol, padding,
    // states, inode, show, cookie[2]}
    let mut request = Vec::new();
    request.extend(40u32.to_ne_bytes());
    request.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend(((libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16).to_ne_bytes());
    request.extend([0; 8]);
    request.extend([libc::AF_UNIX as u8, 0, 0, 0]);
    for word in [ESTABLISHED, 0, UDIAG_SHOW_PEER, u32::MAX, u32::MAX] {
        request.extend(word.to_ne_bytes());
    }
    socket.write_all(&request)?;
    let mut peers = BTreeMap::new();
    let mut buffer = vec![0u8; 1 << 16];
    loop {
        let got = socket.read(&mut buffer)?;
        if got == 0 || !messages(&buffer[..got], &mut peers) {
            return Ok(peers);
        }
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// Takes in one datagram of answers; false at the last one (or at an error).
fn messages(mut rest: &[u8], peers: &mut BTreeMap<u64, u64>) -> bool {
    while let (Some(length), Some(kind)) = (word(rest, 0), half(rest, 4)) {
        let length = length as usize;
        if kind != SOCK_DIAG_BY_FAMILY || length < 16 || length > rest.len() {
            return false;
        }
        // unix_diag_msg {family, type, state, padding, inode, cookie[2]}, then attributes.
        let body = &rest[16..length];
        if let (Some(&kind), Some(inode)) = (body.get(1), word(body, 4)) {
            let mut attributes = body.get(16..).unwrap_or_default();
            while let (Some(size), Some(name)) = (half(attributes, 0), half(attributes, 2)) {
                if name == UNIX_DIAG_PEER && kind == libc::SOCK_STREAM as u8 {
                    peers.extend(word(attributes, 4).map(|p| (inode as u64, p as u64)));
                }
                let size = (size as usize).max(4).next_multiple_of(4);
                attributes = attributes.get(size..).unwrap_or_default();
            }
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    true
}

/// Records the end `file`, whose other end is `peer`.
pub(super) fn capture(
    file: &OpenFile,
    peer: &OpenFile,
    limit: u64,
    blobs: &mut dyn BlobSink,
) -> Result<PairEnd, StateError> {
    let failed = |e: io::Error| StateError::io("read and write back", file.name(), e);
    let owned = |f: &OpenFile| f.borrow().try_clone_to_owned().map(UnixStream::from);
    let (mut from, mut to) = (owned(file).map_err(failed)?, owned(peer).map_err(failed)?);
    let mut waiting = 0i32;
    // SAFETY: FIONREAD writes one int at the address given.
    unsafe { libc::ioctl(file.fd, libc::FIONREAD, &raw mut waiting) };
    let waiting = waiting.max(0) as usize;
    if waiting as u64 > limit {
        return Err(StateError::TooLarge {
            object: file.name(),
            length: waiting as u64,
            limit,
        });
    }
    let mut content = None;
    if waiting > 0 {
        let mut data = vec![0; waiting];
        from.read_exact(&mut data).map_err(failed)?;
        to.write_all(&data).map_err(failed)?;
        let whole = vec![Extent {
            offset: 0,
            length: waiting as u64,
        }];
        let read = |buffer: &mut [u8], offset: u64| (&data[offset as usize..]).read(buffer);
        content = Some(Content::of_extents(
            waiting as u64,
            whole,
            &file.name(),
            blobs,
            &read,
        )?);
    }
    let inode = file.stat.st_ino;
    Ok(PairEnd {
        pair: inode.min(peer.stat.st_ino),
        content,
        write_shut: write_shut(file),
    })
}

/// Whether this end may not be written any more: POLLHUP needs both directions shut, POLLOUT with
/// an error says nothing; a send of no bytes answers EPIPE.
fn write_shut(file: &OpenFile) -> bool {
    // SAFETY: nothing is read at the null address, for no bytes are sent.
    let sent = unsafe {
        libc::send(
            file.fd,
            std::ptr::null(),
            0,
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
        )
    };
    sent < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EPIPE)
}

/// Makes a pair; each end gets what it had to read.
pub(super) fn restore(
    ends: [&PairEnd; 2],
    blobs: &dyn BlobSource,
) -> Result<[OwnedFd; 2], StateError> {
    let object = "a socket pair";
    let failed = |e: io::Error| StateError::io("make", object, e);
    let fetch = |source| StateError::Blob {
        operation: "fetch",
        object: object.into(),
        source,
    };
    let (a, b) = UnixStream::pair().map_err(failed)?;
    for (end, mut peer) in [(ends[0], &b), (ends[1], &a)] {
        if let Some(content) = &end.content {
            let mut data = vec![0; content.length as usize];
            blobs
                .open(content.blob)
                .and_then(|mut c| c.read_exact(&mut data))
                .map_err(fetch)?;
            peer.set_nonblocking(true).map_err(failed)?;
            peer.write_all(&data).map_err(failed)?;
            peer.set_nonblocking(false).map_err(failed)?;
        }
    }
    for (end, socket) in [(ends[0], &a), (ends[1], &b)] {
        if end.write_shut {
            socket.shutdown(std::net::Shutdown::Write).map_err(failed)?;
        }
    }
    Ok([a.into(), b.into()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_the_peer() {
        let (a, b) = UnixStream::pair().unwrap();
        let inode = |s: &UnixStream| OpenFile::read(s.as_raw_fd()).unwrap().stat.st_ino;
        let peers = ask().unwrap();
        // The diagnosis may be missing from a kernel; the socket then counts as lost.
        if !peers.is_empty() {
            assert_eq!(peers.get(&inode(&a)), Some(&inode(&b)));
            assert_eq!(peers.get(&inode(&b)), Some(&inode(&a)));
        }
    }

    #[test]
    fn a_cut_answer_is_no_panic() {
        for length in 0..64 {
            let mut bytes = vec![0xff; length];
            if length >= 8 {
                bytes[..4].copy_from_slice(&(length as u32).to_ne_bytes());
                bytes[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
            }
            messages(&bytes, &mut BTreeMap::new());
        }
    }
}
