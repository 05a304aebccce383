//! What the tools ask of a store while no job runs (or beside it): list, inspect, verify, prune.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::image_file::{verify, ImageFile, ImageName};
use crate::manifest::{is_complete, Manifest};
use crate::store::{names, Copy, Store};
use crate::{Config, Error, GenerationId, Level};

/// One place that holds generations of a job.
#[derive(Debug, Clone)]
pub struct Place {
    /// `global`, or the node's name.
    pub name: String,
    /// The store.
    pub store: Store,
}

/// Images and records of one generation in one place.
#[derive(Debug, Clone, Serialize)]
pub struct Listed {
    /// `global`, or the node's name.
    pub place: String,
    /// Which start of the job.
    pub incarnation: u32,
    /// Its number.
    pub number: u64,
    /// Whether a valid manifest is here.
    pub committed: bool,
    /// The level it was taken for, if it is committed.
    pub level: Option<Level>,
    /// When, in seconds since 1970.
    pub created: Option<u64>,
    /// Levels recorded here as complete.
    pub complete: Vec<Level>,
    /// Ranks whose own images are here.
    pub own: Vec<u32>,
    /// Ranks whose partner copies are here.
    pub partner: Vec<u32>,
    /// Bytes of all images here.
    pub bytes: u64,
}

/// Jobs that have a directory under the global or the local one.
///
/// # Errors
/// When a directory cannot be listed.
pub fn jobs(config: &Config) -> Result<Vec<String>, Error> {
    let mut all = Vec::new();
    for name in names(&config.global_ckpt_dir)? {
        if !crate::store::names(&config.global_ckpt_dir.join(&name))?.is_empty() {
            all.push(name);
        }
    }
    all.sort();
    Ok(all)
}

/// Places that can be seen from here: the global directory, and this node's storage (all simulated
/// nodes' in test mode).
///
/// # Errors
/// When a directory cannot be listed.
pub fn places(config: &Config, job: &str) -> Result<Vec<Place>, Error> {
    let mut all = vec![Place {
        name: "global".into(),
        store: Store::global(config, job),
    }];
    if config.test_mode {
        let mut nodes: Vec<u32> = names(&config.local_ckpt_dir)?
            .iter()
            .filter_map(|n| n.strip_prefix("node")?.parse().ok())
            .collect();
        nodes.sort_unstable();
        all.extend(nodes.into_iter().map(|n| Place {
            name: format!("node{n}"),
            store: Store::local(config, job, n),
        }));
    } else {
        let host = hostname::get().map_or_else(
            |_| "this node".to_owned(),
            |h| h.to_string_lossy().into_owned(),
        );
        all.push(Place {
            name: host,
            store: Store::local(config, job, 0),
        });
    }
    Ok(all)
}

/// All generations in all places, newest first.
///
/// # Errors
/// When a directory cannot be listed.
pub fn list(config: &Config, job: &str) -> Result<Vec<Listed>, Error> {
    let mut all = Vec::new();
    for place in places(config, job)? {
        for id in place.store.generations()? {
            let manifest = Manifest::read(&place.store, job, id).ok();
            let images = place.store.images(id)?;
            let of = |copy: Copy| {
                images
                    .iter()
                    .filter(|(c, _)| *c == copy)
                    .map(|(_, r)| *r)
                    .collect::<Vec<u32>>()
            };
            let bytes = images
                .iter()
                .filter_map(|(c, r)| std::fs::metadata(place.store.image(id, *r, *c)).ok())
                .map(|m| m.len())
                .sum();
            all.push(Listed {
                place: place.name.clone(),
                incarnation: id.incarnation,
                number: id.number,
                committed: manifest.is_some(),
                level: manifest.as_ref().map(|m| m.level),
                created: manifest.as_ref().map(|m| m.created),
                complete: Level::ALL
                    .into_iter()
                    .filter(|l| is_complete(&place.store, id, *l))
                    .collect(),
                own: of(Copy::Own),
                partner: of(Copy::Partner),
                bytes,
            });
        }
    }
    all.sort_by(|a, b| {
        (b.number, b.incarnation, &a.place).cmp(&(a.number, a.incarnation, &b.place))
    });
    Ok(all)
}

/// The result for one image.
#[derive(Debug)]
pub struct Verified {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it, if anything.
    pub problem: Option<Error>,
}

/// Re-reads every image (of one generation, or all) in all places, and compares it with the manifest.
///
/// # Errors
/// When a directory cannot be listed.
pub fn verify_all(
    config: &Config,
    job: &str,
    only: Option<GenerationId>,
) -> Result<Vec<Verified>, Error> {
    let mut all = Vec::new();
    let places = places(config, job)?;
    for place in &places {
        for id in place.store.generations()? {
            if only.is_some_and(|o| o != id) {
                continue;
            }
            let manifest = places
                .iter()
                .find_map(|p| Manifest::read(&p.store, job, id).ok());
            let own = Manifest::read(&place.store, job, id);
            all.push(Verified {
                path: place.store.manifest(id),
                problem: own.err(),
            });
            for (copy, rank) in place.store.images(id)? {
                let path = place.store.image(id, rank, copy);
                let Some(m) = &manifest else {
                    all.push(Verified {
                        problem: Some(Error::Corrupt {
                            path: path.clone(),
                            reason: "its generation was never committed".into(),
                        }),
                        path,
                    });
                    continue;
                };
                let name = ImageName {
                    job: job.into(),
                    generation: id,
                    rank,
                    size: m.images.len() as u32,
                };
                let problem = verify(&path, &name, m.images.get(rank as usize).copied()).err();
                all.push(Verified { path, problem });
            }
        }
    }
    Ok(all)
}

/// Opens one image for inspection: header, sections, regions.
///
/// # Errors
/// When it is not an image.
pub fn inspect(path: &Path) -> Result<ImageFile, Error> {
    ImageFile::open(path, None)
}
