//! Pipes, socket pairs, eventfd, signalfd, epoll, inotify, and what is lost.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;

use super::*;

#[test]
fn pipes_keep_what_is_in_them() {
    Scenario::new(
        |place| {
            let (reader, mut writer) = pipe();
            for i in 0..100u8 {
                writer.write_all(&[i; 11]).unwrap();
            }
            put(reader, 30);
            put(writer.try_clone().unwrap(), 32);
            put(writer, 31);
            assert!(unsafe { libc::fcntl(30, libc::F_SETPIPE_SZ, 1 << 17) } > 0);
            unsafe { libc::fcntl(30, libc::F_SETFL, libc::O_NONBLOCK) };
            // A full one.
            let (reader, writer) = pipe();
            put(reader, 33);
            put(writer, 34);
            unsafe { libc::fcntl(34, libc::F_SETFL, libc::O_NONBLOCK) };
            while at(34).write(&[7; 4096]).is_ok() {}
            // A named one.
            let path = FilePath::from(&*place.join("fifo"));
            let name = std::ffi::CString::new(path.as_bytes()).unwrap();
            assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
            put(
                File::options()
                    .read(true)
                    .write(true)
                    .open(path.as_path())
                    .unwrap(),
                35,
            );
            at(35).write_all(b"named").unwrap();
        },
        |_, restarted| {
            let waiting = |fd| {
                let mut bytes = 0i32;
                unsafe { libc::ioctl(fd, libc::FIONREAD, &mut bytes) };
                bytes
            };
            assert_eq!((waiting(30), waiting(33), waiting(35)), (1100, 65536, 5));
            assert_eq!(unsafe { libc::fcntl(30, libc::F_GETPIPE_SZ) }, 1 << 17);
            assert_ne!(flags(30) & libc::O_NONBLOCK, 0);
            assert_eq!(
                flags(31) & (libc::O_NONBLOCK | libc::O_ACCMODE),
                libc::O_WRONLY
            );
            if !restarted {
                return;
            }
            let mut bytes = vec![0; 1100];
            at(30).read_exact(&mut bytes).unwrap();
            assert!(bytes.chunks(11).zip(0..).all(|(chunk, i)| chunk == [i; 11]));
            at(32).write_all(b"on").unwrap();
            assert_eq!(waiting(30), 2);
            // Closing all ends for writing is an end of file.
            at(30).read_exact(&mut [0; 2]).unwrap();
            unsafe { libc::close(31) };
            unsafe { libc::close(32) };
            assert_eq!(at(30).read(&mut [0]).unwrap(), 0);
        },
    )
    .run("streams::pipes_keep_what_is_in_them");
}

#[test]
fn socket_pairs_stay_connected() {
    Scenario::new(
        |_| {
            let (mut a, mut b) = UnixStream::pair().unwrap();
            a.write_all(b"to b").unwrap();
            b.write_all(b"to a!").unwrap();
            a.set_nonblocking(true).unwrap();
            put(a, 30);
            put(b, 31);
        },
        |_, restarted| {
            assert_ne!(flags(30) & libc::O_NONBLOCK, 0);
            assert_eq!(flags(31) & libc::O_NONBLOCK, 0);
            if !restarted {
                return;
            }
            let mut bytes = [0; 4];
            at(31).read_exact(&mut bytes).unwrap();
            assert_eq!(&bytes, b"to b");
            let mut bytes = [0; 5];
            at(30).read_exact(&mut bytes).unwrap();
            assert_eq!(&bytes, b"to a!");
            at(30).write_all(b"more").unwrap();
            assert!(readable(31, 5000));
        },
    )
    .run("streams::socket_pairs_stay_connected");
}

#[test]
fn counters_and_signal_sets() {
    Scenario::new(
        |_| {
            for (fd, count, flags) in [
                (30, 0, 0),
                (31, 5, libc::EFD_SEMAPHORE),
                (32, 1, libc::EFD_NONBLOCK),
            ] {
                let made = unsafe { libc::eventfd(count, flags) };
                assert_eq!(unsafe { libc::dup2(made, fd) }, fd);
                unsafe { libc::close(made) };
            }
            let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
            unsafe { libc::sigaddset(&mut set, libc::SIGUSR2) };
            unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) };
            let made = unsafe { libc::signalfd(-1, &set, libc::SFD_NONBLOCK) };
            assert_eq!(unsafe { libc::dup2(made, 33) }, 33);
            unsafe { libc::close(made) };
        },
        |_, restarted| {
            assert!(!readable(30, 0) && readable(31, 0) && readable(32, 0));
            assert_eq!(flags(30) & libc::O_NONBLOCK, 0);
            assert_ne!(flags(32) & libc::O_NONBLOCK, 0);
            let mut bytes = [0; 8];
            at(31).read_exact(&mut bytes).unwrap();
            assert_eq!(
                u64::from_ne_bytes(bytes),
                1,
                "a semaphore gives one at a time"
            );
            at(31).write_all(&1u64.to_ne_bytes()).unwrap();
            if restarted {
                let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
                unsafe { libc::sigaddset(&mut set, libc::SIGUSR2) };
                unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) };
            }
            unsafe {
                libc::syscall(
                    libc::SYS_tgkill,
                    libc::getpid(),
                    libc::gettid(),
                    libc::SIGUSR2,
                )
            };
            let mut info = [0; 128];
            at(33).read_exact(&mut info).unwrap();
            assert_eq!(
                u32::from_ne_bytes(info[..4].try_into().unwrap()),
                libc::SIGUSR2 as u32
            );
        },
    )
    .run("streams::counters_and_signal_sets");
}

fn events(epoll: RawFd) -> Vec<(u32, u64)> {
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; 8];
    let count = unsafe { libc::epoll_wait(epoll, events.as_mut_ptr(), 8, 0) };
    let mut found: Vec<_> = events[..count as usize]
        .iter()
        .map(|e| (e.events, e.u64))
        .collect();
    found.sort_by_key(|e| e.1);
    found
}

#[test]
fn epoll_watches_the_same() {
    fn add(epoll: RawFd, fd: RawFd, events: i32, data: u64) {
        let mut event = libc::epoll_event {
            events: events as u32,
            u64: data,
        };
        assert_eq!(
            unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &mut event) },
            0
        );
    }
    Scenario::new(
        |_| {
            let (reader, writer) = pipe();
            put(reader, 30);
            put(writer, 31);
            let (reader, writer) = pipe();
            put(reader, 32);
            put(writer, 33);
            for fd in [40, 41] {
                let made = unsafe { libc::epoll_create1(0) };
                assert_eq!(unsafe { libc::dup2(made, fd) }, fd);
                unsafe { libc::close(made) };
            }
            add(40, 30, libc::EPOLLIN, 0xdead_beef_0000_0001);
            add(40, 31, libc::EPOLLOUT | libc::EPOLLONESHOT, 2);
            // A number that goes to another file while the watched one lives on as a dup.
            add(40, 32, libc::EPOLLIN, 3);
            assert_eq!(unsafe { libc::dup2(32, 35) }, 35);
            put(File::open("/dev/null").unwrap(), 32);
            // Nested.
            add(41, 40, libc::EPOLLIN, 4);
            // The one-shot entry has been reported.
            assert_eq!(events(40), [(libc::EPOLLOUT as u32, 2)]);
        },
        |_, _| {
            assert_eq!(events(40), []);
            assert_eq!(events(41), []);
            at(31).write_all(b"1").unwrap();
            at(33).write_all(b"3").unwrap();
            let readable = libc::EPOLLIN as u32;
            assert_eq!(events(41), [(readable, 4)]);
            assert_eq!(
                events(40),
                [(readable, 3), (readable, 0xdead_beef_0000_0001)]
            );
            at(30).read_exact(&mut [0]).unwrap();
            at(35).read_exact(&mut [0]).unwrap();
        },
    )
    .run("streams::epoll_watches_the_same");
}

#[test]
fn watches_keep_their_numbers() {
    Scenario {
        adjust: |ctx| {
            // As the system-call layer would have noted it.
            let place = PathBuf::from(env::var_os(PLACE).unwrap());
            let mut table = WatchTable::new();
            table.note_add(30, 3, FilePath::from(&*place.join("watched")));
            ctx.watches = Some(Box::leak(Box::new(table)));
        },
        ..Scenario::new(
            |place| {
                let made = unsafe { libc::inotify_init1(libc::IN_NONBLOCK) };
                assert_eq!(unsafe { libc::dup2(made, 30) }, 30);
                unsafe { libc::close(made) };
                for name in ["a", "b", "watched"] {
                    std::fs::create_dir(place.join(name)).unwrap();
                    let path = place.join(name).to_str().unwrap().to_owned() + "\0";
                    let path = path.as_ptr().cast();
                    assert!(unsafe { libc::inotify_add_watch(30, path, libc::IN_CREATE) } > 0);
                }
                for number in [1, 2] {
                    assert_eq!(unsafe { libc::inotify_rm_watch(30, number) }, 0);
                }
                let _ = at(30).read(&mut [0; 4096]).unwrap();
            },
            |place, restarted| {
                assert!(!readable(30, 0));
                let name = place
                    .join("watched")
                    .join(if restarted { "new" } else { "old" });
                let _ = std::fs::remove_file(&name);
                File::create(name).unwrap();
                assert!(readable(30, 5000));
                let mut event = [0; 4096];
                assert!(at(30).read(&mut event).unwrap() > 0);
                assert_eq!(i32::from_ne_bytes(event[..4].try_into().unwrap()), 3);
            },
        )
    }
    .run("streams::watches_keep_their_numbers");
}

#[test]
fn an_outside_connection_is_named_and_reset() {
    Scenario {
        warned: |warnings| {
            let named = |text: &str| warnings.iter().filter(|w| w.object.contains(text)).count();
            assert_eq!(
                (named("socket:"), named("pipe:"), warnings.len()),
                (2, 1, 3)
            );
        },
        ..Scenario::new(
            |_| {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                put(stream, 30);
                put(listener, 31);
                let (reader, writer) = pipe();
                put(reader, 32);
                // The other end is somebody else's: here the lower half's.
                put(writer, 10);
            },
            |_, restarted| {
                if restarted {
                    for fd in [30, 32] {
                        assert!(readable(fd, 5000));
                        let error = at(fd).read(&mut [0]).unwrap_err();
                        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
                        assert_eq!(at(fd).read(&mut [0]).unwrap(), 0);
                    }
                }
            },
        )
    }
    .run("streams::an_outside_connection_is_named_and_reset");
}
