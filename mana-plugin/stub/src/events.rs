//! Functions of the program that events of the tool interface call. Handles are the library's.
//!
//! Upper half, called with the upper half's FS from below; see `mpi_std::StubEntries`.

pub unsafe extern "C" fn event(
    function: usize,
    instance: usize,
    registration: usize,
    safety: i32,
    data: usize,
) -> i32 {
    type Event = unsafe extern "C" fn(usize, usize, i32, usize);
    // SAFETY: `function` is what the program registered.
    unsafe {
        let call: Event = core::mem::transmute(function);
        call(instance, registration, safety, data);
    }
    0
}

pub unsafe extern "C" fn event_free(
    function: usize,
    registration: usize,
    safety: i32,
    data: usize,
) -> i32 {
    type Free = unsafe extern "C" fn(usize, i32, usize);
    // SAFETY: `function` is what the program gave with the registration's end.
    unsafe {
        let call: Free = core::mem::transmute(function);
        call(registration, safety, data);
    }
    0
}

pub unsafe extern "C" fn event_dropped(
    function: usize,
    count: i64,
    registration: usize,
    source: i32,
    safety: i32,
    data: usize,
) -> i32 {
    type Dropped = unsafe extern "C" fn(i64, usize, i32, i32, usize);
    // SAFETY: `function` is what the program set.
    unsafe {
        let call: Dropped = core::mem::transmute(function);
        call(count, registration, source, safety, data);
    }
    0
}
