//! Every kind of state with real descriptors, timers and mappings: one process makes it, checks it,
//! has it captured and checks it again (a capture changes nothing); a second process restores it
//! and checks it.
//!
//! Each scenario is a test of libtest. It starts this test binary twice, for the two processes, with
//! only itself selected and the step in the environment.

#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "plain system calls on descriptors and memory that the tests own"
)]

mod files;
mod memory;
mod refusals;
mod streams;
mod tables;
mod timing;

use std::env;
use std::ops::Range;
use std::os::fd::RawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use process_state::*;

/// Numbers below this are the test harness's, numbers from [`BASE`] on the lower half's.
const FIRST: RawFd = 20;
const BASE: RawFd = 200;
/// Bound on each process of a scenario.
const BOUND: Duration = Duration::from_secs(20);
const STEP: &str = "PROCESS_STATE_TEST_STEP";
const PLACE: &str = "PROCESS_STATE_TEST_PLACE";

/// Addresses that tests map at: inside the arena of the upper half.
const REGION: Range<usize> = 0x3100_0000_0000..0x3101_0000_0000;

fn lower(fd: RawFd) -> bool {
    (3..FIRST).contains(&fd) || fd >= BASE
}

/// What a test says about its scenario.
struct Scenario {
    /// Makes the state, in the first process. Numbers it leaves open must be FIRST..BASE.
    set_up: fn(&Path),
    /// Between the two processes: what the rest of the world does.
    meanwhile: fn(&Path),
    /// Checks the state; the flag says whether this is the restarted process.
    verify: fn(&Path, bool),
    /// Changes the context of the capture.
    adjust: fn(&mut CaptureContext<'_>),
    /// Checks what the capture warned about.
    warned: fn(&[Warning]),
}

impl Scenario {
    const fn new(set_up: fn(&Path), verify: fn(&Path, bool)) -> Scenario {
        Scenario {
            set_up,
            meanwhile: |_| {},
            verify,
            adjust: |_| {},
            warned: |warnings| assert_eq!(warnings, [], "unexpected warnings"),
        }
    }

    /// Runs the scenario of test `name`, or the step of it that this process is for.
    fn run(&self, name: &str) {
        self.run_with(name, &[]);
    }

    /// As [`Scenario::run`], with variables for both processes.
    fn run_with(&self, name: &str, variables: &[(&str, String)]) {
        let place = || PathBuf::from(env::var_os(PLACE).unwrap());
        match env::var(STEP).as_deref() {
            Ok("capture") => self.capture(&place()),
            Ok("restore") => self.restore(&place(), "image", Some("image of the restarted")),
            Ok("again") => self.restore(&place(), "image of the restarted", None),
            _ => {
                let place = tempfile::tempdir().unwrap();
                child(name, "capture", place.path(), variables);
                (self.meanwhile)(place.path());
                child(name, "restore", place.path(), variables);
                // A checkpoint of the restarted process is as good.
                if place.path().join("image of the restarted").exists() {
                    child(name, "again", place.path(), variables);
                }
            }
        }
    }

    fn capture(&self, place: &Path) {
        let inherited = Inherited::observe();
        (self.set_up)(place);
        (self.verify)(place, false);
        let regions = [REGION];
        let mut ctx = CaptureContext::new(&inherited, &regions);
        ctx.lower_descriptor = &lower;
        (self.adjust)(&mut ctx);
        let mut blobs = MemoryBlobs::new();
        let captured = capture(&ctx, &mut blobs).unwrap();
        (self.warned)(&captured.warnings);
        let mut again = MemoryBlobs::new();
        assert_eq!(
            capture(&ctx, &mut again).unwrap().state.descriptors.numbers,
            captured.state.descriptors.numbers
        );
        assert_eq!(again.total_bytes(), blobs.total_bytes());
        let image = postcard::to_stdvec(&(&captured.state, &blobs)).unwrap();
        std::fs::write(place.join("image"), image).unwrap();
        (self.verify)(place, false);
    }

    fn restore(&self, place: &Path, from: &str, to: Option<&str>) {
        let inherited = Inherited::observe();
        let before = above_base();
        let image = std::fs::read(place.join(from)).unwrap();
        let (state, blobs): (ProcessState, MemoryBlobs) = postcard::from_bytes(&image).unwrap();
        drop(image);
        let rendezvous = place.join(format!("rendezvous for {from}"));
        std::fs::create_dir_all(&rendezvous).unwrap();
        let mut ctx = RestoreContext::new(BASE, &blobs, &rendezvous);
        ctx.timeout = Duration::from_secs(5);
        ctx.clones = Some(place);
        let mut restored = restore_descriptors(&state, &ctx).unwrap();
        restore_mappings(&state, &ctx, &mut restored).unwrap();
        restore_rest(&state, &ctx, restored).unwrap();
        restore_timers(&state, &ctx).unwrap();
        if let Some(to) = to {
            let regions = [REGION];
            let mut ctx = CaptureContext::new(&inherited, &regions);
            ctx.lower_descriptor = &lower;
            (self.adjust)(&mut ctx);
            let mut blobs = MemoryBlobs::new();
            let captured = capture(&ctx, &mut blobs).unwrap();
            let image = postcard::to_stdvec(&(&captured.state, &blobs)).unwrap();
            std::fs::write(place.join(to), image).unwrap();
        }
        (self.verify)(place, true);
        // What the restore opened for itself is closed again.
        assert_eq!(above_base(), before);
    }
}

/// Open numbers from [`BASE`] on (the one who started the tests may have left some).
fn above_base() -> Vec<RawFd> {
    let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let numbers = open.filter_map(|e| e.file_name().to_str()?.parse().ok());
    numbers.filter(|&fd| fd >= BASE).collect()
}

/// Runs one process of a scenario and fails with its output if it fails.
fn child(name: &str, step: &str, place: &Path, variables: &[(&str, String)]) {
    finish(start(name, step, place, variables), name, step);
}

fn start(name: &str, step: &str, place: &Path, variables: &[(&str, String)]) -> Child {
    let mut command = Command::new(env::current_exe().unwrap());
    // In all threads of the new process, so that it can be pending for the process as a whole.
    unsafe { command.pre_exec(|| block(QUEUED)) };
    command
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(STEP, step)
        .env(PLACE, place)
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn finish(mut process: Child, name: &str, step: &str) {
    let deadline = Instant::now() + BOUND;
    while process.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            process.kill().unwrap();
            panic!(
                "{name}, {step}: no end after {BOUND:?}: {:?}",
                process.wait_with_output()
            );
        }
        thread::sleep(Duration::from_millis(2));
    }
    let output = process.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(
        output.status.success(),
        "{name}, {step}: {}\n{out}\n{err}",
        output.status
    );
    assert!(out.contains("1 passed"), "{name}: no such test: {out}");
}

/// A signal that is blocked in the processes of a scenario.
const QUEUED: i32 = 40;

fn block(signal: i32) -> std::io::Result<()> {
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    unsafe { libc::sigaddset(&mut set, signal) };
    match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(std::io::Error::from_raw_os_error(error)),
    }
}

/// Moves an open descriptor to `number`.
fn put(fd: impl Into<std::os::fd::OwnedFd>, number: RawFd) {
    use std::os::fd::AsRawFd;
    let fd = fd.into();
    assert_eq!(unsafe { libc::dup2(fd.as_raw_fd(), number) }, number);
}

/// A file on `number`, for use without closing it.
fn at(number: RawFd) -> std::mem::ManuallyDrop<std::fs::File> {
    use std::os::fd::FromRawFd;
    std::mem::ManuallyDrop::new(unsafe { std::fs::File::from_raw_fd(number) })
}

fn flags(fd: RawFd) -> i32 {
    unsafe { libc::fcntl(fd, libc::F_GETFL) }
}

fn position(fd: RawFd) -> i64 {
    unsafe { libc::lseek(fd, 0, libc::SEEK_CUR) }
}

/// Waits until `fd` is readable; false after five seconds.
fn readable(fd: RawFd, milliseconds: i32) -> bool {
    let mut poll = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    unsafe { libc::poll(&mut poll, 1, milliseconds) == 1 }
}

/// A pipe: the end to read from and the end to write to.
fn pipe() -> (std::fs::File, std::fs::File) {
    let (reader, writer) = nix::unistd::pipe().unwrap();
    (reader.into(), writer.into())
}
