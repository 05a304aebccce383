//! Entries of MPI's procedures on files that have no body by hand: access to data, whose sixty names are
//! combinations of a few words, and queries and changes that the library answers.

use super::{signature, Failure};
use mpi_table::{Kind, Procedure};
use std::fmt::Write;

/// What a name says.
struct Words {
    begin: bool,
    end: bool,
    collective: bool,
    write: bool,
    /// Variant of `files::Pointer`.
    pointer: &'static str,
}

fn words(name: &str) -> Words {
    let has = |word: &str| name.split('_').any(|w| w == word);
    Words {
        begin: has("begin"),
        end: has("end"),
        collective: has("all") || has("ordered"),
        write: has("write") || has("iwrite"),
        pointer: match () {
            () if has("at") => "Explicit",
            () if has("shared") || has("ordered") => "Shared",
            () => "Individual",
        },
    }
}

/// Those that all members call.
const COLLECTIVE: &[&str] = &[
    "MPI_File_preallocate",
    "MPI_File_seek_shared",
    "MPI_File_set_atomicity",
    "MPI_File_set_size",
    "MPI_File_sync",
];

/// Writes the entry of a procedure.
pub fn entry(out: &mut String, p: &Procedure) -> Result<(), Failure> {
    let name = &p.name;
    if !p.params().iter().any(|q| q.kind == Kind::Buffer) {
        return plain(out, p);
    }
    let w = words(name);
    let head = format!(
        "{} {{\n    static NAME: &str = {name:?};\n    let _guard = crate::entry::enter();\n",
        signature(p)
    );
    if w.end {
        let begin = name.replace("_end", "_begin");
        writeln!(
            out,
            "{head}    // SAFETY: the program's status.\n    let outcome = unsafe {{ crate::files::access::end(fh, {begin:?}, buf as u64, status) }};\n    crate::files::finish(outcome, fh, NAME)\n}}\n"
        )?;
        return Ok(());
    }
    let nonblocking = p.params().iter().any(|q| q.kind == Kind::Request);
    let call = name.trim_end_matches("_begin");
    let mut arguments = Vec::new();
    for q in p.params() {
        arguments.push(match q.kind {
            Kind::File => "access.real".to_owned(),
            Kind::Datatype => "real_type".to_owned(),
            Kind::Request => "&mut real_request".to_owned(),
            _ => q.name.clone(),
        });
    }
    if w.begin {
        arguments.push("&mut told".to_owned());
    }
    writeln!(
        out,
        "{head}    let outcome = (|| {{\n        let real_type = core().real_type(datatype)?;\n        let access = crate::files::access::begin(fh, crate::files::Pointer::{}, {}, {}, &NAME)?;",
        w.pointer, w.collective, w.begin
    )?;
    if nonblocking {
        writeln!(out, "        let mut real_request = MPI_REQUEST_NULL;")?;
    }
    if w.begin {
        writeln!(out, "        let mut told = Status::EMPTY;")?;
    }
    writeln!(
        out,
        "        let call = core().procs().{call};\n        // SAFETY: the program's arguments, with real handles.\n        let rc = crate::entry::unlocked(|| unsafe {{ call({}) }});\n        access.end();\n        check(rc)?;",
        arguments.join(", ")
    )?;
    if w.begin {
        writeln!(
            out,
            "        crate::files::access::begun(fh, NAME, buf as u64, told)?;"
        )?;
    }
    if nonblocking {
        writeln!(
            out,
            "        let word = crate::files::access::started(fh, real_request, datatype, {})?;\n        // SAFETY: an output argument.\n        unsafe {{ *request = word }};",
            w.write
        )?;
    }
    writeln!(
        out,
        "        Ok(())\n    }})();\n    crate::files::finish(outcome, fh, NAME)\n}}\n"
    )?;
    Ok(())
}

/// A query, or a change of the file as a whole.
fn plain(out: &mut String, p: &Procedure) -> Result<(), Failure> {
    let name = &p.name;
    let pointer = match name.as_str() {
        "MPI_File_seek" => "Individual",
        "MPI_File_seek_shared" | "MPI_File_get_position_shared" => "SharedAlone",
        _ => "None",
    };
    let mut arguments = Vec::new();
    writeln!(
        out,
        "{} {{\n    static NAME: &str = {name:?};\n    let _guard = crate::entry::enter();\n    let outcome = (|| {{",
        signature(p)
    )?;
    for q in p.params() {
        let n = &q.name;
        arguments.push(match q.kind {
            Kind::File => "access.real".to_owned(),
            Kind::Datatype => {
                writeln!(out, "        let {n} = core().real_type({n})?;")?;
                n.clone()
            }
            _ => n.clone(),
        });
    }
    writeln!(
        out,
        "        let access = crate::files::access::begin(fh, crate::files::Pointer::{pointer}, {}, false, &NAME)?;\n        let call = core().procs().{name};\n        // SAFETY: the program's arguments, with real handles.\n        let rc = crate::entry::unlocked(|| unsafe {{ call({}) }});\n        access.end();\n        check(rc)\n    }})();\n    crate::files::finish(outcome, fh, NAME)\n}}\n",
        COLLECTIVE.contains(&name.as_str()),
        arguments.join(", ")
    )?;
    Ok(())
}
