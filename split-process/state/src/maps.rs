//! `/proc/self/maps` and `/proc/self/smaps`, parsed.
//!
//! Reading is only consistent while nobody maps or unmaps; the caller parks the upper threads, and
//! what the lower half does meanwhile changes lower mappings only.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::ops::Range;

use crate::error::StateError;
use crate::path::FilePath;

/// One line of `/proc/self/maps`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: usize,
    /// First address after it.
    pub end: usize,
    /// `r`
    pub read: bool,
    /// `w`
    pub write: bool,
    /// `x`
    pub execute: bool,
    /// `s` (MAP_SHARED); false is `p` (private).
    pub shared: bool,
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// Device, major number.
    pub major: u32,
    /// Device, minor number.
    pub minor: u32,
    /// Inode; 0 for anonymous private memory.
    pub inode: u64,
    /// Path or pseudo-path (`[stack]`), without the mark of deletion; empty for anonymous memory.
    pub path: FilePath,
    /// Whether the kernel marked the path `(deleted)`.
    pub deleted: bool,
}

impl Mapping {
    /// Its addresses.
    pub fn range(&self) -> Range<usize> {
        self.start..self.end
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Never true for a mapping of the kernel.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The `PROT_*` bits.
    pub fn prot(&self) -> i32 {
        (if self.read { libc::PROT_READ } else { 0 })
            | (if self.write { libc::PROT_WRITE } else { 0 })
            | (if self.execute { libc::PROT_EXEC } else { 0 })
    }

    /// Whether it overlaps one of `regions`.
    pub fn touches(&self, regions: &[Range<usize>]) -> bool {
        regions
            .iter()
            .any(|r| self.start < r.end && r.start < self.end)
    }
}

/// As the kernel prints it.
impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bit = |set, letter| if set { letter } else { '-' };
        let head = format!(
            "{:08x}-{:08x} {}{}{}{} {:08x} {:02x}:{:02x} {} ",
            self.start,
            self.end,
            bit(self.read, 'r'),
            bit(self.write, 'w'),
            bit(self.execute, 'x'),
            if self.shared { 's' } else { 'p' },
            self.offset,
            self.major,
            self.minor,
            self.inode
        );
        if self.path.as_bytes().is_empty() {
            return f.write_str(&head);
        }
        write!(
            f,
            "{head:<73}{}",
            self.path.to_string().replace('\n', "\\012")
        )?;
        f.write_str(if self.deleted { " (deleted)" } else { "" })
    }
}

/// What smaps tells beyond maps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappingDetail {
    /// The line of maps.
    pub mapping: Mapping,
    /// Resident bytes.
    pub resident: u64,
    /// Resident bytes that belong to this process alone and are not those of the file.
    pub anonymous: u64,
    /// Bytes swapped out.
    pub swap: u64,
    /// Page size the kernel uses for it (2 MiB or more: hugetlb).
    pub page_size: u64,
    /// The `VmFlags` line.
    pub flags: VmFlags,
}

/// The two-letter codes of `VmFlags`, packed. See proc_pid_smaps(5).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VmFlags(Vec<[u8; 2]>);

impl VmFlags {
    /// Whether `code` (two letters) is set.
    pub fn has(&self, code: &str) -> bool {
        self.0.iter().any(|c| c[..] == *code.as_bytes())
    }

    /// MADV_DONTFORK.
    pub fn dont_fork(&self) -> bool {
        self.has("dc")
    }

    /// MADV_WIPEONFORK.
    pub fn wipe_on_fork(&self) -> bool {
        self.has("wf")
    }

    /// MADV_DONTDUMP.
    pub fn dont_dump(&self) -> bool {
        self.has("dd")
    }

    /// Grows down (a stack).
    pub fn grows_down(&self) -> bool {
        self.has("gd")
    }

    /// mlocked.
    pub fn locked(&self) -> bool {
        self.has("lo")
    }

    /// hugetlb pages.
    pub fn huge_tlb(&self) -> bool {
        self.has("ht")
    }

    /// MADV_HUGEPAGE.
    pub fn huge_page(&self) -> bool {
        self.has("hg")
    }

    /// MADV_NOHUGEPAGE.
    pub fn no_huge_page(&self) -> bool {
        self.has("nh")
    }

    /// Memory of a device.
    pub fn io(&self) -> bool {
        self.has("io") || self.has("pf")
    }

    /// MADV_MERGEABLE.
    pub fn mergeable(&self) -> bool {
        self.has("mg")
    }

    /// MAP_NORESERVE.
    pub fn no_reserve(&self) -> bool {
        self.has("nr")
    }

    /// MADV_SEQUENTIAL.
    pub fn sequential(&self) -> bool {
        self.has("sr")
    }

    /// MADV_RANDOM.
    pub fn random(&self) -> bool {
        self.has("rr")
    }
}

/// The mappings of this process, ascending.
pub fn read_self() -> Result<Vec<Mapping>, StateError> {
    parse(&read("/proc/self/maps")?)
}

/// The mappings of this process with their details, ascending. Walks the page tables: some
/// milliseconds per GiB.
pub fn read_self_details() -> Result<Vec<MappingDetail>, StateError> {
    parse_details(&read("/proc/self/smaps")?)
}

fn read(path: &'static str) -> Result<Vec<u8>, StateError> {
    // One large buffer, allocated before the first read: few calls, and no mapping is made by our
    // own allocator in between.
    let mut text = Vec::with_capacity(4 << 20);
    File::open(path)
        .and_then(|mut f| f.read_to_end(&mut text))
        .map_err(|e| StateError::io("read", path, e))?;
    Ok(text)
}

/// Parses the text of a maps file.
pub fn parse(text: &[u8]) -> Result<Vec<Mapping>, StateError> {
    lines(text)
        .map(|(number, line)| mapping(line).ok_or_else(|| unclear("maps", number, line)))
        .collect()
}

/// Parses the text of a smaps file.
pub fn parse_details(text: &[u8]) -> Result<Vec<MappingDetail>, StateError> {
    let mut details: Vec<MappingDetail> = Vec::new();
    for (number, line) in lines(text) {
        // A field starts with an upper-case name and a colon; a mapping with a lower-case number.
        if !line.first().is_some_and(u8::is_ascii_uppercase) {
            let mapping = mapping(line).ok_or_else(|| unclear("smaps", number, line))?;
            details.push(MappingDetail {
                mapping,
                resident: 0,
                anonymous: 0,
                swap: 0,
                page_size: 0,
                flags: VmFlags::default(),
            });
            continue;
        }
        let Some(colon) = line.iter().position(|&b| b == b':') else {
            return Err(unclear("smaps", number, line));
        };
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        let Some(detail) = details.last_mut() else {
            return Err(unclear("smaps", number, line));
        };
        let bytes = || kilobytes(value).ok_or_else(|| unclear("smaps", number, line));
        match name {
            b"Rss" => detail.resident = bytes()?,
            b"Anonymous" => detail.anonymous = bytes()?,
            b"Swap" => detail.swap = bytes()?,
            b"KernelPageSize" => detail.page_size = bytes()?,
            b"VmFlags" => {
                let codes = value.split(|b| b.is_ascii_whitespace());
                detail.flags = VmFlags(
                    codes
                        .filter_map(|code| <[u8; 2]>::try_from(code).ok())
                        .collect(),
                );
            }
            _ => {}
        }
    }
    Ok(details)
}

fn unclear(object: &str, line: usize, text: &[u8]) -> StateError {
    StateError::Parse {
        object: object.to_owned(),
        line,
        text: String::from_utf8_lossy(text).into_owned(),
    }
}

fn lines(text: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let lines = text.split(|&b| b == b'\n').enumerate();
    lines
        .filter(|(_, line)| !line.is_empty())
        .map(|(i, line)| (i + 1, line))
}

fn mapping(line: &[u8]) -> Option<Mapping> {
    let mut rest = line;
    let (start, end) = split(word(&mut rest)?, b'-')?;
    let (start, end) = (hexadecimal(start)?, hexadecimal(end)?);
    let &[r, w, x, s] = word(&mut rest)? else {
        return None;
    };
    let offset = hexadecimal(word(&mut rest)?)?;
    let (major, minor) = split(word(&mut rest)?, b':')?;
    let inode = std::str::from_utf8(word(&mut rest)?).ok()?.parse().ok()?;
    let bit = |found, letter| match found {
        b'-' => Some(false),
        _ if found == letter => Some(true),
        _ => None,
    };
    let padding = rest.iter().take_while(|&&b| b == b' ').count();
    let name = &rest[padding..];
    let (name, deleted) = match name.strip_suffix(b" (deleted)") {
        Some(name) => (name, true),
        None => (name, false),
    };
    let (start, end) = (usize::try_from(start).ok()?, usize::try_from(end).ok()?);
    if start > end {
        return None;
    }
    Some(Mapping {
        start,
        end,
        read: bit(r, b'r')?,
        write: bit(w, b'w')?,
        execute: bit(x, b'x')?,
        shared: match s {
            b's' => true,
            b'p' => false,
            _ => return None,
        },
        offset,
        major: u32::try_from(hexadecimal(major)?).ok()?,
        minor: u32::try_from(hexadecimal(minor)?).ok()?,
        inode,
        path: FilePath::new(unescape(name)),
        deleted,
    })
}

/// Takes the next word, up to a space, and the space.
fn word<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = rest.iter().position(|&b| b == b' ').unwrap_or(rest.len());
    let (word, tail) = rest.split_at(end);
    *rest = tail.get(1..).unwrap_or_default();
    (!word.is_empty()).then_some(word)
}

fn split(text: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|&b| b == at)?;
    Some((&text[..at], &text[at + 1..]))
}

fn hexadecimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

fn kilobytes(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?.trim();
    text.strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}

/// The kernel writes a newline in a name as `\012`, and nothing else differently.
fn unescape(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((&first, tail)) = rest.split_first() {
        match rest.strip_prefix(b"\\012") {
            Some(tail) => {
                out.push(b'\n');
                rest = tail;
            }
            None => {
                out.push(first);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests;
