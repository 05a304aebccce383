//! `mana report`: one HTML page about a job, from the events it left in its global directory.
//!
//! | module | holds |
//! |---|---|
//! | `figures` | what the events add up to |
//! | `advice` | which interval would be best |
//! | `charts` | the pictures, as SVG |
//! | `page` | the page around them |

mod charts;
mod figures;
mod page;

use std::path::PathBuf;

use libckpt::published;
use mana_control::EventLog;

use crate::cli;
use crate::job;
use crate::message::Failure;
use crate::settings;

/// Writes the page, and says where.
pub fn report(options: &cli::Report) -> Result<i32, Failure> {
    let config = settings::load(&options.job.settings)?;
    let id = job::stored(&options.job, &config.global_ckpt_dir)?;
    let directory = config.global_ckpt_dir.join(&id);
    let log = EventLog::new(&directory);
    let events = log
        .read()
        .map_err(|e| Failure::new(format!("cannot read {}: {e}", directory.display())))?;
    if events.is_empty() {
        return Err(Failure::new(format!(
            "job {id} has left no events in {}: it never came under control, or was run by an older release",
            directory.display()
        )));
    }
    let mut figures = figures::collect(&id, &events, log.last_seen(), &options.mtbf);
    figures.published = figures::last_published(published::read(&directory)?);
    if options.json {
        println!("{}", serde_json::to_string_pretty(&figures)?);
        return Ok(0);
    }
    let output = options
        .output
        .clone()
        .unwrap_or_else(|| PathBuf::from(format!("mana-report-{id}.html")));
    std::fs::write(&output, page::page(&figures))
        .map_err(|e| Failure::new(format!("cannot write {}: {e}", output.display())))?;
    println!(
        "{}: checkpoints: {}, starts: {}, efficiency {:.1} %",
        output.display(),
        figures.checkpoints.len(),
        figures.starts.len(),
        figures.time.efficiency * 100.0
    );
    Ok(0)
}
