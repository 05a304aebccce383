//! The job's identity: the name of its directories in the stores.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use xxhash_rust::xxh3::Xxh3;

use crate::message::Failure;

/// Longest name: there must be room for suffixes within the 255 bytes of a file name.
const MAX_LENGTH: usize = 128;

/// A name given by the user: one path component, visible, without anything a shell would mind.
pub fn checked(id: &str) -> Result<String, Failure> {
    let good =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+' | '=' | ',');
    if id.is_empty() || id.len() > MAX_LENGTH || id.starts_with(['.', '-']) || !id.chars().all(good)
    {
        return Err(Failure::of_job(format!(
            "--id {id:?}: use letters, digits and - _ . + = , (at most {MAX_LENGTH}, not beginning with '.' or '-')"
        )));
    }
    Ok(id.to_owned())
}

/// `<Slurm job>-<program>-<hash of arguments and directory>`, outside Slurm without the first part.
pub fn derived(program: &[OsString]) -> Result<String, Failure> {
    let directory = std::env::current_dir()
        .map_err(|e| Failure::new(format!("cannot find the current directory: {e}")))?;
    Ok(name(
        slurm_job(|n| std::env::var(n).ok()).as_deref(),
        program,
        &directory,
    ))
}

fn name(job: Option<&str>, program: &[OsString], directory: &Path) -> String {
    let mut hash = Xxh3::new();
    for word in program {
        hash.update(word.as_bytes());
        hash.update(&[0]);
    }
    hash.update(directory.as_os_str().as_bytes());
    let base: String = program
        .first()
        .and_then(|p| Path::new(p).file_name())
        .map(|n| n.to_string_lossy().into_owned())
        .unwrap_or_default()
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') {
                c
            } else {
                '_'
            }
        })
        .take(40)
        .collect();
    let base = base.trim_start_matches(['.', '-']);
    let digest = hash.digest() >> 16;
    match job {
        Some(job) => format!("{job}-{base}-{digest:012x}"),
        None => format!("{base}-{digest:012x}"),
    }
}

/// The Slurm job, the same after a requeue and in all tasks of a step: array task and (for a
/// heterogeneous job) the whole job's number included.
pub fn slurm_job(get: impl Fn(&str) -> Option<String>) -> Option<String> {
    let number =
        |name: &str| get(name).filter(|v| !v.is_empty() && v.bytes().all(|b| b.is_ascii_digit()));
    if let Some(het) = number("SLURM_HET_JOB_ID") {
        return Some(het);
    }
    if let (Some(array), Some(task)) = (number("SLURM_ARRAY_JOB_ID"), number("SLURM_ARRAY_TASK_ID"))
    {
        return Some(format!("{array}_{task}"));
    }
    number("SLURM_JOB_ID")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_command_lines_have_equal_names() {
        let words = |list: &[&str]| list.iter().map(OsString::from).collect::<Vec<_>>();
        let a = name(
            None,
            &words(&["/usr/bin/lmp", "-in", "x"]),
            Path::new("/data"),
        );
        assert_eq!(
            a,
            name(
                None,
                &words(&["/usr/bin/lmp", "-in", "x"]),
                Path::new("/data")
            )
        );
        assert!(a.starts_with("lmp-"), "{a}");
        assert_ne!(
            a,
            name(None, &words(&["/usr/bin/lmp", "-inx"]), Path::new("/data"))
        );
        assert_ne!(
            a,
            name(
                None,
                &words(&["/usr/bin/lmp", "-in", "x"]),
                Path::new("/other")
            )
        );
        let odd = name(Some("12_3"), &words(&["./.a b"]), Path::new("/"));
        assert!(odd.starts_with("12_3-a_b-"), "{odd}");
        assert!(checked(&odd).is_ok() && checked(&a).is_ok());
    }

    #[test]
    fn slurm_jobs() {
        let of = |pairs: &[(&str, &str)]| {
            slurm_job(|name| {
                pairs
                    .iter()
                    .find(|(k, _)| *k == name)
                    .map(|(_, v)| (*v).to_owned())
            })
        };
        assert_eq!(of(&[("SLURM_JOB_ID", "7")]).as_deref(), Some("7"));
        assert_eq!(
            of(&[
                ("SLURM_JOB_ID", "9"),
                ("SLURM_ARRAY_JOB_ID", "8"),
                ("SLURM_ARRAY_TASK_ID", "1")
            ])
            .as_deref(),
            Some("8_1")
        );
        assert_eq!(of(&[("SLURM_JOB_ID", "../x")]), None);
    }

    #[test]
    fn names_from_users_stay_in_their_directory() {
        for bad in ["", "..", "a/b", "-x", ".hidden", "a b"] {
            assert!(checked(bad).is_err(), "{bad}");
        }
        assert!(checked("run-7").is_ok());
    }
}
