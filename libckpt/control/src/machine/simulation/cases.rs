//! What is shown with simulated ranks: the normal course, every failure, random programs in random
//! orders, and sixteen thousand ranks.

use proptest::prelude::*;

use super::*;
use crate::Resumed;

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

/// Simulated ranks stand still for 6 ms.
#[test]
fn a_job_is_told_once_that_checkpoints_take_too_much_of_its_time() {
    for (every, lines) in [(20, 1), (200, 0)] {
        let mut sim = Sim::new(Program::idle(2), settings([every, 0, 0, 0]), 5, 1);
        sim.program.ops = vec![vec![Op::Receive(0)]; 2];
        sim.run(Duration::from_secs(150));
        let said = sim.warnings();
        assert_eq!(said.len(), lines, "every {every} ms: {said:?}");
        let words = [
            "local checkpoints every 20 ms stop the program for 6.0 ms each",
            "an interval of 1.0 s",
        ];
        assert!(
            said.iter()
                .all(|line| words.iter().all(|word| line.contains(word))),
            "{said:?}"
        );
    }
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

/// Who asks for a level and waits is answered when the level has it, not when it is committed.
#[test]
fn a_tool_waits_for_the_level() {
    for fails in [false, true] {
        let mut sim = Sim::new(Program::idle(4), settings([0; 4]), 5, 2);
        sim.program.ops = vec![vec![Op::Receive(0)]; 4];
        if fails {
            sim.faults = vec![Fault {
                rank: 1,
                step: "level",
                number: 1,
                how: How::Error,
            }];
        }
        let request = Request {
            level: Some(Level::Partner),
            kill: false,
        };
        sim.core.want(sim.now, request, Some(1)).expect("possible");
        while sim.answers.is_empty() && sim.now < LONG {
            sim.run(Duration::from_millis(1));
        }
        let complete = sim
            .core
            .status(sim.now)
            .levels
            .iter()
            .any(|l| l.level == Level::Partner && l.last.is_some());
        match &sim.answers[..] {
            [(1, ToTool::Committed(_))] => assert!(complete && !fails),
            [(1, ToTool::Denied { reason })] => {
                assert!(fails && reason.contains("level partner"), "{reason}");
            }
            other => panic!("{other:?}"),
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

/// Every rank ends with 0, and rank 0 comes to grief while it records that: how the others end, and what
/// is said.
fn end_not_recorded(how: How) -> (Vec<Option<Outcome>>, Vec<String>) {
    let world: Vec<usize> = (0..3).collect();
    let steps = vec![Step::Collective(0); 20];
    let mut sim = Sim::new(Program::new(3, &[world], &steps), settings([0; 4]), 3, 1);
    sim.faults = vec![Fault {
        rank: 0,
        step: "record-end",
        number: 0,
        how,
    }];
    sim.run(LONG);
    assert!(sim.core.over().is_some(), "{how:?}: nobody waits for ever");
    let warnings = sim.warnings().iter().map(|w| w.to_string()).collect();
    (sim.ranks.into_iter().map(|r| r.outcome).collect(), warnings)
}

#[test]
fn an_end_that_is_not_recorded_is_none() {
    for how in [How::Loss, How::Error, How::Silence] {
        let (outcomes, warnings) = end_not_recorded(how);
        let alive = usize::from(how == How::Loss);
        let undecided = Some(Outcome::Undecided);
        assert!(outcomes[alive..].iter().all(|o| *o == undecided), "{how:?}");
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains("checkpoints are kept"), "{warnings:?}");
        assert!(warnings[0].contains("rank 0") || how == How::Error);
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
fn a_resumed_generation_counts_until_there_is_a_newer_one() {
    let mut core = Core::new(Some("job".into()), Some(2), Some(settings([0; 4])));
    let resumed = Resumed {
        generation: GenerationId {
            incarnation: 1,
            number: 7,
        },
        levels: vec![Level::Local, Level::Global],
        bytes: 1 << 20,
        age: Duration::from_secs(60),
    };
    let registration = Registration {
        size: 1,
        host: "h".into(),
        node: 0,
        pid: 1,
        program: String::new(),
        next_number: 8,
        settings: settings([0; 4]),
        rejoin: None,
        resumed: Some(resumed.clone()),
    };
    core.register(Duration::from_secs(1), 0, "job", 2, &registration)
        .expect("registered");
    let status = core.status(Duration::from_secs(11));
    let of = |level: Level| status.levels[level.index()].clone();
    for level in [Level::Local, Level::Global] {
        assert_eq!(of(level).last, Some(resumed.generation), "{level}");
        assert_eq!(of(level).age, Some(70.0), "{level}");
        assert_eq!(of(level).bytes, Some(1 << 20), "{level}");
        assert_eq!((of(level).seconds, of(level).bandwidth), (None, None));
    }
    assert_eq!(of(Level::Partner).last, None);
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
        rejoin: None,
        resumed: None,
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
            rejoin: None,
            resumed: None,
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
    #![proptest_config(ProptestConfig::with_cases(120))]

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
