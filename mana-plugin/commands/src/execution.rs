//! Becoming `mana-lower`: the environment and the descriptors it finds.

use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use mana::spec::{LaunchSpec, VARIABLE};
use nix::fcntl::{fcntl, FcntlArg};

use crate::message::Failure;

/// Descriptors of the lower half are moved to this number or above, out of the program's way.
const FD_FLOOR: i32 = 900;

/// Executes `mana-lower` in place of this process. Returns only if that fails.
pub fn become_lower(
    lower: &Path,
    spec: &LaunchSpec,
    lower_preload: &OsStr,
) -> Result<Infallible, Failure> {
    let pmi_fd = move_pmi_fd()?;
    let mut environment: Vec<(OsString, OsString)> = std::env::vars_os()
        .filter(|(name, _)| {
            name != "LD_PRELOAD" && name != VARIABLE && !(pmi_fd.is_some() && name == "PMI_FD")
        })
        .collect();
    if !lower_preload.is_empty() {
        environment.push(("LD_PRELOAD".into(), lower_preload.to_owned()));
    }
    if let Some(fd) = pmi_fd {
        environment.push(("PMI_FD".into(), fd.to_string().into()));
    }
    if let Some(module) = private_pmix_data(|name| std::env::var(name).ok()) {
        environment.push((PMIX_MODULE.into(), module.into()));
    }
    environment.push((VARIABLE.into(), spec.to_variable()?.into()));

    let mut argv = vec![c_string(lower.as_os_str())?];
    // Not read by mana-lower: for ps and top.
    if !spec.program.as_os_str().is_empty() {
        argv.push(c_string(spec.program.as_os_str())?);
    }
    for argument in spec.args.iter().flatten() {
        argv.push(c_string(argument.as_os_str())?);
    }
    let mut envp = Vec::with_capacity(environment.len());
    for (name, value) in &environment {
        let mut entry = name.clone();
        entry.push("=");
        entry.push(value);
        envp.push(c_string(&entry)?);
    }
    nix::unistd::execve(&argv[0], &argv, &envp).map_err(|e| {
        let next = if e == nix::Error::E2BIG {
            "; arguments and environment are too long together"
        } else {
            "; the installation is incomplete, run 'cargo xtask install' again"
        };
        Failure::new(format!("cannot run {}: {e}{next}", lower.display()))
    })
}

/// What chooses the way in which PMIx keeps the job's data.
const PMIX_MODULE: &str = "PMIX_MCA_gds";

/// A PMIx server of release 5 offers its data in memory that every process maps at an address of the
/// server's choice, which may lie where the program is loaded. Each process can keep them by itself instead.
fn private_pmix_data(get: impl Fn(&str) -> Option<String>) -> Option<&'static str> {
    let offered = get("PMIX_GDS_MODULE")?;
    let shared = offered.split(',').any(|m| m.trim().starts_with("shmem"));
    (shared && get(PMIX_MODULE).is_none()).then_some("hash")
}

fn c_string(text: &OsStr) -> Result<CString, Failure> {
    CString::new(text.as_bytes())
        .map_err(|_| Failure::new(format!("{}: contains a zero byte", text.to_string_lossy())))
}

/// MPICH talks to its launcher over a descriptor with a low number, which a checkpoint of the
/// program may hold: move it away. The new number, if there is one to move.
fn move_pmi_fd() -> Result<Option<i32>, Failure> {
    let Some(fd) = std::env::var("PMI_FD")
        .ok()
        .and_then(|v| v.parse::<i32>().ok())
    else {
        return Ok(None);
    };
    if !(3..FD_FLOOR).contains(&fd) {
        return Ok(None);
    }
    raise_descriptor_limit();
    // SAFETY: the launcher passed this descriptor to us; nothing in this process uses it.
    let old = unsafe { OwnedFd::from_raw_fd(fd) };
    match fcntl(&old, FcntlArg::F_DUPFD(FD_FLOOR)) {
        Ok(new) => Ok(Some(new)),
        // A stale variable: no such descriptor. MPICH will say so itself if it matters.
        Err(nix::Error::EBADF) => {
            std::mem::forget(old);
            Ok(None)
        }
        Err(e) => Err(Failure::new(format!(
            "cannot move PMI_FD {fd} to {FD_FLOOR} or above: {e}; raise the limit of open files (ulimit -n 4096)"
        ))),
    }
}

/// The descriptors of the lower half lie at 900 and above: make room if the hard limit allows.
fn raise_descriptor_limit() {
    use nix::sys::resource::{getrlimit, setrlimit, Resource};
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        if soft < 1024 && hard >= 1024 {
            // If it fails, the duplication that follows says so.
            let _ = setrlimit(Resource::RLIMIT_NOFILE, 1024, hard);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_pmix_data_are_declined() {
        let of = |offered: &'static str, chosen: Option<&'static str>| {
            private_pmix_data(move |name| match name {
                "PMIX_GDS_MODULE" => Some(offered.to_owned()),
                _ => chosen.map(str::to_owned),
            })
        };
        assert_eq!(of("shmem2,hash", None), Some("hash"));
        assert_eq!(of("shmem2,hash", Some("shmem2")), None);
        assert_eq!(of("ds21,ds12,hash", None), None);
    }
}
