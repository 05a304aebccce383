//! The one table of MPI procedures, and the generators that turn it into code.
//!
//! Runs at build time only, in the `build.rs` of the crates around it: `mpi-std` (types, slot
//! indices), the core (forwarding entries), the stubs (exports) and the adapter (entries). The data
//! is `procedures.txt`, in the order of the standard's chapters; nothing else lists MPI names.
#![warn(missing_docs)]

mod abis;
mod adapter;
mod integers;
mod kinds;
mod parse;
mod signatures;
mod stub;

pub use abis::{abi_constants, Abi, AbiConstant, ABIS_TEXT};
pub use adapter::adapter_source;
pub use integers::{integers, ACCESS_MODES, ASSERTIONS, INTEGERS};
pub use kinds::{Direction, Kind, Length};
pub use parse::{parse, ParseError};
pub use signatures::{arguments, constants, names, rust_type, signature, slots_source};
pub use stub::{export, stub_source, StubOptions};

/// The text of the table.
pub const TEXT: &str = include_str!("../procedures.txt");

/// What happens to a call of a procedure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Handles are translated both ways, nothing else happens.
    Forward,
    /// Makes, frees or describes an object: hand-written in the core.
    Virtualize,
    /// Hand-written in the core's module of this name.
    Custom(String),
    /// Answered in the upper half by the stub; it has no slot.
    Stub,
    /// An older name of another procedure with the same parameters; it has no slot.
    Alias(String),
    /// Answers with an error and one line on standard error, for this reason.
    Unsupported(String),
}

/// One parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// The standard's name for it.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Who writes it.
    pub direction: Direction,
    /// For arrays and strings: how many elements there are.
    pub length: Option<Length>,
}

impl Param {
    /// Whether the C argument is a pointer to the value (or values) of this kind.
    pub fn by_pointer(&self) -> bool {
        self.length.is_some() && self.kind != Kind::String
            || self.direction != Direction::In && !self.kind.is_address()
            || self.kind == Kind::Status
    }
}

/// One procedure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Procedure {
    /// Its name, `MPI_` included.
    pub name: String,
    /// The standard's chapter.
    pub chapter: String,
    /// Whether Open MPI 4.1 exports it.
    pub openmpi: bool,
    /// Whether Open MPI 5.0 exports it, and 4.1 does not.
    pub openmpi_5: bool,
    /// Whether MPICH 4.0 exports it.
    pub mpich: bool,
    /// Whether MPICH 4.3, later ones, and the standard's own ABI have it besides what `mpich` says.
    pub newer: bool,
    /// What happens to a call.
    pub policy: Policy,
    /// The parameters; `None` where only the name is known (such a procedure is unsupported).
    pub params: Option<Vec<Param>>,
    /// What it returns: [`Kind::Error`] for nearly all.
    pub result: Kind,
}

impl Procedure {
    /// Whether it has a slot between the halves, a field of `ProcTable` and an adapter entry.
    pub fn has_slot(&self) -> bool {
        self.params.is_some() && !matches!(self.policy, Policy::Stub | Policy::Alias(_))
    }

    /// Whether it is a collective with large counts in arrays beside one datatype: beyond an `int` only the library
    /// itself can always do that.
    pub fn wide(&self) -> bool {
        let all = |q: &Param| {
            let per_process = [Length::CommSize, Length::Indegree, Length::Outdegree];
            q.length.as_ref().is_some_and(|l| per_process.contains(l))
        };
        self.policy == Policy::Custom("large".into())
            && self
                .params()
                .iter()
                .any(|q| q.kind == Kind::Count && all(q))
            && !self
                .params()
                .iter()
                .any(|q| q.kind == Kind::Datatype && all(q))
    }

    /// Whether it makes a persistent request of a collective.
    pub fn is_persistent_collective(&self) -> bool {
        self.name.trim_end_matches("_c").ends_with("_init")
            && self.params().iter().any(|q| q.kind == Kind::Info)
    }

    /// The parameters (none where only the name is known).
    pub fn params(&self) -> &[Param] {
        self.params.as_deref().unwrap_or(&[])
    }
}

/// All procedures of the table.
///
/// # Errors
/// Names the line that is wrong.
pub fn procedures() -> Result<Vec<Procedure>, ParseError> {
    parse(TEXT)
}

/// The procedures that have a slot; the position in this list is the slot's index.
///
/// # Errors
/// Names the line that is wrong.
pub fn slots() -> Result<Vec<Procedure>, ParseError> {
    Ok(procedures()?
        .into_iter()
        .filter(Procedure::has_slot)
        .collect())
}
