//! What the events of a job add up to.

use std::collections::BTreeMap;

use libckpt::published::Entry;
use mana_control::{Event, GenerationId, GenerationStatus, Level, Outcome, Record};
use serde::Serialize;

use crate::cli::Failing;
use mana_control::advice::{daly, loss, young};

/// Everything the page shows. Times are seconds (points in time: since 1970), sizes bytes.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figures {
    /// The job.
    pub job: String,
    /// The program of its last start.
    pub program: String,
    /// Ranks.
    pub ranks: u32,
    /// Nodes of the last start.
    pub nodes: u32,
    /// First and last thing known of it.
    pub span: (f64, f64),
    /// Its starts, in order.
    pub starts: Vec<Start>,
    /// Checkpoints that were committed, in order.
    pub checkpoints: Vec<Checkpoint>,
    /// Checkpoints that were given up.
    pub abandoned: Vec<Abandoned>,
    /// By level, those the job had.
    pub levels: Vec<LevelFigures>,
    /// Where the time went.
    pub time: Time,
    /// What the program published, the last value of each key and rank.
    pub published: Vec<Published>,
}

/// A value of the program's (`mana_publish`).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Published {
    /// What it is.
    pub key: String,
    /// Whose.
    pub rank: u32,
    /// The last value.
    pub value: String,
    /// When it was published.
    pub time: f64,
    /// How many there were.
    pub count: u32,
}

/// The last value of each key and rank, in their order.
pub fn last_published(all: Vec<Entry>) -> Vec<Published> {
    let mut last: BTreeMap<(String, u32), Published> = BTreeMap::new();
    for entry in all {
        let place = (entry.key.clone(), entry.rank);
        let count = last.get(&place).map_or(0, |known| known.count);
        let newest = Published {
            key: entry.key,
            rank: entry.rank,
            value: entry.value,
            time: entry.time,
            count: count.saturating_add(1),
        };
        last.insert(place, newest);
    }
    last.into_values().collect()
}

/// One start of the job.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Start {
    /// Its number.
    pub incarnation: u32,
    /// When all ranks were there.
    pub began: f64,
    /// When it ended, or was last known to be alive.
    pub ended: f64,
    /// How it ended, in words.
    pub end: String,
    /// It ended by a failure.
    pub failed: bool,
    /// What it went on from.
    pub resumed: Option<Resumed>,
    /// What announced its end, and when.
    #[serde(skip)]
    announced: Option<(String, f64)>,
    /// All its ranks were there.
    #[serde(skip)]
    ran: bool,
}

impl Start {
    /// In words, if what is over at `time` was announced: a batch system or somebody wanted it, nothing has failed.
    fn announced_end(&self, time: f64) -> Option<String> {
        let (cause, announced) = self.announced.as_ref()?;
        (time - announced <= ANNOUNCED).then(|| format!("ended after {cause}"))
    }
}

/// Longest time from what announces an end to it.
const ANNOUNCED: f64 = 120.0;

/// Where a start went on from.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Resumed {
    /// The checkpoint.
    pub generation: String,
    /// When it had been committed.
    pub taken: f64,
    /// Images by where they came from.
    pub sources: BTreeMap<String, u32>,
    /// Work that was lost: from the checkpoint to the failure.
    pub lost: f64,
    /// From the failure until the program computed again.
    pub down: f64,
    /// Why newer checkpoints were not used.
    pub rejected: Vec<String>,
}

/// A committed checkpoint.
#[derive(Clone, Debug, Serialize)]
pub struct Checkpoint {
    /// When it was committed.
    pub time: f64,
    /// Asked for by a level's interval.
    pub scheduled: bool,
    /// Its figures.
    #[serde(flatten)]
    pub figures: GenerationStatus,
    /// Levels it reached, when, and how long that took.
    pub reached: Vec<(Level, f64, f64)>,
    /// Levels it did not reach, and why.
    pub missed: Vec<(Level, String)>,
}

/// A checkpoint that was given up.
#[derive(Clone, Debug, Serialize)]
pub struct Abandoned {
    /// When.
    pub time: f64,
    /// Its name.
    pub generation: String,
    /// Its level.
    pub level: Level,
    /// The step it had reached.
    pub step: String,
    /// How long it had been under way.
    pub seconds: f64,
    /// Why.
    pub reason: String,
}

/// One level.
#[derive(Clone, Debug, Serialize)]
pub struct LevelFigures {
    /// Which.
    pub level: Level,
    /// Seconds between checkpoints, as configured last.
    pub interval: Option<f64>,
    /// Checkpoints that reached it.
    pub reached: u32,
    /// Checkpoints of this very level (higher ones reach it too).
    pub taken: u32,
    /// Mean size of those that reached it.
    pub bytes: f64,
    /// Mean time to get there (local: to write the images).
    pub seconds: f64,
    /// Mean bytes a second.
    pub bandwidth: f64,
    /// Mean and longest time the program was stopped by checkpoints of this very level; of all, if there
    /// are none.
    pub stopped: (f64, f64),
    /// The newest that reached it.
    pub newest: Option<String>,
    /// Failures it is for.
    pub failures: u32,
    /// Which interval would be best.
    pub advice: Option<Advice>,
}

/// An interval that costs little.
#[derive(Clone, Debug, Serialize)]
pub struct Advice {
    /// Time a checkpoint holds the program up.
    pub cost: f64,
    /// Mean time between failures that was used.
    pub mtbf: f64,
    /// Where that comes from.
    pub from: String,
    /// Mean time from a failure until the program computed again.
    pub restart: f64,
    /// Young's interval.
    pub young: f64,
    /// Daly's.
    pub daly: f64,
    /// Part of the time lost with the configured interval, and with Daly's.
    pub loss: (Option<f64>, f64),
}

/// Where the time went.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Time {
    /// From the first start to the end.
    pub total: f64,
    /// The program ran.
    pub running: f64,
    /// It was stopped for checkpoints.
    pub stopped: f64,
    /// It computed what was lost later.
    pub lost: f64,
    /// It did not run, after failures.
    pub down: f64,
    /// Useful part of the total, 0 to 1.
    pub efficiency: f64,
}

/// Adds the events up. `mtbf`: mean times between failures that the user knows better.
pub fn collect(
    job: &str,
    events: &[Record],
    seen: Option<f64>,
    mtbf: &[(Failing, f64)],
) -> Figures {
    let mut figures = Figures {
        job: job.to_owned(),
        ..Figures::default()
    };
    let mut intervals = [None; 4];
    let mut enabled = [false; 4];
    for record in events {
        take(&mut figures, record, &mut intervals, &mut enabled);
    }
    if let Some(last) = figures.starts.last_mut().filter(|s| s.end.is_empty()) {
        // It computes, though nothing has happened since.
        last.ended = last.ended.max(seen.unwrap_or(0.0));
    }
    settle(&mut figures, events);
    let failures = failures(&figures);
    figures.time = time(&figures);
    let restart = mean(
        figures
            .starts
            .iter()
            .filter_map(|s| s.resumed.as_ref())
            .map(|r| r.down),
    );
    for level in Level::ALL
        .into_iter()
        .filter(|level| enabled[level.index()])
    {
        let mut found = level_figures(&figures, level, intervals[level.index()]);
        found.failures = failures[level.index()];
        found.advice = advice(&found, figures.time.running, restart.unwrap_or(0.0), mtbf);
        figures.levels.push(found);
    }
    figures
}

fn take(
    figures: &mut Figures,
    record: &Record,
    intervals: &mut [Option<f64>; 4],
    enabled: &mut [bool; 4],
) {
    let start = |figures: &mut Figures| {
        let known = figures
            .starts
            .last()
            .is_some_and(|s| s.incarnation == record.incarnation);
        if !known {
            figures.starts.push(Start {
                incarnation: record.incarnation,
                began: record.time,
                ended: record.time,
                ..Start::default()
            });
        }
    };
    start(figures);
    let Some(last) = figures.starts.last_mut() else {
        return;
    };
    last.ended = last.ended.max(record.time);
    match &record.event {
        Event::Started {
            ranks,
            nodes,
            program,
            intervals: every,
            enabled: levels,
        } => {
            last.began = record.time;
            last.ran = true;
            (figures.ranks, figures.nodes) = (*ranks, *nodes);
            figures.program.clone_from(program);
            (*intervals, *enabled) = (*every, *levels);
        }
        Event::Resumed {
            generation,
            taken,
            sources,
            rejected,
            last_seen,
            ..
        } => {
            last.resumed = Some(Resumed {
                generation: generation.to_string(),
                taken: *taken,
                sources: sources.clone(),
                rejected: rejected.clone(),
                ..Resumed::default()
            });
            let seen = last_seen.unwrap_or(0.0);
            let before = figures.starts.len().checked_sub(2);
            if let Some(before) = before.and_then(|i| figures.starts.get_mut(i)) {
                before.ended = before.ended.max(seen.min(record.time));
            }
        }
        Event::Committed {
            scheduled,
            figures: found,
        } => figures.checkpoints.push(Checkpoint {
            time: record.time,
            scheduled: *scheduled,
            figures: found.clone(),
            reached: Vec::new(),
            missed: Vec::new(),
        }),
        Event::Abandoned {
            generation,
            level,
            step,
            seconds,
            reason,
        } => figures.abandoned.push(Abandoned {
            time: record.time,
            generation: generation.to_string(),
            level: *level,
            step: step.clone(),
            seconds: *seconds,
            reason: reason.clone(),
        }),
        Event::LevelComplete {
            generation,
            level,
            seconds,
            ..
        } => {
            if let Some(found) = of(&mut figures.checkpoints, *generation) {
                found.reached.push((*level, record.time, *seconds));
            }
        }
        Event::LevelFailed {
            generation,
            level,
            reason,
        } => {
            if let Some(found) = of(&mut figures.checkpoints, *generation) {
                found.missed.push((*level, reason.clone()));
            }
        }
        Event::Announced { cause } => last.announced = Some((cause.clone(), record.time)),
        // The ranks of a job that is ended do not go all at once.
        Event::Lost { .. } if last.announced_end(record.time).is_some() => {}
        Event::Lost { rank, host, .. } => {
            if last.end.is_empty() {
                last.end = format!("rank {rank} on {host} was lost");
            }
            last.failed = true;
        }
        Event::Ended { outcome } => {
            let (end, failed) = match outcome {
                Outcome::Finished => ("ended normally".into(), false),
                Outcome::Failed { rank, code } => {
                    (format!("rank {rank} ended with code {code}"), true)
                }
                Outcome::Lost { rank } => match last.announced_end(record.time) {
                    Some(end) => (end, false),
                    None => (format!("rank {rank} was lost"), true),
                },
                Outcome::Killed => ("ended on request".into(), false),
                Outcome::Undecided => ("the end is not known".into(), true),
            };
            if last.end.is_empty() || !failed {
                last.end = end;
            }
            last.failed |= failed;
        }
        _ => {}
    }
}

fn of(checkpoints: &mut [Checkpoint], id: GenerationId) -> Option<&mut Checkpoint> {
    checkpoints
        .iter_mut()
        .rev()
        .find(|c| c.figures.generation == id)
}

/// What is known only when all events have been seen.
fn settle(figures: &mut Figures, events: &[Record]) {
    let count = figures.starts.len();
    for (index, start) in figures.starts.iter_mut().enumerate() {
        if start.end.is_empty() {
            let is_last = index + 1 == count;
            let announced = start.announced_end(start.ended);
            start.failed = !is_last && start.ran && announced.is_none();
            start.end = match announced {
                Some(end) => end,
                None if is_last => "running, or gone without a word".into(),
                None if start.ran => "gone without a word (killed, or the node lost)".into(),
                None => "did not begin: the program did not run".into(),
            };
        }
    }
    for index in 1..count {
        let (before, now) = figures.starts.split_at_mut(index);
        let (Some(before), Some(start)) = (before.last(), now.first_mut()) else {
            continue;
        };
        let from = before.resumed.as_ref().map(|r| r.taken);
        if let Some(resumed) = &mut start.resumed {
            // Of the start before; what that one had lost itself is counted there.
            let computed = (before.ended - resumed.taken.max(before.began)).max(0.0);
            let older = from.map_or(0.0, |from| (from - resumed.taken).max(0.0));
            resumed.lost = if before.ran { computed + older } else { older };
            resumed.down = (start.began - before.ended).max(0.0);
        }
    }
    let times = || events.iter().map(|record| record.time);
    figures.span = (
        times().fold(f64::INFINITY, f64::min),
        times().fold(f64::NEG_INFINITY, f64::max),
    );
    if let Some(last) = figures.starts.last() {
        figures.span.1 = figures.span.1.max(last.ended);
    }
    if events.is_empty() {
        figures.span = (0.0, 0.0);
    }
}

/// Failures by the level that was needed: the highest that an image came from.
fn failures(figures: &Figures) -> [u32; 4] {
    let mut counts = [0; 4];
    for pair in figures.starts.windows(2) {
        let [before, after] = pair else { continue };
        if !before.failed {
            continue;
        }
        let needed = after.resumed.as_ref().map_or(Level::Local, |resumed| {
            resumed
                .sources
                .keys()
                .map(|source| match source.as_str() {
                    s if s.contains("global") => Level::Global,
                    s if s.contains("parity") || s.contains("group") => Level::Group,
                    s if s.contains("partner") => Level::Partner,
                    _ => Level::Local,
                })
                .max()
                .unwrap_or(Level::Local)
        });
        counts[needed.index()] += 1;
    }
    counts
}

fn time(figures: &Figures) -> Time {
    let mut time = Time {
        stopped: figures.checkpoints.iter().map(|c| c.figures.stopped).sum(),
        total: (figures.span.1 - figures.span.0).max(0.0),
        ..Time::default()
    };
    for start in &figures.starts {
        time.running += (start.ended - start.began).max(0.0);
        if let Some(resumed) = &start.resumed {
            time.lost += resumed.lost;
            time.down += resumed.down;
        }
    }
    let total = (time.running + time.down).max(f64::MIN_POSITIVE);
    let useful = time.running - time.stopped - time.lost;
    time.efficiency = (useful / total).clamp(0.0, 1.0);
    time
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0.0);
    for value in values {
        sum += value;
        count += 1.0;
    }
    (count > 0.0).then(|| sum / count)
}

#[allow(clippy::cast_precision_loss, reason = "means of sizes")]
fn level_figures(figures: &Figures, level: Level, interval: Option<f64>) -> LevelFigures {
    let reached: Vec<(&Checkpoint, f64)> = figures
        .checkpoints
        .iter()
        .filter_map(|c| {
            let (_, _, seconds) = c.reached.iter().find(|(l, _, _)| *l == level)?;
            Some((c, *seconds))
        })
        .collect();
    let own: Vec<f64> = figures
        .checkpoints
        .iter()
        .filter(|c| c.figures.level == level)
        .map(|c| c.figures.stopped)
        .collect();
    let pauses: Vec<f64> = if own.is_empty() {
        reached.iter().map(|(c, _)| c.figures.stopped).collect()
    } else {
        own.clone()
    };
    let bytes = mean(reached.iter().map(|(c, _)| c.figures.bytes as f64)).unwrap_or(0.0);
    let seconds = mean(reached.iter().map(|(_, s)| *s)).unwrap_or(0.0);
    LevelFigures {
        level,
        interval,
        reached: u32::try_from(reached.len()).unwrap_or(u32::MAX),
        taken: u32::try_from(own.len()).unwrap_or(u32::MAX),
        bytes,
        seconds,
        bandwidth: if seconds > 0.0 { bytes / seconds } else { 0.0 },
        stopped: (
            mean(pauses.iter().copied()).unwrap_or(0.0),
            pauses.iter().copied().fold(0.0, f64::max),
        ),
        newest: reached
            .last()
            .map(|(c, _)| c.figures.generation.to_string()),
        failures: 0,
        advice: None,
    }
}

fn advice(
    level: &LevelFigures,
    running: f64,
    restart: f64,
    mtbf: &[(Failing, f64)],
) -> Option<Advice> {
    let cost = level.stopped.0;
    if level.reached == 0 || cost <= 0.0 {
        return None;
    }
    let what = match level.level {
        Level::Local => Failing::Process,
        Level::Partner | Level::Group => Failing::Node,
        Level::Global => Failing::Job,
    };
    let given = mtbf.iter().rev().find(|(kind, _)| *kind == what);
    let (mtbf, from) = match (given, level.failures) {
        (Some((_, seconds)), _) => (*seconds, "as given with --mtbf".to_owned()),
        (None, 0) => (
            running,
            "no such failure was met: as if the next came now".to_owned(),
        ),
        (None, count) => (
            running / f64::from(count),
            format!("{count} met while the job ran"),
        ),
    };
    if mtbf <= 0.0 {
        return None;
    }
    let best = daly(cost, mtbf).max(cost);
    Some(Advice {
        cost,
        mtbf,
        from,
        restart,
        young: young(cost, mtbf),
        daly: best,
        loss: (
            level.interval.map(|every| loss(every, cost, mtbf, restart)),
            loss(best, cost, mtbf, restart),
        ),
    })
}

#[cfg(test)]
pub(super) mod tests;
