//! The region table: which memory an image holds and where its pages lie in the data area.

use crate::{FormatError, Reader, Writer, PAGE};

/// A run of pages with content. Pages of a region outside its runs are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunRecord {
    /// First address.
    pub start: u64,
    /// Bytes, a multiple of [`PAGE`].
    pub len: u64,
    /// Offset from the start of the data area.
    pub offset: u64,
}

/// One mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionRecord {
    /// First address.
    pub start: u64,
    /// Bytes, a multiple of [`PAGE`].
    pub len: u64,
    /// `PROT_READ | PROT_WRITE | PROT_EXEC` bits as in mmap(2).
    pub prot: u32,
    /// What it was made from, as the split process numbers it.
    pub kind: u32,
    /// Its name in `/proc/PID/maps`, for people.
    pub name: Vec<u8>,
    /// Its pages, ascending.
    pub runs: Vec<RunRecord>,
}

/// All of them, ascending.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegionTable(pub Vec<RegionRecord>);

impl RegionTable {
    /// Gives each run its place in the data area, in order. Returns the bytes of data.
    pub fn place(&mut self) -> u64 {
        let mut at = 0;
        for run in self.0.iter_mut().flat_map(|r| &mut r.runs) {
            run.offset = at;
            at += run.len;
        }
        at
    }

    /// The section's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u32(self.0.len() as u32);
        w.u32(0);
        for region in &self.0 {
            w.u64(region.start);
            w.u64(region.len);
            w.u32(region.prot);
            w.u32(region.kind);
            w.text(&region.name);
            w.u32(region.runs.len() as u32);
            for run in &region.runs {
                w.u64(run.start);
                w.u64(run.len);
                w.u64(run.offset);
            }
        }
        w.finish()
    }

    /// Reads the section. `data_len` bounds the runs.
    ///
    /// # Errors
    /// When it is not such a section, or a run lies outside its region or the data.
    pub fn parse(bytes: &[u8], data_len: u64) -> Result<Self, FormatError> {
        let mut r = Reader::new(bytes, "region table");
        let count = r.u32()?;
        r.u32()?;
        let mut all = Vec::new();
        let value = |what, value| FormatError::Value { what, value };
        for _ in 0..count {
            let (start, len) = (r.u64()?, r.u64()?);
            let end = start.checked_add(len).ok_or(value("region length", len))?;
            let (prot, kind) = (r.u32()?, r.u32()?);
            if prot > 7 || start % PAGE != 0 || len % PAGE != 0 {
                return Err(value("region start", start));
            }
            let name = r.text()?.to_vec();
            let n = r.u32()?;
            let mut runs = Vec::new();
            let mut from = start;
            for _ in 0..n {
                let run = RunRecord {
                    start: r.u64()?,
                    len: r.u64()?,
                    offset: r.u64()?,
                };
                let run_end = run
                    .start
                    .checked_add(run.len)
                    .ok_or(value("run length", run.len))?;
                if run.start < from
                    || run_end > end
                    || (run.start | run.len | run.offset) % PAGE != 0
                {
                    return Err(value("run start", run.start));
                }
                if run.offset.checked_add(run.len).is_none_or(|e| e > data_len) {
                    return Err(value("run offset", run.offset));
                }
                from = run_end;
                runs.push(run);
            }
            all.push(RegionRecord {
                start,
                len,
                prot,
                kind,
                name,
                runs,
            });
        }
        Ok(Self(all))
    }
}
