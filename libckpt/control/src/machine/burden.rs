//! What checkpoints take from the program, and whether that is still in proportion.
//!
//! Looked at are the last few scheduled ones, over a minute at least. The pause is the median of theirs: one that met a
//! suspended job or a busy disk says nothing about the next. What is said is said once, and again when it has become
//! twice as bad. A changed interval begins anew.

use std::collections::VecDeque;
use std::time::Duration;

use crate::advice::daly;
use crate::{GenerationStatus, Level};

use super::report::seconds;

/// So many are looked at, or more if they took less than [`WINDOW`].
const LAST: usize = 10;
/// With fewer nothing is said.
const LEAST: usize = 5;
const WINDOW: Duration = Duration::from_secs(60);
/// The part of the time the program may stand still.
const BEARABLE: f64 = 0.1;
/// The part of the due times that may be left out because the checkpoint before was not over.
const LEFT_OUT: f64 = 0.5;
/// For what became twice as bad.
const WORSE: f64 = 2.0;

#[derive(Clone, Copy, Debug)]
struct Taken {
    level: Level,
    ended: Duration,
    /// The program stood still, and the whole took, in seconds.
    stopped: f64,
    whole: f64,
    /// Due times that were over when it was.
    left_out: u64,
}

/// See the module's text.
#[derive(Clone, Debug)]
pub(super) struct Burden {
    began: Duration,
    taken: VecDeque<Taken>,
    /// What is said to be too much: of the time, of the due times.
    limits: [f64; 2],
}

impl Default for Burden {
    fn default() -> Self {
        Self {
            began: Duration::ZERO,
            taken: VecDeque::new(),
            limits: [BEARABLE, LEFT_OUT],
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

impl Burden {
    /// The program begins.
    pub fn begin(&mut self, now: Duration) {
        *self = Self {
            began: now,
            ..Self::default()
        };
    }

    /// An interval is another one now.
    pub fn forget(&mut self) {
        self.begin(self.began);
    }

    /// A scheduled checkpoint was committed at `now`, and `left_out` due times were over by then. `interval` is that of a
    /// level. Returns what the user should know.
    pub fn add(
        &mut self,
        now: Duration,
        figures: &GenerationStatus,
        left_out: u64,
        interval: impl Fn(Level) -> Option<Duration>,
    ) -> Option<String> {
        self.taken.push_back(Taken {
            level: figures.level,
            ended: now,
            stopped: figures.stopped,
            whole: figures.seconds,
            left_out,
        });
        // The first is where the time begins.
        while self.taken.len() > LAST + 1
            && self.taken.get(1).is_some_and(|t| now - t.ended >= WINDOW)
        {
            self.taken.pop_front();
        }
        let begin = self.taken.front()?.ended;
        let window = now.saturating_sub(begin);
        let taken: Vec<Taken> = self.taken.iter().skip(1).copied().collect();
        if taken.len() < LEAST || window < WINDOW {
            return None;
        }
        // The level most of them were for.
        let count = |level: Level| taken.iter().filter(|t| t.level == level).count();
        let level = Level::ALL.into_iter().max_by_key(|level| count(*level))?;
        let every = interval(level)?.as_secs_f64();
        let stopped = median(taken.iter().map(|t| t.stopped).collect());
        let whole = median(taken.iter().map(|t| t.whole).collect());
        let part = stopped * taken.len() as f64 / window.as_secs_f64();
        let missed = taken.iter().map(|t| t.left_out).sum::<u64>();
        let due = missed + taken.len() as u64;
        let missed_part = missed as f64 / due as f64;
        let (too_long, too_many) = (part > self.limits[0], missed_part > self.limits[1]);
        let what = if too_long {
            format!(
                "{level} checkpoints every {} stop the program for {} each, {:.0} % of its time",
                seconds(every),
                seconds(stopped),
                (100.0 * part).min(100.0)
            )
        } else if too_many {
            format!(
                "{level} checkpoints take {} each, longer than their interval of {}: {missed} of {due} were left out",
                seconds(whole),
                seconds(every)
            )
        } else {
            return None;
        };
        // One line says what is to be done about both.
        for (limit, value) in self.limits.iter_mut().zip([part, missed_part]) {
            *limit = limit.max(value * WORSE);
        }
        let running = now.saturating_sub(self.began).as_secs_f64();
        let best = daly(stopped, running).max(whole).max(every);
        Some(format!(
            "{what}; an interval of {} would cost least if a failure came once in the {} the program has run (mana report --mtbf tells for other cases)",
            seconds(best.ceil()),
            seconds(running.round())
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::GenerationId;

    /// Checkpoints that take `whole` and stop the program for `stopped`, one each `every`, all in seconds.
    fn lines(
        burden: &mut Burden,
        from: u64,
        count: u64,
        [every, stopped, whole]: [f64; 3],
    ) -> Vec<String> {
        let one = |n: u64| {
            let figures = GenerationStatus {
                generation: GenerationId {
                    incarnation: 1,
                    number: from + n,
                },
                level: Level::Local,
                bytes: 0,
                seconds: whole,
                gate: 0.0,
                drain: 0.0,
                snapshot: stopped,
                stopped,
                write: whole,
            };
            let left_out = (whole / every) as u64;
            let apart = every * (left_out + 1) as f64;
            let now = Duration::from_secs_f64(from as f64 * every + (n + 1) as f64 * apart);
            burden.add(now, &figures, left_out, |_| {
                Some(Duration::from_secs_f64(every))
            })
        };
        (0..count).filter_map(one).collect()
    }

    #[test]
    fn a_program_that_stands_still_too_much_is_told_once() {
        let mut burden = Burden::default();
        let said = lines(&mut burden, 0, 600, [1.0, 0.5, 0.6]);
        assert_eq!(said.len(), 1, "{said:?}");
        // After 61 s: daly(0.5, 61) = 7.5.
        let words = [
            "local checkpoints every 1.0 s",
            "500 ms each, 50 % of",
            "interval of 8.0 s",
        ];
        assert!(words.iter().all(|word| said[0].contains(word)), "{said:?}");
        // Somewhat worse, then twice as bad.
        assert!(lines(&mut burden, 600, 100, [1.0, 0.7, 0.8]).is_empty());
        burden.limits[0] = 0.4;
        assert_eq!(lines(&mut burden, 700, 100, [1.0, 0.7, 0.8]).len(), 1);
        burden.forget();
        assert_eq!(lines(&mut burden, 800, 100, [1.0, 0.7, 0.8]).len(), 1);
    }

    #[test]
    fn what_is_in_proportion_is_not_mentioned() {
        for figures in [[1.0, 0.05, 0.5], [60.0, 5.0, 20.0], [600.0, 1.0, 500.0]] {
            let said = lines(&mut Burden::default(), 0, 200, figures);
            assert!(said.is_empty(), "{said:?}");
        }
        // Too little is known, and one that met a suspended job.
        let mut burden = Burden::default();
        assert!(lines(&mut burden, 0, 50, [1.0, 0.5, 0.6]).is_empty());
        let mut burden = Burden::default();
        assert!(lines(&mut burden, 0, 8, [30.0, 0.1, 1.0]).is_empty());
        assert!(lines(&mut burden, 8, 1, [30.0, 25.0, 26.0]).is_empty());
    }

    #[test]
    fn checkpoints_that_are_left_out_are_told() {
        let mut burden = Burden::default();
        let said = lines(&mut burden, 0, 100, [2.0, 0.05, 7.0]);
        assert_eq!(said.len(), 1, "{said:?}");
        let words = [
            "take 7.0 s each, longer than their interval of 2.0 s",
            "interval of 7.0 s",
        ];
        assert!(words.iter().all(|word| said[0].contains(word)), "{said:?}");
    }
}
