use mana_image::{RegionTable, Sections};

use super::*;
use crate::image_file::{write, ImageContent};
use crate::store::Store;

const SECRET: Secret = [7; 32];

fn mark() -> crate::session::Mark {
    std::sync::Arc::new("j".to_owned().into())
}

fn image(dir: &Path) -> (ImageName, ImageReport, std::path::PathBuf) {
    let name = ImageName {
        job: "j".into(),
        generation: GenerationId {
            incarnation: 1,
            number: 1,
        },
        rank: 1,
        size: 2,
    };
    let path = dir.join("own.img");
    let mut sections = Sections::default();
    sections.push(mana_image::SectionKind::MPI, vec![3; 3 << 20]);
    let content = ImageContent {
        sections,
        regions: RegionTable::default(),
        memory: vec![],
    };
    let report = write(&path, &name, content).expect("written");
    (name, report, path)
}

#[test]
fn there_and_back_and_nothing_unverified() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (name, report, path) = image(dir.path());
    let store = Store::at(dir.path().join("peer"));
    let server = Server::start(store.clone(), mark(), SECRET, true).expect("server");
    put(server.addresses(), &SECRET, &path, &name, report).expect("put");
    let kept = store.image(name.generation, 1, Copy::Partner);
    assert_eq!(
        std::fs::read(&kept).expect("kept"),
        std::fs::read(&path).expect("own")
    );
    let back = dir.path().join("back/rank-1.img");
    get(
        server.addresses(),
        &SECRET,
        Copy::Partner,
        &back,
        &name,
        report,
    )
    .expect("get");
    verify(&back, &name, Some(report)).expect("intact");

    let mut bad = std::fs::read(&kept).expect("read");
    bad[5000] ^= 1;
    std::fs::write(&kept, bad).expect("write");
    let other = dir.path().join("other.img");
    assert!(get(
        server.addresses(),
        &SECRET,
        Copy::Partner,
        &other,
        &name,
        report
    )
    .is_err());
    assert!(get(
        server.addresses(),
        &SECRET,
        Copy::Own,
        &other,
        &name,
        report
    )
    .is_err());
    assert!(!other.exists());
}

#[test]
fn the_secret_is_needed() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (name, report, path) = image(dir.path());
    let server =
        Server::start(Store::at(dir.path().join("peer")), mark(), SECRET, true).expect("server");
    let refused =
        put(server.addresses(), &[8; 32], &path, &name, report).expect_err("wrong secret");
    assert!(refused.to_string().contains("secret"), "{refused}");
    assert!(!dir.path().join("peer").exists());
}

/// Two nodes with an address in common, as far as one of them is concerned.
#[test]
fn another_node_at_the_address_is_passed_over() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (name, report, path) = image(dir.path());
    let start = |node: u32| {
        let store = Store::at(dir.path().join(node.to_string()));
        Server::start(store, mark(), secret_of(&SECRET, node), true).expect("server")
    };
    let (wrong, right) = (start(1), start(2));
    let both = [wrong.addresses().clone(), right.addresses().clone()].concat();
    put(&both, &secret_of(&SECRET, 2), &path, &name, report).expect("put");
    assert!(!dir.path().join("1").exists() && dir.path().join("2").exists());
    let lost = put(
        wrong.addresses(),
        &secret_of(&SECRET, 2),
        &path,
        &name,
        report,
    );
    let text = lost.expect_err("the other one").to_string();
    assert!(text.contains("another node"), "{text}");
}
