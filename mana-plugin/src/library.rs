//! Which MPI library is below the program, and what of the one before the program still counts on.
//!
//! Lower half. A job may go on under another library than it was begun on. Handles, statuses and constants
//! are translated by the stub and the adapter; here is what a translation cannot give: a largest tag and a
//! level of thread support that the program has been told and the new library does not have.

use crate::attributes::tag_bound;
use crate::checkpoint::RebuildError;
use crate::state::{core, Phase, Work};
use mpi_std::*;
use serde::{Deserialize, Serialize};
use std::ffi::{c_char, CStr};
use std::sync::atomic::{AtomicBool, Ordering};

/// What the program may know of its library.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Library {
    /// First line of `MPI_Get_library_version`.
    pub version: String,
    /// The largest tag of any library the job has run on.
    pub largest_tag: i32,
    /// The level of thread support that was granted.
    pub provided: i32,
}

fn version() -> String {
    const ROOM: usize = MPI_MAX_LIBRARY_VERSION_STRING as usize;
    let mut text = vec![0 as c_char; ROOM + 1];
    let mut len = 0;
    // SAFETY: the buffer has the room that the standard asks for, and a byte more.
    let rc = unsafe { (core().procs().MPI_Get_library_version)(text.as_mut_ptr(), &mut len) };
    if rc != MPI_SUCCESS {
        return String::new();
    }
    // SAFETY: ends with a NUL, the last byte at the latest.
    let text = unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy();
    name(&text)
}

/// The short name of a library: "Open MPI v4.1.4", "MPICH 4.0.2".
fn name(text: &str) -> String {
    let first = text.lines().next().unwrap_or_default();
    let first = first.split(',').next().unwrap_or_default();
    let words = first.split_whitespace().filter(|w| *w != "Version:");
    words.collect::<Vec<_>>().join(" ")
}

/// Whether a library says in `MPI_INFO_ENV` where the program is, and not its name alone: Open MPI since 5.0, and those
/// of which [`takes_command`] is true.
pub fn names_whole_path(version: &str) -> bool {
    let open_mpi = version.strip_prefix("Open MPI v");
    open_mpi.is_some_and(|number| !number.starts_with("4.")) || takes_command(version)
}

/// Whether a library takes the command in `MPI_INFO_ENV` from what `MPI_Init` is given: MPICH 4.3 and later, Intel MPI.
pub fn takes_command(version: &str) -> bool {
    newer_mpich(version) || version.starts_with("Intel")
}

/// Whether a procedure succeeds in this library once a handler of the program was told of its error: MPICH 4.3 and later.
pub fn forgives_what_is_handled(version: &str) -> bool {
    newer_mpich(version)
}

/// The class of an error handler that is none: MPI 4.1 has one for it, which MPICH 4.3 and later return.
pub fn class_of_wrong_handlers(version: &str) -> i32 {
    match newer_mpich(version) {
        true => MPI_ERR_ERRHANDLER,
        false => MPI_ERR_ARG,
    }
}

/// Whether `MPI_Type_create_darray` of this library takes other elements than the standard says: Intel MPI 2021.19 does where
/// a dimension is distributed by cycles and a faster one in blocks.
pub fn misplaces_arrays(version: &str) -> bool {
    version.starts_with("Intel")
}

fn newer_mpich(version: &str) -> bool {
    let Some(number) = version.strip_prefix("MPICH ") else {
        return false;
    };
    let mut parts = number.split('.').map_while(|part| part.parse::<u32>().ok());
    (parts.next(), parts.next()) >= (Some(4), Some(3))
}

/// Notes the library of a beginning. The predefined attributes are known.
pub fn learn() {
    core().state.library = Library {
        version: version(),
        largest_tag: tag_bound(),
        provided: core().provided,
    };
}

fn level(level: i32) -> &'static str {
    match level {
        MPI_THREAD_MULTIPLE => "MPI_THREAD_MULTIPLE",
        MPI_THREAD_SERIALIZED => "MPI_THREAD_SERIALIZED",
        MPI_THREAD_FUNNELED => "MPI_THREAD_FUNNELED",
        _ => "MPI_THREAD_SINGLE",
    }
}

/// At a restart: refuses what this library cannot give, and says what has changed. The state is that of
/// the image, but for the predefined attributes, which are this library's.
pub fn compare() -> Result<(), RebuildError> {
    let before = core().state.library.clone();
    let now = version();
    let refused = |what: String| RebuildError::Library {
        before: before.version.clone(),
        now: now.clone(),
        what,
    };
    let provided = core().provided;
    if provided < before.provided {
        return Err(refused(format!(
            "the program was granted {}, here it would be {}",
            level(before.provided),
            level(provided)
        )));
    }
    let largest = tag_bound();
    let posted = core()
        .state
        .requests
        .iter()
        .find(|(_, r)| r.phase == Phase::Active && r.work == Work::Recv && r.tag > largest);
    if let Some((_, request)) = posted {
        return Err(refused(format!(
            "a receive is posted with tag {}, the largest here is {largest}",
            request.tag
        )));
    }
    let state = &mut core().state;
    if before.version != now && state.rank == 0 {
        let tags = if largest < before.largest_tag {
            format!(
                "; the largest tag is {largest}, it was {}",
                before.largest_tag
            )
        } else {
            String::new()
        };
        log::info!(
            "the job was on {}, it goes on under {now}{tags}",
            before.version
        );
    }
    state.library = Library {
        version: now,
        largest_tag: before.largest_tag.max(largest),
        provided: before.provided,
    };
    core().provided = before.provided;
    Ok(())
}

/// Says once why a tag is refused that the program may well use.
#[cold]
pub fn explain(code: i32) {
    static SAID: AtomicBool = AtomicBool::new(false);
    let known = core().state.library.largest_tag;
    if code == MPI_ERR_TAG && known > tag_bound() && !SAID.swap(true, Ordering::Relaxed) {
        log::error!(
            "the largest tag is {} under this MPI; the job has been on one where it was {known}",
            tag_bound()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::{forgives_what_is_handled, name, names_whole_path, takes_command};

    #[test]
    fn what_libraries_do_differently() {
        assert!(names_whole_path("Open MPI v5.0.11") && !takes_command("Open MPI v5.0.11"));
        assert!(!names_whole_path("Open MPI v4.1.4") && !names_whole_path("MPICH 4.0.2"));
        assert!(takes_command("MPICH 4.3.2") && forgives_what_is_handled("MPICH 5.0.2"));
        assert!(!takes_command("MPICH 4.0.2") && !forgives_what_is_handled("MPICH 4.0.2"));
        assert!(!forgives_what_is_handled("Open MPI v5.0.11"));
    }

    #[test]
    fn names_are_short() {
        assert_eq!(
            name("Open MPI v4.1.4, package: X, ident: 4.1.4"),
            "Open MPI v4.1.4"
        );
        assert_eq!(
            name("MPICH Version:\t4.0.2\nMPICH Release date: X\n"),
            "MPICH 4.0.2"
        );
        assert_eq!(name(""), "");
    }
}
