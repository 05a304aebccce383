//! What goes into an image beside memory, and how it comes out again.

use mana_image::{RegionRecord, RegionTable, RunRecord, SectionKind, Sections};
use process_state::{CaptureContext, FilePolicy, FileSync, LostPolicy, MemoryBlobs, ProcessState};
use serde::{Deserialize, Serialize};
use split_process::{Parked, Region, RegionKind};

use crate::{job, mpi, Failure};

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

/// Everything of a parked process.
pub struct Taken {
    pub sections: Sections,
    pub regions: Vec<Region>,
    pub files: FileSync,
}

fn lower_descriptor(fd: i32) -> bool {
    fd >= split_process::LOWER_FD_BASE
}

/// Takes stock of the parked process. `mpi`: the MPI layer's state, if it is active.
pub fn take(parked: &Parked, mpi_state: Option<Vec<u8>>) -> Result<Taken, Failure> {
    let spec = &job().spec;
    // On a thread of the program: its descriptors are in the table that thread uses.
    let (sender, receiver) = std::sync::mpsc::channel();
    let closure = Box::new(move || {
        let _ = sender.send(process_part());
    });
    match mpi::thread() {
        Some(thread) => parked.run_on(thread, closure)?,
        None => parked.run_on_main(closure)?,
    }
    let (state, blobs, files) = receiver.recv()??;
    let mut sections = Sections::default();
    let launch = LaunchRecord {
        version: spec.version.clone(),
        adapter: spec.adapter.as_ref().map(|a| a.name.clone()),
        program: spec.program.clone(),
    };
    sections.push(SectionKind::LAUNCH, postcard::to_stdvec(&launch)?);
    sections.push(SectionKind::SPLIT, parked.state()?);
    sections.push(SectionKind::STATE, postcard::to_stdvec(&state)?);
    sections.push(SectionKind::BLOBS, postcard::to_stdvec(&blobs)?);
    if let Some(bytes) = mpi_state {
        sections.push(SectionKind::MPI, bytes);
    }
    let regions = parked.regions()?;
    sections.push(MAPS, postcard::to_stdvec(&regions)?);
    Ok(Taken {
        sections,
        regions,
        files,
    })
}

type Part = Result<(ProcessState, MemoryBlobs, FileSync), Failure>;

fn process_part() -> Part {
    let job = job();
    let ranges = split_process::upper_ranges();
    let mut context = CaptureContext::new(&job.inherited, &ranges);
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
    let mut blobs = MemoryBlobs::new();
    let captured = process_state::capture(&context, &mut blobs)?;
    for warning in &captured.warnings {
        crate::rank::warn_once(&warning.to_string());
    }
    let files = FileSync::start(&lower_descriptor)?;
    Ok((captured.state, blobs, files))
}

/// The region table of an image, in the order of `regions`.
pub fn table(regions: &[Region]) -> RegionTable {
    let one = |r: &Region| RegionRecord {
        start: r.start,
        len: r.len,
        prot: r.prot,
        kind: match r.kind {
            RegionKind::Anonymous => 0,
            RegionKind::PrivateFile => 1,
            RegionKind::Shared => 2,
            RegionKind::Stack => 3,
        },
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
    })
}
