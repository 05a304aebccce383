//! `/proc/self/fdinfo/N`, parsed. See proc_pid_fdinfo(5); unknown lines are passed over, because
//! each kernel release adds some.

use std::fs;
use std::os::fd::RawFd;

use crate::error::StateError;

/// What the kernel says about one descriptor.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FdInfo {
    /// File position.
    pub position: u64,
    /// Status flags of the description with the descriptor's `O_CLOEXEC`.
    pub flags: i32,
    /// `eventfd-count`
    pub eventfd_count: Option<u64>,
    /// `eventfd-semaphore` (new kernels only)
    pub eventfd_semaphore: Option<bool>,
    /// `sigmask` of a signalfd: bit n-1 is signal n.
    pub signal_mask: Option<u64>,
    /// Lines of a timerfd.
    pub timer: Option<TimerInfo>,
    /// `tfd` lines of an epoll descriptor.
    pub watched: Vec<Watched>,
    /// `inotify` lines.
    pub inotify: Vec<InotifyWatch>,
    /// `lock` lines.
    pub locks: Vec<LockInfo>,
}

/// A timerfd as the kernel describes it; times in nanoseconds, `left` relative.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct TimerInfo {
    pub clock: i32,
    /// Expirations not read yet.
    pub ticks: u64,
    /// Flags of the last timerfd_settime.
    pub set_flags: i32,
    pub left: u64,
    pub interval: u64,
}

/// A descriptor watched by epoll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Watched {
    /// Number it was added under.
    pub fd: RawFd,
    pub events: u32,
    pub data: u64,
    /// Inode and device of the watched file (kernels from 4.13).
    pub inode: Option<u64>,
}

/// A watch of an inotify descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InotifyWatch {
    pub watch: i32,
    pub mask: u32,
    pub inode: u64,
    /// Handle of the watched file for open_by_handle_at.
    pub handle_type: i32,
    pub handle: Vec<u8>,
}

/// A file lock held through a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LockInfo {
    pub kind: LockKind,
    pub write: bool,
    /// First byte.
    pub start: u64,
    /// Last byte; `None`: to the end of the file however it grows.
    pub end: Option<u64>,
}

/// Which call made a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LockKind {
    /// flock
    Flock,
    /// fcntl F_SETLK
    Posix,
    /// fcntl F_OFD_SETLK
    OpenFile,
}

impl FdInfo {
    /// Reads what the kernel says about descriptor `fd` of this thread's table.
    pub(crate) fn read(fd: RawFd) -> Result<FdInfo, StateError> {
        let path = format!("/proc/thread-self/fdinfo/{fd}");
        let text = fs::read_to_string(&path).map_err(|e| StateError::io("read", &path, e))?;
        FdInfo::parse(&text, &path)
    }

    fn parse(text: &str, object: &str) -> Result<FdInfo, StateError> {
        let mut info = FdInfo::default();
        for (i, line) in text.lines().enumerate() {
            info.line(line).ok_or_else(|| StateError::Parse {
                object: object.to_owned(),
                line: i + 1,
                text: line.to_owned(),
            })?;
        }
        Ok(info)
    }

    fn line(&mut self, line: &str) -> Option<()> {
        // "inotify" alone has no colon after its name.
        if let Some(rest) = line.strip_prefix("inotify wd:") {
            self.inotify.push(inotify(rest)?);
            return Some(());
        }
        let Some((name, value)) = line.split_once(':') else {
            return Some(());
        };
        let value = value.trim();
        match name.trim() {
            "pos" => self.position = value.parse().ok()?,
            "flags" => self.flags = i32::from_str_radix(value, 8).ok()?,
            "eventfd-count" => self.eventfd_count = Some(hex(value)?),
            "eventfd-semaphore" => self.eventfd_semaphore = Some(value.parse::<i32>().ok()? != 0),
            "sigmask" => self.signal_mask = Some(hex(value)?),
            "clockid" => self.timer().clock = value.parse().ok()?,
            "ticks" => self.timer().ticks = value.parse().ok()?,
            "settime flags" => self.timer().set_flags = i32::from_str_radix(value, 8).ok()?,
            "it_value" => self.timer().left = seconds(value)?,
            "it_interval" => self.timer().interval = seconds(value)?,
            "tfd" => self.watched.push(watched(value)?),
            "lock" => self.locks.extend(lock(value)?),
            _ => {}
        }
        Some(())
    }

    fn timer(&mut self) -> &mut TimerInfo {
        self.timer.get_or_insert_with(TimerInfo::default)
    }
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

/// `(seconds, nanoseconds)` in nanoseconds.
fn seconds(text: &str) -> Option<u64> {
    let (whole, part) = text.strip_prefix('(')?.strip_suffix(')')?.split_once(',')?;
    let whole: u64 = whole.trim().parse().ok()?;
    whole
        .checked_mul(1_000_000_000)?
        .checked_add(part.trim().parse().ok()?)
}

/// `       5 events:       19 data:                5  pos:0 ino:3e1 sdev:e`
fn watched(text: &str) -> Option<Watched> {
    let mut found = Watched {
        fd: -1,
        events: 0,
        data: 0,
        inode: None,
    };
    // "events:       19" has spaces after the colon: join each name with its value.
    let mut words = text.split_whitespace();
    found.fd = words.next()?.parse().ok()?;
    while let Some(word) = words.next() {
        let (name, value) = word.split_once(':')?;
        let value = if value.is_empty() {
            words.next()?
        } else {
            value
        };
        match name {
            "events" => found.events = u32::from_str_radix(value, 16).ok()?,
            "data" => found.data = hex(value)?,
            "ino" => found.inode = Some(hex(value)?),
            _ => {}
        }
    }
    Some(found)
}

/// `3 ino:9e7e sdev:800013 mask:800afce ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:7e9e`
fn inotify(text: &str) -> Option<InotifyWatch> {
    let mut words = text.split_whitespace();
    let watch = i32::from_str_radix(words.next()?, 16).ok()?;
    let mut found = InotifyWatch {
        watch,
        mask: 0,
        inode: 0,
        handle_type: 0,
        handle: Vec::new(),
    };
    for word in words {
        let (name, value) = word.split_once(':')?;
        match name {
            "ino" => found.inode = hex(value)?,
            "mask" => found.mask = u32::from_str_radix(value, 16).ok()?,
            "fhandle-type" => found.handle_type = i32::from_str_radix(value, 16).ok()?,
            "f_handle" => {
                let pairs = value.as_bytes().chunks_exact(2);
                let byte = |p: &[u8]| u8::from_str_radix(std::str::from_utf8(p).ok()?, 16).ok();
                found.handle = pairs.map(byte).collect::<Option<_>>()?;
            }
            _ => {}
        }
    }
    Some(found)
}

/// `1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF`; `None` inside for leases and the like.
fn lock(text: &str) -> Option<Option<LockInfo>> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [_, kind, _, access, _, _, start, end] = words[..] else {
        return None;
    };
    let kind = match kind {
        "FLOCK" => LockKind::Flock,
        "POSIX" => LockKind::Posix,
        "OFDLCK" => LockKind::OpenFile,
        _ => return Some(None),
    };
    let end = if end == "EOF" {
        None
    } else {
        Some(end.parse().ok()?)
    };
    Some(Some(LockInfo {
        kind,
        write: access == "WRITE",
        start: start.parse().ok()?,
        end,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: &str = "\
pos:\t4096
flags:\t02100002
mnt_id:\t15
ino:\t1057
lock:\t1: FLOCK  ADVISORY  WRITE 5075 00:2f:32 0 EOF
lock:\t2: POSIX  ADVISORY  READ  5075 00:2f:32 10 19
lock:\t3: LEASE  ACTIVE    READ  5075 00:2f:32 0 EOF
eventfd-count:               1f
eventfd-id: 23
eventfd-semaphore: 1
sigmask:\t0000000000004200
clockid: 1
ticks: 3
settime flags: 01
it_value: (1, 500000000)
it_interval: (0, 7)
tfd:        5 events:       19 data: ffffffffffffffff  pos:0 ino:3e1 sdev:e
inotify wd:3 ino:9e7e sdev:800013 mask:800afce ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:7e9e0000640d1b6d
";

    #[test]
    fn every_kind_of_line() {
        let info = FdInfo::parse(ALL, "x").unwrap();
        assert_eq!(info.position, 4096);
        assert_eq!(info.flags, 0o2100002);
        assert_eq!(info.eventfd_count, Some(0x1f));
        assert_eq!(info.eventfd_semaphore, Some(true));
        assert_eq!(info.signal_mask, Some(0x4200));
        let timer = info.timer.unwrap();
        assert_eq!((timer.clock, timer.ticks, timer.set_flags), (1, 3, 1));
        assert_eq!((timer.left, timer.interval), (1_500_000_000, 7));
        let watched = Watched {
            fd: 5,
            events: 0x19,
            data: u64::MAX,
            inode: Some(0x3e1),
        };
        assert_eq!(info.watched, [watched]);
        assert_eq!(info.inotify[0].watch, 3);
        assert_eq!(
            info.inotify[0].handle,
            [0x7e, 0x9e, 0, 0, 0x64, 0x0d, 0x1b, 0x6d]
        );
        assert_eq!(info.locks.len(), 2);
        assert_eq!(info.locks[1].end, Some(19));
        assert!(!info.locks[1].write && info.locks[0].write);
    }

    #[test]
    fn an_old_epoll_line_has_no_inode() {
        let info = FdInfo::parse("tfd:        5 events:       1d data:  7 \n", "x").unwrap();
        assert_eq!(info.watched[0].inode, None);
    }

    #[test]
    fn broken_values_name_the_line() {
        match FdInfo::parse("pos:\t0\nflags:\t0x\n", "fdinfo/3") {
            Err(StateError::Parse { line: 2, .. }) => {}
            other => panic!("{other:?}"),
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "((pos|flags|tfd|lock|it_value|inotify wd|sigmask):[ -~]{0,60}\n){0,6}") {
            let _ = FdInfo::parse(&text, "x");
        }
    }
}
