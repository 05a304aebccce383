//! What a drain notes of open files, and how a restart opens them again.
//!
//! Lower half, the MPI thread of every rank, while no code of the program runs.

use super::open::path_in;
use super::{text, File, Hints, Noted};
use crate::checkpoint::DrainError;
use crate::errors::check;
use crate::state::core;
use mpi_std::*;

/// What a file is opened with again; it exists, and is not to be made.
const AGAIN_WITH: i32 = MPI_MODE_RDONLY
    | MPI_MODE_WRONLY
    | MPI_MODE_RDWR
    | MPI_MODE_DELETE_ON_CLOSE
    | MPI_MODE_UNIQUE_OPEN;

/// Drain: asks the library for pointers and mode. No operation is under way on any rank. A file whose name is gone
/// could not be opened again.
pub fn note() -> Result<(), DrainError> {
    let c = core();
    let procs = c.procs();
    let check = |rc| {
        check(rc).map_err(|class| DrainError::Mpi {
            operation: "asking for pointers",
            class,
        })
    };
    for (_, f) in c.state.files.iter_mut() {
        let path = path_in(&f.name);
        if f.visible && !path.exists() {
            return Err(DrainError::Deleted(path.display().to_string()));
        }
        if f.visible && f.amode & (MPI_MODE_WRONLY | MPI_MODE_RDWR) != 0 {
            let rank = c.state.comms.get(f.comm).map_or(0, |c| c.rank);
            c.hooks.file_stays_open(path, rank == 0);
        }
        let mut noted = Noted {
            shared: -1,
            ..Noted::default()
        };
        let mut atomic = 0;
        // SAFETY: output arguments of ours, here and below.
        check(unsafe { (procs.MPI_File_get_position)(f.real, &mut noted.position) })?;
        if f.shared {
            // SAFETY: as above.
            check(unsafe { (procs.MPI_File_get_position_shared)(f.real, &mut noted.shared) })?;
        }
        // SAFETY: as above.
        check(unsafe { (procs.MPI_File_get_atomicity)(f.real, &mut atomic) })?;
        noted.atomic = atomic != 0;
        f.noted = noted;
    }
    Ok(())
}

/// What could not be done with which file.
pub struct Failure {
    /// The procedure.
    pub operation: &'static str,
    /// The file.
    pub name: String,
    /// Its error class.
    pub class: i32,
}

/// Restart: opens all files again, on communicators that exist. Members open theirs in a common order.
pub fn run() -> Result<(), Failure> {
    let c = core();
    let mut order: Vec<(u64, u32)> = c
        .state
        .files
        .iter()
        .map(|(i, f)| (c.state.comms.get(f.comm).map_or(0, |c| c.id), i))
        .collect();
    order.sort_unstable();
    for (_, index) in order {
        let Some(f) = core().state.files.get(index) else {
            continue;
        };
        let name = || String::from_utf8_lossy(&f.name).into_owned();
        let real = open(f).map_err(|(operation, class)| Failure {
            operation,
            name: name(),
            class,
        })?;
        if let Some(f) = core().state.files.get_mut(index) {
            f.real = real;
            f.visible = path_in(&f.name).exists();
        }
    }
    Ok(())
}

fn open(f: &File) -> Result<u64, (&'static str, i32)> {
    let c = core();
    let procs = c.procs();
    let comm = c.state.comms.get(f.comm).map_or(MPI_COMM_NULL, |c| c.real);
    let failed = |operation: &'static str| move |class: i32| (operation, class);
    let given = match f.info.is_empty() {
        true => MPI_INFO_NULL,
        false => MPI_INFO_ENV,
    };
    let hints = Hints::new(given, &f.info).map_err(failed("MPI_Info_set"))?;
    let name = text(&f.name);
    c.hooks.file_named(path_in(&f.name));
    let mut real = MPI_FILE_NULL;
    let mode = f.amode & AGAIN_WITH;
    // SAFETY: a string of ours, and output arguments of ours, here and below.
    check(unsafe {
        (procs.MPI_File_open)(comm, name.as_ptr().cast(), mode, hints.real(), &mut real)
    })
    .map_err(failed("MPI_File_open"))?;
    if let Some(v) = &f.view {
        let step = failed("MPI_File_set_view");
        let etype = c.real_type(v.etype).map_err(step)?;
        let filetype = c.real_type(v.filetype).map_err(step)?;
        let datarep = text(&v.datarep);
        let datarep = datarep.as_ptr().cast();
        // SAFETY: as above.
        check(unsafe {
            (procs.MPI_File_set_view)(real, v.disp, etype, filetype, datarep, hints.real())
        })
        .map_err(step)?;
    }
    if f.noted.atomic {
        // SAFETY: as above.
        check(unsafe { (procs.MPI_File_set_atomicity)(real, 1) })
            .map_err(failed("MPI_File_set_atomicity"))?;
    }
    // SAFETY: as above.
    check(unsafe { (procs.MPI_File_seek)(real, f.noted.position, MPI_SEEK_SET) })
        .map_err(failed("MPI_File_seek"))?;
    // A member may have used the shared pointer and another not.
    let (mine, mut shared) = (f.noted.shared, -1i64);
    let (from, to) = ((&raw const mine).cast(), (&raw mut shared).cast());
    // SAFETY: one number of ours each.
    check(unsafe { (procs.MPI_Allreduce)(from, to, 1, MPI_INT64_T, MPI_MAX, comm) })
        .map_err(failed("MPI_Allreduce"))?;
    if shared >= 0 {
        // SAFETY: as above.
        check(unsafe { (procs.MPI_File_seek_shared)(real, shared, MPI_SEEK_SET) })
            .map_err(failed("MPI_File_seek_shared"))?;
    }
    Ok(real)
}
