//! One rank's part in taking generations: where it is, what it writes, what its node keeps.
//!
//! ```text
//!  open -> (recover) -> begin -> { write_image -> announce -> commit -> level_work* -> complete* -> prune | discard }* -> record_end -> clean_up
//! ```
//! The coordinator (`mana-control`) says when; this says how. All methods take `&self`, so that
//! level work runs on a thread of its own.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::collective::gather;
use crate::fault::point;
use crate::identity;
use crate::image_file::{self, ImageContent, ImageName, ImageReport};
use crate::manifest::{is_complete, write_complete, Manifest};
use crate::records::{mark, program_hash, End, Incarnation, Records};
use crate::store::{
    copy_verified, make_dir, remove_file, remove_unfinished, sync_dir, Copy, Store,
};
use crate::transport::{self, Addresses, Secret, Server};
use crate::{Collective, Config, Error, GenerationId, Level, Topology};

/// One rank's view of its job's storage.
pub struct Session {
    pub(crate) config: Config,
    job: String,
    /// The name in images and manifests; known from the job's first record on.
    mark: Mark,
    pub(crate) topology: Topology,
    pub(crate) rank: u32,
    pub(crate) size: u32,
    pub(crate) node: u32,
    pub(crate) local: Store,
    pub(crate) global: Store,
    pub(crate) records: Records,
    pub(crate) secret: Secret,
    /// Addresses of each node's server.
    pub(crate) peers: Vec<Addresses>,
    /// The generation resumed from, and its levels that were complete before.
    pub(crate) adopting: Mutex<Option<(GenerationId, Vec<Level>)>>,
    _server: Option<Server>,
}

/// What the images of a job carry as its name (`records::mark`), once that is known.
pub type Mark = Arc<OnceLock<String>>;

/// For a record that rank 0 has written to be seen on all nodes.
const SEEN: Duration = Duration::from_secs(5);

/// What a start of the job is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// The incarnation's number.
    pub incarnation: u32,
    /// Number of its first generation.
    pub first: u64,
}

/// Facts for the incarnation's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beginning {
    /// What it resumed from.
    pub parent: Option<GenerationId>,
    /// The program.
    pub program: PathBuf,
    /// Thread level of the MPI library; -1 without MPI.
    pub thread_level: i32,
    /// The batch system's restart count.
    pub restart_count: u32,
}

impl Session {
    /// Finds out where all ranks are and starts this node's server (on its lowest rank).
    ///
    /// # Errors
    /// When a rank is gone or cannot start.
    pub fn open(
        config: &Config,
        job: &str,
        secret: Secret,
        all: &dyn Collective,
    ) -> Result<Self, Error> {
        all.doing("finding out which node it is on");
        let topology = Topology::discover(config, all)?;
        Self::with_topology(config, job, secret, topology, all)
    }

    /// The same for a known topology (the simulation's).
    ///
    /// # Errors
    /// When a rank is gone or cannot start.
    pub fn with_topology(
        config: &Config,
        job: &str,
        secret: Secret,
        topology: Topology,
        all: &dyn Collective,
    ) -> Result<Self, Error> {
        let rank = all.rank();
        crate::fault::set_rank(rank);
        let node = topology.node_of[rank as usize];
        let local = Store::local(config, job, node);
        let global = Store::global(config, job);
        let leader = topology.leader(node) == rank;
        let records = Records::new(global.clone());
        let origin = told_by_rank_0(all, "the job's origin", || records.origin())?;
        let name = Mark::default();
        if let Some(origin) = origin {
            let _ = name.set(mark(job, Some(origin)));
        }
        let start = || {
            all.doing(&format!("opening {}", local.root().display()));
            point("open.local");
            local.refuse_if_foreign()?;
            let own = transport::secret_of(&secret, node);
            Server::start(local.clone(), Arc::clone(&name), own, config.test_mode)
        };
        let server = leader.then(start);
        let mine = match &server {
            Some(Ok(s)) => Ok(s.addresses().clone()),
            Some(Err(e)) => Err(e.to_string()),
            None => Ok(Addresses::new()),
        };
        let addresses = gather(all, "addresses of the nodes", &mine)?;
        let peers = (0..topology.nodes())
            .map(|n| addresses[topology.leader(n) as usize].clone())
            .collect::<Result<_, _>>()
            .map_err(|reason| Error::Collective {
                operation: "starting the nodes' servers",
                reason,
            })?;
        Ok(Self {
            config: config.clone(),
            job: job.to_owned(),
            mark: name,
            rank,
            size: all.size(),
            node,
            records,
            local,
            global,
            secret,
            peers,
            adopting: Mutex::new(None),
            topology,
            _server: server.transpose()?,
        })
    }

    /// This rank.
    pub fn rank(&self) -> u32 {
        self.rank
    }

    /// Number of ranks.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// The nodes.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// This rank's node.
    pub fn node(&self) -> u32 {
        self.node
    }

    /// Whether this rank writes what its node needs once.
    pub fn is_leader(&self) -> bool {
        self.topology.leader(self.node) == self.rank
    }

    /// The job's records.
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// The job's global directory.
    pub fn global(&self) -> &Store {
        &self.global
    }

    /// This node's storage.
    pub fn local(&self) -> &Store {
        &self.local
    }

    /// Records this start of the job (rank 0) and tells everyone its number.
    ///
    /// # Errors
    /// When the global directory cannot be written.
    pub fn begin(&self, beginning: &Beginning, all: &dyn Collective) -> Result<Begun, Error> {
        // What lies here of an earlier job of this name, whose records are gone, must not have this start's number.
        // (Storage that cannot be listed holds nothing for recovery either.)
        let held = self.is_leader().then(|| self.local.generations().ok());
        let held = held.flatten().unwrap_or_default();
        let highest = held.last().map(|id| id.incarnation);
        let highest = gather(all, "what the nodes hold", &highest)?;
        let highest = highest.into_iter().flatten().max();
        let record = || {
            all.doing(&format!(
                "recording the start of the job in {}",
                self.global.root().display()
            ));
            point("begin.record");
            let incarnation = Incarnation {
                number: highest.unwrap_or(0),
                parent: beginning.parent,
                size: self.size,
                thread_level: beginning.thread_level,
                program: beginning.program.clone(),
                program_hash: program_hash(&beginning.program),
                created: now(),
                restart_count: beginning.restart_count,
                batch_job: identity::batch_job(&|name: &str| std::env::var(name).ok()),
                topology: self.topology.clone(),
            };
            let origin = self.records.make_origin()?;
            Ok((self.records.begin(incarnation)?.number, origin))
        };
        let (incarnation, origin) = told_by_rank_0(all, "recording the start of the job", record)?;
        let name = self.mark.get_or_init(|| mark(&self.job, origin));
        if *name != mark(&self.job, origin) {
            return Err(Error::Collective {
                operation: "recording the start of the job",
                reason: format!(
                    "somebody has replaced its records in {} meanwhile",
                    self.global.root().display()
                ),
            });
        }
        if self.is_leader() && !self.records.is_seen(incarnation, SEEN) {
            let (host, global) = (&self.topology.names[self.node as usize], self.global.root());
            log::warn!(
                "{} on {host} is not the directory that rank 0 has: what is global lies on each node apart, and is lost with it; set global_ckpt_dir to a directory that all nodes share",
                global.parent().unwrap_or(global).display()
            );
        }
        Ok(Begun {
            incarnation,
            first: beginning.parent.map_or(1, |p| p.number + 1),
        })
    }

    /// What images and manifests carry as the job's name.
    pub(crate) fn mark(&self) -> &str {
        self.mark.get().unwrap_or(&self.job)
    }

    /// The name of this rank's image in a generation.
    pub fn image_name(&self, generation: GenerationId) -> ImageName {
        ImageName {
            job: self.mark().to_owned(),
            generation,
            rank: self.rank,
            size: self.size,
        }
    }

    /// Where this rank's image of a generation lies on this node.
    pub fn image_path(&self, generation: GenerationId) -> PathBuf {
        self.local.image(generation, self.rank, Copy::Own)
    }

    /// Writes this rank's image to the node's storage, durably.
    ///
    /// # Errors
    /// When that fails; nothing is left behind.
    pub fn write_image(
        &self,
        generation: GenerationId,
        content: ImageContent,
    ) -> Result<ImageReport, Error> {
        point("image.before");
        let report = image_file::write(
            &self.image_path(generation),
            &self.image_name(generation),
            content,
        )?;
        point("image.after");
        Ok(report)
    }

    /// Every image is durable, and no node has written the manifest yet: rank 0 notes in the global
    /// directory that something may be committed from now on. Without that note nothing may be: a start
    /// whose commits nobody knows of would look like one that never had any.
    ///
    /// # Errors
    /// When it cannot be written, or somebody has deleted the records of this start.
    pub fn announce(&self, generation: GenerationId) -> Result<(), Error> {
        if self.rank != 0 {
            return Ok(());
        }
        self.records.still_has(generation.incarnation)?;
        self.records.mark_committing(generation)
    }

    /// Makes a generation valid on this node: writes the manifest (each node's leader), once it has been
    /// announced. Refuses if a newer start of the job exists.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn commit(
        &self,
        generation: GenerationId,
        level: Level,
        images: &[ImageReport],
    ) -> Result<(), Error> {
        if let Ok(Some(newest)) = self.records.superseded(generation.incarnation) {
            return Err(Error::Superseded {
                ours: generation.incarnation,
                newest,
            });
        }
        point("commit.before");
        self.manifest(generation, level, images)
            .write(&self.local)?;
        point("commit.after");
        Ok(())
    }

    fn manifest(&self, generation: GenerationId, level: Level, images: &[ImageReport]) -> Manifest {
        Manifest {
            job: self.mark().to_owned(),
            generation,
            level,
            created: now(),
            images: images.to_vec(),
            topology: self.topology.clone(),
        }
    }

    /// Brings this rank's image to `level`: copies it to the partner node, or to the global directory.
    /// Takes long; meant for a thread of its own.
    ///
    /// # Errors
    /// When it did not get there.
    pub fn level_work(
        &self,
        generation: GenerationId,
        level: Level,
        report: ImageReport,
    ) -> Result<(), Error> {
        let own = self.image_path(generation);
        match level {
            Level::Local | Level::Group => {}
            Level::Partner => {
                let partner = self.topology.partner_of[self.node as usize];
                if partner == self.node {
                    return Ok(());
                }
                point("partner.before");
                transport::put(
                    &self.peers[partner as usize],
                    &transport::secret_of(&self.secret, partner),
                    &own,
                    &self.image_name(generation),
                    report,
                )?;
                point("partner.after");
            }
            Level::Global => {
                point("global.before");
                self.flush(generation, report)?;
                point("global.after");
            }
        }
        Ok(())
    }

    fn flush(&self, generation: GenerationId, report: ImageReport) -> Result<(), Error> {
        let own = self.image_path(generation);
        let path = self.global.image(generation, self.rank, Copy::Own);
        make_dir(&self.global.generation(generation))?;
        copy_verified(&own, &path, &self.image_name(generation), report)
    }

    /// Records that `level` of a generation is complete on all ranks (each node's leader; for the
    /// global level rank 0 also puts the manifest beside the images there). The local level, which
    /// comes first, tells rank 0 that every node holds the manifest.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn complete(&self, generation: GenerationId, level: Level) -> Result<(), Error> {
        point("complete.before");
        if level == Level::Local && self.rank == 0 {
            self.records.mark_committed(generation.incarnation)?;
        }
        if self.is_leader() {
            write_complete(&self.local, generation, level)?;
        }
        if level == Level::Global && self.rank == 0 {
            sync_dir(&self.global.generation(generation))?;
            Manifest::read(&self.local, self.mark(), generation)?.write(&self.global)?;
            write_complete(&self.global, generation, level)?;
        }
        point("complete.after");
        Ok(())
    }

    fn refuse_if_superseded(&self, ours: u32) -> Result<(), Error> {
        match self.records.superseded(ours)? {
            Some(newest) => Err(Error::Superseded { ours, newest }),
            None => Ok(()),
        }
    }

    /// Deletes what no level needs any more: in the node's storage (leader), and in the global
    /// directory (rank 0). `protect` stays. Refuses if a newer start of the job exists, and leaves
    /// alone whatever belongs to one.
    ///
    /// # Errors
    /// When something cannot be listed or deleted.
    pub fn prune(&self, incarnation: u32, protect: &[GenerationId]) -> Result<(), Error> {
        self.refuse_if_superseded(incarnation)?;
        let ancestry = self.records.ancestry(incarnation)?;
        if self.is_leader() {
            self.adopt()?;
            self.prune_store(
                &self.local,
                &[Level::Local, Level::Partner],
                &ancestry,
                protect,
            )?;
        }
        if self.rank == 0 {
            self.prune_store(&self.global, &[Level::Global], &ancestry, protect)?;
        }
        Ok(())
    }

    /// Completion records of the generation that was resumed from, on a node that did not have them:
    /// written as soon as the node again holds all it has to hold.
    fn adopt(&self) -> Result<(), Error> {
        let mut waiting = self.adopting.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((generation, levels)) = waiting.as_ref() else {
            return Ok(());
        };
        let Ok(manifest) = Manifest::read(&self.local, self.mark(), *generation) else {
            return Ok(());
        };
        let whole = |copy: Copy, node: u32| {
            let ranks = (0..self.size).filter(|r| self.topology.node_of[*r as usize] == node);
            ranks.into_iter().all(|r| {
                let path = self.local.image(*generation, r, copy);
                fs::metadata(path).is_ok_and(|m| m.len() == manifest.images[r as usize].len)
            })
        };
        let own = whole(Copy::Own, self.node);
        let kept = (0..self.topology.nodes())
            .filter(|n| *n != self.node && self.topology.partner_of[*n as usize] == self.node)
            .all(|n| whole(Copy::Partner, n));
        if !own || (levels.contains(&Level::Partner) && !kept) {
            return Ok(());
        }
        for &level in levels {
            if !is_complete(&self.local, *generation, level) {
                write_complete(&self.local, *generation, level)?;
            }
        }
        *waiting = None;
        Ok(())
    }

    fn prune_store(
        &self,
        store: &Store,
        levels: &[Level],
        ancestry: &[(u32, u64)],
        protect: &[GenerationId],
    ) -> Result<(), Error> {
        let all = store.generations()?;
        let ours = |id: &GenerationId| {
            ancestry
                .iter()
                .any(|(i, bound)| *i == id.incarnation && id.number <= *bound)
        };
        let mut needed: BTreeSet<GenerationId> = protect.iter().copied().collect();
        let mut newest = None;
        // What was resumed from counts for the levels it had, while this node is made whole again.
        let adopting = self.adopting.lock().unwrap_or_else(PoisonError::into_inner);
        let adopted = |id: &GenerationId, level: Level| {
            let waiting = adopting.as_ref().filter(|(g, _)| g == id);
            store == &self.local && waiting.is_some_and(|(_, levels)| levels.contains(&level))
        };
        for &level in levels {
            let complete = all
                .iter()
                .rev()
                .filter(|id| ours(id) && (is_complete(store, **id, level) || adopted(id, level)));
            let kept: Vec<_> = complete
                .take(self.config.keep[level.index()] as usize)
                .copied()
                .collect();
            newest = newest.max(kept.first().copied());
            needed.extend(kept);
        }
        for id in all {
            // Newer than all that is complete: being taken, or its level work is not done. Older ones
            // whose level work still goes on are named in `protect`.
            let pending = ours(&id) && newest.is_none_or(|n| id > n);
            let foreign = ancestry.first().is_none_or(|(i, _)| id.incarnation > *i);
            if !needed.contains(&id) && !pending && !foreign {
                point("prune.before");
                store.remove(id)?;
                point("prune.after");
            }
        }
        Ok(())
    }

    /// Deletes what this rank wrote of a generation that is given up.
    ///
    /// # Errors
    /// When it cannot be deleted.
    pub fn discard(&self, generation: GenerationId) -> Result<(), Error> {
        if self.is_leader() {
            remove_file(&self.local.manifest(generation))?;
        }
        let path = self.image_path(generation);
        remove_unfinished(&path)?;
        remove_file(&path)?;
        if self.rank == 0 {
            self.records.unmark_committing(generation)?;
        }
        // The last rank of the node to leave takes the directory along.
        let _ = fs::remove_dir(self.local.generation(generation));
        Ok(())
    }

    /// Records the end of the job, durably (rank 0).
    ///
    /// # Errors
    /// When it cannot be written, or a newer start of the job exists.
    pub fn record_end(&self, incarnation: u32, end: &End) -> Result<(), Error> {
        self.refuse_if_superseded(incarnation)?;
        point("end.before");
        self.records.write_end(incarnation, end)?;
        point("end.recorded");
        Ok(())
    }

    /// After a normal end: deletes everything but (with `keep_after_end`) the newest generation. Only once
    /// rank 0 has recorded that end: without it a restart needs the images, of every node.
    ///
    /// # Errors
    /// When something cannot be deleted, or a newer start of the job exists.
    pub fn clean_up(&self, incarnation: u32) -> Result<(), Error> {
        self.refuse_if_superseded(incarnation)?;
        let ancestry = self.records.ancestry(incarnation).unwrap_or_default();
        let mut stores = Vec::new();
        if self.is_leader() {
            stores.push(&self.local);
        }
        if self.rank == 0 {
            stores.push(&self.global);
        }
        for store in stores {
            let all = store.generations()?;
            let newest = all.iter().rev().find(|id| {
                let ours = |(i, bound): &(u32, u64)| *i == id.incarnation && id.number <= *bound;
                ancestry.iter().any(ours) && Manifest::read(store, self.mark(), **id).is_ok()
            });
            let keep = self
                .config
                .keep_after_end
                .then_some(newest)
                .flatten()
                .copied();
            for id in all {
                if Some(id) != keep && id.incarnation <= incarnation {
                    store.remove(id)?;
                }
            }
            store.remove_unfinished()?;
            if keep.is_none() && store != &self.global {
                let _ = fs::remove_dir(store.root());
            }
        }
        Ok(())
    }
}

/// What only rank 0 finds out, on all ranks.
fn told_by_rank_0<T: Serialize + serde::de::DeserializeOwned>(
    all: &dyn Collective,
    operation: &'static str,
    find: impl FnOnce() -> Result<T, Error>,
) -> Result<T, Error> {
    let found = (all.rank() == 0).then(|| find().map_err(|e| e.to_string()));
    let told = gather(all, operation, &found)?;
    told.into_iter()
        .next()
        .flatten()
        .unwrap_or_else(|| Err("rank 0 said nothing".into()))
        .map_err(|reason| Error::Collective { operation, reason })
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}
