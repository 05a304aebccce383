//! Entries of persistent collectives: a recipe is stored, and each start calls the non-blocking one.

use super::{signature, Failure};
use mpi_table::{rust_type, Kind, Length, Param, Policy, Procedure};
use std::fmt::Write;

/// The parameters that a recipe holds: the arguments of the non-blocking procedure.
fn held(p: &Procedure) -> impl Iterator<Item = &Param> {
    p.params()
        .iter()
        .filter(|q| !matches!(q.kind, Kind::Comm | Kind::Request | Kind::Info))
}

/// Number of elements of an array of one element per process, as an expression.
pub fn elements(p: &Procedure, q: &Param) -> String {
    match &q.length {
        Some(Length::Indegree) => "crate::collectives::degrees(index).0".into(),
        Some(Length::Outdegree) => "crate::collectives::degrees(index).1".into(),
        Some(Length::Param(n)) => format!("{n}.max(0) as usize"),
        _ if p.name.contains("educe_scatter") => "crate::collectives::own_size(index)".into(),
        _ => "crate::collectives::size(index)".into(),
    }
}

/// Whether the library looks at the array on this process, as an expression.
pub fn significant(p: &Procedure, q: &Param) -> String {
    let has = |name: &str| p.params().iter().any(|q| q.name == name);
    if has("root") {
        "crate::collectives::is_root(index, root)".into()
    } else if q.name.starts_with('s') && has("sendbuf") && has("comm") {
        "sendbuf as usize != MPI_IN_PLACE".into()
    } else {
        "true".into()
    }
}

/// Writes the entry of `MPI_X_init`, named with `prefix`.
pub fn entry(out: &mut String, p: &Procedure, prefix: &str) -> Result<(), Failure> {
    let name = &p.name;
    writeln!(
        out,
        "{} {{\n    let _guard = crate::entry::enter();\n    let outcome = (|| {{",
        signature(p).replacen(name.as_str(), &format!("{prefix}{name}"), 1)
    )?;
    writeln!(
        out,
        "        let (index, _) = crate::collectives::comm(comm)?;\n        let mut recipe = crate::persistent::Recipe::new({name:?});"
    )?;
    for q in held(p) {
        let n = &q.name;
        if q.length.is_none() {
            writeln!(out, "        recipe.word({n} as u64);")?;
            if matches!(q.kind, Kind::Datatype | Kind::Op) {
                writeln!(out, "        recipe.uses({n});")?;
            }
            continue;
        }
        let (n_elements, used) = (elements(p, q), significant(p, q));
        writeln!(
            out,
            "        // SAFETY: the program's array.\n        unsafe {{ recipe.array({n}, {n_elements}, {used}) }};"
        )?;
        if q.kind == Kind::Datatype {
            writeln!(out, "        recipe.uses_last();")?;
        }
    }
    writeln!(
        out,
        "        let word = crate::persistent::make(index, recipe)?;\n        // SAFETY: an output argument.\n        unsafe {{ *request = word }};\n        Ok(())\n    }})();\n    finish(outcome, comm, {name:?})\n}}\n"
    )?;
    Ok(())
}

/// Writes `start_persistent`, which starts the non-blocking collective that a recipe stands for.
pub fn starts(out: &mut String, all: &[Procedure]) -> Result<(), Failure> {
    writeln!(
        out,
        "pub unsafe fn start_persistent(recipe: &crate::persistent::Recipe, comm: u64, request: *mut u64) -> crate::state::Outcome {{\n    match recipe.procedure() {{"
    )?;
    for p in all {
        let large = p.wide() && p.is_persistent_collective();
        if p.policy != Policy::Custom("pcollective".into()) && !large {
            continue;
        }
        let plain = p
            .name
            .trim_start_matches("MPIX_")
            .trim_start_matches("MPI_")
            .replace("_init", "");
        let nonblocking = format!("MPI_I{}", plain.to_lowercase());
        let (mut words, mut arrays) = (0, 0);
        let mut arguments = Vec::new();
        for q in held(p) {
            let ty = rust_type(q);
            if q.length.is_some() {
                arguments.push(format!("recipe.pointer({arrays}) as {ty}"));
                arrays += 1;
            } else {
                arguments.push(format!("recipe.at({words}) as {ty}"));
                words += 1;
            }
        }
        arguments.push("comm".into());
        arguments.push("request".into());
        writeln!(
            out,
            "        // SAFETY: the arguments the program gave.\n        {:?} => unsafe {{ inner_{nonblocking}({}) }},",
            p.name,
            arguments.join(", ")
        )?;
    }
    writeln!(out, "        _ => Err(MPI_ERR_INTERN),\n    }}\n}}\n")?;
    Ok(())
}
