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
    local_storage(found, config, local, &|name| std::env::var(name).ok());
}

/// Whether the node's own storage is still there when the job is requeued. Slurm tells of what it does itself; what a site's
/// own scripts do, nobody here knows.
fn local_storage(
    found: &mut Findings,
    config: &str,
    local: Option<&Path>,
    environment: &dyn Fn(&str) -> Option<String>,
) {
    const NAME: &str = "local storage";
    const MEND: &str = "rely on global checkpoints for requeues; local and partner ones then serve a relaunch inside the allocation only";
    let where_ = local.map_or(String::new(), |path| format!(" ({})", path.display()));
    let set = |key: &str| value(config, key).filter(|text| !text.is_empty() && *text != "(null)");
    let container = set("JobContainerType").filter(|text| text.contains("tmpfs"));
    // A path with the job's number, or in what the site calls this job's temporary directory.
    let number = environment("SLURM_JOB_ID").filter(|number| !number.is_empty());
    let of_job = |path: &&Path| {
        let text = path.to_string_lossy();
        // Outside the job its variables are still in it.
        if ["${SLURM_JOB_ID}", "${SLURM_JOBID}", "${TMPDIR}"]
            .iter()
            .any(|name| text.contains(name))
        {
            return true;
        }
        let mut numbers = text.split(|c: char| !c.is_ascii_digit());
        let named = number.is_some() && numbers.any(|word| Some(word) == number.as_deref());
        let given =
            environment("TMPDIR").filter(|text| !["", "/tmp", "/var/tmp"].contains(&text.as_str()));
        named || given.is_some_and(|given| path.starts_with(given))
    };
    let scripts: Vec<String> = ["Epilog", "PlugStackConfig"]
        .iter()
        .filter_map(|key| Some(format!("{key} = {}", set(key)?)))
        .filter(|text| !text.ends_with("/clean-local"))
        .collect();
    if let Some(container) = container {
        found.warning(
            NAME,
            format!("{container}: a job's /tmp is wiped when it is requeued"),
            format!("put local_ckpt_dir{where_} elsewhere, or {MEND}"),
        );
    } else if local.as_ref().is_some_and(of_job) {
        found.warning(
            NAME,
            format!("local_ckpt_dir{where_} belongs to this start of the job: TMPDIR, or the job's number, is in it"),
            format!("name a directory that stays as local_ckpt_dir, or {MEND}"),
        );
    } else if scripts.is_empty() {
        found.ok(
            NAME,
            "nothing of Slurm wipes it when a job is requeued to the same node",
        );
    } else {
        found.warning(
            NAME,
            format!(
                "it is not known here whether this site empties it after a job ({})",
                scripts.join(", ")
            ),
            format!("ask the administrators about local_ckpt_dir{where_}; if so, {MEND}"),
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

    #[test]
    fn storage_that_goes_with_the_job_is_not_called_safe() {
        let look = |config: &str, local: &str, variables: &[(&str, &str)]| {
            let mut found = Findings::new("Slurm");
            let get = |name: &str| {
                let found = variables.iter().find(|(key, _)| *key == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            local_storage(&mut found, config, Some(Path::new(local)), &get);
            let finding = found.list.remove(0);
            (finding.verdict, finding.found)
        };
        let plain = "Epilog                  = (null)\nPlugStackConfig         = (null)\n";
        let job = [("SLURM_JOB_ID", "4711"), ("TMPDIR", "/tmp")];
        assert_eq!(look(plain, "/local/u", &job).0, Verdict::Ok);
        assert_eq!(look(plain, "/tmp/x", &job).0, Verdict::Ok);
        let numbered = look(plain, "/scratch/slurm.4711/ckpt", &job);
        assert_eq!(numbered.0, Verdict::Warning);
        let outside = look(plain, "/scratch/${SLURM_JOB_ID}", &[]);
        assert_eq!(outside.0, Verdict::Warning);
        let own = look(plain, "/ssd/job-of-u/ckpt", &[("TMPDIR", "/ssd/job-of-u")]);
        assert_eq!(own.0, Verdict::Warning);
        let ours = "Epilog = /etc/slurm/clean-local\n";
        assert_eq!(look(ours, "/local/u", &job).0, Verdict::Ok);
        let (verdict, text) = look("Epilog = /etc/slurm/epilog.sh\n", "/local/u", &job);
        assert_eq!(verdict, Verdict::Warning);
        assert!(text.contains("epilog.sh"), "{text}");
    }
}
