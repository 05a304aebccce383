//! Collectives that the control thread needs, done by the MPI thread, which is the only one that may
//! call MPI. The two talk over channels (futexes: no descriptors, which they do not share).
//!
//! The control thread may stand in a file system that does not answer. The MPI thread does not: it tells
//! rank 0 what this rank does, and rank 0 tells the user, and ends the meeting on all ranks when the time
//! is over ([`waits`]).

use std::cell::RefCell;
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use libckpt::{Collective, Error};
use mana_plugin::{Gathered, Gatherer, Missing, Offer, WorldCollective};

use crate::outcome::Told;
use crate::{job, messages, waits, Failure};

type Answer = Result<Vec<Vec<u8>>, i32>;

enum Ask<T> {
    Allgather(Vec<u8>),
    Done(T),
}

/// What the control thread does.
#[derive(Clone, Debug, Default)]
struct Doing {
    what: String,
    /// It may take as long as it likes.
    moving: bool,
}

type Shared = Arc<Mutex<Doing>>;

/// The control thread's end.
pub struct Asker<T> {
    rank: u32,
    size: u32,
    asks: Sender<Ask<T>>,
    answers: RefCell<Receiver<Answer>>,
    doing: Shared,
}

/// The MPI thread's end.
pub struct Server<T> {
    world: Option<WorldCollective>,
    asks: Receiver<Ask<T>>,
    answers: Sender<Answer>,
    doing: Shared,
    /// What is begun here, and what is said if it cannot be.
    title: &'static str,
    tail: &'static str,
}

/// Both ends. Without `world` the job has one rank. `title`: what all ranks do; `tail`: what follows if they
/// cannot.
pub fn pair<T>(
    world: Option<WorldCollective>,
    title: &'static str,
    tail: &'static str,
) -> (Asker<T>, Server<T>) {
    let (asks, asked) = channel();
    let (answers, answered) = channel();
    let (rank, size) = world.as_ref().map_or((0, 1), |w| (w.rank(), w.size()));
    let doing = Shared::default();
    let asker = Asker {
        rank,
        size,
        asks,
        answers: RefCell::new(answered),
        doing: Arc::clone(&doing),
    };
    let server = Server {
        world,
        asks: asked,
        answers,
        doing,
        title,
        tail,
    };
    (asker, server)
}

/// The MPI thread in one gathering.
struct Attendant<'a, T> {
    server: &'a Server<T>,
    /// What the control thread has brought at last.
    result: Option<Result<T, Failure>>,
}

impl<T> Attendant<'_, T> {
    fn doing(&self) -> Doing {
        let doing = self.server.doing.lock();
        doing.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn size(&self) -> u32 {
        self.server.world.as_ref().map_or(1, WorldCollective::size)
    }
}

impl<T> Gatherer for Attendant<'_, T> {
    fn offer(&mut self, limit: Duration) -> Offer {
        match self.server.asks.recv_timeout(limit) {
            Ok(Ask::Allgather(data)) => Offer::Brings(data),
            Ok(Ask::Done(result)) => {
                self.result = Some(Ok(result));
                Offer::Leaves
            }
            Err(RecvTimeoutError::Timeout) => Offer::Busy(self.doing().what),
            Err(RecvTimeoutError::Disconnected) => {
                self.result = Some(Err("the control thread has ended".into()));
                Offer::Leaves
            }
        }
    }

    fn limit(&mut self) -> Option<Duration> {
        let limit = Duration::from_secs(job().spec.config.checkpoint_timeout);
        (!self.doing().moving).then_some(limit)
    }

    fn waits(&mut self, waited: Duration, missing: &[Missing]) {
        let whom = waits::whom(self.size(), missing);
        log::warn!(
            "{} waits {} for {whom}",
            self.server.title,
            waits::seconds(waited)
        );
    }

    fn gives_up(&mut self, waited: Duration, missing: &[Missing]) -> String {
        let whom = waits::whom(self.size(), missing);
        let text = format!(
            "{} has waited {} for {whom} (checkpoint_timeout)",
            self.server.title,
            waits::seconds(waited)
        );
        messages::error(format_args!("{text}{}", self.server.tail));
        text
    }

    fn silent(&mut self, waited: Duration) {
        waits::rank_0_is_silent(self.server.title, waited);
    }
}

impl<T> Server<T> {
    /// Serves the control thread until it is done; returns what it brought.
    ///
    /// # Errors
    /// When the control thread has ended without a result, or the ranks have not all come in time, which has been
    /// told then.
    pub fn serve(self) -> Result<T, Failure> {
        loop {
            let mut attendant = Attendant {
                server: &self,
                result: None,
            };
            let gathered = mana_plugin::gather(self.world.as_ref(), &mut attendant);
            if let Some(result) = attendant.result {
                return result;
            }
            let answer = match gathered {
                Ok(Gathered::All(all)) => Ok(all),
                Ok(Gathered::GivenUp(text)) => return Err(Box::new(Told::alone(text))),
                Ok(Gathered::Left) => return Err("the control thread has ended".into()),
                Err(class) => Err(class),
            };
            if self.answers.send(answer).is_err() {
                return Err("the control thread has ended".into());
            }
        }
    }
}

impl<T> Asker<T> {
    /// Ends the meeting.
    pub fn done(self, result: T) {
        // The MPI thread waits in `serve`; if it is gone, so is the process, or it has given up.
        let _ = self.asks.send(Ask::Done(result));
    }

    fn set_doing(&self, what: &str, moving: bool) {
        *self.doing.lock().unwrap_or_else(PoisonError::into_inner) = Doing {
            what: what.to_owned(),
            moving,
        };
    }
}

impl<T> Collective for Asker<T> {
    fn rank(&self) -> u32 {
        self.rank
    }

    fn size(&self) -> u32 {
        self.size
    }

    fn doing(&self, what: &str) {
        self.set_doing(what, false);
    }

    fn moving(&self, what: &str) {
        self.set_doing(what, true);
    }

    fn allgather(&self, data: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        let failed = |reason: String| Error::Collective {
            operation: "an exchange of all ranks",
            reason,
        };
        self.asks
            .send(Ask::Allgather(data.to_vec()))
            .map_err(|e| failed(e.to_string()))?;
        let answer = self
            .answers
            .borrow()
            .recv()
            .map_err(|e| failed(e.to_string()))?;
        answer.map_err(|class| failed(format!("MPI error class {class}")))
    }
}
