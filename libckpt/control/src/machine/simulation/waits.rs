//! No wait without a name: ranks that do not come, and ranks that do not get on.

use super::*;
use crate::Place;

const SECOND: Duration = Duration::from_secs(1);

fn core(ranks: u32, registered: u32, settings: &Settings) -> Core {
    let mut core = Core::new(Some("job".into()), Some(1), None);
    for rank in (0..registered).rev() {
        let registration = Registration {
            size: ranks,
            host: format!("n{rank}"),
            node: rank,
            pid: rank,
            program: "sim".into(),
            next_number: 1,
            settings: settings.clone(),
            rejoin: None,
            resumed: None,
        };
        core.register(Duration::ZERO, rank, "job", 1, &registration)
            .expect("register");
    }
    core
}

/// The warnings since the last call, and whether the ranks were told to end.
fn said(core: &mut Core) -> (Vec<String>, bool) {
    let (mut lines, mut ended) = (Vec::new(), false);
    for action in core.take_actions() {
        match action {
            Action::Log {
                warning: true,
                text,
            } => lines.push(text),
            Action::Send {
                message: ToRank::EndJob { .. },
                ..
            } => ended = true,
            _ => {}
        }
    }
    (lines, ended)
}

#[test]
fn ranks_that_do_not_come_are_named_and_the_job_runs_on_or_ends() {
    for stop_on_error in [false, true] {
        let settings = Settings {
            start_limit: SECOND * 30,
            stop_on_error,
            ..Settings::default()
        };
        let mut core = core(5, 3, &settings);
        assert_eq!(core.wake(), SECOND * 5, "the ping comes first");
        core.tick(SECOND * 9);
        assert_eq!(said(&mut core), (vec![], false));
        core.tick(SECOND * 10);
        let (lines, ended) = said(&mut core);
        assert!(
            lines.len() == 1 && lines[0].starts_with("2 of 5 ranks (3-4) are not there 10.0 s"),
            "{lines:?}"
        );
        assert!(!ended);
        core.tick(SECOND * 20);
        assert_eq!(
            said(&mut core).0.len(),
            1,
            "again when the wait has doubled"
        );
        core.tick(SECOND * 30);
        let (lines, ended) = said(&mut core);
        assert_eq!(ended, stop_on_error);
        assert_eq!(
            lines.iter().any(|line| line.contains("UNPROTECTED")),
            !stop_on_error,
            "{lines:?}"
        );
        core.tick(SECOND * 31);
        assert!(said(&mut core).0.is_empty(), "said once");
    }
}

#[test]
fn a_checkpoint_that_does_not_converge_says_where_everybody_is() {
    let settings = Settings {
        gate_limit: SECOND * 30,
        ..Settings::default()
    };
    let mut core = core(3, 3, &settings);
    let request = Request {
        level: Some(Level::Local),
        kill: false,
    };
    core.want(Duration::ZERO, request, Some(7))
        .expect("possible");
    let generation = GenerationId {
        incarnation: 1,
        number: 1,
    };
    let comm = |seq| CommSeq {
        comm_id: 1,
        size: 3,
        seq,
    };
    for rank in 0..3 {
        let seq = u64::from(rank == 2);
        let result = Ok(vec![comm(seq)]);
        core.rank(SECOND, rank, FromRank::Seqs { generation, result });
    }
    for rank in 0..3 {
        let poll = GatePoll {
            behind: (rank < 2).then(|| comm(0)),
            where_: "under way".into(),
            ..GatePoll::default()
        };
        let gate = FromRank::Gate {
            generation,
            epoch: 1,
            poll,
        };
        core.rank(SECOND, rank, gate);
    }
    let tell = |core: &mut Core, now: u32| {
        let place = |call: &str| Place {
            call: call.into(),
            comm_id: Some(1),
            comm_name: "MPI_COMM_WORLD".into(),
            waited: SECOND * (now - 1),
            ..Place::default()
        };
        let waits = [
            vec![Place {
                peer: Some(1),
                tag: Some(7),
                ..place("MPI_Recv")
            }],
            vec![],
            vec![Place {
                number: Some(1),
                ..place("MPI_Barrier")
            }],
        ];
        for (rank, places) in (0..).zip(waits) {
            let doing = "computing".into();
            core.rank(SECOND * now, rank, FromRank::Pong { doing, places });
        }
    };
    tell(&mut core, 5);
    core.take_actions();
    core.tick(SECOND * 15);
    let (lines, _) = said(&mut core);
    assert!(
        lines.len() == 1 && lines[0].contains("ranks 0, 2 wait for rank 1 on n1 (computing)"),
        "{lines:?}"
    );
    let status = core.status(SECOND * 16);
    let current = status.current.expect("being taken");
    assert_eq!((current.waits_for, current.ranks), (3, 3));
    assert!(current
        .cause
        .is_some_and(|cause| cause.contains("rank 1 on n1")));
    let waiting = &status.ranks[0].waiting[0];
    assert_eq!((waiting.peer, waiting.tag), (Some(1), Some(7)));
    assert!((waiting.seconds - 15.0).abs() < 1e-9, "{waiting:?}");
    tell(&mut core, 28);
    // The limit is for intent and gate together.
    core.tick(SECOND * 30);
    let (lines, _) = said(&mut core);
    for words in [
        "abandoned in step gate: waited 29.0 s",
        "  rank 0: MPI_Recv from rank 1, tag 7, on MPI_COMM_WORLD, for 29.0 s",
        "  rank 1: computing",
        "  rank 2: MPI_Barrier (number 1) on MPI_COMM_WORLD, for 29.0 s",
    ] {
        assert!(
            lines.iter().any(|l| l.contains(words)),
            "{words}\n{lines:#?}"
        );
    }
    let stall = core.status(SECOND * 31).last_stall.expect("kept");
    assert_eq!((stall.step.as_str(), stall.ranks.len()), ("gate", 3));
    assert_eq!(stall.generation, generation);
}

/// A node has died in the middle of a receive, and nobody has noticed yet.
#[test]
fn what_a_silent_rank_said_last_makes_no_circle() {
    let mut core = core(2, 2, &Settings::default());
    let request = Request {
        level: Some(Level::Local),
        kill: false,
    };
    core.want(Duration::ZERO, request, Some(7))
        .expect("possible");
    let waits_for = |peer| FromRank::Pong {
        doing: "computing".into(),
        places: vec![Place {
            call: "MPI_Recv".into(),
            peer: Some(peer),
            ..Place::default()
        }],
    };
    core.rank(SECOND, 1, waits_for(0));
    for now in [1, 11, 18] {
        core.rank(SECOND * now, 0, waits_for(1));
    }
    let cause = |core: &Core, now| core.status(now).current.and_then(|current| current.cause);
    let before = cause(&core, SECOND * 12).expect("seen");
    assert!(before.contains("wait for each other"), "{before}");
    let after = cause(&core, SECOND * 18).expect("seen");
    assert_eq!(
        after,
        "rank 0 waits for rank 1 on n1 (not heard of for 17.0 s)"
    );
}

/// A virtual machine that was paused has not looked for the rank it has lost.
#[test]
fn a_time_in_which_nothing_ran_does_not_end_the_job() {
    for stood_still in [false, true] {
        let settings = Settings {
            end_after_loss: Some(SECOND * 30),
            ..Settings::default()
        };
        let mut core = core(2, 2, &settings);
        core.tick(SECOND);
        core.lost(SECOND * 2, 1);
        core.take_actions();
        let times: Vec<u32> = match stood_still {
            true => vec![4, 304],
            false => vec![4, 8, 12, 16, 20, 24, 28, 33],
        };
        for now in &times {
            core.tick(SECOND * *now);
        }
        assert_eq!(said(&mut core).1, !stood_still);
        for now in (308..).step_by(4).take(8) {
            core.tick(SECOND * now);
        }
        assert_eq!(said(&mut core).1, stood_still, "only later");
    }
}

/// A rank that was cut off while the others were told to end hears of it when it is back.
#[test]
fn a_rank_that_comes_back_to_a_job_that_ends_ends() {
    let mut core = core(2, 2, &Settings::default());
    core.lost(SECOND, 1);
    core.end_job(SECOND * 2, "asked for");
    core.take_actions();
    let registration = Registration {
        size: 2,
        host: "n1".into(),
        node: 1,
        pid: 1,
        program: "sim".into(),
        next_number: 1,
        settings: Settings::default(),
        rejoin: Some(crate::protocol::Rejoin { finalized: false }),
        resumed: None,
    };
    core.register(SECOND * 3, 1, "job", 1, &registration)
        .expect("taken back");
    let told = core.take_actions().into_iter().any(|action| {
        let Action::Send { to, message } = action else {
            return false;
        };
        matches!(to, To::Rank(1)) && matches!(message, ToRank::EndJob { .. })
    });
    assert!(told);
}
