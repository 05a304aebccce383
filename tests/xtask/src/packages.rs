//! The packages, tried: unpacked elsewhere, their programs run, their module files loaded.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context as _, Result};

use crate::package::Staged;
use crate::process::{bounded, captured, on_path, run as run_command, target_dir, Finished};
use crate::tests_all::Outcome;

/// Longest time for one program of a package.
const LIMIT: Duration = Duration::from_secs(60);

/// `Ok(Some)`: why it was left out.
type Test = fn(&Place) -> Result<Option<&'static str>>;

/// The parts.
const TESTS: &[(&str, Test)] = &[
    ("packages/install", install),
    ("packages/archive", archive),
    ("packages/debian", debian),
    ("packages/environment-modules", environment_modules),
    ("packages/lmod", lmod),
    ("packages/completions", completions),
    ("packages/manual", manual),
];

/// Whether `--only PATTERN` chooses any of this.
pub fn chosen(pattern: &str) -> bool {
    TESTS.iter().any(|(name, _)| name.contains(pattern))
}

struct Place {
    staged: Staged,
    /// The archive, unpacked.
    unpacked: PathBuf,
    scratch: PathBuf,
}

/// Packs the built tree and tries what was packed.
pub fn run(only: Option<&str>) -> Result<Outcome> {
    let scratch = target_dir()?.join("packages.check");
    if scratch.exists() {
        fs::remove_dir_all(&scratch)
            .with_context(|| format!("cannot remove {}", scratch.display()))?;
    }
    let unpacked = scratch.join("elsewhere");
    fs::create_dir_all(&unpacked).with_context(|| format!("cannot make {}", unpacked.display()))?;
    let staged = Staged::new(&target_dir()?.join("mana"), &scratch.join("root"))?;
    let file = staged.archive(&scratch)?;
    run_command(
        Command::new("tar")
            .args(["--extract", "--strip-components=1", "--file"])
            .arg(&file)
            .arg("--directory")
            .arg(&unpacked),
    )?;
    let place = Place {
        staged,
        unpacked,
        scratch,
    };
    let mut sum = Outcome::default();
    for (name, test) in TESTS {
        if only.is_some_and(|pattern| !name.contains(pattern)) {
            continue;
        }
        let begun = Instant::now();
        sum.add(match test(&place) {
            Ok(None) => {
                println!("ok {name} ({:.1} s)", begun.elapsed().as_secs_f64());
                Outcome::PASSED
            }
            Ok(Some(why)) => {
                println!("skipped {name}: {why}");
                Outcome::SKIPPED
            }
            Err(error) => {
                println!("FAILED {name}: {error:#}");
                Outcome::FAILED
            }
        });
    }
    if sum.good() {
        fs::remove_dir_all(&place.scratch)
            .with_context(|| format!("cannot remove {}", place.scratch.display()))?;
    }
    Ok(sum)
}

/// It ended well and said so.
fn says(finished: &Finished, words: &str) -> Result<()> {
    ensure!(
        finished.success() && finished.output.contains(words),
        "{words:?} is not in\n{}",
        finished.output
    );
    Ok(())
}

/// A program without MPI, and one of each MPI found, under the `mana_launch` of an installation.
fn programs_run(place: &Place, installed: &Path) -> Result<()> {
    let launch = installed.join("bin/mana_launch");
    let work = place.scratch.join("work");
    fs::create_dir_all(&work)?;
    let mut plain = Command::new(&launch);
    plain.args(["--fresh", "--", "sh", "-c", "echo it runs"]);
    says(
        &bounded(plain.current_dir(&work), LIMIT, |_| {})?,
        "it runs",
    )?;
    let source = work.join("sum.c");
    let text = "#include <mpi.h>\n#include <stdio.h>\n#include <mana.h>\nint main(int argc, char **argv) {\n\
        int rank, sum;\n MPI_Init(&argc, &argv);\n MPI_Comm_rank(MPI_COMM_WORLD, &rank);\n\
        MPI_Allreduce(&rank, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);\n\
        if (rank == 0) printf(\"sum %d, controlled %d\\n\", sum, mana_running());\n MPI_Finalize();\n return 0;\n}\n";
    fs::write(&source, text)?;
    for mpi in ["openmpi", "mpich"] {
        let (Some(mpicc), Some(mpirun)) = (
            on_path(format!("mpicc.{mpi}")),
            on_path(format!("mpirun.{mpi}")),
        ) else {
            continue;
        };
        let program = work.join(mpi);
        run_command(
            Command::new(mpicc)
                .arg("-I")
                .arg(installed.join("include"))
                .arg("-o")
                .arg(&program)
                .arg(&source),
        )?;
        let mut job = Command::new(mpirun);
        job.args(["-n", "2"]).current_dir(&work);
        if mpi == "openmpi" {
            job.arg("--oversubscribe")
                .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
                .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
        }
        job.arg(&launch).arg("--fresh").arg(&program);
        says(&bounded(&mut job, LIMIT, |_| {})?, "sum 1, controlled 1")
            .with_context(|| format!("{mpi} with {}", installed.display()))?;
    }
    Ok(())
}

/// `cargo xtask install`, twice to the same place.
fn install(place: &Place) -> Result<Option<&'static str>> {
    let prefix = place.scratch.join("prefix");
    let built = target_dir()?.join("mana");
    for _ in 0..2 {
        crate::install::copy(&built, &prefix)?;
    }
    programs_run(place, &prefix)?;
    Ok(None)
}

fn archive(place: &Place) -> Result<Option<&'static str>> {
    programs_run(place, &place.unpacked)?;
    Ok(None)
}

fn debian(place: &Place) -> Result<Option<&'static str>> {
    if on_path("dpkg-deb").is_none() {
        return Ok(Some("dpkg-deb is not installed"));
    }
    let file = place.staged.debian(&place.scratch)?;
    let root = place.scratch.join("installed");
    run_command(Command::new("dpkg-deb").arg("-x").arg(&file).arg(&root))?;
    let depends = captured(Command::new("dpkg-deb").arg("-f").arg(&file).arg("Depends"))?;
    ensure!(depends.contains("libc6 (>= 2."), "{depends}");
    programs_run(place, &root.join("usr"))?;
    Ok(None)
}

/// What a module file must bring: our commands and manual pages, by a directory and by a link in a site's.
fn module(place: &Place, initialise: &str, file: &str) -> Result<()> {
    let site = place.scratch.join("modules");
    fs::create_dir_all(site.join("mana"))?;
    let ours = place.unpacked.join("share/mana/templates/modules");
    let version = file.replace("mana", "1.0");
    let link = site.join("mana").join(version);
    std::os::unix::fs::symlink(ours.join(file), &link)
        .with_context(|| format!("cannot make {}", link.display()))?;
    for directory in [&ours, &site] {
        let script = format!(
            ". {initialise} >/dev/null\nmodule use '{}'\nmodule load mana\ncommand -v mana_launch\n\
             echo \"root $MANA_ROOT, $MANPATH\"\nmodule unload mana\necho \"left: $MANA_ROOT\"\n",
            directory.display()
        );
        let done = bounded(
            Command::new("bash")
                .args(["-c", &script])
                .env_remove("MANA_ROOT"),
            LIMIT,
            |_| {},
        )?;
        let root = place.unpacked.display().to_string();
        for words in [
            format!("{root}/bin/mana_launch"),
            format!("root {root}, {root}/share/man"),
        ] {
            says(&done, &words)?;
        }
        ensure!(
            done.output.lines().any(|l| l == "left: "),
            "{}",
            done.output
        );
    }
    Ok(())
}

/// The first of some files that is there.
fn found(paths: &[&'static str]) -> Option<&'static str> {
    paths.iter().copied().find(|path| Path::new(path).is_file())
}

fn environment_modules(place: &Place) -> Result<Option<&'static str>> {
    let Some(initialise) = found(&[
        "/usr/share/modules/init/bash",
        "/usr/share/Modules/init/bash",
    ]) else {
        return Ok(Some("environment-modules is not installed"));
    };
    module(place, initialise, "mana")?;
    Ok(None)
}

fn lmod(place: &Place) -> Result<Option<&'static str>> {
    let Some(initialise) = found(&["/usr/share/lmod/lmod/init/bash", "/opt/lmod/lmod/init/bash"])
    else {
        return Ok(Some("lmod is not installed"));
    };
    module(place, initialise, "mana.lua")?;
    Ok(None)
}

/// Each shell that is here completes a command and an option, and knows nothing that is not for people.
fn completions(place: &Place) -> Result<Option<&'static str>> {
    let share = place.unpacked.join("share");
    let share = share.display();
    let bash = format!(
        "for n in mana mana_status; do . '{share}/bash-completion/completions/'$n; done\n\
         COMP_WORDS=(mana st); COMP_CWORD=1; _mana mana st mana; echo \"${{COMPREPLY[@]}}\"\n\
         COMP_WORDS=(mana_status --w); COMP_CWORD=1; _mana_status mana_status --w mana_status; echo \"${{COMPREPLY[@]}}\"\n\
         COMP_WORDS=(mana su); COMP_CWORD=1; _mana mana su mana; echo \"[${{COMPREPLY[@]}}]\""
    );
    let done = bounded(Command::new("bash").args(["-c", &bash]), LIMIT, |_| {})?;
    for words in ["start stop status", "--watch --wait", "[]"] {
        says(&done, words)?;
    }
    if on_path("zsh").is_some() {
        let zsh = format!(
            "fpath=('{share}/zsh/site-functions' $fpath); autoload -Uz compinit; compinit -u -D\n\
             echo $_comps[mana] $_comps[mana_launch]; autoload +X _mana _mana_launch && echo both"
        );
        let done = bounded(Command::new("zsh").args(["-f", "-c", &zsh]), LIMIT, |_| {})?;
        says(&done, "_mana _mana_launch")?;
        says(&done, "both")?;
    }
    if on_path("fish").is_some() {
        let fish = format!(
            "for n in mana mana_launch; source '{share}/fish/vendor_completions.d/'$n.fish; end\n\
             complete -C 'mana ver'; complete -C 'mana_launch --fre'; complete -C 'mana superv'"
        );
        let mut command = Command::new("fish");
        command.args(["--no-config", "-c", &fish]);
        command.env("HOME", &place.scratch);
        let done = bounded(&mut command, LIMIT, |_| {})?;
        says(&done, "verify")?;
        says(&done, "--fresh")?;
        if done.output.contains("supervise") {
            bail!("what is not for people is offered\n{}", done.output);
        }
    }
    Ok(None)
}

/// Every page is found under its name and is about it.
fn manual(place: &Place) -> Result<Option<&'static str>> {
    if on_path("man").is_none() {
        return Ok(Some("man is not installed"));
    }
    let pages = place.unpacked.join("share/man");
    let mut count = 0;
    for entry in fs::read_dir(pages.join("man1"))? {
        let file = entry?.file_name().to_string_lossy().into_owned();
        let name = file.trim_end_matches(".1");
        let mut man = Command::new("man");
        man.arg(name)
            .env("MANPATH", &pages)
            .env("LC_ALL", "C.UTF-8");
        let done = bounded(
            man.env("MANWIDTH", "100").env("MANPAGER", "cat"),
            LIMIT,
            |_| {},
        )?;
        // Justified: with more than one space where it likes.
        let title = format!("NAME {} - ", name.replace("mana_", "mana-"));
        let words: Vec<&str> = done.output.split_whitespace().collect();
        ensure!(
            done.success() && words.join(" ").contains(&title),
            "{title:?} is not in\n{}",
            done.output
        );
        for line in done.output.lines() {
            // "mana-launch(1)": the page of it is there.
            let other = line.trim().strip_suffix("(1)").filter(|o| !o.contains(' '));
            if let Some(other) = other {
                let page = pages.join("man1").join(format!("{other}.1"));
                ensure!(
                    page.is_file(),
                    "{file} names {other}(1), which is not there"
                );
            }
        }
        count += 1;
    }
    ensure!(count > 15, "{count} pages only");
    Ok(None)
}
