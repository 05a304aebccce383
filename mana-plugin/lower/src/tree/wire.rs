//! What the processes of a tree say to its root during a checkpoint: copies of their descriptors,
//! and their state and memory, over a socket that exists only meanwhile. Its name is a number nobody
//! guesses, and the kernel tells who is at the other end.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::time::{Duration, Instant};

use process_state::several::Own;

/// Descriptors in one message; the kernel allows 253.
const BATCH: usize = 128;
/// Bound on one exchange.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest head accepted.
const MAX_HEAD: u64 = 1 << 40;

fn name(number: u128) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("mana-tree-{number:032x}"))
}

/// The root's end.
pub struct Listener(UnixListener);

impl Listener {
    /// Listens under a name of its own, and returns its number.
    pub fn bind() -> io::Result<(Self, u128)> {
        let mut bytes = [0u8; 16];
        // SAFETY: fills the 16 bytes.
        if unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), 16, 0) } != 16 {
            return Err(io::Error::last_os_error());
        }
        let number = u128::from_ne_bytes(bytes);
        let listener = UnixListener::bind_addr(&name(number)?)?;
        listener.set_nonblocking(true)?;
        Ok((Self(listener), number))
    }

    /// The next connection of the process `real`; others are dropped.
    pub fn accept(&self, real: i32, deadline: Instant) -> io::Result<UnixStream> {
        loop {
            match self.0.accept() {
                Ok((stream, _)) => {
                    if peer(&stream)? != real {
                        continue;
                    }
                    stream.set_nonblocking(false)?;
                    stream.set_read_timeout(Some(PATIENCE))?;
                    return Ok(stream);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
            if !split_process::tree::exists(real) {
                return Err(io::Error::other("the process has ended"));
            }
            if Instant::now() >= deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let mut asked = libc::pollfd {
                fd: self.0.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: one structure.
            unsafe { libc::poll(&raw mut asked, 1, 50) };
        }
    }
}

/// The process at the other end.
fn peer(stream: &UnixStream) -> io::Result<i32> {
    let mut who = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let mut len = size_of::<libc::ucred>() as u32;
    // SAFETY: the kernel fills the structure, whose size it is told.
    let got = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut who).cast(),
            &raw mut len,
        )
    };
    if got != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(who.pid)
}

fn connect(number: u128) -> io::Result<UnixStream> {
    let stream = UnixStream::connect_addr(&name(number)?)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn put_block(stream: &mut UnixStream, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(&(bytes.len() as u64).to_le_bytes())?;
    stream.write_all(bytes)
}

fn get_block(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut len = [0; 8];
    stream.read_exact(&mut len)?;
    let len = u64::from_le_bytes(len);
    if len > MAX_HEAD {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = Vec::new();
    stream.take(len).read_to_end(&mut bytes)?;
    if bytes.len() as u64 != len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

/// Room for the numbers of a batch, aligned as the kernel wants it.
type Control = [u64; (BATCH * 4 + 64) / 8];

/// Sends copies of the calling thread's descriptors `own` to the root.
pub fn send_descriptors(number: u128, own: &[Own]) -> io::Result<()> {
    let mut stream = connect(number)?;
    let table: Vec<(RawFd, bool)> = own.iter().map(|o| (o.fd, o.close_on_exec)).collect();
    let bytes = postcard::to_stdvec(&table).map_err(io::Error::other)?;
    put_block(&mut stream, &bytes)?;
    for batch in own.chunks(BATCH) {
        let numbers: Vec<RawFd> = batch.iter().map(|o| o.fd).collect();
        let mut one = [0u8];
        let mut part = libc::iovec {
            iov_base: one.as_mut_ptr().cast(),
            iov_len: 1,
        };
        let mut control: Control = [0; (BATCH * 4 + 64) / 8];
        let len = (numbers.len() * 4) as u32;
        // SAFETY: the buffer holds one header with its numbers: it is sized for a whole batch.
        let sent = unsafe {
            let mut message: libc::msghdr = std::mem::zeroed();
            message.msg_iov = &raw mut part;
            message.msg_iovlen = 1;
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = libc::CMSG_SPACE(len) as usize;
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(len) as usize;
            let data = libc::CMSG_DATA(header).cast::<RawFd>();
            std::ptr::copy_nonoverlapping(numbers.as_ptr(), data, numbers.len());
            libc::sendmsg(stream.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL)
        };
        if sent != 1 {
            return Err(io::Error::last_os_error());
        }
    }
    // The copies on their way keep what they refer to; the root says when it has them.
    let mut done = [0];
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.read_exact(&mut done)
}

/// Takes what [`send_descriptors`] sends: what each is there, and the copy here.
pub fn take_descriptors(stream: &mut UnixStream) -> io::Result<Vec<(Own, OwnedFd)>> {
    let table: Vec<(RawFd, bool)> =
        postcard::from_bytes(&get_block(stream)?).map_err(io::Error::other)?;
    let mut copies: Vec<OwnedFd> = Vec::new();
    while copies.len() < table.len() {
        let wanted = (table.len() - copies.len()).min(BATCH);
        let got = take_batch(stream)?;
        if got.len() != wanted {
            return Err(io::Error::other(
                "descriptors are missing: too many are open",
            ));
        }
        copies.extend(got);
    }
    stream.write_all(&[1])?;
    let own = table
        .into_iter()
        .map(|(fd, close_on_exec)| Own { fd, close_on_exec });
    Ok(own.zip(copies).collect())
}

fn take_batch(stream: &UnixStream) -> io::Result<Vec<OwnedFd>> {
    let mut one = [0u8];
    let mut part = libc::iovec {
        iov_base: one.as_mut_ptr().cast(),
        iov_len: 1,
    };
    let mut control: Control = [0; (BATCH * 4 + 64) / 8];
    let mut copies = Vec::new();
    // SAFETY: the kernel fills the buffer, whose size it is told; each number in it is a fresh
    // descriptor of ours.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of::<Control>();
        let flags = libc::MSG_CMSG_CLOEXEC;
        let got = libc::recvmsg(stream.as_raw_fd(), &raw mut message, flags);
        if got < 0 {
            return Err(io::Error::last_os_error());
        }
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        if got == 0 || header.is_null() || (*header).cmsg_type != libc::SCM_RIGHTS {
            return Ok(copies);
        }
        let bytes = (*header).cmsg_len - libc::CMSG_LEN(0) as usize;
        let data = libc::CMSG_DATA(header).cast::<RawFd>();
        for i in 0..bytes / size_of::<RawFd>() {
            copies.push(OwnedFd::from_raw_fd(data.add(i).read_unaligned()));
        }
    }
    Ok(copies)
}

/// Sends a head and pieces of memory to the root.
pub fn send_state<'a>(
    number: u128,
    head: &[u8],
    memory: impl Iterator<Item = &'a [u8]>,
) -> io::Result<()> {
    let mut stream = connect(number)?;
    put_block(&mut stream, head)?;
    for piece in memory {
        stream.write_all(piece)?;
    }
    Ok(())
}

/// Takes the head of [`send_state`].
pub fn take_head(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    get_block(stream)
}

/// Takes the memory that follows.
pub fn take_memory(stream: &mut UnixStream, bytes: u64) -> io::Result<Vec<u8>> {
    let len = usize::try_from(bytes).map_err(|_| io::ErrorKind::OutOfMemory)?;
    let mut all = Vec::new();
    all.try_reserve_exact(len)
        .map_err(|_| io::ErrorKind::OutOfMemory)?;
    stream.take(bytes).read_to_end(&mut all)?;
    if all.len() != len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn descriptors_and_memory_arrive() {
        let (listener, number) = Listener::bind().expect("bound");
        let own: Vec<(File, Own)> = (0..BATCH + 3)
            .map(|_| {
                let file = File::open("/dev/null").expect("opened");
                let fd = file.as_raw_fd();
                (
                    file,
                    Own {
                        fd,
                        close_on_exec: true,
                    },
                )
            })
            .collect();
        let me = std::process::id() as i32;
        let deadline = Instant::now() + Duration::from_secs(10);
        std::thread::scope(|scope| {
            let list: Vec<Own> = own.iter().map(|(_, o)| *o).collect();
            let sender = scope.spawn(move || {
                send_descriptors(number, &list).expect("sent");
                send_state(number, b"head", [&b"abc"[..], b"de"].into_iter()).expect("sent");
            });
            let mut stream = listener.accept(me, deadline).expect("accepted");
            let got = take_descriptors(&mut stream).expect("taken");
            assert_eq!(got.len(), own.len());
            assert!(got.iter().zip(&own).all(|(g, o)| g.0 == o.1));
            let mut stream = listener.accept(me, deadline).expect("accepted");
            assert_eq!(take_head(&mut stream).expect("taken"), b"head");
            assert_eq!(take_memory(&mut stream, 5).expect("taken"), b"abcde");
            assert!(take_memory(&mut stream, 1).is_err());
            sender.join().expect("joined");
        });
    }
}
