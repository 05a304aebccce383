//! The state of the job in words and figures.

use std::time::Duration;

use crate::{CurrentStatus, Level, LevelStatus, Status};

use super::ranks::Life;
use super::{stall, Core};

/// "1.9 GiB".
pub(super) fn amount(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// "24 ms", "1.1 s", "310 s".
pub(super) fn seconds(value: f64) -> String {
    if value < 0.000_95 {
        format!("{:.0} us", value * 1e6)
    } else if value < 0.01 {
        format!("{:.1} ms", value * 1e3)
    } else if value < 0.995 {
        format!("{:.0} ms", value * 1e3)
    } else if value < 100.0 {
        format!("{value:.1} s")
    } else {
        format!("{value:.0} s")
    }
}

/// What a job survives that has a checkpoint on a level.
fn survives(level: Level) -> &'static str {
    match level {
        Level::Local => "failure of processes",
        Level::Partner => "loss of nodes, no two of them neighbours",
        Level::Group => "loss of as many nodes of a group as it has parity",
        Level::Global => "loss of every node",
    }
}

impl Core {
    /// What `mana_status` shows.
    pub fn status(&self, now: Duration) -> Status {
        let since = |then: Duration| now.saturating_sub(then).as_secs_f64();
        let phase = if self.over().is_some() {
            "ended"
        } else if !self.ranks.complete() {
            "starting"
        } else if self.taking.is_some() {
            "checkpointing"
        } else if self.closed_by_loss && !self.killed {
            "unprotected"
        } else if self.closed.is_some() {
            "ending"
        } else {
            "running"
        };
        Status {
            job: self.job.clone().unwrap_or_default(),
            incarnation: self.incarnation.unwrap_or(0),
            size: u32::try_from(self.ranks.len()).unwrap_or(u32::MAX),
            nodes: self.ranks.nodes(),
            uptime: now.as_secs_f64(),
            phase: phase.into(),
            closed: self.closed.clone(),
            current: self.taking.as_ref().map(|taking| {
                let missing = taking.missing();
                CurrentStatus {
                    generation: taking.checkpoint.generation,
                    level: taking.checkpoint.level,
                    step: taking.step.name().into(),
                    step_seconds: since(taking.step_started),
                    waits_for: u32::try_from(missing.len()).unwrap_or(u32::MAX),
                    ranks: u32::try_from(self.ranks.len()).unwrap_or(u32::MAX),
                    bytes: taking.bytes(),
                    seconds: taking.lasted(now).as_secs_f64(),
                    waits: self.ranks.names(missing.iter().copied(), now),
                    cause: stall::report(
                        taking.checkpoint,
                        taking.step.name(),
                        Duration::ZERO,
                        &self.ranks,
                        &missing,
                        now,
                    )
                    .cause,
                }
            }),
            level_work: self.jobs.iter().filter_map(|job| job.status(now)).collect(),
            levels: Level::ALL
                .into_iter()
                .map(|level| {
                    let last = self.figures.complete[level.index()];
                    LevelStatus {
                        level,
                        enabled: self.settings.is_enabled(level),
                        interval: self
                            .scheduler
                            .interval(level)
                            .map(|interval| interval.as_secs_f64()),
                        next_due: self
                            .scheduler
                            .due_time(level)
                            .filter(|_| self.closed.is_none())
                            .map(|due| due.as_secs_f64() - now.as_secs_f64()),
                        last: last.map(|done| done.generation),
                        age: last.map(|done| since(done.at) + done.age.as_secs_f64()),
                        bytes: last.map(|done| done.bytes),
                        seconds: last.and_then(|done| done.seconds),
                        bandwidth: last.and_then(|done| {
                            let took = done.seconds.filter(|took| *took > 0.0)?;
                            Some(done.bytes as f64 / took)
                        }),
                        survives: survives(level).into(),
                    }
                })
                .collect(),
            due: self.figures.due,
            covered: self.figures.covered,
            committed: self.figures.committed,
            abandoned: self.figures.abandoned,
            last: self.figures.last.clone(),
            recent: self.figures.recent.iter().cloned().collect(),
            last_failure: self.figures.last_failure.clone(),
            last_stall: self.figures.last_stall.clone(),
            outcome: self.outcome.clone(),
            ranks: self
                .ranks
                .iter()
                .filter(|(_, found)| found.life != Life::Missing)
                .map(|(rank, found)| found.status(rank, now))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_and_times_read_well() {
        assert_eq!(amount(12), "12 B");
        assert_eq!(amount(2_040_109_466), "1.9 GiB");
        assert_eq!(amount(u64::MAX), "16.0 EiB");
        assert_eq!(seconds(0.024), "24 ms");
        assert_eq!(seconds(0.0021), "2.1 ms");
        assert_eq!(seconds(1.14), "1.1 s");
        assert_eq!(seconds(0.9999), "1.0 s");
        assert_eq!(seconds(310.2), "310 s");
        assert_eq!(seconds(0.00004), "40 us");
    }
}
