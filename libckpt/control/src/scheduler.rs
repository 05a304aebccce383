//! When the next checkpoint of which level is due. Pure logic; time is passed in.
//!
//! Due times are absolute: the first one is an interval after the start, each next one a whole
//! number of intervals later, however long checkpoints take. If several levels are due, or fall due
//! while a scheduled checkpoint is being taken, the highest counts for the lower ones too. A
//! checkpoint asked for by hand moves nothing (it counts for levels that were due anyway).

use std::time::Duration;

use crate::Level;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    interval: Duration,
    due: Duration,
}

/// Due times per level on a clock that starts at zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scheduler {
    entries: [Option<Entry>; 4],
}

impl Scheduler {
    /// All levels start counting at `now`. An interval of zero is none.
    pub fn new(intervals: [Option<Duration>; 4], now: Duration) -> Self {
        let mut scheduler = Self::default();
        for level in Level::ALL {
            scheduler.set_interval(level, intervals[level.index()], now);
        }
        scheduler
    }

    /// Changes one level; its next due time is an interval from `now`.
    pub fn set_interval(&mut self, level: Level, interval: Option<Duration>, now: Duration) {
        self.entries[level.index()] =
            interval
                .filter(|interval| !interval.is_zero())
                .and_then(|interval| {
                    Some(Entry {
                        interval,
                        due: now.checked_add(interval)?,
                    })
                });
    }

    /// The interval of a level.
    pub fn interval(&self, level: Level) -> Option<Duration> {
        self.entries[level.index()].map(|entry| entry.interval)
    }

    /// When a level is due next (in the past: overdue).
    pub fn due_time(&self, level: Level) -> Option<Duration> {
        self.entries[level.index()].map(|entry| entry.due)
    }

    /// The highest level that is due and `available`.
    pub fn due(&self, now: Duration, available: impl Fn(Level) -> bool) -> Option<Level> {
        Level::ALL
            .into_iter()
            .rev()
            .find(|level| self.due_time(*level).is_some_and(|due| due <= now) && available(*level))
    }

    /// When [`Scheduler::due`] will next have an answer.
    pub fn next_due(&self, available: impl Fn(Level) -> bool) -> Option<Duration> {
        Level::ALL
            .into_iter()
            .filter(|level| available(*level))
            .filter_map(|level| self.due_time(level))
            .min()
    }

    /// A checkpoint of `level` is over at `now`: every level up to it that is due by now waits for
    /// its next due time. Returns how many due times it counts for besides the one of a level.
    pub fn taken(&mut self, level: Level, now: Duration) -> u64 {
        let mut covered = 0;
        for entry in self.entries[..=level.index()].iter_mut().flatten() {
            if entry.due <= now {
                let missed = (now - entry.due).as_nanos() / entry.interval.as_nanos();
                covered = covered.max(u64::try_from(missed).unwrap_or(u64::MAX));
                let steps = u32::try_from(missed + 1).unwrap_or(u32::MAX);
                entry.due = entry
                    .interval
                    .checked_mul(steps)
                    .and_then(|ahead| entry.due.checked_add(ahead))
                    .filter(|due| *due > now)
                    .unwrap_or(now + entry.interval);
            }
        }
        covered
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    fn all(_: Level) -> bool {
        true
    }

    fn scheduler(intervals: [u64; 4]) -> Scheduler {
        Scheduler::new(intervals.map(|s| Some(secs(s))), secs(0))
    }

    #[test]
    fn highest_wins_and_counts_for_lower() {
        let mut s = scheduler([2, 4, 0, 8]);
        let mut taken = Vec::new();
        for now in 1..=16 {
            while let Some(level) = s.due(secs(now), all) {
                s.taken(level, secs(now));
                taken.push((now, level));
            }
        }
        use Level::{Global, Local, Partner};
        assert_eq!(
            taken,
            [
                (2, Local),
                (4, Partner),
                (6, Local),
                (8, Global),
                (10, Local),
                (12, Partner),
                (14, Local),
                (16, Global)
            ]
        );
    }

    #[test]
    fn slow_checkpoints_do_not_shift_due_times() {
        let mut s = scheduler([10, 0, 0, 0]);
        assert_eq!(s.due(secs(10), all), Some(Level::Local));
        assert_eq!(s.taken(Level::Local, secs(13)), 0);
        assert_eq!(s.due_time(Level::Local), Some(secs(20)));
        assert_eq!(s.taken(Level::Local, secs(47)), 2, "30 and 40");
        assert_eq!(s.due_time(Level::Local), Some(secs(50)));
    }

    #[test]
    fn lower_levels_falling_due_meanwhile_are_covered_higher_ones_are_not() {
        let mut s = scheduler([3, 0, 0, 10]);
        assert_eq!(s.due(secs(10), all), Some(Level::Global));
        s.taken(Level::Global, secs(12));
        assert_eq!(s.due(secs(12), all), None);
        let mut s = scheduler([3, 0, 0, 10]);
        assert_eq!(s.due(secs(9), all), Some(Level::Local));
        s.taken(Level::Local, secs(11));
        assert_eq!(s.due(secs(11), all), Some(Level::Global));
    }

    #[test]
    fn a_busy_level_stays_due_and_lower_ones_go_on() {
        let mut s = scheduler([2, 0, 0, 4]);
        let no_global = |level| level != Level::Global;
        assert_eq!(s.due(secs(4), no_global), Some(Level::Local));
        s.taken(Level::Local, secs(4));
        assert_eq!(s.due(secs(5), no_global), None);
        assert_eq!(s.next_due(no_global), Some(secs(6)));
        assert_eq!(s.due(secs(5), all), Some(Level::Global));
    }

    #[test]
    fn intervals_change_and_stop() {
        let mut s = scheduler([10, 0, 0, 0]);
        s.set_interval(Level::Local, Some(secs(1)), secs(5));
        assert_eq!(s.next_due(all), Some(secs(6)));
        s.set_interval(Level::Local, Some(Duration::ZERO), secs(5));
        assert_eq!(s.next_due(all), None);
        s.set_interval(Level::Local, Some(Duration::MAX), secs(5));
        assert_eq!(s.next_due(all), None, "never is never");
    }

    proptest! {
        /// However long checkpoints take, due times stay on the grid of their interval and none is in
        /// the past after one was taken.
        #[test]
        fn due_times_stay_on_their_grid(
            intervals in proptest::array::uniform4(0u64..50),
            steps in proptest::collection::vec((1u64..40, 0u64..90), 1..60),
        ) {
            let mut s = scheduler(intervals);
            let mut now = 0;
            for (wait, long) in steps {
                now += wait;
                if let Some(level) = s.due(secs(now), all) {
                    now += long;
                    s.taken(level, secs(now));
                    for lower in Level::ALL.into_iter().filter(|l| *l <= level) {
                        prop_assert!(s.due_time(lower).is_none_or(|due| due > secs(now)));
                    }
                }
                for level in Level::ALL {
                    if let Some(due) = s.due_time(level) {
                        prop_assert_eq!(due.as_secs() % intervals[level.index()], 0);
                    }
                }
            }
        }
    }
}
