//! Which procedures an MPI has.

use std::collections::BTreeSet;

use anyhow::{bail, ensure, Context as _, Result};
use object::read::elf::ElfFile64;
use object::{Endianness, Object as _, ObjectSymbol as _, SymbolKind};

use super::table;
use crate::mpi::Mpi;

/// Of the system's two as the table says, of another one the dynamic symbols of its library.
pub fn exports(mpi: Mpi) -> Result<BTreeSet<String>> {
    let flagged = |openmpi: bool| -> Result<BTreeSet<String>> {
        let has = |p: &mpi_table::Procedure| if openmpi { p.openmpi } else { p.mpich };
        Ok(table()?
            .into_iter()
            .filter(has)
            .map(|procedure| procedure.name)
            .collect())
    };
    match mpi {
        Mpi::OpenMpi => flagged(true),
        Mpi::Mpich => flagged(false),
        Mpi::Fetched(fetched) => {
            let path = fetched.library(mpi.library());
            let bytes = std::fs::read(&path).with_context(|| format!("reading {}", path.display()));
            let symbols = symbols(&bytes?).with_context(|| format!("in {}", path.display()))?;
            ensure!(!symbols.is_empty(), "{} has no procedure", path.display());
            Ok(symbols)
        }
    }
}

/// The functions called `MPI_` and `MPIX_` that an ELF file defines, without what Open MPI has for its Fortran alone.
fn symbols(bytes: &[u8]) -> Result<BTreeSet<String>> {
    let Ok(file) = ElfFile64::<Endianness>::parse(bytes) else {
        bail!("no ELF file")
    };
    Ok(file
        .dynamic_symbols()
        .filter(|symbol| symbol.is_definition() && symbol.kind() == SymbolKind::Text)
        .filter_map(|symbol| symbol.name().ok())
        .filter(|name| {
            ["MPI_", "MPIX_"]
                .iter()
                .any(|start| name.starts_with(start))
        })
        .filter(|name| !name.ends_with("_F90"))
        .map(str::to_owned)
        .collect())
}
