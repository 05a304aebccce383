//! Commands that the lower half runs beside the program: they are no children of its. Lower half.
//!
//! ```text
//!  program's process --clone, no signal at its end--> the process between --fork--> the command
//!        |                    collected by its number       |     waits for it, ends with its status
//! ```
//! The kernel makes `SIGCHLD` the signal of whatever executes a program, and gives its end to any wait for a
//! child. The process between never executes one: the program's waits do not see it (only those with
//! `__WALL` or `__WCLONE` do), no `SIGCHLD` comes, and the command is its child alone. It dies with the
//! thread that has started it, and the command with it.
//!
//! The process between has the program's memory, not a copy: a copy of a large one takes long. Both it and
//! the command until it is executed run here on stacks of their own. **Illegal there**: everything that
//! touches a thread's own data, for that is the asking thread's, or takes a lock: allocation, panics, the C
//! library (but for `clone`). System calls are made directly.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::ptr::{null, null_mut, NonNull};
use std::sync::atomic::{AtomicI32, Ordering};

use mana_raw::sys;

/// Of the process between and of the command, each; below each lies a page that nobody may touch.
const STACK: usize = 64 << 10;
const GUARD: usize = 4096;
/// The exit code where the command could not be executed.
const NOT_EXECUTED: usize = 127;
/// Descriptors below are the standard streams.
const STANDARD: i32 = 3;

/// A command at work. Dropping it ends it.
#[derive(Debug)]
pub struct Aside {
    /// The process between.
    pid: i32,
    order: NonNull<Order>,
    ended: Option<ExitStatus>,
}

// SAFETY: the order is this value's alone; the other process writes only its atomic fields.
unsafe impl Send for Aside {}

/// What the other two processes read, in memory that all have. Freed when they are gone.
#[derive(Debug)]
struct Order {
    path: CString,
    arguments: Vec<*const libc::c_char>,
    environment: Vec<*const libc::c_char>,
    /// What the pointers are to.
    _words: Vec<CString>,
    /// Input, output, errors of the command; above the standard ones.
    streams: [i32; 3],
    stacks: Stacks,
    /// The process between.
    between: AtomicI32,
    /// Why the command could not be executed.
    errno: AtomicI32,
    /// What wait4 said of it.
    status: AtomicI32,
}

/// Two stacks.
#[derive(Debug)]
struct Stacks(NonNull<u8>);

impl Stacks {
    const LEN: usize = 2 * (GUARD + STACK);

    fn new() -> io::Result<Self> {
        // SAFETY: a new mapping where the kernel likes.
        let memory = unsafe {
            libc::mmap(
                null_mut(),
                Self::LEN,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        let memory = match NonNull::new(memory.cast::<u8>()) {
            Some(memory) if memory.as_ptr().cast() != libc::MAP_FAILED => Self(memory),
            _ => return Err(io::Error::last_os_error()),
        };
        for n in 0..2 {
            let guard = memory.0.as_ptr().wrapping_add(n * (GUARD + STACK));
            // SAFETY: a page of the mapping just made.
            if unsafe { libc::mprotect(guard.cast(), GUARD, libc::PROT_NONE) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(memory)
    }

    fn top(&self, n: usize) -> *mut libc::c_void {
        let top = self.0.as_ptr().wrapping_add((n + 1) * (GUARD + STACK));
        top.cast()
    }
}

impl Drop for Stacks {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`; whoever ran there has ended.
        unsafe { libc::munmap(self.0.as_ptr().cast(), Self::LEN) };
    }
}

/// What a command prints.
#[derive(Debug)]
pub struct Printed {
    /// On its standard output.
    pub output: File,
    /// On its standard error.
    pub errors: File,
}

impl Aside {
    /// Starts `command` (its program, arguments and changes of the environment; nothing is taken from its
    /// input) beside the program. Call it from a thread that stays until the command has ended.
    ///
    /// # Errors
    /// When the command is not there or there is no process to be had.
    pub fn start(command: &Command) -> io::Result<(Self, Printed)> {
        let path = find(command)?;
        let words: Vec<CString> = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|word| text(word.as_bytes()))
            .collect::<io::Result<_>>()?;
        let environment = environment(command)?;
        let input = above_standard(File::open("/dev/null")?.into())?;
        let (output, writes_output) = pipe()?;
        let (errors, writes_errors) = pipe()?;
        let pointers = |words: &[CString]| {
            let all = words.iter().map(|word| word.as_ptr());
            all.chain([null()]).collect::<Vec<_>>()
        };
        let order = Box::new(Order {
            path: text(path.as_os_str().as_bytes())?,
            arguments: pointers(&words),
            environment: pointers(&environment),
            _words: words.into_iter().chain(environment).collect(),
            streams: [
                input.as_raw_fd(),
                writes_output.as_raw_fd(),
                writes_errors.as_raw_fd(),
            ],
            stacks: Stacks::new()?,
            between: AtomicI32::new(0),
            errno: AtomicI32::new(0),
            status: AtomicI32::new(0),
        });
        let order = NonNull::from(Box::leak(order));
        // SAFETY: the order stays until the process is collected.
        let pid = unsafe { begin(order) };
        if pid < 0 {
            // SAFETY: made by a box above; nobody else has it.
            drop(unsafe { Box::from_raw(order.as_ptr()) });
            return Err(io::Error::from_raw_os_error(-pid));
        }
        let aside = Self {
            pid,
            order,
            ended: None,
        };
        let printed = Printed {
            output: output.into(),
            errors: errors.into(),
        };
        Ok((aside, printed))
    }

    /// How the command has ended; `None`: it has not.
    ///
    /// # Errors
    /// When it could not be executed, or waiting for it fails.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.wait(libc::WNOHANG)
    }

    fn wait(&mut self, options: i32) -> io::Result<Option<ExitStatus>> {
        if self.ended.is_some() {
            return Ok(self.ended);
        }
        let mut status = 0;
        // SAFETY: fills `status`; a child not yet collected keeps its number.
        let got = unsafe { libc::waitpid(self.pid, &raw mut status, options | libc::__WCLONE) };
        if got == 0 {
            return Ok(None);
        }
        if got != self.pid {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::EINTR) => Ok(None),
                _ => Err(error),
            };
        }
        // SAFETY: the order lives as long as this value.
        let order = unsafe { self.order.as_ref() };
        // What has ended the process between itself (a signal) has ended the command.
        let status = match libc::WIFEXITED(status) {
            true => order.status.load(Ordering::SeqCst),
            false => status,
        };
        let status = *self.ended.insert(ExitStatus::from_raw(status));
        match order.errno.load(Ordering::SeqCst) {
            0 => Ok(Some(status)),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    /// Ends the command, and waits for that.
    pub fn end(&mut self) {
        while self.ended.is_none() {
            // SAFETY: a child not yet collected keeps its number.
            unsafe { libc::kill(self.pid, libc::SIGKILL) };
            match self.wait(0) {
                Err(e) if self.ended.is_none() => {
                    // Somebody else has collected it.
                    log::debug!("a command beside the program: {e}");
                    self.ended = Some(ExitStatus::from_raw(libc::SIGKILL));
                }
                _ => {}
            }
        }
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        self.end();
        // SAFETY: made by a box; the process that has read it is gone. The command was executed, or has
        // ended, before that: until then the process between cannot run.
        drop(unsafe { Box::from_raw(self.order.as_ptr()) });
    }
}

fn text(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// The file of a command, as a shell finds it.
fn find(command: &Command) -> io::Result<PathBuf> {
    let name = PathBuf::from(command.get_program());
    if name.as_os_str().as_bytes().contains(&b'/') {
        return Ok(name);
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    let found = std::env::split_paths(&path)
        .map(|directory| directory.join(&name))
        .find(|file| {
            let may_run = |path: &CStr| {
                // SAFETY: the path ends with a zero.
                let allowed = unsafe { libc::access(path.as_ptr(), libc::X_OK) };
                allowed == 0
            };
            file.is_file() && text(file.as_os_str().as_bytes()).is_ok_and(|file| may_run(&file))
        });
    found.ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))
}

/// The environment of a command.
fn environment(command: &Command) -> io::Result<Vec<CString>> {
    let mut all: std::collections::BTreeMap<_, _> = std::env::vars_os().collect();
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => all.insert(name.to_owned(), value.to_owned()),
            None => all.remove(name),
        };
    }
    let line = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        text(&[name.as_bytes(), b"=", value.as_bytes()].concat())
    };
    all.into_iter().map(line).collect()
}

/// The same description under a number that is none of the standard ones.
fn above_standard(file: OwnedFd) -> io::Result<OwnedFd> {
    if file.as_raw_fd() >= STANDARD {
        return Ok(file);
    }
    // SAFETY: makes a new descriptor.
    let other = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD_CLOEXEC, STANDARD) };
    if other < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(other) })
}

/// Where is read, and where is written.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: fills the two numbers.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, and nobody else's.
    let [reads, writes] = ends.map(|end| unsafe { OwnedFd::from_raw_fd(end) });
    Ok((reads, above_standard(writes)?))
}

/// Makes the process between. Its number, or a negated errno.
///
/// # Safety
/// The order must stay until that process has ended.
unsafe fn begin(order: NonNull<Order>) -> i32 {
    // SAFETY: the caller's order.
    let stack = unsafe { order.as_ref() }.stacks.top(0);
    let mut before = 0u64;
    // A handler of the program's must not run in a process that has its memory.
    set_mask(&u64::MAX, &raw mut before);
    // SAFETY: the new process runs `between` on a stack of its own, with a copy of the descriptors and of the
    // signals' effects; `between` keeps to what is said in the head of this file.
    let pid = unsafe { libc::clone(between, stack, libc::CLONE_VM, order.as_ptr().cast()) };
    let error = io::Error::last_os_error();
    set_mask(&before, null_mut());
    match pid {
        ..0 => -error.raw_os_error().unwrap_or(libc::EAGAIN),
        pid => pid,
    }
}

fn set_mask(new: &u64, old: *mut u64) {
    let set = libc::SIG_SETMASK as usize;
    let new: *const u64 = new;
    call(sys::RT_SIGPROCMASK, [set, new as usize, old as usize, 8]);
}

/// A system call that takes only numbers and live memory of this module's.
fn call(nr: usize, arguments: [usize; 4]) -> isize {
    let [a, b, c, d] = arguments;
    // SAFETY: as said; none of those made here changes what other code of the process relies on.
    unsafe { sys::syscall(nr, [a, b, c, d, 0, 0]) }
}

fn exit(code: usize) -> ! {
    loop {
        call(sys::EXIT_GROUP, [code, 0, 0, 0]);
    }
}

fn prctl(what: i32, value: usize) {
    call(libc::SYS_prctl as usize, [what as usize, value, 0, 0]);
}

fn close_from(first: i32) {
    let (close_range, close) = (libc::SYS_close_range as usize, libc::SYS_close as usize);
    if call(close_range, [first as usize, u32::MAX as usize, 0, 0]) == 0 {
        return;
    }
    // A kernel before 5.9: as many as a process may have unless it was allowed more.
    for fd in first..1 << 16 {
        call(close, [fd as usize, 0, 0, 0]);
    }
}

/// The process between: settles, forks the command, waits for it.
extern "C" fn between(order: *mut libc::c_void) -> i32 {
    // SAFETY: the order of `begin`, which stays as long as this process.
    let order: &Order = unsafe { &*order.cast::<Order>() };
    // As of a thread that is gone: whoever would take the answer.
    prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as usize);
    prctl(libc::PR_SET_NAME, c"mana-aside".as_ptr() as usize);
    let own = call(sys::GETPID, [0; 4]);
    order.between.store(own as i32, Ordering::SeqCst);
    let default = [0usize; 4];
    for signal in 1..65 {
        // The kernel's structure: handler, flags, restorer, mask. SIGKILL and SIGSTOP are refused.
        call(sys::RT_SIGACTION, [signal, default.as_ptr() as usize, 0, 8]);
    }
    for (standard, &stream) in order.streams.iter().enumerate() {
        let dup2 = libc::SYS_dup2 as usize;
        call(dup2, [stream as usize, standard, 0, 0]);
    }
    // Neither this process nor the command holds anything open.
    close_from(STANDARD);
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    let argument: *const Order = order;
    // SAFETY: the command runs `execute` on a stack of its own until it is another program; this process
    // stands still meanwhile. Where there is no process to be had, the C library writes the asking thread's
    // errno, which that thread reads only right after a call of its own that has failed.
    let child = unsafe {
        libc::clone(
            execute,
            order.stacks.top(1),
            flags,
            argument.cast_mut().cast(),
        )
    };
    close_from(0);
    if child < 0 {
        order.errno.store(libc::EAGAIN, Ordering::SeqCst);
        exit(NOT_EXECUTED);
    }
    let mut status = 0i32;
    let place = &raw mut status as usize;
    while call(sys::WAIT4, [child as usize, place, 0, 0]) == -(libc::EINTR as isize) {}
    // SAFETY: this frame's; the kernel has written it.
    let status = unsafe { (&raw const status).read_volatile() };
    order.status.store(status, Ordering::SeqCst);
    exit(0)
}

/// What is to be the command.
extern "C" fn execute(order: *mut libc::c_void) -> i32 {
    // SAFETY: as in `between`, which waits for this.
    let order: &Order = unsafe { &*order.cast::<Order>() };
    prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as usize);
    if call(sys::GETPPID, [0; 4]) != order.between.load(Ordering::SeqCst) as isize {
        exit(NOT_EXECUTED); // it has died in between
    }
    set_mask(&0, null_mut());
    let path = order.path.as_ptr() as usize;
    let arguments = order.arguments.as_ptr() as usize;
    let environment = order.environment.as_ptr() as usize;
    let error = call(sys::EXECVE, [path, arguments, environment, 0]);
    order.errno.store(-error as i32, Ordering::SeqCst);
    exit(NOT_EXECUTED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::time::{Duration, Instant};

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn end_of(aside: &mut Aside) -> io::Result<ExitStatus> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(status) = aside.try_wait()? {
                return Ok(status);
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn what_it_prints_and_how_it_ends_is_told() {
        let mut command = shell("echo \"$A$B\"; echo no >&2; exit 3");
        command.env("A", "word").env_remove("B");
        let (mut aside, mut printed) = Aside::start(&command).expect("started");
        let (mut output, mut errors) = (String::new(), String::new());
        printed.output.read_to_string(&mut output).expect("read");
        printed.errors.read_to_string(&mut errors).expect("read");
        assert_eq!((output.as_str(), errors.as_str()), ("word\n", "no\n"));
        assert_eq!(end_of(&mut aside).expect("ended").code(), Some(3));
        let (mut aside, _) = Aside::start(&shell("kill -TERM $$")).expect("started");
        let ended = end_of(&mut aside).expect("ended");
        assert_eq!(ended.signal(), Some(libc::SIGTERM));
    }

    #[test]
    fn what_cannot_be_executed_is_an_error() {
        let missing = Aside::start(&Command::new("mana-no-such-command")).expect_err("missing");
        assert_eq!(missing.raw_os_error(), Some(libc::ENOENT));
        let (mut aside, _) = Aside::start(&Command::new("/")).expect("started");
        let error = end_of(&mut aside).expect_err("no program");
        assert_eq!(error.raw_os_error(), Some(libc::EACCES));
    }

    /// The kernel's view: of the children of this process none is the command, and the one between sends no
    /// signal at its end. (That a wait for any child does not see it follows; other tests have children.)
    #[test]
    fn it_is_no_child_of_the_program() {
        // SAFETY: a copy of the standard error, which a program executed here would have as well.
        let leaked = unsafe { libc::dup(2) };
        let script = format!("echo $PPID; test -e /proc/$$/fd/{leaked}; echo $?; exec sleep 60");
        let (mut aside, mut printed) = Aside::start(&shell(&script)).expect("started");
        // SAFETY: made above.
        unsafe { libc::close(leaked) };
        let mut told = Vec::new();
        let mut piece = [0; 64];
        while told.iter().filter(|&&b| b == b'\n').count() < 2 {
            let n = printed.output.read(&mut piece).expect("read");
            assert!(n > 0, "it has ended");
            told.extend_from_slice(&piece[..n]);
        }
        let told = String::from_utf8(told).expect("text");
        assert_eq!(
            told,
            format!("{}\n1\n", aside.pid),
            "its parent, and what it has open"
        );
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", aside.pid)).expect("there");
        let words: Vec<&str> = stat
            .rsplit(')')
            .next()
            .unwrap_or("")
            .split_whitespace()
            .collect();
        assert_eq!(
            words.get(1).copied(),
            Some(std::process::id().to_string().as_str())
        );
        assert_eq!(words.get(35).copied(), Some("0"), "{stat}");
        let mut status = 0;
        // SAFETY: fills `status`.
        let seen = unsafe { libc::waitpid(aside.pid, &raw mut status, libc::WNOHANG) };
        assert_eq!(seen, -1, "a plain wait sees it");
        let command = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", aside.pid))
            .expect("there");
        aside.end();
        let gone = || {
            let command = command.trim();
            std::fs::read_to_string(format!("/proc/{command}/stat")).map_or(true, |stat| {
                stat.rsplit(')')
                    .next()
                    .unwrap_or("")
                    .trim_start()
                    .starts_with('Z')
            })
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        while !gone() {
            assert!(Instant::now() < deadline, "the command lives on");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
