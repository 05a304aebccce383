//! The control page of this process, and what is published through it. Lower half.

use mana_raw::layout::{
    CommCache, ControlPage, COMM_CACHE, COMM_CACHE_MAX, CONTROL, CONTROL_LEN, CONTROL_MAGIC,
    CONTROL_VERSION, INTERFACE_SLOTS, INTERFACE_SLOTS_MAX, PROC_SLOTS, PROC_SLOTS_MAX,
};
use mana_raw::{base, sys};

/// The control page.
///
/// # Safety
/// [`map`] has succeeded. Written before the program runs, or field by field by one owner.
pub unsafe fn page() -> &'static mut ControlPage {
    // SAFETY: mapped and valid for any bit pattern.
    unsafe { &mut *(CONTROL as *mut ControlPage) }
}

/// Whether this process may use the FSGSBASE instructions. `MANA_NO_FSGSBASE` forces the fall-back.
pub fn fsgsbase() -> bool {
    // SAFETY: reads the auxiliary vector.
    let hwcap2 = unsafe { libc::getauxval(libc::AT_HWCAP2) };
    hwcap2 & base::HWCAP2_FSGSBASE != 0 && std::env::var_os("MANA_NO_FSGSBASE").is_none()
}

/// Maps the control page and writes what does not depend on the program. Once a process; a second
/// call finds the page and does nothing.
pub fn map() -> Result<(), crate::LaunchError> {
    static DONE: std::sync::Mutex<bool> = std::sync::Mutex::new(false);
    let mut done = DONE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if *done {
        return Ok(());
    }
    crate::memory_at(CONTROL, CONTROL_LEN, 3, "map the control page")?;
    // SAFETY: just mapped.
    let page = unsafe { page() };
    page.magic = CONTROL_MAGIC;
    page.version = CONTROL_VERSION;
    page.fsgsbase = fsgsbase().into();
    page.syscall_entry = mana_raw::entry::syscall_entry as *const () as usize;
    page.park_entry = crate::park::park_handler as *const () as usize;
    page.notice_entry = crate::notice::handler as *const () as usize;
    *done = true;
    Ok(())
}

/// Fills the procedure slots. Call it before the program's first MPI call, and before
/// `Restorer::finish`.
///
/// # Panics
/// Never; slots beyond the room there is are dropped.
pub fn publish_slots(slots: &[usize]) -> Result<(), crate::LaunchError> {
    map()?;
    for (i, &slot) in slots.iter().take(PROC_SLOTS_MAX).enumerate() {
        // SAFETY: within the mapped control area; volatile, since the upper half reads it unordered.
        unsafe { (PROC_SLOTS as *mut usize).add(i).write_volatile(slot) };
    }
    // SAFETY: mapped.
    unsafe { page() }.proc_slots = slots.len().min(PROC_SLOTS_MAX) as u64;
    Ok(())
}

/// Fills the slots of the application interface (`mana_raw::interface::slot`), under the same rule.
pub fn publish_interface(slots: &[usize]) -> Result<(), crate::LaunchError> {
    map()?;
    for (i, &slot) in slots.iter().take(INTERFACE_SLOTS_MAX).enumerate() {
        // SAFETY: as in `publish_slots`.
        unsafe {
            (PROC_SLOTS as *mut usize)
                .add(INTERFACE_SLOTS + i)
                .write_volatile(slot)
        };
    }
    Ok(())
}

/// Publishes rank and size of a communicator; `index` as [`COMM_CACHE_MAX`] has it. False: no room.
pub fn publish_comm(index: usize, entry: CommCache) -> bool {
    if index >= COMM_CACHE_MAX || map().is_err() {
        return false;
    }
    // SAFETY: within the mapped control area.
    unsafe {
        (COMM_CACHE as *mut CommCache)
            .add(index)
            .write_volatile(entry)
    };
    true
}

/// Registers this process for [`membarrier`]. Cheap, idempotent.
pub fn membarrier_register() -> bool {
    const REGISTER_PRIVATE_EXPEDITED: usize = 16;
    // SAFETY: no memory is touched.
    unsafe {
        sys::syscall(
            libc::SYS_membarrier as usize,
            [REGISTER_PRIVATE_EXPEDITED, 0, 0, 0, 0, 0],
        ) == 0
    }
}

/// A full memory barrier on every running thread of the process. Without the system call (or its
/// registration) a fence on this thread and false.
pub fn membarrier() -> bool {
    const PRIVATE_EXPEDITED: usize = 8;
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    // SAFETY: no memory is touched.
    unsafe {
        sys::syscall(
            libc::SYS_membarrier as usize,
            [PRIVATE_EXPEDITED, 0, 0, 0, 0, 0],
        ) == 0
    }
}
