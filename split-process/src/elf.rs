//! Reading what matters of an ELF file: class, segments, loader, needed libraries. Lower half.
//! Every offset is checked; nothing here trusts the file.

use std::path::Path;

/// `PT_LOAD`
pub const PT_LOAD: u32 = 1;
/// `PT_INTERP`
const PT_INTERP: u32 = 3;
/// `PT_DYNAMIC`
const PT_DYNAMIC: u32 = 2;

/// `DT_NEEDED`
const NEEDED: usize = 1;
/// `DT_STRTAB`
const STRINGS: usize = 5;
/// `DT_SONAME`
const SONAME: usize = 14;

/// One program header.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// `PT_*`
    pub kind: u32,
    /// `PF_*`
    pub flags: u32,
    /// Offset in the file.
    pub offset: usize,
    /// Address before relocation.
    pub address: usize,
    /// Bytes in the file.
    pub file_len: usize,
    /// Bytes in memory.
    pub memory_len: usize,
}

/// What an ELF file is.
#[derive(Clone, Debug)]
pub struct Elf {
    /// Position independent (`ET_DYN`)?
    pub relocatable: bool,
    /// Entry point before relocation.
    pub entry: usize,
    /// Offset of the program headers.
    pub headers: usize,
    /// All program headers.
    pub segments: Vec<Segment>,
    /// The loader it asks for.
    pub loader: Option<String>,
    /// Libraries it asks for.
    pub needed: Vec<String>,
    /// The name other files ask for it by.
    pub soname: Option<String>,
}

/// Why a file is not a program we can load; a text to follow the file's name.
pub type Reason = &'static str;

fn word<const N: usize>(data: &[u8], at: usize) -> Option<[u8; N]> {
    data.get(at..at.checked_add(N)?)?.try_into().ok()
}
fn u16_at(data: &[u8], at: usize) -> Option<u16> {
    word(data, at).map(u16::from_le_bytes)
}
fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    word(data, at).map(u32::from_le_bytes)
}
fn usize_at(data: &[u8], at: usize) -> Option<usize> {
    word(data, at).map(|w| u64::from_le_bytes(w) as usize)
}
fn text_at(data: &[u8], at: usize) -> Option<String> {
    let rest = data.get(at..)?;
    let end = rest.iter().position(|&b| b == 0)?;
    Some(String::from_utf8_lossy(&rest[..end]).into_owned())
}

impl Elf {
    /// Parses a whole file.
    pub fn parse(data: &[u8]) -> Result<Elf, Reason> {
        if data.get(..4) != Some(b"\x7fELF") {
            return Err("not an ELF program and no script (no #! line)");
        }
        if data.get(4) == Some(&1) {
            return Err("a 32-bit program; only x86-64 programs can be checkpointed");
        }
        const SHORT: Reason = "the ELF file is truncated or damaged";
        if u16_at(data, 18).ok_or(SHORT)? != 62 || data.get(5) != Some(&1) {
            return Err("built for another processor; only x86-64 programs can be checkpointed");
        }
        let relocatable = match u16_at(data, 16).ok_or(SHORT)? {
            2 => false,
            3 => true,
            _ => return Err("not an executable ELF file"),
        };
        let headers = usize_at(data, 32).ok_or(SHORT)?;
        let count = u16_at(data, 56).ok_or(SHORT)? as usize;
        let mut elf = Elf {
            relocatable,
            entry: usize_at(data, 24).ok_or(SHORT)?,
            headers,
            segments: Vec::with_capacity(count),
            loader: None,
            needed: Vec::new(),
            soname: None,
        };
        for i in 0..count {
            let at = headers.checked_add(i * 56).ok_or(SHORT)?;
            let segment = (|| {
                Some(Segment {
                    kind: u32_at(data, at)?,
                    flags: u32_at(data, at + 4)?,
                    offset: usize_at(data, at + 8)?,
                    address: usize_at(data, at + 16)?,
                    file_len: usize_at(data, at + 32)?,
                    memory_len: usize_at(data, at + 40)?,
                })
            })()
            .ok_or(SHORT)?;
            if segment.kind == PT_INTERP {
                elf.loader = text_at(data, segment.offset);
            }
            elf.segments.push(segment);
        }
        elf.needed = elf.names(data, NEEDED).unwrap_or_default();
        elf.soname = elf.names(data, SONAME).unwrap_or_default().pop();
        Ok(elf)
    }

    /// Reads and parses `path`.
    pub fn read(path: &Path) -> std::io::Result<(Vec<u8>, Result<Elf, Reason>)> {
        let data = std::fs::read(path)?;
        let elf = Elf::parse(&data);
        Ok((data, elf))
    }

    fn file_offset(&self, address: usize) -> Option<usize> {
        let s = self.segments.iter().find(|s| {
            s.kind == PT_LOAD && address >= s.address && address - s.address < s.file_len
        })?;
        s.offset.checked_add(address - s.address)
    }

    /// The texts of one kind of entry of the dynamic section.
    fn names(&self, data: &[u8], wanted: usize) -> Option<Vec<String>> {
        let dynamic = self.segments.iter().find(|s| s.kind == PT_DYNAMIC)?;
        let mut names = Vec::new();
        let mut strings = 0;
        let mut at = dynamic.offset;
        for _ in 0..dynamic.file_len / 16 {
            let (tag, value) = (usize_at(data, at)?, usize_at(data, at + 8)?);
            match tag {
                0 => break,
                STRINGS => strings = self.file_offset(value)?,
                _ if tag == wanted => names.push(value),
                _ => {}
            }
            at += 16;
        }
        names
            .into_iter()
            .map(|n| text_at(data, strings.checked_add(n)?))
            .collect()
    }

    /// Whether this is the C library itself: the one part of it that maps memory. (Before release
    /// 2.34 glibc has others, as rich in system calls: libpthread, librt.)
    pub fn is_c_library(&self) -> bool {
        self.soname
            .as_deref()
            .is_some_and(|name| name.starts_with("libc.") || name.starts_with("ld-musl"))
    }

    /// Bytes of address space from the first segment to the end of the last.
    pub fn span(&self) -> usize {
        let loads = self.segments.iter().filter(|s| s.kind == PT_LOAD);
        loads
            .map(|s| s.address.saturating_add(s.memory_len))
            .max()
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_executable_is_understood_and_damage_is_an_error() {
        let (data, elf) = Elf::read(Path::new("/proc/self/exe")).expect("readable");
        let elf = elf.expect("an ELF file");
        assert!(elf
            .loader
            .as_deref()
            .is_some_and(|l| l.contains("ld-linux")));
        assert!(elf.needed.iter().any(|n| n.starts_with("libc.so")));
        assert!(!elf.is_c_library());
        let named = Elf {
            soname: Some("libc.so.6".to_owned()),
            ..elf.clone()
        };
        assert!(named.is_c_library());
        let other = Elf {
            soname: Some("libpthread.so.0".to_owned()),
            ..elf
        };
        assert!(!other.is_c_library());
        for cut in [0, 3, 17, 40, 60, 100, 500] {
            let _ = Elf::parse(&data[..cut.min(data.len())]);
        }
        assert!(Elf::parse(b"#!/bin/sh\n").is_err());
        assert!(Elf::parse(&data[..40]).is_err());
    }
}
