//! The side that holds a node's store.

use std::io::Read as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use nix::net::if_::InterfaceFlags;

use super::frames::{Channel, FRAME};
use super::{receive, Addresses, Reply, Request, Secret, CONNECT};
use crate::image_file::ImageName;
use crate::session::Mark;
use crate::store::{Copy, Store};
use crate::Error;

/// Connections served at once; more wait in the listener's queue.
const CONNECTIONS: usize = 64;

/// After an accept that failed.
const PAUSE: Duration = Duration::from_millis(100);

/// A node's server. It runs until it is dropped.
pub struct Server {
    addresses: Addresses,
    port: u16,
    shared: Arc<Shared>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        self.shared.left.notify_all();
        // Wakes the accepting thread. If that fails it ends with the process.
        let own = SocketAddr::from(([127, 0, 0, 1], self.port));
        let _ = TcpStream::connect_timeout(&own, CONNECT);
    }
}

struct Shared {
    store: Store,
    /// The job's name, as images carry it.
    mark: Mark,
    secret: Secret,
    active: Mutex<usize>,
    left: Condvar,
    ended: AtomicBool,
}

/// One of the connections that may be served at once.
struct Slot(Arc<Shared>);

impl Slot {
    /// Waits for one.
    fn take(shared: &Arc<Shared>) -> Self {
        let active = shared.active.lock().unwrap_or_else(PoisonError::into_inner);
        let full = |n: &mut usize| *n >= CONNECTIONS && !shared.ended.load(Ordering::Acquire);
        let waited = shared.left.wait_while(active, full);
        *waited.unwrap_or_else(PoisonError::into_inner) += 1;
        Self(Arc::clone(shared))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        *self.0.active.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.left.notify_one();
    }
}

impl Server {
    /// Listens on a free port of all interfaces (of loopback only if `loopback`) and serves `store`.
    ///
    /// # Errors
    /// When no port can be had.
    pub fn start(store: Store, mark: Mark, secret: Secret, loopback: bool) -> Result<Self, Error> {
        let failed = |e: std::io::Error| Error::Peer {
            operation: "listening",
            peer: "this node".into(),
            reason: e.to_string(),
        };
        let listener = TcpListener::bind(if loopback { "127.0.0.1:0" } else { "0.0.0.0:0" })
            .map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        let addresses = if loopback {
            vec![format!("127.0.0.1:{port}")]
        } else {
            reachable(port)
        };
        let shared = Arc::new(Shared {
            store,
            mark,
            secret,
            active: Mutex::new(0),
            left: Condvar::new(),
            ended: AtomicBool::new(false),
        });
        let serving = Arc::clone(&shared);
        let accept = move || loop {
            let slot = Slot::take(&serving);
            let accepted = listener.accept();
            if serving.ended.load(Ordering::Acquire) {
                return;
            }
            let Ok((stream, _)) = accepted else {
                // Out of descriptors, mostly: a served connection that ends gives some back.
                std::thread::sleep(PAUSE);
                continue;
            };
            let served = std::thread::Builder::new()
                .name("mana-copies".into())
                .spawn(move || {
                    if let Err(e) = slot.0.serve(stream) {
                        log::debug!("{e}");
                    }
                });
            if let Err(e) = served {
                log::warn!("no thread for a connection of another node: {e}");
            }
        };
        std::thread::Builder::new()
            .name("mana-copies".into())
            .spawn(accept)
            .map_err(failed)?;
        Ok(Self {
            addresses,
            port,
            shared,
        })
    }

    /// Where it can be reached.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }
}

/// `address:port` of every interface that can carry something now, loopback last: each of the others would cost whoever
/// tries it [`CONNECT`].
fn reachable(port: u16) -> Addresses {
    let mut found = Vec::new();
    let live = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING;
    if let Ok(all) = nix::ifaddrs::getifaddrs() {
        let all = all.filter(|i| i.flags.contains(live));
        let v4 = all.filter_map(|i| i.address.and_then(|a| a.as_sockaddr_in().map(|s| s.ip())));
        found.extend(v4);
    }
    found.sort_by_key(|a| a.is_loopback());
    found.dedup();
    found.into_iter().map(|a| format!("{a}:{port}")).collect()
}

impl Shared {
    fn serve(&self, stream: TcpStream) -> Result<(), Error> {
        let mut channel = Channel::accept(stream, &self.secret)?;
        match channel.receive_value()? {
            Request::Put {
                generation,
                rank,
                size,
                report,
            } => {
                channel.send_value(&Reply::Done { len: 0 })?;
                let name = ImageName {
                    job: self.mark.get().cloned().unwrap_or_default(),
                    generation,
                    rank,
                    size,
                };
                let path = self.store.image(generation, rank, Copy::Partner);
                let kept = receive(&mut channel, &path, &name, report);
                let reply = match &kept {
                    Ok(()) => Reply::Done { len: 0 },
                    Err(e) => Reply::No {
                        reason: e.to_string(),
                    },
                };
                channel.send_value(&reply)?;
                kept
            }
            Request::Get {
                generation,
                rank,
                copy,
            } => {
                let path = self.store.image(generation, rank, copy);
                let opened =
                    std::fs::File::open(&path).and_then(|f| f.metadata().map(|m| (f, m.len())));
                let (mut file, len) = match opened {
                    Ok(found) => found,
                    Err(e) => {
                        let reason = Error::io("open", &path)(e).to_string();
                        return channel.send_value(&Reply::No { reason });
                    }
                };
                channel.send_value(&Reply::Done { len })?;
                let mut buffer = vec![0; FRAME];
                let mut left = len;
                while left > 0 {
                    let n = (left as usize).min(FRAME);
                    file.read_exact(&mut buffer[..n])
                        .map_err(Error::io("read", &path))?;
                    channel.send(&buffer[..n])?;
                    left -= n as u64;
                }
                Ok(())
            }
        }
    }
}
