//! Slurm, as far as it matters: what starts MPI programs, what happens at a requeue.

use std::path::Path;
use std::time::Duration;

use super::process::run;
use super::Findings;

/// For one answer of the controller.
const ANSWER: Duration = Duration::from_secs(10);

pub fn look(local: Option<&Path>) -> Findings {
    let mut found = Findings::new("Slurm");
    let Some(version) = run("srun", &["--version"], ANSWER).filter(|e| e.code == Some(0)) else {
        found.ok(
            "commands",
            "none here: 'mana run -- mpirun ...' starts a job again after a failure",
        );
        return found;
    };
    found.ok("commands", version.output.trim().to_owned());
    let Some(config) = run("scontrol", &["show", "config"], ANSWER).filter(|e| e.code == Some(0))
    else {
        found.no(
            "controller",
            "it does not answer",
            "scontrol ping; inside a container, mount /etc/slurm and the munge socket",
        );
        return found;
    };
    found.ok("controller", "answers");
    settings(&mut found, &config.output, local);
    launchers(&mut found);
    match std::env::var("SLURM_JOB_ID") {
        Ok(job) => found.ok(
            "allocation",
            format!("inside job {job}: --self-test uses its nodes"),
        ),
        Err(_) => found.ok("allocation", "none: this is a login node, or a plain shell"),
    }
    found
}

/// The value of a key of `scontrol show config`.
fn value<'a>(config: &'a str, key: &str) -> Option<&'a str> {
    config.lines().find_map(|line| {
        let (name, value) = line.split_once('=')?;
        (name.trim() == key).then_some(value.trim())
    })
}

fn settings(found: &mut Findings, config: &str, local: Option<&Path>) {
    match value(config, "JobRequeue") {
        Some("0") => found.warning(
            "requeue",
            "JobRequeue = 0: jobs are not requeued unless they ask for it",
            "sbatch --requeue (the templates in share/mana/slurm do)",
        ),
        _ => found.ok("requeue", "jobs are requeued after a failure of a node"),
    }
    if let Some(wait) = value(config, "KillWait") {
        found.ok("kill wait", format!("{wait} between SIGTERM and SIGKILL"));
    }
    let container = value(config, "JobContainerType").unwrap_or("(null)");
    if container.contains("tmpfs") {
        let where_ = local.map_or(String::new(), |path| format!(" ({})", path.display()));
        found.warning(
            "local storage",
            format!("{container}: a job's /tmp is wiped when it is requeued"),
            format!(
                "put local_ckpt_dir{where_} elsewhere, or rely on global checkpoints for requeues; local and partner ones then serve a relaunch inside the allocation only"
            ),
        );
    } else {
        found.ok(
            "local storage",
            "stays when a job is requeued to the same node",
        );
    }
}

fn launchers(found: &mut Findings) {
    let Some(list) = run("srun", &["--mpi=list"], ANSWER) else {
        return;
    };
    let text = format!("{}{}", list.output, list.errors);
    let has = |name: &str| text.split_whitespace().any(|word| word.starts_with(name));
    let ways: Vec<&str> = [
        (has("pmix"), "--mpi=pmix (Open MPI)"),
        (has("pmi2"), "--mpi=pmi2 (MPICH)"),
    ]
    .into_iter()
    .filter_map(|(there, way)| there.then_some(way))
    .collect();
    if ways.is_empty() {
        found.warning(
            "srun",
            "knows neither pmix nor pmi2: its tasks cannot find each other",
            "start programs with mpirun inside sbatch, or have Slurm built with PMIx",
        );
    } else {
        found.ok("srun", ways.join(", "));
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn what_matters_is_read() {
        let config = "Configuration data\nJobRequeue              = 0\nKillWait                = 30 sec\nJobContainerType        = job_container/tmpfs\n";
        assert_eq!(value(config, "KillWait"), Some("30 sec"));
        let mut found = Findings::new("Slurm");
        settings(&mut found, config, Some(Path::new("/tmp")));
        let verdicts: Vec<Verdict> = found.list.iter().map(|f| f.verdict).collect();
        assert_eq!(verdicts, [Verdict::Warning, Verdict::Ok, Verdict::Warning]);
        assert!(found.list[2]
            .mend
            .as_ref()
            .is_some_and(|m| m.contains("/tmp")));
    }
}
