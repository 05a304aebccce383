//! What the kernel knows about a process besides its memory and its threads, captured into plain
//! records at a checkpoint and brought back at a restart: open descriptors, timers, shared mappings,
//! System V segments, working directory, umask, limits.
//!
//! Everything here runs in the lower half, with the lower half's C library: at capture on a control
//! thread while every thread of the upper half is parked, at restart on the main thread. Nothing
//! here writes to memory of the upper half except [`restore_mappings`], at addresses recorded as
//! shared mappings.
//!
//! Order at a checkpoint, all threads parked (on all ranks of the node, for shared objects):
//! 1. [`shared_objects`]: what this process maps that others may map too; ranks agree who saves it.
//! 2. [`capture`].
//! 3. [`FileSync::start`]; the program may run on; [`FileSync::wait`] before the commit.
//!
//! Order at a restart:
//! 1. [`Inherited::observe`] before anything is opened.
//! 2. [`conflicts`], [`vacate`]; [`restore_descriptors`], while the low numbers are free (before
//!    `MPI_Init`).
//! 3. private memory is mapped by the caller; [`restore_mappings`] adds the shared mappings.
//! 4. when every rank of the node is through 3: [`restore_rest`]: directory, umask, limits, locks,
//!    closed standard streams. (A shared object is found through the rank that made it, which lets
//!    go of it here.)
//! 5. threads are made; [`restore_timers`] last, just before they run on.

mod blob;
mod context;
mod descriptors;
mod error;
mod fdinfo;
pub mod mappings;
pub mod maps;
mod path;
pub mod process;
mod rendezvous;
pub mod signals;
mod sync;
pub mod timers;

use serde::{Deserialize, Serialize};

pub use blob::{BlobId, BlobSink, BlobSource, Bytes, Content, Extent, MemoryBlobs};
pub use context::{CaptureContext, FilePolicy, LostPolicy, ObjectId, RestoreContext, WatchTable};
pub use descriptors::inherited::Inherited;
pub use descriptors::{conflicts, several, vacate, Descriptors};
pub use error::{StateError, Warning};
pub use mappings::objects::{OpenObjects, SharedObject};
pub use mappings::{shared_objects, Mappings};
pub use path::FilePath;
pub use sync::{FileSync, Further};
pub use timers::TimerTable;

/// The captured state of one process. Goes into the image as one serialised section; the content
/// it refers to is in the [`BlobSink`] given to [`capture`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessState {
    /// Memory objects that are open or mapped shared: memfd, POSIX shared memory, System V
    /// segments, anonymous shared memory, unlinked files.
    pub objects: Vec<SharedObject>,
    /// Open descriptors of the upper half.
    pub descriptors: Descriptors,
    /// Shared mappings in the upper half.
    pub mappings: Mappings,
    /// Interval and POSIX timers.
    pub timers: timers::Timers,
    /// Working directory, umask, limits and the like.
    pub process: process::Attributes,
    /// Signals pending for the process as a whole.
    pub pending: Vec<signals::PendingSignal>,
}

/// Result of [`capture`].
#[derive(Debug)]
pub struct Captured {
    /// The records.
    pub state: ProcessState,
    /// What will not come back as it was.
    pub warnings: Vec<Warning>,
}

/// Captures the state of this process. All upper threads are parked; the calling thread belongs to
/// the lower half. Nothing observable by the program changes.
///
/// # Errors
/// When something that must come back cannot be read or saved; the checkpoint then fails and the
/// program runs on.
pub fn capture(ctx: &CaptureContext<'_>, blobs: &mut dyn BlobSink) -> Result<Captured, StateError> {
    let mut warnings = Vec::new();
    let mut objects = mappings::objects::ObjectList::default();
    let mut descriptors = descriptors::capture(ctx, &mut objects, blobs, &mut warnings)?;
    let in_place = &mut descriptors.in_place;
    let mappings = mappings::capture(ctx, &mut objects, in_place, blobs, &mut warnings)?;
    let objects = objects.save(ctx, blobs)?;
    let timers = timers::capture(ctx)?;
    let process = process::capture()?;
    let pending = signals::capture(ctx.pending_signals)?;
    let state = ProcessState {
        objects,
        descriptors,
        mappings,
        timers,
        process,
        pending,
    };
    Ok(Captured { state, warnings })
}

/// Captures what [`several::capture`] does not: everything of this process but its descriptors.
///
/// # Errors
/// As [`capture`].
pub fn capture_apart(
    ctx: &CaptureContext<'_>,
    blobs: &mut dyn BlobSink,
) -> Result<Captured, StateError> {
    let mut warnings = Vec::new();
    let mut objects = mappings::objects::ObjectList::default();
    let mut descriptors = several::apart(ctx)?;
    let in_place = &mut descriptors.in_place;
    let mappings = mappings::capture(ctx, &mut objects, in_place, blobs, &mut warnings)?;
    let state = ProcessState {
        objects: objects.save(ctx, blobs)?,
        descriptors,
        mappings,
        timers: timers::capture(ctx)?,
        process: process::capture()?,
        pending: signals::capture(ctx.pending_signals)?,
    };
    Ok(Captured { state, warnings })
}

/// What [`restore_descriptors`] leaves for the later steps.
#[derive(Debug, Default)]
pub struct Restored {
    /// Open descriptors (numbers from [`RestoreContext::descriptor_base`]) of the shared objects.
    pub objects: OpenObjects,
    /// System V segments: the identifier the program knows -> the one of today. Filled by
    /// [`restore_mappings`].
    pub segments: Vec<(i32, i32)>,
    /// What is not as it was.
    pub warnings: Vec<Warning>,
}

/// Opens the program's descriptors again under their numbers. Those numbers must be free, 0, 1 and
/// 2 apart, which are the new run's (see [`vacate`]). Timer descriptors are not armed yet.
pub fn restore_descriptors(
    state: &ProcessState,
    ctx: &RestoreContext<'_>,
) -> Result<Restored, StateError> {
    let mut restored = Restored::default();
    descriptors::restore(state, ctx, &mut restored)?;
    Ok(restored)
}

/// Maps the shared mappings again at their addresses, which may hold anything before. All private
/// memory should be in place.
pub fn restore_mappings(
    state: &ProcessState,
    ctx: &RestoreContext<'_>,
    restored: &mut Restored,
) -> Result<(), StateError> {
    mappings::restore(state, ctx, restored)
}

/// Restores working directory, umask, limits, file locks and closed standard streams, and closes
/// what [`restore_descriptors`] kept open. From here on the lower half should use absolute paths.
/// Returns the warnings of all steps so far.
pub fn restore_rest(
    state: &ProcessState,
    ctx: &RestoreContext<'_>,
    restored: Restored,
) -> Result<Vec<Warning>, StateError> {
    let Restored {
        objects,
        mut warnings,
        ..
    } = restored;
    descriptors::restore_late(state, ctx, &mut warnings)?;
    drop(objects);
    process::restore(&state.process, &mut warnings)?;
    Ok(warnings)
}

/// Makes and arms the timers and puts back the pending signals. Last of all: the time that is left
/// on a timer runs from here, and its expiry interrupts. The calling thread must have the pending
/// signals blocked.
pub fn restore_timers(
    state: &ProcessState,
    ctx: &RestoreContext<'_>,
) -> Result<Vec<Warning>, StateError> {
    let mut warnings = Vec::new();
    timers::restore(&state.timers, ctx, &mut warnings)?;
    descriptors::arm_timers(state, ctx)?;
    signals::restore(&state.pending)?;
    Ok(warnings)
}
