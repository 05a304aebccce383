//! Builds the stubs as `stub/README.md` says and looks at them from outside: names, sizes, relocations,
//! programs of three languages linked against them, and what arrives in the slots.
//!
//! Needs a C compiler and binutils. What an MPI installed on the machine is needed for is skipped, and
//! said so, where it is not.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

struct Stub {
    /// Suffix of the package and of the compiler wrappers.
    name: &'static str,
    soname: &'static str,
}

const STUBS: [Stub; 2] = [
    Stub {
        name: "openmpi",
        soname: "libmpi.so.40",
    },
    Stub {
        name: "mpich",
        soname: "libmpich.so.12",
    },
];

fn run<A: AsRef<OsStr>>(program: &str, args: &[A], environment: &[(&str, &str)]) -> (bool, String) {
    let out = Command::new(program)
        .args(args)
        .envs(environment.iter().copied())
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    let text =
        String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    (out.status.success(), text)
}

fn installed(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .output()
        .is_ok_and(|o| o.status.success())
}

fn crate_dir() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Directory with the shared libraries, built once for all tests.
fn libraries() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("stubs");
        let lib = target.join("lib");
        std::fs::create_dir_all(&lib).expect("target directory");
        let workspace = crate_dir().join("../..");
        let (ok, text) = run(
            env!("CARGO"),
            &[
                "build",
                "--release",
                "--quiet",
                "-p",
                "mana-stub-openmpi",
                "-p",
                "mana-stub-mpich",
                "--manifest-path",
                workspace.join("Cargo.toml").to_str().expect("path"),
                "--target-dir",
                target.to_str().expect("path"),
            ],
            &[],
        );
        assert!(ok, "{text}");
        for stub in &STUBS {
            let map = crate_dir().join("../stub/exports.map");
            let archive = target.join(format!("release/libmana_stub_{}.a", stub.name));
            let (ok, text) = run(
                "cc",
                &[
                    "-shared".into(),
                    "-nostdlib".into(),
                    "-o".into(),
                    lib.join(stub.soname).into_os_string(),
                    format!("-Wl,-soname,{}", stub.soname).into(),
                    format!("-Wl,--version-script={}", map.display()).into(),
                    "-Wl,-z,now".into(),
                    "-Wl,-z,defs".into(),
                    "-Wl,--gc-sections".into(),
                    "-Wl,--hash-style=both".into(),
                    "-Wl,--whole-archive".into(),
                    archive.into_os_string(),
                    "-Wl,--no-whole-archive".into(),
                    "-lc".into(),
                ],
                &[],
            );
            assert!(ok, "{text}");
        }
        lib
    })
}

/// The defined dynamic symbols of a library, with their sizes.
fn symbols(library: &Path) -> HashMap<String, u64> {
    let (ok, text) = run(
        "nm",
        &[
            OsStr::new("-DS"),
            OsStr::new("--defined-only"),
            library.as_os_str(),
        ],
        &[],
    );
    assert!(ok, "{text}");
    text.lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let name = words.last()?.split('@').next()?.to_owned();
            // Functions have sizes too, but nobody copies them.
            let size = if words.len() == 4 && !matches!(words[2], "T" | "W" | "i") {
                u64::from_str_radix(words[1], 16).ok()?
            } else {
                0
            };
            Some((name, size))
        })
        .collect()
}

/// A library of the machine's own MPI.
fn real(name: &str) -> Option<PathBuf> {
    ["/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib"]
        .iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.exists())
}

#[test]
fn every_procedure_is_exported_under_both_names() {
    for stub in &STUBS {
        let ours = symbols(&libraries().join(stub.soname));
        for p in mpi_table::procedures().expect("the table") {
            let expected = match stub.name {
                "openmpi" => p.openmpi || p.openmpi_5,
                _ => p.mpich || p.newer,
            };
            // Fortran procedures among them have one name only.
            let fortran = p.name == p.name.to_uppercase();
            if !expected || fortran {
                continue;
            }
            for name in [p.name.clone(), format!("P{}", p.name)] {
                assert!(ours.contains_key(&name), "{}: no {name}", stub.soname);
            }
        }
    }
}

#[test]
fn what_the_real_library_has_is_there() {
    for stub in &STUBS {
        let Some(path) = real(stub.soname) else {
            eprintln!("skipped: no {} on this machine", stub.soname);
            continue;
        };
        let ours = symbols(&libraries().join(stub.soname));
        for (name, size) in symbols(&path) {
            if name.starts_with("MPI_") || name.starts_with("PMPI_") {
                assert!(ours.contains_key(&name), "{}: no {name}", stub.soname);
            }
            let data = name.starts_with("ompi_mpi_") || name.starts_with("mpi_fortran_");
            if let (true, Some(our)) = (data, ours.get(&name)) {
                assert!(
                    *our == size || *our == 0,
                    "{}: {name} has {our} bytes and not {size}",
                    stub.soname
                );
            }
        }
    }
}

#[test]
fn the_language_libraries_find_all_they_use() {
    let users = [
        ("libmpi_mpifh.so.40", 0),
        ("libmpi_usempif08.so.40", 0),
        ("libmpi_cxx.so.40", 0),
        ("libmpichfort.so.12", 1),
        ("libmpichcxx.so.12", 1),
    ];
    for (user, stub) in users {
        let stub = &STUBS[stub];
        let (Some(user), Some(library)) = (real(user), real(stub.soname)) else {
            eprintln!("skipped: no {user} on this machine");
            continue;
        };
        let theirs: BTreeSet<String> = symbols(&library).into_keys().collect();
        let ours = symbols(&libraries().join(stub.soname));
        let (ok, text) = run(
            "nm",
            &[
                OsStr::new("-D"),
                OsStr::new("--undefined-only"),
                user.as_os_str(),
            ],
            &[],
        );
        assert!(ok, "{text}");
        for name in text.lines().filter_map(|l| l.split_whitespace().last()) {
            if theirs.contains(name) {
                assert!(
                    ours.contains_key(name),
                    "{} uses {name}, which {} does not have",
                    user.display(),
                    stub.soname
                );
            }
        }
    }
}

#[test]
fn nothing_but_the_programs_libc_is_needed() {
    let allowed = [
        "clock_gettime",
        "free",
        "malloc",
        "memcmp",
        "memcpy",
        "memmove",
        "memset",
        "posix_memalign",
        "bcmp",
        "calloc",
        "write",
        // Shared windows.
        "close",
        "getpid",
        "mmap",
        "munmap",
        "open",
        "posix_fallocate",
        "unlink",
    ];
    for stub in &STUBS {
        let path = libraries().join(stub.soname);
        let (_, text) = run(
            "nm",
            &[
                OsStr::new("-D"),
                OsStr::new("--undefined-only"),
                path.as_os_str(),
            ],
            &[],
        );
        for name in text.lines().filter_map(|l| l.split_whitespace().last()) {
            let name = name.split('@').next().unwrap_or(name);
            assert!(allowed.contains(&name), "{} needs {name}", stub.soname);
        }
        let (_, text) = run("readelf", &[OsStr::new("-rW"), path.as_os_str()], &[]);
        assert!(
            !text.contains("TPOFF") && !text.contains("DTPMOD"),
            "{} has thread-local storage",
            stub.soname
        );
    }
}

#[test]
fn programs_of_three_languages_link() {
    let sources = [
        (
            "mpicc",
            "c",
            "#include <mpi.h>\nint main(int c, char **v) { MPI_Init(&c, &v); double x = 1, y; \
             MPI_Allreduce(&x, &y, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD); MPI_Finalize(); }\n",
        ),
        (
            "mpicxx",
            "cc",
            "#include <mpi.h>\nint main(int c, char **v) { MPI_Init(&c, &v); MPI_Comm d; \
             MPI_Comm_dup(MPI_COMM_WORLD, &d); MPI_Finalize(); }\n",
        ),
        (
            "mpifort",
            "f90",
            "program p\nuse mpi\ninteger e, r\ncall mpi_init(e)\n\
             call mpi_comm_rank(MPI_COMM_WORLD, r, e)\n\
             call mpi_bcast(r, 1, MPI_INTEGER, 0, MPI_COMM_WORLD, e)\ncall mpi_finalize(e)\nend\n",
        ),
        (
            "mpifort",
            "f08.f90",
            "program p\nuse mpi_f08\ninteger r\ncall mpi_init()\n\
             call mpi_comm_rank(MPI_COMM_WORLD, r)\ncall mpi_finalize()\nend\n",
        ),
    ];
    let dir = tempdir("languages");
    let lib = libraries();
    for stub in &STUBS {
        for (compiler, extension, text) in &sources {
            let compiler = format!("{compiler}.{}", stub.name);
            if !installed(&compiler) {
                eprintln!("skipped: no {compiler} on this machine");
                continue;
            }
            let source = dir.join(format!("{}.{extension}", stub.name));
            let program = dir.join(format!("{}-{extension}.out", stub.name));
            std::fs::write(&source, text).expect("source");
            let (ok, said) = run(
                &compiler,
                &[source.as_os_str(), OsStr::new("-o"), program.as_os_str()],
                &[],
            );
            assert!(ok, "{said}");
            let (_, said) = run(
                "ldd",
                &[OsStr::new("-r"), program.as_os_str()],
                &[("LD_LIBRARY_PATH", lib.to_str().expect("path"))],
            );
            assert!(!said.contains("undefined symbol"), "{compiler}: {said}");
            assert!(
                said.contains(lib.to_str().expect("path")),
                "{compiler}: not on the stub: {said}"
            );
        }
    }
}

#[test]
fn slots_get_the_standard_form_and_programs_their_own() {
    let dir = tempdir("translate");
    let mut macros = String::new();
    for (i, p) in mpi_table::slots().expect("the table").iter().enumerate() {
        macros += &format!("#define SLOT_{} {i}\n", p.name);
    }
    macros += &format!("#define SLOT_REGISTER_STUB {}\n", mpi_std::REGISTER_STUB);
    for (name, value) in mpi_std::HANDLE_CONSTANTS {
        macros += &format!("#define STD_{name} {value}\n");
    }
    for (name, value) in mpi_std::INTEGER_CONSTANTS {
        macros += &format!("#define STD_{name} {value}\n");
    }
    let header = dir.join("standard.h");
    std::fs::write(&header, macros).expect("header");
    for stub in &STUBS {
        let compiler = format!("mpicc.{}", stub.name);
        if !installed(&compiler) {
            eprintln!("skipped: no {compiler} on this machine");
            continue;
        }
        let program = dir.join(format!("translate.{}", stub.name));
        let (ok, said) = run(
            &compiler,
            &[
                OsStr::new("-w"),
                OsStr::new("-include"),
                header.as_os_str(),
                crate_dir().join("../stub/tests/translate.c").as_os_str(),
                OsStr::new("-o"),
                program.as_os_str(),
            ],
            &[],
        );
        assert!(ok, "{said}");
        let lib = libraries().to_str().expect("path");
        let (ok, said) = run(
            "timeout",
            &[OsStr::new("60"), program.as_os_str()],
            &[("LD_LIBRARY_PATH", lib)],
        );
        assert!(ok, "{}: {said}", stub.name);
    }
}

fn tempdir(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&dir).expect("directory");
    dir
}
