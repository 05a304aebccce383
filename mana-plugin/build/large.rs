//! Entries of large-count procedures: the arguments are narrowed and the ordinary entry is called.
//! What an `int` cannot count is put into a datatype, or (arrays of counts) goes to the library's own procedure;
//! `src/large.rs`, `large_reductions.rs` and `large_arrays.rs` say how.

use super::{persistent, signature, Failure};
use mpi_table::{rust_type, Direction, Kind, Param, Procedure};
use std::collections::BTreeMap;
use std::fmt::Write;

/// How arguments of a large-count procedure become those of the ordinary one.
enum Narrowed<'a> {
    /// A count and the datatype after it.
    Buffer(&'a Param, &'a Param),
    /// A count, or an array of them, with the datatype and the operation after it.
    Reduction(&'a Param, &'a Param, &'a Param),
    /// Counts and displacements, and one datatype.
    Blocks(&'a Param, &'a Param, &'a Param),
    /// Counts, displacements and datatypes.
    Places(&'a Param, &'a Param, &'a Param),
    /// One argument.
    Single(&'a Param),
}

/// Whether a count and the datatype after it describe a buffer.
fn describes_buffer(name: &str) -> bool {
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
    names.contains(&name)
}

/// The parameters in groups that are narrowed together.
fn groups(p: &Procedure) -> Vec<Narrowed<'_>> {
    let mut rest = p.params();
    let mut out = Vec::new();
    let counts = |q: &Param| q.kind == Kind::Count && q.direction == Direction::In;
    let datatype = |q: &Param| q.kind == Kind::Datatype;
    let collective = |q: &Param| q.length.is_some();
    while let Some(q) = rest.first() {
        let (group, n) = match rest {
            // Operations of one-sided communication are predefined, and go through any datatype.
            [a, b, c, ..]
                if counts(a)
                    && datatype(b)
                    && c.kind == Kind::Op
                    && !a.name.starts_with("target") =>
            {
                (Narrowed::Reduction(a, b, c), 3)
            }
            [a, b, c, ..] if counts(a) && collective(a) && datatype(c) => match c.length {
                None => (Narrowed::Blocks(a, b, c), 3),
                Some(_) => (Narrowed::Places(a, b, c), 3),
            },
            [a, b, ..]
                if counts(a) && !collective(a) && datatype(b) && describes_buffer(&a.name) =>
            {
                (Narrowed::Buffer(a, b), 2)
            }
            _ => (Narrowed::Single(q), 1),
        };
        out.push(group);
        rest = &rest[n..];
    }
    out
}

/// What is written for an entry.
#[derive(Default)]
struct Parts {
    /// Lines that narrow, which may fail.
    narrow: String,
    /// Names that these bind.
    made: Vec<String>,
    /// Those of which the library may look at arrays until a request completes.
    kept: Vec<String>,
    arguments: Vec<String>,
    before: String,
    after: String,
    /// When the ordinary procedure will not do, as an expression.
    beyond: Vec<String>,
}

fn parts(p: &Procedure, base: &Procedure) -> Result<Parts, Failure> {
    let mut to = Parts::default();
    let of = |q: &Param| base.params().iter().find(|b| b.name == q.name);
    let array = |q: &Param| (persistent::elements(p, q), persistent::significant(p, q));
    const SAFETY: &str = "        // SAFETY: the program's arrays.\n";
    for group in groups(p) {
        match group {
            Narrowed::Buffer(count, datatype) => {
                let (n, d) = (&count.name, &datatype.name);
                writeln!(
                    to.narrow,
                    "        let large_{d} = crate::large::pair({n}, {d})?;"
                )?;
                to.arguments
                    .extend([format!("large_{d}.count"), format!("large_{d}.datatype")]);
                to.made.push(format!("large_{d}"));
            }
            Narrowed::Reduction(count, datatype, op) => {
                let (n, d, op) = (&count.name, &datatype.name, &op.name);
                let made = format!("large_{d}");
                if count.length.is_none() {
                    let processes = match n.as_str() {
                        "recvcount" => {
                            "crate::collectives::own_size(crate::collectives::comm(comm)?.0)"
                        }
                        _ => "1",
                    };
                    writeln!(
                        to.narrow,
                        "        let {made} = crate::large_reductions::reduction({n}, {processes}, {d}, {op})?;"
                    )?;
                    to.arguments.push(format!("{made}.count"));
                } else {
                    let (elements, _) = array(count);
                    writeln!(to.narrow, "{SAFETY}        let mut {made} = unsafe {{ crate::large_reductions::scattered({n}, {elements}, {d}, {op}) }}?;")?;
                    to.arguments.push(format!("{made}.counts()"));
                    to.beyond.push(format!(
                        "!unsafe {{ crate::large_reductions::divisible({n}, {elements}) }}"
                    ));
                    to.kept.push(made.clone());
                }
                to.arguments
                    .extend([format!("{made}.datatype()"), format!("{made}.op()")]);
                to.made.push(made);
            }
            Narrowed::Blocks(counts, places, datatype) => {
                let (n, at, d) = (&counts.name, &places.name, &datatype.name);
                let ((elements, used), made) = (array(counts), format!("large_{d}"));
                writeln!(to.narrow, "{SAFETY}        let mut {made} = unsafe {{ crate::large_arrays::blocks({n}, {at}, {elements}, {used}, {d}) }}?;")?;
                for q in [n, at] {
                    to.beyond.push(format!(
                        "!unsafe {{ crate::large_arrays::fit({q}, {elements}, {used}) }}"
                    ));
                }
                to.arguments.extend(
                    ["counts", "places", "datatype"].map(|field| format!("{made}.{field}()")),
                );
                to.made.push(made.clone());
                to.kept.push(made);
            }
            Narrowed::Places(counts, places, types) => {
                let (n, at, d) = (&counts.name, &places.name, &types.name);
                let ((elements, used), made) = (array(counts), format!("large_{d}"));
                let narrow = of(places).is_some_and(|b| b.kind == Kind::Int);
                let looked_at = if narrow { at } else { "std::ptr::null()" };
                writeln!(to.narrow, "{SAFETY}        let mut {made} = unsafe {{ crate::large_arrays::places({n}, {looked_at}, {d}, {elements}, {used}) }}?;")?;
                to.arguments.push(format!("{made}.counts()"));
                to.arguments.push(match narrow {
                    true => format!("{made}.places()"),
                    false => at.clone(),
                });
                to.arguments.push(format!("{made}.types()"));
                to.made.push(made.clone());
                to.kept.push(made);
            }
            Narrowed::Single(q) => single(&mut to, q, of(q))?,
        }
    }
    Ok(to)
}

/// An argument by itself.
fn single(to: &mut Parts, q: &Param, base: Option<&Param>) -> Result<(), Failure> {
    let n = &q.name;
    if !base.is_some_and(|b| b.kind == Kind::Int && q.kind != Kind::Int) {
        let cast = base.map(rust_type).filter(|t| *t != rust_type(q));
        to.arguments
            .push(cast.map_or(n.clone(), |t| format!("{n} as {t}")));
    } else if q.direction != Direction::In {
        writeln!(to.before, "    let mut narrow_{n} = 0i32;")?;
        writeln!(
            to.after,
            "    // SAFETY: an output argument.\n    if rc == MPI_SUCCESS {{ unsafe {{ *{n} = i64::from(narrow_{n}) }} }}"
        )?;
        to.arguments.push(format!("&mut narrow_{n}"));
    } else if q.length.is_some() {
        return Err(format!("an array {n} without a datatype").into());
    } else {
        writeln!(
            to.narrow,
            "        let narrow_{n} = crate::large::narrow({n})?;"
        )?;
        to.arguments.push(format!("narrow_{n}"));
        to.made.push(format!("narrow_{n}"));
    }
    Ok(())
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
    let has = |kind: Kind| {
        p.params()
            .iter()
            .find(|q| q.kind == kind && !q.by_pointer())
    };
    let comm = has(Kind::Comm).map_or("crate::errors::NO_OBJECT", |q| &q.name);
    let nonblocking = p
        .params()
        .iter()
        .any(|q| q.kind == Kind::Request && q.by_pointer());
    let to = parts(p, base)?;
    let index = if to.kept.is_empty() {
        ""
    } else {
        "        let (index, _) = crate::collectives::comm(comm)?;\n"
    };
    if nonblocking && p.wide() && !p.is_persistent_collective() {
        return inner(out, p, &to, index);
    }
    writeln!(
        out,
        "{} {{\n    let _guard = crate::entry::enter();",
        signature(p)
    )?;
    if p.wide() {
        wide(out, p, &to)?;
        writeln!(
            out,
            "    let beyond = crate::collectives::comm(comm).is_ok_and(|(index, _)| beyond(index));\n    // SAFETY: the program's arguments.\n    if beyond {{ return unsafe {{ wide_{name}({}) }} }}",
            mpi_table::names(p)
        )?;
    }
    let made = format!(
        "({},)",
        if to.made.is_empty() {
            "()".into()
        } else {
            to.made.join(", ")
        }
    );
    writeln!(
        out,
        "    let narrowed = (|| {{\n{index}{}        Ok({made})\n    }})();\n    let {} = match narrowed {{\n        Ok(made) => made,\n        Err(code) => return crate::errors::raise({comm}, code, {name:?}),\n    }};",
        to.narrow,
        made.replace("large_", "mut large_")
    )?;
    writeln!(
        out,
        "{}    // SAFETY: the program's arguments.\n    let rc = unsafe {{ {path}({}) }};\n{}",
        to.before,
        to.arguments.join(", "),
        to.after
    )?;
    if nonblocking && !p.is_persistent_collective() {
        for kept in &to.kept {
            writeln!(
                out,
                "    // SAFETY: an output argument that was written.\n    if rc == MPI_SUCCESS {{ crate::large::keep(unsafe {{ *request }}, {kept}.arrays()) }}"
            )?;
        }
    }
    writeln!(out, "    rc\n}}\n")?;
    Ok(())
}

/// Writes when the library's own procedure is called.
fn wide(out: &mut String, p: &Procedure, to: &Parts) -> Result<(), Failure> {
    // A persistent one decides at each start.
    let any = to.beyond.join(" || ");
    let beyond = match p.is_persistent_collective() {
        true => any,
        false => format!("({any}) && crate::large_arrays::has(c{:?})", p.name),
    };
    writeln!(
        out,
        "    // SAFETY: the program's arrays.\n    let beyond = |index: u32| {beyond};"
    )?;
    Ok(())
}

/// Writes a non-blocking entry whose inner form a persistent request starts, too.
fn inner(out: &mut String, p: &Procedure, to: &Parts, index: &str) -> Result<(), Failure> {
    let (name, plain) = (&p.name, p.name.trim_end_matches("_c"));
    writeln!(
        out,
        "{} {{\n    let _guard = crate::entry::enter();\n    // SAFETY: the program's arguments.\n    finish(unsafe {{ inner_{name}({}) }}, comm, {name:?})\n}}\n",
        signature(p),
        mpi_table::names(p)
    )?;
    writeln!(
        out,
        "unsafe fn inner_{name}({}) -> crate::state::Outcome {{\n{index}",
        mpi_table::arguments(p)
    )?;
    wide(out, p, to)?;
    writeln!(
        out,
        "    // SAFETY: the program's arguments.\n    if beyond(index) {{ return unsafe {{ wide_{name}({}) }} }}",
        mpi_table::names(p)
    )?;
    writeln!(
        out,
        "{}    // SAFETY: the program's arguments, narrowed.\n    unsafe {{ inner_{plain}({}) }}?;",
        to.narrow,
        to.arguments.join(", ")
    )?;
    for kept in &to.kept {
        writeln!(
            out,
            "    // SAFETY: an output argument that was written.\n    crate::large::keep(unsafe {{ *request }}, {kept}.arrays());"
        )?;
    }
    writeln!(out, "    Ok(())\n}}\n")?;
    Ok(())
}
