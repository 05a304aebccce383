//! Writes the exports, the data symbols and the handle tables.

use std::collections::HashMap;
use std::fmt::Write;
use std::{env, fs, path::Path};

use mpi_table::{abi_constants, stub_source, Abi, StubOptions};

include!("../src/by_hand.rs");

/// Procedures whose body is in this stub's `languages` module.
const LANGUAGES: &[&str] = &["MPI_Op_create"];

/// Data symbols: name, size, and the symbol whose address they hold.
const OBJECTS: &[(&str, usize, Option<&str>)] = &[
    ("MPIR_C_MPI_UNWEIGHTED", 8, None),
    ("MPIR_C_MPI_WEIGHTS_EMPTY", 8, None),
    ("MPIR_F08_MPI_BOTTOM", 4, None),
    ("MPIR_F08_MPI_IN_PLACE", 4, None),
    ("MPIR_F08_MPI_STATUSES_IGNORE_OBJ", 20, None),
    ("MPIR_F08_MPI_STATUS_IGNORE_OBJ", 20, None),
    (
        "MPI_F08_STATUSES_IGNORE",
        8,
        Some("MPIR_F08_MPI_STATUSES_IGNORE_OBJ"),
    ),
    (
        "MPI_F08_STATUS_IGNORE",
        8,
        Some("MPIR_F08_MPI_STATUS_IGNORE_OBJ"),
    ),
    ("MPI_F_STATUSES_IGNORE", 8, None),
    ("MPI_F_STATUS_IGNORE", 8, None),
    ("MPI_T_PVAR_ALL_HANDLES", 8, None),
    ("MPI_UNWEIGHTED", 8, Some("mana_unweighted")),
    ("MPI_WEIGHTS_EMPTY", 8, Some("mana_weights_empty")),
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=../src/by_hand.rs");
    let out = env::var("OUT_DIR")?;
    let out = Path::new(&out);
    let by_hand: Vec<&str> = COMMON
        .iter()
        .chain(NEWER)
        .chain(LANGUAGES)
        .copied()
        .collect();
    let mut source = stub_source(&StubOptions {
        abi: Abi::Mpich,
        by_hand: &by_hand,
        plain: FORTRAN_CALLBACKS,
    })?;
    source.push_str(
        "core::arch::global_asm!(\n    \".data\", \"mana_unweighted: .long 0\", \"mana_weights_empty: .long 0\",\n",
    );
    for (name, size, target) in OBJECTS {
        let content = match target {
            Some(symbol) => format!(".quad {symbol}"),
            None => format!(".zero {size}"),
        };
        let _ = writeln!(
            source,
            "    \".globl {name}\", \".type {name}, @object\", \".size {name}, {size}\", \
             \".balign 32\", \"{name}:\", {content:?},"
        );
    }
    source.push_str(");\n");

    // The handles by standard word, and the words of datatypes and operations by a byte that is
    // different for each.
    let words: HashMap<&str, u64> = mpi_std::HANDLE_CONSTANTS.iter().copied().collect();
    let mut handles = vec![0u32; 1024];
    let mut datatypes = vec![0u16; 256];
    let mut pairs = vec![0u16; 16];
    let mut operations = vec![0u16; 256];
    for c in abi_constants() {
        let (Some(value), Some(word)) = (c.number(Abi::Mpich), words.get(c.name)) else {
            continue;
        };
        let (value, word) = (value as u32, *word as u16);
        if let Some(cell @ 0) = handles.get_mut(usize::from(word)) {
            *cell = value;
        }
        let low = (value & 0xff) as usize;
        let table = match value >> 24 {
            0x4c => &mut datatypes,
            0x8c => &mut pairs,
            0x58 => &mut operations,
            _ => continue,
        };
        match table.get_mut(low) {
            Some(cell) if *cell == 0 || *cell == word => *cell = word,
            _ => return Err(format!("{} shares its low byte with another", c.name).into()),
        }
    }
    let _ = writeln!(
        source,
        "/// Handles by standard word.\npub const HANDLES_TABLE: [u32; 1024] = {handles:?};\n/// The same in memory.\npub static HANDLES: [u32; 1024] = HANDLES_TABLE;\n\
         /// Standard words of datatypes by their low byte.\npub static DATATYPES: [u16; 256] = {datatypes:?};\n\
         /// Standard words of pair types by their low byte.\npub static PAIRS: [u16; 16] = {pairs:?};\n\
         /// Standard words of operations by their low byte.\npub static OPERATIONS: [u16; 256] = {operations:?};"
    );
    fs::write(out.join("exports.rs"), source)?;
    Ok(())
}
