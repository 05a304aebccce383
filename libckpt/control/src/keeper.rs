//! Writes what is kept of a job: its events, and metrics for a monitoring system.
//!
//! On a thread of its own, because a file system may take its time and the coordinator must not. What
//! does not fit into the queue is dropped and counted. A failure is told once.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{sync_channel, Receiver, RecvTimeoutError, Sender, SyncSender, TrySendError};
use std::time::{Duration, Instant};

use crate::{ControlError, EventLog, Record};

/// Between two signs of life.
const ALIVE: Duration = Duration::from_secs(30);
/// Most things waiting to be written.
const QUEUE: usize = 1024;

/// Where to keep what.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places {
    /// Directory of all jobs: events go to `<events>/<job>/events.jsonl`.
    pub events: Option<PathBuf>,
    /// File for metrics.
    pub metrics: Option<PathBuf>,
}

enum Order {
    Event { job: String, record: Box<Record> },
    Metrics(String),
    NoMetrics,
    Flush(Sender<()>),
}

/// The queue of the writing thread.
pub(crate) struct Keeper {
    orders: SyncSender<Order>,
    dropped: u64,
    keeps_metrics: bool,
}

impl Keeper {
    /// Starts the thread; `None` if nothing is to be kept.
    pub fn start(places: Places) -> Result<Option<Self>, ControlError> {
        if places.events.is_none() && places.metrics.is_none() {
            return Ok(None);
        }
        let (orders, received) = sync_channel(QUEUE);
        let keeps_metrics = places.metrics.is_some();
        std::thread::Builder::new()
            .name("mana-keeper".into())
            .spawn(move || run(&places, &received, ALIVE))
            .map_err(|e| ControlError::io("start", "the thread that keeps events", e))?;
        Ok(Some(Self {
            orders,
            dropped: 0,
            keeps_metrics,
        }))
    }

    /// Whether metrics are wanted.
    pub fn keeps_metrics(&self) -> bool {
        self.keeps_metrics
    }

    /// Keeps an event of a job.
    pub fn event(&mut self, job: String, record: Record) {
        let record = Box::new(record);
        self.order(Order::Event { job, record });
    }

    /// Replaces the metrics.
    pub fn metrics(&mut self, text: String) {
        self.order(Order::Metrics(text));
    }

    /// Removes the metrics: the job is over, and a stale figure is worse than none.
    pub fn no_metrics(&mut self) {
        self.order(Order::NoMetrics);
    }

    /// Waits until everything so far is written, at most `limit`.
    pub fn flush(&mut self, limit: Duration) {
        let (done, waits) = std::sync::mpsc::channel();
        if self.orders.try_send(Order::Flush(done)).is_ok() {
            // Late or not, there is nothing more to do about it.
            let _ = waits.recv_timeout(limit);
        }
    }

    fn order(&mut self, order: Order) {
        match self.orders.try_send(order) {
            Ok(()) => self.dropped = 0,
            Err(TrySendError::Full(_)) => {
                self.dropped += 1;
                if self.dropped == 1 {
                    log::warn!("the file system does not take the job's events: some are lost to mana report");
                }
            }
            Err(TrySendError::Disconnected(_)) => {}
        }
    }
}

/// A sign of life of the job every `every`, whatever else there is to keep.
fn run(places: &Places, orders: &Receiver<Order>, every: Duration) {
    let mut complained = false;
    let mut alive: Option<EventLog> = None;
    let mut touched = Instant::now();
    loop {
        let order = match orders.recv_timeout(every) {
            Ok(order) => Some(order),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => None,
        };
        // A later start looks whether this one lives.
        if let (Some(log), true) = (&alive, touched.elapsed() >= every) {
            let _ = log.touch();
            touched = Instant::now();
        }
        let Some(order) = order else { continue };
        let (written, what) = match order {
            Order::Flush(done) => {
                // Whoever waited may have given up.
                let _ = done.send(());
                continue;
            }
            Order::Event { job, record } => match &places.events {
                Some(directory) => {
                    let directory = directory.join(&job);
                    touched = Instant::now();
                    alive = Some(EventLog::new(&directory));
                    (
                        keep(&directory, &record),
                        directory.join(EventLog::FILE_NAME),
                    )
                }
                None => continue,
            },
            Order::NoMetrics => {
                remove(places);
                continue;
            }
            Order::Metrics(text) => match &places.metrics {
                Some(path) => (replace(path, &text), path.clone()),
                None => continue,
            },
        };
        if let Err(e) = written {
            if !std::mem::replace(&mut complained, true) {
                log::warn!("{} cannot be written: {e}", what.display());
            }
        }
    }
    remove(places);
}

fn remove(places: &Places) {
    if let Some(path) = &places.metrics {
        // It may never have been written.
        let _ = fs::remove_file(path);
    }
}

fn keep(directory: &Path, record: &Record) -> io::Result<()> {
    // As the job's own directory, which it may become.
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    EventLog::new(directory).append(record)
}

/// The file is never seen half written.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let temporary = path.with_file_name(name);
    fs::write(&temporary, text)?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Event, Outcome};

    #[test]
    fn events_and_metrics_are_written_in_order() {
        let place = tempfile::tempdir().expect("a directory");
        let metrics = place.path().join("mana.prom");
        let mut keeper = Keeper::start(Places {
            events: Some(place.path().to_owned()),
            metrics: Some(metrics.clone()),
        })
        .expect("a thread")
        .expect("something to keep");
        for rank in 0..3 {
            let outcome = Outcome::Lost { rank };
            keeper.event("a".into(), Record::now(1, Event::Ended { outcome }));
            keeper.metrics(format!("mana_x {rank}\n"));
        }
        keeper.flush(Duration::from_secs(10));
        let kept = EventLog::new(&place.path().join("a")).read().expect("read");
        assert_eq!(kept.len(), 3);
        for path in ["a", "a/events.jsonl"] {
            let facts = fs::metadata(place.path().join(path)).expect(path);
            let mode = std::os::unix::fs::PermissionsExt::mode(&facts.permissions());
            assert_eq!(mode & 0o077, 0, "{path} is for others, too");
        }
        assert_eq!(fs::read_to_string(&metrics).expect("text"), "mana_x 2\n");
        assert_eq!(fs::read_dir(place.path()).expect("list").count(), 2);
        keeper.no_metrics();
        keeper.flush(Duration::from_secs(10));
        assert!(!metrics.exists());
        assert!(Keeper::start(Places::default()).expect("nothing").is_none());
    }

    #[test]
    fn a_job_with_metrics_shows_that_it_lives() {
        let place = tempfile::tempdir().expect("a directory");
        let places = Places {
            events: Some(place.path().to_owned()),
            metrics: Some(place.path().join("mana.prom")),
        };
        let every = Duration::from_millis(100);
        let (orders, received) = sync_channel(QUEUE);
        let thread = std::thread::spawn(move || run(&places, &received, every));
        let outcome = Outcome::Lost { rank: 0 };
        let record = Box::new(Record::now(1, Event::Ended { outcome }));
        let job = "a".to_owned();
        orders.send(Order::Event { job, record }).expect("sent");
        let (done, written) = std::sync::mpsc::channel();
        orders.send(Order::Flush(done)).expect("sent");
        written
            .recv_timeout(Duration::from_secs(10))
            .expect("written");
        let log = place.path().join("a").join(EventLog::FILE_NAME);
        let file = fs::File::options().append(true).open(&log).expect("there");
        file.set_modified(std::time::UNIX_EPOCH)
            .expect("made to look old");
        let modified = || fs::metadata(&log).and_then(|facts| facts.modified());
        let began = Instant::now();
        while modified().expect("a time") == std::time::UNIX_EPOCH {
            assert!(began.elapsed() < Duration::from_secs(20), "no sign of life");
            orders
                .send(Order::Metrics("mana_x 1\n".to_owned()))
                .expect("sent");
            std::thread::sleep(every / 5);
        }
        drop(orders);
        thread.join().expect("ended");
    }
}
