//! The program to run: found on `PATH`, followed through `#!`, refused by name if it cannot be
//! controlled, and asked which MPI it was built for. Reads files only; executes nothing but the
//! program's own dynamic loader in its listing mode.

use std::ffi::OsStr;
use std::fs;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mana::spec::Family;
use object::read::elf::{ElfFile64, FileHeader as _, ProgramHeader as _};
use object::{elf, Endianness, ReadCache};

use crate::message::Failure;

/// Interpreters that may load an MPI library after their start.
const LATE: &[&str] = &[
    "python", "pypy", "julia", "R", "Rscript", "java", "octave", "perl", "ruby", "lua", "tclsh",
    "node",
];

/// Launchers of ranks, by the beginning of their names (`mpirun.openmpi`).
const LAUNCHERS: &[&str] = &["mpirun", "mpiexec", "orterun", "prterun", "srun"];

/// A program that can be started.
#[derive(Clone, Debug)]
pub struct Program {
    /// What to execute: the file itself, also if it is a script.
    pub path: PathBuf,
    /// The MPI it was built for, as far as its libraries tell.
    pub mpi: Option<MpiLibrary>,
    /// The program itself, or the interpreter of the script.
    executable: PathBuf,
    /// What else its libraries and its kind tell.
    late: bool,
}

/// An MPI library a program is linked with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MpiLibrary {
    /// Its interface.
    pub family: Family,
    /// The name the program asks for.
    pub soname: String,
}

impl Program {
    /// Finds `name` as a shell would and looks at it.
    pub fn find(name: &OsStr) -> Result<Self, Failure> {
        let path = search(name)?;
        refuse_launcher(&path)?;
        let executable = follow_scripts(&path)?;
        let facts = examine(&executable)?;
        let mut mpi = family_of(&facts.needed);
        let mut late = path != executable || is_late(&executable);
        if mpi.is_none() {
            let all = closure(&facts.loader, &executable);
            mpi = family_of(&all);
            // A list that is empty tells nothing; wrappers around several MPIs are named like one.
            late |= all.is_empty() || all.iter().any(|name| name.starts_with("libmpi"));
        }
        if let Some(Err(soname)) = &mpi {
            return Err(Failure::of_job(format!(
                "{}: uses {soname}, an MPI interface mana does not have yet (it has libmpi.so.40 of Open MPI, libmpich.so.12/libmpi.so.12 of MPICH, and libmpi_abi.so.1)",
                path.display()
            )));
        }
        Ok(Self {
            path,
            mpi: mpi.and_then(Result::ok),
            executable,
            late,
        })
    }

    /// Whether it may come to use an MPI that its libraries do not tell of: an interpreter, a script, a program that
    /// looks the procedures up by name.
    pub fn may_load_mpi(&self) -> bool {
        self.late || has_word(&self.executable, b"MPI_Init").unwrap_or(true)
    }
}

/// Whether it is an interpreter that may load MPI late. `python3.11` is `python`.
pub fn is_late(path: &Path) -> bool {
    let Some(name) = path.file_name().and_then(OsStr::to_str) else {
        return false;
    };
    let base = name.trim_end_matches(|c: char| c.is_ascii_digit() || matches!(c, '.' | '-'));
    LATE.contains(&base)
}

/// Whether a file has these bytes somewhere.
fn has_word(path: &Path, word: &[u8]) -> std::io::Result<bool> {
    let mut file = fs::File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    let mut kept = 0;
    loop {
        let read = file.read(&mut buffer[kept..])?;
        if read == 0 {
            return Ok(false);
        }
        let filled = &buffer[..kept + read];
        let first = |(at, byte): (usize, &u8)| (*byte == word[0]).then_some(at);
        let mut places = filled.iter().enumerate().filter_map(first);
        if places.any(|at| filled[at..].starts_with(word)) {
            return Ok(true);
        }
        // A word may lie across two pieces.
        let end = kept + read;
        kept = end.min(word.len() - 1);
        buffer.copy_within(end - kept..end, 0);
    }
}

/// The file a shell would execute for `name`, and what runs in the end if it is a script.
///
/// # Errors
/// When there is no such file, or it may not be executed.
pub fn interpreter(name: &OsStr) -> Result<(PathBuf, PathBuf), Failure> {
    let path = search(name)?;
    let executable = follow_scripts(&path)?;
    Ok((path, executable))
}

/// The file that a shell would execute for `name`.
fn search(name: &OsStr) -> Result<PathBuf, Failure> {
    if name.is_empty() {
        return Err(Failure::new("the program's name is empty"));
    }
    let check = |path: &Path| -> Result<(), String> {
        let facts = fs::metadata(path).map_err(|e| e.to_string())?;
        if facts.is_dir() {
            return Err("it is a directory".into());
        }
        nix::unistd::access(path, nix::unistd::AccessFlags::X_OK)
            .map_err(|_| "it may not be executed; chmod +x it".to_owned())
    };
    if name.as_bytes().contains(&b'/') {
        let path = PathBuf::from(name);
        return match check(&path) {
            Ok(()) => Ok(path),
            Err(why) => Err(Failure::new(format!(
                "cannot run {}: {why}",
                path.display()
            ))),
        };
    }
    let on_path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    std::env::split_paths(&on_path)
        .map(|dir| {
            if dir.as_os_str().is_empty() {
                Path::new(".").join(name)
            } else {
                dir.join(name)
            }
        })
        .find(|path| check(path).is_ok())
        .ok_or_else(|| {
            let shown = name.to_string_lossy();
            Failure::new(if shown.starts_with('-') {
                format!("there is no option {shown} ('mana_launch --help' lists them; a key of mana.conf is set by --set KEY=VALUE)")
            } else if Path::new(name).is_dir() {
                format!("cannot run {shown}: it is a directory, and no program of this name is on PATH")
            } else if Path::new(name).exists() {
                format!("cannot run {shown}: not found on PATH (for a program of this directory write ./{shown})")
            } else {
                format!("cannot run {shown}: not found on PATH, and there is no file of that name in this directory")
            })
        })
}

/// A launcher's ranks are to be controlled, not the launcher.
fn refuse_launcher(path: &Path) -> Result<(), Failure> {
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let base = name.split('.').next().unwrap_or_default();
    if !LAUNCHERS.contains(&base) {
        return Ok(());
    }
    Err(Failure::of_job(format!(
        "{name} starts the ranks and is none of them: mana_launch stands after it, before the program ({name} ... mana_launch ./app)"
    )))
}

/// The interpreter at the end of a chain of `#!` lines.
fn follow_scripts(path: &Path) -> Result<PathBuf, Failure> {
    let mut current = path.to_owned();
    // The kernel follows four.
    for _ in 0..5 {
        let mut start = [0; 256];
        let read = fs::File::open(&current)
            .and_then(|mut file| file.read(&mut start))
            .map_err(|e| Failure::new(format!("cannot read {}: {e}", current.display())))?;
        let Some(line) = start[..read].strip_prefix(b"#!") else {
            return Ok(current);
        };
        let line = line.split(|b| *b == b'\n').next().unwrap_or_default();
        let mut words = line
            .split(|b| b.is_ascii_whitespace())
            .filter(|w| !w.is_empty());
        let Some(interpreter) = words.next() else {
            return Err(Failure::new(format!(
                "{}: its #! line names no interpreter",
                current.display()
            )));
        };
        // `#!/usr/bin/env NAME`: what runs in the end is NAME.
        let next = match (
            Path::new(OsStr::from_bytes(interpreter)).file_name(),
            words.next(),
        ) {
            (Some(name), Some(real)) if name == "env" && real != b"-S" => {
                search(OsStr::from_bytes(real))?
            }
            (Some(name), Some(_)) if name == "env" => match words.next() {
                Some(real) => search(OsStr::from_bytes(real))?,
                None => PathBuf::from(OsStr::from_bytes(interpreter)),
            },
            _ => PathBuf::from(OsStr::from_bytes(interpreter)),
        };
        current = next;
    }
    Err(Failure::new(format!(
        "{}: too many interpreters one after another",
        path.display()
    )))
}

struct ElfFacts {
    loader: PathBuf,
    needed: Vec<String>,
}

/// Refuses what cannot be controlled; lists the direct dependencies.
fn examine(path: &Path) -> Result<ElfFacts, Failure> {
    let refuse =
        |why: &str| Failure::new(format!("cannot run {} under mana: {why}", path.display()));
    let read = |e: std::io::Error| Failure::new(format!("cannot read {}: {e}", path.display()));
    let file = fs::File::open(path).map_err(read)?;
    let facts = file.metadata().map_err(read)?;
    let mode = facts.permissions().mode();
    if mode & 0o4000 != 0 && facts.uid() != nix::unistd::Uid::effective().as_raw()
        || mode & 0o2000 != 0
    {
        return Err(refuse(
            "it is set-uid or set-gid, and would lose that; run a copy without that bit",
        ));
    }
    let cache = ReadCache::new(file);
    let mut ident = [0; 20];
    fs::File::open(path)
        .and_then(|mut f| f.read(&mut ident))
        .map_err(read)?;
    if ident[..4] != elf::ELFMAG {
        return Err(refuse(
            "it is neither an ELF program nor a script with a #! line",
        ));
    }
    if ident[4] == elf::ELFCLASS32 {
        return Err(refuse("it is a 32-bit program; build it for 64 bit"));
    }
    if u16::from_le_bytes([ident[18], ident[19]]) != elf::EM_X86_64 {
        return Err(refuse("it is not for the x86-64 architecture"));
    }
    let broken = |e: object::Error| refuse(&format!("its ELF headers are broken ({e})"));
    let file = ElfFile64::<Endianness, _>::parse(&cache).map_err(broken)?;
    let (endian, data) = (file.endian(), file.data());
    let headers = file
        .elf_header()
        .program_headers(endian, data)
        .map_err(broken)?;
    let mut loader = None;
    let mut needed = Vec::new();
    for header in headers {
        if let Ok(Some(name)) = header.interpreter(endian, data) {
            loader = Some(PathBuf::from(OsStr::from_bytes(name)));
        }
        if let Ok(Some(entries)) = header.dynamic(endian, data) {
            needed = needed_names(entries, headers, endian, data);
        }
    }
    match loader {
        Some(loader) => Ok(ElfFacts { loader, needed }),
        None => Err(refuse(
            "it is statically linked; link it dynamically (without -static)",
        )),
    }
}

/// The names of `DT_NEEDED`, found through `DT_STRTAB`.
fn needed_names<'data, R: object::ReadRef<'data>>(
    entries: &[elf::Dyn64<Endianness>],
    headers: &[elf::ProgramHeader64<Endianness>],
    endian: Endianness,
    data: R,
) -> Vec<String> {
    let value = |tag: u32| {
        entries
            .iter()
            .find(|e| e.d_tag.get(endian) == u64::from(tag))
            .map(|e| e.d_val.get(endian))
    };
    let (Some(table), Some(size)) = (value(elf::DT_STRTAB), value(elf::DT_STRSZ)) else {
        return Vec::new();
    };
    let strings = headers
        .iter()
        .find_map(|h| h.data_range(endian, data, table, size).ok().flatten())
        .unwrap_or_default();
    entries
        .iter()
        .filter(|e| e.d_tag.get(endian) == u64::from(elf::DT_NEEDED))
        .filter_map(|e| {
            let from = strings.get(usize::try_from(e.d_val.get(endian)).ok()?..)?;
            let name = from.split(|b| *b == 0).next()?;
            String::from_utf8(name.to_vec()).ok()
        })
        .collect()
}

/// Everything the program's loader would load for it (what `ldd` shows). Empty if it cannot tell:
/// the launcher's environment decides then.
fn closure(loader: &Path, program: &Path) -> Vec<String> {
    let program = if program.is_absolute() {
        program.to_owned()
    } else {
        Path::new(".").join(program)
    };
    let output = Command::new(loader)
        .arg(program)
        .env("LD_TRACE_LOADED_OBJECTS", "1")
        .env_remove("LD_PRELOAD")
        .env_remove("LD_DEBUG")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    let Ok(output) = output else {
        return Vec::new();
    };
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter_map(|name| name.rsplit('/').next().map(str::to_owned))
        .collect()
}

/// The MPI interface among library names; `Err` names one that is known but not supported.
fn family_of(names: &[String]) -> Option<Result<MpiLibrary, String>> {
    let starts = |prefix: &str| names.iter().find(|n| n.starts_with(prefix));
    let known = [
        ("libmpi.so.40", Family::OpenMpi),
        ("libmpich.so.12", Family::Mpich),
        ("libmpi.so.12", Family::Mpich),
        ("libmpi_abi.so.1", Family::Standard),
        ("libmpi_abi.so.0", Family::Standard),
    ];
    for (soname, family) in known {
        if names.iter().any(|n| n == soname) {
            return Some(Ok(MpiLibrary {
                family,
                soname: soname.into(),
            }));
        }
    }
    // The MPI's own Fortran and C++ libraries, which bring the C one.
    let bindings = [
        ("libmpi_mpifh.so.40", Family::OpenMpi, "libmpi.so.40"),
        ("libmpi_usempif08.so.40", Family::OpenMpi, "libmpi.so.40"),
        ("libmpi_cxx.so.40", Family::OpenMpi, "libmpi.so.40"),
        ("libmpichfort.so.12", Family::Mpich, "libmpich.so.12"),
        ("libmpifort.so.12", Family::Mpich, "libmpi.so.12"),
        ("libmpichcxx.so.12", Family::Mpich, "libmpich.so.12"),
    ];
    for (binding, family, soname) in bindings {
        if names.iter().any(|n| n == binding) {
            return Some(Ok(MpiLibrary {
                family,
                soname: soname.into(),
            }));
        }
    }
    starts("libmpi_abi.so.")
        .or_else(|| starts("libmpi.so."))
        .or_else(|| starts("libmpich.so."))
        .map(|name| Err(name.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::OpenOptionsExt as _;

    #[test]
    fn names_tell_the_family() {
        let of = |name: &str| family_of(&[name.to_owned(), "libc.so.6".into()]);
        assert_eq!(
            of("libmpi.so.40").and_then(Result::ok).map(|m| m.family),
            Some(Family::OpenMpi)
        );
        assert_eq!(
            of("libmpi.so.12").and_then(Result::ok).map(|m| m.family),
            Some(Family::Mpich)
        );
        assert_eq!(
            of("libmpichfort.so.12")
                .and_then(Result::ok)
                .map(|m| m.soname),
            Some("libmpich.so.12".into())
        );
        assert_eq!(
            of("libmpi_abi.so.1").and_then(Result::ok).map(|m| m.family),
            Some(Family::Standard)
        );
        assert_eq!(of("libmpi_abi.so.2"), Some(Err("libmpi_abi.so.2".into())));
        assert_eq!(of("libm.so.6"), None);
    }

    #[test]
    fn programs_that_may_load_mpi() {
        assert!(is_late(Path::new("/usr/bin/python3.11")) && is_late(Path::new("julia")));
        assert!(!is_late(Path::new("/usr/bin/sed")) && !is_late(Path::new("pythonic")));
        let serial = Program::find(OsStr::new("/bin/true")).expect("a program");
        assert!(serial.mpi.is_none() && !serial.may_load_mpi());
        let dir = tempfile::tempdir().expect("directory");
        let file = dir.path().join("file");
        let mut text = vec![b'M'; (1 << 20) - 3];
        fs::write(&file, &text).expect("written");
        assert_eq!(has_word(&file, b"MPI_Init").ok(), Some(false));
        text.extend_from_slice(b"PI_Init");
        fs::write(&file, &text).expect("written");
        assert_eq!(has_word(&file, b"MPI_Init").ok(), Some(true));
    }

    #[test]
    fn scripts_lead_to_their_interpreter() {
        let dir = tempfile::tempdir().expect("directory");
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o755)
                .open(&path)
                .expect("file");
            std::io::Write::write_all(&mut file, text.as_bytes()).expect("written");
            path
        };
        let direct = write("direct", "#!/bin/sh\nexit 0\n");
        assert_eq!(
            follow_scripts(&direct).expect("found"),
            Path::new("/bin/sh")
        );
        let by_env = write("by-env", "#!/usr/bin/env -S sh -e\n");
        assert_eq!(
            follow_scripts(&by_env).expect("found").file_name(),
            Some(OsStr::new("sh"))
        );
        let text = write("text", "hello\n");
        let error = Program::find(text.as_os_str()).expect_err("refused");
        assert!(
            error.text.contains("neither an ELF program"),
            "{}",
            error.text
        );
        let missing = Program::find(OsStr::new("no-such-program-of-mana")).expect_err("refused");
        assert!(
            missing.text.contains("not found on PATH"),
            "{}",
            missing.text
        );
    }

    #[test]
    fn the_dynamic_section_is_read() {
        let facts = examine(Path::new("/bin/sh")).expect("an ELF program");
        assert!(
            facts.needed.iter().any(|n| n == "libc.so.6"),
            "{:?}",
            facts.needed
        );
        assert!(closure(&facts.loader, Path::new("/bin/sh"))
            .iter()
            .any(|n| n == "libc.so.6"));
    }
}
