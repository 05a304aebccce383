//! The restore of all descriptors: each description is opened, given its numbers, and closed
//! elsewhere; then epoll descriptors get what they watch.

use std::collections::btree_map::{BTreeMap, Entry};

use super::record::{FOwner, F_OWNER_PID, F_OWNER_TID, F_SETOWN_EX, F_SETSIG};
use super::*;
use crate::mappings::objects;

/// Flags that fcntl(2) can change after the opening.
const SETTABLE: i32 =
    libc::O_APPEND | libc::O_NONBLOCK | libc::O_ASYNC | libc::O_DIRECT | libc::O_NOATIME;

pub(crate) fn restore(
    state: &ProcessState,
    ctx: &RestoreContext<'_>,
    restored: &mut Restored,
) -> Result<(), StateError> {
    let records = &state.descriptors;
    check(&records.numbers, &records.descriptions, ctx)?;
    // Copied before a description of the program takes one of these numbers.
    let standard = standard_streams(ctx);
    for file in &records.in_place {
        regular::restore_in_place(file, ctx)?;
    }
    let mut opener = Opener::new(state, ctx);
    for (i, description) in records.descriptions.iter().enumerate() {
        let numbers = numbers_of(&records.numbers, i);
        let Some(first) = numbers.first() else {
            continue;
        };
        if let Kind::Standard(stream) = description.kind {
            place_standard(stream, &standard, &numbers, &mut restored.warnings)?;
        } else if let Some(opened) = opener.open(i, first.fd, restored)? {
            place(&opened, &numbers)?;
        }
    }
    watch(records, &records.numbers, ctx, &mut restored.warnings)
}

/// The numbers of description `i`.
pub(super) fn numbers_of(all: &[Number], i: usize) -> Vec<Number> {
    let own = all.iter().filter(|n| n.description as usize == i);
    own.copied().collect()
}

/// Copies of the standard streams of the new run.
pub(super) fn standard_streams(ctx: &RestoreContext<'_>) -> Vec<Option<OwnedFd>> {
    (0..3)
        .map(|fd| standard_stream(fd, ctx.descriptor_base))
        .collect()
}

/// Gives the epoll descriptors among `numbers` what they watch, when all numbers are in place.
pub(super) fn watch(
    records: &Descriptors,
    numbers: &[Number],
    ctx: &RestoreContext<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<(), StateError> {
    for (i, description) in records.descriptions.iter().enumerate() {
        let number = numbers.iter().find(|n| n.description as usize == i);
        if let (Kind::Epoll(record), Some(number)) = (&description.kind, number) {
            epoll::watch(record, number.fd, ctx.descriptor_base, warnings)?;
        }
    }
    Ok(())
}

/// Opens descriptions, one after the other in their order.
pub(super) struct Opener<'a, 'b> {
    state: &'a ProcessState,
    ctx: &'a RestoreContext<'b>,
    pipes: BTreeMap<usize, pipe::OpenPipe>,
    pairs: BTreeMap<u64, OwnedFd>,
}

impl<'a, 'b> Opener<'a, 'b> {
    pub(super) fn new(state: &'a ProcessState, ctx: &'a RestoreContext<'b>) -> Self {
        Opener {
            state,
            ctx,
            pipes: BTreeMap::new(),
            pairs: BTreeMap::new(),
        }
    }

    /// Description `i`, at a number above the program's; `None`: it is the new run's. `first`: one of
    /// its numbers, for messages.
    pub(super) fn open(
        &mut self,
        i: usize,
        first: RawFd,
        restored: &mut Restored,
    ) -> Result<Option<OwnedFd>, StateError> {
        let (state, ctx) = (self.state, self.ctx);
        let records = &state.descriptors;
        let Some(description) = records.descriptions.get(i) else {
            return Err(dangling("description"));
        };
        let flags = description.flags;
        let warnings = &mut restored.warnings;
        let opened = match &description.kind {
            Kind::Inherited | Kind::Standard(_) => return Ok(None),
            Kind::Regular(file) => regular::restore(file, flags, first)?,
            Kind::Directory(file) => regular::restore_directory(file, flags, first)?,
            Kind::Object(file) => {
                let open = objects::open(&mut restored.objects, state, ctx, file.object, warnings)?;
                object::restore(file, open, flags)?
            }
            Kind::Device(file) => device::restore(file, flags, warnings)?,
            Kind::Pipe(end) => {
                let index = end.pipe as usize;
                let pipe = match self.pipes.entry(index) {
                    Entry::Occupied(open) => open.into_mut(),
                    Entry::Vacant(slot) => {
                        let record = records.pipes.get(index).ok_or_else(|| dangling("pipe"))?;
                        slot.insert(pipe::restore(record, ctx, warnings)?)
                    }
                };
                pipe.open(flags)?
            }
            Kind::SocketPair(end) => match self.pairs.remove(&end.pair) {
                Some(other) => other,
                None => {
                    let [mine, other] = socket_pair(records, i, end, ctx)?;
                    self.pairs
                        .insert(end.pair, raise(other, ctx.descriptor_base)?);
                    mine
                }
            },
            Kind::EventFd(record) => eventfd::restore(record)?,
            Kind::TimerFd(record) => timerfd::restore(record)?,
            Kind::SignalFd(record) => signalfd::restore(record)?,
            Kind::Epoll(_) => epoll::restore()?,
            Kind::Inotify(record) => inotify::restore(record, warnings)?,
            Kind::Lost => {
                let message = "could not be brought back: it answers \"connection reset\"";
                let name = format!("descriptor {first} ({})", description.target);
                warnings.push(Warning::new(name, message));
                lost::restore()?
            }
        };
        let opened = raise(opened, ctx.descriptor_base)?;
        set_flags(&opened, description)?;
        Ok(Some(opened))
    }
}

fn dangling(what: &str) -> StateError {
    StateError::Inconsistent {
        what: format!("a descriptor refers to a {what} that is not there"),
    }
}

/// Nothing is opened unless all numbers can be given.
pub(super) fn check(
    numbers: &[Number],
    descriptions: &[Description],
    ctx: &RestoreContext<'_>,
) -> Result<(), StateError> {
    for number in numbers {
        let description = descriptions.get(number.description as usize);
        let description = description.ok_or_else(|| dangling("description"))?;
        let fd = number.fd;
        if fd < 0 || fd >= ctx.descriptor_base {
            let what = format!(
                "descriptor {fd} is not below those of the lower half ({})",
                ctx.descriptor_base
            );
            return Err(StateError::Inconsistent { what });
        }
        let kept = fd <= 2 || description.kind == Kind::Inherited;
        if !kept && inherited::Identity::of(fd).is_some() {
            let by = fs::read_link(format!("/proc/self/fd/{fd}"));
            let by = by.map(|p| p.display().to_string()).unwrap_or_default();
            return Err(StateError::NumberTaken { fd, by });
        }
    }
    Ok(())
}

/// A copy of a standard stream of the new run, if it is open.
fn standard_stream(fd: RawFd, base: RawFd) -> Option<OwnedFd> {
    inherited::Identity::of(fd)?;
    // SAFETY: open, as was just seen, and nobody closes it meanwhile.
    duplicate(unsafe { BorrowedFd::borrow_raw(fd) }, base).ok()
}

/// Numbers that referred to a standard stream refer to the new run's.
pub(super) fn place_standard(
    stream: RawFd,
    standard: &[Option<OwnedFd>],
    numbers: &[Number],
    warnings: &mut Vec<Warning>,
) -> Result<(), StateError> {
    let others: Vec<Number> = numbers.iter().filter(|n| n.fd != stream).copied().collect();
    match standard.get(stream as usize) {
        Some(Some(fd)) => place(fd, &others),
        _ => {
            let message = "is closed in this run";
            warnings.push(Warning::new(format!("standard stream {stream}"), message));
            Ok(())
        }
    }
}

/// Both ends of the pair of `end`, which belongs to description `i`.
fn socket_pair(
    records: &Descriptors,
    i: usize,
    end: &socketpair::PairEnd,
    ctx: &RestoreContext<'_>,
) -> Result<[OwnedFd; 2], StateError> {
    let other = records.descriptions[i + 1..]
        .iter()
        .find_map(|d| match &d.kind {
            Kind::SocketPair(other) if other.pair == end.pair => Some(other),
            _ => None,
        });
    let other = other.ok_or_else(|| dangling("socket"))?;
    socketpair::restore([end, other], ctx.blobs)
}

/// Sets owner and status flags.
fn set_flags(fd: &OwnedFd, description: &Description) -> Result<(), StateError> {
    let number = fd.as_raw_fd();
    if description.flags & libc::O_PATH != 0 {
        return Ok(());
    }
    if let Some(owner) = description.owner.filter(|o| o.thread.is_none()) {
        own(
            number,
            F_OWNER_PID,
            std::process::id() as i32,
            owner.signal,
            &description.target,
        )?;
    }
    // SAFETY: F_GETFL takes and returns numbers.
    let now = unsafe { libc::fcntl(number, libc::F_GETFL) };
    let wanted = (now & !SETTABLE) | (description.flags & SETTABLE);
    // SAFETY: F_SETFL takes and returns numbers.
    if wanted != now && unsafe { libc::fcntl(number, libc::F_SETFL, wanted) } < 0 {
        return Err(StateError::last("set the flags of", &description.target));
    }
    Ok(())
}

fn own(fd: RawFd, kind: i32, pid: i32, signal: i32, target: &str) -> Result<(), StateError> {
    let owner = FOwner { kind, pid };
    // SAFETY: F_SETOWN_EX reads an f_owner_ex.
    let failed = unsafe { libc::fcntl(fd, F_SETOWN_EX, &raw const owner) } < 0
        // SAFETY: F_SETSIG takes and returns numbers.
        || unsafe { libc::fcntl(fd, F_SETSIG, signal) } < 0;
    if failed {
        return Err(StateError::last("set the owner of", target));
    }
    Ok(())
}

/// Gives `fd` the numbers of its description.
pub(super) fn place(fd: &OwnedFd, numbers: &[Number]) -> Result<(), StateError> {
    for number in numbers {
        let flags = if number.close_on_exec {
            libc::O_CLOEXEC
        } else {
            0
        };
        // SAFETY: dup3 takes and returns numbers; the target is free or a standard stream.
        if unsafe { libc::dup3(fd.as_raw_fd(), number.fd, flags) } < 0 {
            return Err(StateError::last("place descriptor", number.fd));
        }
    }
    Ok(())
}

/// Locks, and standard streams that were closed.
pub(crate) fn restore_late(
    state: &ProcessState,
    _ctx: &RestoreContext<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<(), StateError> {
    for lock in &state.descriptors.locks {
        locks::restore(lock, warnings);
    }
    for &fd in &state.descriptors.closed_standard {
        // SAFETY: the program had this number closed, and the lower half writes elsewhere from now.
        unsafe { libc::close(fd) };
    }
    Ok(())
}

/// Starts timer descriptors, and gives descriptors owned by a thread their owner.
pub(crate) fn arm_timers(state: &ProcessState, ctx: &RestoreContext<'_>) -> Result<(), StateError> {
    arm(&state.descriptors, &state.descriptors.numbers, ctx)
}

/// The same for the descriptions that have one of `numbers`.
pub(super) fn arm(
    records: &Descriptors,
    numbers: &[Number],
    ctx: &RestoreContext<'_>,
) -> Result<(), StateError> {
    for (i, description) in records.descriptions.iter().enumerate() {
        let Some(number) = numbers.iter().find(|n| n.description as usize == i) else {
            continue;
        };
        if let Kind::TimerFd(timer) = &description.kind {
            timerfd::arm(timer, number.fd)?;
        }
        if let Some(Owner {
            thread: Some(thread),
            signal,
        }) = description.owner
        {
            let thread = (ctx.real_tid)(thread);
            own(number.fd, F_OWNER_TID, thread, signal, &description.target)?;
        }
    }
    Ok(())
}
