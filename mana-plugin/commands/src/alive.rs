//! Does a job run? Asked before what must not be done to one that does: a second start, the deletion of its checkpoints.
//!
//! A coordinator that does not answer is no proof of a dead one: from here its node may be behind a network that is not
//! routed, or a firewall. Then the job's record decides, which a job that runs changes every 30 s (`docs/guide/status.md`).

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use mana_control::{Client, ControlError, Rendezvous};

/// A record that is older is that of a dead job.
pub const SILENCE: Duration = Duration::from_secs(90);

/// What can be told from here.
#[derive(Debug)]
pub enum Sign {
    /// Its coordinator answers.
    Runs(Rendezvous),
    /// It does not, and neither is it certain to be gone.
    Perhaps(Perhaps),
    /// Nobody listens any more, or the record is old.
    Gone,
}

/// A job that may run.
#[derive(Debug)]
pub struct Perhaps {
    /// Why that is not known.
    why: String,
    /// Age of its record.
    since: Duration,
}

impl Perhaps {
    /// The first half of a line.
    pub fn text(&self, id: &str) -> String {
        format!(
            "job {id} may be running: {}, but its record is {} s old",
            self.why,
            self.since.as_secs()
        )
    }
}

/// Looks at job `id`, and asks its coordinator for `limit` at most.
pub fn look(global: &Path, id: &str, limit: Duration) -> Sign {
    let path = Rendezvous::path(global, id);
    let why = match Rendezvous::read(&path) {
        Ok(rendezvous) => match Client::connect(&rendezvous, limit) {
            Ok(_) => return Sign::Runs(rendezvous),
            Err(e) if !e.may_be_there() => return Sign::Gone,
            Err(_) => format!(
                "its coordinator (process {} on {}) does not answer",
                rendezvous.pid, rendezvous.host
            ),
        },
        Err(ControlError::NoRendezvous { .. }) => return Sign::Gone,
        Err(e) => crate::message::chain(&e),
    };
    match silence(&path) {
        Some(since) if since < SILENCE => Sign::Perhaps(Perhaps { why, since }),
        _ => Sign::Gone,
    }
}

/// How long ago the job has left a sign of life.
fn silence(rendezvous: &Path) -> Option<Duration> {
    let changed = |path: &Path| fs::metadata(path).and_then(|facts| facts.modified()).ok();
    let signs = [
        rendezvous.to_path_buf(),
        rendezvous.with_file_name("events.jsonl"),
    ];
    let newest = signs.iter().filter_map(|path| changed(path)).max()?;
    // A file server's clock may be ahead.
    Some(
        SystemTime::now()
            .duration_since(newest)
            .unwrap_or(Duration::ZERO),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use mana_control::{Coordinator, CoordinatorOptions, Secret, Settings};
    use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, SockaddrIn};
    use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream};
    use std::os::fd::{AsRawFd as _, OwnedFd};
    use std::time::Instant;

    const LIMIT: Duration = Duration::from_secs(5);
    /// For those of which is known that they do not answer.
    const SHORT: Duration = Duration::from_millis(300);

    /// A port that takes no connection and refuses none: its queue is full.
    struct Full {
        address: SocketAddr,
        _listener: OwnedFd,
        _queued: Vec<TcpStream>,
    }

    impl Full {
        fn new() -> Self {
            let flags = SockFlag::SOCK_CLOEXEC;
            let listener = socket::socket(AddressFamily::Inet, SockType::Stream, flags, None);
            let listener = listener.expect("socket");
            let any = SockaddrIn::new(127, 0, 0, 1, 0);
            socket::bind(listener.as_raw_fd(), &any).expect("bind");
            socket::listen(&listener, Backlog::new(0).expect("backlog")).expect("listen");
            let bound: SockaddrIn = socket::getsockname(listener.as_raw_fd()).expect("name");
            let address = SocketAddr::V4(SocketAddrV4::from(bound));
            let mut queued = Vec::new();
            while let Ok(one) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
                queued.push(one);
                assert!(queued.len() < 16, "the queue never fills");
            }
            Self {
                address,
                _listener: listener,
                _queued: queued,
            }
        }
    }

    /// Nobody listens there.
    fn vacant() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        listener.local_addr().expect("address")
    }

    /// A job with a coordinator that really runs; its rendezvous file names `before` first.
    fn job(before: &[SocketAddr], global: &Path) -> (Coordinator, Rendezvous) {
        fs::create_dir(global.join("j")).expect("directory");
        let coordinator = Coordinator::spawn(CoordinatorOptions {
            job: Some("j".into()),
            incarnation: Some(1),
            secret: Secret::generate().expect("secret"),
            bind: "127.0.0.1".into(),
            port: 0,
            settings: Some(Settings::default()),
            rendezvous: None,
            events: None,
            metrics: None,
            fd_floor: 0,
        })
        .expect("coordinator");
        let mut there = coordinator.rendezvous();
        let own = std::mem::take(&mut there.addresses);
        there.addresses = before.iter().map(ToString::to_string).chain(own).collect();
        there
            .write(&Rendezvous::path(global, "j"))
            .expect("written");
        (coordinator, there)
    }

    fn age(global: &Path, seconds: u64) {
        let then = SystemTime::now() - Duration::from_secs(seconds);
        let path = Rendezvous::path(global, "j");
        let file = fs::File::options().write(true).open(path).expect("opened");
        file.set_modified(then).expect("set");
    }

    #[test]
    fn an_address_that_swallows_everything_hides_no_other() {
        let dir = tempfile::tempdir().expect("directory");
        let full = [Full::new(), Full::new(), Full::new()];
        let silent = full.each_ref().map(|one| one.address);
        let (coordinator, there) = job(&silent, dir.path());
        let began = Instant::now();
        assert!(matches!(look(dir.path(), "j", LIMIT), Sign::Runs(_)));
        assert!(began.elapsed() < LIMIT, "{:?}", began.elapsed());
        // It ends: the others may still be it, as long as the record is young.
        drop(coordinator);
        let Sign::Perhaps(perhaps) = look(dir.path(), "j", SHORT) else {
            panic!("not known");
        };
        let text = perhaps.text("j");
        assert!(
            text.contains("may be running") && text.contains(&there.host),
            "{text}"
        );
        age(dir.path(), 80);
        assert!(matches!(look(dir.path(), "j", SHORT), Sign::Perhaps(_)));
        age(dir.path(), 91);
        assert!(matches!(look(dir.path(), "j", SHORT), Sign::Gone));
        // The log of events counts as well.
        fs::write(dir.path().join("j/events.jsonl"), "").expect("written");
        assert!(matches!(look(dir.path(), "j", SHORT), Sign::Perhaps(_)));
    }

    #[test]
    fn a_refused_connection_is_the_end() {
        let dir = tempfile::tempdir().expect("directory");
        let (coordinator, mut there) = job(&[vacant(), vacant()], dir.path());
        assert!(matches!(look(dir.path(), "j", LIMIT), Sign::Runs(_)));
        drop(coordinator);
        let (began, long) = (Instant::now(), LIMIT * 12);
        assert!(matches!(look(dir.path(), "j", long), Sign::Gone));
        assert!(began.elapsed() < long / 2, "{:?}", began.elapsed());
        // This host's loopback says nothing of another's.
        there.host = "elsewhere".into();
        there
            .write(&Rendezvous::path(dir.path(), "j"))
            .expect("written");
        assert!(matches!(look(dir.path(), "j", LIMIT), Sign::Perhaps(_)));
        // No file: it has ended.
        fs::remove_file(Rendezvous::path(dir.path(), "j")).expect("removed");
        assert!(matches!(look(dir.path(), "j", LIMIT), Sign::Gone));
    }

    #[test]
    fn another_coordinator_at_the_address_is_not_this_jobs() {
        let dir = tempfile::tempdir().expect("directory");
        let (_coordinator, mut there) = job(&[], dir.path());
        there.incarnation = 2;
        there
            .write(&Rendezvous::path(dir.path(), "j"))
            .expect("written");
        assert!(matches!(look(dir.path(), "j", LIMIT), Sign::Gone));
    }
}
