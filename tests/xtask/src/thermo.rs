//! The thermodynamic output of LAMMPS: what must be the same after a node was lost.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{bail, Context as _, Result};

/// The rows of a log's table, as written.
#[derive(Debug, PartialEq, Eq)]
pub struct Table {
    rows: Vec<String>,
}

/// Where two tables differ first.
#[derive(Debug)]
pub struct Difference {
    row: usize,
    undisturbed: String,
    other: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "row {}:\n  undisturbed: {}\n  with a loss: {}",
            self.row, self.undisturbed, self.other
        )
    }
}

impl Table {
    /// From a log file that must be complete.
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    fn parse(text: &str) -> Result<Self> {
        let mut rows = Vec::new();
        let mut inside = false;
        for line in text.lines() {
            let line = line.trim();
            if line.starts_with("Step ") {
                inside = true;
            } else if line.starts_with("Loop time") {
                return if rows.is_empty() {
                    bail!("the table has no rows")
                } else {
                    Ok(Self { rows })
                };
            } else if inside {
                rows.push(line.to_owned());
            }
        }
        bail!("the run did not end ('Loop time' is missing)")
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// The last row.
    pub fn last(&self) -> &str {
        self.rows.last().map_or("", String::as_str)
    }

    /// The first difference to another table, digit by digit.
    pub fn difference(&self, other: &Self) -> Option<Difference> {
        let longest = self.rows.len().max(other.rows.len());
        let row = |table: &Self, i: usize| {
            table
                .rows
                .get(i)
                .cloned()
                .unwrap_or_else(|| "(no such row)".into())
        };
        (0..longest)
            .find(|i| self.rows.get(*i) != other.rows.get(*i))
            .map(|i| Difference {
                row: i + 1,
                undisturbed: row(self, i),
                other: row(other, i),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "Setting up\n   Step Temp\n 0 1.5\n 50 1.25\nLoop time of 3 on 4 procs\n";

    #[test]
    fn only_the_table_counts() {
        let a = Table::parse(LOG).expect("complete");
        let b = Table::parse(&LOG.replace("time of 3", "time of 9")).expect("complete");
        assert_eq!(a.len(), 2);
        assert!(a.difference(&b).is_none());
    }

    #[test]
    fn one_digit_and_one_row_are_differences() {
        let a = Table::parse(LOG).expect("complete");
        let digit = Table::parse(&LOG.replace("1.25", "1.26")).expect("complete");
        assert_eq!(a.difference(&digit).map(|d| d.row), Some(2));
        let row = Table::parse(&LOG.replace(" 50 1.25\n", "")).expect("complete");
        assert!(a.difference(&row).is_some());
        assert!(Table::parse("Step Temp\n0 1\n").is_err());
    }
}
