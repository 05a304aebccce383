//! The pages of `docs/` that say what was recorded: a line for each procedure, four columns for each MPI. They are
//! also read again: what only some scenarios record is added to what a page has.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anyhow::Result;

use super::notes::Notes;
use super::{has_object, table, Key, Mark, CHECKPOINTED, COLUMNS};
use crate::mpi::{fetched, Mpi};

/// A page and the MPIs that have columns on it.
pub struct Page {
    /// Its name in `docs/`.
    pub file: &'static str,
    /// Title and first paragraph.
    head: &'static str,
    /// In the order of the columns.
    pub mpis: Vec<Mpi>,
}

/// One for the system's MPIs, and one for the fetched ones of each family.
pub fn pages() -> [Page; 3] {
    let of_family = |family| fetched().filter(|mpi| mpi.family() == family).collect();
    [
        Page {
            file: "coverage.md",
            head: SYSTEM,
            mpis: Mpi::ALL.to_vec(),
        },
        Page {
            file: "coverage-openmpi.md",
            head: OPEN_MPI,
            mpis: of_family(Mpi::OpenMpi),
        },
        Page {
            file: "coverage-mpich.md",
            head: MPICH,
            mpis: of_family(Mpi::Mpich),
        },
    ]
}

const SYSTEM: &str = "# Coverage

Which MPI procedures the test programs call, on which MPI, in which kind of run. Recorded by the runs: `cargo xtask coverage` writes
this page. Every program checks what it gets, and its result is compared with that of a native run; a run that fails records nothing.
";

const OPEN_MPI: &str = "# Coverage of other releases of Open MPI

As [coverage.md](coverage.md), with the releases of Open MPI that the tests fetch from the Python package index. Recorded by the runs:
`cargo xtask coverage --only fetched/` writes this page. Which procedures a release has is taken from its library. Programs in C++ and
Fortran are built with the system's MPI, and run on these under mana only.
";

const MPICH: &str = "# Coverage of other releases of MPICH, and of Intel MPI

As [coverage.md](coverage.md), with the MPIs of MPICH's ABI that the tests fetch from the Python package index. Recorded by the runs:
`cargo xtask coverage --only fetched/` writes this page. Which procedures a release has is taken from its library. Programs in C++ and
Fortran are built with the system's MPI, and run on these under mana only.
";

const LEGEND: &str = "
| sign | means |
|---|---|
| x | called; in runs with checkpoints: before one and after one |
| o | it made, or worked on, an object that was made before a checkpoint and used after it; procedures without objects have no more than x |
| b, a | called before a checkpoint only, after one only |
| . | this MPI does not have it |
| a word in brackets | why there is nothing, or no o: see the notes at the end |

The columns of each MPI: native, under mana, with checkpoints (\"continue\"), killed and resumed (\"resume\").
";

/// The line about procedures of an MPI that have no row begins so, and goes on with its name.
const BEYOND: &str = "Not in the table, and so not under mana: of ";

/// What is known of some MPIs.
#[derive(Debug, Default, PartialEq)]
pub struct Known {
    /// What was recorded.
    pub marks: BTreeMap<Key, Mark>,
    /// The procedures each of them has.
    pub exports: BTreeMap<&'static str, BTreeSet<String>>,
}

impl Known {
    /// A mark, unless there is a greater one.
    pub fn add(&mut self, key: Key, mark: Mark) {
        let known = self.marks.entry(key).or_insert(mark);
        *known = (*known).max(mark);
    }

    /// Add what was known `earlier` of some MPIs.
    pub fn keep(&mut self, earlier: Self, of: impl Fn(&str) -> bool) {
        for (key, mark) in earlier.marks {
            if of(key.1) {
                self.add(key, mark);
            }
        }
        for (mpi, procedures) in earlier.exports {
            if of(mpi) {
                self.exports.entry(mpi).or_insert(procedures);
            }
        }
    }

    fn recorded(&self, mpi: Mpi) -> bool {
        self.marks.keys().any(|(_, of, _)| *of == mpi.name())
    }
}

/// The numbers at the end of a page.
#[derive(Default)]
struct Numbers {
    full: u32,
    explained: u32,
    blank: u32,
    without: u32,
    excused: u32,
}

impl Page {
    /// What the page says.
    pub fn read(&self, text: &str) -> Known {
        let mut known = Known::default();
        let mut columns = Vec::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix(BEYOND) {
                if let Some((mpi, names)) = rest.split_once(": ") {
                    if let Some(mpi) = self.mpis.iter().find(|m| m.name() == mpi) {
                        let names = names.split(", ").map(str::to_owned);
                        known.exports.entry(mpi.name()).or_default().extend(names);
                    }
                }
                continue;
            }
            let mut cells = line.trim_matches('|').split('|').map(str::trim);
            let name = cells.next().unwrap_or_default();
            if name == "procedure" {
                columns = cells.map(|cell| self.column(cell)).collect();
                continue;
            }
            if !line.starts_with("| MPI") {
                continue;
            }
            for (cell, column) in cells.zip(&columns) {
                let Some((mpi, column)) = *column else {
                    continue;
                };
                if cell != "." {
                    let exports = known.exports.entry(mpi).or_default();
                    exports.insert(name.to_owned());
                }
                if let Some(mark) = mark_in(cell, column) {
                    known.add((name.to_owned(), mpi, column), mark);
                }
            }
        }
        known
    }

    /// `openmpi mana` at the head of a column.
    fn column(&self, cell: &str) -> Option<(&'static str, &'static str)> {
        let (mpi, word) = cell.split_once(' ')?;
        let mpi = self.mpis.iter().find(|m| m.name() == mpi)?;
        let column = COLUMNS.into_iter().find(|column| title(column) == word)?;
        Some((mpi.name(), column))
    }

    /// The page that says what is `known`.
    pub fn text(&self, known: &Known, notes: &str) -> Result<String> {
        let notes = Notes::parse(notes)?;
        let table = table()?;
        let mut out = format!("{}{LEGEND}", self.head);
        let (mpis, rest): (Vec<Mpi>, Vec<Mpi>) =
            self.mpis.iter().partition(|mpi| known.recorded(**mpi));
        if !rest.is_empty() {
            let names: Vec<_> = rest.iter().map(|mpi| mpi.name()).collect();
            writeln!(out, "\nNot recorded yet: {}.", names.join(", "))?;
        }
        let (mut numbers, mut used, mut bare) =
            (Numbers::default(), BTreeSet::new(), BTreeSet::new());
        let mut chapter = "";
        for p in &table {
            if p.chapter != chapter {
                chapter = &p.chapter;
                write!(out, "\n## {chapter}\n| procedure |")?;
                for mpi in &mpis {
                    for column in COLUMNS {
                        write!(out, " {} {} |", mpi.name(), title(column))?;
                    }
                }
                writeln!(out, "\n|---|{}", "---|".repeat(mpis.len() * COLUMNS.len()))?;
            }
            write!(out, "| {} |", p.name)?;
            for mpi in mpis.iter().map(|mpi| mpi.name()) {
                let exported = known
                    .exports
                    .get(mpi)
                    .is_some_and(|has| has.contains(&p.name));
                for column in COLUMNS {
                    let mark = known.marks.get(&(p.name.clone(), mpi, column));
                    let why = notes.of(&p.name, mpi, mark.is_none());
                    let lacks = CHECKPOINTED.contains(&column) && has_object(p);
                    let lacks = lacks && mark.is_some_and(|mark| *mark < Mark::Object);
                    let cell = match (mark, why) {
                        _ if !exported => ".".to_owned(),
                        (Some(mark), Some(why)) if lacks => {
                            numbers.full += 1;
                            numbers.excused += 1;
                            used.insert(why);
                            format!("{} ({why})", mark.sign())
                        }
                        (Some(mark), _) => {
                            numbers.full += 1;
                            numbers.without += u32::from(lacks);
                            if lacks {
                                bare.insert(p.name.as_str());
                            }
                            mark.sign().to_owned()
                        }
                        (None, Some(why)) => {
                            numbers.explained += 1;
                            used.insert(why);
                            format!("({why})")
                        }
                        (None, None) => {
                            numbers.blank += 1;
                            "?".to_owned()
                        }
                    };
                    write!(out, " {cell} |")?;
                }
            }
            out.push('\n');
        }
        out.push_str("\n## Notes\n");
        for reason in notes.reasons.iter().filter(|r| used.contains(r.key)) {
            writeln!(out, "- ({}): {}", reason.key, reason.text)?;
        }
        let rows: BTreeSet<&str> = table.iter().map(|p| p.name.as_str()).collect();
        for mpi in mpis.iter().map(|mpi| mpi.name()) {
            let has = known.exports.get(mpi).into_iter().flatten();
            let beyond: Vec<_> = has
                .map(String::as_str)
                .filter(|n| !rows.contains(n))
                .collect();
            if !beyond.is_empty() {
                write!(out, "\n{BEYOND}{mpi}: {}\n", beyond.join(", "))?;
            }
        }
        let Numbers {
            full,
            explained,
            blank,
            without,
            excused,
        } = numbers;
        writeln!(
            out,
            "\n{full} cells recorded, {explained} explained, {blank} blank. Of those with checkpoints, of procedures with objects,\n\
             {without} have no o{}, {excused} more have a reason for that.",
            match bare.is_empty() {
                true => String::new(),
                false => format!(
                    " ({})",
                    bare.iter().copied().collect::<Vec<_>>().join(", ")
                ),
            }
        )?;
        Ok(out)
    }
}

/// A kind of run at the head of a column.
fn title(column: &str) -> &str {
    if column == "plain" {
        "mana"
    } else {
        column
    }
}

/// What a cell shows.
fn mark_in(cell: &str, column: &str) -> Option<Mark> {
    match cell.split_whitespace().next()? {
        "x" if CHECKPOINTED.contains(&column) => Some(Mark::Across),
        "x" => Some(Mark::Called),
        "o" => Some(Mark::Object),
        "b" => Some(Mark::Before),
        "a" => Some(Mark::After),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTES: &str = include_str!("../../../coverage.txt");

    /// The pages in the tree.
    fn in_tree() -> impl Iterator<Item = (Page, String)> {
        let docs = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs"));
        pages().into_iter().map(|page| {
            let path = docs.join(page.file);
            let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
            (page, text)
        })
    }

    #[test]
    fn a_page_is_read_again() {
        for (page, text) in in_tree() {
            let again = page.text(&page.read(&text), NOTES).unwrap();
            assert!(again == text, "{} is not what was recorded", page.file);
        }
    }

    /// The pages in the tree have every procedure of the table, and no blank.
    #[test]
    fn the_page_is_complete() {
        for (page, text) in in_tree() {
            let rows: BTreeMap<&str, &str> = text
                .lines()
                .filter_map(|l| l.strip_prefix("| MPI")?.split_once(" |"))
                .collect();
            for p in table().unwrap() {
                let row = rows.get(p.name.trim_start_matches("MPI"));
                let row = row.unwrap_or_else(|| panic!("{} is not in {}", p.name, page.file));
                let (name, file) = (&p.name, page.file);
                assert!(!row.contains(" ? "), "{name}: a blank in {file}");
            }
        }
    }

    #[test]
    fn only_some_are_kept() {
        let page = &pages()[0];
        let text = "| procedure | openmpi native | openmpi mana | mpich native | mpich resume |\n\
                    | MPI_A | x | ? | . | . |\n| MPI_B | x | x | (why) | o |\n\
                    Not in the table, and so not under mana: of openmpi: MPIX_C, MPIX_D\n";
        let read = page.read(text);
        let has = |mpi: &str, name: &str| read.exports[mpi].contains(name);
        assert!(has("openmpi", "MPI_A") && has("openmpi", "MPIX_D") && has("mpich", "MPI_B"));
        assert!(!has("mpich", "MPI_A"));
        let mut known = Known::default();
        known.add(("MPI_B".into(), "mpich", "native"), Mark::Called);
        known.keep(read, |mpi| mpi == "mpich");
        let marks: Vec<_> = known.marks.into_iter().collect();
        assert_eq!(
            marks,
            [
                (("MPI_B".into(), "mpich", "native"), Mark::Called),
                (("MPI_B".into(), "mpich", "resume"), Mark::Object),
            ]
        );
        assert!(known.exports.contains_key("mpich") && !known.exports.contains_key("openmpi"));
    }
}
