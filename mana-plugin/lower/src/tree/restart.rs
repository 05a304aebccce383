//! Making the processes of a tree again. Main thread of the root, then of every process forked here.
//!
//! | step | in | why in this place |
//! |---|---|---|
//! | all descriptions are opened | root | whoever is forked has them |
//! | each process forks its children | all, before any memory is in place | the lower half is all there is of them |
//! | *all are there* | | process groups name them |
//! | numbers, memory, shared mappings | each for itself, at the same time | |
//! | *all have mapped* | | what one still holds open, another may be looking for |
//! | directory, limits, locks, threads | each | |
//! | *all are ready* | | a signal must find its handler |

use std::convert::Infallible;
use std::path::Path;
use std::time::Duration;

use libckpt::image_file::ImageFile;
use process_state::several::OpenFiles;
use process_state::{MemoryBlobs, ProcessState, RestoreContext, Restored};
use split_process::tree as family;
use split_process::{Hooks, Region, Restorer};

use super::record::{Ended, Kin, Tree};
use super::{member, root};
use crate::{fresh, messages, resume, Failure};

/// While processes of the tree are waited for at the next step: how long none may have come nor read anything.
const MEETING: Duration = Duration::from_secs(120);
/// Meetings.
const MADE: usize = 0;
const MAPPED: usize = 1;
const READY: usize = 2;

/// What comes back in one process.
struct Part<'a> {
    split: &'a [u8],
    state: &'a ProcessState,
    blobs: &'a MemoryBlobs,
    regions: &'a [Region],
}

/// Brings the tree back. `last`: what the root does when everybody is ready. Does not return but on
/// failure; in a process forked here it does not return at all. Where ranks of the node meet, and where clones of
/// files are.
pub fn run(
    loaded: &crate::image::Loaded,
    tree: &Tree,
    image: ImageFile,
    (rendezvous, clones): (&Path, &Path),
    last: impl FnOnce(),
) -> Result<Infallible, Failure> {
    super::begin(Some(tree.root.id))?;
    allow_descriptors(tree.files.needed());
    for fd in tree.files.conflicts() {
        // SAFETY: left open by whoever started this process; nothing here uses it.
        unsafe { libc::close(fd) };
    }
    let mut context = RestoreContext::new(resume::TEMPORARY_FD, &tree.blobs, rendezvous);
    context.clones = Some(clones);
    let open = tree.files.open(&context)?;
    let own = split_process::with_signals_blocked(|| make(&root::kin(tree), 0))?;
    if own == 0 {
        let part = Part {
            split: &loaded.split,
            state: &loaded.state,
            blobs: &loaded.blobs,
            regions: &loaded.regions,
        };
        let result = bring_back(
            tree,
            0,
            &part,
            open,
            image,
            rendezvous,
            fresh::hooks(),
            last,
        );
        if let Some(table) = family::table() {
            table.fail();
        }
        return result;
    }
    let Some(saved) = tree.members.get(own - 1) else {
        messages::fail(format_args!(
            "process {own} of the tree is not in the image"
        ));
    };
    let part = Part {
        split: &saved.split,
        state: &saved.state,
        blobs: &saved.blobs,
        regions: &saved.regions,
    };
    let begin = || {
        if let Err(e) = member::begin() {
            failed(&saved.kin, &*e);
        }
    };
    match bring_back(
        tree,
        own,
        &part,
        open,
        image,
        rendezvous,
        member::hooks(),
        begin,
    ) {
        Ok(never) => match never {},
        Err(e) => failed(&saved.kin, &*e),
    }
}

/// The end of a process that cannot be brought back, and of the resume.
fn failed(kin: &Kin, error: &(dyn std::error::Error + 'static)) -> ! {
    if let Some(table) = family::table() {
        table.fail();
    }
    messages::fail(format_args!(
        "process {} of the program cannot be brought back: {error}",
        kin.id
    ))
}

/// Every description of the tree is open in one process for a while.
fn allow_descriptors(needed: usize) {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    let wanted = resume::TEMPORARY_FD as u64 + needed as u64;
    // SAFETY: the kernel fills the structure.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0;
    if known && limit.rlim_cur < wanted {
        limit.rlim_cur = wanted.min(limit.rlim_max);
        // The program's own limit comes back with its state.
        // SAFETY: the structure is only read.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    }
}

/// Forks the children of process `own`, and in each child its children. Returns who the caller is.
fn make(kin: &[&Kin], own: usize) -> Result<usize, Failure> {
    let Some(me) = kin.get(own) else {
        return Err("the processes of the tree contradict each other".into());
    };
    let is_known = |id: i32| kin.iter().any(|k| k.id == id);
    let mine = |k: &Kin| k.parent == me.id || own == 0 && !is_known(k.parent);
    let leads = own != 0 && me.session == me.id;
    // Those made before this process led a session are not in it.
    for (pass, in_session) in [(0, false), (1, true)] {
        if pass == 1 && leads {
            // SAFETY: a fresh process, which leads no group.
            unsafe { libc::setsid() };
        }
        for (i, child) in kin.iter().enumerate().skip(1) {
            let inside = !leads || child.session == me.session;
            if i == own || !mine(child) || inside != in_session {
                continue;
            }
            if fork(child.id, me.id, child.parent != me.id)? {
                return make(kin, i);
            }
        }
    }
    for ended in &me.ended {
        if fork(ended.id, me.id, false)? {
            end_as(ended);
        }
    }
    Ok(own)
}

/// Forks process `id`; true in the child. `orphan`: its parent is gone.
fn fork(id: i32, parent: i32, orphan: bool) -> Result<bool, Failure> {
    let table = family::table().ok_or("there is no tree")?;
    let place = table
        .reserve(parent)
        .ok_or("there are too many processes in the tree")?;
    // SAFETY: this program's control threads are idle, and none of their locks is held.
    let mut pid = unsafe { libc::fork() };
    if orphan && pid == 0 {
        // SAFETY: as above; the process between ends at once.
        pid = unsafe { libc::fork() };
        if pid != 0 {
            // SAFETY: ends the process between.
            unsafe { libc::_exit(i32::from(pid < 0)) };
        }
    }
    match pid {
        0 => {
            family::become_member(place, id);
            Ok(true)
        }
        1.. if orphan => {
            // SAFETY: waits for the process between, which has nothing to do.
            unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
            Ok(false)
        }
        1.. => {
            table.settle(place, pid, Some(id));
            Ok(false)
        }
        _ => Err(format!("fork: {}", std::io::Error::last_os_error()).into()),
    }
}

/// Ends this process as the one it stands for had ended.
fn end_as(ended: &Ended) -> ! {
    if ended.killed {
        let none = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: plain calls; the signal ends this process, whose memory is not worth a core file.
        unsafe {
            libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
            libc::signal(ended.status, libc::SIG_DFL);
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&raw mut set);
            libc::sigprocmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut());
            libc::raise(ended.status);
        }
    }
    // SAFETY: ends this process.
    unsafe { libc::_exit(ended.status) }
}

/// Puts this process into its group.
fn group(kin: &Kin) -> Result<(), Failure> {
    if kin.group == 0 || kin.session == kin.id {
        return Ok(());
    }
    let leader = if kin.group == kin.id {
        0
    } else {
        let table = family::table().ok_or("there is no tree")?;
        let place = table.by_id(kin.group);
        place
            .and_then(family::Place::real)
            .ok_or("its process group has no leader")?
    };
    let deadline = std::time::Instant::now() + MEETING;
    // The leader may not have made the group yet.
    // SAFETY: setpgid takes and returns numbers.
    while unsafe { libc::setpgid(0, leader) } != 0 {
        let error = std::io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EPERM) || std::time::Instant::now() > deadline {
            return Err(format!("its process group: {error}").into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

#[expect(
    clippy::too_many_arguments,
    reason = "one call for the root and one for members"
)]
fn bring_back(
    tree: &Tree,
    own: usize,
    part: &Part,
    open: OpenFiles,
    image: ImageFile,
    rendezvous: &Path,
    hooks: Hooks,
    last: impl FnOnce(),
) -> Result<Infallible, Failure> {
    let table = family::table().ok_or("there is no tree")?;
    let kin = root::kin(tree);
    let all: Vec<i32> = kin.iter().map(|kin| kin.id).collect();
    table.meet(MADE, &all, MEETING)?;
    if let Some(kin) = kin.get(own).filter(|_| own != 0) {
        group(kin)?;
    }
    let mut restorer = Restorer::begin(part.split)?;
    let mut context = RestoreContext::new(resume::TEMPORARY_FD, part.blobs, rendezvous);
    context.real_tid = &split_process::real_tid;
    let mut restored = Restored::default();
    tree.files
        .place(own, &open, &context, &mut restored.warnings)?;
    let buffers = restorer.map(part.regions)?;
    resume::fill(&image, own, buffers, &|bytes| table.note_read(bytes))?;
    restorer.protect()?;
    process_state::restore_mappings(part.state, &context, &mut restored)?;
    table.meet(MAPPED, &all, MEETING)?;
    if own == 0 {
        for warning in &open.restored.warnings {
            log::warn!("{warning}");
        }
    }
    drop(open);
    tree.files.lock(own, &mut restored.warnings);
    for warning in process_state::restore_rest(part.state, &context, restored)? {
        log::warn!("{warning}");
    }
    drop(image);
    restorer.finish(hooks, || {
        let timers = process_state::restore_timers(part.state, &context).map(drop);
        if let Err(e) = timers.and_then(|()| tree.files.arm(own, &context)) {
            table.fail();
            messages::fail(format_args!("timers: {e}"));
        }
        if let Err(e) = table.meet(READY, &all, MEETING) {
            messages::fail(format_args!("{e}"));
        }
        last();
    })?;
    Err("the program could not be entered".into())
}
