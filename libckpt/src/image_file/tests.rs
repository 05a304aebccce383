use std::path::PathBuf;

use mana_image::{RegionRecord, RegionTable, RunRecord, SectionKind, Sections};

use super::*;
use crate::{Error, GenerationId};

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

/// Runs of these many pages, and the memory they describe.
fn sample(pages: &[u64]) -> (RegionTable, Vec<Vec<u8>>) {
    let mut table = RegionTable::default();
    let mut memory = Vec::new();
    let mut at = 0x3000_1000_0000;
    for (i, &n) in pages.iter().enumerate() {
        let run = RunRecord {
            start: at,
            len: n * 4096,
            offset: 0,
        };
        table.0.push(RegionRecord {
            start: at,
            len: n * 4096 + 4096,
            prot: 3,
            kind: 0,
            name: vec![],
            runs: vec![run],
        });
        memory.push((0..n * 4096).map(|b| (b * 7 + i as u64) as u8).collect());
        at += n * 4096 + 8192;
    }
    (table, memory)
}

fn written(dir: &tempfile::TempDir, pages: &[u64]) -> (PathBuf, ImageReport, Vec<Vec<u8>>) {
    let (regions, memory) = sample(pages);
    let mut sections = Sections::default();
    sections.push(SectionKind::MPI, b"state".to_vec());
    let path = dir.path().join("gen-1.2/rank-0.img");
    let content = ImageContent {
        sections,
        regions,
        memory: memory.iter().map(Vec::as_slice).collect(),
    };
    let report = write(&path, &name(), content).expect("written");
    (path, report, memory)
}

#[test]
fn what_is_written_is_read() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (path, report, memory) = written(&dir, &[1, 3, 2000, 1, 5]);
    let image = verify(&path, &name(), Some(report)).expect("intact");
    assert_eq!(
        image.sections().need(SectionKind::MPI).expect("there"),
        b"state"
    );
    for (region, expected) in image.regions().0.iter().zip(&memory) {
        let run = region.runs[0];
        let mut bytes = vec![0; run.len as usize];
        image.read_data(run.offset, &mut bytes).expect("read");
        assert!(bytes == *expected, "run at {:x}", run.start);
    }
    let left: Vec<_> = std::fs::read_dir(path.parent().expect("dir"))
        .expect("list")
        .flatten()
        .collect();
    assert_eq!(left.len(), 1, "no debris");
}

#[test]
fn every_kind_of_damage_is_noticed() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (path, report, _) = written(&dir, &[1, 2, 1100]);
    let good = std::fs::read(&path).expect("read");
    let step = good.len() / 57;
    for at in (0..good.len()).step_by(step).chain([good.len() - 1]) {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        std::fs::write(&path, &bad).expect("write");
        let found = verify(&path, &name(), Some(report));
        // Padding between sections and data is not covered, and not read.
        let covered = !(4096 + 8 + 24 * 2..8192).contains(&at);
        assert!(found.is_err() || !covered, "byte {at}");
    }
    for len in [0, 1, 4095, 4096, good.len() / 2, good.len() - 1] {
        std::fs::write(&path, &good[..len]).expect("write");
        assert!(
            matches!(
                verify(&path, &name(), Some(report)),
                Err(Error::Corrupt { .. })
            ),
            "length {len}"
        );
        assert!(verify(&path, &name(), None).is_err(), "length {len}");
    }
    std::fs::remove_file(&path).expect("delete");
    assert!(matches!(
        verify(&path, &name(), Some(report)),
        Err(Error::Missing { .. })
    ));
}

#[test]
fn another_rank_or_generation_is_refused() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (path, report, _) = written(&dir, &[]);
    for other in [
        ImageName {
            job: "k".into(),
            ..name()
        },
        ImageName { size: 2, ..name() },
    ] {
        assert!(matches!(
            verify(&path, &other, Some(report)),
            Err(Error::Incompatible { .. })
        ));
    }
}
