//! Where the program's threads wait inside MPI, told when asked.
//!
//! Lower half; asked on the control thread, answered on the program's threads. It costs a call
//! nothing: every wait watches the stop word anyway. [`ask`] gives that word a value of its own; each
//! wait then comes back from the library as if it had to leave, notes what it waits for, and goes on
//! waiting. [`answers`] ends the question. How long a wait lasts counts from the first question that
//! found it.

use crate::entry::{LEAVE, STOP, TELL};
use crate::state::{core, Work};
use mpi_std::MPI_ANY_TAG;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Most threads whose answers are kept.
const MOST: usize = 64;

/// What a thread of the program waits for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The procedure it is in.
    pub call: String,
    /// Identity of the communicator, the same number on all its members.
    pub comm_id: Option<u64>,
    /// Name of the communicator; one without is told by its size.
    pub comm_name: String,
    /// World rank of the other side; `None` if none is named, or any will do.
    pub peer: Option<u32>,
    /// Whether something goes to the other side; else it comes from there.
    pub sends: bool,
    /// Tag; `None` if there is none, or any will do.
    pub tag: Option<i32>,
    /// Number of the collective on its communicator, from 1.
    pub number: Option<u64>,
    /// Further requests that are open.
    pub more: u32,
    /// How long it has waited, as far as that was seen.
    pub waited: Duration,
}

/// The same wait over several questions.
#[derive(Default)]
pub struct Asked {
    since: Option<Instant>,
    question: u64,
}

static QUESTION: AtomicU64 = AtomicU64::new(0);
static ANSWERS: Mutex<Vec<Place>> = Mutex::new(Vec::new());

fn noted() -> MutexGuard<'static, Vec<Place>> {
    ANSWERS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Asked {
    /// The stop word is set: answers a question. Whether the wait goes on.
    #[cold]
    pub fn tell(&mut self, place: impl FnOnce() -> Place) -> bool {
        match STOP.load(Ordering::Acquire) {
            LEAVE => return false,
            TELL => {}
            _ => return true,
        }
        let question = QUESTION.load(Ordering::Acquire);
        if self.question == question {
            // Told already; until the question is over the library is left after each test.
            std::thread::yield_now();
            return true;
        }
        self.question = question;
        let waited = self.since.get_or_insert_with(Instant::now).elapsed();
        let place = Place { waited, ..place() };
        let mut noted = noted();
        // The question may be over: whoever asks next is told again.
        let known = !place.call.is_empty();
        if known && QUESTION.load(Ordering::Acquire) == question && noted.len() < MOST {
            noted.push(place);
        }
        true
    }
}

/// Asks all threads that wait; nothing if a stop has been requested. Does not wait: the answers are
/// there as soon as each has come round its loop.
pub fn ask() {
    noted().clear();
    QUESTION.fetch_add(1, Ordering::AcqRel);
    // Fails only when all are told to leave.
    let _ = STOP.compare_exchange(0, TELL, Ordering::SeqCst, Ordering::SeqCst);
}

/// Ends the question of [`ask`]: what was answered.
pub fn answers() -> Vec<Place> {
    // Fails only when all are told to leave.
    let _ = STOP.compare_exchange(TELL, 0, Ordering::SeqCst, Ordering::SeqCst);
    std::mem::take(&mut *noted())
}

impl Place {
    /// In procedure `call`, and nothing more is known.
    pub fn of(call: &str) -> Place {
        Place {
            call: call.to_owned(),
            ..Place::default()
        }
    }

    /// In collective `call`, number `number` on the communicator of that identity and size.
    pub fn collective(call: &str, comm_id: u64, size: u32, number: u64) -> Place {
        Place {
            comm_id: Some(comm_id),
            comm_name: title(comm_id, size as usize),
            number: Some(number),
            ..Place::of(call)
        }
    }

    /// In procedure `call` on communicator `index`.
    pub fn on(call: &str, index: u32) -> Place {
        let mut place = Place::of(call);
        if let Some(comm) = core().state.comms.get(index) {
            place.comm_id = Some(comm.id);
            place.comm_name = match comm.name.as_slice() {
                [] => title(comm.id, comm.processes()),
                name => String::from_utf8_lossy(name).into_owned(),
            };
        }
        place
    }

    /// In procedure `call`, which talks to `peer` of communicator `index`.
    pub fn with(call: &str, index: u32, peer: i32, tag: i32, sends: bool) -> Place {
        Place {
            peer: crate::requests::world_of(index, peer),
            tag: (tag != MPI_ANY_TAG).then_some(tag),
            sends,
            ..Place::on(call, index)
        }
    }

    /// In procedure `call` (if empty: the blocking one that made it), waiting for request `index`.
    pub fn request(call: &str, index: u32) -> Place {
        let Some(r) = core().state.requests.get(index) else {
            return Place::of(call);
        };
        let (made_by, sends) = match r.work {
            Work::Send(mode) => (send_name(mode), true),
            Work::Recv | Work::MatchedRecv => ("MPI_Recv", false),
            Work::Collective => ("a collective", false),
            Work::Generalised => ("a generalised request", false),
            Work::OneSided => ("a one-sided operation", false),
            Work::File => ("an operation on a file", false),
        };
        let (comm, peer, tag, work) = (r.comm, r.peer, r.tag, r.work);
        let call = match call {
            "" => made_by.to_owned(),
            _ if matches!(work, Work::Send(_) | Work::Recv | Work::MatchedRecv) => call.to_owned(),
            _ => format!("{call} for {made_by}"),
        };
        match work {
            Work::Send(_) | Work::Recv | Work::MatchedRecv => {
                Place::with(&call, comm, peer, tag, sends)
            }
            _ => Place::on(&call, comm),
        }
    }
}

/// A communicator that the program has given no name, in words.
pub fn title(comm_id: u64, size: usize) -> String {
    match (comm_id, size) {
        (crate::comms::WORLD_ID, _) => "MPI_COMM_WORLD".into(),
        (id, 1) => format!("a communicator of 1 rank ({id:x})"),
        (id, _) => format!("a communicator of {size} ranks ({id:x})"),
    }
}

/// The procedure of a blocking send.
pub fn send_name(mode: u8) -> &'static str {
    match mode {
        crate::p2p::SYNCHRONOUS => "MPI_Ssend",
        crate::p2p::READY => "MPI_Rsend",
        crate::p2p::BUFFERED => "MPI_Bsend",
        _ => "MPI_Send",
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Held by tests that use the stop word.
    pub static SERIAL: Mutex<()> = Mutex::new(());

    #[test]
    fn a_wait_tells_once_a_question_and_leaves_at_a_stop() {
        let _serial = SERIAL.lock().unwrap_or_else(PoisonError::into_inner);
        let mut asked = Asked::default();
        assert!(asked.tell(|| Place::of("nobody asks")));
        ask();
        assert!(asked.tell(|| Place::of("MPI_Recv")));
        assert!(asked.tell(|| Place::of("told already")));
        let first = answers();
        assert_eq!(first.len(), 1);
        assert_eq!(first[0].call, "MPI_Recv");
        assert_eq!(STOP.load(Ordering::SeqCst), 0);
        ask();
        assert!(asked.tell(|| Place::of("MPI_Recv")));
        let second = answers();
        assert!(second[0].waited >= first[0].waited);
        STOP.store(LEAVE, Ordering::SeqCst);
        ask();
        assert!(!asked.tell(|| Place::of("leaves")));
        assert!(answers().is_empty());
        assert_eq!(STOP.load(Ordering::SeqCst), LEAVE, "a stop stays one");
        STOP.store(0, Ordering::SeqCst);
    }
}
