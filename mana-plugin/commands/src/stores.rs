//! `mana list`, `verify`, `inspect` and the plan of `mana restart --dry-run`: offline, on the stores
//! that can be seen from here (on a cluster: the global one and this node's own).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use libckpt::image_file::{verify as verify_image, ImageFile, ImageName};
use libckpt::manifest::{is_complete, Manifest};
use libckpt::records::{End, JobState, Records};
use libckpt::store::{Copy, Store};
use libckpt::{Config, GenerationId, Level};
use serde::Serialize;

use crate::cli;
use crate::job;
use crate::message::{chain, short_host, Failure};
use crate::run_directory::RunDirectory;
use crate::settings;
use crate::view::size;
use crate::view::text::ranges;

/// One directory with generations of the job.
pub struct Place {
    /// For people: `global`, `node 2`, `this node`.
    pub title: String,
    pub store: Store,
    global: bool,
}

/// All stores of a job that can be seen.
pub struct Catalog {
    pub job: String,
    /// What its images carry as its name.
    mark: String,
    pub places: Vec<Place>,
    pub records: Records,
}

/// One copy of one rank's image.
pub struct Image {
    pub path: PathBuf,
    title: String,
    rank: u32,
    /// Local copies first, then partners', then the global one: the order of recovery.
    order: u8,
}

/// The nodes whose storage can be seen from here: this one, of whatever number, or in test mode all that there are.
pub fn nodes(config: &Config) -> Vec<u32> {
    if !config.test_mode {
        return vec![0];
    }
    let mut found: Vec<u32> = match fs::read_dir(&config.local_ckpt_dir) {
        Ok(entries) => entries
            .flatten()
            .filter_map(|e| e.file_name().to_str()?.strip_prefix("node")?.parse().ok())
            .collect(),
        Err(_) => Vec::new(),
    };
    found.sort_unstable();
    found
}

impl Catalog {
    pub fn open(config: &Config, job: &str) -> Result<Self, Failure> {
        let global = Store::global(config, job);
        let mut places = Vec::new();
        let local = config.local_ckpt_dir.display();
        if config.local_ckpt_dir.to_string_lossy().contains("${") {
            eprintln!("mana: local_ckpt_dir {local} names a variable that is not defined here: this node's own storage is not looked at (--set local_ckpt_dir=PATH)");
        }
        places.extend(nodes(config).into_iter().map(|node| Place {
            title: match config.test_mode {
                true => format!("node {node}"),
                false => "this node".into(),
            },
            store: Store::local(config, job, node),
            global: false,
        }));
        places.push(Place {
            title: "global".into(),
            store: global.clone(),
            global: true,
        });
        let records = Records::new(global);
        Ok(Self {
            job: job.to_owned(),
            mark: records.mark(job)?,
            places,
            records,
        })
    }

    /// All generations, ascending.
    pub fn generations(&self) -> Result<Vec<GenerationId>, Failure> {
        let mut all = Vec::new();
        for place in &self.places {
            all.extend(place.store.generations()?);
        }
        all.sort_unstable();
        all.dedup();
        Ok(all)
    }

    /// A valid manifest, wherever there is one; the errors of those that are not.
    pub fn manifest(&self, id: GenerationId) -> (Option<Manifest>, Vec<String>) {
        let mut found = None;
        let mut wrong = Vec::new();
        for place in &self.places {
            match Manifest::read(&place.store, &self.mark, id) {
                Ok(manifest) => {
                    found.get_or_insert(manifest);
                }
                Err(libckpt::Error::Missing { .. }) => {}
                Err(e) => wrong.push(chain(&e)),
            }
        }
        (found, wrong)
    }

    /// Every copy of every image, by rank, the cheapest of each first.
    pub fn images(&self, id: GenerationId) -> Result<Vec<Image>, Failure> {
        let mut all = Vec::new();
        for place in &self.places {
            for (copy, rank) in place.store.images(id)? {
                let (order, what) = match (place.global, copy) {
                    (true, _) => (2, "global".to_owned()),
                    (false, Copy::Own) => (0, format!("own copy of {}", place.title)),
                    (false, Copy::Partner) => (1, format!("partner copy on {}", place.title)),
                };
                all.push(Image {
                    path: place.store.image(id, rank, copy),
                    title: what,
                    rank,
                    order,
                });
            }
        }
        all.sort_by_key(|image| (image.rank, image.order));
        Ok(all)
    }

    fn levels(&self, id: GenerationId) -> Vec<Level> {
        Level::ALL
            .into_iter()
            .filter(|level| {
                self.places
                    .iter()
                    .any(|p| is_complete(&p.store, id, *level))
            })
            .collect()
    }

    /// An intact copy of each rank's image, as far as there is one.
    fn intact(
        &self,
        manifest: &Manifest,
        mut wrong: impl FnMut(String),
    ) -> Result<BTreeMap<u32, Image>, Failure> {
        let generation = manifest.generation;
        let mut chosen: BTreeMap<u32, Image> = BTreeMap::new();
        for image in self.images(generation)? {
            if chosen.contains_key(&image.rank) {
                continue;
            }
            match check(&self.mark, manifest, &image) {
                Ok(()) => {
                    chosen.insert(image.rank, image);
                }
                Err(why) => wrong(format!(
                    "generation {generation} rank {} ({}): {why}",
                    image.rank, image.title
                )),
            }
        }
        Ok(chosen)
    }

    /// Whether every rank has an intact copy that can be seen from here.
    pub fn whole(&self, id: GenerationId) -> Result<bool, Failure> {
        let (manifest, _) = self.manifest(id);
        match manifest {
            Some(manifest) => Ok(self.intact(&manifest, |_| {})?.len() == manifest.images.len()),
            None => Ok(false),
        }
    }

    /// Newest first: the generations a restart would consider.
    pub fn candidates(&self) -> Result<Vec<GenerationId>, Failure> {
        let line: BTreeMap<u32, u64> = self
            .records
            .ancestry(self.records.newest()?)?
            .into_iter()
            .collect();
        let mut all = self.generations()?;
        all.retain(|id| {
            line.get(&id.incarnation)
                .is_some_and(|bound| id.number <= *bound)
        });
        all.reverse();
        Ok(all)
    }
}

/// So many other jobs are listed.
const OTHERS: usize = 20;

/// One generation, for `mana list --json`.
#[derive(Serialize)]
struct Listed {
    generation: GenerationId,
    committed: bool,
    level: Option<Level>,
    complete: Vec<Level>,
    ranks: Option<usize>,
    bytes: Option<u64>,
    created: Option<u64>,
    images_here: usize,
    /// Ranks of which no image is seen from here, if it is committed.
    missing: Vec<u32>,
    problems: Vec<String>,
}

/// `mana list`
pub fn list(options: &cli::List) -> Result<i32, Failure> {
    let config = settings::load(&options.job.settings)?;
    let id = job::stored(&options.job, &config.global_ckpt_dir).map_err(|mut e| {
        if let Some(runs) = runs(&config.global_ckpt_dir) {
            e.text = format!("{}; {runs}", e.text);
        }
        e
    })?;
    let catalog = Catalog::open(&config, &id)?;
    let mut rows = Vec::new();
    for generation in catalog.generations()? {
        let (manifest, problems) = catalog.manifest(generation);
        let images = catalog.images(generation)?;
        let size = manifest.as_ref().map_or(0, |m| m.images.len());
        let mut missing: Vec<u32> = (0u32..).take(size).collect();
        missing.retain(|rank| images.iter().all(|image| image.rank != *rank));
        rows.push(Listed {
            generation,
            missing,
            committed: manifest.is_some(),
            level: manifest.as_ref().map(|m| m.level),
            complete: catalog.levels(generation),
            ranks: manifest.as_ref().map(|m| m.images.len()),
            bytes: manifest
                .as_ref()
                .map(|m| m.images.iter().map(|i| i.len).sum()),
            created: manifest.as_ref().map(|m| m.created),
            images_here: images.len(),
            problems,
        });
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(0);
    }
    println!("job {id}: {}", state_in_words(&catalog.records)?);
    let elsewhere = elsewhere(&config, &catalog.records);
    if rows.is_empty() {
        println!("no generation is stored here");
        if let Some(where_) = elsewhere {
            println!("{where_}");
        }
        return others(options, &id, &config.global_ckpt_dir);
    }
    println!(
        "{:<10} {:<12} {:<22} {:>6} {:>10} {:>7} {:>8}",
        "generation", "state", "complete on", "ranks", "size", "images", "age"
    );
    for row in &rows {
        let complete: Vec<_> = row.complete.iter().map(|l| l.name()).collect();
        println!(
            "{:<10} {:<12} {:<22} {:>6} {:>10} {:>7} {:>8}",
            row.generation.to_string(),
            if row.committed {
                "committed"
            } else {
                "incomplete"
            },
            complete.join(" "),
            row.ranks.map_or("-".into(), |n| n.to_string()),
            row.bytes.map_or("-".into(), size),
            row.images_here,
            row.created.map_or("-".into(), age),
        );
        if !row.missing.is_empty() {
            let ranks = ranges(&row.missing);
            println!("           no image of rank {ranks} is seen from here");
        }
        for problem in &row.problems {
            println!("           {problem}");
        }
    }
    if let Some(where_) = elsewhere {
        println!("{where_}");
    }
    others(options, &id, &config.global_ckpt_dir)
}

/// Where what cannot be seen from here may be: on the nodes the job ran on.
fn elsewhere(config: &Config, records: &Records) -> Option<String> {
    let Ok(JobState::Unfinished { incarnation, .. }) = records.state() else {
        return None;
    };
    let here = short_host();
    let short = |name: &String| name.split('.').next().unwrap_or_default().to_owned();
    let mut nodes: Vec<_> = incarnation.topology.names.iter().map(short).collect();
    nodes.sort_unstable();
    nodes.dedup();
    nodes.retain(|node| *node != here);
    let first = nodes.first().filter(|_| !config.test_mode)?;
    Some(format!(
        "newer ones may lie on the nodes it ran on, and are seen only from there: {} (mana list on {first})",
        nodes.join(", ")
    ))
}

/// The other jobs of the directory, after those of the one that was chosen for the user.
fn others(options: &cli::List, id: &str, global: &Path) -> Result<i32, Failure> {
    let mut all = job::names(global)?;
    all.retain(|(name, _)| name != id);
    if options.job.id.is_none() && !all.is_empty() {
        all.sort_by_key(|(_, time)| std::cmp::Reverse(*time));
        println!("\nother jobs here (--id NAME), the last one first:");
        for (name, _) in all.iter().take(OTHERS) {
            let records = Records::new(Store::at(global.join(name)));
            let standing = state_in_words(&records).unwrap_or_else(|e| e.text);
            println!("  {name:<24} {standing}");
        }
        if all.len() > OTHERS {
            println!("  and {} older ones", all.len() - OTHERS);
        }
    }
    if let Some(runs) = runs(global).filter(|_| options.job.id.is_none()) {
        println!("{runs}");
    }
    Ok(0)
}

/// The runs of `mana start` in the current directory whose checkpoints are elsewhere than `global`, and how to ask for one.
fn runs(global: &Path) -> Option<String> {
    let mut all = RunDirectory::all().ok()?;
    all.retain(|run| run.global() != global);
    let first = all.first()?.name();
    let names: Vec<_> = all.iter().map(RunDirectory::name).collect();
    Some(format!(
        "runs of mana start here: {} (--config {first}.run/mana.conf)",
        names.join(", ")
    ))
}

/// How a job stands by its records.
pub fn state_in_words(records: &Records) -> Result<String, Failure> {
    Ok(match records.state()? {
        JobState::New => "not on record: it is starting, or has ended before MPI_Init".into(),
        JobState::Finished => "ended normally".into(),
        JobState::Unfinished { incarnation, .. } => {
            let end = match records.end() {
                Some(End::Stopped { reason }) => format!(", ended on request ({reason})"),
                Some(End::Paused { reason }) => format!(", ended to go on later ({reason})"),
                Some(End::Failed { reason }) => format!(", failed ({reason})"),
                _ => String::new(),
            };
            let from = incarnation.parent.map_or("from the beginning".into(), |p| {
                format!("from generation {p}")
            });
            format!(
                "unfinished, start {} {from}, {} ranks of {}{end}",
                incarnation.number,
                incarnation.size,
                incarnation.program.display()
            )
        }
    })
}

fn age(created: u64) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    match now.saturating_sub(created) {
        s @ 0..=119 => format!("{s} s"),
        s @ 120..=7199 => format!("{} min", s / 60),
        s @ 7200..=172_799 => format!("{} h", s / 3600),
        s => format!("{} d", s / 86_400),
    }
}

/// `mana verify`: exit code 0 if all is intact, 1 if not.
pub fn verify(options: &cli::Verify) -> Result<i32, Failure> {
    let config = settings::load(&options.job.settings)?;
    let id = job::stored(&options.job, &config.global_ckpt_dir)?;
    let catalog = Catalog::open(&config, &id)?;
    let mut wanted = catalog.generations()?;
    if let Some((incarnation, number)) = options.generation {
        wanted.retain(|g| g.number == number && incarnation.is_none_or(|i| i == g.incarnation));
    }
    if wanted.is_empty() && catalog.records.state()? == JobState::Finished {
        println!("job {id}: ended normally, and no generation is stored here any more");
        return Ok(0);
    }
    if wanted.is_empty() {
        return Err(Failure::new(match options.generation {
            Some(_) => {
                format!("job {id}: no such generation is stored here ('mana list' shows all)")
            }
            None => format!(
                "job {id}: {}; no generation is stored here",
                state_in_words(&catalog.records)?
            ),
        }));
    }
    let (mut good, mut bad) = (0u32, 0u32);
    for generation in wanted {
        let (manifest, problems) = catalog.manifest(generation);
        for problem in problems {
            println!("generation {generation}: {problem}");
            bad += 1;
        }
        let Some(manifest) = manifest else {
            println!("generation {generation}: not committed (no valid manifest here), never used for a restart");
            continue;
        };
        for image in catalog.images(generation)? {
            match check(&catalog.mark, &manifest, &image) {
                Ok(()) => good += 1,
                Err(why) => {
                    println!(
                        "generation {generation} rank {} ({}): {why}",
                        image.rank, image.title
                    );
                    bad += 1;
                }
            }
        }
    }
    println!("job {id}: {good} images intact, {bad} not");
    Ok(i32::from(bad > 0))
}

/// Reads one image whole.
fn check(mark: &str, manifest: &Manifest, image: &Image) -> Result<(), String> {
    let index = usize::try_from(image.rank).map_err(|e| e.to_string())?;
    let Some(expected) = manifest.images.get(index) else {
        return Err(format!(
            "{}: the manifest knows {} ranks",
            image.path.display(),
            manifest.images.len()
        ));
    };
    let name = ImageName {
        job: mark.to_owned(),
        generation: manifest.generation,
        rank: image.rank,
        size: u32::try_from(manifest.images.len()).map_err(|e| e.to_string())?,
    };
    verify_image(&image.path, &name, Some(*expected))
        .map(|_| ())
        .map_err(|e| chain(&e))
}

/// `mana restart --dry-run`: the newest generation every rank of which has an intact copy, and the
/// cheapest of those. Exit code 1 if there is none.
pub fn plan(config: &Config, id: &str, asked: Option<(Option<u32>, u64)>) -> Result<i32, Failure> {
    let catalog = Catalog::open(config, id)?;
    let mut candidates = catalog.candidates()?;
    if let Some((incarnation, number)) = crate::launch::generation(config, id, asked)? {
        candidates.retain(|g| g.incarnation == incarnation && g.number == number);
    }
    for generation in candidates {
        let (manifest, problems) = catalog.manifest(generation);
        for problem in problems {
            println!("generation {generation}: {problem}");
        }
        let Some(manifest) = manifest else {
            println!("generation {generation}: was not committed");
            continue;
        };
        let chosen = catalog.intact(&manifest, |why| println!("{why}"))?;
        if chosen.len() == manifest.images.len() {
            println!(
                "job {id}: would resume generation {generation} ({}, {} old)",
                manifest.level,
                age(manifest.created)
            );
            for image in chosen.values() {
                println!(
                    "  rank {:<5} {:<26} {}",
                    image.rank,
                    image.title,
                    image.path.display()
                );
            }
            return Ok(0);
        }
        let missing: Vec<_> = (0u32..)
            .take(manifest.images.len())
            .filter(|rank| !chosen.contains_key(rank))
            .map(|rank| rank.to_string())
            .collect();
        println!(
            "generation {generation}: no intact copy seen from here of rank {}",
            missing.join(", ")
        );
    }
    println!("job {id}: nothing to resume can be seen from here (on a cluster, other nodes may hold more)");
    Ok(1)
}

/// `mana inspect`
pub fn inspect(options: &cli::Inspect) -> Result<i32, Failure> {
    let image = ImageFile::open(&options.image, None)?;
    show_image(&image, &options.image, options.all);
    match image.verify_data() {
        Ok(()) => {
            println!("checksums: all {} chunks intact", image.header().chunks());
            Ok(0)
        }
        Err(e) => {
            println!("checksums: {}", chain(&e));
            Ok(1)
        }
    }
}

fn show_image(image: &ImageFile, path: &Path, all: bool) {
    let header = image.header();
    println!("{}", path.display());
    println!(
        "job {}  rank {} of {}  generation {}.{}  {} old",
        libckpt::records::job_of(&header.job),
        header.rank,
        header.size,
        header.incarnation,
        header.generation,
        age(header.created)
    );
    println!(
        "size {}, of these {} memory",
        size(header.total),
        size(header.data.1)
    );
    let root: String = header.root().iter().map(|b| format!("{b:02x}")).collect();
    println!("root hash {root}");
    println!("sections:");
    for section in &image.sections().0 {
        let length = u64::try_from(section.bytes.len()).unwrap_or(u64::MAX);
        println!("  {:<10} {:>12}", section.kind.name(), size(length));
    }
    let regions = &image.regions().0;
    let mapped: u64 = regions.iter().map(|r| r.len).sum();
    println!(
        "memory: {} mappings, {} mapped",
        regions.len(),
        size(mapped)
    );
    if !all {
        return;
    }
    for region in regions {
        let stored: u64 = region.runs.iter().map(|r| r.len).sum();
        println!(
            "  {:#014x}-{:#014x} {}{}{} {:>10} of {:>10}  {}",
            region.start,
            region.start + region.len,
            if region.prot & 1 != 0 { 'r' } else { '-' },
            if region.prot & 2 != 0 { 'w' } else { '-' },
            if region.prot & 4 != 0 { 'x' } else { '-' },
            size(stored),
            size(region.len),
            String::from_utf8_lossy(&region.name)
        );
    }
}
