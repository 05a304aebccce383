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

    /// Whether that part was found as it should be.
    fn is_ok(&self, name: &str) -> bool {
        let is = |finding: &Finding| finding.name == name && finding.verdict == Verdict::Ok;
        self.list.iter().any(is)
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
    // In the job every variable has to be there; outside only what is common to all jobs.
    let in_job = std::env::var_os("SLURM_JOB_ID").is_some();
    let needed = ["global_ckpt_dir", "local_ckpt_dir"];
    let needed = if in_job { &needed[..] } else { &needed[..1] };
    let config = settings::load_for(needed, &options.settings);
    let templates = match &installation {
        Ok(found) => found.templates().display().to_string(),
        Err(_) => "share/mana/templates".to_owned(),
    };
    match &config {
        Ok(config) => match &config.file {
            Some(file) => findings.ok("configuration", file.display().to_string()),
            None => findings.warning(
                "configuration",
                "no mana.conf: checkpoints by hand only",
                format!("copy one of {templates} to ./mana.conf and edit it"),
            ),
        },
        Err(e) => findings.no(
            "configuration",
            e.text.clone(),
            format!("correct that line; {templates} has commented examples"),
        ),
    }
    take(findings);
    if let Ok(installation) = &installation {
        take(mpi::look(installation));
    }
    let slurm = slurm::look(config.as_ref().ok().map(|c| c.local_ckpt_dir.as_path()));
    let login = !in_job && slurm.is_ok("controller");
    take(slurm);
    if let Ok(config) = &config {
        take(storage::look(config, login));
        if let Ok(installation) = &installation {
            take(trial::program(installation));
            if options.self_test {
                // What is the node's own in a job is not there outside: any place will do for simulated nodes.
                let mut config = config.clone();
                if login || storage::undefined(&config.local_ckpt_dir).is_some() {
                    let name = format!("mana-doctor-{}", std::process::id());
                    config.local_ckpt_dir = std::env::temp_dir().join(name);
                }
                take(trial::jobs(installation, &config));
            }
        }
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(&all)?);
    } else {
        let count = |verdict| all.iter().filter(|f| f.verdict == verdict).count();
        println!(
            "\n{} ok, {} warning{}, {} that will not work{}",
            count(Verdict::Ok),
            count(Verdict::Warning),
            if count(Verdict::Warning) == 1 {
                ""
            } else {
                "s"
            },
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
