//! The state of a job for Prometheus, in the text format its node exporter reads from files
//! (`--collector.textfile.directory`).

use std::fmt::Write as _;

use crate::Status;

/// Kind, name, help, and the lines' labels with their values.
struct Family<'a> {
    out: &'a mut String,
    job: String,
}

impl Family<'_> {
    fn add(&mut self, kind: &str, name: &str, help: &str, values: &[(&[(&str, &str)], f64)]) {
        if values.is_empty() {
            return;
        }
        // Writing to a String cannot fail.
        let _ = writeln!(
            self.out,
            "# HELP mana_{name} {help}\n# TYPE mana_{name} {kind}"
        );
        for (labels, value) in values {
            let _ = write!(self.out, "mana_{name}{{job=\"{}\"", self.job);
            for (label, text) in *labels {
                let _ = write!(self.out, ",{label}=\"{}\"", escaped(text));
            }
            let _ = writeln!(self.out, "}} {value}");
        }
    }

    fn one(&mut self, kind: &str, name: &str, help: &str, value: Option<f64>) {
        if let Some(value) = value {
            self.add(kind, name, help, &[(&[], value)]);
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

/// Counts fit into the 53 bits of a double for longer than any job runs.
#[allow(
    clippy::cast_precision_loss,
    reason = "the format has no other numbers than doubles"
)]
fn number(count: u64) -> Option<f64> {
    Some(count as f64)
}

/// All metrics of a job. Sizes are bytes, times seconds.
pub(crate) fn text(status: &Status) -> String {
    let mut out = String::new();
    let mut family = Family {
        out: &mut out,
        job: escaped(&status.job),
    };
    let gauge = "gauge";
    let counter = "counter";
    family.one(
        gauge,
        "ranks",
        "Ranks of the job.",
        number(status.size.into()),
    );
    family.one(
        gauge,
        "nodes",
        "Nodes of the job.",
        number(status.nodes.into()),
    );
    family.one(
        gauge,
        "incarnation",
        "Which start of the job this is.",
        number(status.incarnation.into()),
    );
    family.one(
        gauge,
        "uptime_seconds",
        "Since the coordinator started.",
        Some(status.uptime),
    );
    family.add(
        gauge,
        "phase",
        "1 for the phase the job is in.",
        &[(&[("phase", status.phase.as_str())], 1.0)],
    );
    for (name, help, count) in [
        (
            "checkpoints_due_total",
            "Checkpoints that fell due or were asked for.",
            status.due,
        ),
        (
            "checkpoints_covered_total",
            "Due times that passed while a checkpoint was being taken.",
            status.covered,
        ),
        (
            "checkpoints_committed_total",
            "Checkpoints committed.",
            status.committed,
        ),
        (
            "checkpoints_abandoned_total",
            "Checkpoints given up.",
            status.abandoned,
        ),
    ] {
        family.one(counter, name, help, number(count));
    }
    let current = status.current.as_ref();
    family.one(
        gauge,
        "checkpoint_seconds",
        "How long the checkpoint being taken is under way (0: none is).",
        Some(current.map_or(0.0, |c| c.seconds)),
    );
    family.one(
        gauge,
        "checkpoint_awaited_ranks",
        "Ranks the checkpoint being taken waits for.",
        Some(current.map_or(0.0, |c| f64::from(c.waits_for))),
    );
    if let Some(last) = &status.last {
        for (name, help, value) in [
            (
                "last_checkpoint_bytes",
                "Size of all images of the last checkpoint.",
                number(last.bytes),
            ),
            (
                "last_checkpoint_seconds",
                "From intent to commit of the last checkpoint.",
                Some(last.seconds),
            ),
            (
                "last_checkpoint_stopped_seconds",
                "Longest time a rank was stopped by the last checkpoint.",
                Some(last.stopped),
            ),
            (
                "last_checkpoint_write_seconds",
                "Time to write the images of the last checkpoint.",
                Some(last.write),
            ),
        ] {
            family.one(gauge, name, help, value);
        }
    }
    type Field = fn(&crate::LevelStatus) -> Option<f64>;
    let fields: [(&str, &str, Field); 6] = [
        (
            "level_interval_seconds",
            "Time between checkpoints of the level.",
            |l| l.interval,
        ),
        (
            "level_next_due_seconds",
            "Time until the next checkpoint of the level (negative: overdue).",
            |l| l.next_due,
        ),
        (
            "level_generation",
            "Newest checkpoint complete on the level.",
            |l| l.last.and_then(|id| number(id.number)),
        ),
        (
            "level_age_seconds",
            "Time since that checkpoint was complete.",
            |l| l.age,
        ),
        ("level_bytes", "Size of that checkpoint.", |l| {
            l.bytes.and_then(number)
        }),
        (
            "level_bandwidth_bytes_per_second",
            "How fast that checkpoint was brought to the level.",
            |l| l.bandwidth,
        ),
    ];
    for (name, help, field) in fields {
        let labels: Vec<([(&str, &str); 1], f64)> = status
            .levels
            .iter()
            .filter(|level| level.enabled)
            .filter_map(|level| Some(([("level", level.level.name())], field(level)?)))
            .collect();
        let values: Vec<(&[(&str, &str)], f64)> =
            labels.iter().map(|(l, value)| (&l[..], *value)).collect();
        family.add(gauge, name, help, &values);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{GenerationId, Level, LevelStatus};

    #[test]
    fn the_format_is_what_the_exporter_reads() {
        let status = Status {
            job: "a\"b".into(),
            size: 4,
            phase: "running".into(),
            covered: 1,
            committed: 7,
            levels: vec![LevelStatus {
                level: Level::Partner,
                enabled: true,
                interval: Some(60.0),
                next_due: None,
                last: Some(GenerationId {
                    incarnation: 2,
                    number: 9,
                }),
                age: Some(1.5),
                bytes: Some(1 << 30),
                seconds: Some(2.0),
                bandwidth: Some(5e8),
                survives: String::new(),
            }],
            ..Status::default()
        };
        let text = text(&status);
        for line in [
            "# TYPE mana_checkpoints_committed_total counter",
            "mana_checkpoints_committed_total{job=\"a\\\"b\"} 7",
            "mana_phase{job=\"a\\\"b\",phase=\"running\"} 1",
            "mana_level_generation{job=\"a\\\"b\",level=\"partner\"} 9",
            "mana_level_bytes{job=\"a\\\"b\",level=\"partner\"} 1073741824",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        // Each line is a comment, or a name with labels and one number.
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').expect("a value");
            assert!(name.starts_with("mana_") && name.ends_with('}'), "{line}");
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
        assert!(!text.contains("next_due"), "{text}");
    }
}
