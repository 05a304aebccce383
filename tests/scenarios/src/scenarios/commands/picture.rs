//! Pictures of pages, taken by a browser without a screen.

use std::collections::BTreeMap;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{ensure, Context as _, Result};

use super::SHORT;
use crate::job::Job;

/// Browsers that can take a picture of a page without a screen.
pub const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// Width and height in pixels.
pub type Size = (u32, u32);

pub fn browser() -> Option<PathBuf> {
    BROWSERS.iter().find_map(|name| on_path(name))
}

/// Where a command is, if it is installed.
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|found| found.is_file())
}

/// Takes a picture of `page`; the browser's own files go to `directory`.
pub fn take(
    browser: &Path,
    page: &Path,
    window: Size,
    picture: &Path,
    directory: &Path,
) -> Result<()> {
    let mut command = Command::new(browser);
    command
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
        ])
        .args([
            "--no-first-run",
            "--disable-extensions",
            "--disable-dev-shm-usage",
        ])
        .arg(format!(
            "--user-data-dir={}",
            directory.join("profile").display()
        ))
        .arg(format!("--window-size={},{}", window.0, window.1))
        .arg(format!("--screenshot={}", picture.display()))
        .arg(format!("file://{}", page.display()));
    Job::start(command, directory)?.wait(SHORT)?.expect(0)?;
    Ok(())
}

/// How often each colour is in a picture.
pub fn colours(path: &Path, window: Size) -> Result<BTreeMap<[u8; 3], usize>> {
    let file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
    let mut reader = png::Decoder::new(BufReader::new(file)).read_info()?;
    let mut bytes = vec![0; reader.output_buffer_size()];
    let info = reader.next_frame(&mut bytes)?;
    ensure!(
        (info.width, info.height) == window && info.bit_depth == png::BitDepth::Eight,
        "{info:?}"
    );
    let step = info.color_type.samples();
    ensure!(step >= 3, "{info:?}");
    let mut seen = BTreeMap::new();
    for pixel in bytes.chunks_exact(step) {
        *seen.entry([pixel[0], pixel[1], pixel[2]]).or_default() += 1;
    }
    Ok(seen)
}
