//! Writes the core's procedure table: an entry that is written by hand somewhere in `src` is used as
//! it is; what is only forwarded, and the collectives, are generated; everything else answers with an
//! error that names the procedure.

#[path = "build/files.rs"]
mod files;
#[path = "build/large.rs"]
mod large;
#[path = "build/persistent.rs"]
mod persistent;
#[path = "build/tool.rs"]
mod tool;

use mpi_table::{rust_type, Kind, Length, Param, Policy, Procedure};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// Begins the names of what calls the library's own large-count procedures.
const WIDE: &str = "wide_";

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src");
    println!("cargo:rerun-if-changed=build");
    let mut by_hand = by_hand_in(Path::new("src"), "")?;
    by_hand.extend(by_hand_in(Path::new("src/windows"), "windows::")?);
    by_hand.extend(by_hand_in(Path::new("src/files"), "files::")?);
    let all = mpi_table::slots()?;
    let mut entries = String::new();
    let mut table = String::from("pub static TABLE: ProcTable = ProcTable {\n");
    for p in &all {
        let name = &p.name;
        if let Some(module) = by_hand.get(name.as_str()) {
            writeln!(table, "    {name}: crate::{module}::{name},")?;
            continue;
        }
        writeln!(table, "    {name},")?;
        match &p.policy {
            Policy::Forward => forward(&mut entries, p)?,
            Policy::Custom(area) => match area.as_str() {
                "collective" | "icollective" => collective(&mut entries, p, "")?,
                "pcollective" => persistent::entry(&mut entries, p, "")?,
                "file" => files::entry(&mut entries, p)?,
                "large" => {
                    large::entry(&mut entries, p, &all, &by_hand)?;
                    match p.wide() {
                        true if p.is_persistent_collective() => {
                            persistent::entry(&mut entries, p, WIDE)?;
                        }
                        true => collective(&mut entries, p, WIDE)?,
                        false => {}
                    }
                }
                "tool" => tool::entry(&mut entries, p)?,
                _ => unsupported(&mut entries, p)?,
            },
            _ => unsupported(&mut entries, p)?,
        }
    }
    table.push_str("};\n");
    persistent::starts(&mut entries, &all)?;
    let out = PathBuf::from(env::var("OUT_DIR")?).join("entries.rs");
    fs::write(out, entries + &table)?;
    Ok(())
}

/// Procedures written by hand, and the module each is in. Those that a macro writes are recognised by
/// the macro's list: a line of names inside `sends!`, `blocking_sends!`, `keys!`, `transfers!` or `both_forms!`.
fn by_hand_in(src: &Path, inside: &str) -> Result<BTreeMap<String, String>, Failure> {
    let mut found = BTreeMap::new();
    for file in fs::read_dir(src)? {
        let path = file?.path();
        if path.extension().is_none_or(|e| e != "rs") {
            continue;
        }
        let stem = path
            .file_stem()
            .and_then(|s| s.to_str())
            .unwrap_or_default();
        let module = format!("{inside}{stem}");
        let text = fs::read_to_string(&path)?;
        let mut listed = "";
        for line in text.lines() {
            if let Some((_, rest)) = line.split_once("extern \"C\" fn MPI") {
                let name: String = rest
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect();
                found.insert(format!("MPI{name}"), module.clone());
            }
            match line.trim_end() {
                "sends! {" => listed = "sends",
                "blocking_sends! {" => listed = "blocking_sends",
                "keys! {" | "transfers! {" | "both_forms! {" => listed = "names",
                "}" => listed = "",
                _ => {}
            }
            let words: Vec<&str> = line
                .split_whitespace()
                .filter(|w| w.starts_with("MPI_"))
                .collect();
            let defined = match listed {
                "sends" => words.get(1..).unwrap_or_default(),
                "blocking_sends" | "names" => words.as_slice(),
                _ => &[],
            };
            for name in defined {
                found.insert((*name).to_owned(), module.clone());
            }
        }
    }
    Ok(found)
}

fn signature(p: &Procedure) -> String {
    let args: Vec<String> = p
        .params()
        .iter()
        .map(|q| format!("{}: {}", q.name, rust_type(q)))
        .collect();
    format!(
        "unsafe extern \"C\" fn {}({}) -> {}",
        p.name,
        args.join(", "),
        p.result.rust_type()
    )
}

fn unsupported(out: &mut String, p: &Procedure) -> Result<(), Failure> {
    let unused: Vec<&str> = p.params().iter().map(|q| q.name.as_str()).collect();
    let result = if p.result == Kind::Error {
        String::new()
    } else {
        String::from("; Default::default()")
    };
    writeln!(
        out,
        "{} {{\n    let _ = ({},);",
        signature(p),
        if unused.is_empty() {
            "()".into()
        } else {
            unused.join(", ")
        }
    )?;
    writeln!(
        out,
        "    crate::errors::unsupported({:?}){result}\n}}\n",
        p.name
    )?;
    Ok(())
}

fn comm_of(p: &Procedure) -> Option<&Param> {
    p.params()
        .iter()
        .find(|q| q.kind == Kind::Comm && !q.by_pointer())
}

/// What the function of an operation asks about the datatype it is given, while the library may hold its lock.
const ASKED_BY_OPERATIONS: &[&str] = &[
    "MPI_Type_get_extent",
    "MPI_Type_get_extent_x",
    "MPI_Type_get_true_extent",
    "MPI_Type_get_true_extent_x",
    "MPI_Type_size",
    "MPI_Type_size_x",
];

fn forward(out: &mut String, p: &Procedure) -> Result<(), Failure> {
    if p.params()
        .iter()
        .any(|q| q.kind.is_handle() && q.by_pointer())
        || p.result != Kind::Error
    {
        return unsupported(out, p);
    }
    writeln!(out, "{} {{", signature(p))?;
    if ASKED_BY_OPERATIONS.contains(&p.name.as_str()) {
        writeln!(
            out,
            "    if let Some(datatype) = crate::ops::inside(datatype) {{\n        \
             // SAFETY: the program's arguments, with a real handle.\n        \
             return unsafe {{ (core().procs().{})({}) }};\n    }}",
            p.name,
            mpi_table::names(p)
        )?;
    }
    writeln!(out, "    let _guard = crate::entry::enter();")?;
    writeln!(out, "    let outcome = (|| {{")?;
    for q in p.params() {
        let n = &q.name;
        match q.kind {
            Kind::Comm => writeln!(out, "        let {n} = core().comm({n})?.1.real;")?,
            Kind::Datatype => writeln!(out, "        let {n} = core().real_type({n})?;")?,
            Kind::Op => {
                let d = p
                    .params()
                    .iter()
                    .find(|q| q.kind == Kind::Datatype)
                    .map_or("0", |q| &q.name);
                writeln!(
                    out,
                    "        let {n} = crate::collectives::op({n}, word_of_{d}, {d});"
                )?;
            }
            k if k.is_handle() => writeln!(out, "        let _ = {n};")?,
            _ => {}
        }
    }
    writeln!(
        out,
        "        // SAFETY: the program's arguments, with real handles."
    )?;
    writeln!(
        out,
        "        check(unsafe {{ (core().procs().{})({}) }})\n    }})();",
        p.name,
        mpi_table::names(p)
    )?;
    let comm = comm_of(p).map_or("crate::errors::NO_OBJECT", |q| &q.name);
    writeln!(out, "    finish(outcome, {comm}, {:?})\n}}\n", p.name)?;
    // The operation is looked up by the program's datatype word, which the line above it shadows.
    if p.params().iter().any(|q| q.kind == Kind::Op) {
        let d = p
            .params()
            .iter()
            .find(|q| q.kind == Kind::Datatype)
            .map_or("datatype", |q| &q.name);
        let from = format!("        let {d} = core().real_type({d})?;");
        let to = format!("        let word_of_{d} = {d};\n{from}");
        if let Some(at) = out.rfind(&from) {
            out.replace_range(at..at + from.len(), &to);
        }
    }
    Ok(())
}

/// A collective: arguments to real handles, gate, call, leave; a non-blocking one stores a request. With a prefix its
/// function is for other entries.
fn collective(out: &mut String, p: &Procedure, prefix: &str) -> Result<(), Failure> {
    let name = &p.name;
    let nonblocking = p.params().iter().any(|q| q.kind == Kind::Request);
    let in_place = p.params().iter().any(|q| q.name == "sendbuf");
    if nonblocking {
        // A persistent collective starts the inner one, and says itself what went wrong.
        let inner = if prefix.is_empty() { "inner_" } else { prefix };
        if prefix.is_empty() {
            writeln!(
                out,
                "{} {{\n    let _guard = crate::entry::enter();\n    // SAFETY: the program's arguments.\n    finish(unsafe {{ inner_{name}({}) }}, comm, {name:?})\n}}\n",
                signature(p),
                mpi_table::names(p)
            )?;
        }
        writeln!(
            out,
            "unsafe fn {inner}{name}({}) -> crate::state::Outcome {{\n    static NAME: &str = {name:?};",
            mpi_table::arguments(p)
        )?;
    } else {
        writeln!(
            out,
            "{} {{\n    static NAME: &str = {name:?};\n    let _guard = crate::entry::enter();\n    let outcome = (|| {{",
            signature(p).replacen(name.as_str(), &format!("{prefix}{name}"), 1)
        )?;
    }
    writeln!(
        out,
        "        let (index, real) = crate::collectives::comm(comm)?;"
    )?;
    let first_type = p
        .params()
        .iter()
        .find(|q| q.kind == Kind::Datatype && !q.by_pointer())
        .map(|q| q.name.clone());
    let mut arguments = Vec::new();
    let mut arrays = Vec::new();
    let mut ops = Vec::new();
    for q in p.params() {
        let n = &q.name;
        arguments.push(match (q.kind, q.by_pointer()) {
            (Kind::Comm, false) => "real".to_owned(),
            (Kind::Datatype, false) => {
                writeln!(out, "        let real_{n} = core().lenient_type({n});")?;
                format!("real_{n}")
            }
            (Kind::Datatype, true) => {
                let length = match q.length {
                    Some(Length::Indegree) => "crate::collectives::degrees(index).0",
                    Some(Length::Outdegree) => "crate::collectives::degrees(index).1",
                    _ => "crate::collectives::size(index)",
                };
                let significant = if in_place && n.starts_with("send") { "sendbuf as usize != MPI_IN_PLACE" } else { "true" };
                writeln!(out, "        // SAFETY: the program's array.")?;
                writeln!(out, "        let mut real_{n} = unsafe {{ crate::collectives::types({n}, {length}, {significant}) }};")?;
                arrays.push(format!("real_{n}"));
                format!("real_{n}.as_mut_ptr().cast_const()")
            }
            (Kind::Op, false) => {
                let d = first_type.as_deref().unwrap_or("MPI_DATATYPE_NULL");
                writeln!(out, "        let real_{n} = crate::collectives::op({n}, {d}, real_{d});")?;
                ops.push(n.clone());
                format!("real_{n}")
            }
            (Kind::Request, true) => "&mut real_request".to_owned(),
            _ => n.clone(),
        });
    }
    if nonblocking {
        writeln!(out, "        let mut real_request = MPI_REQUEST_NULL;")?;
    }
    writeln!(out, "        crate::collectives::enter(index, &NAME)?;\n        let call = core().procs().{name};")?;
    writeln!(
        out,
        "        // SAFETY: the program's arguments, with real handles."
    )?;
    writeln!(
        out,
        "        let rc = crate::entry::unlocked(|| unsafe {{ call({}) }});",
        arguments.join(", ")
    )?;
    writeln!(out, "        crate::collectives::leave();")?;
    if nonblocking {
        writeln!(out, "        check(rc)?;")?;
        writeln!(
            out,
            "        let word = crate::collectives::started(index, real_request, vec![{}], &[{}])?;",
            arrays.join(", "),
            ops.join(", ")
        )?;
        writeln!(out, "        // SAFETY: an output argument.\n        unsafe {{ *request = word }};\n        Ok(())\n}}\n")?;
    } else {
        writeln!(out, "        check(rc)")?;
        writeln!(out, "    }})();\n    finish(outcome, comm, NAME)\n}}\n")?;
    }
    Ok(())
}
