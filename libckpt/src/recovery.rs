//! Choosing what to resume from, and getting it to every rank.
//!
//! All ranks list what their nodes hold, share the lists, and from then on decide the same thing from
//! the same data: newest generation of the ancestry first, for each rank the cheapest source first.
//! Every source is verified before it counts; a bad one is named and the next one tried. A
//! generation is used only if every rank has a verified image of it; then all ranks agree.
//!
//! Sources, cheapest first: the own image on this node, the partner's copy on this node (the rank has
//! moved), an image another node still has, a partner's copy elsewhere, the global directory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::PoisonError;

use serde::{Deserialize, Serialize};

use crate::collective::gather;
use crate::fault::point;
use crate::image_file::{verify, ImageName};
use crate::manifest::{is_complete, Manifest};
use crate::records::Commits;
use crate::session::Session;
use crate::store::{Copy, Store};
use crate::transport;
use crate::{Collective, Error, GenerationId, Level};

/// Where an image came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Source {
    /// In this node's storage.
    Here(Copy),
    /// In another node's.
    Node(u32, Copy),
    /// In the global directory.
    Global,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Source::Here(Copy::Own) => f.write_str("local"),
            Source::Here(Copy::Partner) => f.write_str("partner copy on this node"),
            Source::Node(n, Copy::Own) => write!(f, "node {n}"),
            Source::Node(n, Copy::Partner) => write!(f, "partner copy on node {n}"),
            Source::Global => f.write_str("global"),
        }
    }
}

/// What one node, or the global directory, holds of a generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Held {
    generation: GenerationId,
    /// The manifest, or why there is none.
    manifest: Result<Manifest, String>,
    /// There is no file of that name, not even a bad one.
    absent: bool,
    /// It is of another job, as far as its name tells.
    anothers: bool,
    /// Levels recorded as complete.
    complete: Vec<Level>,
    images: Vec<(Copy, u32)>,
}

/// What all ranks agreed on.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "there is one of these in a process"
)]
pub enum Outcome {
    /// Nothing was ever committed: start at the beginning.
    Fresh,
    /// Resume.
    Resume(Recovered),
}

/// This rank's share of the agreed generation.
#[derive(Debug)]
pub struct Recovered {
    /// Which.
    pub generation: GenerationId,
    /// Its manifest.
    pub manifest: Manifest,
    /// This rank's verified image.
    pub image: PathBuf,
    /// Where it came from.
    pub source: Source,
    /// Where every rank's came from.
    pub sources: Vec<Source>,
    /// What was found bad on the way, on all ranks.
    pub rejected: Vec<String>,
    /// The levels on which nothing of it is missing.
    pub whole: Vec<Level>,
}

/// How to choose.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wish {
    /// This generation and no other.
    pub generation: Option<GenerationId>,
}

/// Finds and fetches what to resume from. Called by all ranks.
///
/// # Errors
/// [`Error::NothingIntact`] when something was committed but nothing can be used; others when a rank
/// is gone or the records cannot be read.
pub fn recover(session: &Session, wish: Wish, all: &dyn Collective) -> Result<Outcome, Error> {
    let view = View::gather(session, all)?;
    if view.never_committed(all.size()) {
        return Ok(Outcome::Fresh);
    }
    let mut rejected = view.unlisted.clone();
    for &id in &view.candidates {
        if wish.generation.is_some_and(|w| w != id) {
            continue;
        }
        let manifest = match view.manifest(session, id) {
            Ok(m) => m,
            Err(reason) => {
                rejected.push(format!("generation {id}: {reason}"));
                continue;
            }
        };
        if manifest.images.len() != all.size() as usize {
            return Err(Error::Incompatible {
                path: session.local().generation(id),
                what: "number of ranks",
                found: manifest.images.len().to_string(),
                expected: format!(
                    "{} (start the job with as many ranks as it had)",
                    all.size()
                ),
            });
        }
        all.moving(&format!("looking for its image of generation {id}"));
        let (mine, bad) = obtain(session, &view, &manifest, all);
        let told = gather(
            all,
            "the choice of a generation",
            &(mine.as_ref().map(|m| m.1), bad),
        )?;
        for (rank, (_, reasons)) in told.iter().enumerate() {
            rejected.extend(
                reasons
                    .iter()
                    .map(|r| format!("generation {id}: rank {rank}: {r}")),
            );
        }
        let sources: Option<Vec<Source>> = told.iter().map(|(s, _)| *s).collect();
        if let (Some(sources), Some((image, source))) = (sources, mine) {
            restore_manifest(session, &manifest);
            let held = view.nodes.values().flatten();
            let complete: BTreeSet<Level> = held
                .filter(|h| h.generation == id && !h.anothers)
                .flat_map(|h| h.complete.iter().copied())
                .collect();
            let untouched = sources.iter().all(|s| *s == Source::Here(Copy::Own));
            let whole = complete.iter().copied();
            let whole = whole.filter(|level| untouched || *level == Level::Global);
            let whole = whole.collect();
            *session
                .adopting
                .lock()
                .unwrap_or_else(PoisonError::into_inner) =
                Some((id, complete.into_iter().collect()));
            return Ok(Outcome::Resume(Recovered {
                generation: id,
                manifest,
                image,
                source,
                sources,
                rejected,
                whole,
            }));
        }
    }
    if rejected.is_empty() {
        rejected.push(match wish.generation {
            Some(id) => format!("generation {id}: not there"),
            None => {
                "something was committed, but no node of this start and no directory that all see holds any of it".to_owned()
            }
        });
    }
    rejected.extend(elsewhere(session));
    Err(Error::NothingIntact { reasons: rejected })
}

/// Hosts named in a line; of more the number is told.
const NAMED: usize = 32;

/// The hosts of the last start that has committed something, of which this start has none: what is missing may be there.
fn elsewhere(session: &Session) -> Option<String> {
    let last = session.records().newest_commit().ok()??;
    let here = &session.topology().names;
    let others = last.topology.names.iter().filter(|n| !here.contains(n));
    let others: Vec<&str> = others.map(String::as_str).collect();
    let named = others.get(..NAMED.min(others.len()))?.join(",");
    let more = match others.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (!others.is_empty()).then(|| {
        format!(
            "start {} of the job ran on {named}{more}, where none of this start's ranks is: start it again with those of them that live (Slurm: -w {named})",
            last.number
        )
    })
}

/// The same data on all ranks.
struct View {
    commits: Commits,
    /// Newest first.
    candidates: Vec<GenerationId>,
    /// What each node holds.
    nodes: BTreeMap<u32, Vec<Held>>,
    global: Vec<Held>,
    /// Nodes whose storage could not be listed, and why.
    unlisted: Vec<String>,
}

impl View {
    fn gather(session: &Session, all: &dyn Collective) -> Result<Self, Error> {
        // A node whose storage cannot be listed holds nothing: that is the others' business, too.
        let local = match session.is_leader() {
            true => {
                let place = session.local().root().display();
                all.doing(&format!("listing the checkpoints in {place}"));
                point("recover.list");
                held(session, session.local()).map_err(|e| e.to_string())
            }
            false => Ok(Vec::new()),
        };
        let told = gather(all, "what the nodes hold", &(session.node, local))?;
        let mut nodes: BTreeMap<u32, Vec<Held>> = BTreeMap::new();
        let mut unlisted = Vec::new();
        for (node, held) in told {
            match held {
                Ok(held) => nodes.entry(node).or_default().extend(held),
                Err(e) => unlisted.push(format!(
                    "node {}: {e}",
                    session.topology().names[node as usize]
                )),
            }
        }
        // Only rank 0 reads the records: a shared file system may show others an older state.
        let records = session.records();
        let read = || -> Result<_, Error> {
            let place = session.global().root().display();
            all.doing(&format!("reading the job's records in {place}"));
            point("recover.records");
            let newest = records.newest()?;
            let ancestry = records.ancestry(newest)?;
            let commits = records.commits(&ancestry);
            Ok((ancestry, commits, held(session, session.global())?))
        };
        type Told = Option<Result<(Vec<(u32, u64)>, Commits, Vec<Held>), String>>;
        let mine: Told = (all.rank() == 0).then(|| read().map_err(|e| e.to_string()));
        let first = gather(all, "the job's records", &mine)?
            .into_iter()
            .next()
            .flatten();
        let (ancestry, commits, global) = first
            .unwrap_or_else(|| Err("rank 0 said nothing".into()))
            .map_err(|reason| Error::Collective {
                operation: "reading the job's records",
                reason,
            })?;
        let committed = |h: &Held| h.manifest.is_ok() || h.anothers;
        if ancestry.is_empty() && nodes.values().flatten().any(committed) {
            // Generations without the records of their job: another directory is mounted there.
            return Err(Error::Missing {
                path: session.global().root().join("incarnation-1"),
            });
        }
        let mut candidates: Vec<GenerationId> = nodes
            .values()
            .flatten()
            .chain(&global)
            .map(|h| h.generation)
            .collect();
        candidates.sort_unstable();
        candidates.dedup();
        candidates.retain(|id| {
            ancestry
                .iter()
                .any(|(i, bound)| *i == id.incarnation && id.number <= *bound)
        });
        candidates.reverse();
        Ok(Self {
            commits,
            candidates,
            nodes,
            global,
            unlisted,
        })
    }

    /// Whether nothing was ever committed. A first commit that had begun is known not to have
    /// happened if every rank's image is where it was written and no node has begun a manifest.
    fn never_committed(&self, size: u32) -> bool {
        let valid = |h: &Held| h.manifest.is_ok();
        if self.nodes.values().flatten().chain(&self.global).any(valid) {
            return false;
        }
        let id = match self.commits {
            Commits::None => return true,
            Commits::Some => return false,
            Commits::Perhaps(id) => id,
        };
        let held: Vec<&Held> = self
            .nodes
            .values()
            .flatten()
            .filter(|h| h.generation == id)
            .collect();
        let images = |rank| held.iter().any(|h| h.images.contains(&(Copy::Own, rank)));
        held.iter().all(|h| h.absent) && (0..size).all(images)
    }

    /// The manifest of a generation: one valid copy proves the commit.
    fn manifest(&self, session: &Session, id: GenerationId) -> Result<Manifest, String> {
        let mut reasons = Vec::new();
        let mut valid: Option<&Manifest> = None;
        let places = self
            .nodes
            .iter()
            .flat_map(|(n, held)| held.iter().map(move |h| (Some(*n), h)));
        for (node, held) in places.chain(self.global.iter().map(|h| (None, h))) {
            if held.generation != id {
                continue;
            }
            let place = node.map_or("global directory".to_owned(), |n| {
                format!("node {}", session.topology().names[n as usize])
            });
            match (&held.manifest, valid) {
                (Ok(m), None) => valid = Some(m),
                // Two nodes' manifests differ in the second they were written, at most.
                (Ok(m), Some(v)) if m.images == v.images => {}
                (Ok(_), Some(_)) => {
                    return Err("the manifests of two nodes contradict each other".into())
                }
                (Err(e), _) => reasons.push(format!("{place}: {e}")),
            }
        }
        valid
            .cloned()
            .ok_or_else(|| format!("not committed: no valid manifest ({})", reasons.join("; ")))
    }

    /// Sources of a rank's image, cheapest first.
    fn sources(&self, id: GenerationId, rank: u32, here: u32) -> Vec<Source> {
        let holds = |held: &[Held], copy| {
            held.iter()
                .any(|h| h.generation == id && h.images.contains(&(copy, rank)))
        };
        let mut found = Vec::new();
        for copy in [Copy::Own, Copy::Partner] {
            for (&node, held) in &self.nodes {
                if holds(held, copy) {
                    found.push(if node == here {
                        Source::Here(copy)
                    } else {
                        Source::Node(node, copy)
                    });
                }
            }
        }
        if holds(&self.global, Copy::Own) {
            found.push(Source::Global);
        }
        found.sort();
        found
    }
}

fn held(session: &Session, store: &Store) -> Result<Vec<Held>, Error> {
    let mut all = Vec::new();
    for generation in store.generations()? {
        let manifest = Manifest::read(store, session.mark(), generation);
        all.push(Held {
            generation,
            anothers: matches!(manifest, Err(Error::Incompatible { .. })),
            absent: matches!(manifest, Err(Error::Missing { .. })),
            manifest: manifest.map_err(|e| e.to_string()),
            complete: Level::ALL
                .into_iter()
                .filter(|l| is_complete(store, generation, *l))
                .collect(),
            images: store.images(generation)?,
        });
    }
    Ok(all)
}

/// Tries the sources of this rank's image. Returns the verified one and what was bad before it.
fn obtain(
    session: &Session,
    view: &View,
    manifest: &Manifest,
    all: &dyn Collective,
) -> (Option<(PathBuf, Source)>, Vec<String>) {
    let id = manifest.generation;
    let name: ImageName = session.image_name(id);
    let report = manifest.images[session.rank as usize];
    let own = session.image_path(id);
    let mut bad = Vec::new();
    let sources = view.sources(id, session.rank, session.node);
    if sources.is_empty() {
        bad.push("no place holds its image".to_owned());
    }
    for source in sources {
        let path = match source {
            Source::Here(copy) => session.local().image(id, session.rank, copy),
            Source::Node(..) => own.clone(),
            Source::Global => session.global().image(id, session.rank, Copy::Own),
        };
        let from = match source {
            Source::Node(node, _) => format!(
                "getting its image of generation {id} from node {}",
                session.topology().names[node as usize]
            ),
            _ => format!("reading its image {}", path.display()),
        };
        all.moving(&from);
        point("recover.image");
        let got = match source {
            Source::Node(node, copy) => transport::get(
                &session.peers[node as usize],
                &transport::secret_of(&session.secret, node),
                copy,
                &path,
                &name,
                report,
            ),
            _ => verify(&path, &name, Some(report)).map(drop),
        };
        match got {
            Ok(()) => return (Some((path, source)), bad),
            Err(e) => bad.push(format!("{source}: {e}")),
        }
    }
    (None, bad)
}

/// A node that lost its manifest of the chosen generation gets it back.
fn restore_manifest(session: &Session, manifest: &Manifest) {
    let there = Manifest::read(session.local(), session.mark(), manifest.generation).is_ok();
    if session.is_leader() && !there {
        if let Err(e) = manifest.write(session.local()) {
            log::warn!("{e}");
        }
    }
}

/// After recovery: brings this rank's image of the generation back to where it was lost, so that the
/// next failure finds it. Takes long; meant for a thread of its own. A node that had lost its records
/// of completed levels gets them back at the first pruning that finds it whole.
///
/// # Errors
/// When a copy could not be made.
pub fn protect_again(session: &Session, recovered: &Recovered) -> Result<(), Error> {
    let id = recovered.generation;
    let report = recovered.manifest.images[session.rank as usize];
    let own = session.image_path(id);
    if recovered.image != own {
        crate::store::make_dir(&session.local().generation(id))?;
        crate::store::copy_verified(&recovered.image, &own, &session.image_name(id), report)?;
    }
    if recovered.manifest.level >= Level::Partner {
        session.level_work(id, Level::Partner, report)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
