//! The pages of the documentation taken apart: their blocks, the table that says how each is tried, and
//! what comes of putting both together. No processes here.

use std::collections::VecDeque;

use anyhow::{bail, ensure, Context as _, Result};

/// Lines that stand together as they would be typed, or a file's or program's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Number of the first line on the page, from 1.
    pub line: usize,
    /// Without the indentation.
    pub lines: Vec<String>,
}

/// The blocks of a page of Markdown: between fences, or indented by four columns after an empty line, a
/// heading, or a line of the block.
pub fn blocks(page: &str) -> Vec<Block> {
    let mut all: Vec<Block> = Vec::new();
    let mut fenced = false;
    // May an indented line begin here? And is it the block's that is open?
    let (mut may_begin, mut open) = (true, false);
    for (number, line) in page.lines().enumerate() {
        if line.starts_with("```") {
            fenced = !fenced;
            (open, may_begin) = (false, true);
            continue;
        }
        let indented = line.strip_prefix("    ").filter(|_| may_begin || open);
        let content = if fenced { Some(line) } else { indented };
        match content {
            Some(content) if open => {
                if let Some(last) = all.last_mut() {
                    // Empty lines between are the block's.
                    let gap = number + 1 - last.line - last.lines.len();
                    last.lines.extend((0..gap).map(|_| String::new()));
                    last.lines.push(content.to_owned());
                }
            }
            Some(content) => {
                all.push(Block {
                    line: number + 1,
                    lines: vec![content.to_owned()],
                });
                open = true;
            }
            None if line.trim().is_empty() => may_begin = true,
            None => (open, may_begin) = (false, line.starts_with('#')),
        }
    }
    all
}

/// How some lines are tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// Executed, and waited for.
    Run,
    /// Executed as in another terminal; the page goes on meanwhile.
    Begin,
    /// The content of this file.
    File(String),
    /// Not for executing; why.
    Shown(String),
    /// Executed by this scenario, or part of `cargo xtask test`.
    Elsewhere(String),
}

/// What is expected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expected {
    /// The exit code; `None`: any.
    pub code: Option<i32>,
    /// Words of the output.
    pub says: Vec<String>,
    /// What to wait for before the page goes on (`Begin`).
    pub until: Option<String>,
    /// In which files (a shell's pattern) instead of in the output.
    pub place: Option<String>,
    /// A program without which it cannot be run.
    pub needs: Option<String>,
    /// It is ended as Ctrl-C does it (`end`).
    pub interrupt: bool,
}

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    /// For the lines of the page from the one that begins so.
    Lines(Mode, String, Expected),
    /// Between them.
    Between(Step),
}

/// What is done for a page, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Lines of the page: the number of the first one, and all of them.
    Page(Mode, usize, String, Expected),
    /// A command of the table's own.
    Own(String),
    /// The same, in another terminal.
    OwnBegin(String, Expected),
    /// This word of the page stands for what the command prints.
    Let(String, String),
    /// The lines that were begun and start so have to end.
    End(String, Expected),
    /// Until a file has these words.
    Wait(Expected),
    /// Without this program the rest of the page is not tried.
    Need(String),
}

/// The table of all pages.
pub struct Table {
    pages: Vec<(String, Vec<Entry>)>,
}

impl Table {
    /// Reads it; its own head says how it is written.
    pub fn parse(text: &str) -> Result<Self> {
        let mut pages: Vec<(String, Vec<Entry>)> = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(page) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                ensure!(
                    pages.iter().all(|(known, _)| known != page),
                    "tests/docs/blocks.txt line {}: {page} comes twice",
                    number + 1
                );
                pages.push((page.to_owned(), Vec::new()));
                continue;
            }
            let (_, entries) = pages
                .last_mut()
                .with_context(|| format!("line {}: before any page", number + 1))?;
            let entry = entry(line)
                .with_context(|| format!("tests/docs/blocks.txt line {}: {line}", number + 1))?;
            entries.push(entry);
        }
        Ok(Self { pages })
    }

    /// The pages it knows.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.pages.iter().map(|(name, _)| name.as_str())
    }

    /// Everything that scenarios and parts elsewhere are relied on for.
    #[cfg(test)]
    pub fn elsewhere(&self) -> impl Iterator<Item = &str> {
        let entries = self.pages.iter().flat_map(|(_, entries)| entries);
        entries.filter_map(|entry| match entry {
            Entry::Lines(Mode::Elsewhere(name), ..) => Some(name.as_str()),
            _ => None,
        })
    }

    /// What is to be done for the page `name` with this content.
    ///
    /// # Errors
    /// A line without an entry, an entry without a line, something begun that never has to end.
    pub fn plan(&self, name: &str, page: &str) -> Result<Vec<Step>> {
        let entries = self.pages.iter().find(|(known, _)| known == name);
        let (_, entries) = entries.with_context(|| {
            format!("{name}: tests/docs/blocks.txt does not say how its blocks are tried")
        })?;
        let mut lines = Lines::of(blocks(page));
        let mut steps = Vec::new();
        let mut begun: Vec<&str> = Vec::new();
        for (i, entry) in entries.iter().enumerate() {
            match entry {
                Entry::Between(step) => {
                    if let Step::End(start, _) = step {
                        let at = begun.iter().position(|known| known == start);
                        begun.remove(at.with_context(|| {
                            format!("{name}: {start:?} ends, but was not begun before")
                        })?);
                    } else if let Step::OwnBegin(command, _) = step {
                        begun.push(command);
                    }
                    steps.push(step.clone());
                }
                Entry::Lines(mode, start, expected) => {
                    let next = entries[i + 1..].iter().find_map(|e| match e {
                        Entry::Lines(_, start, _) => Some(start.as_str()),
                        Entry::Between(_) => None,
                    });
                    let (line, text) = lines.take(start, next).with_context(|| name.to_owned())?;
                    if *mode == Mode::Begin {
                        begun.push(start);
                    }
                    steps.push(Step::Page(mode.clone(), line, text, expected.clone()));
                }
            }
        }
        if let Some((line, text)) = lines.next() {
            bail!("{name} line {line}: tests/docs/blocks.txt has no entry for {text:?}");
        }
        ensure!(begun.is_empty(), "{name}: {begun:?} never end");
        Ok(steps)
    }
}

/// The lines of a page's blocks that have no entry yet.
struct Lines(VecDeque<VecDeque<(usize, String)>>);

impl Lines {
    fn of(blocks: Vec<Block>) -> Self {
        let numbered = |block: Block| {
            let numbers = block.line..;
            numbers.zip(block.lines).collect::<VecDeque<_>>()
        };
        Self(blocks.into_iter().map(numbered).collect())
    }

    /// The next line that is not empty.
    fn next(&mut self) -> Option<(usize, String)> {
        loop {
            let block = self.0.front_mut()?;
            while block.front().is_some_and(|(_, text)| text.is_empty()) {
                block.pop_front();
            }
            match block.front() {
                Some(line) => return Some(line.clone()),
                None => drop(self.0.pop_front()),
            }
        }
    }

    /// The lines from the next one, which begins with `start`, to the end of its block or to one that begins
    /// with `stop`.
    fn take(&mut self, start: &str, stop: Option<&str>) -> Result<(usize, String)> {
        let Some((line, first)) = self.next() else {
            bail!("no block has a line {start:?} (any more)");
        };
        ensure!(
            first.trim_start().starts_with(start),
            "line {line}: tests/docs/blocks.txt has no entry for {first:?}; its next one is for {start:?}"
        );
        let block = self.0.front_mut().context("a line without a block")?;
        let mut text = String::new();
        while let Some((number, content)) = block.front() {
            let stops = |stop: &str| content.trim_start().starts_with(stop);
            if *number > line && stop.is_some_and(stops) {
                break;
            }
            text += content;
            text.push('\n');
            block.pop_front();
        }
        Ok((line, text))
    }
}

fn entry(line: &str) -> Result<Entry> {
    let mut parts = line.split(" :: ").map(str::trim);
    let (kind, first) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
    ensure!(
        !first.is_empty(),
        "two parts at least, separated by \" :: \""
    );
    let first = first.to_owned();
    let more: Vec<&str> = parts.collect();
    let text = || {
        ensure!(more.len() == 1, "one more part expected");
        Ok(more[0].to_owned())
    };
    Ok(match kind {
        "run" => Entry::Lines(Mode::Run, first, expected(&more)?),
        "begin" => {
            let expected = expected(&more)?;
            ensure!(expected.until.is_some(), "until when does the page wait?");
            Entry::Lines(Mode::Begin, first, expected)
        }
        "file" => Entry::Lines(Mode::File(text()?), first, Expected::default()),
        "shown" => Entry::Lines(Mode::Shown(text()?), first, Expected::default()),
        "elsewhere" => Entry::Lines(Mode::Elsewhere(text()?), first, Expected::default()),
        "do" => {
            ensure!(more.is_empty(), "the command is all");
            Entry::Between(Step::Own(first))
        }
        "start" => {
            let expected = expected(&more)?;
            ensure!(expected.until.is_some(), "until when does the page wait?");
            Entry::Between(Step::OwnBegin(first, expected))
        }
        "need" => Entry::Between(Step::Need(first)),
        "let" => Entry::Between(Step::Let(first, text()?)),
        "end" => Entry::Between(Step::End(first, expected(&more)?)),
        "wait" => {
            let mut expected = expected(&more)?;
            expected.until = Some(first);
            ensure!(expected.place.is_some(), "in which file?");
            Entry::Between(Step::Wait(expected))
        }
        _ => bail!("{kind:?} is none of run, begin, end, file, shown, elsewhere, do, start, let, need, wait"),
    })
}

fn expected(parts: &[&str]) -> Result<Expected> {
    let mut expected = Expected {
        code: Some(0),
        ..Expected::default()
    };
    for part in parts {
        if *part == "interrupt" {
            expected.interrupt = true;
            continue;
        }
        let (key, value) = part.split_once(' ').context("a word and a value")?;
        let value = value.trim().to_owned();
        match key {
            "code" if value == "any" => expected.code = None,
            "code" => expected.code = Some(value.parse().context("code")?),
            "says" => expected.says.push(value),
            "until" => expected.until = Some(value),
            "in" => expected.place = Some(value),
            "needs" => expected.needs = Some(value),
            _ => bail!("{key:?} is none of code, says, until, in, needs, interrupt"),
        }
    }
    Ok(expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "\
# Title
    mana list
    mana verify

Words
    that go on here.

* a point

    mana run -- x

    mana stop

```
+--+

+--+
```
    after
";

    #[test]
    fn blocks_of_a_page() {
        let found: Vec<(usize, String)> = blocks(PAGE)
            .into_iter()
            .map(|b| (b.line, b.lines.join("|")))
            .collect();
        let wanted = [
            (2, "mana list|mana verify"),
            (10, "mana run -- x||mana stop"),
            (15, "+--+||+--+"),
            (19, "after"),
        ]
        .map(|(n, text)| (n, text.to_owned()));
        assert_eq!(found, wanted);
    }

    fn plan(table: &str) -> Result<Vec<Step>> {
        Table::parse(&format!("[p]\n{table}"))?.plan("p", PAGE)
    }

    const GOOD: &str = "run :: mana list :: says no job\ndo :: touch x\nbegin :: mana run :: until up\nrun :: mana stop\n\
        shown :: +--+ :: a picture\nend :: mana run :: code any\nelsewhere :: after :: tree/pool\n";

    #[test]
    fn a_plan() {
        let steps = plan(GOOD).expect("a plan");
        let is = |i: usize, mode: Mode, line, text: &str| matches!(&steps[i], Step::Page(m, l, t, _) if *m == mode && *l == line && t == text);
        assert!(is(0, Mode::Run, 2, "mana list\nmana verify\n"), "{steps:?}");
        assert_eq!(steps[1], Step::Own("touch x".into()));
        assert!(is(2, Mode::Begin, 10, "mana run -- x\n\n"), "{steps:?}");
        assert!(is(3, Mode::Run, 12, "mana stop\n"), "{steps:?}");
        assert_eq!(steps.len(), 7);
    }

    #[test]
    fn what_is_missing_is_said() {
        let without = |line: &str| plan(&GOOD.replace(line, ""));
        for (line, words) in [
            ("shown :: +--+ :: a picture\n", "no entry for \"+--+\""),
            (
                "elsewhere :: after :: tree/pool\n",
                "no entry for \"after\"",
            ),
            ("end :: mana run :: code any\n", "never end"),
        ] {
            let said = format!("{:#}", without(line).expect_err(line));
            assert!(said.contains(words), "{said}");
        }
        // Without an entry of its own a line is tried as the one before, but for other blocks'.
        let steps = without("run :: mana stop\n").expect("a plan");
        assert!(
            matches!(&steps[2], Step::Page(_, _, text, _) if text == "mana run -- x\n\nmana stop\n"),
            "{steps:?}"
        );
        let said = format!(
            "{:#}",
            plan(&format!("{GOOD}run :: more\n")).expect_err("an entry without a line")
        );
        assert!(said.contains("\"more\""), "{said}");
        for wrong in ["begin :: x", "walk :: x", "run :: x :: color 3", "run"] {
            assert!(Table::parse(&format!("[p]\n{wrong}\n")).is_err(), "{wrong}");
        }
    }
}
