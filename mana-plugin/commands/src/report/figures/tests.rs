//! A made-up job, and what its events add up to.

use super::*;

/// A job of two starts with a lost node in between.
pub fn story() -> Vec<Record> {
    let mut events = Vec::new();
    let mut at = |time: f64, incarnation: u32, event: Event| {
        events.push(Record {
            time: 1_760_000_000.0 + time,
            incarnation,
            event,
        });
    };
    let started = || Event::Started {
        ranks: 64,
        nodes: 8,
        program: "/home/user/bin/lmp".into(),
        intervals: [Some(60.0), Some(180.0), None, Some(600.0)],
        enabled: [true, true, false, true],
    };
    let checkpoint = |at: &mut dyn FnMut(f64, u32, Event), time, incarnation, number| {
        let level = match number {
            n if n % 10 == 0 => Level::Global,
            n if n % 3 == 0 => Level::Partner,
            _ => Level::Local,
        };
        let generation = GenerationId {
            incarnation,
            number,
        };
        let wobble = f64::from(u32::try_from(number * 37 % 11).unwrap_or(0)) / 11.0;
        let bytes = (40 << 30) + (number << 28);
        at(
            time,
            incarnation,
            Event::Committed {
                scheduled: true,
                figures: GenerationStatus {
                    generation,
                    level,
                    bytes,
                    seconds: 9.0 + wobble,
                    gate: 0.01 + 0.05 * wobble,
                    drain: 0.01,
                    snapshot: 0.12,
                    stopped: 0.14 + 0.05 * wobble,
                    write: 8.5 + wobble,
                },
            },
        );
        for (reached, seconds) in [
            (Level::Local, 8.5 + wobble),
            (Level::Partner, 12.0 + wobble),
            (Level::Global, 55.0),
        ] {
            if reached <= level {
                at(
                    time + seconds,
                    incarnation,
                    Event::LevelComplete {
                        generation,
                        level: reached,
                        seconds,
                        bytes,
                    },
                );
            }
        }
    };
    at(0.0, 1, started());
    for number in 1..=20 {
        let time = 60.0 * f64::from(u32::try_from(number).unwrap_or(0));
        if number == 7 {
            at(
                time,
                1,
                Event::Abandoned {
                    generation: GenerationId {
                        incarnation: 1,
                        number,
                    },
                    level: Level::Local,
                    step: "gate".into(),
                    seconds: 30.0,
                    reason: "waited 30 s for the safe point of rank 3; ranks 0-2 wait for rank 3"
                        .into(),
                },
            );
        } else {
            checkpoint(&mut at, time, 1, number);
        }
    }
    at(
        1275.0,
        1,
        Event::Lost {
            rank: 17,
            host: "n03".into(),
            node: 2,
        },
    );
    at(
        1320.0,
        2,
        Event::Resumed {
            generation: GenerationId {
                incarnation: 1,
                number: 18,
            },
            level: Level::Partner,
            taken: 1_760_001_080.0,
            sources: BTreeMap::from([("own copy".to_owned(), 56), ("partner copy".to_owned(), 8)]),
            rejected: vec!["generation 1.20 rank 17: image missing on n03".into()],
            last_seen: Some(1_760_001_290.0),
        },
    );
    at(1325.0, 2, started());
    for number in 19..=30 {
        let time = 1325.0 + 60.0 * f64::from(u32::try_from(number - 18).unwrap_or(0));
        checkpoint(&mut at, time, 2, number);
    }
    at(
        2130.0,
        2,
        Event::Ended {
            outcome: Outcome::Finished,
        },
    );
    events.sort_by(|a, b| a.time.total_cmp(&b.time));
    events
}

#[test]
fn a_story_adds_up() {
    let figures = collect("4711", &story(), None, &[]);
    assert_eq!(figures.starts.len(), 2);
    assert_eq!(figures.checkpoints.len(), 31);
    assert_eq!(figures.abandoned.len(), 1);
    let [first, second] = &figures.starts[..] else {
        panic!("two starts expected");
    };
    assert!(
        first.failed && first.end.contains("rank 17 on n03"),
        "{first:?}"
    );
    assert!(!second.failed && second.end == "ended normally");
    let resumed = second.resumed.as_ref().expect("resumed");
    assert!((resumed.lost - 210.0).abs() < 1e-6, "{resumed:?}");
    assert!((resumed.down - 35.0).abs() < 1e-6, "{resumed:?}");
    let time = figures.time;
    assert!((time.running - (1290.0 + 805.0)).abs() < 1e-6, "{time:?}");
    assert!(time.efficiency > 0.85 && time.efficiency < 0.9, "{time:?}");
    let levels: Vec<Level> = figures.levels.iter().map(|l| l.level).collect();
    assert_eq!(levels, [Level::Local, Level::Partner, Level::Global]);
    let partner = &figures.levels[1];
    assert_eq!((partner.failures, figures.levels[0].failures), (1, 0));
    let advice = partner.advice.as_ref().expect("advice");
    assert!((advice.mtbf - 2095.0).abs() < 1e-6, "{advice:?}");
    assert!(advice.daly > 15.0 && advice.daly < 40.0, "{advice:?}");
    let given = collect("4711", &story(), None, &[(Failing::Node, 86_400.0)]);
    let better = given.levels[1].advice.as_ref().expect("advice");
    assert!(better.daly > advice.daly && better.from.contains("--mtbf"));
}

#[test]
fn nothing_is_survived() {
    let figures = collect("x", &[], None, &[]);
    assert_eq!(figures.span, (0.0, 0.0));
    assert!(figures.levels.is_empty());
    assert!(figures.time.efficiency.is_finite());
}

/// Requeued with a last checkpoint, then a start that never ran, then one that goes on: nothing has failed, and what the first had
/// computed after its checkpoint is lost once.
#[test]
fn an_announced_end_is_no_failure_and_what_did_not_run_lost_nothing() {
    let mut events = Vec::new();
    let mut at = |time: f64, incarnation: u32, event: Event| {
        events.push(Record {
            time,
            incarnation,
            event,
        });
    };
    let started = || Event::Started {
        ranks: 2,
        nodes: 2,
        program: "app".into(),
        intervals: [None; 4],
        enabled: [true, true, false, true],
    };
    let resumed = || Event::Resumed {
        generation: GenerationId {
            incarnation: 1,
            number: 1,
        },
        level: Level::Global,
        taken: 95.0,
        sources: [("global".to_owned(), 2)].into(),
        rejected: Vec::new(),
        last_seen: None,
    };
    at(0.0, 1, started());
    let cause = "SIGTERM".to_owned();
    at(98.0, 1, Event::Announced { cause });
    let (rank, host) = (1, "n2".to_owned());
    at(
        100.0,
        1,
        Event::Lost {
            rank,
            host,
            node: 1,
        },
    );
    at(130.0, 2, resumed());
    at(200.0, 3, resumed());
    at(201.0, 3, started());
    let outcome = Outcome::Finished;
    at(301.0, 3, Event::Ended { outcome });
    let figures = collect("4711", &events, None, &[]);
    let [first, second, third] = &figures.starts[..] else {
        panic!("three starts expected");
    };
    assert!(
        !first.failed && first.end == "ended after SIGTERM",
        "{first:?}"
    );
    assert!(
        !second.failed && second.end.starts_with("did not begin"),
        "{second:?}"
    );
    let lost = |start: &Start| start.resumed.as_ref().map(|r| r.lost);
    assert_eq!((lost(second), lost(third)), (Some(5.0), Some(0.0)));
    assert!((figures.time.lost - 5.0).abs() < 1e-9);
}

#[test]
fn a_start_that_computes_has_not_stopped_at_its_last_event() {
    let mut events = story();
    events.retain(|record| !matches!(record.event, Event::Ended { .. }));
    let last = events.last().map_or(0.0, |record| record.time);
    let running = |seen| collect("4711", &events, seen, &[]).time.running;
    assert!((running(Some(last + 30.0)) - running(None) - 30.0).abs() < 1e-6);
    assert!((running(Some(last - 30.0)) - running(None)).abs() < 1e-6);
}
