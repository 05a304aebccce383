//! The crossing and the upcall, in one process whose two halves have the same FS.

use mana_raw::layout::{ThreadBlock, AGAIN, CONTROL, CONTROL_LEN, PROC_SLOTS};
use mana_raw::{base, cross, cross_plain, sys, upcall};
use std::sync::atomic::{AtomicU32, Ordering};

static CALLS: AtomicU32 = AtomicU32::new(0);

extern "C" fn nine(
    a: i32,
    b: u64,
    c: *const u8,
    d: i32,
    e: i64,
    f: u64,
    g: i32,
    h: i32,
    i: u64,
) -> i32 {
    // SAFETY: GS was set by the test; the block outlives it.
    assert_eq!(unsafe { (*base::block()).in_lower }, 1);
    if CALLS.fetch_add(1, Ordering::Relaxed) < 2 {
        return AGAIN;
    }
    a + b as i32 + c as usize as i32 + d + e as i32 + f as i32 + g + h + i as i32
}

extern "C" fn half() -> f64 {
    0.5
}

extern "C" fn add(a: u64, b: u64) -> u64 {
    a + b
}

#[test]
fn calls_cross_repeat_and_return() {
    // SAFETY: a fresh mapping at a fixed free place, and a block that outlives the test.
    unsafe {
        let map = sys::syscall(
            sys::MMAP,
            [CONTROL, CONTROL_LEN, 3, 0x10_0022, usize::MAX, 0],
        );
        assert_eq!(map as usize, CONTROL);
        let slots = PROC_SLOTS as *mut usize;
        slots.write(nine as *const () as usize);
        slots.add(1).write(half as *const () as usize);
        let fs = base::fs_by_call();
        let block = Box::leak(Box::new(core::mem::zeroed::<ThreadBlock>()));
        block.me = &raw const *block as usize;
        block.upper_fs = fs;
        block.lower_fs = fs;
        block.no_fsgsbase = 1;
        base::set_gs(block);
    }
    let p = 3usize as *const u8;
    let sum = cross!(0, fn(i32, u64, *const u8, i32, i64, u64, i32, i32, u64) -> i32; 1, 2, p, 4, 5, 6, 7, 8, 9);
    assert_eq!(sum, 45);
    assert_eq!(CALLS.load(Ordering::Relaxed), 3);
    assert_eq!(cross_plain!(1, fn() -> f64;), 0.5);
    // SAFETY: `add` has the C calling convention and takes two of the six arguments.
    let result = unsafe { upcall::call_upper(add as *const () as usize, &[40, 2, 0, 0, 0, 0]) };
    assert_eq!(result, Ok(42));
    // SAFETY: GS is set.
    assert_eq!(unsafe { (*base::block()).in_lower }, 0);
}
