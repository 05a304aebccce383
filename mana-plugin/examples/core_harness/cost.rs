//! What the core adds to a call: the same loops through the adapter's table and through the core's.

use crate::OPTIONS;
use mpi_std::*;
use std::ffi::c_void;
use std::time::Instant;

const WINDOW: usize = 64;

fn best(name: &str, mut f: impl FnMut(usize)) -> f64 {
    let mut least = f64::MAX;
    for _ in 0..7 {
        let n = OPTIONS.get().map_or(1000, |o| o.rounds as usize);
        let start = Instant::now();
        f(n);
        least = least.min(start.elapsed().as_nanos() as f64 / n as f64);
    }
    let _ = name;
    least
}

unsafe fn window(p: &ProcTable, n: usize) {
    let (a, mut b) = ([1u8; 8], [0u8; 8]);
    let mut r = [MPI_REQUEST_NULL; 2 * WINDOW];
    for _ in 0..n {
        for i in 0..WINDOW {
            unsafe {
                (p.MPI_Irecv)(
                    b.as_mut_ptr().cast(),
                    8,
                    MPI_BYTE,
                    0,
                    1,
                    MPI_COMM_SELF,
                    &mut r[2 * i],
                )
            };
            unsafe {
                (p.MPI_Isend)(
                    a.as_ptr().cast(),
                    8,
                    MPI_BYTE,
                    0,
                    1,
                    MPI_COMM_SELF,
                    &mut r[2 * i + 1],
                )
            };
        }
        unsafe { (p.MPI_Waitall)(2 * WINDOW as i32, r.as_mut_ptr(), std::ptr::null_mut()) };
    }
}

unsafe fn pingpong(p: &ProcTable, n: usize, rank: i32) {
    let mut b = [0u8; 8];
    let at: *mut c_void = b.as_mut_ptr().cast();
    let mut s = Status::EMPTY;
    for _ in 0..n {
        if rank == 0 {
            unsafe { (p.MPI_Send)(at, 8, MPI_BYTE, 1, 1, MPI_COMM_WORLD) };
            unsafe { (p.MPI_Recv)(at, 8, MPI_BYTE, 1, 1, MPI_COMM_WORLD, &mut s) };
        } else if rank == 1 {
            unsafe { (p.MPI_Recv)(at, 8, MPI_BYTE, 0, 1, MPI_COMM_WORLD, &mut s) };
            unsafe { (p.MPI_Send)(at, 8, MPI_BYTE, 0, 1, MPI_COMM_WORLD) };
        }
    }
}

unsafe fn allreduce(p: &ProcTable, n: usize) {
    let (a, mut b) = (1.0f64, 0.0f64);
    for _ in 0..n {
        unsafe {
            (p.MPI_Allreduce)(
                (&raw const a).cast(),
                (&raw mut b).cast(),
                1,
                MPI_DOUBLE,
                MPI_SUM,
                MPI_COMM_SELF,
            )
        };
    }
}

/// Prints nanoseconds a call (a message for the window) without and with the core.
pub extern "C" fn run() -> ! {
    let ours = mana_plugin::procedures();
    let theirs = &crate::table().procs;
    let (mut rank, mut size) = (0, 0);
    unsafe {
        (ours.MPI_Init)(std::ptr::null_mut(), std::ptr::null_mut());
        (ours.MPI_Comm_rank)(MPI_COMM_WORLD, &mut rank);
        (ours.MPI_Comm_size)(MPI_COMM_WORLD, &mut size);
    }
    let mut lines = Vec::new();
    for (name, p) in [
        ("adapter", theirs),
        ("core", ours),
        ("adapter", theirs),
        ("core", ours),
    ] {
        let w = best("window", |n| unsafe { window(p, n / 64) });
        let a = best("allreduce", |n| unsafe { allreduce(p, n) });
        unsafe { (ours.MPI_Barrier)(MPI_COMM_WORLD) };
        let pp = if size > 1 {
            best("pingpong", |n| unsafe { pingpong(p, n, rank) })
        } else {
            0.0
        };
        unsafe { (ours.MPI_Barrier)(MPI_COMM_WORLD) };
        lines.push(format!(
            "{name}: window {w:.1} ns a message, allreduce of one {a:.1} ns, round trip {pp:.1} ns"
        ));
    }
    if rank == 0 {
        for l in lines {
            println!("{l}");
        }
    }
    unsafe { (ours.MPI_Finalize)() };
    std::process::exit(0)
}
