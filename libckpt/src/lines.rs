//! Lines about what happens: one a happening, on standard error or in a file, as text or JSON.
//!
//! Each line is one `write(2)`, so that lines of several ranks do not mix. A log file is opened for each
//! line: the process keeps no descriptor that the program could meet, and the file may be moved away at
//! any time. If it cannot be written the line goes to standard error.
//!
//! ```text
//!  mana[job 4711 rank 3 host n07] warning: the text
//!  {"time":1762000000.123,"level":"warning","job":"4711","rank":3,"host":"n07","text":"the text"}
//! ```
//! In a file, text lines begin with the time (UTC, ISO 8601).

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Lines {
    /// A file; with one, only errors go to standard error too.
    pub file: Option<PathBuf>,
    /// How they look.
    pub format: Format,
}

/// Who speaks, as far as that is known.
#[derive(Debug, Clone, Copy, Default)]
pub struct Speaker<'a> {
    /// The job's identity.
    pub job: Option<&'a str>,
    /// The rank.
    pub rank: Option<u32>,
    /// The host.
    pub host: &'a str,
}

impl Speaker<'_> {
    /// "mana[job 4711 rank 3 host n07] ", or "mana: ".
    fn prefix(&self) -> String {
        let mut inner = String::new();
        // Writing to a String cannot fail.
        if let Some(job) = self.job {
            let _ = write!(inner, "job {job} ");
        }
        if let Some(rank) = self.rank {
            let _ = write!(inner, "rank {rank} ");
        }
        if inner.is_empty() {
            return "mana: ".into();
        }
        format!("mana[{inner}host {}] ", self.host)
    }
}

fn level_name(level: log::Level) -> &'static str {
    match level {
        log::Level::Error => "error",
        log::Level::Warn => "warning",
        log::Level::Info => "info",
        log::Level::Debug => "debug",
        log::Level::Trace => "trace",
    }
}

impl Lines {
    /// Writes one line. Errors are never lost: they go to standard error too.
    pub fn write(&self, level: log::Level, speaker: Speaker, text: &str) {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let filed = self.file.as_ref().is_some_and(|path| {
            let line = self.line(level, speaker, text, Some(since));
            let opened = OpenOptions::new().create(true).append(true).open(path);
            opened.is_ok_and(|mut file| file.write_all(line.as_bytes()).is_ok())
        });
        if !filed || level == log::Level::Error {
            let line = self.line(level, speaker, text, None);
            to_standard_error(line.as_bytes());
        }
    }

    /// The line; text has a time only where `since` (1970) is given.
    fn line(
        &self,
        level: log::Level,
        speaker: Speaker,
        text: &str,
        since: Option<Duration>,
    ) -> String {
        if self.format == Format::Json {
            let since = since.unwrap_or_else(|| {
                SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default()
            });
            return json(level, speaker, text, since);
        }
        let time = since.map(|since| format!("{} ", iso(since)));
        let note = match level {
            log::Level::Error => "error: ",
            log::Level::Warn => "warning: ",
            _ => "",
        };
        format!(
            "{}{}{note}{text}\n",
            time.unwrap_or_default(),
            speaker.prefix()
        )
    }
}

fn json(level: log::Level, speaker: Speaker, text: &str, since: Duration) -> String {
    let mut line = format!(
        "{{\"time\":{}.{:03},\"level\":\"{}\"",
        since.as_secs(),
        since.subsec_millis(),
        level_name(level)
    );
    // Writing to a String cannot fail.
    if let Some(job) = speaker.job {
        let _ = write!(line, ",\"job\":{}", quoted(job));
    }
    if let Some(rank) = speaker.rank {
        let _ = write!(line, ",\"rank\":{rank}");
    }
    if !speaker.host.is_empty() {
        let _ = write!(line, ",\"host\":{}", quoted(speaker.host));
    }
    let _ = writeln!(line, ",\"text\":{}}}", quoted(text));
    line
}

/// A string of JSON (RFC 8259, section 7).
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c < ' ' => {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// UTC as `2026-11-21T21:45:00.123Z`; the civil date from days by the usual 400-year cycle.
pub fn iso(since: Duration) -> String {
    let seconds = since.as_secs();
    let (year, month, day) = civil(seconds / 86_400);
    let of_day = seconds % 86_400;
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60,
        since.subsec_millis()
    )
}

/// Year, month and day of a number of days since 1970-01-01.
pub fn civil(days: u64) -> (u64, u64, u64) {
    // Years begin in March here, so that the day that comes and goes is the last one. 719,468 days lie
    // between 0000-03-01 and 1970-01-01; 400 years have 146,097 days.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

/// Without the standard library's lock: another thread may hold it when the program forks, and the child could
/// never speak. A failure is told nowhere, as this is where it would be told.
fn to_standard_error(mut rest: &[u8]) {
    while !rest.is_empty() {
        match nix::unistd::write(std::io::stderr(), rest) {
            Ok(n) if n > 0 => rest = rest.get(n..).unwrap_or_default(),
            Err(nix::errno::Errno::EINTR) => {}
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHO: Speaker = Speaker {
        job: Some("4711"),
        rank: Some(3),
        host: "n07",
    };

    #[test]
    fn both_forms() {
        let since = Duration::from_millis(951_782_400_042);
        let text = Lines::default();
        assert_eq!(
            text.line(log::Level::Warn, WHO, "hear", None),
            "mana[job 4711 rank 3 host n07] warning: hear\n"
        );
        assert_eq!(
            text.line(log::Level::Info, Speaker::default(), "hear", Some(since)),
            "2000-02-29T00:00:00.042Z mana: hear\n"
        );
        let json = Lines {
            format: Format::Json,
            ..Lines::default()
        };
        assert_eq!(
            json.line(log::Level::Error, WHO, "a \"b\"\\\u{1}\n", Some(since)),
            "{\"time\":951782400.042,\"level\":\"error\",\"job\":\"4711\",\"rank\":3,\"host\":\"n07\",\"text\":\"a \\\"b\\\"\\\\\\u0001\\n\"}\n"
        );
    }

    #[test]
    fn dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(20_514), (2026, 3, 2));
        assert_eq!(civil(47_540), (2100, 2, 28));
        assert_eq!(civil(47_541), (2100, 3, 1));
    }

    #[test]
    fn a_file_takes_what_is_said() {
        let place = tempfile::tempdir().expect("a directory");
        let lines = Lines {
            file: Some(place.path().join("log")),
            format: Format::Text,
        };
        lines.write(log::Level::Info, WHO, "one");
        lines.write(log::Level::Info, WHO, "two");
        let text = std::fs::read_to_string(place.path().join("log")).expect("text");
        assert_eq!(text.lines().count(), 2);
        assert!(
            text.lines().all(|l| l.contains("Z mana[job 4711")),
            "{text}"
        );
    }
}
