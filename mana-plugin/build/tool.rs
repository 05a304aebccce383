//! Entries of the tool interface: the library's own codes come back, and its handles are looked at only
//! to keep those of a library that is gone away from it.

use super::{signature, Failure};
use mpi_table::{Direction, Kind, Procedure};
use std::fmt::Write;

/// Writes the entry of `MPI_T_x`.
pub fn entry(out: &mut String, p: &Procedure) -> Result<(), Failure> {
    writeln!(
        out,
        "{} {{\n    let _guard = crate::entry::enter();",
        signature(p)
    )?;
    let mut after = String::new();
    for q in p.params().iter().filter(|q| q.kind == Kind::Argv) {
        let n = &q.name;
        let session = n == "pe_session";
        match q.direction {
            Direction::In if n == "obj_handle" => writeln!(
                out,
                "    if !{n}.is_null() {{ return crate::tool::refuse_object({:?}); }}",
                p.name
            )?,
            Direction::In => writeln!(
                out,
                "    if !crate::tool::live({n}) {{ return crate::tool::stale({session}); }}"
            )?,
            Direction::InOut => writeln!(
                out,
                "    // SAFETY: an argument both in and out.\n    if !unsafe {{ crate::tool::take({n}) }} {{ return crate::tool::stale({session}); }}"
            )?,
            Direction::Out => writeln!(
                after,
                "    // SAFETY: an output argument.\n    if rc == MPI_SUCCESS {{ unsafe {{ crate::tool::made({n}) }} }}"
            )?,
        }
    }
    for q in p.params().iter().filter(|q| q.kind == Kind::Info) {
        let n = &q.name;
        if q.direction == Direction::In {
            writeln!(
                out,
                "    let Some(hints_{n}) = crate::tool::hints({n}) else {{ return crate::tool::stale(false) }};\n    let {n} = hints_{n}.real();"
            )?;
        } else {
            writeln!(
                after,
                "    // SAFETY: an output argument.\n    if rc == MPI_SUCCESS {{ unsafe {{ crate::tool::told({n}) }} }}"
            )?;
        }
    }
    if !(p.openmpi && p.mpich) {
        writeln!(
            after,
            "    if rc == Extras::ABSENT {{ return crate::tool::absent({:?}) }}",
            p.name
        )?;
    }
    writeln!(
        out,
        "    // SAFETY: the program's arguments.\n    let rc = unsafe {{ (core().procs().{})({}) }};\n{after}    rc\n}}\n",
        p.name,
        mpi_table::names(p)
    )?;
    Ok(())
}
