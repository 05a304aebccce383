//! Which job this is: the name its state is kept under.
//!
//! `--id`, else the batch job (array task and het component included, which survives a requeue) with
//! the program and a hash of arguments and directory, else the latter alone.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use crate::Error;

/// Longest name in bytes.
const LONGEST: usize = 200;

/// A name given with `--id`.
///
/// # Errors
/// When it cannot be the name of a directory.
pub fn given(name: &str) -> Result<String, Error> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "._-+@:".contains(c);
    if name.is_empty() || name.len() > LONGEST || name.starts_with('.') || !name.chars().all(fine) {
        return Err(Error::Config {
            place: "option --id".into(),
            reason: format!("{name:?} cannot name a job: letters, digits and ._-+@: only, not starting with a dot"),
        });
    }
    Ok(name.to_owned())
}

/// The identity of `program` with `args` started in `directory`.
pub fn derive(
    program: &Path,
    args: &[OsString],
    directory: &Path,
    environment: &dyn Fn(&str) -> Option<String>,
) -> String {
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    let mut add = |text: &OsStr| {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    };
    add(directory.as_os_str());
    args.iter().for_each(|a| add(a));
    let digest = hasher.digest() as u32;
    let stem: String = program
        .file_name()
        .map(|n| n.to_string_lossy().into_owned())
        .unwrap_or_default()
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "._-+".contains(c) {
                c
            } else {
                '_'
            }
        })
        .take(100)
        .collect();
    let stem = stem.trim_start_matches('.');
    match batch_job(environment) {
        Some(job) => format!("{job}-{stem}-{digest:08x}"),
        None => format!("{stem}-{digest:08x}"),
    }
}

/// The batch system's name of the job, the same after a requeue.
pub fn batch_job(environment: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let number = |name: &str| {
        environment(name).filter(|v| !v.is_empty() && v.bytes().all(|b| b.is_ascii_digit()))
    };
    let array = number("SLURM_ARRAY_JOB_ID").zip(number("SLURM_ARRAY_TASK_ID"));
    let mut job = match array {
        Some((job, task)) => format!("{job}_{task}"),
        None => number("SLURM_JOB_ID")?,
    };
    if let (Some(het), Some(_)) = (
        number("SLURM_PROCID").and(number("SLURM_HET_GROUP_ID")),
        number("SLURM_HET_SIZE"),
    ) {
        job.push('+');
        job.push_str(&het);
    }
    Some(job)
}

/// Whether `other` names what `ours` does in the batch job `batch_job` (the same program, arguments and directory), but
/// in another batch job, as the same task and component of it, or outside one.
pub fn is_elsewhere(ours: &str, batch_job: Option<&str>, other: &str) -> bool {
    let own = batch_job.and_then(|job| ours.strip_prefix(job)?.strip_prefix('-'));
    let Some(before) = other.strip_suffix(own.unwrap_or(ours)) else {
        return false;
    };
    match (
        before.strip_suffix('-').map(numbers),
        batch_job.map(numbers),
    ) {
        // Outside a batch job, where there are no tasks and components; or a longer name that ends alike.
        (None, Some(ours)) => before.is_empty() && own.is_some() && ours.is_none_or(is_whole),
        (Some(Some(theirs)), None) => is_whole(theirs),
        (Some(Some(theirs)), Some(Some(ours))) => {
            theirs.0 != ours.0 && (theirs.1, theirs.2) == (ours.1, ours.2)
        }
        _ => false,
    }
}

/// Neither one of an array's tasks nor one of several components.
fn is_whole(numbers: (&str, Option<&str>, Option<&str>)) -> bool {
    (numbers.1, numbers.2) == (None, None)
}

/// The numbers in the name of a batch job: of the job, the array's task, the component.
fn numbers(batch_job: &str) -> Option<(&str, Option<&str>, Option<&str>)> {
    let (rest, component) = match batch_job.split_once('+') {
        Some((rest, component)) => (rest, Some(component)),
        None => (batch_job, None),
    };
    let (job, task) = match rest.split_once('_') {
        Some((job, task)) => (job, Some(task)),
        None => (rest, None),
    };
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let all = [Some(job), task, component];
    all.into_iter()
        .flatten()
        .all(number)
        .then_some((job, task, component))
}

/// Whether this process belongs to a job of a batch system.
pub fn is_in_batch_job() -> bool {
    batch_job(&|name: &str| std::env::var(name).ok()).is_some()
}

/// How often the batch system has started this job before; 0 outside one and at the first start.
pub fn restart_count(environment: &dyn Fn(&str) -> Option<String>) -> u32 {
    environment("SLURM_RESTART_COUNT")
        .and_then(|v| v.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(env: &[(&str, &str)], args: &[&str]) -> String {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        let env = |n: &str| {
            env.iter()
                .find(|(k, _)| *k == n)
                .map(|(_, v)| (*v).to_owned())
        };
        derive(Path::new("/bin/lm p"), &args, Path::new("/home/u"), &env)
    }

    #[test]
    fn arguments_and_job_make_the_difference() {
        assert!(of(&[], &["a"]).starts_with("lm_p-"));
        assert_ne!(of(&[], &["a", "b"]), of(&[], &["ab"]));
        let job = [("SLURM_JOB_ID", "7"), ("SLURM_RESTART_COUNT", "1")];
        assert!(of(&job, &[]).starts_with("7-lm_p-"));
        let array = [
            ("SLURM_JOB_ID", "9"),
            ("SLURM_ARRAY_JOB_ID", "7"),
            ("SLURM_ARRAY_TASK_ID", "2"),
        ];
        assert!(of(&array, &[]).starts_with("7_2-lm_p-"));
    }

    #[test]
    fn the_same_in_another_batch_job() {
        let is = |job: Option<&str>, other: &str| {
            let ours = match job {
                Some(job) => format!("{job}-app-0badcafe"),
                None => "app-0badcafe".into(),
            };
            is_elsewhere(&ours, job, other)
        };
        assert!(is(Some("12"), "11-app-0badcafe") && is(Some("12"), "app-0badcafe"));
        assert!(!is(Some("12"), "12-app-0badcafe") && !is(Some("12"), "11-app-0badcaff"));
        assert!(!is(Some("12"), "11-my-app-0badcafe") && !is(Some("12"), "my-app-0badcafe"));
        // Tasks of one array are different jobs, those of two with one number are the same.
        assert!(is(Some("12_3"), "11_3-app-0badcafe"));
        assert!(!is(Some("12_3"), "12_4-app-0badcafe") && !is(Some("12_3"), "11_4-app-0badcafe"));
        assert!(!is(Some("12"), "11_1-app-0badcafe") && is(Some("12+1"), "11+1-app-0badcafe"));
        assert!(is(None, "11-app-0badcafe") && !is(None, "app-0badcafe"));
        assert!(!is(None, "my-app-0badcafe"));
        assert!(!is(Some("12_3"), "app-0badcafe") && !is(None, "11_3-app-0badcafe"));
        assert!(!is(Some("12+1"), "app-0badcafe") && !is(None, "11+1-app-0badcafe"));
    }

    #[test]
    fn names_that_are_paths_are_refused() {
        for bad in ["", "..", "a/b", ".x", "a b"] {
            assert!(given(bad).is_err(), "{bad}");
        }
        assert_eq!(given("run-1").expect("fine"), "run-1");
    }
}
