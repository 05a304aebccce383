//! What is left when more and more is gone, down to nothing; and a job of another size.

use std::fs;
use std::path::{Path, PathBuf};

use libckpt::collective::gather;
use libckpt::image_file::{ImageContent, ImageReport};
use libckpt::recovery::{recover, Outcome, Source, Wish};
use libckpt::session::{Beginning, Session};
use libckpt::simulation::{configuration, content, run, SimulatedRank};
use libckpt::store::{Copy, Store};
use libckpt::{Collective as _, Config, Error, GenerationId, Level};
use mana_image::{RegionTable, Sections};

const RANKS: u32 = 4;

fn config(dir: &Path) -> Config {
    // Two ranks on each of two nodes.
    configuration(dir, &[("keep", "2"), ("node_size", "2")]).expect("configuration")
}

fn id(number: u64) -> GenerationId {
    GenerationId {
        incarnation: 1,
        number,
    }
}

fn write(session: &Session, id: GenerationId) -> ImageReport {
    let memory = vec![session.rank() as u8 + id.number as u8; 1 << 20];
    session
        .write_image(id, content(session.rank(), &memory))
        .expect("image")
}

fn checkpoint(session: &Session, all: &SimulatedRank, id: GenerationId) {
    let report = write(session, id);
    let images = gather(all, "images", &report).expect("images");
    session.announce(id).expect("announced");
    all.barrier().expect("barrier");
    if session.is_leader() {
        session.commit(id, Level::Global, &images).expect("commit");
    }
    all.barrier().expect("barrier");
    for step in [Level::Local, Level::Partner, Level::Global] {
        session.level_work(id, step, report).expect("level work");
        all.barrier().expect("barrier");
        session.complete(id, step).expect("complete");
        all.barrier().expect("barrier");
    }
}

/// A start that takes two generations on all levels, and dies.
fn first_start(c: &Config) {
    run(RANKS, |all| {
        let session = Session::open(c, "j", [1; 32], all).expect("open");
        let beginning = Beginning {
            parent: None,
            program: "app".into(),
            thread_level: 0,
            restart_count: 0,
        };
        session.begin(&beginning, all).expect("begin");
        checkpoint(&session, all, id(1));
        checkpoint(&session, all, id(2));
    });
}

/// Generation and the source of rank 1's image; the same on all ranks.
fn resumed(c: &Config, ranks: u32) -> Result<(u64, Source), Error> {
    let found = run(ranks, |all| {
        let session = Session::open(c, "j", [1; 32], all).expect("open");
        let found = recover(&session, Wish::default(), all);
        all.barrier().expect("barrier");
        found
    });
    let mut all = found.into_iter().map(|f| match f? {
        Outcome::Resume(r) => Ok((r.generation.number, r.sources[1])),
        Outcome::Fresh => panic!("it began at the beginning"),
    });
    let first = all.next().expect("a rank")?;
    all.for_each(|other| assert_eq!(other.expect("as the first"), first));
    Ok(first)
}

fn flip(path: PathBuf) {
    let mut bytes = fs::read(&path).expect("file");
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(path, bytes).expect("damaged");
}

#[test]
fn each_rung_down_to_nothing() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let c = config(dir.path());
    first_start(&c);
    let node = |n| Store::local(&c, "j", n);
    let global = Store::global(&c, "j");
    let taken = |found: Result<(u64, Source), Error>| found.expect("something is intact");
    assert_eq!(taken(resumed(&c, RANKS)), (2, Source::Here(Copy::Own)));
    flip(node(0).image(id(2), 1, Copy::Own));
    let partner = Source::Node(1, Copy::Partner);
    assert_eq!(taken(resumed(&c, RANKS)), (2, partner));
    // Recovery has brought the good copy here.
    flip(node(0).image(id(2), 1, Copy::Own));
    flip(node(1).image(id(2), 1, Copy::Partner));
    assert_eq!(taken(resumed(&c, RANKS)), (2, Source::Global));
    flip(global.image(id(2), 1, Copy::Own));
    assert_eq!(taken(resumed(&c, RANKS)), (1, Source::Here(Copy::Own)));
    // The node of ranks 0 and 1, replaced by an empty one.
    fs::remove_dir_all(c.local_ckpt_dir.join("node0")).expect("node");
    assert_eq!(taken(resumed(&c, RANKS)), (1, partner));
    for store in [node(0), node(1), global.clone()] {
        for (copy, rank) in store.images(id(1)).expect("list") {
            flip(store.image(id(1), rank, copy));
        }
    }
    let Err(Error::NothingIntact { reasons }) = resumed(&c, RANKS) else {
        panic!("damaged images were used");
    };
    for part in [
        "generation 1.2: rank 1: ",
        "generation 1.1: rank 0: ",
        "global: ",
    ] {
        assert!(
            reasons.iter().any(|r| r.contains(part)),
            "{part}: {reasons:#?}"
        );
    }
}

#[test]
fn manifests_gone_everywhere_uncommit_a_generation() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let c = config(dir.path());
    first_start(&c);
    let places = [
        Store::local(&c, "j", 0),
        Store::local(&c, "j", 1),
        Store::global(&c, "j"),
    ];
    for store in &places[..2] {
        fs::remove_file(store.manifest(id(2))).expect("manifest");
    }
    // The global directory's is left.
    assert_eq!(resumed(&c, RANKS).expect("committed").0, 2);
    for store in &places {
        flip(store.manifest(id(2)));
    }
    assert_eq!(resumed(&c, RANKS).expect("the older").0, 1);
    for store in &places {
        fs::remove_file(store.manifest(id(1))).expect("manifest");
    }
    let Err(Error::NothingIntact { reasons }) = resumed(&c, RANKS) else {
        panic!("there is no manifest");
    };
    assert!(
        reasons.iter().any(|r| r.contains("checksum")),
        "{reasons:#?}"
    );
}

#[test]
fn a_job_of_another_size_is_told_so() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let c = config(dir.path());
    first_start(&c);
    for ranks in [2, 6] {
        let refused = resumed(&c, ranks).expect_err("another size");
        assert!(matches!(refused, Error::Incompatible { .. }), "{refused}");
        assert!(
            refused.to_string().contains("number of ranks is 4"),
            "{refused}"
        );
    }
}

#[test]
fn a_full_disk_leaves_the_older_generation_and_no_debris() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let c = config(dir.path());
    first_start(&c);
    let local = c.local_ckpt_dir.join("node1");
    let mut at = 1;
    loop {
        // Each operation of the image's writing in turn.
        let plan = libckpt::fault::Plan::new(&local, at, libckpt::fault::How::Fail(libc::ENOSPC));
        let failed = run(RANKS, |all| {
            let session = Session::open(&c, "j", [1; 32], all).expect("open");
            let content = ImageContent {
                sections: Sections::default(),
                regions: RegionTable::default(),
                memory: Vec::new(),
            };
            session.write_image(id(3), content).is_err()
        });
        let operations = plan.operations().len() as u64;
        drop(plan);
        for node in 0..2 {
            let generation = Store::local(&c, "j", node).generation(id(3));
            let names = fs::read_dir(generation).into_iter().flatten().flatten();
            let mut unfinished =
                names.filter(|n| n.file_name().to_string_lossy().contains(".tmp-"));
            assert!(unfinished.next().is_none(), "operation {at} left debris");
        }
        // A failure of one rank gives the generation up on all.
        run(RANKS, |all| {
            let session = Session::open(&c, "j", [1; 32], all).expect("open");
            session.discard(id(3)).expect("discard");
        });
        for node in 0..2 {
            let left = Store::local(&c, "j", node).generation(id(3));
            assert!(!left.exists(), "operation {at} left {}", left.display());
        }
        if operations < at || !failed.contains(&true) {
            break;
        }
        at += 1;
    }
    assert!(at > 5, "only {at} operations");
    assert_eq!(resumed(&c, RANKS).expect("the older").0, 2);
}
