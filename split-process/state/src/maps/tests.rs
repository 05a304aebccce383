//! Tests of the parser: known lines, every line this kernel prints, and arbitrary ones.

use proptest::prelude::*;

use super::*;

const SMAPS: &str = "\
300000001000-300000003000 rw-s 00001000 00:01 1026                       /dev/zero (deleted)
Size:                  8 kB
KernelPageSize:        4 kB
MMUPageSize:           4 kB
Rss:                   4 kB
Anonymous:             0 kB
Swap:                  0 kB
THPeligible:           0
VmFlags: rd wr sh mr mw me ms dc wf 
7ffd0000-7ffe0000 rw-p 00000000 00:00 0                                  [stack]
Rss:                  12 kB
Anonymous:            12 kB
VmFlags: rd wr mr mw me gd ac 
";

#[test]
fn smaps_fields_and_flags() {
    let details = parse_details(SMAPS.as_bytes()).unwrap();
    assert_eq!(details.len(), 2);
    assert_eq!(details[0].mapping.path.as_bytes(), b"/dev/zero");
    assert!(details[0].mapping.deleted && details[0].mapping.shared);
    assert_eq!(details[0].mapping.inode, 1026);
    assert_eq!((details[0].resident, details[0].page_size), (4096, 4096));
    assert!(details[0].flags.dont_fork() && details[0].flags.wipe_on_fork());
    assert!(!details[0].flags.grows_down());
    assert!(details[1].flags.grows_down());
    assert_eq!(details[1].anonymous, 12288);
}

#[test]
fn every_line_of_this_process_is_understood() {
    let text = read("/proc/self/maps").unwrap();
    let mappings = parse(&text).unwrap();
    assert!(mappings.windows(2).all(|w| w[0].end <= w[1].start));
    for (mapping, (_, line)) in mappings.iter().zip(lines(&text)) {
        assert_eq!(mapping.to_string(), String::from_utf8_lossy(line));
    }
    let details = read_self_details().unwrap();
    assert!(details
        .iter()
        .any(|d| d.mapping.path.as_bytes() == b"[stack]"));
    assert!(details
        .iter()
        .all(|d| d.page_size >= 4096 || d.mapping.path.as_bytes() == b"[vsyscall]"));
}

#[test]
fn broken_lines_are_errors_with_their_number() {
    let good = "1000-2000 rw-p 00000000 00:00 0 ";
    for bad in [
        "2000-1000 rw-p 00000000 00:00 0 ",
        "1000-2000 rwxq 00000000 00:00 0 ",
        "1000-2000 rw- 00000000 00:00 0 ",
        "1000-2000 rw-p 00000000 00:00 x ",
        "1000-2000 rw-p  00:00 0 ",
        "+1000-2000 rw-p 00000000 00:00 0 ",
        "1000",
        "11112222333344445-2000 rw-p 00000000 00:00 0 ",
    ] {
        let text = format!("{good}\n{bad}\n");
        match parse(text.as_bytes()) {
            Err(StateError::Parse { line: 2, text, .. }) => assert_eq!(text, bad),
            other => panic!("{bad}: {other:?}"),
        }
    }
    assert!(parse_details(b"Rss: 4 kB\n").is_err());
    assert!(parse_details(format!("{good}\nRss: x kB\n").as_bytes()).is_err());
}

fn arbitrary_mapping() -> impl Strategy<Value = Mapping> {
    let place = (
        0usize..1 << 35,
        1usize..1 << 20,
        any::<[bool; 4]>(),
        0u64..1 << 40,
    );
    let file = (
        0u32..4096,
        0u32..1 << 20,
        any::<u64>(),
        "(/[^\\\\]{1,30}[^\\\\ )])?",
        any::<bool>(),
    );
    (place, file).prop_map(
        |((page, pages, bits, offset), (major, minor, inode, path, deleted))| {
            let path = path.replace('\0', "\n");
            Mapping {
                start: page << 12,
                end: (page + pages) << 12,
                read: bits[0],
                write: bits[1],
                execute: bits[2],
                shared: bits[3],
                offset,
                major,
                minor,
                inode,
                deleted: deleted && !path.is_empty(),
                path: FilePath::new(path.into_bytes()),
            }
        },
    )
}

proptest! {
    #[test]
    fn printed_mappings_parse_to_themselves(mappings in prop::collection::vec(arbitrary_mapping(), 0..8)) {
        let text: String = mappings.iter().map(|m| format!("{m}\n")).collect();
        prop_assert_eq!(parse(text.as_bytes()).unwrap(), mappings);
    }

    #[test]
    fn arbitrary_bytes_never_panic(text in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&text);
        let _ = parse_details(&text);
    }

    #[test]
    fn near_misses_never_panic(text in "[0-9a-f]{0,18}-[0-9a-f]{0,18} [rwxsp-]{0,5} [0-9a-f]{0,18} [0-9a-f:]{0,9} [0-9]{0,22} {0,9}[^\n]{0,9}\n(Rss: +[0-9]{0,22} kB\n)?(VmFlags: [a-z ]{0,20}\n)?") {
        let _ = parse(text.as_bytes());
        let _ = parse_details(text.as_bytes());
    }
}
