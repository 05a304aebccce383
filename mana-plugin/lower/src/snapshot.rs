//! How this rank's image is taken: by a forked child while the program runs on, or by this process
//! while the program stands still. On the agent's thread, whose descriptors are not the program's.

use std::os::fd::AsFd as _;
use std::task::Poll;
use std::time::Instant;

use libckpt::config::Snapshot;
use libckpt::image_file::{ImageContent, ImageReport, PendingImage};
use libckpt::session::Session;
use libckpt::{Error, GenerationId};
use mana_image::{Pieces, RegionTable};
use mana_snapshot::{headroom, mappings, Plan, Running, SnapshotError};

use crate::rank::warn_once;
use crate::{job, Failure};

/// Memory that cannot go through a fork is copied before, up to this many bytes.
const COPY_LIMIT: u64 = 64 << 20;

/// An image on its way.
pub enum Image {
    /// Durable.
    Written(ImageReport),
    /// A child writes it.
    Background {
        /// Dropped (killed) before the file is deleted.
        child: Running,
        pending: PendingImage,
    },
}

/// How images are taken in this process.
#[derive(Default)]
pub struct Camera {
    /// A child was killed by the kernel: there is no memory for one.
    distrusted: bool,
}

impl Camera {
    /// Takes the image. The program may run on when this returns.
    pub fn take(
        &self,
        session: &Session,
        generation: GenerationId,
        mut content: ImageContent,
    ) -> Result<Image, Error> {
        let since = Instant::now();
        let copies = self.copies(session, &content.regions);
        log::debug!("memory examined after {:?}", since.elapsed());
        match copies {
            Ok(copies) => match fork(session, generation, &mut content, &copies) {
                Ok(image) => return Ok(image),
                Err(Unable::Store(e)) => return Err(e),
                Err(Unable::Fork(reason)) => stopping_because(&reason),
            },
            Err(None) => {}
            Err(Some(reason)) => stopping_because(&reason),
        }
        Ok(Image::Written(session.write_image(generation, content)?))
    }

    /// Whether to fork, and the numbers of the runs to copy before. Else why not, if the user should
    /// know.
    fn copies(
        &self,
        session: &Session,
        regions: &RegionTable,
    ) -> Result<Vec<usize>, Option<String>> {
        let wanted = job().spec.config.snapshot;
        if wanted == Snapshot::Stop {
            return Err(None);
        }
        let runs = || regions.0.iter().flat_map(|r| &r.runs);
        if wanted == Snapshot::Auto {
            if self.distrusted {
                return Err(Some("a snapshot process was killed before".into()));
            }
            let bytes: u64 = runs().map(|r| r.len).sum();
            if !headroom::suffices(headroom::available(), bytes, neighbours(session)) {
                return Err(Some("memory is short".into()));
            }
        }
        if mappings::rdma_in_use() {
            return Err(Some("the program uses an RDMA device".into()));
        }
        if !split_process::may_be_unforkable() && !mappings::pool_files_mapped() {
            return Ok(Vec::new());
        }
        let unforkable = mappings::unforkable()
            .map_err(|e| Some(format!("/proc/self/smaps cannot be read: {e}")))?;
        let mut copies = Vec::new();
        let mut left = COPY_LIMIT;
        for (i, run) in runs().enumerate() {
            let reason = unforkable
                .iter()
                .find(|u| u.range.start < run.start + run.len && run.start < u.range.end)
                .map(|u| u.reason);
            let Some(reason) = reason else { continue };
            left = left.checked_sub(run.len).ok_or_else(|| {
                format!("more than {} MiB of memory are {reason}", COPY_LIMIT >> 20)
            })?;
            copies.push(i);
        }
        Ok(copies)
    }

    /// Is the image durable?
    pub fn poll(&mut self, image: &mut Image) -> Poll<Result<ImageReport, Failure>> {
        let (child, pending) = match image {
            Image::Written(report) => return Poll::Ready(Ok(*report)),
            Image::Background { child, pending } => (child, pending),
        };
        let ended = match child.poll() {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(ended) => ended,
        };
        Poll::Ready(match ended {
            Ok(root) => match pending.publish(root) {
                Ok(report) => {
                    *image = Image::Written(report);
                    Ok(report)
                }
                Err(e) => Err(e.into()),
            },
            Err(SnapshotError::Write { source }) => Err(pending.failed(source).into()),
            Err(e) => {
                self.distrusted |= matches!(e, SnapshotError::Killed { .. });
                Err(e.into())
            }
        })
    }
}

/// Ranks that take their snapshots from the same machine's memory.
fn neighbours(session: &Session) -> u32 {
    if job().spec.config.test_mode {
        return session.size();
    }
    let node = session.node();
    let ranks = session.topology().node_of.iter().filter(|n| **n == node);
    ranks.count() as u32
}

fn stopping_because(reason: &str) {
    warn_once(&format!(
        "{reason}: the program stands still while its image is written"
    ));
}

enum Unable {
    /// No snapshot, but an image can be written.
    Fork(String),
    /// No image either.
    Store(Error),
}

fn fork(
    session: &Session,
    generation: GenerationId,
    content: &mut ImageContent,
    copies: &[usize],
) -> Result<Image, Unable> {
    let prepared = session
        .prepare_image(generation, content)
        .map_err(Unable::Store)?;
    let since = Instant::now();
    // The child has its own view of the copies, so that they can go at once.
    let copied: Vec<(usize, Vec<u8>)> = copies
        .iter()
        .filter_map(|&run| Some((run, content.memory.get(run)?.to_vec())))
        .collect();
    let mut memory = content.memory.clone();
    for (run, copy) in &copied {
        if let Some(slice) = memory.get_mut(*run) {
            *slice = copy;
        }
    }
    let pieces = Pieces::new(&content.regions, &memory)
        .ok_or_else(|| Unable::Fork("the memory does not fit the region table".into()))?;
    let plan = Plan {
        file: prepared.file.as_fd(),
        direct: prepared.direct.as_ref().map(|d| d.as_fd()),
        layout: prepared.layout,
        header: prepared.header,
        meta: &prepared.meta,
        pieces,
    };
    let child = mana_snapshot::start(plan).map_err(|e| Unable::Fork(e.to_string()))?;
    log::debug!("forked after {:?}", since.elapsed());
    Ok(Image::Background {
        child,
        pending: prepared.pending,
    })
}
