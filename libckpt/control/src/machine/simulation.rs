//! The machine with simulated ranks: thousands of them, in any order, with failures at any step.
//!
//! A simulated program is a list of collectives and messages; every rank runs its part of the list,
//! so it cannot deadlock by itself. A collective is a barrier (the strictest kind), a gate holds a
//! rank before a collective beyond its target.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use crate::protocol::Pause;
use crate::{Checkpoint, CommSeq, DrainReport, GatePoll, ImageReport, StepError};

use super::*;

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
                Action::Quit => {}
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
            ToRank::Finish(outcome) => self.ranks[rank].outcome = Some(outcome),
            ToRank::EndJob { .. } => self.ranks[rank].kill = true,
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

fn settings(intervals_ms: [u64; 4]) -> Settings {
    Settings {
        intervals: intervals_ms.map(|ms| Some(Duration::from_millis(ms))),
        enabled: [true, true, false, true],
        gate_limit: Duration::from_secs(30),
        stopped_limit: Duration::from_secs(20),
        write_limit: Duration::from_secs(20),
        commit_limit: Duration::from_secs(20),
        level_limit: Duration::from_secs(20),
        ..Settings::default()
    }
}

const LONG: Duration = Duration::from_secs(3600);

fn generation(number: u64) -> GenerationId {
    GenerationId {
        incarnation: 1,
        number,
    }
}

#[test]
fn every_level_in_turn_and_a_normal_end() {
    let world: Vec<usize> = (0..4).collect();
    let steps = vec![Step::Collective(0); 400];
    let mut sim = Sim::new(
        Program::new(4, &[world], &steps),
        settings([10, 20, 0, 40]),
        7,
        2,
    );
    sim.run(LONG);
    let status = sim.core.status(sim.now);
    assert!(status.committed > 3, "{status:?}");
    assert_eq!(
        (status.due, status.abandoned),
        (status.committed, 0),
        "{:?}",
        sim.warnings()
    );
    assert_eq!(status.phase, "ended");
    assert_eq!(sim.core.over(), Some(&Outcome::Finished));
    for rank in &sim.ranks {
        assert_eq!(rank.committed.len() as u64, status.committed);
        assert_eq!(rank.outcome, Some(Outcome::Finished));
        assert!(rank.pruned > 0);
        // Each record once, the lower levels of a generation before the higher ones.
        for level in [Level::Local, Level::Partner, Level::Global] {
            assert!(
                rank.records.iter().any(|(_, l)| *l == level),
                "{level}: {:?}",
                rank.records
            );
        }
    }
    assert_eq!(status.last.as_ref().map(|last| last.bytes), Some(4000));
    assert_eq!(status.last.map(|last| last.stopped), Some(0.006));
}

/// Rank 2 is inside a collective on {1, 2}; rank 1 must take a message of rank 0 to get there; rank 0
/// sends it only after a collective on a communicator of its own, at whose gate it is held.
#[test]
fn a_gate_that_holds_a_message_is_opened() {
    let program = Program {
        members: BTreeMap::from([(1, vec![1, 2]), (2, vec![0])]),
        ops: vec![
            vec![Op::Collective(2), Op::Send(1)],
            vec![Op::Receive(0), Op::Collective(1)],
            vec![Op::Collective(1)],
        ],
    };
    let mut sim = Sim::new(program, settings([0; 4]), 3, 1);
    // Rank 2 enters its collective; rank 0 has done nothing yet.
    assert!(sim.run_program(2));
    sim.core
        .want(
            sim.now,
            Request {
                level: None,
                kill: false,
            },
            Some(1),
        )
        .expect("possible");
    sim.route();
    for rank in 0..3 {
        assert!(sim.deliver(rank), "started");
        assert!(sim.deliver(rank), "intent");
    }
    sim.run(LONG);
    assert!(
        matches!(sim.answers.first(), Some((1, ToTool::Committed(_)))),
        "{:?}",
        sim.answers
    );
    assert_eq!(sim.core.over(), Some(&Outcome::Finished));
    assert!(sim.warnings().is_empty(), "{:?}", sim.warnings());
}

#[test]
fn a_failure_in_any_step_abandons_once_and_the_next_one_works() {
    for step in ["intent", "stop", "drain", "capture", "write", "commit"] {
        for how in [How::Error, How::Silence] {
            let mut sim = Sim::new(Program::idle(8), settings([0; 4]), 11, 4);
            sim.program.ops = vec![vec![Op::Receive(0)]; 8];
            let ranks: &[usize] = if step == "commit" { &[0, 4] } else { &[5] };
            sim.faults = ranks
                .iter()
                .map(|rank| Fault {
                    rank: *rank,
                    step,
                    number: 1,
                    how,
                })
                .collect();
            let request = Request {
                level: Some(Level::Local),
                kill: false,
            };
            sim.core.want(sim.now, request, Some(1)).expect("possible");
            sim.run(Duration::from_secs(40));
            sim.core.want(sim.now, request, Some(2)).expect("possible");
            sim.run(Duration::from_secs(80));
            let status = sim.core.status(sim.now);
            assert_eq!(
                (status.due, status.committed, status.abandoned),
                (2, 1, 1),
                "{step} {how:?}"
            );
            let abandoned: Vec<&str> = sim
                .warnings()
                .into_iter()
                .filter(|w| w.contains("abandoned"))
                .collect();
            assert_eq!(abandoned.len(), 1, "{abandoned:?}");
            if how == How::Silence {
                assert!(
                    sim.warnings().iter().any(|w| w.contains("waits 10.0 s")),
                    "{:?}",
                    sim.warnings()
                );
            }
            assert!(
                abandoned[0].contains(if step == "commit" {
                    "rank"
                } else {
                    "rank 5 on n1"
                }),
                "{abandoned:?}"
            );
            assert!(matches!(
                &sim.answers[..],
                [(1, ToTool::Denied { .. }), (2, ToTool::Committed(_))]
            ));
            for rank in &sim.ranks {
                assert_eq!(rank.abandoned, [generation(1)]);
                assert_eq!(rank.committed, [generation(2)]);
                assert!(!rank.stopped && rank.armed.is_none());
            }
        }
    }
}

#[test]
fn one_durable_manifest_is_a_commit() {
    for how in [How::Error, How::Silence] {
        let mut sim = Sim::new(Program::idle(8), settings([0; 4]), 11, 4);
        sim.program.ops = vec![vec![Op::Receive(0)]; 8];
        sim.faults = vec![Fault {
            rank: 4,
            step: "commit",
            number: 1,
            how,
        }];
        sim.core
            .want(
                sim.now,
                Request {
                    level: None,
                    kill: false,
                },
                Some(1),
            )
            .expect("possible");
        sim.run(Duration::from_secs(60));
        assert!(
            matches!(&sim.answers[..], [(1, ToTool::Committed(_))]),
            "{:?}",
            sim.answers
        );
        assert!(
            sim.warnings()
                .iter()
                .any(|w| w.contains("not on every node")),
            "{:?}",
            sim.warnings()
        );
        assert!(
            sim.ranks.iter().all(|rank| rank.pruned == 0),
            "older generations are still needed"
        );
    }
}

#[test]
fn a_failing_level_is_told_and_not_recorded() {
    let mut sim = Sim::new(Program::idle(4), settings([0; 4]), 5, 1);
    sim.program.ops = vec![vec![Op::Receive(0)]; 4];
    sim.faults = vec![Fault {
        rank: 2,
        step: "level",
        number: 1,
        how: How::Error,
    }];
    let request = Request {
        level: Some(Level::Global),
        kill: false,
    };
    sim.core.want(sim.now, request, Some(1)).expect("possible");
    sim.run(Duration::from_secs(10));
    let levels = |sim: &Sim, n| {
        sim.ranks[0]
            .records
            .iter()
            .filter(|(g, _)| *g == generation(n))
            .map(|(_, l)| *l)
            .collect::<Vec<_>>()
    };
    assert_eq!(levels(&sim, 1), [Level::Local]);
    assert_eq!(sim.warnings().len(), 2, "{:?}", sim.warnings());
    assert!(sim.ranks.iter().all(|rank| rank.pruned == 0));
    sim.core.want(sim.now, request, Some(1)).expect("possible");
    sim.run(Duration::from_secs(20));
    assert_eq!(
        levels(&sim, 2),
        [Level::Local, Level::Partner, Level::Global]
    );
    assert!(sim.ranks.iter().all(|rank| rank.pruned == 1));
}

#[test]
fn the_cause_is_told_not_its_consequences() {
    let mut sim = Sim::new(Program::idle(3), settings([0; 4]), 5, 1);
    sim.program.ops = vec![vec![Op::Receive(0)]; 3];
    sim.faults = (0..3)
        .map(|rank| Fault {
            rank,
            step: "drain",
            number: 1,
            how: How::Silence,
        })
        .collect();
    sim.core
        .want(
            sim.now,
            Request {
                level: None,
                kill: false,
            },
            None,
        )
        .expect("possible");
    sim.run(Duration::from_secs(1));
    let g = generation(1);
    let drained = |result| FromRank::Drained {
        generation: g,
        result,
    };
    sim.core.rank(
        sim.now,
        0,
        drained(Err(StepError::secondary("another rank gave up"))),
    );
    sim.core
        .rank(sim.now, 1, drained(Ok(DrainReport::default())));
    assert!(
        sim.core.status(sim.now).current.is_some(),
        "still waiting for the cause"
    );
    sim.core.rank(
        sim.now,
        2,
        drained(Err(StepError::new("the budget is used up"))),
    );
    sim.route();
    assert!(
        sim.warnings()[0].contains("rank 2 on n2: the budget is used up"),
        "{:?}",
        sim.warnings()
    );
}

#[test]
fn kill_after_a_checkpoint_and_kill_alone() {
    let mut sim = Sim::new(Program::idle(4), settings([0; 4]), 5, 1);
    sim.program.ops = vec![vec![Op::Receive(0)]; 4];
    sim.core
        .want(
            sim.now,
            Request {
                level: None,
                kill: true,
            },
            Some(9),
        )
        .expect("possible");
    sim.run(LONG);
    assert!(sim
        .ranks
        .iter()
        .all(|rank| rank.records.contains(&(generation(1), Level::Global))));
    assert_eq!(sim.core.over(), Some(&Outcome::Killed));
    assert!(sim.warnings().is_empty(), "{:?}", sim.warnings());
    let denied = sim.core.want(
        sim.now,
        Request {
            level: None,
            kill: false,
        },
        None,
    );
    assert!(denied.is_err_and(|reason| reason.contains("being ended")));

    let mut sim = Sim::new(Program::idle(4), settings([0; 4]), 5, 1);
    sim.program.ops = vec![vec![Op::Receive(0)]; 4];
    sim.core.tool(
        sim.now,
        1,
        FromTool::Kill {
            reason: "enough".into(),
        },
    );
    sim.run(LONG);
    assert_eq!(sim.core.over(), Some(&Outcome::Killed));
}

#[test]
fn requests_that_cannot_be_served_say_why() {
    let mut core = Core::new(Some("job".into()), Some(1), Some(settings([0; 4])));
    let request = Request {
        level: Some(Level::Group),
        kill: false,
    };
    let reason = core
        .want(Duration::ZERO, request, None)
        .expect_err("not enabled");
    assert!(reason.contains("local, partner, global"), "{reason}");
    let reason = core
        .want(
            Duration::ZERO,
            Request {
                level: None,
                kill: false,
            },
            None,
        )
        .expect_err("nobody there");
    assert!(reason.contains("MPI_Init"), "{reason}");
    core.tool(Duration::ZERO, 4, FromTool::Quit);
    assert!(matches!(
        &core.take_actions()[..],
        [Action::Answer {
            tool: 4,
            message: ToTool::Denied { .. }
        }]
    ));
}

#[test]
fn impossible_ranks_are_refused() {
    let mut core = Core::new(Some("job".into()), Some(1), None);
    let registration = |size| Registration {
        size,
        host: "h".into(),
        node: 0,
        pid: 1,
        program: String::new(),
        next_number: 1,
        settings: Settings::default(),
    };
    let now = Duration::ZERO;
    assert!(core.register(now, 4, "job", 1, &registration(4)).is_err());
    assert!(core.register(now, 0, "job", 1, &registration(0)).is_err());
    assert!(core
        .register(now, 0, "job", 1, &registration(u32::MAX))
        .is_err());
    assert!(core.register(now, 0, "other", 1, &registration(2)).is_err());
    assert!(core.register(now, 0, "job", 2, &registration(2)).is_err());
    core.register(now, 0, "job", 1, &registration(2))
        .expect("fits");
    assert!(core
        .register(now, 0, "job", 1, &registration(2))
        .is_err_and(|e| e.contains("already")));
    assert!(core.register(now, 1, "job", 1, &registration(3)).is_err());
    // Messages of ranks that do not exist, or about generations that do not, change nothing.
    core.rank(now, 77, FromRank::Exit { code: 1 });
    core.rank(now, 77, FromRank::Finalizing);
    core.rank(
        now,
        0,
        FromRank::Stopped {
            generation: generation(5),
            result: Ok(()),
        },
    );
    core.lost(now, 77);
    assert_eq!(core.status(now).phase, "starting");
}

/// DESIGN: 16,384 ranks, at most 1 s of control cost from the intent to all images reported.
#[test]
fn sixteen_thousand_ranks() {
    const RANKS: u32 = 16_384;
    let mut sim = Sim::new(Program::idle(0), settings([0; 4]), 1, 1);
    sim.core = Core::new(Some("job".into()), Some(1), Some(settings([0; 4])));
    for rank in 0..RANKS {
        let registration = Registration {
            size: RANKS,
            host: format!("n{}", rank / 128),
            node: rank / 128,
            pid: rank,
            program: "sim".into(),
            next_number: 1,
            settings: Settings::default(),
        };
        sim.core
            .register(Duration::ZERO, rank, "job", 1, &registration)
            .expect("register");
    }
    sim.core.take_actions();
    let began = std::time::Instant::now();
    sim.core
        .want(
            Duration::ZERO,
            Request {
                level: Some(Level::Local),
                kill: false,
            },
            None,
        )
        .expect("possible");
    let g = generation(1);
    let mut committed = false;
    for _ in 0..10 {
        for action in sim.core.take_actions() {
            let Action::Send { to, message } = action else {
                continue;
            };
            for rank in (0..RANKS)
                .filter(|rank| sim.core.is_addressed(to, *rank))
                .collect::<Vec<_>>()
            {
                let answer = match &message {
                    ToRank::Intent { .. } => FromRank::Seqs {
                        generation: g,
                        result: Ok(vec![
                            CommSeq {
                                comm_id: 0,
                                size: RANKS,
                                seq: u64::from(rank % 3),
                            },
                            CommSeq {
                                comm_id: 1 + u64::from(rank / 128),
                                size: 128,
                                seq: 7,
                            },
                        ]),
                    },
                    ToRank::Targets { epoch, targets, .. } => {
                        assert_eq!(targets.len(), 1, "only what differs is sent");
                        let poll = GatePoll {
                            reached: true,
                            ..GatePoll::default()
                        };
                        FromRank::Gate {
                            generation: g,
                            epoch: *epoch,
                            poll,
                        }
                    }
                    ToRank::Stop(_) => FromRank::Stopped {
                        generation: g,
                        result: Ok(()),
                    },
                    ToRank::Drain(_) => FromRank::Drained {
                        generation: g,
                        result: Ok(DrainReport::default()),
                    },
                    ToRank::Capture(_) => FromRank::Captured {
                        generation: g,
                        result: Ok(crate::CaptureStarted::default()),
                    },
                    ToRank::Resume(_) => FromRank::Durable {
                        generation: g,
                        result: Ok(ImageReport::default()),
                    },
                    ToRank::Commit { images, .. } => {
                        committed = true;
                        assert_eq!(images.is_some(), rank % 128 == 0);
                        continue;
                    }
                    _ => continue,
                };
                sim.core.rank(Duration::ZERO, rank, answer);
            }
        }
    }
    let took = began.elapsed();
    assert!(committed, "all images reported");
    let bound = if cfg!(debug_assertions) { 10.0 } else { 1.0 };
    println!("{RANKS} ranks: intent to all reported in {took:?} of control cost");
    assert!(took.as_secs_f64() < bound, "{took:?}");
}

fn program() -> impl Strategy<Value = Program> {
    (2usize..7).prop_flat_map(|ranks| {
        let comm = proptest::collection::btree_set(0..ranks, 1..=ranks)
            .prop_map(|set| set.into_iter().collect());
        let comms = proptest::collection::vec(comm, 1..5);
        let step = prop_oneof![
            (0usize..8).prop_map(Step::Collective),
            (0..ranks, 0..ranks).prop_map(|(from, to)| Step::Message(from, to)),
        ];
        (comms, proptest::collection::vec(step, 1..120))
            .prop_map(move |(comms, steps)| Program::new(ranks, &comms, &steps))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever the program and the order of events: every checkpoint commits, at a safe point, and
    /// the program comes to its end.
    #[test]
    fn any_program_reaches_its_safe_points(program in program(), seed: u64, every in 3u64..60) {
        let mut sim = Sim::new(program, settings([every, 3 * every, 0, 5 * every]), seed, 2);
        sim.run(Duration::from_secs(600));
        let status = sim.core.status(sim.now);
        prop_assert_eq!(sim.core.over(), Some(&Outcome::Finished), "{:?}", status);
        prop_assert_eq!(status.due, status.committed, "{:?}", sim.log);
        prop_assert_eq!(status.abandoned, 0);
    }

    /// With failures at random places: no panic, nothing left stopped, every due checkpoint is
    /// accounted for, and all ranks agree on what was committed.
    #[test]
    fn failures_anywhere(
        program in program(),
        seed: u64,
        every in 3u64..40,
        faults in proptest::collection::vec((
            0usize..7,
            proptest::sample::select(vec!["intent", "stop", "drain", "capture", "write", "commit", "level"]),
            1u64..6,
            proptest::sample::select(vec![How::Error, How::Silence, How::Loss]),
        ), 1..5),
    ) {
        let mut sim = Sim::new(program, settings([every, 3 * every, 0, 5 * every]), seed, 2);
        let size = sim.ranks.len();
        sim.faults = faults
            .into_iter()
            .map(|(rank, step, number, how)| Fault { rank: rank % size, step, number, how })
            .collect();
        sim.run(Duration::from_secs(2000));
        let status = sim.core.status(sim.now);
        let lost = sim.ranks.iter().any(|rank| rank.lost);
        prop_assert_eq!(status.due, status.committed + status.abandoned);
        prop_assert!(status.current.is_none());
        prop_assert!(sim.ranks.iter().all(|rank| rank.lost || (!rank.stopped && rank.armed.is_none())));
        if !lost {
            prop_assert_eq!(sim.core.over(), Some(&Outcome::Finished), "{:?}", status);
        }
        let warned = sim.warnings().iter().filter(|w| w.contains("abandoned")).count() as u64;
        prop_assert_eq!(warned, status.abandoned, "told once each");
        for rank in sim.ranks.iter().filter(|rank| !rank.lost) {
            prop_assert!(rank.committed.iter().all(|g| !rank.abandoned.contains(g)));
            for other in sim.ranks.iter().filter(|rank| !rank.lost) {
                prop_assert_eq!(&rank.abandoned, &other.abandoned);
            }
        }
    }
}
