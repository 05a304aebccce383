//! Source text of an adapter's entries: standard ABI in, the library's ABI out.
//!
//! The text refers to a module `t` of the adapter, which has one small inlined function for each
//! kind of value, and to `ffi`, the library's bindings.

use std::fmt::Write;

use crate::{
    arguments, signatures::names, Direction, Kind, Length, Param, ParseError, Policy, Procedure,
};

/// Procedures written by hand in the adapter.
const BY_HAND: &[&str] = &[
    "MPI_Init",
    "MPI_Init_thread",
    "MPI_Comm_get_attr",
    "MPI_Comm_idup",
    "MPI_Error_class",
    "MPI_Error_string",
    "MPI_Status_set_elements",
    "MPI_Status_set_elements_x",
];

/// Whether the core does this by itself and never asks the library.
fn core_only(p: &Procedure) -> bool {
    let Policy::Custom(area) = &p.policy else {
        return matches!(p.policy, Policy::Unsupported(_));
    };
    p.params().iter().any(|q| q.kind == Kind::Function)
        || matches!(
            area.as_str(),
            "attribute" | "errhandler" | "errors" | "grequest"
        )
        || !(p.openmpi && p.mpich)
}

/// Whether the library is asked for it by name, because not every one has it.
fn optional(p: &Procedure) -> bool {
    matches!(&p.policy, Policy::Custom(area) if area == "tool" || area == "failures")
        && !(p.openmpi && p.mpich)
        || p.wide() && !p.is_persistent_collective()
}

/// The type of a parameter in the library's form.
fn library_type(p: &Param) -> String {
    let handle = match p.kind {
        Kind::Comm => "MPI_Comm",
        Kind::Group => "MPI_Group",
        Kind::Datatype => "MPI_Datatype",
        Kind::Info => "MPI_Info",
        Kind::Op => "MPI_Op",
        Kind::Request => "MPI_Request",
        _ => return crate::rust_type(p),
    };
    if p.by_pointer() {
        format!("*mut ffi::{handle}")
    } else {
        format!("ffi::{handle}")
    }
}

/// Source of all entries and of `PROCS: ProcTable`.
///
/// # Errors
/// Names the line of the table that is wrong.
pub fn adapter_source() -> Result<String, ParseError> {
    let mut out = String::new();
    let mut table = String::new();
    for p in &crate::slots()? {
        if BY_HAND.contains(&p.name.as_str()) {
            let _ = writeln!(table, "    {0}: crate::by_hand::{0},", p.name);
        } else {
            let _ = writeln!(table, "    {0}: entry_{0},", p.name);
            entry(&mut out, p);
        }
    }
    let _ = writeln!(
        out,
        "/// The procedures.\npub const PROCS: mpi_std::ProcTable = mpi_std::ProcTable {{\n{table}}};"
    );
    Ok(out)
}

/// Whether it starts something that a request completes.
fn starts(p: &Procedure) -> bool {
    let request = |q: &Param| q.kind == Kind::Request && q.direction == Direction::Out;
    p.params().iter().any(request)
}

fn entry(out: &mut String, p: &Procedure) {
    let _ = writeln!(
        out,
        "unsafe extern \"C\" fn entry_{}({}) -> {} {{",
        p.name,
        arguments(p),
        p.result.rust_type()
    );
    if core_only(p) && !optional(p) {
        if !p.params().is_empty() {
            let _ = writeln!(out, "    let _ = ({},);", names(p));
        }
        let _ = writeln!(out, "    mpi_std::MPI_ERR_UNSUPPORTED_OPERATION\n}}");
        return;
    }
    let mut before = String::new();
    let mut callee = format!("ffi::{}", p.name);
    if optional(p) {
        let types: Vec<String> = p.params().iter().map(library_type).collect();
        let _ = writeln!(
            before,
            "    static FOUND: crate::optional::Found = crate::optional::Found::new();\n    \
             let address = FOUND.of(c{:?});\n    \
             if address == 0 {{ return mpi_std::Extras::ABSENT; }}\n    \
             let call: unsafe extern \"C\" fn({}) -> i32 = core::mem::transmute(address);",
            p.name,
            types.join(", ")
        );
        callee = "call".to_owned();
    }
    let mut call = Vec::new();
    let mut after = String::new();
    for q in p.params() {
        let n = &q.name;
        let out_dir = q.direction != Direction::In;
        match (q.kind, q.direction, &q.length) {
            (Kind::Buffer, ..) => call.push(format!("t::buffer({n})")),
            (Kind::Argc | Kind::Argv | Kind::Function, ..) => call.push(format!("{n}.cast()")),
            (Kind::Pointer | Kind::Attribute | Kind::Baseptr | Kind::String, ..) => {
                call.push(format!("t::address({n})"));
            }
            (Kind::Weight, _, _) => call.push(format!("t::weights({n})")),
            (Kind::Assert, ..) => call.push(format!("t::assert({n})")),
            (Kind::Amode, Direction::In, _) => call.push(format!("t::amode({n})")),
            (Kind::Amode, ..) => {
                call.push(format!("{n}.cast()"));
                let _ = writeln!(after, "    if rc == 0 {{ *{n} = t::amode_back(*{n}); }}");
            }
            (Kind::Status, Direction::In, None) => {
                let _ = writeln!(before, "    let {n}_l = t::status_in({n});");
                call.push(format!("&raw const {n}_l"));
            }
            (Kind::Status, _, None) => {
                let form = match p.params().iter().any(|q| q.kind == Kind::File) {
                    true => "FileStatus",
                    false => "OneStatus",
                };
                let _ = writeln!(before, "    let mut {n}_l = t::{form}::new({n});");
                call.push(format!("{n}_l.pointer()"));
                let _ = writeln!(after, "    {n}_l.give({n});");
            }
            (Kind::Status, _, Some(length)) => {
                let len = count(p, length);
                let _ = writeln!(before, "    let mut {n}_l = t::Statuses::new({n}, {len});");
                call.push(format!("{n}_l.pointer()"));
                let _ = writeln!(after, "    {n}_l.give({n}, rc);");
            }
            (kind, Direction::In, None) if kind.is_handle() => call.push(format!("t::handle({n})")),
            (kind, direction, None) if kind.is_handle() => {
                let value = if direction == Direction::InOut {
                    format!("t::handle(*{n})")
                } else {
                    format!("t::handle({})", null(kind))
                };
                let _ = writeln!(before, "    let mut {n}_l = {value};");
                call.push(format!("&raw mut {n}_l"));
                let word = format!("t::{}_word({n}_l)", kind.word());
                if direction == Direction::InOut {
                    let _ = writeln!(after, "    *{n} = {word};");
                } else {
                    let _ = writeln!(after, "    if rc == 0 {{ *{n} = {word}; }}");
                    if kind == Kind::Comm && p.name != "MPI_Comm_idup" {
                        let _ = writeln!(after, "    if rc == 0 {{ t::returns_errors({n}_l); }}");
                    }
                    if kind == Kind::Win {
                        let _ = writeln!(
                            after,
                            "    if rc == 0 {{ t::window_returns_errors({n}_l); }}"
                        );
                    }
                }
            }
            (kind, Direction::In, Some(length)) if kind.is_handle() && starts(p) => {
                call.push(format!("t::in_place({n}, {})", count(p, length)));
            }
            (kind, _, Some(length)) if kind.is_handle() => {
                let len = count(p, length);
                let new = if q.direction == Direction::Out {
                    "empty"
                } else {
                    "new"
                };
                let _ = writeln!(before, "    let mut {n}_l = t::Handles::{new}({n}, {len});");
                call.push(match optional(p) {
                    true => format!(
                        "if {n}.is_null() {{ core::ptr::null_mut() }} else {{ {n}_l.pointer() }}"
                    ),
                    false => format!("{n}_l.pointer()"),
                });
                if out_dir {
                    let _ = writeln!(after, "    {n}_l.give({n}, t::{}_word);", kind.word());
                }
            }
            (kind, Direction::In, None) if crate::integers(kind).is_some() => {
                call.push(format!("t::{}({n})", kind.word()));
            }
            (kind, _, None) if crate::integers(kind).is_some() => {
                call.push(format!("{n}.cast()"));
                let _ = writeln!(
                    after,
                    "    if rc == 0 {{ *{n} = t::{}_back(*{n}); }}",
                    kind.word()
                );
            }
            (kind, Direction::In, Some(Length::Param(_) | Length::Constant(_)))
                if crate::integers(kind).is_some() =>
            {
                let len = count(p, q.length.as_ref().unwrap_or(&Length::Sum));
                let _ = writeln!(
                    before,
                    "    let mut {n}_l = t::Integers::new({n}, {len}, t::{});",
                    kind.word()
                );
                call.push(format!("{n}_l.pointer()"));
            }
            (kind, Direction::Out, Some(length @ Length::Param(_)))
                if crate::integers(kind).is_some() =>
            {
                call.push(format!("{n}.cast()"));
                let len = count(p, length);
                let back = match kind {
                    Kind::Error => "error".to_owned(),
                    _ => format!("{}_back", kind.word()),
                };
                let _ = writeln!(
                    after,
                    "    if rc == 0 {{ t::each({n}, {len}, t::{back}); }}"
                );
            }
            (_, Direction::In, None) => call.push(format!("{n} as _")),
            _ => call.push(format!("t::address({n}).cast()")),
        }
    }
    let result = if p.result == Kind::Error {
        "t::error(rc)"
    } else {
        "rc"
    };
    let _ = writeln!(
        out,
        "    // SAFETY: the core's promise on the arguments is that of the standard.\n    unsafe {{\n{before}    let rc = {callee}({});\n{after}    {result}\n    }}\n}}",
        call.join(", ")
    );
}

fn null(kind: Kind) -> &'static str {
    match kind {
        Kind::Comm => "mpi_std::MPI_COMM_NULL",
        Kind::Group => "mpi_std::MPI_GROUP_NULL",
        Kind::Datatype => "mpi_std::MPI_DATATYPE_NULL",
        Kind::File => "mpi_std::MPI_FILE_NULL",
        Kind::Errhandler => "mpi_std::MPI_ERRHANDLER_NULL",
        Kind::Op => "mpi_std::MPI_OP_NULL",
        Kind::Info => "mpi_std::MPI_INFO_NULL",
        Kind::Win => "mpi_std::MPI_WIN_NULL",
        Kind::Message => "mpi_std::MPI_MESSAGE_NULL",
        Kind::Session => "mpi_std::MPI_SESSION_NULL",
        _ => "mpi_std::MPI_REQUEST_NULL",
    }
}

/// The number of elements, as an expression of type `usize`.
fn count(p: &Procedure, length: &Length) -> String {
    let comm = p
        .params()
        .iter()
        .find(|q| q.kind == Kind::Comm)
        .map_or("0", |q| q.name.as_str());
    let written = |n: &String| {
        let length = p.params().iter().find(|q| &q.name == n);
        length.is_some_and(|q| q.direction == Direction::InOut)
    };
    match length {
        Length::Param(n) if written(n) => format!("t::len_at({n})"),
        Length::Param(n) => format!("t::len({n})"),
        Length::Constant(n) => format!("mpi_std::{n} as usize"),
        Length::Triples(n) => format!("t::len({n}) * 3"),
        Length::CommSize => format!("t::peers({comm})"),
        Length::Indegree => format!("t::degrees({comm}).0"),
        Length::Outdegree => format!("t::degrees({comm}).1"),
        Length::CartDims | Length::Sum => "0".to_owned(),
    }
}
