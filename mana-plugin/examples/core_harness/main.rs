//! Drives the core in an ordinary process, without the split: a program that communicates at random,
//! checkpoints taken while it runs, and a restart in new processes.
//!
//!     mpirun -n 4 core_harness ADAPTER DIR run|continue|exit|restart SEED ROUNDS MILLISECONDS
//!
//! `run`: undisturbed. `continue`: a checkpoint every MILLISECONDS, after which the program runs on.
//! `cost`: what the core adds to a call (ROUNDS calls; best of seven).
//! `exit`: the same, but the third checkpoint ends the processes. `restart`: goes on from there.
//! The last line of rank 0 is `hash H`, the same in all modes for the same seed and rounds.
//!
//! The program has its stack and all its data in one region at a fixed address, which is written to
//! a file at a checkpoint and mapped again at the restart; address randomisation is off, so that the
//! code and the adapter's callers are where they were. That stands for the split process.
#![allow(
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    clippy::needless_range_loop,
    reason = "a test that is unsafe from end to end: raw MPI calls on raw memory"
)]

mod control;
mod cost;
mod program;
mod region;

use mana_plugin::{Go, Initialized, MpiHooks};
use mpi_std::AdapterTable;
use std::ffi::CString;
use std::sync::OnceLock;

/// Command line.
pub struct Options {
    pub adapter: String,
    pub dir: String,
    pub mode: String,
    pub seed: u64,
    pub rounds: u64,
    pub interval: u64,
}

pub static OPTIONS: OnceLock<Options> = OnceLock::new();

static SLOTS: OnceLock<&'static [usize]> = OnceLock::new();

static TABLE: OnceLock<&'static AdapterTable> = OnceLock::new();

/// The adapter.
pub fn table() -> &'static AdapterTable {
    TABLE.get().expect("loaded")
}

/// What the core published.
pub fn slots() -> &'static [usize] {
    SLOTS.get().expect("installed")
}

struct Hooks;

impl MpiHooks for Hooks {
    fn initialized(&self, facts: Initialized) {
        control::begin(facts.rank as usize, facts.size as usize);
    }

    fn finalizing(&self) -> Go {
        control::finalizing()
    }

    fn finalized(&self) {}

    fn aborting(&self, code: i32) {
        eprintln!("harness: aborting with {code}");
    }

    unsafe fn upcall(&self, function: usize, a: &[u64; 6]) -> u64 {
        let f: extern "C" fn(u64, u64, u64, u64, u64, u64) -> u64 =
            unsafe { std::mem::transmute(function) };
        f(a[0], a[1], a[2], a[3], a[4], a[5])
    }
}

struct Log;

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata) -> bool {
        true
    }
    fn log(&self, r: &log::Record) {
        eprintln!("harness: {}: {}", r.level(), r.args());
    }
    fn flush(&self) {}
}

static LOG: Log = Log;

fn without_randomisation() {
    const ADDR_NO_RANDOMIZE: libc::c_ulong = 0x0040000;
    unsafe {
        let old = libc::personality(0xffff_ffff);
        if old >= 0 && old as libc::c_ulong & ADDR_NO_RANDOMIZE == 0 {
            libc::personality(old as libc::c_ulong | ADDR_NO_RANDOMIZE);
            let args: Vec<CString> = std::env::args()
                .map(|a| CString::new(a).expect("argument"))
                .collect();
            let mut pointers: Vec<*const libc::c_char> = args.iter().map(|a| a.as_ptr()).collect();
            pointers.push(std::ptr::null());
            libc::execv(c"/proc/self/exe".as_ptr(), pointers.as_ptr());
        }
    }
}

fn adapter(path: &str) -> &'static AdapterTable {
    let path = CString::new(path).expect("path");
    unsafe {
        let library = libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL);
        if library.is_null() {
            panic!(
                "{}",
                std::ffi::CStr::from_ptr(libc::dlerror()).to_string_lossy()
            );
        }
        let entry = libc::dlsym(library, mpi_std::ADAPTER_SYMBOL.as_ptr());
        assert!(!entry.is_null(), "no entry in the adapter");
        let entry: extern "C" fn() -> *const AdapterTable = std::mem::transmute(entry);
        &*entry()
    }
}

fn main() {
    without_randomisation();
    log::set_logger(&LOG).expect("logger");
    log::set_max_level(log::LevelFilter::Info);
    let args: Vec<String> = std::env::args().collect();
    let number = |i: usize| args[i].parse::<u64>().expect("number");
    let options = Options {
        adapter: args[1].clone(),
        dir: args[2].clone(),
        mode: args[3].clone(),
        seed: number(4),
        rounds: number(5),
        interval: number(6),
    };
    let options = OPTIONS.get_or_init(|| options);
    let table = *TABLE.get_or_init(|| adapter(&options.adapter));
    SLOTS.get_or_init(|| mana_plugin::install(table, &Hooks));
    region::map();
    region::set_gs();
    if options.mode == "restart" {
        mana_plugin::checkpoint::start(0).expect("start");
        let rank = mana_plugin::world_collective().expect("world").rank() as usize;
        region::load(&options.dir, rank);
        let state = std::fs::read(format!("{}/state-{rank}", options.dir)).expect("state");
        mana_plugin::checkpoint::take_over(&state).expect("state");
        mana_plugin::checkpoint::rebuild().expect("rebuild");
        region::resume();
    }
    region::start(if options.mode == "cost" {
        cost::run
    } else {
        program::run
    });
}
