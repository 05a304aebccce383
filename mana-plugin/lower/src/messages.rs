//! The log back end: one `write(2)` per line, prefixed with job, rank and host, to standard error or the
//! log file of the configuration.
//!
//! Lower half only, any thread. Nothing here allocates while a lock is held, and a line is never
//! split over two writes, so lines of several ranks do not mix within a terminal or pipe.

use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::OnceLock;

use libckpt::lines::{Lines, Speaker};
use mana::spec::LaunchSpec;

struct Prefix {
    job: String,
    host: String,
    verbose: log::LevelFilter,
    lines: Lines,
}

static PREFIX: OnceLock<Prefix> = OnceLock::new();
static RANK: AtomicI32 = AtomicI32::new(-1);
static BACK_END: BackEnd = BackEnd;

struct BackEnd;

impl log::Log for BackEnd {
    fn enabled(&self, metadata: &log::Metadata) -> bool {
        PREFIX.get().is_some_and(|p| metadata.level() <= p.verbose)
    }

    fn log(&self, record: &log::Record) {
        if self.enabled(record.metadata()) {
            say(record.level(), &record.args().to_string());
        }
    }

    fn flush(&self) {}
}

/// Installs the back end. The level comes from `MANA_LOG` (`error`, `warn`, `info`, `debug`, `trace`),
/// else from the configuration; `info` unless told, `warn` with `--quiet`.
pub fn install(spec: &LaunchSpec) {
    let usual = match (spec.config.log_level, spec.quiet) {
        (Some(level), _) => level.into(),
        (None, true) => log::LevelFilter::Warn,
        (None, false) => log::LevelFilter::Info,
    };
    let verbose = std::env::var("MANA_LOG")
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(usual);
    let host = hostname::get()
        .map(|h| h.to_string_lossy().into_owned())
        .unwrap_or_else(|_| "?".into());
    let short = host.split('.').next().unwrap_or("?").to_owned();
    let _ = PREFIX.set(Prefix {
        job: spec.identity.clone(),
        host: short,
        verbose,
        lines: spec.config.lines.clone(),
    });
    log::set_max_level(verbose);
    // A second call finds the back end installed already, which is as good.
    let _ = log::set_logger(&BACK_END);
}

/// From here on lines carry this rank.
pub fn set_rank(rank: u32) {
    RANK.store(i32::try_from(rank).unwrap_or(-1), Ordering::Relaxed);
}

fn say(level: log::Level, text: &str) {
    let rank = u32::try_from(RANK.load(Ordering::Relaxed)).ok();
    match PREFIX.get() {
        Some(prefix) => {
            let speaker = Speaker {
                job: Some(&prefix.job),
                rank,
                host: &prefix.host,
            };
            prefix.lines.write(level, speaker, text);
        }
        None => Lines::default().write(level, Speaker::default(), text),
    }
}

/// Writes one prefixed line whatever the level.
pub fn line(text: std::fmt::Arguments) {
    say(log::Level::Info, &text.to_string());
}

/// Writes one prefixed line about what went wrong whatever the level.
pub fn error(text: std::fmt::Arguments) {
    say(log::Level::Error, &text.to_string());
}

/// The exit code of our own failures: 99, or `MANA_FAIL_RC`.
pub fn failure_code() -> i32 {
    std::env::var("MANA_FAIL_RC")
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(99)
}

/// One line that names what failed and the next step; then the process ends with [`failure_code`].
pub fn fail(text: std::fmt::Arguments) -> ! {
    error(text);
    end()
}

/// The process ends with [`failure_code`]; why has been said.
pub fn end() -> ! {
    end_with(failure_code())
}

/// The process ends with `code`; why has been said.
pub fn end_with(code: i32) -> ! {
    // SAFETY: _exit has no preconditions. Destructors and exit handlers of libraries that may be in
    // any state (the MPI library among them) are skipped on purpose.
    unsafe { libc::_exit(code) }
}
