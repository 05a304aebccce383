//! Child processes the program has forked: alive ones make a checkpoint wait. Lower half.

use std::sync::{Mutex, PoisonError};

static CHILDREN: Mutex<Vec<i32>> = Mutex::new(Vec::new());

/// The program has forked.
pub fn forked(pid: i32) {
    let mut children = CHILDREN.lock().unwrap_or_else(PoisonError::into_inner);
    children.retain(|&c| alive(c));
    children.push(pid);
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

/// A forked child that is alive, with its name.
pub fn living() -> Option<(i32, String)> {
    let mut children = CHILDREN.lock().unwrap_or_else(PoisonError::into_inner);
    children.retain(|&c| alive(c));
    let pid = *children.first()?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some((pid, name.trim_end().to_owned()))
}
