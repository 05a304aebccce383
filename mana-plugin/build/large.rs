//! Entries of large-count procedures: the arguments are narrowed and the ordinary entry is called.
//! What an `int` cannot count is put into a datatype, where the arguments allow it.

use super::{persistent, signature, Failure};
use mpi_table::{rust_type, Direction, Kind, Param, Procedure};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Whether a count and the datatype after it describe a buffer.
fn describes_buffer(p: &Procedure, at: usize) -> bool {
    let names = [
        "count",
        "sendcount",
        "recvcount",
        "incount",
        "outcount",
        "origin_count",
        "result_count",
        "target_count",
    ];
    let q = &p.params()[at];
    let next = p.params().get(at + 1);
    names.contains(&q.name.as_str())
        && next.is_some_and(|d| d.kind == Kind::Datatype && d.length.is_none())
        // Operations of one-sided communication are predefined, and go through any datatype.
        && (q.name.contains('_') || !p.params().iter().any(|q| q.kind == Kind::Op))
}

/// Writes the entry of `MPI_X_c`.
pub fn entry(
    out: &mut String,
    p: &Procedure,
    all: &[Procedure],
    by_hand: &BTreeMap<String, String>,
) -> Result<(), Failure> {
    let name = &p.name;
    let plain = name.trim_end_matches("_c");
    let Some(base) = all.iter().find(|q| q.name == plain) else {
        return Err(format!("{name}: no {plain} in the table").into());
    };
    let path = match by_hand.get(plain) {
        Some(module) => format!("crate::{module}::{plain}"),
        None => plain.to_owned(),
    };
    let of = |q: &Param| base.params().iter().find(|b| b.name == q.name);
    let comm = p
        .params()
        .iter()
        .find(|q| q.kind == Kind::Comm && !q.by_pointer())
        .map_or("crate::errors::NO_OBJECT", |q| &q.name);
    writeln!(
        out,
        "{} {{\n    let _guard = crate::entry::enter();\n    let narrowed = (|| {{",
        signature(p)
    )?;
    if comm != "crate::errors::NO_OBJECT" && p.params().iter().any(|q| q.length.is_some()) {
        writeln!(
            out,
            "        let (index, _) = crate::collectives::comm(comm)?;"
        )?;
    }
    let mut made = Vec::new();
    let mut kept = Vec::new();
    let mut arguments = Vec::new();
    let mut before = String::new();
    let mut after = String::new();
    let mut paired = "";
    for (at, q) in p.params().iter().enumerate() {
        let n = &q.name;
        let narrower = of(q).is_some_and(|b| b.kind == Kind::Int && q.kind != Kind::Int);
        if n == paired {
            arguments.push(format!("large_{n}.datatype"));
        } else if !narrower {
            let cast = of(q).map(rust_type).filter(|t| *t != rust_type(q));
            arguments.push(cast.map_or(n.clone(), |t| format!("{n} as {t}")));
        } else if q.direction != Direction::In {
            writeln!(before, "    let mut narrow_{n} = 0i32;")?;
            writeln!(
                after,
                "    // SAFETY: an output argument.\n    if rc == MPI_SUCCESS {{ unsafe {{ *{n} = i64::from(narrow_{n}) }} }}"
            )?;
            arguments.push(format!("&mut narrow_{n}"));
        } else if q.length.is_some() {
            writeln!(
                out,
                "        // SAFETY: the program's array.\n        let narrow_{n} = unsafe {{ crate::large::integers({n}, {}, {}) }}?;",
                persistent::elements(p, q),
                persistent::significant(p, q)
            )?;
            arguments.push(format!("narrow_{n}.pointer()"));
            made.push(format!("narrow_{n}"));
            kept.push(format!("narrow_{n}"));
        } else if describes_buffer(p, at) {
            let datatype = &p.params()[at + 1].name;
            writeln!(
                out,
                "        let large_{datatype} = crate::large::pair({n}, {datatype})?;"
            )?;
            arguments.push(format!("large_{datatype}.count"));
            made.push(format!("large_{datatype}"));
            paired = datatype;
        } else {
            writeln!(out, "        let narrow_{n} = crate::large::narrow({n})?;")?;
            arguments.push(format!("narrow_{n}"));
            made.push(format!("narrow_{n}"));
        }
    }
    let made = format!(
        "({},)",
        if made.is_empty() {
            "()".into()
        } else {
            made.join(", ")
        }
    );
    writeln!(
        out,
        "        Ok({made})\n    }})();\n    let {made} = match narrowed {{\n        Ok(made) => made,\n        Err(code) => return crate::errors::raise({comm}, code, {name:?}),\n    }};"
    )?;
    writeln!(
        out,
        "{before}    // SAFETY: the program's arguments.\n    let rc = unsafe {{ {path}({}) }};\n{after}",
        arguments.join(", ")
    )?;
    let nonblocking = p
        .params()
        .iter()
        .any(|q| q.kind == Kind::Request && q.by_pointer());
    if nonblocking && !kept.is_empty() && !plain.ends_with("_init") {
        writeln!(
            out,
            "    // SAFETY: an output argument that was written.\n    if rc == MPI_SUCCESS {{ crate::large::keep(unsafe {{ *request }}, vec![{}]) }}",
            kept.join(", ")
        )?;
    }
    writeln!(out, "    rc\n}}\n")?;
    Ok(())
}
