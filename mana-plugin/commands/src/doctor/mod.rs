//! `mana doctor`: is this machine fit, and how is it mended where it is not.
//!
//! | module | looks at |
//! |---|---|
//! | `system` | kernel, processor, C library, limits, clock, network |
//! | `mpi` | adapters of this installation, MPIs without one |
//! | `slurm` | Slurm and how it is set up |
//! | `storage` | the directories of the configuration: speed, space, what kind they are |
//! | `trial` | a program that really runs under control; `--self-test`: a job that is killed and resumed |

mod exercise;
mod mpi;
mod process;
mod slurm;
mod storage;
mod system;
mod trial;

use serde::Serialize;

use crate::cli;
use crate::installation::Installation;
use crate::message::Failure;
use crate::settings;

pub use exercise::exercise;

/// How something was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, but something is lost.
    Warning,
    /// Something will not work.
    No,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub area: &'static str,
    /// Which part of it.
    pub name: String,
    /// How it was found.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// How to mend it, where it is not as it should be.
    pub mend: Option<String>,
}

/// What one area has to say.
#[derive(Debug)]
pub struct Findings {
    area: &'static str,
    list: Vec<Finding>,
}

impl Findings {
    fn new(area: &'static str) -> Self {
        Self {
            area,
            list: Vec::new(),
        }
    }

    fn add(
        &mut self,
        name: impl Into<String>,
        verdict: Verdict,
        found: impl Into<String>,
        mend: Option<String>,
    ) {
        self.list.push(Finding {
            area: self.area,
            name: name.into(),
            verdict,
            found: found.into(),
            mend,
        });
    }

    fn ok(&mut self, name: impl Into<String>, found: impl Into<String>) {
        self.add(name, Verdict::Ok, found, None);
    }

    fn warning(
        &mut self,
        name: impl Into<String>,
        found: impl Into<String>,
        mend: impl Into<String>,
    ) {
        self.add(name, Verdict::Warning, found, Some(mend.into()));
    }

    fn no(&mut self, name: impl Into<String>, found: impl Into<String>, mend: impl Into<String>) {
        self.add(name, Verdict::No, found, Some(mend.into()));
    }
}

/// Looks at everything. Exit code 1 if something will not work.
pub fn doctor(options: &cli::Doctor) -> Result<i32, Failure> {
    let mut all = Vec::new();
    let mut take = |findings: Findings| {
        if !options.json {
            findings.list.iter().for_each(say);
        }
        all.extend(findings.list);
    };
    take(system::look());
    let installation = Installation::find();
    let mut findings = Findings::new("installation");
    match &installation {
        Ok(found) => findings.ok("place", found.command().display().to_string()),
        Err(e) => findings.no(
            "place",
            e.text.clone(),
            "install with 'cargo xtask install --prefix DIR' and use DIR/bin",
        ),
    }
    let config = settings::load(&options.settings);
    match &config {
        Ok(config) => match &config.file {
            Some(file) => findings.ok("configuration", file.display().to_string()),
            None => findings.warning(
                "configuration",
                "no mana.conf: checkpoints by hand only",
                "copy one of share/mana/templates to ./mana.conf and edit it",
            ),
        },
        Err(e) => findings.no(
            "configuration",
            e.text.clone(),
            "correct that line; share/mana/templates has commented examples",
        ),
    }
    take(findings);
    if let Ok(installation) = &installation {
        take(mpi::look(installation));
    }
    take(slurm::look(
        config.as_ref().ok().map(|c| c.local_ckpt_dir.as_path()),
    ));
    if let Ok(config) = &config {
        take(storage::look(config));
        if let Ok(installation) = &installation {
            take(trial::program(installation));
            if options.self_test {
                take(trial::jobs(installation, config));
            }
        }
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(&all)?);
    } else {
        let count = |verdict| all.iter().filter(|f| f.verdict == verdict).count();
        println!(
            "\n{} ok, {} warnings, {} that will not work{}",
            count(Verdict::Ok),
            count(Verdict::Warning),
            count(Verdict::No),
            if options.self_test {
                ""
            } else {
                "; --self-test also runs a small job"
            }
        );
    }
    let bad = all.iter().any(|finding| finding.verdict == Verdict::No);
    Ok(i32::from(bad))
}

fn say(finding: &Finding) {
    let mark = match finding.verdict {
        Verdict::Ok => "ok     ",
        Verdict::Warning => "warning",
        Verdict::No => "NO     ",
    };
    println!(
        "{mark}  {:<12} {:<20} {}",
        finding.area, finding.name, finding.found
    );
    if let Some(mend) = &finding.mend {
        println!("{:43}-> {mend}", "");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_not_right_says_how_to_mend_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let findings = [
            system::look(),
            slurm::look(Some(directory.path())),
            storage::look_at("local", directory.path(), true),
        ];
        let mut names = std::collections::BTreeSet::new();
        for finding in findings.iter().flat_map(|f| &f.list) {
            assert_eq!(
                finding.mend.is_none(),
                finding.verdict == Verdict::Ok,
                "{finding:?}"
            );
            assert!(!finding.found.is_empty(), "{finding:?}");
            assert!(
                names.insert((finding.area, finding.name.clone())),
                "twice: {finding:?}"
            );
        }
        assert!(names.len() > 8, "{names:?}");
        assert_eq!(
            std::fs::read_dir(directory.path()).expect("list").count(),
            0,
            "left something behind"
        );
    }
}
