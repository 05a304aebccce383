//! Source text of the boundary's types: `ProcTable`, the function types, slot indices and names.

use std::fmt::Write;

use crate::{Direction, Kind, Param, ParseError, Procedure};

/// The Rust type of a parameter in the standard ABI's form.
pub fn rust_type(param: &Param) -> String {
    let ty = param.kind.rust_type();
    let constant = param.direction == Direction::In;
    if param.kind == Kind::Argc || param.kind == Kind::Argv || param.kind == Kind::Function {
        return format!("*mut {}", if ty == "c_int" { "i32" } else { ty });
    }
    if param.by_pointer() || param.kind.is_address() {
        let pointer = if constant { "*const" } else { "*mut" };
        return format!("{pointer} {ty}");
    }
    ty.to_owned()
}

/// The parameters as Rust source, each `name: type`.
pub fn arguments(procedure: &Procedure) -> String {
    procedure
        .params()
        .iter()
        .map(|p| format!("{}: {}", p.name, rust_type(p)))
        .collect::<Vec<_>>()
        .join(", ")
}

/// The parameters' names, separated by commas.
pub fn names(procedure: &Procedure) -> String {
    procedure
        .params()
        .iter()
        .map(|p| p.name.as_str())
        .collect::<Vec<_>>()
        .join(", ")
}

/// The type of a procedure's slot: `unsafe extern "C" fn(...) -> i32`.
pub fn signature(procedure: &Procedure) -> String {
    format!(
        "unsafe extern \"C\" fn({}) -> {}",
        arguments(procedure),
        procedure.result.rust_type()
    )
}

/// Source of the slot constants and names alone.
pub fn constants(slots: &[Procedure]) -> String {
    let mut out = String::new();
    for (i, p) in slots.iter().enumerate() {
        let _ = writeln!(
            out,
            "/// Slot of `{0}`.\npub const {0}: usize = {i};",
            p.name
        );
    }
    out
}

/// Source of `FnMPI_X` types, `ProcTable`, `mod slot`, `SLOT_NAMES` and `SLOT_COUNT`, for `mpi-std`.
///
/// # Errors
/// Names the line of the table that is wrong.
pub fn slots_source() -> Result<String, ParseError> {
    let slots = crate::slots()?;
    let mut out = String::new();
    for p in &slots {
        let _ = writeln!(
            out,
            "/// `{0}` in the standard ABI's form.\npub type Fn{0} = {1};",
            p.name,
            signature(p)
        );
    }
    out.push_str("/// All procedures that cross between the halves, in slot order.\n");
    out.push_str("#[repr(C)]\n#[derive(Clone, Copy)]\npub struct ProcTable {\n");
    for p in &slots {
        let _ = writeln!(out, "    /// `{0}`\n    pub {0}: Fn{0},", p.name);
    }
    out.push_str("}\n");
    let _ = writeln!(
        out,
        "/// Index of each procedure's slot.\npub mod slot {{\n{}}}",
        constants(&slots)
    );
    let _ = writeln!(
        out,
        "/// Number of procedure slots.\npub const SLOT_COUNT: usize = {};",
        slots.len()
    );
    let _ = writeln!(
        out,
        "/// Name of each slot's procedure.\npub static SLOT_NAMES: [&str; SLOT_COUNT] = ["
    );
    for p in &slots {
        let _ = writeln!(out, "    {:?},", p.name);
    }
    out.push_str("];\n");
    Ok(out)
}
