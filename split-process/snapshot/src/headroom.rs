//! Whether there is memory for the pages the program changes while the child writes.

use std::fs;
use std::path::{Path, PathBuf};

/// Needed beside the copies of changed pages.
const RESERVE: u64 = 64 << 20;

/// Bytes this process may still use: what the machine has, or less if its cgroup allows less.
/// `u64::MAX` where nothing tells.
pub fn available() -> u64 {
    let machine = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| field(&text, "MemAvailable:"))
        .map_or(u64::MAX, |kib| kib.saturating_mul(1024));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    machine.min(cgroup(&groups, Path::new("/sys/fs/cgroup")))
}

/// Whether `bytes` of touched memory of each of `ranks` processes can be snapshot with `available`
/// bytes left: half of the pages may change meanwhile.
pub fn suffices(available: u64, bytes: u64, ranks: u32) -> bool {
    let wanted = (bytes / 2)
        .saturating_add(RESERVE)
        .saturating_mul(u64::from(ranks.max(1)));
    available > wanted
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// What is left in this process's groups and all above them.
fn cgroup(groups: &str, root: &Path) -> u64 {
    let mut least = u64::MAX;
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let (root, limit, usage, cache) = match controllers {
            "" => (
                root.to_owned(),
                "memory.max",
                "memory.current",
                "inactive_file",
            ),
            c if c.split(',').any(|c| c == "memory") => (
                root.join("memory"),
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "total_inactive_file",
            ),
            _ => continue,
        };
        let own: PathBuf = root.join(path.trim_start_matches('/'));
        for dir in own.ancestors().take_while(|d| d.starts_with(&root)) {
            let number = |name: &str| {
                let text = fs::read_to_string(dir.join(name)).ok()?;
                text.trim().parse::<u64>().ok()
            };
            let (Some(limit), Some(usage)) = (number(limit), number(usage)) else {
                continue; // no limit ("max"), or not ours to see
            };
            // Cached file pages count as used, but give way.
            let cached = fs::read_to_string(dir.join("memory.stat"))
                .ok()
                .and_then(|t| field(&t, &format!("{cache} ")))
                .unwrap_or(0);
            least = least.min(limit.saturating_sub(usage.saturating_sub(cached)));
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(dir: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(dir).expect("directory");
        for (name, text) in files {
            fs::write(dir.join(name), text).expect("file");
        }
    }

    #[test]
    fn the_tightest_group_counts() {
        let root = tempfile::tempdir().expect("directory");
        let path = root.path();
        group(
            &path.join("job"),
            &[
                ("memory.max", "1000\n"),
                ("memory.current", "700\n"),
                ("memory.stat", "anon 1\ninactive_file 200\n"),
            ],
        );
        group(
            &path.join("job/step"),
            &[("memory.max", "max\n"), ("memory.current", "600\n")],
        );
        assert_eq!(cgroup("0::/job/step\n", path), 500);
        assert_eq!(cgroup("0::/\n", path), u64::MAX);
        let old = [
            ("memory.limit_in_bytes", "900"),
            ("memory.usage_in_bytes", "800"),
            ("memory.stat", "total_inactive_file 50\n"),
        ];
        group(&path.join("memory/a"), &old);
        assert_eq!(cgroup("4:cpu:/x\n7:memory:/a\n0::/job\n", path), 150);
    }

    #[test]
    fn half_and_a_reserve() {
        let mib = 1 << 20;
        assert!(suffices(600 * mib, 1000 * mib, 1));
        assert!(!suffices(560 * mib, 1000 * mib, 1));
        assert!(!suffices(1000 * mib, 1000 * mib, 2));
        assert!(available() > 0);
    }
}
