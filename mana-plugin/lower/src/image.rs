//! What goes into an image beside memory, and how it comes out again.

use std::hash::{Hash as _, Hasher as _};
use std::path::{Path, PathBuf};

use mana_image::{RegionRecord, RegionTable, RunRecord, SectionKind, Sections};
use process_state::several::{self, Held, Own, SharedFiles};
use process_state::{
    CaptureContext, FilePolicy, FileSync, Further, LostPolicy, MemoryBlobs, ObjectId, ProcessState,
    Warning,
};
use serde::{Deserialize, Serialize};
use split_process::{Parked, Region, RegionKind};

use crate::calls::JOURNAL;
use crate::tree::record::Tree;
use crate::{job, mpi, tree, Failure};

/// The mappings as the split process describes them.
const MAPS: SectionKind = SectionKind(*b"maps\0\0\0\0");

/// What the image needs to know of the launch.
#[derive(Debug, Serialize, Deserialize)]
pub struct LaunchRecord {
    /// Version of the commands.
    pub version: String,
    /// Name of the adapter in use, if any.
    pub adapter: Option<String>,
    /// The program.
    pub program: std::path::PathBuf,
}

/// The other processes of a tree.
const TREE: SectionKind = SectionKind(*b"tree\0\0\0\0");

/// Everything of a parked process, or of a tree of them.
pub struct Taken {
    pub sections: Sections,
    regions: Vec<Region>,
    /// Regions and memory of the members of a tree.
    members: Vec<(Vec<Region>, Vec<u8>)>,
    pub files: FileSync,
}

impl Taken {
    /// The region table, and the memory of each of its runs.
    pub fn content<'a>(&'a self, parked: &'a Parked) -> (RegionTable, Vec<&'a [u8]>) {
        let mut table = table(&self.regions, 0);
        let runs = self.regions.iter().flat_map(|r| &r.runs);
        let mut memory: Vec<&[u8]> = runs.map(|run| parked.memory(run)).collect();
        for (process, (regions, mut bytes)) in
            (1..).zip(self.members.iter().map(|m| (&m.0, &m.1[..])))
        {
            table.0.extend(self::table(regions, process).0);
            for run in regions.iter().flat_map(|r| &r.runs) {
                // As many bytes were received as there are in the runs.
                let (piece, rest) = bytes.split_at((run.len as usize).min(bytes.len()));
                memory.push(piece);
                bytes = rest;
            }
        }
        (table, memory)
    }
}

fn lower_descriptor(fd: i32) -> bool {
    fd >= split_process::LOWER_FD_BASE
}

/// Takes stock of the parked process. `mpi_state`: the MPI layer's, if it is active. `clones`: where those of files
/// written in place go.
pub fn take(
    parked: &Parked,
    mpi_state: Option<Vec<u8>>,
    clones: PathBuf,
) -> Result<Taken, Failure> {
    if mpi_state.is_none() && !tree::root::is_alone() {
        return take_tree(parked, &clones);
    }
    // On a thread of the program: its descriptors are in the table that thread uses.
    let (sender, receiver) = std::sync::mpsc::channel();
    let closure = Box::new(move || {
        let _ = sender.send(process_part(&clones));
    });
    match mpi::thread() {
        Some(thread) => parked.run_on(thread, closure)?,
        None => parked.run_on_main(closure)?,
    }
    let (state, blobs, files) = receiver.recv()??;
    let regions = parked.regions()?;
    let mut sections = sections(parked.state()?, &state, &blobs, &regions)?;
    if let Some(bytes) = mpi_state {
        sections.push(SectionKind::MPI, bytes);
    }
    Ok(Taken {
        sections,
        regions,
        members: Vec::new(),
        files,
    })
}

fn sections(
    split: Vec<u8>,
    state: &ProcessState,
    blobs: &MemoryBlobs,
    regions: &[Region],
) -> Result<Sections, Failure> {
    let spec = &job().spec;
    let launch = LaunchRecord {
        version: spec.version.clone(),
        adapter: spec.adapter.as_ref().map(|a| a.name.clone()),
        program: spec.program.clone(),
    };
    let mut sections = Sections::default();
    sections.push(SectionKind::LAUNCH, postcard::to_stdvec(&launch)?);
    sections.push(SectionKind::SPLIT, split);
    sections.push(SectionKind::STATE, postcard::to_stdvec(state)?);
    sections.push(SectionKind::BLOBS, postcard::to_stdvec(blobs)?);
    sections.push(MAPS, postcard::to_stdvec(regions)?);
    Ok(sections)
}

fn take_tree(parked: &Parked, clones: &Path) -> Result<Taken, Failure> {
    let taken = tree::root::take(parked, clones)?;
    let own = taken.own;
    let mut sections = sections(own.split, &own.state, &own.blobs, &own.regions)?;
    sections.push(TREE, postcard::to_stdvec(&taken.tree)?);
    let regions = taken.tree.members.into_iter().map(|m| m.regions);
    Ok(Taken {
        sections,
        regions: own.regions,
        members: regions.zip(taken.memory).collect(),
        files: taken.files,
    })
}

type Part = Result<(ProcessState, MemoryBlobs, FileSync), Failure>;

fn process_part(clones: &Path) -> Part {
    let ranges = split_process::upper_ranges();
    let mut context = context(&ranges);
    context.clones = Some(clones);
    let mut blobs = MemoryBlobs::new();
    let captured = process_state::capture(&context, &mut blobs)?;
    warn(&captured.warnings);
    let files = FileSync::start(&lower_descriptor, written_through_mpi())?;
    Ok((captured.state, blobs, files))
}

/// What the MPI library has written, through descriptors that are not the program's.
fn written_through_mpi() -> Option<Further> {
    let batch = JOURNAL.unstored();
    (!batch.is_empty()).then(|| Further {
        descriptors: batch.descriptors(),
        store: Box::new(|| batch.store(&JOURNAL)),
    })
}

fn warn(warnings: &[Warning]) {
    for warning in warnings {
        crate::rank::warn_once(&warning.to_string());
    }
}

fn context(ranges: &[std::ops::Range<usize>]) -> CaptureContext<'_> {
    let job = job();
    let mut context = CaptureContext::new(&job.inherited, ranges);
    context.lower_descriptor = &lower_descriptor;
    context.virtual_tid = &split_process::virtual_tid;
    context.pending_signals = !(1 << (split_process::PARK_SIGNAL - 1));
    context.files = match job.spec.config.files {
        libckpt::config::Files::Reflink => FilePolicy::Reflink,
        libckpt::config::Files::Copy => FilePolicy::Copy,
        libckpt::config::Files::Warn => FilePolicy::Warn,
    };
    context.lost = match job.spec.config.lost_fd {
        libckpt::config::LostFd::Warn => LostPolicy::Warn,
        libckpt::config::LostFd::Refuse => LostPolicy::Refuse,
    };
    context
}

/// Whether this process saves an object that several of a tree may have.
fn claims(object: ObjectId) -> bool {
    let mut hasher = std::hash::DefaultHasher::new();
    object.hash(&mut hasher);
    split_process::tree::table().is_none_or(|table| table.claim(hasher.finish()))
}

/// The program's descriptors in the calling thread's table.
pub fn own_descriptors() -> Result<Vec<Own>, Failure> {
    Ok(several::own(&context(&[]))?)
}

/// All of this process but its descriptors, for a tree.
pub fn process_apart(blobs: &mut MemoryBlobs) -> Result<ProcessState, Failure> {
    let ranges = split_process::upper_ranges();
    let mut context = context(&ranges);
    context.saves = &claims;
    let captured = process_state::capture_apart(&context, blobs)?;
    warn(&captured.warnings);
    Ok(captured.state)
}

/// The descriptors of all processes of a tree, of which the calling thread has copies.
pub fn shared_files(
    held: &[Held],
    processes: usize,
    clones: &Path,
    blobs: &mut MemoryBlobs,
) -> Result<SharedFiles, Failure> {
    let mut context = context(&[]);
    context.saves = &claims;
    context.clones = Some(clones);
    context.lower_descriptor = &|_| false;
    let mut warnings = Vec::new();
    let files = several::capture(&context, held, processes, blobs, &mut warnings)?;
    warn(&warnings);
    Ok(files)
}

/// Bits of a region's kind that the split process uses; above them is the process of a tree.
const KIND_BITS: u32 = 8;

/// Which process of a tree a region belongs to.
pub fn process_of(region: &RegionRecord) -> usize {
    (region.kind >> KIND_BITS) as usize
}

/// The region table of an image, in the order of `regions`, those of process `process` of a tree.
fn table(regions: &[Region], process: u32) -> RegionTable {
    let one = |r: &Region| RegionRecord {
        start: r.start,
        len: r.len,
        prot: r.prot,
        kind: match r.kind {
            RegionKind::Anonymous => 0,
            RegionKind::PrivateFile => 1,
            RegionKind::Shared => 2,
            RegionKind::Stack => 3,
        } | process << KIND_BITS,
        name: r.name.clone().into_bytes(),
        runs: r
            .runs
            .iter()
            .map(|run| RunRecord {
                start: run.start,
                len: run.len,
                offset: 0,
            })
            .collect(),
    };
    RegionTable(regions.iter().map(one).collect())
}

/// The parts of an image that a resume needs.
pub struct Loaded {
    pub launch: LaunchRecord,
    pub split: Vec<u8>,
    pub state: ProcessState,
    pub blobs: MemoryBlobs,
    pub mpi: Option<Vec<u8>>,
    pub regions: Vec<Region>,
    pub tree: Option<Tree>,
}

/// Takes them out of the verified sections.
pub fn load(sections: &Sections) -> Result<Loaded, Failure> {
    Ok(Loaded {
        launch: postcard::from_bytes(sections.need(SectionKind::LAUNCH)?)?,
        split: sections.need(SectionKind::SPLIT)?.to_vec(),
        state: postcard::from_bytes(sections.need(SectionKind::STATE)?)?,
        blobs: postcard::from_bytes(sections.need(SectionKind::BLOBS)?)?,
        mpi: sections.get(SectionKind::MPI).map(<[u8]>::to_vec),
        regions: postcard::from_bytes(sections.need(MAPS)?)?,
        tree: match sections.get(TREE) {
            Some(bytes) => Some(postcard::from_bytes(bytes)?),
            None => None,
        },
    })
}
