//! Kernel, processor, C library, limits, clock, network.

use std::ffi::CStr;

use nix::net::if_::InterfaceFlags;
use nix::sys::resource::{getrlimit, Resource, RLIM_INFINITY};

use super::Findings;
use crate::view::size;

/// First and last address that the program's half needs.
const ARENA: std::ops::Range<usize> = 0x3000_0000_0000..0x5000_0000_0000;
/// Bit of `AT_HWCAP2` that says the kernel lets programs use the FSGSBASE instructions.
const HWCAP2_FSGSBASE: libc::c_ulong = 1 << 1;

pub fn look() -> Findings {
    let mut found = Findings::new("system");
    kernel(&mut found);
    processor(&mut found);
    library(&mut found);
    addresses(&mut found);
    barrier(&mut found);
    memory(&mut found);
    limits(&mut found);
    clock(&mut found);
    network(&mut found);
    found
}

/// "6.1.0-17-amd64" is (6, 1).
fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn kernel(found: &mut Findings) {
    let Ok(name) = nix::sys::utsname::uname() else {
        return;
    };
    let release = name.release().to_string_lossy().into_owned();
    match version(&release) {
        Some(v) if v >= (4, 18) => found.ok("kernel", release),
        _ => found.no(
            "kernel",
            format!("{release}, and 4.18 is the oldest that can do what is needed"),
            "run on nodes with a newer kernel",
        ),
    }
    if name.machine() != "x86_64" {
        found.no(
            "processor",
            name.machine().to_string_lossy().into_owned(),
            "only x86-64 is supported",
        );
    }
}

fn processor(found: &mut Findings) {
    // SAFETY: getauxval has no preconditions.
    let capabilities = unsafe { libc::getauxval(libc::AT_HWCAP2) };
    if capabilities & HWCAP2_FSGSBASE != 0 {
        found.ok("FSGSBASE", "the halves are switched in a few nanoseconds");
    } else {
        found.warning(
            "FSGSBASE",
            "not there: each MPI call costs some 150 ns more",
            "a kernel from 5.9 on, not started with 'nofsgsbase'; jobs run all the same",
        );
    }
}

fn library(found: &mut Findings) {
    // SAFETY: returns a string constant of the C library.
    let text = unsafe { CStr::from_ptr(libc::gnu_get_libc_version()) };
    let text = text.to_string_lossy().into_owned();
    match version(&text) {
        Some(v) if v < (2, 28) => found.no(
            "glibc",
            format!("{text}, and 2.28 is the oldest that is supported"),
            "use a newer release of the distribution, or a container with one",
        ),
        Some((2, 31 | 36 | 41)) => found.ok("glibc", text),
        _ => found.warning(
            "glibc",
            format!("{text}: never run by the project (2.31, 2.36 and 2.41 were)"),
            "'mana doctor --self-test' shows whether it works",
        ),
    }
}

/// Whether the program's half finds its place.
fn addresses(found: &mut Findings) {
    let mut wrong = Vec::new();
    for address in [ARENA.start, ARENA.end - 0x20_0000] {
        const LEN: usize = 0x20_0000;
        const NOREPLACE: i32 = 0x10_0000;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | NOREPLACE;
        // SAFETY: NOREPLACE: nothing that exists is touched.
        let mapped = unsafe { libc::mmap(address as *mut _, LEN, libc::PROT_NONE, flags, -1, 0) };
        if mapped as usize != address {
            wrong.push(format!("{address:#x}"));
        }
        if mapped != libc::MAP_FAILED {
            // SAFETY: the mapping just made.
            unsafe { libc::munmap(mapped, LEN) };
        }
    }
    if wrong.is_empty() {
        found.ok("addresses", "the range of the program's half is free");
    } else {
        found.no(
            "addresses",
            format!("nothing can be mapped at {}", wrong.join(", ")),
            "raise the limit of address space (ulimit -v unlimited); a sanitizer or emulator may hold the range",
        );
    }
}

fn barrier(found: &mut Findings) {
    const PRIVATE_EXPEDITED: libc::c_long = 1 << 3;
    const GLOBAL: libc::c_long = 1;
    // SAFETY: a query; three integers.
    let commands = unsafe { libc::syscall(libc::SYS_membarrier, 0, 0, 0) };
    if commands >= 0 && commands & PRIVATE_EXPEDITED != 0 {
        found.ok("membarrier", "the fast form");
    } else if commands >= 0 && commands & GLOBAL != 0 {
        found.warning(
            "membarrier",
            "only the slow form: a checkpoint begins some 10 ms later",
            "a kernel from 4.14 on with CONFIG_MEMBARRIER",
        );
    } else {
        found.no(
            "membarrier",
            "refused",
            "a sandbox (seccomp) forbids it: allow membarrier in the container's profile",
        );
    }
}

fn number_in(path: &str) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn memory(found: &mut Findings) {
    if number_in("/proc/sys/vm/overcommit_memory") == Some(2) {
        found.warning(
            "snapshots",
            "vm.overcommit_memory = 2: a fork may be refused, and the program then stops while its image is written",
            "leave memory free for a second copy of what the program writes, or ask for vm.overcommit_memory = 0",
        );
    } else {
        found.ok(
            "snapshots",
            "by fork, the program runs on while its image is written",
        );
    }
}

fn limits(found: &mut Findings) {
    let limit = |resource| getrlimit(resource).map_or(RLIM_INFINITY, |(soft, _)| soft);
    let files = limit(Resource::RLIMIT_NOFILE);
    if files >= 1024 {
        let shown = if files == RLIM_INFINITY {
            "unlimited".into()
        } else {
            files.to_string()
        };
        found.ok("open files", shown);
    } else {
        found.no(
            "open files",
            format!("{files} at a time; rank 0 needs one for each rank, and some hundred more"),
            "ulimit -n 65536 in the job script",
        );
    }
    let space = limit(Resource::RLIMIT_AS);
    if space == RLIM_INFINITY {
        found.ok("address space", "unlimited");
    } else {
        found.no(
            "address space",
            format!("limited to {}", size(space)),
            "ulimit -v unlimited in the job script",
        );
    }
    let length = limit(Resource::RLIMIT_FSIZE);
    if length == RLIM_INFINITY {
        found.ok("file size", "unlimited");
    } else {
        found.warning(
            "file size",
            format!("limited to {}: an image may be larger", size(length)),
            "ulimit -f unlimited in the job script",
        );
    }
}

fn clock(found: &mut Findings) {
    // 2024-01-01: an older date was never set.
    const EARLIEST: u64 = 1_704_067_200;
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    if now < EARLIEST {
        found.no(
            "clock",
            "it was never set",
            "start a time service (chrony) on the node",
        );
        return;
    }
    // SAFETY: all-zero is a valid request to read.
    let mut request: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the structure is ours.
    let state = unsafe { libc::adjtimex(&mut request) };
    if state == libc::TIME_ERROR || request.status & libc::STA_UNSYNC != 0 {
        found.warning(
            "clock",
            "no time service keeps it: dates in reports of several nodes may disagree",
            "start a time service (chrony, systemd-timesyncd); nothing else depends on it",
        );
    } else {
        found.ok("clock", "kept by a time service");
    }
}

fn network(found: &mut Findings) {
    let name = crate::message::short_host();
    let (mut four, mut six) = (false, false);
    let live = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING;
    for interface in nix::ifaddrs::getifaddrs().into_iter().flatten() {
        let Some(address) = interface.address.filter(|_| interface.flags.contains(live)) else {
            continue;
        };
        four |= address
            .as_sockaddr_in()
            .is_some_and(|a| !a.ip().is_loopback());
        six |= address
            .as_sockaddr_in6()
            .is_some_and(|a| !a.ip().is_loopback() && a.scope_id() == 0);
    }
    if four {
        found.ok(
            "network",
            format!("host {name} has an address other nodes can reach"),
        );
    } else if six {
        found.warning(
            "network",
            format!("host {name} has IPv6 addresses only, and mana's connections between nodes are IPv4"),
            "jobs on one node work; for several, give the nodes IPv4 addresses",
        );
    } else {
        found.warning(
            "network",
            format!("host {name} has no address but its own (loopback)"),
            "jobs on one node work; for several, bring an interface up",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(version("6.1.0-17-amd64"), Some((6, 1)));
        assert_eq!(version("2.36"), Some((2, 36)));
        assert_eq!(version("4.18-rc1"), Some((4, 18)));
        assert_eq!(version("x"), None);
    }
}
