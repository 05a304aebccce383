//! Drives a built adapter through its table: `mpirun -n 2 exercise path/to/libmana_adapter.so`.
//!
//! Rank 0 prints one line per check and the cost of a call; the exit code is 0 only if every check
//! held on every rank.

use core::ffi::{c_char, c_int, c_void, CStr};
use std::ffi::CString;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::Instant;

use mpi_std::*;

extern "C" {
    fn dlopen(name: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
    fn dlerror() -> *const c_char;
}

static FAILURES: AtomicI32 = AtomicI32::new(0);

fn check(what: &str, ok: bool) {
    if !ok {
        FAILURES.fetch_add(1, Ordering::Relaxed);
        eprintln!("exercise: failed: {what}");
    }
}

fn load(path: &str) -> Result<&'static AdapterTable, String> {
    let path = CString::new(path).map_err(|e| e.to_string())?;
    // SAFETY: plain dlopen and dlsym; RTLD_NOW | RTLD_GLOBAL.
    unsafe {
        let library = dlopen(path.as_ptr(), 0x102);
        if library.is_null() {
            return Err(CStr::from_ptr(dlerror()).to_string_lossy().into_owned());
        }
        let entry = dlsym(library, ADAPTER_SYMBOL.as_ptr());
        if entry.is_null() {
            return Err("no entry".to_owned());
        }
        let entry: extern "C" fn() -> *const AdapterTable = core::mem::transmute(entry);
        Ok(&*entry())
    }
}

/// Sum modulo a prime, to see that the program's function is what is called.
unsafe extern "C" fn modular(
    invec: *mut c_void,
    inoutvec: *mut c_void,
    len: i32,
    datatype: u64,
    slot: u32,
) {
    check("operation's slot", slot == 7);
    check("operation's datatype", datatype == MPI_INT);
    for i in 0..len as usize {
        // SAFETY: `len` ints each.
        unsafe {
            let to = inoutvec.cast::<i32>().add(i);
            *to = (*to + *invec.cast::<i32>().add(i)) % 97;
        }
    }
}

fn address<T>(value: &mut T) -> *mut c_void {
    (&raw mut *value).cast()
}

unsafe fn basics(a: &AdapterTable, rank: i32) {
    let p = &a.procs;
    let stop = AtomicU64::new(0);
    // SAFETY: valid arguments of the procedures throughout.
    unsafe {
        let other = 1 - rank;
        let (mut n, mut status) = (rank, Status::EMPTY);
        let mut request = MPI_REQUEST_NULL;
        status.error = 77;
        if rank == 0 {
            let rc = (a.extras.send_watch)(
                Extras::SEND_STANDARD,
                address(&mut n),
                1,
                MPI_INT,
                1,
                5,
                MPI_COMM_WORLD,
                &mut request,
                &stop,
            );
            check("send", rc == 0 && request == MPI_REQUEST_NULL);
        } else {
            let rc = (a.extras.recv_watch)(
                address(&mut n),
                1,
                MPI_INT,
                MPI_ANY_SOURCE,
                MPI_ANY_TAG,
                MPI_COMM_WORLD,
                &mut request,
                &mut status,
                &stop,
            );
            check("receive", rc == 0 && n == 0);
            check(
                "its status",
                status.source == 0 && status.tag == 5 && status.bytes() == 4 && status.error == 77,
            );
            let mut count = 0;
            (p.MPI_Get_count)(&status, MPI_INT, &mut count);
            check("its count", count == 1);
        }
        // a receive that is asked to stop
        if rank == 0 {
            let mut late = 0i32;
            let stopping = AtomicU64::new(1);
            let rc = (a.extras.recv_watch)(
                address(&mut late),
                1,
                MPI_INT,
                1,
                6,
                MPI_COMM_WORLD,
                &mut request,
                &mut status,
                &stopping,
            );
            check("stopped", rc == Extras::AGAIN && request >= PREDEFINED_END);
            (p.MPI_Barrier)(MPI_COMM_WORLD);
            let rc = (a.extras.wait_watch)(&mut request, &mut status, &stop);
            check(
                "went on",
                rc == 0 && late == 42 && request == MPI_REQUEST_NULL,
            );
        } else {
            (p.MPI_Barrier)(MPI_COMM_WORLD);
            let mut v = 42i32;
            (p.MPI_Send)(address(&mut v), 1, MPI_INT, 0, 6, MPI_COMM_WORLD);
        }
        // many requests at once
        let mut boxes = [[0i32; 4]; 100];
        let mut requests = [MPI_REQUEST_NULL; 200];
        let mut statuses = [Status::EMPTY; 200];
        let mut mine = [0i32; 100];
        for i in 0..100 {
            (p.MPI_Irecv)(
                boxes[i].as_mut_ptr().cast(),
                4,
                MPI_INT,
                other,
                i as i32,
                MPI_COMM_WORLD,
                &mut requests[i],
            );
        }
        for i in 0..100 {
            mine[i] = rank * 1000 + i as i32;
            (p.MPI_Isend)(
                (&raw const mine[i]).cast(),
                1,
                MPI_INT,
                other,
                i as i32,
                MPI_COMM_WORLD,
                &mut requests[100 + i],
            );
        }
        let rc = (a.extras.waitall_watch)(
            200,
            requests.as_mut_ptr(),
            statuses.as_mut_ptr(),
            true,
            &stop,
        );
        check(
            "waitall",
            rc == 0
                && requests.iter().all(|r| *r == MPI_REQUEST_NULL)
                && (0..100).all(|i| {
                    boxes[i][0] == other * 1000 + i as i32
                        && statuses[i].tag == i as i32
                        && statuses[i].bytes() == 4
                }),
        );
        // null ranks, probes, matched receive
        let rc = (p.MPI_Recv)(
            address(&mut n),
            1,
            MPI_INT,
            MPI_PROC_NULL,
            MPI_ANY_TAG,
            MPI_COMM_WORLD,
            &mut status,
        );
        check("null process", rc == 0 && status.source == MPI_PROC_NULL);
        check("its tag", status.tag == MPI_ANY_TAG);
        let mut message = MPI_MESSAGE_NULL;
        if rank == 0 {
            (p.MPI_Ssend)(address(&mut n), 1, MPI_INT, 1, 9, MPI_COMM_WORLD);
        } else {
            (p.MPI_Mprobe)(0, 9, MPI_COMM_WORLD, &mut message, &mut status);
            check("matched", message >= PREDEFINED_END && status.tag == 9);
            (p.MPI_Mrecv)(address(&mut n), 1, MPI_INT, &mut message, &mut status);
            check("matched receive", message == MPI_MESSAGE_NULL);
        }
    }
}

unsafe fn collectives(a: &AdapterTable, rank: i32) {
    let p = &a.procs;
    // SAFETY: valid arguments of the procedures throughout.
    unsafe {
        let (mut x, mut y) = (f64::from(rank + 1), 0.0f64);
        (p.MPI_Allreduce)(
            address(&mut x),
            address(&mut y),
            1,
            MPI_DOUBLE,
            MPI_SUM,
            MPI_COMM_WORLD,
        );
        check("sum", y == 3.0);
        let mut z = x;
        (p.MPI_Allreduce)(
            MPI_IN_PLACE as *const c_void,
            address(&mut z),
            1,
            MPI_DOUBLE,
            MPI_MAX,
            MPI_COMM_WORLD,
        );
        check("in place", z == 2.0);
        let mut op = MPI_OP_NULL;
        check(
            "operation made",
            (a.extras.op_create)(modular, 1, 7, &mut op) == 0 && op >= PREDEFINED_END,
        );
        let (mut i, mut j) = (60, 0);
        (p.MPI_Allreduce)(
            address(&mut i),
            address(&mut j),
            1,
            MPI_INT,
            op,
            MPI_COMM_WORLD,
        );
        check("own operation", j == 120 % 97);
        (p.MPI_Op_free)(&mut op);
        check("operation freed", op == MPI_OP_NULL);
        // alltoallw: arrays of handles
        let (send, mut recv) = ([rank, rank + 10], [-1; 2]);
        let (counts, displs, types) = ([1, 1], [0, 4], [MPI_INT, MPI_INT]);
        let rc = (p.MPI_Alltoallw)(
            send.as_ptr().cast(),
            counts.as_ptr(),
            displs.as_ptr(),
            types.as_ptr(),
            recv.as_mut_ptr().cast(),
            counts.as_ptr(),
            displs.as_ptr(),
            types.as_ptr(),
            MPI_COMM_WORLD,
        );
        check("alltoallw", rc == 0 && recv == [rank * 10, rank * 10 + 1]);
    }
}

unsafe fn objects(a: &AdapterTable, rank: i32) {
    let p = &a.procs;
    // SAFETY: valid arguments of the procedures throughout.
    unsafe {
        let mut half = MPI_COMM_NULL;
        let color = if rank == 0 { 0 } else { MPI_UNDEFINED };
        (p.MPI_Comm_split)(MPI_COMM_WORLD, color, 0, &mut half);
        check("split", (rank == 0) == (half != MPI_COMM_NULL));
        let mut dup = MPI_COMM_NULL;
        let mut result = 0;
        (p.MPI_Comm_dup)(MPI_COMM_WORLD, &mut dup);
        (p.MPI_Comm_compare)(MPI_COMM_WORLD, dup, &mut result);
        check("compare", result == MPI_CONGRUENT);
        // an error comes back as a class, also on a new communicator
        let mut n = 0i32;
        let rc = (p.MPI_Send)(address(&mut n), 1, MPI_INT, 99, 0, dup);
        check("error class", rc == MPI_ERR_RANK);
        let rc = (p.MPI_Send)(address(&mut n), -1, MPI_INT, 0, 0, dup);
        check("another", rc == MPI_ERR_COUNT);
        let mut text = [0 as c_char; 600];
        (a.extras.error_string)(MPI_ERR_TRUNCATE, text.as_mut_ptr(), text.len());
        check(
            "error text",
            CStr::from_ptr(text.as_ptr()).to_bytes().len() > 5,
        );
        // topology
        let mut cart = MPI_COMM_NULL;
        (p.MPI_Cart_create)(MPI_COMM_WORLD, 1, [2].as_ptr(), [0].as_ptr(), 0, &mut cart);
        let (mut left, mut right, mut kind) = (0, 0, 0);
        (p.MPI_Cart_shift)(cart, 0, 1, &mut left, &mut right);
        check(
            "shift",
            (left, right)
                == if rank == 0 {
                    (MPI_PROC_NULL, 1)
                } else {
                    (0, MPI_PROC_NULL)
                },
        );
        (p.MPI_Topo_test)(cart, &mut kind);
        check("topology", kind == MPI_CART);
        // groups
        let (mut world, mut one) = (MPI_GROUP_NULL, MPI_GROUP_NULL);
        (p.MPI_Comm_group)(MPI_COMM_WORLD, &mut world);
        (p.MPI_Group_incl)(world, 1, [1].as_ptr(), &mut one);
        let mut ranks = [0; 2];
        (p.MPI_Group_translate_ranks)(
            world,
            2,
            [0, MPI_PROC_NULL].as_ptr(),
            one,
            ranks.as_mut_ptr(),
        );
        check("translated", ranks == [MPI_UNDEFINED, MPI_PROC_NULL]);
        let mut none = MPI_GROUP_NULL;
        (p.MPI_Group_incl)(world, 0, [0].as_ptr(), &mut none);
        check("empty group", none == MPI_GROUP_EMPTY);
        // datatypes
        let (mut column, mut size, mut combiner) = (MPI_DATATYPE_NULL, 0, 0);
        (p.MPI_Type_vector)(3, 1, 4, MPI_INT, &mut column);
        (p.MPI_Type_commit)(&mut column);
        (p.MPI_Type_size)(column, &mut size);
        check("vector", size == 12);
        let (mut ni, mut na, mut nd) = (0, 0, 0);
        (p.MPI_Type_get_envelope)(column, &mut ni, &mut na, &mut nd, &mut combiner);
        check(
            "envelope",
            combiner == MPI_COMBINER_VECTOR && (ni, na, nd) == (3, 0, 1),
        );
        let (mut ints, mut types) = ([0; 3], [0; 1]);
        (p.MPI_Type_get_contents)(
            column,
            3,
            0,
            1,
            ints.as_mut_ptr(),
            core::ptr::null_mut(),
            types.as_mut_ptr(),
        );
        check("contents", ints == [3, 1, 4] && types == [MPI_INT]);
        let mut wrapped = MPI_DATATYPE_NULL;
        let rc = (p.MPI_Type_create_struct)(
            2,
            [1, 1].as_ptr(),
            [0i64, 64].as_ptr(),
            [MPI_DOUBLE, column].as_ptr(),
            &mut wrapped,
        );
        (p.MPI_Type_size)(wrapped, &mut size);
        check("structure", rc == 0 && size == 20);
        let mut matrix: [i32; 12] = core::array::from_fn(|i| i as i32 + 100 * rank);
        let mut status = Status::EMPTY;
        let before = matrix;
        let rc = (p.MPI_Sendrecv_replace)(
            matrix.as_mut_ptr().cast(),
            1,
            column,
            1 - rank,
            3,
            1 - rank,
            3,
            MPI_COMM_WORLD,
            &mut status,
        );
        check(
            "columns exchanged",
            rc == 0 && matrix[4] == before[4] + 100 * (1 - 2 * rank) && matrix[1] == before[1],
        );
        for d in PREDEFINED_DATATYPES {
            let rc = (p.MPI_Type_size)(d.handle, &mut size);
            if rc == 0 && size != d.size as i32 {
                check(d.name, false);
            }
        }
        (p.MPI_Type_free)(&mut wrapped);
        (p.MPI_Type_free)(&mut column);
        check("freed", column == MPI_DATATYPE_NULL);
        let (mut bound, mut flag): (*mut i32, i32) = (core::ptr::null_mut(), 0);
        let rc = (p.MPI_Comm_get_attr)(MPI_COMM_WORLD, MPI_TAG_UB, address(&mut bound), &mut flag);
        check("upper bound", rc == 0 && flag == 1 && *bound >= 32767);
        (p.MPI_Comm_free)(&mut cart);
        (p.MPI_Comm_free)(&mut dup);
        check("communicator freed", dup == MPI_COMM_NULL);
    }
}

unsafe fn costs(a: &AdapterTable, rank: i32) {
    const ROUNDS: usize = 20_000;
    let p = &a.procs;
    let stop = AtomicU64::new(0);
    let (mut n, mut request, mut status) = (0u64, MPI_REQUEST_NULL, Status::EMPTY);
    let measure = |name: &str, mut f: Box<dyn FnMut() + '_>| {
        let mut best = f64::INFINITY;
        for _ in 0..5 {
            // SAFETY: a barrier of the world.
            unsafe { (p.MPI_Barrier)(MPI_COMM_WORLD) };
            let t = Instant::now();
            for _ in 0..ROUNDS {
                f();
            }
            best = best.min(t.elapsed().as_nanos() as f64 / ROUNDS as f64);
        }
        if rank == 0 {
            println!("{name}: {best:.1} ns");
        }
    };
    // SAFETY: valid arguments of the procedures throughout.
    unsafe {
        let mut r = 0;
        measure(
            "MPI_Comm_rank",
            Box::new(move || {
                (p.MPI_Comm_rank)(MPI_COMM_WORLD, &mut r);
            }),
        );
        let mut s = Status::EMPTY;
        let mut flag = 0;
        measure(
            "MPI_Iprobe",
            Box::new(move || {
                (p.MPI_Iprobe)(MPI_ANY_SOURCE, 3, MPI_COMM_WORLD, &mut flag, &mut s);
            }),
        );
        let (mut x, mut y) = (1.0f64, 0.0f64);
        measure(
            "MPI_Allreduce, one double",
            Box::new(move || {
                (p.MPI_Allreduce)(
                    address(&mut x),
                    address(&mut y),
                    1,
                    MPI_DOUBLE,
                    MPI_SUM,
                    MPI_COMM_WORLD,
                );
            }),
        );
        measure(
            "8 byte round trip",
            Box::new(move || {
                let b = address(&mut n);
                for turn in 0..2 {
                    if turn == rank {
                        (a.extras.send_watch)(
                            0,
                            b,
                            1,
                            MPI_UINT64_T,
                            1 - rank,
                            0,
                            MPI_COMM_WORLD,
                            &mut request,
                            &stop,
                        );
                    } else {
                        (a.extras.recv_watch)(
                            b,
                            1,
                            MPI_UINT64_T,
                            1 - rank,
                            0,
                            MPI_COMM_WORLD,
                            &mut request,
                            &mut status,
                            &stop,
                        );
                    }
                }
            }),
        );
    }
}

fn main() {
    let path = std::env::args().nth(1).unwrap_or_default();
    let a = match load(&path) {
        Ok(a) => a,
        Err(e) => {
            eprintln!("exercise: {path}: {e}");
            std::process::exit(2);
        }
    };
    check(
        "magic",
        a.magic == ADAPTER_MAGIC && a.version == ADAPTER_VERSION,
    );
    let p = &a.procs;
    let (mut rank, mut level) = (0, 0);
    // SAFETY: valid arguments of the procedures throughout.
    unsafe {
        (p.MPI_Init_thread)(
            core::ptr::null_mut(),
            core::ptr::null_mut(),
            MPI_THREAD_MULTIPLE,
            &mut level,
        );
        (p.MPI_Comm_rank)(MPI_COMM_WORLD, &mut rank);
        let mut text = vec![0 as c_char; MPI_MAX_LIBRARY_VERSION_STRING as usize];
        let mut len = 0;
        (p.MPI_Get_library_version)(text.as_mut_ptr(), &mut len);
        if rank == 0 {
            let text = CStr::from_ptr(text.as_ptr()).to_string_lossy();
            println!("{:?}: {}", a.family, text.lines().next().unwrap_or(""));
        }
        basics(a, rank);
        collectives(a, rank);
        objects(a, rank);
        let mine = FAILURES.load(Ordering::Relaxed);
        let (mut send, mut all) = (mine, 0);
        (p.MPI_Allreduce)(
            address(&mut send),
            address(&mut all),
            1,
            MPI_INT,
            MPI_SUM,
            MPI_COMM_WORLD,
        );
        if rank == 0 {
            println!("failed checks: {all}");
        }
        costs(a, rank);
        check("finalize", (p.MPI_Finalize)() == 0);
        std::process::exit(i32::from(all != 0));
    }
}
