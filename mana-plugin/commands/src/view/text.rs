//! The state of a job as text.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use mana_control::{GenerationStatus, RankStatus, Stall, Status};

/// One committed generation.
pub fn generation_line(g: &GenerationStatus) -> String {
    format!(
        "checkpoint {} ({}) committed: {} in {}, program stopped {} (gate {}, drain {}, snapshot {})",
        g.generation.number,
        g.level,
        size(g.bytes),
        time(g.seconds),
        pause(g.stopped),
        pause(g.gate),
        pause(g.drain),
        pause(g.snapshot)
    )
}

/// A short time in words: "24 ms", "18 s".
pub fn pause(seconds: f64) -> String {
    if seconds < 0.9995 {
        format!("{:.0} ms", seconds * 1e3)
    } else {
        time(seconds)
    }
}

/// "1 rank", "4 ranks".
pub fn count(number: impl Into<u64>, noun: &str) -> String {
    let number = number.into();
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

/// "4 ranks on 2 nodes".
pub fn extent(s: &Status) -> String {
    format!("{} on {}", count(s.size, "rank"), count(s.nodes, "node"))
}

/// Bytes in words.
pub fn size(bytes: u64) -> String {
    let units = [
        ("TiB", 1u64 << 40),
        ("GiB", 1 << 30),
        ("MiB", 1 << 20),
        ("KiB", 1 << 10),
    ];
    for (unit, factor) in units {
        if bytes >= factor {
            // Rounding in the third digit does not matter here.
            #[allow(clippy::cast_precision_loss, reason = "shown with one decimal")]
            let value = bytes as f64 / factor as f64;
            return format!("{value:.1} {unit}");
        }
    }
    format!("{bytes} B")
}

/// Bytes a second in words.
pub fn rate(bytes_per_second: f64) -> String {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "as saturates, and a rate is not negative"
    )]
    let bytes = bytes_per_second as u64;
    format!("{}/s", size(bytes))
}

/// Seconds in words: "45 s", "12 min", "3.5 h", "2.1 d".
pub fn time(seconds: f64) -> String {
    let magnitude = seconds.abs();
    if magnitude < 9.95 {
        format!("{seconds:.1} s")
    } else if magnitude < 120.0 {
        format!("{seconds:.0} s")
    } else if magnitude < 7200.0 {
        format!("{:.0} min", seconds / 60.0)
    } else if magnitude < 172_800.0 {
        format!("{:.1} h", seconds / 3600.0)
    } else {
        format!("{:.1} d", seconds / 86_400.0)
    }
}

/// Until something is due.
fn due(seconds: f64) -> String {
    if seconds <= 0.0 {
        return "now".into();
    }
    time(seconds)
}

/// "0-3, 7".
pub fn ranges(ranks: &[u32]) -> String {
    let mut parts: Vec<(u32, u32)> = Vec::new();
    for &rank in ranks {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == rank => *last = rank,
            _ => parts.push((rank, rank)),
        }
    }
    let texts = parts.iter().map(|(first, last)| {
        if first == last {
            first.to_string()
        } else {
            format!("{first}-{last}")
        }
    });
    texts.collect::<Vec<_>>().join(", ")
}

/// What a rank does: what its first thread waits for, else what it said.
pub fn doing(rank: &RankStatus) -> String {
    match rank.waiting.as_slice() {
        // Said already.
        [] if rank.doing == rank.state => String::new(),
        [] => rank.doing.clone(),
        [only] => format!("{}, for {}", only.text, time(only.seconds)),
        [first, rest @ ..] => format!(
            "{}, for {} (and {} more threads)",
            first.text,
            time(first.seconds),
            rest.len()
        ),
    }
}

/// The ranks of one node.
pub struct NodeSummary {
    /// Its number.
    pub node: u32,
    /// Host name of its lowest rank.
    pub host: String,
    /// Its ranks.
    pub ranks: Vec<u32>,
    /// How many are in which state.
    pub states: BTreeMap<String, u32>,
    /// What they do, the most frequent first, with how many do it.
    pub doing: Vec<(String, u32)>,
}

/// Ranks by node, in order.
pub fn nodes(state: &Status) -> Vec<NodeSummary> {
    let mut nodes: BTreeMap<u32, NodeSummary> = BTreeMap::new();
    for rank in &state.ranks {
        let node = nodes.entry(rank.node).or_insert_with(|| NodeSummary {
            node: rank.node,
            host: rank.host.clone(),
            ranks: Vec::new(),
            states: BTreeMap::new(),
            doing: Vec::new(),
        });
        node.ranks.push(rank.rank);
        *node.states.entry(rank.state.clone()).or_default() += 1;
        let what = match rank.waiting.first() {
            Some(first) => first.text.clone(),
            None => doing(rank),
        };
        match node.doing.iter_mut().find(|(known, _)| *known == what) {
            Some((_, count)) => *count += 1,
            None => node.doing.push((what, 1)),
        }
    }
    for node in nodes.values_mut() {
        node.doing
            .sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    }
    nodes.into_values().collect()
}

/// One line, for `--watch` without a terminal.
pub fn line(s: &Status) -> String {
    let mut text = format!("{} {}", s.phase, extent(s));
    // Writing to a String cannot fail.
    if let Some(c) = &s.current {
        let _ = write!(
            text,
            "; checkpoint {} ({}) in step {}: {} of {} ranks done",
            c.generation.number,
            c.level,
            c.step,
            c.ranks.saturating_sub(c.waits_for),
            c.ranks
        );
        if c.step_seconds >= 5.0 {
            let _ = write!(text, ", waits for {}", c.waits);
        }
    }
    for work in &s.level_work {
        let _ = write!(
            text,
            "; checkpoint {} to {}: {} of {} ranks done",
            work.generation.number,
            work.level,
            work.ranks.saturating_sub(work.waits_for),
            work.ranks
        );
    }
    let _ = write!(
        text,
        "; {} committed, {} abandoned",
        s.committed, s.abandoned
    );
    if let Some(last) = &s.last {
        let _ = write!(
            text,
            "; last: {} ({}, {}, stopped {})",
            last.generation.number,
            last.level,
            size(last.bytes),
            pause(last.stopped)
        );
    }
    text
}

/// The whole state as text.
pub fn describe(state: &Status) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write_state(&mut text, state);
    text
}

/// The ranks alone.
pub fn list(state: &Status) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write_ranks(&mut text, state);
    text
}

/// The intervals alone.
pub fn intervals(state: &Status) -> String {
    let mut text = String::new();
    for level in state.levels.iter().filter(|level| level.enabled) {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{:<8} {:>10}  next in {}",
            level.level.name(),
            level.interval.map_or("by hand".into(), time),
            level.next_due.map_or("-".into(), due)
        );
    }
    text
}

fn write_state(out: &mut String, s: &Status) -> std::fmt::Result {
    writeln!(
        out,
        "job {}  start {}  {}  {}  up {}",
        s.job,
        s.incarnation,
        s.phase,
        extent(s),
        time(s.uptime)
    )?;
    if let Some(why) = &s.closed {
        writeln!(out, "no checkpoint now: {why}")?;
    }
    if let Some(c) = &s.current {
        writeln!(
            out,
            "checkpoint {} ({}): {} for {}, waits for {} of {} ranks: {}",
            c.generation.number,
            c.level,
            c.step,
            time(c.step_seconds),
            c.waits_for,
            c.ranks,
            c.waits
        )?;
        if let Some(cause) = &c.cause {
            writeln!(out, "  {cause}")?;
        }
    }
    for work in &s.level_work {
        writeln!(
            out,
            "in the background: generation {} ({}) to {} for {}, {} of {} ranks to go",
            work.generation,
            size(work.bytes),
            work.level,
            time(work.seconds),
            work.waits_for,
            work.ranks
        )?;
    }
    writeln!(
        out,
        "checkpoints: {} due, {} committed, {} abandoned",
        s.due, s.committed, s.abandoned
    )?;
    if let Some(last) = &s.last {
        writeln!(out, "last: {}", generation_line(last))?;
    }
    if let Some(why) = &s.last_failure {
        writeln!(out, "last failure: {why}")?;
    }
    if let Some(stall) = &s.last_stall {
        write_stall(out, stall)?;
    }
    writeln!(
        out,
        "\n{:<8} {:>10} {:>10} {:>12} {:>8} {:>10} {:>12}  survives",
        "level", "interval", "next due", "generation", "age", "size", "speed"
    )?;
    for level in s.levels.iter().filter(|l| l.enabled) {
        writeln!(
            out,
            "{:<8} {:>10} {:>10} {:>12} {:>8} {:>10} {:>12}  {}",
            level.level.name(),
            level.interval.map_or("by hand".into(), time),
            level.next_due.map_or("-".into(), due),
            level.last.map_or("-".into(), |g| g.to_string()),
            level.age.map_or("-".into(), time),
            level.bytes.map_or("-".into(), size),
            level.bandwidth.map_or("-".into(), rate),
            level.survives
        )?;
    }
    writeln!(out)?;
    write_ranks(out, s)
}

fn write_ranks(out: &mut String, s: &Status) -> std::fmt::Result {
    writeln!(
        out,
        "{:>5} {:>5} {:<16} {:>8} {:<11} doing",
        "rank", "node", "host", "pid", "state"
    )?;
    for rank in &s.ranks {
        writeln!(
            out,
            "{:>5} {:>5} {:<16} {:>8} {:<11} {}",
            rank.rank,
            rank.node,
            rank.host,
            rank.pid,
            rank.state,
            doing(rank)
        )?;
    }
    Ok(())
}

/// Where the ranks were when a checkpoint was given up.
fn write_stall(out: &mut String, stall: &Stall) -> std::fmt::Result {
    writeln!(
        out,
        "when checkpoint {} was given up, after {} in step {}:",
        stall.generation.number,
        time(stall.seconds),
        stall.step
    )?;
    let mut groups: Vec<(String, Vec<u32>, f64)> = Vec::new();
    for found in &stall.ranks {
        let (text, seconds) = match found.waiting.first() {
            Some(first) => (first.text.clone(), first.seconds),
            None => (found.doing.clone(), 0.0),
        };
        match groups.iter_mut().find(|(known, _, _)| *known == text) {
            Some((_, ranks, longest)) => {
                ranks.push(found.rank);
                *longest = longest.max(seconds);
            }
            None => groups.push((text, vec![found.rank], seconds)),
        }
    }
    for (text, ranks, seconds) in groups {
        let noun = if ranks.len() == 1 { "rank" } else { "ranks" };
        write!(out, "  {noun} {}: {text}", ranges(&ranks))?;
        if seconds > 0.0 {
            write!(out, ", for {}", time(seconds))?;
        }
        writeln!(out)?;
    }
    if stall.omitted > 0 {
        writeln!(out, "  and {} more ranks", stall.omitted)?;
    }
    if let Some(cause) = &stall.cause {
        writeln!(out, "  {cause}")?;
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
