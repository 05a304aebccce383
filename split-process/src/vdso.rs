//! The vDSO of the upper half: a copy in the arena whose entries jump, through slots of the control
//! page, to the kernel's vDSO of this process. Lower half.

use crate::arena::pages;
use crate::LaunchError;
use mana_raw::layout::{ControlPage, CONTROL, VDSO};
use std::mem::offset_of;

/// Entries with a slot, in the order of `ControlPage::vdso`.
const ENTRIES: [&str; 5] = [
    "__vdso_clock_gettime",
    "__vdso_gettimeofday",
    "__vdso_time",
    "__vdso_getcpu",
    "__vdso_clock_getres",
];

/// The kernel's vDSO as this process sees it.
struct Image {
    bytes: &'static [u8],
    symbols: Vec<(String, usize)>,
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?) as usize)
}
fn half(bytes: &[u8], at: usize) -> Option<usize> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize)
}

impl Image {
    fn find() -> Option<Image> {
        // SAFETY: reads the auxiliary vector.
        let base = unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) } as usize;
        let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
        let line = maps.lines().find(|l| l.ends_with("[vdso]"))?;
        let (start, end) = line.split_whitespace().next()?.split_once('-')?;
        let (start, end) = (
            usize::from_str_radix(start, 16).ok()?,
            usize::from_str_radix(end, 16).ok()?,
        );
        if start != base {
            return None;
        }
        // SAFETY: the kernel keeps it mapped and unchanged for the life of the process.
        let bytes = unsafe { std::slice::from_raw_parts(base as *const u8, end - start) };
        let symbols = Self::read_symbols(bytes)?;
        Some(Image { bytes, symbols })
    }

    fn read_symbols(bytes: &[u8]) -> Option<Vec<(String, usize)>> {
        // By the section headers, which vDSOs carry: the dynamic symbols and their strings.
        let (headers, count) = (
            word(bytes, 40)?,
            u16::from_le_bytes(bytes.get(60..62)?.try_into().ok()?) as usize,
        );
        for i in 0..count {
            let at = headers + i * 64;
            if half(bytes, at + 4)? != 11 {
                continue; // not SHT_DYNSYM
            }
            let (offset, len) = (word(bytes, at + 24)?, word(bytes, at + 32)?);
            let strings = word(bytes, headers + half(bytes, at + 40)? * 64 + 24)?;
            let mut out = Vec::new();
            for symbol in (offset..offset + len).step_by(24) {
                let name = bytes.get(strings + half(bytes, symbol)?..)?;
                let name = &name[..name.iter().position(|&b| b == 0)?];
                out.push((
                    String::from_utf8_lossy(name).into_owned(),
                    word(bytes, symbol + 8)?,
                ));
            }
            return Some(out);
        }
        None
    }
}

/// Points the slots of the control page at this process's vDSO.
pub fn fill_slots() {
    // SAFETY: the control page is mapped by the callers.
    let page = unsafe { crate::control::page() };
    page.vdso = [0; 8];
    let Some(image) = Image::find() else { return };
    let base = image.bytes.as_ptr() as usize;
    for (name, value) in &image.symbols {
        if let Some(i) = ENTRIES.iter().position(|e| e == name) {
            page.vdso[i] = base + value;
        }
    }
    // An entry this kernel lacks must not be jumped to: a saved copy may have been made with it.
    for slot in page.vdso.iter_mut().filter(|s| **s == 0) {
        *slot = no_entry as *const () as usize;
    }
}

/// Stands for an entry the kernel does not have.
extern "C" fn no_entry() -> i64 {
    -i64::from(libc::ENOSYS)
}

/// Copies the vDSO into the arena and patches it. `None`: there is none; the program does without.
pub fn copy() -> Result<Option<usize>, LaunchError> {
    fill_slots();
    let Some(image) = Image::find() else {
        return Ok(None);
    };
    let len = pages(image.bytes.len());
    crate::memory_at(
        VDSO,
        len,
        libc::PROT_READ | libc::PROT_WRITE,
        "map the copy of the vDSO",
    )?;
    // SAFETY: just mapped, large enough.
    let copy = unsafe { std::slice::from_raw_parts_mut(VDSO as *mut u8, len) };
    copy[..image.bytes.len()].copy_from_slice(image.bytes);
    for (name, value) in image
        .symbols
        .iter()
        .filter(|(n, v)| n.starts_with("__vdso_") && *v != 0)
    {
        let code = match ENTRIES.iter().position(|e| e == name) {
            Some(i) => {
                let slot = CONTROL + offset_of!(ControlPage, vdso) + i * 8;
                let mut code = vec![0x48, 0xb8]; // movabs $slot, %rax
                code.extend_from_slice(&(slot as u64).to_le_bytes());
                code.extend_from_slice(&[0xff, 0x20]); // jmp *(%rax)
                code
            }
            None => vec![0x48, 0xc7, 0xc0, 0xda, 0xff, 0xff, 0xff, 0xc3], // mov $-ENOSYS, %rax; ret
        };
        if let Some(place) = copy.get_mut(*value..*value + code.len()) {
            place.copy_from_slice(&code);
        }
    }
    crate::protect_at(VDSO, len, libc::PROT_READ | libc::PROT_EXEC)?;
    Ok(Some(VDSO))
}
