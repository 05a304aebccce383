//! Scripts and tools between the launcher and the program: `srun mana_launch ./wrapper.sh`,
//! `mpirun mana_launch numactl --localalloc ./app`.
//!
//! A shell is not what the user wants checkpointed, and it knows nothing of MPI. Under an MPI
//! launcher it runs as it is, with a library that sends everything it executes through
//! `mana wrapped`: an MPI program (or an interpreter that may load MPI late) is put under control
//! with the options of the outer `mana_launch`, anything else is executed as it is. After a failure
//! the script runs again from its beginning, and the program in it resumes.

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;

use clap::Parser as _;
use libckpt::Config;

use crate::cli::{Cli, Launch, Verb};
use crate::installation::Installation;
use crate::launcher::Launcher;
use crate::message::{Failure, Speaker};
use crate::program::{interpreter, is_late, Program};

/// The path of `mana`, for the library.
const LAUNCHER: &str = "MANA_WRAPPER";
/// The outer options, each ended by [`END`].
const OPTIONS: &str = "MANA_WRAPPER_OPTIONS";
/// Ends an option: nobody has it in one.
const END: u8 = 0x1f;

/// Shells: a script of theirs is a wrapper.
const SHELLS: &[&str] = &[
    "sh", "bash", "dash", "ksh", "mksh", "zsh", "csh", "tcsh", "fish", "rbash",
];
/// Programs whose purpose is to execute another one.
const TOOLS: &[&str] = &[
    "env",
    "numactl",
    "taskset",
    "nice",
    "ionice",
    "chrt",
    "time",
    "timeout",
    "stdbuf",
    "nohup",
    "setsid",
    "hwloc-bind",
    "prlimit",
    "setarch",
];

fn is_one_of(names: &[&str], path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| names.iter().any(|n| name == OsStr::new(n)))
}

fn wraps(executable: &Path) -> bool {
    is_one_of(SHELLS, executable) || is_one_of(TOOLS, executable)
}

/// Executes the program of `mana launch` as a wrapper, if it is one and an MPI launcher started us.
/// Returns if not.
///
/// # Errors
/// When it is one and cannot be executed.
pub fn launch(
    options: &Launch,
    launcher: &Launcher,
    config: &Config,
    speaker: &Speaker,
) -> Result<(), Failure> {
    if launcher.wireups.is_empty() || options.wrapped {
        return Ok(());
    }
    let (Some(name), Ok((path, executable))) = (
        options.program.first(),
        interpreter(options.program.first().map_or(OsStr::new(""), |n| n)),
    ) else {
        return Ok(()); // the ordinary way names what is wrong
    };
    if !wraps(&executable) {
        return Ok(());
    }
    if launcher.size == Some(1) && !options.start.quiet {
        speaker.say(format_args!(
            "{} runs as it is, and the MPI programs in it under control; without MPI nothing in it is protected: use --mpi none then",
            name.to_string_lossy()
        ));
    }
    let installation = Installation::find()?;
    let mut preload = installation.wrapper().into_os_string();
    if let Some(own) = std::env::var_os("LD_PRELOAD").filter(|v| !v.is_empty()) {
        preload.push(":");
        preload.push(own);
    }
    let mut text = Vec::new();
    for option in outer(options, config) {
        text.extend_from_slice(option.as_bytes());
        text.push(END);
    }
    std::env::set_var("LD_PRELOAD", preload);
    std::env::set_var(LAUNCHER, installation.command());
    std::env::set_var(OPTIONS, OsString::from_vec(text));
    Err(replace(
        &path,
        name,
        options.program.get(1..).unwrap_or_default(),
    ))
}

/// The options that a program in the wrapper is launched with. The wrapper may change its directory,
/// and execute several programs one after the other.
fn outer(options: &Launch, config: &Config) -> Vec<OsString> {
    let start = &options.start;
    let mut words: Vec<OsString> = Vec::new();
    let mut put = |name: &str, value: &OsStr| {
        words.push(name.into());
        words.push(value.into());
    };
    // In the order of the search; a script that changes its directory must not lose the file.
    let file = start.settings.config.clone();
    let file = file.or_else(|| std::env::var_os("MANA_CONF").map(Into::into));
    let file = file.or_else(|| {
        let here = Path::new("mana.conf");
        here.is_file().then(|| here.to_owned())
    });
    if let Some(file) = file {
        let file = std::path::absolute(&file).unwrap_or(file);
        put("--config", file.as_os_str());
    }
    for (key, value) in &start.settings.set {
        put("--set", OsStr::new(&format!("{key}={value}")));
    }
    for (key, dir) in [
        ("global_ckpt_dir", &config.global_ckpt_dir),
        ("local_ckpt_dir", &config.local_ckpt_dir),
    ] {
        let mut setting = OsString::from(format!("{key}="));
        setting.push(dir);
        put("--set", &setting);
    }
    if let Some(id) = &start.id {
        put("--id", OsStr::new(id));
    }
    if let Some((incarnation, number)) = start.generation {
        let text = incarnation.map_or(number.to_string(), |i| format!("{i}.{number}"));
        put("--generation", OsStr::new(&text));
    }
    if let Some(name) = &start.mpi {
        put("--mpi", OsStr::new(name));
    }
    if let Some(file) = &config.lines.file {
        put("--log-file", file.as_os_str());
    }
    if let Some(level) = &start.log_level {
        put("--log-level", OsStr::new(level));
    }
    if let (Some(host), Some(port)) = (&start.coord_host, start.coord_port) {
        put("--coord-host", OsStr::new(host));
        put("--coord-port", OsStr::new(&port.to_string()));
    }
    for (given, name) in [
        (start.log_json, "--log-json"),
        (start.quiet, "--quiet"),
        (options.restart, "--restart"),
        (options.fresh, "--fresh"),
    ] {
        if given {
            words.push(name.into());
        }
    }
    words
}

/// `mana wrapped ARGV0 PATH ARGUMENTS...`: something a wrapper executes.
///
/// # Errors
/// When it cannot be started.
pub fn wrapped(words: &[OsString], speaker: &mut Speaker) -> Result<i32, Failure> {
    let [argv0, path, arguments @ ..] = words else {
        return Err(Failure::new(
            "mana wrapped: called by the wrapper's library only",
        ));
    };
    let path = Path::new(path);
    if !controlled(path) {
        return Err(replace(path, argv0, arguments));
    }
    let options = std::env::var_os(OPTIONS).unwrap_or_default();
    forget(&Installation::find()?);
    let line = [OsString::from("mana"), "launch".into()]
        .into_iter()
        .chain(
            options
                .as_bytes()
                .split(|b| *b == END)
                .filter(|option| !option.is_empty())
                .map(|option| OsStr::from_bytes(option).to_owned()),
        )
        .chain(["--wrapped".into(), "--".into(), path.into()])
        .chain(arguments.iter().cloned());
    let Verb::Launch(mut launch) = Cli::try_parse_from(line)
        .map_err(|e| Failure::new(format!("{OPTIONS}: {e}")))?
        .command
    else {
        return Err(Failure::new(format!(
            "{OPTIONS}: not options of mana_launch"
        )));
    };
    if let (Some(id), Some(name)) = (&mut launch.start.id, path.file_name()) {
        *id = format!("{id}-{}", name.to_string_lossy());
    }
    crate::launch::launch(launch, speaker)
}

/// Whether what a wrapper executes is the program, and not one more wrapper or a helper.
fn controlled(path: &Path) -> bool {
    let Ok((_, executable)) = interpreter(path.as_os_str()) else {
        return false;
    };
    if wraps(&executable) {
        return false;
    }
    is_late(&executable)
        || Program::find(path.as_os_str()).is_ok_and(|program| program.mpi.is_some())
}

/// The program shall not see what was for its wrapper.
fn forget(installation: &Installation) {
    std::env::remove_var(LAUNCHER);
    std::env::remove_var(OPTIONS);
    let ours = installation.wrapper();
    let rest: Vec<_> = std::env::var_os("LD_PRELOAD")
        .unwrap_or_default()
        .as_bytes()
        .split(|b| matches!(b, b':' | b' '))
        .filter(|part| !part.is_empty() && *part != ours.as_os_str().as_bytes())
        .map(<[u8]>::to_vec)
        .collect();
    if rest.is_empty() {
        std::env::remove_var("LD_PRELOAD");
    } else {
        std::env::set_var("LD_PRELOAD", OsString::from_vec(rest.join(&b':')));
    }
}

/// Executes a program as it is. Returns why that failed.
fn replace(path: &Path, argv0: &OsStr, arguments: &[OsString]) -> Failure {
    let word = |text: &OsStr| CString::new(text.as_bytes());
    let words: Result<Vec<CString>, _> = std::iter::once(argv0)
        .chain(arguments.iter().map(OsString::as_os_str))
        .map(word)
        .collect();
    let (Ok(file), Ok(words)) = (word(path.as_os_str()), words) else {
        return Failure::new(format!("{}: contains a zero byte", path.display()));
    };
    let Err(error) = nix::unistd::execv(&file, &words);
    Failure::new(format!("cannot run {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_lines_reach_the_program() {
        let given = "mana launch --log-file lines --log-json --log-level debug ./wrapper.sh";
        let cli = Cli::try_parse_from(given.split(' ')).expect("parses");
        let Verb::Launch(launch) = cli.command else {
            panic!("launch expected");
        };
        let values =
            std::collections::BTreeMap::from([("log_file".to_owned(), "lines".to_owned())]);
        let config = Config::load(None, &values, &|_| None).expect("a configuration");
        let words = outer(&launch, &config);
        let file = std::path::absolute("lines")
            .expect("a path")
            .into_os_string();
        let at = words.iter().position(|word| word == "--log-file");
        assert_eq!(at.and_then(|at| words.get(at + 1)), Some(&file));
        for word in ["--log-json", "--log-level", "debug"] {
            assert!(words.iter().any(|w| w == word), "{word}: {words:?}");
        }
    }

    #[test]
    fn wrappers_and_programs() {
        assert!(wraps(Path::new("/bin/bash")) && wraps(Path::new("/usr/bin/numactl")));
        assert!(!wraps(Path::new("/usr/bin/python3")) && !wraps(Path::new("./app")));
    }
}
