//! The effective configuration of a command.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use libckpt::store::Store;
use libckpt::Config;

use crate::cli;
use crate::message::Failure;

/// Reads it; directories are made absolute, because the program may change its own.
pub fn load(options: &cli::Settings) -> Result<Config, Failure> {
    load_with(options, &[])
}

/// As [`load`], with options that have a name of their own on the command line.
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
    let mut config = Config::load(options.config.as_deref(), &values, &environment)
        .map_err(|e| Failure::of_job(crate::message::chain(&e)))?;
    config.global_ckpt_dir = absolute(&config.global_ckpt_dir)?;
    config.local_ckpt_dir = absolute(&config.local_ckpt_dir)?;
    Ok(config)
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path)
        .map_err(|e| Failure::new(format!("cannot make {} absolute: {e}", path.display())))
}

/// Where a job's part of a simulated node's storage is.
pub fn node_dir(config: &Config, node: u32, job: &str) -> PathBuf {
    Store::local(config, job, node).root().to_owned()
}
