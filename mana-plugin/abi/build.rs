//! Writes the procedure types and slot indices from the table.

use std::{env, fs, path::Path};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    let out = env::var("OUT_DIR")?;
    fs::write(
        Path::new(&out).join("procedures.rs"),
        mpi_table::slots_source()?,
    )?;
    Ok(())
}
