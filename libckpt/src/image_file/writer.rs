//! Writing one image.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Mutex;

use mana_image::{hash, Hash, Header, Layout, RegionTable, SectionKind, Sections, CHUNK_LEN, PAGE};

use super::{ImageName, ImageReport, WORKERS};
use crate::fault::operation;
use crate::store::{create, make_dir, publish, temporary};
use crate::Error;

/// What goes into an image.
pub struct ImageContent<'a> {
    /// Everything but the memory. The region table is added by the writer.
    pub sections: Sections,
    /// The memory; offsets of the runs are set by the writer.
    pub regions: RegionTable,
    /// The bytes of each run, in the order of the table, each as long as its run.
    pub memory: Vec<&'a [u8]>,
}

/// Writes the image under `path`, durably: it is there complete or not at all.
///
/// # Errors
/// When it cannot be written. Nothing is left behind then.
pub fn write(
    path: &Path,
    name: &ImageName,
    mut content: ImageContent,
) -> Result<ImageReport, Error> {
    let dir = path.parent().unwrap_or(Path::new("."));
    make_dir(dir)?;
    let data_len = content.regions.place();
    let runs = content.regions.0.iter().flat_map(|r| &r.runs);
    let lengths = content.memory.iter().map(|m| m.len() as u64);
    if !runs.map(|r| r.len).eq(lengths) || data_len % PAGE != 0 {
        let e = io::Error::new(
            io::ErrorKind::InvalidInput,
            "the memory given does not fit the region table",
        );
        return Err(Error::io("write", path)(e));
    }
    content
        .sections
        .push(SectionKind::REGIONS, content.regions.encode());
    let meta = content.sections.encode();
    let layout = Layout::new(meta.len() as u64, data_len);
    let tmp = temporary(path);
    let report = fill(&tmp, name, &content, &meta, layout).map_err(|e| {
        // First, so that the space it took counts as free.
        let _ = fs::remove_file(&tmp);
        explain(e, path, layout.total)
    })?;
    publish(&tmp, path)?;
    Ok(report)
}

pub(super) fn explain(e: io::Error, path: &Path, total: u64) -> Error {
    match e.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => {
            let dir = path.parent().unwrap_or(path);
            let free = nix::sys::statvfs::statvfs(dir).map_or(0, |s| {
                s.blocks_available().saturating_mul(s.fragment_size())
            });
            Error::NoSpace {
                path: path.into(),
                missing: total.saturating_sub(free).max(1),
            }
        }
        _ => Error::io("write", path)(e),
    }
}

/// The file once more, opened with O_DIRECT, where the storage can.
pub(super) fn direct(path: &Path) -> Option<File> {
    let mut options = OpenOptions::new();
    options.write(true).custom_flags(libc::O_DIRECT);
    options.open(path).ok()
}

/// The header of an image made now, without its hashes.
pub(super) fn header(name: &ImageName, layout: &Layout) -> Header {
    let created = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    Header {
        job: name.job.clone(),
        rank: name.rank,
        size: name.size,
        incarnation: name.generation.incarnation,
        generation: name.generation.number,
        created,
        meta: layout.meta,
        data: layout.data,
        index: layout.index.0,
        total: layout.total,
        meta_hash: Hash::default(),
        index_hash: Hash::default(),
    }
}

fn fill(
    tmp: &Path,
    name: &ImageName,
    content: &ImageContent,
    meta: &[u8],
    layout: Layout,
) -> io::Result<ImageReport> {
    let file = create(tmp)?;
    // SAFETY: the descriptor is open for the whole call; the call touches nothing else.
    let reserved = unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, layout.total as libc::off_t) };
    if reserved != 0 {
        match io::Error::last_os_error() {
            e if e.raw_os_error() == Some(libc::EOPNOTSUPP) => file.set_len(layout.total)?,
            e => return Err(e),
        }
    }
    let direct = direct(tmp);
    let plan = Plan::new(content, layout.data.1);
    let hashes = write_data(&plan, &file, direct.as_ref(), layout)?;
    let index = hashes.concat();
    file.write_all_at(meta, layout.meta.0)?;
    file.write_all_at(&index, layout.index.0)?;
    let mut header = header(name, &layout);
    header.meta_hash = hash(meta);
    header.index_hash = hash(&index);
    operation("store.write", tmp)?;
    file.write_all_at(&header.encode(), 0)?;
    operation("store.sync", tmp)?;
    file.sync_all()?;
    Ok(ImageReport {
        len: layout.total,
        root: header.root(),
    })
}

/// Where in the data area each slice of memory lies.
struct Plan<'a> {
    /// Offset in the data area and bytes, ascending, gapless.
    pieces: Vec<(u64, &'a [u8])>,
    len: u64,
}

impl<'a> Plan<'a> {
    fn new(content: &ImageContent<'a>, len: u64) -> Self {
        let runs = content.regions.0.iter().flat_map(|r| &r.runs);
        let pieces = runs
            .zip(&content.memory)
            .map(|(run, bytes)| (run.offset, *bytes))
            .collect();
        Self { pieces, len }
    }

    /// The bytes of one chunk: as they lie in memory if that is one piece, else gathered.
    fn chunk<'b>(&self, at: u64, len: usize, buffer: &'b mut [u8], start: usize) -> &'b [u8]
    where
        'a: 'b,
    {
        let first = self
            .pieces
            .partition_point(|(offset, bytes)| offset + bytes.len() as u64 <= at);
        if let Some((offset, bytes)) = self.pieces.get(first) {
            let from = (at - offset) as usize;
            if let Some(all) = bytes.get(from..from + len) {
                return all;
            }
        }
        let mut filled = start;
        for (offset, bytes) in &self.pieces[first..] {
            let from = at.saturating_sub(*offset) as usize;
            let n = (bytes.len() - from).min(start + len - filled);
            buffer[filled..filled + n].copy_from_slice(&bytes[from..from + n]);
            filled += n;
            if filled == start + len {
                break;
            }
        }
        &buffer[start..start + len]
    }
}

fn write_data(
    plan: &Plan,
    file: &File,
    direct: Option<&File>,
    layout: Layout,
) -> io::Result<Vec<Hash>> {
    let chunks = plan.len.div_ceil(CHUNK_LEN);
    let next = AtomicU64::new(0);
    let hashes = Mutex::new(vec![Hash::default(); chunks as usize]);
    let failure = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..WORKERS.min(chunks as usize) {
            scope.spawn(|| {
                let mut buffer = vec![0; (CHUNK_LEN + PAGE) as usize];
                let start = buffer.as_ptr().align_offset(PAGE as usize);
                loop {
                    let chunk = next.fetch_add(1, Ordering::Relaxed);
                    if chunk >= chunks || lock(&failure).is_some() {
                        break;
                    }
                    let at = chunk * CHUNK_LEN;
                    let len = (plan.len - at).min(CHUNK_LEN) as usize;
                    let bytes = plan.chunk(at, len, &mut buffer, start);
                    let own = hash(bytes);
                    if let Err(e) = put(bytes, layout.data.0 + at, file, direct) {
                        lock(&failure).get_or_insert(e);
                        break;
                    }
                    lock(&hashes)[chunk as usize] = own;
                }
            });
        }
    });
    let failed = lock(&failure).take();
    match failed {
        Some(e) => Err(e),
        None => Ok(std::mem::take(&mut *lock(&hashes))),
    }
}

fn put(bytes: &[u8], at: u64, file: &File, direct: Option<&File>) -> io::Result<()> {
    if let Some(direct) = direct {
        match direct.write_all_at(bytes, at) {
            // The storage wants another alignment than a page: let the page cache do it.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {}
            other => return other,
        }
    }
    file.write_all_at(bytes, at)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
