//! Whole lives of a job of four simulated ranks on four simulated nodes.

use std::fs;
use std::path::Path;

use super::*;
use crate::image_file::{ImageFile, ImageReport};
use crate::records::{Commits, Incarnation, Records};
use crate::session::Beginning;
use crate::simulation::{configuration, content, run, SimulatedRank};
use crate::{Config, Topology};

const RANKS: u32 = 4;
const SECRET: crate::transport::Secret = [5; 32];

fn config(dir: &Path, keep: u32) -> Config {
    configuration(dir, &[("keep", &keep.to_string())]).expect("configuration")
}

fn pattern(id: GenerationId, rank: u32) -> Vec<u8> {
    (0..8192u64)
        .map(|b| (b * 31 + id.number * 7 + u64::from(id.incarnation * 3 + rank)) as u8)
        .collect()
}

fn write(session: &Session, id: GenerationId) -> ImageReport {
    try_write(session, id).expect("image")
}

fn try_write(session: &Session, id: GenerationId) -> Result<ImageReport, Error> {
    let memory = pattern(id, session.rank());
    session.write_image(id, content(session.rank(), &memory))
}

/// Takes a generation as the coordinator would; the levels in `broken` are not reached.
fn checkpoint(
    session: &Session,
    all: &SimulatedRank,
    id: GenerationId,
    level: Level,
    broken: &[Level],
) {
    let report = write(session, id);
    let images = gather(all, "images", &report).expect("images");
    session.announce(id).expect("announced");
    all.barrier().expect("barrier");
    if session.is_leader() {
        session.commit(id, level, &images).expect("commit");
    }
    all.barrier().expect("barrier");
    for step in [Level::Local, Level::Partner, Level::Global] {
        if step > level || broken.contains(&step) {
            continue;
        }
        session.level_work(id, step, report).expect("level work");
        all.barrier().expect("barrier");
        session.complete(id, step).expect("complete");
        all.barrier().expect("barrier");
    }
    session.prune(id.incarnation, &[]).expect("prune");
    all.barrier().expect("barrier");
}

fn begin(session: &Session, all: &SimulatedRank, parent: Option<GenerationId>) -> u32 {
    let beginning = Beginning {
        parent,
        program: "app".into(),
        thread_level: 0,
        restart_count: 0,
    };
    session.begin(&beginning, all).expect("begin").incarnation
}

fn id(incarnation: u32, number: u64) -> GenerationId {
    GenerationId {
        incarnation,
        number,
    }
}

/// A first start that takes generations of these levels.
fn first_start(config: &Config, levels: &[Level], broken: &[Level]) {
    run(RANKS, |all| {
        let session = Session::open(config, "j", SECRET, all).expect("open");
        let incarnation = begin(&session, all, None);
        for (n, level) in levels.iter().enumerate() {
            let last = n + 1 == levels.len();
            let broken = if last { broken } else { &[] };
            checkpoint(&session, all, id(incarnation, n as u64 + 1), *level, broken);
        }
    });
}

/// What every rank resumes from; the content of each image has been compared.
fn resumed(config: &Config, moved: bool) -> Result<Option<(GenerationId, Vec<Source>)>, String> {
    let mut outcomes = run(RANKS, |all| {
        let session = if moved {
            let node_of = (0..RANKS).map(|r| (r + 1) % RANKS).collect();
            let topology = Topology {
                names: (0..RANKS).map(|n| format!("node{n}")).collect(),
                node_of,
                partner_of: (0..RANKS).map(|n| (n + 1) % RANKS).collect(),
            };
            Session::with_topology(config, "j", SECRET, topology, all)
        } else {
            Session::open(config, "j", SECRET, all)
        }
        .expect("open");
        let outcome = recover(&session, Wish::default(), all);
        // Nobody's server goes before all have fetched.
        all.barrier().expect("barrier");
        match outcome.map_err(|e| e.to_string())? {
            Outcome::Fresh => Ok(None),
            Outcome::Resume(r) => {
                let image = ImageFile::open(&r.image, None).expect("image");
                let mut bytes = vec![0; 8192];
                image.read_data(0, &mut bytes).expect("data");
                assert_eq!(bytes, pattern(r.generation, all.rank()));
                Ok(Some((r.generation, r.sources)))
            }
        }
    });
    outcomes.dedup();
    assert_eq!(outcomes.len(), 1, "the ranks disagree: {outcomes:?}");
    outcomes.remove(0)
}

fn local(config: &Config, node: u32) -> Store {
    Store::local(config, "j", node)
}

fn lose(config: &Config, node: u32) {
    fs::remove_dir_all(config.local_ckpt_dir.join(format!("node{node}"))).expect("node");
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).expect("image");
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(path, bytes).expect("image");
}

const OWN: Source = Source::Here(Copy::Own);
const ALL: [Level; 3] = [Level::Global, Level::Partner, Level::Local];

#[test]
fn the_newest_that_can_be_served_wins() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let c = config(dir.path(), 3);
    first_start(&c, &ALL, &[]);
    assert_eq!(resumed(&c, false), Ok(Some((id(1, 3), vec![OWN; 4]))));
    // One manifest is enough.
    for node in 0..3 {
        fs::remove_file(local(&c, node).manifest(id(1, 3))).expect("manifest");
    }
    assert_eq!(resumed(&c, false), Ok(Some((id(1, 3), vec![OWN; 4]))));
    lose(&c, 1);
    let partner = Source::Node(2, Copy::Partner);
    let sources = vec![OWN, partner, OWN, OWN];
    assert_eq!(resumed(&c, false), Ok(Some((id(1, 2), sources))));
    // Recovery has brought the image to the empty node: lose it and its partner.
    lose(&c, 1);
    lose(&c, 2);
    let last = Source::Node(3, Copy::Partner);
    let sources = vec![OWN, Source::Global, last, OWN];
    assert_eq!(resumed(&c, false), Ok(Some((id(1, 1), sources))));
    (0..RANKS).for_each(|n| {
        let _ = fs::remove_dir_all(local(&c, n).root());
    });
    assert_eq!(
        resumed(&c, false),
        Ok(Some((id(1, 1), vec![Source::Global; 4])))
    );
    flip(&Store::global(&c, "j").image(id(1, 1), 2, Copy::Own));
    let reason = resumed(&c, false).expect_err("nothing is intact");
    assert!(reason.contains("1.1: rank 2: global"), "{reason}");
}

#[test]
fn ranks_may_sit_on_other_nodes() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let c = config(dir.path(), 3);
    first_start(&c, &ALL, &[]);
    let elsewhere = (0..RANKS).map(|r| Source::Node(r, Copy::Own)).collect();
    assert_eq!(resumed(&c, true), Ok(Some((id(1, 3), elsewhere))));
    // The partner's copies of the generation before lie where the ranks are now.
    (0..RANKS).for_each(|n| {
        local(&c, n).remove(id(1, 3)).expect("removed");
        let own = local(&c, n).image(id(1, 2), n, Copy::Own);
        fs::remove_file(own).expect("removed");
    });
    let here = vec![Source::Here(Copy::Partner); 4];
    assert_eq!(resumed(&c, true), Ok(Some((id(1, 2), here))));
}

#[test]
fn a_start_elsewhere_is_told_where_the_job_was() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let c = config(dir.path(), 3);
    first_start(&c, &[Level::Partner], &[]);
    let on = |names: [&str; 4]| {
        let mut told = run(RANKS, |all| {
            let topology = Topology {
                names: names.map(str::to_owned).to_vec(),
                node_of: (0..RANKS).collect(),
                partner_of: (0..RANKS).map(|n| (n + 1) % RANKS).collect(),
            };
            let session = Session::with_topology(&c, "j", SECRET, topology, all).expect("open");
            let outcome = recover(&session, Wish::default(), all);
            all.barrier().expect("barrier");
            outcome.map(drop).map_err(|e| e.to_string())
        });
        told.dedup();
        assert_eq!(told.len(), 1, "{told:?}");
        told.remove(0)
    };
    (0..RANKS).for_each(|n| lose(&c, n));
    let reason = on(["n7", "node1", "n8", "n9"]).expect_err("nothing is here");
    assert!(reason.contains("on node0,node2,node3, where"), "{reason}");
    assert!(reason.contains("-w node0,node2,node3"), "{reason}");
    let reason = on(["node0", "node1", "node2", "node3"]).expect_err("nothing is here");
    assert!(!reason.contains("Slurm"), "{reason}");
}

#[test]
fn every_damage_falls_to_the_next_source() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let damages: [fn(&Path); 4] = [
        flip,
        |p| drop(fs::File::create(p).expect("empty")),
        |p| fs::remove_file(p).expect("missing"),
        |p| {
            let file = fs::File::options().write(true).open(p).expect("open");
            file.set_len(5000).expect("truncated");
        },
    ];
    for (n, damage) in damages.into_iter().enumerate() {
        let sub = dir.path().join(n.to_string());
        fs::create_dir(&sub).expect("directory");
        let c = config(&sub, 2);
        first_start(&c, &[Level::Global], &[]);
        damage(&local(&c, 0).image(id(1, 1), 0, Copy::Own));
        let partner = Source::Node(1, Copy::Partner);
        let sources = vec![partner, OWN, OWN, OWN];
        assert_eq!(resumed(&c, false), Ok(Some((id(1, 1), sources))));
        damage(&local(&c, 0).image(id(1, 1), 0, Copy::Own));
        damage(&local(&c, 1).image(id(1, 1), 0, Copy::Partner));
        let sources = vec![Source::Global, OWN, OWN, OWN];
        assert_eq!(resumed(&c, false), Ok(Some((id(1, 1), sources))));
        damage(&Store::global(&c, "j").image(id(1, 1), 0, Copy::Own));
        assert!(resumed(&c, false).is_err());
    }
}

#[test]
fn keep_1_and_a_node_lost_before_its_copy() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let c = config(dir.path(), 1);
    let partner = [Level::Partner, Level::Partner];
    first_start(&c, &partner, &[Level::Partner]);
    lose(&c, 0);
    let sources = vec![Source::Node(1, Copy::Partner), OWN, OWN, OWN];
    assert_eq!(resumed(&c, false), Ok(Some((id(1, 1), sources))));
}

#[test]
fn what_a_stale_start_commits_is_ignored() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let c = config(dir.path(), 2);
    run(RANKS, |all| {
        let session = Session::open(&c, "j", SECRET, all).expect("open");
        let old = begin(&session, all, None);
        checkpoint(&session, all, id(old, 1), Level::Local, &[]);
        let new = begin(&session, all, Some(id(old, 1)));
        assert_eq!((old, new), (1, 2));
        // The old start goes on: its commit is refused, and ignored if it was already under way.
        let report = write(&session, id(old, 2));
        let images = gather(all, "images", &report).expect("images");
        let refused = session.commit(id(old, 2), Level::Local, &images);
        assert!(matches!(refused, Err(Error::Superseded { newest: 2, .. })));
        let mut stale =
            Manifest::read(session.local(), session.mark(), id(old, 1)).expect("manifest");
        (stale.generation, stale.images) = (id(old, 2), images);
        stale.write(session.local()).expect("manifest");
    });
    assert_eq!(resumed(&c, false), Ok(Some((id(1, 1), vec![OWN; 4]))));
}

#[test]
fn without_a_commit_it_begins_at_the_beginning() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let c = config(dir.path(), 2);
    let records = Records::new(Store::global(&c, "j"));
    run(RANKS, |all| {
        let session = Session::open(&c, "j", SECRET, all).expect("open");
        begin(&session, all, None);
        write(&session, id(1, 1));
    });
    assert_eq!(records.commits(&[(1, u64::MAX)]), Commits::None);
    assert_eq!(resumed(&c, false), Ok(None));
    // Ended between the announcement and the first manifest.
    records.mark_committing(id(1, 1)).expect("announcement");
    assert_eq!(resumed(&c, false), Ok(None));
    // A node that could have held a manifest is gone: nobody knows.
    lose(&c, 3);
    assert!(resumed(&c, false).is_err());
    records.unmark_committing(id(1, 1)).expect("given up");
    assert_eq!(resumed(&c, false), Ok(None));
}

/// The global directory is full from the start on: what rank 0 cannot announce is given up before any node writes a
/// manifest. (A start whose commits are nowhere on record would be taken for one without any.)
#[test]
fn what_cannot_be_announced_is_not_committed() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let c = config(dir.path(), 2);
    run(RANKS, |all| {
        let session = Session::open(&c, "j", SECRET, all).expect("open");
        begin(&session, all, None);
        write(&session, id(1, 1));
        all.barrier().expect("barrier");
        let root = session.global().root();
        let full = crate::fault::Plan::new(root, 1, crate::fault::How::Freeze);
        assert_eq!(session.announce(id(1, 1)).is_err(), all.rank() == 0);
        all.barrier().expect("barrier");
        drop(full);
        session.discard(id(1, 1)).expect("discard");
    });
    assert_eq!(resumed(&c, false), Ok(None));
}

#[test]
fn generations_without_their_records_are_an_error() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let c = config(dir.path(), 2);
    first_start(&c, &[Level::Local], &[]);
    fs::remove_dir_all(&c.global_ckpt_dir).expect("not mounted");
    let reason = resumed(&c, false).expect_err("no records");
    assert!(reason.contains("incarnation-1"), "{reason}");
}

/// The global directory was deleted, to begin anew, and the nodes' storage was not.
#[test]
fn what_an_earlier_job_of_the_same_name_left_is_not_resumed() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let c = config(dir.path(), 2);
    let global = c.global_ckpt_dir.clone();
    first_start(&c, &[Level::Local; 3], &[]);
    fs::remove_dir_all(&global).expect("deleted");
    first_start(&c, &[Level::Local], &[]);
    assert_eq!(resumed(&c, false), Ok(Some((id(2, 1), vec![OWN; 4]))));
    for node in 0..RANKS {
        let left = local(&c, node).generations().expect("listed");
        assert_eq!(left, [id(2, 1)], "what was left is pruned");
    }
    // The same on nodes that the new job comes to only later.
    let (nodes, away) = (c.local_ckpt_dir.clone(), dir.path().join("away"));
    fs::remove_dir_all(&global).expect("deleted");
    fs::remove_dir_all(&nodes).expect("deleted");
    first_start(&c, &[Level::Local; 5], &[]);
    fs::remove_dir_all(&global).expect("deleted");
    fs::rename(&nodes, &away).expect("other nodes");
    first_start(&c, &[Level::Global], &[]);
    fs::remove_dir_all(&nodes).expect("deleted");
    fs::rename(&away, &nodes).expect("their turn");
    assert_eq!(
        resumed(&c, false),
        Ok(Some((id(1, 1), vec![Source::Global; 4])))
    );
}

/// Of a build that gave jobs no origin.
#[test]
fn a_job_without_an_origin_keeps_its_name() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let c = config(dir.path(), 2);
    let records = Records::new(Store::global(&c, "j"));
    assert_eq!(begin_recorded(&records), 1);
    first_start(&c, &[Level::Local], &[]);
    assert_eq!(records.mark("j").expect("a name"), "j");
    assert_eq!(resumed(&c, false), Ok(Some((id(2, 1), vec![OWN; 4]))));
}

/// A start of which there is nothing but a record; its number.
fn begin_recorded(records: &Records) -> u32 {
    let incarnation = Incarnation {
        number: 0,
        parent: None,
        size: RANKS,
        thread_level: 0,
        program: "app".into(),
        program_hash: None,
        created: 0,
        restart_count: 0,
        batch_job: None,
        topology: Topology::default(),
    };
    records.begin(incarnation).expect("begin").number
}

#[test]
fn two_starts_at_once_get_two_numbers() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let records = Records::new(Store::at(dir.path().join("j")));
    let mut numbers = run(16, |_| begin_recorded(&records));
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=16).collect::<Vec<_>>());
}

#[test]
fn redundancy_returns_to_an_empty_node() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let c = config(dir.path(), 1);
    first_start(&c, &[Level::Partner], &[]);
    lose(&c, 1);
    run(RANKS, |all| {
        let session = Session::open(&c, "j", SECRET, all).expect("open");
        let outcome = recover(&session, Wish::default(), all).expect("recover");
        let Outcome::Resume(recovered) = outcome else {
            panic!("{outcome:?}");
        };
        begin(&session, all, Some(recovered.generation));
        protect_again(&session, &recovered).expect("protected again");
        all.barrier().expect("barrier");
        session.prune(2, &[]).expect("prune");
        all.barrier().expect("barrier");
    });
    assert!(is_complete(&local(&c, 1), id(1, 1), Level::Partner));
    assert!(is_complete(&local(&c, 1), id(1, 1), Level::Local));
    // Any node may go now.
    for node in 0..RANKS {
        let kept = local(&c, (node + 1) % RANKS).image(id(1, 1), node, Copy::Partner);
        assert!(kept.is_file(), "{}", kept.display());
    }
    lose(&c, 0);
    assert_eq!(
        resumed(&c, false).map(|r| r.map(|r| r.0)),
        Ok(Some(id(1, 1)))
    );
}

/// The newest generation that has a valid manifest somewhere and an intact image of every rank
/// somewhere: found by looking at everything.
fn servable(config: &Config) -> Option<GenerationId> {
    let mut stores: Vec<Store> = (0..RANKS).map(|n| local(config, n)).collect();
    stores.push(Store::global(config, "j"));
    let mark = Records::new(Store::global(config, "j")).mark("j");
    let mark = mark.expect("a name");
    let mut all: Vec<GenerationId> = stores
        .iter()
        .flat_map(|s| s.generations().expect("generations"))
        .collect();
    all.sort_unstable();
    all.into_iter().rev().find(|&id| {
        let mut manifests = stores.iter().map(|s| Manifest::read(s, &mark, id));
        let Some(Ok(manifest)) = manifests.find(Result::is_ok) else {
            return false;
        };
        (0..RANKS).all(|rank| {
            let name = ImageName {
                job: mark.clone(),
                generation: id,
                rank,
                size: RANKS,
            };
            let report = Some(manifest.images[rank as usize]);
            stores.iter().any(|s| {
                [Copy::Own, Copy::Partner]
                    .iter()
                    .any(|c| verify(&s.image(id, rank, *c), &name, report).is_ok())
            })
        })
    })
}

/// A life that may end anywhere. Returns the newest generation all ranks were told is committed.
fn life_until_frozen(config: &Config) -> Option<GenerationId> {
    let told = run(RANKS, |all| {
        let session = Session::open(config, "j", SECRET, all).expect("open");
        let mut told = None;
        let ok = |done: Result<(), Error>| {
            let all_well = gather(all, "a step", &done.is_ok()).expect("gather");
            all_well.into_iter().all(|w| w)
        };
        let beginning = Beginning {
            parent: None,
            program: "app".into(),
            thread_level: 0,
            restart_count: 0,
        };
        if session.begin(&beginning, all).is_err() {
            return told;
        }
        for (n, level) in [(1, Level::Partner), (2, Level::Global), (3, Level::Local)] {
            let id = id(1, n);
            let written =
                try_write(&session, id).and_then(|report| session.announce(id).map(|()| report));
            let images = gather(all, "images", &written.as_ref().ok().copied()).expect("gather");
            let images: Option<Vec<_>> = images.into_iter().collect();
            let committed = images.map(|images| match session.is_leader() {
                true => session.commit(id, level, &images),
                false => Ok(()),
            });
            let none = || {
                Err(Error::Missing {
                    path: session.image_path(id),
                })
            };
            if !ok(committed.unwrap_or_else(none)) {
                let _ = session.discard(id);
                return told;
            }
            told = Some(id);
            for step in Level::ALL.into_iter().filter(|l| *l <= level) {
                let report = *written.as_ref().expect("written");
                if ok(session.level_work(id, step, report)) {
                    ok(session.complete(id, step));
                }
            }
            ok(session.prune(1, &[]));
        }
        told
    });
    told[0]
}

#[test]
fn a_crash_at_any_operation_leaves_the_newest_commit() {
    // Hundreds of lives: in memory where that can be, since no power fails here.
    let memory = Path::new("/dev/shm");
    let base = match memory.is_dir() {
        true => memory.to_owned(),
        false => std::env::temp_dir(),
    };
    let mut at = 1;
    loop {
        let dir = tempfile::tempdir_in(&base).expect("temporary directory");
        let c = config(dir.path(), 1);
        let plan = crate::fault::Plan::new(dir.path(), at, crate::fault::How::Freeze);
        let told = life_until_frozen(&c);
        let operations = plan.operations().len() as u64;
        drop(plan);
        let expected = servable(&c);
        assert!(expected >= told, "{at}: {told:?} is lost");
        let found = resumed(&c, false).map(|r| r.map(|r| r.0));
        // In the first commit, before any manifest: either answer, if a rank had given up.
        let unsure = expected.is_none() && found.is_err();
        if unsure {
            let records = Records::new(Store::global(&c, "j"));
            let commits = records.commits(&[(1, u64::MAX)]);
            assert!(matches!(commits, Commits::Perhaps(_)), "{at}: {found:?}");
        } else {
            assert_eq!(found, Ok(expected), "operation {at}");
        }
        if operations < at {
            break;
        }
        at += 1;
    }
    assert!(at > 100, "only {at} operations");
}
