//! The table of a process tree: who belongs to it, under which number the program knows each
//! process, and what is asked of it. Lower half, memory shared by all processes of the tree.
//!
//! Nothing here takes a lock: a process may be killed at any instruction, and others go on. A place
//! is taken by one compare-and-exchange and given back by whoever learns that its process is gone.

use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, AtomicU8, Ordering};
use std::time::{Duration, Instant};

/// Most processes a tree can have.
pub const PLACES: usize = 1024;
/// Most objects that are claimed at one checkpoint.
const CLAIMS: usize = 8192;
/// Bytes of a member's words.
const TEXT: usize = 224;
/// Signals that may be held back are below.
const SIGNALS: usize = 64;
/// A signal that is sent to many processes at once comes to all of them within this.
pub const AT_ONCE: Duration = Duration::from_secs(2);
/// Between two looks at those that are waited for.
const LOOK: Duration = Duration::from_millis(200);
/// Numbers made up for processes lie above every number of the kernel's.
const MADE_UP: i32 = 0x1000_0000;
/// "mana-tre" in memory order.
const MAGIC: u64 = u64::from_le_bytes(*b"mana-tre");

/// Being made: not a process yet.
const BEING_MADE: i32 = -1;

/// One process of the tree.
#[repr(C)]
pub struct Place {
    /// The kernel's number; 0: free.
    real: AtomicI32,
    /// The number the program knows; 0: not settled.
    id: AtomicI32,
    /// That of the process that made it.
    parent: AtomicI32,
    /// 1: it has executed something that is not under control.
    plain: AtomicU32,
    /// The signal by which another process of the tree ends it; 0: none.
    ended_by_tree: AtomicI32,
    /// What the root asks of it.
    request: AtomicU32,
    /// What it has done of that.
    answer: AtomicU32,
    text_len: AtomicU32,
    text: [AtomicU8; TEXT],
}

/// See the module's text. All-zero bytes are an empty table without its magic.
#[repr(C)]
pub struct Table {
    magic: AtomicU64,
    /// The kernel's number of the root.
    root: AtomicI32,
    /// 1: the root's program has ended by itself.
    ended: AtomicU32,
    /// 1: some process of the tree could not be brought back.
    failed: AtomicU32,
    /// 1: numbers the program knows and the kernel's may differ.
    resumed: AtomicU32,
    /// The next number to make up.
    next: AtomicI32,
    /// How many have arrived at each meeting of a resume.
    arrived: [AtomicU32; 4],
    /// Bytes that the processes have read of their memory, for a resume.
    read: AtomicU64,
    /// Signals that the root holds back (bit n is signal n).
    announced: AtomicU64,
    /// When it began to, and when it was last over; in ticks of [`clock`].
    announced_at: [AtomicU64; SIGNALS],
    withdrawn_at: [AtomicU64; SIGNALS],
    /// The last process that a signal from outside has ended: its number and the signal above it, and when.
    lost: AtomicU64,
    lost_at: AtomicU64,
    /// Where the root listens during a checkpoint.
    address: [AtomicU64; 2],
    claims: [AtomicU64; CLAIMS],
    places: [Place; PLACES],
}

/// Nanoseconds of a clock that all processes of the machine share. Touches no thread-local storage.
pub fn clock() -> u64 {
    let mut time = [0i64; 2];
    // SAFETY: CLOCK_MONOTONIC into two words of this frame.
    unsafe {
        mana_raw::sys::syscall(
            libc::SYS_clock_gettime as usize,
            [
                libc::CLOCK_MONOTONIC as usize,
                time.as_mut_ptr() as usize,
                0,
                0,
                0,
                0,
            ],
        )
    };
    time[0] as u64 * 1_000_000_000 + time[1] as u64
}

/// Waits for a change of `word`, which processes share, at most `limit`.
fn futex_wait(word: &AtomicU32, value: u32, limit: Duration) {
    let time = [limit.as_secs() as i64, i64::from(limit.subsec_nanos())];
    // SAFETY: FUTEX_WAIT (shared) on a live word with a relative time.
    unsafe {
        mana_raw::sys::syscall(
            mana_raw::sys::FUTEX,
            [
                word.as_ptr() as usize,
                0,
                value as usize,
                time.as_ptr() as usize,
                0,
                0,
            ],
        )
    };
}

fn futex_wake(word: &AtomicU32) {
    // SAFETY: FUTEX_WAKE (shared) reads nothing.
    unsafe {
        mana_raw::sys::syscall(
            mana_raw::sys::FUTEX,
            [word.as_ptr() as usize, 1, i32::MAX as usize, 0, 0, 0],
        )
    };
}

/// Whether the kernel knows a process `real`, ended but not waited for included.
pub fn exists(real: i32) -> bool {
    // SAFETY: signal 0 is none.
    unsafe { libc::kill(real, 0) == 0 || *libc::__errno_location() == libc::EPERM }
}

/// Whether a process has ended, waited for or not. One whose first thread alone has ended is not
/// gone.
fn is_gone(real: i32) -> bool {
    if !exists(real) {
        return true;
    }
    let stat = std::fs::read_to_string(format!("/proc/{real}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().unwrap_or("").trim_start();
    let threads = std::fs::read_dir(format!("/proc/{real}/task")).map_or(0, Iterator::count);
    state.starts_with(['Z', 'X']) && threads <= 1
}

impl Place {
    /// The kernel's number, if there is a process.
    pub fn real(&self) -> Option<i32> {
        Some(self.real.load(Ordering::Acquire)).filter(|r| *r > 0)
    }

    /// The number the program knows.
    pub fn id(&self) -> i32 {
        self.id.load(Ordering::Acquire)
    }

    /// The number of the process that made it.
    pub fn parent(&self) -> i32 {
        self.parent.load(Ordering::Acquire)
    }

    /// Whether it has executed something that is not under control.
    pub fn is_plain(&self) -> bool {
        self.plain.load(Ordering::Acquire) != 0
    }

    /// Notes that it does so now.
    pub fn set_plain(&self, plain: bool) {
        self.plain.store(plain.into(), Ordering::Release);
    }

    /// The signal by which another process of the tree has ended it, if one has.
    pub fn ended_by_tree(&self) -> i32 {
        self.ended_by_tree.load(Ordering::Acquire)
    }

    /// Notes which.
    pub fn set_ended_by_tree(&self, signal: i32) {
        self.ended_by_tree.store(signal, Ordering::Release);
    }

    /// Has its control thread look around.
    pub fn wake(&self) {
        futex_wake(&self.request);
    }

    /// What the root asks.
    pub fn request(&self) -> u32 {
        self.request.load(Ordering::Acquire)
    }

    /// Asks.
    pub fn ask(&self, request: u32) {
        self.request.store(request, Ordering::Release);
        futex_wake(&self.request);
    }

    /// Waits until something else than `request` is asked, at most `limit`.
    pub fn await_request(&self, request: u32, limit: Duration) {
        if self.request() == request {
            futex_wait(&self.request, request, limit);
        }
    }

    /// What has been done.
    pub fn answer(&self) -> u32 {
        self.answer.load(Ordering::Acquire)
    }

    /// Answers, with words for the root.
    pub fn reply(&self, answer: u32, text: &str) {
        let bytes = text.as_bytes();
        let n = bytes.len().min(TEXT);
        for (to, from) in self.text.iter().zip(bytes) {
            to.store(*from, Ordering::Relaxed);
        }
        self.text_len.store(n as u32, Ordering::Relaxed);
        self.answer.store(answer, Ordering::Release);
        futex_wake(&self.answer);
    }

    /// Waits until the answer is another than `answer`, at most `limit`.
    pub fn await_answer(&self, answer: u32, limit: Duration) {
        if self.answer() == answer {
            futex_wait(&self.answer, answer, limit);
        }
    }

    /// The words of the last answer.
    pub fn text(&self) -> String {
        let n = (self.text_len.load(Ordering::Relaxed) as usize).min(TEXT);
        let bytes: Vec<u8> = self.text[..n]
            .iter()
            .map(|b| b.load(Ordering::Relaxed))
            .collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn clear(&self) {
        self.id.store(0, Ordering::Relaxed);
        self.parent.store(0, Ordering::Relaxed);
        self.plain.store(0, Ordering::Relaxed);
        self.ended_by_tree.store(0, Ordering::Relaxed);
        self.request.store(0, Ordering::Relaxed);
        self.answer.store(0, Ordering::Relaxed);
        self.text_len.store(0, Ordering::Relaxed);
    }

    /// Gives the place back: the process is gone.
    pub fn free(&self) {
        self.clear();
        self.real.store(0, Ordering::Release);
    }
}

impl Table {
    /// Makes a zeroed table one, whose root is the process `root`.
    pub fn begin(&self, root: i32, resumed: bool) {
        self.root.store(root, Ordering::Relaxed);
        self.resumed.store(resumed.into(), Ordering::Relaxed);
        self.next.store(MADE_UP, Ordering::Relaxed);
        self.magic.store(MAGIC, Ordering::Release);
    }

    /// Whether this is a table.
    pub fn is_valid(&self) -> bool {
        self.magic.load(Ordering::Acquire) == MAGIC
    }

    /// The kernel's number of the root.
    pub fn root(&self) -> i32 {
        self.root.load(Ordering::Relaxed)
    }

    /// Whether the kernel's numbers and the program's may differ.
    pub fn is_resumed(&self) -> bool {
        self.resumed.load(Ordering::Relaxed) != 0
    }

    /// The root's program has ended by itself: what it leaves running goes on.
    pub fn set_ended(&self) {
        self.ended.store(1, Ordering::Release);
    }

    /// Whether the root is gone although its program had not ended.
    pub fn is_orphaned(&self) -> bool {
        self.ended.load(Ordering::Acquire) == 0 && is_gone(self.root())
    }

    /// All places in use.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        self.places.iter().filter(|p| p.real().is_some())
    }

    /// The place of the process the kernel knows as `real`.
    pub fn by_real(&self, real: i32) -> Option<&Place> {
        self.places().find(|p| p.real() == Some(real))
    }

    /// The place of the process the program knows as `id`.
    pub fn by_id(&self, id: i32) -> Option<&Place> {
        self.places().find(|p| p.id() == id)
    }

    /// A place for a process that `parent` is about to make.
    pub fn reserve(&self, parent: i32) -> Option<&Place> {
        let free = || {
            self.places.iter().find(|p| {
                let taken =
                    p.real
                        .compare_exchange(0, BEING_MADE, Ordering::AcqRel, Ordering::Relaxed);
                taken.is_ok()
            })
        };
        let place = free().or_else(|| {
            self.sweep();
            free()
        })?;
        place.clear();
        place.parent.store(parent, Ordering::Relaxed);
        Some(place)
    }

    /// The process of a reserved place is `real`: it gets a number, the same whoever of parent and
    /// child is first to ask. `wanted`: the number it had before a resume.
    pub fn settle(&self, place: &Place, real: i32, wanted: Option<i32>) -> i32 {
        let candidate = wanted.unwrap_or_else(|| match self.by_id(real) {
            // A process of an earlier run is known under this number.
            Some(other) if !std::ptr::eq(other, place) => self.next.fetch_add(1, Ordering::Relaxed),
            _ => real,
        });
        let settled = place
            .id
            .compare_exchange(0, candidate, Ordering::AcqRel, Ordering::Acquire);
        place.real.store(real, Ordering::Release);
        match settled {
            Ok(_) => candidate,
            Err(other) => other,
        }
    }

    /// Frees the places of processes the kernel does not know any more.
    pub fn sweep(&self) {
        for place in self.places() {
            if place.real().is_some_and(|real| !exists(real)) {
                place.free();
            }
        }
    }

    /// The claim to save an object at this checkpoint: true for the first who asks.
    pub fn claim(&self, object: u64) -> bool {
        let object = object.max(1);
        let start = object as usize % CLAIMS;
        for i in 0..CLAIMS {
            let word = &self.claims[(start + i) % CLAIMS];
            match word.compare_exchange(0, object, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return true,
                Err(found) if found == object => return false,
                Err(_) => {}
            }
        }
        true // saved several times, which is as good
    }

    /// Forgets all claims.
    pub fn forget_claims(&self) {
        self.claims
            .iter()
            .for_each(|c| c.store(0, Ordering::Relaxed));
    }

    /// The root holds `signal` back: a last checkpoint is wanted before it takes effect.
    pub fn announce(&self, signal: i32) {
        let number = signal as usize % SIGNALS;
        self.announced_at[number].store(clock(), Ordering::SeqCst);
        self.announced.fetch_or(1 << number, Ordering::SeqCst);
    }

    /// That is over: members may have it.
    pub fn withdraw(&self, signal: i32) {
        let number = signal as usize % SIGNALS;
        self.withdrawn_at[number].store(clock(), Ordering::SeqCst);
        self.announced.fetch_and(!(1 << number), Ordering::SeqCst);
        self.places().for_each(Place::wake);
    }

    /// Whether the root holds `signal` back now.
    pub fn is_announced(&self, signal: i32) -> bool {
        self.announced.load(Ordering::SeqCst) >> (signal as usize % SIGNALS) & 1 != 0
    }

    /// Whether it has, and that was over at `since` (of [`clock`]) or later, or just before.
    pub fn is_over(&self, signal: i32, since: u64) -> bool {
        let over = self.withdrawn_at[signal as usize % SIGNALS].load(Ordering::SeqCst);
        over != 0 && over + AT_ONCE.as_nanos() as u64 >= since
    }

    /// A signal from outside has ended process `id` of the program.
    pub fn note_loss(&self, id: i32, signal: i32) {
        let both = (signal as u64) << 32 | u64::from(id as u32);
        self.lost.store(both, Ordering::SeqCst);
        self.lost_at.store(clock(), Ordering::SeqCst);
    }

    /// The process that was lost so just now, or since its signal was announced to the root, and the signal.
    pub fn loss(&self) -> Option<(i32, i32)> {
        let both = self.lost.load(Ordering::SeqCst);
        let (id, signal) = (both as u32 as i32, (both >> 32) as i32);
        let from = match self.is_announced(signal) {
            true => self.announced_at[signal as usize % SIGNALS].load(Ordering::SeqCst),
            false => clock(),
        };
        let at = self.lost_at.load(Ordering::SeqCst);
        (at != 0 && at + AT_ONCE.as_nanos() as u64 >= from).then_some((id, signal))
    }

    /// Says where the root listens: a number nobody guesses.
    pub fn set_address(&self, number: u128) {
        self.address[0].store(number as u64, Ordering::Release);
        self.address[1].store((number >> 64) as u64, Ordering::Release);
    }

    /// Where the root listens.
    pub fn address(&self) -> u128 {
        let [low, high] = [&self.address[0], &self.address[1]].map(|w| w.load(Ordering::Acquire));
        u128::from(low) | u128::from(high) << 64
    }

    /// This process could not be brought back, so none is.
    pub fn fail(&self) {
        self.failed.store(1, Ordering::Release);
    }

    /// A process has read so many bytes of its memory for a resume: those that wait for it see that it is at work.
    pub fn note_read(&self, bytes: u64) {
        self.read.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Waits until the processes that the program knows as `ids` have arrived at meeting `which` of a resume. The slow are
    /// waited for, the dead are not: the root looks after them for all.
    ///
    /// # Errors
    /// When one has failed or ended, or for `limit` none has arrived and none has read anything.
    pub fn meet(&self, which: usize, ids: &[i32], limit: Duration) -> Result<(), NotMet> {
        let word = self.arrived.get(which).ok_or(NotMet::NoMeeting)?;
        word.fetch_add(1, Ordering::AcqRel);
        futex_wake(word);
        let is_root = self.root() == std::process::id() as i32;
        let mut seen = (0, 0);
        let mut since = Instant::now();
        loop {
            let arrived = word.load(Ordering::Acquire);
            if arrived as usize >= ids.len() {
                return Ok(());
            }
            let gone = match is_root {
                true => {
                    let ended = |id: &&i32| {
                        let real = self.by_id(**id).and_then(Place::real);
                        real.is_some_and(is_gone)
                    };
                    ids.iter().find(ended).map(|&id| NotMet::Ended { id })
                }
                false => is_gone(self.root()).then_some(NotMet::Failed),
            };
            let failed = self.failed.load(Ordering::Acquire) != 0;
            if let Some(why) = gone.or(failed.then_some(NotMet::Failed)) {
                // Who came last may have let one go on, and end.
                if word.load(Ordering::Acquire) as usize >= ids.len() {
                    return Ok(());
                }
                self.fail();
                return Err(why);
            }
            let now = (arrived, self.read.load(Ordering::Relaxed));
            if now != seen {
                (seen, since) = (now, Instant::now());
            } else if since.elapsed() >= limit {
                return Err(NotMet::Late {
                    missing: ids.len() - arrived as usize,
                    seconds: limit.as_secs(),
                });
            }
            futex_wait(word, arrived, LOOK);
        }
    }
}

/// Why not all processes of a tree have met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotMet {
    /// There are not so many.
    #[error("there is no such meeting of processes")]
    NoMeeting,
    /// One has said so, or the root is gone.
    #[error("another process of the tree could not be brought back")]
    Failed,
    /// One is gone, without a word.
    #[error("process {id} of the tree ended while it was brought back")]
    Ended {
        /// As the program knows it.
        id: i32,
    },
    /// None does anything.
    #[error("{missing} processes of the tree did not come, and none has read anything of its memory for {seconds} s")]
    Late {
        /// How many.
        missing: usize,
        /// How long nothing was done.
        seconds: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Box<Table> {
        // SAFETY: all-zero bytes are valid atomics.
        let table: Box<Table> = unsafe { Box::new_zeroed().assume_init() };
        table.begin(std::process::id() as i32, false);
        table
    }

    #[test]
    fn numbers_are_the_kernel_s_unless_taken() {
        let table = table();
        let first = table.reserve(1).expect("a place");
        assert_eq!(table.settle(first, 70, Some(50)), 50);
        let second = table.reserve(1).expect("a place");
        let made_up = table.settle(second, 50, None);
        assert!(made_up >= MADE_UP, "{made_up}");
        // The other side of the fork gets the same answer.
        assert_eq!(table.settle(second, 50, None), made_up);
        let third = table.reserve(1).expect("a place");
        assert_eq!(table.settle(third, 71, None), 71);
        assert_eq!(table.by_id(50).and_then(Place::real), Some(70));
        first.free();
        assert!(table.by_id(50).is_none());
    }

    /// A process that reads for three times as long as one may be idle, and comes late.
    #[test]
    fn the_slow_are_waited_for() {
        let table = table();
        let limit = 2 * LOOK;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..30 {
                    std::thread::sleep(limit / 10);
                    table.note_read(1);
                }
                assert_eq!(table.meet(0, &[1, 2], limit), Ok(()));
            });
            assert_eq!(table.meet(0, &[1, 2], limit), Ok(()));
        });
        // And one that does nothing is not.
        let late = table.meet(1, &[1, 2], limit);
        assert!(
            matches!(late, Err(NotMet::Late { missing: 1, .. })),
            "{late:?}"
        );
    }

    #[test]
    fn the_dead_are_not_waited_for() {
        let table = table();
        let mut process = std::process::Command::new("true").spawn().expect("started");
        let place = table.reserve(1).expect("a place");
        table.settle(place, process.id() as i32, Some(50));
        let begin = Instant::now();
        // Ended, and nobody has waited for it.
        let met = table.meet(0, &[1, 50], Duration::from_secs(60));
        assert_eq!(met, Err(NotMet::Ended { id: 50 }));
        assert!(begin.elapsed() < Duration::from_secs(30));
        process.wait().expect("ended");
        // Everybody else hears of it.
        assert_eq!(table.failed.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn an_object_is_claimed_once() {
        let table = table();
        assert!(table.claim(7) && table.claim(7 + CLAIMS as u64) && !table.claim(7));
        table.forget_claims();
        assert!(table.claim(7));
    }

    #[test]
    fn a_loss_counts_for_as_long_as_its_signal_is_announced() {
        let table = table();
        let near = AT_ONCE.as_nanos() as u64;
        assert_eq!(table.loss(), None);
        table.note_loss(70, 15);
        assert_eq!(table.loss(), Some((70, 15)), "just now");
        // Long ago, and the end was announced right after it.
        let then = clock() - 5 * near;
        table.lost_at.store(then, Ordering::SeqCst);
        assert_eq!(table.loss(), None);
        table.announce(15);
        assert_eq!(table.loss(), None, "the announcement is newer");
        table.announced_at[15].store(then + near / 2, Ordering::SeqCst);
        assert_eq!(table.loss(), Some((70, 15)));
        assert!(table.is_announced(15) && !table.is_announced(10));
        table.withdraw(15);
        assert!(!table.is_announced(15));
        assert_eq!(table.loss(), None);
        let now = clock();
        assert!(table.is_over(15, now - near) && table.is_over(15, now));
        assert!(!table.is_over(15, now + 2 * near) && !table.is_over(10, now));
    }

    #[test]
    fn places_of_the_dead_are_used_again() {
        let table = table();
        for _ in 0..PLACES {
            let place = table.reserve(1).expect("a place");
            table.settle(place, i32::MAX - 1, None);
        }
        assert!(table.reserve(1).is_some());
    }
}
