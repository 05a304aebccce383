//! Keeping the lower half's descriptors out of the numbers the program uses. Lower half.

/// Descriptors opened under [`with_reserved_descriptors`] get numbers from here on.
pub const LOWER_FD_BASE: i32 = 700;

/// Runs `f` (the start of an MPI library) while every free descriptor below [`LOWER_FD_BASE`] is
/// taken, so that what it opens and keeps lies above. The program's own numbers are then the same
/// under every MPI, and free again at a restart. With a limit of open files too low for this, `f`
/// just runs. All signals are blocked meanwhile (see [`crate::with_signals_blocked`]), and child
/// processes that `f` starts are known to be the lower half's.
pub fn with_reserved_descriptors<R>(f: impl FnOnce() -> R) -> R {
    crate::with_signals_blocked(|| {
        let result = reserved(f);
        crate::children::all_are_lower();
        result
    })
}

fn reserved<R>(f: impl FnOnce() -> R) -> R {
    struct Placeholders(Vec<i32>);
    impl Drop for Placeholders {
        fn drop(&mut self) {
            for &fd in &self.0 {
                // SAFETY: opened below, known to nobody else.
                unsafe { libc::close(fd) };
            }
        }
    }
    let mut placeholders = Placeholders(Vec::new());
    // SAFETY: plain calls with checked results.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        let needed = LOWER_FD_BASE as u64 + 256;
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) != 0
            || limit.rlim_cur < needed
                && (limit.rlim_max < needed || {
                    limit.rlim_cur = needed;
                    libc::setrlimit(libc::RLIMIT_NOFILE, &limit) != 0
                })
        {
            return f();
        }
        let first = libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if first < 0 {
            return f();
        }
        placeholders.0.push(first);
        let mut last = first;
        while (0..LOWER_FD_BASE).contains(&last) {
            last = libc::fcntl(first, libc::F_DUPFD_CLOEXEC, 0);
            if last >= 0 {
                placeholders.0.push(last);
            }
        }
    }
    f()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_numbers_are_taken_and_given_back() {
        let open = || {
            // SAFETY: a plain open.
            unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY) }
        };
        let inside = with_reserved_descriptors(open);
        assert!(inside >= LOWER_FD_BASE, "{inside}");
        let outside = open();
        assert!((0..LOWER_FD_BASE).contains(&outside), "{outside}");
        // SAFETY: opened above.
        unsafe { (libc::close(inside), libc::close(outside)) };
    }
}
