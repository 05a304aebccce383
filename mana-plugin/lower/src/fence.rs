//! Ends this process when a newer start of the job has taken over: it would write the program's files.
//!
//! On a thread of its own: whatever the program asks of the control thread, and however long a file system
//! takes to answer that one, the deadline is kept.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use libckpt::fence::{Fence, Newer};

use crate::control::Place;
use crate::{farewell, messages};

/// Watches from now on. On the control thread, whose descriptor table is not the program's.
pub fn begin(place: &Place) {
    let ours = place.incarnation;
    let fence = Fence::new(&place.session, ours);
    let started = std::thread::Builder::new()
        .name("mana-fence".into())
        .spawn(move || watch(fence, ours));
    if let Err(e) = started {
        log::warn!("no thread to see whether a newer start of the job takes over: {e}");
    }
}

fn watch(mut fence: Fence, ours: u32) {
    loop {
        // The node's clock: if it is set, turns move, and nothing more.
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        let (wait, period) = fence.next(now);
        std::thread::sleep(wait);
        if let Some(newer) = fence.look(period) {
            end(ours, newer);
        }
    }
}

fn end(ours: u32, newer: Newer) {
    if !newer.told {
        messages::error(format_args!(
            "incarnation {} of this job has taken over from {ours}: this one ends, on all ranks of the node",
            newer.incarnation
        ));
    }
    farewell::leave();
    // SAFETY: ends this process.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
}
