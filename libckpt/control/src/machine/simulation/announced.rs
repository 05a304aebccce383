//! Announced ends: signals and the time limit.

use super::*;
use crate::{AtEnd, Needed};

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

/// A coordinator beside the job, which is asked to end with it.
#[test]
fn a_job_needs_its_coordinator_until_its_last_checkpoint_is_over() {
    let nobody = Core::new(None, None, None);
    assert_eq!(nobody.needed(secs(1)), None);
    let mut sim = computing(settings(AtEnd::Stop));
    let grace = secs(5);
    let needed = |last| Some(Needed { grace, last });
    assert_eq!(sim.core.needed(sim.now), needed(None));
    signal(&mut sim, 0, USR1);
    let last = sim.core.needed(sim.now).expect("needed").last;
    assert!(last.is_some_and(|last| last > secs(60)), "{last:?}");
    sim.run(secs(60));
    assert_eq!(sim.ranks[0].committed.len(), 1);
    for rank in 0..4 {
        sim.lose(rank);
    }
    assert_eq!(sim.core.needed(sim.now), None);
}

fn limit(sim: &mut Sim, left: Option<Duration>) {
    sim.core.rank(sim.now, 0, FromRank::Limit { left });
    sim.route();
}

#[test]
fn the_time_limit_is_asked_for_now_and_then() {
    // A day of which the last minute is for the checkpoint: by halves, and once at the end.
    let day = secs(86_400);
    let mut sim = computing(settings(AtEnd::Requeue));
    sim.core.note_limit(Duration::ZERO, Some(day));
    until(&mut sim, day - secs(71));
    let early = sim.ranks[0].asked_limit.clone();
    assert!((5..9).contains(&early.len()), "{early:?}");
    assert_eq!(early[0], (day - secs(70)) / 2);
    until(&mut sim, day - secs(65));
    assert_eq!(sim.ranks[0].asked_limit.len(), early.len() + 1);
    assert!(sim.ranks[1].asked_limit.is_empty());

    // It has been put off by a day: no checkpoint yet, and the course begins anew.
    limit(&mut sim, Some(day + secs(65)));
    until(&mut sim, day);
    assert!(sim.ranks[0].committed.is_empty(), "{:?}", sim.log);
    let said = |sim: &Sim, text: &str| sim.log.iter().any(|line| line.1.contains(text));
    assert!(
        said(&sim, "the time limit is another one now"),
        "{:?}",
        sim.log
    );
    // And brought forward again: met where it is now.
    until(&mut sim, day + day / 2);
    assert_eq!(sim.ranks[0].asked_limit.len(), early.len() + 2);
    limit(&mut sim, Some(secs(600)));
    let end = sim.now + secs(600);
    until(&mut sim, end - secs(61));
    assert!(sim.ranks[0].committed.is_empty());
    until(&mut sim, end);
    assert_eq!(sim.ranks[0].committed.len(), 1);
    assert_eq!(sim.ranks[0].how, Some(EndHow::Requeue), "{:?}", sim.log);
}

#[test]
fn a_limit_that_is_taken_away_is_not_met() {
    let mut sim = computing(settings(AtEnd::Stop));
    sim.core.note_limit(Duration::ZERO, Some(secs(300)));
    until(&mut sim, secs(231));
    limit(&mut sim, Some(Duration::MAX));
    until(&mut sim, secs(1000));
    assert!(sim.ranks[0].committed.is_empty(), "{:?}", sim.log);
    assert_eq!(sim.ranks[0].asked_limit.len(), 1);
}

/// The job was suspended beyond its limit, which the batch system has put off by that time.
#[test]
fn a_job_that_has_slept_asks_before_it_ends() {
    for answers in [true, false] {
        let mut sim = computing(settings(AtEnd::Stop));
        sim.core.note_limit(Duration::ZERO, Some(secs(600)));
        until(&mut sim, secs(100));
        sim.now = secs(4000);
        sim.core.tick(sim.now);
        sim.route();
        until(&mut sim, secs(4001));
        assert_eq!(sim.ranks[0].asked_limit.len(), 1);
        if answers {
            limit(&mut sim, Some(secs(500)));
        }
        until(&mut sim, secs(4009));
        assert!(sim.ranks[0].committed.is_empty(), "{:?}", sim.log);
        until(&mut sim, secs(4499));
        let began = sim
            .log
            .iter()
            .any(|line| line.1.contains("the time limit comes in"));
        assert!(began, "{:?}", sim.log);
        // Without an answer it is too late to wait for one, not to take it: the job runs on.
        assert_eq!(sim.ranks[0].committed.len(), 1, "{:?}", sim.log);
        assert_eq!(sim.ranks[0].how.is_some(), answers, "{:?}", sim.log);
    }
}

/// The job was suspended after the last answer, or while it waited for it.
#[test]
fn a_job_that_has_slept_through_its_last_checkpoint_asks_again() {
    for answered in [true, false] {
        let mut sim = computing(settings(AtEnd::Requeue));
        sim.core.note_limit(Duration::ZERO, Some(secs(600)));
        until(&mut sim, secs(531));
        assert_eq!(sim.ranks[0].asked_limit.len(), 1);
        if answered {
            limit(&mut sim, Some(secs(69)));
        }
        until(&mut sim, secs(535));
        sim.now = secs(4000);
        sim.core.tick(sim.now);
        sim.route();
        until(&mut sim, secs(4001));
        assert_eq!(sim.ranks[0].asked_limit.len(), 2);
        limit(&mut sim, Some(secs(60 + 4)));
        until(&mut sim, secs(4003));
        assert!(sim.ranks[0].committed.is_empty(), "{:?}", sim.log);
        until(&mut sim, secs(4060));
        assert_eq!(sim.ranks[0].committed.len(), 1, "{:?}", sim.log);
        assert_eq!(sim.ranks[0].how, Some(EndHow::Requeue), "{:?}", sim.log);
        assert_eq!(sim.ranks[0].asked_limit.len(), 2);
    }
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

/// Ranks of a job whose batch system can be asked, with a partner level that fits into the five seconds
/// of a SIGTERM and a global one that does not.
fn asking() -> Sim {
    let mut sim = computing(settings(AtEnd::Continue));
    sim.core.asks = true;
    sim.core.costs.committed(Duration::from_millis(300));
    sim.core.costs.reached(Level::Partner, secs(2));
    sim.core.costs.reached(Level::Global, secs(60));
    sim
}

fn time_left(sim: &mut Sim, left: Option<Duration>) {
    sim.core.rank(sim.now, 0, FromRank::TimeLeft { left });
    sim.route();
}

/// Runs to this moment, not to the next one at which something would happen.
fn until(sim: &mut Sim, time: Duration) {
    sim.run(time);
    sim.now = sim.now.min(time);
}

fn levels(sim: &Sim) -> Vec<Level> {
    let records = sim.ranks[0].records.iter();
    records.map(|(_, level)| *level).collect()
}

#[test]
fn a_grace_time_known_in_time_raises_the_checkpoint() {
    let mut sim = asking();
    for rank in 0..3 {
        signal(&mut sim, rank, TERM);
    }
    time_left(&mut sim, Some(secs(120)));
    // Another rank tells of the same signal late: it takes nothing away.
    signal(&mut sim, 3, TERM);
    until(&mut sim, secs(3));
    assert_eq!(levels(&sim), [Level::Local, Level::Partner, Level::Global]);
    for (rank, found) in sim.ranks.iter().enumerate() {
        assert_eq!(found.committed.len(), 1, "{:?}", sim.log);
        assert_eq!(found.signals, [TERM]);
        assert_eq!(found.held, [secs(120)]);
        assert_eq!(found.asked, u32::from(rank == 0), "rank 0, once");
    }
}

#[test]
fn a_grace_time_known_late_has_another_one_taken() {
    let mut sim = asking();
    signal(&mut sim, 1, TERM);
    until(&mut sim, secs(1));
    assert_eq!(levels(&sim), [Level::Local, Level::Partner]);
    assert!(sim.ranks[1].signals.is_empty(), "the answer is waited for");
    time_left(&mut sim, Some(secs(120)));
    until(&mut sim, secs(4));
    assert_eq!(sim.ranks[0].committed.len(), 2, "{:?}", sim.log);
    assert_eq!(
        levels(&sim)[2..],
        [Level::Local, Level::Partner, Level::Global]
    );
    assert_eq!(sim.ranks[1].signals, [TERM]);
    assert_eq!(sim.ranks[0].asked, 1);
}

#[test]
fn without_a_grace_time_nothing_is_added() {
    // It is known that there is none.
    let mut sim = asking();
    signal(&mut sim, 1, TERM);
    until(&mut sim, secs(1));
    time_left(&mut sim, None);
    assert_eq!(levels(&sim), [Level::Local, Level::Partner]);
    until(&mut sim, secs(1) + Duration::from_millis(10));
    assert_eq!(sim.ranks[1].signals, [TERM]);
    assert!(sim.ranks[1].held.is_empty());

    // The batch system does not answer: what was planned for.
    let mut sim = asking();
    signal(&mut sim, 1, TERM);
    until(&mut sim, secs(4));
    assert!(sim.ranks[1].signals.is_empty());
    until(&mut sim, secs(6));
    assert_eq!(sim.ranks[1].signals, [TERM]);

    // Nothing higher could be gained: nobody waits for the answer.
    let mut sim = computing(settings(AtEnd::Continue));
    sim.core.asks = true;
    signal(&mut sim, 1, TERM);
    until(&mut sim, secs(1));
    assert_eq!(levels(&sim), [Level::Local, Level::Partner, Level::Global]);
    assert_eq!(sim.ranks[1].signals, [TERM]);
}
