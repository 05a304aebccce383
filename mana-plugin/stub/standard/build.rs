//! Writes the exports.

use std::{env, fs, path::Path};

use mpi_table::{stub_source, Abi, StubOptions};

include!("../src/by_hand.rs");

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=../src/by_hand.rs");
    let out = env::var("OUT_DIR")?;
    let by_hand: Vec<&str> = COMMON.iter().chain(NEWER).copied().collect();
    let mut source = stub_source(&StubOptions {
        abi: Abi::Standard,
        by_hand: &by_hand,
        plain: FORTRAN_CALLBACKS,
    })?;
    // What the tool interface's callers take the address of.
    source.push_str(
        "core::arch::global_asm!(\".data\", \".globl MPI_T_PVAR_ALL_HANDLES\", \
         \".type MPI_T_PVAR_ALL_HANDLES, @object\", \".size MPI_T_PVAR_ALL_HANDLES, 8\", \
         \".balign 8\", \"MPI_T_PVAR_ALL_HANDLES:\", \".zero 8\");\n",
    );
    fs::write(Path::new(&out).join("exports.rs"), source)?;
    Ok(())
}
