//! Starting a program: the arena's own areas, the program's loader, its first stack. Lower half,
//! main thread.
//!
//! Only the loader (`ld.so`) is mapped here, and started as if by hand: `ld.so [options] program
//! args`. It maps everything else through the trapped `mmap`. Its options carry our libraries, so
//! the environment of the program and of its children is untouched.

use crate::api::{Hooks, LaunchError, Resolved};
use crate::arena::{self, pages, PAGE};
use crate::book::{self, book};
use crate::elf::{Elf, PT_LOAD};
use crate::{calls, control, memory_at, patch, signals, threads, tree, vdso, wait};
use mana_raw::layout::{
    ANONYMOUS, BREAK, MODULES, SHIM_CODE, SHIM_CODE_END, SHIM_DATA, SHIM_DATA_LEN, STACK_TOP,
    TRAMPOLINES,
};
use mana_raw::{shim, sys};
use std::convert::Infallible;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

static HOOKS: Mutex<Hooks> = Mutex::new(Hooks {
    on_exit: None,
    on_execve: None,
    on_fork: None,
    on_execute: None,
});

/// Keeps the hooks still across a fork.
pub fn hold_hooks() -> impl Drop {
    HOOKS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The glue's hooks.
pub fn hooks() -> Hooks {
    *HOOKS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Installs the glue's hooks.
pub fn set_hooks(hooks: Hooks) {
    *HOOKS.lock().unwrap_or_else(PoisonError::into_inner) = hooks;
}

/// Starts the program on the calling thread, which must be the process's first one. Control threads
/// may exist already; they have all signals blocked.
///
/// # Errors
/// Before the program has run a single instruction; the process is of no use for another start.
pub fn start(resolved: Resolved, hooks: Hooks) -> Result<Infallible, LaunchError> {
    set_hooks(hooks);
    control::map()?;
    areas()?;
    calls::remember_pid();
    control::membarrier_register();
    wait::calibrate();
    let vdso = vdso::copy()?;
    let loader = load(&resolved.loader)?;
    let argv = loader.command(&resolved);
    set_exe(&resolved);
    let stack = build_stack(&argv, &resolved, &loader, vdso)?;
    crate::children::all_are_lower();
    signals::inherit();
    let mask = signals::set_mask(!0);
    // A lower thread makes the lower libc install its own handler for the park signal, now rather
    // than later over ours.
    std::thread::spawn(|| {}).join().ok();
    signals::install_park();
    crate::notice::install();
    let own = tree::own().map_or(std::process::id() as i32, tree::Place::id);
    let main = threads::adopt_main(own, 0);
    // SAFETY: before the program runs.
    unsafe { book() }.pid.store(own, Ordering::Relaxed);
    signals::set_mask(resolved.launch.mask.unwrap_or(mask));
    let begin = threads::Begin {
        fs: 0,
        stack,
        target: loader.entry,
    };
    // SAFETY: the loader's entry with the stack it expects, on the record of this thread.
    unsafe { threads::enter_main(main, &begin) }
}

/// Maps the arena's own areas and makes the book.
fn areas() -> Result<(), LaunchError> {
    memory_at(SHIM_CODE, SHIM_CODE_END - SHIM_CODE, 3, "map the shim")?;
    memory_at(SHIM_DATA, SHIM_DATA_LEN, 3, "map the shim's data")?;
    let code = shim::code();
    assert!(code.len() <= TRAMPOLINES - SHIM_CODE);
    // SAFETY: just mapped, large enough.
    unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), SHIM_CODE as *mut u8, code.len()) };
    crate::protect_at(
        SHIM_CODE,
        SHIM_CODE_END - SHIM_CODE,
        libc::PROT_READ | libc::PROT_EXEC,
    )?;
    // SAFETY: just mapped, zeroed.
    let book = unsafe { book() };
    book.shim_len = code.len();
    book.break_start = BREAK;
    book.break_now.store(BREAK, Ordering::Relaxed);
    book.modules_next.store(MODULES, Ordering::Relaxed);
    book.anonymous_next.store(ANONYMOUS, Ordering::Relaxed);
    for &number in patch::ALWAYS {
        patch::trap(number, true);
    }
    if let Some(table) = tree::table() {
        for &number in tree::numbers::TRAPPED {
            patch::trap(number, true);
        }
        if table.is_resumed() {
            for &number in patch::AFTER_RESTART {
                patch::trap(number, true);
            }
        }
    }
    // SAFETY: the control page is mapped.
    unsafe { control::page() }.brk = BREAK;
    book::open();
    Ok(())
}

/// The mapped loader.
struct Loader {
    path: OsString,
    base: usize,
    entry: usize,
    headers: usize,
    header_count: usize,
    has_argv0: bool,
    has_preload: bool,
}

/// Calls every C library must have under control for its memory to be ours.
const NEEDED_IN_LOADER: &[(u32, &str)] = &[(9, "mmap"), (11, "munmap")];

fn load(path: &Path) -> Result<Loader, LaunchError> {
    let io = |operation: &'static str| {
        move |source| LaunchError::Io {
            operation,
            path: path.to_path_buf(),
            source,
        }
    };
    let (data, elf) = Elf::read(path).map_err(io("read"))?;
    let elf = elf.map_err(|reason| LaunchError::Refused {
        program: path.to_path_buf(),
        reason: reason.to_owned(),
    })?;
    if !elf.relocatable || elf.loader.is_some() {
        return Err(LaunchError::Refused {
            program: path.to_path_buf(),
            reason: "not a program loader (PT_INTERP of the program names it)".to_owned(),
        });
    }
    let file = std::fs::File::open(path).map_err(io("open"))?;
    let span = pages(elf.span());
    let base = arena::place(true, span, PAGE, |at| {
        // SAFETY: NOREPLACE; holds the whole span until the segments are mapped into it.
        unsafe {
            sys::syscall(
                sys::MMAP,
                [at, span, 0, 0x22 | arena::NOREPLACE, usize::MAX, 0],
            )
        }
    });
    let memory = |operation, address, errno: isize| LaunchError::Memory {
        operation,
        address,
        errno: errno as i32,
    };
    if base < 0 {
        return Err(memory("find room for the program loader", MODULES, -base));
    }
    let base = base as usize;
    for s in elf.segments.iter().filter(|s| s.kind == PT_LOAD) {
        let prot = (s.flags & 4) >> 2 | (s.flags & 2) | (s.flags & 1) << 2;
        let pad = s.address % PAGE;
        let at = base + s.address - pad;
        let args = [
            at,
            pad + s.file_len,
            prot as usize,
            0x12,
            std::os::fd::AsRawFd::as_raw_fd(&file) as usize,
            s.offset - pad,
        ];
        // SAFETY: within the span held above.
        let result = unsafe { sys::syscall(sys::MMAP, args) };
        if result < 0 {
            return Err(memory("map a segment of the program loader", at, -result));
        }
        let file_end = base + s.address + s.file_len;
        let memory_end = base + s.address + s.memory_len;
        if s.memory_len > s.file_len && prot & 2 != 0 {
            // To the end of the page, as the kernel does it: the loader's first allocations are there.
            let rest = pages(file_end) - file_end;
            // SAFETY: the rest of the last page of a writable segment.
            unsafe { std::ptr::write_bytes(file_end as *mut u8, 0, rest) };
        }
        if pages(memory_end) > pages(file_end) {
            let args = [
                pages(file_end),
                pages(memory_end) - pages(file_end),
                prot as usize,
                0x32,
                usize::MAX,
                0,
            ];
            // SAFETY: within the span held above.
            unsafe { sys::syscall(sys::MMAP, args) };
        }
        if prot & 4 != 0 {
            // SAFETY: just mapped, not running yet.
            let patched = unsafe { patch::code(at, pad + s.file_len, prot as i32) };
            for &(number, name) in NEEDED_IN_LOADER {
                if !patched.numbers.contains(&number) {
                    return Err(LaunchError::Sites {
                        file: path.to_path_buf(),
                        reason: format!(
                            "its {name} system call was not found; this C library is not supported"
                        ),
                    });
                }
            }
        }
    }
    let contains = |text: &[u8]| data.windows(text.len()).any(|w| w == text);
    Ok(Loader {
        path: path.as_os_str().to_owned(),
        base,
        entry: base + elf.entry,
        headers: base + elf.headers,
        header_count: elf.segments.len(),
        has_argv0: contains(b"--argv0"),
        has_preload: contains(b"--preload"),
    })
}

impl Loader {
    /// `argv` of the loader.
    fn command(&self, resolved: &Resolved) -> Vec<OsString> {
        let mut argv = vec![self.path.clone()];
        let launch = &resolved.launch;
        let join = |paths: &mut dyn Iterator<Item = OsString>| -> OsString {
            let mut out = OsString::new();
            for path in paths {
                if !out.is_empty() {
                    out.push(":");
                }
                out.push(path);
            }
            out
        };
        if !launch.upper_library_path.is_empty() {
            let own = launch
                .env
                .iter()
                .find(|(k, _)| k == "LD_LIBRARY_PATH")
                .map(|(_, v)| v.clone());
            let ours = launch
                .upper_library_path
                .iter()
                .map(|p| p.clone().into_os_string());
            argv.push("--library-path".into());
            argv.push(join(&mut ours.chain(own.filter(|o| !o.is_empty()))));
        }
        if !launch.upper_preload.is_empty() && self.has_preload {
            argv.push("--preload".into());
            argv.push(join(
                &mut launch
                    .upper_preload
                    .iter()
                    .map(|p| p.clone().into_os_string()),
            ));
        }
        let mut rest = resolved.argv.iter().cloned();
        let argv0 = rest
            .next()
            .unwrap_or_else(|| resolved.program.clone().into_os_string());
        if self.has_argv0 {
            argv.push("--argv0".into());
            argv.push(argv0);
        }
        // A path with a slash, or the loader would search its library path.
        let program =
            std::fs::canonicalize(&resolved.program).unwrap_or_else(|_| resolved.program.clone());
        argv.push(program.into_os_string());
        argv.extend(rest);
        argv
    }
}

fn set_exe(resolved: &Resolved) {
    let path =
        std::fs::canonicalize(&resolved.program).unwrap_or_else(|_| resolved.program.clone());
    let bytes = path.as_os_str().as_bytes();
    // SAFETY: before the program runs.
    let book = unsafe { book() };
    if let Some(place) = book.exe.get_mut(..bytes.len()) {
        place.copy_from_slice(bytes);
        book.exe_len = bytes.len();
    }
}

/// Bytes of the stack that are mapped at first; the kernel lets it grow to `RLIMIT_STACK`.
const FIRST_STACK: usize = 256 << 10;
/// `MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_STACK`.
pub const STACK_FLAGS: usize = 0x2_0122;

/// Writes strings and words downward from the top of the new stack.
struct Writer {
    at: usize,
    floor: usize,
}

impl Writer {
    fn string(&mut self, bytes: &[u8]) -> Result<usize, LaunchError> {
        let len = bytes.len() + 1;
        if self.at - self.floor < len + PAGE {
            return Err(LaunchError::Memory {
                operation: "put arguments and environment on the stack",
                address: self.at,
                errno: libc::E2BIG,
            });
        }
        self.at -= len;
        // SAFETY: within the mapped stack; a fresh mapping is zero, so the terminator is there.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.at as *mut u8, bytes.len()) };
        Ok(self.at)
    }
}

fn build_stack(
    argv: &[OsString],
    resolved: &Resolved,
    loader: &Loader,
    vdso: Option<usize>,
) -> Result<usize, LaunchError> {
    let env = &resolved.launch.env;
    let text: usize = argv.iter().map(|a| a.len() + 9).sum::<usize>()
        + env
            .iter()
            .map(|(k, v)| k.len() + v.len() + 10)
            .sum::<usize>();
    let len = pages(text * 2).max(FIRST_STACK);
    let floor = STACK_TOP - len;
    // SAFETY: NOREPLACE.
    let result = unsafe {
        sys::syscall(
            sys::MMAP,
            [floor, len, 3, STACK_FLAGS | arena::NOREPLACE, usize::MAX, 0],
        )
    };
    if result != floor as isize {
        return Err(LaunchError::Memory {
            operation: "map the stack",
            address: floor,
            errno: -result as i32,
        });
    }
    let mut writer = Writer {
        at: STACK_TOP - 64,
        floor,
    };
    let name = writer.string(resolved.program.as_os_str().as_bytes())?;
    let platform = writer.string(b"x86_64")?;
    let mut random = [1u8; 16];
    // SAFETY: fills the 16 bytes.
    unsafe { libc::getrandom(random.as_mut_ptr().cast(), 16, 0) };
    let random = writer.string(&random)?;
    let mut words = vec![argv.len()];
    for argument in argv {
        words.push(writer.string(argument.as_bytes())?);
    }
    words.push(0);
    for (key, value) in env {
        let mut line = key.as_bytes().to_vec();
        line.push(b'=');
        line.extend_from_slice(value.as_bytes());
        words.push(writer.string(&line)?);
    }
    words.push(0);
    // SAFETY: read the auxiliary vector and the process's identity.
    let (aux, ids) = unsafe {
        (
            |kind| libc::getauxval(kind) as usize,
            [
                libc::getuid(),
                libc::geteuid(),
                libc::getgid(),
                libc::getegid(),
            ],
        )
    };
    let mut pairs = vec![
        (libc::AT_PHDR, loader.headers),
        (libc::AT_PHENT, 56),
        (libc::AT_PHNUM, loader.header_count),
        (libc::AT_PAGESZ, PAGE),
        (libc::AT_BASE, 0),
        (libc::AT_FLAGS, 0),
        (libc::AT_ENTRY, loader.entry),
        (libc::AT_UID, ids[0] as usize),
        (libc::AT_EUID, ids[1] as usize),
        (libc::AT_GID, ids[2] as usize),
        (libc::AT_EGID, ids[3] as usize),
        (libc::AT_SECURE, 0),
        (libc::AT_PLATFORM, platform),
        (libc::AT_HWCAP, aux(libc::AT_HWCAP)),
        (libc::AT_HWCAP2, aux(libc::AT_HWCAP2)),
        (libc::AT_CLKTCK, aux(libc::AT_CLKTCK)),
        (libc::AT_RANDOM, random),
        (libc::AT_EXECFN, name),
    ];
    const AT_MINSIGSTKSZ: u64 = 51;
    if aux(AT_MINSIGSTKSZ) != 0 {
        pairs.push((AT_MINSIGSTKSZ, aux(AT_MINSIGSTKSZ)));
    }
    if let Some(vdso) = vdso {
        pairs.push((libc::AT_SYSINFO_EHDR, vdso));
    }
    pairs.push((libc::AT_NULL, 0));
    for (kind, value) in pairs {
        words.extend([kind as usize, value]);
    }
    let _ = loader.base;
    let at = (writer.at - words.len() * 8) & !15;
    // SAFETY: within the mapped stack: its length was chosen for twice the text.
    unsafe { std::ptr::copy_nonoverlapping(words.as_ptr(), at as *mut usize, words.len()) };
    Ok(at)
}
