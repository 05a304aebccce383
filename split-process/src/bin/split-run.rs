//! A launcher for the tests of this crate: runs a program in the upper half, takes checkpoints of
//! it into a plain file, resumes it. One process, no MPI, no verification.
//!
//! ```text
//! split-run [--checkpoint-after MS]... [--kill] IMAGE PROGRAM [ARGS]
//! split-run --resume [--checkpoint-after MS]... [--kill] IMAGE
//! ```
//! `--kill`: end with SIGKILL after the last checkpoint.
#![no_main] // the standard library's start would change the dispositions of SIGPIPE and SIGSEGV

use serde::{Deserialize, Serialize};
use split_process::{Hooks, Launch, Region, Restorer};
use std::ffi::{CStr, OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

type Error = Box<dyn std::error::Error>;

#[derive(Serialize, Deserialize)]
struct Head {
    state: Vec<u8>,
    regions: Vec<Region>,
}

struct Options {
    after: Vec<u64>,
    kill: bool,
    resume: bool,
    image: PathBuf,
    program: Vec<OsString>,
}

fn options(mut arguments: impl Iterator<Item = OsString>) -> Result<Options, Error> {
    let mut options = Options {
        after: Vec::new(),
        kill: false,
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
            Some("--resume") => options.resume = true,
            _ => {
                options.image = argument.into();
                options.program = arguments.by_ref().collect();
            }
        }
    }
    Ok(options)
}

fn checkpoint(image: &Path) -> Result<(), Error> {
    let begin = Instant::now();
    let parked = split_process::park_all(Duration::from_secs(5))?;
    let park_time = begin.elapsed();
    let main = parked.threads();
    parked.run_on_main(Box::new(|| {
        // A closure that allocates and prints: the lower half's libc works on the parked thread.
        eprintln!(
            "split-run: on the parked thread {}",
            std::thread::current().name().unwrap_or("-").len()
        );
    }))?;
    let head = Head {
        state: parked.state()?,
        regions: parked.regions()?,
    };
    let bytes = postcard::to_stdvec(&head)?;
    let temporary = image.with_extension("part");
    let mut file = File::create(&temporary)?;
    file.write_all(&(bytes.len() as u64).to_le_bytes())?;
    file.write_all(&bytes)?;
    let mut total = 0;
    for run in head.regions.iter().flat_map(|r| &r.runs) {
        file.write_all(parked.memory(run))?;
        total += run.len;
    }
    std::fs::rename(&temporary, image)?;
    drop(parked);
    eprintln!(
        "split-run: {} threads, {} regions, {total} bytes, park {park_time:?}, all {:?}",
        main.len(),
        head.regions.len(),
        begin.elapsed()
    );
    Ok(())
}

fn control(options: &Options) {
    let (after, kill, image) = (options.after.clone(), options.kill, options.image.clone());
    if after.is_empty() {
        return;
    }
    split_process::with_signals_blocked(|| {
        std::thread::spawn(move || {
            for ms in after {
                std::thread::sleep(Duration::from_millis(ms));
                if let Err(error) = checkpoint(&image) {
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
    let options = options(arguments.into_iter().skip(1))?;
    if options.resume {
        let mut file = File::open(&options.image)?;
        let mut len = [0; 8];
        file.read_exact(&mut len)?;
        let mut bytes = vec![0; u64::from_le_bytes(len) as usize];
        file.read_exact(&mut bytes)?;
        let head: Head = postcard::from_bytes(&bytes)?;
        let mut restorer = Restorer::begin(&head.state)?;
        for buffer in restorer.map(&head.regions)? {
            file.read_exact(buffer.bytes)?;
        }
        restorer.protect()?;
        drop((file, bytes));
        let last = || control(&options);
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
