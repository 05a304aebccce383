//! Which slice of memory lies where in the data area.

use crate::RegionTable;

/// Slices of memory in the order of the data area, without gaps. Reading it allocates nothing and
/// does not panic: a forked child does it.
pub struct Pieces<'a> {
    /// Offset in the data area, and the bytes.
    all: Vec<(u64, &'a [u8])>,
}

impl<'a> Pieces<'a> {
    /// The memory of each run of a table that has been placed. `None` if the lengths do not fit.
    pub fn new(regions: &RegionTable, memory: &[&'a [u8]]) -> Option<Self> {
        let runs = regions.0.iter().flat_map(|r| &r.runs);
        let lengths = memory.iter().map(|m| m.len() as u64);
        if !runs.clone().map(|r| r.len).eq(lengths) {
            return None;
        }
        let mut end = 0;
        let mut all = Vec::with_capacity(memory.len());
        for (run, bytes) in runs.zip(memory) {
            if run.offset != end {
                return None;
            }
            end += run.len;
            all.push((run.offset, *bytes));
        }
        Some(Self { all })
    }

    /// Copies `len` bytes from `at` on into `buffer`. `None` if there are not so many, or the buffer is
    /// too small.
    pub fn gather<'b>(&self, at: u64, len: usize, buffer: &'b mut [u8]) -> Option<&'b [u8]> {
        let first = self
            .all
            .partition_point(|(offset, bytes)| offset + bytes.len() as u64 <= at);
        let rest = self.all.get(first..)?;
        let out = buffer.get_mut(..len)?;
        let mut filled = 0;
        for (offset, bytes) in rest {
            if filled == len {
                break;
            }
            let from = (at + filled as u64).checked_sub(*offset)? as usize;
            let left = bytes.get(from..)?;
            let n = left.len().min(len - filled);
            out.get_mut(filled..filled + n)?
                .copy_from_slice(left.get(..n)?);
            filled += n;
        }
        (filled == len).then_some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{RegionRecord, RunRecord};

    #[test]
    fn chunks_are_gathered_across_pieces() {
        let memory: Vec<Vec<u8>> = [1usize, 3, 2]
            .iter()
            .enumerate()
            .map(|(i, pages)| vec![i as u8 + 1; pages * 4096])
            .collect();
        let runs = memory.iter().map(|m| RunRecord {
            start: 0,
            len: m.len() as u64,
            offset: 0,
        });
        let mut table = RegionTable(vec![RegionRecord {
            start: 0,
            len: 0,
            prot: 3,
            kind: 0,
            name: vec![],
            runs: runs.collect(),
        }]);
        let slices: Vec<&[u8]> = memory.iter().map(Vec::as_slice).collect();
        assert!(Pieces::new(&table, &slices).is_none(), "not placed yet");
        assert_eq!(table.place(), 6 * 4096);
        assert!(Pieces::new(&table, &slices[1..]).is_none());
        let pieces = Pieces::new(&table, &slices).expect("fits");
        let whole = memory.concat();
        let mut buffer = vec![0; 4 * 4096];
        for (at, len) in [(0, 4 * 4096), (4096, 4096), (4096 * 2, 4096 * 4), (100, 9)] {
            let found = pieces.gather(at, len, &mut buffer).expect("there");
            assert_eq!(found, &whole[at as usize..at as usize + len]);
        }
        assert!(pieces.gather(4096 * 5, 4096 * 2, &mut buffer).is_none());
        assert!(pieces.gather(0, 4096 * 5, &mut buffer).is_none(), "no room");
    }
}
