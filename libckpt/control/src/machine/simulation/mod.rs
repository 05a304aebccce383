//! The machine with simulated ranks: thousands of them, in any order, with failures at any step.
//!
//! A simulated program is a list of collectives and messages; every rank runs its part of the list,
//! so it cannot deadlock by itself. A collective is a barrier (the strictest kind), a gate holds a
//! rank before a collective beyond its target.

use std::collections::{BTreeMap, VecDeque};

use crate::protocol::Pause;
use crate::{Checkpoint, CommSeq, DrainReport, EndHow, GatePoll, ImageReport, StepError};

use super::*;

mod announced;
mod cases;
mod waits;

const HELD: Duration = Duration::from_millis(1);

#[derive(Clone, Debug)]
enum Op {
    Collective(u64),
    Send(usize),
    Receive(usize),
}

/// A whole program: who is in which communicator, what each rank does.
#[derive(Clone, Debug, Default)]
struct Program {
    members: BTreeMap<u64, Vec<usize>>,
    ops: Vec<Vec<Op>>,
}

impl Program {
    /// Every rank's part of a list of steps, so that the list's order is a possible run.
    fn new(ranks: usize, members: &[Vec<usize>], steps: &[Step]) -> Self {
        let mut program = Self {
            members: (0..).zip(members.to_vec()).collect(),
            ops: vec![Vec::new(); ranks],
        };
        for step in steps {
            match step {
                Step::Collective(comm) => {
                    let comm = *comm % members.len();
                    for rank in &members[comm] {
                        program.ops[*rank].push(Op::Collective(comm as u64));
                    }
                }
                Step::Message(from, to) => {
                    let (from, to) = (from % ranks, to % ranks);
                    if from != to {
                        program.ops[from].push(Op::Send(to));
                        program.ops[to].push(Op::Receive(from));
                    }
                }
            }
        }
        program
    }

    fn idle(ranks: usize) -> Self {
        Self {
            members: BTreeMap::new(),
            ops: vec![Vec::new(); ranks],
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Collective(usize),
    Message(usize, usize),
}

/// What goes wrong: this rank's answer to this step of this generation.
#[derive(Clone, Copy, Debug)]
struct Fault {
    rank: usize,
    step: &'static str,
    number: u64,
    /// Falls silent instead of reporting an error; or goes away.
    how: How,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum How {
    Error,
    Silence,
    Loss,
}

#[derive(Default)]
struct SimRank {
    inbox: VecDeque<ToRank>,
    outbox: VecDeque<FromRank>,
    position: usize,
    inside: Option<u64>,
    seqs: BTreeMap<u64, u64>,
    armed: Option<GenerationId>,
    targets: BTreeMap<u64, u64>,
    epoch: u32,
    told: Option<(u32, GatePoll)>,
    stopped: bool,
    captured: Option<GenerationId>,
    committed: Vec<GenerationId>,
    abandoned: Vec<GenerationId>,
    finalize: Option<bool>,
    exit: Option<i32>,
    outcome: Option<Outcome>,
    lost: bool,
    kill: bool,
    how: Option<EndHow>,
    signals: Vec<i32>,
    /// How often it was asked for the time left, and how long it may hold a signal back.
    asked: u32,
    /// When it was asked for the time limit.
    asked_limit: Vec<Duration>,
    held: Vec<Duration>,
    leader: bool,
    records: Vec<(GenerationId, Level)>,
    pruned: u32,
}

struct Sim {
    core: Core,
    now: Duration,
    ranks: Vec<SimRank>,
    program: Program,
    messages: BTreeMap<(usize, usize), u64>,
    faults: Vec<Fault>,
    log: Vec<(bool, String)>,
    answers: Vec<(u64, ToTool)>,
    /// State of a small random number generator.
    random: u64,
    nodes: u32,
    /// Rank 0 has recorded that all have ended normally.
    end_recorded: bool,
}

impl Sim {
    fn new(program: Program, settings: Settings, seed: u64, node_size: usize) -> Self {
        let size = program.ops.len();
        let mut sim = Self {
            core: Core::new(Some("job".into()), Some(1), Some(settings)),
            now: Duration::ZERO,
            ranks: (0..size).map(|_| SimRank::default()).collect(),
            program,
            messages: BTreeMap::new(),
            faults: Vec::new(),
            log: Vec::new(),
            answers: Vec::new(),
            random: seed | 1,
            nodes: 0,
            end_recorded: false,
        };
        for rank in 0..size {
            let registration = Registration {
                size: size as u32,
                host: format!("n{}", rank / node_size),
                node: (rank / node_size) as u32,
                pid: rank as u32,
                program: "sim".into(),
                next_number: 1,
                settings: Settings::default(),
                rejoin: None,
                resumed: None,
            };
            sim.nodes = sim.nodes.max(registration.node + 1);
            sim.core
                .register(sim.now, rank as u32, "job", 1, &registration)
                .expect("register");
        }
        sim.route();
        sim
    }

    fn dice(&mut self, sides: usize) -> usize {
        // xorshift64
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % sides.max(1) as u64) as usize
    }

    fn route(&mut self) {
        for action in self.core.take_actions() {
            match action {
                Action::Send { to, message } => {
                    for rank in 0..self.ranks.len() {
                        if self.core.is_addressed(to, rank as u32) && !self.ranks[rank].lost {
                            self.ranks[rank].inbox.push_back(message.clone());
                        }
                    }
                }
                Action::Answer { tool, message } => self.answers.push((tool, message)),
                Action::Log { warning, text } => self.log.push((warning, text)),
                Action::Event { .. } | Action::Quit => {}
            }
        }
    }

    fn warnings(&self) -> Vec<&str> {
        self.log
            .iter()
            .filter(|(warning, _)| *warning)
            .map(|(_, text)| text.as_str())
            .collect()
    }

    /// One random thing happens. False: nothing can happen but the passing of time.
    fn step(&mut self) -> bool {
        let size = self.ranks.len();
        let first = self.dice(size);
        let what = self.dice(3);
        for turn in 0..3 {
            for rank in (0..size).map(|k| (first + k) % size) {
                let done = match (what + turn) % 3 {
                    0 => self.deliver(rank),
                    1 => self.answer(rank),
                    _ => self.run_program(rank),
                };
                if done {
                    self.route();
                    return true;
                }
            }
        }
        false
    }

    /// Runs until nothing happens any more, at most until `limit`.
    fn run(&mut self, limit: Duration) {
        loop {
            // Time passes while things happen, so that time limits are met in the middle as well.
            let steps = 1 + self.dice(64);
            let mut busy = false;
            for _ in 0..steps {
                busy = self.step();
            }
            for rank in 0..self.ranks.len() {
                self.poll_gate(rank);
            }
            let wake = self.core.wake();
            self.now = if busy {
                self.now + HELD
            } else {
                wake.max(self.now + HELD)
            };
            if self.now > limit {
                return;
            }
            if self.now >= wake {
                self.core.tick(self.now);
                self.route();
            }
            self.check();
        }
    }

    /// What must hold at every moment.
    fn check(&self) {
        if self.ranks.iter().all(|rank| rank.stopped) {
            for (comm, members) in &self.program.members {
                let numbers: Vec<u64> = members
                    .iter()
                    .map(|m| self.ranks[*m].seqs.get(comm).copied().unwrap_or(0))
                    .collect();
                assert!(
                    numbers.windows(2).all(|w| w[0] == w[1]),
                    "comm {comm}: {numbers:?} at the safe point"
                );
            }
        }
        for (rank, found) in self.ranks.iter().enumerate() {
            assert!(
                !(found.stopped && found.inside.is_some()),
                "rank {rank} stopped inside a collective"
            );
        }
    }

    fn fault(&mut self, rank: usize, step: &'static str, generation: GenerationId) -> Option<How> {
        let how = self
            .faults
            .iter()
            .find(|f| f.rank == rank && f.step == step && f.number == generation.number)
            .map(|f| f.how)?;
        if how == How::Loss {
            self.lose(rank);
        }
        Some(how)
    }

    fn lose(&mut self, rank: usize) {
        let found = &mut self.ranks[rank];
        found.lost = true;
        found.stopped = false;
        found.captured = None;
        found.inbox.clear();
        found.outbox.clear();
        self.core.lost(self.now, rank as u32);
    }

    /// `Some`: what to answer.
    fn outcome_of<T>(
        &mut self,
        rank: usize,
        step: &'static str,
        generation: GenerationId,
        good: T,
    ) -> Option<Result<T, StepError>> {
        match self.fault(rank, step, generation) {
            None => Some(Ok(good)),
            Some(How::Error) => Some(Err(StepError::new(format!("{step} failed")))),
            Some(_) => None,
        }
    }

    /// The rank obeys one order.
    fn deliver(&mut self, rank: usize) -> bool {
        let Some(message) = self.ranks[rank].inbox.pop_front() else {
            return false;
        };
        let mut answer = None;
        match message {
            ToRank::Intent { checkpoint, .. } => {
                let generation = checkpoint.generation;
                let me = &mut self.ranks[rank];
                me.armed = Some(generation);
                me.told = None;
                me.epoch = 0;
                me.targets = me.seqs.clone();
                let seqs = me.comm_seqs(&self.program);
                answer = self
                    .outcome_of(rank, "intent", generation, seqs)
                    .map(|result| FromRank::Seqs { generation, result });
            }
            ToRank::Targets {
                generation,
                epoch,
                targets,
            } => {
                let me = &mut self.ranks[rank];
                assert_eq!(me.armed, Some(generation));
                me.epoch = epoch;
                for target in targets {
                    me.targets.insert(target.comm_id, target.seq);
                }
            }
            ToRank::Stop(generation) => {
                self.ranks[rank].stopped = true;
                answer = self
                    .outcome_of(rank, "stop", generation, ())
                    .map(|result| FromRank::Stopped { generation, result });
            }
            ToRank::Drain(generation) => {
                answer = self
                    .outcome_of(rank, "drain", generation, DrainReport::default())
                    .map(|result| FromRank::Drained { generation, result });
            }
            ToRank::Capture(Checkpoint { generation, .. }) => {
                self.ranks[rank].captured = Some(generation);
                let given_up = self
                    .ranks
                    .iter()
                    .any(|r| r.abandoned.contains(&generation) || r.lost);
                assert!(
                    given_up || self.ranks.iter().all(|r| r.stopped),
                    "a snapshot with running ranks"
                );
                answer = self
                    .outcome_of(
                        rank,
                        "capture",
                        generation,
                        crate::CaptureStarted::default(),
                    )
                    .map(|result| FromRank::Captured { generation, result });
            }
            ToRank::Resume(generation) => {
                let me = &mut self.ranks[rank];
                assert_eq!(me.captured, Some(generation));
                me.release();
                let pause = Pause {
                    gate: 1000,
                    drain: 2000,
                    snapshot: 3000,
                };
                me.outbox.push_back(FromRank::Resumed { generation, pause });
                // Claims to be somebody else: the coordinator must know better.
                let image = ImageReport {
                    rank: 12345,
                    bytes: 1000,
                    root: [rank as u8; 16],
                };
                answer = self
                    .outcome_of(rank, "write", generation, image)
                    .map(|result| FromRank::Durable { generation, result });
            }
            ToRank::Commit {
                checkpoint: Checkpoint { generation, .. },
                images,
            } => {
                assert_eq!(
                    images.is_some(),
                    self.ranks[rank].leader,
                    "one manifest a node"
                );
                if let Some(images) = images {
                    assert!(images
                        .iter()
                        .enumerate()
                        .all(|(k, image)| image.rank as usize == k));
                    assert_eq!(images.len(), self.ranks.len());
                }
                answer = self
                    .outcome_of(rank, "commit", generation, ())
                    .map(|result| FromRank::Committed { generation, result });
                if matches!(answer, Some(FromRank::Committed { result: Ok(()), .. })) {
                    self.ranks[rank].committed.push(generation);
                }
            }
            ToRank::Abandon { generation, .. } => {
                let me = &mut self.ranks[rank];
                assert!(!me.abandoned.contains(&generation), "told once");
                me.abandoned.push(generation);
                me.committed.retain(|g| *g != generation);
                me.release();
            }
            ToRank::LevelWork { generation, level } => {
                answer = self
                    .outcome_of(rank, "level", generation, ())
                    .map(|result| FromRank::LevelDone {
                        generation,
                        level,
                        result,
                    });
            }
            ToRank::LevelComplete { generation, level } => {
                self.ranks[rank].records.push((generation, level));
                answer = Some(FromRank::LevelRecorded {
                    generation,
                    level,
                    result: Ok(()),
                });
            }
            ToRank::Prune { .. } => self.ranks[rank].pruned += 1,
            ToRank::Finalize => self.ranks[rank].finalize = Some(true),
            ToRank::RecordEnd => {
                assert_eq!(rank, 0, "rank 0 has the records");
                let end = GenerationId {
                    incarnation: 1,
                    number: 0,
                };
                let recorded = self.outcome_of(rank, "record-end", end, ());
                self.end_recorded = matches!(recorded, Some(Ok(())));
                answer = recorded.map(|result| FromRank::EndRecorded { result });
            }
            ToRank::Finish(outcome) => {
                let finished = outcome == Outcome::Finished;
                assert!(!finished || self.end_recorded, "images are deleted now");
                self.ranks[rank].outcome = Some(outcome);
            }
            ToRank::EndJob { how, .. } => {
                self.ranks[rank].kill = true;
                self.ranks[rank].how = Some(how);
            }
            ToRank::SignalOver { signal } => self.ranks[rank].signals.push(signal),
            ToRank::SignalHeld { limit, .. } => self.ranks[rank].held.push(limit),
            ToRank::AskTimeLeft => self.ranks[rank].asked += 1,
            ToRank::AskLimit => self.ranks[rank].asked_limit.push(self.now),
            ToRank::Started(facts) => self.ranks[rank].leader = facts.leader,
            ToRank::Ping | ToRank::Welcome | ToRank::Denied { .. } => {}
        }
        if !self.ranks[rank].lost {
            self.ranks[rank].outbox.extend(answer);
        }
        true
    }

    fn answer(&mut self, rank: usize) -> bool {
        let Some(message) = self.ranks[rank].outbox.pop_front() else {
            return false;
        };
        self.core.rank(self.now, rank as u32, message);
        true
    }

    /// The program advances by one operation, if it can.
    fn run_program(&mut self, rank: usize) -> bool {
        let me = &mut self.ranks[rank];
        if me.stopped || me.lost || me.exit.is_some() {
            return false;
        }
        if me.kill {
            me.exit = Some(99);
            me.outbox.push_back(FromRank::Exit { code: 99 });
            return true;
        }
        if let Some(comm) = me.inside {
            let number = me.seqs[&comm];
            let members = &self.program.members[&comm];
            let all_in = members
                .iter()
                .all(|m| self.ranks[*m].seqs.get(&comm).copied().unwrap_or(0) >= number);
            if all_in {
                self.ranks[rank].inside = None;
                self.ranks[rank].position += 1;
            }
            return all_in;
        }
        match self.program.ops[rank].get(me.position) {
            Some(Op::Collective(comm)) => {
                if me.held_at(*comm) {
                    return false;
                }
                *me.seqs.entry(*comm).or_default() += 1;
                me.inside = Some(*comm);
                true
            }
            Some(Op::Send(to)) => {
                *self.messages.entry((rank, *to)).or_default() += 1;
                me.position += 1;
                true
            }
            Some(Op::Receive(from)) => match self.messages.get_mut(&(*from, rank)) {
                Some(waiting) if *waiting > 0 => {
                    *waiting -= 1;
                    me.position += 1;
                    true
                }
                _ => false,
            },
            None => match me.finalize {
                None => {
                    me.finalize = Some(false);
                    me.outbox.push_back(FromRank::Finalizing);
                    true
                }
                Some(true) => {
                    me.exit = Some(0);
                    me.outbox.push_back(FromRank::Exit { code: 0 });
                    true
                }
                Some(false) => false,
            },
        }
    }

    fn poll_gate(&mut self, rank: usize) {
        let me = &mut self.ranks[rank];
        let Some(generation) = me.armed.filter(|_| me.epoch > 0 && !me.stopped && !me.lost) else {
            return;
        };
        let waiting = match self.program.ops[rank].get(me.position) {
            Some(Op::Collective(comm)) if me.inside.is_none() && me.held_at(*comm) => {
                Some(CommSeq {
                    comm_id: *comm,
                    size: self.program.members[comm].len() as u32,
                    seq: me.seqs.get(comm).copied().unwrap_or(0),
                })
            }
            _ => None,
        };
        let reached = me.inside.is_none()
            && me.targets.iter().all(|(comm, target)| {
                !self.program.members[comm].contains(&rank)
                    || me.seqs.get(comm).copied().unwrap_or(0) == *target
            });
        let poll = GatePoll {
            reached,
            waiting,
            behind: None,
            seqs: me.comm_seqs(&self.program),
            where_: "simulating".into(),
        };
        let now = Some((me.epoch, poll.clone()));
        if me.told != now {
            me.told = now;
            me.outbox.push_back(FromRank::Gate {
                generation,
                epoch: me.epoch,
                poll,
            });
        }
    }
}

impl SimRank {
    fn held_at(&self, comm: u64) -> bool {
        let started = self.seqs.get(&comm).copied().unwrap_or(0);
        self.armed.is_some() && started >= self.targets.get(&comm).copied().unwrap_or(0)
    }

    fn comm_seqs(&self, program: &Program) -> Vec<CommSeq> {
        self.seqs
            .iter()
            .map(|(comm_id, seq)| CommSeq {
                comm_id: *comm_id,
                size: program.members[comm_id].len() as u32,
                seq: *seq,
            })
            .collect()
    }

    fn release(&mut self) {
        self.armed = None;
        self.stopped = false;
        self.captured = None;
        self.targets.clear();
        self.epoch = 0;
    }
}
