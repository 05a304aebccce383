//! An MPI that came without a compiler wrapper (an unpacked run-time package, a vendor's tree): one is made
//! from the directory of `mpi.h` and that of the library.

use std::fs;
use std::os::unix::fs::{symlink, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::message::Failure;

/// File names of MPI libraries; the first that is there is linked with.
const LIBRARIES: &[&str] = &[
    "libmpi.so",
    "libmpi.so.40",
    "libmpi.so.12",
    "libmpich.so",
    "libmpich.so.12",
];

/// Writes `mpicc` into `place`, for `mpi.h` in `include` and the library in `lib`.
pub fn wrapper(include: &Path, lib: &Path, place: &Path) -> Result<PathBuf, Failure> {
    let include = directory("--include", include)?;
    let lib = directory("--lib", lib)?;
    if !include.join("mpi.h").is_file() {
        return Err(Failure::new(format!(
            "--include {}: no mpi.h in it; it is part of the MPI's development package",
            include.display()
        )));
    }
    let Some(library) = LIBRARIES.iter().find(|name| lib.join(name).is_file()) else {
        return Err(Failure::new(format!(
            "--lib {}: none of {} in it",
            lib.display(),
            LIBRARIES.join(", ")
        )));
    };
    let failed = |e: std::io::Error| Failure::new(format!("cannot write {}: {e}", place.display()));
    // Without a development package there is no file of the name that `-lmpi` looks for.
    let links = std::path::absolute(place)
        .unwrap_or_else(|_| place.to_owned())
        .join("lib");
    let link = links.join("libmpi.so");
    fs::create_dir_all(&links).map_err(failed)?;
    match fs::remove_file(&link) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    symlink(lib.join(library), &link).map_err(failed)?;
    let (include, lib, links) = (quoted(&include)?, quoted(&lib)?, quoted(&links)?);
    let script = format!(
        "#!/bin/sh\n\
         # An MPI compiler wrapper, written by 'mana adapter'.\n\
         case \"$1\" in\n\
         -show) echo \"cc -I\"{include}\" -L\"{links}\" -L\"{lib}\" -Wl,-rpath,\"{lib}\" -lmpi\" ;;\n\
         *) exec cc -I{include} \"$@\" -L{links} -L{lib} -Wl,-rpath,{lib} -lmpi ;;\n\
         esac\n"
    );
    let path = place.join("mpicc");
    fs::write(&path, script).map_err(failed)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(failed)?;
    Ok(path)
}

fn directory(option: &str, path: &Path) -> Result<PathBuf, Failure> {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    if absolute.is_dir() {
        Ok(absolute)
    } else {
        Err(Failure::new(format!(
            "{option} {}: no such directory",
            path.display()
        )))
    }
}

/// For the shell. What builds with the wrapper splits its answer at blanks.
fn quoted(path: &Path) -> Result<String, Failure> {
    match path.to_str() {
        Some(text) if !text.contains(|c: char| c.is_whitespace() || c == '\'') => {
            Ok(format!("'{text}'"))
        }
        _ => Err(Failure::new(format!(
            "{}: a path with blanks or quotes cannot be built with; make a symbolic link to it",
            path.display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let dir = tempfile::tempdir().expect("directory");
        let (include, lib) = (dir.path().join("include"), dir.path().join("lib"));
        let text = |place: &Path| {
            wrapper(&include, &lib, place)
                .map_err(|e| e.text)
                .map(|p| fs::read_to_string(p).expect("a script"))
        };
        let place = dir.path().join("cache");
        assert!(text(&place)
            .expect_err("refused")
            .contains("no such directory"));
        fs::create_dir_all(&include).expect("made");
        fs::create_dir_all(&lib).expect("made");
        assert!(text(&place).expect_err("refused").contains("no mpi.h"));
        fs::write(include.join("mpi.h"), "").expect("written");
        assert!(text(&place).expect_err("refused").contains("libmpi.so.12"));
        fs::write(lib.join("libmpi.so.12"), "").expect("written");
        for _ in 0..2 {
            assert!(text(&place).expect("a wrapper").contains("-lmpi"));
            let link = fs::read_link(place.join("lib/libmpi.so")).expect("a link");
            assert_eq!(link, lib.join("libmpi.so.12"));
        }
    }
}
