//! Child processes of the program: live ones make a checkpoint wait. Lower half.

use std::sync::{Mutex, PoisonError};

/// What is known of the children of this process.
#[derive(Default)]
struct Known {
    /// Forked by the program.
    forked: Vec<i32>,
    /// Started by the lower half (daemons of an MPI library).
    lower: Vec<i32>,
}

static KNOWN: Mutex<Known> = Mutex::new(Known {
    forked: Vec::new(),
    lower: Vec::new(),
});

/// Keeps what is known still across a fork.
pub fn hold() -> impl Drop {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A forked child has none of its parent's children.
pub fn forget() {
    *KNOWN.lock().unwrap_or_else(PoisonError::into_inner) = Known::default();
}

/// The program has forked.
pub fn forked(pid: i32) {
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    known.forked.retain(|&c| alive(c));
    known.forked.push(pid);
}

/// The children that exist now are the lower half's, but for those the program has forked.
pub fn all_are_lower() {
    let all = all();
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    known.lower = all
        .into_iter()
        .filter(|c| !known.forked.contains(c))
        .collect();
}

/// The children of all threads, where the kernel tells.
fn all() -> Vec<i32> {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else {
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

/// The children of the threads of the program. Those of control threads (writers of images) are
/// not its.
fn of_program() -> Vec<i32> {
    let mut out = Vec::new();
    for thread in crate::threads::live() {
        let tid = thread.tid.load(std::sync::atomic::Ordering::Relaxed);
        let list =
            std::fs::read_to_string(format!("/proc/self/task/{tid}/children")).unwrap_or_default();
        out.extend(
            list.split_whitespace()
                .filter_map(|p| p.parse::<i32>().ok()),
        );
    }
    out
}

fn alive(pid: i32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    // The state and the parent follow the name, which ends with the last parenthesis.
    let mut words = stat.rsplit(')').next().unwrap_or("").split_whitespace();
    let state = words.next().unwrap_or("Z");
    let parent = words.next().and_then(|p| p.parse().ok());
    state != "Z" && state != "X" && parent == i32::try_from(std::process::id()).ok()
}

/// A child of the program that is alive, with its name.
pub fn living() -> Option<(i32, String)> {
    let mut candidates = of_program();
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    known.forked.retain(|&c| alive(c));
    candidates.extend(&known.forked);
    let pid = candidates
        .into_iter()
        .find(|c| !known.lower.contains(c) && alive(*c))?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some((pid, name.trim_end().to_owned()))
}
