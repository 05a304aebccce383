//! What to start: lookup on PATH, scripts, and the programs that are refused. Lower half.

use crate::elf::Elf;
use crate::{Launch, LaunchError, Resolved};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// How many scripts may name each other as interpreters (the kernel's own bound).
const MAX_SCRIPTS: usize = 4;

impl Launch {
    /// Finds the program as `execvp` would, follows `#!` lines, and refuses what cannot be
    /// controlled.
    pub fn resolve(self) -> Result<Resolved, LaunchError> {
        let found = find(&self)?;
        let mut argv = vec![self.program.clone().into_os_string()];
        argv.extend(self.args.iter().cloned());
        let mut path = found;
        for _ in 0..=MAX_SCRIPTS {
            let data = std::fs::read(&path).map_err(|source| LaunchError::Io {
                operation: "read",
                path: path.clone(),
                source,
            })?;
            if let Some((interpreter, argument)) = script_line(&data) {
                // argv[0] becomes the script's path, before it the interpreter and its argument.
                argv[0] = path.clone().into_os_string();
                if let Some(argument) = argument {
                    argv.insert(0, argument);
                }
                argv.insert(0, interpreter.clone().into_os_string());
                path = interpreter;
                continue;
            }
            return self.elf(path, argv, &data);
        }
        Err(refused(&path, "scripts name each other as interpreters"))
    }

    fn elf(self, path: PathBuf, argv: Vec<OsString>, data: &[u8]) -> Result<Resolved, LaunchError> {
        let metadata = std::fs::metadata(&path).map_err(|source| LaunchError::Io {
            operation: "examine",
            path: path.clone(),
            source,
        })?;
        // SAFETY: no arguments, cannot fail.
        let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
        let setuid = metadata.mode() & 0o4000 != 0 && metadata.uid() != uid;
        let setgid = metadata.mode() & 0o2010 == 0o2010 && metadata.gid() != gid;
        if setuid || setgid {
            return Err(refused(
                &path,
                "set-uid or set-gid programs cannot be checkpointed (they would lose their rights)",
            ));
        }
        let elf = Elf::parse(data).map_err(|reason| refused(&path, reason))?;
        let Some(loader) = elf.loader else {
            return Err(refused(
                &path,
                "a statically linked program; link it dynamically (without -static) to checkpoint it",
            ));
        };
        Ok(Resolved {
            program: path,
            loader: PathBuf::from(loader),
            argv,
            needed: elf.needed,
            launch: self,
        })
    }
}

fn refused(program: &Path, reason: &str) -> LaunchError {
    LaunchError::Refused {
        program: program.to_path_buf(),
        reason: reason.to_owned(),
    }
}

fn executable(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

fn find(launch: &Launch) -> Result<PathBuf, LaunchError> {
    let program = &launch.program;
    if program.as_os_str().as_bytes().contains(&b'/') {
        return match std::fs::metadata(program) {
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => {
                Err(LaunchError::NotFound {
                    program: program.clone(),
                    on_path: false,
                })
            }
            Err(source) => Err(LaunchError::Io {
                operation: "examine",
                path: program.clone(),
                source,
            }),
            Ok(_) if executable(program) => Ok(program.clone()),
            Ok(_) => Err(refused(program, "not an executable file")),
        };
    }
    let path = launch
        .env
        .iter()
        .find(|(k, _)| k == "PATH")
        .map(|(_, v)| v.as_os_str());
    let path = path.unwrap_or(OsStr::new("/bin:/usr/bin"));
    std::env::split_paths(path)
        .map(|dir| {
            if dir.as_os_str().is_empty() {
                PathBuf::from(".")
            } else {
                dir
            }
        })
        .map(|dir| dir.join(program))
        .find(|candidate| executable(candidate))
        .ok_or_else(|| LaunchError::NotFound {
            program: program.clone(),
            on_path: true,
        })
}

/// The interpreter and the one argument of a `#!` line.
fn script_line(data: &[u8]) -> Option<(PathBuf, Option<OsString>)> {
    let line = data.strip_prefix(b"#!")?;
    let end = line.iter().position(|&b| b == b'\n').unwrap_or(line.len());
    let line = line[..end].trim_ascii();
    let cut = line
        .iter()
        .position(|b| b.is_ascii_whitespace())
        .unwrap_or(line.len());
    let (interpreter, argument) = line.split_at(cut);
    let argument = argument.trim_ascii();
    let argument = (!argument.is_empty()).then(|| OsString::from_vec(argument.to_vec()));
    (!interpreter.is_empty()).then(|| {
        (
            PathBuf::from(OsString::from_vec(interpreter.to_vec())),
            argument,
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn script_lines() {
        let line = |t: &str| script_line(t.as_bytes()).map(|(p, a)| (p.display().to_string(), a));
        assert_eq!(line("#!/bin/sh\necho"), Some(("/bin/sh".into(), None)));
        assert_eq!(
            line("#! /usr/bin/env  python3 -u \n"),
            Some(("/usr/bin/env".into(), Some("python3 -u".into())))
        );
        assert_eq!(line("#!\n"), None);
        assert_eq!(line("echo"), None);
    }

    #[test]
    fn lookup_and_refusals() {
        let dir = tempfile::tempdir().expect("a directory");
        let script = dir.path().join("job");
        std::fs::write(&script, "#!/bin/sh -e\n").expect("written");
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).expect("changed");
        let env = vec![("PATH".into(), dir.path().as_os_str().to_owned())];
        let launch = Launch {
            program: "job".into(),
            args: vec!["1".into()],
            env,
            ..Launch::default()
        };
        let resolved = launch.clone().resolve().expect("found");
        let expected: Vec<OsString> = vec![
            "/bin/sh".into(),
            "-e".into(),
            script.clone().into(),
            "1".into(),
        ];
        assert_eq!(resolved.argv, expected);
        assert!(resolved.needed.iter().any(|n| n.starts_with("libc.so")));
        let missing = Launch {
            program: "no-such".into(),
            ..launch.clone()
        }
        .resolve();
        assert!(matches!(
            missing,
            Err(LaunchError::NotFound { on_path: true, .. })
        ));
        std::fs::write(&script, [0x7f, b'E', b'L', b'F', 1, 1, 1, 0]).expect("written");
        let refused = launch.resolve().expect_err("refused").to_string();
        assert!(refused.contains("32-bit"), "{refused}");
    }
}
