//! Resuming the program from an image.
//!
//! | step | on | why in this place |
//! |---|---|---|
//! | the MPI library starts | MPI thread | all ranks must talk to agree; its descriptors lie above the program's |
//! | recovery | control thread | every rank has a verified image of one generation, or nobody goes on |
//! | files written through MPI | main thread of rank 0, and of one on each node for its own | what was written since is taken back before anybody looks at them |
//! | descriptors | main thread | while their numbers are free |
//! | memory | main thread and a helper | straight from the image into place |
//! | MPI objects | main thread | receives are posted into the restored memory |
//! | threads, signals, timers | main thread | nothing of the program runs before |

use std::convert::Infallible;
use std::hash::{Hash as _, Hasher as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use libckpt::fault;
use libckpt::image_file::ImageFile;
use libckpt::records::{JobState, Records};
use libckpt::store::Store;
use mana_image::RegionRecord;
use process_state::RestoreContext;
use split_process::{Restorer, RunBuffer};

use crate::{control, fresh, image, interface, job, messages, mpi, tree, waits, written, Failure};

/// Bytes that are read at once.
const PIECE: usize = 16 << 20;
/// First number for descriptors that are needed only during the restore.
pub const TEMPORARY_FD: i32 = 900;

static IN_PROGRESS: AtomicBool = AtomicBool::new(false);
static RENDEZVOUS: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Whether this process is being resumed (and the MPI layer's beginning is not a job's).
pub fn in_progress() -> bool {
    IN_PROGRESS.load(Ordering::Acquire)
}

/// All ranks have restored: what they shared for it can go. Called on each node's lowest rank.
pub fn everyone_is_back() {
    if let Some(dir) = RENDEZVOUS
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take()
    {
        let _ = std::fs::remove_dir_all(dir);
    }
}

/// Never returns but on failure.
pub fn run() -> Result<Infallible, Failure> {
    IN_PROGRESS.store(true, Ordering::Release);
    let spec = &job().spec;
    mpi::install()?;
    let global = spec.config.global_ckpt_dir.display();
    let thread_level = waits::watched(
        waits::speaks_before_mpi(),
        || format!("reading the job's records in {global}"),
        recorded_thread_level,
    )?;
    if spec.adapter.is_some() {
        split_process::with_signals_blocked(|| mana_plugin::checkpoint::start(thread_level))?;
    }
    let world = mana_plugin_world();
    let Some(resume) = control::recover(world, thread_level)? else {
        // Nothing was ever committed. The real MPI runs already: the program's MPI_Init finds it.
        if spec.adapter.is_some() {
            mana_plugin::checkpoint::set_aside();
        }
        IN_PROGRESS.store(false, Ordering::Release);
        return fresh::enter();
    };
    let world = world.as_ref();
    let recovered = &resume.recovered;
    let report = recovered
        .manifest
        .images
        .get(resume.session.rank() as usize)
        .copied();
    let leader = resume.session.is_leader();
    let reading = || format!("reading the image {}", recovered.image.display());
    let opened = || -> Result<_, Failure> {
        let image = waits::watched(leader, reading, || {
            split_process::with_reserved_descriptors(|| ImageFile::open(&recovered.image, report))
        })?;
        let loaded = image::load(image.sections())?;
        if loaded.launch.version != spec.version {
            return Err(format!(
                "the image was made by version {} of mana, this is {}",
                loaded.launch.version, spec.version
            )
            .into());
        }
        Ok((image, loaded))
    };
    let (image, loaded) = waits::together(world, "the resume (images)", opened())?;

    let ready = written::put_back(&resume.session, recovered.generation, world)
        .and_then(|()| rendezvous(resume.incarnation));
    let rendezvous = waits::together(world, written::TITLE, ready)?;
    let global = resume.session.global().root();
    let clones = mana_journal::clones(global, recovered.generation, resume.session.rank());
    if let Some(tree) = &loaded.tree {
        return tree::restart::run(&loaded, tree, image, (&rendezvous, &clones), || {
            interface::restarted();
            go();
        });
    }
    let mut context = RestoreContext::new(TEMPORARY_FD, &loaded.blobs, &rendezvous);
    context.real_tid = &split_process::real_tid;
    context.clones = Some(&clones);
    let in_place = || -> Result<_, Failure> {
        let mut restorer = Restorer::begin(&loaded.split)?;
        if spec.adapter.is_none() {
            if let Err(e) = tree::begin(Some(restorer.recorded_pid())) {
                log::warn!("{e}");
            }
        }
        for fd in process_state::conflicts(&loaded.state) {
            // SAFETY: left open by whoever started this process; nothing here uses it.
            unsafe { libc::close(fd) };
        }
        let mut restored = process_state::restore_descriptors(&loaded.state, &context)?;
        let buffers = restorer.map(&loaded.regions)?;
        waits::watched(leader, reading, || {
            fault::point("resume.memory");
            fill(&image, 0, buffers, &|_| ())
        })?;
        restorer.protect()?;
        process_state::restore_mappings(&loaded.state, &context, &mut restored)?;
        Ok((restorer, restored))
    };
    // What one rank of a node still holds open, another may be looking for.
    let (restorer, restored) = waits::together(world, "the resume (memory)", in_place())?;
    let open = process_state::restore_rest(&loaded.state, &context, restored);
    let warnings = waits::together(world, "the resume (open files)", open.map_err(Into::into))?;
    for warning in warnings {
        log::warn!("{warning}");
    }
    drop(image);
    if let Some(state) = &loaded.mpi {
        let taken = mana_plugin::checkpoint::take_over(state).map_err(Into::into);
        waits::together(world, "the resume (MPI)", taken)?;
        mana_plugin::checkpoint::rebuild()?;
    }
    restorer.finish(fresh::hooks(), || {
        interface::restarted();
        if let Err(e) = process_state::restore_timers(&loaded.state, &context) {
            messages::fail(format_args!("timers: {e}"));
        }
        go();
    })?;
    Err("the program could not be entered".into())
}

/// The program is in place: checkpoints may come.
fn go() {
    if let Err(e) = control::go() {
        control::failed(&*e);
    }
}

fn mana_plugin_world() -> Option<mana_plugin::WorldCollective> {
    job().spec.adapter.as_ref()?;
    mana_plugin::world_collective()
}

/// What the newest incarnation ran with; -1 without MPI.
fn recorded_thread_level() -> Result<i32, Failure> {
    let spec = &job().spec;
    let records = Records::new(Store::global(&spec.config, &spec.identity));
    match records.state()? {
        JobState::Unfinished { incarnation, .. } => Ok(incarnation.thread_level),
        JobState::New | JobState::Finished => {
            Err(format!("job {} has no unfinished start to resume", spec.identity).into())
        }
    }
}

/// A directory all ranks of this machine find, and nobody else. Simulated nodes share it, as they share
/// the machine's memory: to MPI and to the program they are one node.
fn rendezvous(incarnation: u32) -> Result<PathBuf, Failure> {
    use std::os::unix::fs::DirBuilderExt as _;
    let base = if Path::new("/dev/shm").is_dir() {
        "/dev/shm"
    } else {
        "/tmp"
    };
    // SAFETY: getuid has no preconditions.
    let user = unsafe { libc::getuid() };
    // Jobs of one name may have stores of their own.
    let mut hasher = std::hash::DefaultHasher::new();
    job().spec.config.global_ckpt_dir.hash(&mut hasher);
    let store = hasher.finish() as u32;
    let dir = PathBuf::from(format!(
        "{base}/mana-{user}-{}-{store:08x}-{incarnation}",
        job().spec.identity
    ));
    match std::fs::DirBuilder::new().mode(0o700).create(&dir) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(format!("cannot create {}: {e}", dir.display()).into());
        }
        _ => {}
    }
    let found = std::fs::symlink_metadata(&dir)?;
    if !found.is_dir() || found.uid() != user || found.mode() & 0o077 != 0 {
        return Err(format!(
            "{}: not a private directory of this user; remove it",
            dir.display()
        )
        .into());
    }
    *RENDEZVOUS.lock().unwrap_or_else(PoisonError::into_inner) = Some(dir.clone());
    Ok(dir)
}

/// Reads every run of process `process` of a tree into its place. The buffers come in the order of the
/// image's table. `note` hears of every piece.
pub fn fill(
    image: &ImageFile,
    process: usize,
    buffers: Vec<RunBuffer>,
    note: &(dyn Fn(u64) + Sync),
) -> Result<(), Failure> {
    let own = |r: &&RegionRecord| image::process_of(r) == process;
    let regions = image.regions().0.iter().filter(own);
    let places: Vec<_> = regions.flat_map(|r| &r.runs).collect();
    if places.len() != buffers.len() {
        return Err(format!(
            "{}: the region table does not fit the mappings",
            image.path().display()
        )
        .into());
    }
    let mut pairs = Vec::new();
    for (buffer, place) in buffers.into_iter().zip(places) {
        if (buffer.run.start, buffer.run.len) != (place.start, place.len) {
            return Err(format!(
                "{}: the region table does not fit the mappings",
                image.path().display()
            )
            .into());
        }
        pairs.push((buffer.bytes, place.offset));
    }
    let queue = Mutex::new(pairs);
    let read = || -> Result<(), libckpt::Error> {
        loop {
            let Some((bytes, offset)) = queue.lock().unwrap_or_else(PoisonError::into_inner).pop()
            else {
                return Ok(());
            };
            let mut at = offset;
            for piece in bytes.chunks_mut(PIECE) {
                image.read_data(at, piece)?;
                at += piece.len() as u64;
                note(piece.len() as u64);
            }
        }
    };
    let (first, second) = split_process::with_signals_blocked(|| {
        std::thread::scope(|scope| {
            let other = scope.spawn(read);
            (read(), other.join())
        })
    });
    first?;
    second.map_err(|_| "a reader of the image has panicked")??;
    Ok(())
}
