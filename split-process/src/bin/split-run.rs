//! A launcher for the tests of this crate: runs a program in the upper half, takes checkpoints of
//! it into a plain file, resumes it. One process, no MPI, no verification.
//!
//! ```text
//! split-run [--checkpoint-after MS]... [--fork] [--kill] IMAGE PROGRAM [ARGS]
//! split-run --resume [--checkpoint-after MS]... [--fork] [--kill] IMAGE
//! ```
//! `--fork`: write from a forked child while the program runs on. `--kill`: end with SIGKILL after
//! the last checkpoint.
#![no_main] // the standard library's start would change the dispositions of SIGPIPE and SIGSEGV

use process_state::{CaptureContext, Inherited, MemoryBlobs, ProcessState, RestoreContext};
use serde::{Deserialize, Serialize};
use split_process::{Hooks, Launch, ParkError, Region, Restorer};
use std::ffi::{CStr, OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

type Error = Box<dyn std::error::Error>;

#[derive(Serialize, Deserialize)]
struct Head {
    state: Vec<u8>,
    process: ProcessState,
    blobs: MemoryBlobs,
    regions: Vec<Region>,
}

struct Options {
    after: Vec<u64>,
    kill: bool,
    fork: bool,
    resume: bool,
    image: PathBuf,
    program: Vec<OsString>,
}

fn options(mut arguments: impl Iterator<Item = OsString>) -> Result<Options, Error> {
    let mut options = Options {
        after: Vec::new(),
        kill: false,
        fork: false,
        resume: false,
        image: PathBuf::new(),
        program: Vec::new(),
    };
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--checkpoint-after") => {
                let value = arguments
                    .next()
                    .ok_or("--checkpoint-after needs milliseconds")?;
                options.after.push(value.to_string_lossy().parse()?);
            }
            Some("--kill") => options.kill = true,
            Some("--fork") => options.fork = true,
            Some("--resume") => options.resume = true,
            _ => {
                options.image = argument.into();
                options.program = arguments.by_ref().collect();
            }
        }
    }
    Ok(options)
}

fn checkpoint(image: &Path, fork: bool) -> Result<(), Error> {
    let begin = Instant::now();
    let parked = loop {
        match split_process::park_all(Duration::from_secs(5)) {
            Err(ParkError::NotRunning) if begin.elapsed() < Duration::from_secs(5) => {
                std::thread::sleep(Duration::from_millis(1)); // the program is being loaded
            }
            other => break other?,
        }
    };
    let park_time = begin.elapsed();
    let main = parked.threads();
    parked.run_on_main(Box::new(|| {
        // A closure that allocates and prints: the lower half's libc works on the parked thread.
        eprintln!(
            "split-run: on the parked thread {}",
            std::thread::current().name().unwrap_or("-").len()
        );
    }))?;
    let ranges = split_process::upper_ranges();
    let inherited = INHERITED.get().ok_or("nothing observed")?;
    let mut context = CaptureContext::new(inherited, &ranges);
    context.lower_descriptor = &|fd| fd >= split_process::LOWER_FD_BASE;
    context.virtual_tid = &split_process::virtual_tid;
    context.pending_signals = !(1 << (split_process::PARK_SIGNAL - 1));
    let mut blobs = MemoryBlobs::new();
    let captured = process_state::capture(&context, &mut blobs)?;
    for warning in &captured.warnings {
        eprintln!("split-run: warning: {warning}");
    }
    let head = Head {
        state: parked.state()?,
        process: captured.state,
        blobs,
        regions: parked.regions()?,
    };
    let bytes = postcard::to_stdvec(&head)?;
    let temporary = image.with_extension("part");
    let mut file = File::create(&temporary)?;
    file.write_all(&(bytes.len() as u64).to_le_bytes())?;
    file.write_all(&bytes)?;
    let total: u64 = head
        .regions
        .iter()
        .flat_map(|r| &r.runs)
        .map(|r| r.len)
        .sum();
    let mut write = || {
        let mut runs = head.regions.iter().flat_map(|r| &r.runs);
        runs.try_for_each(|run| file.write_all(parked.memory(run)))
    };
    if fork {
        // SAFETY: `write` neither allocates nor locks.
        let snapshot = unsafe { parked.snapshot(|| write().is_err().into()) }?;
        drop(parked);
        match snapshot.wait(Duration::from_secs(20)) {
            Some(0) => {}
            other => return Err(format!("the snapshot's writer: {other:?}").into()),
        }
    } else {
        write()?;
        drop(parked);
    }
    std::fs::rename(&temporary, image)?;
    eprintln!(
        "split-run: {} threads, {} regions, {total} bytes, park {park_time:?}, all {:?}",
        main.len(),
        head.regions.len(),
        begin.elapsed()
    );
    Ok(())
}

static INHERITED: OnceLock<Inherited> = OnceLock::new();

/// The same file under a number the program does not use.
fn high(file: &File) -> Result<File, Error> {
    use std::os::fd::{AsRawFd, FromRawFd};
    // SAFETY: a fresh descriptor, owned by the result.
    unsafe {
        let fd = libc::fcntl(
            file.as_raw_fd(),
            libc::F_DUPFD_CLOEXEC,
            split_process::LOWER_FD_BASE,
        );
        if fd < 0 {
            return Err(std::io::Error::last_os_error().into());
        }
        Ok(File::from_raw_fd(fd))
    }
}

fn control(options: &Options) {
    let (after, kill, fork) = (options.after.clone(), options.kill, options.fork);
    let image = options.image.clone();
    if after.is_empty() {
        return;
    }
    split_process::with_signals_blocked(|| {
        std::thread::spawn(move || {
            for ms in after {
                std::thread::sleep(Duration::from_millis(ms));
                if let Err(error) = checkpoint(&image, fork) {
                    eprintln!("split-run: checkpoint failed: {error}");
                    std::process::exit(98);
                }
            }
            if kill {
                // SAFETY: ends this process.
                unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
            }
        });
    });
}

fn run(arguments: Vec<OsString>) -> Result<(), Error> {
    let mut options = options(arguments.into_iter().skip(1))?;
    options.image = std::path::absolute(&options.image)?;
    INHERITED.get_or_init(Inherited::observe);
    if options.resume {
        let mut file = File::open(&options.image)?;
        let mut len = [0; 8];
        file.read_exact(&mut len)?;
        let mut bytes = vec![0; u64::from_le_bytes(len) as usize];
        file.read_exact(&mut bytes)?;
        let head: Head = postcard::from_bytes(&bytes)?;
        let mut restorer = Restorer::begin(&head.state)?;
        let file_high = high(&file)?;
        drop(file);
        let mut file = file_high;
        let rendezvous = options.image.with_extension("rendezvous");
        std::fs::create_dir_all(&rendezvous)?;
        let mut context = RestoreContext::new(900, &head.blobs, &rendezvous);
        context.real_tid = &split_process::real_tid;
        // What the shell or the test runner left under the program's numbers is not needed.
        for fd in process_state::conflicts(&head.process) {
            // SAFETY: not used by this process.
            unsafe { libc::close(fd) };
        }
        let mut restored = process_state::restore_descriptors(&head.process, &context)?;
        for buffer in restorer.map(&head.regions)? {
            file.read_exact(buffer.bytes)?;
        }
        restorer.protect()?;
        drop((file, bytes));
        process_state::restore_mappings(&head.process, &context, &mut restored)?;
        for warning in process_state::restore_rest(&head.process, &context, restored)? {
            eprintln!("split-run: warning: {warning}");
        }
        std::fs::remove_dir_all(&rendezvous)?;
        let last = || {
            if let Err(error) = process_state::restore_timers(&head.process, &context) {
                eprintln!("split-run: {error}");
            }
            control(&options);
        };
        restorer.finish(Hooks::default(), last)?;
    }
    let mut program = options.program.iter().cloned();
    let launch = Launch {
        program: program.next().ok_or("no program")?.into(),
        args: program.collect(),
        env: std::env::vars_os()
            .filter(|(k, _)| k != "MANA_NO_FSGSBASE")
            .collect(),
        ..Launch::default()
    };
    let resolved = launch.resolve()?;
    control(&options);
    split_process::start(resolved, Hooks::default())?;
    Ok(())
}

/// The C entry.
///
/// # Safety
/// Called by the C library with its `argc` and `argv`.
#[no_mangle]
pub unsafe extern "C" fn main(argc: i32, argv: *const *const libc::c_char) -> i32 {
    let arguments = (0..argc as usize)
        // SAFETY: `argc` strings.
        .map(|i| OsStr::from_bytes(unsafe { CStr::from_ptr(*argv.add(i)) }.to_bytes()).to_owned())
        .collect();
    if let Err(error) = run(arguments) {
        eprintln!("split-run: {error}");
    }
    99
}
