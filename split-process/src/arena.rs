//! Where mappings of the upper half go: zones of the arena, a free list for each, the break.
//!
//! Lower half, inside a trapped system call (signals blocked) or on the main thread at start. There
//! is no reservation: every placement is `MAP_FIXED_NOREPLACE`, so the kernel has the last word and
//! a stale free list costs a retry, never a mapping.

use crate::book::{self, book};
use mana_raw::layout::{
    ANONYMOUS, ARENA_END, ARENA_START, BREAK_MAX, CONTROL, MODULES, MODULES_END, SHIM_CODE,
};
use mana_raw::sys;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes of a page.
pub const PAGE: usize = 4096;
/// Bytes of a huge page.
const HUGE: usize = 2 << 20;
/// File mappings up to this length go near the trampolines.
const MODULE_MAX: usize = 64 << 20;

/// `MAP_FIXED_NOREPLACE`, not in every libc's headers as the same type.
pub const NOREPLACE: usize = 0x10_0000;
const FIXED: usize = 0x10;
const ANONYMOUS_FLAG: usize = 0x20;
const LOW_32BIT: usize = 0x40;
const HUGETLB: usize = 0x4_0000;

const ENOMEM: isize = -(libc::ENOMEM as isize);
const EEXIST: isize = -(libc::EEXIST as isize);

/// Rounds up to whole pages; saturates.
pub fn pages(len: usize) -> usize {
    len.saturating_add(PAGE - 1) & !(PAGE - 1)
}

fn align(address: usize, to: usize) -> usize {
    (address + to - 1) & !(to - 1)
}

/// Free ranges below the cursor of a zone: start -> length.
#[derive(Default)]
struct Free(BTreeMap<usize, usize>);

impl Free {
    fn insert(&mut self, start: usize, len: usize) {
        let (mut start, mut end) = (start, start + len);
        if let Some((&s, &l)) = self.0.range(..start).next_back() {
            if s + l >= start {
                start = s;
                end = end.max(s + l);
            }
        }
        while let Some((&s, &l)) = self.0.range(start..=end).next() {
            end = end.max(s + l);
            self.0.remove(&s);
        }
        self.0.insert(start, end - start);
    }

    fn remove(&mut self, start: usize, len: usize) {
        let end = start + len;
        let hit: Vec<_> = self
            .0
            .range(..end)
            .rev()
            .take_while(|(&s, &l)| s + l > start)
            .map(|(&s, &l)| (s, l))
            .collect();
        for (s, l) in hit {
            self.0.remove(&s);
            if s < start {
                self.0.insert(s, start - s);
            }
            if s + l > end {
                self.0.insert(end, s + l - end);
            }
        }
    }

    /// Takes the first range that fits.
    fn take(&mut self, len: usize, to: usize) -> Option<usize> {
        let fits = |(&s, &l): (&usize, &usize)| {
            let at = align(s, to);
            (at.checked_add(len)? <= s + l).then_some(at)
        };
        let at = self.0.iter().take(512).find_map(fits)?;
        self.remove(at, len);
        Some(at)
    }
}

#[derive(Default)]
struct Zones {
    modules: Free,
    anonymous: Free,
}

static ZONES: Mutex<Option<Zones>> = Mutex::new(None);

fn lock() -> MutexGuard<'static, Option<Zones>> {
    ZONES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps the free lists still across a fork.
pub fn hold() -> impl Drop {
    lock()
}

/// A request for memory, as `mmap` has it.
#[derive(Clone, Copy)]
pub struct Request {
    /// Hint or fixed address.
    pub address: usize,
    /// Bytes.
    pub len: usize,
    /// `PROT_*`
    pub prot: usize,
    /// `MAP_*`
    pub flags: usize,
    /// Descriptor.
    pub fd: usize,
    /// Offset in the file.
    pub offset: usize,
}

impl Request {
    fn at(&self, address: usize, flags: usize) -> isize {
        // SAFETY: the program asked for this mapping; NOREPLACE or its own FIXED decides what it
        // may replace.
        unsafe {
            sys::syscall(
                sys::MMAP,
                [address, self.len, self.prot, flags, self.fd, self.offset],
            )
        }
    }

    fn is_file(&self) -> bool {
        self.flags & ANONYMOUS_FLAG == 0
    }
}

/// Whether `[start, start + len)` lies wholly where the program's mappings may be.
fn placeable(start: usize, len: usize) -> bool {
    start >= SHIM_CODE && start.checked_add(len).is_some_and(|end| end <= ARENA_END)
}

/// Maps what the program asks for, in the arena wherever it leaves the choice to us.
pub fn map(request: &Request) -> isize {
    let len = pages(request.len);
    if request.len == 0 || len < request.len {
        return request.at(request.address, request.flags);
    }
    if request.flags & (FIXED | NOREPLACE) != 0 {
        return fixed(request, len);
    }
    if request.flags & LOW_32BIT != 0 {
        let result = request.at(request.address, request.flags);
        return remember_outside(result, len);
    }
    if request.address != 0 && placeable(request.address, len) {
        let result = request.at(request.address & !(PAGE - 1), request.flags | NOREPLACE);
        if result > 0 {
            if let Some(zones) = lock().as_mut() {
                zones.modules.remove(result as usize, len);
                zones.anonymous.remove(result as usize, len);
            }
            return result;
        }
    }
    let huge = !request.is_file() && len >= HUGE || request.flags & HUGETLB != 0;
    place(
        request.is_file() && len <= MODULE_MAX,
        len,
        if huge { HUGE } else { PAGE },
        |address| request.at(address, request.flags | NOREPLACE),
    )
}

fn fixed(request: &Request, len: usize) -> isize {
    let start = request.address;
    let end = start.saturating_add(len);
    if start < SHIM_CODE && end > CONTROL {
        return -(libc::EPERM as isize); // the control page is not the program's
    }
    if placeable(start, len) {
        if let Some(zones) = lock().as_mut() {
            zones.modules.remove(start, len);
            zones.anonymous.remove(start, len);
        }
        return request.at(start, request.flags);
    }
    if request.flags & FIXED != 0 && !crate::in_upper_range(start) && lower_memory_in(start, end) {
        return ENOMEM; // would replace memory of the lower half
    }
    remember_outside(request.at(start, request.flags), len)
}

/// Whether anything is mapped in a range that is not the upper half's.
fn lower_memory_in(start: usize, end: usize) -> bool {
    // SAFETY: a probe that is taken back at once; NOREPLACE fails where anything is mapped.
    let probe = unsafe {
        sys::syscall(
            sys::MMAP,
            [start, end - start, 0, 0x22 | NOREPLACE, usize::MAX, 0],
        )
    };
    if probe == start as isize {
        // SAFETY: the mapping just made.
        unsafe { sys::syscall(sys::MUNMAP, [start, end - start, 0, 0, 0, 0]) };
    }
    probe != start as isize && !book::outside().any(|(s, e)| s < end && start < e)
}

fn remember_outside(result: isize, len: usize) -> isize {
    if result > 0 && !placeable(result as usize, len) {
        let _guard = lock();
        if !book::add_outside(result as usize, result as usize + len) {
            // SAFETY: the mapping just made for the program, which it does not know yet.
            unsafe { sys::syscall(sys::MUNMAP, [result as usize, len, 0, 0, 0, 0]) };
            return ENOMEM;
        }
    }
    result
}

/// Finds a place of `len` bytes and calls `map` with it until that succeeds or fails for another
/// reason than the place being taken.
pub fn place(module: bool, len: usize, to: usize, map: impl Fn(usize) -> isize) -> isize {
    let mut guard = lock();
    let zones = guard.get_or_insert_default();
    // SAFETY: the cursors are atomics.
    let book = unsafe { book() };
    let (free, cursor, end): (&mut Free, &AtomicUsize, usize) = if module {
        (&mut zones.modules, &book.modules_next, MODULES_END)
    } else {
        (&mut zones.anonymous, &book.anonymous_next, ARENA_END)
    };
    while let Some(address) = free.take(len, to) {
        match map(address) {
            EEXIST => continue,
            result => {
                if result < 0 {
                    free.insert(address, len);
                }
                return result;
            }
        }
    }
    loop {
        let old = cursor.load(Ordering::Relaxed);
        let address = align(old, to);
        if address.checked_add(len).is_none_or(|e| e > end) {
            break;
        }
        if address > old {
            free.insert(old, address - old);
        }
        match map(address) {
            EEXIST => cursor.store(address + to.max(len.min(1 << 30)), Ordering::Relaxed),
            result => {
                if result >= 0 {
                    cursor.store(address + len, Ordering::Relaxed);
                } else if address > old {
                    free.remove(old, address - old);
                }
                return result;
            }
        }
    }
    drop(guard);
    if module {
        place(false, len, to, map) // the near zone is full; data mappings do not need to be near
    } else {
        ENOMEM
    }
}

/// Unmaps through the lower libc (registration caches of the network hook that), and remembers the
/// hole.
pub fn unmap(start: usize, len: usize) -> isize {
    let Some(end) = start.checked_add(pages(len)) else {
        return -(libc::EINVAL as isize);
    };
    if start < SHIM_CODE && end > ARENA_START {
        return -(libc::EINVAL as isize);
    }
    // SAFETY: memory of the upper half, at the program's wish.
    let result = unsafe { libc::munmap(start as *mut _, len) };
    if result != 0 {
        return -errno();
    }
    released(start, end - start);
    0
}

/// Notes that a range of the arena is free.
pub fn released(start: usize, len: usize) {
    crate::excluded::forget(start, start.saturating_add(len));
    let mut guard = lock();
    let zones = guard.get_or_insert_default();
    // SAFETY: the cursors are atomics.
    let book = unsafe { book() };
    for (free, cursor, first, end) in [
        (&mut zones.modules, &book.modules_next, MODULES, MODULES_END),
        (
            &mut zones.anonymous,
            &book.anonymous_next,
            ANONYMOUS,
            ARENA_END,
        ),
    ] {
        if start < first || start + len > end {
            continue;
        }
        free.insert(start, len);
        // A hole at the end of the zone lowers the cursor.
        let top = cursor.load(Ordering::Relaxed);
        if let Some((&s, &l)) = free.0.range(..top).next_back() {
            if s + l >= top {
                free.0.remove(&s);
                cursor.store(s, Ordering::Relaxed);
            }
        }
    }
}

/// `mremap`: in place if possible, else to a place of our choice.
pub fn remap(address: usize, old: usize, new: usize, flags: usize, target: usize) -> isize {
    const MAYMOVE: usize = 1;
    const FIXED_TARGET: usize = 2;
    let call = |flags: usize, target: usize| -> isize {
        // SAFETY: memory of the upper half, at the program's wish; through the lower libc for its hooks.
        let result = unsafe {
            libc::mremap(
                address as *mut _,
                old,
                new,
                flags as i32,
                target as *mut libc::c_void,
            )
        };
        if result == libc::MAP_FAILED {
            -errno()
        } else {
            result as isize
        }
    };
    if flags & FIXED_TARGET != 0 {
        if !placeable(target, pages(new)) && !crate::in_upper_range(target) {
            return ENOMEM;
        }
        return call(flags, target);
    }
    let result = call(flags & !MAYMOVE, 0);
    if result != ENOMEM || flags & MAYMOVE == 0 {
        if result >= 0 && pages(new) < pages(old) {
            released(address + pages(new), pages(old) - pages(new));
        } else if result >= 0 && pages(new) > pages(old) {
            grown(address + pages(old), pages(new) - pages(old));
        }
        return result;
    }
    let len = pages(new);
    // MREMAP_FIXED replaces what is there, so the place is proved free (and held) by a mapping first.
    let place = place(false, len, if len >= HUGE { HUGE } else { PAGE }, |at| {
        // SAFETY: NOREPLACE.
        unsafe { sys::syscall(sys::MMAP, [at, len, 0, 0x4022 | NOREPLACE, usize::MAX, 0]) }
    });
    if place < 0 {
        return place;
    }
    let result = call(flags | MAYMOVE | FIXED_TARGET, place as usize);
    if result < 0 {
        unmap(place as usize, len);
    } else if old != 0 && flags & 4 == 0 {
        released(address, pages(old));
    }
    result
}

/// Notes that a range was taken by a mapping that grew in place.
fn grown(start: usize, len: usize) {
    let mut guard = lock();
    let zones = guard.get_or_insert_default();
    zones.modules.remove(start, len);
    zones.anonymous.remove(start, len);
    // SAFETY: the cursors are atomics.
    let book = unsafe { book() };
    for (cursor, first, end) in [
        (&book.modules_next, MODULES, MODULES_END),
        (&book.anonymous_next, ANONYMOUS, ARENA_END),
    ] {
        if (first..end).contains(&start) {
            cursor.fetch_max(start + len, Ordering::Relaxed);
        }
    }
}

/// `brk`, emulated in its zone. Returns the break as it then is.
pub fn set_break(wanted: usize) -> usize {
    // SAFETY: the guard below makes this the only writer.
    let book = unsafe { book() };
    let _guard = lock();
    let now = book.break_now.load(Ordering::Relaxed);
    if wanted < book.break_start || wanted - book.break_start > BREAK_MAX {
        return now;
    }
    let (old, new) = (pages(now), pages(wanted));
    let done = if new > old {
        // SAFETY: the zone beyond the break is ours and unmapped.
        let result = unsafe {
            sys::syscall(
                sys::MMAP,
                [old, new - old, 3, 0x22 | NOREPLACE, usize::MAX, 0],
            )
        };
        result == old as isize
    } else if new < old {
        // SAFETY: the program gives this part of its break back.
        unsafe { libc::munmap(new as *mut _, old - new) == 0 }
    } else {
        true
    };
    if !done {
        return now;
    }
    book.break_now.store(wanted, Ordering::Relaxed);
    // SAFETY: the control page is mapped; the field is only read by forked children.
    unsafe { crate::control::page().brk = wanted };
    wanted
}

/// After a restart: makes the free lists anew from the regions that exist.
pub fn rebuild(regions: &[(usize, usize)]) {
    let mut zones = Zones::default();
    // SAFETY: the cursors are atomics.
    let book = unsafe { book() };
    for (free, first, cursor) in [
        (&mut zones.modules, MODULES, &book.modules_next),
        (&mut zones.anonymous, ANONYMOUS, &book.anonymous_next),
    ] {
        let top = cursor.load(Ordering::Relaxed);
        if top > first {
            free.insert(first, top - first);
        }
        for &(start, end) in regions {
            free.remove(start, end - start);
        }
    }
    *lock() = Some(zones);
}

/// The lower libc's error number.
pub fn errno() -> isize {
    std::io::Error::last_os_error()
        .raw_os_error()
        .unwrap_or(libc::EIO) as isize
}

#[cfg(test)]
mod tests {
    use super::Free;

    #[test]
    fn free_ranges_merge_split_and_fit() {
        let mut free = Free::default();
        free.insert(0x1000, 0x1000);
        free.insert(0x3000, 0x1000);
        free.insert(0x2000, 0x1000);
        assert_eq!(free.0.iter().collect::<Vec<_>>(), [(&0x1000, &0x3000)]);
        free.remove(0x2000, 0x1000);
        assert_eq!(free.0.len(), 2);
        assert_eq!(free.take(0x2000, 0x1000), None);
        assert_eq!(free.take(0x1000, 0x1000), Some(0x1000));
        assert_eq!(free.take(0x1000, 0x1000), Some(0x3000));
        assert!(free.0.is_empty());
        free.insert(0x1000, 0x40_0000);
        assert_eq!(free.take(0x20_0000, 0x20_0000), Some(0x20_0000));
        free.remove(0, usize::MAX);
        assert!(free.0.is_empty());
    }
}
