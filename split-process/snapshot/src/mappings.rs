//! Mappings whose content does not go through a fork.

use std::fs;
use std::io;
use std::ops::Range;

/// A mapping that the child would not find as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unforkable {
    /// Its addresses.
    pub range: Range<u64>,
    /// Why, for people.
    pub reason: &'static str,
}

/// `VmFlags` of proc(5), and what they mean here.
const FLAGS: [(&str, &str); 3] = [
    ("dc", "marked MADV_DONTFORK"),
    ("wf", "marked MADV_WIPEONFORK"),
    // The child would lose its pages to the program as soon as the pool is empty.
    ("ht", "on huge pages of the system's pool"),
];

/// Whether a file of the system's pool of huge pages is mapped, by `maps` and `mounts` of this
/// process (proc(5)), which cost little: the kernel looks at every page for `smaps`.
pub fn pool_files_mapped() -> bool {
    let (Ok(maps), Ok(mounts)) = (fs::read("/proc/self/maps"), fs::read("/proc/self/mounts"))
    else {
        return true; // who knows
    };
    on_pool(&maps, &mounts)
}

fn on_pool(maps: &[u8], mounts: &[u8]) -> bool {
    let points: Vec<&[u8]> = mounts
        .split(|b| *b == b'\n')
        .filter_map(|line| {
            let mut words = line.split(|b| *b == b' ');
            let (_, point, kind) = (words.next()?, words.next()?, words.next()?);
            (kind == b"hugetlbfs").then_some(point)
        })
        .chain([b"/anon_hugepage".as_slice()])
        .collect();
    maps.split(|b| *b == b'\n').any(|line| {
        let path = line
            .iter()
            .position(|b| *b == b'/')
            .and_then(|at| line.get(at..));
        path.is_some_and(|path| points.iter().any(|point| path.starts_with(point)))
    })
}

/// The mappings of this process that do not go through a fork. Shared ones are not among them: their
/// content is not this process's.
///
/// # Errors
/// When `/proc/self/smaps` cannot be read.
pub fn unforkable() -> io::Result<Vec<Unforkable>> {
    Ok(parse(&fs::read("/proc/self/smaps")?))
}

fn parse(smaps: &[u8]) -> Vec<Unforkable> {
    let mut found = Vec::new();
    let mut range = 0..0;
    for line in smaps.split(|b| *b == b'\n') {
        match line.first() {
            Some(b'0'..=b'9' | b'a'..=b'f') => range = addresses(line).unwrap_or(0..0),
            Some(b'V') => {
                let Some(flags) = line.strip_prefix(b"VmFlags:") else {
                    continue;
                };
                let set = |flag: &str| flags.split(|b| *b == b' ').any(|f| f == flag.as_bytes());
                if let Some((_, reason)) = FLAGS.iter().find(|(flag, _)| set(flag)) {
                    found.push(Unforkable {
                        range: range.clone(),
                        reason,
                    });
                }
            }
            _ => {}
        }
    }
    found
}

fn addresses(line: &[u8]) -> Option<Range<u64>> {
    let word = line.split(|b| *b == b' ').next()?;
    let (start, end) = std::str::from_utf8(word).ok()?.split_once('-')?;
    Some(u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?)
}

/// Whether the program drives an RDMA device: its registered memory and a fork do not go together
/// on every kernel.
pub fn rdma_in_use() -> bool {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else {
        return false;
    };
    entries
        .flatten()
        .filter_map(|e| fs::read_link(e.path()).ok())
        .any(|target| target.starts_with("/dev/infiniband"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_found() {
        let text =
            b"7f00-8f00 rw-p 00000000 00:00 0 \nSize: 4 kB\nVmFlags: rd wr mr mw me ac sd \n\
            9000-a000 rw-p 00000000 00:00 0 \nVmFlags: rd wr mr mw me dc ac sd \n\
            b000-c000 rw-p 00000000 00:00 0 [anon]\nVmFlags: rd wr wf\n";
        let found: Vec<_> = parse(text).into_iter().map(|u| u.range).collect();
        assert_eq!(found, [0x9000..0xa000, 0xb000..0xc000]);
    }

    #[test]
    fn files_of_the_pool_are_found() {
        let mounts = b"hugetlbfs /dev/hugepages hugetlbfs rw 0 0\ntmpfs /dev/shm tmpfs rw 0 0\n";
        let on = |maps: &str| on_pool(maps.as_bytes(), mounts);
        assert!(on("7f00-8f00 rw-p 00000000 00:0f 12 /dev/hugepages/x\n"));
        assert!(on(
            "7f00-8f00 rw-p 00000000 00:0f 12 /anon_hugepage (deleted)\n"
        ));
        assert!(!on(
            "7f00-8f00 rw-p 00000000 00:1a 12 /dev/shm/x\n7000-8000 rw-p 0 00:00 0\n"
        ));
    }

    #[test]
    fn own_mappings_are_read() {
        let len = 4096;
        // SAFETY: a new mapping where the kernel likes.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(at, libc::MAP_FAILED);
        // SAFETY: the mapping just made.
        assert_eq!(unsafe { libc::madvise(at, len, libc::MADV_DONTFORK) }, 0);
        let all = unforkable().expect("smaps");
        let own = all.iter().find(|u| u.range.contains(&(at as u64)));
        assert_eq!(own.map(|u| u.reason), Some("marked MADV_DONTFORK"));
        // SAFETY: the mapping just made; nothing refers to it.
        unsafe { libc::munmap(at, len) };
    }
}
