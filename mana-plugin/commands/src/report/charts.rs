//! The pictures of the page, as SVG with classes that the page's style sheet colours.
//!
//! Each is drawn in a space of [`WIDTH`] units; what lies closer than a unit or two is drawn once, so
//! that a job of a year makes a page of the same size.

use std::fmt::Write as _;

use mana_control::Level;

use super::figures::{Advice, Checkpoint, Figures};
use crate::view::size;
use crate::view::text::{rate, time};
use mana_control::advice::loss;

/// Width of every picture.
const WIDTH: f64 = 1000.0;
/// Room for labels at the left.
const LEFT: f64 = 92.0;
/// Room at the right.
const RIGHT: f64 = 14.0;
/// Two marks closer than this are one.
const NEAR: f64 = 1.5;

/// Text for HTML and SVG.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// A picture being drawn.
struct Canvas {
    out: String,
    height: f64,
    from: f64,
    to: f64,
}

impl Canvas {
    /// One whose horizontal axis is time.
    fn new(height: f64, span: (f64, f64)) -> Self {
        Self {
            out: String::new(),
            height,
            from: span.0,
            to: if span.1 > span.0 {
                span.1
            } else {
                span.0 + 1.0
            },
        }
    }

    fn x(&self, at: f64) -> f64 {
        let share = ((at - self.from) / (self.to - self.from)).clamp(0.0, 1.0);
        LEFT + share * (WIDTH - LEFT - RIGHT)
    }

    // Writing to a String cannot fail: the results below are not looked at.

    fn text(&mut self, x: f64, y: f64, class: &str, text: &str) {
        let _ = write!(
            self.out,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\">{}</text>",
            escaped(text)
        );
    }

    fn rect(&mut self, (x, y, width, height): (f64, f64, f64, f64), class: &str, title: &str) {
        let _ = write!(
            self.out,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" class=\"{class}\"><title>{}</title></rect>",
            escaped(title)
        );
    }

    fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), class: &str) {
        let _ = write!(
            self.out,
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" class=\"{class}\"/>"
        );
    }

    fn polyline(&mut self, points: &[(f64, f64)], class: &str) {
        let points: Vec<String> = points
            .iter()
            .map(|(x, y)| format!("{x:.1},{y:.1}"))
            .collect();
        let _ = write!(
            self.out,
            "<polyline points=\"{}\" class=\"{class}\"/>",
            points.join(" ")
        );
    }

    fn dot(&mut self, (x, y): (f64, f64), radius: f64, class: &str, title: &str) {
        let _ = write!(
            self.out,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\" class=\"{class}\"><title>{}</title></circle>",
            escaped(title)
        );
    }

    /// Time since the beginning, along the bottom.
    fn time_axis(&mut self, top: f64, bottom: f64) {
        let length = self.to - self.from;
        let step = step(length / 8.0);
        let mut at = 0.0;
        while at <= length {
            let x = self.x(self.from + at);
            self.line((x, top), (x, bottom), "grid");
            self.text(x, bottom + 16.0, "tick middle", &elapsed(at));
            at += step;
        }
    }

    fn finish(self, label: &str) -> String {
        format!(
            "<svg viewBox=\"0 0 {WIDTH} {:.0}\" role=\"img\" aria-label=\"{}\">{}</svg>",
            self.height,
            escaped(label),
            self.out
        )
    }
}

/// A round number of seconds, at least this.
fn step(least: f64) -> f64 {
    const ROUND: [f64; 20] = [
        0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0,
        7200.0, 21_600.0, 43_200.0, 86_400.0, 172_800.0,
    ];
    ROUND
        .into_iter()
        .find(|round| *round >= least)
        .unwrap_or_else(|| (least / 86_400.0).ceil() * 86_400.0)
}

/// Time since the start: "90 s", "1:30 h", "2 d 3 h".
fn elapsed(seconds: f64) -> String {
    if seconds < 120.0 {
        return format!("{} s", (seconds * 10.0).round() / 10.0);
    }
    let minutes = (seconds / 60.0).round();
    if minutes < 120.0 {
        return format!("{minutes} min");
    }
    let hours = (minutes / 60.0).floor();
    if hours < 48.0 {
        return format!("{hours}:{:02} h", minutes - hours * 60.0);
    }
    let days = (hours / 24.0).floor();
    format!("{days} d {} h", hours - days * 24.0)
}

/// The name of a level's colour.
pub fn class(level: Level) -> &'static str {
    match level {
        Level::Local => "local",
        Level::Partner => "partner",
        Level::Group => "group",
        Level::Global => "global",
    }
}

fn told(checkpoint: &Checkpoint) -> String {
    let figures = &checkpoint.figures;
    format!(
        "checkpoint {} ({}): {} in {}, program stopped {:.0} ms",
        figures.generation,
        figures.level,
        size(figures.bytes),
        time(figures.seconds),
        figures.stopped * 1e3
    )
}

/// Runs, checkpoints by level, failures, in time.
pub fn timeline(figures: &Figures) -> String {
    const ROW: f64 = 34.0;
    const TOP: f64 = 8.0;
    let levels: Vec<Level> = figures.levels.iter().map(|l| l.level).collect();
    let rows = levels.len() + 1 + usize::from(!figures.abandoned.is_empty());
    #[allow(clippy::cast_precision_loss, reason = "a handful of rows")]
    let at = |row: usize| TOP + row as f64 * ROW;
    let bottom = at(rows) + 2.0;
    let mut canvas = Canvas::new(bottom + 24.0, figures.span);
    canvas.time_axis(TOP, bottom);
    canvas.text(LEFT - 10.0, at(0) + 19.0, "label end", "program");
    for start in &figures.starts {
        let (x1, x2) = (canvas.x(start.began), canvas.x(start.ended));
        let title = format!(
            "start {}: {} - {}",
            start.incarnation,
            time(start.ended - start.began),
            start.end
        );
        canvas.rect((x1, at(0) + 6.0, (x2 - x1).max(1.0), 18.0), "run", &title);
        if let Some(resumed) = &start.resumed {
            let lost = (
                canvas.x(resumed.taken),
                canvas.x(resumed.taken + resumed.lost),
            );
            let title = format!(
                "work of {} lost, {} until the program ran again",
                time(resumed.lost),
                time(resumed.down)
            );
            let width = (lost.1 - lost.0).max(1.0);
            canvas.rect((lost.0, at(0) + 6.0, width, 18.0), "lost", &title);
        }
    }
    for (row, level) in levels.iter().enumerate().map(|(i, l)| (i + 1, *l)) {
        canvas.text(LEFT - 10.0, at(row) + 19.0, "label end", level.name());
        let middle = at(row) + 15.0;
        canvas.line((LEFT, middle), (WIDTH - RIGHT, middle), "rail");
        let mut last = f64::NEG_INFINITY;
        for checkpoint in &figures.checkpoints {
            let Some((_, when, seconds)) = checkpoint.reached.iter().find(|r| r.0 == level) else {
                continue;
            };
            let x2 = canvas.x(*when);
            if x2 - last < NEAR {
                continue;
            }
            last = x2;
            let x1 = canvas.x(when - seconds);
            let title = format!("{}; {level} after {}", told(checkpoint), time(*seconds));
            let width = (x2 - x1).max(2.5);
            canvas.rect(
                (x2 - width, at(row) + 7.0, width, 16.0),
                class(level),
                &title,
            );
        }
        for checkpoint in &figures.checkpoints {
            if let Some((_, why)) = checkpoint.missed.iter().find(|m| m.0 == level) {
                let x = canvas.x(checkpoint.time);
                canvas.dot(
                    (x, middle),
                    4.0,
                    "bad",
                    &format!("{}: {why}", told(checkpoint)),
                );
            }
        }
    }
    if !figures.abandoned.is_empty() {
        let row = rows - 1;
        canvas.text(LEFT - 10.0, at(row) + 19.0, "label end", "given up");
        let mut last = f64::NEG_INFINITY;
        for abandoned in &figures.abandoned {
            let x = canvas.x(abandoned.time);
            if x - last < NEAR {
                continue;
            }
            last = x;
            let title = format!(
                "checkpoint {} ({}) in step {}: {}",
                abandoned.generation, abandoned.level, abandoned.step, abandoned.reason
            );
            canvas.dot((x, at(row) + 15.0), 5.0, "bad", &title);
        }
    }
    for start in &figures.starts {
        if start.failed {
            let x = canvas.x(start.ended);
            canvas.line((x, TOP), (x, bottom), "failure");
            canvas.dot((x, TOP + 1.0), 4.0, "failure-mark", &start.end);
        }
    }
    canvas.finish("timeline of the job: runs, checkpoints of each level, failures")
}

/// Every n-th, so that no more than `most` are left.
fn thinned<T>(all: &[T], most: usize) -> impl Iterator<Item = &T> {
    let every = all.len().div_ceil(most.max(1)).max(1);
    all.iter().step_by(every)
}

/// A round number at least as large: 1, 2 or 5 times a power of ten.
fn above(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|digit| digit * power)
        .find(|round| *round >= value * 0.999)
        .unwrap_or(value)
}

/// A vertical axis from 0 to a round number at least `highest`; that number.
fn scale(
    canvas: &mut Canvas,
    (top, bottom): (f64, f64),
    highest: f64,
    words: &dyn Fn(f64) -> String,
) -> f64 {
    let most = above(highest);
    for part in 0..=2 {
        let share = f64::from(part) / 2.0;
        let y = bottom - share * (bottom - top);
        canvas.line((LEFT, y), (WIDTH - RIGHT, y), "grid");
        canvas.text(LEFT - 8.0, y + 4.0, "tick end", &words(most * share));
    }
    most
}

/// How long each checkpoint stopped the program, and by what.
pub fn pauses(figures: &Figures) -> String {
    const AREA: (f64, f64) = (10.0, 150.0);
    let mut canvas = Canvas::new(178.0, figures.span);
    canvas.time_axis(AREA.0, AREA.1);
    let longest = figures
        .checkpoints
        .iter()
        .map(|c| c.figures.stopped)
        .fold(0.0, f64::max);
    let most = scale(&mut canvas, AREA, longest * 1e3, &|ms| {
        format!("{ms:.3} ms").replace(".000", "")
    });
    for checkpoint in thinned(&figures.checkpoints, 400) {
        let figures = &checkpoint.figures;
        let x = canvas.x(checkpoint.time) - 1.5;
        let mut y = AREA.1;
        for (seconds, class) in [
            (figures.snapshot, "snapshot"),
            (figures.drain, "drain"),
            (figures.gate, "gate"),
        ] {
            let height = (seconds * 1e3 / most * (AREA.1 - AREA.0)).min(y - AREA.0);
            y -= height;
            let title = format!(
                "checkpoint {} ({}): gate {:.1} ms, drain {:.1} ms, snapshot {:.1} ms",
                figures.generation,
                figures.level,
                figures.gate * 1e3,
                figures.drain * 1e3,
                figures.snapshot * 1e3
            );
            canvas.rect((x, y, 3.0, height), class, &title);
        }
    }
    canvas.finish("how long each checkpoint stopped the program")
}

/// Sizes of the checkpoints.
pub fn sizes(figures: &Figures) -> String {
    const AREA: (f64, f64) = (10.0, 110.0);
    let mut canvas = Canvas::new(138.0, figures.span);
    canvas.time_axis(AREA.0, AREA.1);
    #[allow(clippy::cast_precision_loss, reason = "a picture")]
    let bytes = |c: &Checkpoint| c.figures.bytes as f64;
    let largest = figures.checkpoints.iter().map(bytes).fold(0.0, f64::max);
    // In powers of two, as sizes are written.
    let unit = 1024f64.powf((largest.max(1.0).log2() / 10.0).floor());
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a label; as saturates"
    )]
    let words = |units: f64| size((units * unit) as u64);
    let most = scale(&mut canvas, AREA, largest / unit, &words) * unit;
    let points: Vec<(f64, f64)> = thinned(&figures.checkpoints, 400)
        .map(|c| {
            let y = AREA.1 - bytes(c) / most * (AREA.1 - AREA.0);
            (canvas.x(c.time), y)
        })
        .collect();
    canvas.polyline(&points, "curve");
    for checkpoint in thinned(&figures.checkpoints, 200) {
        let y = AREA.1 - bytes(checkpoint) / most * (AREA.1 - AREA.0);
        let x = canvas.x(checkpoint.time);
        canvas.dot(
            (x, y),
            2.5,
            class(checkpoint.figures.level),
            &told(checkpoint),
        );
    }
    canvas.finish("size of each checkpoint")
}

/// When a checkpoint had reached a level, how fast, and in words.
type Speed = (f64, f64, String);

/// How fast checkpoints reached each level.
pub fn bandwidths(figures: &Figures) -> String {
    const AREA: (f64, f64) = (10.0, 130.0);
    let mut canvas = Canvas::new(158.0, figures.span);
    canvas.time_axis(AREA.0, AREA.1);
    #[allow(clippy::cast_precision_loss, reason = "a picture")]
    let speeds = |level: Level| -> Vec<Speed> {
        figures
            .checkpoints
            .iter()
            .filter_map(|c| {
                let (_, when, seconds) = c.reached.iter().find(|r| r.0 == level)?;
                let speed = c.figures.bytes as f64 / seconds.max(1e-6);
                let title = format!("{}; {level} at {}", told(c), rate(speed));
                Some((*when, speed, title))
            })
            .collect()
    };
    let all: Vec<(Level, Vec<Speed>)> = figures
        .levels
        .iter()
        .map(|l| (l.level, speeds(l.level)))
        .collect();
    let fastest = all
        .iter()
        .flat_map(|(_, points)| points)
        .map(|(_, speed, _)| *speed)
        .fold(0.0, f64::max);
    let unit = 1024f64.powf((fastest.max(1.0).log2() / 10.0).floor());
    let most = scale(&mut canvas, AREA, fastest / unit, &|units| {
        rate(units * unit)
    }) * unit;
    for (level, points) in &all {
        let drawn: Vec<(f64, f64, &str)> = thinned(points, 300)
            .map(|(when, speed, title)| {
                let y = AREA.1 - speed / most * (AREA.1 - AREA.0);
                (canvas.x(*when), y, title.as_str())
            })
            .collect();
        let line: Vec<(f64, f64)> = drawn.iter().map(|(x, y, _)| (*x, *y)).collect();
        canvas.polyline(&line, &format!("curve {}", class(*level)));
        for (x, y, title) in drawn {
            canvas.dot((x, y), 2.5, class(*level), title);
        }
    }
    canvas.finish("how fast checkpoints reached each level")
}

/// What part of its time the job would lose with which interval.
pub fn losses(level: Level, interval: Option<f64>, advice: &Advice) -> String {
    const AREA: (f64, f64) = (10.0, 100.0);
    const POINTS: u32 = 120;
    let lowest = (advice.daly / 30.0).min(interval.unwrap_or(f64::INFINITY) / 2.0);
    let highest = (advice.daly * 30.0).max(interval.unwrap_or(0.0) * 2.0);
    let (from, to) = (lowest.max(1e-3).ln(), highest.ln());
    let mut canvas = Canvas::new(128.0, (from, to));
    let at = |every: f64| loss(every, advice.cost, advice.mtbf, advice.restart);
    let top = (at(advice.daly) * 4.0)
        .max(interval.map_or(0.0, at) * 1.15)
        .clamp(1e-6, 1.0);
    let most = scale(&mut canvas, AREA, top * 100.0, &|percent| {
        format!("{} %", (percent * 1e4).round() / 1e4)
    });
    let y = |part: f64| AREA.1 - (part * 100.0 / most).min(1.0) * (AREA.1 - AREA.0);
    let mut points = Vec::new();
    for point in 0..=POINTS {
        let every = from + (to - from) * f64::from(point) / f64::from(POINTS);
        points.push((canvas.x(every), y(at(every.exp()))));
    }
    canvas.polyline(&points, &format!("curve {}", class(level)));
    let mut tick = 10f64.powf((lowest.max(1e-3)).log10().ceil());
    while tick <= highest {
        let x = canvas.x(tick.ln());
        canvas.line((x, AREA.0), (x, AREA.1), "grid");
        canvas.text(x, AREA.1 + 16.0, "tick middle", &time(tick));
        tick *= 10.0;
    }
    let best = (canvas.x(advice.daly.ln()), y(at(advice.daly)));
    canvas.line((best.0, AREA.0), (best.0, AREA.1), "best");
    canvas.dot(
        best,
        4.5,
        "best-mark",
        &format!("Daly: {}", time(advice.daly)),
    );
    if let Some(every) = interval {
        let here = (canvas.x(every.ln()), y(at(every)));
        canvas.dot(here, 4.5, "here", &format!("configured: {}", time(every)));
        // Below its mark where there is no room above.
        let dy = if here.1 < AREA.0 + 16.0 { 17.0 } else { -7.0 };
        canvas.text(here.0 + 8.0, here.1 + dy, "note", "configured");
    }
    canvas.finish("part of the time lost, by interval")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_numbers() {
        assert_eq!(
            [0.0, 0.3, 7.0, 12.0, 2000.0].map(above),
            [1.0, 0.5, 10.0, 20.0, 2000.0]
        );
        assert_eq!(
            [0.01, 31.0, 4000.0, 1e6].map(step),
            [0.1, 60.0, 7200.0, 1_036_800.0]
        );
        let words = [5.0, 90.0, 1800.0, 9000.0, 200_000.0].map(elapsed);
        assert_eq!(words, ["5 s", "90 s", "30 min", "2:30 h", "2 d 7 h"]);
        assert_eq!(thinned(&[0; 1000], 100).count(), 100);
        assert_eq!(thinned(&[0; 3], 100).count(), 3);
    }
}
