//! Waiting for a key, and for the end of the terminal: the library that reads keys would read from one that has gone for ever.

use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};

/// Between two looks, if no key is pressed.
pub const KEYS: Duration = Duration::from_millis(100);

/// What was waited for.
#[derive(Debug, PartialEq, Eq)]
pub enum Pressed {
    /// Nothing that must be known here: perhaps a key.
    Perhaps,
    /// The terminal has gone.
    Gone,
}

/// Where keys come from: standard input, or the terminal itself where that is something else.
#[derive(Debug)]
pub struct Keyboard(OwnedFd);

impl Keyboard {
    /// Of the terminal before which this command was started.
    pub fn of_terminal() -> io::Result<Self> {
        let input = io::stdin();
        Ok(Self(match input.is_terminal() {
            true => input.as_fd().try_clone_to_owned()?,
            false => File::open("/dev/tty")?.into(),
        }))
    }

    /// Until a key is pressed, or [`KEYS`] have passed.
    pub fn wait(&self) -> io::Result<Pressed> {
        wait_on(self.0.as_fd())
    }
}

fn wait_on(input: BorrowedFd<'_>) -> io::Result<Pressed> {
    let mut places = [PollFd::new(input, PollFlags::POLLIN)];
    let limit = PollTimeout::try_from(KEYS).unwrap_or(PollTimeout::ZERO);
    match poll(&mut places, limit) {
        // A signal: whoever waits looks for it.
        Ok(_) | Err(Errno::EINTR) => {}
        Err(e) => return Err(e.into()),
    }
    let found = places[0].revents().unwrap_or(PollFlags::empty());
    let over = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
    Ok(match found.intersects(over) {
        true => Pressed::Gone,
        false => Pressed::Perhaps,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn an_end_is_no_key() {
        let (one, other) = UnixStream::pair().expect("a pair");
        assert_eq!(wait_on(one.as_fd()).expect("waited"), Pressed::Perhaps);
        drop(other);
        assert_eq!(wait_on(one.as_fd()).expect("waited"), Pressed::Gone);
    }
}
