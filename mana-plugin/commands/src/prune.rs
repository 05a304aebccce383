//! `mana prune`: deletes checkpoints of a job that does not run, in the stores that can be seen from here
//! (on a cluster: the global one and this node's own).
//!
//! What a resume would use is never deleted by `--keep`: an older checkpoint goes only if so many newer ones
//! were read whole, here, with every checksum. `--all` is for jobs that have ended. Of another one it first
//! records the end: other nodes may hold images that cannot be seen from here, and nothing may resume from
//! those once the records of the program's files are gone.

use std::fs;

use libckpt::records::{End, JobState};
use libckpt::{Config, GenerationId, Level};
use mana_journal::{Machine, Near};

use crate::alive::{self, Sign, SILENCE};
use crate::cli;
use crate::job;
use crate::message::Failure;
use crate::settings;
use crate::status::ANSWER_LIMIT;
use crate::stores::Catalog;
use crate::view::size;

/// Deletes, or says what it would.
pub fn prune(options: &cli::Prune) -> Result<i32, Failure> {
    let config = settings::load(&options.settings)?;
    let id = only(options, &config)?;
    let catalog = Catalog::open(&config, &id)?;
    let state = catalog.records.state()?;
    if let JobState::New = state {
        return Err(Failure::new(format!(
            "job {id}: its records are not in {}; nothing is deleted, since what belongs to it cannot be told",
            config.global_ckpt_dir.display()
        )));
    }
    if !options.dry_run {
        let ended = catalog.records.end().is_some();
        refuse_if_running(&config, &id, ended || options.force)?;
    }
    let unfinished = matches!(state, JobState::Unfinished { .. });
    let doomed = match options.keep {
        None if unfinished && !options.force => {
            return Err(Failure::new(format!(
                "job {id} has not ended normally: without its checkpoints it cannot be resumed. Keep the newest with --keep 1, or add --force"
            )));
        }
        None => catalog.generations()?,
        Some(keep) => {
            let level = options.level.map(cli::Level::to_store);
            beyond(&catalog, keep, level)?
        }
    };
    if options.all && unfinished && !options.dry_run {
        let newest = catalog.records.newest()?;
        catalog.records.write_end(newest, &End::Finished)?;
    }
    let (mut count, mut bytes) = (0, 0);
    for generation in &doomed {
        let (manifest, _) = catalog.manifest(*generation);
        let images = catalog.images(*generation)?;
        let here: u64 = images
            .iter()
            .filter_map(|image| fs::metadata(&image.path).ok())
            .map(|facts| facts.len())
            .sum();
        if !options.dry_run {
            for place in &catalog.places {
                place.store.remove(*generation)?;
            }
        }
        println!(
            "generation {generation} ({}): {} images, {} {}",
            manifest.map_or("not committed".into(), |m| m.level.to_string()),
            images.len(),
            size(here),
            if options.dry_run {
                "would be deleted"
            } else {
                "deleted"
            }
        );
        count += 1;
        bytes += here;
    }
    if !options.dry_run {
        forget_files(options, &config, &catalog)?;
    }
    let would = if options.dry_run { "would be " } else { "" };
    println!(
        "job {id}: {count} checkpoints {would}deleted, {}{}",
        size(bytes),
        if options.all && unfinished && !options.dry_run {
            "; it counts as ended, and cannot be resumed any more"
        } else {
            ""
        }
    );
    if !config.test_mode {
        println!("other nodes' own storage cannot be seen from here");
    }
    Ok(0)
}

/// The job that is meant; never a guess.
fn only(options: &cli::Prune, config: &Config) -> Result<String, Failure> {
    let choice = cli::JobChoice {
        settings: options.settings.clone(),
        id: options.id.clone(),
    };
    let all = job::names(&config.global_ckpt_dir)?;
    if options.id.is_none() && all.len() > 1 {
        let list: Vec<_> = all.into_iter().map(|(name, _)| name).collect();
        return Err(Failure::new(format!(
            "several jobs are in {}: name one with --id ({})",
            config.global_ckpt_dir.display(),
            list.join(", ")
        )));
    }
    job::stored(&choice, &config.global_ckpt_dir)
}

/// `trusted`: it has ended, or the user says so; a coordinator that answers knows better.
fn refuse_if_running(config: &Config, id: &str, trusted: bool) -> Result<(), Failure> {
    match alive::look(&config.global_ckpt_dir, id, ANSWER_LIMIT) {
        Sign::Runs(_) => Err(Failure::new(format!(
            "job {id} is running: it deletes by itself what is not needed (keep in mana.conf); 'mana_status --kill' ends it"
        ))),
        Sign::Perhaps(perhaps) if !trusted => Err(Failure::new(format!(
            "{}; wait until that is {} s, or add --force",
            perhaps.text(id),
            SILENCE.as_secs()
        ))),
        _ => Ok(()),
    }
}

/// What `--keep` does not keep, the newest first.
fn beyond(
    catalog: &Catalog,
    keep: u32,
    level: Option<Level>,
) -> Result<Vec<GenerationId>, Failure> {
    let line = catalog.candidates()?;
    let mut all = catalog.generations()?;
    all.reverse();
    choose(
        &all,
        keep,
        level,
        |id| {
            let in_line = line.contains(&id);
            Ok(Facts {
                in_line,
                level: catalog.manifest(id).0.map(|m| m.level),
            })
        },
        |id| catalog.whole(id),
    )
}

/// What decides about a generation.
struct Facts {
    /// A resume would consider it.
    in_line: bool,
    /// What it was taken for; `None`: it was not committed, as far as is seen from here.
    level: Option<Level>,
}

/// `all`: the newest first.
fn choose(
    all: &[GenerationId],
    keep: u32,
    level: Option<Level>,
    facts: impl Fn(GenerationId) -> Result<Facts, Failure>,
    whole: impl Fn(GenerationId) -> Result<bool, Failure>,
) -> Result<Vec<GenerationId>, Failure> {
    let mut kept = 0;
    let mut doomed = Vec::new();
    for &id in all {
        let found = facts(id)?;
        if level.is_some() && found.level != level {
            continue;
        }
        // A start that was superseded has committed it: nothing ever uses it. Else newer ones must be
        // enough: one that is not whole here may be so with what other nodes have.
        if !found.in_line || kept == keep {
            doomed.push(id);
        } else if whole(id)? {
            kept += 1;
        }
    }
    Ok(doomed)
}

/// Deletes the records of the program's files that no checkpoint needs: those of files that all nodes have, and
/// of this machine's.
fn forget_files(options: &cli::Prune, config: &Config, catalog: &Catalog) -> Result<(), Failure> {
    let root = config.global_ckpt_dir.join(&catalog.job);
    let machine = Machine::this();
    let mut all = mana_journal::volumes(&root);
    all.retain(|records| records.volume.near(&machine) > Near::No);
    let mut roots: Vec<_> = all.into_iter().map(|records| records.root).collect();
    roots.push(root);
    // Elsewhere other nodes may have an older checkpoint than is seen from here.
    let oldest = catalog.generations()?.first().copied();
    let oldest = oldest.filter(|_| config.test_mode);
    for root in roots {
        if options.all {
            mana_journal::forget_all(&root);
        } else if let Some(oldest) = oldest {
            mana_journal::prune(&root, oldest).map_err(|e| {
                Failure::new(format!(
                    "cannot delete records of files in {}: {e}",
                    root.display()
                ))
            })?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(incarnation: u32, number: u64) -> GenerationId {
        GenerationId {
            incarnation,
            number,
        }
    }

    /// Newest first: 3.6 is being looked for by other nodes, 2.6 was superseded, 3.5 is damaged.
    const ALL: [(u32, u64, Option<Level>, bool); 7] = [
        (3, 6, None, false),
        (3, 5, Some(Level::Local), false),
        (2, 6, Some(Level::Local), true),
        (1, 4, Some(Level::Partner), true),
        (1, 3, Some(Level::Local), true),
        (1, 2, Some(Level::Global), true),
        (1, 1, Some(Level::Local), false),
    ];

    fn chosen(keep: u32, level: Option<Level>) -> Vec<GenerationId> {
        let all: Vec<_> = ALL.iter().map(|(i, n, ..)| id(*i, *n)).collect();
        let of = |wanted: GenerationId| {
            let found = ALL.iter().find(|(i, n, ..)| id(*i, *n) == wanted);
            *found.expect("known")
        };
        choose(
            &all,
            keep,
            level,
            |g| {
                Ok(Facts {
                    in_line: g.incarnation != 2,
                    level: of(g).2,
                })
            },
            |g| Ok(of(g).3),
        )
        .unwrap_or_else(|e| panic!("{}", e.text))
    }

    #[test]
    fn older_ones_go_only_when_so_many_newer_ones_are_whole() {
        assert_eq!(chosen(1, None), [id(2, 6), id(1, 3), id(1, 2), id(1, 1)]);
        assert_eq!(chosen(2, None), [id(2, 6), id(1, 2), id(1, 1)]);
        assert_eq!(chosen(3, None), [id(2, 6), id(1, 1)]);
        assert_eq!(chosen(4, None), [id(2, 6)]);
    }

    #[test]
    fn another_level_is_left_alone() {
        assert_eq!(chosen(1, Some(Level::Local)), [id(2, 6), id(1, 1)]);
        assert_eq!(chosen(1, Some(Level::Global)), []);
        assert_eq!(chosen(1, Some(Level::Group)), []);
    }
}
