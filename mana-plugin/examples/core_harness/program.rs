//! The program: seeded random communication that checks every byte, the order per (sender, tag,
//! communicator), and every collective's result, and ends in a hash that depends on nothing but seed,
//! rounds and number of ranks. Nothing here uses the heap; everything is in the region.

use crate::control;
use crate::{region, OPTIONS};
use mana_raw::layout::AGAIN;
use mpi_std::*;
use std::ffi::c_void;
use std::sync::atomic::Ordering;

/// Communicators in all.
const COMMS: usize = 6;
/// Those of the messages with wildcards; the last one is the ring's alone.
const MIXED: usize = 5;
const RANKS: usize = 16;
const TAGS: usize = 3;
const PER_ROUND: usize = 3;
const SLOTS: usize = 48;
const SLOT: usize = 300_000;

#[repr(C)]
struct Data {
    seed: u64,
    rounds: u64,
    comms: [u64; COMMS],
    sizes: [i32; COMMS],
    ranks: [i32; COMMS],
    /// World rank of each member.
    members: [[i32; RANKS]; COMMS],
    sent: [[[u32; TAGS]; RANKS]; COMMS],
    received: [[[u32; TAGS]; RANKS]; COMMS],
    hash: u64,
    op: u64,
    vector: u64,
    key: i32,
    out: [[u8; SLOT]; PER_ROUND],
    inn: [[u8; SLOT]; SLOTS],
    statuses: [Status; SLOTS],
    buffer: [u8; 4 << 20],
}

fn d() -> &'static mut Data {
    region::data()
}

fn p() -> &'static ProcTable {
    mana_plugin::procedures()
}

/// Calls MPI as the stub does: parks when a checkpoint wants it, repeats after `AGAIN`.
fn call(name: &str, mut f: impl FnMut() -> i32) -> i32 {
    loop {
        let rc = f();
        if rc == AGAIN || control::PENDING.load(Ordering::SeqCst) != 0 {
            control::park();
        }
        if rc == AGAIN {
            continue;
        }
        if rc != MPI_SUCCESS {
            fail(name, rc as u64);
        }
        return rc;
    }
}

fn fail(what: &str, value: u64) -> ! {
    eprintln!("harness: rank {} FAILED: {what} ({value})", control::rank());
    std::process::abort();
}

macro_rules! mpi {
    ($name:ident($($arg:expr),* $(,)?)) => {
        call(stringify!($name), || unsafe { (p().$name)($($arg),*) })
    };
}

fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

#[derive(Clone, Copy)]
struct Plan {
    comm: usize,
    dest: usize,
    tag: usize,
    len: usize,
    mode: u64,
}

/// Message `k` of world rank `from` in a round; the destination is a rank of the communicator, which
/// has to be one the sender is in.
fn plan(round: u64, from: usize, k: usize, size: usize) -> Plan {
    let r = mix(d().seed ^ mix(round << 20 | (from as u64) << 8 | k as u64));
    let comm = (r % MIXED as u64) as usize;
    let members = match comm {
        2 => size.div_ceil(2) - (from % 2) * (size % 2),
        _ => size,
    };
    let len = match (r >> 8) % 16 {
        0 => 250_000,
        1..=3 => 40_000 + (r >> 16) as usize % 40_000,
        4..=6 => 4_000 + (r >> 16) as usize % 4_000,
        _ => 40 + (r >> 16) as usize % 400,
    };
    Plan {
        comm,
        dest: (r >> 32) as usize % members,
        tag: (r >> 40) as usize % TAGS,
        len,
        mode: (r >> 48) % 6,
    }
}

fn byte(seed: u64, i: usize) -> u8 {
    (seed.wrapping_mul(i as u64 | 1) >> 24) as u8
}

fn fill(buf: &mut [u8], head: [u64; 4]) {
    for (chunk, h) in buf.chunks_exact_mut(8).zip(head) {
        chunk.copy_from_slice(&h.to_le_bytes());
    }
    let seed = mix(head[0] ^ head[1] ^ head[2] ^ head[3]);
    for (i, b) in buf.iter_mut().enumerate().skip(32) {
        *b = byte(seed, i);
    }
}

/// Checks a received message and adds it to the hash, in a way that does not depend on the order.
fn check(comm: usize, slot: usize) {
    let d = d();
    let s = d.statuses[slot];
    let len = s.bytes() as usize;
    if !(32..=SLOT).contains(&len) {
        fail("length", len as u64);
    }
    let buf = &d.inn[slot][..len];
    let word = |i: usize| u64::from_le_bytes(buf[i * 8..i * 8 + 8].try_into().unwrap_or_default());
    let head = [word(0), word(1), word(2), word(3)];
    let seed = mix(head[0] ^ head[1] ^ head[2] ^ head[3]);
    if let Some(i) = (32..len).find(|&i| buf[i] != byte(seed, i)) {
        eprintln!("slot {slot} of communicator {comm}, {len} bytes, head {head:x?}, status {s:?}");
        fail("content", i as u64);
    }
    let (source, tag) = (s.source as usize, s.tag as usize);
    let want = d.received[comm][source][tag];
    d.received[comm][source][tag] += 1;
    if head[0] != (comm as u64) << 32 | (source as u64) << 8 | tag as u64 {
        fail("envelope", head[0]);
    }
    if head[1] != want as u64 {
        eprintln!("wanted message {want} of rank {source} tag {tag} on communicator {comm}");
        fail("order", head[1]);
    }
    if head[2] != len as u64 {
        fail("size", head[2]);
    }
    d.hash = d
        .hash
        .wrapping_add(mix(head[0] ^ mix(head[1]) ^ mix(head[2] << 7)));
}

extern "C" fn combine(_f: usize, a: *mut u8, b: *mut u8, len: i32, _type: u64, _op: u64) -> i32 {
    let (a, b) = (a.cast::<u64>(), b.cast::<u64>());
    for i in 0..len as usize {
        unsafe {
            *b.add(i) = (*a.add(i))
                .wrapping_mul(3)
                .wrapping_add((*b.add(i)).wrapping_mul(5))
        };
    }
    0
}

extern "C" fn copy(c: *mut CopyCall) -> i32 {
    unsafe {
        (*c).flag = 1;
        (*c).value_out = (*c).value_in + 1;
    }
    0
}

extern "C" fn delete(_c: *mut DeleteCall) -> i32 {
    0
}

extern "C" fn handler(_f: usize, _object: u64, _code: i32, _handler: u64) -> i32 {
    0
}

extern "C" fn query(_f: usize, _extra: usize, _s: *mut Status) -> i32 {
    0
}

extern "C" fn free(_f: usize, _extra: usize) -> i32 {
    0
}

extern "C" fn cancel(_f: usize, _extra: usize, _complete: i32) -> i32 {
    0
}

extern "C" fn poll(_f: usize, _extra: usize, _status: *mut Status) -> i32 {
    0
}

extern "C" fn wait(_f: usize, _extra: usize) -> i32 {
    0
}

extern "C" fn event(_f: usize, _instance: usize, _at: usize, _safety: i32, _data: usize) -> i32 {
    0
}

extern "C" fn event_free(_f: usize, _at: usize, _safety: i32, _data: usize) -> i32 {
    0
}

extern "C" fn event_dropped(
    _f: usize,
    _n: i64,
    _at: usize,
    _s: i32,
    _safety: i32,
    _d: usize,
) -> i32 {
    0
}

static STUB: StubEntries = StubEntries {
    magic: STUB_MAGIC,
    version: STUB_VERSION,
    size: std::mem::size_of::<StubEntries>() as u32,
    op: combine,
    copy,
    delete,
    errhandler: handler,
    grequest_query: query,
    grequest_free: free,
    grequest_cancel: cancel,
    grequest_poll: poll,
    grequest_wait: wait,
    event,
    event_free,
    event_dropped,
};

fn setup() {
    let options = OPTIONS.get().expect("options");
    let d = d();
    d.seed = options.seed;
    d.rounds = options.rounds;
    let register: RegisterStub = unsafe { std::mem::transmute(crate::slots()[REGISTER_STUB]) };
    if unsafe { register(&STUB) } != 0 {
        fail("register", 0);
    }
    mpi!(MPI_Init(std::ptr::null_mut(), std::ptr::null_mut()));
    let (mut rank, mut size) = (0, 0);
    mpi!(MPI_Comm_rank(MPI_COMM_WORLD, &mut rank));
    mpi!(MPI_Comm_size(MPI_COMM_WORLD, &mut size));
    if size as usize > RANKS {
        fail("ranks", size as u64);
    }
    d.comms[0] = MPI_COMM_WORLD;
    mpi!(MPI_Comm_dup(MPI_COMM_WORLD, &mut d.comms[1]));
    mpi!(MPI_Comm_split(
        MPI_COMM_WORLD,
        rank % 2,
        rank,
        &mut d.comms[2]
    ));
    let dims = if size % 2 == 0 {
        [2, size / 2]
    } else {
        [1, size]
    };
    mpi!(MPI_Cart_create(
        MPI_COMM_WORLD,
        2,
        dims.as_ptr(),
        [1, 0].as_ptr(),
        0,
        &mut d.comms[3]
    ));
    let (mut all, mut reversed, mut passing) = (0, 0, MPI_COMM_NULL);
    mpi!(MPI_Comm_group(MPI_COMM_WORLD, &mut all));
    mpi!(MPI_Group_range_incl(
        all,
        1,
        [size - 1, 0, -1].as_ptr(),
        &mut reversed
    ));
    mpi!(MPI_Comm_create(MPI_COMM_WORLD, reversed, &mut passing));
    mpi!(MPI_Comm_create_group(passing, reversed, 5, &mut d.comms[4]));
    mpi!(MPI_Comm_free(&mut passing));
    mpi!(MPI_Group_free(&mut all));
    mpi!(MPI_Group_free(&mut reversed));
    mpi!(MPI_Comm_dup(d.comms[3], &mut d.comms[5]));
    let mut world = 0;
    mpi!(MPI_Comm_group(MPI_COMM_WORLD, &mut world));
    for c in 0..COMMS {
        mpi!(MPI_Comm_rank(d.comms[c], &mut d.ranks[c]));
        mpi!(MPI_Comm_size(d.comms[c], &mut d.sizes[c]));
        let mut group = 0;
        mpi!(MPI_Comm_group(d.comms[c], &mut group));
        let mut all = [0i32; RANKS];
        for (i, a) in all.iter_mut().enumerate() {
            *a = i as i32;
        }
        mpi!(MPI_Group_translate_ranks(
            group,
            d.sizes[c],
            all.as_ptr(),
            world,
            d.members[c].as_mut_ptr()
        ));
        mpi!(MPI_Group_free(&mut group));
    }
    mpi!(MPI_Group_free(&mut world));
    mpi!(MPI_Op_create(std::ptr::dangling_mut(), 0, &mut d.op));
    mpi!(MPI_Type_vector(5, 3, 7, MPI_INT, &mut d.vector));
    mpi!(MPI_Type_commit(&mut d.vector));
    mpi!(MPI_Buffer_attach(
        d.buffer.as_ptr().cast(),
        d.buffer.len() as i32
    ));
    mpi!(MPI_Comm_create_keyval(
        std::ptr::null_mut(),
        std::ptr::null_mut(),
        &mut d.key,
        std::ptr::null()
    ));
    mpi!(MPI_Comm_set_attr(d.comms[1], d.key, 41 as *const c_void));
    mpi!(MPI_Comm_set_name(d.comms[1], c"second".as_ptr()));
}

/// How many messages of this round come to this rank on communicator `c`.
fn incoming(round: u64, c: usize) -> usize {
    let d = d();
    let size = d.sizes[0] as usize;
    let mut n = 0;
    for from in 0..size {
        for k in 0..PER_ROUND {
            let m = plan(round, from, k, size);
            // A split communicator has two colours: only senders of ours count.
            if m.comm == c
                && m.dest == d.ranks[c] as usize
                && (c != 2 || from % 2 == d.ranks[0] as usize % 2)
            {
                n += 1;
            }
        }
    }
    n
}

fn messages(round: u64) {
    let d = d();
    let size = d.sizes[0] as usize;
    let me = d.ranks[0] as usize;
    let mut posted = [MPI_REQUEST_NULL; SLOTS];
    let mut of = [0usize; SLOTS];
    let mut n = 0;
    // Some receives are posted before anything is sent.
    let mut left = [0usize; MIXED];
    for c in 0..MIXED {
        let total = incoming(round, c);
        let early = (mix(d.seed ^ round ^ (me as u64) << 32 ^ (c as u64) << 40)
            % (total as u64 + 1)) as usize;
        for _ in 0..early {
            if n % 3 == 2 {
                mpi!(MPI_Recv_init(
                    d.inn[n].as_mut_ptr().cast(),
                    SLOT as i32,
                    MPI_BYTE,
                    MPI_ANY_SOURCE,
                    MPI_ANY_TAG,
                    d.comms[c],
                    &mut posted[n]
                ));
                mpi!(MPI_Start(&mut posted[n]));
            } else {
                mpi!(MPI_Irecv(
                    d.inn[n].as_mut_ptr().cast(),
                    SLOT as i32,
                    MPI_BYTE,
                    MPI_ANY_SOURCE,
                    MPI_ANY_TAG,
                    d.comms[c],
                    &mut posted[n]
                ));
            }
            of[n] = c;
            n += 1;
        }
        left[c] = total - early;
    }
    let early = n;
    let mut sends = [MPI_REQUEST_NULL; PER_ROUND];
    for k in 0..PER_ROUND {
        let m = plan(round, me, k, size);
        let number = d.sent[m.comm][m.dest][m.tag];
        d.sent[m.comm][m.dest][m.tag] += 1;
        let head = [
            (m.comm as u64) << 32 | (d.ranks[m.comm] as u64) << 8 | m.tag as u64,
            number as u64,
            m.len as u64,
            round,
        ];
        fill(&mut d.out[k][..m.len], head);
        let (buf, n, dest, tag, comm) = (
            d.out[k].as_ptr().cast(),
            m.len as i32,
            m.dest as i32,
            m.tag as i32,
            d.comms[m.comm],
        );
        let request = &mut sends[k];
        match m.mode {
            0 => mpi!(MPI_Issend(buf, n, MPI_BYTE, dest, tag, comm, request)),
            1 => mpi!(MPI_Bsend(buf, n, MPI_BYTE, dest, tag, comm)),
            2 => {
                mpi!(MPI_Send_init(buf, n, MPI_BYTE, dest, tag, comm, request));
                mpi!(MPI_Start(request))
            }
            _ => mpi!(MPI_Isend(buf, n, MPI_BYTE, dest, tag, comm, request)),
        };
    }
    for c in 0..MIXED {
        for _ in 0..left[c] {
            late(round, c, n);
            of[n] = c;
            n += 1;
        }
    }
    // Two of the ways to wait for several.
    if round % 2 == 0 {
        mpi!(MPI_Waitall(
            early as i32,
            posted.as_mut_ptr(),
            d.statuses.as_mut_ptr()
        ));
    } else {
        for _ in 0..early {
            let (mut which, mut s) = (0, Status::EMPTY);
            mpi!(MPI_Waitany(
                early as i32,
                posted.as_mut_ptr(),
                &mut which,
                &mut s
            ));
            d.statuses[which as usize] = s;
        }
    }
    for slot in 0..n {
        check(of[slot], slot);
    }
    mpi!(MPI_Waitall(
        PER_ROUND as i32,
        sends.as_mut_ptr(),
        std::ptr::null_mut()
    ));
    for r in posted
        .iter_mut()
        .chain(sends.iter_mut())
        .filter(|r| **r != MPI_REQUEST_NULL)
    {
        mpi!(MPI_Request_free(r));
    }
}

/// One receive after the sends, in one of several ways.
fn late(round: u64, c: usize, slot: usize) {
    let d = d();
    let comm = d.comms[c];
    let buf: *mut c_void = d.inn[slot].as_mut_ptr().cast();
    let s = &mut d.statuses[slot];
    match (round + slot as u64) % 4 {
        0 => {
            mpi!(MPI_Recv(
                buf,
                SLOT as i32,
                MPI_BYTE,
                MPI_ANY_SOURCE,
                MPI_ANY_TAG,
                comm,
                s
            ));
        }
        1 => {
            mpi!(MPI_Probe(MPI_ANY_SOURCE, MPI_ANY_TAG, comm, s));
            mpi!(MPI_Recv(
                buf,
                s.bytes() as i32,
                MPI_BYTE,
                s.source,
                s.tag,
                comm,
                s
            ));
        }
        2 => {
            let mut message = MPI_MESSAGE_NULL;
            mpi!(MPI_Mprobe(
                MPI_ANY_SOURCE,
                MPI_ANY_TAG,
                comm,
                &mut message,
                s
            ));
            mpi!(MPI_Mrecv(buf, s.bytes() as i32, MPI_BYTE, &mut message, s));
        }
        _ => {
            let mut flag = 0;
            while flag == 0 {
                mpi!(MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, comm, &mut flag, s));
            }
            let mut request = MPI_REQUEST_NULL;
            mpi!(MPI_Irecv(
                buf,
                SLOT as i32,
                MPI_BYTE,
                s.source,
                s.tag,
                comm,
                &mut request
            ));
            mpi!(MPI_Wait(&mut request, s));
        }
    }
}

fn ring(round: u64) {
    let d = d();
    let c = 5;
    let (mut from, mut to) = (0, 0);
    mpi!(MPI_Cart_shift(
        d.comms[c],
        (round % 2) as i32,
        1,
        &mut from,
        &mut to
    ));
    let mut out = [0i32; 40];
    let mut inn = [-1i32; 40];
    for (i, o) in out.iter_mut().enumerate() {
        *o = d.ranks[c] * 1000 + i as i32 + round as i32;
    }
    let mut s = Status::EMPTY;
    mpi!(MPI_Sendrecv(
        out.as_ptr().cast(),
        1,
        d.vector,
        to,
        9,
        inn.as_mut_ptr().cast(),
        1,
        d.vector,
        from,
        9,
        d.comms[c],
        &mut s
    ));
    for (i, v) in inn.iter().enumerate() {
        let inside = i < 31 && i % 7 < 3 && from != MPI_PROC_NULL;
        let want = if inside {
            from * 1000 + i as i32 + round as i32
        } else {
            -1
        };
        if *v != want {
            fail("vector", i as u64);
        }
    }
    mpi!(MPI_Sendrecv_replace(
        out.as_mut_ptr().cast(),
        40,
        MPI_INT,
        to,
        8,
        from,
        8,
        d.comms[c],
        &mut s
    ));
    if from != MPI_PROC_NULL && out[0] != from * 1000 + round as i32 {
        fail("sendrecv_replace", out[0] as u64);
    }
}

fn collectives(round: u64) {
    let d = d();
    let one = |x: u64| [mix(x), mix(x + 1)];
    let mut out = [0u64; 2];
    let a = one(round << 8 | d.ranks[0] as u64);
    let mut early = [0u64; 2];
    let mut request = MPI_REQUEST_NULL;
    mpi!(MPI_Iallreduce(
        a.as_ptr().cast(),
        early.as_mut_ptr().cast(),
        2,
        MPI_UINT64_T,
        MPI_SUM,
        d.comms[4],
        &mut request
    ));
    mpi!(MPI_Allreduce(
        a.as_ptr().cast(),
        out.as_mut_ptr().cast(),
        2,
        MPI_UINT64_T,
        d.op,
        MPI_COMM_WORLD
    ));
    d.hash = d.hash.wrapping_add(mix(out[0] ^ out[1] ^ round));
    let mut b = if d.ranks[2] == 0 { a } else { [0; 2] };
    mpi!(MPI_Bcast(
        b.as_mut_ptr().cast(),
        2,
        MPI_UINT64_T,
        0,
        d.comms[2]
    ));
    if b != one(round << 8 | d.members[2][0] as u64) {
        fail("bcast", b[0]);
    }
    let size = d.sizes[1] as usize;
    let mut from = [0u64; RANKS];
    let mut to = [0u64; RANKS];
    for (i, t) in to.iter_mut().enumerate().take(size) {
        *t = round * 10_000 + d.ranks[1] as u64 * 100 + i as u64;
    }
    mpi!(MPI_Alltoall(
        to.as_ptr().cast(),
        1,
        MPI_UINT64_T,
        from.as_mut_ptr().cast(),
        1,
        MPI_UINT64_T,
        d.comms[1]
    ));
    for (i, f) in from.iter().enumerate().take(size) {
        if *f != round * 10_000 + i as u64 * 100 + d.ranks[1] as u64 {
            fail("alltoall", *f);
        }
    }
    mpi!(MPI_Wait(&mut request, std::ptr::null_mut()));
    let mut want = [0u64; 2];
    for r in 0..d.sizes[0] as u64 {
        let x = one(round << 8 | r);
        want = [want[0].wrapping_add(x[0]), want[1].wrapping_add(x[1])];
    }
    if early != want {
        fail("iallreduce", early[0]);
    }
    if round % 5 == 0 {
        let mut new = MPI_COMM_NULL;
        mpi!(MPI_Comm_dup(d.comms[1], &mut new));
        let (mut value, mut flag) = (0usize, 0);
        mpi!(MPI_Comm_get_attr(
            new,
            d.key,
            (&raw mut value).cast(),
            &mut flag
        ));
        if flag != 1 || value != 42 {
            fail("attribute", value as u64);
        }
        mpi!(MPI_Barrier(new));
        // Freed in an order that differs between the members; nobody may wait for another.
        let mut other = MPI_COMM_NULL;
        mpi!(MPI_Comm_split(d.comms[3], 0, -d.ranks[3], &mut other));
        let odd = d.ranks[0] % 2 == 1;
        mpi!(MPI_Comm_free(if odd { &mut new } else { &mut other }));
        mpi!(MPI_Allreduce(
            a.as_ptr().cast(),
            out.as_mut_ptr().cast(),
            2,
            MPI_UINT64_T,
            MPI_SUM,
            d.comms[2]
        ));
        mpi!(MPI_Comm_free(if odd { &mut other } else { &mut new }));
    }
    if round % 3 == 0 {
        let mut barrier = MPI_REQUEST_NULL;
        mpi!(MPI_Ibarrier(d.comms[3], &mut barrier));
        let mut done = 0;
        while done == 0 {
            mpi!(MPI_Test(&mut barrier, &mut done, std::ptr::null_mut()));
        }
    }
}

pub extern "C" fn run() -> ! {
    setup();
    let d = d();
    for round in 0..d.rounds {
        messages(round);
        ring(round);
        collectives(round);
    }
    let mut total = 0u64;
    mpi!(MPI_Reduce(
        (&raw const d.hash).cast(),
        (&raw mut total).cast(),
        1,
        MPI_UINT64_T,
        MPI_SUM,
        0,
        MPI_COMM_WORLD
    ));
    let (mut at, mut size) = (0usize, 0);
    mpi!(MPI_Buffer_detach((&raw mut at).cast(), &mut size));
    if at != d.buffer.as_ptr() as usize {
        fail("buffer", at as u64);
    }
    mpi!(MPI_Type_free(&mut d.vector));
    mpi!(MPI_Op_free(&mut d.op));
    if d.ranks[0] == 0 {
        println!("hash {total:016x}");
    }
    mpi!(MPI_Finalize());
    std::process::exit(0)
}
