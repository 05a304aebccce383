//! Any number of ranks and nodes in one process: each rank is a thread, a [`Collective`] is a meeting
//! of all of them. For tests of placement, commit and recovery without MPI.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::{Collective, Error};

/// Longest wait for the other ranks.
const LIMIT: Duration = Duration::from_secs(60);

struct Meeting {
    round: u64,
    given: Vec<Option<Vec<u8>>>,
    result: Arc<Vec<Vec<u8>>>,
    /// A rank has ended: nobody can meet any more.
    left: bool,
}

/// The ranks of one simulated job.
pub struct World {
    meeting: Mutex<Meeting>,
    changed: Condvar,
    size: u32,
}

/// One simulated rank.
pub struct SimulatedRank {
    world: Arc<World>,
    rank: u32,
}

/// Runs `body` for each of `size` ranks on a thread of its own and returns their results, by rank.
pub fn run<T: Send>(size: u32, body: impl Fn(&SimulatedRank) -> T + Sync) -> Vec<T> {
    let meeting = Meeting {
        round: 0,
        given: vec![None; size as usize],
        result: Arc::default(),
        left: false,
    };
    let world = Arc::new(World {
        meeting: Mutex::new(meeting),
        changed: Condvar::new(),
        size,
    });
    std::thread::scope(|scope| {
        let ranks: Vec<_> = (0..size)
            .map(|rank| {
                let one = SimulatedRank {
                    world: Arc::clone(&world),
                    rank,
                };
                let body = &body;
                scope.spawn(move || body(&one))
            })
            .collect();
        ranks
            .into_iter()
            .map(|t| t.join().unwrap_or_else(|p| std::panic::resume_unwind(p)))
            .collect()
    })
}

impl Drop for SimulatedRank {
    fn drop(&mut self) {
        let meeting = self.world.meeting.lock();
        meeting.unwrap_or_else(PoisonError::into_inner).left = true;
        self.world.changed.notify_all();
    }
}

impl Collective for SimulatedRank {
    fn rank(&self) -> u32 {
        self.rank
    }

    fn size(&self) -> u32 {
        self.world.size
    }

    fn allgather(&self, data: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        let mut m = self
            .world
            .meeting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let round = m.round;
        m.given[self.rank as usize] = Some(data.to_vec());
        if m.given.iter().all(Option::is_some) {
            m.result = Arc::new(
                m.given
                    .iter_mut()
                    .map(|g| g.take().unwrap_or_default())
                    .collect(),
            );
            m.round += 1;
            self.world.changed.notify_all();
        }
        let waited = self
            .world
            .changed
            .wait_timeout_while(m, LIMIT, |m| m.round == round && !m.left);
        let (m, late) = waited.unwrap_or_else(PoisonError::into_inner);
        if m.round == round {
            let reason = match late.timed_out() {
                true => "a rank did not come",
                false => "a rank has ended",
            };
            return Err(Error::Collective {
                operation: "simulated allgather",
                reason: reason.into(),
            });
        }
        Ok(m.result.as_ref().clone())
    }
}
