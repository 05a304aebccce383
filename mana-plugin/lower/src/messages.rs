//! The log back end: one `write(2)` per line, prefixed with job, rank and host.
//!
//! Lower half only, any thread. Nothing here allocates while a lock is held, and a line is never
//! split over two writes, so lines of several ranks do not mix within a terminal or pipe.

use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::OnceLock;

struct Prefix {
    job: String,
    host: String,
    verbose: log::LevelFilter,
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
            let note = match record.level() {
                log::Level::Error => "error: ",
                log::Level::Warn => "warning: ",
                _ => "",
            };
            line(format_args!("{note}{}", record.args()));
        }
    }

    fn flush(&self) {}
}

/// Installs the back end. `job` is the job's identity; the level comes from `MANA_LOG`
/// (`error`, `warn`, `info`, `debug`, `trace`; `info` unless told, `warn` with `--quiet`).
pub fn install(job: &str, quiet: bool) {
    let usual = if quiet {
        log::LevelFilter::Warn
    } else {
        log::LevelFilter::Info
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
        job: job.to_owned(),
        host: short,
        verbose,
    });
    log::set_max_level(verbose);
    // A second call finds the back end installed already, which is as good.
    let _ = log::set_logger(&BACK_END);
}

/// From here on lines carry this rank.
pub fn set_rank(rank: u32) {
    RANK.store(i32::try_from(rank).unwrap_or(-1), Ordering::Relaxed);
}

/// Writes one prefixed line to standard error whatever the level.
pub fn line(text: std::fmt::Arguments) {
    let rank = RANK.load(Ordering::Relaxed);
    let whole = match (PREFIX.get(), rank) {
        (Some(p), r) if r >= 0 => format!("mana[job {} rank {r} host {}] {text}\n", p.job, p.host),
        (Some(p), _) => format!("mana[job {} host {}] {text}\n", p.job, p.host),
        (None, _) => format!("mana: {text}\n"),
    };
    // Without the standard library's lock: another thread may hold it when the program forks, and the
    // child could never speak.
    let mut rest = whole.as_bytes();
    while !rest.is_empty() {
        // SAFETY: writes from a live slice.
        let n = unsafe { libc::write(2, rest.as_ptr().cast(), rest.len()) };
        match usize::try_from(n) {
            Ok(n) if n > 0 => rest = rest.get(n..).unwrap_or_default(),
            _ if std::io::Error::last_os_error().kind() == std::io::ErrorKind::Interrupted => {}
            _ => return,
        }
    }
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
    line(format_args!("error: {text}"));
    end()
}

/// The process ends with [`failure_code`]; why has been said.
pub fn end() -> ! {
    // SAFETY: _exit has no preconditions. Destructors and exit handlers of libraries that may be in
    // any state (the MPI library among them) are skipped on purpose.
    unsafe { libc::_exit(failure_code()) }
}
