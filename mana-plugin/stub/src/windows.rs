//! Windows: their memory where MPI allocates it, and their predefined attributes.
//!
//! Upper half. Both are memory of the program, so that an image has them like the rest of it. What is
//! shared between processes is a file in /dev/shm without a name: images know such memory, and a
//! restart shares it again. Making it takes several collectives; a checkpoint may come between any two.

use core::ffi::{c_char, c_void};
use core::sync::atomic::{AtomicI32, AtomicI64, AtomicU32, AtomicU64, Ordering::Relaxed};

use mana_raw::cross;
use mpi_std::{slot, SharedMemory, SharedPart};

use crate::table::{Table, Zeroed};
use crate::translate as t;

extern "C" {
    fn malloc(size: usize) -> *mut c_void;
    fn posix_memalign(block: *mut *mut c_void, alignment: usize, size: usize) -> i32;
    fn free(block: *mut c_void);
    fn open(path: *const c_char, flags: i32, ...) -> i32;
    fn close(fd: i32) -> i32;
    fn unlink(path: *const c_char) -> i32;
    fn posix_fallocate(fd: i32, offset: i64, length: i64) -> i32;
    fn mmap(
        at: *mut c_void,
        len: usize,
        prot: i32,
        flags: i32,
        fd: i32,
        offset: i64,
    ) -> *mut c_void;
    fn munmap(at: *mut c_void, len: usize) -> i32;
    fn getpid() -> i32;
}

/// O_RDWR | O_CLOEXEC
const OPEN: i32 = 0o2_000_002;
/// O_CREAT | O_EXCL
const CREATE: i32 = 0o300;
/// PROT_READ | PROT_WRITE
const READ_WRITE: i32 = 3;
const MAP_SHARED: i32 = 1;
const PAGE: i64 = 4096;

/// What the stub knows of a window. The program gets the addresses of the numbers.
struct Window {
    used: AtomicU32,
    flavor: AtomicI32,
    model: AtomicI32,
    disp_unit: AtomicI32,
    base: AtomicU64,
    size: AtomicI64,
    /// Shared memory to unmap.
    shared: AtomicU64,
    length: AtomicU64,
}

// SAFETY: numbers.
unsafe impl Zeroed for Window {}

const WINDOWS: usize = 4096;
static ALL: Table<Window, WINDOWS> = Table::new(
    [const {
        Window {
            used: AtomicU32::new(0),
            flavor: AtomicI32::new(0),
            model: AtomicI32::new(0),
            disp_unit: AtomicI32::new(0),
            base: AtomicU64::new(0),
            size: AtomicI64::new(0),
            shared: AtomicU64::new(0),
            length: AtomicU64::new(0),
        }
    }; WINDOWS],
);

fn window(word: u64) -> Option<&'static Window> {
    if mpi_std::kind_of(word) != mpi_std::kind::WIN {
        return None;
    }
    ALL.get(mpi_std::index_of(word))
}

/// Notes what a new window is over.
fn note(word: u64, flavor: i32, base: u64, size: i64, disp_unit: i32) -> Option<&'static Window> {
    let w = window(word)?;
    w.flavor.store(flavor, Relaxed);
    w.model.store(t::MPI_WIN_UNIFIED, Relaxed);
    w.disp_unit.store(disp_unit, Relaxed);
    w.base.store(base, Relaxed);
    w.size.store(size, Relaxed);
    w.shared.store(0, Relaxed);
    w.length.store(0, Relaxed);
    w.used.store(1, Relaxed);
    Some(w)
}

/// A predefined attribute of a window as Fortran sees it: the number itself.
#[allow(dead_code, reason = "for a language library that not every ABI has")]
pub fn number(word: u64, key: i32) -> Option<i64> {
    let w = window(word).filter(|w| w.used.load(Relaxed) != 0)?;
    match key {
        mpi_std::MPI_WIN_BASE => Some(w.base.load(Relaxed) as i64),
        mpi_std::MPI_WIN_SIZE => Some(w.size.load(Relaxed)),
        mpi_std::MPI_WIN_DISP_UNIT => Some(i64::from(w.disp_unit.load(Relaxed))),
        mpi_std::MPI_WIN_CREATE_FLAVOR => Some(i64::from(w.flavor.load(Relaxed))),
        mpi_std::MPI_WIN_MODEL => Some(i64::from(w.model.load(Relaxed))),
        _ => None,
    }
}

/// A predefined attribute of a window as C sees it: the base, or the address of a number.
pub fn attribute(word: u64, key: i32) -> Option<*mut c_void> {
    let w = window(word).filter(|w| w.used.load(Relaxed) != 0)?;
    match key {
        mpi_std::MPI_WIN_BASE => Some(w.base.load(Relaxed) as *mut c_void),
        mpi_std::MPI_WIN_SIZE => Some(w.size.as_ptr().cast()),
        mpi_std::MPI_WIN_DISP_UNIT => Some(w.disp_unit.as_ptr().cast()),
        mpi_std::MPI_WIN_CREATE_FLAVOR => Some(w.flavor.as_ptr().cast()),
        mpi_std::MPI_WIN_MODEL => Some(w.model.as_ptr().cast()),
        _ => None,
    }
}

/// `MPI_Win_get_attr`
#[no_mangle]
unsafe extern "C" fn mana_MPI_Win_get_attr(
    win: t::Handle,
    key: i32,
    value: *mut c_void,
    flag: *mut i32,
) -> i32 {
    let (word, key) = (t::win(win), t::keyval(key));
    if let Some(found) = attribute(word, key) {
        // SAFETY: the program's outputs; the first is the address of a pointer.
        unsafe {
            *value.cast::<*mut c_void>() = found;
            *flag = 1;
        }
        return 0;
    }
    t::error_back(
        cross!(slot::MPI_Win_get_attr, fn(u64, i32, *mut c_void, *mut i32) -> i32;
                         word, key, value, flag),
    )
}

/// `MPI_Win_create`
#[no_mangle]
pub unsafe extern "C" fn mana_MPI_Win_create(
    base: *mut c_void,
    size: i64,
    disp_unit: i32,
    info: t::Handle,
    comm: t::Handle,
    win: *mut t::Handle,
) -> i32 {
    let (info, comm, mut word) = (t::info(info), t::comm(comm), 0u64);
    let word_p = &raw mut word;
    let rc = cross!(slot::MPI_Win_create, fn(*const c_void, i64, i32, u64, u64, *mut u64) -> i32;
                    base.cast_const(), size, disp_unit, info, comm, word_p);
    if rc == 0 {
        note(word, t::MPI_WIN_FLAVOR_CREATE, base as u64, size, disp_unit);
        // SAFETY: the program's output.
        unsafe { *win = t::win_back(word) };
    }
    t::error_back(rc)
}

/// `MPI_Win_create_dynamic`
#[no_mangle]
unsafe extern "C" fn mana_MPI_Win_create_dynamic(
    info: t::Handle,
    comm: t::Handle,
    win: *mut t::Handle,
) -> i32 {
    let (info, comm, mut word) = (t::info(info), t::comm(comm), 0u64);
    let word_p = &raw mut word;
    let rc = cross!(slot::MPI_Win_create_dynamic, fn(u64, u64, *mut u64) -> i32;
                    info, comm, word_p);
    if rc == 0 {
        note(word, t::MPI_WIN_FLAVOR_DYNAMIC, 0, 0, 1);
        // SAFETY: the program's output.
        unsafe { *win = t::win_back(word) };
    }
    t::error_back(rc)
}

/// Hands an error to the handler of `comm`; the program's form of it.
fn raise(comm: u64, class: i32) -> i32 {
    cross!(slot::MPI_Comm_call_errhandler, fn(u64, i32) -> i32; comm, class);
    t::error_back(class)
}

/// `MPI_Win_allocate`: memory of the program's heap.
#[no_mangle]
pub unsafe extern "C" fn mana_MPI_Win_allocate(
    size: i64,
    disp_unit: i32,
    info: t::Handle,
    comm: t::Handle,
    baseptr: *mut c_void,
    win: *mut t::Handle,
) -> i32 {
    let (info, comm, mut word) = (t::info(info), t::comm(comm), 0u64);
    let mut block = core::ptr::null_mut();
    // SAFETY: the program's allocator; a cache line suits every datatype.
    if size < 0 || unsafe { posix_memalign(&mut block, 64, size.max(1) as usize) } != 0 {
        let class = if size < 0 {
            mpi_std::MPI_ERR_SIZE
        } else {
            mpi_std::MPI_ERR_NO_MEM
        };
        return raise(comm, class);
    }
    let (word_p, block_p) = (&raw mut word, (&raw mut block).cast::<c_void>());
    let rc = cross!(slot::MPI_Win_allocate,
                    fn(i64, i32, u64, u64, *mut c_void, *mut u64) -> i32;
                    size, disp_unit, info, comm, block_p, word_p);
    // SAFETY: the program's outputs, or its allocator's block.
    unsafe {
        if rc == 0 {
            note(
                word,
                t::MPI_WIN_FLAVOR_ALLOCATE,
                block as u64,
                size,
                disp_unit,
            );
            *baseptr.cast::<*mut c_void>() = block;
            *win = t::win_back(word);
        } else {
            free(block);
        }
    }
    t::error_back(rc)
}

/// Longest name of a shared file, its end included.
const NAME: usize = 64;
const DIRECTORY: &[u8] = b"/dev/shm/mana-window-";

/// A name that no other window of this node has.
fn new_name() -> [u8; NAME] {
    let mut name = [0u8; NAME];
    let mut at = 0;
    let mut put = |byte: u8| {
        if let Some(cell) = name.get_mut(at) {
            *cell = byte;
        }
        at += 1;
    };
    DIRECTORY.iter().for_each(|byte| put(*byte));
    // SAFETY: no preconditions.
    let now = (unsafe { crate::local::mana_MPI_Wtime() } * 1e9) as u64;
    // SAFETY: no preconditions.
    for mut number in [u64::from(unsafe { getpid() } as u32), now] {
        for _ in 0..16 {
            put(b'a' + (number >> 60) as u8);
            number <<= 4;
        }
    }
    name
}

/// Opens the shared memory of that name, and makes it on the member that `creates`; 0 if that fails.
///
/// # Safety
/// `name` ends with a NUL, or is empty.
unsafe fn map(name: &[u8; NAME], length: i64, creates: bool) -> u64 {
    if name.first() == Some(&0) {
        return 0;
    }
    let flags = if creates { OPEN | CREATE } else { OPEN };
    // SAFETY: the program's libc; a descriptor that only this function knows.
    unsafe {
        let fd = open(name.as_ptr().cast(), flags, 0o600);
        if fd < 0 {
            return 0;
        }
        // Space is taken now: without it the program would die of SIGBUS later.
        let at = if creates && posix_fallocate(fd, 0, length) != 0 {
            -1isize as *mut c_void
        } else {
            mmap(
                core::ptr::null_mut(),
                length as usize,
                READ_WRITE,
                MAP_SHARED,
                fd,
                0,
            )
        };
        close(fd);
        if at as isize == -1 {
            0
        } else {
            at as u64
        }
    }
}

/// Shared memory of all members of `comm`, with `parts` filled in; its address and length.
///
/// # Safety
/// `parts` has room for all members.
unsafe fn share(
    comm: u64,
    rank: i32,
    mine: SharedPart,
    parts: &mut [SharedPart],
) -> Result<(u64, i64), i32> {
    let (from, to): (*const c_void, *mut c_void) =
        ((&raw const mine).cast(), parts.as_mut_ptr().cast());
    let word = mpi_std::MPI_INT64_T;
    let rc = cross!(slot::MPI_Allgather,
                    fn(*const c_void, i32, u64, *mut c_void, i32, u64, u64) -> i32;
                    from, 3i32, word, to, 3i32, word, comm);
    if rc != 0 {
        return Err(rc);
    }
    let mut length = 0i64;
    for part in parts.iter_mut() {
        part.offset = length;
        length += part.size.max(0);
    }
    let length = (length.max(1) + PAGE - 1) / PAGE * PAGE;
    let mut name = if rank == 0 { new_name() } else { [0; NAME] };
    let mut address = 0;
    if rank == 0 {
        // SAFETY: the name ends with a NUL.
        address = unsafe { map(&name, length, true) };
        if address == 0 {
            name = [0; NAME];
        }
    }
    let name_p: *mut c_void = (&raw mut name).cast();
    let rc = cross!(slot::MPI_Bcast, fn(*mut c_void, i32, u64, i32, u64) -> i32;
                    name_p, NAME as i32, mpi_std::MPI_BYTE, 0i32, comm);
    if rc == 0 && rank != 0 {
        // SAFETY: as above.
        address = unsafe { map(&name, length, false) };
    }
    let (good, mut all) = ((rc == 0 && address != 0) as i32, 0i32);
    let (good_p, all_p): (*const c_void, *mut c_void) =
        ((&raw const good).cast(), (&raw mut all).cast());
    let voted = cross!(slot::MPI_Allreduce,
                       fn(*const c_void, *mut c_void, i32, u64, u64, u64) -> i32;
                       good_p, all_p, 1i32, mpi_std::MPI_INT32_T, mpi_std::MPI_MIN, comm);
    if rank == 0 && name.first() != Some(&0) {
        // SAFETY: the file made above; who needs it has it mapped.
        unsafe { unlink(name.as_ptr().cast()) };
    }
    if voted == 0 && all != 0 {
        return Ok((address, length));
    }
    if address != 0 {
        // SAFETY: mapped above.
        unsafe { munmap(address as *mut c_void, length as usize) };
    }
    Err(mpi_std::MPI_ERR_RMA_SHARED)
}

/// `MPI_Win_allocate_shared`
#[no_mangle]
pub unsafe extern "C" fn mana_MPI_Win_allocate_shared(
    size: i64,
    disp_unit: i32,
    info: t::Handle,
    comm: t::Handle,
    baseptr: *mut c_void,
    win: *mut t::Handle,
) -> i32 {
    let (info, comm, mut word) = (t::info(info), t::comm(comm), 0u64);
    let (mut members, mut rank) = (0i32, 0i32);
    let (members_p, rank_p) = (&raw mut members, &raw mut rank);
    let mut rc = cross!(slot::MPI_Comm_size, fn(u64, *mut i32) -> i32; comm, members_p);
    if rc == 0 {
        rc = cross!(slot::MPI_Comm_rank, fn(u64, *mut i32) -> i32; comm, rank_p);
    }
    if rc != 0 {
        return t::error_back(rc);
    }
    let n = t::len(members);
    // SAFETY: the program's allocator.
    let parts: *mut SharedPart = unsafe { malloc(n * size_of::<SharedPart>()) }.cast();
    if parts.is_null() {
        return raise(comm, mpi_std::MPI_ERR_NO_MEM);
    }
    let mine = SharedPart {
        size,
        disp_unit: i64::from(disp_unit),
        offset: 0,
    };
    // SAFETY: `n` elements, written before they are read; zeros are valid.
    let shared = unsafe {
        core::ptr::write_bytes(parts, 0, n);
        share(comm, rank, mine, core::slice::from_raw_parts_mut(parts, n))
    };
    let result = match shared {
        Err(class) => raise(comm, class),
        Ok((address, length)) => {
            let mut memory = SharedMemory { address, parts };
            let (memory_p, word_p) = ((&raw mut memory).cast::<c_void>(), &raw mut word);
            let rc = cross!(slot::MPI_Win_allocate_shared,
                            fn(i64, i32, u64, u64, *mut c_void, *mut u64) -> i32;
                            size, disp_unit, info, comm, memory_p, word_p);
            // SAFETY: the program's outputs; this member's element; the mapping made above.
            unsafe {
                if rc == 0 {
                    let base = address + (*parts.add(t::len(rank))).offset as u64;
                    if let Some(w) = note(word, t::MPI_WIN_FLAVOR_SHARED, base, size, disp_unit) {
                        w.shared.store(address, Relaxed);
                        w.length.store(length as u64, Relaxed);
                    }
                    *baseptr.cast::<u64>() = base;
                    *win = t::win_back(word);
                } else {
                    munmap(address as *mut c_void, length as usize);
                }
            }
            t::error_back(rc)
        }
    };
    // SAFETY: from `malloc`.
    unsafe { free(parts.cast()) };
    result
}

/// `MPI_Win_free`: memory that MPI has allocated goes with the window.
#[no_mangle]
unsafe extern "C" fn mana_MPI_Win_free(win: *mut t::Handle) -> i32 {
    // SAFETY: an argument both in and out.
    let word = t::win(unsafe { *win });
    let mut gone = word;
    let gone_p = &raw mut gone;
    let rc = cross!(slot::MPI_Win_free, fn(*mut u64) -> i32; gone_p);
    if rc != 0 {
        return t::error_back(rc);
    }
    // SAFETY: the program's output; memory made for this window.
    unsafe {
        if let Some(w) = window(word).filter(|w| w.used.swap(0, Relaxed) != 0) {
            let shared = w.shared.load(Relaxed);
            if shared != 0 {
                munmap(shared as *mut c_void, w.length.load(Relaxed) as usize);
            } else if w.flavor.load(Relaxed) == t::MPI_WIN_FLAVOR_ALLOCATE {
                free(w.base.load(Relaxed) as *mut c_void);
            }
        }
        *win = t::win_back(mpi_std::MPI_WIN_NULL);
    }
    0
}
