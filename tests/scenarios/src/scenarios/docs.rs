//! Every block of README.md and docs/guide/*.md is tried as a reader would: copied from the installed page
//! into a terminal, in order. `tests/docs/blocks.txt` says how, and has to know every block.

mod pages;
mod session;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{ensure, Context as _, Result};

use self::pages::{Step, Table};
use self::session::Session;
use super::cluster::bed::Cluster;
use super::Scenario;
use crate::context::{skipped, Context, Verdict};
use crate::mpi::{find, Mpi};
use crate::product::Product;

const TABLE: &str = include_str!("../../../docs/blocks.txt");

/// Tried on the cluster.
const CLUSTER: &str = "docs/guide/slurm.md";

/// A scenario for each page, and the links.
pub fn all() -> Vec<Scenario> {
    let mut all = vec![Scenario::new(
        "docs/links",
        "links between the pages, and files that messages name, are there in an installed tree",
        links,
    )];
    for page in known().filter(|page| page != CLUSTER) {
        all.push(Scenario::new(
            name(&page),
            "every block of the page, tried as it stands",
            move |c| local(c, &page),
        ));
    }
    all
}

/// The pages of the table; one that cannot be read is a failure of a test of this crate.
fn known() -> impl Iterator<Item = String> {
    let table = Table::parse(TABLE).ok();
    let names: Vec<String> = table
        .iter()
        .flat_map(Table::names)
        .map(str::to_owned)
        .collect();
    names.into_iter()
}

/// `docs/guide/laptop` for `docs/guide/laptop.md`.
fn name(page: &str) -> String {
    let name = page.trim_end_matches(".md");
    if name.starts_with("docs/") {
        name.to_owned()
    } else {
        format!("docs/{name}")
    }
}

/// Where an installation has a page.
fn installed(product: &Product, page: &str) -> PathBuf {
    let page = page.strip_prefix("docs/").unwrap_or(page);
    product.directory().join("share/doc/mana").join(page)
}

fn local(context: &Context, page: &str) -> Result<Verdict> {
    let Some(product) = context.product() else {
        return skipped("no installed tree was named with --mana");
    };
    let mpi = Mpi::OpenMpi;
    if mpi.tool("mpicc").is_none() || !product.adapts(mpi) {
        return skipped("Open MPI is not installed, or was not when this was built");
    }
    let mut place = context.directory(&name(page))?;
    let session = Session::new(product, place.path(), None)?;
    let verdict = tried(session, product, page)?;
    place.done();
    Ok(verdict)
}

/// The page about Slurm, on four nodes.
pub fn on_cluster() -> Vec<Scenario> {
    vec![Scenario::new(
        name(CLUSTER),
        "every block of the page, tried as it stands, on four nodes",
        slurm,
    )]
}

fn slurm(context: &Context) -> Result<Verdict> {
    let Some(product) = context.product() else {
        return skipped("no installed tree was named with --mana");
    };
    if Mpi::OpenMpi.tool("mpicc").is_none() || !product.adapts(Mpi::OpenMpi) {
        return skipped("Open MPI is not installed, or was not when this was built");
    }
    let mut place = context.directory(&name(CLUSTER))?;
    let cluster = match Cluster::up(&place)? {
        Ok(cluster) => cluster,
        Err(why) => return skipped(why),
    };
    // By an ordinary user, as it will be read.
    let session = Session::new(product, place.path(), Some(cluster.command(&["login"])))?;
    session.hand_over(product, place.path(), &cluster.home())?;
    let verdict = tried(session, product, CLUSTER)?;
    place.done();
    Ok(verdict)
}

fn tried(mut session: Session, product: &Product, page: &str) -> Result<Verdict> {
    let path = installed(product, page);
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    for step in Table::parse(TABLE)?.plan(page, &text)? {
        if let Some(missing) = missing(&step) {
            return skipped(format!("{missing} is not installed"));
        }
        session.step(&step).with_context(|| page.to_owned())?;
    }
    Ok(Verdict::Passed(match session.skipped.as_slice() {
        [] => String::new(),
        some => format!("but for {}", some.join(", ")),
    }))
}

/// What the rest of the page needs and is not here.
fn missing(step: &Step) -> Option<&str> {
    match step {
        Step::Need(program) => Some(program.as_str()).filter(|p| find(p).is_none()),
        _ => None,
    }
}

/// The top of the sources.
fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// README.md and the pages of the guide.
fn pages_of(directory: &Path, guide: &str) -> Result<Vec<String>> {
    let mut all = vec!["README.md".to_owned()];
    for entry in std::fs::read_dir(directory.join(guide)).context("listing the guide")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".md") {
            all.push(format!("{guide}/{name}"));
        }
    }
    all.sort();
    Ok(all)
}

/// What the links of a page of Markdown point to, without those to other places and within the page.
fn targets(page: &str) -> impl Iterator<Item = &str> {
    page.split("](").skip(1).filter_map(|rest| {
        let target = rest.split([')', '#', ' ']).next()?;
        (!target.is_empty() && !target.contains("://")).then_some(target)
    })
}

/// The links of these pages that point nowhere.
fn broken(directory: &Path, pages: &[String]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for page in pages {
        let path = directory.join(page);
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        for target in targets(&text) {
            let there = path.parent().is_some_and(|p| p.join(target).exists());
            if !there {
                found.push(format!("{page}: {target}"));
            }
        }
    }
    Ok(found)
}

/// Paths that begin with `share/` in the strings of our sources, which a user may be told.
fn named_files(directory: &Path, found: &mut BTreeSet<(String, PathBuf)>) -> Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            if path.file_name().is_some_and(|n| n != "target") {
                named_files(&path, found)?;
            }
            continue;
        }
        if path.extension().is_none_or(|e| e != "rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path)?;
        for (at, _) in text.match_indices("share/") {
            let name = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
            let before = text[..at].chars().next_back();
            let words = &text[at..];
            let length = words.find(|c| !name(c)).unwrap_or(words.len());
            // Not a part of a longer path.
            if before.is_none_or(|c| !name(c)) {
                let file = words[..length].trim_end_matches(['.', '/']);
                found.insert((file.to_owned(), path.clone()));
            }
        }
    }
    Ok(())
}

fn links(context: &Context) -> Result<Verdict> {
    let Some(product) = context.product() else {
        return skipped("no installed tree was named with --mana");
    };
    let doc = product.directory().join("share/doc/mana");
    let pages = pages_of(&doc, "guide")?;
    let lost = broken(&doc, &pages)?;
    ensure!(lost.is_empty(), "links that point nowhere: {lost:?}");
    let mut named = BTreeSet::new();
    for part in ["mana-plugin/commands/src", "mana-plugin/lower/src"] {
        named_files(&top().join(part), &mut named)?;
    }
    let missing: Vec<_> = named
        .iter()
        .filter(|(file, _)| !product.directory().join(file).exists())
        .collect();
    ensure!(missing.is_empty(), "named, but not installed: {missing:?}");
    ensure!(named.len() > 3, "only {named:?} named");
    Ok(Verdict::Passed(format!(
        "{} pages, {} files",
        pages.len(),
        named.len()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages() -> Vec<String> {
        pages_of(&top(), "docs/guide").expect("pages")
    }

    #[test]
    fn every_block_of_every_page_has_an_entry() {
        let table = Table::parse(TABLE).expect("the table");
        let pages = pages();
        assert!(pages.len() > 15, "{pages:?}");
        for page in &pages {
            let text = std::fs::read_to_string(top().join(page)).expect(page);
            if let Err(error) = table.plan(page, &text) {
                panic!("{error:#}");
            }
        }
        for page in table.names() {
            assert!(pages.iter().any(|p| p == page), "there is no page {page}");
        }
    }

    #[test]
    fn what_is_tried_elsewhere_is_tried() {
        let mut names: Vec<String> = super::super::beside_others(true)
            .into_iter()
            .chain(super::super::series(true).into_iter().flatten())
            .chain(super::super::alone(true))
            .map(|scenario| scenario.name)
            .collect();
        // Parts of `cargo xtask test` that are no scenarios have their names in quotes there.
        let xtask = top().join("tests/xtask/src");
        for file in ["packages.rs", "tests_all.rs"] {
            let text = std::fs::read_to_string(xtask.join(file)).expect(file);
            names.extend(text.split('"').map(str::to_owned));
        }
        let table = Table::parse(TABLE).expect("the table");
        for name in table.elsewhere() {
            assert!(names.iter().any(|n| n == name), "nothing is called {name}");
        }
    }

    #[test]
    fn links_of_the_sources() {
        let lost = broken(&top(), &pages()).expect("pages");
        assert!(lost.is_empty(), "{lost:?}");
    }

    #[test]
    fn targets_of_links() {
        let page = "[a](b.md), [c](https://d) ![e](f.png)[g](#h) [i](j.md#k)";
        assert_eq!(targets(page).collect::<Vec<_>>(), ["b.md", "f.png", "j.md"]);
        assert_eq!(name("docs/guide/laptop.md"), "docs/guide/laptop");
        assert_eq!(name("README.md"), "docs/README");
    }
}
