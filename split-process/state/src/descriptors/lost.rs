//! What a descriptor becomes that cannot survive: the first read answers ECONNRESET, later ones end
//! of file, a write EPIPE: what a program sees of a peer that died.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use crate::error::StateError;

pub(super) fn restore() -> Result<OwnedFd, StateError> {
    reset_stream().map_err(|e| StateError::io("make", "a stream in place of a lost descriptor", e))
}

/// A stream whose peer is gone with unread data, which unix(7) reports as ECONNRESET.
fn reset_stream() -> io::Result<OwnedFd> {
    let (mut kept, peer) = UnixStream::pair()?;
    kept.write_all(&[0])?;
    drop(peer);
    Ok(kept.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn reads_answer_connection_reset_then_end() {
        let mut stream = UnixStream::from(restore().unwrap());
        let mut buffer = [0; 4];
        let error = stream.read(&mut buffer).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(stream.read(&mut buffer).unwrap(), 0);
    }
}
