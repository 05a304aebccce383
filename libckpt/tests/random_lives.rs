//! Random lives of a simulated job: checkpoints that end anywhere, losses, damages, restarts on other
//! nodes. What a restart has to choose is worked out here from the bytes that were once written, without
//! the crate's verification, manifests' content or rules of pruning; both choices are printed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use libckpt::collective::gather;
use libckpt::image_file::{ImageFile, ImageReport};
use libckpt::recovery::{protect_again, recover, Outcome, Wish};
use libckpt::session::{Beginning, Session};
use libckpt::simulation::{configuration, content, run, SimulatedRank};
use libckpt::store::{Copy, Store};
use libckpt::{Collective as _, Config, GenerationId, Level};

use proptest::prelude::*;

const RANKS: u32 = 4;
const JOB: &str = "j";
const SECRET: [u8; 32] = [9; 32];

/// Where a checkpoint ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stop {
    /// Some ranks have written, then it is given up in order.
    Abandoned,
    /// Some ranks have written, then all die.
    Written,
    /// Some nodes have the manifest, then all die.
    Committed,
    /// Complete on the local level.
    Local,
    /// Some ranks have copied to their partners.
    Copying,
    /// Complete on the partner level.
    Partner,
    /// Some ranks have flushed.
    Flushing,
    /// Complete on all levels it was taken for, and pruned.
    Pruned,
}

#[derive(Debug, Clone)]
struct Taken {
    level: Level,
    stop: Stop,
    /// The ranks (bit mask) that get through the step at which it stops.
    who: u8,
}

#[derive(Debug, Clone)]
enum Harm {
    /// A node's storage, deleted.
    Lose(u32),
    /// One file (chosen among all there are), damaged in one of five ways.
    Damage(u16, u8),
}

#[derive(Debug, Clone)]
struct Life {
    node_size: u32,
    taken: Vec<Taken>,
    harms: Vec<Harm>,
    protect: bool,
}

fn lives() -> impl Strategy<Value = (u32, Vec<Life>)> {
    let stop = prop_oneof![
        1 => Just(Stop::Abandoned),
        1 => Just(Stop::Written),
        2 => Just(Stop::Committed),
        1 => Just(Stop::Local),
        2 => Just(Stop::Copying),
        1 => Just(Stop::Partner),
        2 => Just(Stop::Flushing),
        6 => Just(Stop::Pruned),
    ];
    let level = prop_oneof![
        Just(Level::Local),
        Just(Level::Partner),
        Just(Level::Global)
    ];
    let taken =
        (level, stop, any::<u8>()).prop_map(|(level, stop, who)| Taken { level, stop, who });
    let harm = prop_oneof![
        1 => (0..RANKS).prop_map(Harm::Lose),
        2 => (any::<u16>(), 0u8..5).prop_map(|(file, how)| Harm::Damage(file, how)),
    ];
    let life = (
        prop_oneof![3 => Just(1u32), 2 => Just(2u32)],
        prop::collection::vec(taken, 0..5),
        prop::collection::vec(harm, 0..4),
        any::<bool>(),
    )
        .prop_map(|(node_size, taken, harms, protect)| Life {
            node_size,
            taken,
            harms,
            protect,
        });
    (1u32..3, prop::collection::vec(life, 1..5))
}

fn config(dir: &Path, keep: u32, node_size: u32) -> Config {
    let (keep, node_size) = (keep.to_string(), node_size.to_string());
    configuration(dir, &[("keep", &keep), ("node_size", &node_size)]).expect("configuration")
}

fn pattern(id: GenerationId, rank: u32) -> Vec<u8> {
    (0..8192u64)
        .map(|b| (b * 31 + id.number * 7 + u64::from(id.incarnation * 3 + rank)) as u8)
        .collect()
}

fn write(session: &Session, id: GenerationId) -> ImageReport {
    let memory = pattern(id, session.rank());
    session
        .write_image(id, content(session.rank(), &memory))
        .expect("image")
}

/// What the test remembers of the job, and nothing else decides what it expects.
#[derive(Default)]
struct Memory {
    /// Bytes of each image as written.
    images: BTreeMap<(GenerationId, u32), Vec<u8>>,
    /// Bytes of each manifest as written, anywhere.
    manifests: BTreeMap<GenerationId, BTreeSet<Vec<u8>>>,
    /// The generation each incarnation began from.
    parents: BTreeMap<u32, Option<GenerationId>>,
    /// By level, the generations that became complete on it, in order of time.
    complete: BTreeMap<&'static str, Vec<GenerationId>>,
    /// On how many nodes commits were announced.
    announced: BTreeSet<u32>,
    /// Files that were damaged.
    harmed: BTreeSet<PathBuf>,
}

impl Memory {
    /// Whether a generation lies on the line of descent of `incarnation`.
    fn descends(&self, mut incarnation: u32, id: GenerationId) -> bool {
        let mut bound = u64::MAX;
        loop {
            if id.incarnation == incarnation {
                return id.number <= bound;
            }
            match self.parents.get(&incarnation) {
                Some(Some(p)) => (incarnation, bound) = (p.incarnation, p.number),
                _ => return false,
            }
        }
    }

    /// Whether a commit on the line was complete.
    fn was_known(&self, incarnation: u32) -> bool {
        let mut all = self.complete.values().flatten();
        all.any(|id| self.descends(incarnation, *id))
    }

    /// The newest generation of the line that has a manifest and an image of every rank in the stores.
    fn expected(&self, incarnation: u32, stores: &[Store]) -> Option<GenerationId> {
        let whole = |path: PathBuf, bytes: &[u8]| fs::read(path).is_ok_and(|b| b == bytes);
        let mut all: Vec<_> = self.manifests.iter().collect();
        all.sort_by_key(|(id, _)| (id.incarnation, id.number));
        let found = all.into_iter().rev().find(|(id, manifests)| {
            let proved = stores
                .iter()
                .any(|s| fs::read(s.manifest(**id)).is_ok_and(|b| manifests.contains(&b)));
            let served = (0..RANKS).all(|rank| {
                let bytes = &self.images[&(**id, rank)];
                stores.iter().any(|s| {
                    [Copy::Own, Copy::Partner]
                        .into_iter()
                        .any(|copy| whole(s.image(**id, rank, copy), bytes))
                })
            });
            self.descends(incarnation, **id) && proved && served
        });
        found.map(|(id, _)| *id)
    }
}

/// Every file below a directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Files of generations: images, manifests, completion records; not the job's records.
fn generation_files(dir: &Path) -> Vec<PathBuf> {
    let mut all = files(dir);
    all.retain(|p| {
        p.components()
            .any(|c| c.as_os_str().to_string_lossy().starts_with("gen-"))
    });
    all
}

fn damage(path: &Path, how: u8) {
    let mut bytes = fs::read(path).expect("file");
    match how {
        0 => return fs::remove_file(path).expect("removed"),
        1 => bytes.clear(),
        2 => bytes.truncate(bytes.len() / 2),
        3 => {
            let at = bytes.len() / 2;
            bytes.get_mut(at).into_iter().for_each(|b| *b ^= 1);
        }
        _ => {
            if let Some(last) = bytes.last_mut() {
                *last ^= 0x80;
            }
        }
    }
    // Not in place: the damage is to this name only, whatever else is linked to the file.
    fs::remove_file(path).expect("removed");
    fs::write(path, bytes).expect("damaged");
}

/// Takes one generation up to where it stops. Returns whether the job lives on.
fn take(
    session: &Session,
    all: &SimulatedRank,
    id: GenerationId,
    taken: &Taken,
    memory: &Mutex<Memory>,
) -> bool {
    let mine = taken.who >> session.rank() & 1 == 1;
    let barrier = || all.barrier().expect("barrier");
    let (partial, abandoned) = (taken.stop <= Stop::Written, taken.stop == Stop::Abandoned);
    let report = (!partial || mine).then(|| write(session, id));
    barrier();
    if partial {
        if abandoned {
            session.discard(id).expect("discarded");
            barrier();
            assert!(!session.local().generation(id).exists(), "debris of {id}");
            barrier();
        }
        return abandoned;
    }
    let report = report.expect("written");
    let bytes = fs::read(session.image_path(id)).expect("image");
    let key = (id, session.rank());
    memory.lock().expect("memory").images.insert(key, bytes);
    let images = gather(all, "images", &report).expect("images");
    session.announce(id).expect("announced");
    let nodes = session.topology().nodes();
    memory.lock().expect("memory").announced.insert(nodes);
    barrier();
    if session.is_leader() && (taken.stop > Stop::Committed || mine) {
        session.commit(id, taken.level, &images).expect("commit");
        let bytes = fs::read(session.local().manifest(id)).expect("manifest");
        let manifests = &mut memory.lock().expect("memory").manifests;
        manifests.entry(id).or_default().insert(bytes);
    }
    barrier();
    if taken.stop == Stop::Committed {
        return false;
    }
    for (level, started, done) in [
        (Level::Local, Stop::Local, Stop::Local),
        (Level::Partner, Stop::Copying, Stop::Partner),
        (Level::Global, Stop::Flushing, Stop::Pruned),
    ] {
        if level > taken.level {
            continue;
        }
        if taken.stop < started {
            return false;
        }
        if taken.stop >= done || mine {
            session.level_work(id, level, report).expect("level work");
        }
        barrier();
        if taken.stop < done {
            return false;
        }
        session.complete(id, level).expect("complete");
        barrier();
        if session.rank() == 0 {
            let complete = &mut memory.lock().expect("memory").complete;
            complete.entry(level.name()).or_default().push(id);
        }
        if level == Level::Global && session.rank() == 0 {
            let bytes = fs::read(session.global().manifest(id)).expect("manifest");
            let manifests = &mut memory.lock().expect("memory").manifests;
            manifests.entry(id).or_default().insert(bytes);
        }
        if taken.stop == done && done != Stop::Pruned {
            return false;
        }
    }
    session.prune(id.incarnation, &[]).expect("prune");
    barrier();
    true
}

/// The images that pruning must not take: of the newest `keep` generations of each level, what the
/// level consists of, wherever the record that the level is complete is as it was written.
fn promised(memory: &Memory, keep: u32, incarnation: u32, before: &[PathBuf]) -> Vec<PathBuf> {
    let mut kept = Vec::new();
    for (level, all) in &memory.complete {
        let ours = |id: &&GenerationId| memory.descends(incarnation, **id);
        for id in all.iter().rev().filter(ours).take(keep as usize) {
            let name = format!("gen-{}.{}", id.incarnation, id.number);
            let record = format!("complete-{level}");
            // What is in the nodes' storage does not count for the global level.
            let place = if *level == "global" {
                "global"
            } else {
                "local"
            };
            let intact = |p: &&PathBuf| {
                let here = p.components().any(|c| c.as_os_str() == place);
                here && p.ends_with(Path::new(&name).join(&record))
            };
            for record in before.iter().filter(intact) {
                if memory.harmed.contains(record) {
                    continue;
                }
                let dir = record.parent().expect("a directory");
                let image = |p: &&PathBuf| {
                    let copy = p.parent().is_some_and(|d| d.ends_with("partner"));
                    p.starts_with(dir)
                        && p.extension().is_some_and(|e| e == "img")
                        && (!copy || *level == "partner")
                };
                kept.extend(before.iter().filter(image).cloned());
            }
        }
    }
    kept
}

/// One start: recovers (and compares with what is expected), then takes generations.
fn live(
    dir: &Path,
    keep: u32,
    life: &Life,
    memory: &Mutex<Memory>,
    started: u32,
    harmed: bool,
) -> u32 {
    let c = config(dir, keep, life.node_size);
    let nodes = RANKS / life.node_size;
    let mut stores: Vec<_> = (0..nodes).map(|n| Store::local(&c, JOB, n)).collect();
    stores.push(Store::global(&c, JOB));
    let expected = memory.lock().expect("memory").expected(started, &stores);
    // A manifest that was lost before any rank knew of the commit never was, as far as can be told.
    let ever = !memory.lock().expect("memory").manifests.is_empty();
    // A node of those that might have one is not seen from this start.
    let unseen = memory.lock().expect("memory").announced.last() > Some(&nodes);
    let known = memory.lock().expect("memory").was_known(started);
    let begun = run(RANKS, |all| {
        let session = Session::open(&c, JOB, SECRET, all).expect("open");
        let mut recovered = None;
        if started > 0 {
            let outcome = recover(&session, Wish::default(), all);
            all.barrier().expect("barrier");
            match outcome {
                Ok(Outcome::Resume(r)) => {
                    let image = ImageFile::open(&r.image, None).expect("image");
                    let mut bytes = vec![0; 8192];
                    image.read_data(0, &mut bytes).expect("data");
                    assert_eq!(bytes, pattern(r.generation, all.rank()), "a mixture");
                    recovered = Some(r);
                }
                Ok(Outcome::Fresh) => {
                    assert!(!known, "a fresh start although something was committed")
                }
                Err(e) => assert!(ever || harmed || unseen, "{e}"),
            }
        }
        let chosen = recovered.as_ref().map(|r| r.generation);
        if all.rank() == 0 && started > 0 {
            println!(
                "start {}: expected {expected:?}, chosen {chosen:?}",
                started + 1
            );
        }
        assert_eq!(chosen, expected, "start {}", started + 1);
        let beginning = Beginning {
            parent: chosen,
            program: "app".into(),
            thread_level: 0,
            restart_count: started,
        };
        let begun = session.begin(&beginning, all).expect("begin");
        if all.rank() == 0 {
            let parents = &mut memory.lock().expect("memory").parents;
            parents.insert(begun.incarnation, chosen);
        }
        if let Some(recovered) = recovered.filter(|_| life.protect) {
            protect_again(&session, &recovered).expect("protected");
        }
        all.barrier().expect("barrier");
        for (n, taken) in life.taken.iter().enumerate() {
            let id = GenerationId {
                incarnation: begun.incarnation,
                number: begun.first + n as u64,
            };
            let before = generation_files(dir);
            all.barrier().expect("barrier");
            if !take(&session, all, id, taken, memory) {
                break;
            }
            if all.rank() == 0 {
                let now: BTreeSet<_> = generation_files(dir).into_iter().collect();
                let memory = memory.lock().expect("memory");
                for path in promised(&memory, keep, begun.incarnation, &before) {
                    assert!(now.contains(&path), "{} was pruned", path.display());
                }
                let debris = now.iter().find(|p| p.to_string_lossy().contains(".tmp-"));
                assert!(debris.is_none(), "debris: {debris:?}");
            }
            all.barrier().expect("barrier");
        }
        begun.incarnation
    });
    begun[0]
}

/// 100 cases unless `PROPTEST_CASES` says otherwise.
fn configured() -> ProptestConfig {
    let mut config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = 100;
    }
    config
}

proptest! {
    #![proptest_config(configured())]

    #[test]
    fn a_restart_takes_the_newest_that_is_servable((keep, lives) in lives()) {
        // In memory where that can be: no power fails here.
        let base = Some(PathBuf::from("/dev/shm")).filter(|d| d.is_dir()).unwrap_or_else(std::env::temp_dir);
        let dir = tempfile::tempdir_in(base).expect("temporary directory");
        let memory = Mutex::new(Memory::default());
        let (mut started, mut harmed) = (0, false);
        for life in &lives {
            started = live(dir.path(), keep, life, &memory, started, harmed);
            for harm in &life.harms {
                harmed = true;
                match harm {
                    Harm::Lose(node) => {
                        let _ = fs::remove_dir_all(dir.path().join(format!("local/node{node}")));
                    }
                    Harm::Damage(file, how) => {
                        let all = generation_files(dir.path());
                        if !all.is_empty() {
                            let path = &all[*file as usize % all.len()];
                            damage(path, *how);
                            memory.lock().expect("memory").harmed.insert(path.clone());
                        }
                    }
                }
            }
        }
        // And a last start that takes nothing.
        let last = Life { node_size: 1, taken: Vec::new(), harms: Vec::new(), protect: false };
        live(dir.path(), keep, &last, &memory, started, harmed);
    }
}
