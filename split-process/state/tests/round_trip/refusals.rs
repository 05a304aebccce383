//! What must fail, and say why.

use std::fs::{self, File};
use std::io::Write;

use super::*;

/// Captures in a process of its own, then restores in one that expects an error.
fn refused(name: &str, set_up: fn(&Path), meanwhile: fn(&Path), expected: fn(&Path, StateError)) {
    match env::var(STEP).as_deref() {
        Ok("restore") => {
            let place = PathBuf::from(env::var_os(PLACE).unwrap());
            let image = fs::read(place.join("image")).unwrap();
            let (state, blobs): (ProcessState, MemoryBlobs) = postcard::from_bytes(&image).unwrap();
            if place.join("taken").exists() {
                put(File::open("/dev/zero").unwrap(), 30);
            }
            let taken = if place.join("taken").exists() {
                vec![30]
            } else {
                vec![]
            };
            assert_eq!(conflicts(&state), taken);
            let ctx = RestoreContext::new(BASE, &blobs, &place);
            expected(&place, restore_descriptors(&state, &ctx).unwrap_err());
        }
        _ => {
            let scenario = Scenario {
                meanwhile,
                warned: |_| {},
                ..Scenario::new(set_up, |_, _| {})
            };
            scenario.run(name);
        }
    }
}

fn log(place: &Path) {
    let mut log = File::options()
        .append(true)
        .create(true)
        .open(place.join("log"))
        .unwrap();
    log.write_all(b"0123456789").unwrap();
    put(log, 30);
}

#[test]
fn a_shorter_file() {
    refused(
        "refusals::a_shorter_file",
        log,
        |place| fs::write(place.join("log"), b"012").unwrap(),
        |place, error| {
            let text = error.to_string();
            assert!(matches!(
                error,
                StateError::FileShorter {
                    expected: 10,
                    found: 3,
                    ..
                }
            ));
            assert!(text.contains(place.join("log").to_str().unwrap()), "{text}");
        },
    );
}

#[test]
fn a_missing_file() {
    refused(
        "refusals::a_missing_file",
        log,
        |place| fs::remove_file(place.join("log")).unwrap(),
        |place, error| {
            let text = error.to_string();
            assert!(matches!(error, StateError::FileMissing { fd: 30, .. }));
            assert!(text.contains(place.join("log").to_str().unwrap()), "{text}");
        },
    );
}

#[test]
fn a_taken_number() {
    refused(
        "refusals::a_taken_number",
        log,
        |place| fs::write(place.join("taken"), b"").unwrap(),
        |_, error| {
            assert_eq!(
                error.to_string(),
                "descriptor 30 of the program is in use in the new process (/dev/zero)"
            );
        },
    );
}

/// Runs `check` in a process of its own.
fn alone(name: &str, check: fn(&Path)) {
    if env::var(STEP).is_ok() {
        return check(&PathBuf::from(env::var_os(PLACE).unwrap()));
    }
    let place = tempfile::tempdir().unwrap();
    child(name, "alone", place.path(), &[]);
}

#[test]
fn a_socket_if_lost_descriptors_are_refused() {
    alone("refusals::a_socket_if_lost_descriptors_are_refused", |_| {
        let inherited = Inherited::observe();
        put(std::net::TcpListener::bind("127.0.0.1:0").unwrap(), 30);
        let mut ctx = CaptureContext::new(&inherited, &[]);
        ctx.lower_descriptor = &lower;
        ctx.lost = LostPolicy::Refuse;
        let error = capture(&ctx, &mut MemoryBlobs::new()).unwrap_err();
        assert!(
            matches!(error, StateError::Unrestorable { fd: 30, .. }),
            "{error}"
        );
    });
}

#[test]
fn an_unlinked_file_beyond_the_bound() {
    alone("refusals::an_unlinked_file_beyond_the_bound", |place| {
        let inherited = Inherited::observe();
        let path = place.join("large");
        let file = File::create(&path).unwrap();
        file.set_len(4096).unwrap();
        fs::remove_file(path).unwrap();
        put(file, 30);
        let mut ctx = CaptureContext::new(&inherited, &[]);
        ctx.lower_descriptor = &lower;
        ctx.max_saved_file = 4095;
        let error = capture(&ctx, &mut MemoryBlobs::new()).unwrap_err();
        assert!(
            matches!(
                error,
                StateError::TooLarge {
                    length: 4096,
                    limit: 4095,
                    ..
                }
            ),
            "{error}"
        );
    });
}

#[test]
fn moved_descriptors_keep_their_flags() {
    alone("refusals::moved_descriptors_keep_their_flags", |_| {
        put(File::open("/dev/zero").unwrap(), 30);
        put(File::open("/dev/null").unwrap(), 31);
        unsafe { libc::fcntl(31, libc::F_SETFD, libc::FD_CLOEXEC) };
        let moved = vacate(&[30, 31], BASE).unwrap();
        assert_eq!(moved.iter().map(|m| m.0).collect::<Vec<_>>(), [30, 31]);
        assert_eq!((flags(30), flags(31)), (-1, -1));
        let cloexec = moved
            .iter()
            .map(|m| unsafe { libc::fcntl(m.1, libc::F_GETFD) });
        assert_eq!(cloexec.collect::<Vec<_>>(), [0, libc::FD_CLOEXEC]);
    });
}
