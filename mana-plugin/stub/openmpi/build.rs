//! Writes the exports, the data symbols and the version script.

use std::collections::HashMap;
use std::fmt::Write;
use std::{env, fs, path::Path};

use mpi_table::{abi_constants, stub_source, Abi, StubOptions};

include!("../src/by_hand.rs");

/// Procedures whose body is in this stub's `languages` module.
const LANGUAGES: &[&str] = &[
    "MPI_Comm_c2f",
    "MPI_Comm_f2c",
    "MPI_Errhandler_c2f",
    "MPI_Errhandler_f2c",
    "MPI_File_c2f",
    "MPI_File_f2c",
    "MPI_Group_c2f",
    "MPI_Group_f2c",
    "MPI_Info_c2f",
    "MPI_Info_f2c",
    "MPI_Message_c2f",
    "MPI_Message_f2c",
    "MPI_Op_c2f",
    "MPI_Op_f2c",
    "MPI_Request_c2f",
    "MPI_Request_f2c",
    "MPI_Session_c2f",
    "MPI_Session_f2c",
    "MPI_Type_c2f",
    "MPI_Type_f2c",
    "MPI_Win_c2f",
    "MPI_Win_f2c",
    "MPI_Op_create",
    "MPI_Session_init",
];

/// The upper half of the first word of every object: "MPIH".
const OBJECT_MAGIC: u64 = 0x4d50_4948;

/// Where Open MPI's structures have their attributes; the Fortran library reads that word.
fn attribute_offset(name: &str) -> Option<usize> {
    if name.starts_with("ompi_mpi_comm_") {
        Some(272)
    } else if name.starts_with("ompi_mpi_win_") {
        Some(240)
    } else {
        None
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=objects.txt");
    println!("cargo:rerun-if-changed=../src/by_hand.rs");
    let out = env::var("OUT_DIR")?;
    let out = Path::new(&out);
    let by_hand: Vec<&str> = COMMON.iter().chain(LANGUAGES).copied().collect();
    let mut source = stub_source(&StubOptions {
        abi: Abi::OpenMpi,
        by_hand: &by_hand,
        plain: FORTRAN_CALLBACKS,
    })?;

    let words: HashMap<&str, u64> = mpi_std::HANDLE_CONSTANTS.iter().copied().collect();
    let mut ids: HashMap<&str, u64> = HashMap::new();
    for c in abi_constants() {
        if let (Some(symbol), Some(word)) = (c.openmpi, words.get(c.name)) {
            ids.entry(symbol).or_insert(*word);
        }
    }
    ids.insert("ompi_mpi_c_complex", ids["ompi_mpi_c_float_complex"]);

    let objects = fs::read_to_string("objects.txt")?;
    let mut lines = vec![".data".to_owned()];
    for line in objects.lines().filter(|l| !l.starts_with('#')) {
        let Some((name, size)) = line.split_once(' ') else {
            return Err(format!("objects.txt: {line}").into());
        };
        object(&mut lines, name, size.parse()?, ids.get(name).copied());
    }
    let mut text = String::from("core::arch::global_asm!(\n");
    for line in &lines {
        let _ = writeln!(text, "    {line:?},");
    }
    text.push_str(");\n");
    source.push_str(&text);

    // Addresses of the predefined handles, by standard word.
    let mut names: Vec<_> = ids.iter().collect();
    names.sort();
    source.push_str("extern \"C\" {\n");
    for (symbol, _) in &names {
        let _ = writeln!(source, "    static {symbol}: u64;");
    }
    source.push_str("}\n");
    let mut table: Vec<Option<&str>> = vec![None; 1024];
    let mut fortran: Vec<(u64, i32)> = Vec::new();
    for c in abi_constants() {
        let (Some(symbol), Some(word)) = (c.openmpi, words.get(c.name)) else {
            continue;
        };
        if let Some(cell @ None) = table.get_mut(*word as usize) {
            *cell = Some(symbol);
        }
        if let Some(integer) = c.openmpi_fortran {
            fortran.push((*word, integer));
        }
    }
    source.push_str("/// Addresses of the predefined handles.\npub static PREDEFINED: [crate::abi::Address; 1024] = [\n");
    for symbol in &table {
        match symbol {
            Some(s) => {
                let _ = writeln!(source, "    crate::abi::Address(&raw const {s}),");
            }
            None => source.push_str("    crate::abi::Address(core::ptr::null()),\n"),
        }
    }
    source.push_str("];\n");
    fortran.sort_unstable();
    fortran.dedup();
    let _ = writeln!(
        source,
        "/// Standard words and Fortran integers of the predefined handles.\npub static FORTRAN: [(u16, u8); {}] = [",
        fortran.len()
    );
    for (word, integer) in &fortran {
        let _ = writeln!(source, "    ({word}, {integer}),");
    }
    source.push_str("];\n");
    fs::write(out.join("exports.rs"), source)?;
    Ok(())
}

fn object(lines: &mut Vec<String>, name: &str, size: usize, id: Option<u64>) {
    let mut words = vec![0u64; size / 8];
    if let Some(id) = id {
        let word = OBJECT_MAGIC << 32 | id;
        if let Some(first) = words.first_mut() {
            *first = word;
        }
        if let Some(cell) = attribute_offset(name).and_then(|at| words.get_mut(at / 8)) {
            *cell = word;
        }
    }
    let pointer = match name {
        "MPI_F_STATUS_IGNORE" => Some("mpi_fortran_status_ignore_"),
        "MPI_F_STATUSES_IGNORE" => Some("mpi_fortran_statuses_ignore_"),
        "ompi_mpi_comm_parent" => Some("ompi_mpi_comm_null"),
        "ompi_mpi_status_ignore_addr" | "ompi_mpi_statuses_ignore_addr" => None,
        _ => name.strip_suffix("_addr"),
    };
    if name == "ompi_status_empty" {
        // source and tag of the empty status
        words[0] = u64::MAX;
    }
    lines.push(format!(".globl {name}"));
    lines.push(format!(".type {name}, @object"));
    lines.push(format!(".size {name}, {size}"));
    lines.push(".balign 64".to_owned());
    lines.push(format!("{name}:"));
    if let Some(target) = pointer {
        lines.push(format!(".quad {target}"));
        return;
    }
    for word in &words {
        if *word == 0 {
            break;
        }
        lines.push(format!(".quad {word:#x}"));
    }
    let written = words.iter().take_while(|w| **w != 0).count();
    let rest = &words[written..];
    match rest.iter().position(|w| *w != 0) {
        Some(at) => {
            lines.push(format!(".zero {}", at * 8));
            lines.push(format!(".quad {:#x}", rest[at]));
            lines.push(format!(".zero {}", size - (written + at + 1) * 8));
        }
        None => lines.push(format!(".zero {}", size - written * 8)),
    }
}
