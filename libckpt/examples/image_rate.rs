//! Rate of the image writer and the verifier beside `dd oflag=direct` of the same bytes, alternating, on
//! the storage of a directory: `cargo run --release -p libckpt --example image_rate -- DIR [MiB [PAIRS]]`.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use libckpt::image_file::{verify, write, ImageContent, ImageName};
use libckpt::GenerationId;
use mana_image::{RegionRecord, RegionTable, RunRecord, Sections};

fn rate(bytes: u64, body: impl FnOnce()) -> f64 {
    let since = Instant::now();
    body();
    bytes as f64 / since.elapsed().as_secs_f64() / 1e9
}

fn median(all: &mut [f64]) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

fn image(path: &Path, memory: &[u8]) {
    let name = ImageName {
        job: "rate".into(),
        generation: GenerationId {
            incarnation: 1,
            number: 1,
        },
        rank: 0,
        size: 1,
    };
    // Regions as a program has them: a large one, and many small ones.
    let small = 64 << 10;
    let mut regions = Vec::new();
    let mut slices = Vec::new();
    let (mut at, mut start) = (0, 0x3000_0000_0000);
    while at < memory.len() {
        let len = if at < memory.len() / 16 {
            small
        } else {
            memory.len() - at
        };
        let run = RunRecord {
            start,
            len: len as u64,
            offset: 0,
        };
        regions.push(RegionRecord {
            start,
            len: len as u64,
            prot: 3,
            kind: 0,
            name: Vec::new(),
            runs: vec![run],
        });
        slices.push(&memory[at..at + len]);
        at += len;
        start += len as u64 + 4096;
    }
    let content = ImageContent {
        sections: Sections::default(),
        regions: RegionTable(regions),
        memory: slices,
    };
    write(path, &name, content).expect("image");
}

fn main() {
    let mut args = std::env::args().skip(1);
    let dir = args.next().expect("usage: image_rate DIR [MiB [PAIRS]]");
    let mib: usize = args.next().map_or(1024, |a| a.parse().expect("MiB"));
    let pairs: usize = args.next().map_or(5, |a| a.parse().expect("pairs"));
    let bytes = (mib << 20) as u64;
    let mut memory = vec![0u8; (mib << 20) + 4096];
    let start = memory.as_ptr().align_offset(4096);
    let memory = &mut memory[start..start + (mib << 20)];
    for (n, word) in memory.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&(n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    }
    let (ours, theirs) = (
        Path::new(&dir).join("rate.img"),
        Path::new(&dir).join("rate.dd"),
    );
    let (mut a, mut b, mut c) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..pairs {
        let dd = rate(bytes, || {
            let done = Command::new("dd")
                .args([
                    "if=/dev/zero",
                    "bs=4M",
                    "oflag=direct",
                    "conv=fsync",
                    "status=none",
                ])
                .arg(format!("of={}", theirs.display()))
                .arg(format!("count={}", mib / 4))
                .status();
            assert!(done.expect("dd").success());
        });
        let _ = std::fs::remove_file(&theirs);
        let written = rate(bytes, || image(&ours, memory));
        let verified = rate(bytes, || {
            let name = ImageName {
                job: "rate".into(),
                generation: GenerationId {
                    incarnation: 1,
                    number: 1,
                },
                rank: 0,
                size: 1,
            };
            verify(&ours, &name, None).expect("intact");
        });
        let _ = std::fs::remove_file(&ours);
        println!("dd {dd:.2} GB/s, image {written:.2} GB/s, verified {verified:.2} GB/s");
        a.push(dd);
        b.push(written);
        c.push(verified);
    }
    let (dd, written, verified) = (median(&mut a), median(&mut b), median(&mut c));
    println!(
        "median of {pairs}: dd {dd:.2} GB/s, image {written:.2} GB/s ({:.0} %), verified {verified:.2} GB/s",
        100.0 * written / dd
    );
}
