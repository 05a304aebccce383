//! Writes the entries from the table, and lets the site's MPI compiler say what its constants are.
//!
//! The bindings (rsmpi's) do not see predefined handles, which are casts inside macros, nor all
//! integers, which are macros in one library and enumerators in another. A C file that names each of
//! them in an initialiser has no such trouble.

use std::fmt::Write;
use std::{env, fs, path::Path};

/// What no library takes for a kind of split.
const NO_SPLIT: &str = "-1";

/// A kind of split as the library has it: an expression, and the condition under which that is its name. Open MPI has
/// enumerators, which no `#ifdef` sees.
fn split_type(name: &str) -> (String, &'static str) {
    let own = name.to_owned();
    match name {
        "MPI_COMM_TYPE_SHARED" => (own, "1"),
        // Before MPICH had the first, the other had its number.
        "MPI_COMM_TYPE_RESOURCE_GUIDED" => ("4".into(), "!defined(OPEN_MPI)"),
        "MPIX_COMM_TYPE_NEIGHBORHOOD" => (own, "defined(MPIX_COMM_TYPE_NEIGHBORHOOD)"),
        "MPI_COMM_TYPE_HW_GUIDED" => (
            own,
            "defined(MPI_COMM_TYPE_HW_GUIDED) || defined(OPEN_MPI) && OMPI_MAJOR_VERSION >= 5",
        ),
        "MPI_COMM_TYPE_HW_UNGUIDED" => (
            own,
            "defined(MPI_COMM_TYPE_HW_UNGUIDED) || defined(OPEN_MPI) && OMPI_MAJOR_VERSION >= 5",
        ),
        _ => (own, "defined(OPEN_MPI)"),
    }
}

/// Constants that a library of MPI 3.1 must have but may have as enumerators, so `#ifdef` is no test.
fn always(name: &str) -> bool {
    let newer = [
        "MPI_ERR_SESSION",
        "MPI_ERR_PROC_ABORTED",
        "MPI_ERR_VALUE_TOO_LARGE",
        "MPI_ERR_ERRHANDLER",
    ];
    !newer.contains(&name) && !name.starts_with("MPI_ERR_RMA_")
        || name.ends_with("CONFLICT")
        || name.ends_with("SYNC")
}

/// Compiled with the library's compiler, too.
const NO_OBJECT: &str = "src/no_object.c";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=MPICC");
    println!("cargo:rustc-check-cfg=cfg(mpich_status)");
    let out = env::var("OUT_DIR")?;
    let out = Path::new(&out);
    fs::write(out.join("entries.rs"), mpi_table::adapter_source()?)?;

    let mut c = String::from("#include <mpi.h>\n#include <stdint.h>\n");
    c.push_str("const uintptr_t mana_handles[1024] = {\n");
    let mut seen = std::collections::HashSet::new();
    for (name, value) in mpi_std::HANDLE_CONSTANTS {
        if seen.insert(value) {
            // Open MPI's header turns the removed types into errors; no program built with it has them.
            let also = if matches!(*name, "MPI_LB" | "MPI_UB") {
                " && !defined(OPEN_MPI)"
            } else {
                ""
            };
            let _ = writeln!(
                c,
                "#if defined({name}){also}
  [{value}] = (uintptr_t)({name}),
#endif"
            );
        }
    }
    c.push_str("};\n");
    let mut rust = String::new();
    for (kind, names) in mpi_table::INTEGERS {
        let word = kind.word();
        let _ = writeln!(c, "const int mana_{word}[][2] = {{");
        for name in *names {
            let value = mpi_std::INTEGER_CONSTANTS
                .iter()
                .find(|(n, _)| n == name)
                .map(|(_, v)| *v)
                .ok_or_else(|| format!("{name} is no constant of the standard ABI"))?;
            if *kind == mpi_table::Kind::SplitType {
                let (here, condition) = split_type(name);
                let _ = writeln!(
                    c,
                    "#if {condition}\n  {{{value}, {here}}},\n#else\n  {{{value}, {NO_SPLIT}}},\n#endif"
                );
            } else if always(name) {
                let _ = writeln!(c, "  {{{value}, {name}}},");
            } else {
                let _ = writeln!(
                    c,
                    "#ifdef {name}\n  {{{value}, {name}}},\n#else\n  {{{value}, MPI_ERR_OTHER}},\n#endif"
                );
            }
        }
        c.push_str("};\n");
        let _ = writeln!(
            rust,
            "pub(crate) static mana_{word}: [[i32; 2]; {}];",
            names.len()
        );
    }
    for (word, names) in [
        ("assertions", mpi_table::ASSERTIONS),
        ("access_modes", mpi_table::ACCESS_MODES),
    ] {
        let _ = writeln!(c, "const int mana_{word}[][2] = {{");
        for name in names {
            let value = mpi_std::INTEGER_CONSTANTS
                .iter()
                .find(|(n, _)| n == name)
                .map(|(_, v)| *v)
                .ok_or_else(|| format!("{name} is no constant of the standard ABI"))?;
            let _ = writeln!(c, "  {{{value}, {name}}},");
        }
        c.push_str("};\n");
        let _ = writeln!(
            rust,
            "pub(crate) static mana_{word}: [[i32; 2]; {}];",
            names.len()
        );
    }
    c.push_str(
        "const int mana_tool_errors[2] = {MPI_T_ERR_INVALID_HANDLE, MPI_T_ERR_INVALID_SESSION};\n",
    );
    c.push_str("void *const mana_in_place = (void *)MPI_IN_PLACE;\n");
    c.push_str("void *const mana_bottom = (void *)MPI_BOTTOM;\n");
    c.push_str("void *mana_unweighted(void) { return (void *)MPI_UNWEIGHTED; }\n");
    c.push_str("void *mana_weights_empty(void) { return (void *)MPI_WEIGHTS_EMPTY; }\n");
    c.push_str("MPI_Status *const mana_status_ignore = MPI_STATUS_IGNORE;\n");
    c.push_str("MPI_Status *const mana_statuses_ignore = MPI_STATUSES_IGNORE;\n");
    c.push_str("#ifdef OPEN_MPI\nMANA_FAMILY_OPENMPI\n#endif\n");
    println!("cargo:rerun-if-changed={NO_OBJECT}");
    let source = out.join("constants.c");
    fs::write(
        out.join("constants.rs"),
        format!("extern \"C\" {{\n    pub(crate) static mana_handles: [usize; 1024];\n{rust}}}\n"),
    )?;
    fs::write(&source, &c)?;
    let mpicc = env::var("MPICC").unwrap_or_else(|_| "mpicc".to_owned());
    let expanded = cc::Build::new()
        .compiler(&mpicc)
        .file(&source)
        .try_expand()?;
    let openmpi = String::from_utf8_lossy(&expanded).contains("MANA_FAMILY_OPENMPI");
    if !openmpi {
        println!("cargo:rustc-cfg=mpich_status");
    }
    fs::write(&source, c.replace("MANA_FAMILY_OPENMPI", ""))?;
    cc::Build::new()
        .compiler(&mpicc)
        .file(&source)
        .file(NO_OBJECT)
        .try_compile("mana_constants")?;
    Ok(())
}
