//! Files written through MPI, at the beginnings and ends of a job: what is put back, and by whom.
//!
//! What all nodes have is rank 0's. What only one node has (a volume of the journal's) is that of a rank
//! which sees it; the lowest rank of each node says what it sees.

use libckpt::session::Session;
use libckpt::GenerationId;
use mana_journal::{Machine, Near, Volume};
use mana_plugin::WorldCollective;

use crate::calls::JOURNAL;
use crate::{waits, Failure};

/// Who is waited for is named under it.
pub const TITLE: &str = "the resume (files written through MPI)";

/// Puts all files back to what they were at `generation`, before anybody looks at them. On the main thread
/// of every rank; other ranks may not be done when it returns.
pub fn put_back(
    session: &Session,
    generation: GenerationId,
    world: Option<&WorldCollective>,
) -> Result<(), Failure> {
    let root = session.global().root();
    let first = session.rank() == 0;
    let mut roots = Vec::new();
    if first {
        roots.push(root.to_path_buf());
    }
    let mut adopted = Vec::new();
    for (volume, restorer) in volumes(session, world)? {
        let records = root.join(volume.name());
        match restorer {
            Some(rank) if rank == session.rank() => adopted.push(records),
            None if first && mana_journal::concerned(&records, generation) => log::warn!(
                "{}: no rank is there, what was written to files since generation {generation} is not taken back",
                volume.place()
            ),
            _ => {}
        }
    }
    roots.extend(adopted.iter().cloned());
    for line in mana_journal::restore(&roots, generation)? {
        log::warn!("{line}");
    }
    JOURNAL.begin(root, Some(generation));
    JOURNAL.adopt(adopted);
    Ok(())
}

/// All volumes that have records, and the rank that sees each best.
fn volumes(
    session: &Session,
    world: Option<&WorldCollective>,
) -> Result<Vec<(Volume, Option<u32>)>, Failure> {
    let failed = |class| format!("about the files of nodes: MPI error class {class}");
    let mut bytes = Vec::new();
    if session.rank() == 0 {
        let found = mana_journal::volumes(session.global().root());
        let found: Vec<Volume> = found.into_iter().map(|r| r.volume).collect();
        bytes = postcard::to_stdvec(&found)?;
    }
    if let Some(world) = world {
        waits::together(Some(world), TITLE, Ok(()))?;
        world.bcast(0, &mut bytes).map_err(failed)?;
    }
    let found: Vec<Volume> = postcard::from_bytes(&bytes)?;
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let machine = Machine::this();
    let mut near = Vec::new();
    if session.is_leader() {
        near.extend(found.iter().map(|v| v.near(&machine).byte()));
    }
    let all = match world {
        Some(world) => {
            waits::together(Some(world), TITLE, Ok(()))?;
            world.allgather(&near).map_err(failed)?
        }
        None => vec![near],
    };
    let best = |i: usize| {
        let seen = (0..).zip(&all).filter_map(|(rank, near)| {
            let near = near.get(i).copied()?;
            (near > Near::No.byte()).then_some((near, rank))
        });
        // Of several that see it the same way, the lowest.
        let best = seen.max_by_key(|(near, rank): &(u8, u32)| (*near, std::cmp::Reverse(*rank)));
        best.map(|(_, rank)| rank)
    };
    let found = found.into_iter().enumerate();
    Ok(found.map(|(i, volume)| (volume, best(i))).collect())
}

/// Deletes what was saved for generations before `oldest`, as far as it is this rank's.
pub fn prune(session: &Session, oldest: GenerationId) -> Result<(), Failure> {
    if session.rank() == 0 {
        mana_journal::prune(session.global().root(), oldest)?;
    }
    if session.is_leader() {
        for root in JOURNAL.volumes() {
            mana_journal::prune(&root, oldest)?;
        }
    }
    Ok(())
}

/// Deletes what an earlier life of the job has left on this rank's node, and on all if it is rank 0.
/// [`forget_rest`] follows when all ranks have done so.
pub fn forget_earlier(session: &Session) {
    let root = session.global().root();
    if session.is_leader() {
        let machine = Machine::this();
        for records in mana_journal::volumes(root) {
            if records.volume.near(&machine) > Near::No {
                mana_journal::forget_all(&records.root);
            }
        }
    }
    if session.rank() == 0 {
        mana_journal::forget_all(root);
    }
}

/// Deletes the records of volumes, also of those that nobody sees any more.
pub fn forget_rest(session: &Session) {
    if session.rank() == 0 {
        mana_journal::forget_volumes(session.global().root());
    }
}

/// The job has ended, and nothing is kept.
pub fn forget(session: &Session) {
    if session.is_leader() {
        for root in JOURNAL.volumes() {
            mana_journal::forget_all(&root);
            let _ = std::fs::remove_dir_all(&root);
        }
    }
    if session.rank() == 0 {
        mana_journal::forget_all(session.global().root());
    }
}
