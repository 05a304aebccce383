//! Shared mappings: memfd, POSIX shared memory, anonymous, unlinked and named files, System V.

use std::fs::{self, File};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::ptr;

use super::*;

const PAGE: usize = 4096;
const BOTH: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// Maps `length` bytes of `fd` (or anonymous shared memory) at `page` of the region.
fn map(page: usize, length: usize, prot: i32, fd: Option<RawFd>, offset: i64) {
    let address = (REGION.start + page * PAGE) as *mut libc::c_void;
    let flags = libc::MAP_SHARED | libc::MAP_FIXED_NOREPLACE;
    let flags = flags | if fd.is_none() { libc::MAP_ANONYMOUS } else { 0 };
    let mapped = unsafe { libc::mmap(address, length, prot, flags, fd.unwrap_or(-1), offset) };
    assert_eq!(mapped, address, "{}", std::io::Error::last_os_error());
}

fn word(page: usize) -> &'static mut u64 {
    unsafe { &mut *((REGION.start + page * PAGE) as *mut u64) }
}

fn memfd(name: &std::ffi::CStr, length: u64) -> OwnedFd {
    let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_ALLOW_SEALING) };
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    File::from(fd.try_clone().unwrap()).set_len(length).unwrap();
    fd
}

#[test]
fn one_object_behind_mappings_and_descriptors() {
    Scenario::new(
        |_| {
            let fd = memfd(c"object", 64 * PAGE as u64);
            map(0, 2 * PAGE, BOTH, Some(fd.as_raw_fd()), 0);
            map(8, PAGE, libc::PROT_READ, Some(fd.as_raw_fd()), PAGE as i64);
            *word(1) = 0x1122;
            File::from(fd.try_clone().unwrap())
                .write_all_at(b"far", 50 * PAGE as u64)
                .unwrap();
            unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_SHRINK) };
            put(fd, 30);
            // A memfd that is mapped and not open any more.
            let fd = memfd(c"closed", PAGE as u64);
            map(16, PAGE, BOTH, Some(fd.as_raw_fd()), 0);
            *word(16) = 77;
            // Anonymous, in two views.
            map(20, 2 * PAGE, BOTH, None, 0);
            *word(20) = 20;
            *word(21) = 21;
            let from = (REGION.start + 20 * PAGE) as *mut libc::c_void;
            let to = (REGION.start + 24 * PAGE) as *mut libc::c_void;
            let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
            assert_eq!(unsafe { libc::mremap(from, 0, PAGE, flags, to) }, to);
        },
        |_, _| {
            assert_eq!((*word(1), *word(8)), (0x1122, 0x1122));
            let mut bytes = [0; 3];
            at(30).read_exact_at(&mut bytes, 50 * PAGE as u64).unwrap();
            assert_eq!(&bytes, b"far");
            // The descriptor and both mappings are one object.
            at(30)
                .write_all_at(&7u64.to_ne_bytes(), PAGE as u64)
                .unwrap();
            assert_eq!((*word(1), *word(8)), (7, 7));
            *word(1) = 0x1122;
            let name = fs::read_link("/proc/self/fd/30").unwrap();
            assert_eq!(name, Path::new("/memfd:object (deleted)"));
            assert_eq!(
                unsafe { libc::fcntl(30, libc::F_GET_SEALS) },
                libc::F_SEAL_SHRINK
            );
            assert_eq!((*word(16), *word(20), *word(21)), (77, 20, 21));
            *word(24) = 99;
            assert_eq!(*word(20), 99);
            *word(20) = 20;
        },
    )
    .run("memory::one_object_behind_mappings_and_descriptors");
}

fn shm_name(place: &Path) -> PathBuf {
    Path::new("/dev/shm").join(format!(
        "state-test-{}",
        place.file_name().unwrap().to_str().unwrap()
    ))
}

#[test]
fn posix_shared_memory_has_its_name_and_content() {
    Scenario {
        // The former run went on.
        meanwhile: |place| fs::write(shm_name(place), b"newer").unwrap(),
        ..Scenario::new(
            |place| {
                let mut options = File::options();
                let path = shm_name(place);
                let file = options
                    .read(true)
                    .write(true)
                    .create(true)
                    .open(path)
                    .unwrap();
                file.set_len(3 * PAGE as u64).unwrap();
                map(0, 2 * PAGE, BOTH, Some(file.as_raw_fd()), PAGE as i64);
                *word(1) = 5;
            },
            |place, restarted| {
                assert_eq!(*word(1), 5);
                let file = File::open(shm_name(place)).unwrap();
                assert_eq!(file.metadata().unwrap().len(), 3 * PAGE as u64);
                *word(0) = 6;
                let mut bytes = [0; 8];
                file.read_exact_at(&mut bytes, PAGE as u64).unwrap();
                assert_eq!(u64::from_ne_bytes(bytes), 6);
                if restarted {
                    fs::remove_file(shm_name(place)).unwrap();
                }
            },
        )
    }
    .run("memory::posix_shared_memory_has_its_name_and_content");
}

#[test]
fn files_are_mapped_again_from_where_they_are() {
    Scenario {
        adjust: |ctx| ctx.files = FilePolicy::Copy,
        meanwhile: |place| fs::write(place.join("table"), vec![0xff; 4 * PAGE]).unwrap(),
        ..Scenario::new(
            |place| {
                let mut options = File::options();
                options.read(true).write(true).create(true);
                let file = options.open(place.join("table")).unwrap();
                file.set_len(4 * PAGE as u64).unwrap();
                map(0, PAGE, BOTH, Some(file.as_raw_fd()), 2 * PAGE as i64);
                map(4, PAGE, libc::PROT_READ, Some(file.as_raw_fd()), 0);
                *word(0) = 1234;
                drop(file);
                let mut sync = FileSync::start(&lower, None).unwrap();
                assert_eq!(sync.wait(Duration::from_secs(10)), Some(Vec::new()));
                let gone = options.open(place.join("gone")).unwrap();
                gone.set_len(PAGE as u64).unwrap();
                map(8, PAGE, BOTH, Some(gone.as_raw_fd()), 0);
                fs::remove_file(place.join("gone")).unwrap();
                *word(8) = 4321;
                // Longer than its file.
                let short = options.open(place.join("short")).unwrap();
                short.set_len(PAGE as u64).unwrap();
                map(16, 8 * PAGE, BOTH, Some(short.as_raw_fd()), 0);
                fs::remove_file(place.join("short")).unwrap();
                *word(16) = 5678;
            },
            |place, _| {
                assert_eq!(
                    (*word(0), *word(4), *word(8), *word(16)),
                    (1234, 0, 4321, 5678)
                );
                *word(0) = 1;
                let mut bytes = [0; 8];
                let file = File::open(place.join("table")).unwrap();
                file.read_exact_at(&mut bytes, 2 * PAGE as u64).unwrap();
                assert_eq!(u64::from_ne_bytes(bytes), 1);
                *word(0) = 1234;
            },
        )
    }
    .run("memory::files_are_mapped_again_from_where_they_are");
}

#[test]
fn system_v_segments_are_attached_again() {
    Scenario::new(
        |_| {
            // Removed at once, as careful programs do; attached twice, partly unmapped.
            let id = unsafe { libc::shmget(libc::IPC_PRIVATE, 4 * PAGE, 0o600) };
            assert!(id >= 0);
            let address = REGION.start as *mut libc::c_void;
            assert_eq!(unsafe { libc::shmat(id, address, 0) }, address);
            let second = (REGION.start + 8 * PAGE) as *const libc::c_void;
            assert_eq!(
                unsafe { libc::shmat(id, second, libc::SHM_RDONLY) }.cast_const(),
                second
            );
            assert_eq!(
                unsafe { libc::shmctl(id, libc::IPC_RMID, ptr::null_mut()) },
                0
            );
            *word(3) = 33;
            *word(0) = 30;
            let third = (REGION.start + PAGE) as *mut libc::c_void;
            assert_eq!(unsafe { libc::munmap(third, PAGE) }, 0);
        },
        |_, _| {
            assert_eq!((*word(0), *word(3), *word(8), *word(11)), (30, 33, 30, 33));
            *word(3) = 44;
            assert_eq!(*word(11), 44);
            *word(3) = 33;
            let maps = process_state::maps::read_self().unwrap();
            let hole = REGION.start + PAGE;
            assert!(maps.iter().all(|m| !m.range().contains(&hole)));
            let is_ours = |m: &&maps::Mapping| m.touches(&[REGION]);
            assert_eq!(maps.iter().filter(is_ours).count(), 3);
            assert!(maps.iter().filter(is_ours).all(|m| m.shared && m.deleted));
            let write: Vec<bool> = maps.iter().filter(is_ours).map(|m| m.write).collect();
            assert_eq!(write, [true, true, false]);
        },
    )
    .run("memory::system_v_segments_are_attached_again");
}

#[test]
fn two_processes_share_again() {
    let name = "memory::two_processes_share_again";
    let place = || PathBuf::from(env::var_os(PLACE).unwrap());
    match env::var(STEP).as_deref() {
        Ok("capture") => capture_for_two(&place()),
        // The one that saved the objects, and one that did not.
        Ok("first") => restore_one_of_two(&place(), "first", 1, 2),
        Ok("second") => restore_one_of_two(&place(), "second", 2, 1),
        _ => {
            let place = tempfile::tempdir().unwrap();
            child(name, "capture", place.path(), &[]);
            fs::create_dir(place.path().join("rendezvous")).unwrap();
            // The second waits for the first, whichever comes first.
            let second = start(name, "second", place.path(), &[]);
            let first = start(name, "first", place.path(), &[]);
            finish(first, name, "first");
            finish(second, name, "second");
        }
    }
}

fn capture_for_two(place: &Path) {
    let fd = memfd(c"shared", PAGE as u64);
    map(0, PAGE, BOTH, Some(fd.as_raw_fd()), 0);
    let id = unsafe { libc::shmget(libc::IPC_PRIVATE, PAGE, 0o600) };
    let address = (REGION.start + 4 * PAGE) as *mut libc::c_void;
    assert_eq!(unsafe { libc::shmat(id, address, 0) }, address);
    assert_eq!(
        unsafe { libc::shmctl(id, libc::IPC_RMID, ptr::null_mut()) },
        0
    );
    (*word(0), *word(4)) = (100, 400);
    let regions = [REGION];
    let inherited = Inherited::observe();
    let mut ctx = CaptureContext::new(&inherited, &regions);
    ctx.lower_descriptor = &|_| true;
    assert_eq!(shared_objects(&regions).unwrap().len(), 2);
    let mut blobs = MemoryBlobs::new();
    let first = capture(&ctx, &mut blobs).unwrap().state;
    ctx.saves = &|_| false;
    let second = capture(&ctx, &mut blobs).unwrap().state;
    assert!(second.objects.iter().all(|o| o.content.is_none()));
    for (name, state) in [("first", first), ("second", second)] {
        let image = postcard::to_stdvec(&(&state, &blobs)).unwrap();
        fs::write(place.join(name), image).unwrap();
    }
}

fn restore_one_of_two(place: &Path, name: &str, mine: u64, other: u64) {
    let image = fs::read(place.join(name)).unwrap();
    let (state, blobs): (ProcessState, MemoryBlobs) = postcard::from_bytes(&image).unwrap();
    let rendezvous = place.join("rendezvous");
    let mut ctx = RestoreContext::new(BASE, &blobs, &rendezvous);
    ctx.timeout = Duration::from_secs(10);
    let mut restored = restore_descriptors(&state, &ctx).unwrap();
    restore_mappings(&state, &ctx, &mut restored).unwrap();
    assert_eq!((*word(0), *word(4)), (100, 400));
    assert_eq!(restored.segments.len(), 1);
    // Each tells the other in the second words, and neither lets go before both are there.
    let cell = |page: usize, who: u64| unsafe { ptr::from_mut(word(page)).add(who as usize) };
    for page in [0, 4] {
        unsafe { cell(page, mine).write_volatile(mine) };
    }
    for page in [0, 4] {
        let deadline = Instant::now() + Duration::from_secs(10);
        while unsafe { cell(page, other).read_volatile() } != other {
            assert!(
                Instant::now() < deadline,
                "{name}: page {page} is not shared"
            );
            thread::sleep(Duration::from_millis(1));
        }
    }
    restore_rest(&state, &ctx, restored).unwrap();
}
