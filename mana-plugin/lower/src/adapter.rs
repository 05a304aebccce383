//! Opening the adapter of the site's MPI.
//!
//! It is opened with RTLD_GLOBAL: Open MPI's components find their library that way.

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use mpi_std::{AdapterTable, ADAPTER_MAGIC, ADAPTER_SYMBOL, ADAPTER_VERSION, SLOT_COUNT};

use crate::Failure;

/// Opens `library` and checks that it is an adapter of this version.
pub fn open(library: &Path) -> Result<&'static AdapterTable, Failure> {
    let name = CString::new(library.as_os_str().as_bytes())?;
    // SAFETY: a valid string; the library's initialisers are those of an MPI library.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if handle.is_null() {
        return Err(format!(
            "cannot load the MPI adapter {}: {}; build one for this MPI with: mana adapter --mpicc PATH",
            library.display(),
            reason()
        )
        .into());
    }
    // SAFETY: a handle just opened and a valid string.
    let symbol = unsafe { libc::dlsym(handle, ADAPTER_SYMBOL.as_ptr()) };
    if symbol.is_null() {
        return Err(format!("{} is not an MPI adapter", library.display()).into());
    }
    // SAFETY: an adapter's entry has this type; what it returns is checked before use.
    let table = unsafe {
        let entry: extern "C" fn() -> *const AdapterTable = std::mem::transmute(symbol);
        &*entry()
    };
    let fits = table.magic == ADAPTER_MAGIC
        && table.version == ADAPTER_VERSION
        && table.size as usize == size_of::<AdapterTable>()
        && table.slots as usize == SLOT_COUNT;
    if !fits {
        return Err(format!(
            "the MPI adapter {} was built by another version of mana: build it again with: mana adapter --mpicc PATH",
            library.display()
        )
        .into());
    }
    Ok(table)
}

fn reason() -> String {
    // SAFETY: dlerror returns null or a string that lives until the next dl* call of this thread.
    unsafe {
        let text = libc::dlerror();
        if text.is_null() {
            return "unknown error".into();
        }
        CStr::from_ptr(text).to_string_lossy().into_owned()
    }
}
