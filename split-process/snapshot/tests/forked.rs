//! The test process forks itself: the image must hold the memory as it was at the fork.
//!
//! One test, because it changes limits of the whole process for the failing part.

use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::task::Poll;
use std::time::{Duration, Instant};

use libckpt::image_file::{self, ImageContent, ImageName, PreparedImage};
use libckpt::GenerationId;
use mana_image::{Pieces, RegionRecord, RegionTable, RunRecord, SectionKind, Sections, PAGE};
use mana_snapshot::{start, Plan, Running, SnapshotError};

const LIMIT: Duration = Duration::from_secs(60);

fn name() -> ImageName {
    ImageName {
        job: "j".into(),
        generation: GenerationId {
            incarnation: 1,
            number: 2,
        },
        rank: 0,
        size: 1,
    }
}

/// Memory of the program: runs of several sizes, aligned to pages or not.
struct Memory {
    runs: Vec<Vec<u8>>,
}

impl Memory {
    fn new() -> Self {
        let pages = [1usize, 3000, 7, 512, 2];
        let runs = pages.iter().enumerate().map(|(i, n)| {
            let bytes = (0..n * PAGE as usize).map(|b| (b * 31 + b / 4096 + i) as u8);
            bytes.collect()
        });
        Self {
            runs: runs.collect(),
        }
    }

    fn content(&self) -> ImageContent<'_> {
        let mut at = 0x3000_0000_0000;
        let mut regions = RegionTable::default();
        for run in &self.runs {
            let len = run.len() as u64;
            let runs = vec![RunRecord {
                start: at,
                len,
                offset: 0,
            }];
            regions.0.push(RegionRecord {
                start: at,
                len,
                prot: 3,
                kind: 0,
                name: vec![],
                runs,
            });
            at += len + PAGE;
        }
        let mut sections = Sections::default();
        sections.push(SectionKind::MPI, b"state of the messages".to_vec());
        ImageContent {
            sections,
            regions,
            memory: self.runs.iter().map(Vec::as_slice).collect(),
        }
    }
}

fn forked(path: &Path, memory: &Memory, before: impl FnOnce()) -> (Running, PreparedImage) {
    let mut content = memory.content();
    let prepared = image_file::prepare(path, &name(), &mut content).expect("prepared");
    assert_eq!(content.sections.0.len(), 1, "the content stays as it is");
    before();
    let child = start(Plan {
        file: prepared.file.as_fd(),
        direct: prepared.direct.as_ref().map(|d| d.as_fd()),
        layout: prepared.layout,
        header: prepared.header.clone(),
        meta: &prepared.meta,
        pieces: Pieces::new(&content.regions, &content.memory).expect("fits"),
    });
    (child.expect("forked"), prepared)
}

fn ended(child: &mut Running) -> Result<mana_image::Hash, SnapshotError> {
    let begun = Instant::now();
    loop {
        match child.poll() {
            Poll::Ready(result) => return result,
            Poll::Pending => {
                assert!(begun.elapsed() < LIMIT, "the child takes too long");
                std::thread::sleep(Duration::from_millis(2)); // polling, as the agent does
            }
        }
    }
}

/// Nobody is left of the child, not even a zombie.
fn gone(pid: i32) {
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

fn files(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("directory");
    entries
        .map(|e| e.expect("entry").file_name().to_string_lossy().into_owned())
        .collect()
}

fn file_size_limit(bytes: libc::rlim_t) {
    let limit = libc::rlimit {
        rlim_cur: bytes,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: reads the structure.
    let done = unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &limit) };
    assert_eq!(done, 0, "{}", io::Error::last_os_error());
}

fn content_is_that_of_the_fork(dir: &Path) {
    let path = dir.join("gen-1.2/rank-0.img");
    let mut memory = Memory::new();
    let expected = Memory::new();
    let (mut child, mut prepared) = forked(&path, &memory, || {});
    // The program runs on at once, and changes everything.
    memory.runs.iter_mut().for_each(|run| run.fill(0xee));
    let pid = child.pid();
    // SAFETY: no preconditions; the child is no child to an ordinary wait.
    let seen = unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) };
    let error = io::Error::last_os_error().raw_os_error();
    assert_eq!((seen, error), (-1, Some(libc::ECHILD)));
    let root = ended(&mut child).expect("written");
    gone(pid);
    let report = prepared.pending.publish(root).expect("published");
    drop(prepared);
    assert_eq!(files(&dir.join("gen-1.2")), ["rank-0.img"]);

    let image = image_file::verify(&path, &name(), Some(report)).expect("intact");
    assert_eq!(
        image.sections().get(SectionKind::MPI),
        Some(&b"state of the messages"[..])
    );
    let places = image.regions().0.iter().flat_map(|r| &r.runs);
    for (place, run) in places.zip(&expected.runs) {
        let mut found = vec![0; place.len as usize];
        image.read_data(place.offset, &mut found).expect("read");
        assert!(found == *run, "the run at {:#x} is another", place.start);
    }
    // The ordinary writer makes the same data of it.
    let other = dir.join("gen-1.2/other.img");
    image_file::write(&other, &name(), expected.content()).expect("written");
    let data = |p: &Path| fs::read(p).expect("image").split_off(4096);
    assert!(data(&path) == data(&other));
}

fn a_failing_child_says_why(dir: &Path) {
    let path = dir.join("gen-1.3/rank-0.img");
    let memory = Memory::new();
    let (mut child, prepared) = forked(&path, &memory, || file_size_limit(1 << 20));
    file_size_limit(libc::RLIM_INFINITY);
    let error = ended(&mut child).expect_err("there was no room");
    let SnapshotError::Write { source } = error else {
        panic!("{error}");
    };
    assert_eq!(source.raw_os_error(), Some(libc::EFBIG));
    gone(child.pid());
    drop(prepared);
    assert!(files(&dir.join("gen-1.3")).is_empty(), "no debris");
}

fn a_killed_child_is_noticed(dir: &Path) {
    let path = dir.join("gen-1.4/rank-0.img");
    let memory = Memory::new();
    let (mut child, prepared) = forked(&path, &memory, || {});
    // SAFETY: the child has not been waited for.
    unsafe { libc::kill(child.pid(), libc::SIGKILL) };
    match ended(&mut child) {
        Err(SnapshotError::Killed { signal, .. }) => assert_eq!(signal, libc::SIGKILL),
        Err(other) => panic!("{other}"),
        Ok(_) => {} // it was faster
    }
    gone(child.pid());
    drop(prepared);
}

fn an_abandoned_child_leaves_nothing(dir: &Path) {
    let path = dir.join("gen-1.5/rank-0.img");
    let memory = Memory::new();
    let (child, prepared) = forked(&path, &memory, || {});
    let pid = child.pid();
    drop(child);
    gone(pid);
    drop(prepared);
    assert!(files(&dir.join("gen-1.5")).is_empty(), "no debris");
}

#[test]
fn a_child_writes_the_image() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("directory");
    content_is_that_of_the_fork(dir.path());
    a_failing_child_says_why(dir.path());
    a_killed_child_is_noticed(dir.path());
    an_abandoned_child_leaves_nothing(dir.path());
}
