//! Regular files, directories, devices, dup relations, locks, the process's attributes.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use super::*;

#[test]
fn positions_flags_and_dups() {
    Scenario {
        meanwhile: |place| {
            // The former run went on appending before it died.
            let mut log = File::options()
                .append(true)
                .open(place.join("log"))
                .unwrap();
            log.write_all(b"after the checkpoint").unwrap();
        },
        ..Scenario::new(
            |place| {
                fs::write(place.join("data"), b"0123456789").unwrap();
                let mut data = File::open(place.join("data")).unwrap();
                data.seek(std::io::SeekFrom::Start(4)).unwrap();
                put(data.try_clone().unwrap(), 31);
                unsafe { libc::fcntl(31, libc::F_SETFD, libc::FD_CLOEXEC) };
                put(data, 30);
                put(File::open(place.join("data")).unwrap(), 32);
                let mut options = File::options();
                options
                    .append(true)
                    .create(true)
                    .custom_flags(libc::O_NONBLOCK);
                let mut log = options.open(place.join("log")).unwrap();
                log.write_all(b"first line\n").unwrap();
                put(log, 33);
                let mut out = File::create(place.join("out")).unwrap();
                out.write_all(b"sequential").unwrap();
                put(out, 34);
            },
            |place, _| {
                assert_eq!((position(30), position(31), position(32)), (4, 4, 0));
                // One description: a seek through one is seen through the other.
                at(31).seek(std::io::SeekFrom::Start(7)).unwrap();
                assert_eq!((position(30), position(32)), (7, 0));
                at(30).seek(std::io::SeekFrom::Start(4)).unwrap();
                assert_ne!(
                    unsafe { libc::fcntl(31, libc::F_GETFD) } & libc::FD_CLOEXEC,
                    0
                );
                assert_eq!(
                    unsafe { libc::fcntl(30, libc::F_GETFD) } & libc::FD_CLOEXEC,
                    0
                );
                let expected = libc::O_APPEND | libc::O_NONBLOCK | libc::O_WRONLY;
                assert_eq!(flags(33) & (expected | libc::O_ACCMODE), expected);
                assert_eq!(fs::read(place.join("log")).unwrap(), b"first line\n");
                assert_eq!((position(34), at(34).metadata().unwrap().len()), (10, 10));
            },
        )
    }
    .run("files::positions_flags_and_dups");
}

#[test]
fn unlinked_files_keep_their_content() {
    Scenario::new(
        |place| {
            let path = place.join("scratch");
            let mut options = File::options();
            let file = options
                .read(true)
                .write(true)
                .create(true)
                .open(&path)
                .unwrap();
            file.write_all_at(b"start", 0).unwrap();
            file.write_all_at(b"end", 5 << 20).unwrap();
            put(File::options().write(true).open(&path).unwrap(), 41);
            put(File::open(&path).unwrap(), 42);
            fs::remove_file(&path).unwrap();
            put(file, 40);
            at(40).seek(std::io::SeekFrom::Start(3)).unwrap();
            // Without a description that can read.
            let path = place.join("write-only");
            let mut only = File::create(&path).unwrap();
            only.write_all(b"kept").unwrap();
            fs::remove_file(&path).unwrap();
            put(only, 43);
        },
        |place, _| {
            assert!(!place.join("scratch").exists());
            let mut bytes = [0; 5];
            at(42).read_exact_at(&mut bytes, 0).unwrap();
            assert_eq!(&bytes, b"start");
            at(41).write_all_at(b"E", 5 << 20).unwrap();
            let mut bytes = [0; 3];
            at(40).read_exact_at(&mut bytes, 5 << 20).unwrap();
            assert_eq!(&bytes, b"End");
            assert_eq!(at(40).metadata().unwrap().len(), (5 << 20) + 3);
            use std::os::unix::fs::MetadataExt;
            assert!(
                at(40).metadata().unwrap().blocks() < 1000,
                "the hole was filled"
            );
            assert_eq!(at(40).metadata().unwrap().nlink(), 0);
            assert_eq!((position(40), position(42)), (3, 0));
            assert_eq!(flags(41) & libc::O_ACCMODE, libc::O_WRONLY);
            let mut kept = String::new();
            File::open("/proc/self/fd/43")
                .unwrap()
                .read_to_string(&mut kept)
                .unwrap();
            assert_eq!((&kept[..], position(43)), ("kept", 4));
        },
    )
    .run("files::unlinked_files_keep_their_content");
}

#[test]
fn a_file_written_in_place_is_put_back() {
    Scenario {
        meanwhile: |place| fs::write(place.join("matrix"), b"new new new new").unwrap(),
        adjust: |ctx| ctx.files = FilePolicy::Copy,
        ..Scenario::new(
            |place| {
                fs::write(place.join("matrix"), b"old content").unwrap();
                let path = place.join("matrix");
                put(
                    File::options().read(true).write(true).open(path).unwrap(),
                    30,
                );
            },
            |place, _| assert_eq!(fs::read(place.join("matrix")).unwrap(), b"old content"),
        )
    }
    .run("files::a_file_written_in_place_is_put_back");
}

#[test]
fn a_clone_or_a_copy_of_a_file_written_in_place() {
    Scenario {
        meanwhile: |place| fs::write(place.join("matrix"), b"new new new new").unwrap(),
        adjust: |ctx| {
            // The file system of this test may not share blocks: then it is a copy.
            let place = PathBuf::from(env::var_os(PLACE).unwrap());
            ctx.files = FilePolicy::Reflink;
            ctx.clones = Some(Box::leak(place.into_boxed_path()));
        },
        ..Scenario::new(
            |place| {
                fs::write(place.join("matrix"), b"old content").unwrap();
                let path = place.join("matrix");
                put(
                    File::options().read(true).write(true).open(path).unwrap(),
                    30,
                );
            },
            |place, _| assert_eq!(fs::read(place.join("matrix")).unwrap(), b"old content"),
        )
    }
    .run("files::a_clone_or_a_copy_of_a_file_written_in_place");
}

#[test]
fn a_file_written_in_place_is_named() {
    Scenario {
        warned: |warnings| {
            assert_eq!(warnings.len(), 1);
            assert!(warnings[0].object.ends_with("/matrix"));
            assert!(warnings[0].message.contains("in place"));
        },
        ..Scenario::new(
            |place| {
                fs::write(place.join("matrix"), b"old content").unwrap();
                for fd in [30, 31] {
                    let path = place.join("matrix");
                    put(
                        File::options().read(true).write(true).open(path).unwrap(),
                        fd,
                    );
                }
            },
            |_, _| {},
        )
    }
    .run("files::a_file_written_in_place_is_named");
}

#[test]
fn directories_devices_and_proc() {
    Scenario::new(
        |place| {
            fs::create_dir_all(place.join("directory/inner")).unwrap();
            put(File::open(place.join("directory")).unwrap(), 30);
            put(File::open("/dev/zero").unwrap(), 31);
            put(File::create("/dev/null").unwrap(), 32);
            put(File::open("/dev/urandom").unwrap(), 33);
            put(
                File::open(format!("/proc/{}/stat", std::process::id())).unwrap(),
                34,
            );
            let mut options = File::options();
            options.read(true).custom_flags(libc::O_PATH);
            put(options.open(place).unwrap(), 35);
        },
        |_, _| {
            let names: Vec<_> = fs::read_dir("/proc/self/fd/30")
                .unwrap()
                .flatten()
                .collect();
            assert_eq!(names[0].file_name(), "inner");
            let mut bytes = [1; 4];
            at(31).read_exact(&mut bytes).unwrap();
            assert_eq!(bytes, [0; 4]);
            at(32).write_all(b"gone").unwrap();
            at(33).read_exact(&mut bytes).unwrap();
            let mut stat = String::new();
            at(34).rewind().unwrap();
            at(34).read_to_string(&mut stat).unwrap();
            assert!(
                stat.starts_with(&format!("{} ", std::process::id())),
                "{stat}"
            );
            assert_ne!(flags(35) & libc::O_PATH, 0);
        },
    )
    .run("files::directories_devices_and_proc");
}

#[test]
fn standard_streams_are_the_new_runs() {
    Scenario::new(
        |_| {
            assert_eq!(unsafe { libc::dup2(2, 30) }, 30);
            // The program sends its standard error elsewhere, and closes its input.
            put(File::create("/dev/null").unwrap(), 2);
            unsafe { libc::close(0) };
        },
        |_, _| {
            let target = |fd: i32| fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
            assert!(target(30).to_str().unwrap().starts_with("pipe:"));
            assert_ne!(target(30), target(1));
            assert_eq!(target(2), Path::new("/dev/null"));
            assert_eq!(flags(0), -1);
            at(30).write_all(b"the parent reads this\n").unwrap();
        },
    )
    .run("files::standard_streams_are_the_new_runs");
}

#[test]
fn locks_are_held_again() {
    Scenario::new(
        |place| {
            let mut options = File::options();
            options.read(true).append(true).create(true);
            put(options.open(place.join("flocked")).unwrap(), 30);
            assert_eq!(unsafe { libc::flock(30, libc::LOCK_EX) }, 0);
            put(options.open(place.join("ranges")).unwrap(), 31);
            let mut range: libc::flock = unsafe { std::mem::zeroed() };
            range.l_type = libc::F_WRLCK as i16;
            (range.l_start, range.l_len) = (10, 5);
            assert_eq!(unsafe { libc::fcntl(31, libc::F_SETLK, &range) }, 0);
        },
        |place, _| {
            let other = File::open(place.join("flocked")).unwrap();
            use std::os::fd::AsRawFd;
            let got = unsafe { libc::flock(other.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
            assert_eq!(got, -1);
            let info = fs::read_to_string("/proc/self/fdinfo/31").unwrap();
            assert!(info.contains("POSIX") && info.contains(" 10 14"), "{info}");
        },
    )
    .run("files::locks_are_held_again");
}

#[test]
fn directory_umask_and_limits() {
    Scenario::new(
        |place| {
            fs::create_dir(place.join("work here\n")).unwrap();
            env::set_current_dir(place.join("work here\n")).unwrap();
            unsafe { libc::umask(0o027) };
            let limit = libc::rlimit {
                rlim_cur: 777,
                rlim_max: 4096,
            };
            assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
        },
        |place, _| {
            assert_eq!(
                env::current_dir().unwrap(),
                place.join("work here\n").canonicalize().unwrap()
            );
            let status = fs::read_to_string("/proc/self/status").unwrap();
            assert!(status.contains("Umask:\t0027"));
            let mut limit = libc::rlimit {
                rlim_cur: 0,
                rlim_max: 0,
            };
            assert_eq!(
                unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) },
                0
            );
            assert_eq!(limit.rlim_cur, 777);
        },
    )
    .run("files::directory_umask_and_limits");
}

#[test]
fn synchronising_leaves_descriptors_and_locks() {
    Scenario::new(
        |place| {
            let mut options = File::options();
            options.read(true).append(true).create(true);
            put(options.open(place.join("synchronised")).unwrap(), 30);
            at(30).write_all(b"x").unwrap();
            let mut range: libc::flock = unsafe { std::mem::zeroed() };
            range.l_type = libc::F_WRLCK as i16;
            assert_eq!(unsafe { libc::fcntl(30, libc::F_SETLK, &range) }, 0);
            let (reader, writer) = pipe();
            put(reader, 31);
            let mut sync = FileSync::start(&lower, None).unwrap();
            // The thread holds no copy of the write end.
            drop(writer);
            assert!(readable(31, 5000));
            assert_eq!(at(31).read(&mut [0]).unwrap(), 0);
            assert_eq!(sync.wait(Duration::from_secs(10)), Some(Vec::new()));
            unsafe { libc::close(31) };
        },
        |_, _| {
            let info = fs::read_to_string("/proc/self/fdinfo/30").unwrap();
            assert!(info.contains("POSIX"), "{info}");
        },
    )
    .run("files::synchronising_leaves_descriptors_and_locks");
}
