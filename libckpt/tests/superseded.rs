//! A start that another one has taken over from, and a node that is being made whole again: pruning
//! must not take what is still needed.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

use libckpt::collective::gather;
use libckpt::image_file::{ImageContent, ImageReport};
use libckpt::records::{End, JobState};
use libckpt::recovery::{recover, Outcome, Wish};
use libckpt::session::{Beginning, Session};
use libckpt::simulation::{configuration, run, SimulatedRank};
use libckpt::store::{Copy, Store};
use libckpt::{Collective as _, Config, Error, GenerationId, Level};
use mana_image::{RegionTable, SectionKind, Sections};

const RANKS: u32 = 3;

fn config(dir: &Path) -> Config {
    configuration(dir, &[("keep", "1")]).expect("configuration")
}

fn id(incarnation: u32, number: u64) -> GenerationId {
    GenerationId {
        incarnation,
        number,
    }
}

fn write(session: &Session, id: GenerationId) -> ImageReport {
    let mut sections = Sections::default();
    sections.push(SectionKind::MPI, vec![session.rank() as u8; 100]);
    let content = ImageContent {
        sections,
        regions: RegionTable::default(),
        memory: Vec::new(),
    };
    session.write_image(id, content).expect("image")
}

fn checkpoint(session: &Session, all: &SimulatedRank, id: GenerationId, level: Level) {
    let report = write(session, id);
    let images = gather(all, "images", &report).expect("images");
    session.announce(id).expect("announced");
    all.barrier().expect("barrier");
    if session.is_leader() {
        session.commit(id, level, &images).expect("commit");
    }
    all.barrier().expect("barrier");
    for step in Level::ALL.into_iter().filter(|l| *l <= level) {
        session.level_work(id, step, report).expect("level work");
        all.barrier().expect("barrier");
        session.complete(id, step).expect("complete");
        all.barrier().expect("barrier");
    }
}

fn begin(session: &Session, all: &SimulatedRank, parent: Option<GenerationId>) -> u32 {
    let beginning = Beginning {
        parent,
        program: "app".into(),
        thread_level: 0,
        restart_count: 0,
    };
    let begun = session.begin(&beginning, all).expect("begin").incarnation;
    all.barrier().expect("barrier");
    begun
}

#[test]
fn a_superseded_start_deletes_and_records_nothing() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let c = config(dir.path());
    run(RANKS, |all| {
        let session = Session::open(&c, "j", [1; 32], all).expect("open");
        let old = begin(&session, all, None);
        checkpoint(&session, all, id(old, 1), Level::Global);
        let new = begin(&session, all, Some(id(old, 1)));
        checkpoint(&session, all, id(new, 2), Level::Global);
        let refused = |done: Result<(), Error>| {
            assert!(matches!(done, Err(Error::Superseded { .. })), "{done:?}");
        };
        refused(session.prune(old, &[]));
        refused(session.record_end(old, &End::Finished));
        refused(session.clean_up(old));
        all.barrier().expect("barrier");
        for store in [session.local(), session.global()] {
            assert_eq!(store.generations().expect("list"), [id(1, 1), id(2, 2)]);
        }
        let state = session.records().state().expect("state");
        assert!(matches!(state, JobState::Unfinished { .. }), "{state:?}");
    });
}

#[test]
fn a_start_whose_record_was_deleted_commits_nothing() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let c = config(dir.path());
    run(RANKS, |all| {
        let session = Session::open(&c, "j", [1; 32], all).expect("open");
        let number = begin(&session, all, None);
        checkpoint(&session, all, id(number, 1), Level::Local);
        all.barrier().expect("barrier");
        if all.rank() == 0 {
            let global = session.global().root();
            std::fs::remove_file(global.join(format!("incarnation-{number}"))).expect("record");
            let refused = session.announce(id(number, 2));
            assert!(
                matches!(refused, Err(Error::Unrecorded { .. })),
                "{refused:?}"
            );
        }
    });
}

#[test]
fn a_new_node_keeps_what_it_resumed_from_until_it_is_whole() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let c = config(dir.path());
    run(RANKS, |all| {
        let session = Session::open(&c, "j", [1; 32], all).expect("open");
        begin(&session, all, None);
        checkpoint(&session, all, id(1, 1), Level::Partner);
    });
    fs::remove_dir_all(c.local_ckpt_dir.join("node1")).expect("node");
    run(RANKS, |all| {
        let session = Session::open(&c, "j", [1; 32], all).expect("open");
        let found = recover(&session, Wish::default(), all).expect("recover");
        all.barrier().expect("barrier");
        assert!(matches!(found, Outcome::Resume(_)), "{found:?}");
        begin(&session, all, Some(id(1, 1)));
        // Redundancy is not back yet when the next checkpoint, of the lowest level, is through.
        checkpoint(&session, all, id(2, 2), Level::Local);
        session.prune(2, &[]).expect("prune");
    });
    let own = Store::local(&c, "j", 1).image(id(1, 1), 1, Copy::Own);
    assert!(
        own.is_file(),
        "the only level that survives a node was given up"
    );
}

#[test]
fn pruning_leaves_what_is_newer_than_all_that_is_complete() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let c = config(dir.path());
    run(RANKS, |all| {
        let session = Session::open(&c, "j", [1; 32], all).expect("open");
        begin(&session, all, None);
        checkpoint(&session, all, id(1, 1), Level::Local);
        // Another one is committed, and a third being written; nobody names them.
        let report = write(&session, id(1, 2));
        let images = gather(all, "images", &report).expect("images");
        if session.is_leader() {
            let committed = session.commit(id(1, 2), Level::Partner, &images);
            committed.expect("commit");
        }
        write(&session, id(1, 3));
        all.barrier().expect("barrier");
        session.prune(1, &[]).expect("prune");
        let left = session.local().generations().expect("list");
        assert_eq!(left, [id(1, 1), id(1, 2), id(1, 3)]);
    });
}

#[test]
fn the_normal_end_leaves_no_debris() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let c = config(dir.path());
    run(RANKS, |all| {
        let session = Session::open(&c, "j", [1; 32], all).expect("open");
        begin(&session, all, None);
        checkpoint(&session, all, id(1, 1), Level::Global);
        if all.rank() == 0 {
            let unfinished = session.global().root().join("committed-1.tmp-other-7");
            fs::write(unfinished, b"half").expect("debris");
            let image = session.local().generation(id(1, 2));
            fs::create_dir(&image).expect("debris");
            fs::write(image.join("rank-0.img.tmp-other-7"), b"half").expect("debris");
            fs::write(session.local().root().join("superseded-1"), b"mark").expect("debris");
        }
        all.barrier().expect("barrier");
        session.discard(id(1, 2)).expect("discard");
        assert!(!session.local().generation(id(1, 2)).exists());
        if all.rank() == 0 {
            session.record_end(1, &End::Finished).expect("recorded");
        }
        session.clean_up(1).expect("cleaned up");
    });
    for node in 0..RANKS {
        assert!(!Store::local(&c, "j", node).root().exists());
    }
    let mut left: Vec<_> = fs::read_dir(c.global_ckpt_dir.join("j"))
        .expect("list")
        .map(|e| e.expect("entry").file_name().into_string().expect("name"))
        .collect();
    left.sort();
    assert_eq!(left, ["committed-1", "end-1", "incarnation-1", "origin"]);
}

#[test]
fn a_directory_that_others_can_write_is_refused() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let c = config(dir.path());
    let root = Store::local(&c, "j", 0).root().to_owned();
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&root)
        .expect("directory");
    let open = || {
        let mut opened = run(1, |all| Session::open(&c, "j", [1; 32], all).map(drop));
        opened.remove(0).map_err(|e| e.to_string())
    };
    assert_eq!(open(), Ok(()));
    fs::set_permissions(&root, fs::Permissions::from_mode(0o777)).expect("mode");
    let reason = open().expect_err("refused");
    assert!(reason.contains("others can write it"), "{reason}");
    fs::remove_dir(&root).expect("removed");
    std::os::unix::fs::symlink(dir.path(), &root).expect("link");
    let reason = open().expect_err("refused");
    assert!(reason.contains("not a directory"), "{reason}");
}
