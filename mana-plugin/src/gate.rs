//! Gates before collectives: sequence numbers per communicator, and the safe point.
//!
//! Lower half; the fast path on the program's threads, arming and polling on the control thread.
//!
//! A thread that starts a collective raises the communicator's number and then looks at `ARMED`. The
//! control thread sets `ARMED` and then reads the numbers, with `membarrier` in between, so that the
//! fast path needs no fence: either the control thread sees the raised number, or the thread sees
//! `ARMED` and goes the slow way, under the lock. There a number beyond the target is taken back.
//!
//! Safe point of one rank: every number equals its target and no thread is inside a collective.
//! Communicators of one process have no gate (nobody else can be affected).

use crate::checkpoint::{CommSeq, GatePoll};
use crate::whereabouts::{title, Place};
use std::collections::HashMap;
use std::sync::atomic::{compiler_fence, AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The part of a communicator that both the program's thread and the control thread look at.
#[derive(Debug)]
pub struct Gate {
    id: AtomicU64,
    size: AtomicU32,
    seq: AtomicU64,
    target: AtomicU64,
    used: AtomicBool,
}

/// What a thread at a gate has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    /// The collective may start; call [`leave`] when it returned.
    Open,
    /// Not now: drive progress and ask [`retry`], or leave MPI if a stop was requested.
    Closed,
}

static ARMED: AtomicBool = AtomicBool::new(false);
static INSIDE: AtomicU64 = AtomicU64::new(0);
/// Name of the collective entered last, for messages.
static LAST_NAME: AtomicPtr<&'static str> = AtomicPtr::new(std::ptr::null_mut());
/// Its gate; null if it has none.
static LAST_GATE: AtomicPtr<Gate> = AtomicPtr::new(std::ptr::null_mut());
static BOOK: Mutex<Book> = Mutex::new(Book {
    gates: Vec::new(),
    unused: Vec::new(),
    targets: None,
    waiting: Vec::new(),
});

struct Book {
    /// Every gate ever made; they are never deallocated, freed ones are used again.
    gates: Vec<&'static Gate>,
    /// Those of them that are free.
    unused: Vec<&'static Gate>,
    /// While armed: targets by communicator id.
    targets: Option<HashMap<u64, u64>>,
    /// Threads at closed gates, in the order in which they came: the coordinator hears of the first one.
    waiting: Vec<(&'static Gate, &'static str)>,
}

fn book() -> MutexGuard<'static, Book> {
    BOOK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes the gate of a communicator. `seq` is 0 but at a restart.
pub fn create(id: u64, size: u32, seq: u64) -> &'static Gate {
    let mut book = book();
    let target = match &book.targets {
        Some(t) => t.get(&id).copied().unwrap_or(0).max(seq),
        None => seq,
    };
    let gate = match book.unused.pop() {
        Some(g) => g,
        None => {
            let g: &'static Gate = Box::leak(Box::new(Gate {
                id: AtomicU64::new(0),
                size: AtomicU32::new(0),
                seq: AtomicU64::new(0),
                target: AtomicU64::new(0),
                used: AtomicBool::new(false),
            }));
            book.gates.push(g);
            g
        }
    };
    gate.id.store(id, Ordering::Relaxed);
    gate.size.store(size, Ordering::Relaxed);
    gate.seq.store(seq, Ordering::Relaxed);
    gate.target.store(target, Ordering::Relaxed);
    gate.used.store(true, Ordering::Relaxed);
    gate
}

/// Ends a gate (its communicator was freed).
pub fn destroy(gate: &'static Gate) {
    let mut book = book();
    if gate.used.swap(false, Ordering::Relaxed) {
        book.unused.push(gate);
    }
}

impl Gate {
    /// Collectives started on this communicator.
    #[inline]
    pub fn seq(&self) -> u64 {
        self.seq.load(Ordering::Relaxed)
    }

    /// Members of the communicator.
    pub fn size(&self) -> u32 {
        self.size.load(Ordering::Relaxed)
    }

    fn report(&self) -> CommSeq {
        CommSeq {
            comm_id: self.id.load(Ordering::Relaxed),
            size: self.size.load(Ordering::Relaxed),
            seq: self.seq.load(Ordering::Relaxed),
        }
    }

    /// For a thread that waits here. Not the number when it came: of several threads one may have passed since. Nor
    /// what a thread has raised for the moment that is about to find the gate closed.
    fn awaited(&self) -> CommSeq {
        let target = self.target.load(Ordering::Relaxed);
        let found = self.report();
        CommSeq {
            seq: found.seq.min(target),
            ..found
        }
    }

    fn counts(&self) -> bool {
        self.used.load(Ordering::Relaxed) && self.size.load(Ordering::Relaxed) > 1
    }
}

#[inline(always)]
fn add_inside(multiple: bool, delta: u64) {
    if multiple {
        INSIDE.fetch_add(delta, Ordering::AcqRel);
    } else {
        INSIDE.store(
            INSIDE.load(Ordering::Relaxed).wrapping_add(delta),
            Ordering::Release,
        );
    }
}

#[inline(always)]
fn add_seq(gate: &Gate, multiple: bool) {
    if multiple {
        gate.seq.fetch_add(1, Ordering::AcqRel);
    } else {
        gate.seq
            .store(gate.seq.load(Ordering::Relaxed) + 1, Ordering::Release);
    }
}

/// Starts a collective. `multiple`: several threads may be in MPI at once.
#[inline(always)]
pub fn enter(gate: &'static Gate, name: &'static &'static str, multiple: bool) -> Passage {
    add_inside(multiple, 1);
    LAST_NAME.store(
        name as *const &'static str as *mut &'static str,
        Ordering::Relaxed,
    );
    LAST_GATE.store(gate as *const Gate as *mut Gate, Ordering::Relaxed);
    add_seq(gate, multiple);
    // The processor may still let the load below pass the store above; the control thread's
    // membarrier makes up for that.
    compiler_fence(Ordering::SeqCst);
    if ARMED.load(Ordering::Relaxed) {
        return enter_armed(gate, name);
    }
    Passage::Open
}

/// Starts what no other process waits for, but which a stop must not cut through; ends with [`leave`].
#[inline(always)]
pub fn enter_alone(name: &'static &'static str, multiple: bool) {
    add_inside(multiple, 1);
    LAST_NAME.store(
        name as *const &'static str as *mut &'static str,
        Ordering::Relaxed,
    );
    LAST_GATE.store(std::ptr::null_mut(), Ordering::Relaxed);
}

#[cold]
fn enter_armed(gate: &'static Gate, name: &'static str) -> Passage {
    let mut book = book();
    if book.targets.is_none()
        || !gate.counts()
        || gate.seq.load(Ordering::Relaxed) <= gate.target.load(Ordering::Relaxed)
    {
        return Passage::Open;
    }
    gate.seq.fetch_sub(1, Ordering::AcqRel);
    INSIDE.fetch_sub(1, Ordering::AcqRel);
    book.waiting.push((gate, name));
    Passage::Closed
}

/// Asks again after [`Passage::Closed`].
pub fn retry(gate: &'static Gate) -> Passage {
    let mut book = book();
    if book.targets.is_some()
        && gate.seq.load(Ordering::Relaxed) >= gate.target.load(Ordering::Relaxed)
    {
        return Passage::Closed;
    }
    unwait(&mut book, gate);
    INSIDE.fetch_add(1, Ordering::AcqRel);
    gate.seq.fetch_add(1, Ordering::AcqRel);
    Passage::Open
}

/// Leaves a closed gate without passing (the call will be repeated after the checkpoint).
pub fn give_up(gate: &'static Gate) {
    unwait(&mut book(), gate);
}

fn unwait(book: &mut Book, gate: &Gate) {
    if let Some(at) = book
        .waiting
        .iter()
        .position(|(at, _)| std::ptr::eq(*at, gate))
    {
        book.waiting.remove(at);
    }
}

/// A collective (blocking, or the initiation of a non-blocking one) has returned.
#[inline(always)]
pub fn leave(multiple: bool) {
    add_inside(multiple, u64::MAX);
}

/// See [`crate::checkpoint::gate_arm`].
pub fn arm() -> Vec<CommSeq> {
    let mut book = book();
    ARMED.store(true, Ordering::SeqCst);
    membarrier();
    let mut targets = HashMap::new();
    let mut out = Vec::new();
    for gate in &book.gates {
        let report = gate.report();
        gate.target.store(report.seq, Ordering::Relaxed);
        if gate.counts() {
            targets.insert(report.comm_id, report.seq);
            out.push(report);
        }
    }
    book.targets = Some(targets);
    out
}

/// Raises targets; those of communicators this rank does not have (yet) are remembered.
pub fn raise(wanted: &[CommSeq]) {
    let mut book = book();
    let Some(targets) = book.targets.as_mut() else {
        return;
    };
    for t in wanted {
        let known = targets.entry(t.comm_id).or_insert(0);
        *known = (*known).max(t.seq);
    }
    for gate in &book.gates {
        if let Some(t) = book
            .targets
            .as_ref()
            .and_then(|m| m.get(&gate.id.load(Ordering::Relaxed)))
        {
            gate.target.fetch_max(*t, Ordering::Relaxed);
        }
    }
}

/// Opens all gates.
pub fn disarm() {
    let mut book = book();
    book.targets = None;
    ARMED.store(false, Ordering::SeqCst);
}

/// See [`crate::checkpoint::gate_poll`].
pub fn poll() -> GatePoll {
    let book = book();
    let mut reached = book.targets.is_some();
    let mut seqs = Vec::new();
    let mut behind = None;
    for gate in book.gates.iter().filter(|g| g.counts()) {
        let report = gate.report();
        // A number is raised after INSIDE; reading INSIDE last makes "equal and nobody inside" true
        // of one instant.
        let target = gate.target.load(Ordering::Relaxed);
        if report.seq != target {
            reached = false;
            behind = Some((report, target));
        }
        if report.seq > 0 {
            seqs.push(report);
        }
    }
    let inside = INSIDE.load(Ordering::Acquire) > 0;
    let waiting = book.waiting.first().map(|(gate, _)| gate.awaited());
    let where_ = if let (Some(comm), Some((_, name))) = (waiting, book.waiting.first()) {
        format!(
            "waits before {name} (number {}) on {}",
            comm.seq + 1,
            title(comm.comm_id, comm.size as usize)
        )
    } else if inside {
        format!("inside {}", last_name())
    } else if let Some((comm, target)) = behind {
        format!(
            "has not called collective number {} of {target} on {} yet",
            comm.seq + 1,
            title(comm.comm_id, comm.size as usize)
        )
    } else {
        String::from("at the safe point")
    };
    GatePoll {
        reached: reached && !inside,
        waiting,
        behind: behind.map(|(c, _)| c),
        seqs,
        where_,
    }
}

/// The collective the program is inside, or whose gate it waits at, as far as that can be seen from
/// outside its threads.
pub fn place() -> Option<Place> {
    let book = book();
    if let Some((gate, name)) = book.waiting.first() {
        let comm = gate.awaited();
        return Some(Place::collective(
            name,
            comm.comm_id,
            comm.size,
            comm.seq + 1,
        ));
    }
    if INSIDE.load(Ordering::Acquire) == 0 {
        return None;
    }
    // SAFETY: null, or a gate: they are never deallocated.
    let gate = unsafe { LAST_GATE.load(Ordering::Relaxed).as_ref() };
    Some(match gate.map(Gate::report) {
        Some(found) => Place::collective(last_name(), found.comm_id, found.size, found.seq),
        None => Place::of(last_name()),
    })
}

fn last_name() -> &'static str {
    let p = LAST_NAME.load(Ordering::Relaxed);
    if p.is_null() {
        return "MPI";
    }
    // SAFETY: only addresses of statics of this type are ever stored.
    unsafe { *p }
}

/// Makes this process able to use [`membarrier`]; once, at start-up.
pub fn register_membarrier() {
    const CMD_REGISTER_PRIVATE_EXPEDITED: libc::c_long = 1 << 4;
    // SAFETY: the call takes three integers and touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_membarrier, CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) };
}

fn membarrier() {
    const CMD_GLOBAL: libc::c_long = 1;
    const CMD_PRIVATE_EXPEDITED: libc::c_long = 1 << 3;
    // SAFETY: as above.
    let rc = unsafe { libc::syscall(libc::SYS_membarrier, CMD_PRIVATE_EXPEDITED, 0, 0) };
    if rc != 0 {
        // A kernel or sandbox without the expedited form: the slow one does the same.
        // SAFETY: as above.
        unsafe { libc::syscall(libc::SYS_membarrier, CMD_GLOBAL, 0, 0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static NAME: &str = "MPI_Barrier";
    static SERIAL: Mutex<()> = Mutex::new(());

    fn seq(id: u64, seq: u64) -> CommSeq {
        CommSeq {
            comm_id: id,
            size: 2,
            seq,
        }
    }

    #[test]
    fn a_gate_closes_at_its_target_and_opens_when_raised() {
        let _serial = SERIAL.lock().unwrap_or_else(PoisonError::into_inner);
        let g = create(77, 2, 0);
        assert_eq!(enter(g, &NAME, false), Passage::Open);
        leave(false);
        let seqs = arm();
        assert!(seqs.contains(&seq(77, 1)));
        // Reported 1, a peer was at 2: this rank may start one more.
        raise(&[seq(77, 2)]);
        assert!(!poll().reached);
        assert_eq!(enter(g, &NAME, false), Passage::Open);
        assert!(!poll().reached, "inside");
        leave(false);
        assert!(poll().reached);
        assert_eq!(enter(g, &NAME, false), Passage::Closed);
        let p = poll();
        assert!(p.reached);
        assert_eq!(p.waiting, Some(seq(77, 2)));
        assert_eq!(retry(g), Passage::Closed);
        raise(&[seq(77, 3)]);
        assert_eq!(retry(g), Passage::Open);
        leave(false);
        assert!(poll().reached);
        assert_eq!(enter(g, &NAME, false), Passage::Closed);
        give_up(g);
        disarm();
        assert_eq!(enter(g, &NAME, false), Passage::Open);
        leave(false);
        destroy(g);
    }

    #[test]
    fn threads_that_wait_at_one_gate_are_known_by_its_number_now() {
        let _serial = SERIAL.lock().unwrap_or_else(PoisonError::into_inner);
        let (shared, other) = (create(81, 2, 0), create(82, 2, 0));
        arm();
        for gate in [shared, other, shared] {
            assert_eq!(enter(gate, &NAME, true), Passage::Closed);
        }
        assert_eq!(poll().waiting, Some(seq(81, 0)));
        // One of two passes. The other one comes after who came before it.
        raise(&[seq(81, 1)]);
        assert_eq!(retry(shared), Passage::Open);
        assert_eq!(poll().waiting, Some(seq(82, 0)));
        raise(&[seq(82, 1)]);
        assert_eq!(retry(other), Passage::Open);
        assert_eq!(poll().waiting, Some(seq(81, 1)));
        leave(true);
        leave(true);
        give_up(shared);
        disarm();
        destroy(shared);
        destroy(other);
    }

    #[test]
    fn a_communicator_made_while_armed_gets_the_agreed_target() {
        let _serial = SERIAL.lock().unwrap_or_else(PoisonError::into_inner);
        arm();
        raise(&[seq(99, 1)]);
        let g = create(99, 2, 0);
        assert!(!poll().reached);
        assert_eq!(enter(g, &NAME, false), Passage::Open);
        leave(false);
        assert_eq!(enter(g, &NAME, false), Passage::Closed);
        give_up(g);
        let h = create(100, 2, 0);
        assert_eq!(enter(h, &NAME, false), Passage::Closed);
        give_up(h);
        let single = create(101, 1, 0);
        assert_eq!(enter(single, &NAME, false), Passage::Open);
        leave(false);
        disarm();
        destroy(g);
        destroy(h);
        destroy(single);
    }

    #[test]
    fn arming_against_a_running_thread_misses_no_start() {
        let _serial = SERIAL.lock().unwrap_or_else(PoisonError::into_inner);
        register_membarrier();
        let g = create(55, 2, 0);
        let stop = AtomicBool::new(false);
        std::thread::scope(|s| {
            s.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    if enter(g, &NAME, false) == Passage::Open {
                        leave(false);
                    } else {
                        give_up(g);
                        std::thread::yield_now();
                    }
                }
            });
            for _ in 0..2000 {
                let reported = arm().iter().find(|c| c.comm_id == 55).map(|c| c.seq);
                for _ in 0..50 {
                    let now = g.seq();
                    // A transient raise by one is taken back under the lock before anything starts.
                    assert!(
                        Some(now) <= reported.map(|r| r + 1),
                        "started beyond the report"
                    );
                }
                let p = poll();
                if p.reached {
                    assert_eq!(
                        p.seqs.iter().find(|c| c.comm_id == 55).map(|c| c.seq),
                        reported.filter(|r| *r > 0)
                    );
                }
                disarm();
            }
            stop.store(true, Ordering::Relaxed);
        });
        destroy(g);
    }
}
