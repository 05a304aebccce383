//! Source text of a stub's exports: the program's ABI in, the standard ABI out.
//!
//! The text refers to a module `t` of the stub, which has one small inlined function for each kind of
//! value. The code of `MPI_X` is the function `mana_MPI_X`; a line of assembly gives it its two
//! public names, because an alias must be defined where its target is.

use std::collections::HashSet;
use std::fmt::Write;

use crate::abis::{abi_constants, Abi};
use crate::signatures::rust_type;
use crate::{Direction, Kind, Length, Param, ParseError, Policy, Procedure};

/// What a stub is generated for.
pub struct StubOptions<'a> {
    /// The program's ABI.
    pub abi: Abi,
    /// Procedures whose `mana_MPI_X` is written by hand in the stub.
    pub by_hand: &'a [&'a str],
    /// Further names that exist under `MPI_` only (no `PMPI_`): none of ours.
    pub plain: &'a [&'a str],
}

/// Source of all exports and of the constants' translations.
///
/// # Errors
/// Names the line of the table that is wrong.
pub fn stub_source(options: &StubOptions) -> Result<String, ParseError> {
    let procedures = crate::procedures()?;
    let slots: Vec<String> = crate::slots()?.into_iter().map(|p| p.name).collect();
    let by_hand: HashSet<&str> = options.by_hand.iter().copied().collect();
    let mut out = String::new();
    for p in &procedures {
        let exported = match options.abi {
            Abi::OpenMpi => p.openmpi || p.openmpi_5,
            Abi::Mpich | Abi::Standard => p.mpich || p.newer,
        };
        if !exported && !by_hand.contains(p.name.as_str()) || options.plain.contains(&&*p.name) {
            continue;
        }
        export(&mut out, &p.name);
        if by_hand.contains(p.name.as_str()) {
            continue;
        }
        match &p.policy {
            Policy::Unsupported(reason) => unsupported(&mut out, &p.name, reason),
            Policy::Stub => unsupported(&mut out, &p.name, "this version of the stub"),
            Policy::Alias(of) => {
                let slot = slots.iter().position(|s| s == of);
                let target = procedures.iter().find(|q| &q.name == of);
                match (slot, target) {
                    (Some(_), _) | (None, Some(_)) if by_hand.contains(of.as_str()) => {
                        alias(&mut out, &p.name, of);
                    }
                    (Some(_), _) => alias(&mut out, &p.name, of),
                    _ => unsupported(&mut out, &p.name, "no such procedure"),
                }
            }
            _ => match slots.iter().position(|s| s == &p.name) {
                Some(slot) => wrapper(&mut out, p, slot),
                None => unsupported(&mut out, &p.name, "no slot"),
            },
        }
    }
    constants(&mut out, options.abi);
    Ok(out)
}

/// The names a stub exports for a procedure of the table.
pub fn export(out: &mut String, name: &str) {
    let _ = writeln!(
        out,
        "core::arch::global_asm!(\".text\", \".globl P{name}\", \".weak {name}\", \
         \".type P{name}, @function\", \".type {name}, @function\", \".p2align 4\", \
         \"P{name}:\", \"{name}:\", \"jmp mana_{name}\", \".size P{name}, . - P{name}\", \
         \".size {name}, . - {name}\");"
    );
}

fn alias(out: &mut String, name: &str, of: &str) {
    let _ = writeln!(
        out,
        "core::arch::global_asm!(\".text\", \".globl mana_{name}\", \"mana_{name}:\", \"jmp mana_{of}\");"
    );
}

fn unsupported(out: &mut String, name: &str, reason: &str) {
    let _ = writeln!(
        out,
        "#[no_mangle]\nunsafe extern \"C\" fn mana_{name}() -> i32 {{\n    \
         static SAID: core::sync::atomic::AtomicBool = core::sync::atomic::AtomicBool::new(false);\n    \
         crate::unsupported::refuse(&SAID, {name:?}, {reason:?})\n}}"
    );
}

/// The type of a parameter in the program's ABI.
fn program_type(p: &Param) -> String {
    let constant = p.direction == Direction::In;
    let pointer = if constant { "*const" } else { "*mut" };
    if p.kind.is_handle() {
        let handle = match p.kind {
            Kind::File => "t::FileHandle",
            _ => "t::Handle",
        };
        if p.by_pointer() {
            return format!("{pointer} {handle}");
        }
        return handle.to_owned();
    }
    if p.kind == Kind::Status {
        return format!("{pointer} t::ProgramStatus");
    }
    rust_type(p)
}

fn wrapper(out: &mut String, p: &Procedure, slot: usize) {
    let declared = p
        .params()
        .iter()
        .map(|q| format!("{}: {}", q.name, program_type(q)))
        .collect::<Vec<_>>()
        .join(", ");
    let types = p
        .params()
        .iter()
        .map(rust_type)
        .collect::<Vec<_>>()
        .join(", ");
    let mut before = String::new();
    let mut args = Vec::new();
    let mut after = String::new();
    for q in p.params() {
        parameter(p, q, &mut before, &mut args, &mut after);
    }
    let (cross, result) = if p.result == Kind::Error {
        ("cross", "t::error_back(rc)")
    } else {
        ("cross_plain", "rc")
    };
    let _ = writeln!(
        out,
        "#[no_mangle]\nunsafe extern \"C\" fn mana_{}({declared}) -> {} {{\n    \
         // SAFETY: the program's promise on its arguments is that of the standard.\n    unsafe {{\n\
         {before}        let rc = mana_raw::{cross}!({slot}usize, fn({types}) -> {}; {});\n{after}        {result}\n    }}\n}}",
        p.name,
        p.result.rust_type(),
        p.result.rust_type(),
        args.join(", "),
    );
}

fn parameter(
    p: &Procedure,
    q: &Param,
    before: &mut String,
    args: &mut Vec<String>,
    after: &mut String,
) {
    let n = &q.name;
    let word = q.kind.word();
    match (q.kind, q.direction, &q.length) {
        (Kind::Buffer, Direction::In, _) => args.push(format!("t::buffer({n})")),
        (Kind::Buffer, ..) => args.push(format!("t::buffer({n}).cast_mut()")),
        (Kind::Weight, Direction::In, _) => args.push(format!("t::weights({n})")),
        (Kind::Weight, ..) => args.push(format!("t::weights({n}).cast_mut()")),
        (Kind::Function, ..) => args.push(format!("t::function({n})")),
        (Kind::Assert, ..) => args.push(format!("t::assert({n})")),
        (Kind::Amode, Direction::In, _) => args.push(format!("t::amode({n})")),
        (Kind::Amode, ..) => {
            args.push(n.clone());
            let _ = writeln!(
                after,
                "        if rc == 0 {{ *{n} = t::amode_back(*{n}); }}"
            );
        }
        (Kind::Status, Direction::In, None) => {
            let _ = writeln!(before, "        let {n}_s = t::status_in({n});");
            args.push(format!("&raw const {n}_s"));
        }
        (Kind::Status, _, None) => {
            let _ = writeln!(before, "        let mut {n}_s = t::OneStatus::new({n});");
            args.push(format!("{n}_s.pointer()"));
            let _ = writeln!(after, "        {n}_s.give({n});");
        }
        (Kind::Status, _, Some(length)) => {
            let len = count(p, length);
            let _ = writeln!(
                before,
                "        let mut {n}_s = t::Statuses::new({n}, {len});"
            );
            args.push(format!("{n}_s.pointer()"));
            let _ = writeln!(after, "        {n}_s.give({n}, rc);");
        }
        (Kind::String, Direction::Out, Some(Length::Constant(max))) => {
            let _ = writeln!(
                before,
                "        let mut {n}_s = t::Text::<{{ mpi_std::{max} as usize }}>::new();"
            );
            args.push(format!("{n}_s.pointer()"));
            let _ = writeln!(
                after,
                "        if rc == 0 {{ let _len = {n}_s.give({n}, t::{max} as usize);"
            );
            if p.params().iter().any(|r| r.name == "resultlen") {
                let _ = writeln!(after, "            *resultlen = _len;");
            }
            let _ = writeln!(after, "        }}");
        }
        (kind, Direction::In, None) if kind.is_handle() => args.push(format!("t::{word}({n})")),
        (kind, direction, None) if kind.is_handle() => {
            let value = if direction == Direction::InOut {
                format!("t::{word}(*{n})")
            } else {
                "0u64".to_owned()
            };
            let _ = writeln!(before, "        let mut {n}_w: u64 = {value};");
            args.push(format!("&raw mut {n}_w"));
            if direction == Direction::InOut {
                // A handle that stays is not written: the program may compare it.
                let _ = writeln!(before, "        let {n}_b = {n}_w;");
                let _ = writeln!(
                    after,
                    "        if {n}_w != {n}_b {{ *{n} = t::{word}_back({n}_w); }}"
                );
            } else {
                // The tool interface allows null for what is not wanted.
                let wanted = match p.name.starts_with("MPI_T_") {
                    true => format!("{n}_w != 0 && !{n}.is_null()"),
                    false => format!("{n}_w != 0"),
                };
                let _ = writeln!(
                    after,
                    "        if {wanted} {{ *{n} = t::{word}_back({n}_w); }}"
                );
            }
        }
        (kind, direction, Some(length)) if kind.is_handle() => {
            let len = count(p, length);
            let new = if direction == Direction::Out {
                "empty"
            } else {
                "new"
            };
            let _ = writeln!(
                before,
                "        let mut {n}_w = t::Words::{new}({n}, {len}, t::{word});"
            );
            args.push(format!("{n}_w.pointer()"));
            match direction {
                Direction::In => {}
                Direction::InOut => {
                    let _ = writeln!(
                        after,
                        "        {n}_w.give_changed({n}, t::{word}, t::{word}_back);"
                    );
                }
                Direction::Out => {
                    let _ = writeln!(after, "        {n}_w.give({n}, t::{word}_back);");
                }
            }
        }
        (kind, Direction::In, None) if crate::integers(kind).is_some() => {
            args.push(format!("t::{word}({n})"));
        }
        (kind, _, None) if crate::integers(kind).is_some() => {
            if q.direction == Direction::InOut {
                let _ = writeln!(before, "        let mut {n}_i = t::{word}(*{n});");
                args.push(format!("&raw mut {n}_i"));
                let _ = writeln!(
                    after,
                    "        if rc == 0 {{ *{n} = t::{word}_back({n}_i); }}"
                );
            } else {
                args.push(n.clone());
                let _ = writeln!(
                    after,
                    "        if rc == 0 {{ *{n} = t::{word}_back(*{n}); }}"
                );
            }
        }
        (kind, Direction::In, Some(length @ Length::Param(_)))
            if crate::integers(kind).is_some() =>
        {
            let len = count(p, length);
            let _ = writeln!(
                before,
                "        let mut {n}_i = t::Integers::new({n}, {len}, t::{word});"
            );
            args.push(format!("{n}_i.pointer()"));
        }
        (kind, Direction::Out, Some(length @ Length::Param(_)))
            if crate::integers(kind).is_some() =>
        {
            args.push(n.clone());
            let len = count(p, length);
            let _ = writeln!(
                after,
                "        if rc == 0 {{ t::each({n}, {len}, t::{word}_back); }}"
            );
        }
        _ => args.push(n.clone()),
    }
}

/// The number of elements, as an expression of type `usize`.
fn count(p: &Procedure, length: &Length) -> String {
    let comm = p
        .params()
        .iter()
        .find(|q| q.kind == Kind::Comm)
        .map_or("0", |q| q.name.as_str());
    match length {
        Length::Param(n)
            if p.params()
                .iter()
                .any(|q| &q.name == n && q.kind == Kind::Count) =>
        {
            format!("t::len({n} as i32)")
        }
        Length::Param(n)
            if p.params()
                .iter()
                .any(|q| &q.name == n && q.direction == Direction::InOut) =>
        {
            format!("t::len_at({n})")
        }
        Length::Param(n) => format!("t::len({n})"),
        Length::Constant(n) => format!("mpi_std::{n} as usize"),
        Length::Triples(n) => format!("t::len({n}) * 3"),
        Length::CommSize => format!("crate::queries::peers({comm})"),
        Length::Indegree => format!("crate::queries::degrees({comm}).0"),
        Length::Outdegree => format!("crate::queries::degrees({comm}).1"),
        Length::CartDims | Length::Sum => "0".to_owned(),
    }
}

/// `pub mod constants`: the ABI's numbers and their translations.
fn constants(out: &mut String, abi: Abi) {
    if abi == Abi::Standard {
        return same_constants(out);
    }
    let all = abi_constants();
    let number = |name: &str| {
        all.iter()
            .find(|c| c.name == name)
            .and_then(|c| c.number(abi))
    };
    out.push_str("/// The program ABI's constants.\npub mod constants {\n");
    for c in all.iter().filter(|c| c.name.starts_with("MPI_MAX_")) {
        if let Some(n) = c.number(abi) {
            let _ = writeln!(out, "    pub const {}: i32 = {n};", c.name);
        }
    }
    for name in PLAIN
        .iter()
        .chain(crate::ASSERTIONS)
        .chain(crate::ACCESS_MODES)
    {
        if let Some(n) = number(name) {
            let _ = writeln!(out, "    pub const {name}: i32 = {n};");
        }
    }
    for (kind, names) in crate::INTEGERS {
        let name = forth(kind);
        for back in [false, true] {
            let suffix = if back { "_back" } else { "" };
            let _ = writeln!(
                out,
                "    #[inline(always)]\n    pub fn {name}{suffix}(value: i32) -> i32 {{\n        match value {{"
            );
            let mut seen = HashSet::new();
            for constant in *names {
                let Some(n) = number(constant) else { continue };
                if !back && !seen.insert(n) {
                    continue;
                }
                let std = format!("mpi_std::{constant}");
                if back {
                    let _ = writeln!(out, "            {std} => {n},");
                } else {
                    let _ = writeln!(out, "            {n} => {std},");
                }
            }
            out.push_str("            other => other,\n        }\n    }\n");
        }
    }
    out.push_str("}\n");
}

/// Constants a stub uses by name.
const PLAIN: &[&str] = &[
    "MPI_VERSION",
    "MPI_SUBVERSION",
    "MPI_UNDEFINED",
    "MPI_WIN_FLAVOR_CREATE",
    "MPI_WIN_FLAVOR_ALLOCATE",
    "MPI_WIN_FLAVOR_DYNAMIC",
    "MPI_WIN_FLAVOR_SHARED",
    "MPI_WIN_UNIFIED",
];

/// The translation of one integer kind, forth.
fn forth(kind: &Kind) -> &'static str {
    match kind {
        Kind::Rank => "negative_rank",
        Kind::Tag => "negative_tag",
        Kind::Error => "failure",
        _ => kind.word(),
    }
}

/// `pub mod constants` of the standard's own ABI: every translation gives what it was given.
fn same_constants(out: &mut String) {
    out.push_str("/// The program ABI's constants: the standard's.\npub mod constants {\n    pub use mpi_std::*;\n");
    for (kind, _) in crate::INTEGERS {
        for suffix in ["", "_back"] {
            let _ = writeln!(
                out,
                "    #[inline(always)]\n    pub fn {}{suffix}(value: i32) -> i32 {{\n        value\n    }}",
                forth(kind)
            );
        }
    }
    out.push_str("}\n");
}
