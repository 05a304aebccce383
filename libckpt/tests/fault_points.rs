//! `MANA_FAULT`: the process kills itself at the point named, and what it leaves is what the step was
//! worth. This program runs itself again as the one that dies.

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use libckpt::collective::Single;
use libckpt::image_file::ImageContent;
use libckpt::records::End;
use libckpt::recovery::{recover, Outcome, Wish};
use libckpt::session::{Beginning, Session};
use libckpt::simulation::configuration;
use libckpt::{Config, GenerationId, Level};
use mana_image::{RegionTable, Sections};

/// Directory of the life to be lived; only in the process that is to die.
const DIRECTORY: &str = "LIBCKPT_TEST_DIRECTORY";

fn config(dir: &Path) -> Config {
    configuration(dir, &[("keep", "1")]).expect("configuration")
}

fn open(dir: &Path) -> Session {
    Session::open(&config(dir), "j", [1; 32], &Single).expect("open")
}

/// Three generations and a normal end, of one rank. Does nothing unless started by the other test.
#[test]
fn life() {
    let Some(dir) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let session = open(Path::new(&dir));
    let beginning = Beginning {
        parent: None,
        program: "app".into(),
        thread_level: -1,
        restart_count: 0,
    };
    session.begin(&beginning, &Single).expect("begin");
    for number in 1..=3 {
        let id = GenerationId {
            incarnation: 1,
            number,
        };
        let content = ImageContent {
            sections: Sections::default(),
            regions: RegionTable::default(),
            memory: Vec::new(),
        };
        let report = session.write_image(id, content).expect("image");
        session.announce(id).expect("announced");
        session
            .commit(id, Level::Global, &[report])
            .expect("commit");
        for level in [Level::Local, Level::Global] {
            session.level_work(id, level, report).expect("level work");
            session.complete(id, level).expect("complete");
        }
        session.prune(1, &[]).expect("prune");
    }
    session.record_end(1, &End::Finished).expect("recorded");
    session.clean_up(1).expect("cleaned up");
}

fn dies_at(point: &str, dir: &Path) {
    let mut child = Command::new(std::env::current_exe().expect("own path"));
    child.args(["--exact", "life", "--test-threads=1"]);
    child.env(DIRECTORY, dir).env("MANA_FAULT", point);
    child.stdout(Stdio::null()).stderr(Stdio::null());
    let ended = child.status().expect("started");
    assert_eq!(ended.signal(), Some(9), "{point}: {ended}");
}

#[test]
fn a_named_point_kills_and_leaves_what_was_committed() {
    for (point, expected) in [
        ("image.before", None),
        ("commit.before", None),
        ("commit.after", Some(1)),
        ("image.before:2", Some(1)),
        ("image.after:2@0", Some(1)),
        ("commit.before:2", Some(1)),
        ("commit.after:2", Some(2)),
        ("complete.before:3", Some(2)),
        ("complete.after:3", Some(2)),
        ("global.before:2", Some(2)),
        ("global.after:2", Some(2)),
        ("prune.before", Some(2)),
        ("prune.after:2", Some(2)),
        ("store.delete:4", Some(2)),
        ("complete.after:6", Some(3)),
        ("end.before", Some(3)),
    ] {
        let dir = tempfile::tempdir().expect("temporary directory");
        dies_at(point, dir.path());
        let found = recover(&open(dir.path()), Wish::default(), &Single).expect("recover");
        let chosen = match found {
            Outcome::Fresh => None,
            Outcome::Resume(r) => Some(r.generation.number),
        };
        println!("{point}: expected {expected:?}, chosen {chosen:?}");
        assert_eq!(chosen, expected, "{point}");
    }
}
