//! The rank's part of a checkpoint of its tree: every process stands still, then all are taken into
//! one image. Lower half of the root, agent's thread.
//!
//! ```text
//!  stop      ask all to park; again until a look at the tree finds nobody who runs
//!  take      descriptors of all -> one record; then state and memory of each
//!  release   all run on, whatever happened before
//! ```

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use mana_snapshot::headroom;
use process_state::several::{self, Held};
use process_state::{FileSync, MemoryBlobs};
use split_process::tree::{self, Place, Table};
use split_process::{Parked, Region};

use super::member;
use super::record::{Kin, Member, Tree};
use super::wire::{self, Listener};
use super::{verb, STEP};
use crate::{image, Failure};

/// How long a process may be there that is in no place: it is between its making and its program.
const GRACE: Duration = Duration::from_secs(2);

/// Number of the checkpoint in what is asked.
static SEQUENCE: AtomicU32 = AtomicU32::new(1);

fn asked(what: u32) -> u32 {
    SEQUENCE.load(Ordering::Relaxed) << verb::BITS | what
}

/// What the kernel tells of a process.
struct Told {
    state: char,
    name: String,
    /// The signal its end sends; 0 for helpers of the lower half.
    exit_signal: i32,
    /// The signal that has ended it, if it has ended and was not waited for.
    ended_by: i32,
}

fn told(real: i32) -> Option<Told> {
    let stat = std::fs::read_to_string(format!("/proc/{real}/stat")).ok()?;
    let (begin, rest) = stat.rsplit_once(')')?;
    let name = begin.split_once('(')?.1.to_owned();
    let words: Vec<&str> = rest.split_whitespace().collect();
    Some(Told {
        state: words.first()?.chars().next()?,
        name,
        exit_signal: words.get(35)?.parse().ok()?,
        ended_by: words.get(49).map_or(0, |w| w.parse().unwrap_or(0) & 0x7f),
    })
}

fn runs(real: i32) -> Option<Told> {
    told(real).filter(|t| !matches!(t.state, 'Z' | 'X'))
}

/// The processes that are not the root and have not ended, in the order of their numbers.
fn living(table: &'static Table) -> Vec<(&'static Place, i32)> {
    let mut all: Vec<_> = table
        .places()
        .filter_map(|place| Some((place, place.real()?)))
        .filter(|&(_, real)| real != table.root() && runs(real).is_some())
        .collect();
    all.sort_by_key(|(place, _)| place.id());
    all
}

/// The children of all threads of a process.
fn children(real: i32) -> Vec<i32> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{real}/task")) else {
        return Vec::new();
    };
    let lists = tasks
        .flatten()
        .filter_map(|t| std::fs::read_to_string(t.path().join("children")).ok());
    lists
        .flat_map(|l| {
            l.split_whitespace()
                .filter_map(|p| p.parse().ok())
                .collect::<Vec<i32>>()
        })
        .collect()
}

/// A child of one of the tree that has no place in it, with its name.
fn stranger(table: &'static Table, members: &[(&'static Place, i32)]) -> Option<(i32, String)> {
    let known: BTreeSet<i32> = table.places().filter_map(Place::real).collect();
    let all = members.iter().map(|m| m.1).chain([table.root()]);
    all.flat_map(children)
        .filter(|child| !known.contains(child))
        .find_map(|child| {
            let told = told(child).filter(|t| t.exit_signal != 0)?;
            Some((child, told.name))
        })
}

fn refusal(real: i32, name: &str, why: &str) -> String {
    format!(
        "child process {real} ({name}) of the program is alive; it cannot be checkpointed: {why}"
    )
}

/// Brings every process of the tree to a stand; the root's own threads are parked already.
///
/// # Errors
/// Names the process that does not stand still, or cannot be carried, and why.
pub fn stop(deadline: Duration) -> Result<(), String> {
    let Some(table) = tree::table() else {
        return Ok(());
    };
    table.sweep();
    SEQUENCE.fetch_add(1, Ordering::Relaxed);
    let begin = Instant::now();
    let wanted = asked(verb::PARK);
    let mut pause = Duration::from_micros(100);
    loop {
        let members = living(table);
        let mut missing = None;
        for &(place, real) in &members {
            let name = || runs(real).map(|t| t.name).unwrap_or_default();
            if place.is_plain() {
                let why = "it has executed a program that cannot be carried (static, set-uid, for another processor, MPI)";
                return Err(refusal(real, &name(), why));
            }
            if place.request() != wanted {
                place.ask(wanted);
            }
            match place.answer() {
                answer if answer == wanted => {}
                answer if answer == wanted | verb::FAILED => {
                    return Err(refusal(real, &name(), &place.text()));
                }
                _ => missing = Some(real),
            }
        }
        let stranger = stranger(table, &members);
        if missing.is_none() && stranger.is_none() {
            return lost(table).map_or(Ok(()), Err);
        }
        let waited = begin.elapsed();
        if let (None, Some((real, name)), true) = (missing, &stranger, waited > GRACE) {
            let why = "it is not under control (made by a clone or execveat of its own kind)";
            return Err(refusal(*real, name, why));
        }
        if waited > deadline {
            let real = missing.or(stranger.map(|s| s.0)).unwrap_or(0);
            let name = runs(real).map(|t| t.name).unwrap_or_default();
            return Err(refusal(real, &name, "it did not stand still in time"));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(2));
    }
}

/// Who was ended by a signal that announces the end: it came to a process before that could hold it back
/// (one that is being executed, or is not under control). What is left is no state to go on from.
fn lost(table: &'static Table) -> Option<String> {
    let waited_for = table.loss();
    let zombie = || {
        table.places().find_map(|place| {
            let told = told(place.real()?).filter(|t| t.state == 'Z')?;
            let by = told.ended_by;
            let from_outside = table.is_announced(by) && place.ended_by_tree() != by;
            from_outside.then(|| (place.id(), by))
        })
    };
    let (id, signal) = waited_for.or_else(zombie)?;
    Some(format!(
        "process {id} of the program was ended by signal {signal} from outside: what is left of the program is not kept"
    ))
}

/// Lets all run on.
pub fn release() {
    if let Some(table) = tree::table() {
        for place in table.places().filter(|p| p.real() != Some(table.root())) {
            if place.request() & ((1 << verb::BITS) - 1) != verb::RUN {
                place.ask(asked(verb::RUN));
            }
        }
    }
}

/// Whether there is anybody beside the root, or a child of its to be waited for.
pub fn is_alone() -> bool {
    tree::table().is_none_or(|table| {
        table
            .places()
            .all(|place| place.real() == Some(table.root()))
    })
}

/// What was taken of a tree.
pub struct Taken {
    /// Of the root, as of a member.
    pub own: Member,
    pub tree: Tree,
    /// The members' memory, the runs of their regions one after the other.
    pub memory: Vec<Vec<u8>>,
    pub files: FileSync,
}

/// Takes all processes, which stand still. `clones`: where those of files written in place go.
///
/// # Errors
/// When something cannot be had.
pub fn take(parked: &Parked, clones: &Path) -> Result<Taken, Failure> {
    let table = tree::table().ok_or("there is no tree")?;
    let place = tree::own().ok_or("there is no tree")?;
    table.forget_claims();
    let members = living(table);
    let (ready, made_ready) = channel();
    let (files_done, files) = channel();
    let (go, may_go) = channel();
    std::thread::scope(|scope| {
        let list = &members;
        let collector = scope.spawn(move || -> Result<_, Failure> {
            crate::control::own_descriptors();
            let (listener, number) = Listener::bind()?;
            table.set_address(number);
            let _ = ready.send(());
            let files = descriptors(table, &listener, list, clones)?;
            let _ = files_done.send(());
            // The root's own state is taken before that of others: both claim objects.
            if may_go.recv().is_err() {
                return Err("the root's state could not be taken".into());
            }
            let states = states(&listener, list)?;
            Ok((files, states))
        });
        let mut own = None;
        if made_ready.recv().is_ok() {
            member::send_files(parked)?;
            if files.recv().is_ok() {
                own = Some(member::state_of(parked, place)?);
                let _ = go.send(());
            }
        }
        drop(go);
        let done = collector
            .join()
            .map_err(|_| "taking child processes has panicked")?;
        let (files, states) = done?;
        let own = own.ok_or("the root's state could not be taken")?;
        let (members, memory) = states.into_iter().unzip();
        let (shared, blobs, sync) = files;
        let tree = Tree {
            root: own.kin.clone(),
            files: shared,
            blobs,
            members,
        };
        Ok(Taken {
            own,
            tree,
            memory,
            files: sync,
        })
    })
}

type Files = (several::SharedFiles, MemoryBlobs, FileSync);

/// Copies of everybody's descriptors become one record.
fn descriptors(
    table: &Table,
    listener: &Listener,
    members: &[(&'static Place, i32)],
    clones: &Path,
) -> Result<Files, Failure> {
    let _limit = MoreDescriptors::allow();
    let deadline = Instant::now() + STEP;
    let mut held = Vec::new();
    let processes = std::iter::once((None, table.root()))
        .chain(members.iter().map(|(place, real)| (Some(*place), *real)));
    for (process, (place, real)) in processes.enumerate() {
        let failed = |e: io::Error| about(place, real, &e.to_string());
        if let Some(place) = place {
            place.ask(asked(verb::FILES));
        }
        let mut stream = listener.accept(real, deadline).map_err(failed)?;
        let own = wire::take_descriptors(&mut stream).map_err(failed)?;
        held.extend(own.into_iter().map(|(own, here)| Held {
            process: process as u32,
            fd: own.fd,
            close_on_exec: own.close_on_exec,
            here,
        }));
    }
    let mut blobs = MemoryBlobs::new();
    let shared = image::shared_files(&held, members.len() + 1, clones, &mut blobs)?;
    let sync = FileSync::start(&|_| false, None)?;
    Ok((shared, blobs, sync))
}

/// State and memory of each.
fn states(
    listener: &Listener,
    members: &[(&'static Place, i32)],
) -> Result<Vec<(Member, Vec<u8>)>, Failure> {
    let mut all = Vec::new();
    for &(place, real) in members {
        place.ask(asked(verb::STATE));
        let failed = |e: io::Error| about(Some(place), real, &e.to_string());
        let mut stream = listener
            .accept(real, Instant::now() + STEP)
            .map_err(failed)?;
        let head = wire::take_head(&mut stream).map_err(failed)?;
        let member: Member = postcard::from_bytes(&head)?;
        let bytes = bytes(&member.regions);
        if !headroom::suffices(headroom::available(), bytes, 2) {
            return Err(about(
                Some(place),
                real,
                &format!("memory is short for its {} MiB", bytes >> 20),
            ));
        }
        let memory = wire::take_memory(&mut stream, bytes).map_err(failed)?;
        all.push((member, memory));
    }
    Ok(all)
}

fn bytes(regions: &[Region]) -> u64 {
    regions.iter().flat_map(|r| &r.runs).map(|r| r.len).sum()
}

/// An error of one process; what it has said itself tells more.
fn about(place: Option<&Place>, real: i32, text: &str) -> Failure {
    let said = place.map(Place::text).unwrap_or_default();
    let name = runs(real).map(|t| t.name).unwrap_or_default();
    let text = if said.is_empty() { text } else { &said };
    format!("process {real} ({name}) of the program: {text}").into()
}

/// More open descriptors are allowed while copies of everybody's are here. The program stands still.
struct MoreDescriptors(libc::rlimit);

impl MoreDescriptors {
    fn allow() -> Option<Self> {
        let mut limit = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: the kernel fills the structure.
        if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
            return None;
        }
        let more = libc::rlimit {
            rlim_cur: limit.rlim_max,
            ..limit
        };
        // SAFETY: the structure is only read.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const more) };
        Some(Self(limit))
    }
}

impl Drop for MoreDescriptors {
    fn drop(&mut self) {
        // SAFETY: the structure is only read.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const self.0) };
    }
}

/// The relations of the processes of a tree, the root first.
pub fn kin(tree: &Tree) -> Vec<&Kin> {
    std::iter::once(&tree.root)
        .chain(tree.members.iter().map(|m| &m.kin))
        .collect()
}
