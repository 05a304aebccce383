//! The control threads of all ranks, talking through a shared file: what the coordinator and the
//! agents do in the product.

use crate::{region, OPTIONS};
use mana_plugin::checkpoint::{self, CommSeq};
use mana_plugin::Go;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

const RANKS: usize = 16;
const COMMS: usize = 64;

#[repr(C)]
struct Report {
    n: AtomicU32,
    seqs: [[AtomicU64; 3]; COMMS],
    reached: AtomicU32,
    waiting: [AtomicU64; 3],
    sum: AtomicU64,
}

#[repr(C)]
struct Shared {
    /// 0 idle, 1 checkpoint, 2 ending.
    mode: AtomicU32,
    arrived: AtomicU32,
    generation: AtomicU32,
    /// 0 go on polling, 1 stop, 2 raise, 3 give up.
    decision: AtomicU32,
    raise: [AtomicU64; 3],
    last: AtomicU32,
    reports: [Report; RANKS],
}

struct Me {
    shared: &'static Shared,
    rank: usize,
    size: usize,
}

static ME: OnceLock<Me> = OnceLock::new();
/// The control thread wants the program parked.
pub static PENDING: AtomicU32 = AtomicU32::new(0);
/// 1 the program is parked, 2 it has drained.
static PARKED: AtomicU32 = AtomicU32::new(0);
static TAKEN: AtomicU32 = AtomicU32::new(0);
/// Checkpoints that are over; raised after `PENDING` is lowered.
static OVER: AtomicU32 = AtomicU32::new(0);

pub fn rank() -> usize {
    ME.get().map_or(0, |m| m.rank)
}

pub fn begin(rank: usize, size: usize) {
    let options = OPTIONS.get().expect("options");
    let path = format!("{}/shared-{}", options.dir, options.mode);
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .expect("shared file");
    file.set_len(std::mem::size_of::<Shared>() as u64)
        .expect("length");
    use std::os::fd::AsRawFd;
    let shared = unsafe {
        let len = std::mem::size_of::<Shared>();
        let at = libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        );
        assert_ne!(at, libc::MAP_FAILED);
        &*(at as *const Shared)
    };
    assert!(size <= RANKS);
    let me = ME.get_or_init(|| Me { shared, rank, size });
    if options.mode == "continue" || options.mode == "exit" {
        std::thread::spawn(move || me.run());
    }
}

pub fn finalizing() -> Go {
    let shared = ME.get().expect("begun").shared;
    match shared.mode.compare_exchange(0, 2, SeqCst, SeqCst) {
        Ok(_) | Err(2) => Go::On,
        Err(_) => Go::Wait,
    }
}

impl Me {
    /// All control threads meet.
    fn meet(&self) {
        let generation = self.shared.generation.load(SeqCst);
        if self.shared.arrived.fetch_add(1, SeqCst) + 1 == self.size as u32 {
            self.shared.arrived.store(0, SeqCst);
            self.shared.generation.fetch_add(1, SeqCst);
        }
        let since = Instant::now();
        while self.shared.generation.load(SeqCst) == generation {
            std::thread::sleep(Duration::from_micros(50));
            if since.elapsed() > Duration::from_secs(60) {
                eprintln!("harness: rank {} waited 60 s for the others", self.rank);
                std::process::abort();
            }
        }
    }

    fn run(&self) {
        let options = OPTIONS.get().expect("options");
        let mut taken = 0;
        loop {
            let due = Instant::now() + Duration::from_millis(options.interval + (taken * 7) % 5);
            loop {
                match self.shared.mode.load(SeqCst) {
                    1 => break,
                    2 => return,
                    _ => {}
                }
                if self.rank == 0
                    && Instant::now() >= due
                    && self
                        .shared
                        .mode
                        .compare_exchange(0, 1, SeqCst, SeqCst)
                        .is_ok()
                {
                    break;
                }
                std::thread::sleep(Duration::from_micros(200));
            }
            taken += 1;
            TAKEN.store(taken as u32, SeqCst);
            self.checkpoint(options.mode == "exit" && taken == 3);
        }
    }

    fn report(&self, seqs: &[CommSeq]) {
        let r = &self.shared.reports[self.rank];
        assert!(seqs.len() <= COMMS);
        for (slot, s) in r.seqs.iter().zip(seqs) {
            slot[0].store(s.comm_id, SeqCst);
            slot[1].store(s.size as u64, SeqCst);
            slot[2].store(s.seq, SeqCst);
        }
        r.n.store(seqs.len() as u32, SeqCst);
        r.sum.store(seqs.iter().map(|s| s.seq).sum(), SeqCst);
    }

    fn reported(&self) -> Vec<CommSeq> {
        let mut all: Vec<CommSeq> = Vec::new();
        for r in &self.shared.reports[..self.size] {
            for slot in &r.seqs[..r.n.load(SeqCst) as usize] {
                let s = CommSeq {
                    comm_id: slot[0].load(SeqCst),
                    size: slot[1].load(SeqCst) as u32,
                    seq: slot[2].load(SeqCst),
                };
                match all.iter_mut().find(|a| a.comm_id == s.comm_id) {
                    Some(a) => a.seq = a.seq.max(s.seq),
                    None => all.push(s),
                }
            }
        }
        all
    }

    fn checkpoint(&self, last: bool) {
        let begun = Instant::now();
        self.shared.last.store(last as u32, SeqCst);
        self.report(&checkpoint::gate_arm());
        self.meet();
        checkpoint::gate_targets(&self.reported());
        self.meet();
        let (mut sum, mut since) = (0, Instant::now());
        loop {
            let poll = checkpoint::gate_poll();
            self.report(&poll.seqs);
            let r = &self.shared.reports[self.rank];
            r.reached.store(poll.reached as u32, SeqCst);
            let w = poll.waiting.unwrap_or(CommSeq {
                comm_id: 0,
                size: 0,
                seq: 0,
            });
            r.waiting[0].store(w.comm_id, SeqCst);
            r.waiting[1].store(w.size as u64, SeqCst);
            r.waiting[2].store(w.seq, SeqCst);
            self.meet();
            if self.rank == 0 {
                self.decide(&mut sum, &mut since, begun);
            }
            self.meet();
            match self.shared.decision.load(SeqCst) {
                1 => break,
                2 => {
                    let w = |i: usize| self.shared.raise[i].load(SeqCst);
                    checkpoint::gate_raise(CommSeq {
                        comm_id: w(0),
                        size: w(1) as u32,
                        seq: w(2),
                    });
                }
                3 => {
                    eprintln!("harness: rank {}: {}", self.rank, poll.where_);
                    std::thread::sleep(Duration::from_millis(200));
                    std::process::abort();
                }
                _ => std::thread::sleep(Duration::from_micros(300)),
            }
        }
        PARKED.store(0, SeqCst);
        PENDING.store(1, SeqCst);
        checkpoint::stop();
        self.wait_parked(begun);
        self.meet();
        if last {
            unsafe { libc::_exit(0) };
        }
        checkpoint::resume();
        if self.rank == 0 {
            self.shared.mode.store(0, SeqCst);
        }
        self.meet();
        PENDING.store(0, SeqCst);
        OVER.fetch_add(1, SeqCst);
    }

    fn wait_parked(&self, begun: Instant) {
        while PARKED.load(SeqCst) != 2 {
            std::thread::sleep(Duration::from_micros(100));
            if begun.elapsed() > Duration::from_secs(60) {
                eprintln!(
                    "harness: rank {} does not park ({})",
                    self.rank,
                    PARKED.load(SeqCst)
                );
                std::process::abort();
            }
        }
    }

    fn decide(&self, sum: &mut u64, since: &mut Instant, begun: Instant) {
        let all = &self.shared.reports[..self.size];
        let now: u64 = all.iter().map(|r| r.sum.load(SeqCst)).sum();
        if now != *sum {
            *sum = now;
            *since = Instant::now();
        }
        let decision = if all.iter().all(|r| r.reached.load(SeqCst) == 1) {
            1
        } else if begun.elapsed() > Duration::from_secs(20) {
            3
        } else if since.elapsed() > Duration::from_millis(50) {
            match all.iter().find(|r| r.waiting[1].load(SeqCst) > 0) {
                Some(r) => {
                    for i in 0..3 {
                        self.shared.raise[i]
                            .store(r.waiting[i].load(SeqCst) + (i == 2) as u64, SeqCst);
                    }
                    *since = Instant::now();
                    2
                }
                None => 0,
            }
        } else {
            0
        };
        self.shared.decision.store(decision, SeqCst);
    }
}

/// The program's side: between calls, or when a call said `AGAIN`.
pub fn park() {
    while PENDING.load(SeqCst) == 0 {
        std::thread::yield_now();
    }
    let over = OVER.load(SeqCst);
    region::head().restarted = 0;
    unsafe { region::interrupt(&mut region::head().sp, parked) };
    if region::head().restarted == 1 {
        return;
    }
    while OVER.load(SeqCst) == over {
        std::thread::yield_now();
    }
}

extern "C" fn parked() {
    let me = ME.get().expect("begun");
    let options = OPTIONS.get().expect("options");
    PARKED.store(1, SeqCst);
    let report = match checkpoint::drain(256 << 20) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("harness: rank {}: {error}", me.rank);
            std::process::abort();
        }
    };
    let state = checkpoint::serialize().expect("state");
    if report.messages > 0 || me.rank == 0 {
        eprintln!(
            "harness: checkpoint {} rank {}: {report:?}, state {} bytes",
            TAKEN.load(SeqCst),
            me.rank,
            state.len()
        );
    }
    if me.shared.last.load(SeqCst) == 1 {
        std::fs::write(format!("{}/state-{}", options.dir, me.rank), state).expect("write");
        region::save(&options.dir, me.rank);
    }
    PARKED.store(2, SeqCst);
}
