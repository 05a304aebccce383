//! Announced ends: signals and the time limit.

use super::*;
use crate::AtEnd;

const TERM: i32 = 15;
const USR1: i32 = 10;

fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

/// Four ranks on two nodes that compute until they are ended.
fn computing(settings: Settings) -> Sim {
    let mut sim = Sim::new(Program::idle(4), settings, 5, 2);
    sim.program.ops = vec![vec![Op::Receive(0)]; 4];
    sim
}

fn settings(at_end: AtEnd) -> Settings {
    Settings {
        at_end,
        grace: secs(5),
        level_limit: secs(100),
        ..Settings::default()
    }
}

fn signal(sim: &mut Sim, rank: u32, number: i32) {
    sim.core.rank(sim.now, rank, FromRank::Signal { number });
    sim.route();
}

#[test]
fn sigterm_takes_the_best_level_and_then_goes_its_way() {
    let mut sim = computing(settings(AtEnd::Requeue));
    for rank in 0..4 {
        signal(&mut sim, rank, TERM);
    }
    sim.run(secs(3));
    for rank in &sim.ranks {
        assert_eq!(rank.signals, [TERM], "{:?}", sim.log);
        assert_eq!(rank.how, None, "a SIGTERM is not a time limit");
        assert_eq!(rank.committed.len(), 1, "one for all");
        assert!(rank
            .records
            .iter()
            .any(|(_, level)| *level == Level::Global));
    }
}

#[test]
fn a_signal_waits_no_longer_than_the_kill() {
    let mut sim = computing(settings(AtEnd::Continue));
    sim.faults = vec![Fault {
        rank: 2,
        step: "level",
        number: 1,
        how: How::Silence,
    }];
    signal(&mut sim, 1, TERM);
    sim.run(secs(4));
    assert!(sim.ranks[1].signals.is_empty(), "still worth waiting for");
    sim.run(secs(6));
    assert_eq!(sim.ranks[1].signals, [TERM]);
    assert_eq!(sim.ranks[1].committed.len(), 1, "the local level is there");
}

#[test]
fn a_level_that_does_not_fit_is_not_begun() {
    let mut sim = computing(settings(AtEnd::Continue));
    sim.core.costs.committed(Duration::from_millis(300));
    sim.core.costs.reached(Level::Partner, secs(2));
    sim.core.costs.reached(Level::Global, secs(60));
    signal(&mut sim, 0, TERM);
    sim.run(secs(3));
    let levels: Vec<Level> = sim.ranks[0]
        .records
        .iter()
        .map(|(_, level)| *level)
        .collect();
    assert_eq!(levels, [Level::Local, Level::Partner]);
    assert_eq!(sim.ranks[0].signals, [TERM]);
}

#[test]
fn a_signal_of_the_user_does_what_at_end_says() {
    for (at_end, how) in [
        (AtEnd::Continue, None),
        (AtEnd::Stop, Some(EndHow::Stop)),
        (AtEnd::Requeue, Some(EndHow::Requeue)),
    ] {
        let mut sim = computing(settings(at_end));
        signal(&mut sim, 3, USR1);
        sim.run(secs(3));
        assert_eq!(sim.ranks[0].how, how, "{at_end:?}");
        let over = sim.ranks[3].signals == [USR1];
        assert_eq!(over, how.is_none(), "{at_end:?}");
    }
}

#[test]
fn the_time_limit_is_met_once_and_in_time() {
    let mut sim = computing(settings(AtEnd::Requeue));
    sim.core.note_limit(Duration::ZERO, Some(secs(600)));
    sim.run(secs(535));
    assert!(sim.ranks[0].committed.is_empty(), "not before it is time");
    sim.run(secs(550));
    assert_eq!(sim.ranks[0].committed.len(), 1);
    assert_eq!(sim.ranks[0].how, Some(EndHow::Requeue), "{:?}", sim.log);

    // A measured cost moves it; with nothing to follow the program runs on and is not asked again.
    let mut sim = computing(settings(AtEnd::Continue));
    sim.core.costs.committed(secs(10));
    sim.core.costs.reached(Level::Partner, secs(20));
    sim.core.costs.reached(Level::Global, secs(50));
    sim.core.note_limit(Duration::ZERO, Some(secs(6000)));
    sim.run(secs(6000 - 171));
    assert!(sim.ranks[0].committed.is_empty());
    sim.run(secs(5990));
    assert_eq!(sim.ranks[0].committed.len(), 1);
    assert_eq!(sim.ranks[0].how, None);
    // Then the batch system's SIGTERM comes: what fits until the kill.
    signal(&mut sim, 0, TERM);
    sim.run(secs(5999));
    assert_eq!(sim.ranks[0].committed.len(), 2);
    assert_eq!(sim.ranks[0].signals, [TERM]);
}

#[test]
fn nothing_committed_is_not_requeued() {
    let mut sim = computing(settings(AtEnd::Requeue));
    sim.faults = vec![Fault {
        rank: 2,
        step: "capture",
        number: 1,
        how: How::Error,
    }];
    sim.core.note_limit(Duration::ZERO, Some(secs(300)));
    sim.run(secs(299));
    assert_eq!(sim.ranks[0].how, None);
    let said = |text: &str| sim.warnings().iter().any(|w| w.contains(text));
    assert!(said("not requeued"), "{:?}", sim.log);
}

#[test]
fn a_job_that_cannot_be_checkpointed_gets_its_signal_at_once() {
    let mut sim = computing(settings(AtEnd::Continue));
    sim.lose(1);
    sim.route();
    signal(&mut sim, 0, TERM);
    sim.run(secs(1));
    assert_eq!(sim.ranks[0].signals, [TERM]);
}
