//! `mana prune`: what it deletes, and what it refuses to.

use anyhow::{ensure, Result};

use super::{refused, says, Stage, LIMIT};
use crate::generations::{Damage, Id};
use crate::scenarios::modes::same;

pub fn prune(stage: &Stage) -> Result<()> {
    let stores = stage.setup.stores();
    let prune = |options: &[&str]| stage.mana("prune", options);
    let left = |wanted: &[Id]| {
        let found = stores.committed();
        ensure!(found == wanted, "{found:?} left, {wanted:?} expected");
        Ok(())
    };
    let job = stage.started(&stage.setup, &["--set", "keep=9"])?;
    for level in ["local", "partner", "global"] {
        let options = ["--checkpoint", "--wait", "--level", level];
        stage.mana("status", &options)?.expect(0)?;
    }
    refused(&prune(&["--keep", "1"])?, &["is running"])?;
    refused(&prune(&["--all", "--force"])?, &["is running"])?;
    left(&[(1, 1), (1, 2), (1, 3)])?;
    let last = ["--checkpoint", "--wait", "--level", "local", "--kill"];
    stage.mana("status", &last)?.expect(0)?;
    job.wait(LIMIT)?;

    // Asked wrongly, or too much.
    prune(&[])?.expect(99)?;
    prune(&["--keep", "0"])?.expect(99)?;
    prune(&["--all", "--level", "local"])?.expect(99)?;
    refused(&prune(&["--all"])?, &["has not ended normally", "--force"])?;
    let plan = prune(&["--keep", "1", "--dry-run"])?;
    says(plan.expect(0)?, &["3 checkpoints would be deleted"])?;
    left(&[(1, 1), (1, 2), (1, 3), (1, 4)])?;

    // The newest is damaged: the one before it is the newest that counts.
    let generations = stores.generations();
    Damage::Flip.inflict(&generations[&(1, 4)].own[&1])?;
    let one = prune(&["--keep", "1", "--level", "local"])?;
    says(one.expect(0)?, &["0 checkpoints deleted"])?;
    says(
        prune(&["--keep", "1"])?.expect(0)?,
        &[
            "generation 1.2 (partner): 4 images",
            "2 checkpoints deleted",
        ],
    )?;
    left(&[(1, 3), (1, 4)])?;
    // Nothing is left of the others, manifest or not.
    let ids: Vec<Id> = stores.generations().into_keys().collect();
    ensure!(ids == [(1, 3), (1, 4)], "{ids:?}");
    let resumed = stage.restart(2)?;
    same(&resumed, &stage.expected)?;
    ensure!(
        resumed.stderr.contains("resumed generation 1.3"),
        "{}",
        resumed.report()
    );

    // Of a job that has ended, all; of another one only by force, and then it has.
    for ends in [true, false] {
        let mut setup = stage.setup.clone();
        setup.id = format!("ends-{ends}");
        let job = stage.started(&setup, &["--set", "keep_after_end=true"])?;
        let kill = if ends { &[][..] } else { &["--kill"] };
        let options = [&["--checkpoint", "--wait"], kill].concat();
        setup.mana("status", &options, LIMIT)?.expect(0)?;
        setup.release()?;
        let ended = job.wait(LIMIT)?;
        if ends {
            same(&ended, &stage.expected)?;
        }
        let force = if ends { &[][..] } else { &["--force"] };
        let options = [&["--all"], force].concat();
        let done = setup.mana("prune", &options, LIMIT)?;
        says(done.expect(0)?, &["1 checkpoints deleted"])?;
        left(&[])?;
        let again = setup.launch(&["--restart"], &stage.line)?.wait(LIMIT)?;
        refused(&again, &["nothing to resume"])?;
    }
    Ok(())
}
