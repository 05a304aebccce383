//! `mana fail-node`: the loss of simulated nodes, for tests and demonstrations.
//!
//! All processes of a node are killed (the ranks and whatever they have started, image writers
//! included), then the job's part of its storage is deleted. Nobody is told: the job has to notice.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use mana_control::RankStatus;
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;

use crate::cli;
use crate::job;
use crate::message::{short_host, Failure};
use crate::settings;
use crate::view::text::ranges;

/// How long killed processes may take to be gone.
const GONE_LIMIT: Duration = Duration::from_secs(20);

/// Kills and deletes.
pub fn fail(options: &cli::FailNode) -> Result<i32, Failure> {
    let needed = ["global_ckpt_dir", "local_ckpt_dir"];
    let config = settings::load_for(&needed, &options.job.settings)?;
    if !config.test_mode {
        return Err(Failure::new(
            "fail-node works on simulated nodes only: the configuration has no test_mode = true",
        ));
    }
    let rendezvous = job::running(&options.job)?;
    let state = job::connect(&rendezvous, &options.job)?.status()?;
    let is_on = |node: &u32| state.ranks.iter().any(|r| r.node == *node);
    if let Some(node) = options.nodes.iter().find(|node| !is_on(node)) {
        return Err(Failure::new(format!(
            "job {}: no rank is on node {node} (nodes 0 to {})",
            state.job,
            state.nodes.saturating_sub(1)
        )));
    }
    let of_the_lost = |r: &&RankStatus| options.nodes.contains(&r.node);
    let ranks: Vec<_> = state.ranks.iter().filter(of_the_lost).collect();
    let here = short_host();
    if let Some(other) = ranks
        .iter()
        .find(|r| r.host.split('.').next() != Some(here.as_str()))
    {
        return Err(Failure::new(format!(
            "rank {} of node {} runs on {}: run this there",
            other.rank, other.node, other.host
        )));
    }
    let mut pids = Vec::new();
    for rank in &ranks {
        let pid = i32::try_from(rank.pid).map_err(|_| {
            Failure::new(format!("rank {}: {} is no process id", rank.rank, rank.pid))
        })?;
        if belongs_to_mana(pid) {
            pids.push(Pid::from_raw(pid));
        }
    }
    // Stopped processes start no new children while theirs are looked for.
    for pid in &pids {
        signal(*pid, Signal::SIGSTOP)?;
    }
    let mut all = descendants(&pids)?;
    all.extend(&pids);
    for pid in &all {
        signal(*pid, Signal::SIGKILL)?;
    }
    wait_gone(&all)?;
    let numbers: Vec<u32> = ranks.iter().map(|r| r.rank).collect();
    let nodes = ranges(&sorted(&options.nodes));
    println!(
        "node {nodes}: killed rank {} ({} processes)",
        ranges(&numbers),
        all.len()
    );
    if !options.keep_storage {
        for node in sorted(&options.nodes) {
            let storage = settings::node_dir(&config, node, &rendezvous.job);
            delete(&storage)?;
            println!("node {node}: deleted {}", storage.display());
        }
    }
    Ok(0)
}

fn sorted(nodes: &[u32]) -> Vec<u32> {
    let mut nodes = nodes.to_vec();
    nodes.sort_unstable();
    nodes.dedup();
    nodes
}

/// Whether a process is one of ours: its number may have been given to another since.
fn belongs_to_mana(pid: i32) -> bool {
    fs::read_link(format!("/proc/{pid}/exe"))
        .ok()
        .and_then(|path| {
            path.file_name()
                .map(|n| n.to_string_lossy().starts_with("mana-lower"))
        })
        .unwrap_or(false)
}

fn signal(pid: Pid, signal: Signal) -> Result<(), Failure> {
    match kill(pid, signal) {
        Ok(()) | Err(nix::Error::ESRCH) => Ok(()),
        Err(e) => Err(Failure::new(format!(
            "cannot send {signal} to process {pid}: {e}"
        ))),
    }
}

/// All processes below the given ones.
fn descendants(roots: &[Pid]) -> Result<Vec<Pid>, Failure> {
    let mut children: HashMap<Pid, Vec<Pid>> = HashMap::new();
    let entries =
        fs::read_dir("/proc").map_err(|e| Failure::new(format!("cannot list /proc: {e}")))?;
    for entry in entries.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|n| n.parse::<i32>().ok())
        else {
            continue;
        };
        if let Some(parent) = parent_and_state(pid).map(|(parent, _)| parent) {
            children
                .entry(Pid::from_raw(parent))
                .or_default()
                .push(Pid::from_raw(pid));
        }
    }
    let mut found = Vec::new();
    let mut open = roots.to_vec();
    while let Some(pid) = open.pop() {
        let below = children.remove(&pid).unwrap_or_default();
        found.extend(&below);
        open.extend(below);
    }
    Ok(found)
}

/// Parent and state letter of `/proc/PID/stat`.
fn parent_and_state(pid: i32) -> Option<(i32, char)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything, a closing parenthesis too.
    let (_, rest) = text.rsplit_once(')')?;
    let mut words = rest.split_whitespace();
    let state = words.next()?.chars().next()?;
    Some((words.next()?.parse().ok()?, state))
}

/// Waits until none of them runs any more (a zombie does not).
fn wait_gone(pids: &[Pid]) -> Result<(), Failure> {
    let deadline = Instant::now() + GONE_LIMIT;
    for pid in pids {
        while matches!(parent_and_state(pid.as_raw()), Some((_, state)) if !matches!(state, 'Z' | 'X'))
        {
            if Instant::now() > deadline {
                return Err(Failure::new(format!(
                    "process {pid} was killed, but is still there after {} s",
                    GONE_LIMIT.as_secs()
                )));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    Ok(())
}

fn delete(storage: &Path) -> Result<(), Failure> {
    match fs::remove_dir_all(storage) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Failure::new(format!(
            "cannot delete {}: {e}",
            storage.display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descendants_are_found_and_gone_after_a_kill() {
        let mut child = std::process::Command::new("sh")
            .args(["-c", "sleep 60 & wait"])
            .spawn()
            .expect("a shell");
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut below = Vec::new();
        while below.is_empty() && Instant::now() < deadline {
            below = descendants(&[pid]).expect("a list");
        }
        assert_eq!(below.len(), 1);
        assert!(!belongs_to_mana(pid.as_raw()));
        for one in below.iter().chain([&pid]) {
            signal(*one, Signal::SIGKILL).expect("killed");
        }
        wait_gone(&below).expect("gone");
        child.wait().expect("reaped");
    }
}
