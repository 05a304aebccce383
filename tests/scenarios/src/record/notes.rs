//! `tests/coverage.txt`: why cells are blank, `[key] reason`, and why they have no `o`, `(key) reason`; then lines
//! `PATTERN [MPI]`, where both may end with `*`.

use anyhow::{Context as _, Result};

/// Reasons and the names they are for.
pub struct Notes<'a> {
    /// In the order of the file.
    pub reasons: Vec<Reason<'a>>,
    lines: Vec<(&'a str, Option<&'a str>, usize)>,
}

/// One reason.
#[derive(Clone, Copy)]
pub struct Reason<'a> {
    /// What stands in the cells.
    pub key: &'a str,
    /// The reason itself.
    pub text: &'a str,
    /// What is explained is a blank, not the want of an object.
    blank: bool,
}

impl<'a> Notes<'a> {
    /// Read the file.
    pub fn parse(text: &'a str) -> Result<Self> {
        let mut notes = Notes {
            reasons: Vec::new(),
            lines: Vec::new(),
        };
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let between = |open: char, close: char| line.strip_prefix(open)?.split_once(close);
            let blank = between('[', ']');
            if let Some((key, text)) = blank.or_else(|| between('(', ')')) {
                let (text, blank) = (text.trim(), blank.is_some());
                notes.reasons.push(Reason { key, text, blank });
                continue;
            }
            let mut words = line.split_whitespace();
            let pattern = words.next().unwrap_or_default();
            let at = notes.reasons.len().checked_sub(1);
            let at = at.with_context(|| format!("a name before the first reason: {line}"))?;
            notes.lines.push((pattern, words.next(), at));
        }
        Ok(notes)
    }

    /// The key of the reason for a blank, or for the want of an object.
    pub fn of(&self, name: &str, mpi: &str, blank: bool) -> Option<&'a str> {
        let fits = |pattern: &str, name: &str| match pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == pattern,
        };
        self.lines
            .iter()
            .filter(|(pattern, only, _)| fits(pattern, name) && only.is_none_or(|o| fits(o, mpi)))
            .filter_map(|(_, _, at)| self.reasons.get(*at))
            .find(|reason| reason.blank == blank)
            .map(|reason| reason.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_found() {
        let text = "[io] files\nMPI_File_*\nMPI_X mpich\n(side) on one side\nMPI_X\n[new] newer\nMPI_Y mpich-*\n";
        let notes = Notes::parse(text).unwrap();
        assert_eq!(notes.of("MPI_File_open", "openmpi", true), Some("io"));
        assert_eq!(notes.of("MPI_File_open", "openmpi", false), None);
        assert_eq!(notes.of("MPI_X", "openmpi", true), None);
        assert_eq!(notes.of("MPI_X", "mpich", true), Some("io"));
        assert_eq!(notes.of("MPI_X", "openmpi", false), Some("side"));
        assert_eq!(notes.of("MPI_Y", "mpich", true), None);
        assert_eq!(notes.of("MPI_Y", "mpich-5.0.2", true), Some("new"));
    }
}
