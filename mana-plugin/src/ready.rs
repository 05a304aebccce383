//! Nobody sends before all are ready to receive.
//!
//! `MPI_Init` of Open MPI ends with a PMIx fence, after which every rank can take messages. Slurm's server
//! lets a fence without data pass at once where a step has fewer nodes than `TreeWidth` (22.05: its tree has no
//! branches then): a rank leaves `MPI_Init` while others are still in it, and the first message that reaches one of
//! those ends it at address 0. Our own messages come first, so the ranks wait for each other here, in a fence with
//! data, which that server carries out along a ring. `PMIx_Fence` is of the PMIx standard 4.1, section 6.3.
//!
//! Lower half, the MPI thread, between the real `MPI_Init` and the first message.

use std::ffi::{c_char, c_void, CStr};

/// How Slurm's server names the jobs it serves.
const SERVED_BY_SLURM: &str = "slurm.pmix.";

const PMIX_SUCCESS: i32 = 0;
const PMIX_GLOBAL: u8 = 3;
const PMIX_BOOL: u16 = 1;
const PMIX_BYTE: u16 = 2;
const COLLECT_DATA: &CStr = c"pmix.collect";
const KEY: &CStr = c"mana.ready";

/// `pmix_value_t`, from PMIx 2 on.
#[repr(C)]
struct Value {
    kind: u16,
    data: [u64; 3],
}

/// `pmix_info_t`.
#[repr(C)]
struct Info {
    key: [u8; 512],
    flags: u32,
    value: Value,
}

type Put = unsafe extern "C" fn(u8, *const c_char, *mut Value) -> i32;
type Commit = unsafe extern "C" fn() -> i32;
type Fence = unsafe extern "C" fn(*const c_void, usize, *const Info, usize) -> i32;

/// Returns when all ranks of the step have left `MPI_Init`; at once where that is so anyway.
pub fn wait() {
    let served = std::env::var("PMIX_NAMESPACE").is_ok_and(|n| n.starts_with(SERVED_BY_SLURM));
    if !served {
        return;
    }
    match fence() {
        None => log::debug!("the MPI library has no PMIx of its own kind to wait with"),
        Some(PMIX_SUCCESS) => log::debug!("all ranks have left MPI_Init"),
        Some(error) => {
            log::warn!("PMIx_Fence failed with {error}: ranks may begin before others are ready")
        }
    }
}

/// The result of the first call that failed, or success; `None` if the client library is not loaded.
fn fence() -> Option<i32> {
    // SAFETY: nothing is loaded that was not there; the name is a C string.
    let library =
        unsafe { libc::dlopen(c"libpmix.so.2".as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD) };
    if library.is_null() {
        return None;
    }
    let find = |name: &CStr| {
        // SAFETY: an open library and a C string.
        let found = unsafe { libc::dlsym(library, name.as_ptr()) };
        (!found.is_null()).then_some(found)
    };
    let (put, commit, fence) = (
        find(c"PMIx_Put")?,
        find(c"PMIx_Commit")?,
        find(c"PMIx_Fence")?,
    );
    // SAFETY: functions of these types in every release with this soname.
    let (put, commit, fence) = unsafe {
        (
            std::mem::transmute::<*mut c_void, Put>(put),
            std::mem::transmute::<*mut c_void, Commit>(commit),
            std::mem::transmute::<*mut c_void, Fence>(fence),
        )
    };
    let mut value = Value {
        kind: PMIX_BYTE,
        data: [1, 0, 0],
    };
    let mut info = Info {
        key: [0; 512],
        flags: 0,
        value: Value {
            kind: PMIX_BOOL,
            data: [1, 0, 0],
        },
    };
    let name = COLLECT_DATA.to_bytes();
    info.key[..name.len()].copy_from_slice(name);
    // SAFETY: the MPI library is a client of PMIx by now; the arguments are of the library's layout and live on.
    let rc = unsafe { put(PMIX_GLOBAL, KEY.as_ptr(), &mut value) };
    if rc != PMIX_SUCCESS {
        return Some(rc);
    }
    // SAFETY: as above.
    let rc = unsafe { commit() };
    if rc != PMIX_SUCCESS {
        return Some(rc);
    }
    // SAFETY: as above; no list of processes means all of the step.
    Some(unsafe { fence(std::ptr::null(), 0, &info, 1) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_those_of_pmix() {
        assert_eq!(size_of::<Value>(), 32);
        assert_eq!(std::mem::offset_of!(Value, data), 8);
        assert_eq!(size_of::<Info>(), 552);
        assert_eq!(std::mem::offset_of!(Info, value), 520);
    }
}
