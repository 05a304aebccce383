//! Trees whose images are elsewhere: on another level, after the loss of the node, or in an ordinary user's home.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{ensure, Context as _, Result};

use super::{compile, killed_and_resumed, launch, line, source, stage, Tree, LIMIT, TREES};
use crate::context::{skipped, Context, Verdict};
use crate::job::Job;
use crate::product::{Intervals, Product};
use crate::scenarios::modes::same;
use crate::scenarios::Scenario;

/// Nobody's number, on every Linux system.
const NOBODY: u32 = 65534;

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "tree/node-lost",
            "the simulated node of a process tree is lost with its storage: gone on with from the global level",
            node_lost,
        ),
        Scenario::new(
            "tree/user",
            "a process tree of an ordinary user, in a home of his: killed and resumed, and all files are his",
            user,
        ),
    ]
}

fn tree(name: &str) -> Result<&'static Tree> {
    let found = TREES.iter().find(|tree| tree.name == name);
    found.context("no such tree")
}

/// What it says natively.
fn native(tree: &Tree, place: &Path) -> Result<String> {
    let quick = line(tree, place, tree.fast)?;
    let mut command = Command::new(&quick[0]);
    command.args(&quick[1..]).current_dir(place);
    let native = Job::start(command, place)?.wait(LIMIT)?;
    native.expect(0)?.result()
}

/// A tree is one rank, whose node has no other: its partner level has nowhere to copy to. What it is asked for all the same.
fn node_lost(context: &Context) -> Result<Verdict> {
    let Some(product) = context.product() else {
        return skipped("no installed tree was named with --mana");
    };
    let mut place = context.directory("tree-node-lost")?;
    let tree = tree("pipes")?;
    let expected = native(tree, place.path())?;
    let mut setup = stage(product, place.path())?;
    let intervals = Intervals {
        local: 1,
        partner: 2,
        global: 3,
    };
    setup.configure(intervals, "")?;
    setup.hold();
    let slow = line(tree, place.path(), tree.slow)?;
    let stores = setup.stores();
    let mut job = launch(&setup, &["--fresh"], &slow)?;
    // The images alone are not the level: its manifest comes after them.
    job.until("a generation on the global level", LIMIT, |job| {
        let complete = job.messages().contains("complete on level global");
        (complete && job.processes().len() >= tree.processes).then_some(())
    })?;
    let processes = job.processes().len();
    let failed = setup.mana("fail-node", &["0"], LIMIT)?;
    let said = failed.expect(0)?.stdout.clone();
    let ended = job.wait(LIMIT)?;
    ensure!(ended.code() != 0, "{}", ended.report());
    ensure!(
        job_left(&stores.node_directory(0))? == 0,
        "the node has its storage"
    );
    setup.release()?;
    let resumed = launch(&setup, &["--restart"], &slow)?.wait(LIMIT)?;
    same(&resumed, &expected)?;
    let how = resumed
        .stderr
        .lines()
        .find(|l| l.contains("resumed generation"));
    ensure!(
        how.is_some_and(|line| line.contains("(global)")),
        "{}",
        resumed.report()
    );
    place.done();
    Ok(Verdict::Passed(format!(
        "{processes} processes; {}",
        said.trim()
    )))
}

/// How many files a directory has, in all.
fn job_left(directory: &Path) -> Result<usize> {
    if !directory.exists() {
        return Ok(0);
    }
    let mut files = 0;
    for entry in std::fs::read_dir(directory).context("reading the node's storage")? {
        let path = entry?.path();
        files += match path.is_dir() {
            true => job_left(&path)?,
            false => 1,
        };
    }
    Ok(files)
}

/// Everybody's program and product; the rest is the user's.
fn user(context: &Context) -> Result<Verdict> {
    let Some(product) = context.product() else {
        return skipped("no installed tree was named with --mana");
    };
    if !nix::unistd::geteuid().is_root() {
        return skipped("only root can be somebody else");
    }
    let mut place = context.directory("tree-user")?;
    let tree = tree("pipes")?;
    let expected = native(tree, place.path())?;
    let (moved, home) = (place.path().join("moved"), place.path().join("home"));
    std::fs::create_dir(&home).context("making a home")?;
    let shell = |line: &str| -> Result<()> {
        let mut command = Command::new("sh");
        command.args(["-c", line]).current_dir(place.path());
        Job::start(command, place.path())?.wait(LIMIT)?.expect(0)?;
        Ok(())
    };
    let from = product.directory().display().to_string();
    shell(&format!("cp -a '{from}' moved && chmod -R go+rX ."))?;
    let mut setup = stage(&Product::new(&moved)?, &home)?;
    let intervals = Intervals {
        local: 1,
        ..Intervals::default()
    };
    setup.configure(intervals, "keep_after_end=1\n")?;
    let program = home.join("tree");
    compile(&source(tree.source), &program, &[])?;
    shell(&format!("chown -R {NOBODY}:{NOBODY} home"))?;
    let ids = [format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")];
    setup.before.push("setpriv".into());
    setup.before.extend(ids);
    setup.before.push("--clear-groups".into());
    for name in ["HOME", "TMPDIR"] {
        let home = home.display().to_string();
        setup.environment.push((name.into(), home));
    }
    let mut slow = vec![program.display().to_string()];
    slow.extend(tree.slow.iter().map(|word| (*word).to_owned()));
    let stores = setup.stores();
    let note = killed_and_resumed(context, tree, setup, &slow, &expected)?;
    let mut files = 0;
    for (_, generation) in stores.generations() {
        for image in generation.images() {
            let facts = image.metadata().context("an image")?;
            ensure!(
                facts.uid() == NOBODY && facts.mode() & 0o077 == 0,
                "{}",
                image.display()
            );
            files += 1;
        }
    }
    ensure!(files > 0, "no images are left");
    place.done();
    Ok(Verdict::Passed(note))
}
