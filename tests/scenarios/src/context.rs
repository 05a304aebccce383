//! What every scenario is given: the product, the programs, a seed, a place to work.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{bail, Context as _, Result};
use tempfile::TempDir;

use crate::job::Job;
use crate::mpi::{fetched, find, yields_with, Mpi, Who};
use crate::product::Product;
use crate::programs::Program;
use crate::random::Random;
use crate::record::{Recorder, Recording};

/// How a scenario that did not fail ended.
pub enum Verdict {
    /// It showed what it should; a figure or two for the line.
    Passed(String),
    /// This machine lacks what it needs.
    Skipped(String),
}

/// Passed, with nothing to add.
pub fn passed() -> Result<Verdict> {
    Ok(Verdict::Passed(String::new()))
}

/// Skipped, and why.
pub fn skipped(why: impl Into<String>) -> Result<Verdict> {
    Ok(Verdict::Skipped(why.into()))
}

/// Shared by all scenarios of a run.
pub struct Context {
    /// Full counts and durations?
    pub full: bool,
    seed: u64,
    keep: bool,
    product: Option<Product>,
    work: TempDir,
    built: Mutex<HashMap<String, PathBuf>>,
    native: Mutex<HashMap<String, String>>,
    recorder: Option<Recorder>,
}

impl Context {
    /// `mana`: the installed tree, if the product is to be run.
    pub fn new(mana: Option<PathBuf>, full: bool, seed: u64, keep: bool) -> Result<Self> {
        let product = mana.map(|directory| Product::new(&directory)).transpose()?;
        if let Some(target) = product.as_ref().and_then(Product::target) {
            crate::mpi::fetched_in(target.join("mpis"));
        }
        let work = tempfile::Builder::new()
            .prefix("mana-scenarios.")
            .tempdir()
            .context("creating a working directory")?;
        yielding(work.path(), if full { Who::Fetched } else { Who::All })?;
        Ok(Self {
            full,
            seed,
            keep,
            product,
            work,
            built: Mutex::default(),
            native: Mutex::default(),
            recorder: None,
        })
    }

    /// Record which procedures the programs call.
    pub fn record(&mut self) -> Result<()> {
        let all: Vec<Mpi> = Mpi::ALL.into_iter().chain(fetched()).collect();
        self.recorder = Some(Recorder::new(&self.work.path().join("record"), &all)?);
        Ok(())
    }

    /// What records, if something does.
    pub fn recorder(&self) -> Option<&Recorder> {
        self.recorder.as_ref()
    }

    /// The recording of one run in `directory`, if something records.
    pub fn recording(&self, mpi: Mpi, directory: &Path) -> Result<Option<Recording>> {
        let recorder = self.recorder.as_ref();
        recorder.map(|r| r.start(mpi, directory)).transpose()
    }

    /// The product, if a tree was named.
    pub fn product(&self) -> Option<&Product> {
        self.product.as_ref()
    }

    /// A generator for one purpose.
    pub fn random(&self, purpose: &str) -> Random {
        Random::new(self.seed, purpose)
    }

    /// A directory for one scenario, removed when dropped unless the scenario failed and `--keep` was given.
    pub fn directory(&self, name: &str) -> Result<Workplace> {
        let prefix = format!("mana-{}.", name.replace('/', "-"));
        let directory = tempfile::Builder::new()
            .prefix(&prefix)
            .tempdir()
            .context("creating a directory")?;
        Ok(Workplace {
            directory: Some(directory),
            keep: self.keep,
        })
    }

    /// The executable of `program` for `mpi`, built once.
    pub fn build(&self, program: &Program, mpi: Mpi) -> Result<PathBuf> {
        let key = format!("{}.{}", program.name, mpi.name());
        let Ok(mut built) = self.built.lock() else {
            bail!("a scenario panicked")
        };
        if let Some(path) = built.get(&key) {
            return Ok(path.clone());
        }
        let path = program.build(mpi, &self.work.path().join("programs").join(mpi.name()))?;
        built.insert(key, path.clone());
        Ok(path)
    }

    /// The result of an undisturbed native run, made once for each `key`.
    pub fn native(&self, key: &str, run: impl FnOnce() -> Result<String>) -> Result<String> {
        if let Ok(native) = self.native.lock() {
            if let Some(result) = native.get(key) {
                return Ok(result.clone());
            }
        }
        let result = run()?;
        if let Ok(mut native) = self.native.lock() {
            native.insert(key.to_owned(), result.clone());
        }
        Ok(result)
    }
}

/// In the short run ranks leave the processor to others while they wait: three ranks of MPICH on two processors
/// take forty times as long without it. In the full run the system's MPIs wait as they do by themselves.
fn yielding(directory: &Path, who: Who) -> Result<()> {
    let Some(compiler) = find("gcc") else {
        return Ok(());
    };
    let library = directory.join("yield.so");
    let mut command = Command::new(compiler);
    command
        .args(["-O2", "-Wall", "-shared", "-fPIC"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("programs/yield.c"))
        .arg("-o")
        .arg(&library);
    let limit = Duration::from_secs(60);
    Job::start(command, directory)?.wait(limit)?.expect(0)?;
    yields_with(library, who);
    Ok(())
}

/// A scenario's directory.
pub struct Workplace {
    directory: Option<TempDir>,
    keep: bool,
}

impl Workplace {
    /// Its path.
    pub fn path(&self) -> &Path {
        self.directory
            .as_ref()
            .map_or(Path::new("/nonexistent"), TempDir::path)
    }

    /// The scenario passed: the directory goes even under `--keep`, with this; what lives in it may still end.
    pub fn done(&mut self) {
        self.keep = false;
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        if let (true, Some(directory)) = (self.keep, self.directory.take()) {
            println!("  kept {}", directory.keep().display());
        }
    }
}
