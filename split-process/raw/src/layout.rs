//! The fixed addresses and structures both halves agree on.
//!
//! The *control page* is made anew by the lower half at every start and is never part of an image.
//! It is how code of the upper half, which a restart brings back byte for byte, finds the lower
//! half of today: through a slot at a fixed address.

/// First address of the arena, which holds the upper half (with the ranges of a non-PIE program).
pub const ARENA_START: usize = 0x3000_0000_0000;
/// First address after the arena.
pub const ARENA_END: usize = 0x5000_0000_0000;

/// Address of the [`ControlPage`].
pub const CONTROL: usize = ARENA_START;
/// Bytes reserved for the control page and the tables behind it; not saved in images.
pub const CONTROL_LEN: usize = 0x1_0000;
/// Address of the MPI procedure slots: one `usize` per row of the procedure table, in its order.
pub const PROC_SLOTS: usize = CONTROL + 0x1000;
/// How many procedure slots there is room for, up to [`INTERFACE_SLOTS`].
pub const PROC_SLOTS_MAX: usize = 0x7000 / 8 - INTERFACE_SLOTS_MAX;
/// Index of the first slot of the application interface (see `interface`), behind the procedures'.
pub const INTERFACE_SLOTS: usize = PROC_SLOTS_MAX;
/// How many of them there is room for (the table ends at 0x8000).
pub const INTERFACE_SLOTS_MAX: usize = 16;
/// Address of the communicator cache: [`CommCache`] entries, published by the lower half so that
/// `MPI_Comm_rank` and `MPI_Comm_size` need not cross.
pub const COMM_CACHE: usize = CONTROL + 0x8000;
/// Entries of the communicator cache: 0 is MPI_COMM_WORLD, 1 MPI_COMM_SELF, `2 + index` the virtual
/// communicator of that index.
pub const COMM_CACHE_MAX: usize = 0x8000 / 8;

/// Code that must be saved with the upper half: the shim (see `shim`), then the trampolines.
pub const SHIM_CODE: usize = ARENA_START + 0x10_0000;
/// First trampoline; see [`TRAMPOLINE_LEN`].
pub const TRAMPOLINES: usize = SHIM_CODE + 0x1000;
/// Bytes of a trampoline, a power of two.
pub const TRAMPOLINE_LEN: usize = 256;
/// Offset in a trampoline of its own `syscall` instruction and what follows it.
pub const TRAMPOLINE_TAIL: usize = 192;
/// End of the trampolines.
pub const SHIM_CODE_END: usize = SHIM_CODE + 0x10_0000;
/// The lower half's book-keeping about the upper half, saved with it.
pub const SHIM_DATA: usize = ARENA_START + 0x20_0000;
/// Bytes of [`SHIM_DATA`].
pub const SHIM_DATA_LEN: usize = 0x10_0000;
/// The program's signal handlers, at the start of [`SHIM_DATA`]: 65 addresses, by number.
pub const HANDLERS: usize = SHIM_DATA;
/// Bit map of the system calls that generic sites hand to the lower half: 512 bits.
pub const TRAPPED: usize = SHIM_DATA + 0x400;
/// Bit map of the signals whose handler was installed with `SA_RESTART`: 128 bits, by number.
pub const RESTARTING: usize = SHIM_DATA + 0x800;
/// The copied and patched vDSO.
pub const VDSO: usize = ARENA_START + 0x80_0000;
/// Modules of the program (file mappings), in reach of a 32-bit displacement from the trampolines.
pub const MODULES: usize = ARENA_START + 0x100_0000;
/// End of the modules' zone.
pub const MODULES_END: usize = ARENA_START + 0x6000_0000;
/// Top of the main thread's stack.
pub const STACK_TOP: usize = ARENA_START + 0x10_0000_0000;
/// Start of the emulated break.
pub const BREAK: usize = ARENA_START + 0x20_0000_0000;
/// Largest size of the emulated break.
pub const BREAK_MAX: usize = 0x20_0000_0000;
/// Anonymous memory and large file mappings.
pub const ANONYMOUS: usize = ARENA_START + 0x100_0000_0000;

/// "mana-ctl" in memory order.
pub const CONTROL_MAGIC: u64 = u64::from_le_bytes(*b"mana-ctl");
/// Version of everything in this module; an image records the one it was made under.
pub const CONTROL_VERSION: u32 = 3;

/// Head of the control page.
#[repr(C)]
pub struct ControlPage {
    /// [`CONTROL_MAGIC`]
    pub magic: u64,
    /// [`CONTROL_VERSION`]
    pub version: u32,
    /// 1 while this process has FSGSBASE instructions, 0 if FS must be set by `arch_prctl`.
    pub fsgsbase: u32,
    /// Where the system-call trampolines of the upper half jump to.
    pub syscall_entry: usize,
    /// Signal entry (a shim in the arena jumps through it).
    pub signal_entry: usize,
    /// Targets of the patched vDSO: clock_gettime, gettimeofday, time, getcpu, clock_getres,
    /// getrandom; 0 where the kernel has none.
    pub vdso: [usize; 8],
    /// Number of valid entries at [`PROC_SLOTS`].
    pub proc_slots: u64,
    /// Current break of the upper half, for a forked child that has lost the emulation.
    pub brk: usize,
    /// Where the park signal's shim in the arena jumps to.
    pub park_entry: usize,
    /// What the shim asks about a signal that is held back: is it for the program now?
    pub notice_entry: usize,
}

/// One entry of the communicator cache. `size == 0` means "ask the lower half".
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CommCache {
    /// Rank of this process in the communicator.
    pub rank: i32,
    /// Number of processes in it.
    pub size: i32,
}

/// The head of a thread's block, which the GS base of every thread of the upper half points to.
/// It lives in lower memory and is made anew at restart; what must survive goes into the image as
/// part of the thread's record. The stub's assembly uses the offsets in [`thread_block`].
#[repr(C)]
pub struct ThreadBlock {
    /// Address of this block.
    pub me: usize,
    /// FS base of the thread in the upper half.
    pub upper_fs: usize,
    /// FS base of the thread in the lower half.
    pub lower_fs: usize,
    /// Depth of entries into the lower half; parkable only at 0. It is raised *before* any slot,
    /// handle or function pointer of the lower half is loaded, and lowered after FS is back.
    pub in_lower: u64,
    /// Non-zero while a checkpoint wants this thread out of the lower half; looked at on the way out.
    pub pending: u64,
    /// Set by the lower half when a call returned [`AGAIN`]: what the repeated call continues.
    /// Saved with the thread. 0: nothing to continue.
    pub cont: u64,
    /// Second word of `cont`.
    pub cont_arg: u64,
    /// 1 if FS must be set by `arch_prctl` (a copy of `ControlPage::fsgsbase == 0`).
    pub no_fsgsbase: u64,
    /// Number of the last wait entered through an arena trampoline, for the rewind after EINTR.
    pub wait_nr: u64,
    /// Time stamp counter at that entry, for the remainder of a timed wait.
    pub wait_tsc: u64,
    /// Address of the `syscall` instruction a park rewound to: a handler of the program that
    /// arrives exactly there is owed an EINTR. 0: none. With [`REWOUND_BY_KERNEL`] only if that
    /// handler is not `SA_RESTART`.
    pub rewound: u64,
    /// Stack pointer that system-call handling of the lower half starts on.
    pub lower_rsp: usize,
    /// The function of the lower half that handles a trapped system call.
    pub sys_handler: usize,
    /// What a wait for children is made for again by the shim: the first argument of `waitid`.
    pub wait_kind: usize,
    /// Its second argument, in the kernel's numbers.
    pub wait_id: usize,
    /// Its options.
    pub wait_options: usize,
}

/// Byte offsets into [`ThreadBlock`], for assembly.
pub mod thread_block {
    /// `me`
    pub const ME: usize = 0;
    /// `upper_fs`
    pub const UPPER_FS: usize = 8;
    /// `lower_fs`
    pub const LOWER_FS: usize = 16;
    /// `in_lower`
    pub const IN_LOWER: usize = 24;
    /// `pending`
    pub const PENDING: usize = 32;
    /// `cont`
    pub const CONT: usize = 40;
    /// `cont_arg`
    pub const CONT_ARG: usize = 48;
    /// `no_fsgsbase`
    pub const NO_FSGSBASE: usize = 56;
    /// `wait_nr`
    pub const WAIT_NR: usize = 64;
    /// `wait_tsc`
    pub const WAIT_TSC: usize = 72;
    /// `rewound`
    pub const REWOUND: usize = 80;
    /// `lower_rsp`
    pub const LOWER_RSP: usize = 88;
    /// `sys_handler`
    pub const SYS_HANDLER: usize = 96;
    /// `wait_kind`
    pub const WAIT_KIND: usize = 104;
    /// `wait_id`
    pub const WAIT_ID: usize = 112;
    /// `wait_options`
    pub const WAIT_OPTIONS: usize = 120;
}

/// In `ThreadBlock::rewound`: the bit that says that the kernel has rewound a call which handlers with
/// `SA_RESTART` would have restarted too.
pub const REWOUND_BY_KERNEL: u32 = 63;

/// What a procedure slot returns instead of an MPI error code when the caller (the stub, in the
/// upper half) must wait there until the checkpoint is over and then repeat the same call.
pub const AGAIN: i32 = i32::MIN + 0x4d41;

/// Signal that parks threads (SIGSETXID of the C library: programs cannot block it).
pub const PARK_SIGNAL: i32 = 33;
