//! Lines on standard error, in the form all parts of mana use, and how a command fails.

use std::ffi::OsString;
use std::fmt;

use libckpt::lines::{self, Lines};

/// A command could not do its work: one line for the user, and our exit code.
#[derive(Debug)]
pub struct Failure {
    /// What, on which object, why, and the next step.
    pub text: String,
    /// Every rank of the job comes to the same conclusion: rank 0 says it.
    pub same_everywhere: bool,
    /// It may pass: another start may come further.
    pub passing: bool,
}

impl Failure {
    /// A failure of this process.
    pub fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            same_everywhere: false,
            passing: false,
        }
    }

    /// A failure that all ranks share.
    pub fn of_job(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            same_everywhere: true,
            passing: false,
        }
    }

    /// Of a job's records, which all ranks read alike.
    pub fn of_records(error: &libckpt::Error) -> Self {
        Self {
            passing: error.is_passing(),
            ..Self::of_job(chain(error))
        }
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(chain(&error))
    }
}

/// The text of an error and of its causes.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// Who speaks: filled in as far as it is known.
#[derive(Clone, Debug, Default)]
pub struct Speaker {
    /// The job's identity.
    pub job: Option<String>,
    /// The rank as the launcher gave it.
    pub rank: Option<u32>,
    /// Where lines go.
    pub lines: Lines,
}

impl Speaker {
    /// Writes one line.
    pub fn say(&self, text: impl fmt::Display) {
        self.write(log::Level::Info, text);
    }

    /// Writes one line about what went wrong.
    pub fn error(&self, text: impl fmt::Display) {
        self.write(log::Level::Error, text);
    }

    fn write(&self, level: log::Level, text: impl fmt::Display) {
        let host = short_host();
        let speaker = lines::Speaker {
            job: self.job.as_deref(),
            rank: self.rank,
            host: &host,
        };
        self.lines.write(level, speaker, &text.to_string());
    }
}

/// The host's name without its domain.
pub fn short_host() -> String {
    let name = hostname::get().unwrap_or_else(|_| OsString::from("?"));
    let name = name.to_string_lossy();
    name.split('.').next().unwrap_or("?").to_owned()
}

/// Our exit code for failures of our own: 99, or `MANA_FAIL_RC`.
pub fn failure_code() -> i32 {
    std::env::var("MANA_FAIL_RC")
        .ok()
        .and_then(|value| value.parse().ok())
        .filter(|code| (1..=255).contains(code))
        .unwrap_or(99)
}
