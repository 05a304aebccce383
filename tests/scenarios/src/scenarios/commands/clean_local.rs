//! `slurm/clean-local` as an administrator's prolog, where users may write to the directory above: what they have put there
//! in its way is left as it is.

use std::fs;
use std::os::unix::fs::{chown, symlink, MetadataExt as _, PermissionsExt};
use std::path::Path;
use std::process::Command;

use anyhow::{ensure, Result};

use super::SHORT;
use crate::context::{passed, skipped, Context, Verdict};
use crate::job::Job;
use crate::scenarios::cluster::bed::Site;

/// Of Debian's user `nobody`.
const NOBODY: u32 = 65534;

pub fn run(context: &Context) -> Result<Verdict> {
    if !nix::unistd::geteuid().is_root() {
        return skipped("a prolog is root");
    }
    let mut place = context.directory("commands-clean-local")?;
    let above = place.path().join("local");
    fs::create_dir(&above)?;
    fs::set_permissions(&above, PermissionsExt::from_mode(0o1777))?;
    let base = above.join("mana");
    let prolog = |what: &str| -> Result<String> {
        let mut command = Command::new("bash");
        command
            .arg(Site::template("clean-local")?)
            .env("MANA_LOCAL_BASE", &base)
            .env("SLURM_JOB_USER", "nobody")
            .current_dir(place.path());
        let ended = Job::start(command, place.path())?.wait(SHORT)?;
        ensure!(ended.code() == 0, "{what}: {}", ended.report());
        Ok(ended.stderr)
    };
    let of_root = place.path().join("etc");
    fs::create_dir(&of_root)?;
    let untouched = |what: &str| -> Result<()> {
        let facts = fs::metadata(&of_root)?;
        let left = fs::read_dir(&of_root)?.count();
        ensure!(
            facts.uid() == 0 && facts.mode() & 0o777 == 0o755 && left == 0,
            "{what}: it has owner {}, mode {:o}, {left} entries",
            facts.uid(),
            facts.mode()
        );
        Ok(())
    };
    fs::set_permissions(&of_root, PermissionsExt::from_mode(0o755))?;

    // A user was there first: a link instead of the base, a base of his own with a link in it, an open one.
    symlink(&of_root, &base)?;
    let told = prolog("a link")?;
    ensure!(told.contains("others may write"), "{told:?}");
    untouched("a link")?;
    fs::remove_file(&base)?;
    for (owner, mode) in [(NOBODY, 0o755), (0, 0o1777)] {
        fs::create_dir(&base)?;
        fs::set_permissions(&base, PermissionsExt::from_mode(mode))?;
        symlink(&of_root, base.join("nobody"))?;
        chown(&base, Some(owner), None)?;
        let told = prolog("a foreign base")?;
        ensure!(told.contains("others may write"), "{told:?}");
        untouched("a foreign base")?;
        fs::remove_dir_all(&base)?;
    }

    // Nobody was: it makes both, and deletes what is old.
    prolog("the first")?;
    let own = base.join("nobody");
    let facts = fs::metadata(&own)?;
    ensure!(facts.uid() == NOBODY && facts.mode() & 0o777 == 0o700);
    for name in ["17-app-00", "18-app-00", "19-app-00", "notes"] {
        fs::create_dir(own.join(name))?;
        if name != "18-app-00" {
            old(&own.join(name), place.path())?;
        }
    }
    // What the user links to is not his, nor old.
    symlink(&of_root, own.join("20-app-00"))?;
    prolog("the second")?;
    untouched("a link among the jobs")?;
    let mut left: Vec<_> = fs::read_dir(&own)?
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    left.sort();
    ensure!(
        left == ["18-app-00", "20-app-00", "notes"],
        "left: {left:?}"
    );
    place.done();
    passed()
}

fn old(path: &Path, place: &Path) -> Result<()> {
    let mut command = Command::new("touch");
    command.args(["-d", "10 days ago"]).arg(path);
    Job::start(command, place)?.wait(SHORT)?.expect(0).map(drop)
}
