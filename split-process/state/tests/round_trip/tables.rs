//! Random descriptor tables: files, dups, pipes and event counters opened, duplicated and closed in
//! any order. The restarted process must have the same table: the same numbers, flags, positions and
//! counters, and the same numbers sharing a description.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use super::*;

/// Numbers tables use.
const NUMBERS: std::ops::Range<RawFd> = FIRST..FIRST + 40;

/// A small generator with a seed (xorshift, Marsaglia 2003).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn number(&mut self) -> RawFd {
        NUMBERS.start + self.below(NUMBERS.len() as u64) as RawFd
    }
}

fn is_open(fd: RawFd) -> bool {
    flags(fd) >= 0
}

fn step(random: &mut Random, place: &Path) {
    let to = random.number();
    match random.below(8) {
        0 | 1 => {
            let mut options = File::options();
            match random.below(4) {
                0 => options.read(true),
                1 => options.write(true),
                2 => options.append(true),
                _ => options.read(true).append(true),
            };
            options.custom_flags(if random.below(2) == 0 {
                libc::O_NONBLOCK
            } else {
                0
            });
            let name = format!("file{}", random.below(3));
            put(options.open(place.join(name)).unwrap(), to);
            unsafe { libc::lseek(to, random.below(2000) as i64, libc::SEEK_SET) };
        }
        2 => {
            let (reader, writer) = pipe();
            let other = random.number();
            put(reader, to);
            if other != to {
                put(writer, other);
                let _ = at(other)
                    .write(&vec![1; random.below(5000) as usize])
                    .unwrap();
            }
        }
        3 => {
            let made = unsafe { libc::eventfd(random.below(9) as u32, libc::EFD_NONBLOCK) };
            assert_eq!(unsafe { libc::dup2(made, to) }, to);
            unsafe { libc::close(made) };
        }
        4 | 5 => {
            let from = random.number();
            if from != to && is_open(from) {
                assert_eq!(unsafe { libc::dup2(from, to) }, to);
            }
        }
        6 => {
            let name = format!("gone{}", random.below(1000));
            let mut options = File::options();
            options.read(true).write(true).create(true);
            let mut file = options.open(place.join(&name)).unwrap();
            file.write_all(name.as_bytes()).unwrap();
            fs::remove_file(place.join(name)).unwrap();
            put(file, to);
        }
        _ if random.below(2) == 0 => {
            unsafe { libc::close(to) };
        }
        _ => {
            unsafe { libc::fcntl(to, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
}

/// Whether two numbers share a description, by switching a flag of one of them.
fn shared(a: RawFd, b: RawFd) -> bool {
    let before = flags(a);
    unsafe { libc::fcntl(a, libc::F_SETFL, before ^ libc::O_NONBLOCK) };
    let other = flags(b);
    unsafe { libc::fcntl(a, libc::F_SETFL, before) };
    other != flags(b)
}

/// Everything a program can see of the table.
fn table() -> String {
    let open: Vec<RawFd> = NUMBERS.filter(|&fd| is_open(fd)).collect();
    let mut lines = String::new();
    // The inode tells pipes apart within one process only: number them in order of appearance.
    let mut pipes: Vec<u64> = Vec::new();
    for &fd in &open {
        let leader = open
            .iter()
            .find(|&&other| other == fd || shared(other, fd))
            .unwrap();
        let cloexec = unsafe { libc::fcntl(fd, libc::F_GETFD) };
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
        let count = info
            .lines()
            .find(|l| l.starts_with("eventfd-count"))
            .unwrap_or("");
        let link = fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
        let link = link.to_str().unwrap().to_owned();
        let metadata = at(fd).metadata().unwrap();
        use std::os::unix::fs::{FileTypeExt, MetadataExt};
        let mut waiting = 0i32;
        let what = if metadata.file_type().is_fifo() {
            unsafe { libc::ioctl(fd, libc::FIONREAD, &mut waiting) };
            let known = pipes.iter().position(|&p| p == metadata.ino());
            let index = known.unwrap_or_else(|| {
                pipes.push(metadata.ino());
                pipes.len() - 1
            });
            format!("pipe {index}")
        } else if metadata.nlink() == 0 {
            // It has another name after the restart, and the same content.
            format!(
                "unlinked {:?}",
                fs::read(format!("/proc/self/fd/{fd}")).unwrap()
            )
        } else {
            link
        };
        lines += &format!(
            "{fd} as {leader}: {what} {:o} {cloexec} {} {} {waiting} {count}\n",
            flags(fd),
            position(fd),
            metadata.len(),
        );
    }
    lines
}

fn random_table(name: &str, seed: u64) {
    // The seed is in the place's name, for both processes.
    let scenario = Scenario {
        // Pipes with one end are lost, and come back as something else: none is left over here.
        warned: |warnings| assert!(warnings.iter().all(|w| w.message.contains("in place"))),
        meanwhile: |place| {
            for i in 0..3 {
                let path = place.join(format!("file{i}"));
                let mut file = File::options().append(true).open(path).unwrap();
                file.write_all(b"more of the former run").unwrap();
            }
        },
        ..Scenario::new(
            |place| {
                for i in 0..3 {
                    fs::write(place.join(format!("file{i}")), vec![b'x'; 1000 * (i + 1)]).unwrap();
                }
                let seed = env::var("PROCESS_STATE_TEST_SEED")
                    .unwrap()
                    .parse()
                    .unwrap();
                let mut random = Random(seed);
                for _ in 0..120 {
                    step(&mut random, place);
                }
                close_half_pipes();
                fs::write(place.join("table"), table()).unwrap();
            },
            |place, _| {
                let expected = fs::read_to_string(place.join("table")).unwrap();
                assert!(expected.lines().count() > 5, "{expected}");
                let lengths = |text: &str| {
                    // A file nobody has open for writing keeps what the former run appended.
                    text.replace("1022 0 ", "1000 0 ")
                        .replace("2022 0 ", "2000 0 ")
                        .replace("3022 0 ", "3000 0 ")
                };
                assert_eq!(lengths(&table()), expected);
            },
        )
    };
    scenario.run_with(name, &[("PROCESS_STATE_TEST_SEED", seed.to_string())]);
}

/// Closes pipes of which only one end is left.
fn close_half_pipes() {
    let ends: Vec<(RawFd, PathBuf, i32)> = NUMBERS
        .filter(|&fd| is_open(fd))
        .map(|fd| {
            let link = fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
            (fd, link, flags(fd) & libc::O_ACCMODE)
        })
        .filter(|(_, link, _)| link.to_str().unwrap().starts_with("pipe:"))
        .collect();
    for (fd, link, access) in &ends {
        if !ends
            .iter()
            .any(|(_, other, mode)| other == link && mode != access)
        {
            unsafe { libc::close(*fd) };
        }
    }
}

macro_rules! seeds {
    ($($name:ident = $seed:expr;)*) => {
        $(
            #[test]
            fn $name() {
                random_table(concat!("tables::", stringify!($name)), $seed);
            }
        )*
    };
}

seeds! {
    random_table_1 = 0x9e37_79b9_7f4a_7c15;
    random_table_2 = 0xbf58_476d_1ce4_e5b9;
    random_table_3 = 0x94d0_49bb_1331_11eb;
    random_table_4 = 0x2545_f491_4f6c_dd1d;
    random_table_5 = 0x1234_5678_9abc_def1;
    random_table_6 = 0x0fed_cba9_8765_4321;
    random_table_7 = 0x5555_aaaa_1234_0001;
    random_table_8 = 0x0000_0001_0000_0001;
}
