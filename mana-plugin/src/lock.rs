//! The layer's lock under `MPI_THREAD_MULTIPLE`: recursive, and fair in the end.
//!
//! Lower half, program's threads. Whoever is first takes it, which is quick: a thread that goes from call to call finds
//! its data where they are. But a thread that asks again and again (a loop around `MPI_Test`) lets go of it for an
//! instant only, in which the others, asleep or on another processor, would not take it for seconds. So one that has
//! waited for [`PATIENCE`] says so, and nobody takes the lock before it does.

use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// After that long a thread has the next turn.
const PATIENCE: Duration = Duration::from_micros(200);
/// Tries before the processor is left to others.
const SPINS: u32 = 50;

/// A lock that its owner can take again.
#[derive(Debug)]
pub struct Lock {
    /// Kernel thread id of who has it; 0: nobody.
    owner: AtomicI32,
    /// Kernel thread id of who has the next turn; 0: anybody.
    next: AtomicI32,
    /// How often the owner has taken it.
    depth: AtomicU32,
}

impl Lock {
    /// One that nobody has.
    pub const fn new() -> Self {
        Self {
            owner: AtomicI32::new(0),
            next: AtomicI32::new(0),
            depth: AtomicU32::new(0),
        }
    }

    fn try_take(&self, me: i32) -> bool {
        let next = self.next.load(Ordering::Relaxed);
        (next == 0 || next == me)
            && self
                .owner
                .compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
    }

    /// Thread `me` takes it, `depth` times at once. Cold: most programs have one thread in MPI.
    #[cold]
    pub fn take(&self, me: i32, depth: u32) {
        if self.owner.load(Ordering::Relaxed) == me {
            self.depth.fetch_add(depth, Ordering::Relaxed);
            return;
        }
        if !self.try_take(me) {
            self.wait(me);
        }
        self.depth.store(depth, Ordering::Relaxed);
    }

    #[cold]
    fn wait(&self, me: i32) {
        let mut since = None;
        let mut spins = 0;
        while !self.try_take(me) {
            spins += 1;
            if spins <= SPINS {
                std::hint::spin_loop();
                continue;
            }
            if since.get_or_insert_with(Instant::now).elapsed() >= PATIENCE {
                let _ = self
                    .next
                    .compare_exchange(0, me, Ordering::Relaxed, Ordering::Relaxed);
            }
            std::thread::yield_now();
        }
        if self.next.load(Ordering::Relaxed) == me {
            self.next.store(0, Ordering::Relaxed);
        }
    }

    /// How often its owner, the calling thread, has taken it.
    pub fn depth(&self) -> u32 {
        self.depth.load(Ordering::Relaxed)
    }

    /// Its owner gives back `depth` of its turns.
    #[cold]
    pub fn give(&self, depth: u32) {
        if self.depth.fetch_sub(depth, Ordering::Relaxed) == depth {
            self.owner.store(0, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    fn busy(time: Duration) {
        let since = Instant::now();
        while since.elapsed() < time {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn its_owner_takes_it_again() {
        let lock = Lock::new();
        lock.take(1, 1);
        lock.take(1, 2);
        assert_eq!(lock.depth(), 3);
        lock.give(3);
        lock.take(2, 1);
        lock.give(1);
    }

    #[test]
    fn who_asks_again_and_again_starves_nobody() {
        let lock = Lock::new();
        let end = AtomicBool::new(false);
        let inside = AtomicU32::new(0);
        let turn = |me: i32, time: Duration| {
            lock.take(me, 1);
            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
            busy(time);
            assert_eq!(inside.fetch_sub(1, Ordering::SeqCst), 1);
            lock.give(1);
        };
        let longest = std::thread::scope(|scope| {
            // They sleep with it, as a library does that yields in its test of a request.
            for me in 1..=2 {
                let (turn, end) = (&turn, &end);
                scope.spawn(move || {
                    while !end.load(Ordering::Relaxed) {
                        turn(me, Duration::from_micros(300));
                    }
                });
            }
            let mut longest = Duration::ZERO;
            for _ in 0..100 {
                let since = Instant::now();
                turn(3, Duration::from_micros(1));
                longest = longest.max(since.elapsed());
            }
            end.store(true, Ordering::Relaxed);
            longest
        });
        assert!(longest < Duration::from_secs(2), "{longest:?}");
    }
}
