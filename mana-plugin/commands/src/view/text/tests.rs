//! A job in the middle of everything, in words.

use super::*;
use mana_control::{
    CurrentStatus, GenerationId, Level, LevelStatus, LevelWorkStatus, RankPlace, Waiting,
};

/// A job in the middle of everything.
pub fn busy() -> Status {
    let generation = GenerationId {
        incarnation: 2,
        number: 12,
    };
    let done = |number| GenerationStatus {
        generation: GenerationId {
            number,
            ..generation
        },
        level: Level::Partner,
        bytes: 3 << 30,
        seconds: 1.6,
        gate: 0.004,
        drain: 0.002,
        snapshot: 0.02,
        stopped: 0.026,
        write: 1.5,
    };
    let waiting = |peer| {
        vec![Waiting {
            text: format!("MPI_Recv from rank {peer}, tag 7, on MPI_COMM_WORLD"),
            call: "MPI_Recv".into(),
            communicator: "MPI_COMM_WORLD".into(),
            peer: Some(peer),
            tag: Some(7),
            number: None,
            seconds: 61.5,
        }]
    };
    Status {
        job: "4711-app-0badcafe".into(),
        incarnation: 2,
        size: 4,
        nodes: 2,
        uptime: 754.0,
        phase: "checkpointing".into(),
        current: Some(CurrentStatus {
            generation,
            level: Level::Global,
            step: "gate".into(),
            step_seconds: 12.5,
            waits_for: 1,
            ranks: 4,
            bytes: 0,
            seconds: 12.6,
            waits: "rank 3 on n02: computing".into(),
            cause: Some("ranks 0-2 wait for rank 3 on n02".into()),
        }),
        level_work: vec![LevelWorkStatus {
            generation: GenerationId {
                number: 11,
                ..generation
            },
            level: Level::Global,
            waits_for: 3,
            ranks: 4,
            bytes: 3 << 30,
            seconds: 4.0,
        }],
        levels: Level::ALL
            .into_iter()
            .map(|level| LevelStatus {
                level,
                enabled: level != Level::Group,
                interval: (level != Level::Global).then_some(60.0),
                next_due: (level != Level::Global).then_some(17.0),
                last: Some(generation),
                age: Some(43.0),
                bytes: Some(3 << 30),
                seconds: Some(1.5),
                bandwidth: Some(2e9),
                survives: "loss of every node".into(),
            })
            .collect(),
        due: 13,
        covered: 0,
        committed: 11,
        abandoned: 1,
        last: Some(done(11)),
        recent: (1..12).map(done).collect(),
        last_failure: Some("checkpoint 7 (local) abandoned in step gate".into()),
        last_stall: Some(Stall {
            generation,
            level: Level::Local,
            step: "gate".into(),
            seconds: 300.0,
            cause: Some("rank 0 waits for rank 3 on n02".into()),
            ranks: vec![RankPlace {
                rank: 0,
                host: "n01".into(),
                awaited: true,
                doing: "inside".into(),
                waiting: waiting(3),
            }],
            omitted: 0,
        }),
        ranks: (0..4)
            .map(|rank| RankStatus {
                rank,
                host: format!("n0{}", rank / 2 + 1),
                node: rank / 2,
                pid: 100 + rank,
                program: "app".into(),
                state: "running".into(),
                code: None,
                doing: "computing".into(),
                waiting: if rank < 2 { waiting(3) } else { Vec::new() },
            })
            .collect(),
        ..Status::default()
    }
}

#[test]
fn sizes_and_times() {
    assert_eq!(size(12), "12 B");
    assert_eq!(size(3 << 20), "3.0 MiB");
    assert_eq!(size((5 << 30) / 2), "2.5 GiB");
    assert_eq!(rate(2.5e9), "2.3 GiB/s");
    let times = [3.21, -4.0, 61.0, 754.0, 9000.0, 400_000.0].map(time);
    assert_eq!(
        times,
        ["3.2 s", "-4.0 s", "61 s", "13 min", "2.5 h", "4.6 d"]
    );
    assert_eq!(ranges(&[0, 1, 2, 5]), "0-2, 5");
    assert_eq!(
        [0.0241, 0.9994, 0.9999, 18.3].map(pause),
        ["24 ms", "999 ms", "1.0 s", "18 s"]
    );
    assert_eq!(
        [count(1_u32, "rank"), count(2_u32, "rank")],
        ["1 rank", "2 ranks"]
    );
}

#[test]
fn an_empty_state_can_be_shown() {
    assert!(describe(&Status::default()).contains("0 due, 0 committed, 0 abandoned"));
    assert!(line(&Status::default()).contains("0 committed"));
}

#[test]
fn everything_is_said() {
    let state = busy();
    let text = describe(&state);
    for words in [
        "gate for 12 s, waits for 1 of 4 ranks: rank 3 on n02: computing",
        "ranks 0-2 wait for rank 3",
        "3.0 GiB",
        "1.9 GiB/s",
        "MPI_Recv from rank 3, tag 7, on MPI_COMM_WORLD, for 62 s",
        "given up, after 5 min in step gate",
    ] {
        assert!(text.contains(words), "{words}\n{text}");
    }
    let line = line(&state);
    assert!(
        line.contains("checkpoint 12 (global) in step gate: 3 of 4 ranks done, waits for rank 3"),
        "{line}"
    );
    let nodes = nodes(&state);
    assert_eq!(nodes.len(), 2);
    assert_eq!(nodes[0].ranks, [0, 1]);
    assert_eq!(nodes[1].doing, [("computing".to_owned(), 2)]);
}
