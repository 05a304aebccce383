//! The effective configuration of a command.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use libckpt::store::Store;
use libckpt::Config;

use crate::cli;
use crate::message::Failure;

/// What a command that looks at a job from outside needs of it: variables of the job in other keys do not matter.
const OUTSIDE: &[&str] = &["global_ckpt_dir"];

/// Reads it for a command that starts nothing.
pub fn load(options: &cli::Settings) -> Result<Config, Failure> {
    load_for(OUTSIDE, options)
}

/// As [`load`], where more keys than that are needed.
pub fn load_for(needed: &[&str], options: &cli::Settings) -> Result<Config, Failure> {
    let environment = |name: &str| std::env::var(name).ok();
    let values = options.set.iter().cloned().collect();
    finish(Config::load_for(
        needed,
        options.config.as_deref(),
        &values,
        &environment,
    ))
}

/// Reads all of it, with options that have a name of their own on the command line.
pub fn load_with(
    options: &cli::Settings,
    named: &[(&str, Option<&str>)],
) -> Result<Config, Failure> {
    let mut values: BTreeMap<String, String> = options.set.iter().cloned().collect();
    for (key, value) in named {
        if let Some(value) = value {
            values.insert((*key).to_owned(), (*value).to_owned());
        }
    }
    let environment = |name: &str| std::env::var(name).ok();
    finish(Config::load(
        options.config.as_deref(),
        &values,
        &environment,
    ))
}

/// Directories are made absolute, because the program may change its own.
fn finish(loaded: Result<Config, libckpt::Error>) -> Result<Config, Failure> {
    let mut config = loaded.map_err(|e| Failure::of_job(crate::message::chain(&e)))?;
    config.global_ckpt_dir = absolute(&config.global_ckpt_dir)?;
    config.local_ckpt_dir = absolute(&config.local_ckpt_dir)?;
    Ok(config)
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    if path.to_string_lossy().starts_with("${") {
        // Left as it is: a variable of the job's.
        return Ok(path.to_owned());
    }
    std::path::absolute(path)
        .map_err(|e| Failure::new(format!("cannot make {} absolute: {e}", path.display())))
}

/// Where a job's part of a simulated node's storage is.
pub fn node_dir(config: &Config, node: u32, job: &str) -> PathBuf {
    Store::local(config, job, node).root().to_owned()
}
