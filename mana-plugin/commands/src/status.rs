//! `mana status`: asks a job's coordinator.

use std::fmt::Write as _;
use std::thread;
use std::time::Duration;

use mana_control::{Client, GenerationStatus, Request, Status};

use crate::cli;
use crate::job;
use crate::message::Failure;

/// How long a connection and a plain question may take.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Shows or acts.
pub fn status(options: &cli::Status) -> Result<i32, Failure> {
    let rendezvous = job::running(&options.job)?;
    let mut client = Client::connect(&rendezvous, ANSWER_LIMIT)?;
    if options.checkpoint {
        return checkpoint(options, &mut client);
    }
    if options.kill {
        client.kill("asked for by mana_status --kill")?;
        println!("job {}: told to end", rendezvous.job);
        return Ok(0);
    }
    loop {
        let state = client.status()?;
        let text = if options.json {
            let mut text = serde_json::to_string_pretty(&state)?;
            text.push('\n');
            text
        } else {
            describe(&state)
        };
        if options.watch && !options.json {
            // Home, the text, and clear what an older one left below.
            print!("\x1b[H\x1b[2J{text}");
        } else {
            print!("{text}");
        }
        use std::io::Write as _;
        let _ = std::io::stdout().flush();
        if !options.watch || state.phase == "ended" {
            return Ok(0);
        }
        thread::sleep(Duration::from_secs(1));
    }
}

fn checkpoint(options: &cli::Status, client: &mut Client) -> Result<i32, Failure> {
    let request = Request {
        level: options.level.map(cli::Level::to_control),
        kill: options.kill,
    };
    let limit = Duration::from_secs(options.timeout);
    match client.checkpoint(request, options.wait, limit)? {
        Some(done) => println!("{}", generation_line(&done)),
        None => println!("checkpoint asked for"),
    }
    Ok(0)
}

/// One committed generation.
fn generation_line(g: &GenerationStatus) -> String {
    format!(
        "checkpoint {} ({}) committed: {} in {:.1} s, program stopped {:.0} ms (gate {:.0}, drain {:.0}, snapshot {:.0})",
        g.generation.number,
        g.level,
        size(g.bytes),
        g.seconds,
        g.stopped * 1e3,
        g.gate * 1e3,
        g.drain * 1e3,
        g.snapshot * 1e3
    )
}

/// Bytes in words.
pub fn size(bytes: u64) -> String {
    let units = [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
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

/// The whole state as text.
pub fn describe(state: &Status) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write_state(&mut text, state);
    text
}

fn write_state(out: &mut String, s: &Status) -> std::fmt::Result {
    writeln!(
        out,
        "job {}  start {}  {}  {} ranks on {} nodes  up {:.0} s",
        s.job, s.incarnation, s.phase, s.size, s.nodes, s.uptime
    )?;
    if let Some(why) = &s.closed {
        writeln!(out, "no checkpoint now: {why}")?;
    }
    if let Some(c) = &s.current {
        writeln!(
            out,
            "checkpoint {} ({}): {} for {:.1} s, waits for {} ranks: {}",
            c.generation.number, c.level, c.step, c.step_seconds, c.waits_for, c.waits
        )?;
    }
    for work in &s.level_work {
        writeln!(
            out,
            "in the background: generation {} to {} for {:.1} s, {} ranks to go",
            work.generation, work.level, work.seconds, work.waits_for
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
    writeln!(
        out,
        "\n{:<8} {:>10} {:>10} {:>12} {:>8}",
        "level", "interval", "next due", "generation", "age"
    )?;
    for level in s.levels.iter().filter(|l| l.enabled) {
        writeln!(
            out,
            "{:<8} {:>10} {:>10} {:>12} {:>8}",
            level.level.name(),
            level
                .interval
                .map_or("by hand".into(), |i| format!("{i:.0} s")),
            level.next_due.map_or("-".into(), |d| format!("{d:.0} s")),
            level.last.map_or("-".into(), |g| g.to_string()),
            level.age.map_or("-".into(), |a| format!("{a:.0} s")),
        )?;
    }
    writeln!(
        out,
        "\n{:>5} {:>5} {:<16} {:>8} {:<11} doing",
        "rank", "node", "host", "pid", "state"
    )?;
    for rank in &s.ranks {
        writeln!(
            out,
            "{:>5} {:>5} {:<16} {:>8} {:<11} {}",
            rank.rank, rank.node, rank.host, rank.pid, rank.state, rank.doing
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size(12), "12 B");
        assert_eq!(size(3 << 20), "3.0 MiB");
        assert_eq!(size((5 << 30) / 2), "2.5 GiB");
    }

    #[test]
    fn an_empty_state_can_be_shown() {
        assert!(describe(&Status::default()).contains("0 due, 0 committed, 0 abandoned"));
    }
}
