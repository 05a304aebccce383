//! Named fault points: places where a test makes this process die, or its storage stop.
//!
//! *Points* ([`point`]) are steps of a checkpoint or of a recovery. `MANA_FAULT=<name>[:<n>][@<rank>][,hang]`
//! makes a process kill itself with SIGKILL when it comes to point `<name>` for the `<n>`th time
//! (default the first), on rank `<rank>` only if one is given. With `,hang` the thread that comes there stands
//! still for good, as in a file system that does not answer. `docs/testing.md` lists the names.
//!
//! *Operations* ([`operation`]) are single changes of a file system. They are points too, named
//! `store.<operation>`; besides, a test can put a [`Plan`] on a directory that makes one of them fail, or
//! all of them from one on, as if the machine had stopped there.
//!
//! Without either, a point is one relaxed atomic load. Once the first point was passed, [`point`] does
//! not allocate, so that a forked child may come to one.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

/// Nothing was looked at yet.
const UNKNOWN: u8 = 0;
/// No point and no plan is set.
const OFF: u8 = 1;
/// One may be.
const ON: u8 = 2;

static STATE: AtomicU8 = AtomicU8::new(UNKNOWN);
static RANK: AtomicU32 = AtomicU32::new(u32::MAX);
static WANTED: OnceLock<Option<Wanted>> = OnceLock::new();
static PLANS: RwLock<Vec<Arc<Planned>>> = RwLock::new(Vec::new());

/// The point at which this process is to die.
#[derive(Debug)]
struct Wanted {
    name: String,
    rank: Option<u32>,
    left: AtomicU64,
    /// The thread stands still; the process lives.
    hang: bool,
}

fn parse(text: &str) -> Option<Wanted> {
    let (text, hang) = match text.strip_suffix(",hang") {
        Some(text) => (text, true),
        None => (text, false),
    };
    let (text, rank) = match text.split_once('@') {
        Some((t, rank)) => (t, Some(rank.parse().ok()?)),
        None => (text, None),
    };
    let (name, n) = match text.split_once(':') {
        Some((name, n)) => (name, n.parse().ok()?),
        None => (text, 1),
    };
    Some(Wanted {
        name: name.to_owned(),
        rank,
        left: AtomicU64::new(n),
        hang,
    })
}

/// Looks at the environment, once.
fn wanted() -> Option<&'static Wanted> {
    let first = || {
        let text = std::env::var("MANA_FAULT").ok()?;
        let parsed = parse(&text);
        if parsed.is_none() {
            log::warn!("MANA_FAULT={text} is not <point>[:<n>][@<rank>][,hang]: ignored");
        }
        parsed
    };
    let found = WANTED.get_or_init(first).as_ref();
    let state = if found.is_some() { ON } else { OFF };
    let _ = STATE.compare_exchange(UNKNOWN, state, Ordering::Relaxed, Ordering::Relaxed);
    found
}

/// Tells which rank this process is, for `MANA_FAULT=...@<rank>`.
pub fn set_rank(rank: u32) {
    RANK.store(rank, Ordering::Relaxed);
}

/// A step of a checkpoint or a recovery. Does not return if a test wants this process to die here.
#[inline]
pub fn point(name: &str) {
    if STATE.load(Ordering::Relaxed) != OFF {
        arrived(name);
    }
}

#[cold]
fn arrived(name: &str) {
    let Some(wanted) = wanted() else { return };
    let other = |rank: u32| rank != RANK.load(Ordering::Relaxed);
    if wanted.name != name || wanted.rank.is_some_and(other) {
        return;
    }
    if wanted.left.fetch_sub(1, Ordering::Relaxed) == 1 {
        if !wanted.hang {
            // SAFETY: ends this process.
            unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        }
        loop {
            // SAFETY: waits for a signal.
            unsafe { libc::pause() };
        }
    }
}

/// What happens to storage operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Nothing: they are counted.
    Count,
    /// One of them fails with this error number.
    Fail(i32),
    /// From one of them on nothing is changed any more: every operation fails.
    Freeze,
}

#[derive(Debug)]
struct Planned {
    under: PathBuf,
    at: u64,
    how: How,
    names: Mutex<Vec<&'static str>>,
}

/// A disturbance of the storage below one directory. Ends when dropped.
#[derive(Debug)]
pub struct Plan(Arc<Planned>);

impl Plan {
    /// Disturbs operation number `at` (from 1) below `under`, and with [`How::Freeze`] all later ones.
    pub fn new(under: &Path, at: u64, how: How) -> Self {
        let planned = Arc::new(Planned {
            under: under.to_owned(),
            at,
            how,
            names: Mutex::default(),
        });
        wanted();
        let mut plans = PLANS.write().unwrap_or_else(PoisonError::into_inner);
        plans.push(Arc::clone(&planned));
        STATE.store(ON, Ordering::Relaxed);
        Self(planned)
    }

    /// Names of the operations so far, in order.
    pub fn operations(&self) -> Vec<&'static str> {
        let names = self.0.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.clone()
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        let mut plans = PLANS.write().unwrap_or_else(PoisonError::into_inner);
        plans.retain(|p| !Arc::ptr_eq(p, &self.0));
    }
}

/// A change of the file system at `path` is about to be made.
///
/// # Errors
/// When a test wants it to fail; then it must not be made.
#[inline]
pub fn operation(name: &'static str, path: &Path) -> io::Result<()> {
    if STATE.load(Ordering::Relaxed) == OFF {
        return Ok(());
    }
    planned(name, path)
}

#[cold]
fn planned(name: &'static str, path: &Path) -> io::Result<()> {
    arrived(name);
    let plans = PLANS.read().unwrap_or_else(PoisonError::into_inner);
    for plan in plans.iter().filter(|p| path.starts_with(&p.under)) {
        let mut names = plan.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.push(name);
        let count = names.len() as u64;
        match plan.how {
            How::Fail(number) if count == plan.at => {
                return Err(io::Error::from_raw_os_error(number));
            }
            How::Freeze if count >= plan.at => {
                return Err(io::Error::other("the storage has stopped (a test)"));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_parsed() {
        let found = parse("commit.before:3@2").expect("valid");
        assert_eq!(found.name, "commit.before");
        assert_eq!(found.left.load(Ordering::Relaxed), 3);
        assert_eq!(found.rank, Some(2));
        let found = parse("store.rename").expect("valid");
        assert_eq!((found.left.load(Ordering::Relaxed), found.rank), (1, None));
        assert!(!found.hang);
        let found = parse("open.local@2,hang").expect("valid");
        assert_eq!((found.name.as_str(), found.rank), ("open.local", Some(2)));
        assert!(found.hang);
        assert!(parse("a:b").is_none() && parse("a@").is_none());
    }

    #[test]
    fn plans_count_fail_and_freeze_below_their_directory() {
        let (here, there) = (Path::new("/fault/here/x"), Path::new("/fault/there"));
        let plan = Plan::new(Path::new("/fault/here"), 2, How::Freeze);
        assert!(operation("store.a", here).is_ok());
        assert!(operation("store.b", there).is_ok());
        assert!(operation("store.c", here).is_err());
        assert!(operation("store.d", here).is_err());
        assert_eq!(plan.operations(), ["store.a", "store.c", "store.d"]);
        drop(plan);
        assert!(operation("store.a", here).is_ok());
        let plan = Plan::new(Path::new("/fault/here"), 1, How::Fail(libc::ENOSPC));
        let e = operation("store.a", here).expect_err("planned");
        assert_eq!(e.raw_os_error(), Some(libc::ENOSPC));
        assert!(operation("store.a", here).is_ok());
        drop(plan);
    }
}
