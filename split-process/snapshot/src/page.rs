//! The page on which the child reports. Shared by both, so that it outlives the child.

use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use mana_image::Hash;

/// The image is complete and durable. Zero means that the child is at work.
pub const DONE: u32 = 1;
/// It is not, and `errno` says why.
pub const FAILED: u32 = 2;

/// What is on the page. Zeros to begin with.
#[repr(C)]
pub struct Report {
    state: AtomicU32,
    errno: AtomicU32,
    /// Bytes of the file written so far.
    written: AtomicU64,
    /// The root hash, as it lies in memory.
    root: [AtomicU64; 2],
}

impl Report {
    /// More was written.
    pub fn advance(&self, bytes: u64) {
        self.written.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// The image is durable.
    pub fn done(&self, root: &Hash) {
        for (word, bytes) in self.root.iter().zip(root.chunks_exact(8)) {
            let mut own = [0; 8];
            own.copy_from_slice(bytes);
            word.store(u64::from_ne_bytes(own), Ordering::Relaxed);
        }
        self.state.store(DONE, Ordering::Release);
    }

    /// Writing failed.
    pub fn failed(&self, errno: i32) {
        self.errno.store(errno.unsigned_abs(), Ordering::Relaxed);
        self.state.store(FAILED, Ordering::Release);
    }

    /// State, errno and root hash.
    pub fn read(&self) -> (u32, i32, Hash) {
        let state = self.state.load(Ordering::Acquire);
        let mut root = Hash::default();
        for (bytes, word) in root.chunks_exact_mut(8).zip(&self.root) {
            bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
        (state, self.errno.load(Ordering::Relaxed) as i32, root)
    }
}

/// The mapping.
pub struct SharedPage(*mut Report);

// SAFETY: the page consists of atomics; the mapping belongs to no thread.
unsafe impl Send for SharedPage {}

const LEN: usize = mana_image::PAGE as usize;

impl SharedPage {
    /// Maps one.
    pub fn new() -> io::Result<Self> {
        // SAFETY: a new mapping where the kernel likes.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                LEN,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        match at {
            libc::MAP_FAILED => Err(io::Error::last_os_error()),
            at => Ok(Self(at.cast())),
        }
    }

    /// What is on it.
    pub fn report(&self) -> &Report {
        // SAFETY: mapped as long as `self` lives; zeros are a valid `Report`, aligned to a page.
        unsafe { &*self.0 }
    }
}

impl Drop for SharedPage {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length; no reference outlives `self`.
        unsafe { libc::munmap(self.0.cast(), LEN) };
    }
}
