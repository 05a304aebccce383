//! Round trips, and that no damage goes unnoticed.

use mana_image::{
    hash, FormatError, Header, Layout, RegionRecord, RegionTable, RunRecord, SectionKind, Sections,
    HEADER_LEN,
};
use proptest::prelude::*;

fn header(meta_len: u64, data_len: u64) -> Header {
    let l = Layout::new(meta_len, data_len);
    Header {
        job: "4711".into(),
        rank: 2,
        size: 4,
        incarnation: 3,
        generation: 12,
        created: 1,
        meta: l.meta,
        data: l.data,
        index: l.index.0,
        total: l.total,
        meta_hash: hash(b"meta"),
        index_hash: hash(b"index"),
    }
}

proptest! {
    #[test]
    fn header_round_trip(meta in 0u64..1 << 30, pages in 0u64..1 << 30) {
        let h = header(meta, pages * 4096);
        prop_assert_eq!(Header::parse(&h.encode(), h.total), Ok(h));
    }

    #[test]
    fn any_flipped_bit_of_the_header_is_noticed(at in 0usize..HEADER_LEN as usize * 8) {
        let h = header(100, 8192);
        let mut bytes = h.encode();
        bytes[at / 8] ^= 1 << (at % 8);
        prop_assert!(Header::parse(&bytes, h.total).is_err());
    }

    #[test]
    fn any_other_file_length_is_noticed(len in 0u64..1 << 20) {
        let h = header(100, 8192);
        prop_assume!(len != h.total);
        prop_assert!(Header::parse(&h.encode(), len).is_err());
    }

    #[test]
    fn parsers_take_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let _ = Sections::parse(&bytes);
        let _ = RegionTable::parse(&bytes, 1 << 30);
        let _ = Header::parse(&bytes, bytes.len() as u64);
    }

    #[test]
    fn sections_round_trip(all in prop::collection::vec((any::<[u8; 8]>(), prop::collection::vec(any::<u8>(), 0..300)), 0..8)) {
        let mut s = Sections::default();
        for (kind, bytes) in all {
            s.push(SectionKind(kind), bytes);
        }
        let block = s.encode();
        prop_assert_eq!(block.len() as u64, s.encoded_len());
        prop_assert_eq!(Sections::parse(&block), Ok(s));
    }

    #[test]
    fn regions_round_trip(sizes in prop::collection::vec((1u64..20, 0u64..10), 0..20)) {
        let mut at = 0x3000_0000_0000;
        let mut table = RegionTable::default();
        for (pages, skip) in sizes {
            let mid = pages / 2 * 4096;
            let mut runs = vec![RunRecord { start: at + mid, len: pages * 4096 - mid, offset: 0 }];
            if mid > 4096 {
                runs.insert(0, RunRecord { start: at, len: 4096, offset: 0 });
            }
            table.0.push(RegionRecord { start: at, len: pages * 4096, prot: 3, kind: 0, name: b"[heap]".to_vec(), runs });
            at += (pages + skip) * 4096;
        }
        let len = table.place();
        prop_assert_eq!(RegionTable::parse(&table.encode(), len), Ok(table.clone()));
        if len > 0 {
            prop_assert!(RegionTable::parse(&table.encode(), len - 4096).is_err());
        }
    }
}

#[test]
fn another_version_is_named() {
    let h = header(0, 0);
    let mut bytes = h.encode();
    bytes[8] = 9;
    let found = Header::parse(&bytes, h.total);
    assert_eq!(
        found,
        Err(FormatError::Version {
            found: 9,
            expected: 1
        })
    );
}
