//! Collectives that the control thread needs, done by the MPI thread, which is the only one that may
//! call MPI. The two talk over channels (futexes: no descriptors, which they do not share).

use std::cell::RefCell;
use std::sync::mpsc::{channel, Receiver, Sender};

use libckpt::{Collective, Error};
use mana_plugin::WorldCollective;

type Answer = Result<Vec<Vec<u8>>, i32>;

enum Ask<T> {
    Allgather(Vec<u8>),
    Done(T),
}

/// The control thread's end.
pub struct Asker<T> {
    rank: u32,
    size: u32,
    asks: Sender<Ask<T>>,
    answers: RefCell<Receiver<Answer>>,
}

/// The MPI thread's end.
pub struct Server<T> {
    world: Option<WorldCollective>,
    asks: Receiver<Ask<T>>,
    answers: Sender<Answer>,
}

/// Both ends. Without `world` the job has one rank.
pub fn pair<T>(world: Option<WorldCollective>) -> (Asker<T>, Server<T>) {
    let (asks, asked) = channel();
    let (answers, answered) = channel();
    let (rank, size) = world.as_ref().map_or((0, 1), |w| (w.rank(), w.size()));
    let asker = Asker {
        rank,
        size,
        asks,
        answers: RefCell::new(answered),
    };
    (
        asker,
        Server {
            world,
            asks: asked,
            answers,
        },
    )
}

impl<T> Server<T> {
    /// Serves the control thread until it is done; returns what it brought.
    ///
    /// # Errors
    /// When the control thread has ended without a result.
    pub fn serve(self) -> Result<T, crate::Failure> {
        loop {
            match self.asks.recv() {
                Ok(Ask::Allgather(data)) => {
                    let answer = match &self.world {
                        Some(world) => world.allgather(&data),
                        None => Ok(vec![data]),
                    };
                    if self.answers.send(answer).is_err() {
                        return Err("the control thread has ended".into());
                    }
                }
                Ok(Ask::Done(result)) => return Ok(result),
                Err(_) => return Err("the control thread has ended".into()),
            }
        }
    }
}

impl<T> Asker<T> {
    /// Ends the meeting.
    pub fn done(self, result: T) {
        // The MPI thread waits in `serve`; if it is gone, so is the process.
        let _ = self.asks.send(Ask::Done(result));
    }
}

impl<T> Collective for Asker<T> {
    fn rank(&self) -> u32 {
        self.rank
    }

    fn size(&self) -> u32 {
        self.size
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
