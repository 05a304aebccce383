//! The directories of the configuration: can they be written, how fast, how much room, what are they.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use libckpt::Config;
use nix::sys::statfs::statfs;
use nix::sys::statvfs::statvfs;

use super::{Finding, Findings, Verdict};
use crate::view::size;
use crate::view::text::rate;

/// Written to find out how fast a directory is, and for how long at most.
const SAMPLE: usize = 128 << 20;
const PIECE: usize = 4 << 20;
const LIMIT: Duration = Duration::from_secs(4);
/// Slower than this a checkpoint of a few GiB takes minutes.
const SLOW: f64 = 50e6;
/// A clock that differs more than this from the file server's.
const SKEW: f64 = 5.0;

/// `login`: Slurm is there, and this is outside its jobs: what is the node's own is another node's.
pub fn look(config: &Config, login: bool) -> Findings {
    let mut found = Findings::new("storage");
    found
        .list
        .extend(look_at("global", &config.global_ckpt_dir, true).list);
    let local = config.local_ckpt_dir.as_path();
    if let Some(name) = undefined(local) {
        found.warning(
            "local_ckpt_dir",
            format!(
                "{}: known in the job only, {name} is not defined here",
                local.display()
            ),
            "look in the job, as its tasks do: srun -N 1 mana doctor",
        );
        return found;
    }
    let mut there = look_at("local", local, true);
    if login {
        there.list.iter_mut().for_each(of_other_nodes);
    }
    found.list.extend(there.list);
    let same = device(&config.global_ckpt_dir)
        .zip(device(local))
        .is_some_and(|(global, local)| global == local);
    if same && !config.test_mode {
        found.warning(
            "levels",
            "global_ckpt_dir and local_ckpt_dir are on the same file system",
            "name a directory of the node itself as local_ckpt_dir, and one of the shared file system as global_ckpt_dir",
        );
    }
    found
}

/// The first variable of a path that is left as it was written.
pub fn undefined(path: &Path) -> Option<String> {
    let text = path.to_str()?;
    let (name, _) = text.split_once("${")?.1.split_once('}')?;
    Some(name.to_owned())
}

/// What will not work on a login node may well on the nodes that jobs run on.
fn of_other_nodes(finding: &mut Finding) {
    if finding.verdict == Verdict::No {
        finding.verdict = Verdict::Warning;
        finding.mend = Some(
            "no job runs here: look on a node of one, srun -N 1 mana doctor; what it says counts"
                .to_owned(),
        );
    }
}

/// The device of a directory, or of the nearest one above it that exists.
fn device(path: &Path) -> Option<u64> {
    path.ancestors()
        .find_map(|p| fs::metadata(p).ok())
        .map(|facts| facts.dev())
}

/// One directory. Leaves nothing behind.
pub fn look_at(name: &str, path: &Path, measure: bool) -> Findings {
    let mut found = Findings::new("storage");
    let key = format!("{name}_ckpt_dir");
    let made: Vec<&Path> = path.ancestors().take_while(|p| !p.exists()).collect();
    if let Err(e) = fs::create_dir_all(path) {
        found.no(
            key,
            format!("{}: cannot be made: {e}", path.display()),
            format!("name a directory you may write to as {name}_ckpt_dir"),
        );
        return found;
    }
    let kind = kind(path);
    match try_out(path, measure) {
        Ok(trial) => {
            let text = format!("{} ({kind})", path.display());
            found.ok(key, text);
            speed(&mut found, name, &trial);
            if !trial.private {
                found.warning(
                    format!("{name} modes"),
                    "the file system ignores file modes: others could read images and the job's secret",
                    "use a directory on a file system with modes, or one only you can enter",
                );
            }
            if let Some(skew) = trial.skew.filter(|s| s.abs() > SKEW) {
                found.warning(
                    format!("{name} clock"),
                    format!("the file server's clock differs by {skew:.0} s"),
                    "have the clocks kept by a time service; ages in lists are wrong meanwhile",
                );
            }
        }
        Err(e) => found.no(
            key,
            format!("{} ({kind}): cannot be used: {e}", path.display()),
            if e.kind() == io::ErrorKind::StorageFull {
                "make room, or name another directory".to_owned()
            } else {
                format!("name a directory you may write to as {name}_ckpt_dir")
            },
        ),
    }
    room(&mut found, name, path, kind);
    for directory in made {
        // Only what was made here, and only if it is empty.
        let _ = fs::remove_dir(directory);
    }
    found
}

/// What trying showed.
struct Trial {
    /// Bytes a second: written (until stable), read.
    write: Option<f64>,
    read: Option<f64>,
    /// A file's mode keeps others out.
    private: bool,
    /// Seconds by which the file server's clock is ahead.
    skew: Option<f64>,
}

/// Writes, renames, synchronises, reads and deletes a file.
fn try_out(directory: &Path, measure: bool) -> io::Result<Trial> {
    let path = directory.join(format!(".mana-doctor-{}", std::process::id()));
    let renamed = path.with_extension("renamed");
    let outcome = try_files(&path, &renamed, directory, measure);
    let _ = fs::remove_file(&path);
    let _ = fs::remove_file(&renamed);
    outcome
}

fn try_files(path: &Path, renamed: &Path, directory: &Path, measure: bool) -> io::Result<Trial> {
    let mut piece = vec![0u8; PIECE];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for word in piece.chunks_exact_mut(8) {
        // Incompressible, so that no file system is faster than it is.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
    let mut file = File::create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    let began = Instant::now();
    let mut written = 0;
    let wanted = if measure { SAMPLE } else { PIECE };
    while written < wanted && began.elapsed() < LIMIT {
        file.write_all(&piece)?;
        written += PIECE;
    }
    file.sync_data()?;
    let write = per_second(written, began.elapsed());
    let facts = file.metadata()?;
    let skew = facts.modified().ok().map(|theirs| {
        let now = SystemTime::now();
        match theirs.duration_since(now) {
            Ok(ahead) => ahead.as_secs_f64(),
            Err(behind) => -behind.duration().as_secs_f64(),
        }
    });
    let private = facts.permissions().mode() & 0o077 == 0;
    drop(file);
    fs::rename(path, renamed)?;
    File::open(directory)?.sync_all()?;
    let mut file = File::open(renamed)?;
    // Without the page cache, where the system lets go of it.
    let _ = nix::fcntl::posix_fadvise(
        &file,
        0,
        0,
        nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED,
    );
    let began = Instant::now();
    let mut read = 0;
    while read < written && began.elapsed() < LIMIT {
        match file.read(&mut piece)? {
            0 => break,
            n => read += n,
        }
    }
    Ok(Trial {
        write,
        read: per_second(read, began.elapsed()),
        private,
        skew,
    })
}

fn per_second(bytes: usize, elapsed: Duration) -> Option<f64> {
    let seconds = elapsed.as_secs_f64();
    #[allow(clippy::cast_precision_loss, reason = "a speed")]
    let bytes = bytes as f64;
    (seconds > 0.0 && bytes > 0.0).then(|| bytes / seconds)
}

fn speed(found: &mut Findings, name: &str, trial: &Trial) {
    let (Some(write), Some(read)) = (trial.write, trial.read) else {
        return;
    };
    let text = format!("writes {}, reads {}", rate(write), rate(read));
    if write < SLOW {
        found.warning(
            format!("{name} speed"),
            text,
            "longer intervals for this level, or faster storage (for local: a disk or memory of the node)",
        );
    } else {
        found.ok(format!("{name} speed"), text);
    }
}

/// Two generations of a rank that does nothing, and a little.
const LEAST_ROOM: u64 = 16 << 20;
/// Most programs use more memory.
const LITTLE_ROOM: u64 = 1 << 30;

fn room(found: &mut Findings, name: &str, path: &Path, kind: &str) {
    let Ok(facts) = statvfs(path) else { return };
    let free = facts
        .blocks_available()
        .saturating_mul(facts.fragment_size());
    let memory = memory();
    let text = format!("{} free", size(free));
    if free < LEAST_ROOM {
        found.no(
            format!("{name} room"),
            format!("{text}: less than the checkpoint of the smallest program needs"),
            "make room: each kept generation needs as much as the ranks of the node use of memory",
        );
    } else if free < LITTLE_ROOM {
        found.warning(
            format!("{name} room"),
            format!("{text}: enough for small programs"),
            "make room for others: each kept generation needs as much as the ranks of the node use of memory",
        );
    } else if memory.is_some_and(|memory| free < memory) {
        found.warning(
            format!("{name} room"),
            format!("{text}, less than this node's memory"),
            "enough for programs that use less; 'keep' says how many generations are kept",
        );
    } else {
        found.ok(format!("{name} room"), text);
    }
    if facts.files() > 0 && facts.files_available() < 1000 {
        found.no(
            format!("{name} files"),
            format!("{} more files can be made", facts.files_available()),
            "delete files there: inodes are short",
        );
    }
    if kind == "memory" && name == "global" {
        found.no(
            "global kind",
            "it is memory of this node: no other node sees it, and it goes with the node",
            "name a directory of the shared file system as global_ckpt_dir",
        );
    }
    if kind == "memory" && name == "local" {
        found.warning(
            "local kind",
            "it is memory of this node: images count against the job's own limit, and go with the node",
            "a disk of the node as local_ckpt_dir, or that much more memory for the job (the guide's page on intervals has how much)",
        );
    }
}

/// This node's memory in bytes.
fn memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes << 10)
}

/// What kind of file system it is.
fn kind(path: &Path) -> &'static str {
    // Magic numbers of statfs(2).
    match statfs(path).map(|facts| facts.filesystem_type().0 as u32) {
        Ok(0x0102_1994) => "memory",
        Ok(0x6969) => "NFS",
        Ok(0x0bd0_0bd0) => "Lustre",
        Ok(0x4750_4653) => "GPFS",
        Ok(0x1983_0326) => "BeeGFS",
        Ok(0x00c3_6400) => "CephFS",
        Ok(0x6573_5546) => "FUSE",
        Ok(0xef53) => "ext4",
        Ok(0x5846_5342) => "XFS",
        Ok(0x9123_683e) => "btrfs",
        Ok(0x794c_7630) => "overlay",
        Ok(0x2fc1_2fc1) => "ZFS",
        _ => "another file system",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn look_with(local: &str, login: bool) -> Vec<Finding> {
        let place = tempfile::tempdir().expect("a directory");
        let global = place.path().display().to_string();
        let values = [
            ("global_ckpt_dir", global.as_str()),
            ("local_ckpt_dir", local),
        ];
        let values: BTreeMap<_, _> = values
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        let needed = ["global_ckpt_dir"];
        let config = Config::load_for(&needed, None, &values, &|_| None).expect("valid");
        let mut found = look(&config, login).list;
        found.retain(|finding| finding.name == "local_ckpt_dir");
        found
    }

    #[test]
    fn what_only_the_job_knows_is_left_to_it() {
        for local in ["/local/${SLURM_JOB_ID}/x", "${TMPDIR}"] {
            let found = look_with(local, false);
            let [finding] = &found[..] else {
                panic!("{found:?}")
            };
            assert_eq!(finding.verdict, Verdict::Warning);
            assert!(finding.found.starts_with(local), "{finding:?}");
            let mend = finding.mend.as_ref().expect("a next step");
            assert!(mend.contains("srun -N 1 mana doctor"), "{mend}");
        }
    }

    #[test]
    fn on_a_login_node_the_nodes_storage_is_not_judged() {
        let verdict = |login| look_with("/proc/none", login)[0].verdict;
        assert_eq!(verdict(false), Verdict::No);
        assert_eq!(verdict(true), Verdict::Warning);
    }
}
