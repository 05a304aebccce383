//! The capture of all descriptors: list, group by description, classify.

use std::collections::BTreeMap;

use super::inherited::Identity;
use super::*;
use crate::context::LostPolicy;

pub(crate) fn capture(
    ctx: &CaptureContext<'_>,
    objects: &mut ObjectList,
    blobs: &mut dyn BlobSink,
    warnings: &mut Vec<Warning>,
) -> Result<Descriptors, StateError> {
    let files = open_files(ctx)?;
    let mut out = capture_of(&files, ctx, objects, blobs, warnings)?;
    out.closed_standard = closed_standard(ctx, &files);
    Ok(out)
}

/// The records of `files`, one number each, in their order.
pub(super) fn capture_of(
    files: &[OpenFile],
    ctx: &CaptureContext<'_>,
    objects: &mut ObjectList,
    blobs: &mut dyn BlobSink,
    warnings: &mut Vec<Warning>,
) -> Result<Descriptors, StateError> {
    let leaders = grouping::leaders(files);
    let mut recorder = Recorder {
        ctx,
        files,
        leaders: &leaders,
        objects,
        blobs,
        warnings,
        out: Descriptors::default(),
        pipes: BTreeMap::new(),
        peers: None,
    };
    recorder.record()?;
    Ok(recorder.out)
}

/// Which standard streams are closed, if `files` are all that is open.
pub(super) fn closed_standard(ctx: &CaptureContext<'_>, files: &[OpenFile]) -> Vec<RawFd> {
    let is_open = |fd: &RawFd| files.iter().any(|f| f.fd == *fd);
    let own = |fd: &RawFd| !(ctx.lower_descriptor)(*fd);
    (0..3).filter(|fd| !is_open(fd)).filter(own).collect()
}

/// Every open descriptor that is not the lower half's, ascending.
pub(super) fn open_files(ctx: &CaptureContext<'_>) -> Result<Vec<OpenFile>, StateError> {
    let directory = "/proc/thread-self/fd";
    let entries = fs::read_dir(directory).map_err(|e| StateError::io("list", directory, e))?;
    let mut numbers: Vec<RawFd> = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| StateError::io("list", directory, e))?;
        numbers.extend(
            entry
                .file_name()
                .to_str()
                .and_then(|n| n.parse::<RawFd>().ok()),
        );
    }
    numbers.retain(|&fd| !(ctx.lower_descriptor)(fd));
    // The listing's own descriptor is closed by now. A number of the lower half may have been
    // closed by one of its threads since.
    numbers.retain(|&fd| Identity::of(fd).is_some());
    numbers.sort_unstable();
    numbers.into_iter().map(OpenFile::read).collect()
}

struct Recorder<'a, 'b> {
    ctx: &'a CaptureContext<'b>,
    files: &'a [OpenFile],
    leaders: &'a [usize],
    objects: &'a mut ObjectList,
    blobs: &'a mut dyn BlobSink,
    warnings: &'a mut Vec<Warning>,
    out: Descriptors,
    /// Inode of a pipe -> its index.
    pipes: BTreeMap<u64, u32>,
    /// Peers of sockets, asked for when the first socket is met.
    peers: Option<BTreeMap<u64, u64>>,
}

impl<'a> Recorder<'a, '_> {
    fn record(&mut self) -> Result<(), StateError> {
        let mut index_of = BTreeMap::new();
        for (i, file) in self.files.iter().enumerate() {
            let leader = self.leaders[i];
            if leader == i {
                index_of.insert(i, self.out.descriptions.len() as u32);
                let description = self.describe(i)?;
                self.out.locks.extend(locks::capture(file));
                self.out.descriptions.push(description);
            }
            self.out.numbers.push(Number {
                fd: file.number,
                close_on_exec: file.info.flags & libc::O_CLOEXEC != 0,
                description: index_of[&leader],
            });
        }
        // A lock of the process is told at every description of its file.
        let locks = std::mem::take(&mut self.out.locks);
        for lock in locks {
            let same = |l: &locks::Lock| {
                (l.call, l.start, l.length) == (lock.call, lock.start, lock.length)
                    && lock.call == locks::Call::Process
                    && self.inode(l.fd) == self.inode(lock.fd)
            };
            if !self.out.locks.iter().any(same) {
                self.out.locks.push(lock);
            }
        }
        Ok(())
    }

    fn inode(&self, fd: RawFd) -> Option<(u64, u64)> {
        let file = self.files.iter().find(|f| f.fd == fd)?;
        Some((file.stat.st_dev, file.stat.st_ino))
    }

    /// The numbers of the description whose first one is `files[leader]`.
    fn numbers(&self, leader: usize) -> Vec<RawFd> {
        let members = self
            .leaders
            .iter()
            .zip(self.files)
            .filter(|(l, _)| **l == leader);
        members.map(|(_, f)| f.number).collect()
    }

    fn describe(&mut self, leader: usize) -> Result<Description, StateError> {
        let file = &self.files[leader];
        let kind = self.classify(leader)?;
        if kind == Kind::Lost {
            if self.ctx.lost == LostPolicy::Refuse {
                let target = String::from_utf8_lossy(&file.target).into_owned();
                return Err(StateError::Unrestorable {
                    fd: file.number,
                    target,
                });
            }
            let message = "leads out of the process and cannot be brought back: after a restart \
                           it answers \"connection reset\"";
            self.warnings.push(Warning::new(file.name(), message));
        }
        Ok(Description {
            target: String::from_utf8_lossy(&file.target).into_owned(),
            flags: file.info.flags & !libc::O_CLOEXEC,
            owner: owner(file.fd, self.ctx.virtual_tid),
            kind,
        })
    }

    fn classify(&mut self, leader: usize) -> Result<Kind, StateError> {
        let file = &self.files[leader];
        if let Some(kind) = self.inherited(leader) {
            return Ok(kind);
        }
        match file.file_type() {
            libc::S_IFREG => self.regular(file),
            libc::S_IFDIR | libc::S_IFLNK if !file.deleted() => {
                Ok(Kind::Directory(regular::capture_directory(file)))
            }
            libc::S_IFCHR => Ok(device::capture(file).map_or(Kind::Lost, Kind::Device)),
            libc::S_IFIFO => self.pipe(file),
            libc::S_IFSOCK => self.socket(file),
            0 => self.anonymous(leader),
            _ => Ok(Kind::Lost),
        }
    }

    /// Standard streams and what the launcher left open.
    fn inherited(&self, leader: usize) -> Option<Kind> {
        let file = &self.files[leader];
        let identity = Identity {
            fd: file.number,
            ..Identity::of(file.fd)?
        };
        if let Some(standard) = self
            .ctx
            .inherited
            .standard(&identity, &self.numbers(leader))
        {
            // A file as standard input is read on from where the program was.
            let file_input = standard == 0 && identity.file_type == libc::S_IFREG;
            if !file_input {
                return Some(Kind::Standard(standard));
            }
            return None;
        }
        self.ctx
            .inherited
            .stream(&identity)
            .then_some(Kind::Inherited)
    }

    fn regular(&mut self, file: &OpenFile) -> Result<Kind, StateError> {
        if !file.target.starts_with(b"/") {
            // A name space: its name is no path.
            return Ok(Kind::Lost);
        }
        let memory = file.target.starts_with(b"/memfd:") || file.target.starts_with(b"/dev/shm/");
        if (memory || file.deleted()) && file.info.flags & libc::O_PATH == 0 {
            let object = self.objects.open_file(file)?;
            let position = file.info.position;
            return Ok(Kind::Object(object::ObjectFile { object, position }));
        }
        let record = regular::capture(file);
        if regular::writes_in_place(&record, file.info.flags) {
            let known = &mut self.out.in_place;
            regular::save_in_place(self.ctx, &record.path, known, self.blobs, self.warnings)?;
        }
        Ok(Kind::Regular(record))
    }

    fn pipe(&mut self, file: &OpenFile) -> Result<Kind, StateError> {
        let inode = file.stat.st_ino;
        if let Some(&pipe) = self.pipes.get(&inode) {
            return Ok(Kind::Pipe(pipe::PipeEnd { pipe }));
        }
        let files = self.files;
        let identity = (file.stat.st_dev, inode);
        let ends = files
            .iter()
            .filter(|f| (f.stat.st_dev, f.stat.st_ino) == identity);
        let Some((reader, writer)) = pipe::ends(ends) else {
            return Ok(Kind::Lost);
        };
        let record = pipe::capture(reader, writer, self.ctx, self.blobs, self.warnings)?;
        let pipe = self.out.pipes.len() as u32;
        self.out.pipes.push(record);
        self.pipes.insert(inode, pipe);
        Ok(Kind::Pipe(pipe::PipeEnd { pipe }))
    }

    fn socket(&mut self, file: &OpenFile) -> Result<Kind, StateError> {
        let peers = self.peers.get_or_insert_with(socketpair::peers);
        let peer = peers.get(&file.stat.st_ino).and_then(|inode| {
            let mut sockets = self
                .files
                .iter()
                .filter(|f| f.file_type() == libc::S_IFSOCK);
            sockets.find(|f| f.stat.st_ino == *inode)
        });
        let Some(peer) = peer else {
            return Ok(Kind::Lost);
        };
        let end = socketpair::capture(file, peer, self.ctx.max_saved_file, self.blobs)?;
        Ok(Kind::SocketPair(end))
    }

    fn anonymous(&mut self, leader: usize) -> Result<Kind, StateError> {
        let file = &self.files[leader];
        Ok(match &file.target[..] {
            b"anon_inode:[eventfd]" => Kind::EventFd(eventfd::capture(file)?),
            b"anon_inode:[timerfd]" => Kind::TimerFd(timerfd::capture(file)?),
            b"anon_inode:[signalfd]" => Kind::SignalFd(signalfd::capture(file)?),
            b"anon_inode:[eventpoll]" => {
                Kind::Epoll(epoll::capture(file, self.files, self.warnings))
            }
            b"anon_inode:inotify" | b"anon_inode:[inotify]" => {
                let numbers = self.numbers(leader);
                Kind::Inotify(inotify::capture(file, &numbers, self.ctx, self.warnings))
            }
            _ => Kind::Lost,
        })
    }
}

/// F_GETOWN_EX and F_GETSIG.
fn owner(fd: RawFd, virtual_tid: &dyn Fn(i32) -> i32) -> Option<Owner> {
    let mut found = FOwner { kind: -1, pid: 0 };
    // SAFETY: F_GETOWN_EX fills an f_owner_ex.
    let got = unsafe { libc::fcntl(fd, F_GETOWN_EX, &raw mut found) };
    if got < 0 || found.pid == 0 {
        return None;
    }
    // SAFETY: F_GETSIG takes and returns numbers.
    let signal = unsafe { libc::fcntl(fd, F_GETSIG) }.max(0);
    let process = std::process::id() as i32;
    match found.kind {
        F_OWNER_PID if found.pid == process => Some(Owner {
            thread: None,
            signal,
        }),
        F_OWNER_TID if std::path::Path::new(&format!("/proc/self/task/{}", found.pid)).exists() => {
            Some(Owner {
                thread: Some(virtual_tid(found.pid)),
                signal,
            })
        }
        _ => None,
    }
}

/// `struct f_owner_ex` of linux/fcntl.h.
#[repr(C)]
pub(super) struct FOwner {
    pub kind: i32,
    pub pid: i32,
}

pub(super) const F_SETSIG: i32 = 10;
pub(super) const F_GETSIG: i32 = 11;
pub(super) const F_SETOWN_EX: i32 = 15;
pub(super) const F_GETOWN_EX: i32 = 16;
pub(super) const F_OWNER_TID: i32 = 0;
pub(super) const F_OWNER_PID: i32 = 1;
