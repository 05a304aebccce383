//! Wrong files, keys, directories and programs; a disk that is full.

use std::path::Path;
use std::process::Command;

use anyhow::{bail, ensure, Context as _, Result};

use super::{refused, same, shell, Stage, LIMIT, SHORT};
use crate::job::Job;

/// One way to go wrong: a configuration, options, a program, and the words of the one line.
struct Wrong {
    configuration: Option<&'static str>,
    options: &'static [&'static str],
    program: &'static str,
    words: &'static [&'static str],
}

const fn wrong(
    configuration: Option<&'static str>,
    options: &'static [&'static str],
    program: &'static str,
    words: &'static [&'static str],
) -> Wrong {
    Wrong {
        configuration,
        options,
        program,
        words,
    }
}

const BAD: &[Wrong] = &[
    wrong(
        Some("keep=2\nlocal_ckpt_intervall=3\n"),
        &[],
        "true",
        &["line 2", "local_ckpt_interval"],
    ),
    wrong(
        Some("local_ckpt_interval=\"often\"\n"),
        &[],
        "true",
        &["line 1", "often", "seconds"],
    ),
    wrong(Some("keep = [1]\n"), &[], "true", &["line 1", "keep"]),
    wrong(Some("global_ckpt_dir = \"./x\n"), &[], "true", &["line 1"]),
    wrong(
        Some("global_ckpt_dir=${NOT_SET_HERE}/x\n"),
        &[],
        "true",
        &["NOT_SET_HERE"],
    ),
    wrong(
        None,
        &["--config", "nowhere.conf"],
        "true",
        &["nowhere.conf", "--config"],
    ),
    wrong(None, &["--set", "kep=1"], "true", &["kep", "keep"]),
    wrong(
        None,
        &["--set", "global_ckpt_dir=/proc/x"],
        "true",
        &["/proc/x", "global_ckpt_dir"],
    ),
    wrong(
        None,
        &["--set", "local_ckpt_dir=/proc/x"],
        "true",
        &["/proc/x", "local_ckpt_dir"],
    ),
    wrong(None, &["--mpi", "nompi"], "true", &["nompi", "openmpi"]),
    wrong(None, &["--coord-port", "77"], "true", &["--coord-host"]),
    wrong(None, &[], "no-such-program", &["no-such-program", "PATH"]),
    wrong(None, &[], "./no-such-program", &["./no-such-program"]),
    wrong(
        None,
        &["--intervall", "60"],
        "true",
        &["no option --intervall", "--help", "--set"],
    ),
    wrong(None, &[], "..", &["..", "is a directory"]),
    wrong(None, &[], "./text", &["./text", "#!"]),
    wrong(None, &[], "./static", &["./static", "static"]),
    wrong(None, &[], "./thirty-two", &["32-bit"]),
    wrong(None, &[], "./set-gid", &["set-uid or set-gid"]),
];

pub fn bad_input(stage: &Stage) -> Result<()> {
    let place = stage.place.path();
    std::fs::write(place.join("c.c"), "int main(void) { return 0; }\n")?;
    std::fs::write(place.join("text"), "no program\n")?;
    let mut header = b"\x7fELF\x01\x01\x01".to_vec();
    header.resize(100, 0);
    std::fs::write(place.join("thirty-two"), header)?;
    shell(
        place,
        "gcc -static c.c -o static && cp /bin/true set-gid && chmod g+s set-gid && chmod +x text thirty-two",
    )?;
    for case in BAD {
        let mut command = Command::new(stage.setup.product.command("mana_launch"));
        command
            .args(case.options)
            .arg(case.program)
            .current_dir(place);
        if let Some(text) = case.configuration {
            std::fs::write(place.join("bad.conf"), text)?;
            command.env("MANA_CONF", place.join("bad.conf"));
        }
        let ended = Job::start(command, place)?.wait(SHORT)?;
        refused(&ended, case.words).with_context(|| {
            format!(
                "{:?} {:?} {}",
                case.configuration, case.options, case.program
            )
        })?;
    }
    // Under a launcher: said once, though every rank finds it.
    let unwritable = stage
        .setup
        .launch(&["--set", "global_ckpt_dir=/proc/x"], &stage.quick)?
        .wait(LIMIT)?;
    refused(&unwritable, &["/proc/x"])?;
    let left: Vec<_> = stage.setup.stores().global.read_dir()?.collect();
    ensure!(left.is_empty(), "something was left behind: {left:?}");
    full_disk(stage)?;
    full_global(stage)
}

/// A file system of its own, gone when dropped.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

/// A small file system at `path`; nothing where this machine allows none.
fn small_disk<'a>(stage: &Stage, path: &'a Path) -> Result<Option<Mounted<'a>>> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(None);
    }
    std::fs::create_dir(path)?;
    let mount = format!("mount -t tmpfs -o size=1m tmpfs '{}'", path.display());
    // A container may not.
    let mounted = shell(stage.place.path(), &mount);
    Ok(mounted.is_ok().then_some(Mounted(path)))
}

/// The first commit of a start cannot be put on record: no node keeps it, and the next one works.
fn full_global(stage: &Stage) -> Result<()> {
    let small = stage.place.path().join("small-global");
    let Some(_mounted) = small_disk(stage, &small)? else {
        return Ok(());
    };
    let option = format!("global_ckpt_dir={}", small.display());
    let job = stage.started(&stage.setup, &["--set", &option])?;
    let fill = small.join("fill");
    // It ends when the disk is full.
    shell(
        stage.place.path(),
        &format!("cat /dev/zero > '{}' 2>/dev/null; true", fill.display()),
    )?;
    let checkpoint = || {
        let words = ["--set", &option, "--checkpoint", "--level", "local"];
        stage.mana("status", &[&words[..], &["--wait"]].concat())
    };
    refused(&checkpoint()?, &["committing-1", "no room"])?;
    let kept = stage.setup.stores().committed();
    ensure!(kept.is_empty(), "a manifest was written: {kept:?}");
    std::fs::remove_file(&fill)?;
    checkpoint()?.expect(0)?;
    stage.setup.release()?;
    same(&job.wait(LIMIT)?, &stage.expected)
}

/// A checkpoint that does not fit fails, is said with the number of bytes, and leaves nothing.
fn full_disk(stage: &Stage) -> Result<()> {
    let small = stage.place.path().join("small");
    let Some(_mounted) = small_disk(stage, &small)? else {
        return Ok(());
    };
    let option = format!("local_ckpt_dir={}", small.display());
    let job = stage.started(&stage.setup, &["--set", &option])?;
    let taken = stage.mana("status", &["--checkpoint", "--wait"])?;
    refused(&taken, &["no room", "bytes"])?;
    stage.setup.release()?;
    let ended = job.wait(LIMIT)?;
    same(&ended, &stage.expected)?;
    let mut found = Vec::new();
    let mut open = vec![small.clone()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory)?.flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => open.push(entry.path()),
                _ => found.push(entry.path()),
            }
        }
    }
    if !found.is_empty() {
        bail!("left behind on the full disk: {found:?}");
    }
    Ok(())
}
